//! Several writers: two processes with the same desired set, two with their own marks, and an adversary
//! that deletes the library's routes as fast as it can.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/rules.rs"]
mod rules;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewRoute};
use netlink_packet_route::route::{RouteScope, RouteType};

use broken::Random;
use child::{Answer, Other, Pairs, Setting, Verb};
use common::raw::{self, CREATE_REPLACE, Raw, Request};
use common::{Net, PROTO_KERNEL, VIP_LINK, Want, vips};
use rules::Churn;
use viproute::{Cause, Claim, ErrorKind, Report};

/// How long the adversary is at it.
fn fight() -> Duration {
    Duration::from_secs(common::full_or_quick(5, 2))
}

/// After which a call that has not come back counts as hung. Nothing comes near it.
const HUNG: Duration = Duration::from_secs(180);
/// Half of the stall time-out of [`Setting::manager`].
const STALLED: Duration = Duration::from_secs(30);

/// Messages of one call for one VIP at the most: as many rounds as a call makes of it, with all
/// that one round can send.
const MOST_WRITES: u64 = 100;

/// Each fight wants the machine for itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn setting(protocol: u8, address_protocol: u8) -> Setting {
    Setting {
        protocol,
        address_protocol,
        route_only: false,
        receive_kib: 0,
    }
}

fn both(setting: [Setting; 2]) -> [Other; 2] {
    let mut both = setting.map(Other::start);
    both.iter_mut().for_each(Other::wait_until_ready);
    both
}

