//! How long new IPv6 VIPs have the kernel's route: `cargo bench -p compare --bench late`.
//!
//! The kernel inserts its own local route after the ack of the address, and that route beats the desired one. A
//! second socket hears of both routes. A VIP is in a wrong state from the arrival of the kernel's route until that route
//! is gone and the desired route exists. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod output;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::{Node, floor, manager, wait};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use output::Output;
use viproute::{Binding, Claim};

/// Measures how long new IPv6 VIPs have the kernel's route.
#[derive(Parser)]
struct Options {
    /// Numbers of VIPs
    #[arg(long, value_delimiter = ' ', num_args = 1.., default_values_t = [100, 1_000, 10_000])]
    sizes: Vec<u32>,
    /// Runs of each
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    output: Output,
}

/// What a call does, and from what state.
#[derive(Clone, Copy)]
enum Work {
    Fresh,
    ToAddress,
    HalfNew,
}

/// Every work, with its name.
const WORKS: [(&str, Work); 3] = [
    ("fresh: assign", Work::Fresh),
    ("route-only to address: assign", Work::ToAddress),
    ("half stale, half new: reconcile", Work::HalfNew),
];

/// One run.
struct Run {
    call: Duration,
    /// How long each VIP was in a wrong state, sorted.
    wrong: Vec<Duration>,
}

/// Runs in which the second socket may lose notifications, before the bench gives up.
const TRIES: usize = 20;
/// What is left of the notifications arrives in this time.
const CALM: Duration = Duration::from_millis(200);

fn main() {
    let mut options = Options::parse();
    if options.output.test {
        (options.sizes, options.runs) = (vec![30], 1);
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["work", "new VIPs", "call", "median", "99th of 100", "worst"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (name, work) in WORKS {
        for &size in &options.sizes {
            let mut runs: Vec<Run> = (0..options.runs).map(|_| run(work, size)).collect();
            // The run with the worst VIP.
            runs.sort_by_key(|run| run.wrong.last().copied());
            let Run { call, wrong } = runs.pop().expect("one run at least");
            let at = |of_100: usize| wrong[(wrong.len() * of_100 / 100).min(wrong.len() - 1)];
            let times = [call, at(50), at(99), at(100)];
            let mut row = vec![name.to_owned(), wrong.len().to_string()];
            row.extend(times.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3)));
            table.add_row(row);
        }
    }
    let runs = options.runs;
    options.output.write(&format!(
        "Of {runs} runs each, the one with the worst VIP (`cargo bench -p compare --bench late`). The call and the reader \
         of the second socket share the machine.\n\n{table}\n"
    ));
}

/// One run in which the second socket lost nothing.
fn run(work: Work, size: u32) -> Run {
    let run = (0..TRIES).find_map(|_| run_once(work, size));
    run.expect("a run without lost notifications; a larger net.core.rmem_max helps")
}

fn run_once(work: Work, size: u32) -> Option<Run> {
    let node = Node::new();
    node.fresh_link();
    let vips = common::v6(size);
    let mut desired = &vips[..];
    match work {
        Work::Fresh => {}
        Work::ToAddress => {
            manager(Binding::Route).assign(desired).unwrap();
        }
        Work::HalfNew => {
            let half = vips.len() / 2;
            manager(Binding::Address).assign(&vips[..half]).unwrap();
            desired = &vips[half..];
        }
    }
    let mut manager = manager(Binding::Address);
    let listener = Listener::start();
    let began = Instant::now();
    let report = match work {
        Work::Fresh | Work::ToAddress => manager.assign(desired),
        Work::HalfNew => manager.reconcile(&Claim::link(), desired),
    };
    let call = began.elapsed();
    let report = report.unwrap();
    assert!(report.failures.is_empty(), "{report}");
    sleep(CALM);
    let wrong = listener.end(desired)?;
    assert_eq!(
        wrong.len(),
        desired.len(),
        "VIPs whose late route came and went"
    );
    Some(Run { call, wrong })
}

/// A datagram, and when it came.
type Heard = (Instant, Vec<u8>);

/// A second socket in a thread of its own.
struct Listener {
    /// What was heard; nothing if notifications were lost.
    thread: JoinHandle<Option<Vec<Heard>>>,
    has_ended: Arc<AtomicBool>,
}

impl Listener {
    fn start() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.set_rx_buf_sz(8 << 20).unwrap();
        socket.set_non_blocking(true).unwrap();
        socket.bind_auto().unwrap();
        socket.add_membership(libc::RTNLGRP_IPV6_ROUTE).unwrap();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let thread = spawn(move || {
            let mut heard = Vec::new();
            loop {
                match socket.recv_from_full() {
                    Ok((datagram, _)) => heard.push((Instant::now(), datagram)),
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return None,
                    Err(_) if ended.load(Ordering::Relaxed) => return Some(heard),
                    Err(_) => wait::readable(&socket),
                }
            }
        });
        Self { thread, has_ended }
    }

    /// How long each VIP was in a wrong state, unless notifications were lost.
    fn end(self, vips: &[IpAddr]) -> Option<Vec<Duration>> {
        self.has_ended.store(true, Ordering::Relaxed);
        let heard = self.thread.join().unwrap()?;
        let mut histories: HashMap<IpAddr, History> = HashMap::new();
        for (at, datagram) in &heard {
            for message in floor::messages(datagram) {
                if let Some(vip) = floor::destination_of(message) {
                    histories.entry(vip).or_default().note(*at, message);
                }
            }
        }
        let wrong = |vip| histories.get(vip).and_then(History::wrong);
        let mut wrong: Vec<Duration> = vips.iter().filter_map(wrong).collect();
        wrong.sort_unstable();
        Some(wrong)
    }
}

/// When the routes to a VIP came and went for the last time.
#[derive(Default)]
struct History {
    kernels_came: Option<Instant>,
    kernels_went: Option<Instant>,
    desired_came: Option<Instant>,
}

impl History {
    fn note(&mut self, at: Instant, message: &[u8]) {
        // A staged route has another protocol. The kernel's own route has no preferred source.
        if !floor::is_kernels(message) {
            return;
        }
        let has_source = floor::source_of(message).is_some();
        match (floor::kind_of(message), has_source) {
            (libc::RTM_NEWROUTE, false) => self.kernels_came = Some(at),
            (libc::RTM_DELROUTE, false) => self.kernels_went = Some(at),
            (libc::RTM_NEWROUTE, true) => self.desired_came = Some(at),
            _ => {}
        }
    }

    /// From the arrival of the kernel's route until it went and the desired route came. Nothing if it is still there.
    fn wrong(&self) -> Option<Duration> {
        let went = self
            .kernels_went?
            .checked_duration_since(self.kernels_came?)?;
        let desired = self.desired_came?.duration_since(self.kernels_came?);
        Some(went.max(desired))
    }
}
