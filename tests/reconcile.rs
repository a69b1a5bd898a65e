//! After `reconcile`, exactly the desired VIPs of all claimed ones are on the link, and no other VIP has
//! changed. `release_all` removes all claimed VIPs. `set_source` moves all VIPs in place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/lookups.rs"]
mod lookups;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage::{NewAddress, NewRoute};
use netlink_packet_route::address::AddressAttribute;

use broken::{PROTOCOLS, State, assert_single_route, builder, manager, put};
use common::raw::{self, CREATE_EXCL, Raw};
use common::{
    Event, NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, Snapshot, VIP_LINK, Want,
    causes, never_without_local_route, vip, vips, vips_v4, vips_v6,
};
use lookups::LookUps;
use viproute::{Binding, Cause, Claim, Error, ErrorKind, Protocol, RejectReason, Report};

const NONE: [IpAddr; 0] = [];

/// Refused with this kind, and not a line of the node differs, nor did anything happen.
#[track_caller]
fn refused(kind: ErrorKind, call: impl FnOnce() -> Result<Report, Error>) -> Error {
    let before = Snapshot::read(&[]);
    let watcher = RouteWatcher::new();
    let error = call().expect_err("it was taken");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.report().is_none(), "{error}");
    assert_eq!(watcher.drain(), Vec::new());
    before.assert_same(&Snapshot::read(&[]));
    error
}

/// The VIPs that something happened to.
fn touched(events: &[Event]) -> BTreeSet<IpAddr> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Route(route) => route.dst,
            Event::Address(address) => Some(address.local),
        })
        .collect()
}

fn set(vips: &[IpAddr]) -> BTreeSet<IpAddr> {
    vips.iter().copied().collect()
}

#[test]
fn reconcile_repairs_claimed_vips_and_leaves_the_rest() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        net.ip_batch([
            format!("addr add fe80::9/64 dev {VIP_LINK} nodad"),
            format!("addr add fe80::8/128 dev {VIP_LINK} nodad"),
            format!("addr add 203.0.113.1/24 dev {VIP_LINK}"),
            format!("route add 10.96.0.0/24 dev {VIP_LINK}"),
            // Of a desired VIP, vips[78].
            format!("route add 10.96.0.40/32 dev {VIP_LINK} table 100"),
        ]);
        net.wait_for_kernel();
        let vips = vips(50);
        let states: Vec<_> = vips[..70]
            .iter()
            .enumerate()
            // Both the undesired and the desired ones have each of the states.
            .map(|(at, vip)| (*vip, State::of(*vip)[at / 2 % 15]))
            .collect();
        put(&net, &states, protocol);
        // 0..30 undesired, 30..70 desired and there, 70..100 desired and missing.
        let (undesired, desired) = vips.split_at(30);
        let fine = states[30..]
            .iter()
            .filter(|(_, state)| *state == State::Fine)
            .count();
        assert!(fine > 1 && states[..30].iter().any(|(_, s)| *s == State::Stale));
        assert!(states[30..].iter().any(|(_, s)| *s == State::Stale));
        let rest = Snapshot::read(&vips);
        let watcher = RouteWatcher::new();
        let mut manager = manager(protocol);
        let report = manager.reconcile(&Claim::link(), desired).unwrap();
        println!("{report}");
        assert_eq!(report.assigned, 30, "{report}");
        assert_eq!(report.repaired, 40 - fine, "{report}");
        assert_eq!(report.released, 30, "{report}");
        assert_eq!(report.unchanged, fine, "{report}");
        rest.assert_same(&Snapshot::read(&vips));
        let broken: Vec<IpAddr> = states[30..]
            .iter()
            .filter(|(_, state)| *state != State::Fine)
            .map(|(vip, _)| *vip)
            .collect();
        assert_single_route(&net, desired, protocol);
        net.assert_absent(undesired);
        let routes = net.local_state().routes_of(vips[78]).to_vec();
        assert!(routes.iter().any(|route| route.table == 100), "{routes:?}");
        let want = [undesired, &broken, &vips[70..]].concat();
        assert_eq!(touched(&watcher.drain()), set(&want));

        // Again, and by another manager: a restart. Not a message.
        for mut again in [manager, broken::manager(protocol)] {
            let report = again.reconcile(&Claim::link(), desired).unwrap();
            assert_eq!((report.writes, report.unchanged), (0, desired.len()));
        }
        assert_eq!(watcher.drain(), Vec::new());
        // And what another one finds changed, it changes: exactly that.
        let desired = &desired[1..];
        let report = broken::manager(protocol)
            .reconcile(&Claim::link(), desired.iter().chain(&undesired[..1]))
            .unwrap();
        assert_eq!((report.assigned, report.released), (1, 1), "{report}");
        assert_eq!(report.unchanged, desired.len(), "{report}");
        assert_eq!(touched(&watcher.drain()), set(&[vips[0], vips[30]]));
        rest.assert_same(&Snapshot::read(&vips));
    }
}