#[test]
fn two_processes_reconcile_the_same_set() {
    let _alone = alone();
    const SET: Pairs = Pairs { from: 50, to: 350 };
    let (mut short, mut met) = (0, 0);
    for (protocol, route_only) in [(PROTO_KERNEL, false), (201, false), (PROTO_KERNEL, true)] {
        let net = Net::new();
        let setting = Setting {
            route_only,
            ..setting(protocol, 0)
        };
        let mut both = both([setting; 2]);
        let mut manager = setting.manager();
        for round in 0..common::full_or_quick(8, 4) {
            // Nothing is there, or others, or it is broken.
            match round % 4 {
                0 => drop(manager.release_all(&Claim::link()).unwrap()),
                1 => drop(manager.reconcile(&Claim::link(), vips(200)).unwrap()),
                2 => {
                    net.ip(&format!("link set dev {VIP_LINK} down"));
                    net.ip(&format!("link set dev {VIP_LINK} up"));
                }
                _ => drop(net.ip(&format!("-6 route flush table local dev {VIP_LINK}"))),
            }
            for other in &mut both {
                other.begin(Verb::Reconcile, SET);
            }
            let answer = both.each_mut().map(Other::end);
            let worked = |answer: &Answer| answer.assigned + answer.repaired > 0;
            met += usize::from(answer.iter().all(worked));
            for answer in answer {
                assert!(answer.writes <= MOST_WRITES * 700, "{answer:?}");
                assert!(answer.retries <= answer.writes, "{answer:?}");
                short += usize::from(!answer.fine);
            }
            let words = format!("{protocol}, {route_only}, round {round}: {answer:?}");
            if answer.iter().any(|answer| !answer.fine) {
                // A call that fell short has said so, and the next one goes on.
                both[0].begin(Verb::Reconcile, SET);
                let answer = both[0].end();
                assert!(answer.fine, "{words}, and then {answer:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
            let want = Want {
                protocol,
                address: !route_only,
                ..Want::default()
            };
            let state = net.local_state();
            let wrong = state.wrong_vips(&SET.vips(), &want);
            assert!(
                wrong.is_empty(),
                "{words}: {} {:?}",
                wrong.len(),
                wrong.first()
            );
            state.assert_absent(&Pairs { from: 0, to: 50 }.vips(), VIP_LINK);
        }
    }
    println!("in {met} rounds both were at work, {short} calls fell short");
    assert!(met > 0, "the two never met");
}

/// Each has its own mark, and its own VIPs, which come and go.
#[test]
fn two_processes_keep_to_their_marks() {
    let _alone = alone();
    let mut random = Random::new();
    for settings in [
        [setting(201, 0), setting(202, 0)],
        [setting(PROTO_KERNEL, 77), setting(PROTO_KERNEL, 78)],
    ] {
        let net = Net::new();
        // With the last IPv4 address of the link the kernel would flush the routes of both.
        net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
        let mut both = both(settings);
        let mut sets = [Pairs { from: 0, to: 0 }; 2];
        let mut work = 0;
        let rounds = common::full_or_quick(25, 8);
        for round in 0..rounds {
            for (at, other) in both.iter_mut().enumerate() {
                // The first has the pairs below 200, the second those above.
                let from = at * 200 + random.below(100);
                let to = from + 1 + random.below(99);
                sets[at] = Pairs { from, to };
                other.begin(Verb::ReconcileMarked, sets[at]);
            }
            for (at, other) in both.iter_mut().enumerate() {
                let answer = other.end();
                assert!(
                    answer.fine && answer.failures == 0,
                    "{round}, {at}: {answer:?}"
                );
                assert!(answer.writes <= MOST_WRITES * 400, "{answer:?}");
                work += answer.assigned + answer.released;
            }
            std::thread::sleep(Duration::from_millis(10));
            let state = net.local_state();
            let mut there = Vec::new();
            for (set, setting) in sets.iter().zip(settings) {
                let want = Want {
                    protocol: setting.protocol,
                    ..Want::default()
                };
                state.assert_single_route(&set.vips(), &want);
                there.extend(set.vips());
            }
            there.sort_unstable();
            let gone: Vec<IpAddr> = vips(400)
                .into_iter()
                .filter(|vip| there.binary_search(vip).is_err())
                .collect();
            state.assert_absent(&gone, VIP_LINK);
        }
        println!("{settings:?}: {work} VIPs came or went");
        assert!(work > 40 * rounds);
    }
}

/// Deletes routes of VIPs without pause, of whatever kind they are.
struct Adversary {
    stop: Arc<AtomicBool>,
    deleted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Adversary {
    fn start(vips: &[IpAddr], link: u32) -> Self {
        let (stop, deleted) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let requests: Vec<_> = vips
            .iter()
            .map(|vip| (DelRoute(raw::delete_any(*vip, link)), 0))
            .collect();
        let thread = std::thread::spawn({
            let (stop, deleted) = (Arc::clone(&stop), Arc::clone(&deleted));
            move || {
                let mut raw = Raw::new();
                while !stop.load(Ordering::Relaxed) {
                    let acks = raw.batch(&requests);
                    let hits = acks.iter().filter(|ack| ack.errno == 0).count();
                    deleted.fetch_add(hits as u64, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            deleted,
            thread: Some(thread),
        }
    }

    fn stop(mut self) -> u64 {
        self.halt();
        self.deleted.load(Ordering::Relaxed)
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.halt();
        }
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs something in a thread of its own; panics if it does not come back.
fn comes_back<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let done = work();
        let _ = sender.send(());
        done
    });
    match receiver.recv_timeout(HUNG) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
    }
}

/// Panics unless each failure is of a VIP that was fought over, or for `normalize` not there at all.
fn assert_all_fought_over(report: &Report) {
    for failure in &report.failures {
        let fits = matches!(
            failure.cause,
            Cause::Contended
                | Cause::Pending
                | Cause::Kernel
                | Cause::NotOnLink
                | Cause::StaleRoute
        );
        assert!(fits, "{failure}");
    }
}

#[test]
fn calls_beside_an_adversary_end() {
    let _alone = alone();
    for (protocol, route_only) in [(PROTO_KERNEL, false), (201, true)] {
        let net = Net::new();
        let all = vips(60);
        let link = net.vip_index();
        let rest = net.snapshot_without(&all);
        let setting = Setting {
            route_only,
            ..setting(protocol, 0)
        };
        setting.manager().assign(&all).unwrap();
        let adversary = Adversary::start(&all, link);
        let set = all.clone();
        let (calls, writes, retries, short) = comes_back(move || {
            let mut manager = setting.manager();
            let (mut calls, mut writes, mut retries, mut short) = (0, 0, 0, 0);
            let began = Instant::now();
            while began.elapsed() < fight() {
                let result = match calls % 3 {
                    0 => manager.assign(&set),
                    1 => manager.normalize(),
                    _ => manager.reconcile(&Claim::link(), &set),
                };
                calls += 1;
                let report = match result {
                    Ok(report) => report,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
                        error.into_report().unwrap()
                    }
                };
                bounded(&report, set.len());
                assert_all_fought_over(&report);
                writes += report.writes;
                retries += report.retries;
                short += usize::from(!report.is_complete());
            }
            (calls, writes, retries, short)
        });
        let deleted = adversary.stop();
        println!(
            "{protocol}, route only {route_only}: {calls} calls, {short} of them fell short, \
             {writes} writes, {retries} retries; {deleted} deletions"
        );
        assert!(deleted > 1000 && retries > 0, "no fight took place");
        // It has stopped, so the next call is the last.
        let mut manager = setting.manager();
        manager.assign(&all).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        let want = Want {
            protocol,
            address: !route_only,
            ..Want::default()
        };
        net.local_state().assert_single_route(&all, &want);
        rest.assert_same(&net.snapshot_without(&all));
        assert_eq!(manager.reconcile(&Claim::link(), &all).unwrap().writes, 0);
    }
}

fn bounded(report: &Report, vips: usize) {
    assert!(report.writes <= MOST_WRITES * vips as u64, "{report}");
    assert!(report.retries <= report.writes, "{report}");
}

#[test]
fn keeper_beside_an_adversary_does_bounded_work() {
    let _alone = alone();
    for route_only in [false, true] {
        let net = Net::new();
        let all = vips(60);
        let link = net.vip_index();
        let rest = net.snapshot_without(&all);
        let setting = Setting {
            route_only,
            ..setting(PROTO_KERNEL, 0)
        };
        let mut keeper = setting.manager().into_keeper(Claim::link()).unwrap();
        keeper.set_desired(&all);
        keeper.dispatch(usize::MAX).unwrap();
        let canceller = keeper.canceller();
        let (sender, rounds) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            keeper.run(|done| drop(sender.send(done.clone()))).unwrap();
            keeper
        });
        let adversary = Adversary::start(&all, link);
        std::thread::sleep(fight());
        let deleted = adversary.stop();
        let want = Want {
            protocol: PROTO_KERNEL,
            address: !route_only,
            ..Want::default()
        };
        let began = Instant::now();
        while !net.local_state().wrong_vips(&all, &want).is_empty() {
            assert!(began.elapsed() < HUNG, "it never came back");
            std::thread::sleep(Duration::from_millis(50));
        }
        canceller.cancel();
        let keeper = comes_back(move || thread.join().unwrap());
        let (mut dispatches, mut writes) = (0_u64, 0);
        for done in rounds.try_iter() {
            bounded(&done.report, all.len());
            dispatches += 1;
            writes += done.report.writes;
        }
        let counters = keeper.counters();
        println!(
            "route only {route_only}: {deleted} deletions, {dispatches} rounds, {writes} writes, \
             {counters:?}"
        );
        assert!(deleted > 100, "no fight took place");
        assert!(counters.backoffs > 0, "{counters:?}");
        // It gives way: far less than one repair for each time that it could.
        assert!(writes <= MOST_WRITES * all.len() as u64 * 10, "{writes}");
        net.local_state().assert_single_route(&all, &want);
        rest.assert_same(&net.snapshot_without(&all));
    }
}

/// The control: the adversary does what it says.
#[test]
fn adversary_wins_without_a_repair() {
    let _alone = alone();
    let net = Net::new();
    let all = vips(10);
    setting(PROTO_KERNEL, 0).manager().assign(&all).unwrap();
    let adversary = Adversary::start(&all, net.vip_index());
    common::example::eventually("all are deleted", || {
        net.wrong_vips(&all, PROTO_KERNEL).len() == all.len()
    });
    assert_eq!(adversary.stop(), all.len() as u64);
}

/// A thread that puts a random rule before the one for table local and takes it away again, moves
/// that one to 100 and back, until dropped.
struct ChangingRules {
    changes: Arc<AtomicU64>,
    _churn: Churn,
}

impl ChangingRules {
    fn start(net: &Net) -> Self {
        for family in ["-4", "-6"] {
            let route = format!(
                "default dev {} table {}",
                common::NODE_LINK,
                rules::OTHER_TABLE
            );
            net.ip(&format!("{family} route add {route}"));
        }
        let changes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&changes);
        let mut random = Random::new();
        let churn = Churn::repeat(move |_| {
            let kinds = [
                format!("lookup {}", rules::OTHER_TABLE),
                "unreachable".into(),
                "prohibit".into(),
                "lookup main suppress_prefixlength 0".into(),
                format!("fwmark 0x200/0xf00 lookup {}", rules::OTHER_TABLE),
            ];
            let kinds = ["-4", "-6"].map(|family| (family, &kinds[random.below(kinds.len())]));
            let each = |lines: &[&str]| {
                let mut all = String::new();
                for (family, kind) in kinds {
                    for line in lines {
                        writeln!(all, "{family} rule {}", line.replace("KIND", kind)).unwrap();
                    }
                }
                ip_by_family(&all);
                std::thread::sleep(Duration::from_millis(20));
            };
            // The one for table local moves, behind another that comes and goes; then back.
            each(&[
                "add pref 100 lookup local",
                "add pref 99 KIND",
                "del pref 0",
            ]);
            each(&["del pref 99 KIND", "add pref 99 KIND"]);
            each(&[
                "add pref 0 lookup local",
                "del pref 100 lookup local",
                "del pref 99 KIND",
            ]);
            count.fetch_add(1, Ordering::Relaxed);
        });
        Self {
            changes,
            _churn: churn,
        }
    }
}

