//! `normalize`: every broken state becomes the single-route state, without a gap, and a good one
//! is left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/lookups.rs"]
mod lookups;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::NewAddress;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};

use broken::{
    PROTOCOLS, Random, State, assert_single_route, builder, manager, one_of_each, put, report,
};
use common::raw::{self, CREATE_EXCL, Raw};
use common::{
    Event, NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, Snapshot, VIP_LINK, kernel_since,
    never_without_local_route, vips, vips_v4, vips_v6,
};
use lookups::{LookUps, Of};
use viproute::OutcomeKind::Repaired;
use viproute::{Binding, Cause, Claim, Dispatched, Drift, Error, Report, VipManager};

#[test]
fn normalize_repairs_each_state_and_changes_nothing_else() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let all = one_of_each();
        put(&net, &all, protocol);
        let mut manager = manager(protocol);
        for &(vip, state) in &all {
            let rest = net.snapshot_without(&[vip]);
            let own = Snapshot::read(&[]);
            let audit = manager.audit_deep().unwrap();
            let seen = audit.vips.iter().find(|seen| seen.vip == vip.into());
            let report = report(manager.normalize_only([vip]));
            println!("{protocol}: {state:?} {vip}: {report}");
            rest.assert_same(&net.snapshot_without(&[vip]));
            match state {
                State::Stale => {
                    assert_eq!(report.failures.len(), 1, "{report:?}");
                    assert_eq!(report.failures[0].vip, vip.into());
                    assert_eq!(report.failures[0].cause, Cause::StaleRoute);
                    assert!(report.failures[0].drift.contains(Drift::STALE));
                    assert!(report.failures[0].drift.contains(Drift::MISSING_ADDRESS));
                    assert_eq!(report.writes, 0);
                    own.assert_same(&Snapshot::read(&[]));
                }
                State::Fine => {
                    assert_eq!((report.unchanged, report.writes), (1, 0), "{report}");
                    assert_eq!(report.outcomes, []);
                    own.assert_same(&Snapshot::read(&[]));
                    assert_single_route(&net, &[vip], protocol);
                }
                _ => {
                    assert_eq!(
                        (report.repaired, report.failures.len()),
                        (1, 0),
                        "{report:?}"
                    );
                    let [outcome] = report.outcomes[..] else {
                        panic!("{report:?}");
                    };
                    assert_eq!((outcome.vip, outcome.kind), (vip.into(), Repaired));
                    assert_eq!(Some(outcome.cured), seen.map(|seen| seen.drift));
                    assert!(!outcome.cured.is_empty(), "{state:?} {outcome}");
                    assert!((1..=9).contains(&report.writes), "{state:?} {report}");
                    assert_single_route(&net, &[vip], protocol);
                }
            }
        }
    }
}

/// VIPs and a random state for each, without `Broadcast`.
fn random_states(vips: &[IpAddr], random: &mut Random) -> Vec<(IpAddr, State)> {
    let state = |vip: &IpAddr| match vip {
        IpAddr::V4(_) => random.pick(&State::V4),
        IpAddr::V6(_) => random.pick(&State::V6),
    };
    vips.iter().copied().zip(vips.iter().map(state)).collect()
}

fn only(all: &[(IpAddr, State)], which: impl Fn(State) -> bool) -> Vec<IpAddr> {
    let some = all.iter().filter(|(_, state)| which(*state));
    some.map(|(vip, _)| *vip).collect()
}

