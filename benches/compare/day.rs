//! A day of a node in minutes: `cargo bench -p compare --bench day`.
//!
//! A keeper in a process of its own holds the VIPs, while Services come and go, other programs change
//! routes of the node and of the VIPs, and the link goes down and up. This process plays them all, and reads
//! table local until each change is served. The table says what the keeper cost, and how long each kind of
//! change took. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod local;
mod output;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use common::floor::{self, Floor, Messages};
use common::{FAMILIES, LINK, Node, manager};
use local::{GONE, RIGHT, Watch};
use netlink_packet_core::NLM_F_EXCL;
use netlink_packet_route::RouteNetlinkMessage;
use output::Output;
use viproute::{Binding, Claim};

/// Compresses a day of a node's life.
#[derive(Parser)]
struct Options {
    /// Hours of the day
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// Seconds that an hour lasts
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// VIPs of each family
    #[arg(long, default_value_t = 2_000)]
    vips: u32,
    #[command(flatten)]
    output: Output,
    /// The keeper's process
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, Subcommand)]
enum Role {
    /// Keep the VIPs until standard input ends; a line adds or removes a VIP
    Keep { vips: u32 },
}

/// In an hour, for each family: Services that come and go, routes of other links that change, and VIPs
/// whose state another program breaks.
const SERVICES: u32 = 20;
const OTHER_ROUTES: u32 = 1_000;
const DRIFTS: u32 = 6;
/// The link goes down and up every so many hours.
const HOURS_TO_FLAP: u32 = 6;
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process of the keeper.
struct Keeper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Keeper {
    fn start(vips: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["keep", &vips.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    fn order(&mut self, verb: &str, vip: &IpAddr) {
        writeln!(self.input, "{verb} {vip}").unwrap();
    }

    /// Its processor time so far: the 14th and the 15th field of proc_pid_stat(5), in ticks.
    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        let ticks: u32 = behind_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u32>().unwrap())
            .sum();
        // USER_HZ is 100 on every machine (linux/asm-generic/param.h).
        Duration::from_millis(10) * ticks
    }

    /// Its resident memory in KiB.
    fn memory(&self) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse().unwrap()
    }

    /// Ends it, and returns its counters.
    fn end(self) -> String {
        let Self {
            mut child,
            input,
            mut output,
        } = self;
        drop(input);
        let mut counters = String::new();
        output.read_line(&mut counters).unwrap();
        assert!(child.wait().unwrap().success());
        counters.trim_end().to_owned()
    }
}

/// The keeper's process.
fn keep(count: u32) {
    let vips = FAMILIES.iter().flat_map(|(_, vips)| vips(count));
    let keeper = manager(Binding::Address)
        .into_keeper(Claim::link())
        .unwrap();
    let (handle, thread) = keeper.spawn(|_| {}).unwrap();
    handle.set(vips).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, vip) = line.split_once(' ').unwrap();
        let vip: IpAddr = vip.parse().unwrap();
        match verb {
            "add" => handle.add([vip]).unwrap(),
            _ => handle.remove([vip]).unwrap(),
        }
    }
    let counters = handle.counters().unwrap();
    drop(handle);
    thread.join().unwrap().unwrap();
    println!("{counters}");
}

/// One family of the day.
struct Side<'a> {
    vips: &'a [IpAddr],
    watch: Watch<'a>,
    link: u32,
    node_link: u32,
    /// Counts what was done, so that each turn takes other VIPs and another kind.
    turns: u32,
}

/// How long changes took, by their kind.
type Times = BTreeMap<&'static str, Vec<Duration>>;

impl Side<'_> {
    /// Waits until so many VIPs are right and the others gone.
    fn await_right(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let is_served = |watch: &mut Watch<'_>| {
            watch.count(RIGHT) == count && watch.count(GONE) == self.vips.len() - count
        };
        while !is_served(&mut self.watch) {
            assert!(Instant::now() < deadline, "a change was not served");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A VIP that the turns before did not take.
    fn next_vip(&mut self) -> IpAddr {
        self.turns += 1;
        let place = self.turns as usize * 7919 % self.vips.len();
        self.vips[place]
    }

    /// A Service goes and comes.
    fn service(&mut self, keeper: &mut Keeper, times: &mut Times) {
        let vip = self.next_vip();
        let all = self.vips.len();
        for (what, verb, count) in [
            ("a Service goes", "remove", all - 1),
            ("a Service comes", "add", all),
        ] {
            let began = Instant::now();
            keeper.order(verb, &vip);
            self.await_right(count);
            times.entry(what).or_default().push(began.elapsed());
        }
    }

    /// Another program changes a VIP.
    fn drift(&mut self, floor: &mut Floor, times: &mut Times) {
        let vip = self.next_vip();
        let link = self.link;
        let (what, messages): (_, Vec<(RouteNetlinkMessage, u16)>) = match self.turns % 4 {
            0 => ("a VIP's route goes", vec![floor::delete_route(link, &vip)]),
            1 => (
                "a VIP's address goes",
                vec![floor::delete_address(link, &vip)],
            ),
            2 => (
                "a VIP's route changes",
                vec![floor::staged_route(link, &vip)],
            ),
            _ => (
                "a VIP's address is added anew, its route goes",
                vec![
                    floor::delete_address(link, &vip),
                    floor::delete_route(link, &vip),
                    floor::plain_nodad_address(link, &vip),
                ],
            ),
        };
        let addresses = self.watch.addresses();
        let began = Instant::now();
        for message in &messages {
            // The keeper may be quicker than the next message.
            let _ = floor.query(message);
        }
        self.await_right(self.vips.len());
        // The desired IPv4 route outlives its address.
        while self.watch.addresses() != addresses {
            assert!(began.elapsed() < PATIENCE, "an address did not come back");
            std::thread::sleep(Duration::from_millis(1));
        }
        times.entry(what).or_default().push(began.elapsed());
    }

    /// Routes of another link come and go.
    fn others(&self, floor: &mut Floor, vips: common::Vips, count: u32) {
        let behind = vips(u32::try_from(self.vips.len()).unwrap() + count);
        let routes: Vec<_> = behind[self.vips.len()..]
            .iter()
            .map(|to| floor::other_route(self.node_link, to))
            .map(|(message, flags)| (message, flags | NLM_F_EXCL))
            .collect();
        let gone = routes.iter().map(|(message, _)| match message {
            RouteNetlinkMessage::NewRoute(route) => {
                (RouteNetlinkMessage::DelRoute(route.clone()), 0)
            }
            _ => unreachable!(),
        });
        floor.send(&Messages::encode(routes.iter().cloned()));
        floor.send(&Messages::encode(gone));
    }
}

