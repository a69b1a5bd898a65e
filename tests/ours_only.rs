//! Calls change nothing but the addresses and routes of their VIPs on the VIP link.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewAddress, NewRoute};
use serde_json::Value;

use broken::{PROTOCOLS, State, assert_single_route, builder, put, report};
use common::raw::{self, CREATE_EXCL, Raw};
use common::{
    Event, LocalState, NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, SOURCES, Snapshot,
    VIP_LINK, Want, causes, vip, vips, vips_v4, vips_v6,
};
use viproute::{Binding, Cause, Claim, Drift, ErrorKind, Failure, Report, VipManager};

/// Another link, with things of its own.
const OTHER: &str = "other0";
/// A link that holds VIPs that we want too.
const RIVAL: &str = "rival0";

/// The VIPs of the failures, and that all of them are conflicts.
#[track_caller]
fn conflicts(report: &Report) -> BTreeSet<IpAddr> {
    for failure in &report.failures {
        assert_eq!(failure.cause, Cause::Conflict, "{failure}");
        assert!(failure.drift.contains(Drift::CONFLICT), "{failure}");
        let text = failure.to_string();
        let names_it = text.contains("route through ") && text.contains(", table local, metric ");
        assert!(names_it, "{failure}");
    }
    report
        .failures
        .iter()
        .map(|failure| failure.vip.addr())
        .collect()
}

fn set(vips: &[IpAddr]) -> BTreeSet<IpAddr> {
    vips.iter().copied().collect()
}

/// Panics unless each line that differs is an address or a route, in table local or main, of one
/// of the given VIPs on this link.
#[track_caller]
fn assert_only(before: &Snapshot, vips: &BTreeSet<IpAddr>, link: &str) {
    let diff = before.diff(&Snapshot::read(&[]));
    let foreign: Vec<_> = diff
        .iter()
        .filter(|line| !is_ours(line, vips, link))
        .collect();
    assert!(
        foreign.is_empty(),
        "changed, and not the library's: {foreign:#?}"
    );
}

fn is_ours(line: &str, vips: &BTreeSet<IpAddr>, link: &str) -> bool {
    let (what, object) = line[2..].split_once(' ').unwrap();
    let object: Value = serde_json::from_str(object).unwrap();
    let host = |key: &str| {
        let text = object[key].as_str()?;
        let host = text.strip_suffix("/32").or(text.strip_suffix("/128"));
        host.unwrap_or(text).parse::<IpAddr>().ok()
    };
    let vip = match what {
        "address" => host("local"),
        // `ip` names no table for main.
        "route" if matches!(object["table"].as_str(), None | Some("254" | "255")) => host("dst"),
        _ => None,
    };
    vip.is_some_and(|vip| vips.contains(&vip)) && object["dev"] == link
}

/// Panics if something happened to a given VIP.
#[track_caller]
fn assert_untouched(events: &[Event], vips: &BTreeSet<IpAddr>) {
    let touched: Vec<_> = events
        .iter()
        .filter(|event| match event {
            Event::Route(route) => route.dst.is_some_and(|dst| vips.contains(&dst)),
            Event::Address(address) => vips.contains(&address.local),
        })
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
}