#[test]
fn normalize_repairs_a_thousand_random_states_and_then_writes_nothing() {
    let mut random = Random::new();
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(500);
        let all = random_states(&vips, &mut random);
        put(&net, &all, protocol);
        let rest = net.snapshot_without(&vips);
        let mut manager = manager(protocol);
        let stale = only(&all, |state| state == State::Stale);
        let others = only(&all, |state| state != State::Stale);
        let fine = only(&all, |state| state == State::Fine).len();

        let began = Instant::now();
        let first = report(manager.normalize());
        println!("{protocol}: {first} in {:?}", began.elapsed());
        assert_eq!(first.unchanged, fine, "{first}");
        assert_eq!(first.repaired, others.len() - fine, "{first}");
        assert_single_route(&net, &others, protocol);
        let failed: Vec<IpAddr> = first.failures.iter().map(|f| f.vip.addr()).collect();
        let mut sorted = stale.clone();
        sorted.sort_unstable();
        assert_eq!(failed, sorted, "the stale ones, sorted");
        for failure in &first.failures {
            assert_eq!(failure.cause, Cause::StaleRoute, "{failure}");
            assert!(failure.drift.contains(Drift::STALE), "{failure}");
        }
        rest.assert_same(&net.snapshot_without(&vips));

        // Twice and three times: nothing is sent that writes, and nothing happens.
        let watcher = RouteWatcher::new();
        let before = Snapshot::read(&[]);
        for again in [
            report(manager.normalize()),
            report(manager.normalize()),
            report(manager.normalize_only(&others)),
            report(manager.assign(&others)),
            report(manager.assign(&others)),
        ] {
            assert_eq!((again.writes, again.retries), (0, 0), "{again}");
            assert_eq!(again.unchanged, others.len(), "{again}");
            assert_eq!((again.repaired, again.assigned, again.released), (0, 0, 0));
        }
        // Another manager knows nothing of the first one's calls.
        let again = report(broken::manager(protocol).normalize());
        assert_eq!(
            (again.unchanged, again.writes),
            (others.len(), 0),
            "{again}"
        );
        assert_eq!(watcher.drain(), Vec::new());
        before.assert_same(&Snapshot::read(&[]));

        // The stale ones are the caller's to decide on.
        if !stale.is_empty() {
            let released = manager.release(&stale).unwrap();
            assert_eq!(released.released, stale.len(), "{released}");
            net.assert_absent(&stale);
            let last = manager.normalize().unwrap();
            assert_eq!((last.unchanged, last.writes), (others.len(), 0), "{last}");
        }
        rest.assert_same(&net.snapshot_without(&vips));
    }
}

#[test]
fn normalize_deletes_the_kernels_route_after_a_link_flap() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips_v4(50);
        let mut manager = manager(protocol);
        assert_eq!(manager.assign(&vips).unwrap().assigned, 50);
        net.ip(&format!("link set dev {VIP_LINK} down"));
        net.ip(&format!("link set dev {VIP_LINK} up"));
        let state = net.local_state();
        for vip in &vips {
            assert_eq!(
                state.routes_of(*vip).len(),
                2,
                "{:?}",
                state.routes_of(*vip)
            );
        }
        let report = manager.normalize().unwrap();
        assert_eq!((report.repaired, report.writes), (50, 50), "{report}");
        net.assert_single_route(&vips, protocol);
        assert_eq!(manager.normalize().unwrap().writes, 0);
    }
}

