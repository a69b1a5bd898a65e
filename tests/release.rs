//! `release` removes the VIPs' addresses and routes, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/rules.rs"]
mod rules;

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage::{NewAddress, NewRoute};

use broken::{PROTOCOLS, Random, State, assert_single_route, builder, manager, one_of_each, put};
use common::raw::{self, CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, Raw};
use common::{
    NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, Snapshot, VIP_LINK, vips, vips_v4, vips_v6,
};
use rules::{Churn, Diversion};
use viproute::{
    Binding, Cause, Claim, Drift, ErrorKind, Protocol, RejectReason, Report, VipManager,
};

/// A manager that knows no source.
fn without_source(protocol: u8) -> VipManager {
    VipManager::builder(VIP_LINK)
        .protocol(Protocol::new(protocol).unwrap())
        .open()
        .unwrap()
}

/// So that the kernel does not flush the link's IPv4 routes with its last IPv4 address.
fn keep_an_address(net: &Net) {
    net.ip(&format!("addr add 203.0.113.77/32 dev {VIP_LINK}"));
}

#[test]
fn release_removes_each_state_and_nothing_else() {
    for (protocol, with_source) in [(PROTO_KERNEL, true), (PROTO_KERNEL, false), (201, true)] {
        let net = Net::new();
        keep_an_address(&net);
        let all = one_of_each();
        put(&net, &all, protocol);
        let mut manager = if with_source {
            manager(protocol)
        } else {
            without_source(protocol)
        };
        let mut before = Snapshot::read(&[]);
        for &(vip, state) in &all {
            let report = manager.release([vip]).unwrap();
            println!("{protocol} {with_source}: {state:?} {vip}: {report}");
            assert_eq!((report.released, report.unchanged), (1, 0), "{report}");
            assert!((1..=6).contains(&report.writes), "{state:?} {report}");
            let after = Snapshot::read(&[]);
            let named = |line: &str| line.contains(&format!("\"{vip}\""));
            let diff = before.diff(&after);
            assert!(!diff.is_empty(), "{state:?}");
            for line in diff {
                assert!(line.starts_with('-') && named(&line), "{state:?}: {line}");
            }
            assert!(
                !after.lines().iter().any(|line| named(line)),
                "{state:?}: {after:?}"
            );
            before = after;
        }
        // Twice: there is nothing to do.
        let watcher = RouteWatcher::new();
        let report = manager.release(all.iter().map(|(vip, _)| vip)).unwrap();
        assert_eq!(
            (report.unchanged, report.writes),
            (all.len(), 0),
            "{report}"
        );
        assert_eq!(watcher.drain(), Vec::new());
    }
}

#[test]
fn release_of_a_thousand_random_states_restores_the_link() {
    let mut random = Random::new();
    for protocol in PROTOCOLS {
        let net = Net::new();
        keep_an_address(&net);
        let start = Snapshot::read(&[]);
        let vips = vips(500);
        let all: Vec<_> = vips
            .iter()
            .map(|vip| (*vip, random.pick(&State::of(*vip))))
            .collect();
        put(&net, &all, protocol);
        // Another node's addresses are there since, for the wrong sources.
        let others = [broken::OTHER_V4.into(), broken::OTHER_V6.into()];
        let there = vips.iter().chain(&others).copied().collect::<Vec<IpAddr>>();
        start.assert_same(&net.snapshot_without(&there));

        let kept: Vec<IpAddr> = vips.iter().copied().step_by(10).collect();
        let gone: Vec<IpAddr> = vips
            .iter()
            .copied()
            .filter(|vip| !kept.contains(vip))
            .collect();
        let rest = net.snapshot_without(&gone);
        let mut manager = without_source(protocol);
        let report = manager.release(&gone).unwrap();
        assert_eq!(report.released, gone.len(), "{report}");
        net.assert_absent(&gone);
        rest.assert_same(&net.snapshot_without(&gone));

        let report = manager.release(&vips).unwrap();
        assert_eq!(
            (report.released, report.unchanged),
            (kept.len(), gone.len()),
            "{report}"
        );
        net.assert_absent(&vips);
        start.assert_same(&net.snapshot_without(&others));
        let report = manager.release(&vips).unwrap();
        assert_eq!(
            (report.unchanged, report.writes),
            (vips.len(), 0),
            "{report}"
        );
    }
}