/// A node full of other things, some of them about our VIPs.
fn full_node(net: &Net, vips: &[IpAddr]) {
    net.add_link(OTHER);
    net.add_link(RIVAL);
    net.ip_batch([
        "addr add 198.51.100.1/24 dev other0",
        "addr add 198.51.100.7/32 dev other0",
        "addr add 2001:db8:1::1/64 dev other0 nodad",
        "addr add 203.0.113.1/32 dev lo",
        "addr add 2001:db8:2::1/128 dev lo",
        // Not VIPs, but on our link.
        "addr add 203.0.113.77/32 dev kube-dummy-if",
        "addr add 203.0.113.130/25 dev kube-dummy-if",
        "addr add 2001:db8:3::77/128 dev kube-dummy-if nodad",
        "addr add 2001:db8:4::1/64 dev kube-dummy-if nodad",
    ]);
    // The kernel's routes come late.
    let own = [
        "2001:db8:1::1",
        "2001:db8:2::1",
        "2001:db8:3::77",
        "2001:db8:4::1",
    ];
    let own = own.map(|text| text.parse::<IpAddr>().unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    while own
        .iter()
        .any(|addr| LocalState::read().routes_of(*addr).is_empty())
    {
        assert!(Instant::now() < deadline, "the kernel's routes never came");
        std::thread::sleep(Duration::from_millis(2));
    }
    net.ip("-6 rule add from 2001:db8:1::/64 table 100 prio 77");
    net.ip("-6 nexthop add id 62 dev other0");
    net.ip_batch([
        "route add default via 198.51.100.2 dev other0",
        "route add 192.168.1.0/24 via 198.51.100.2 dev other0 metric 50 proto 17",
        "route add 192.168.2.0/24 dev kube-dummy-if",
        "route add 192.168.3.0/24 dev kube-dummy-if table 100",
        "route add blackhole 192.168.4.0/24",
        "route add local 192.168.5.0/24 dev kube-dummy-if table local",
        "route add local 192.168.6.1 dev other0 table local",
        "route add 192.168.7.0/24 nexthop via 198.51.100.2 dev other0 nexthop dev kube-dummy-if",
        "route add default via 2001:db8:1::2 dev other0",
        "route add 2001:db8:11::/48 dev kube-dummy-if",
        "route add 2001:db8:12::/48 dev kube-dummy-if table 100",
        "route add blackhole 2001:db8:13::/48",
        "route add local 2001:db8:14::/64 dev kube-dummy-if table local",
        "route add local 2001:db8:15::1 dev other0 table local",
        "rule add from 198.51.100.0/24 table 100 prio 77",
        "rule add fwmark 9 table 101",
        "neigh add 198.51.100.9 lladdr 02:00:00:00:00:01 dev other0",
        "neigh add 2001:db8:1::9 lladdr 02:00:00:00:00:01 dev other0",
        "neigh add proxy 2001:db8:1::8 dev other0",
        "nexthop add id 51 via 198.51.100.3 dev other0",
        "nexthop add id 52 dev other0",
        "nexthop add id 61 via 2001:db8:1::3 dev other0",
        "nexthop add id 53 group 51",
        "route add 192.168.9.0/24 nhid 51",
        "route add 192.168.10.0/24 nhid 53",
        "route add 2001:db8:19::/48 nhid 61",
    ]);
    other_routes_to(net, vips);
}

/// Routes to the VIPs themselves, and not the library's: of other devices, in other tables.
fn other_routes_to(net: &Net, vips: &[IpAddr]) {
    let about = vips.iter().flat_map(|vip| match vip {
        IpAddr::V4(_) => [
            format!("route add {vip} dev kube-dummy-if table 100"),
            format!("route add local {vip} dev kube-dummy-if table 100 metric 7"),
            format!("route add {vip} via 198.51.100.2 dev other0 metric 10"),
            format!("route add {vip} nhid 51 metric 20"),
            format!("route add {vip} nhid 52 metric 30 proto kernel"),
            format!("route add blackhole {vip} metric 40"),
        ],
        IpAddr::V6(_) => [
            format!("route add {vip} dev kube-dummy-if table 100"),
            format!("route add local {vip} dev kube-dummy-if table 100 metric 7"),
            format!("route add {vip} via 2001:db8:1::2 dev other0 metric 10"),
            format!("route add {vip} nhid 61 metric 1024"),
            format!("route add {vip} nhid 62 metric 256 proto kernel"),
            format!("route add blackhole {vip} metric 40"),
        ],
    });
    // `add` adds nothing where a table has the VIP at another metric.
    net.ip_batch(about.map(|line| line.replace("route add", "route append")));
}

/// VIPs that another device holds, by how it does.
struct Rivals {
    /// Nothing of them is on our link.
    elsewhere: Vec<IpAddr>,
    /// Their address is on our link too, with or without the kernel's route.
    on_both: Vec<IpAddr>,
}

impl Rivals {
    fn all(&self) -> BTreeSet<IpAddr> {
        self.elsewhere
            .iter()
            .chain(&self.on_both)
            .copied()
            .collect()
    }
}

fn add_rivals(net: &Net) -> Rivals {
    let v4: Vec<IpAddr> = vips_v4(110)[100..].to_vec();
    let v6: Vec<IpAddr> = vips_v6(110)[100..].to_vec();
    let mut raw = Raw::new();
    let rival = net.index(RIVAL);
    let link = net.vip_index();
    let add = |vip, link| (NewAddress(raw::vip_address(vip, link)), CREATE_EXCL);
    let route = |vip, source| {
        let source: IpAddr = source;
        (
            NewRoute(raw::local_route(vip, rival, Some(source), PROTO_KERNEL)),
            CREATE_EXCL,
        )
    };
    raw.batch_ok(&[
        // An address on lo, and on another link.
        add(v4[0], 1),
        add(v6[0], 1),
        add(v4[1], rival),
        add(v6[1], rival),
        // A local route through another link, without any address.
        route(v4[2], NODE_V4.into()),
        route(v6[2], NODE_V6.into()),
        // On the VIP link too: the kernel's route is there...
        add(v6[3], link),
        add(v4[3], link),
        // ...or not.
        add(v6[4], link),
        add(v4[4], link),
    ]);
    broken::wait_for_kernel_routes(&[v4[3], v6[3], v4[4], v6[4]]);
    raw.batch_ok(&[
        (
            DelRoute(raw::delete_of_protocol(v6[4], link, PROTO_KERNEL)),
            0,
        ),
        (
            DelRoute(raw::delete_of_protocol(v4[4], link, PROTO_KERNEL)),
            0,
        ),
    ]);
    let append = |vip, source| (route(vip, source).0, raw::CREATE_APPEND);
    raw.batch_ok(&[
        append(v6[3], NODE_V6.into()),
        append(v4[3], NODE_V4.into()),
        append(v6[4], NODE_V6.into()),
        append(v4[4], NODE_V4.into()),
        // By the other link's address, before and behind the VIP link's.
        add(v6[5], rival),
        add(v4[5], rival),
        add(v6[5], link),
        add(v4[5], link),
    ]);
    broken::wait_for_kernel_routes(&[v4[5], v6[5]]);
    let [elsewhere, on_both] = [0..3, 3..6].map(|range: std::ops::Range<usize>| {
        let both = v4[range.clone()].iter().chain(&v6[range]);
        both.copied().collect::<Vec<_>>()
    });
    Rivals { elsewhere, on_both }
}

fn manager(protocol: u8) -> VipManager {
    builder(VIP_LINK, protocol)
        .allow("10.96.0.0/12".parse::<ipnet::IpNet>().unwrap())
        .allow("2001:db8:42::/64".parse::<ipnet::IpNet>().unwrap())
        .open()
        .unwrap()
}

/// VIPs that are there in every state.
fn in_every_state() -> Vec<(IpAddr, State)> {
    let zip = |vips: Vec<IpAddr>| {
        let states = State::of(vips[0]);
        vips.into_iter().zip(states).collect::<Vec<_>>()
    };
    let mut all = [
        zip(vips_v4(State::V4.len() + 1)),
        zip(vips_v6(State::V6.len())),
    ]
    .concat();
    all.retain(|(_, state)| *state != State::Stale);
    all
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "five calls on one node, each judged by what the call before left"
)]
fn calls_change_nothing_else_on_a_full_node() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let broken = in_every_state();
        let there: Vec<IpAddr> = broken.iter().map(|(vip, _)| *vip).collect();
        let fresh: Vec<IpAddr> = vips_v4(60)[40..]
            .iter()
            .chain(&vips_v6(60)[40..])
            .copied()
            .collect();
        let good: Vec<IpAddr> = there.iter().chain(&fresh).copied().collect();
        put(&net, &broken, protocol);
        full_node(&net, &good);
        let rivals = add_rivals(&net);
        let all: BTreeSet<IpAddr> = good.iter().copied().chain(rivals.all()).collect();
        let start = Snapshot::read(&[]);
        let mut manager = manager(protocol);

        // Normalize what is there.
        let watcher = RouteWatcher::new();
        let first = report(manager.normalize());
        assert_eq!(conflicts(&first), set(&rivals.on_both));
        assert_eq!(first.repaired, there.len() - 2, "{first}");
        assert_eq!(first.unchanged, 2, "one fine one a family: {first}");
        assert_only(&start, &set(&there), VIP_LINK);
        assert_single_route_but_others(&net, &there, protocol);
        assert_untouched(&watcher.drain(), &rivals.all());
        assert_eq!(report(manager.normalize()).writes, 0);

        // Assign the rest.
        let now = Snapshot::read(&[]);
        let second = report(manager.assign(&all));
        assert_eq!(conflicts(&second), rivals.all());
        assert_eq!(
            (second.assigned, second.unchanged),
            (fresh.len(), there.len()),
            "{second}"
        );
        assert_only(&now, &set(&fresh), VIP_LINK);
        assert_single_route_but_others(&net, &good, protocol);
        assert_untouched(&watcher.drain(), &rivals.all());

        // A repeated call, on a node where nothing is wrong but other writers' objects.
        let again = report(manager.assign(&all));
        assert_eq!((again.writes, again.unchanged), (0, good.len()), "{again}");
        assert_eq!(conflicts(&again), rivals.all());
        assert_eq!(watcher.drain(), Vec::new());

        // Release them all: those that another device holds stay there.
        let on_both = set(&rivals.on_both);
        let released = manager.release(&all).unwrap();
        assert_eq!(released.released, good.len() + on_both.len(), "{released}");
        assert_eq!(released.unchanged, rivals.elsewhere.len(), "{released}");
        assert_only(&start, &all, VIP_LINK);
        assert_untouched(&watcher.drain(), &set(&rivals.elsewhere));
        let gone: Vec<_> = start
            .diff(&Snapshot::read(&[]))
            .into_iter()
            .filter(|line| line.starts_with('+'))
            .collect();
        assert_eq!(gone, Vec::<String>::new(), "and nothing new");
        let state = net.local_state();
        for vip in &all {
            assert!(
                state.addresses_of(*vip).iter().all(|a| a.dev != VIP_LINK),
                "{vip}"
            );
            let left = state
                .routes_of(*vip)
                .iter()
                .filter(|route| route.dev == VIP_LINK);
            let left: Vec<_> = left.filter(|route| route.table != 100).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        for vip in rivals.all() {
            let routes = state.routes_of(vip).iter();
            assert_eq!(
                routes.filter(|route| route.is_local()).count(),
                1,
                "{vip}: the rival's"
            );
        }
    }
}

