//! A keeper repairs its VIPs after every event that is known to break a good state, for both bindings and
//! both families.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/rules.rs"]
mod rules;

use std::net::IpAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{
    LocalState, NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, SOURCES, VIP_LINK,
    Want, never_without_local_route, vips, vips_v4, vips_v6,
};
use rules::Diversion;
use viproute::{
    Binding, Canceller, Cause, Claim, Counters, Dispatched, Drift, ErrorKind, Family, Keeper,
    LinkKind, Report, SourceAvoidance, VipManager, VipManagerBuilder,
};

/// Long enough for a busy machine; nothing here takes a second on an idle one.
const PATIENCE: Duration = Duration::from_secs(20);

/// Destinations with the VIPs' label: VIPs would be chosen as their source.
const LABEL_IN_THE_WAY: &str = "prefix 2001:db8:7::/48 label 99";

const BINDINGS: [Binding; 2] = [Binding::Address, Binding::Route];

fn builder(binding: Binding) -> VipManagerBuilder {
    common::builder().binding(binding)
}

fn keeper(binding: Binding) -> Keeper {
    let manager = builder(binding).open().unwrap();
    manager.into_keeper(Claim::link()).unwrap()
}

/// Until there is nothing left to do or to tell.
fn dispatch_all(keeper: &mut Keeper) {
    while keeper.dispatch(usize::MAX).unwrap() != Dispatched::default() {}
}

/// A keeper at work in a thread of its own.
struct Kept<'a> {
    net: &'a Net,
    binding: Binding,
    set: Vec<IpAddr>,
    canceller: Canceller,
    rounds: mpsc::Receiver<Dispatched>,
    /// Its directory below /proc.
    task: std::path::PathBuf,
    thread: Option<JoinHandle<Keeper>>,
}

