//! A keeper of five thousand VIPs under random drift: memory and descriptors stay flat, every drift
//! is repaired, the counters add up.
//!
//! Some ten seconds; ten minutes by one command:
//!
//! ```text
//! VIPROUTE_SOAK_SECONDS=600 cargo test --test soak -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/seen.rs"]
mod seen;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewAddress, NewRoute};
use netlink_packet_route::address::AddressFlags;

use broken::{OTHER_V4, OTHER_V6, Random};
use common::raw::{self, CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, Raw, Request};
use common::{NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, vips};
use seen::{Seen, index_of};
use viproute::{Claim, VipManager};

/// VIPs of each family that are kept.
const PAIRS: usize = 2500;
/// VIPs that drift between two checks.
const DRIFTS: usize = 60;
/// How long a repair may be waited for. Nothing comes near it.
const PATIENCE: Duration = Duration::from_secs(120);

const ENV: &str = "VIPROUTE_SOAK_CHILD";

fn seconds() -> u64 {
    std::env::var("VIPROUTE_SOAK_SECONDS").map_or(10, |text| {
        text.parse().expect("VIPROUTE_SOAK_SECONDS is a number")
    })
}

/// The keeper, in a process of its own whose memory is nobody else's. In an event loop, as an
/// embedder would have it.
#[allow(unsafe_code)]
#[ctor::ctor(unsafe, priority = 101)]
fn child() {
    if std::env::var_os(ENV).is_none() {
        return;
    }
    let mut keeper = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .open()
        .unwrap()
        .into_keeper(Claim::link())
        .unwrap();
    keeper.set_desired(vips(PAIRS));
    let mut sum = Sum::default();
    let mut input = std::io::stdin().lock();
    loop {
        let done = keeper.dispatch(usize::MAX).unwrap();
        let report = &done.report;
        sum.mended += (report.assigned + report.repaired + report.released) as u64;
        sum.writes += report.writes;
        sum.failures += report.failures.len() as u64;
        sum.dispatches += 1;
        if done.more {
            continue;
        }
        let patience = keeper.next_deadline().map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis() + 1).unwrap()
        });
        let poll_in = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [poll_in(keeper.as_fd().as_raw_fd()), poll_in(0)];
        // SAFETY: two initialised entries, whose descriptors are open during the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, patience) };
        assert!(ready >= 0, "{}", std::io::Error::last_os_error());
        if fds[1].revents != 0 {
            let mut line = String::new();
            if input.read_line(&mut line).unwrap() == 0 {
                std::process::exit(0);
            }
            let counters = keeper.counters();
            println!(
                "{} {} {} {} {} {} {} {} {}",
                counters.events,
                counters.looks,
                counters.repairs,
                counters.resyncs,
                counters.fights,
                sum.mended,
                sum.writes,
                sum.failures,
                sum.dispatches
            );
        }
    }
}

/// What the reports of the dispatches came to.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    mended: u64,
    writes: u64,
    failures: u64,
    dispatches: u64,
}

/// What the keeper says of itself, and the system of it.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    events: u64,
    looks: u64,
    repairs: u64,
    resyncs: u64,
    fights: u64,
    sum: Sum,
    /// KiB.
    resident: u64,
    descriptors: usize,
}

struct Kept {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Kept {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ENV, "1")
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