/// As [`assert_single_route`], but for the unicast routes of other links.
#[track_caller]
fn assert_single_route_but_others(net: &Net, vips: &[IpAddr], protocol: u8) {
    assert_single_route(net, vips, protocol);
    let state = net.local_state();
    for vip in vips {
        let others = state
            .routes_of(*vip)
            .iter()
            .filter(|route| route.dev != VIP_LINK || !matches!(route.table, 254 | 255));
        // Two in table 100; two of other links; two next-hop objects, which `ip` resolves or not.
        assert!(others.count() >= 4, "{vip}: {:?}", state.routes_of(*vip));
    }
}

/// Another device's route is a conflict, and no other object of that device is.
#[test]
fn every_kind_of_route_of_another_device_is_a_conflict() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        net.add_link(RIVAL);
        net.wait_for_kernel();
        net.ip(&format!("addr add 203.0.113.77/32 dev {VIP_LINK}"));
        let rivals = add_rivals(&net);
        let start = Snapshot::read(&[]);
        let watcher = RouteWatcher::new();
        let mut manager = manager(protocol);
        let there = net.local_state();
        for vip in rivals.all() {
            for result in [manager.assign([vip]), manager.normalize_only([vip])] {
                let report = report(result);
                assert_eq!(conflicts(&report), set(&[vip]));
                assert_eq!(report.writes, 0, "{vip}: {report}");
            }
            let drift = report(manager.assign([vip])).failures[0].drift;
            let address = rivals.on_both.contains(&vip);
            assert_eq!(
                drift.contains(Drift::MISSING_ADDRESS),
                !address,
                "{vip}: {drift}"
            );
            let kernels = there
                .routes_of(vip)
                .iter()
                .any(|route| route.dev == VIP_LINK && (route.metric == 0 && route.protocol == 2));
            assert_eq!(
                drift.contains(Drift::KERNEL_LOCAL_ROUTE),
                kernels,
                "{vip}: {drift}"
            );
        }
        start.assert_same(&Snapshot::read(&[]));
        assert_eq!(watcher.drain(), Vec::new());
        // What is released is what is on our link.
        for vip in rivals.all() {
            let before = Snapshot::read(&[]);
            let report = manager.release([vip]).unwrap();
            assert_only(&before, &set(&[vip]), VIP_LINK);
            let on_both = rivals.on_both.contains(&vip);
            assert_eq!(
                (report.released == 1, report.unchanged == 1),
                (on_both, !on_both)
            );
        }
        net.assert_absent(&rivals.all().into_iter().collect::<Vec<_>>());
        let left = net.local_state();
        for vip in rivals.all() {
            let of_rival = |state: &LocalState| {
                let routes = state.routes_of(vip).iter();
                routes
                    .filter(|route| route.dev != VIP_LINK)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            assert_eq!(of_rival(&left), of_rival(&there), "{vip}");
        }
    }
}