impl<'a> Kept<'a> {
    fn start(net: &'a Net, builder: VipManagerBuilder, binding: Binding, set: Vec<IpAddr>) -> Self {
        let manager = builder.open().unwrap();
        let mut keeper = manager.into_keeper(Claim::link()).unwrap();
        keeper.set_desired(&set);
        let canceller = keeper.canceller();
        let (sender, rounds) = mpsc::channel();
        let (task_sender, task) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            task_sender
                .send(std::fs::read_link("/proc/thread-self").unwrap())
                .unwrap();
            keeper
                .run(|done| {
                    let _ = sender.send(done.clone());
                })
                .unwrap();
            keeper
        });
        let kept = Self {
            net,
            binding,
            set,
            canceller,
            rounds,
            task: std::path::Path::new("/proc").join(task.recv().unwrap()),
            thread: Some(thread),
        };
        kept.wait_until_good("at first");
        kept
    }

    /// How often the thread has slept so far, in the kernel's words.
    fn wakes(&self) -> String {
        let status = std::fs::read_to_string(self.task.join("status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.unwrap().to_owned()
    }

    fn wrong(&self) -> Vec<String> {
        let want = Want {
            link: VIP_LINK,
            sources: &SOURCES,
            protocol: PROTO_KERNEL,
            address: self.binding == Binding::Address,
        };
        LocalState::read().wrong_vips(&self.set, &want)
    }

    /// Waits until every VIP is in its single-route state, and still is a moment later.
    #[track_caller]
    fn wait_until_good(&self, after: &str) {
        let began = Instant::now();
        loop {
            let wrong = self.wrong();
            if wrong.is_empty() {
                std::thread::sleep(Duration::from_millis(60));
                if self.wrong().is_empty() {
                    return;
                }
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{:?}, {after}: still wrong after {:?}: {wrong:#?}",
                self.binding,
                began.elapsed()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a round says that this is missing.
    #[track_caller]
    fn wait_until_missing(&self, kind: ErrorKind) {
        let began = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let done = self.rounds.recv_timeout(left).expect("it never said so");
            if done.missing.iter().any(|missing| missing.kind == kind) {
                return;
            }
        }
    }

    /// What the keeper has done in rounds that were not looked at yet: VIPs assigned, repaired or
    /// released, and requests that write.
    fn done(&self) -> (usize, u64) {
        self.rounds.try_iter().fold((0, 0), |(vips, writes), done| {
            let report = &done.report;
            let mended = report.assigned + report.repaired + report.released;
            (vips + mended, writes + report.writes)
        })
    }

    /// Waits until what happened before is over and done.
    fn calm_down(&self) {
        let began = Instant::now();
        while self.rounds.recv_timeout(Duration::from_millis(80)).is_ok() {
            assert!(began.elapsed() < PATIENCE, "it never rests");
        }
    }

    /// One thing happens that breaks the VIPs, and they come back with no call of the test's.
    #[track_caller]
    fn survives(&self, what: &str, happen: impl FnOnce(&Net)) {
        self.calm_down();
        happen(self.net);
        self.wait_until_good(what);
        // That it was broken shows by what the keeper did; a round is reported when it is over.
        let began = Instant::now();
        let mut mended = 0;
        while mended == 0 {
            mended += self.done().0;
            assert!(
                began.elapsed() < PATIENCE,
                "{:?}, {what}: it broke nothing",
                self.binding
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One thing happens that breaks nothing, so nothing is written.
    #[track_caller]
    fn unmoved(&self, what: &str, happen: impl FnOnce(&Net)) {
        self.calm_down();
        happen(self.net);
        std::thread::sleep(Duration::from_millis(200));
        self.wait_until_good(what);
        assert_eq!(self.done(), (0, 0), "{:?}, {what}", self.binding);
    }

    /// `survives` where it breaks a binding of this kind, else `unmoved`.
    #[track_caller]
    fn breaks_only(&self, binding: Binding, what: &str, happen: impl FnOnce(&Net)) {
        if self.binding == binding {
            self.survives(what, happen);
        } else {
            self.unmoved(what, happen);
        }
    }

    fn stop(mut self) -> Counters {
        self.canceller.cancel();
        let keeper = self.thread.take().unwrap().join().unwrap();
        keeper.counters()
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}

fn set() -> Vec<IpAddr> {
    vips(5)
}

/// Runs `test` for both bindings.
fn for_both(test: impl Fn(Kept<'_>) + Sync) {
    common::side_by_side(BINDINGS, |binding| {
        let net = Net::new();
        test(Kept::start(&net, builder(binding), binding, set()));
    });
}

fn link(words: &str) -> String {
    format!("link set {VIP_LINK} {words}")
}

#[test]
fn keeper_repairs_after_link_down_and_up() {
    for_both(|kept| {
        kept.survives("down and up", |net| {
            net.ip(&link("down"));
            net.ip(&link("up"));
        });
        // Long enough down for the keeper to see it.
        kept.net.ip(&link("down"));
        kept.wait_until_missing(ErrorKind::LinkDown);
        kept.survives("up again", |net| drop(net.ip(&link("up"))));
    });
}

#[test]
fn keeper_repairs_after_link_down_and_up_with_kept_addresses() {
    for_both(|kept| {
        let key = format!("ipv6/conf/{VIP_LINK}/keep_addr_on_down");
        kept.net.set_sysctl(&key, "1");
        for _ in 0..3 {
            kept.survives("down and up, addresses kept", |net| {
                net.ip(&link("down"));
                net.ip(&link("up"));
            });
        }
    });
}

#[test]
fn keeper_repairs_after_arp_off_and_on() {
    for_both(|kept| {
        // Without addresses the kernel has no routes to put back.
        for words in ["arp on", "arp off", "arp on", "arp off"] {
            kept.breaks_only(Binding::Address, words, |net| drop(net.ip(&link(words))));
        }
    });
}

#[test]
fn a_source_goes_and_comes_back() {
    for_both(|kept| {
        for (source, bits) in [(SOURCES[0], 32), (SOURCES[1], 128)] {
            let nodad = if source.is_ipv6() { " nodad" } else { "" };
            kept.net.ip(&format!("addr del {source}/{bits} dev node0"));
            kept.wait_until_missing(ErrorKind::SourceNotOnNode);
            let back = |net: &Net| {
                net.ip(&format!("addr add {source}/{bits} dev node0{nodad}"));
            };
            // IPv4 routes keep the source that is gone, and so do IPv6 ones before Linux 6.12.
            if kept.wrong().is_empty() {
                kept.unmoved("source back", back);
            } else {
                assert!(source.is_ipv6());
                kept.survives("source back", back);
            }
        }
    });
}

#[test]
fn keeper_moves_vips_to_a_new_source() {
    for (binding, is_gone) in BINDINGS.iter().flat_map(|b| [(*b, false), (*b, true)]) {
        let net = Net::new();
        let mut keeper = builder(binding)
            .open()
            .unwrap()
            .into_keeper(Claim::link())
            .unwrap();
        keeper.set_desired(set());
        keeper.dispatch(usize::MAX).unwrap();
        let sources: [IpAddr; 2] = [
            "192.0.2.11".parse().unwrap(),
            "2001:db8::11".parse().unwrap(),
        ];
        net.ip("addr add 192.0.2.11/32 dev node0");
        net.ip("addr add 2001:db8::11/128 dev node0 nodad");
        if is_gone {
            net.ip(&format!("addr del {NODE_V4}/32 dev node0"));
            net.ip(&format!("addr del {NODE_V6}/128 dev node0"));
            let done = keeper.dispatch(usize::MAX).unwrap();
            // For a log: whose, and which one.
            for (missing, family) in done.missing.iter().zip([Family::V4, Family::V6]) {
                assert_eq!(missing.kind, ErrorKind::SourceNotOnNode, "{done:?}");
                assert_eq!(missing.family, Some(family), "{done:?}");
            }
            assert_eq!(done.missing.len(), 2, "{done:?}");
            for source in SOURCES {
                assert!(done.to_string().contains(&source.to_string()), "{done}");
            }
        }
        for source in sources {
            keeper.set_source(source).unwrap();
        }
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert_eq!(done.report.repaired, set().len(), "{done}");
        let want = Want {
            link: VIP_LINK,
            sources: &sources,
            protocol: PROTO_KERNEL,
            address: binding == Binding::Address,
        };
        LocalState::read().assert_single_route(&set(), &want);
    }
}

#[test]
fn keeper_restores_a_removed_address() {
    let net = Net::new();
    let kept = Kept::start(&net, builder(Binding::Address), Binding::Address, set());
    for vip in set() {
        kept.survives("address removed", |net| {
            let bits = common::host_bits(vip);
            net.ip(&format!("addr del {vip}/{bits} dev {VIP_LINK}"));
        });
    }
    kept.survives("addr flush", |net| {
        net.ip(&format!("addr flush dev {VIP_LINK}"));
    });
}

#[test]
fn keeper_repairs_a_vip_whose_address_another_writer_adds() {
    // Route-only VIPs have none: the keeper takes it away again.
    let net = Net::new();
    let kept = Kept::start(&net, builder(Binding::Route), Binding::Route, set());
    for vip in set() {
        kept.survives("address added", |net| {
            let bits = common::host_bits(vip);
            net.ip(&format!("addr add {vip}/{bits} dev {VIP_LINK}"));
        });
    }
}

#[test]
fn keeper_repairs_after_the_last_ipv4_address_is_removed() {
    for_both(|kept| {
        kept.breaks_only(Binding::Route, "an address added and removed", |net| {
            net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
            net.ip(&format!("addr del 198.51.100.1/31 dev {VIP_LINK}"));
        });
        kept.breaks_only(Binding::Address, "all IPv4 addresses removed", |net| {
            net.ip(&format!("-4 addr flush dev {VIP_LINK}"));
        });
        for family in ["", "-4 "] {
            kept.unmoved("another's address added", |net| {
                net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
            });
            kept.survives("addr flush", |net| {
                net.ip(&format!("{family}addr flush dev {VIP_LINK}"));
            });
        }
    });
}

/// What `reconcile` would not touch, the keeper does not.
#[test]
fn keeper_leaves_unmanaged_objects_on_the_link() {
    for_both(|kept| {
        kept.unmoved("another's address with its broadcast route", |net| {
            net.ip(&format!("addr add 198.51.100.1/24 brd + dev {VIP_LINK}"));
        });
        kept.unmoved("a host route in main", |net| {
            net.ip(&format!("route add 198.51.100.9 dev {VIP_LINK}"));
            net.ip(&format!("route add 2001:db8:9::9 dev {VIP_LINK}"));
        });
    });
}

/// A local route of any metric shows a VIP, and one of another type does not, also where an address has
/// just come and gone.
#[test]
fn keeper_discovers_the_same_vips_as_reconcile() {
    let net = Net::new();
    let keeper = builder(Binding::Address).open().unwrap();
    let mut keeper = keeper.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set());
    let mut calm_down = || {
        while keeper.dispatch(usize::MAX).unwrap().more {}
        std::thread::sleep(Duration::from_millis(100));
        while keeper.dispatch(usize::MAX).unwrap().more {}
    };
    calm_down();
    let routes = |vip: &str| LocalState::read().routes_of(vip.parse().unwrap()).to_vec();
    for unmanaged in ["10.111.0.1", "2001:db8:77::1"] {
        net.ip(&format!(
            "route add local {unmanaged} dev {VIP_LINK} table local proto 99 metric 77"
        ));
        calm_down();
        assert_eq!(routes(unmanaged), [], "it stays");
    }
    net.ip(&format!("addr add 10.111.7.1/30 brd + dev {VIP_LINK}"));
    calm_down();
    let before = routes("10.111.7.3");
    assert_eq!(before.len(), 1, "no broadcast route: {before:?}");
    net.ip_batch(["add", "del"].map(|what| format!("addr {what} 10.111.7.3/32 dev {VIP_LINK}")));
    calm_down();
    assert_eq!(routes("10.111.7.3"), before, "it is another address's");
}

#[test]
fn keeper_ignores_harmless_changes() {
    for_both(|kept| {
        for words in ["mtu 1400", "mtu 1500", "address 02:00:00:00:00:77"] {
            kept.unmoved(words, |net| drop(net.ip(&link(words))));
        }
        kept.unmoved("lo up", |net| drop(net.ip("link set lo up")));
        kept.unmoved("lo down and up", |net| {
            net.ip("link set lo down");
            net.ip("link set lo up");
        });
    });
}

/// The kernel notifies every change of a link's attributes.
#[test]
fn only_link_changes_that_vips_depend_on_cause_a_reading() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(set());
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let mut readings = |words: &str| {
        let before = keeper.counters();
        net.ip(&link(words));
        while keeper.dispatch(usize::MAX).unwrap().more {}
        (keeper.counters() - before).resyncs
    };
    for words in [
        "txqueuelen 77",
        "alias touched",
        "group 7",
        "mtu 1400",
        "mtu 1500",
        "address 02:00:00:00:00:77",
        "promisc on",
        "promisc off",
    ] {
        assert_eq!(readings(words), 0, "{words}");
    }
    for words in [
        "addrgenmode none",
        "arp on",
        "arp off",
        "mtu 1000",
        "mtu 1500",
        "down",
        "up",
    ] {
        assert!(readings(words) > 0, "{words}");
    }
}

/// The kernel drops notifications that concern neither the link nor the sources.
#[test]
fn keeper_is_not_notified_of_other_links() {
    let net = Net::new();
    // A receive buffer for a few notifications.
    let manager = builder(Binding::Address).receive_buffer(1);
    let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set());
    let count_events = |keeper: &mut Keeper| {
        let before = keeper.counters();
        for _ in 0..5 {
            while keeper.dispatch(usize::MAX).unwrap().more {}
            std::thread::sleep(Duration::from_millis(50));
        }
        keeper.counters() - before
    };
    count_events(&mut keeper);
    net.change_other_links();
    assert_eq!(count_events(&mut keeper), Counters::default());
    // The same number that concerns a keeper is more than the buffer holds.
    net.notify_in_vain();
    assert_eq!(count_events(&mut keeper).resyncs, 1);
}

/// The kernel drops the notifications of other links' addresses, but not of the sources that the keeper has
/// now.
#[test]
fn keeper_is_notified_of_the_source_that_it_was_given_last() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(set());
    dispatch_all(&mut keeper);
    for (source, bits, nodad) in [("192.0.2.11", 32, ""), ("2001:db8::11", 128, " nodad")] {
        net.ip(&format!("addr add {source}/{bits} dev node0{nodad}"));
        keeper
            .set_source(source.parse::<IpAddr>().unwrap())
            .unwrap();
        dispatch_all(&mut keeper);
        net.wait_for_kernel();
        net.ip(&format!("addr del {source}/{bits} dev node0"));
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert_eq!(done.missing.len(), 1, "{done}");
        assert_eq!(done.missing[0].kind, ErrorKind::SourceNotOnNode, "{done}");
        net.ip(&format!("addr add {source}/{bits} dev node0{nodad}"));
        dispatch_all(&mut keeper);
    }
}

/// VIPs with low addresses that are notified before every dispatch, and are right.
#[test]
fn dispatch_looks_first_at_the_vip_that_changed_first() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let vips = vips_v4(3);
    keeper.set_desired(&vips);
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let (hot, victim) = (&vips[..2], vips[2]);
    let touch = || {
        for vip in hot {
            net.ip(&format!("addr change {vip}/32 dev {VIP_LINK}"));
        }
    };
    touch();
    net.ip(&format!(
        "route del local {victim} dev {VIP_LINK} table local proto kernel"
    ));
    // As many as there were dirty VIPs.
    let mut repaired = 0;
    for _ in &vips {
        repaired += keeper.dispatch(1).unwrap().report.repaired;
        touch();
    }
    assert_eq!(repaired, 1);
}

/// Only time proves an IPv6 VIP right whose route another process deleted. Every dispatch writes for the
/// next VIP, and none waits for the one before: so no VIP is reported before all have their routes.
#[test]
fn dispatch_repairs_deleted_ipv6_routes_without_waiting_between_them() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let vips = vips_v6(40);
    keeper.set_desired(&vips);
    let mut adopted = 0;
    while adopted < vips.len() {
        let done = keeper.dispatch(usize::MAX).unwrap();
        adopted += done.report.assigned;
        wait_until_due(&keeper);
    }
    // No address is recent any more, and nothing is left to look at.
    std::thread::sleep(Duration::from_secs(3));
    while keeper.dispatch(usize::MAX).unwrap().more {}
    net.ip_batch(vips.iter().map(|vip| {
        format!("route del local {vip} dev {VIP_LINK} table local proto kernel metric 1024")
    }));
    let before = keeper.counters();
    for _ in &vips {
        let report = keeper.dispatch(1).unwrap().report;
        assert_eq!((report.writes, report.repaired), (1, 0), "{report}");
        assert_eq!(
            (report.unchanged, report.failures.len()),
            (0, 0),
            "{report}"
        );
    }
    net.assert_single_route(&vips, PROTO_KERNEL);
    assert_eq!((keeper.counters() - before).repairs, 0);
    // Each is looked at again, and reported once.
    let mut repaired = Vec::new();
    while repaired.len() < vips.len() {
        wait_until_due(&keeper);
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert_eq!(
            (done.report.writes, done.report.unchanged),
            (0, 0),
            "{done}"
        );
        assert_eq!(
            done.resting,
            vips.len() - repaired.len() - done.report.repaired
        );
        assert_eq!(done.has_news, !done.report.outcomes.is_empty(), "{done}");
        for outcome in &done.report.outcomes {
            assert_eq!(outcome.cured, Drift::MISSING_ROUTE, "{outcome}");
            repaired.push(outcome.vip.addr());
        }
    }
    repaired.sort_unstable();
    assert_eq!(repaired, vips);
    let done = keeper.counters() - before;
    let count = vips.len() as u64;
    assert_eq!((done.repairs, done.looks), (count, 2 * count), "{done}");
    assert_eq!(keeper.next_deadline(), None);
}

/// A VIP that rests is repaired once more if something happens to it, and reported once.
#[test]
fn vip_that_changes_while_it_rests_is_repaired_again() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let vips = vips_v6(1);
    let vip = vips[0];
    keeper.set_desired(&vips);
    while keeper.status().ipv6.last_success.is_none() {
        keeper.dispatch(1).unwrap();
        wait_until_due(&keeper);
    }
    std::thread::sleep(Duration::from_secs(3));
    while keeper.dispatch(1).unwrap().more {}
    let before = keeper.counters();
    let delete = format!("route del local {vip} dev {VIP_LINK} table local proto kernel");
    for _ in 0..2 {
        net.ip(&delete);
        let done = keeper.dispatch(1).unwrap();
        assert_eq!((done.report.writes, done.resting), (1, 1), "{done}");
        assert_eq!((keeper.counters() - before).repairs, 0, "{done}");
        net.assert_single_route(&vips, PROTO_KERNEL);
    }
    // A change without drift proves nothing.
    net.ip(&format!(
        "addr change {vip}/128 dev {VIP_LINK} noprefixroute"
    ));
    let done = keeper.dispatch(1).unwrap();
    assert_eq!((done.report.writes, done.resting), (0, 1), "{done}");
    assert_eq!((keeper.counters() - before).repairs, 0, "{done}");
    // The kernel's route comes late.
    net.ip(&format!("addr del {vip}/128 dev {VIP_LINK}"));
    net.ip(&format!(
        "addr add {vip}/128 dev {VIP_LINK} nodad noprefixroute"
    ));
    while (keeper.counters() - before).repairs == 0 {
        wait_until_due(&keeper);
        keeper.dispatch(1).unwrap();
    }
    net.assert_single_route(&vips, PROTO_KERNEL);
    assert_eq!((keeper.counters() - before).repairs, 1);
}

/// Until time has proven right what was written; returns the last dispatch.
fn dispatch_until_proven(keeper: &mut Keeper) -> Dispatched {
    loop {
        let done = keeper.dispatch(usize::MAX).unwrap();
        if done.resting == 0 && !done.more {
            return done;
        }
        wait_until_due(keeper);
    }
}

/// Waits until the keeper is to be called.
fn wait_until_due(keeper: &Keeper) {
    let Some(at) = keeper.next_deadline() else {
        return;
    };
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// The keeper looks again at a new IPv6 VIP, because it hears of its own address.
#[test]
fn new_ipv6_vip_rests_once() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(vips_v6(1));
    // Until the address is no longer recent.
    for _ in 0..30 {
        keeper.dispatch(usize::MAX).unwrap();
        std::thread::sleep(Duration::from_millis(70));
    }
    net.assert_single_route(&vips_v6(1), PROTO_KERNEL);
    // When it is heard of, and after the rest. The kernel may tell twice.
    assert!(
        (1..=4).contains(&keeper.counters().looks),
        "{}",
        keeper.counters()
    );
    assert!(keeper.status().ipv6.last_success.is_some());
}

/// A reading of the link proves nothing of a VIP that rests.
#[test]
fn many_vips_that_rest_are_looked_at_one_by_one() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let vips = vips_v6(100);
    keeper.set_desired(&vips);
    while keeper.status().ipv6.last_success.is_none() {
        keeper.dispatch(usize::MAX).unwrap();
        wait_until_due(&keeper);
    }
    // No address is recent any more, and nothing is left to look at.
    std::thread::sleep(Duration::from_secs(3));
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let before = keeper.counters();
    for half in vips.chunks(50) {
        net.ip_batch(half.iter().map(|vip| {
            format!("route del local {vip} dev {VIP_LINK} table local proto kernel metric 1024")
        }));
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert_eq!(done.report.writes, 50, "{done}");
    }
    // All are due at once.
    std::thread::sleep(Duration::from_secs(1));
    while (keeper.counters() - before).repairs < vips.len() as u64 {
        keeper.dispatch(usize::MAX).unwrap();
        wait_until_due(&keeper);
    }
    assert_eq!((keeper.counters() - before).resyncs, 0);
    net.assert_single_route(&vips, PROTO_KERNEL);
}

#[test]
fn empty_set_ends_the_rests() {
    let _net = Net::new();
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(vips_v6(1));
    while keeper.dispatch(usize::MAX).unwrap().resting == 0 {
        wait_until_due(&keeper);
    }
    keeper.set_desired([IpAddr::V4(NODE_V4); 0]);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!((done.resting, keeper.next_deadline()), (0, None), "{done}");
}

#[test]
fn keeper_repairs_after_ipv6_is_disabled_and_enabled() {
    for_both(|kept| {
        let key = format!("ipv6/conf/{VIP_LINK}/disable_ipv6");
        kept.survives("disabled and enabled at once", |net| {
            net.set_sysctl(&key, "1");
            net.set_sysctl(&key, "0");
        });
        kept.net.set_sysctl(&key, "1");
        kept.wait_until_missing(ErrorKind::Ipv6Disabled);
        kept.survives("enabled again", |net| net.set_sysctl(&key, "0"));
    });
}

#[test]
fn keeper_follows_a_link_that_is_created_again() {
    for binding in BINDINGS {
        let net = Net::new();
        let kept = Kept::start(&net, builder(binding), binding, set());
        net.ip(&format!("link del {VIP_LINK}"));
        kept.wait_until_missing(ErrorKind::LinkNotFound);
        kept.survives("made again", |net| assert_ne!(net.add_link(VIP_LINK), 0));
        // And where the caller allowed it, the keeper makes it.
        kept.stop();
        net.ip(&format!("link del {VIP_LINK}"));
        let with_link = builder(binding).create_link(LinkKind::Bridge);
        let kept = Kept::start(&net, with_link, binding, set());
        kept.survives("made by the keeper", |net| {
            net.ip(&format!("link del {VIP_LINK}"));
        });
    }
}

/// That the link is another one now is among what the keeper could not hear: what happens to the VIPs
/// of the new one is heard all the same.
#[test]
fn keeper_follows_a_link_whose_re_creation_it_missed() {
    let net = Net::new();
    // A receive buffer for a few notifications.
    let manager = builder(Binding::Address).receive_buffer(4096);
    let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set());
    let mut keep_until_good = |after: &str| {
        let began = Instant::now();
        loop {
            while keeper.dispatch(usize::MAX).unwrap().more {}
            let wrong = net.wrong_vips(&set(), PROTO_KERNEL);
            if wrong.is_empty() {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{after}: {wrong:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // What the kernel tells of that is dealt with.
        std::thread::sleep(Duration::from_millis(200));
        while keeper.dispatch(usize::MAX).unwrap().more {}
    };
    keep_until_good("at first");
    net.notify_in_vain();
    net.ip(&format!("link del {VIP_LINK}"));
    net.add_link(VIP_LINK);
    net.notify_in_vain();
    keep_until_good("made again");
    for vip in set() {
        let bits = common::host_bits(vip);
        net.ip(&format!("addr del {vip}/{bits} dev {VIP_LINK}"));
        keep_until_good("an address is removed from the new one");
    }
}

/// The name may be one of the link's alternative ones.
#[test]
fn keeper_follows_a_link_by_alternative_name() {
    let net = Net::new();
    let altname = |what: &str, name: &str| {
        net.ip(&format!(
            "link property {what} dev {VIP_LINK} altname {name}"
        ));
    };
    altname("add", "vips0");
    let manager = common::builder_of("vips0");
    let kept = Kept::start(&net, manager, Binding::Address, set());
    kept.unmoved("mtu", |net| drop(net.ip(&link("mtu 1400"))));
    for vip in set() {
        kept.survives("address removed", |net| {
            let bits = common::host_bits(vip);
            net.ip(&format!("addr del {vip}/{bits} dev {VIP_LINK}"));
        });
    }
    altname("del", "vips0");
    kept.wait_until_missing(ErrorKind::LinkNotFound);
    kept.survives("the name is back", |net| {
        net.ip(&format!("addr flush dev {VIP_LINK}"));
        altname("add", "vips0");
    });
}

#[test]
fn keeper_follows_a_renamed_link() {
    for_both(|kept| {
        kept.net.ip(&link("down"));
        kept.net.ip(&link("name elsewhere0"));
        kept.wait_until_missing(ErrorKind::LinkNotFound);
        kept.survives("renamed back", |net| {
            net.ip(&format!("link set elsewhere0 name {VIP_LINK}"));
            net.ip(&link("up"));
        });
    });
}

/// A process in a network namespace of its own.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new() -> Option<Self> {
        let child = std::process::Command::new("unshare")
            .args(["-n", "sleep", "60"])
            .spawn();
        let other = Self(child.ok()?);
        // It is in its namespace when that is another one than this thread's.
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", other.0.id());
        let began = Instant::now();
        while std::fs::read_link(&theirs).ok()? == own {
            assert!(began.elapsed() < PATIENCE, "it stays in this thread's");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(other)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn link_is_moved_away_and_keeper_waits() {
    for binding in BINDINGS {
        let net = Net::bare();
        net.add_link("node0");
        net.add_node_addresses("node0");
        // A bridge stays in its namespace (`NETIF_F_NETNS_LOCAL`).
        let add = |kind: &str| net.try_ip(&format!("link add dev {VIP_LINK} type {kind}"));
        if let Err(error) = add("dummy").or_else(|_| add("ifb")) {
            common::skipped("moved away", &format!("neither dummy nor ifb: {error}"));
            return;
        }
        let Some(other) = Elsewhere::new() else {
            common::skipped("moved away", "no unshare(1)");
            return;
        };
        net.ip(&link("up"));
        net.wait_for_kernel();
        let kept = Kept::start(&net, builder(binding), binding, set());
        net.ip(&link(&format!("netns {}", other.0.id())));
        kept.wait_until_missing(ErrorKind::LinkNotFound);
        kept.survives("a new one", |net| assert_ne!(net.add_link(VIP_LINK), 0));
    }
}

#[test]
fn link_goes_into_a_vrf_and_back_and_keeper_repairs() {
    for_both(|kept| {
        if let Err(error) = kept.net.try_ip("link add vrf0 type vrf table 10") {
            common::skipped("into a VRF and back", &error);
            return;
        }
        kept.net.ip("link set vrf0 up");
        kept.net.ip(&link("master vrf0"));
        kept.wait_until_missing(ErrorKind::LinkInVrf);
        kept.survives("out of the VRF", |net| drop(net.ip(&link("nomaster"))));
    });
}

#[test]
fn keeper_repairs_changed_routes() {
    for_both(|kept| {
        for vip in set() {
            let metric = if vip.is_ipv6() { " metric 1024" } else { "" };
            let host = if vip.is_ipv4() { " scope host" } else { "" };
            kept.survives("deleted", |net| {
                net.ip(&format!(
                    "route del local {vip} dev {VIP_LINK} table local proto kernel{metric}"
                ));
            });
            let other = if vip.is_ipv4() {
                "192.0.2.77"
            } else {
                "2001:db8::77"
            };
            let bits = common::host_bits(vip);
            let _ = kept
                .net
                .try_ip(&format!("addr add {other}/{bits} dev node0"));
            kept.net.wait_for_kernel();
            kept.survives("replaced with another source", |net| {
                net.ip(&format!(
                    "route replace local {vip} dev {VIP_LINK} table local proto kernel{host} src {other}{metric}"
                ));
            });
            kept.survives("replaced with another protocol", |net| {
                let source = if vip.is_ipv4() { SOURCES[0] } else { SOURCES[1] };
                net.ip(&format!(
                    "route replace local {vip} dev {VIP_LINK} table local proto 99{host} src {source}{metric}"
                ));
            });
            kept.survives("a second one added", |net| {
                net.ip(&format!(
                    "route append local {vip} dev {VIP_LINK} table local proto 99{host} metric 2000"
                ));
            });
        }
        for family in ["-4", "-6"] {
            kept.survives("table local flushed", |net| {
                net.ip(&format!("{family} route flush table local dev {VIP_LINK}"));
            });
        }
    });
}

/// A further route that came along with something that is to be mended first is not forgotten.
#[test]
fn keeper_deletes_a_duplicate_beside_other_drift() {
    for_both(|kept| {
        kept.net.ip("addr add 192.0.2.77/32 dev node0");
        kept.net.ip("addr add 2001:db8::77/128 dev node0 nodad");
        kept.net.wait_for_kernel();
        for vip in &set()[..2] {
            let (other, host, metric) = if vip.is_ipv4() {
                ("192.0.2.77", " scope host", "")
            } else {
                ("2001:db8::77", "", " metric 1024")
            };
            let bits = common::host_bits(*vip);
            let wrong = [
                format!(
                    "route replace local {vip} dev {VIP_LINK} table local proto kernel{host} src {other}{metric}"
                ),
                format!("addr del {vip}/{bits} dev {VIP_LINK}"),
            ];
            let further = [
                format!("local {vip} dev {VIP_LINK} table local proto 99{host} metric 2000"),
                format!("{vip} dev {VIP_LINK} metric 77"),
            ];
            for (wrong, further) in wrong
                .iter()
                .flat_map(|w| further.each_ref().map(|f| (w, f)))
            {
                if wrong.starts_with("addr") && kept.binding == Binding::Route {
                    continue;
                }
                kept.survives("both at once", |net| {
                    net.ip_batch([wrong.clone(), format!("route append {further}")]);
                });
            }
        }
    });
}

#[test]
fn keeper_releases_vips_that_are_not_desired() {
    for_both(|kept| {
        kept.net
            .ip(&format!("addr add 10.111.0.1/32 dev {VIP_LINK}"));
        kept.net
            .ip(&format!("addr add 2001:db8:77::1/128 dev {VIP_LINK} nodad"));
        let unmanaged: [IpAddr; 2] = [
            "10.111.0.1".parse().unwrap(),
            "2001:db8:77::1".parse().unwrap(),
        ];
        let began = Instant::now();
        loop {
            let state = LocalState::read();
            let there = unmanaged.iter().any(|vip| {
                state.addresses_of(*vip).iter().any(|a| a.dev == VIP_LINK)
                    || state.routes_of(*vip).iter().any(|r| r.dev == VIP_LINK)
            });
            if !there {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "still there");
            std::thread::sleep(Duration::from_millis(20));
        }
        kept.wait_until_good("unmanaged VIPs removed");
    });
}

/// One VIP of ten thousand drifts: one is looked at, one is written to, and nothing is read as a
/// whole.
#[test]
fn keeper_repairs_one_of_ten_thousand_at_the_cost_of_one() {
    let net = Net::new();
    let set = vips(5_000);
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(&set);
    // The first rounds bring them about, and read again what their own events showed.
    let quiet = |keeper: &mut Keeper| {
        let mut writes = 0;
        loop {
            let done = keeper.dispatch(usize::MAX).unwrap();
            writes += done.report.writes;
            if !done.more && keeper.next_deadline().is_none() {
                return writes;
            }
            if let Some(at) = keeper.next_deadline() {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
            }
        }
    };
    quiet(&mut keeper);
    std::thread::sleep(Duration::from_millis(200));
    quiet(&mut keeper);
    let vip = set[4_000];
    let six = set[4_001];
    for (vip, what, most) in [
        (
            vip,
            format!("route del local {vip} dev {VIP_LINK} table local"),
            1,
        ),
        (
            six,
            format!("route del local {six} dev {VIP_LINK} table local"),
            1,
        ),
        (six, format!("addr del {six}/128 dev {VIP_LINK}"), 5),
        (vip, format!("addr del {vip}/32 dev {VIP_LINK}"), 4),
    ] {
        let before = keeper.counters();
        net.ip(&what);
        let writes = quiet(&mut keeper);
        let after = keeper.counters();
        println!("{what}: {writes} writes, {before:?} to {after:?}");
        assert!(writes >= 1 && writes <= most, "{what}: {writes} writes");
        assert_eq!(after.resyncs, before.resyncs, "{what}: all was read");
        // An IPv6 VIP is looked at until time has proven it right.
        let most = if vip.is_ipv6() { 6 } else { 2 };
        let looks = after.looks - before.looks;
        assert!(looks <= most, "{what}: {after:?}");
        net.assert_single_route(&[vip], PROTO_KERNEL);
        // The notifications of the keeper's own IPv6 addresses cost looks, too.
        std::thread::sleep(Duration::from_millis(200));
        quiet(&mut keeper);
    }
    // Idle: when the last notifications are in, there is nothing more to do, ever.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(quiet(&mut keeper), 0);
    let idle = keeper.counters();
    assert_eq!(quiet(&mut keeper), 0);
    assert_eq!(keeper.counters(), idle);
    assert_eq!(keeper.next_deadline(), None);
    net.assert_single_route(&set, PROTO_KERNEL);
}

/// A running keeper with nothing to do uses no processor time.
#[test]
fn idle_keeper_uses_no_processor_time() {
    let net = Net::new();
    let kept = Kept::start(&net, builder(Binding::Address), Binding::Address, set());
    // A busy machine may let it wait before it has read what its own changes caused.
    let has_rested = (0..15).any(|_| {
        let before = kept.wakes();
        std::thread::sleep(Duration::from_secs(2));
        kept.wakes() == before
    });
    let counters = kept.stop();
    assert!(has_rested, "it wakes up for nothing: {counters}");
    assert_eq!(counters.backoffs, 0, "{counters:?}");
}

/// An adversary that deletes one route as fast as it can: bounded work, and peace when it stops.
#[test]
fn keeper_keeps_a_changed_set() {
    let net = Net::new();
    let mut keeper = builder(Binding::Address)
        .open()
        .unwrap()
        .into_keeper(Claim::link().at_most(4))
        .unwrap();
    let all = vips(6);
    keeper.set_desired(&all[..8]);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 8);
    // What the kernel tells of that is dealt with.
    dispatch_all(&mut keeper);
    let before = keeper.counters();
    keeper.set_desired(&all[4..]);
    let report = keeper.dispatch(usize::MAX).unwrap().report;
    assert_eq!((report.assigned, report.released), (4, 4));
    net.assert_single_route(&all[4..], PROTO_KERNEL);
    net.assert_absent(&all[..4]);
    // Only those were looked at.
    let counters = keeper.counters();
    let looked = (counters.looks - before.looks, counters.resyncs);
    assert_eq!(looked, (8, before.resyncs), "{counters:?}");
    dispatch_all(&mut keeper);
    // The same set once more is nothing to do, and that is the answer to the order.
    keeper.set_desired(&all[4..]);
    let mut done = keeper.dispatch(usize::MAX).unwrap();
    assert!(std::mem::take(&mut done.has_news));
    assert_eq!(done, Dispatched::default());
    assert_eq!(keeper.counters().resyncs, before.resyncs);
    // The claim's bound guards here too, and the keeper goes on with a better set.
    keeper.set_desired(&all[10..]);
    let error = keeper.dispatch(usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooManyReleases, "{error}");
    net.assert_single_route(&all[4..], PROTO_KERNEL);
    keeper.set_desired(&all[8..]);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.released, 4);
    // Nor does a set of nothing but what can be no VIP.
    let never: IpAddr = "127.0.0.9".parse().unwrap();
    keeper.set_desired(all[8..].iter().chain([&never]));
    assert_eq!(
        keeper.dispatch(usize::MAX).unwrap().report.failures.len(),
        1
    );
    keeper.set_desired([never]);
    let error = keeper.dispatch(usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EmptySet, "{error}");
    net.assert_single_route(&all[8..], PROTO_KERNEL);
    // An empty set keeps nothing and releases nothing, and that is reported.
    keeper.set_desired(Vec::<IpAddr>::new());
    for _ in 0..2 {
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert_eq!(
            (done.refused, done.more),
            (Some(ErrorKind::EmptySet), false)
        );
        assert!(done.to_string().contains("by name"), "{done}");
        assert_eq!(done.report, Report::default());
    }
    assert_eq!(keeper.next_deadline(), None);
    net.assert_single_route(&all[8..], PROTO_KERNEL);
    let mut manager = keeper.into_manager();
    assert_eq!(manager.release_all(&Claim::link()).unwrap().released, 4);
}

/// A caller who has other things to do takes a few at a time, and learns that more is due.
#[test]
fn dispatch_takes_a_limited_number_and_reports_more() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let all = vips(5);
    keeper.set_desired(&all);
    dispatch_all(&mut keeper);
    let broken: Vec<_> = all.iter().filter(|vip| vip.is_ipv4()).collect();
    for vip in &broken {
        net.ip(&format!("route del local {vip} dev {VIP_LINK} table local"));
    }
    for left in (0..broken.len()).rev() {
        // None at all would never end.
        let done = keeper.dispatch(left % 2).unwrap();
        assert_eq!((done.report.repaired, done.more), (1, left > 0), "{done}");
    }
    net.assert_single_route(&all, PROTO_KERNEL);
}

/// A caller that knows which VIPs come or go names only those.
#[test]
fn vips_are_added_to_and_removed_from_the_desired_set() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let all = vips(50);
    // Before there is a set it is one to begin with.
    keeper.add_desired(&all[..80]);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 80);
    dispatch_all(&mut keeper);
    let resyncs = keeper.counters().resyncs;
    for (old, new) in all[..20].iter().zip(&all[80..]) {
        // What is there, or is not, is no news.
        keeper.remove_desired([old, new]);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.released, 1);
        net.assert_absent(&[*old, *new]);
        keeper.add_desired([new, &all[50]]);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 1);
        keeper.add_desired([old]);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 1);
    }
    net.assert_single_route(&all, PROTO_KERNEL);
    dispatch_all(&mut keeper);
    keeper.add_desired(&all);
    keeper.remove_desired(["192.0.2.77".parse::<IpAddr>().unwrap()]);
    assert_eq!(keeper.next_deadline(), None);
    assert_eq!(keeper.counters().resyncs, resyncs);
    // In bulk the link is read.
    keeper.remove_desired(&all[10..]);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.released, 90);
    net.assert_single_route(&all[..10], PROTO_KERNEL);
    net.assert_absent(&all[10..]);
    keeper.add_desired(all.iter().rev());
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 90);
    net.assert_single_route(&all, PROTO_KERNEL);
    // What is removed by its name goes, to the last one.
    keeper.remove_desired(&all[1..]);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.released, 99);
    dispatch_all(&mut keeper);
    keeper.remove_desired(&all[..1]);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.released, 1);
    net.assert_absent(&all);
    dispatch_all(&mut keeper);
    assert_eq!(keeper.next_deadline(), None);
}