    fn tell(&mut self) -> Told {
        writeln!(self.input, "tell").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let [
            events,
            looks,
            repairs,
            resyncs,
            fights,
            mended,
            writes,
            failures,
            dispatches,
        ] = numbers[..]
        else {
            panic!("the keeper ended: {line:?}");
        };
        let proc = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap();
        Told {
            events,
            looks,
            repairs,
            resyncs,
            fights,
            sum: Sum {
                mended,
                writes,
                failures,
                dispatches,
            },
            resident: resident.parse().unwrap(),
            descriptors: std::fs::read_dir(format!("{proc}/fd")).unwrap().count(),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many of the VIPs are not as wanted, or else of the strangers there, and the first.
fn wrong(all: &[IpAddr], strangers: &HashSet<IpAddr>) -> Option<String> {
    let link = index_of(VIP_LINK)?;
    let mut state = Seen::read(link).local_state();
    for address in state.addresses.values_mut().flatten() {
        address.nodad = true;
    }
    let wrong = state.wrong_vips(all, &common::Want::default());
    if let Some(first) = wrong.first() {
        return Some(format!("{} wrong, such as {first}", wrong.len()));
    }
    let mut there = strangers.iter().filter(|vip| {
        let routes = state.routes_of(**vip).iter();
        let mut addresses = state.addresses_of(**vip).iter();
        routes.filter(|route| route.is_local()).count() > 0
            || addresses.any(|address| address.dev == VIP_LINK)
    });
    there.next().map(|vip| format!("{vip} is there"))
}

#[track_caller]
fn wait_until_good(all: &[IpAddr], strangers: &HashSet<IpAddr>) {
    let began = Instant::now();
    while let Some(fault) = wrong(all, strangers) {
        assert!(began.elapsed() < PATIENCE, "not repaired: {fault}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// One thing that happens to a VIP, or one that is none of ours comes.
fn drift(vip: IpAddr, how: usize, link: u32) -> Request {
    let (source, other): (IpAddr, IpAddr) = match vip {
        IpAddr::V4(_) => (NODE_V4.into(), OTHER_V4.into()),
        IpAddr::V6(_) => (NODE_V6.into(), OTHER_V6.into()),
    };
    let route = |source, protocol| raw::local_route(vip, link, Some(source), protocol);
    match how {
        0 | 1 => (DelRoute(raw::delete_any(vip, link)), 0),
        2 => (NewRoute(route(other, PROTO_KERNEL)), CREATE_REPLACE),
        3 => (NewRoute(route(source, 186)), CREATE_REPLACE),
        4 => {
            let extra = raw::with_metric(route(source, 186), 2000);
            (NewRoute(extra), CREATE_APPEND)
        }
        5 if vip.is_ipv6() => {
            let plain = raw::address(vip, link, AddressFlags::Nodad);
            (NewAddress(plain), CREATE_REPLACE)
        }
        _ => raw::del_address(vip, link),
    }
}

#[test]
fn under_random_drift() {
    let mut random = Random::new();
    let net = Net::new();
    net.ip_batch([
        format!("addr add {OTHER_V4}/32 dev {NODE_LINK}"),
        format!("addr add {OTHER_V6}/128 dev {NODE_LINK} nodad"),
        // The last IPv4 address takes every route with it, also others'.
        format!("addr add 198.51.100.1/31 dev {VIP_LINK}"),
    ]);
    net.settle();
    let all = vips(PAIRS);
    let strangers: Vec<IpAddr> = vips(PAIRS + 50)[2 * PAIRS..].to_vec();
    let as_set: HashSet<IpAddr> = strangers.iter().copied().collect();
    let rest = net.snapshot_without(&vips(PAIRS + 50));
    let mut kept = Kept::start();
    wait_until_good(&all, &as_set);
    let link = net.vip_index();
    let mut raw = Raw::new();
    let began = Instant::now();
    let mut last = kept.tell();
    let mut tells: Vec<Told> = Vec::new();
    let mut drifted = 0;
    let mut order = all.clone();
    // One of each kind of round at least; only then are all buffers as large as they get.
    while tells.len() < 5 || began.elapsed() < Duration::from_secs(seconds()) {
        let mut expected = 0;
        match tells.len() % 4 {
            // The whole link at once.
            1 => {
                net.ip(&format!("link set dev {VIP_LINK} down"));
                net.ip(&format!("link set dev {VIP_LINK} up"));
                expected += all.len() as u64;
            }
            // More notifications than its socket holds.
            2 => {
                net.ip(&format!("-6 route flush table local dev {VIP_LINK}"));
                expected += PAIRS as u64;
            }
            // One by one, in small bursts, each VIP once.
            _ => {
                for at in 0..DRIFTS {
                    let with = at + random.below(order.len() - at);
                    order.swap(at, with);
                }
                for some in order[..DRIFTS].chunks(2) {
                    let requests: Vec<_> = some
                        .iter()
                        .map(|vip| drift(*vip, random.below(7), link))
                        .collect();
                    raw.batch_ok(&requests);
                    expected += some.len() as u64;
                    if random.below(3) == 0 {
                        let stranger = random.pick(&strangers);
                        let address = raw::vip_address(stranger, link);
                        let leaked = raw::local_route(stranger, link, None, 186);
                        // It may be there still.
                        raw.batch(&[
                            (NewAddress(address), CREATE_EXCL),
                            (NewRoute(leaked), CREATE_EXCL),
                        ]);
                    }
                    std::thread::sleep(Duration::from_millis(40));
                }
            }
        }
        drifted += expected;
        wait_until_good(&all, &as_set);
        let told = kept.tell();
        println!(
            "{:>4} s: {expected} drifted, {} repaired with {} writes; {told:?}",
            began.elapsed().as_secs(),
            told.repairs - last.repairs,
            told.sum.writes - last.sum.writes
        );
        // Every one of them was repaired, and none over and over.
        assert!(told.repairs - last.repairs >= expected, "{told:?}");
        assert!(
            told.repairs - last.repairs <= 3 * expected + 200,
            "{told:?}"
        );
        assert_eq!(told.repairs, told.sum.mended, "the counters add up");
        assert_eq!(told.sum.failures, 0, "{told:?}");
        assert!(told.fights <= told.repairs, "{told:?}");
        assert!(told.events >= last.events && told.looks >= last.looks);
        assert_eq!(told.descriptors, last.descriptors, "{told:?}");
        if expected == DRIFTS as u64 {
            assert!(told.looks > last.looks, "one by one: {told:?}");
        } else {
            assert!(told.resyncs > last.resyncs, "as a whole: {told:?}");
        }
        last = told;
        tells.push(told);
    }
    let idle = kept.tell();
    std::thread::sleep(Duration::from_millis(300));
    let still = kept.tell();
    assert_eq!(idle.sum.writes, still.sum.writes, "it writes for nothing");
    let diff = rest.diff(&net.snapshot_without(&vips(PAIRS + 50)));
    // What a link has by itself went with the flush, or came back with the link.
    let changed: Vec<_> = diff.iter().filter(|line| !line.contains("fe80:")).collect();
    assert!(changed.is_empty(), "{changed:#?}");
    // After the first round of each kind.
    let grown = |told: &Told| told.resident.saturating_sub(tells[3].resident);
    let most = tells[3..].iter().map(grown).max().unwrap();
    println!(
        "{drifted} drifts in {:?}, {} repairs; resident {} KiB at first, {} KiB warm, at most {most} \
         KiB more after that, {} descriptors",
        began.elapsed(),
        last.repairs,
        tells[0].resident,
        tells[3].resident,
        last.descriptors
    );
    // Of some 600 bytes a VIP that is what an allocator may leave lying about.
    assert!(most < 3 << 10, "memory grew by {most} KiB");
}
