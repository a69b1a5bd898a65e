//! What `assign` does and reports, read back by `ip -json`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/rules.rs"]
mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{
    LocalState, NODE_LINK, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, SOURCES, VIP_LINK, Want,
    builder, vips, vips_v4, vips_v6,
};
use ipnet::IpNet;
use rules::Diversion;
use viproute::{
    Cause, Drift, Error, ErrorKind, LinkKind, Outcome, OutcomeKind, Protocol, RejectReason, Report,
    Vip, VipManager,
};

const MARK: u8 = 201;

/// Every test holds this: a time-out or a cancellation must hit its own call, and the count of open
/// descriptors is the whole process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A report in numbers: assigned, repaired, released, unchanged, failures.
fn counts(report: &Report) -> [usize; 5] {
    [
        report.assigned,
        report.repaired,
        report.released,
        report.unchanged,
        report.failures.len(),
    ]
}

/// Assigns twice, and looks after each time.
#[track_caller]
fn assign_twice(set: &[IpAddr], protocol: u8) {
    let net = Net::new();
    let n = set.len();
    let mut vips = builder()
        .protocol(Protocol::new(protocol).unwrap())
        .open()
        .unwrap();
    // The other protocol's turn shows that it is looked at.
    let other = if protocol == MARK { PROTO_KERNEL } else { MARK };

    let start = Instant::now();
    let report = vips.assign(set).unwrap();
    let took = start.elapsed();
    assert_eq!(counts(&report), [n, 0, 0, 0, 0], "{report}");
    assert!(report.writes >= 2 * n as u64, "{report}");
    assert_eq!(report.retries, 0, "{report}");
    net.assert_single_route(set, protocol);
    assert_eq!(net.wrong_vips(set, other).len(), n);

    let before = net.snapshot_without(&[]);
    let start = Instant::now();
    let report = vips.assign(set).unwrap();
    println!(
        "{n} VIPs, protocol {protocol}: {took:.1?}, again {:.1?}",
        start.elapsed()
    );
    assert_eq!(counts(&report), [0, 0, 0, n, 0], "{report}");
    assert_eq!((report.writes, report.retries), (0, 0));
    let after = net.snapshot_without(&[]);
    assert_eq!(before, after);

    // Late work would be done by now.
    net.assert_single_route(set, protocol);
}

/// Sizes around those of a batch, and large ones.
fn sizes() -> [usize; 8] {
    let largest = common::full_or_quick(10_000, 3_000);
    [1, 2, 10, 255, 256, 257, 1_000, largest].map(common::at_most)
}

#[test]
fn assign_reaches_single_route_state_for_ipv4_sets_of_every_size() {
    let _alone = alone();
    for n in sizes() {
        assign_twice(&vips_v4(n), PROTO_KERNEL);
    }
}

#[test]
fn assign_reaches_single_route_state_for_ipv6_sets_of_every_size() {
    let _alone = alone();
    for n in sizes() {
        assign_twice(&vips_v6(n), PROTO_KERNEL);
    }
}

#[test]
fn assign_reaches_single_route_state_for_mixed_sets_of_every_size() {
    let _alone = alone();
    for n in sizes() {
        // As many VIPs altogether; of the first family one more where they are odd.
        let set = &vips(n)[..n];
        assign_twice(set, PROTO_KERNEL);
    }
}

#[test]
fn routes_have_the_configured_protocol() {
    let _alone = alone();
    for n in [1, 257] {
        assign_twice(&vips(n), MARK);
    }
}

#[test]
fn repeated_vips_count_once() {
    let _alone = alone();
    let net = Net::new();
    let set = vips(3);
    let mut input = set.clone();
    input.extend(set.iter().rev());
    input.push(set[0]);
    let report = builder().open().unwrap().assign(&input).unwrap();
    assert_eq!(counts(&report), [6, 0, 0, 0, 0], "{report}");
    net.assert_single_route(&set, PROTO_KERNEL);
}

