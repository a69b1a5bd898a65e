//! Faults that the adversaries of this directory have found, one test each, as small as they shrank
//! to. CHANGELOG.md tells of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage::NewAddress;

use broken::manager;
use common::raw::{self, CREATE_EXCL, Raw};
use common::{Net, PROTO_KERNEL, VIP_LINK, vips_v6};
use viproute::{Binding, Cause, Claim, Dispatched, Drift, ErrorKind, Reject, Report};

fn vip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn causes(report: &Report) -> Vec<(IpAddr, Cause)> {
    let failures = report.failures.iter();
    failures.map(|f| (f.vip.addr(), f.cause)).collect()
}

/// A VIP that is on the link twice, as a host and with another prefix length, is not ours to
/// change, also where the call finds it by itself.
#[test]
fn a_vip_of_two_lengths_is_found_with_both() {
    for other_first in [false, true] {
        let net = Net::new();
        let (stays, goes) = (vip("10.96.0.2"), vip("10.96.0.3"));
        let other = || net.ip(&format!("addr add {stays}/24 dev {VIP_LINK}"));
        if other_first {
            other();
            net.ip(&format!("addr add {stays}/32 dev {VIP_LINK}"));
        }
        let mut manager = manager(PROTO_KERNEL);
        if !other_first {
            manager.assign([stays, goes]).unwrap();
            other();
        }
        let before = net.snapshot_without(&[goes]);
        let desired = [vip("10.96.0.9")];
        for call in 0..3 {
            let result = match call {
                0 => manager.reconcile(&Claim::link(), desired),
                1 => manager.normalize(),
                _ => manager.release_all(&Claim::link()),
            };
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incomplete);
            let report = error.into_report().unwrap();
            assert_eq!(report.failures.len(), 1, "{report:?}");
            assert_eq!(report.failures[0].vip.addr(), stays);
            assert_eq!(report.failures[0].cause, Cause::Unrepaired);
            let drift = report.failures[0].drift;
            assert!(drift.contains(Drift::WRONG_PREFIX_LENGTH), "{drift}");
        }
        before.assert_same(&net.snapshot_without(&[goes]));
    }
}

/// The same where only a route makes it a VIP, which the call finds after it has read the addresses.
#[test]
fn a_vip_that_its_route_tells_of_may_have_another_length() {
    for binding in [Binding::Route, Binding::Address] {
        let net = Net::new();
        let (stays, goes) = (vip("10.96.0.2"), vip("10.96.0.1"));
        let mut manager = broken::builder(VIP_LINK, PROTO_KERNEL)
            .binding(binding)
            .open()
            .unwrap();
        manager.assign([goes, stays]).unwrap();
        if binding == Binding::Address {
            net.ip(&format!("addr del {stays}/32 dev {VIP_LINK}"));
        }
        net.ip(&format!("addr add {stays}/24 dev {VIP_LINK}"));
        let before = net.snapshot_without(&[goes]);
        for call in 0..5 {
            let result = match call {
                0 => manager.normalize(),
                1 => manager.set_binding(binding),
                2 => manager.set_source(common::NODE_V4),
                3 => manager.reconcile(&Claim::link(), [goes]),
                _ => manager.release_all(&Claim::link()),
            };
            let report = result.unwrap_err().into_report().unwrap();
            let unrepaired = [(stays, Cause::Unrepaired)];
            assert_eq!(causes(&report), unrepaired, "call {call}: {report:?}");
            before.assert_same(&net.snapshot_without(&[goes]));
        }
    }
}

/// Another device's IPv4 route to a VIP in table local that is not of type local: while the tables
/// share a trie, a look-up calls that table main.
#[test]
fn another_devices_route_of_another_type_is_a_conflict() {
    for (route, protocol) in [("dev node0", PROTO_KERNEL), ("nhid 52", 201)] {
        let net = Net::new();
        net.ip("nexthop add id 52 dev node0");
        let (taken, free) = (vip("10.96.0.1"), vip("10.96.0.2"));
        net.ip(&format!("route add {taken} {route} table local"));
        let before = net.snapshot_without(&[free]);
        let mut manager = manager(protocol);
        let report = manager
            .assign([taken, free])
            .unwrap_err()
            .into_report()
            .unwrap();
        assert_eq!(causes(&report), [(taken, Cause::Conflict)], "{report:?}");
        // Nothing for the one.
        assert_eq!((report.assigned, report.writes), (1, 3), "{report:?}");
        before.assert_same(&net.snapshot_without(&[free]));
    }
}