#[test]
fn assign_and_release_of_all_restore_the_node() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let start = Snapshot::read(&[]);
        let vips = vips(500);
        let mut manager = manager(protocol);
        assert_eq!(manager.assign(&vips).unwrap().assigned, vips.len());
        assert_single_route(&net, &vips, protocol);
        let report = manager.release(&vips).unwrap();
        assert_eq!(report.released, vips.len(), "{report}");
        start.assert_same(&Snapshot::read(&[]));
        // And again on the used link.
        assert_eq!(manager.assign(&vips).unwrap().assigned, vips.len());
        assert_eq!(manager.release(&vips).unwrap().released, vips.len());
        start.assert_same(&Snapshot::read(&[]));
    }
}

/// The kernel deletes an IPv4 address's secondaries with it: those of the same subnet. VIPs must
/// not be such.
#[test]
fn release_of_one_vip_leaves_the_others() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(6);
        let mut manager = manager(protocol);
        manager.assign(&vips).unwrap();
        let shown = net.ip_json(&format!("addr show dev {VIP_LINK}"));
        for address in shown[0]["addr_info"].as_array().unwrap() {
            assert!(address["secondary"].is_null(), "{address}");
            assert!(address["address"].is_null(), "no peer: {address}");
        }
        for (at, vip) in vips.iter().enumerate() {
            let rest = net.snapshot_without(&[*vip]);
            assert_eq!(manager.release([vip]).unwrap().released, 1);
            rest.assert_same(&net.snapshot_without(&[*vip]));
            net.assert_absent(&vips[..=at]);
            if at + 1 < vips.len() {
                assert_single_route(&net, &vips[at + 1..], protocol);
            }
        }
    }
}

#[test]
fn release_deletes_route_whose_address_is_gone() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        keep_an_address(&net);
        let start = Snapshot::read(&[]);
        let vips = vips(20);
        manager(protocol).assign(&vips).unwrap();
        for vip in &vips {
            let length = common::host_bits(*vip);
            net.ip(&format!("addr del {vip}/{length} dev {VIP_LINK}"));
        }
        let state = net.local_state();
        let leaked = vips
            .iter()
            .filter(|vip| state.routes_of(**vip).iter().any(|route| route.is_local()));
        assert_eq!(
            leaked.count(),
            vips.len(),
            "all of them are local without an address"
        );
        let report = without_source(protocol).release(&vips).unwrap();
        assert_eq!(report.released, vips.len(), "{report}");
        assert_eq!(report.writes, vips.len() as u64, "{report}");
        start.assert_same(&Snapshot::read(&[]));
    }
}

#[test]
fn release_leaves_an_address_with_another_prefix_length() {
    for protocol in PROTOCOLS {
        for with_route in [false, true] {
            let net = Net::new();
            let link = net.vip_index();
            let (v4, v6) = (vips_v4(2), vips_v6(2));
            net.ip(&format!("addr add {}/24 dev {VIP_LINK}", v4[0]));
            net.ip(&format!("-6 addr add {}/64 dev {VIP_LINK} nodad", v6[0]));
            broken::wait_for_kernel_routes(&[v4[0], v6[0]]);
            if with_route {
                let desired = |vip, source| raw::local_route(vip, link, Some(source), protocol);
                Raw::new().batch_ok(&[
                    (NewRoute(desired(v4[0], NODE_V4.into())), CREATE_REPLACE),
                    (NewRoute(desired(v6[0], NODE_V6.into())), CREATE_REPLACE),
                ]);
            }
            let given = [v4[0], v6[0], v4[1], v6[1]];
            manager(protocol).assign(&given[2..]).unwrap();
            let before = net.snapshot_without(&given[2..]);
            let watcher = RouteWatcher::new();
            for mut manager in [manager(protocol), without_source(protocol)] {
                let error = manager.release(given).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Incomplete);
                let report = error.into_report().unwrap();
                assert_eq!(report.failures.len(), 2, "{report:?}");
                for (failure, vip) in report.failures.iter().zip(&given) {
                    assert_eq!(failure.vip, vip.into());
                    assert_eq!(failure.cause, Cause::OtherPrefixLength, "{failure}");
                    assert!(
                        failure.drift.contains(Drift::WRONG_PREFIX_LENGTH),
                        "{failure}"
                    );
                }
                before.assert_same(&net.snapshot_without(&given[2..]));
            }
            net.assert_absent(&given[2..]);
            // Nothing was tried either.
            let touched = watcher.drain().into_iter().any(|event| match event {
                common::Event::Route(route) => {
                    route.dst.is_some_and(|dst| given[..2].contains(&dst))
                }
                common::Event::Address(address) => given[..2].contains(&address.local),
            });
            assert!(!touched);
        }
    }
}