#[test]
fn a_report_has_an_outcome_for_each_vip_written_to() {
    let _alone = alone();
    let net = Net::new();
    for set in [vips_v4(4), vips_v6(4)] {
        let [right, new, drifted, gone] = set[..] else {
            panic!("four VIPs");
        };
        let mut manager = builder().open().unwrap();
        manager.assign([right, drifted]).unwrap();
        // The source is the VIP itself, as the kernel's own route has it.
        let metric = if drifted.is_ipv6() { 1024 } else { 0 };
        net.ip(&format!(
            "route replace local {drifted} dev {VIP_LINK} table local proto kernel src {drifted} \
             metric {metric}"
        ));
        let report = manager.assign([drifted, new, right]).unwrap();
        let outcomes = |report: &Report| {
            let outcome = |of: &Outcome| (of.vip.addr(), of.kind, of.cured);
            report.outcomes.iter().map(outcome).collect::<Vec<_>>()
        };
        let cured = match drifted {
            IpAddr::V4(_) => Drift::KERNEL_LOCAL_ROUTE | Drift::MISSING_ROUTE,
            IpAddr::V6(_) => Drift::WRONG_SOURCE | Drift::MISSING_ROUTE,
        };
        let expected = [
            (new, OutcomeKind::Assigned, Drift::empty()),
            (drifted, OutcomeKind::Repaired, cured),
        ];
        assert_eq!(outcomes(&report), expected);
        assert_eq!(manager.assign(&set[..3]).unwrap().outcomes, []);
        let report = manager.release([gone, new]).unwrap();
        let expected = [(new, OutcomeKind::Released, Drift::empty())];
        assert_eq!(outcomes(&report), expected);
    }
}

#[test]
fn empty_set_sends_nothing_that_writes() {
    let _alone = alone();
    let net = Net::new();
    let before = net.snapshot_without(&[]);
    let report = builder()
        .open()
        .unwrap()
        .assign(std::iter::empty::<IpAddr>())
        .unwrap();
    assert_eq!(report, Report::default());
    assert_eq!(before, net.snapshot_without(&[]));
}

#[test]
fn assign_takes_items_of_every_type() {
    let _alone = alone();
    let net = Net::new();
    let mut vips = builder().open().unwrap();
    let v4: Vec<Ipv4Addr> = (1..=7).map(|host| Ipv4Addr::new(10, 96, 0, host)).collect();
    let v6: Vec<Ipv6Addr> = (1..=7)
        .map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, host))
        .collect();
    let one = |report: Result<Report, Error>| {
        let report = report.unwrap();
        assert_eq!(counts(&report), [1, 0, 0, 0, 0], "{report}");
    };
    one(vips.assign([v4[0]]));
    one(vips.assign(&v4[1..2]));
    one(vips.assign(Some(v6[0])));
    one(vips.assign(&v6[1..2]));
    one(vips.assign([IpAddr::from(v4[2])]));
    let v6_2 = IpAddr::from(v6[2]);
    one(vips.assign([&v6_2]));
    one(vips.assign(std::iter::once(Vip::from(v4[3]))));
    let list = [Vip::from(v6[3])];
    one(vips.assign(list.iter().filter(|_| true)));
    one(vips.assign(["10.96.0.5/32".parse::<Vip>().unwrap()]));
    one(vips.assign(std::collections::BTreeSet::from([v6[4]])));
    one(vips.assign(v4.iter().skip(5).take(1)));
    one(vips.assign(Box::new([v6[5]].into_iter()) as Box<dyn Iterator<Item = Ipv6Addr>>));
    let done: Vec<IpAddr> = (0..6)
        .flat_map(|at| [IpAddr::from(v4[at]), IpAddr::from(v6[at])])
        .collect();
    net.assert_single_route(&done, PROTO_KERNEL);
    net.assert_absent(&[v4[6].into(), v6[6].into()]);
}