/// Once the other device's route is gone, the VIP can be assigned.
#[test]
fn conflict_ends_with_its_cause() {
    let net = Net::new();
    let rival = net.add_link(RIVAL);
    net.wait_for_kernel();
    let vips = vips(1);
    let mut raw = Raw::new();
    for vip in &vips {
        raw.batch_ok(&[(NewAddress(raw::vip_address(*vip, rival)), CREATE_EXCL)]);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while net.local_state().routes_of(vips[1]).is_empty() {
        assert!(Instant::now() < deadline);
    }
    let mut manager = manager(PROTO_KERNEL);
    assert_eq!(conflicts(&report(manager.assign(&vips))), set(&vips));
    for vip in &vips {
        raw.batch_ok(&[raw::del_address(*vip, rival)]);
    }
    assert_eq!(manager.assign(&vips).unwrap().assigned, 2);
    net.assert_single_route(&vips, PROTO_KERNEL);
}

/// What is wrong with VIPs on one of the two links.
fn wrong_on(link: &str, vips: &[IpAddr], protocol: u8) -> Vec<String> {
    let want = Want {
        link,
        sources: &SOURCES,
        protocol,
        address: true,
    };
    LocalState::read().wrong_vips(vips, &want)
}

#[test]
fn second_manager_on_another_link_gets_a_conflict() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        net.add_link(RIVAL);
        net.wait_for_kernel();
        let vips = vips(50);
        let (first, second) = (&vips[..60], &vips[40..]);
        let start = Snapshot::read(&[]);
        let mut a = manager(protocol);
        let mut b = builder(RIVAL, protocol).open().unwrap();
        assert_eq!(a.assign(first).unwrap().assigned, 60);
        let with_a = Snapshot::read(&[]);
        let of_b = report(b.assign(second));
        assert_eq!(conflicts(&of_b), set(&vips[40..60]));
        assert_eq!(of_b.assigned, 40, "{of_b}");
        assert_only(&with_a, &set(&vips[60..]), RIVAL);
        assert_eq!(wrong_on(VIP_LINK, first, protocol), Vec::<String>::new());
        assert_eq!(wrong_on(RIVAL, &vips[60..], protocol), Vec::<String>::new());
        // Each keeps to its own link, whatever it is given.
        let both = Snapshot::read(&[]);
        assert_eq!(a.normalize().unwrap().unchanged, 60);
        assert_eq!(b.normalize().unwrap().unchanged, 40);
        assert_eq!(conflicts(&report(a.assign(&vips))), set(&vips[60..]));
        assert_eq!(conflicts(&report(b.assign(&vips))), set(first));
        both.assert_same(&Snapshot::read(&[]));
        assert_eq!(a.release(&vips).unwrap().released, 60);
        assert_only(&both, &set(first), VIP_LINK);
        assert_eq!(wrong_on(RIVAL, &vips[60..], protocol), Vec::<String>::new());
        // What was in conflict is not any more.
        let of_b = b.assign(&vips).unwrap();
        assert_eq!((of_b.assigned, of_b.unchanged), (60, 40), "{of_b}");
        assert_eq!(wrong_on(RIVAL, &vips, protocol), Vec::<String>::new());
        assert_eq!(b.release(&vips).unwrap().released, 100);
        start.assert_same(&Snapshot::read(&[]));
    }
}

