//! What a call costs the process itself: its own CPU time, heap allocations and memory:
//! `cargo bench -p compare --bench cost`.
//!
//! The kernel's time is left out, and so is what it takes to make a fresh link each time. The system
//! tells user time by sampling its ticks, so each work is repeated, in a process of its own, until
//! there are enough of them; and where valgrind is installed, instructions stand beside it, which
//! do not depend on the machine's mood.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod output;

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use allocation_counter::measure;
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use common::{Node, manager};
use output::Output;
use viproute::{Binding, Claim};

/// Measures what calls cost the process itself.
#[derive(Parser)]
struct Options {
    /// VIPs of a call; a tenth where the call adds addresses, because the kernel's share of that is
    /// quadratic
    #[arg(long, default_value_t = 10_000)]
    size: u32,
    /// VIPs whose memory is measured
    #[arg(long, default_value_t = 100_000)]
    memory: u32,
    /// Repeat each so often, and what has a tenth of the VIPs twice as often
    #[arg(long, default_value_t = 150)]
    runs: u32,
    #[command(flatten)]
    output: Output,
    /// In a process of its own: this work…
    #[arg(long, hide = true)]
    only: Option<Work>,
    /// …so many times
    #[arg(long, hide = true, default_value_t = 0)]
    times: u32,
    /// …or all that goes with it but the call itself
    #[arg(long, hide = true)]
    idle: bool,
}

/// Microseconds between two samples of the kernel's accounting (`CONFIG_HZ=250`).
const TICK: f64 = 4e3;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    AssignV4,
    AssignV6,
    RouteOnlyV4,
    RouteOnlyV6,
    AuditV4,
    AuditV6,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::AssignV4 => "assign IPv4",
            Self::AssignV6 => "assign IPv6",
            Self::RouteOnlyV4 => "assign route-only IPv4",
            Self::RouteOnlyV6 => "assign route-only IPv6",
            Self::AuditV4 => "audit IPv4",
            Self::AuditV6 => "audit IPv6",
        }
    }

    fn vips(self, n: u32) -> Vec<IpAddr> {
        match self {
            Self::AssignV4 | Self::RouteOnlyV4 | Self::AuditV4 => common::v4(n),
            Self::AssignV6 | Self::RouteOnlyV6 | Self::AuditV6 => common::v6(n),
        }
    }

    fn binding(self) -> Binding {
        match self {
            Self::AssignV4 | Self::AssignV6 => Binding::Address,
            // An audit reads the routes alone as well.
            Self::RouteOnlyV4 | Self::RouteOnlyV6 => Binding::Route,
            Self::AuditV4 | Self::AuditV6 => Binding::Address,
        }
    }

    fn is_audit(self) -> bool {
        matches!(self, Self::AuditV4 | Self::AuditV6)
    }

    /// How many VIPs how often.
    fn amount(self, options: &Options) -> (u32, u32) {
        match self {
            Self::AssignV4 | Self::AssignV6 => (options.size / 10, options.runs * 2),
            _ => (options.size, options.runs),
        }
    }

    /// Nanoseconds a VIP that were asked for.
    fn target(self) -> u32 {
        if self.is_audit() { 60 } else { 250 }
    }

    /// Does it so many times, or all but the call itself.
    fn run(self, size: u32, times: u32, idle: bool) {
        let node = Node::new();
        let set = self.vips(size);
        let mut manager = manager(self.binding());
        if self.is_audit() {
            node.fresh_link();
            manager.assign(&set).unwrap();
            let audits = if idle { 0 } else { times };
            for _ in 0..audits {
                assert_eq!(manager.audit().unwrap().drifted().count(), 0);
            }
            return;
        }
        for _ in 0..times {
            node.fresh_link();
            // The link's own IPv6 address comes late, and what it changes is looked at again.
            std::thread::sleep(Duration::from_millis(10));
            if !idle {
                assert_eq!(manager.assign(&set).unwrap().assigned, set.len());
            }
        }
    }
}

fn main() {
    let mut options = Options::parse();
    if options.output.test {
        options.memory = 200;
        options.size = 200;
        options.runs = 1;
    }
    if let Some(only) = options.only {
        viproute::sandbox::enter().expect("a private namespace");
        only.run(options.size, options.times, options.idle);
        // For the process that started this one.
        println!("{}", user_time());
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["cost", "of", "VIPs", "value", "target", "met"]);
    for column in [2, 3, 4] {
        let column = table.column_mut(column).unwrap();
        column.set_cell_alignment(CellAlignment::Right);
    }
    for work in Work::value_variants() {
        let (size, times) = work.amount(&options);
        let [with, without] = [false, true].map(|idle| child(None, *work, size, times, idle));
        let user = with - without;
        // As many samples as there were ticks, and their error.
        let doubt = 100.0 * ((with + without) * TICK).sqrt() / user.max(1.0);
        let per_vip = user * 1e3 / f64::from(times) / f64::from(size);
        let target = work.target();
        table.add_row([
            "own CPU time per VIP".to_owned(),
            work.name().to_owned(),
            size.to_string(),
            format!("{per_vip:.0} ns ± {doubt:.0} %"),
            format!("≤ {target} ns"),
            yes(per_vip <= f64::from(target)),
        ]);
        if !options.output.test && has_valgrind() {
            // The first one grows the buffers.
            let count = |idle| {
                let count = |times| child(Some(instructions()), *work, size, times, idle);
                (count(3) - count(1)) / 2.0
            };
            let per_vip = (count(false) - count(true)) / f64::from(size);
            table.add_row([
                "own instructions per VIP".to_owned(),
                work.name().to_owned(),
                size.to_string(),
                format!("{per_vip:.0}"),
            ]);
        }
        eprintln!("{} done", work.name());
    }
    viproute::sandbox::enter().expect("a private namespace");
    memory(&mut table, options.memory);
    allocations(&mut table, options.size);
    options.output.write(&format!("{table}\n"));
}