/// The late route of a recent address may still come, so `Ok` has to wait. The write need not.
#[test]
fn another_source_replaces_the_route_of_a_recent_address_at_once() {
    for count in [1, 30] {
        let net = Net::new();
        let vips = vips_v6(count);
        let states: Vec<_> = vips.iter().map(|vip| (*vip, State::SourceOther)).collect();
        put(&net, &states, PROTO_KERNEL);
        let result = builder(VIP_LINK, PROTO_KERNEL)
            // Far less than the age at which the library trusts the address of another writer.
            .total_timeout(Duration::from_millis(500))
            .open()
            .unwrap()
            .assign(&vips);
        println!("{result:?}");
        assert_single_route(&net, &vips, PROTO_KERNEL);
    }
}

/// The same, with no local route left, by a sweeper of routes or a writer that was killed: the VIP works
/// while the late route is awaited.
#[test]
fn recent_address_without_a_route_is_local_at_once() {
    for (count, state) in [
        (1, State::NoRoute),
        (30, State::NoRoute),
        (30, State::PrefixOnly),
    ] {
        for protocol in PROTOCOLS {
            let net = Net::new();
            let vips = vips_v6(count);
            let states: Vec<_> = vips.iter().map(|vip| (*vip, state)).collect();
            put(&net, &states, protocol);
            let mut manager = builder(VIP_LINK, protocol)
                .total_timeout(Duration::from_millis(500))
                .open()
                .unwrap();
            // The late route may still come.
            let error = manager.assign(&vips).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
            for vip in &vips {
                let state = net.local_state();
                let routes = state.routes_of(*vip);
                assert!(
                    routes
                        .iter()
                        .any(|route| route.is_local() && route.prefsrc == Some(NODE_V6.into())),
                    "{routes:?}"
                );
            }
            // In the end each has its single-route state.
            manager = builder(VIP_LINK, protocol).open().unwrap();
            manager.assign(&vips).unwrap();
            assert_single_route(&net, &vips, protocol);
        }
    }
}

/// The deletion of an IPv6 address walks every route of the node. New VIPs must not wait for that.
#[test]
fn reconcile_makes_new_vips_right_before_it_releases() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let (v4, v6) = (vips_v4(600), vips_v6(600));
        let stale = [&v4[..300], &v6[..300]].concat();
        let new = [&v4[300..], &v6[300..]].concat();
        let states: Vec<_> = stale.iter().map(|vip| (*vip, State::Fine)).collect();
        put(&net, &states, protocol);
        let watcher = RouteWatcher::new();
        let report = manager(protocol).reconcile(&Claim::link(), &new).unwrap();
        assert_eq!((report.assigned, report.released), (600, 600), "{report}");
        assert_single_route(&net, &new, protocol);
        net.assert_absent(&stale);
        let events = watcher.drain();
        let is_of = |event: &Event, set: &BTreeSet<IpAddr>| {
            touched(std::slice::from_ref(event)).is_subset(set)
        };
        let (stale, new) = (set(&stale), set(&new));
        let begun = events.iter().position(|event| is_of(event, &stale));
        let right = events.iter().rposition(|event| is_of(event, &new));
        assert!(right < begun, "{right:?} {begun:?} of {}", events.len());
    }
}