/// A broadcast address brings its route back with the next flap: it is the address's maker's.
#[test]
fn broadcast_route_to_the_vip_is_a_duplicate() {
    let net = Net::new();
    let vips = vips_v4(1);
    put(&net, &[(vips[0], State::Broadcast)], PROTO_KERNEL);
    let kinds = || {
        let state = net.local_state();
        let routes = state.routes_of(vips[0]).iter();
        routes.map(|route| route.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(), [2, 3], "local, broadcast");
    let mut manager = manager(PROTO_KERNEL);
    assert_eq!(manager.normalize().unwrap().repaired, 1);
    assert_eq!(kinds(), [2]);
    assert_single_route(&net, &vips, PROTO_KERNEL);
    assert_eq!(manager.normalize().unwrap().writes, 0);
}

#[test]
fn normalize_only_repairs_given_vips_that_are_on_the_link() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vips = vips(20);
        let all: Vec<_> = vips
            .iter()
            .map(|vip| {
                (
                    *vip,
                    if vip.is_ipv4() {
                        State::Pair
                    } else {
                        State::ThreeRoutes
                    },
                )
            })
            .collect();
        put(&net, &all[..20], protocol);
        let (given, others) = vips[..20].split_at(10);
        let absent = &vips[20..24];
        let before = net.snapshot_without(given);
        let watcher = RouteWatcher::new();
        let mut manager = manager(protocol);
        let report = report(manager.normalize_only(given.iter().chain(absent)));
        assert_eq!(report.repaired, 10, "{report:?}");
        // One deletion for each IPv4 pair; for IPv6 the address and what goes with `proto kernel`.
        let each_v6 = if protocol == PROTO_KERNEL { 4 } else { 3 };
        assert_eq!(report.writes, 5 + 5 * each_v6, "{report}");
        assert_eq!(report.failures.len(), 4, "{report:?}");
        for failure in &report.failures {
            assert!(absent.contains(&failure.vip.addr()), "{failure}");
            assert_eq!(failure.cause, Cause::NotOnLink);
            assert_eq!(failure.drift, Drift::MISSING_ADDRESS | Drift::MISSING_ROUTE);
            assert_eq!((failure.operation, failure.errno), (None, None));
        }
        before.assert_same(&net.snapshot_without(given));
        net.assert_absent(absent);
        assert_single_route(&net, given, protocol);
        assert_eq!(broken::wrong(&net, others, protocol).len(), 10);
        let touched = watcher.drain().iter().any(|event| match event {
            Event::Route(route) => !route.dst.is_some_and(|dst| given.contains(&dst)),
            Event::Address(address) => !given.contains(&address.local),
        });
        assert!(!touched, "only those given");
        // All of them absent: not one message.
        let result = manager
            .normalize_only(absent)
            .unwrap_err()
            .into_report()
            .unwrap();
        assert_eq!((result.writes, result.failures.len()), (0, 4));
        assert_eq!(watcher.drain(), Vec::new());
    }
}

/// All of an address that `inet6_addr_modify` sets anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    flags: AddressFlags,
    valid: u32,
    preferred: u32,
    protocol: Option<AddressProtocol>,
    priority: Option<u32>,
    local: Option<IpAddr>,
    address: Option<IpAddr>,
}

fn kept(vip: IpAddr, link: u32) -> Kept {
    let mut kept = Kept {
        flags: AddressFlags::empty(),
        valid: 0,
        preferred: 0,
        protocol: None,
        priority: None,
        local: None,
        address: None,
    };
    for attribute in broken::address_of(vip, link).attributes {
        match attribute {
            AddressAttribute::Flags(flags) => kept.flags = flags,
            AddressAttribute::CacheInfo(cache) => {
                (kept.valid, kept.preferred) = (cache.ifa_valid, cache.ifa_preferred);
            }
            AddressAttribute::Protocol(protocol) => kept.protocol = Some(protocol),
            AddressAttribute::RoutePriority(priority) => kept.priority = Some(priority),
            AddressAttribute::Local(local) => kept.local = Some(local),
            AddressAttribute::Address(address) => kept.address = Some(address),
            _ => {}
        }
    }
    kept
}

/// Flags, valid and preferred lifetime, protocol, priority of the prefix route, peer.
type Made = (
    AddressFlags,
    Option<(u32, u32)>,
    Option<u8>,
    Option<u32>,
    bool,
);

