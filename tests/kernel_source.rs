//! A family that keeps the kernel's own local route, beside a family that has a source: every call,
//! from every state, and the keeper.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/rules.rs"]
mod rules;

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use broken::{PROTOCOLS, State, one_of_each, put};
use common::{
    Hammer, LocalState, NODE_LINK, Net, PROTO_KERNEL, RouteWatcher, SOURCES, Snapshot, VIP_LINK,
    Want, never_without_local_route, vips, vips_v4, vips_v6,
};
use rules::{Churn, Diversion};
use viproute::{
    Binding, Cause, Claim, Drift, ErrorKind, Family, Protocol, RejectReason, Vip, VipManager,
    VipManagerBuilder,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Addresses are no longer recent.
const OLD: Duration = Duration::from_millis(2700);

fn source_of(family: Family) -> IpAddr {
    SOURCES[family as usize]
}

fn family_of(vip: &IpAddr) -> Family {
    Vip::from(*vip).family()
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// A configuration where `kept` keeps the kernel's source and the other family has one.
fn builder(kept: Family, protocol: u8) -> VipManagerBuilder {
    VipManager::builder(VIP_LINK)
        .source(source_of(other(kept)))
        .kernel_source(kept)
        .protocol(Protocol::new(protocol).unwrap())
}

fn manager(kept: Family, protocol: u8) -> VipManager {
    builder(kept, protocol).open().unwrap()
}

/// What is wrong with VIPs whose addresses another writer may have made.
fn wrong(kept: Family, vips: &[IpAddr], protocol: u8) -> Vec<String> {
    let mut state = LocalState::read();
    for address in state.addresses.values_mut().flatten() {
        address.forgive_flags();
        address.broadcast = None;
    }
    let want = Want {
        sources: &[source_of(other(kept))],
        protocol,
        ..Want::default()
    };
    state.wrong_vips(vips, &want)
}

#[track_caller]
fn assert_good(kept: Family, vips: &[IpAddr], protocol: u8) {
    assert!(!vips.is_empty());
    let wrong = wrong(kept, vips, protocol);
    assert!(wrong.is_empty(), "{kept:?} {protocol}: {wrong:#?}");
}

fn names(all: &[(IpAddr, State)], which: impl Fn(State) -> bool) -> Vec<IpAddr> {
    let some = all.iter().filter(|(_, state)| which(*state));
    some.map(|(vip, _)| *vip).collect()
}

/// Runs `test` with each family keeping the kernel's source, and each protocol.
fn for_all(test: impl Fn(&Net, Family, u8) + Sync) {
    let cases = FAMILIES
        .into_iter()
        .flat_map(|kept| PROTOCOLS.map(|protocol| (kept, protocol)));
    common::side_by_side(cases, |(kept, protocol)| {
        let net = Net::new();
        test(&net, kept, protocol);
    });
}

#[test]
fn new_vips_keep_the_kernels_route_until_release() {
    for_all(|net, kept, protocol| {
        let set = vips(200);
        let mut manager = manager(kept, protocol);
        let report = manager.assign(&set).unwrap();
        assert_eq!((report.assigned, report.unchanged), (400, 0), "{report}");
        assert_good(kept, &set, protocol);
        let before = Snapshot::read(&[]);
        for report in [manager.assign(&set), manager.normalize()] {
            let report = report.unwrap();
            assert_eq!((report.unchanged, report.writes), (400, 0), "{report}");
        }
        let report = manager.reconcile(&Claim::link(), &set).unwrap();
        assert_eq!((report.unchanged, report.writes), (400, 0), "{report}");
        before.assert_same(&Snapshot::read(&[]));
        let audit = manager.audit_deep().unwrap();
        assert_eq!(audit.vips.len(), 400);
        assert!(audit.vips.iter().all(|vip| vip.drift.is_empty()));
        let report = manager.release(&set).unwrap();
        assert_eq!(report.released, 400, "{report}");
        net.assert_absent(&set);
    });
}

#[test]
fn every_state_is_normalized_without_a_gap() {
    for_all(|net, kept, protocol| {
        let all = one_of_each();
        put(net, &all, protocol);
        let mut manager = manager(kept, protocol);
        let local = names(&all, |state| state.is_local() && state.has_address());
        let initially = net.local_state();
        let watcher = RouteWatcher::new();
        let error = manager.normalize().unwrap_err();
        let gaps = never_without_local_route(&watcher.drain(), &initially, &local, net.vip_index());
        assert_eq!(gaps, Ok(()));
        let report = error.into_report().unwrap();
        let stale = names(&all, |state| !state.has_address());
        assert_eq!(report.failures.len(), stale.len(), "{report:?}");
        for failure in &report.failures {
            assert_eq!(failure.cause, Cause::StaleRoute, "{failure}");
            assert!(stale.contains(&failure.vip.addr()), "{failure}");
            assert!(failure.drift.contains(Drift::STALE), "{failure}");
        }
        assert_good(kept, &names(&all, State::has_address), protocol);
        let audit = manager.audit().unwrap();
        let bad = audit.vips.iter().filter(|vip| !vip.drift.is_empty());
        assert_eq!(bad.count(), stale.len());
        // What has no address is added where it is desired.
        assert_eq!(manager.assign(&stale).unwrap().repaired, stale.len());
        let every = names(&all, |_| true);
        assert_good(kept, &every, protocol);
        let report = manager.normalize().unwrap();
        assert_eq!((report.unchanged, report.writes), (all.len(), 0));
        assert_eq!(manager.release(&every).unwrap().released, all.len());
        net.assert_absent(&every);
    });
}

#[test]
fn every_state_is_reconciled() {
    for_all(|net, kept, protocol| {
        let all = one_of_each();
        put(net, &all, protocol);
        let every = names(&all, |_| true);
        // Every third is not desired.
        let (desired, rest): (Vec<_>, Vec<_>) =
            every.iter().enumerate().partition(|(at, _)| at % 3 > 0);
        let only = |some: Vec<(usize, &IpAddr)>| -> Vec<IpAddr> {
            some.into_iter().map(|(_, vip)| *vip).collect()
        };
        let (desired, rest) = (only(desired), only(rest));
        let mut manager = manager(kept, protocol);
        let report = manager.reconcile(&Claim::link(), &desired).unwrap();
        assert_eq!(report.released, rest.len(), "{report}");
        assert_good(kept, &desired, protocol);
        net.assert_absent(&rest);
        let report = manager.reconcile(&Claim::link(), &desired).unwrap();
        assert_eq!((report.unchanged, report.writes), (desired.len(), 0));
    });
}

#[test]
fn every_state_is_released() {
    for_all(|net, kept, protocol| {
        let all = one_of_each();
        put(net, &all, protocol);
        let every = names(&all, |_| true);
        let report = manager(kept, protocol).release(&every).unwrap();
        assert_eq!(report.released, all.len(), "{report}");
        net.assert_absent(&every);
    });
}

#[test]
fn drift_reports_missing_and_further_routes() {
    for kept in FAMILIES {
        let net = Net::new();
        let mut cases = vec![
            (State::KernelOnly, Drift::empty()),
            (State::Fine, Drift::MISSING_ROUTE | Drift::DUPLICATE),
            (State::SourceOther, Drift::MISSING_ROUTE | Drift::DUPLICATE),
            (State::NoRoute, Drift::MISSING_ROUTE),
        ];
        let set = match kept {
            Family::V4 => {
                cases.push((State::Pair, Drift::DUPLICATE));
                cases.push((State::PairReversed, Drift::DUPLICATE));
                vips_v4(cases.len())
            }
            Family::V6 => {
                cases.push((State::KernelBeside, Drift::DUPLICATE));
                cases.push((State::Plain, Drift::PREFIX_ROUTE));
                cases.push((State::ThreeRoutes, Drift::PREFIX_ROUTE | Drift::DUPLICATE));
                vips_v6(cases.len())
            }
        };
        let states = cases.iter().map(|(state, _)| *state);
        let all: Vec<_> = set.iter().copied().zip(states).collect();
        put(&net, &all, PROTO_KERNEL);
        let mut manager = manager(kept, PROTO_KERNEL);
        for audit in [manager.audit().unwrap(), manager.audit_deep().unwrap()] {
            for (vip, (state, drift)) in set.iter().zip(&cases) {
                let found = audit.vips.iter().find(|found| found.vip == (*vip).into());
                assert_eq!(found.unwrap().drift, *drift, "{vip} {state:?}");
            }
        }
    }
}

#[test]
fn old_address_gets_its_lost_route_back() {
    for_all(|net, kept, protocol| {
        let set = vips(20);
        let mut manager = manager(kept, protocol);
        manager.assign(&set).unwrap();
        if kept == Family::V6 {
            std::thread::sleep(OLD);
        }
        let lost: Vec<_> = set
            .iter()
            .filter(|vip| family_of(vip) == kept)
            .step_by(2)
            .copied()
            .collect();
        for vip in &lost {
            net.ip(&format!("route del local {vip} dev {VIP_LINK} table local"));
        }
        let began = Instant::now();
        let report = manager.normalize().unwrap();
        assert_eq!(
            (report.repaired, report.unchanged),
            (lost.len(), 40 - lost.len())
        );
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "waited for nothing"
        );
        assert_good(kept, &set, protocol);
        assert_eq!(manager.normalize().unwrap().writes, 0);
    });
}

#[test]
fn the_plan_ends_where_reconcile_ends() {
    for_all(|net, kept, protocol| {
        let all = one_of_each();
        put(net, &all, protocol);
        // A route that may still come only a second look could miss.
        std::thread::sleep(OLD);
        let every = names(&all, |_| true);
        let mut manager = manager(kept, protocol);
        let before = Snapshot::read(&[]);
        let plan = manager.plan(&Claim::link(), &every).unwrap();
        before.assert_same(&Snapshot::read(&[]));
        assert!(plan.failures.is_empty(), "{:?}", plan.failures);
        let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("kernel-source-{kept:?}-{protocol}.sh"));
        std::fs::write(&path, plan.to_string()).unwrap();
        let output = Command::new("sh")
            .arg(&path)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}\n{plan}");
        std::fs::remove_file(&path).unwrap();
        assert_good(kept, &every, protocol);
        let again = manager.plan(&Claim::link(), &every).unwrap();
        assert!(again.is_empty() && again.failures.is_empty(), "{again}");
        assert_eq!(manager.reconcile(&Claim::link(), &every).unwrap().writes, 0);
    });
}

