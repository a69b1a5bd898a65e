//! A keeper beside others on its node: `cargo bench -p compare --bench storm`.
//!
//! What calls and a keeper cost where the node has thousands of other links; what a keeper costs while those
//! links change, beside a listener of the same groups without a filter, for the listener and for the writer;
//! and a `reconcile` beside changes of routes. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod output;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use clap::Parser;
use common::floor::{self, Floor, Messages};
use common::time::{Time, timed};
use common::{Node, manager, wait};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use output::Output;
use viproute::{Binding, Canceller, Claim, Counters, Keeper, VipManager};

/// Measures calls and a keeper beside others on the node.
#[derive(Parser)]
struct Options {
    /// Other links of the node
    #[arg(long, default_value_t = 10_000)]
    links: u32,
    /// Routes of another link that come and go
    #[arg(long, default_value_t = 200_000)]
    routes: u32,
    /// Right VIPs that are reconciled beside changes
    #[arg(long, default_value_t = 10_000)]
    vips: u32,
    #[command(flatten)]
    output: Output,
}

/// What is left of the changes arrives in this time.
const CALM: Duration = Duration::from_secs(1);
/// VIPs of each family.
const VIPS: u32 = 50;

fn main() {
    let mut options = Options::parse();
    if options.output.test {
        (options.links, options.routes, options.vips) = (100, 2_000, 100);
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut text = String::new();
    let alone = {
        let node = Node::new();
        make_links(1);
        (1, beside_links(&node))
    };
    let node = Node::new();
    let others = make_links(options.links);
    let crowded = (options.links, beside_links(&node));
    at_rest(&mut text, [alone, crowded]);
    storms(&mut text, &others, &options);
    drop(node);
    head(
        &mut text,
        "changes in table main | right IPv6 VIPs | `reconcile`: processor time | time",
    );
    for rate in [0, 1_000] {
        reconcile_beside_changes(&mut text, options.vips, rate);
    }
    options.output.write(&text);
}

/// Begins a table.
fn head(text: &mut String, columns: &str) {
    let rule: Vec<_> = columns.split('|').map(|_| "---").collect();
    writeln!(text, "\n| {columns} |\n|{}|", rule.join("|")).unwrap();
}

/// VIPs of both families.
fn vips() -> Vec<IpAddr> {
    [common::v4(VIPS), common::v6(VIPS)].concat()
}

/// Other links, which are up. Returns their indices.
fn make_links(count: u32) -> Vec<u32> {
    let began = Instant::now();
    // The kernel takes minutes to delete thousands of bridges, and seconds for the other kinds.
    let kinds = ["dummy", "ifb numtxqueues 1 numrxqueues 1", "bridge"];
    let is_known = |kind: &&str| common::ip(&format!("link add other1 up type {kind}"));
    let kind = kinds.into_iter().find(is_known).unwrap();
    batch((2..=count).map(|at| format!("link add other{at} up type {kind}")));
    let first = common::index_of("other1");
    assert_eq!(
        common::index_of(&format!("other{count}")),
        first + count - 1
    );
    sleep(CALM);
    eprintln!("{count} links of kind {kind}: {:.1?}", began.elapsed());
    (first..first + count).collect()
}

/// What a work took, and the heap that it still holds.
type Cost = (&'static str, Time, i64);

/// The first table: what was measured beside so many links.
fn at_rest(text: &mut String, costs: [(u32, Vec<Cost>); 2]) {
    head(
        text,
        "of 100 VIPs | other links | processor time | time | heap afterwards",
    );
    for place in 0..costs[0].1.len() {
        for (links, costs) in &costs {
            let (what, time, held) = costs[place];
            let (cpu, wall) = (time.cpu, time.wall);
            writeln!(
                text,
                "| {what} | {links} | {cpu:.2?} | {wall:.2?} | {held} bytes |"
            )
            .unwrap();
        }
    }
}

/// What calls and a keeper cost on a node.
fn beside_links(node: &Node) -> Vec<Cost> {
    node.fresh_link();
    let set = vips();
    let mut costs = Vec::new();
    let mut cost = |what, work: &mut dyn FnMut()| {
        let mut time = Time::default();
        let held = measure(|| time = timed(&mut *work)).bytes_current;
        eprintln!("{what}: {time:.2?}, {held} bytes");
        costs.push((what, time, held));
    };
    let mut opened = None;
    cost("a manager opens", &mut || {
        opened = Some(manager(Binding::Address))
    });
    let mut vips = opened.unwrap();
    cost("`assign`, all new", &mut || {
        drop(vips.assign(&set).unwrap())
    });
    sleep(2 * CALM);
    cost("`assign`, all right", &mut || {
        drop(vips.assign(&set).unwrap())
    });
    cost("`audit`", &mut || drop(vips.audit().unwrap()));
    cost("`normalize`", &mut || drop(vips.normalize().unwrap()));
    let (mut opened, mut keeper) = (Some(vips), None);
    cost("a keeper opens, all right", &mut || {
        keeper = opened.take().map(keeper_of);
    });
    let keeper = RunningKeeper::start(keeper.unwrap());
    sleep(5 * CALM);
    let (cpu, _) = keeper.end();
    let time = Time {
        cpu,
        wall: 5 * CALM,
    };
    costs.push(("a keeper rests", time, 0));
    costs
}

fn keeper_of(manager: VipManager) -> Keeper {
    let mut keeper = manager.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(vips());
    while keeper.dispatch(usize::MAX).unwrap().more {}
    keeper
}

/// A keeper on a thread of its own.
struct RunningKeeper {
    canceller: Canceller,
    thread: JoinHandle<(Duration, Counters)>,
}

impl RunningKeeper {
    fn start(mut keeper: Keeper) -> Self {
        Self {
            canceller: keeper.canceller(),
            thread: spawn(move || {
                let before = keeper.counters();
                let time = timed(|| keeper.run(|_| {}).unwrap());
                (time.cpu, keeper.counters() - before)
            }),
        }
    }

    /// Ends it. Returns its processor time, and what it counted.
    fn end(self) -> (Duration, Counters) {
        self.canceller.cancel();
        self.thread.join().unwrap()
    }
}

/// A listener of the same groups as a keeper, without a filter: it counts what it receives.
struct Listener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Duration, Heard)>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    notifications: u32,
    /// Times that the receive buffer was full.
    overflows: u32,
}

