//! The judges that the other tests use: they must report every fault, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::net::ip_command;
use common::raw::{self, CREATE_REPLACE, Raw};
use common::{
    Event, Hammer, NODE_V4, Net, PROTO_KERNEL, RouteWatcher, SOURCES, Snapshot, VIP_LINK, Want,
    never_without_local_route, vips, vips_v4, vips_v6,
};
use netlink_packet_route::RouteNetlinkMessage::NewRoute;

/// A change to a good state, and a word of what must be said of it.
const FAULTS: [(&str, &str); 19] = [
    (
        "addr del 10.96.0.1/32 dev kube-dummy-if",
        "10.96.0.1: no address",
    ),
    (
        "addr add 10.96.0.1/24 dev kube-dummy-if",
        "10.96.0.1: 2 addresses",
    ),
    (
        "route del local 10.96.0.1 dev kube-dummy-if table local",
        "10.96.0.1: no route",
    ),
    (
        "route append local 10.96.0.1 dev kube-dummy-if src 10.96.0.1 table local",
        "10.96.0.1: 2 routes",
    ),
    (
        "route replace local 10.96.0.1 dev kube-dummy-if proto kernel src 10.96.0.2 table local",
        "10.96.0.1: source",
    ),
    (
        "route replace local 10.96.0.1 dev kube-dummy-if proto 201 src 192.0.2.10 table local",
        "10.96.0.1: protocol 201 for 2",
    ),
    (
        "route prepend local 10.96.0.1 dev node0 table local",
        "10.96.0.1: another link's route wins",
    ),
    (
        "route add broadcast 10.96.0.1 dev kube-dummy-if table local metric 5",
        "10.96.0.1: 2 routes",
    ),
    (
        "-6 addr del 2001:db8:42::1/128 dev kube-dummy-if",
        "2001:db8:42::1: no address",
    ),
    (
        "-6 addr change 2001:db8:42::1/128 dev kube-dummy-if nodad",
        "address without noprefixroute",
    ),
    (
        "-6 addr change 2001:db8:42::1/128 dev kube-dummy-if nodad noprefixroute valid_lft 60 preferred_lft 60",
        "2001:db8:42::1: address expires",
    ),
    (
        "addr change 10.96.0.1/32 dev kube-dummy-if valid_lft 60 preferred_lft 60",
        "10.96.0.1: address expires",
    ),
    (
        "-6 route del local 2001:db8:42::1 dev kube-dummy-if table local",
        "2001:db8:42::1: no route",
    ),
    (
        "-6 route add local 2001:db8:42::1 dev kube-dummy-if table local metric 7",
        "2001:db8:42::1: 2 routes",
    ),
    (
        "-6 route add 2001:db8:42::1 dev kube-dummy-if table main",
        "2001:db8:42::1: 2 routes",
    ),
    (
        "-6 route replace local 2001:db8:42::1 dev kube-dummy-if proto kernel src 2001:db8:42::2 table local",
        "2001:db8:42::1: source",
    ),
    (
        "-6 route replace local 2001:db8:42::1 dev kube-dummy-if proto 99 src 2001:db8::10 table local",
        "2001:db8:42::1: protocol 99 for 2",
    ),
    (
        "-6 route add local 2001:db8:42::1 dev node0 table local metric 5",
        "2001:db8:42::1: another link's route wins",
    ),
    (
        "link set dev kube-dummy-if down",
        "2001:db8:42::1: no address; no route",
    ),
];

#[test]
fn every_fault_is_seen_and_only_the_vip_that_has_it() {
    let vips = vips(3);
    for (change, said) in FAULTS {
        let net = Net::new();
        Raw::new().put_single_route(&vips, net.vip_index(), &SOURCES, PROTO_KERNEL);
        net.assert_single_route(&vips, PROTO_KERNEL);
        net.ip(change);
        let wrong = net.wrong_vips(&vips, PROTO_KERNEL);
        assert!(
            wrong.iter().any(|line| line.contains(said)),
            "{change}: {wrong:#?}"
        );
        // All of IPv6 goes with the link; everything else concerns one VIP.
        let expected = if change.contains("down") { 3 } else { 1 };
        assert_eq!(wrong.len(), expected, "{change}: {wrong:#?}");
    }
}

#[test]
fn tentative_addresses_and_wrong_lengths_are_seen() {
    let net = Net::new();
    // ARP-capable, so that DAD takes its time.
    net.ip("link add dev arp0 type bridge");
    net.ip("link set dev arp0 up");
    let [vip]: [IpAddr; 1] = vips_v6(1).try_into().unwrap();
    net.ip(&format!("-6 addr add {vip}/128 dev arp0"));
    let want = Want {
        link: "arp0",
        ..Want::default()
    };
    let wrong = net.local_state().wrong_vips(&[vip], &want);
    assert!(wrong[0].contains("tentative"), "{wrong:?}");

    net.ip(&format!("-6 addr add {vip}/64 dev {VIP_LINK} nodad"));
    let wrong = net.wrong_vips(&[vip], PROTO_KERNEL);
    assert!(wrong[0].contains("length /64"), "{wrong:?}");
}