#[test]
fn another_devices_route_is_a_conflict() {
    for kept in FAMILIES {
        let net = Net::new();
        let mut manager = manager(kept, PROTO_KERNEL);
        let set = match kept {
            Family::V4 => vips_v4(2),
            Family::V6 => vips_v6(2),
        };
        net.ip(&format!(
            "route add local {} dev {NODE_LINK} table local",
            set[0]
        ));
        let before = net.snapshot_without(&set[1..]);
        let error = manager.assign(&set).unwrap_err();
        let report = error.into_report().unwrap();
        assert_eq!(report.failures.len(), 1, "{report:?}");
        assert_eq!(report.failures[0].vip, set[0].into());
        assert_eq!(report.failures[0].cause, Cause::Conflict);
        before.assert_same(&net.snapshot_without(&set[1..]));
        assert_good(kept, &set[1..], PROTO_KERNEL);
    }
}

/// The kernel's IPv6 route has metric 0, and the other one 1024.
#[test]
fn another_devices_route_that_loses_is_no_conflict() {
    let net = Net::new();
    let mut manager = manager(Family::V6, PROTO_KERNEL);
    let set = vips_v6(2);
    manager.assign(&set).unwrap();
    net.ip(&format!(
        "route add local {} dev {NODE_LINK} table local",
        set[0]
    ));
    let before = Snapshot::read(&[]);
    let report = manager.normalize().unwrap();
    assert_eq!((report.unchanged, report.writes), (2, 0), "{report}");
    let audit = manager.audit_deep().unwrap();
    assert!(
        audit.vips.iter().all(|vip| vip.drift.is_empty()),
        "{audit:?}"
    );
    before.assert_same(&Snapshot::read(&[]));
}