fn made_address(vip: IpAddr, link: u32, made: Made, peer: IpAddr) -> AddressMessage {
    let (flags, lifetimes, ifa_proto, priority, has_peer) = made;
    let mut message = raw::address(vip, link, flags);
    if let Some((valid, preferred)) = lifetimes {
        let mut cache = CacheInfo::default();
        (cache.ifa_valid, cache.ifa_preferred) = (valid, preferred);
        message.attributes.push(AddressAttribute::CacheInfo(cache));
    }
    if let Some(number) = ifa_proto {
        message
            .attributes
            .push(AddressAttribute::Protocol(number.into()));
    }
    if let Some(number) = priority {
        message
            .attributes
            .push(AddressAttribute::RoutePriority(number));
    }
    if has_peer {
        message
            .attributes
            .retain(|a| !matches!(a, AddressAttribute::Address(_)));
        message.attributes.push(AddressAttribute::Address(peer));
    }
    message
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "ten addresses go through four calls, each judged by what the call before left"
)]
fn normalize_deletes_a_prefix_route_and_keeps_its_address() {
    const NODAD: AddressFlags = AddressFlags::Nodad;
    let home = NODAD | AddressFlags::Homeaddress;
    let made: [Made; 10] = [
        (NODAD, None, None, None, false),
        (AddressFlags::empty(), None, None, None, false),
        (NODAD, Some((5000, 4000)), None, None, false),
        (NODAD, Some((u32::MAX, 4000)), None, None, false),
        (NODAD, Some((u32::MAX, 0)), None, None, false),
        (home, None, None, None, false),
        (NODAD, None, Some(7), None, false),
        (NODAD, None, None, Some(77), false),
        (NODAD, None, None, None, true),
        (home, Some((9000, 0)), Some(200), Some(300), false),
    ];
    for protocol in PROTOCOLS {
        let net = Net::new();
        let with_protocol = kernel_since(5, 18);
        let link = net.vip_index();
        net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/keep_addr_on_down"), "1");
        let vips = vips_v6(made.len() + 1);
        let peers: Vec<IpAddr> = (0..=made.len() as u128)
            .map(|at| IpAddr::V6((0x2001_0db8_0066_u128 << 80 | at).into()))
            .collect();
        let mut raw = Raw::new();
        // The last one is not normalized: the control.
        for (at, vip) in vips.iter().enumerate() {
            let message = made_address(*vip, link, made[at % made.len()], peers[at]);
            raw.batch_ok(&[(NewAddress(message), CREATE_EXCL)]);
        }
        broken::wait_for_kernel_routes(&vips);
        let in_main = || -> Vec<Vec<u32>> {
            let state = net.local_state();
            let main = |vip: &IpAddr| {
                let routes = state.routes_of(*vip).iter();
                let main = routes.filter(|route| route.table == 254);
                main.map(|route| route.metric).collect()
            };
            vips.iter().chain(&peers).map(main).collect()
        };
        let before: Vec<_> = vips.iter().map(|vip| kept(*vip, link)).collect();
        let count = made.len();
        let prefix_routes = in_main();
        for (at, (_, _, _, priority, peer)) in made.iter().enumerate() {
            let place = if *peer { count + 1 + at } else { at };
            assert_eq!(prefix_routes[place], [priority.unwrap_or(256)], "{at}");
        }
        if with_protocol {
            assert_eq!(before[6].protocol, Some(7.into()), "{:?}", before[6]);
        }

        // But for lifetimes, which pass.
        let as_it_was = |at: usize, was: &Kept| {
            let mut is = kept(vips[at], link);
            for (is, was) in [
                (&mut is.valid, was.valid),
                (&mut is.preferred, was.preferred),
            ] {
                assert!(
                    *is <= was && *is >= was.saturating_sub(60),
                    "{at}: {is} for {was}"
                );
                *is = was;
            }
            assert_eq!(is, *was, "{at}");
        };
        let mut manager = manager(protocol);
        // Nobody has said for how long this node has them: all else of those is healed.
        let expiring = [2, 9].map(|at| vips[at]);
        let report = report(manager.normalize_only(&vips[..count]));
        assert_eq!((report.repaired, report.failures.len()), (count - 2, 2));
        for (failure, vip) in report.failures.iter().zip(expiring) {
            assert_eq!(failure.vip, vip.into());
            assert_eq!(failure.cause, Cause::ExpiringAddress);
            assert_eq!(failure.drift, Drift::EXPIRING_ADDRESS);
        }
        for (at, was) in before[..count].iter().enumerate() {
            as_it_was(at, was);
        }
        let gone = in_main();
        assert_eq!(gone[..count], vec![Vec::<u32>::new(); count][..]);
        // A peer's route is not the VIP's, and comes whatever the flags (`__ipv6_ifa_notify`).
        assert_eq!(gone[count + 1..], prefix_routes[count + 1..]);
        assert_eq!(gone[count], [256], "the one not given");

        // A caller who names the VIPs says that they stay.
        let report = manager.assign(&vips[..count]).unwrap();
        let counted = (report.repaired, report.unchanged, report.writes);
        assert_eq!(counted, (2, count - 2, 2), "{report}");
        for (at, was) in before[..count].iter().enumerate() {
            let mut want = was.clone();
            if expiring.contains(&vips[at]) {
                want.flags |= AddressFlags::Noprefixroute | AddressFlags::Permanent;
                want.valid = u32::MAX;
                want.preferred = if was.preferred == 0 { 0 } else { u32::MAX };
            }
            as_it_was(at, &want);
        }
        assert_eq!(in_main(), gone);
        assert_single_route(&net, &vips[..count], protocol);

        // A flap brings it back where the address lets it, and that is seen.
        net.ip(&format!("link set dev {VIP_LINK} down"));
        net.ip(&format!("link set dev {VIP_LINK} up"));
        broken::wait_for_kernel_routes(&vips);
        let after = in_main();
        for (at, after) in after[..count].iter().enumerate() {
            let comes_back = !expiring.contains(&vips[at]);
            assert_eq!(after.is_empty(), !comes_back, "{at}");
        }
        assert_eq!(
            manager.normalize_only(&vips[..count]).unwrap().repaired,
            count
        );
        assert_eq!(in_main()[..count], vec![Vec::<u32>::new(); count][..]);
        assert_single_route(&net, &vips[..count], protocol);
    }
}