#[test]
fn route_only_binding_and_the_kernels_route_can_be_expected() {
    let net = Net::new();
    let vips = vips(2);
    let mut raw = Raw::new();
    let own = Want {
        sources: &[],
        ..Want::default()
    };
    let link = net.vip_index();
    for &vip in &vips {
        let message = raw::vip_address(vip, link);
        assert_eq!(
            raw.request(
                netlink_packet_route::RouteNetlinkMessage::NewAddress(message),
                raw::CREATE_EXCL
            ),
            0
        );
    }
    net.wait_for_kernel();
    net.local_state().assert_single_route(&vips, &own);
    assert_eq!(net.wrong_vips(&vips, PROTO_KERNEL).len(), 4);

    let net = Net::new();
    let link = net.vip_index();
    let mut raw = Raw::new();
    let bare = Want {
        address: false,
        protocol: 201,
        ..Want::default()
    };
    for (vip, source) in vips.iter().zip(SOURCES.iter().cycle()) {
        let route = raw::local_route(*vip, link, Some(*source), 201);
        assert_eq!(raw.request(NewRoute(route), CREATE_REPLACE), 0);
    }
    net.local_state().assert_single_route(&vips, &bare);
    assert_eq!(net.wrong_vips(&vips, 201).len(), 4, "they have no address");
}

#[test]
#[should_panic(expected = "1 of 2 VIPs are still there")]
fn remaining_objects_are_not_absent() {
    let net = Net::new();
    net.ip("-6 route add local 2001:db8:42::2 dev kube-dummy-if table local");
    net.assert_absent(&vips_v6(2));
}

#[test]
fn ten_thousand_vips_are_checked_in_two_reads() {
    let net = Net::new();
    let vips = vips(5000);
    let link = net.vip_index();
    let mut raw = Raw::new();
    raw.put_single_route(&vips, link, &SOURCES, PROTO_KERNEL);
    let start = Instant::now();
    net.assert_single_route(&vips, PROTO_KERNEL);
    let took = start.elapsed();
    println!("10,000 VIPs checked in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    net.ip("-6 route del local 2001:db8:42::777 dev kube-dummy-if table local");
    let wrong = net.wrong_vips(&vips, PROTO_KERNEL);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
}

#[test]
fn snapshots_differ_by_what_changed_elsewhere() {
    let net = Net::new();
    let vips = vips(3);
    let before = net.snapshot_without(&vips);
    Raw::new().put_single_route(&vips, net.vip_index(), &SOURCES, PROTO_KERNEL);
    // Time passes: timers tick.
    std::thread::sleep(Duration::from_millis(50));
    before.assert_same(&net.snapshot_without(&vips));
    assert_eq!(
        before.diff(&net.snapshot_without(&vips[1..])).len(),
        2,
        "address and route of the one VIP not left out"
    );

    for change in [
        "addr add 198.51.100.1/32 dev node0",
        "-6 route add 2001:db8:1::/48 dev node0",
        "rule add from 198.51.100.1 table 7",
        "-6 rule add from 2001:db8::1 table 7",
        "neigh add 198.51.100.2 lladdr 02:00:00:00:00:01 dev node0",
        "link set dev kube-dummy-if mtu 1400",
        "link add dev more0 type bridge",
        "nexthop add id 5 dev node0",
    ] {
        let before = net.snapshot_without(&vips);
        net.ip(change);
        let diff = before.diff(&net.snapshot_without(&vips));
        assert!(
            diff.iter().any(|line| line.starts_with('+')),
            "{change}: {diff:?}"
        );
    }
    // A line that is there twice is not the same as a line that is there once.
    let twice = Snapshot::read(&[]);
    assert!(twice.diff(&twice).is_empty());
}

#[test]
fn the_replay_finds_gaps_and_only_gaps() {
    let net = Net::new();
    let link = net.vip_index();
    let vips = vips(2);
    let mut raw = Raw::new();
    raw.put_single_route(&vips, link, &SOURCES, PROTO_KERNEL);
    let watcher = RouteWatcher::new();
    assert!(watcher.drain().is_empty(), "nothing happened yet");

    // Replacements in place: never a gap.
    let before = net.local_state();
    for (vip, source) in vips.iter().zip(SOURCES.iter().cycle()) {
        for proto in [201, PROTO_KERNEL] {
            let route = raw::local_route(*vip, link, Some(*source), proto);
            assert_eq!(raw.request(NewRoute(route), CREATE_REPLACE), 0);
        }
    }
    let events = watcher.drain();
    let routes: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Route(route) => Some(route),
            Event::Address(_) => None,
        })
        .collect();
    assert_eq!(routes.len(), 8, "{events:#?}");
    for route in routes {
        assert!(route.replaces(), "{route:?}");
        assert_eq!(route.port, raw.port());
        assert_eq!(route.oif, link);
        assert_eq!(
            route.metric,
            if route.dst.unwrap().is_ipv4() {
                0
            } else {
                1024
            }
        );
        assert!(SOURCES.contains(&route.prefsrc.unwrap()));
        assert!(vips.contains(&route.local_host().unwrap()));
    }
    never_without_local_route(&events, &before, &vips, link).unwrap();

    // Break before make: a gap, for the VIP that had it.
    let before = net.local_state();
    net.ip_batch([
        "route del local 10.96.0.2 dev kube-dummy-if table local",
        "route add local 10.96.0.2 dev kube-dummy-if table local src 192.0.2.10",
        "route add local 2001:db8:42::1 dev kube-dummy-if table local metric 3",
        "route del local 2001:db8:42::1 dev kube-dummy-if table local metric 1024",
    ]);
    let events = watcher.drain();
    assert_eq!(events.len(), 4, "{events:#?}");
    let gaps = never_without_local_route(&events, &before, &vips, link).unwrap_err();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0].starts_with("10.96.0.2: without"), "{gaps:?}");
    // Events without their beginning do not fit.
    assert!(never_without_local_route(&events[3..], &before, &vips, link).is_err());

    // Another link that takes the route leaves this one without.
    let before = net.local_state();
    net.ip("-6 route replace local 2001:db8:42::2 dev node0 table local metric 1024");
    let gaps = never_without_local_route(&watcher.drain(), &before, &vips, link).unwrap_err();
    assert!(gaps[0].starts_with("2001:db8:42::2: without"), "{gaps:?}");
}