/// What an hour is made of, in parts that are spread over it.
const PARTS: u32 = 10;

fn main() {
    let mut options = Options::parse();
    if let Some(Role::Keep { vips }) = options.role {
        return keep(vips);
    }
    if options.output.test {
        (options.hours, options.seconds, options.vips) = (1, 0, 50);
    }
    viproute::sandbox::enter().expect("a private namespace");
    let node = Node::new();
    let link = node.fresh_link();
    let sets = FAMILIES.map(|(_, vips)| vips(options.vips));
    let mut sides = [0, 1].map(|family| Side {
        vips: &sets[family],
        watch: Watch::new(link, &sets[family]),
        link,
        node_link: common::index_of("node0"),
        turns: 0,
    });
    let mut keeper = Keeper::start(options.vips);
    let mut floor = Floor::new();
    let mut times = Times::new();
    let began = Instant::now();
    await_all(&mut sides);
    times.insert("the first sync", vec![began.elapsed()]);
    let (started, warm) = (keeper.processor_time(), keeper.memory());
    let mut most = warm;
    for hour in 0..options.hours {
        play_hour(&options, &mut sides, &mut keeper, &mut floor, &mut times);
        if hour % HOURS_TO_FLAP == 0 {
            let began = Instant::now();
            assert!(common::ip(&format!("link set {LINK} down")));
            assert!(common::ip(&format!("link set {LINK} up")));
            await_all(&mut sides);
            let flaps = times.entry("the link goes down and up").or_default();
            flaps.push(began.elapsed());
        }
        most = most.max(keeper.memory());
    }
    let cost = Cost {
        spent: keeper.processor_time() - started,
        warm,
        most,
        last: keeper.memory(),
        counters: keeper.end(),
    };
    let text = report(&options, &times, &cost);
    options.output.write(&text);
}

/// Waits until all VIPs are right.
fn await_all(sides: &mut [Side<'_>]) {
    for side in sides {
        side.await_right(side.vips.len());
    }
}

fn play_hour(
    options: &Options,
    sides: &mut [Side<'_>],
    keeper: &mut Keeper,
    floor: &mut Floor,
    times: &mut Times,
) {
    for _ in 0..PARTS {
        let deadline = Instant::now() + Duration::from_secs(options.seconds.into()) / PARTS;
        for (side, (_, vips)) in sides.iter_mut().zip(FAMILIES) {
            side.others(floor, vips, OTHER_ROUTES / PARTS);
            for _ in 0..SERVICES / PARTS {
                side.service(keeper, times);
            }
        }
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    }
    for side in sides {
        for _ in 0..DRIFTS {
            side.drift(floor, times);
        }
    }
}

/// What the keeper cost.
struct Cost {
    spent: Duration,
    /// Resident memory in KiB: after the first sync, at the most, in the end.
    warm: u32,
    most: u32,
    last: u32,
    counters: String,
}

fn report(options: &Options, times: &Times, cost: &Cost) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let changes = 2 * options.hours * 2 * OTHER_ROUTES;
    writeln!(
        text,
        "{} VIPs of each family, {} hours, beside {changes} changes of other routes. The keeper: {:.2} s of \
         processor time after the first sync; resident memory {} KiB after it, {} at the most, {} in the \
         end; {}.\n",
        options.vips,
        options.hours,
        cost.spent.as_secs_f64(),
        cost.warm,
        cost.most,
        cost.last,
        cost.counters,
    )
    .unwrap();
    writeln!(text, "| change | times | median | 99th | worst |").unwrap();
    writeln!(text, "|--------|------:|-------:|-----:|------:|").unwrap();
    for (what, times) in times {
        let mut times = times.clone();
        times.sort_unstable();
        let at = |part: usize| {
            let place = (times.len() * part / 100).min(times.len() - 1);
            format!("{:.1} ms", times[place].as_secs_f64() * 1e3)
        };
        writeln!(
            text,
            "| {what} | {} | {} | {} | {} |",
            times.len(),
            at(50),
            at(99),
            at(100)
        )
        .unwrap();
    }
    text
}