/// A family waits for the end of a label conflict. Then the whole set is kept, not only a VIP that was
/// added while the family waited.
#[test]
fn keeper_goes_on_after_a_label_conflict_ends() {
    let more: IpAddr = "10.97.0.1".parse().unwrap();
    for is_new in [true, false] {
        for adds in [true, false] {
            let net = Net::new();
            let manager = builder(Binding::Address).avoid_as_source(SourceAvoidance::AddressLabel);
            let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
            let mut set = set();
            if !is_new {
                keeper.set_desired(&set);
                keeper.dispatch(usize::MAX).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                while keeper.dispatch(usize::MAX).unwrap().more {}
                net.ip(&format!(
                    "addrlabel del prefix ::/0 dev {VIP_LINK} label 99"
                ));
            }
            net.ip(&format!("addrlabel add {LABEL_IN_THE_WAY}"));
            // All of a set that is new, or one VIP that drifts.
            keeper.set_desired(&set);
            let _ = net.try_ip(&format!("addr del {}/128 dev {VIP_LINK}", set[1]));
            let done = keeper.dispatch(usize::MAX).unwrap();
            assert_eq!(done.missing[0].family, Some(Family::V6), "{done}");
            assert_eq!(done.missing[0].kind, ErrorKind::LabelConflict, "{done}");
            net.assert_single_route(&vips_v4(5), PROTO_KERNEL);
            net.ip(&format!("addrlabel del {LABEL_IN_THE_WAY}"));
            if adds {
                keeper.add_desired([more]);
                set.push(more);
            }
            let began = Instant::now();
            while !net.wrong_vips(&set, PROTO_KERNEL).is_empty() {
                assert!(began.elapsed() < PATIENCE, "it was forgotten");
                let at = keeper.next_deadline().expect("it is to be tried again");
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                keeper.dispatch(usize::MAX).unwrap();
            }
        }
    }
}