/// Waits until these VIPs are good, and stay so.
fn wait_until_good(kept: Family, set: &[IpAddr], after: &str) {
    let began = Instant::now();
    let wrong = || wrong(kept, set, PROTO_KERNEL);
    loop {
        if wrong().is_empty() {
            std::thread::sleep(Duration::from_millis(60));
            if wrong().is_empty() {
                return;
            }
        }
        let is_early = began.elapsed() < Duration::from_secs(20);
        assert!(is_early, "{kept:?}, {after}: {:#?}", wrong());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn keeper_restores_the_kernels_route() {
    for kept in FAMILIES {
        let net = Net::new();
        let set = vips(5);
        let mut keeper = manager(kept, PROTO_KERNEL)
            .into_keeper(Claim::link())
            .unwrap();
        keeper.set_desired(&set);
        let canceller = keeper.canceller();
        let thread = std::thread::spawn(move || {
            keeper.run(|_| ()).unwrap();
            keeper
        });
        let wait_until_good = |after: &str| wait_until_good(kept, &set, after);
        wait_until_good("at first");
        let of_kept: Vec<_> = set.iter().filter(|vip| family_of(vip) == kept).collect();
        let vip = of_kept[0];
        let delete_route = format!("route del local {vip} dev {VIP_LINK} table local");
        // While the address is recent, and when it is old.
        net.ip(&delete_route);
        wait_until_good("route deleted");
        std::thread::sleep(OLD);
        net.ip(&delete_route);
        wait_until_good("route deleted again");
        let (bits, source) = (common::host_bits(*vip), source_of(kept));
        net.ip(&format!("addr del {vip}/{bits} dev {VIP_LINK}"));
        wait_until_good("address deleted");
        let beside = match kept {
            Family::V4 => "append",
            Family::V6 => "add",
        };
        net.ip(&format!(
            "route {beside} local {} dev {VIP_LINK} table local src {source}",
            of_kept[1]
        ));
        wait_until_good("a route beside");
        net.ip(&format!("link set {VIP_LINK} down"));
        net.ip(&format!("link set {VIP_LINK} up"));
        wait_until_good("link down and up");
        for words in ["arp on", "arp off"] {
            net.ip(&format!("link set {VIP_LINK} {words}"));
            wait_until_good(words);
        }
        canceller.cancel();
        let mut manager = thread.join().unwrap().into_manager();
        // On a busy processor the kernel's route may be later than all that was waited for.
        let began = Instant::now();
        while manager.assign(&set).unwrap().writes > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "{kept:?}");
        }
    }
}