/// kube-router issue 1698.
#[test]
fn normalize_is_idempotent_and_the_published_commands_are_not() {
    let net = Net::new();
    let vips = vips_v6(2);
    put(
        &net,
        &[(vips[0], State::KernelOnly), (vips[1], State::KernelOnly)],
        PROTO_KERNEL,
    );
    let published = || {
        net.ip(&format!(
            "-6 route replace local {} dev {VIP_LINK} table local proto kernel src {NODE_V6}",
            vips[0]
        ));
        net.ip(&format!(
            "-6 route del local {} dev {VIP_LINK} table local metric 0",
            vips[0]
        ));
    };
    let mut manager = manager(PROTO_KERNEL);
    published();
    manager.normalize_only([vips[1]]).unwrap();
    assert_single_route(&net, &vips, PROTO_KERNEL);

    published();
    for _ in 0..3 {
        assert_eq!(manager.normalize_only([vips[1]]).unwrap().writes, 0);
    }
    let state = net.local_state();
    assert!(
        state.routes_of(vips[0]).is_empty(),
        "{:?}",
        state.routes_of(vips[0])
    );
    assert_single_route(&net, &vips[1..], PROTO_KERNEL);
    // And the library repairs it.
    assert_eq!(manager.normalize().unwrap().repaired, 1);
    assert_single_route(&net, &vips, PROTO_KERNEL);
}

/// States in which a VIP is local, so that it must stay so.
fn local_states(vip: IpAddr) -> Vec<State> {
    let mut states = State::of(vip);
    states.retain(|state| state.is_local() && !matches!(state, State::Stale));
    states
}