/// A VIP that cannot be released yet goes when it can.
#[test]
fn keeper_retries_a_failed_release() {
    let net = Net::new();
    let vip = set()[0];
    let mut keeper = keeper(Binding::Address);
    for is_few in [true, false] {
        keeper.set_desired(set());
        keeper.dispatch(usize::MAX).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        while keeper.dispatch(usize::MAX).unwrap().more {}
        // Its routes serve an address that is no VIP's, too.
        net.ip(&format!("addr add {vip}/24 dev {VIP_LINK}"));
        keeper.dispatch(usize::MAX).unwrap();
        keeper.remove_desired([vip]);
        if !is_few {
            keeper.set_source(NODE_V4).unwrap();
        }
        let report = keeper.dispatch(usize::MAX).unwrap().report;
        let failed = report.failures.iter().map(|f| (f.vip.addr(), &f.cause));
        assert!(failed.eq([(vip, &Cause::OtherPrefixLength)]), "{report:?}");
        assert_eq!(report.writes, 0, "half a release");
        net.ip(&format!("addr del {vip}/24 dev {VIP_LINK}"));
        let began = Instant::now();
        let is_there = || !LocalState::read().addresses_of(vip).is_empty();
        while is_there() {
            assert!(began.elapsed() < PATIENCE, "it never went");
            let at = keeper.next_deadline().expect("it is to be tried again");
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            keeper.dispatch(usize::MAX).unwrap();
        }
        net.assert_absent(&[vip]);
        net.assert_single_route(&set()[1..], PROTO_KERNEL);
        std::thread::sleep(Duration::from_millis(100));
        dispatch_until_proven(&mut keeper);
        assert_eq!(keeper.next_deadline(), None, "there is nothing left to do");
    }
}

