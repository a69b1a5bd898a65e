//! What a keeper costs while other links of its node change: `cargo bench --bench storm`.
//!
//! Needs no privilege. The processor time is that of the keeper's thread; the kernel's cost of the changes
//! themselves is `ip`'s.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::time::timed;
use common::{LINK, NODE_V4, NODE_V6, Node};
use viproute::{Claim, Counters, VipManager, sandbox};

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