/// The same address as a host prefix beside it: the two share the kernel's local route.
#[test]
fn release_leaves_both_addresses_of_two_prefix_lengths() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vip = vips_v4(1)[0];
        net.ip(&format!("addr add {vip}/24 dev {VIP_LINK}"));
        net.ip(&format!("addr add {vip}/32 dev {VIP_LINK}"));
        let before = Snapshot::read(&[]);
        let report = manager(protocol)
            .release([vip])
            .unwrap_err()
            .into_report()
            .unwrap();
        assert_eq!(report.failures.len(), 1, "{report:?}");
        assert_eq!(report.failures[0].cause, Cause::OtherPrefixLength);
        assert!(
            report.failures[0]
                .drift
                .contains(Drift::WRONG_PREFIX_LENGTH)
        );
        assert_eq!(report.writes, 0, "{report}");
        before.assert_same(&Snapshot::read(&[]));
    }
}

#[test]
fn release_never_touches_link_local_loopback_and_sources() {
    let net = Net::new();
    // The node's addresses on the VIP link itself, and a link-local one.
    net.add_node_addresses(VIP_LINK);
    net.ip(&format!("-6 addr add fe80::1/64 dev {VIP_LINK} nodad"));
    net.ip(&format!("-6 addr add fe80::2/128 dev {VIP_LINK} nodad"));
    let vips = vips(2);
    manager(PROTO_KERNEL).assign(&vips).unwrap();
    let before = net.snapshot_without(&vips);
    let given: Vec<IpAddr> = [
        "fe80::1",
        "fe80::2",
        "127.0.0.1",
        "::1",
        "ff02::1",
        "224.0.0.1",
    ]
    .into_iter()
    .map(|text| text.parse().unwrap())
    .chain([NODE_V4.into(), NODE_V6.into()])
    .chain(vips.iter().copied())
    .collect();
    let report = manager(PROTO_KERNEL)
        .release(&given)
        .unwrap_err()
        .into_report()
        .unwrap();
    assert_eq!(report.released, vips.len(), "{report}");
    assert_eq!(report.failures.len(), 8, "{report:?}");
    for failure in &report.failures {
        let Cause::Rejected(why) = failure.cause else {
            panic!("{failure}");
        };
        let is_source = [NODE_V4.into(), NODE_V6.into()].contains(&failure.vip.addr());
        assert_eq!(why == RejectReason::IsSource, is_source, "{failure}");
    }
    net.assert_absent(&vips);
    before.assert_same(&net.snapshot_without(&vips));
    // Normalizing them is not tried either.
    let report = manager(PROTO_KERNEL).normalize().unwrap();
    assert_eq!(report, Report::default());
}