impl Listener {
    fn start() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.set_rx_buf_sz(1 << 20).unwrap();
        socket.set_non_blocking(true).unwrap();
        socket.bind_auto().unwrap();
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ] {
            socket.add_membership(group).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let mut heard = Heard::default();
            let time = timed(|| {
                while !stopped.load(Ordering::Relaxed) {
                    wait::readable(&socket);
                    heard.all_of(&socket);
                }
            });
            (time.cpu, heard)
        });
        Self { stop, thread }
    }

    fn end(self) -> (Duration, Heard) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Heard {
    /// Receives all that is queued.
    fn all_of(&mut self, socket: &Socket) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match socket.recv(&mut &mut buffer[..], 0) {
                Ok(_) => self.notifications += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overflows += 1,
                Err(_) => return,
            }
        }
    }
}

/// The second table: a keeper of 100 VIPs beside changes of other links.
fn storms(text: &mut String, others: &[u32], options: &Options) {
    let columns = "while these change | changes | notifications | listener without filter | keeper | \
                   its readings | writer alone | beside the listener | beside the keeper";
    head(text, columns);
    let node_link = common::index_of("node0");
    // Beside so many links, each such change takes the kernel milliseconds: it walks all IPv6 routes of the
    // node when a link goes down, an MTU changes (`rt6_mtu_change`) or an IPv6 address goes
    // (`rt6_remove_prefsrc`, net/ipv6/route.c).
    let some = &others[..others.len().div_ceil(100)];
    let more = &others[..others.len().div_ceil(10)];
    let up = |flags| some.iter().map(move |link| change_flags(*link, flags));
    let down_and_up = [up(LinkFlags::empty()), up(LinkFlags::Up)]
        .into_iter()
        .flatten();
    storm(text, "other links, down and up", down_and_up);
    let mtu = |mtu| some.iter().map(move |link| change_mtu(*link, mtu));
    storm(text, "MTUs of other links", mtu(1400).chain(mtu(1500)));
    for (family, vips) in common::FAMILIES {
        let behind = vips(VIPS + options.links).split_off(VIPS as usize);
        let pairs: Vec<_> = more.iter().copied().zip(behind).collect();
        let added = pairs
            .iter()
            .map(|(link, addr)| floor::plain_nodad_address(*link, addr));
        let gone = pairs
            .iter()
            .map(|(link, addr)| floor::delete_address(*link, addr));
        let what = format!("{family} addresses of other links");
        storm(text, &what, added.chain(gone));
        let behind = vips(VIPS + options.routes).split_off(VIPS as usize);
        let added = behind.iter().map(|to| floor::other_route(node_link, to));
        let gone = behind
            .iter()
            .map(|to| match floor::other_route(node_link, to).0 {
                RouteNetlinkMessage::NewRoute(route) => (RouteNetlinkMessage::DelRoute(route), 0),
                _ => unreachable!(),
            });
        let what = format!("{family} routes of another link");
        storm(text, &what, added.chain(gone));
    }
}

