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
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/seen.rs"]
mod seen;

use std::collections::HashSet;
use std::fs::File;
use std::io::BufRead;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewAddress, NewRoute};
use netlink_packet_route::address::AddressFlags;

use broken::{OTHER_V4, OTHER_V6, Random};
use child::Process;
use common::raw::{self, CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, Raw, Request};
use common::{NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, vips};
use seen::{Seen, index_of};
use viproute::{Claim, Keeper};

/// VIPs of each family that are kept.
const PAIRS: usize = 2500;
/// VIPs that drift between two checks.
const DRIFTS: usize = 60;
/// How long a repair may be waited for. Nothing comes near it.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the process may grow by when it is warm, in KiB. Of some 600 bytes a VIP that is what an
/// allocator may leave lying about.
const SLACK: usize = 3 << 10;

const ENV: &str = "VIPROUTE_SOAK_CHILD";

fn seconds() -> u64 {
    common::number("VIPROUTE_SOAK_SECONDS", 10, 4)
}

/// What is wrong with a keeper, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    None,
    /// It repairs nothing from the first `tell` on.
    Idle,
    /// It loses a descriptor with each `tell`.
    Leaks,
    /// It grows by more than the slack with each `tell`.
    Grows,
}

const SABOTAGES: [Sabotage; 4] = [
    Sabotage::None,
    Sabotage::Idle,
    Sabotage::Leaks,
    Sabotage::Grows,
];

/// The keeper, in a process of its own whose memory is nobody else's. In an event loop, as an
/// embedder would have it.
#[allow(unsafe_code)]
#[ctor::ctor(unsafe, priority = 101)]
fn child() {
    let Ok(words) = std::env::var(ENV) else {
        return;
    };
    let numbers: Vec<usize> = words.split(',').map(|word| word.parse().unwrap()).collect();
    let (pairs, sabotage) = (numbers[0], SABOTAGES[numbers[1]]);
    let mut keeper = common::builder()
        // The kernel is late by many seconds where another namespace keeps its queue busy.
        .stall_timeout(Duration::from_secs(60))
        .open()
        .unwrap()
        .into_keeper(Claim::link())
        .unwrap();
    keeper.set_desired(vips(pairs));
    let mut sum = Sum::default();
    let mut input = std::io::stdin().lock();
    let mut idle = false;
    loop {
        if idle {
            answer(&mut input, &keeper, &sum);
            continue;
        }
        let done = keeper.dispatch(usize::MAX).unwrap();
        let report = &done.report;
        sum.mended += (report.assigned + report.repaired + report.released) as u64;
        sum.writes += report.writes;
        sum.failures += report.failures.len() as u64;
        for failure in &report.failures {
            eprintln!("{failure}");
        }
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
        // A repair counts once it is proven, so questions wait until then.
        let count = if done.resting == 0 { 2 } else { 1 };
        // SAFETY: two initialised entries, whose descriptors are open during the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, patience) };
        assert!(ready >= 0, "{}", std::io::Error::last_os_error());
        // What was lost is read before the next question: it would be read as a whole with the next drift.
        if fds[1].revents != 0 && fds[0].revents == 0 {
            match sabotage {
                Sabotage::None => {}
                Sabotage::Idle => idle = true,
                Sabotage::Leaks => std::mem::forget(File::open("/dev/null").unwrap()),
                Sabotage::Grows => std::mem::forget(vec![1_u8; (2 * SLACK) << 10]),
            }
            answer(&mut input, &keeper, &sum);
        }
    }
}

/// Answers a line; ends the process where there is none.
fn answer(input: &mut impl BufRead, keeper: &Keeper, sum: &Sum) {
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
        counters.backoffs,
        sum.mended,
        sum.writes,
        sum.failures,
        sum.dispatches
    );
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
struct Reading {
    events: u64,
    looks: u64,
    repairs: u64,
    resyncs: u64,
    backoffs: u64,
    sum: Sum,
    /// KiB.
    resident: u64,
    descriptors: usize,
}