#[test]
fn the_watcher_keeps_up_with_ten_thousand() {
    let net = Net::new();
    let watcher = RouteWatcher::new();
    // Eight notifications a pair. Where net.core.rmem_max is small, no more than certainly fit.
    let pairs = if watcher.capacity() >= 10_000 {
        5000
    } else {
        watcher.capacity() / 8
    };
    let vips = vips(pairs);
    let link = net.vip_index();
    Raw::new().put_single_route(&vips, link, &SOURCES, PROTO_KERNEL);
    let events = watcher.drain();
    let addresses = events
        .iter()
        .filter(|event| matches!(event, Event::Address(address) if address.new && address.index == link))
        .count();
    assert!(addresses >= 2 * pairs, "{addresses}");
    // The kernel's route, and in IPv6 the desired one, the desired one again, less the kernel's.
    println!("{} notifications for {pairs} pairs", events.len());
    assert_eq!(events.len(), 8 * pairs);
}

#[test]
fn hammer_works_and_stops() {
    let net = Net::new();
    let before = net.snapshot_without(&[]);
    let hammer = Hammer::start(&net);
    std::thread::sleep(Duration::from_millis(300));
    let at_first = hammer.operations();
    std::thread::sleep(Duration::from_millis(300));
    assert!(hammer.operations() > at_first);
    let done = hammer.stop();
    assert!(done > 50, "{done}");
    before.assert_same(&net.snapshot_without(&[]));
    let watcher = RouteWatcher::new();
    std::thread::sleep(Duration::from_millis(50));
    assert!(watcher.drain().is_empty(), "it has stopped");
}

#[test]
fn flush_ends_well_beside_another_writer() {
    let net = Net::new();
    let flush = format!("-6 route flush table local dev {VIP_LINK}");
    for _ in 0..3 {
        net.ip_batch(
            vips_v6(1000)
                .iter()
                .map(|vip| format!("route add local {vip} dev {VIP_LINK} table local")),
        );
        let mut other = ip_command()
            .args(flush.split_whitespace())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        net.ip(&flush);
        other.wait().unwrap();
        assert_eq!(
            net.ip(&format!("-6 route show table local dev {VIP_LINK}")),
            ""
        );
    }
}

#[test]
fn sysctls_and_the_link_are_the_threads_own() {
    let net = Net::with_node_on_lo();
    net.set_sysctl("ipv6/conf/kube-dummy-if/keep_addr_on_down", "1");
    assert_eq!(net.sysctl("ipv6/conf/kube-dummy-if/keep_addr_on_down"), "1");
    let state = net.local_state();
    assert_eq!(state.addresses_of(NODE_V4.into())[0].dev, "lo");
    assert!(state.links.contains_key(VIP_LINK));
    let other = Net::new();
    assert_eq!(
        other.sysctl("ipv6/conf/kube-dummy-if/keep_addr_on_down"),
        "0"
    );
    assert!(
        other
            .try_ip("link show dev nonsense")
            .unwrap_err()
            .contains("nonsense")
    );
    assert_eq!(vips_v4(300)[299], IpAddr::from([10, 96, 1, 44]));
}