type Change = (RouteNetlinkMessage, u16);

fn change_flags(link: u32, flags: LinkFlags) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.header.flags = flags;
    message.header.change_mask = LinkFlags::Up;
    (RouteNetlinkMessage::SetLink(message), 0)
}

fn change_mtu(link: u32, mtu: u32) -> Change {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// A line of the second table. The changes end where they began.
fn storm(text: &mut String, what: &str, changes: impl Iterator<Item = Change>) {
    // The receive buffer of a listener holds the notifications of one part.
    const PART: usize = 16;
    let changes: Vec<Change> = changes.collect();
    let parts: Vec<_> = changes
        .chunks(PART)
        .map(|part| Messages::encode(part.to_vec()))
        .collect();
    let mut floor = Floor::new();
    let mut write = || {
        let mut cpu = Duration::ZERO;
        for part in &parts {
            cpu += timed(|| floor.send(part)).cpu;
            sleep(Duration::from_micros(100));
        }
        sleep(CALM);
        cpu
    };
    let alone = write();
    let listener = Listener::start();
    let beside_listener = write();
    let (listened, heard) = listener.end();
    let keeper = RunningKeeper::start(keeper_of(manager(Binding::Address)));
    let beside_keeper = write();
    let (kept, counters) = keeper.end();
    assert_eq!(counters.repairs, 0, "{counters}");
    let each = |time: Duration| {
        let nanos = time.as_secs_f64() * 1e9 / f64::from(heard.notifications.max(1));
        format!("{time:.1?} ({nanos:.1} ns)")
    };
    let lost = match heard.overflows {
        0 => String::new(),
        overflows => format!(", {overflows} overflows"),
    };
    let line = format!(
        "| {what} | {} | {}{lost} | {} | {} | {} | {alone:.1?} | {beside_listener:.1?} | \
         {beside_keeper:.1?} |",
        changes.len(),
        heard.notifications,
        each(listened),
        each(kept),
        counters.resyncs,
    );
    eprintln!("{line}");
    writeln!(text, "{line}").unwrap();
}

/// A line of the third table: what a `reconcile` of right IPv6 VIPs costs beside changes of routes of another
/// link in table main.
fn reconcile_beside_changes(text: &mut String, vips: u32, rate: u64) {
    let node = Node::new();
    node.fresh_link();
    let set = common::v6(vips);
    let mut manager = manager(Binding::Address);
    manager.assign(&set).unwrap();
    sleep(2 * CALM);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let changes = spawn(move || flap(rate, &stopped));
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            sleep(Duration::from_millis(200));
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
    writeln!(
        text,
        "| {rate} a second | {vips} | {cpu:.1?} | {wall:.1?} |"
    )
    .unwrap();
}

/// Adds and deletes routes, so many changes a second.
fn flap(rate: u64, stop: &AtomicBool) {
    let mut ip = ip_batch();
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
        sleep(Duration::from_millis(2));
    }
    drop(input);
    assert!(ip.wait().unwrap().success());
}

/// Carries out all lines.
fn batch(lines: impl Iterator<Item = String>) {
    let mut ip = ip_batch();
    let mut input = ip.stdin.take().unwrap();
    let lines: Vec<String> = lines.collect();
    input.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(input);
    assert!(ip.wait().unwrap().success());
}

/// An `ip` that reads lines and ends at the first refusal.
fn ip_batch() -> Child {
    Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}