#[test]
fn assign_takes_only_vips_of_allowed_ranges() {
    let _alone = alone();
    let net = Net::new();
    let ranges: [IpNet; 2] = [
        "10.96.0.0/30".parse().unwrap(),
        "2001:db8:42::/126".parse().unwrap(),
    ];
    let mut manager = builder().allow(ranges[0]).allow(ranges[1]).open().unwrap();
    let error = manager.assign(vips(5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete);
    let report = error.report().unwrap();
    // Of 1 to 5, 4 and 5 are outside.
    assert_eq!(counts(report), [6, 0, 0, 0, 4], "{report}");
    let (inside, outside): (Vec<IpAddr>, Vec<IpAddr>) = vips(5)
        .into_iter()
        .partition(|vip| ranges.iter().any(|range| range.contains(vip)));
    assert_eq!((inside.len(), outside.len()), (6, 4));
    for failure in &report.failures {
        assert_eq!(failure.cause, Cause::Rejected(RejectReason::OutsideAllowed));
        assert_eq!(failure.drift, Drift::empty());
        assert!(outside.contains(&failure.vip.addr()));
    }
    net.assert_single_route(&inside, PROTO_KERNEL);
    net.assert_absent(&outside);
}

#[test]
fn one_family_needs_one_source() {
    let _alone = alone();
    let net = Net::new();
    let mut vips = VipManager::builder(VIP_LINK)
        .source(NODE_V6)
        .open()
        .unwrap();
    let error = vips.assign(common::vips(2)).unwrap_err();
    let report = error.report().unwrap();
    assert_eq!(counts(report), [2, 0, 0, 0, 2], "{report}");
    assert!(
        report
            .failures
            .iter()
            .all(|failure| failure.vip.addr().is_ipv4()
                && failure.cause == Cause::Rejected(RejectReason::NoSource))
    );
    net.assert_single_route(&vips_v6(2), PROTO_KERNEL);
    net.assert_absent(&vips_v4(2));
}

/// Nothing but `lo`, which holds the node's addresses.
fn without_link() -> Net {
    let net = Net::bare();
    net.add_node_addresses("lo");
    net.wait_for_kernel();
    net
}

fn has_dummy() -> bool {
    let net = Net::bare();
    net.try_ip("link add dev probe type dummy").is_ok()
}

#[test]
fn first_assign_creates_the_link() {
    let _alone = alone();
    let kind = if has_dummy() {
        LinkKind::Dummy
    } else {
        LinkKind::Bridge
    };
    let net = without_link();
    let set = vips(10);
    let mut manager = builder().create_link(kind).open().unwrap();
    assert!(net.try_ip(&format!("link show dev {VIP_LINK}")).is_err());
    let report = manager.assign(&set).unwrap();
    assert_eq!(counts(&report), [20, 0, 0, 0, 0], "{report}");
    net.assert_single_route(&set, PROTO_KERNEL);

    let link = &net.ip_json(&format!("link show dev {VIP_LINK}"))[0];
    let word = if kind == LinkKind::Dummy {
        "dummy"
    } else {
        "bridge"
    };
    assert_eq!(link["linkinfo"]["info_kind"], word);
    let flags: Vec<_> = link["flags"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    assert!(
        flags.contains(&"UP") && flags.contains(&"NOARP"),
        "{flags:?}"
    );
    // No address but the VIPs.
    let state = net.local_state();
    let on_link = |state: &LocalState| {
        state
            .addresses
            .values()
            .flatten()
            .filter(|address| address.dev == VIP_LINK)
            .count()
    };
    assert_eq!(on_link(&state), set.len());

    // The link goes away with all; the next call starts again.
    net.ip(&format!("link del dev {VIP_LINK}"));
    let report = manager.assign(&set).unwrap();
    assert_eq!(counts(&report), [20, 0, 0, 0, 0], "{report}");
    net.assert_single_route(&set, PROTO_KERNEL);
}

#[test]
fn missing_link_is_an_error() {
    let _alone = alone();
    let net = without_link();
    let before = net.snapshot_without(&[]);
    let error = builder().open().unwrap().assign(vips(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkNotFound);
    assert!(error.report().is_none());
    assert_eq!(before, net.snapshot_without(&[]));
}

#[test]
fn unsupported_link_kind_fails_with_the_kernels_text() {
    let _alone = alone();
    if has_dummy() {
        let name = "unsupported_link_kind_fails_with_the_kernels_text";
        common::skipped(name, "this kernel has dummy links, so nothing is missing");
        return;
    }
    let net = without_link();
    let before = net.snapshot_without(&[]);
    let error = builder()
        .create_link(LinkKind::Dummy)
        .open()
        .unwrap()
        .assign(vips(2))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    assert_eq!(error.kernel_text(), Some("Unknown device type"));
    assert!(error.to_string().contains("Unknown device type"), "{error}");
    assert!(error.report().is_none());
    assert_eq!(before, net.snapshot_without(&[]));
}

#[test]
fn link_is_brought_up_only_if_allowed() {
    let _alone = alone();
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.add_link_down(VIP_LINK);
    net.wait_for_kernel();
    let before = net.snapshot_without(&[]);
    let set = vips(10);

    let v6 = vips_v6(10);
    let error = builder().open().unwrap().assign(&v6).unwrap_err();
    let failures = &error.report().unwrap().failures;
    let down = Cause::Missing(ErrorKind::LinkDown);
    assert!(
        failures.iter().all(|failure| failure.cause == down),
        "{error}"
    );
    assert_eq!(failures.len(), 10);
    assert_eq!(before, net.snapshot_without(&[]));

    let report = builder().bring_up().open().unwrap().assign(&set).unwrap();
    assert_eq!(counts(&report), [20, 0, 0, 0, 0], "{report}");
    net.assert_single_route(&set, PROTO_KERNEL);
}

#[test]
fn manager_stays_in_its_namespace() {
    let _alone = alone();
    let net = Net::new();
    let set = vips(20);
    let mut manager = builder().open().unwrap();
    let (mut manager, there) = std::thread::scope(|scope| {
        let set = &set;
        scope
            .spawn(move || {
                // The same link and sources are here too.
                let elsewhere = Net::new();
                let report = manager.assign(set).unwrap();
                assert_eq!(counts(&report), [40, 0, 0, 0, 0], "{report}");
                elsewhere.assert_absent(set);
                (manager, elsewhere.wrong_vips(set, PROTO_KERNEL).len())
            })
            .join()
            .unwrap()
    });
    assert_eq!(there, set.len());
    net.assert_single_route(&set, PROTO_KERNEL);
    // And back.
    let report = manager.assign(&set).unwrap();
    assert_eq!(counts(&report), [0, 0, 0, 40, 0], "{report}");
}

/// Every VIP counts exactly once, and those said to be done are.
#[track_caller]
fn check_stopped(net: &Net, set: &[IpAddr], report: &Report) -> usize {
    let [assigned, repaired, released, unchanged, failed] = counts(report);
    assert_eq!(
        (assigned + repaired + unchanged + failed, released),
        (set.len(), 0),
        "{report}"
    );
    let mut failing: Vec<IpAddr> = report.failures.iter().map(|f| f.vip.addr()).collect();
    for failure in &report.failures {
        // Its turn had not come, or the kernel had something to finish for it.
        let unfinished = matches!(failure.cause, Cause::NotReached | Cause::Pending);
        assert!(unfinished, "{failure}");
    }
    failing.sort_unstable();
    failing.dedup();
    assert_eq!(failing.len(), failed, "a VIP failed twice");
    let done: Vec<IpAddr> = set
        .iter()
        .copied()
        .filter(|vip| failing.binary_search(vip).is_err())
        .collect();
    assert_eq!(done.len(), set.len() - failed, "a failure of no given VIP");
    if !done.is_empty() {
        net.assert_single_route(&done, PROTO_KERNEL);
    }
    done.len()
}

#[test]
fn call_after_a_time_out_completes() {
    let _alone = alone();
    let set = vips(2_500);
    let mut cut = 0;
    for millis in [0, 1, 5, 20, 50] {
        let net = Net::new();
        let mut short = builder()
            .total_timeout(Duration::from_millis(millis))
            .open()
            .unwrap();
        let start = Instant::now();
        let outcome = short.assign(&set);
        let took = start.elapsed();
        match outcome {
            Ok(report) => println!("done within {millis} ms: {report}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
                let report = error.report().unwrap();
                println!("{millis} ms: {took:.1?}, {report}");
                check_stopped(&net, &set, report);
                cut += usize::from(report.writes > 0);
            }
        }

        let report = builder().open().unwrap().assign(&set).unwrap();
        assert_eq!(
            report.assigned + report.repaired + report.unchanged,
            set.len()
        );
        net.assert_single_route(&set, PROTO_KERNEL);
    }
    // How far a call gets in its time is the machine's: not asserted.
    println!("{cut} were stopped at work");
}

#[test]
fn cancelled_call_writes_nothing() {
    let _alone = alone();
    let net = Net::new();
    let set = vips(100);
    let mut manager = builder().open().unwrap();
    let before = net.snapshot_without(&[]);
    let canceller = manager.canceller();
    canceller.cancel();
    canceller.clone().cancel();
    let error = manager.assign(&set).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let report = error.report().unwrap();
    assert_eq!(report.writes, 0);
    assert_eq!(check_stopped(&net, &set, report), 0, "{report}");
    assert_eq!(before, net.snapshot_without(&[]));
    // Seen once, it is over.
    let report = manager.assign(&set).unwrap();
    assert_eq!(counts(&report), [200, 0, 0, 0, 0], "{report}");
    net.assert_single_route(&set, PROTO_KERNEL);
    // The manager may be gone first.
    drop(manager);
    canceller.cancel();
}

/// How many this thread's namespace has.
fn ipv6_addresses() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
    table.lines().count()
}

#[test]
fn cancelled_call_of_ten_thousand_reports_every_vip() {
    let _alone = alone();
    let set = vips(5_000);
    let mut middle = 0;
    for more in [1, 200, 1_000, 3_000] {
        let net = Net::new();
        let mut manager = builder().open().unwrap();
        // These are right already, and stay.
        manager.assign(&set[..100]).unwrap();
        let canceller = manager.canceller();
        // Cancelled by what is there, not by the clock: then something is done.
        let enough = ipv6_addresses() + more;
        let over = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while ipv6_addresses() < enough && !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                canceller.cancel();
            });
            let outcome = manager.assign(&set);
            over.store(true, Ordering::Relaxed);
            outcome
        });
        match outcome {
            Ok(report) => println!("done before {more} more were seen: {report}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                let report = error.report().unwrap();
                println!("after {more}: {report}");
                let done = check_stopped(&net, &set, report);
                middle += 1;
                assert!(report.writes > 0, "{report}");
                assert!(report.unchanged == 100 && done >= 100, "{report}");
            }
        }
        let report = match manager.assign(&set) {
            // The cancellation came when the call was just over.
            Err(error) if error.kind() == ErrorKind::Cancelled => manager.assign(&set),
            outcome => outcome,
        }
        .unwrap();
        assert_eq!(
            report.assigned + report.repaired + report.unchanged,
            set.len()
        );
        net.assert_single_route(&set, PROTO_KERNEL);
    }
    assert!(middle > 0, "none was cancelled at work");
}