/// What is on the link with another prefix length too is not written to, as in every other call, also
/// where the VIP is not desired any more, or never was.
#[test]
fn keeper_releases_nothing_of_a_vip_with_two_prefix_lengths() {
    for was_desired in [false, true] {
        let net = Net::new();
        let vip = set()[0];
        let both = [24, 32].map(|bits| format!("addr add {vip}/{bits} dev {VIP_LINK}"));
        let keeper = builder(Binding::Address).open().unwrap();
        let mut keeper = keeper.into_keeper(Claim::link()).unwrap();
        keeper.set_desired(&set()[usize::from(!was_desired)..]);
        keeper.dispatch(usize::MAX).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        while keeper.dispatch(usize::MAX).unwrap().more {}
        if was_desired {
            net.ip(&both[0]);
            // Before the keeper has heard of it.
            keeper.remove_desired([vip]);
        } else {
            net.ip_batch(&both);
        }
        let before = LocalState::read().addresses_of(vip).len();
        let report = keeper.dispatch(usize::MAX).unwrap().report;
        let failed = report.failures.iter().map(|f| (f.vip.addr(), &f.cause));
        assert!(failed.eq([(vip, &Cause::OtherPrefixLength)]), "{report:?}");
        assert_eq!(report.writes, 0, "{report:?}");
        assert_eq!((before, LocalState::read().addresses_of(vip).len()), (2, 2));
    }
}