#[test]
fn normalize_leaves_no_vip_without_a_local_route() {
    let mut random = Random::new();
    for protocol in PROTOCOLS {
        // Those that happen, then whatever there is.
        let usual = |vip: IpAddr| match vip {
            IpAddr::V4(_) => vec![State::Pair, State::SourceOther, State::OtherProtocol],
            IpAddr::V6(_) => vec![
                State::ThreeRoutes,
                State::SourceOther,
                State::OtherProtocol,
                State::KernelBesideOtherSource,
                State::KernelBesideOtherProtocol,
            ],
        };
        for states in [usual, usual, usual, local_states] {
            let net = Net::new();
            let link = net.vip_index();
            let vips = vips(250);
            let all: Vec<_> = vips
                .iter()
                .map(|vip| (*vip, random.pick(&states(*vip))))
                .collect();
            put(&net, &all, protocol);
            let before = net.local_state();
            let watcher = RouteWatcher::new();
            let look_ups = LookUps::start(&vips);
            let from = look_ups.passes();
            let report = manager(protocol).normalize().unwrap();
            let during = look_ups.passes() - from;
            let (count, not_local) = look_ups.stop();
            println!("{protocol}: {report}; {count} look-ups, {during} passes");
            assert!(not_local.is_empty(), "{not_local:#?}");
            assert!(count >= 500, "{count}");
            let events = watcher.drain();
            let routes = events
                .iter()
                .filter(|event| matches!(event, Event::Route(_)))
                .count();
            assert!(routes >= report.repaired, "{routes} notifications");
            if let Err(gaps) = never_without_local_route(&events, &before, &vips, link) {
                panic!("{}: {gaps:#?}", gaps.len());
            }
            assert_single_route(&net, &vips, protocol);
        }
    }
}

#[test]
fn control_look_ups_see_a_gap() {
    for of in [Of::Any, Of::OnlyRoute] {
        let net = Net::new();
        let vips = vips(50);
        let all: Vec<_> = vips.iter().map(|vip| (*vip, State::Fine)).collect();
        put(&net, &all, PROTO_KERNEL);
        let look_ups = LookUps::start_of(&vips, of);
        net.ip(&format!(
            "route del local {} dev {VIP_LINK} table local",
            vips[98]
        ));
        net.ip(&format!(
            "-6 route del local {} dev {VIP_LINK} table local",
            vips[99]
        ));
        let from = look_ups.passes();
        while look_ups.passes() < from + 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (count, not_local) = look_ups.stop();
        assert!(count > 500);
        for vip in &vips {
            let seen = not_local
                .iter()
                .any(|line| line.starts_with(&format!("{vip}: ")));
            assert_eq!(seen, vips[98..].contains(vip), "{vip}: {not_local:#?}");
        }
    }
}

