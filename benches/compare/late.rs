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
use common::{Node, manager, wait};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
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
    assert_eq!(wrong.len(), desired.len(), "late routes heard");
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
        let mut came: HashMap<IpAddr, Instant> = HashMap::new();
        let mut ended: HashMap<IpAddr, Instant> = HashMap::new();
        for (at, message) in heard
            .iter()
            .flat_map(|(at, bytes)| messages(bytes).map(move |m| (*at, m)))
        {
            let (is_new, route) = match message {
                RouteNetlinkMessage::NewRoute(route) => (true, route),
                RouteNetlinkMessage::DelRoute(route) => (false, route),
                _ => continue,
            };
            let Some((vip, is_kernels)) = local_route(&route) else {
                continue;
            };
            if is_new && is_kernels {
                came.insert(vip, at);
            } else if is_new || is_kernels {
                ended.insert(vip, at);
            }
        }
        let mut wrong: Vec<Duration> = vips
            .iter()
            .filter_map(|vip| Some(ended.get(vip)?.duration_since(*came.get(vip)?)))
            .collect();
        wrong.sort_unstable();
        Some(wrong)
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = RouteNetlinkMessage> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().unwrap()) as usize;
        let message = NetlinkMessage::deserialize(&bytes[..length]).unwrap();
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(message)
    })
    .filter_map(|message| match message.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    })
}

/// The VIP of a route of type local, and whether the route is the kernel's own, which has metric 0.
fn local_route(route: &RouteMessage) -> Option<(IpAddr, bool)> {
    let is_local =
        route.header.table == libc::RT_TABLE_LOCAL && route.header.kind == RouteType::Local;
    let mut vip = None;
    let mut metric = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => vip = Some(IpAddr::from(*to)),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let vip = vip.filter(|_| is_local)?;
    Some((vip, metric == 0))
}