/// A VIP that was rejected was never put on the link: with it nothing goes.
#[test]
fn removing_a_rejected_vip_writes_nothing() {
    let net = Net::new();
    let [four, six] = [set()[0], set()[1]];
    let never: IpAddr = "127.0.0.9".parse().unwrap();
    // Without an IPv4 source.
    let manager = VipManager::builder(VIP_LINK).source(NODE_V6).open();
    let mut keeper = manager.unwrap().into_keeper(Claim::link()).unwrap();
    for rejected in [four, never] {
        keeper.set_desired([rejected, six]);
        let report = keeper.dispatch(usize::MAX).unwrap().report;
        assert_eq!(report.failures.len(), 1, "{report:?}");
        std::thread::sleep(Duration::from_millis(100));
        while keeper.dispatch(usize::MAX).unwrap().more {}
        keeper.remove_desired([rejected]);
        let report = keeper.dispatch(usize::MAX).unwrap().report;
        let done = (report.released, report.writes, report.failures.len());
        assert_eq!(done, (0, 0, 0), "{report:?}");
        net.assert_single_route(&[six], PROTO_KERNEL);
    }
}

/// Where two routes differ in the device alone, the kernel may delete the nexthop object's route instead of
/// the library's. So a notified duplicate stays if a nexthop object's route stands before it.
#[test]
fn keeper_does_not_delete_a_next_hop_objects_route_for_a_notified_one() {
    for (table, kind) in [("local", "local "), ("main", "")] {
        let net = Net::new();
        let vip = set()[1];
        net.ip("-6 nexthop add id 62 dev node0");
        let keeper = builder(Binding::Address).open().unwrap();
        let mut keeper = keeper.into_keeper(Claim::link()).unwrap();
        keeper.set_desired(set());
        keeper.dispatch(usize::MAX).unwrap();
        let further = format!("{kind}{vip} table {table} metric 2000 proto 99");
        for (is_theirs, by) in [
            (true, "nhid 62".to_owned()),
            (false, format!("dev {VIP_LINK}")),
        ] {
            std::thread::sleep(Duration::from_millis(100));
            while keeper.dispatch(usize::MAX).unwrap().more {}
            net.ip(&format!("-6 route append {further} {by}"));
            let before = net.snapshot_without(&[]);
            let report = keeper.dispatch(usize::MAX).unwrap().report;
            before.assert_same(&net.snapshot_without(&[]));
            let causes: Vec<Cause> = report.failures.iter().map(|f| f.cause).collect();
            assert_eq!(
                causes,
                if is_theirs {
                    vec![]
                } else {
                    vec![Cause::Conflict]
                }
            );
        }
        // Without it there is nothing in the way.
        net.ip(&format!("-6 route del {further} nhid 62"));
        let began = Instant::now();
        let is_there = || {
            let state = LocalState::read();
            state
                .routes_of(vip)
                .iter()
                .any(|route| route.metric == 2000)
        };
        while is_there() {
            assert!(began.elapsed() < PATIENCE, "it stays");
            let at = keeper.next_deadline().expect("it is to be tried again");
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            keeper.dispatch(usize::MAX).unwrap();
        }
        net.assert_single_route(&set(), PROTO_KERNEL);
    }
}

/// What was heard of and has been replaced since is not deleted: in IPv6 that would hit what has
/// replaced it.
#[test]
fn keeper_does_not_delete_a_replaced_route() {
    let net = Net::new();
    let vip = set()[1];
    net.ip("addr add 2001:db8::77/128 dev node0 nodad");
    let keeper = builder(Binding::Address).open().unwrap();
    let mut keeper = keeper.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set());
    keeper.dispatch(usize::MAX).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let before = LocalState::read();
    let watcher = RouteWatcher::new();
    let local = format!("local {vip} dev {VIP_LINK} table local");
    net.ip_batch([
        format!("route replace {local} proto kernel metric 1024 src 2001:db8::77"),
        format!("route replace {local} proto kernel metric 1024 src {NODE_V6}"),
        format!("route append {local} proto 99 metric 2000"),
    ]);
    keeper.dispatch(usize::MAX).unwrap();
    net.assert_single_route(&set(), PROTO_KERNEL);
    let gaps = never_without_local_route(&watcher.drain(), &before, &[vip], net.vip_index());
    assert_eq!(gaps, Ok(()));
}

/// What one family lacks is waited for; VIPs of the other are kept, and new ones come.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "six ways to lack something, and one scenario for all of them"
)]
fn keeper_serves_one_family_while_the_other_lacks_something() {
    let disable = format!("ipv6/conf/{VIP_LINK}/disable_ipv6");
    let source = |net: &Net, family: Family, what: &str| {
        let (source, bits, nodad) = match family {
            Family::V4 => (SOURCES[0], 32, ""),
            _ => (SOURCES[1], 128, " nodad"),
        };
        let nodad = if what == "add" { nodad } else { "" };
        net.ip(&format!("addr {what} {source}/{bits} dev node0{nodad}"));
    };
    let label = |net: &Net, what: &str| {
        net.ip(&format!("addrlabel {what} {LABEL_IN_THE_WAY}"));
    };
    type Act<'a> = Box<dyn Fn(&Net, bool) + 'a>;
    let act = |family| -> Act<'_> {
        Box::new(move |net, away| source(net, family, if away { "del" } else { "add" }))
    };
    let cases: [(Family, ErrorKind, Act<'_>); 6] = [
        (Family::V4, ErrorKind::SourceNotOnNode, act(Family::V4)),
        (Family::V6, ErrorKind::SourceNotOnNode, act(Family::V6)),
        (
            Family::V6,
            ErrorKind::Ipv6Disabled,
            Box::new(|net, away| net.set_sysctl(&disable, if away { "1" } else { "0" })),
        ),
        (
            Family::V6,
            ErrorKind::Ipv6Disabled,
            Box::new(|net, away| {
                net.ip(&link(if away { "mtu 1000" } else { "mtu 1500" }));
            }),
        ),
        (
            Family::V6,
            ErrorKind::LinkDown,
            Box::new(|net, away| {
                net.ip(&link(if away { "down" } else { "up" }));
            }),
        ),
        // No event tells of it: it is found by the first VIP that drifts.
        (
            Family::V6,
            ErrorKind::LabelConflict,
            Box::new(|net, away| {
                if away {
                    net.ip(&format!(
                        "addrlabel del prefix ::/0 dev {VIP_LINK} label 99"
                    ));
                    label(net, "add");
                    net.ip(&format!(
                        "route del local {} dev {VIP_LINK} table local",
                        vips_v6(1)[0]
                    ));
                } else {
                    label(net, "del");
                }
            }),
        ),
    ];
    for (loser, kind, change) in cases {
        let net = Net::new();
        let manager = builder(Binding::Address).avoid_as_source(SourceAvoidance::AddressLabel);
        let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
        keeper.set_desired(set());
        keeper.dispatch(usize::MAX).unwrap();
        dispatch_all(&mut keeper);
        change(&net, true);
        let waits = |done: &Dispatched| {
            let failures = done
                .missing
                .iter()
                .map(|missing| (missing.family, missing.kind));
            failures.collect::<Vec<_>>() == [(Some(loser), kind)]
        };
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert!(waits(&done), "{kind:?}: {done:?}");
        assert!(done.to_string().contains(&loser.to_string()), "{done}");
        // One of the other family drifts, and one comes.
        let (others, new): (_, IpAddr) = match loser {
            Family::V4 => (vips_v6(5), "2001:db8:43::1".parse().unwrap()),
            _ => (vips_v4(5), "10.97.0.1".parse().unwrap()),
        };
        net.ip(&format!(
            "route del local {} dev {VIP_LINK} table local",
            others[1]
        ));
        let done = dispatch_until_proven(&mut keeper);
        assert!(waits(&done), "{kind:?}: {done:?}");
        assert_eq!(done.report.repaired, 1, "{kind:?}: {done:?}");
        keeper.add_desired([new]);
        let done = dispatch_until_proven(&mut keeper);
        assert!(waits(&done), "{kind:?}: {done:?}");
        assert_eq!(done.report.assigned, 1, "{kind:?}: {done:?}");
        net.assert_single_route(&[&others[..], &[new]].concat(), PROTO_KERNEL);
        // When it is back, by an event or at the next look, the rest comes back too.
        change(&net, false);
        let all = [&set()[..], &[new]].concat();
        let began = Instant::now();
        let is_good = |net: &Net| net.wrong_vips(&all, PROTO_KERNEL).is_empty();
        while keeper.dispatch(usize::MAX).unwrap() != Dispatched::default() || !is_good(&net) {
            assert!(began.elapsed() < PATIENCE, "{kind:?}: it never came back");
            let wait = keeper.next_deadline().unwrap_or_else(Instant::now);
            std::thread::sleep(wait.saturating_duration_since(Instant::now()));
        }
    }
}

/// Two keepers that hold one family each share a link, also with the claim of all of it.
#[test]
fn two_keepers_of_a_family_each_share_the_link() {
    let net = Net::new();
    let mut keepers = SOURCES.map(|source| {
        let manager = VipManager::builder(VIP_LINK).source(source).open().unwrap();
        manager.into_keeper(Claim::link()).unwrap()
    });
    let sets = [vips_v4(5), vips_v6(5)];
    for _ in 0..3 {
        for (keeper, set) in keepers.iter_mut().zip(&sets) {
            // A set of its own, and another one, in bulk and one by one.
            keeper.set_desired(&set[..4]);
            dispatch_all(keeper);
            keeper.set_desired(set);
            dispatch_all(keeper);
        }
        net.assert_single_route(&sets.concat(), PROTO_KERNEL);
    }
    // Nor does the wipe of the one reach the other's.
    let [one, _other] = keepers;
    let report = one.into_manager().release_all(&Claim::link()).unwrap();
    assert_eq!(report.released, 5, "{report}");
    net.assert_single_route(&sets[1], PROTO_KERNEL);
    net.assert_absent(&sets[0]);
}

