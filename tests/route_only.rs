//! Route-only binding: VIPs by their routes alone, and the moves between the bindings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/lookups.rs"]
mod lookups;

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{NewAddress, NewRoute};
use netlink_packet_route::address::AddressFlags;

use broken::{PROTOCOLS, Random, State, builder, one_of_each, put, report};
use common::raw::{self, CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, Raw};
use common::{
    Event, Net, PROTO_KERNEL, RouteWatcher, Snapshot, VIP_LINK, Want, never_without_local_route,
    vip, vips, vips_v4, vips_v6,
};
use lookups::{LookUps, Of};
use viproute::{Binding, Cause, Claim, Dispatched, Drift, Error, ErrorKind, Report, VipManager};

fn open(protocol: u8, binding: Binding) -> VipManager {
    builder(VIP_LINK, protocol).binding(binding).open().unwrap()
}

fn route_only(protocol: u8) -> VipManager {
    open(protocol, Binding::Route)
}

fn want(protocol: u8, binding: Binding) -> Want<'static> {
    Want {
        protocol,
        address: binding == Binding::Address,
        ..Want::default()
    }
}

/// Panics unless all these VIPs are in the single-route state without an address.
#[track_caller]
fn assert_route_only(net: &Net, vips: &[IpAddr], protocol: u8) {
    let want = want(protocol, Binding::Route);
    net.local_state().assert_single_route(vips, &want);
}

fn placeholder() -> IpAddr {
    IpAddr::from([127, 86, 73, 80])
}

fn has_anchor(net: &Net) -> bool {
    let state = net.local_state();
    let on_link = state.addresses_of(placeholder());
    assert!(on_link.iter().all(|address| address.dev == VIP_LINK));
    !on_link.is_empty()
}

#[test]
fn assign_of_ten_thousand_of_each_family_and_then_no_write() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(10_000);
        let rest = net.snapshot_without(&vips);
        let mut manager = route_only(protocol);
        let began = Instant::now();
        let report = manager.assign(&vips).unwrap();
        println!("{protocol}: {report} in {:?}", began.elapsed());
        assert_eq!(report.assigned, vips.len(), "{report}");
        // One message each.
        assert_eq!(report.writes, vips.len() as u64, "{report}");
        assert_route_only(&net, &vips, protocol);
        // No placeholder where none is needed.
        rest.assert_same(&net.snapshot_without(&vips));

        let watcher = RouteWatcher::new();
        for again in [
            manager.assign(&vips).unwrap(),
            manager.normalize().unwrap(),
            manager.normalize_only(&vips).unwrap(),
            manager.reconcile(&Claim::link(), &vips).unwrap(),
            manager.set_binding(Binding::Route).unwrap(),
            route_only(protocol).normalize().unwrap(),
        ] {
            assert_eq!((again.unchanged, again.writes), (vips.len(), 0), "{again}");
        }
        let audit = manager.audit().unwrap();
        assert!(audit.is_clean());
        assert_eq!(audit.vips.len(), vips.len());
        assert_eq!(watcher.drain(), Vec::new());

        // One of them, and then all.
        let report = manager.reconcile(&Claim::link(), &vips[1..]).unwrap();
        assert_eq!((report.released, report.writes), (1, 1), "{report}");
        net.assert_absent(&vips[..1]);
        let report = manager.release(&vips).unwrap();
        assert_eq!(report.released, vips.len() - 1, "{report}");
        net.assert_absent(&vips);
        rest.assert_same(&net.snapshot_without(&vips));
    }
}

#[test]
fn assign_of_a_hundred_thousand() {
    let net = Net::new();
    for vips in [vips_v4(100_000), vips_v6(100_000)] {
        let mut manager = route_only(PROTO_KERNEL);
        let began = Instant::now();
        let report = manager.assign(&vips).unwrap();
        let assigned = began.elapsed();
        assert_eq!(report.assigned, 100_000, "{report}");
        let began = Instant::now();
        let audit = manager.audit().unwrap();
        let audited = began.elapsed();
        assert!(audit.is_clean() && audit.vips.len() == 100_000);
        let state = net.local_state();
        state.assert_single_route(&vips, &want(PROTO_KERNEL, Binding::Route));
        let began = Instant::now();
        let report = manager.release_all(&Claim::link()).unwrap();
        println!(
            "{}: 100,000 assigned in {assigned:?}, audited in {audited:?}, released in {:?}",
            vips[0],
            began.elapsed()
        );
        assert_eq!(report.released, 100_000);
        net.assert_absent(&vips);
    }
}