#[test]
fn reconcile_of_ten_thousand_with_one_change_writes_one_vip() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(5_000);
        let mut manager = manager(protocol);
        manager.assign(&vips[..9_999]).unwrap();
        let rest = net.snapshot_without(&vips[9_998..]);
        let watcher = RouteWatcher::new();
        for (desired, changed, writes) in [
            (&vips[..9_999], None, 0),
            // One more, and less.
            (&vips[..], Some(vips[9_999]), 3),
            (&vips[..9_999], Some(vips[9_999]), 2),
            (&vips[..9_998], Some(vips[9_998]), 2),
            (&vips[..9_999], Some(vips[9_998]), 3),
        ] {
            let began = Instant::now();
            let report = manager.reconcile(&Claim::link(), desired).unwrap();
            println!("{protocol}: {report} in {:?}", began.elapsed());
            assert_eq!(report.writes, writes, "{report}");
            assert_eq!(report.retries, 0, "{report}");
            let events = watcher.drain();
            assert_eq!(
                touched(&events),
                changed.into_iter().collect(),
                "{events:?}"
            );
        }
        rest.assert_same(&net.snapshot_without(&vips[9_998..]));
        net.assert_single_route(&vips[..9_999], protocol);
        net.assert_absent(&vips[9_999..]);
    }
}

#[test]
fn claims_by_ranges_and_by_link_limit_releases() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(10);
        let outside: [IpAddr; 2] = [
            "10.97.0.1".parse().unwrap(),
            "2001:db8:43::1".parse().unwrap(),
        ];
        let mut manager = manager(protocol);
        manager.assign(vips.iter().chain(&outside)).unwrap();
        let ranges = ["10.96.0.0/16", "2001:db8:42::/64"].map(|r| r.parse::<IpNet>().unwrap());
        let claim = Claim::ranges(ranges);
        let rest = net.snapshot_without(&vips);
        // A desired VIP need not be claimed.
        let desired = [&vips[..4], &outside[..1]].concat();
        let report = manager.reconcile(&claim, &desired).unwrap();
        assert_eq!((report.released, report.unchanged), (16, 5), "{report}");
        net.assert_absent(&vips[4..]);
        rest.assert_same(&net.snapshot_without(&vips));
        // What the manager does not admit is not reached by any claim.
        let mut limited = builder(VIP_LINK, protocol)
            .allow("10.0.0.0/8".parse::<IpNet>().unwrap())
            .open()
            .unwrap();
        let report = limited.release_all(&Claim::link()).unwrap();
        assert_eq!(report.released, 3, "{report}");
        net.assert_absent(&[vips[0], vips[2], outside[0]]);
        net.assert_single_route(&[vips[1], vips[3], outside[1]], protocol);
        let desired = [vips[0], vips[1]];
        let report = manager.reconcile(&Claim::link(), desired).unwrap();
        assert_eq!((report.assigned, report.released), (1, 2), "{report}");
        net.assert_absent(&[vips[3], outside[1]]);
        manager.release(&vips[1..2]).unwrap();
        net.assert_absent(&[vips[1], vips[3], outside[1]]);
    }
}

/// Puts the address there as another writer does, marked or not.
fn put_address(net: &Net, vip: IpAddr, protocol: Option<u8>) {
    let mut address = raw::vip_address(vip, net.vip_index());
    if let Some(protocol) = protocol {
        let attribute = AddressAttribute::Protocol(protocol.into());
        address.attributes.push(attribute);
    }
    Raw::new().batch_ok(&[(NewAddress(address), CREATE_EXCL)]);
}