#[test]
fn claim_by_ranges_reaches_the_family_that_it_names() {
    let net = Net::new();
    let (v4, v6) = (vips_v4(3), vips_v6(3));
    let mut both = builder(Binding::Address).open().unwrap();
    both.assign(v4.iter().chain(&v6)).unwrap();
    let ipv4_only = VipManager::builder(VIP_LINK).source(SOURCES[0]);
    let mut manager = ipv4_only.open().unwrap();
    let range = "2001:db8:42::/64".parse::<ipnet::IpNet>().unwrap();
    let report = manager.release_all(&Claim::ranges([range])).unwrap();
    assert_eq!(report.released, 3, "{report}");
    net.assert_absent(&v6);
    net.assert_single_route(&v4, PROTO_KERNEL);
}

/// By its name a VIP goes whatever the claim, its bound or the rest of the set say; by a set without
/// VIPs of its family it stays.
#[test]
fn keeper_releases_vips_that_are_removed_by_name() {
    let net = Net::new();
    let claim = Claim::ranges(["10.96.0.2/32".parse::<ipnet::IpNet>().unwrap()]).at_most(1);
    let manager = builder(Binding::Address).open().unwrap();
    let mut keeper = manager.into_keeper(claim).unwrap();
    keeper.set_desired(set());
    dispatch_all(&mut keeper);
    let (v4, v6) = (vips_v4(5), vips_v6(5));
    // The last of its family.
    keeper.remove_desired(&v6);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.released, 5);
    net.assert_absent(&v6);
    net.assert_single_route(&v4, PROTO_KERNEL);
    // The last of all; also while its source is away.
    net.ip(&format!("addr del {NODE_V4}/32 dev node0"));
    keeper.remove_desired(&v4);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(done.report.released, 5, "{done}");
    assert!(done.report.is_complete(), "{done:?}");
    net.assert_absent(&set());
    dispatch_all(&mut keeper);
    net.ip(&format!("addr add {NODE_V4}/32 dev node0"));

    // The guard is one of each family.
    let manager = builder(Binding::Address).open().unwrap();
    let mut keeper = manager.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set());
    dispatch_all(&mut keeper);
    keeper.set_desired(&v4);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(done.refused, Some(ErrorKind::EmptySet), "{done:?}");
    assert!(done.detail.unwrap().contains("IPv6"));
    net.assert_single_route(&set(), PROTO_KERNEL);
    keeper.set_desired(&set()[..2]);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!((done.refused, done.report.released), (None, 8), "{done:?}");
}

/// What another device holds is never fought for; when it lets go, the VIP comes.
#[test]
fn keeper_waits_for_the_end_of_a_conflict() {
    let net = Net::new();
    let vip = set()[1];
    net.ip(&format!("addr add {vip}/128 dev node0 nodad"));
    net.wait_for_kernel();
    let rivals = net.snapshot_without(&[]);
    let mut keeper = keeper(Binding::Address);
    // An address that can never be a VIP is reported once, and not tried again.
    let never: IpAddr = "127.0.0.9".parse().unwrap();
    keeper.set_desired([vip, never]);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(done.report.failures.len(), 2, "{done:?}");
    assert_eq!(done.report.writes, 0);
    rivals.assert_same(&net.snapshot_without(&[]));
    net.ip(&format!("addr del {vip}/128 dev node0"));
    let began = Instant::now();
    while net.try_ip(&format!("route get {vip}")).is_err()
        || !net.wrong_vips(&[vip], PROTO_KERNEL).is_empty()
    {
        assert!(began.elapsed() < PATIENCE, "it never came");
        let at = keeper.next_deadline().expect("it is to be tried again");
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        keeper.dispatch(usize::MAX).unwrap();
    }
    assert_eq!(keeper.counters().backoffs, 0);
    std::thread::sleep(Duration::from_millis(100));
    dispatch_until_proven(&mut keeper);
    assert_eq!(
        keeper.next_deadline(),
        None,
        "the rejected one is tried again"
    );
}

/// A set that would release too many is refused also where a source is missing.
#[test]
fn keeper_refuses_a_wrong_set_while_a_source_is_missing() {
    let net = Net::new();
    let manager = builder(Binding::Address).open().unwrap();
    let mut keeper = manager.into_keeper(Claim::link().at_most(2)).unwrap();
    keeper.set_desired(set());
    keeper.dispatch(usize::MAX).unwrap();
    net.ip(&format!("addr del {NODE_V4}/32 dev node0"));
    let new: IpAddr = "10.99.0.1".parse().unwrap();
    keeper.set_desired([set()[0], new]);
    // To release takes no source, so that is no reason to wait with the refusal.
    for bring_back in [true, false] {
        let error = keeper.dispatch(usize::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooManyReleases, "{error}");
        net.assert_absent(&[new]);
        if bring_back {
            net.ip(&format!("addr add {NODE_V4}/32 dev node0"));
            keeper.set_desired([set()[0], new]);
        }
    }
    keeper.set_desired(set());
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert!(
        done.report.is_complete() && done.refused.is_none(),
        "{done:?}"
    );
}

/// Unmanaged VIPs beyond the claim's bound are left, and are no reason to let the desired VIPs down.
#[test]
fn keeper_goes_on_beside_too_many_unmanaged_vips() {
    let net = Net::new();
    let mut keeper = builder(Binding::Address)
        .open()
        .unwrap()
        .into_keeper(Claim::link().at_most(3))
        .unwrap();
    keeper.set_desired(set());
    keeper.dispatch(usize::MAX).unwrap();
    let unmanaged: Vec<IpAddr> = vips(300)[200..240].to_vec();
    net.ip_batch(unmanaged.iter().map(|vip| {
        let bits = common::host_bits(*vip);
        format!("addr add {vip}/{bits} dev {VIP_LINK}")
    }));
    let victim = set()[1];
    net.ip(&format!(
        "route del local {victim} dev {VIP_LINK} table local"
    ));
    let began = Instant::now();
    let mut done = Dispatched::default();
    while !net.wrong_vips(&set(), PROTO_KERNEL).is_empty() || done.refused.is_none() {
        assert!(began.elapsed() < PATIENCE, "it was let down");
        done = keeper.dispatch(usize::MAX).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(done.refused, Some(ErrorKind::TooManyReleases));
    assert!(done.detail.unwrap().contains("40"));
    let state = LocalState::read();
    assert!(
        unmanaged
            .iter()
            .all(|vip| !state.addresses_of(*vip).is_empty())
    );
    // Calm, not busy.
    std::thread::sleep(Duration::from_millis(200));
    while keeper.dispatch(usize::MAX).unwrap().more {}
    let before = keeper.counters();
    keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(keeper.counters(), before);
}
#[test]
fn keeper_releases_a_removed_vip_under_a_rule_before_table_local() {
    for diversion in Diversion::ALL {
        for binding in BINDINGS {
            let net = Net::new();
            net.ip(&format!("addr add 203.0.113.77/32 dev {VIP_LINK}"));
            let set = vips(3);
            let mut keeper = keeper(binding);
            keeper.set_desired(&set);
            dispatch_all(&mut keeper);
            if !diversion.put(&net) {
                continue;
            }
            for gone in [set[0], set[3]] {
                keeper.remove_desired([gone]);
                dispatch_all(&mut keeper);
                net.assert_absent(&[gone]);
            }
            // What stays is kept, and what drifts is mended.
            let stays = [set[1], set[2], set[4], set[5]];
            for vip in [set[1], set[4]] {
                net.ip(&format!("route del local {vip} dev {VIP_LINK} table local"));
            }
            dispatch_all(&mut keeper);
            let want = Want {
                address: binding == Binding::Address,
                ..Want::default()
            };
            LocalState::read().assert_single_route(&stays, &want);
            assert_eq!(keeper.counters().resyncs, 1, "{diversion:?} {binding:?}");
        }
    }
}

#[test]
fn keeper_makes_an_expiring_address_permanent() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(set());
    dispatch_all(&mut keeper);
    let resyncs = keeper.counters().resyncs;
    for vip in set() {
        let bits = common::host_bits(vip);
        net.ip(&format!(
            "addr change {vip}/{bits} dev {VIP_LINK} nodad noprefixroute valid_lft 600 \
             preferred_lft 600"
        ));
    }
    dispatch_all(&mut keeper);
    let state = net.local_state();
    for vip in set() {
        let [address] = state.addresses_of(vip) else {
            panic!("{vip}: {:?}", state.addresses_of(vip));
        };
        assert!(!address.expires, "{address:?}");
    }
    net.assert_single_route(&set(), PROTO_KERNEL);
    assert_eq!(keeper.counters().resyncs, resyncs);
    assert_eq!(keeper.counters().repairs, 2 * set().len() as u64);
}

/// A keeper with a conflicting VIP, which fails, beside some that are right.
fn conflicting(net: &Net) -> (Keeper, Vec<IpAddr>) {
    let set = vips(4);
    net.ip(&format!("addr add {}/32 dev {NODE_LINK}", set[0]));
    let mut keeper = keeper(Binding::Address);
    keeper.set_desired(&set);
    (keeper, set)
}