/// IPv4 takes two routes for different ones that differ in their MTU or realm alone. Only one is the
/// single route, whichever it is.
#[test]
fn routes_that_differ_in_mtu_are_duplicates() {
    for binding in [Binding::Address, Binding::Route] {
        for (first, second) in [("", "mtu 1400"), ("mtu 1400", ""), ("realm 5", "mtu 1400")] {
            let net = Net::new();
            let vip = common::vip("10.96.0.1");
            net.ip(&format!("addr add 198.51.100.1/31 dev {VIP_LINK}"));
            let mut manager = builder(VIP_LINK, PROTO_KERNEL)
                .binding(binding)
                .open()
                .unwrap();
            manager.assign([vip]).unwrap();
            for (verb, more) in [("replace", first), ("append", second)] {
                net.ip(&format!(
                    "route {verb} local {vip} dev {VIP_LINK} table local proto kernel scope host \
                     src {} {more}",
                    NODE_V4
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
                // One of them may be there already.
                let _ = net.try_ip(&format!(
                    "route append local {vip} dev {VIP_LINK} table local proto kernel scope host \
                     src {} {more}",
                    NODE_V4
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

/// Who keeps it renewed wants it to end if they fail.
#[test]
fn normalize_leaves_and_reports_an_expiring_address() {
    type Call = fn(&mut VipManager) -> Result<Report, Error>;
    let net = Net::new();
    let all = vips(2);
    for vip in &all {
        let bits = common::host_bits(*vip);
        net.ip(&format!(
            "addr add {vip}/{bits} dev {VIP_LINK} valid_lft 600 preferred_lft 600"
        ));
    }
    broken::wait_for_kernel_routes(&all);
    let mut manager = manager(PROTO_KERNEL);
    manager.assign([all[0]]).unwrap();
    // `set_source` is a `normalize`, too; and binding the VIPs anew names none.
    let calls: [Call; 4] = [
        |manager| manager.normalize(),
        |manager| manager.set_source(NODE_V6),
        |manager| manager.set_binding(Binding::Route),
        |manager| manager.set_binding(Binding::Address),
    ];
    for (at, call) in calls.iter().enumerate() {
        let report = report(call(&mut manager));
        let failed: Vec<IpAddr> = report.failures.iter().map(|f| f.vip.addr()).collect();
        assert_eq!(failed.len(), 3, "{at}: {report:?}");
        assert!(!failed.contains(&all[0]), "{at}: {report:?}");
        for failure in &report.failures {
            assert_eq!(failure.cause, Cause::ExpiringAddress, "{at}: {failure}");
            assert!(
                failure.drift.contains(Drift::EXPIRING_ADDRESS),
                "{at}: {failure}"
            );
        }
        let state = net.local_state();
        for vip in &all[1..] {
            let [address] = state.addresses_of(*vip) else {
                panic!("{at}: {vip}");
            };
            assert!(address.expires, "{at}: {address:?}");
            assert_eq!(state.routes_of(*vip).len(), 1, "{at}: the rest is healed");
        }
    }
}

/// When its lifetime is over, the kernel deletes it.
#[test]
fn normalize_replaces_a_route_with_a_lifetime() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let vip = vips_v6(1)[0];
        let mut manager = manager(protocol);
        manager.assign([vip]).unwrap();
        net.ip(&format!(
            "-6 route replace local {vip} dev {VIP_LINK} table local proto {protocol} \
             src {NODE_V6} metric 1024 expires 100"
        ));
        let drift = manager.audit().unwrap().vips[0].drift;
        assert_eq!(drift, Drift::MISSING_ROUTE | Drift::EXPIRING_ROUTE);
        assert_eq!(manager.normalize().unwrap().repaired, 1);
        let routes = net.ip(&format!("-6 route show table local {vip}"));
        assert!(!routes.contains("expires"), "{routes}");
        net.assert_single_route(&[vip], protocol);
    }
}

/// Healing is by routes alone: to update an address walks every other one.
#[test]
fn normalize_deletes_a_prefix_route_without_writing_to_its_address() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let all = vips_v6(50);
        let broken = |vip: &IpAddr| (*vip, State::ThreeRoutes);
        put(&net, &all.iter().map(broken).collect::<Vec<_>>(), protocol);
        let watcher = RouteWatcher::new();
        let report = manager(protocol).normalize().unwrap();
        assert_eq!(report.repaired, all.len(), "{report}");
        let most = if protocol == PROTO_KERNEL { 4 } else { 3 };
        assert_eq!(report.writes, most * all.len() as u64, "{report}");
        let events = watcher.drain();
        let to_address = |event: &&Event| matches!(event, Event::Address(_));
        assert_eq!(events.iter().filter(to_address).count(), 0);
        assert_single_route(&net, &all, protocol);
    }
}

/// A deletion that names no source takes the first route of the protocol. Behind the others it takes its own.
#[test]
fn deletion_without_a_source_goes_behind_the_others() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let all = vips_v4(50);
        let broken = |vip: &IpAddr| (*vip, State::FourInOnePlaceReversed);
        put(&net, &all.iter().map(broken).collect::<Vec<_>>(), protocol);
        let report = manager(protocol).normalize().unwrap();
        assert_eq!(report.repaired, all.len(), "{report}");
        let counted = (report.writes, report.retries);
        assert_eq!(counted, (3 * all.len() as u64, 0), "{report}");
        assert_single_route(&net, &all, protocol);
    }
}