#[test]
fn release_works_on_a_link_that_is_down() {
    for protocol in PROTOCOLS {
        for keep in ["0", "1"] {
            let net = Net::new();
            keep_an_address(&net);
            net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/keep_addr_on_down"), keep);
            let vips = vips(20);
            let mut manager = manager(protocol);
            manager.assign(&vips).unwrap();
            net.ip(&format!("link set dev {VIP_LINK} down"));
            let before = net.snapshot_without(&vips);
            let state = net.local_state();
            let there = vips
                .iter()
                .filter(|vip| !state.addresses_of(**vip).is_empty());
            let count = there.count();
            assert_eq!(count, if keep == "1" { 40 } else { 20 });
            let report = manager.release(&vips).unwrap();
            assert_eq!(
                (report.released, report.unchanged),
                (count, 40 - count),
                "{report}"
            );
            net.assert_absent(&vips);
            before.assert_same(&net.snapshot_without(&vips));
            // It is still down, and nothing comes back with it.
            let refused = manager.assign(&vips).unwrap_err();
            let failures = &refused.report().unwrap().failures;
            let down = Cause::Missing(ErrorKind::LinkDown);
            assert!(
                failures
                    .iter()
                    .all(|f| f.cause == down && f.vip.addr().is_ipv6())
            );
            assert_eq!(failures.len(), 20, "{refused}");
            manager.release(&vips).unwrap();
            net.ip(&format!("link set dev {VIP_LINK} up"));
            net.wait_for_kernel();
            net.assert_absent(&vips);
        }
    }
}

#[test]
fn release_leaves_another_devices_route_to_the_vip() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        keep_an_address(&net);
        let other = net.add_link("other0");
        let link = net.vip_index();
        let (v4, v6) = (vips_v4(3), vips_v6(3));
        let vips = [&v4[..], &v6[..]].concat();
        let mut raw = Raw::new();
        let mut manager = manager(protocol);
        manager.assign(&vips).unwrap();
        // An address on the other, on `lo`, and only a route.
        let add = |vip, on| (NewAddress(raw::vip_address(vip, on)), CREATE_EXCL);
        let route = |vip, source: IpAddr, on| {
            (
                NewRoute(raw::local_route(vip, on, Some(source), protocol)),
                CREATE_APPEND,
            )
        };
        raw.batch_ok(&[
            add(v4[0], other),
            add(v6[0], other),
            add(v4[1], 1),
            add(v6[1], 1),
            route(v4[2], NODE_V4.into(), other),
            route(v6[2], NODE_V6.into(), other),
        ]);
        // And the kernel's on the VIP link, so that everything is there at once.
        raw.batch_ok(&[(
            NewRoute(raw::local_route(v4[0], link, Some(v4[0]), PROTO_KERNEL)),
            CREATE_APPEND,
        )]);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let elsewhere = |snapshot: &Snapshot| -> Vec<String> {
            let lines = snapshot.lines().iter();
            lines
                .filter(|line| !line.contains(VIP_LINK))
                .cloned()
                .collect()
        };
        let before = elsewhere(&Snapshot::read(&[]));
        for vip in &vips {
            let named = before
                .iter()
                .filter(|line| line.contains(&format!("\"{vip}\"")));
            assert!(named.count() >= 1, "{vip} is elsewhere too: {before:#?}");
        }
        let report = without_source(protocol).release(&vips).unwrap();
        assert_eq!(report.released, vips.len(), "{report}");
        net.assert_absent(&vips);
        assert_eq!(elsewhere(&Snapshot::read(&[])), before);
        assert_eq!(without_source(protocol).release(&vips).unwrap().writes, 0);
    }
}

#[test]
fn release_of_absent_vips_writes_nothing() {
    let _net = Net::new();
    let vips = vips(500);
    let before = Snapshot::read(&[]);
    let watcher = RouteWatcher::new();
    for mut manager in [manager(PROTO_KERNEL), without_source(201)] {
        let report = manager.release(&vips).unwrap();
        assert_eq!((report.unchanged, report.writes), (1000, 0), "{report}");
        assert_eq!(
            manager.release(Vec::<IpAddr>::new()).unwrap(),
            Report::default()
        );
    }
    assert_eq!(watcher.drain(), Vec::new());
    before.assert_same(&Snapshot::read(&[]));
    // Without the link there is nothing to be sure of.
    let mut lost = builder("nowhere0", PROTO_KERNEL).open().unwrap();
    assert_eq!(
        lost.release(&vips).unwrap_err().kind(),
        ErrorKind::LinkNotFound
    );
}