#[test]
fn a_lasting_failure_is_new_once_and_ends_once() {
    let net = Net::new();
    let (mut keeper, set) = conflicting(&net);
    let first = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(first.new_failures, first.report.failures);
    assert_eq!(first.new_failures.len(), 1);
    assert!(keeper.failing().eq(&first.new_failures));
    // Other VIPs are repaired, one by one and with a reading of the whole link. The failing VIP is
    // tried again beside them.
    let mut again = 0;
    for round in 0..3 {
        net.ip(&format!("addr del {}/32 dev {VIP_LINK}", set[2]));
        let began = Instant::now();
        let mut repaired = 0;
        while repaired == 0 || again <= round {
            let done = keeper.dispatch(usize::MAX).unwrap();
            assert_eq!((&*done.new_failures, &*done.recovered), (&[][..], &[][..]));
            repaired += done.report.repaired + done.report.assigned;
            again += done.report.failures.len();
            assert!(began.elapsed() < PATIENCE, "round {round}");
            std::thread::sleep(Duration::from_millis(20));
        }
        keeper.set_source(NODE_V4).unwrap();
    }
    assert_eq!(keeper.counters().failures, 1);
    assert_eq!(keeper.failing().len(), 1);
    net.ip(&format!("addr del {}/32 dev {NODE_LINK}", set[0]));
    let began = Instant::now();
    let ended = loop {
        let done = keeper.dispatch(usize::MAX).unwrap();
        if !done.recovered.is_empty() {
            break done;
        }
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.recovered[0].vip, set[0].into());
    assert_eq!(keeper.failing().len(), 0);
    assert_eq!(keeper.counters().failures, 1);
}

#[test]
fn a_failure_ends_when_its_vip_is_not_desired_any_more() {
    let net = Net::new();
    let (mut keeper, set) = conflicting(&net);
    keeper.dispatch(usize::MAX).unwrap();
    keeper.remove_desired(&set[..1]);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(done.recovered.len(), 1);
    assert_eq!(keeper.failing().len(), 0);
    assert!(done.has_news);
    assert_eq!(keeper.desired().len(), set.len() - 1);
}

#[test]
fn run_calls_back_only_with_news() {
    let net = Net::new();
    let (mut keeper, _) = conflicting(&net);
    let canceller = keeper.canceller();
    let (sender, rounds) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        keeper.run(|done| drop(sender.send(done.clone()))).unwrap();
        keeper
    });
    let first = rounds.recv_timeout(PATIENCE).unwrap();
    assert_eq!(first.report.failures.len(), 1);
    // The failing VIP is tried again every second.
    std::thread::sleep(Duration::from_millis(2_500));
    canceller.cancel();
    let keeper = thread.join().unwrap();
    assert_eq!(rounds.try_iter().count(), 0);
    assert!(keeper.counters().looks > 0, "{:?}", keeper.counters());
}

#[test]
fn counters_tell_adopted_from_repaired_and_status_has_the_gauges() {
    let net = Net::new();
    let (mut keeper, set) = conflicting(&net);
    builder(Binding::Address)
        .open()
        .unwrap()
        .assign(&set[1..2])
        .unwrap();
    let before = keeper.counters();
    keeper.dispatch(usize::MAX).unwrap();
    let done = keeper.counters() - before;
    assert_eq!(
        (done.adopted, done.repairs, done.failures),
        (1, set.len() as u64 - 2, 1)
    );
    let status = keeper.status();
    let [four, six] = [Family::V4, Family::V6].map(|family| status.family(family).clone());
    assert_eq!((four.failing, six.failing), (1, 0));
    assert_eq!(four.desired + six.desired, set.len());
    assert_eq!((four.last_success, four.waiting), (None, None));
    assert!(six.last_success.is_some() && status.last_full_sync.is_some());
    net.ip(&format!("link set {VIP_LINK} down"));
    keeper.dispatch(usize::MAX).unwrap();
    let waits = keeper.status().ipv6.waiting.unwrap();
    assert_eq!(waits.missing.kind, ErrorKind::LinkDown);
    // Another full reading does not begin the wait anew.
    std::thread::sleep(Duration::from_millis(20));
    keeper.set_desired(&set[1..]);
    keeper.dispatch(usize::MAX).unwrap();
    let later = keeper.status().ipv6.waiting.unwrap();
    assert!(later.since >= waits.since + Duration::from_millis(20));
    keeper.remove_desired(&set[2..3]);
    keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(keeper.counters().released, 1);
}

/// The keeper stages a route at once, and ends only after the late route can no longer come. What it knew of
/// other routes must not be lost in between.
#[test]
fn routes_beside_a_recent_address_are_deleted() {
    let extra = |vip| format!("route add local {vip} dev {VIP_LINK} table local metric 2000");
    // Another writer's route in the place of the desired one.
    let other = |vip| {
        format!(
            "route add local {vip} dev {VIP_LINK} table local proto 4 metric 1024 src {NODE_V6}"
        )
    };
    for protocol in [PROTO_KERNEL, 201] {
        for lines in [
            &[] as &[&dyn Fn(IpAddr) -> String],
            &[&extra],
            &[&other, &extra],
        ] {
            let net = Net::new();
            let vips = vips_v6(2);
            let manager = builder(Binding::Address)
                .protocol(viproute::Protocol::new(protocol).unwrap())
                .open()
                .unwrap();
            let mut keeper = manager.into_keeper(Claim::link()).unwrap();
            keeper.set_desired(&vips);
            calm(&mut keeper);
            net.assert_single_route(&vips, protocol);
            // The address comes anew, with its prefix route, and its local routes go.
            let vip = vips[1];
            net.ip(&format!("addr del {vip}/128 dev {VIP_LINK}"));
            net.ip(&format!("route del local {vip} dev {VIP_LINK} table local"));
            net.ip(&format!("addr add {vip}/128 dev {VIP_LINK} nodad"));
            let kernels = format!("route del local {vip} dev {VIP_LINK} table local proto kernel");
            let deadline = Instant::now() + PATIENCE;
            while net.try_ip(&kernels).is_err() {
                assert!(Instant::now() < deadline, "the kernel's route never came");
            }
            for line in lines {
                net.ip(&format!("-6 {}", line(vip)));
            }
            calm(&mut keeper);
            let mut state = net.local_state();
            let addresses = state.addresses.values_mut().flatten();
            addresses.for_each(|address| address.forgive_flags());
            let want = Want {
                protocol,
                ..Want::default()
            };
            state.assert_single_route(&vips, &want);
        }
    }
}

/// Deletes the addresses and adds them anew, and deletes the routes that the kernel makes for them.
fn make_recent(net: &Net, vips: &[IpAddr]) {
    let on_link = |act: &str, more: &str| {
        net.ip_batch(
            vips.iter()
                .map(|vip| format!("addr {act} {vip}/128 dev {VIP_LINK} {more}")),
        );
    };
    on_link("del", "");
    net.ip_batch(
        vips.iter()
            .map(|vip| format!("route del local {vip} dev {VIP_LINK} table local")),
    );
    on_link("add", "nodad noprefixroute");
    net.wait_for_kernel();
    net.ip_batch(
        vips.iter()
            .map(|vip| format!("route del local {vip} dev {VIP_LINK} table local")),
    );
}

/// No notification says that an address is no longer recent, but its age is known.
#[test]
fn vip_with_a_recent_address_is_looked_at_once_more() {
    let net = Net::new();
    let mut keeper = keeper(Binding::Address);
    let vips = vips_v6(3);
    keeper.set_desired(&vips);
    calm(&mut keeper);
    make_recent(&net, &vips);
    let before = keeper.counters();
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!((done.report.writes, done.resting), (3, 3), "{done}");
    // The routes are staged.
    let wrong = net.local_state().wrong_vips(&vips, &Want::default());
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    calm(&mut keeper);
    net.assert_single_route(&vips, PROTO_KERNEL);
    let done = keeper.counters() - before;
    assert_eq!((done.repairs, done.resyncs), (3, 0), "{done}");
    // Twice more where the kernel's clock of ages is ahead.
    assert!(done.looks <= 9, "{done}");
}

/// A process in a time namespace has other clocks than the kernel's timestamps of addresses: days ahead of them,
/// or near zero, where no moment before now may be computed. This test runs other tests there: a lost address, a
/// VIP that rests, the age of an address, and a look that is put off.
#[test]
fn keeper_keeps_its_vips_in_a_time_namespace() {
    let tests = [
        "keeper_restores_a_removed_address",
        "vip_that_changes_while_it_rests_is_repaired_again",
        "vip_with_a_recent_address_is_looked_at_once_more",
        "keeper_waits_for_the_end_of_a_conflict",
    ];
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: i64 = uptime.split('.').next().unwrap().parse().unwrap();
    for offset in [864_000, 1 - uptime] {
        let unshare = |command: &[&str]| {
            let mut unshare = std::process::Command::new("unshare");
            let clocks = ["--monotonic", "--boottime"].map(|clock| format!("{clock}={offset}"));
            unshare.args(["--time", "--fork"]).args(clocks);
            unshare.args(command).output()
        };
        if !unshare(&["true"]).is_ok_and(|done| done.status.success()) {
            return common::skipped("clocks", "no time namespace, or an unshare(1) without them");
        }
        let this = std::env::current_exe().unwrap();
        let command = [&[this.to_str().unwrap(), "--exact"], &tests[..]].concat();
        let done = unshare(&command).unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(said.contains("4 passed"), "{offset}: {said}");
    }
}

/// Dispatches until nothing is left to do or to wait for.
fn calm(keeper: &mut Keeper) {
    while let done = keeper.dispatch(usize::MAX).unwrap()
        && (done.more || done.resting > 0)
    {
        wait_until_due(keeper);
    }
}