/// The second manager sees the first one's route and withdraws.
#[test]
fn two_managers_on_two_links_at_once_v6() {
    at_once(vips_v6(200));
}

/// Nor does IPv4 take it: a fresh VIP's route is appended, not put in the place of another.
#[test]
fn two_managers_on_two_links_at_once_v4() {
    at_once(vips_v4(200));
}

fn at_once(vips: Vec<IpAddr>) {
    let mut both = 0;
    let mut lost = 0;
    for round in 0..6 {
        let protocol = PROTOCOLS[round % 2];
        let net = Net::new();
        net.add_link(RIVAL);
        net.wait_for_kernel();
        let start = net.snapshot_without(&vips);
        let sets = [(VIP_LINK, &vips[..150]), (RIVAL, &vips[50..])];
        let barrier = std::sync::Barrier::new(2);
        // In this namespace, as the threads of this one are.
        let reports = std::thread::scope(|scope| {
            let threads = sets.map(|(link, vips)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut manager = builder(link, protocol).open().unwrap();
                    barrier.wait();
                    report(manager.assign(vips))
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        start.assert_same(&net.snapshot_without(&vips));
        let shared = set(&vips[50..150]);
        // Without a look at the drift: the rival may have withdrawn since.
        let refused = reports.each_ref().map(|report| {
            let conflict = |failure: &Failure| failure.cause == Cause::Conflict;
            assert!(report.failures.iter().all(conflict), "{report:?}");
            let vips = report.failures.iter().map(|failure| failure.vip.addr());
            vips.collect::<BTreeSet<_>>()
        });
        for refused in &refused {
            assert!(
                refused.is_subset(&shared),
                "only what the other wants: {refused:?}"
            );
        }
        // A manager whose call said `Ok` has the VIP, and has it alone.
        for (at, (link, desired)) in sets.iter().enumerate() {
            let (good, bad): (Vec<IpAddr>, Vec<IpAddr>) =
                desired.iter().partition(|vip| !refused[at].contains(*vip));
            assert_eq!(
                wrong_on(link, &good, protocol),
                Vec::<String>::new(),
                "{link}"
            );
            if !bad.is_empty() {
                net.local_state().assert_absent(&bad, link);
            }
        }
        for vip in &shared {
            let without = refused
                .iter()
                .filter(|refused| refused.contains(vip))
                .count();
            assert_ne!(without, 0, "{vip}: both calls said Ok");
            both += usize::from(without == 2);
            lost += 1;
        }
    }
    println!("of {lost} VIPs that both were to assign {both} are on neither link");
}

/// IPv6 deletes the first route of the table, metric and protocol named, and compares the device
/// only with routes that have no next-hop object (`ip6_route_del`, net/ipv6/route.c): nothing in
/// the message can spare a route that stands before the meant one.
#[test]
fn next_hop_objects_route_is_a_conflict_and_not_deleted() {
    let net = Net::new();
    net.add_link(OTHER);
    net.wait_for_kernel();
    net.ip("-6 nexthop add id 62 dev other0");
    let vip = vips_v6(1)[0];
    net.ip(&format!("-6 route append {vip} nhid 62 metric 1024"));
    put(&net, &[(vip, State::Fine)], PROTO_KERNEL);
    net.ip(&format!("-6 route append {vip} dev {VIP_LINK} metric 1024"));
    let before = Snapshot::read(&[]);
    let report = report(manager(PROTO_KERNEL).normalize());
    let causes: Vec<Cause> = report.failures.iter().map(|f| f.cause).collect();
    assert_eq!((causes, report.writes), (vec![Cause::Conflict], 0));
    let text = report.failures[0].to_string();
    assert!(
        text.contains("through device other0 by a nexthop object, table main, metric 1024"),
        "{text}"
    );
    before.assert_same(&Snapshot::read(&[]));
    // Nor by a release, which has to delete the same.
    let report = self::report(manager(PROTO_KERNEL).release([vip]));
    let causes: Vec<Cause> = report.failures.iter().map(|f| f.cause).collect();
    assert_eq!((causes, report.writes), (vec![Cause::Conflict], 0));
    before.assert_same(&Snapshot::read(&[]));
}

/// A VIP that is on the link twice, as a host and with another prefix length, must not be
/// changed, also where the call discovers it.
#[test]
fn discovered_vip_with_two_prefix_lengths_is_left() {
    for other_first in [false, true] {
        let net = Net::new();
        let (stays, goes) = (vip("10.96.0.2"), vip("10.96.0.3"));
        let other = || net.ip(&format!("addr add {stays}/24 dev {VIP_LINK}"));
        if other_first {
            other();
            net.ip(&format!("addr add {stays}/32 dev {VIP_LINK}"));
        }
        let mut manager = broken::manager(PROTO_KERNEL);
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
            assert_eq!(report.failures[0].cause, Cause::OtherPrefixLength);
            let drift = report.failures[0].drift;
            assert!(drift.contains(Drift::WRONG_PREFIX_LENGTH), "{drift}");
        }
        before.assert_same(&net.snapshot_without(&[goes]));
    }
}

/// The same where only a route makes it a VIP, which the call finds after it has read the addresses.
#[test]
fn vip_known_by_its_route_with_another_prefix_length_is_left() {
    for binding in [Binding::Route, Binding::Address] {
        let net = Net::new();
        let (stays, goes) = (vip("10.96.0.2"), vip("10.96.0.1"));
        let mut manager = builder(VIP_LINK, PROTO_KERNEL)
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
                2 => manager.set_source(NODE_V4),
                3 => manager.reconcile(&Claim::link(), [goes]),
                _ => manager.release_all(&Claim::link()),
            };
            let report = result.unwrap_err().into_report().unwrap();
            let unrepaired = [(stays, Cause::OtherPrefixLength)];
            assert_eq!(causes(&report), unrepaired, "call {call}: {report:?}");
            before.assert_same(&net.snapshot_without(&[goes]));
        }
    }
}