fn yes(met: bool) -> String {
    if met { "yes" } else { "no" }.to_owned()
}

/// Microseconds that this process has spent in its own code.
#[allow(unsafe_code)]
fn user_time() -> i64 {
    // SAFETY: all zeros is a valid rusage, and getrusage writes one to the place that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage
    };
    usage.ru_utime.tv_sec * 1_000_000 + usage.ru_utime.tv_usec
}

fn has_valgrind() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where callgrind writes.
fn instructions() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("viproute-cost-{}", std::process::id()))
}

/// Does a work in a process of its own: microseconds of its user time or, with a file for
/// callgrind's output, its instructions.
fn child(
    callgrind: Option<std::path::PathBuf>,
    work: Work,
    size: u32,
    times: u32,
    idle: bool,
) -> f64 {
    let this = std::env::current_exe().unwrap();
    let mut command = match &callgrind {
        None => Command::new(this),
        Some(out) => {
            let mut valgrind = Command::new("valgrind");
            valgrind
                .arg("--tool=callgrind")
                .arg(format!("--callgrind-out-file={}", out.display()))
                .arg(this);
            valgrind
        }
    };
    let name = work.to_possible_value().unwrap();
    let output = command
        .args(["--only", name.get_name()])
        .args(["--times", &times.to_string(), "--size", &size.to_string()])
        .args(idle.then_some("--idle"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    let Some(out) = callgrind else {
        let text = String::from_utf8(output.stdout).unwrap();
        return text.trim().parse().unwrap();
    };
    let counts = std::fs::read_to_string(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    let total = counts
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .unwrap();
    total.trim().parse().unwrap()
}

/// The most memory that is in use at once, from the input to the end of a call, for as many VIPs
/// of each family.
fn memory(table: &mut Table, size: u32) {
    let peak = |size: u32| {
        let node = Node::new();
        node.fresh_link();
        let info = measure(|| {
            let mut set = common::v4(size / 2);
            set.reserve_exact(size as usize / 2);
            set.extend(common::v6(size / 2));
            let mut manager = manager(Binding::Route);
            manager.assign(&set).unwrap();
        });
        info.bytes_max as f64
    };
    let (small, many) = (peak(size / 10), peak(size));
    let per_vip = (many - small) / f64::from(size - size / 10);
    let constant = many - per_vip * f64::from(size);
    table.add_row([
        "memory per VIP, at the most".to_owned(),
        "assign route-only, both families".to_owned(),
        size.to_string(),
        format!("{per_vip:.0} bytes"),
        "≤ 100 bytes".to_owned(),
        yes(per_vip <= 100.0),
    ]);
    table.add_row([
        "memory beside that".to_owned(),
        "assign route-only, both families".to_owned(),
        size.to_string(),
        format!("{:.0} KiB", constant / 1024.0),
        "a constant".to_owned(),
    ]);
}

/// Heap allocations that a VIP more costs, with warm buffers.
fn allocations(table: &mut Table, size: u32) {
    let node = Node::new();
    node.fresh_link();
    let mut manager = manager(Binding::Route);
    let mut set = common::v4(size / 2);
    set.extend(common::v6(size / 2));
    manager.assign(&set).unwrap();
    manager.release(&set).unwrap();
    // As many of each family.
    let middle = set.len() / 2;
    let small = &set[middle - middle / 10..middle + middle / 10];
    let claim = Claim::link();
    let names = ["assign", "reconcile", "normalize", "release"];
    let counts = [small, &set[..]].map(|set| {
        [
            measure(|| drop(manager.assign(set).unwrap())).count_total,
            measure(|| drop(manager.reconcile(&claim, set).unwrap())).count_total,
            measure(|| drop(manager.normalize().unwrap())).count_total,
            measure(|| drop(manager.release(set).unwrap())).count_total,
        ]
    });
    for (at, name) in names.iter().enumerate() {
        let more = counts[1][at] as f64 - counts[0][at] as f64;
        let per_vip = more / (set.len() - small.len()) as f64;
        table.add_row([
            "heap allocations per VIP, warm".to_owned(),
            (*name).to_owned(),
            size.to_string(),
            format!("{per_vip:.4} ({} in all)", counts[1][at]),
            "0".to_owned(),
            yes(more <= 0.0),
        ]);
    }
}