/// A route through the link in table main, behind another device's: no look-up tells of it, also not
/// where the VIP is one of a few that are new.
#[test]
fn a_route_in_main_behind_another_devices_goes() {
    for (vip, source) in [
        (vip("10.96.0.1"), IpAddr::from(common::NODE_V4)),
        (vip("2001:db8:42::1"), common::NODE_V6.into()),
    ] {
        let net = Net::new();
        net.ip(&format!("route add {vip} dev node0 metric 10"));
        let before = net.snapshot_without(&[]);
        net.ip(&format!("route add {vip} dev {VIP_LINK} metric 2000"));
        let mut manager = manager(PROTO_KERNEL);
        manager.assign([vip]).unwrap();
        net.assert_single_route(&[vip], PROTO_KERNEL);
        net.ip(&format!(
            "route add {vip} dev {VIP_LINK} metric 2000 src {source}"
        ));
        manager.release([vip]).unwrap();
        before.assert_same(&net.snapshot_without(&[]));
    }
}

/// Another hand takes an IPv6 VIP's address away and puts it back, and all of that is over when the
/// call begins. Our route has outlived the first address, and the kernel's of the second one is
/// still to come.
#[test]
fn a_route_that_outlived_an_address_does_not_vouch_for_the_next_one() {
    const ROUNDS: usize = 15;
    let mut bad = 0;
    for protocol in [PROTO_KERNEL, 201] {
        let net = Net::new();
        let all = vips_v6(2);
        let link = net.vip_index();
        let mut raw = Raw::new();
        let mut manager = manager(protocol);
        for round in 0..ROUNDS {
            manager.assign(&all).unwrap();
            let again = |vip: &IpAddr| {
                let address = NewAddress(raw::vip_address(*vip, link));
                [raw::del_address(*vip, link), (address, CREATE_EXCL)]
            };
            raw.batch_ok(&all.iter().flat_map(again).collect::<Vec<_>>());
            let result = if round % 2 == 0 {
                manager.assign(&all)
            } else {
                manager.normalize()
            };
            result.unwrap();
            // The kernel's route comes now, if it comes after all.
            std::thread::sleep(Duration::from_millis(50));
            bad += broken::wrong(&net, &all, protocol).len();
        }
    }
    println!("{bad} of {} were called good and were not", 4 * ROUNDS);
    // More than half of them before. Address and route bear no sign of what is to come, so all that
    // a call can do is to wait a little, which on a machine that is busy enough is too short.
    assert!(bad <= 4 * ROUNDS / 10, "{bad}");
}

/// A desired VIP that is rejected, because its family has no source, is not one that nobody desires:
/// it stays as it is, though the claim covers it.
#[test]
fn a_desired_vip_without_a_source_is_not_released() {
    let net = Net::new();
    let (v4, kept, goes) = (
        vip("10.96.0.1"),
        vip("2001:db8:42::1"),
        vip("2001:db8:42::2"),
    );
    manager(PROTO_KERNEL).assign([v4, kept, goes]).unwrap();
    let before = net.snapshot_without(&[v4, goes]);
    let mut manager = viproute::VipManager::builder(VIP_LINK)
        .source(common::NODE_V4)
        .open()
        .unwrap();
    let rejected = [(kept, Cause::Rejected(Reject::NoSource))];
    let plan = manager.plan(&Claim::link(), [v4, kept]).unwrap();
    assert!(
        plan.steps
            .iter()
            .all(|step| step.vip.map(IpAddr::from) == Some(goes)),
        "{plan}"
    );
    let report = manager
        .reconcile(&Claim::link(), [v4, kept])
        .unwrap_err()
        .into_report()
        .unwrap();
    assert_eq!(causes(&report), rejected, "{report:?}");
    assert_eq!((report.unchanged, report.released), (1, 1), "{report:?}");
    net.assert_absent(&[goes]);
    before.assert_same(&net.snapshot_without(&[v4, goes]));
    // Nor does it count against the claim's bound.
    let report = manager
        .reconcile(&Claim::link().at_most(0), [v4, kept])
        .unwrap_err()
        .into_report()
        .unwrap();
    assert_eq!(causes(&report), rejected, "{report:?}");
    before.assert_same(&net.snapshot_without(&[v4, goes]));
}

