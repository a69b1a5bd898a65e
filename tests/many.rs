//! One thread keeps the VIPs of many namespaces, as the documentation of `Keeper` has it. Prints what that
//! costs: `VIPROUTE_NAMESPACES=100 cargo test --test many -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::{NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, vips};
use viproute::{Claim, Keeper, Netns, VipManager};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn manager(net: &Net) -> VipManager {
    VipManager::builder(VIP_LINK)
        .netns(Netns::try_from(net.sandbox()).unwrap())
        .source(NODE_V4)
        .source(NODE_V6)
        .receive_buffer(64 * 1024)
        .open()
        .unwrap()
}

/// Waits until a keeper is due, and returns which: its descriptor is readable or its deadline has come.
#[allow(unsafe_code)]
fn wait(keepers: &[Keeper], patience: Duration) -> Vec<usize> {
    let mut fds: Vec<_> = keepers
        .iter()
        .map(|keeper| libc::pollfd {
            fd: keeper.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let next = keepers.iter().filter_map(Keeper::next_deadline).min();
    let left = next.map_or(patience, |at| at.saturating_duration_since(Instant::now()));
    let millis = i32::try_from(left.min(patience).as_micros().div_ceil(1000)).unwrap();
    // SAFETY: `fds` is a valid array of its length, and the keepers keep its descriptors open.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    let now = Instant::now();
    let is_due = |at: &usize| {
        let has_come = keepers[*at].next_deadline().is_some_and(|at| at <= now);
        has_come || fds[*at].revents != 0
    };
    (0..keepers.len()).filter(is_due).collect()
}

/// Dispatches until no keeper is due for a while; returns the number of writes.
fn serve(keepers: &mut [Keeper]) -> u64 {
    let (began, mut writes) = (Instant::now(), 0);
    loop {
        let due = wait(keepers, Duration::from_millis(200));
        if due.is_empty() {
            return writes;
        }
        for at in due {
            let done = keepers[at].dispatch(64).unwrap();
            assert!(done.report.is_complete(), "{done}");
            writes += done.report.writes;
        }
        assert!(began.elapsed() < PATIENCE, "it is never idle");
    }
}

/// A number in /proc/self/status, in kB.
fn kilobytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn one_thread_keeps_the_vips_of_many_namespaces() {
    let count = common::number("VIPROUTE_NAMESPACES", 100, 20);
    let set: Vec<IpAddr> = vips(5);
    // The thread is in the last one.
    let mut nets: Vec<Net> = (0..count).map(|_| Net::new()).collect();
    let before = (kilobytes("VmRSS"), descriptors());
    let mut keepers: Vec<Keeper> = nets
        .iter()
        .map(|net| manager(net).into_keeper(Claim::link()).unwrap())
        .collect();
    let began = Instant::now();
    for keeper in &mut keepers {
        keeper.set_desired(&set);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 10);
    }
    let first = began.elapsed();
    serve(&mut keepers);
    println!(
        "{count} namespaces of 10 VIPs: {} kB and {} descriptors each, first dispatch {:?} each",
        (kilobytes("VmRSS").saturating_sub(before.0)) / count as u64,
        (descriptors() - before.1) / count,
        first / u32::try_from(count).unwrap(),
    );
    // Another writer takes a VIP in every second namespace.
    for net in nets.iter().step_by(2) {
        manager(net).release([set[0], set[1]]).unwrap();
    }
    assert!(serve(&mut keepers) > 0);
    let began = Instant::now();
    let rounds = 100;
    for _ in 0..rounds {
        assert!(
            wait(&keepers, Duration::ZERO).is_empty(),
            "it is never idle"
        );
    }
    println!(
        "a wait for all that finds nothing: {:?}",
        began.elapsed() / rounds
    );
    // The thread goes back from each namespace to the one before it.
    while let Some(net) = nets.pop() {
        net.assert_single_route(&set, PROTO_KERNEL);
    }
    let repairs: Vec<u64> = keepers.iter().map(|k| k.counters().repairs).collect();
    for (at, repairs) in repairs.iter().enumerate() {
        assert_eq!(
            *repairs,
            if at % 2 == 0 { 12 } else { 10 },
            "namespace {at}"
        );
    }
}