/// The same where the address of another length has lost its local route, so that nothing leads to the
/// VIP: the kernel would take the address of one host beside it.
#[test]
fn vip_with_another_prefix_length_and_no_route_is_left() {
    let net = Net::new();
    let (stays, new) = (vip("10.96.0.2"), vip("10.97.0.1"));
    net.ip(&format!("addr add {stays}/24 dev {VIP_LINK}"));
    net.ip(&format!(
        "route del local {stays} dev {VIP_LINK} table local"
    ));
    let before = net.snapshot_without(&[new]);
    let report = broken::manager(PROTO_KERNEL)
        .assign([stays, new])
        .unwrap_err();
    let report = report.into_report().unwrap();
    assert_eq!(
        causes(&report),
        [(stays, Cause::OtherPrefixLength)],
        "{report:?}"
    );
    assert_eq!((report.assigned, report.writes), (1, 3), "{report:?}");
    before.assert_same(&net.snapshot_without(&[new]));
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
        let mut manager = broken::manager(protocol);
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
fn route_in_main_behind_another_devices_is_deleted() {
    for (vip, source) in [
        (vip("10.96.0.1"), IpAddr::from(NODE_V4)),
        (vip("2001:db8:42::1"), NODE_V6.into()),
    ] {
        let net = Net::new();
        net.ip(&format!("route add {vip} dev node0 metric 10"));
        let before = net.snapshot_without(&[]);
        net.ip(&format!("route add {vip} dev {VIP_LINK} metric 2000"));
        let mut manager = broken::manager(PROTO_KERNEL);
        manager.assign([vip]).unwrap();
        net.assert_single_route(&[vip], PROTO_KERNEL);
        net.ip(&format!(
            "route add {vip} dev {VIP_LINK} metric 2000 src {source}"
        ));
        manager.release([vip]).unwrap();
        before.assert_same(&net.snapshot_without(&[]));
    }
}

/// Another writer's route to a VIP leads through a gateway on the VIP link, or through several links. It
/// stands before a plain route through the VIP link. The kernel compares no gateway if a deletion names
/// none, so the deletion of the plain route would delete the other one.
#[test]
fn route_with_a_gateway_is_not_deleted_for_a_plain_route() {
    let v4 = (vip("10.96.0.1"), "10.1.1.2/24");
    let v6 = (vip("2001:db8:42::1"), "2001:db8:1::2/64 nodad");
    let through_ours = [v4, v6].map(|(_, neighbour)| {
        let (net, _) = neighbour.split_once("2/").unwrap();
        format!("via {net}1 dev {VIP_LINK}")
    });
    let [ours_v4, ours_v6] = &through_ours;
    let (other_v4, other_v6) = ("via 10.1.1.1 dev node0 onlink", "via fe80::1 dev node0");
    for ((vip, neighbour), way, is_hit) in [
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
            net.ip(&format!("addr add {neighbour} dev {VIP_LINK}"));
            net.wait_for_kernel();
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
                let mut manager = broken::manager(PROTO_KERNEL);
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
fn local_route_behind_one_with_a_gateway_is_a_conflict() {
    let net = Net::new();
    let (vip, source) = (vip("2001:db8:42::1"), NODE_V6);
    net.ip(&format!("addr add 2001:db8:1::2/64 dev {VIP_LINK} nodad"));
    net.wait_for_kernel();
    for way in [
        format!("{vip} via 2001:db8:1::1 dev {VIP_LINK}"),
        format!("local {vip} dev {VIP_LINK} src {source}"),
    ] {
        net.ip(&format!(
            "-6 route append {way} table local proto kernel metric 1024"
        ));
    }
    let before = net.snapshot_without(&[]);
    let mut manager = broken::manager(PROTO_KERNEL);
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