/// What is wrong with a route that has no address.
#[test]
fn every_broken_state_is_reported_and_repaired() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let all = one_of_each();
        let of_all: Vec<IpAddr> = all.iter().map(|(vip, _)| *vip).collect();
        put(&net, &all, protocol);
        let mut manager = route_only(protocol);
        let audit = manager.audit().unwrap();
        assert_eq!(audit.vips.len(), all.len());
        for audited in &audit.vips {
            let (_, state) = all
                .iter()
                .find(|(vip, _)| *vip == audited.vip.addr())
                .unwrap();
            let drift = audited.drift;
            assert_eq!(drift.contains(Drift::UNWANTED_ADDRESS), state.has_address());
            assert!(!drift.intersects(Drift::STALE | Drift::MISSING_ADDRESS));
            // What is stale under the other binding is fine under this one.
            assert_eq!(drift.is_empty(), *state == State::Stale, "{audited}");
        }
        let rest = net.snapshot_without(&[of_all.clone(), vec![placeholder()]].concat());
        let report = manager.normalize().unwrap();
        println!("{protocol}: {report}");
        assert_eq!(
            (report.repaired, report.unchanged),
            (all.len() - 2, 2),
            "{report}"
        );
        assert_route_only(&net, &of_all, protocol);
        rest.assert_same(&net.snapshot_without(&[of_all.clone(), vec![placeholder()]].concat()));
        assert!(has_anchor(&net), "IPv4 has lost its last address");
        let before = Snapshot::read(&[]);
        assert_eq!(manager.normalize().unwrap().writes, 0);
        assert!(manager.audit_deep().unwrap().is_clean());

        wrong_routes_are_reported_and_repaired(&net, &mut manager, protocol, &of_all);
        before.assert_same(&Snapshot::read(&[]));
        // A VIP that is not there is not added.
        let absent = "10.99.9.9".parse::<IpAddr>().unwrap();
        let result = report_of_failure(manager.normalize_only([absent]));
        assert_eq!(result.failures[0].cause, Cause::NotOnLink);
        assert_eq!((result.failures.len(), result.writes), (1, 0));
    }
}

/// Routes without an address: another source, none, another protocol, a further one.
fn wrong_routes_are_reported_and_repaired(
    net: &Net,
    manager: &mut VipManager,
    protocol: u8,
    vips: &[IpAddr],
) {
    let link = net.vip_index();
    let mut raw = Raw::new();
    let (v4, v6) = (vips[0], vips[vips.len() - 1]);
    for (vip, other) in [(v4, broken::OTHER_V4.into()), (v6, broken::OTHER_V6.into())] {
        let node = builder_source(vip);
        for (source, proto, want) in [
            (
                Some(other),
                protocol,
                Drift::WRONG_SOURCE | Drift::MISSING_ROUTE,
            ),
            (None, protocol, Drift::WRONG_SOURCE | Drift::MISSING_ROUTE),
            (
                Some(node),
                186,
                Drift::WRONG_PROTOCOL | Drift::MISSING_ROUTE,
            ),
        ] {
            let route = raw::local_route(vip, link, source, proto);
            raw.batch_ok(&[(NewRoute(route), CREATE_REPLACE)]);
            let audit = manager.audit().unwrap();
            let drifted: Vec<_> = audit.drifted().map(|a| (a.vip.addr(), a.drift)).collect();
            assert_eq!(drifted, [(vip, want)]);
            let report = manager.normalize().unwrap();
            assert_eq!((report.repaired, report.writes), (1, 1), "{report}");
        }
        let further = raw::local_route(vip, link, Some(other), 4);
        raw.batch_ok(&[(NewRoute(raw::with_metric(further, 500)), CREATE_APPEND)]);
        let drifted: Vec<_> = manager
            .audit()
            .unwrap()
            .drifted()
            .map(|a| a.drift)
            .collect();
        assert_eq!(drifted, [Drift::DUPLICATE]);
        assert_eq!(manager.normalize_only([vip]).unwrap().repaired, 1);
    }
}