#[test]
fn claim_by_the_mark_of_routes() {
    let net = Net::new();
    let vips = vips(10);
    let (marked, others) = vips.split_at(10);
    let mut manager = manager(201);
    manager.assign(marked).unwrap();
    // Others': with kernel's routes, and with another protocol.
    let mut other = broken::manager(186);
    other.assign(&others[..4]).unwrap();
    for vip in &others[4..8] {
        put_address(&net, *vip, None);
    }
    broken::wait_for_kernel_routes(&others[4..8]);
    // A leaked route with the mark, and one with another's.
    let mut raw = Raw::new();
    let link = net.vip_index();
    for vip in &marked[8..] {
        raw.batch_ok(&[raw::del_address(*vip, link)]);
    }
    let leaked = &others[8..];
    for vip in leaked {
        let route = raw::local_route(*vip, link, None, 186);
        raw.batch_ok(&[(NewRoute(route), CREATE_EXCL)]);
    }
    let rest = net.snapshot_without(marked);
    let report = manager.reconcile(&Claim::mark(), &marked[..4]).unwrap();
    assert_eq!((report.unchanged, report.released), (4, 6), "{report}");
    net.assert_single_route(&marked[..4], 201);
    net.assert_absent(&marked[4..]);
    rest.assert_same(&net.snapshot_without(marked));
    // A desired VIP with another's mark gets the manager's mark.
    let report = manager
        .reconcile(&Claim::mark(), marked[..2].iter().chain(&others[..1]))
        .unwrap();
    assert_eq!((report.repaired, report.released), (1, 2), "{report}");
    let report = manager.release_all(&Claim::mark()).unwrap();
    assert_eq!(report.released, 3, "{report}");
    net.assert_absent(&marked[..4]);
    net.assert_absent(&others[..1]);
    net.assert_single_route(&others[1..4], 186);
    for vip in leaked {
        assert_eq!(net.local_state().routes_of(*vip).len(), 1, "{vip}");
    }
}

/// Each VIP's marked route goes behind its address, so that a call that ends early leaves no address without its
/// mark; and it goes soon, not behind the addresses of all VIPs.
#[test]
fn release_by_the_mark_of_routes_ends_each_vip_soon() {
    // More than one send.
    for vips in [vips_v4(300), vips_v6(300)] {
        let net = Net::new();
        // With the link's last address, the kernel would flush all IPv4 routes, without a notification.
        net.ip(&format!("addr add 192.0.2.77/32 dev {VIP_LINK}"));
        let mut manager = manager(201);
        manager.assign(&vips).unwrap();
        let watcher = RouteWatcher::new();
        watcher.rest();
        let report = manager.release_all(&Claim::mark()).unwrap();
        assert_eq!((report.released, report.writes), (300, 600), "{report}");
        net.assert_absent(&vips);
        let (mut addresses, mut routes) = (Vec::new(), Vec::new());
        for (at, event) in watcher.drain().into_iter().enumerate() {
            match event {
                Event::Address(address) => addresses.push((address.local, at)),
                Event::Route(route) => routes.push((route.dst.unwrap(), at)),
            }
        }
        assert_eq!((addresses.len(), routes.len()), (300, 300));
        let addresses: BTreeMap<IpAddr, usize> = addresses.into_iter().collect();
        for (vip, at) in &routes {
            assert!(addresses[vip] < *at, "{vip}: the mark went first");
        }
        let last_address = addresses.values().max().unwrap();
        assert!(
            routes[0].1 < *last_address,
            "no VIP was free before all were"
        );
    }
}

#[test]
fn claim_by_the_mark_of_addresses() {
    let net = Net::new();
    let vips = vips(10);
    let (marked, others) = vips.split_at(10);
    let mark = Protocol::new(77).unwrap();
    let mut manager = builder(VIP_LINK, PROTO_KERNEL)
        .address_protocol(mark)
        .open()
        .unwrap();
    manager.assign(marked).unwrap();
    for vip in marked {
        let address = broken::address_of(*vip, net.vip_index());
        let marked = AddressAttribute::Protocol(77.into());
        assert!(address.attributes.contains(&marked), "{address:?}");
    }
    for (at, vip) in others.iter().enumerate() {
        put_address(&net, *vip, (at % 2 == 0).then_some(78));
    }
    broken::wait_for_kernel_routes(others);
    let rest = net.snapshot_without(marked);
    let report = manager.reconcile(&Claim::mark(), &marked[..4]).unwrap();
    assert_eq!((report.unchanged, report.released), (4, 6), "{report}");
    net.assert_single_route(&marked[..4], PROTO_KERNEL);
    net.assert_absent(&marked[4..]);
    let report = manager.release_all(&Claim::mark()).unwrap();
    assert_eq!(report.released, 4, "{report}");
    net.assert_absent(marked);
    rest.assert_same(&net.snapshot_without(marked));
    let report = manager.release_all(&Claim::mark()).unwrap();
    assert_eq!((report.released, report.writes), (0, 0));
}

