//! Processes of their own that make calls of the library: to be killed, to be in each other's way,
//! or to be weighed.
//!
//! Not part of `common/mod.rs`: a test takes it with `#[path = "common/child.rs"] mod child;`. A
//! child is the test binary itself, in the network namespace of the thread that starts it.
//! [`Process`] is any child; [`Other`] makes the calls that it is asked for.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, vips};
use viproute::{Binding, Claim, ErrorKind, Protocol, Report, VipManager, VipManagerBuilder};

const ENV: &str = "VIPROUTE_CHILD";

/// What a child calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Assign,
    Normalize,
    /// With the link as claim.
    Reconcile,
    /// With its mark as claim.
    ReconcileMarked,
    Release,
}

const VERBS: [Verb; 5] = [
    Verb::Assign,
    Verb::Normalize,
    Verb::Reconcile,
    Verb::ReconcileMarked,
    Verb::Release,
];

/// With which configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub protocol: u8,
    /// 0: none.
    pub address_protocol: u8,
    pub route_only: bool,
    /// The receive buffer to ask for; 0: the default. A small one makes small batches.
    pub receive_kib: u8,
}

impl Setting {
    pub fn builder(self) -> VipManagerBuilder {
        let builder = common::builder()
            .protocol(Protocol::new(self.protocol).unwrap())
            // The kernel is late by many seconds where another namespace keeps its queue busy.
            .stall_timeout(Duration::from_secs(60))
            .binding(if self.route_only {
                Binding::Route
            } else {
                Binding::Address
            });
        let builder = match self.receive_kib {
            0 => builder,
            kib => builder.receive_buffer(usize::from(kib) << 10),
        };
        match Protocol::new(self.address_protocol) {
            Some(protocol) => builder.address_protocol(protocol),
            None => builder,
        }
    }

    pub fn manager(self) -> VipManager {
        self.builder().open().unwrap()
    }
}

/// A range of [`vips`], in pairs of one VIP of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    pub from: usize,
    pub to: usize,
}

impl Pairs {
    pub fn vips(self) -> Vec<IpAddr> {
        vips(self.to)[2 * self.from..].to_vec()
    }
}

/// Makes one call.
pub fn call(
    manager: &mut VipManager,
    verb: Verb,
    set: &[IpAddr],
) -> Result<Report, viproute::Error> {
    match verb {
        Verb::Assign => manager.assign(set),
        Verb::Normalize => manager.normalize(),
        Verb::Reconcile => manager.reconcile(&Claim::link(), set),
        Verb::ReconcileMarked => manager.reconcile(&Claim::mark(), set),
        Verb::Release => manager.release(set),
    }
}

/// Before the sandbox of the tests is entered, which the child is in already.
#[allow(unsafe_code)]
#[ctor::ctor(unsafe, priority = 101)]
fn child() {
    let Ok(words) = std::env::var(ENV) else {
        return;
    };
    let numbers: Vec<u8> = words.split(',').map(|word| word.parse().unwrap()).collect();
    let setting = Setting {
        protocol: numbers[0],
        address_protocol: numbers[1],
        route_only: numbers[2] == 1,
        receive_kib: numbers[3],
    };
    let mut manager = setting.manager();
    println!("ready");
    // Each line asks for one call.
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let numbers: Vec<usize> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let set = Pairs {
            from: numbers[1],
            to: numbers[2],
        };
        let set = set.vips();
        let began = Instant::now();
        let result = call(&mut manager, VERBS[numbers[0]], &set);
        let micros = began.elapsed().as_micros();
        let (fine, report) = match result {
            Ok(report) => (1, report),
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                let report = error.into_report().unwrap();
                eprintln!(
                    "{} failed, such as {}",
                    report.failures.len(),
                    report.failures[0]
                );
                (0, report)
            }
            Err(error) => {
                eprintln!("{error:?}");
                std::process::exit(1);
            }
        };
        println!(
            "done {fine} {micros} {} {} {} {} {} {} {}",
            report.assigned,
            report.repaired,
            report.released,
            report.unchanged,
            report.writes,
            report.retries,
            report.failures.len()
        );
    }
    std::process::exit(0);
}

/// What a child said of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// `Ok`.
    pub fine: bool,
    pub micros: u64,
    pub assigned: u64,
    pub repaired: u64,
    pub released: u64,
    pub unchanged: u64,
    pub writes: u64,
    pub retries: u64,
    pub failures: u64,
}

/// A child that reads lines and answers with lines. It ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this binary with a variable in its environment, by which its constructor (of a
    /// priority before that of the sandbox, which it is in already) knows what to be.
    pub fn start(variable: &str, value: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(variable, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Waits for a line; without its end if the child has ended.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that makes calls.
#[derive(Debug)]
pub struct Other(Process);

impl Other {
    /// Starts one; it gets ready by itself.
    pub fn start(setting: Setting) -> Self {
        let words = format!(
            "{},{},{},{}",
            setting.protocol,
            setting.address_protocol,
            u8::from(setting.route_only),
            setting.receive_kib
        );
        Self(Process::start(ENV, &words))
    }

    /// Waits until it has opened its manager.
    pub fn wait_until_ready(&mut self) {
        assert_eq!(self.0.hear(), "ready\n");
    }

    /// Asks for a call, and does not wait for it.
    pub fn begin(&mut self, verb: Verb, set: Pairs) {
        let at = VERBS.iter().position(|other| *other == verb).unwrap();
        self.0.tell(&format!("{at} {} {}", set.from, set.to));
    }

    /// Waits for the end of the call.
    #[track_caller]
    pub fn end(&mut self) -> Answer {
        let line = self.0.hear();
        answer(&line).unwrap_or_else(|| panic!("the child did not end its call: {line:?}"))
    }

    /// Kills it; what it said before, if it had ended its call.
    pub fn kill(mut self) -> Option<Answer> {
        self.0.child.kill().unwrap();
        let status = self.0.child.wait().unwrap();
        assert_eq!(status.code(), None, "it ended by itself: {status}");
        let mut rest = String::new();
        self.0.output.read_to_string(&mut rest).unwrap();
        answer(&rest)
    }
}

fn answer(line: &str) -> Option<Answer> {
    let line = line.strip_suffix('\n')?.strip_prefix("done ")?;
    let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    let [
        fine,
        micros,
        assigned,
        repaired,
        released,
        unchanged,
        writes,
        retries,
        failures,
    ] = numbers[..]
    else {
        panic!("{line}");
    };
    Some(Answer {
        fine: fine == 1,
        micros,
        assigned,
        repaired,
        released,
        unchanged,
        writes,
        retries,
        failures,
    })
}