fn builder_source(vip: IpAddr) -> IpAddr {
    common::SOURCES
        .into_iter()
        .find(|source| source.is_ipv4() == vip.is_ipv4())
        .unwrap()
}

#[track_caller]
fn report_of_failure(result: Result<Report, Error>) -> Report {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
    error.into_report().unwrap()
}

/// What a move is watched with.
struct Witness<'a> {
    net: &'a Net,
    vips: &'a [IpAddr],
    before: common::LocalState,
    watcher: RouteWatcher,
    look_ups: LookUps,
}

impl<'a> Witness<'a> {
    /// A move to this binding. An IPv6 VIP's only route is replaced in place, by the staged one, before its
    /// address comes.
    fn start(net: &'a Net, vips: &'a [IpAddr], to: Binding) -> Self {
        Self {
            net,
            vips,
            before: net.local_state(),
            watcher: RouteWatcher::new(),
            look_ups: LookUps::start_of(
                vips,
                match to {
                    Binding::Address => Of::OnlyRoute,
                    _ => Of::Any,
                },
            ),
        }
    }

    /// Every VIP was local at every instant.
    #[track_caller]
    fn end(self) -> Vec<Event> {
        let (count, not_local) = self.look_ups.stop();
        let events = self.watcher.drain();
        let link = self.net.vip_index();
        // First what is never blind: a look-up that found nothing means little by itself.
        if let Err(gaps) = never_without_local_route(&events, &self.before, self.vips, link) {
            panic!("{}: {gaps:#?}", gaps.len());
        }
        assert!(not_local.is_empty(), "{not_local:#?}");
        assert!(count >= 2 * self.vips.len() as u64, "{count}");
        events
    }
}

#[test]
fn set_binding_moves_all_vips_both_ways_without_a_gap() {
    for protocol in PROTOCOLS {
        for vips in [vips(200), vips_v4(200), vips_v6(200)] {
            let net = Net::new();
            let mut manager = open(protocol, Binding::Address);
            manager.assign(&vips).unwrap();
            // A foreign route through the link, which goes with its last IPv4 address.
            net.ip(&format!(
                "route add 192.168.7.0/24 dev {VIP_LINK} table 100"
            ));
            let all = [&vips[..], &[placeholder()]].concat();
            let rest = net.snapshot_without(&all);
            let has_v4 = vips.iter().any(IpAddr::is_ipv4);
            for binding in [
                Binding::Route,
                Binding::Address,
                Binding::Route,
                Binding::Address,
            ] {
                let witness = Witness::start(&net, &vips, binding);
                let began = Instant::now();
                let report = manager.set_binding(binding).unwrap();
                println!("{protocol}: {binding:?}: {report} in {:?}", began.elapsed());
                assert_eq!(report.repaired, vips.len(), "{report}");
                let events = witness.end();
                assert!(events.len() >= vips.len(), "{}", events.len());
                net.local_state()
                    .assert_single_route(&vips, &want(protocol, binding));
                rest.assert_same(&net.snapshot_without(&all));
                assert_eq!(has_anchor(&net), has_v4);
                assert_eq!(manager.set_binding(binding).unwrap().writes, 0);
                assert!(manager.audit_deep().unwrap().is_clean());
            }
        }
    }
}

/// A VIP with both routes is wrong until the kernel's is deleted, so the deletion follows the address.
#[test]
fn kernels_ipv4_route_is_deleted_right_behind_its_address() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips_v4(600);
        route_only(protocol).assign(&vips).unwrap();
        let watcher = RouteWatcher::new();
        open(protocol, Binding::Address).assign(&vips).unwrap();
        net.assert_single_route(&vips, protocol);
        let events = watcher.drain();
        let deleted = |event: &Event| matches!(event, Event::Route(route) if !route.new);
        let added = |event: &Event| matches!(event, Event::Address(address) if address.new);
        let first_deletion = events.iter().position(deleted).unwrap();
        let last_address = events.iter().rposition(added).unwrap();
        assert!(
            first_deletion < last_address,
            "{first_deletion} {last_address}"
        );
        let deletions = events.iter().filter(|event| deleted(event)).count();
        assert_eq!(deletions, vips.len());
    }
}