/// Another hand's route to a VIP through a gateway on our link, or through several links of which
/// ours is one, stands before a plain one through our link: the kernel compares no gateway where a
/// deletion names none, so to delete the plain one would take the other.
#[test]
fn a_route_with_a_gateway_is_not_taken_for_one_without() {
    let v4 = (vip("10.96.0.1"), "10.1.1.2/24");
    let v6 = (vip("2001:db8:42::1"), "2001:db8:1::2/64 nodad");
    let through_ours = [v4, v6].map(|(_, stranger)| {
        let (net, _) = stranger.split_once("2/").unwrap();
        format!("via {net}1 dev {VIP_LINK}")
    });
    let [ours_v4, ours_v6] = &through_ours;
    let (other_v4, other_v6) = ("via 10.1.1.1 dev node0 onlink", "via fe80::1 dev node0");
    for ((vip, stranger), way, is_hit) in [
        (v4, ours_v4.clone(), true),
        (v4, format!("nexthop {ours_v4} nexthop {other_v4}"), true),
        // IPv4 looks at the first one only, IPv6 at each.
        (v4, format!("nexthop {other_v4} nexthop {ours_v4}"), false),
        (v4, other_v4.into(), false),
        (v6, ours_v6.clone(), true),
        (v6, format!("nexthop {other_v6} nexthop {ours_v6}"), true),
        (v6, other_v6.into(), false),
    ] {
        for is_first in [true, false] {
            let net = Net::new();
            net.ip(&format!("addr add {stranger} dev {VIP_LINK}"));
            net.settle();
            let alone = net.snapshot_without(&[]);
            let append = |way: &str| net.ip(&format!("route append {vip} proto static {way}"));
            let plain = format!("dev {VIP_LINK}");
            let order = match is_first {
                true => [&way, &plain],
                false => [&plain, &way],
            };
            for way in order {
                append(way);
            }
            let before = net.snapshot_without(&[]);
            for call in 0..3 {
                let mut manager = manager(PROTO_KERNEL);
                let result = match call {
                    0 => manager.assign([vip]),
                    1 => manager.reconcile(&Claim::link(), [vip]),
                    _ => manager.release([vip]),
                };
                if is_hit && is_first {
                    let report = result.unwrap_err().into_report().unwrap();
                    assert_eq!(causes(&report), [(vip, Cause::Conflict)], "{way}");
                    assert_eq!(report.writes, 0, "{way}");
                    before.assert_same(&net.snapshot_without(&[]));
                } else {
                    result.unwrap_or_else(|error| panic!("{way}: {error}"));
                }
            }
            if !(is_hit && is_first) {
                // Of the VIP nothing is left but the other route.
                net.ip(&format!("route del {vip} proto static {way}"));
                alone.assert_same(&net.snapshot_without(&[]));
            }
        }
    }
}

/// The same in table local, where IPv6 compares no type either.
#[test]
fn a_local_route_is_not_deleted_behind_one_with_a_gateway() {
    let net = Net::new();
    let (vip, source) = (vip("2001:db8:42::1"), common::NODE_V6);
    net.ip(&format!("addr add 2001:db8:1::2/64 dev {VIP_LINK} nodad"));
    net.settle();
    for way in [
        format!("{vip} via 2001:db8:1::1 dev {VIP_LINK}"),
        format!("local {vip} dev {VIP_LINK} src {source}"),
    ] {
        net.ip(&format!(
            "-6 route append {way} table local proto kernel metric 1024"
        ));
    }
    let before = net.snapshot_without(&[]);
    let mut manager = manager(PROTO_KERNEL);
    for call in 0..2 {
        let result = match call {
            0 => manager.release([vip]),
            _ => manager.release_all(&Claim::link()),
        };
        let report = result.unwrap_err().into_report().unwrap();
        assert_eq!(causes(&report), [(vip, Cause::Conflict)]);
        before.assert_same(&net.snapshot_without(&[]));
    }
}

/// An IPv4 address with a peer has a prefix of one host, the peer's, and is the VIP's for all that.
/// A deletion has to name the peer, or it finds nothing when the routes are gone already.
#[test]
fn an_ipv4_address_with_a_peer_goes() {
    let vip = vip("10.96.0.1");
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
                    let plan = manager.plan(&Claim::link(), [self::vip("2001:db8:42::1")]);
                    run(&plan.unwrap());
                    (false, manager.release([vip, self::vip("2001:db8:42::1")]))
                }
                _ => (
                    false,
                    manager.reconcile(&Claim::link(), [self::vip("10.96.0.9")]),
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
                manager.release([self::vip("10.96.0.9")]).unwrap();
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

/// A keeper of route-only VIPs takes an address away that another hand has added to one. The link
/// has a further address of its own, so it needs none to keep its routes.
#[test]
fn where_an_address_stays_none_is_added() {
    for has_address in [true, false] {
        let net = Net::new();
        let all = [vip("10.96.0.1"), vip("10.96.0.2")];
        if has_address {
            net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
        }
        let manager = broken::builder(VIP_LINK, PROTO_KERNEL)
            .binding(Binding::Route)
            .open()
            .unwrap();
        let mut keeper = manager.into_keeper(Claim::link()).unwrap();
        keeper.set_desired(all);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 2);
        while keeper.dispatch(usize::MAX).unwrap() != Dispatched::default() {}
        let before = net.snapshot_without(&[]);
        net.ip(&format!("addr add {}/32 dev {VIP_LINK}", all[0]));
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.repaired, 1);
        let addresses = net.ip(&format!("-4 -o addr show dev {VIP_LINK}"));
        assert_eq!(addresses.lines().count(), 1, "{addresses}");
        assert_eq!(addresses.contains("127.86.73.80"), !has_address);
        if has_address {
            before.assert_same(&net.snapshot_without(&[]));
        }
    }
}