#[test]
fn assign_leaks_no_descriptor() {
    let _alone = alone();
    let net = Net::new();
    let set = vips(2);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    builder().open().unwrap().assign(&set).unwrap();
    let before = open();
    let kept = builder().open().unwrap();
    let own = open() - before;
    assert!(own > 0, "the count does not see a manager's sockets");
    drop(kept);
    assert_eq!(open(), before);
    for round in 0..common::full_or_quick(200, 30) {
        let mut manager = builder().open().unwrap();
        let canceller = manager.canceller();
        let report = manager.assign(&set).unwrap();
        assert_eq!(report.unchanged, set.len());
        if round % 2 == 0 {
            manager.release(&set).unwrap();
            manager.assign(&set).unwrap();
        }
        if round % 3 == 0 {
            canceller.cancel();
            assert!(manager.assign(&set).is_err());
        }
    }
    assert_eq!(open(), before);
    net.assert_single_route(&set, PROTO_KERNEL);
}

/// Sources on `lo`, as in routed fabrics.
#[test]
fn assign_takes_sources_on_lo() {
    let _alone = alone();
    let net = Net::with_node_on_lo();
    let set = vips(10);
    let report = builder().open().unwrap().assign(&set).unwrap();
    assert_eq!(counts(&report), [20, 0, 0, 0, 0], "{report}");
    net.local_state().assert_single_route(
        &set,
        &Want {
            sources: &SOURCES,
            ..Want::default()
        },
    );
}