#[test]
fn assign_moves_one_vip_and_leaves_the_others() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(50);
        let mut by_address = open(protocol, Binding::Address);
        let mut by_route = route_only(protocol);
        by_address.assign(&vips).unwrap();
        for at in [0, 1] {
            let vip = vips[at];
            let rest = net.snapshot_without(&[vip]);
            for (manager, binding) in [
                (&mut by_route, Binding::Route),
                (&mut by_address, Binding::Address),
            ] {
                let witness = Witness::start(&net, &vips, binding);
                let report = manager.assign([vip]).unwrap();
                assert_eq!(report.repaired, 1, "{report}");
                witness.end();
                net.local_state()
                    .assert_single_route(&[vip], &want(protocol, binding));
                rest.assert_same(&net.snapshot_without(&[vip]));
                // The other way of binding sees the difference.
                assert!(manager.audit().unwrap().vips.len() == vips.len());
            }
        }
        assert!(!has_anchor(&net), "there were other addresses all the time");
        net.assert_single_route(&vips, protocol);
    }
}

/// Some bound by address, some by route, foreign routes through the link, and it all moves.
#[test]
fn set_binding_moves_a_link_of_mixed_bindings() {
    let mut random = Random::new();
    for protocol in PROTOCOLS {
        for target in [Binding::Route, Binding::Address] {
            for spare in [false, true] {
                let net = Net::new();
                let vips = vips(100);
                let (with, without): (Vec<IpAddr>, Vec<IpAddr>) =
                    vips.iter().partition(|_| random.below(2) == 0);
                open(protocol, Binding::Address).assign(&with).unwrap();
                route_only(protocol).assign(&without).unwrap();
                net.ip_batch([
                    format!("route add 192.168.7.0/24 dev {VIP_LINK} table 100"),
                    format!("route add local 192.168.8.1 dev {VIP_LINK} table local"),
                    format!("route add 192.168.9.0/24 dev {VIP_LINK}"),
                    format!("route add 2001:db8:9::/64 dev {VIP_LINK} table 100"),
                ]);
                if spare {
                    net.ip(&format!("addr add 203.0.113.1/24 dev {VIP_LINK}"));
                }
                // What it must not take for its VIPs: ranges say so.
                let ranges = ["10.96.0.0/12", "2001:db8:42::/64"];
                let ranges = ranges.map(|range| range.parse::<ipnet::IpNet>().unwrap());
                let mut manager = builder(VIP_LINK, protocol)
                    .allow(ranges[0])
                    .allow(ranges[1])
                    .open()
                    .unwrap();
                let all = [&vips[..], &[placeholder()]].concat();
                let rest = net.snapshot_without(&all);
                let witness = Witness::start(&net, &vips, target);
                let report = manager.set_binding(target).unwrap();
                let moving = match target {
                    Binding::Route => &with,
                    _ => &without,
                };
                assert_eq!(report.repaired, moving.len(), "{report}");
                assert_eq!(report.unchanged, vips.len() - moving.len(), "{report}");
                let events = witness.end();
                let touched: BTreeSet<_> = events
                    .iter()
                    .filter_map(|event| match event {
                        Event::Route(route) => route.dst,
                        Event::Address(address) => Some(address.local),
                    })
                    .filter(|addr| *addr != placeholder())
                    .collect();
                assert_eq!(touched, moving.iter().copied().collect());
                net.local_state()
                    .assert_single_route(&vips, &want(protocol, target));
                rest.assert_same(&net.snapshot_without(&all));
                assert_eq!(has_anchor(&net), target == Binding::Route && !spare);
                assert_eq!(manager.normalize().unwrap().writes, 0);
            }
        }
    }
}