/// Runs commands that begin with their family.
fn ip_by_family(lines: &str) {
    for family in ["-4", "-6"] {
        let of_family = lines.lines().filter_map(|line| line.strip_prefix(family));
        let mut batch = String::new();
        of_family.for_each(|line| writeln!(batch, "{}", line.trim()).unwrap());
        let mut child = common::net::ip_command()
            .args([family, "-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), batch.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{batch}");
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one fight, whose calls depend on each other"
)]
fn calls_beside_changing_rules_and_churn_report_no_false_success() {
    let _alone = alone();
    for route_only in [false, true] {
        let net = Net::new();
        net.ip(&format!("addr add 203.0.113.77/32 dev {VIP_LINK}"));
        let churn_link = net.add_link("churn0");
        let stays = vips(400);
        let comes: Vec<IpAddr> = vips(408)
            .into_iter()
            .filter(|vip| !stays.contains(vip))
            .collect();
        let of_family = |v4| {
            let some = comes.iter().filter(|vip| vip.is_ipv4() == v4).take(2);
            some.copied().collect::<Vec<_>>()
        };
        let (few_v4, few_v6) = (of_family(true), of_family(false));
        let setting = Setting {
            route_only,
            ..setting(PROTO_KERNEL, 0)
        };
        let mut manager = setting.manager();
        manager.assign(&stays).unwrap();
        let want = Want {
            address: !route_only,
            ..Want::default()
        };
        let rules = ChangingRules::start(&net);
        let (mut ok, mut unread) = (0, 0);
        let began = Instant::now();
        let mut round = 0;
        while began.elapsed() < fight() || ok == 0 {
            // Alone with the rules, or with table local in motion.
            let churn = (round % 3 != 0).then(|| Churn::start(churn_link));
            round += 1;
            for small in [&few_v4, &few_v6, &comes] {
                for assigns in [true, false] {
                    let began = Instant::now();
                    let result = match assigns {
                        true => manager.assign(small),
                        false => manager.release(small),
                    };
                    assert!(
                        began.elapsed() < STALLED,
                        "the call ended by its stall time-out"
                    );
                    match result {
                        Ok(_) if assigns => {
                            common::LocalState::read().assert_single_route(small, &want)
                        }
                        Ok(_) => net.assert_absent(small),
                        Err(error) => {
                            for failure in &error.report().unwrap().failures {
                                assert_eq!(failure.cause, Cause::Unread, "{failure}");
                                unread += 1;
                            }
                            continue;
                        }
                    }
                    ok += 1;
                }
            }
            let report = match manager.assign(&stays) {
                Ok(report) => report,
                Err(error) => error.into_report().unwrap(),
            };
            assert_eq!(report.writes, 0, "right VIPs were written to: {report}");
            drop(churn);
            let result = manager.release(&comes);
            assert!(
                result.is_ok(),
                "without churn every dump is whole: {result:?}"
            );
        }
        let changes = rules.changes.load(Ordering::Relaxed);
        println!("{ok} calls Ok, {unread} VIPs unread, {changes} changes of rules");
        drop(rules);
        assert!(changes > 0);
        common::LocalState::read().assert_single_route(&stays, &want);
    }
}

/// Routes of another link to hosts in front of the VIPs come and go, many at a time, in table local, in table
/// main, or in both. A dump that one of them shifted would lack right VIPs.
#[test]
fn routes_of_another_link_hide_no_right_vip() {
    let _alone = alone();
    for family in [common::vips_v4, common::vips_v6] {
        let net = Net::new();
        let link = net.add_link("churn0");
        let set = family(2_000);
        let mut manager = setting(PROTO_KERNEL, 0).manager();
        manager.assign(&set).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        for tables in [vec![false], vec![true], vec![false, true]] {
            let churn: Vec<_> = tables
                .iter()
                .map(|main| Churn::of(flaps(link, set[0].is_ipv4(), *main)))
                .collect();
            for _ in 0..common::full_or_quick(100, 6) {
                let report = manager.reconcile(&Claim::link(), &set).unwrap();
                assert_eq!(
                    (report.unchanged, report.writes),
                    (set.len(), 0),
                    "{tables:?}: {report}"
                );
            }
            drop(churn);
        }
    }
}

/// Sixty routes through this link come, and go.
fn flaps(link: u32, v4: bool, in_main: bool) -> Vec<Request> {
    let route = |host| {
        let to = match v4 {
            true => IpAddr::from([10, 1, 0, host]),
            false => IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(host)]),
        };
        let mut route = raw::local_route(to, link, None, PROTO_KERNEL);
        if in_main {
            route.header.table = libc::RT_TABLE_MAIN;
            route.header.kind = RouteType::Unicast;
            route.header.scope = RouteScope::Universe;
        }
        route
    };
    let come = (1..=60).map(|host| (NewRoute(route(host)), CREATE_REPLACE));
    let go = (1..=60).map(|host| (DelRoute(route(host)), 0));
    come.chain(go).collect()
}