#[test]
fn assign_under_a_rule_before_table_local_writes_only_new_vips() {
    let _alone = alone();
    for diversion in Diversion::ALL {
        let net = Net::new();
        let set = vips(3);
        let mut vips = builder().open().unwrap();
        vips.assign(&set[..2]).unwrap();
        vips.assign(&set[3..5]).unwrap();
        if !diversion.put(&net) {
            continue;
        }
        let watcher = RouteWatcher::new();
        for vip in [set[0], set[1], set[3], set[4]] {
            let report = vips.assign([vip]).unwrap();
            assert_eq!(
                (report.unchanged, report.writes),
                (1, 0),
                "{diversion:?}: {report}"
            );
        }
        assert_eq!(watcher.drain(), Vec::new(), "{diversion:?}");
        let report = vips.assign(&set).unwrap();
        assert_eq!(
            (report.assigned, report.unchanged),
            (2, 4),
            "{diversion:?}: {report}"
        );
        net.assert_single_route(&set, PROTO_KERNEL);
    }
}

/// As kube-vip leaves its addresses: what does not renew them ends them.
#[test]
fn assign_makes_an_expiring_address_permanent() {
    let _alone = alone();
    for protocol in [PROTO_KERNEL, MARK] {
        let net = Net::new();
        let (v4, v6) = (vips_v4(4), vips_v6(4));
        let add = |address: String, rest: &str| {
            format!("addr add {address} dev {VIP_LINK} valid_lft 600 preferred_lft {rest}")
        };
        net.ip_batch([
            add(format!("{}/32", v4[0]), "600"),
            add(format!("{} peer 192.0.2.77/32", v4[1]), "60"),
            add(format!("{} peer 192.0.2.78/32", v4[1]), "60"),
            add(format!("{}/32", v4[2]), "0 metric 77"),
            add(format!("{}/128", v6[0]), "600 nodad"),
            add(format!("{}/128", v6[1]), "60 nodad noprefixroute"),
            add(format!("{}/128", v6[2]), "0 nodad metric 77"),
        ]);
        let set = [&v4[..], &v6[..]].concat();
        let mut vips = builder()
            .protocol(Protocol::new(protocol).unwrap())
            .open()
            .unwrap();
        for audited in vips.audit().unwrap().vips {
            assert!(audited.drift.contains(Drift::EXPIRING_ADDRESS), "{audited}");
        }
        let report = vips.assign(&set).unwrap();
        assert_eq!(counts(&report), [2, 6, 0, 0, 0], "{report}");
        assert!(vips.audit().unwrap().is_clean());
        let state = net.local_state();
        for vip in &set {
            for address in state.addresses_of(*vip) {
                assert!(!address.expires, "{address:?}");
                assert!(vip.is_ipv4() || address.noprefixroute, "{address:?}");
            }
            assert_eq!(state.routes_of(*vip).len(), 1, "{vip}");
        }
        assert_eq!(state.addresses_of(v4[1]).len(), 2, "each by its peer");
        let shown = net.ip(&format!("-d addr show dev {VIP_LINK} deprecated"));
        for vip in [v4[2], v6[2]] {
            assert!(shown.contains(&vip.to_string()), "{shown}");
        }
        assert!(shown.contains("metric 77"), "{shown}");
        assert_eq!(vips.assign(&set).unwrap().writes, 0);
    }
}

/// Each address of ten thousand takes the kernel longer than the one before, so the first VIP must not wait for
/// the last address.
#[test]
fn new_ipv6_vips_are_right_before_the_last_address_is_there() {
    let _alone = alone();
    let net = Net::new();
    let set = vips_v6(3000);
    let ip = |words: &str| {
        let output = Command::new("ip").args(words.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let source = format!("src {NODE_V6} ");
    let last = format!(" {}/128 ", set[set.len() - 1]);
    let mut vips = builder().open().unwrap();
    let is_over = AtomicBool::new(false);
    let was_early = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // An address that is missing after the look at the routes was missing before it.
                let routes = ip(&format!(
                    "-6 route show table local dev {VIP_LINK} type local"
                ));
                let addresses = ip(&format!("-6 addr show dev {VIP_LINK}"));
                if routes.contains(&source) && !addresses.contains(&last) {
                    return true;
                }
            }
            false
        });
        let over = common::SetOnDrop(&is_over);
        assert_eq!(vips.assign(&set).unwrap().assigned, set.len());
        drop(over);
        watcher.join().unwrap()
    });
    assert!(was_early);
    net.assert_single_route(&set, PROTO_KERNEL);
}
