//! What a keeper costs while other links of its node change, and a `reconcile` beside changes of routes:
//! `cargo bench --bench storm`.
//!
//! Needs no privilege. The processor time is that of the keeper's thread; the kernel's cost of the changes
//! themselves is `ip`'s.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::time::timed;
use common::{LINK, NODE_V4, NODE_V6, Node};
use viproute::{Binding, Claim, Counters, VipManager, sandbox};

fn main() {
    sandbox::enter().expect("a private namespace");
    // For its function only a hundredth will do.
    let part = match std::env::args().any(|argument| argument == "--test") {
        true => 100,
        false => 1,
    };
    println!("| while these change | changes | keeper: processor time | readings | notified |");
    println!("|--------------------|---------|------------------------|----------|----------|");
    let flaps = 200_000 / part;
    storm("nothing, for a second", 0, || {});
    storm("IPv6 routes by another link", 2 * flaps, || {
        let to = |at: u32| format!("2001:db8:9::{:x}:{:x}", at >> 16, at & 0xffff);
        batch((0..flaps).map(|at| format!("route add {} dev node0", to(at))));
        batch((0..flaps).map(|at| format!("route del {} dev node0", to(at))));
    });
    storm("the same, in ten bursts", 20_000 / part, || {
        let to = |at: u32| format!("2001:db8:9::{at:x}");
        for _ in 0..10 {
            batch((0..1_000 / part).map(|at| format!("route add {} dev node0", to(at))));
            batch((0..1_000 / part).map(|at| format!("route del {} dev node0", to(at))));
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    // The kernel takes minutes to delete a namespace of many more.
    let links = 2_000 / part;
    storm("other links, made and set up", links, || {
        batch((0..links).flat_map(|at| {
            [
                format!("link add p{at} up type bridge"),
                format!("link set p{at} mtu 1400"),
            ]
        }));
    });
    println!("\n| changes in table main | right IPv6 VIPs | reconcile: processor time | time |");
    println!("|-----------------------|-----------------|---------------------------|------|");
    for rate in [0, 1_000] {
        reconcile_beside_changes(10_000 / part, rate);
    }
}

/// A line of the second table: what a `reconcile` of right IPv6 VIPs costs beside changes of routes of another
/// link in table main.
fn reconcile_beside_changes(vips: u32, rate: u64) {
    let node = Node::new();
    node.fresh_link();
    let set = common::v6(vips);
    let mut manager = common::manager(Binding::Address);
    manager.assign(&set).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let changes = std::thread::spawn(move || flap(rate, &stopped));
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(200));
            timed(|| {
                let report = manager.reconcile(&Claim::link(), &set).unwrap();
                assert_eq!((report.unchanged, report.writes), (set.len(), 0));
            })
        })
        .map(|time| (time.cpu, time.wall))
        .collect();
    stop.store(true, Ordering::Relaxed);
    changes.join().unwrap();
    times.sort_unstable();
    let (cpu, wall) = times[times.len() / 2];
    println!("| {rate} a second | {vips} | {cpu:.1?} | {wall:.1?} |");
}

/// Adds and deletes routes, so many changes a second.
fn flap(rate: u64, stop: &AtomicBool) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = ip.stdin.take().unwrap();
    let began = Instant::now();
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = rate * u64::try_from(began.elapsed().as_millis()).unwrap() / 1000;
        while done < due {
            let to = format!("2001:db8:9::{:x}", done / 2 % 1000);
            let act = ["add", "del"][usize::try_from(done % 2).unwrap()];
            writeln!(input, "route {act} {to} dev node0").unwrap();
            done += 1;
        }
        input.flush().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(input);
    assert!(ip.wait().unwrap().success());
}

/// Runs `ip -batch`.
fn batch(lines: impl Iterator<Item = String>) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = ip.stdin.take().unwrap();
    let lines: Vec<String> = lines.collect();
    input.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(input);
    assert!(ip.wait().unwrap().success());
}

/// A line of the table: what a keeper of 1,000 VIPs costs beside these changes.
fn storm(what: &str, changes: u32, happen: impl FnOnce()) {
    let node = Node::new();
    node.fresh_link();
    let manager = VipManager::builder(LINK).source(NODE_V4).source(NODE_V6);
    let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    keeper.set_desired([common::v4(500), common::v6(500)].concat());
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let calm = Duration::from_secs(1);
    std::thread::sleep(calm);
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let before = keeper.counters();
    let canceller = keeper.canceller();
    let (sender, costs) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let time = timed(|| keeper.run(|_| {}).unwrap());
        let counters: Counters = keeper.counters() - before;
        sender.send((time.cpu, counters)).unwrap();
    });
    happen();
    std::thread::sleep(calm);
    canceller.cancel();
    thread.join().unwrap();
    let (cpu, counters) = costs.recv().unwrap();
    assert_eq!(counters.repairs, 0, "{counters}");
    println!(
        "| {what} | {changes} | {:.4} s | {} | {} |",
        cpu.as_secs_f64(),
        counters.resyncs,
        counters.events
    );
}