#[test]
fn claim_by_an_unconfigured_mark_is_refused() {
    let net = Net::new();
    let vips = vips(2);
    manager(PROTO_KERNEL).assign(&vips).unwrap();
    let mark = Protocol::new(77).unwrap();
    let plain = || builder(VIP_LINK, PROTO_KERNEL);
    for builder in [
        plain(),
        // Without addresses no address bears the mark.
        plain().address_protocol(mark).binding(Binding::Route),
    ] {
        let mut manager = builder.open().unwrap();
        let claim = Claim::mark();
        let kind = ErrorKind::InvalidConfig;
        let error = refused(kind, || manager.reconcile(&claim, &vips[..1]));
        assert!(error.to_string().contains("needs a mark"), "{error}");
        refused(kind, || manager.release_all(&claim));
    }
    // The controls: with either mark it is taken.
    for builder in [
        plain().address_protocol(mark),
        builder(VIP_LINK, 201),
        builder(VIP_LINK, 201).binding(Binding::Route),
    ] {
        builder.open().unwrap().release_all(&Claim::mark()).unwrap();
    }
    net.assert_single_route(&vips, PROTO_KERNEL);
}

#[test]
fn empty_set_releases_nothing() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(5);
        let mut manager = manager(protocol);
        manager.assign(&vips).unwrap();
        for claim in [
            Claim::link(),
            Claim::ranges(["10.0.0.0/8".parse::<IpNet>().unwrap()]),
        ] {
            let kind = ErrorKind::EmptySet;
            let error = refused(kind, || manager.reconcile(&claim, NONE));
            assert!(error.to_string().contains("no admissible VIP"), "{error}");
            // All of them rejected.
            let bad: [IpAddr; 4] = [
                "127.0.0.1".parse().unwrap(),
                "fe80::1".parse().unwrap(),
                NODE_V4.into(),
                NODE_V6.into(),
            ];
            refused(kind, || manager.reconcile(&claim, bad));
        }
        net.assert_single_route(&vips, protocol);
        // An admissible VIP: the others of its family are released, the rejected one is
        // reported, and so is what stays, for of IPv6 none is desired.
        let desired = ["fe80::1".parse().unwrap(), vips[0]];
        let error = manager.reconcile(&Claim::link(), desired).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete);
        let report = error.into_report().unwrap();
        assert_eq!(
            (report.failures.len(), report.unchanged, report.released),
            (6, 1, 4)
        );
        let guarded = Cause::Missing(ErrorKind::EmptySet);
        let stays = report.failures.iter().filter(|f| f.cause == guarded);
        let stays: Vec<IpAddr> = stays.map(|failure| failure.vip.addr()).collect();
        assert_eq!(stays, vips_v6(5));
        net.assert_single_route(&stays, protocol);
        net.assert_absent(&vips_v4(5)[1..]);
        let report = manager.release_all(&Claim::link()).unwrap();
        assert_eq!(report.released, 6);
        net.assert_absent(&vips);
    }
}

#[test]
fn at_most_bounds_releases() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(10);
        let mut manager = manager(protocol);
        manager.assign(&vips[..16]).unwrap();
        let kind = ErrorKind::TooManyReleases;
        // Eight would go, four would come.
        let claim = |bound| Claim::link().at_most(bound);
        let error = refused(kind, || manager.reconcile(&claim(7), &vips[8..]));
        assert!(error.to_string().contains('8'), "{error}");
        refused(kind, || manager.release_all(&claim(15)));
        let report = manager.reconcile(&claim(8), &vips[8..]).unwrap();
        assert_eq!((report.released, report.assigned), (8, 4), "{report}");
        // Leaked routes count.
        let link = net.vip_index();
        Raw::new().batch_ok(&[raw::del_address(vips[9], link)]);
        refused(kind, || manager.reconcile(&claim(1), &vips[10..]));
        let report = manager.reconcile(&claim(2), &vips[10..]).unwrap();
        assert_eq!(report.released, 2, "{report}");
        // What is not claimed does not count.
        let limited = Claim::ranges(["10.96.0.0/12".parse::<IpNet>().unwrap()]).at_most(4);
        let v6 = vips[11];
        let report = manager.reconcile(&limited, [v6, vips[18]]).unwrap();
        assert_eq!(report.released, 4, "{report}");
        assert_eq!(manager.release_all(&claim(6)).unwrap().released, 6);
        net.assert_absent(&vips);
    }
}