/// The control for the placeholder address: the kernel flushes routes without it.
#[test]
fn control_kernel_flushes_ipv4_routes_without_a_placeholder() {
    let net = Net::new();
    let vips = vips_v4(3);
    route_only(PROTO_KERNEL).assign(&vips).unwrap();
    net.ip(&format!("addr add 203.0.113.1/32 dev {VIP_LINK}"));
    net.ip(&format!("addr del 203.0.113.1/32 dev {VIP_LINK}"));
    net.assert_absent(&vips);
    // And it comes back.
    assert_eq!(route_only(PROTO_KERNEL).assign(&vips).unwrap().assigned, 3);
    assert_route_only(&net, &vips, PROTO_KERNEL);
}

#[test]
fn reconcile_moves_between_the_bindings() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(30);
        open(protocol, Binding::Address)
            .assign(&vips[..40])
            .unwrap();
        net.ip(&format!(
            "route add 192.168.7.0/24 dev {VIP_LINK} table 100"
        ));
        let all = [&vips[..], &[placeholder()]].concat();
        let rest = net.snapshot_without(&all);
        let mut manager = route_only(protocol);
        // 0..20 go, 20..40 move, 40..60 come.
        let witness = Witness::start(&net, &vips[20..40], Binding::Route);
        let report = manager.reconcile(&Claim::link(), &vips[20..]).unwrap();
        assert_eq!(
            (report.released, report.repaired, report.assigned),
            (20, 20, 20),
            "{report}"
        );
        witness.end();
        assert_route_only(&net, &vips[20..], protocol);
        net.assert_absent(&vips[..20]);
        assert!(has_anchor(&net));
        rest.assert_same(&net.snapshot_without(&all));
        let report = manager.reconcile(&Claim::link(), &vips[20..]).unwrap();
        assert_eq!(report.writes, 0, "{report}");
        // What is not claimed keeps the link's IPv4 routes alive as well as a placeholder.
        let net = Net::new();
        open(protocol, Binding::Address)
            .assign(&vips[..40])
            .unwrap();
        let limited = Claim::ranges([format!("{}/32", vips[0]).parse::<ipnet::IpNet>().unwrap()]);
        let report = manager_in_new_net(protocol)
            .reconcile(&limited, &vips[2..4])
            .unwrap();
        assert_eq!((report.released, report.repaired), (1, 2), "{report}");
        assert_route_only(&net, &vips[2..4], protocol);
        assert!(!has_anchor(&net), "other addresses are on the link");
    }
}

/// The manager's namespace is that of the thread when it was opened.
fn manager_in_new_net(protocol: u8) -> VipManager {
    route_only(protocol)
}

/// No address, no prefix route of the kernel's: the node's other routes need not be walked.
#[test]
fn audit_of_route_only_vips_does_not_read_table_main() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips_v6(3);
        let mut manager = route_only(protocol);
        manager.assign(&vips).unwrap();
        net.ip_batch([format!("route add {} dev {VIP_LINK} metric 300", vips[0])]);
        assert!(manager.audit().unwrap().is_clean());
        let deep = manager.audit_deep().unwrap();
        let drifted: Vec<_> = deep.drifted().map(|a| (a.vip.addr(), a.drift)).collect();
        assert_eq!(drifted, [(vips[0], Drift::DUPLICATE)]);
        // Where an address has a prefix route, all is reported.
        let plain = raw::address(vips[1], net.index(VIP_LINK), AddressFlags::Nodad);
        Raw::new().batch_ok(&[(NewAddress(plain), CREATE_EXCL)]);
        let audit = manager.audit().unwrap();
        let drift = |vip| {
            audit
                .drifted()
                .find(|a| a.vip.addr() == vip)
                .map(|a| a.drift)
        };
        assert_eq!(drift(vips[0]), Some(Drift::DUPLICATE));
        assert!(drift(vips[1]).unwrap().contains(Drift::PREFIX_ROUTE));
        // Before a change, table main is part of what is to be right.
        manager.reconcile(&Claim::link(), &vips).unwrap();
        assert_route_only(&net, &vips, protocol);
        assert!(manager.audit_deep().unwrap().is_clean());
    }
}