/// A call waits until the kernel has been quiet about its VIP. What it hears of others' routes does not count:
/// otherwise it would wait until its time is over.
#[test]
fn routes_of_others_prolong_no_wait() {
    const LONG: Duration = Duration::from_secs(30);
    let net = Net::new();
    let vip = common::vips_v6(1)[0];
    net.ip(&format!(
        "addr add {vip}/128 dev {VIP_LINK} nodad noprefixroute"
    ));
    // The call would wait for a recent address to age, not for quiet.
    std::thread::sleep(Duration::from_secs(2));
    net.ip(&format!(
        "-6 route del local {vip} dev {VIP_LINK} table local"
    ));
    let changes = flaps(net.add_link("churn0"), false, false);
    let _churn = Churn::repeat(move |raw| {
        raw.batch(&changes);
        std::thread::sleep(Duration::from_millis(20));
    });
    let manager = broken::builder(VIP_LINK, PROTO_KERNEL);
    let mut manager = manager
        .stall_timeout(2 * LONG)
        .total_timeout(LONG)
        .open()
        .unwrap();
    let report = manager.assign([vip]).unwrap();
    assert_eq!((report.repaired, report.failures.len()), (1, 0), "{report}");
    net.assert_single_route(&[vip], PROTO_KERNEL);
}