/// An IPv4 address with a peer has a prefix of one host, the peer's, and is the VIP's for all that.
/// A deletion has to name the peer, or it finds nothing when the routes are gone already.
#[test]
fn release_removes_an_ipv4_address_with_a_peer() {
    let vip = common::vip("10.96.0.1");
    let (plain, peer) = (format!("{vip}/32"), format!("{vip} peer 10.96.0.2/32"));
    let other = format!("{vip} peer 10.96.0.3/32");
    for addresses in [&[&peer][..], &[&plain, &peer], &[&peer, &other, &plain]] {
        for call in 0..5 {
            let net = Net::new();
            // With the last IPv4 address all routes go.
            net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
            let before = net.snapshot_without(&[vip]);
            for address in addresses {
                net.ip(&format!("addr add {address} dev {VIP_LINK}"));
            }
            let mut manager = manager(PROTO_KERNEL);
            let report = manager.assign([vip]).unwrap();
            assert_eq!((report.repaired, report.writes), (1, 1), "{report}");
            let (left, result) = match call {
                0 => (false, manager.release([vip])),
                1 => (false, manager.release_all(&Claim::link())),
                2 => (true, manager.set_binding(Binding::Route)),
                3 => {
                    let plan = manager.plan(&Claim::link(), [common::vip("10.96.0.9")]);
                    run(&plan.unwrap());
                    (false, manager.release([vip, common::vip("10.96.0.9")]))
                }
                _ => (
                    false,
                    manager.reconcile(&Claim::link(), [common::vip("10.96.0.9")]),
                ),
            };
            let report = result.unwrap_or_else(|error| panic!("{addresses:?}: {error}"));
            assert_eq!(report.retries, 0, "{report}");
            if call == 3 {
                assert_eq!(report.unchanged, 1, "by the script: {report}");
            }
            if left {
                manager.release([vip]).unwrap();
            }
            if call == 4 {
                manager.release([common::vip("10.96.0.9")]).unwrap();
            }
            before.assert_same(&net.snapshot_without(&[vip]));
            net.assert_absent(&[vip]);
        }
    }
}

/// Runs a plan's script.
fn run(plan: &viproute::Plan) {
    let script = format!("{plan}");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
}

#[test]
fn release_under_a_rule_before_table_local_deletes_every_route() {
    for diversion in Diversion::ALL {
        for binding in [Binding::Address, Binding::Route] {
            let net = Net::new();
            keep_an_address(&net);
            let vips = vips(2);
            let builder = builder(VIP_LINK, PROTO_KERNEL).binding(binding);
            let mut manager = builder.open().unwrap();
            manager.assign(&vips).unwrap();
            if !diversion.put(&net) {
                continue;
            }
            // A few of one family are looked up one by one.
            for of_family in [vips_v4(2), vips_v6(2)] {
                let report = manager.release(&of_family).unwrap();
                assert_eq!(report.released, 2, "{diversion:?} {binding:?}: {report}");
                net.assert_absent(&of_family);
            }
        }
    }
}

#[test]
fn release_under_a_rule_and_churn_reports_no_false_success() {
    // Not every dump beside the writer is interrupted, so several calls.
    let diversions = [Diversion::Default, Diversion::Unreachable];
    for diversion in diversions.repeat(4) {
        let net = Net::new();
        keep_an_address(&net);
        let vips = vips(600);
        let builder = builder(VIP_LINK, PROTO_KERNEL).binding(Binding::Route);
        let mut manager = builder.open().unwrap();
        manager.assign(&vips).unwrap();
        assert!(diversion.put(&net));
        let churn = Churn::start(net.add_link("churn0"));
        let result = manager.release(&vips);
        drop(churn);
        let report = match result {
            Ok(report) => report,
            Err(error) => error.into_report().unwrap(),
        };
        println!("{diversion:?}: {report}");
        assert_eq!(report.unchanged, 0, "{report}");
        let failed: BTreeSet<IpAddr> = report.failures.iter().map(|f| f.vip.addr()).collect();
        for failure in &report.failures {
            assert_eq!(failure.cause, Cause::Unread, "{failure}");
        }
        let gone = vips.iter().filter(|vip| !failed.contains(vip));
        net.assert_absent(&gone.copied().collect::<Vec<_>>());
        // At rest the same call ends it.
        let report = manager.release(&vips).unwrap();
        assert_eq!(report.released + report.unchanged, vips.len());
        net.assert_absent(&vips);
    }
}