struct Kept(Process);

impl Kept {
    fn start(pairs: usize, sabotage: Sabotage) -> Self {
        Self(Process::start(
            ENV,
            &format!("{pairs},{}", sabotage as usize),
        ))
    }

    fn read(&mut self) -> Reading {
        self.0.tell("tell");
        let line = self.0.hear();
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let [
            events,
            looks,
            repairs,
            resyncs,
            backoffs,
            mended,
            writes,
            failures,
            dispatches,
        ] = numbers[..]
        else {
            panic!("the keeper ended: {line:?}");
        };
        let proc = format!("/proc/{}", self.0.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap();
        Reading {
            events,
            looks,
            repairs,
            resyncs,
            backoffs,
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

/// How many VIPs are not right, or how many unmanaged VIPs are still there, and the first.
fn wrong(all: &[IpAddr], unmanaged: &HashSet<IpAddr>) -> Option<String> {
    let link = index_of(VIP_LINK)?;
    let mut state = Seen::read(link).local_state();
    for address in state.addresses.values_mut().flatten() {
        address.forgive_flags();
    }
    let wrong = state.wrong_vips(all, &common::Want::default());
    if let Some(first) = wrong.first() {
        return Some(format!("{} wrong, such as {first}", wrong.len()));
    }
    let mut there = unmanaged.iter().filter(|vip| {
        let routes = state.routes_of(**vip).iter();
        let mut addresses = state.addresses_of(**vip).iter();
        routes.filter(|route| route.is_local()).count() > 0
            || addresses.any(|address| address.dev == VIP_LINK)
    });
    there.next().map(|vip| format!("{vip} is there"))
}

fn wait_until_good(
    all: &[IpAddr],
    unmanaged: &HashSet<IpAddr>,
    patience: Duration,
) -> Result<(), String> {
    let began = Instant::now();
    while let Some(fault) = wrong(all, unmanaged) {
        if began.elapsed() > patience {
            return Err(format!("not repaired: {fault}"));
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(())
}

/// One change of a VIP, or the arrival of an unmanaged one.
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

/// What happened between two answers of the keeper.
#[derive(Clone, Copy, Debug)]
struct Happened {
    drifted: u64,
    /// How the keeper is bound to notice, where that is certain: VIP by VIP, or as a whole.
    as_whole: Option<bool>,
    /// The link was down for a moment, in which the kernel refuses routes.
    flapped: bool,
}

/// What is wrong with what a keeper says after a round that ended well.
fn judge(last: &Reading, reading: &Reading, happened: Happened) -> Result<(), String> {
    let Happened {
        drifted,
        as_whole,
        flapped,
    } = happened;
    let repairs = reading.repairs.saturating_sub(last.repairs);
    let sound = [
        // Every one of them was repaired, and none over and over.
        (repairs >= drifted, "too few repairs"),
        (repairs <= 3 * drifted + 200, "too many repairs"),
        (
            reading.repairs == reading.sum.mended,
            "the counters do not add up",
        ),
        (
            flapped || reading.sum.failures == last.sum.failures,
            "failures",
        ),
        (
            reading.backoffs <= reading.repairs,
            "more backoffs than repairs",
        ),
        (
            reading.events >= last.events && reading.looks >= last.looks,
            "a counter went back",
        ),
        (reading.descriptors == last.descriptors, "descriptors leak"),
        (
            as_whole != Some(false) || reading.looks > last.looks,
            "not looked at one by one",
        ),
        (
            as_whole != Some(true) || reading.resyncs > last.resyncs,
            "not read as a whole",
        ),
    ];
    match sound.iter().find(|(sound, _)| !sound) {
        Some((_, words)) => Err(format!("{words}: {happened:?}, {last:?}, {reading:?}")),
        None => Ok(()),
    }
}

/// By how many KiB it grew at the most after the first round of each kind.
fn flat(readings: &[Reading]) -> Result<u64, String> {
    let grown = |reading: &Reading| reading.resident.saturating_sub(readings[3].resident);
    let most = readings[3..].iter().map(grown).max().unwrap();
    if most < SLACK as u64 {
        Ok(most)
    } else {
        Err(format!("memory grew by {most} KiB"))
    }
}

/// How large and how long.
#[derive(Clone, Copy, Debug)]
struct Soak {
    /// VIPs of each family that are kept.
    pairs: usize,
    /// VIPs that drift between two checks.
    drifts: usize,
    time: Duration,
    patience: Duration,
    sabotage: Sabotage,
}

/// Lets so many of the VIPs drift, each once, and adds unmanaged ones now and then.
fn drift_in_bursts(
    order: &mut [IpAddr],
    drifts: usize,
    unmanaged: &[IpAddr],
    random: &mut Random,
    raw: &mut Raw,
) {
    let link = index_of(VIP_LINK).unwrap();
    for at in 0..drifts {
        let with = at + random.below(order.len() - at);
        order.swap(at, with);
    }
    for some in order[..drifts].chunks(2) {
        let requests: Vec<_> = some
            .iter()
            .map(|vip| drift(*vip, random.below(7), link))
            .collect();
        raw.batch_ok(&requests);
        if random.below(3) == 0 {
            let added = random.pick(unmanaged);
            let address = raw::vip_address(added, link);
            let leaked = raw::local_route(added, link, None, 186);
            // It may be there still.
            raw.batch(&[
                (NewAddress(address), CREATE_EXCL),
                (NewRoute(leaked), CREATE_EXCL),
            ]);
        }
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// Runs one. The last two answers of the keeper, and what happened between them.
#[expect(
    clippy::too_many_lines,
    reason = "a minute of one keeper: its rounds, and the sum at the end"
)]
fn soak(plan: Soak) -> Result<(Reading, Reading, Happened), String> {
    let Soak { pairs, drifts, .. } = plan;
    let mut random = Random::new();
    let net = Net::new();
    net.ip_batch([
        format!("addr add {OTHER_V4}/32 dev {NODE_LINK}"),
        format!("addr add {OTHER_V6}/128 dev {NODE_LINK} nodad"),
        // The last IPv4 address takes every route with it, also others'.
        format!("addr add 198.51.100.1/31 dev {VIP_LINK}"),
    ]);
    net.wait_for_kernel();
    let all = vips(pairs);
    let unmanaged: Vec<IpAddr> = vips(pairs + 50)[2 * pairs..].to_vec();
    let as_set: HashSet<IpAddr> = unmanaged.iter().copied().collect();
    let rest = net.snapshot_without(&vips(pairs + 50));
    let mut kept = Kept::start(pairs, plan.sabotage);
    wait_until_good(&all, &as_set, PATIENCE)?;
    let mut raw = Raw::new();
    let began = Instant::now();
    let mut last = kept.read();
    let mut readings: Vec<Reading> = Vec::new();
    let mut between = Vec::new();
    let mut drifted = 0;
    let mut order = all.clone();
    // One of each kind of round at least; only then are all buffers as large as they get.
    while readings.len() < 5 || began.elapsed() < plan.time {
        let mut expected = 0;
        let as_whole = match readings.len() % 4 {
            // The whole link at once.
            1 => {
                net.ip(&format!("link set dev {VIP_LINK} down"));
                net.ip(&format!("link set dev {VIP_LINK} up"));
                expected += all.len() as u64;
                Some(true)
            }
            2 => {
                net.ip(&format!("-6 route flush table local dev {VIP_LINK}"));
                expected += pairs as u64;
                // More notifications than its socket holds.
                (pairs >= PAIRS).then_some(true)
            }
            // One by one, in small bursts, each VIP once.
            _ => {
                drift_in_bursts(&mut order, drifts, &unmanaged, &mut random, &mut raw);
                expected += drifts as u64;
                Some(false)
            }
        };
        drifted += expected;
        wait_until_good(&all, &as_set, plan.patience)?;
        let reading = kept.read();
        println!(
            "{:>4} s: {expected} drifted, {} repaired with {} writes; {reading:?}",
            began.elapsed().as_secs(),
            reading.repairs - last.repairs,
            reading.sum.writes - last.sum.writes
        );
        let happened = Happened {
            drifted: expected,
            as_whole,
            flapped: readings.len() % 4 == 1,
        };
        judge(&last, &reading, happened)?;
        between.push((last, reading, happened));
        last = reading;
        readings.push(reading);
    }
    let idle = kept.read();
    std::thread::sleep(Duration::from_millis(300));
    let still = kept.read();
    if idle.sum.writes != still.sum.writes {
        return Err(format!("it writes for nothing: {idle:?}, {still:?}"));
    }
    let diff = rest.diff(&net.snapshot_without(&vips(pairs + 50)));
    // What a link has by itself went with the flush, or came back with the link.
    let its_own = |line: &str| {
        ["\"fe80:", "\"ff00::/8\""]
            .iter()
            .any(|dst| line.contains(dst))
    };
    let changed: Vec<_> = diff.iter().filter(|line| !its_own(line)).collect();
    if !changed.is_empty() {
        return Err(format!("changed: {changed:#?}"));
    }
    let most = flat(&readings)?;
    println!(
        "{drifted} drifts in {:?}, {} repairs; resident {} KiB at first, {} KiB warm, at most {most} \
         KiB more after that, {} descriptors",
        began.elapsed(),
        last.repairs,
        readings[0].resident,
        readings[3].resident,
        last.descriptors
    );
    Ok(between[between.len() - 1])
}

#[test]
fn keeper_repairs_random_drift_with_flat_memory() {
    let done = soak(Soak {
        pairs: PAIRS,
        drifts: DRIFTS,
        time: Duration::from_secs(seconds()),
        patience: PATIENCE,
        sabotage: Sabotage::None,
    });
    done.unwrap_or_else(|fault| panic!("{fault}"));
}

/// The control: of the same run, only smaller, it is seen when the keeper repairs nothing, leaks or
/// grows.
#[test]
fn control_bad_keeper_is_seen() {
    let small = |sabotage, patience| {
        std::thread::spawn(move || {
            soak(Soak {
                pairs: 50,
                drifts: 6,
                time: Duration::ZERO,
                patience,
                sabotage,
            })
        })
    };
    let good = small(Sabotage::None, PATIENCE);
    let bad = [
        // Nobody is there to repair it, however long one waits.
        (Sabotage::Idle, "not repaired", Duration::from_secs(1)),
        (Sabotage::Leaks, "descriptors leak", PATIENCE),
        (Sabotage::Grows, "memory grew", PATIENCE),
    ]
    .map(|(sabotage, words, patience)| (words, small(sabotage, patience)));
    for (words, thread) in bad {
        let fault = thread.join().unwrap().expect_err(words);
        assert!(fault.starts_with(words), "for {words}: {fault}");
    }
    let good = good.join().unwrap();
    let (last, reading, happened) = good.unwrap_or_else(|fault| panic!("a good one: {fault}"));
    // What no keeper can be made to do is put into what it says.
    judge(&last, &reading, happened).unwrap();
    let falsified = |words: &str, how: fn(&mut Reading, &Reading)| {
        let mut falsified = reading;
        how(&mut falsified, &last);
        let fault = judge(&last, &falsified, happened).expect_err(words);
        assert!(fault.starts_with(words), "{fault}");
    };
    falsified("too few repairs", |reading, last| {
        reading.repairs = last.repairs
    });
    falsified("too many repairs", |reading, _| reading.repairs += 1000);
    falsified("the counters do not add up", |reading, _| {
        reading.sum.mended += 1
    });
    falsified("failures", |reading, _| reading.sum.failures += 1);
    falsified("not looked at one by one", |reading, last| {
        reading.looks = last.looks;
    });
}