#[test]
fn another_devices_route_is_a_conflict() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let rival = net.add_link("rival0");
        let vips = vips(3);
        let mut raw = Raw::new();
        for vip in &vips[..2] {
            raw.batch_ok(&[(NewAddress(raw::vip_address(*vip, rival)), CREATE_EXCL)]);
        }
        net.wait_for_kernel();
        let rest = net.snapshot_without(&vips[2..]);
        let report = report(route_only(protocol).assign(&vips));
        assert_eq!(report.assigned, 4, "{report}");
        assert_eq!(report.failures.len(), 2, "{report:?}");
        for failure in &report.failures {
            assert!(vips[..2].contains(&failure.vip.addr()));
            assert_eq!(failure.cause, Cause::Conflict, "{failure}");
            assert!(failure.drift.contains(Drift::CONFLICT), "{failure}");
        }
        rest.assert_same(&net.snapshot_without(&vips[2..]));
        assert_route_only(&net, &vips[2..], protocol);
    }
}

/// IPv4's bind takes any local address, IPv6's only an address that is on a link.
#[test]
fn sockets_bind_to_route_only_vips() {
    let net = Net::new();
    let vips = vips(2);
    let mut manager = route_only(PROTO_KERNEL);
    manager.assign(&vips).unwrap();
    for vip in &vips {
        let plain = bind(*vip, false);
        assert_eq!(plain.is_ok(), vip.is_ipv4(), "{vip}: {plain:?}");
        if let Err(error) = plain {
            assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL), "{vip}");
        }
        let server = bind(*vip, true).unwrap();
        // A client on this node is seen with the node's address, and hears the VIP answer.
        let any: IpAddr = match vip {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let client = UdpSocket::bind((any, 0)).unwrap();
        let to = server.local_addr().unwrap();
        client.connect(to).unwrap();
        client.send(b"?").unwrap();
        let mut byte = [0];
        let (_, peer) = server.recv_from(&mut byte).unwrap();
        assert_eq!(peer.ip(), builder_source(*vip));
        server.send_to(b"!", peer).unwrap();
        assert_eq!(client.recv(&mut byte).unwrap(), 1);
        assert_eq!(client.peer_addr().unwrap().ip(), *vip);
    }
    // The control: with the address it binds.
    manager.set_binding(Binding::Address).unwrap();
    for vip in &vips {
        bind(*vip, false).unwrap();
    }
    // And what is no VIP does not.
    manager.release(&vips).unwrap();
    for vip in &vips {
        bind(*vip, false).unwrap_err();
    }
    net.assert_absent(&vips);
}

/// Binds a UDP socket, with or without `IPV6_FREEBIND`.
#[allow(unsafe_code)]
fn bind(addr: IpAddr, freebind: bool) -> std::io::Result<UdpSocket> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let family = if addr.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if freebind && addr.is_ipv6() {
        let one: i32 = 1;
        // SAFETY: an i32 of the length that is given.
        let set = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_IPV6,
                libc::IPV6_FREEBIND,
                (&raw const one).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
    }
    let bound = match addr {
        IpAddr::V4(v4) => {
            // SAFETY: all zero is a valid sockaddr_in.
            let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            to.sin_family = u16::try_from(family).unwrap();
            to.sin_addr.s_addr = u32::from_ne_bytes(v4.octets());
            let length = u32::try_from(size_of_val(&to)).unwrap();
            // SAFETY: an address of the length that is given.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const to).cast(), length) }
        }
        IpAddr::V6(v6) => {
            // SAFETY: all zero is a valid sockaddr_in6.
            let mut to: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            to.sin6_family = u16::try_from(family).unwrap();
            to.sin6_addr.s6_addr = v6.octets();
            let length = u32::try_from(size_of_val(&to)).unwrap();
            // SAFETY: an address of the length that is given.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const to).cast(), length) }
        }
    };
    if bound == 0 {
        let socket = UdpSocket::from(fd);
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// A keeper of route-only VIPs takes an address away that another writer has added to one. The link
/// has a further address of its own, so it needs none to keep its routes.
#[test]
fn keeper_adds_no_placeholder_while_an_address_stays() {
    for has_address in [true, false] {
        let net = Net::new();
        let all = [vip("10.96.0.1"), vip("10.96.0.2")];
        if has_address {
            net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
        }
        let manager = builder(VIP_LINK, PROTO_KERNEL)
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