/// Nor is the link brought up by a call that is refused.
#[test]
fn at_most_is_checked_before_the_link_is_brought_up() {
    let net = Net::new();
    let vips = vips_v4(6);
    let mut manager = builder(VIP_LINK, PROTO_KERNEL).bring_up().open().unwrap();
    manager.assign(&vips[..5]).unwrap();
    net.ip(&format!("link set dev {VIP_LINK} down"));
    refused(ErrorKind::TooManyReleases, || {
        manager.reconcile(&Claim::link().at_most(3), &vips[4..])
    });
    let report = manager
        .reconcile(&Claim::link().at_most(4), &vips[4..])
        .unwrap();
    assert_eq!((report.released, report.assigned), (4, 1), "{report}");
    net.assert_single_route(&vips[4..], PROTO_KERNEL);
    net.assert_absent(&vips[..4]);
}

#[test]
fn release_all_needs_no_source_and_no_link_that_is_up() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(20);
        manager(protocol).assign(&vips).unwrap();
        let rest = net.snapshot_without(&vips);
        let mut wiper = viproute::VipManager::builder(VIP_LINK).open().unwrap();
        let report = wiper.release_all(&Claim::link()).unwrap();
        assert_eq!(report.released, vips.len(), "{report}");
        net.assert_absent(&vips);
        rest.assert_same(&net.snapshot_without(&vips));

        manager(protocol).assign(&vips).unwrap();
        net.ip(&format!("link set dev {VIP_LINK} down"));
        let report = wiper.release_all(&Claim::link()).unwrap();
        assert_eq!(report.released, 20, "IPv6 is gone already: {report}");
        net.assert_absent(&vips);
    }
}

const NEW_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const NEW_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20);

#[test]
fn set_source_moves_all_vips_without_a_gap() {
    for protocol in PROTOCOLS {
        for binding in [Binding::Address, Binding::Route] {
            let net = Net::new();
            let vips = vips(250);
            let mut manager = builder(VIP_LINK, protocol).binding(binding).open().unwrap();
            manager.assign(&vips).unwrap();
            net.ip_batch([
                format!("addr add {NEW_V4}/32 dev {NODE_LINK}"),
                format!("addr add {NEW_V6}/128 dev {NODE_LINK} nodad"),
            ]);
            std::thread::sleep(std::time::Duration::from_millis(50));
            let rest = net.snapshot_without(&vips);
            let before = net.local_state();
            let watcher = RouteWatcher::new();
            let look_ups = LookUps::start(&vips);
            for source in [IpAddr::from(NEW_V4), NEW_V6.into()] {
                let from = look_ups.passes();
                let report = manager.set_source(source).unwrap();
                println!("{report}; {} passes", look_ups.passes() - from);
                assert_eq!((report.repaired, report.unchanged), (250, 250), "{report}");
                // In place: one message each.
                assert_eq!(report.writes, 250, "{report}");
            }
            let (count, not_local) = look_ups.stop();
            assert!(not_local.is_empty(), "{not_local:#?}");
            assert!(count >= 1000, "{count}");
            let events = watcher.drain();
            assert_eq!(touched(&events), set(&vips));
            assert!(events.len() >= vips.len(), "{}", events.len());
            if let Err(gaps) = never_without_local_route(&events, &before, &vips, net.vip_index()) {
                panic!("{}: {gaps:#?}", gaps.len());
            }
            let want = Want {
                sources: &[NEW_V4.into(), NEW_V6.into()],
                protocol,
                address: binding == Binding::Address,
                ..Want::default()
            };
            net.local_state().assert_single_route(&vips, &want);
            rest.assert_same(&net.snapshot_without(&vips));
            // It is the manager's from now on.
            assert_eq!(manager.assign(&vips).unwrap().writes, 0);
            assert_eq!(manager.set_source(NEW_V6).unwrap().writes, 0);
        }
    }
}