/// The same where the address of another length has lost its local route, so that nothing leads to the
/// VIP: the kernel would take the address of one host beside it.
#[test]
fn a_vip_of_another_length_without_a_route_is_not_new() {
    let net = Net::new();
    let (stays, new) = (vip("10.96.0.2"), vip("10.97.0.1"));
    net.ip(&format!("addr add {stays}/24 dev {VIP_LINK}"));
    net.ip(&format!(
        "route del local {stays} dev {VIP_LINK} table local"
    ));
    let before = net.snapshot_without(&[new]);
    let report = manager(PROTO_KERNEL).assign([stays, new]).unwrap_err();
    let report = report.into_report().unwrap();
    assert_eq!(causes(&report), [(stays, Cause::Unrepaired)], "{report:?}");
    assert_eq!((report.assigned, report.writes), (1, 3), "{report:?}");
    before.assert_same(&net.snapshot_without(&[new]));
}

/// IPv4 takes two routes for different ones that differ in their MTU or realm alone. Only one is the
/// single route, whichever it is.
#[test]
fn routes_that_differ_in_their_mtu_are_two() {
    for binding in [Binding::Address, Binding::Route] {
        for (first, second) in [("", "mtu 1400"), ("mtu 1400", ""), ("realm 5", "mtu 1400")] {
            let net = Net::new();
            let vip = vip("10.96.0.1");
            net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
            let mut manager = broken::builder(VIP_LINK, PROTO_KERNEL)
                .binding(binding)
                .open()
                .unwrap();
            manager.assign([vip]).unwrap();
            for (verb, more) in [("replace", first), ("append", second)] {
                net.ip(&format!(
                    "route {verb} local {vip} dev {VIP_LINK} table local proto kernel scope host \
                     src {} {more}",
                    common::NODE_V4
                ));
            }
            let audited = manager.audit().unwrap().vips;
            assert_eq!(audited[0].drift, Drift::DUPLICATE, "{first} {second}");
            let plan = manager.plan(&Claim::link(), [vip]).unwrap();
            assert!(!plan.is_empty());
            let report = manager.normalize().unwrap();
            assert_eq!((report.repaired, report.writes), (1, 1), "{report}");
            let routes = net.ip(&format!("route show table local {vip}"));
            assert_eq!(routes.lines().count(), 1, "{routes}");
            let report = manager.normalize().unwrap();
            assert_eq!((report.unchanged, report.writes), (1, 0), "{report}");
            // So they are where they are merely heard of.
            let mut keeper = manager.into_keeper(Claim::link()).unwrap();
            keeper.set_desired([vip]);
            while keeper.dispatch(usize::MAX).unwrap() != Dispatched::default() {}
            for more in [first, second] {
                // One of them may be the one that is there.
                let _ = net.try_ip(&format!(
                    "route append local {vip} dev {VIP_LINK} table local proto kernel scope host \
                     src {} {more}",
                    common::NODE_V4
                ));
            }
            assert!(keeper.dispatch(usize::MAX).unwrap().report.is_complete());
            let routes = net.ip(&format!("route show table local {vip}"));
            assert_eq!(routes.lines().count(), 1, "{routes}");
            let mut manager = keeper.into_manager();
            manager.release([vip]).unwrap();
            net.assert_absent(&[vip]);
        }
    }
}

/// An IPv6 route with a lifetime serves nobody once that is over, and stays in the table for half a
/// minute or so.
#[test]
fn a_route_that_expires_is_not_the_wanted_one() {
    for (protocol, wait) in [(PROTO_KERNEL, false), (PROTO_KERNEL, true), (201, true)] {
        let net = Net::new();
        let vip = vip("2001:db8:42::1");
        let mut manager = manager(protocol);
        manager.assign([vip]).unwrap();
        net.ip(&format!(
            "-6 route replace local {vip} dev {VIP_LINK} table local proto {protocol} src {} \
             metric 1024 expires {}",
            common::NODE_V6,
            if wait { 1 } else { 100 }
        ));
        let reaches = || net.try_ip(&format!("-6 route get {vip}")).is_ok();
        if wait {
            while reaches() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let drift = manager.audit().unwrap().vips[0].drift;
        assert!(drift.contains(Drift::MISSING_ROUTE), "{drift}");
        let report = manager.normalize().unwrap();
        assert_eq!(report.repaired, 1, "{report}");
        assert!(reaches());
        let routes = net.ip(&format!("-6 route show table local {vip}"));
        assert!(!routes.contains("expires"), "{routes}");
        net.assert_single_route(&[vip], protocol);
    }
}