#[test]
fn set_source_replaces_the_kernels_source() {
    for_all(|net, kept, protocol| {
        let set = vips(20);
        let mut manager = manager(kept, protocol);
        manager.assign(&set).unwrap();
        let initially = net.local_state();
        let watcher = RouteWatcher::new();
        let report = manager.set_source(source_of(kept)).unwrap();
        let gaps = never_without_local_route(&watcher.drain(), &initially, &set, net.vip_index());
        assert_eq!(gaps, Ok(()));
        assert_eq!((report.repaired, report.unchanged), (20, 20), "{report}");
        net.assert_single_route(&set, protocol);
        // From now on any binding will do.
        manager.set_binding(Binding::Route).unwrap();
        manager.set_binding(Binding::Address).unwrap();
        net.assert_single_route(&set, protocol);
    });
}

#[test]
fn contradictory_configurations_are_refused() {
    let _net = Net::new();
    let invalid = |builder: VipManagerBuilder| {
        let error = builder.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    };
    let base = || VipManager::builder(VIP_LINK);
    for kept in FAMILIES {
        invalid(base().source(source_of(kept)).kernel_source(kept));
        invalid(base().kernel_source(kept).binding(Binding::Route));
        invalid(builder(kept, PROTO_KERNEL).binding(Binding::Route));
        let set = vips(3);
        let mut manager = manager(kept, PROTO_KERNEL);
        manager.assign(&set).unwrap();
        let before = Snapshot::read(&[]);
        let error = manager.set_binding(Binding::Route).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        // The binding is as before.
        assert_eq!(manager.normalize().unwrap().writes, 0);
        // An address that no node can have does not end it.
        let error = manager.set_source([127, 0, 0, 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert_eq!(manager.normalize().unwrap().writes, 0);
        before.assert_same(&Snapshot::read(&[]));
    }
    base()
        .kernel_source(Family::V4)
        .kernel_source(Family::V6)
        .open()
        .unwrap();
}

#[test]
fn both_families_may_keep_the_kernels_route() {
    let net = Net::new();
    let set = vips(10);
    let mut manager = VipManager::builder(VIP_LINK)
        .kernel_source(Family::V4)
        .kernel_source(Family::V6)
        .open()
        .unwrap();
    assert_eq!(manager.assign(&set).unwrap().assigned, 20);
    let want = Want {
        sources: &[],
        ..Want::default()
    };
    net.local_state().assert_single_route(&set, &want);
    assert_eq!(manager.release_all(&Claim::link()).unwrap().released, 20);
    net.assert_absent(&set);
}

#[test]
fn missing_source_of_the_other_family_is_an_error() {
    for kept in FAMILIES {
        let _net = Net::new();
        let mut manager = VipManager::builder(VIP_LINK)
            .kernel_source(kept)
            .open()
            .unwrap();
        let set = vips(1);
        let report = manager.assign(&set).unwrap_err().into_report().unwrap();
        assert_eq!((report.assigned, report.failures.len()), (1, 1));
        let forgotten = *set.iter().find(|vip| family_of(vip) != kept).unwrap();
        assert_eq!(report.failures[0].vip, Vip::from(forgotten));
        let no_source = Cause::Rejected(RejectReason::NoSource);
        assert_eq!(report.failures[0].cause, no_source);
    }
}

/// The kernel's own routes bear no mark.
#[test]
fn a_claim_by_mark_needs_marked_addresses() {
    let net = Net::new();
    let set = vips(5);
    let mut manager = manager(Family::V6, 201);
    manager.assign(&set).unwrap();
    let error = manager.release_all(&Claim::mark()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    manager.release(&set).unwrap();
    let mut manager = builder(Family::V6, PROTO_KERNEL)
        .address_protocol(Protocol::new(77).unwrap())
        .open()
        .unwrap();
    manager.assign(&set).unwrap();
    net.ip(&format!(
        "addr add 2001:db8:42::99/128 dev {VIP_LINK} nodad"
    ));
    assert_eq!(manager.release_all(&Claim::mark()).unwrap().released, 10);
    net.assert_absent(&set);
}

/// Two managers, and others that keep the kernel busy.
#[test]
fn several_writers_converge_under_load() {
    for kept in FAMILIES {
        let net = Net::new();
        let set = vips(1000);
        let hammer = Hammer::start(&net);
        let [first, second] = [(); 2].map(|()| manager(kept, PROTO_KERNEL));
        let threads = [first, second].map(|mut manager| {
            let set = set.clone();
            std::thread::spawn(move || {
                manager.assign(&set).unwrap();
                manager.normalize().unwrap();
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        hammer.stop();
        assert_good(kept, &set, PROTO_KERNEL);
        let report = manager(kept, PROTO_KERNEL).assign(&set).unwrap();
        assert_eq!((report.unchanged, report.writes), (2000, 0), "{report}");
    }
}

#[test]
fn right_vips_are_not_written_to_under_a_rule_and_churn() {
    for diversion in [Diversion::Default, Diversion::Unreachable] {
        let net = Net::new();
        let set = vips(600);
        let builder = VipManager::builder(VIP_LINK)
            .kernel_source(Family::V4)
            .kernel_source(Family::V6);
        let mut manager = builder.open().unwrap();
        manager.assign(&set).unwrap();
        assert!(diversion.put(&net));
        let churn = Churn::start(net.add_link("churn0"));
        for _ in 0..10 {
            let report = match manager.assign(&set) {
                Ok(report) => report,
                Err(error) => error.into_report().unwrap(),
            };
            assert_eq!(
                (report.writes, report.repaired),
                (0, 0),
                "{diversion:?}: {report}"
            );
            for failure in &report.failures {
                assert_eq!(failure.cause, Cause::Unread, "{failure}");
            }
        }
        drop(churn);
        let report = manager.assign(&set).unwrap();
        assert_eq!(
            (report.unchanged, report.writes),
            (set.len(), 0),
            "{report}"
        );
    }
}