/// The order in which it happens when a node is renumbered without warning.
#[test]
fn set_source_after_the_old_source_went_away() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(20);
        let mut manager = manager(protocol);
        manager.assign(&vips).unwrap();
        net.ip_batch([
            format!("addr add {NEW_V4}/32 dev {NODE_LINK}"),
            format!("addr add {NEW_V6}/128 dev {NODE_LINK} nodad"),
            format!("addr del {NODE_V4}/32 dev {NODE_LINK}"),
            format!("addr del {NODE_V6}/128 dev {NODE_LINK}"),
        ]);
        std::thread::sleep(std::time::Duration::from_millis(50));
        // The other family's source is still the old one, which is gone: that is its own trouble.
        let error = manager.set_source(NEW_V4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
        let report = error.into_report().unwrap();
        assert_eq!((report.repaired, report.failures.len()), (20, 20));
        let missing = Cause::Missing(ErrorKind::SourceNotOnNode);
        assert!(
            report
                .failures
                .iter()
                .all(|f| f.cause == missing && f.vip.addr().is_ipv6())
        );
        // It keeps its configuration.
        let report = manager.set_source(NEW_V6).unwrap();
        assert_eq!((report.repaired, report.unchanged), (20, 20), "{report}");
        let want = Want {
            sources: &[NEW_V4.into(), NEW_V6.into()],
            protocol,
            ..Want::default()
        };
        net.local_state().assert_single_route(&vips, &want);
        // A source that no node can have changes nothing.
        for bad in ["127.0.0.1", "fe80::1", "0.0.0.0"] {
            let bad: IpAddr = bad.parse().unwrap();
            refused(ErrorKind::InvalidConfig, || manager.set_source(bad));
        }
        assert_eq!(manager.assign(&vips).unwrap().writes, 0);
    }
}

/// A desired VIP that is rejected because its family has no source is still desired: it stays as it is.
/// So do the other VIPs of that family, which the manager does not serve.
#[test]
fn desired_vip_without_a_source_is_not_released() {
    let net = Net::new();
    let (v4, kept, goes) = (
        vip("10.96.0.1"),
        vip("2001:db8:42::1"),
        vip("2001:db8:42::2"),
    );
    manager(PROTO_KERNEL).assign([v4, kept, goes]).unwrap();
    let before = net.snapshot_without(&[]);
    let mut manager = viproute::VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .open()
        .unwrap();
    let rejected = [(kept, Cause::Rejected(RejectReason::NoSource))];
    let plan = manager.plan(&Claim::link(), [v4, kept]).unwrap();
    assert!(plan.is_empty(), "{plan}");
    let report = manager
        .reconcile(&Claim::link(), [v4, kept])
        .unwrap_err()
        .into_report()
        .unwrap();
    assert_eq!(causes(&report), rejected, "{report:?}");
    assert_eq!((report.unchanged, report.released), (1, 0), "{report:?}");
    before.assert_same(&net.snapshot_without(&[]));
    // Nor does it count against the claim's bound.
    let report = manager
        .reconcile(&Claim::link().at_most(0), [v4, kept])
        .unwrap_err()
        .into_report()
        .unwrap();
    assert_eq!(causes(&report), rejected, "{report:?}");
    before.assert_same(&net.snapshot_without(&[]));
    // A wipe that names it takes it.
    let all: IpNet = "::/0".parse().unwrap();
    let report = manager.release_all(&Claim::ranges([all])).unwrap();
    assert_eq!(report.released, 2, "{report}");
    net.assert_absent(&[kept, goes]);
}

#[test]
fn reconcile_makes_a_desired_expiring_address_permanent() {
    let net = Net::new();
    let all = vips(2);
    for vip in &all {
        let bits = common::host_bits(*vip);
        net.ip(&format!(
            "addr add {vip}/{bits} dev {VIP_LINK} valid_lft 600 preferred_lft 600"
        ));
    }
    let mut manager = manager(PROTO_KERNEL);
    let report = manager.reconcile(&Claim::link(), &all[..2]).unwrap();
    assert_eq!((report.repaired, report.released), (2, 2), "{report}");
    assert_single_route(&net, &all[..2], PROTO_KERNEL);
    net.assert_absent(&all[2..]);
    let report = manager.reconcile(&Claim::link(), &all[..2]).unwrap();
    assert_eq!(report.writes, 0, "{report}");
}
