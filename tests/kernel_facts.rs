//! What the kernel does, as far as the library's procedure rests on it, asked of the kernel that
//! runs these tests. A test that fails here says that the procedure must be thought over, not that
//! the library has a bug.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/rules.rs"]
mod rules;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use common::raw::{
    self, CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, REPLACE, Raw, Request, address, delete_any,
    delete_of_protocol, delete_with_source, fib_match, local_route, parse_acks, vip_address,
    with_metric,
};
use common::watch::IPV6_ADDRESSES;
use common::{
    Event, Hammer, NODE_V4, NODE_V6, Net, PROTO_KERNEL, Route, RouteWatcher, SOURCES, TABLE_LOCAL,
    TABLE_MAIN, TYPE_LOCAL, VIP_LINK, host_bits, vips_v4, vips_v6,
};
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewAddress, NewRoute};
use netlink_packet_route::address::AddressFlags;
use netlink_packet_route::route::RouteAttribute;

const V4: IpAddr = IpAddr::V4(NODE_V4);
const V6: IpAddr = IpAddr::V6(NODE_V6);

fn one_v4() -> IpAddr {
    vips_v4(1)[0]
}

fn one_v6() -> IpAddr {
    vips_v6(1)[0]
}

/// The local routes to a host in table local, on all links.
fn local_routes(net: &Net, vip: IpAddr) -> Vec<Route> {
    let state = net.local_state();
    let local = state.routes_of(vip).iter().filter(|route| route.is_local());
    local.cloned().collect()
}

/// A node, the index of its VIP link, and a socket that sends what a test says.
fn node() -> (Net, u32, Raw) {
    let net = Net::new();
    let link = net.vip_index();
    (net, link, Raw::new())
}

/// The same with another link.
fn two_links() -> (Net, u32, u32, Raw) {
    let (net, link, raw) = node();
    let other = net.add_link("other0");
    (net, link, other, raw)
}

fn add_address(raw: &mut Raw, vip: IpAddr, link: u32) {
    let message = NewAddress(vip_address(vip, link));
    assert_eq!(raw.request(message, CREATE_EXCL), 0);
}

/// Adds an IPv6 address, and waits for the kernel's own route, which comes after the ack.
fn add_address_and_wait(raw: &mut Raw, vip: IpAddr, link: u32) -> Vec<Event> {
    let watcher = RouteWatcher::new();
    add_address(raw, vip, link);
    wait_for_kernel_route(&watcher, vip, link)
}

/// Waits for the kernel's own IPv6 route.
fn wait_for_kernel_route(watcher: &RouteWatcher, vip: IpAddr, link: u32) -> Vec<Event> {
    watcher.wait(Duration::from_secs(10), |events| {
        events.iter().any(|event| {
            matches!(event, Event::Route(route)
                if route.new
                    && route.local_host() == Some(vip)
                    && route.oif == link
                    && route.metric == 0
                    && route.protocol == PROTO_KERNEL)
        })
    })
}

/// (a)
#[test]
fn a_fresh_ipv6_address_gets_a_kernel_route_of_metric_0_and_the_route_is_notified() {
    let (net, link, mut raw) = node();
    for vip in vips_v6(50) {
        let events = add_address_and_wait(&mut raw, vip, link);
        // The address is notified first, by the same work item, and bears nobody's port id.
        let Event::Address(first) = &events[0] else {
            panic!("{events:#?}");
        };
        assert!(first.new && first.local == vip && first.index == link);
        assert_eq!(first.port, 0);
        assert_eq!(events.len(), 2, "{events:#?}");

        let routes = net.local_state().routes_of(vip).to_vec();
        let [route] = &routes[..] else {
            panic!("{routes:#?}");
        };
        assert!(route.is_local() && route.dev == VIP_LINK);
        assert_eq!((route.metric, route.protocol), (0, u32::from(PROTO_KERNEL)));
        assert_eq!(route.prefsrc, None);
    }
}

/// The obvious order for one VIP.
fn naive(vip: IpAddr, link: u32) -> [Request; 3] {
    [
        (NewAddress(vip_address(vip, link)), CREATE_REPLACE),
        (
            NewRoute(local_route(vip, link, Some(V6), PROTO_KERNEL)),
            CREATE_REPLACE,
        ),
        // `ip -6 route del local VIP dev LINK table local metric 0`
        (DelRoute(delete_any(vip, link)), 0),
    ]
}

/// (b) The harness in which the naive order fails.
#[test]
fn the_naive_order_ends_wrong_though_every_ack_is_0() {
    let (net, link, mut raw) = node();
    let watcher = RouteWatcher::new();

    let vips = vips_v6(100);
    for &vip in &vips {
        raw.batch_ok(&naive(vip, link));
        // Each for itself, with the machine at rest.
        quiet_after_one(&watcher, vip);
    }
    watcher.rest();
    let alone = net.wrong_vips(&vips, PROTO_KERNEL);
    println!("naive, one VIP at a time: {} of 100 wrong", alone.len());
    // On an emulated processor 0 to 13 were seen (5.10, 6.1, 6.12); interleaved, below, hundreds.
    assert!(!alone.is_empty() || !common::kernel_since(6, 13));
    // What is wrong is that the kernel's route won and the desired one is gone.
    assert!(
        alone.is_empty() || alone.iter().any(|line| line.contains("metric 0 for 1024")),
        "{alone:#?}"
    );

    let vips = vips_v6(1100).split_off(100);
    let all: Vec<_> = vips.iter().flat_map(|&vip| naive(vip, link)).collect();
    raw.batch_ok(&all);
    watcher.rest();
    let many = net.wrong_vips(&vips, PROTO_KERNEL);
    println!("naive, 1,000 VIPs interleaved: {} wrong", many.len());
    assert!(!many.is_empty());

    // The two-command fix, a second time on what is right: it deletes the desired route.
    let vip = vips_v6(1200)[1199];
    raw.put_single_route(&[vip], link, &SOURCES, PROTO_KERNEL);
    net.assert_single_route(&[vip], PROTO_KERNEL);
    raw.batch_ok(&naive(vip, link)[1..]);
    assert_eq!(local_routes(&net, vip), []);
}

fn quiet_after_one(watcher: &RouteWatcher, vip: IpAddr) {
    watcher.wait(Duration::from_secs(10), |events| {
        events.iter().any(
            |event| matches!(event, Event::Address(address) if address.new && address.local == vip),
        )
    });
}

/// (b), with the RTNL contended.
#[test]
fn the_naive_order_ends_wrong_under_load() {
    let (net, link, mut raw) = node();
    let watcher = RouteWatcher::new();
    let vips = vips_v6(1000);
    let hammer = Hammer::start(&net);
    let all: Vec<_> = vips.iter().flat_map(|&vip| naive(vip, link)).collect();
    raw.batch_ok(&all);
    let operations = hammer.stop();
    watcher.rest();
    let wrong = net.wrong_vips(&vips, PROTO_KERNEL);
    println!(
        "naive, 1,000 VIPs, {operations} operations of others: {} wrong",
        wrong.len()
    );
    assert!(!wrong.is_empty());
}

/// (c)
#[test]
fn ipv6_create_excl_leaves_another_devices_route_alone_and_says_eexist() {
    let (net, link, other, mut raw) = two_links();
    let vip = one_v6();
    let foreign = NewRoute(with_metric(local_route(vip, other, Some(V6), 4), 1024));
    assert_eq!(raw.request(foreign, CREATE_EXCL), 0);
    let before = local_routes(&net, vip);
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].dev, "other0");

    // With the metric named, and left to the kernel, which makes it 1024.
    for desired in [
        with_metric(local_route(vip, link, Some(V6), PROTO_KERNEL), 1024),
        local_route(vip, link, Some(V6), PROTO_KERNEL),
    ] {
        assert_eq!(raw.request(NewRoute(desired), CREATE_EXCL), libc::EEXIST);
        assert_eq!(local_routes(&net, vip), before);
    }

    // EXCL compares the metric: another one is no obstacle, so it proves nothing about conflicts.
    let desired = with_metric(local_route(vip, link, Some(V6), PROTO_KERNEL), 1025);
    assert_eq!(raw.request(NewRoute(desired), CREATE_EXCL), 0);
    assert_eq!(local_routes(&net, vip).len(), 2);
}

/// (c), where it matters most: the kernel's own metric-0 route of the same VIP does not cause EEXIST.
#[test]
fn ipv6_create_excl_is_not_hindered_by_the_kernels_route_of_metric_0() {
    let (net, link, mut raw) = node();
    let vip = one_v6();
    add_address_and_wait(&mut raw, vip, link);
    let desired = || NewRoute(local_route(vip, link, Some(V6), PROTO_KERNEL));
    assert_eq!(raw.request(desired(), CREATE_EXCL), 0);
    assert_eq!(local_routes(&net, vip).len(), 2);
    assert_eq!(raw.request(desired(), CREATE_EXCL), libc::EEXIST);
}

/// (d)
#[test]
fn replace_takes_another_devices_route() {
    let (net, link, other, mut raw) = two_links();
    for (vip, source) in [(one_v6(), V6), (one_v4(), V4)] {
        let foreign = NewRoute(local_route(vip, other, Some(source), 4));
        assert_eq!(raw.request(foreign, CREATE_EXCL), 0);
        let desired = NewRoute(local_route(vip, link, Some(source), PROTO_KERNEL));
        assert_eq!(raw.request(desired, CREATE_REPLACE), 0);
        let routes = local_routes(&net, vip);
        assert_eq!(routes.len(), 1, "{routes:#?}");
        assert_eq!(routes[0].dev, VIP_LINK, "the other link lost its route");
    }
}

/// (d), the way round it: CREATE|APPEND.
#[test]
fn append_leaves_another_devices_route_alone() {
    let (net, link, other, mut raw) = two_links();
    for (vip, source) in [(one_v6(), V6), (one_v4(), V4)] {
        let foreign = NewRoute(local_route(vip, other, Some(source), 4));
        assert_eq!(raw.request(foreign, CREATE_EXCL), 0);
        let before = local_routes(&net, vip);
        let desired = NewRoute(local_route(vip, link, Some(source), PROTO_KERNEL));
        assert_eq!(raw.request(desired, CREATE_APPEND), 0);
        let routes = local_routes(&net, vip);
        assert_eq!(routes.len(), 2, "{routes:#?}");
        assert_eq!(routes[0], before[0], "{routes:#?}");
    }
}

/// (e)
#[test]
fn ipv4_replace_without_create_needs_a_route_and_replaces_it_in_place() {
    let (net, link, mut raw) = node();
    let vip = one_v4();
    let desired = || NewRoute(local_route(vip, link, Some(V4), PROTO_KERNEL));
    assert_eq!(raw.request(desired(), REPLACE), libc::ENOENT);
    assert_eq!(local_routes(&net, vip), []);

    add_address(&mut raw, vip, link);
    let kernels = local_routes(&net, vip);
    assert_eq!(kernels.len(), 1, "synchronous: it is there at the ack");
    assert_eq!(kernels[0].prefsrc, Some(vip));

    let watcher = RouteWatcher::new();
    assert_eq!(raw.request(desired(), REPLACE), 0);
    let routes = local_routes(&net, vip);
    assert_eq!(routes.len(), 1, "{routes:#?}");
    assert_eq!(routes[0].prefsrc, Some(V4));
    // In place: one notification, no deletion.
    let events = watcher.drain();
    let [Event::Route(event)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert!(event.replaces() && event.prefsrc == Some(V4), "{event:?}");

    // Again: nothing to do, nothing notified.
    assert_eq!(raw.request(desired(), REPLACE), 0);
    assert_eq!(watcher.drain(), []);
    net.assert_single_route(&[vip], PROTO_KERNEL);
}

/// (e), in IPv6: REPLACE without CREATE.
#[test]
fn ipv6_replace_without_create_also_needs_a_route_of_its_metric() {
    let (net, link, mut raw) = node();
    let vip = one_v6();
    let desired = || NewRoute(local_route(vip, link, Some(V6), PROTO_KERNEL));
    assert_eq!(raw.request(desired(), REPLACE), libc::ENOENT);
    add_address_and_wait(&mut raw, vip, link);
    // Only the kernel's, of metric 0, is there, which cannot be replaced.
    let errno = raw.request(desired(), REPLACE);
    let routes = local_routes(&net, vip);
    assert_eq!(errno, libc::ENOENT);
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].metric, 0);
}

/// (f)
#[test]
fn after_a_flap_ipv4_has_two_routes_that_differ_in_their_source() {
    let (net, link, mut raw) = node();
    let vip = one_v4();
    raw.put_single_route(&[vip], link, &SOURCES, PROTO_KERNEL);
    net.ip("link set dev kube-dummy-if down");
    assert_eq!(local_routes(&net, vip).len(), 1, "the desired route stays");
    net.ip("link set dev kube-dummy-if up");
    let routes = local_routes(&net, vip);
    let sources: Vec<_> = routes.iter().map(|route| route.prefsrc.unwrap()).collect();
    assert_eq!(sources, [V4, vip], "appended: {routes:#?}");

    let kernels = || DelRoute(delete_with_source(vip, link, vip));
    assert_eq!(raw.request(kernels(), 0), 0);
    net.assert_single_route(&[vip], PROTO_KERNEL);
    // And never the desired route.
    assert_eq!(raw.request(kernels(), 0), libc::ESRCH);
    net.assert_single_route(&[vip], PROTO_KERNEL);
}

/// (g)
#[test]
fn ipv6_address_replace_with_noprefixroute_removes_the_prefix_route() {
    let (net, link, mut raw) = node();
    let watcher = RouteWatcher::new();
    let vip = one_v6();
    let plain = NewAddress(address(vip, link, AddressFlags::Nodad));
    assert_eq!(raw.request(plain, CREATE_EXCL), 0);
    wait_for_kernel_route(&watcher, vip, link);
    assert_eq!(in_main(&net, vip), [256]);

    let desired = || NewAddress(vip_address(vip, link));
    assert_eq!(raw.request(desired(), CREATE_REPLACE), 0);
    assert!(in_main(&net, vip).is_empty());
    let state = net.local_state();
    let [address] = state.addresses_of(vip) else {
        panic!("{state:?}");
    };
    assert!(address.noprefixroute && address.nodad);
    assert_eq!(local_routes(&net, vip).len(), 1, "the local route stays");
    // Again: the same.
    assert_eq!(raw.request(desired(), CREATE_REPLACE), 0);
    assert!(in_main(&net, vip).is_empty());
}

/// (h)
#[test]
fn ipv6_delete_by_protocol_kernel_never_hits_another_protocol() {
    let (net, link, mut raw) = node();
    let vip = one_v6();
    add_address_and_wait(&mut raw, vip, link);
    let desired = NewRoute(local_route(vip, link, Some(V6), 201));
    assert_eq!(raw.request(desired, CREATE_REPLACE), 0);

    let delete = || DelRoute(delete_of_protocol(vip, link, PROTO_KERNEL));
    assert_eq!(raw.request(delete(), 0), 0);
    net.assert_single_route(&[vip], 201);
    for _ in 0..100 {
        assert_eq!(raw.request(delete(), 0), libc::ESRCH);
    }
    net.assert_single_route(&[vip], 201);

    // With `kernel` on the desired route, the same request deletes it.
    let desired = NewRoute(local_route(vip, link, Some(V6), PROTO_KERNEL));
    assert_eq!(raw.request(desired, CREATE_REPLACE), 0);
    net.assert_single_route(&[vip], PROTO_KERNEL);
    assert_eq!(raw.request(delete(), 0), 0);
    assert_eq!(local_routes(&net, vip), []);

    // With metric 1024 named, the kernel's route of metric 0 is safe.
    let vip = vips_v6(2)[1];
    add_address_and_wait(&mut raw, vip, link);
    let of_ours = with_metric(delete_of_protocol(vip, link, PROTO_KERNEL), 1024);
    assert_eq!(raw.request(DelRoute(of_ours), 0), libc::ESRCH);
    assert_eq!(local_routes(&net, vip).len(), 1);
}

/// (i), what it answers.
#[test]
fn a_look_up_with_fib_match_answers_with_the_route_that_wins() {
    let (net, link, other, mut raw) = two_links();
    let vips = common::vips(1);
    raw.put_single_route(&vips, link, &SOURCES, PROTO_KERNEL);
    let winner = |raw: &mut Raw, vip| {
        let route = raw.winner(vip).unwrap();
        common::watch::route_event(&route, true, 0, 0)
    };
    for &vip in &vips {
        let route = winner(&mut raw, vip);
        assert_eq!((route.dst, route.kind), (Some(vip), TYPE_LOCAL));
        assert_eq!(route.prefix_len, host_bits(vip));
        // IPv4 has one trie for the tables local and main until the first rule is added, and names
        // it main: the answer's table proves nothing.
        println!("{vip}: a look-up says table {}", route.table);
        assert!(matches!(route.table, TABLE_LOCAL | TABLE_MAIN), "{route:?}");
        assert!(vip.is_ipv4() || route.table == TABLE_LOCAL, "{route:?}");
        assert_eq!(route.oif, link);
        assert_eq!(route.protocol, PROTO_KERNEL);
        assert!(SOURCES.contains(&route.prefsrc.unwrap()), "{route:?}");
        assert_eq!(route.metric, if vip.is_ipv4() { 0 } else { 1024 });
    }
    net.ip("rule add from 198.51.100.1 table 7");
    for &vip in &vips {
        assert_eq!(winner(&mut raw, vip).table, TABLE_LOCAL, "{vip}");
    }
    // Another device's, when that one wins.
    net.ip("-6 route add local 2001:db8:42::1 dev other0 table local metric 5");
    net.ip("-4 route prepend local 10.96.0.1 dev other0 table local");
    for &vip in &vips {
        assert_eq!(winner(&mut raw, vip).oif, other, "{vip}");
    }
    // A host that is not local, and that no route covers.
    for vip in [vips_v4(2)[1], vips_v6(2)[1]] {
        assert_eq!(raw.winner(vip), Err(libc::ENETUNREACH));
    }
    // A destination that a prefix covers is answered with the prefix's route: no host route, no VIP.
    net.ip("-6 route add 2001:db8:42::/64 dev other0");
    let route = winner(&mut raw, vips_v6(2)[1]);
    assert_eq!((route.prefix_len, route.kind), (64, 1));
}

/// How many of the requests are answered before the receive buffer overflows, and the size of
/// an answer.
fn capacity(requests: &[Request], flags: u16) -> (usize, usize) {
    let mut raw = Raw::new();
    raw.send(requests, flags);
    let (answers, overflow) = raw.receive_all();
    assert!(overflow, "{} answers fitted", answers.len());
    (answers.len(), answers[0].len())
}

/// (i), (j): how many answers fit.
#[test]
fn how_many_answers_fit_into_the_default_receive_buffer() {
    let net = Net::new();
    let link = net.vip_index();
    let size = Raw::new().socket().get_rx_buf_sz().unwrap();
    println!("receive buffer: {size} bytes");
    let vips = common::vips(1);
    Raw::new().put_single_route(&vips, link, &SOURCES, PROTO_KERNEL);

    let mut worst = usize::MAX;
    for &vip in &vips {
        let (count, length) = capacity(&vec![fib_match(vip); 1000], 0);
        println!("{vip}: {count} look-up answers fit, of {length} bytes");
        worst = worst.min(count);
    }
    let there = (NewAddress(vip_address(vips[1], link)), CREATE_EXCL);
    let bad_source = local_route(vips[1], link, Some("2001:db8:dead::1".parse().unwrap()), 2);
    let bad_source = (NewRoute(bad_source), CREATE_REPLACE);
    let absent = DelRoute(delete_of_protocol(vips_v6(9)[8], link, PROTO_KERNEL));
    let no_op = (NewAddress(vip_address(vips[1], link)), CREATE_REPLACE);
    for (what, request, flags) in [
        ("errors without text", (absent, 0), 0),
        ("errors with text", there, 0),
        ("errors with text (route)", bad_source, 0),
        ("acks", no_op, NLM_F_ACK),
    ] {
        let mut raw = Raw::new();
        raw.send(std::slice::from_ref(&request), flags);
        let answer = parse_acks(&raw.receive_now().unwrap()).remove(0);
        let (count, length) = capacity(&vec![request; 1000], flags);
        println!("{what}: {count} fit, of {length} bytes: {answer:?}");
        assert_eq!(answer.errno == 0, what == "acks", "{answer:?}");
        // About addresses the kernel says why only since 6.6.
        let says_why = common::kernel_since(6, 6) || what.contains("(route)");
        assert_eq!(
            answer.text.is_some(),
            what.contains("with text") && says_why,
            "{answer:?}"
        );
        worst = worst.min(count);
    }
    // What a batch may hold, whatever goes wrong with it, in a buffer of the usual default.
    assert!(worst * 212_992 / size.max(212_992) >= 100, "{worst}");
}

/// (j)
#[test]
fn errors_and_acks_are_there_when_send_returns() {
    let (net, link, mut raw) = node();
    let vip = one_v6();
    add_address(&mut raw, vip, link);
    let error = (NewAddress(vip_address(vip, link)), CREATE_EXCL);
    let fine = (NewAddress(vip_address(vip, link)), CREATE_REPLACE);
    let hammer = Hammer::start(&net);
    for _ in 0..200 {
        // An error without being asked for an ack; silence for the message that succeeded; an ack
        // for the last, which closes the batch.
        let first = raw.send(&[error.clone(), fine.clone(), error.clone()], 0);
        let last = raw.send(std::slice::from_ref(&fine), NLM_F_ACK);
        let (answers, overflow) = raw.receive_all();
        assert!(!overflow);
        let answers: Vec<_> = answers
            .iter()
            .flat_map(|bytes| parse_acks(bytes))
            .map(|ack| (ack.seq, ack.errno))
            .collect();
        assert_eq!(
            answers,
            [(first, libc::EEXIST), (first + 2, libc::EEXIST), (last, 0)]
        );
        let nothing = raw.receive_now().unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    }
    println!("{} operations of others", hammer.stop());
}

/// The procedure of the design, step by step, quiet and with the RTNL contended.
#[test]
fn notified_addresses_then_a_barrier_then_delete_and_add_never_ends_wrong() {
    for load in [false, true] {
        let (net, link, mut raw) = node();
        let watcher = RouteWatcher::of_groups(&[IPV6_ADDRESSES]);
        let vips = vips_v6(1000);
        let hammer = load.then(|| Hammer::start(&net));
        for chunk in vips.chunks(50) {
            let addresses: Vec<_> = chunk
                .iter()
                .map(|&vip| (NewAddress(vip_address(vip, link)), CREATE_EXCL))
                .collect();
            raw.batch_ok(&addresses);
            watcher.wait(Duration::from_secs(10), |events| {
                let arrived = events.iter().filter(|event| {
                    matches!(event, Event::Address(address)
                        if address.new && address.index == link && chunk.contains(&address.local))
                });
                arrived.count() >= chunk.len()
            });
            // Takes the RTNL, and changes nothing.
            assert_eq!(raw.batch(&addresses[..1])[0].errno, libc::EEXIST);
            let routes: Vec<_> = chunk
                .iter()
                .flat_map(|&vip| {
                    [
                        (DelRoute(delete_of_protocol(vip, link, PROTO_KERNEL)), 0),
                        (
                            NewRoute(local_route(vip, link, Some(V6), PROTO_KERNEL)),
                            CREATE_EXCL,
                        ),
                    ]
                })
                .collect();
            raw.batch_ok(&routes);
        }
        if let Some(hammer) = hammer {
            println!("{} operations of others", hammer.stop());
        }
        watcher.rest();
        net.assert_single_route(&vips, PROTO_KERNEL);
    }
}

/// Removing the address leaves our IPv6 route behind.
#[test]
fn ipv6_route_with_a_source_survives_its_address() {
    let (net, link, mut raw) = node();
    let vip = one_v6();
    raw.put_single_route(&[vip], link, &SOURCES, PROTO_KERNEL);
    raw.batch_ok(&[raw::del_address(vip, link)]);
    let routes = local_routes(&net, vip);
    assert_eq!(routes.len(), 1, "{routes:#?}");
    assert_eq!((routes[0].metric, routes[0].table), (1024, TABLE_LOCAL));
}

/// The table that answers a look-up, or its error.
fn answers(raw: &mut Raw, vip: IpAddr) -> Result<u32, i32> {
    raw.winner(vip).map(|route| {
        let table = route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Table(table) => Some(*table),
                _ => None,
            });
        table.unwrap_or_else(|| u32::from(route.header.table))
    })
}

#[test]
fn a_look_up_follows_the_rules_and_names_the_table_that_answered() {
    let net = Net::new();
    let (v4, v6) = (one_v4(), one_v6());
    let mut raw = Raw::new();
    raw.put_single_route(&[v4, v6], net.vip_index(), &SOURCES, PROTO_KERNEL);
    // No rule of its own yet: IPv4 has one trie for both tables, and says main.
    assert_eq!(answers(&mut raw, v4), Ok(TABLE_MAIN));
    assert_eq!(answers(&mut raw, v6), Ok(TABLE_LOCAL));
    for family in ["-4", "-6"] {
        net.ip(&format!("{family} rule add pref 100 lookup local"));
        net.ip(&format!("{family} rule del pref 0"));
        let default = format!(
            "default dev {} table {}",
            common::NODE_LINK,
            rules::OTHER_TABLE
        );
        net.ip(&format!("{family} route add {default}"));
    }
    for vip in [v4, v6] {
        assert_eq!(answers(&mut raw, vip), Ok(TABLE_LOCAL));
    }
    for (rule, answer) in [
        ("unreachable", Err(libc::ENETUNREACH)),
        ("prohibit", Err(libc::EACCES)),
        ("blackhole", Err(libc::EINVAL)),
        ("lookup 77", Ok(rules::OTHER_TABLE)),
        ("lookup main suppress_prefixlength 0", Ok(TABLE_LOCAL)),
        ("fwmark 0x200/0xf00 lookup 77", Ok(TABLE_LOCAL)),
    ] {
        for (family, vip) in [("-4", v4), ("-6", v6)] {
            net.ip(&format!("{family} rule add pref 99 {rule}"));
            assert_eq!(answers(&mut raw, vip), answer, "{rule}");
            net.ip(&format!("{family} rule del pref 99"));
        }
    }
    // Back as at first, but the tries stay apart: the answer names the table from now on.
    net.ip("-4 rule add pref 0 lookup local");
    net.ip("-4 rule del pref 100");
    assert_eq!(answers(&mut raw, v4), Ok(TABLE_LOCAL));
}

/// The metrics of the routes to a host in table main.
fn in_main(net: &Net, vip: IpAddr) -> Vec<u32> {
    let state = net.local_state();
    let routes = state.routes_of(vip).iter();
    let main = routes.filter(|route| route.table == TABLE_MAIN);
    main.map(|route| route.metric).collect()
}

#[test]
fn an_ipv6_address_is_made_permanent_beside_its_routes() {
    let (net, link, mut raw) = node();
    let watcher = RouteWatcher::new();
    let vip = one_v6();
    net.ip(&format!(
        "addr add {vip}/128 dev {VIP_LINK} nodad metric 7 valid_lft 600 preferred_lft 600"
    ));
    wait_for_kernel_route(&watcher, vip, link);
    assert_eq!(in_main(&net, vip), [7]);
    let route = local_route(vip, link, Some(V6), PROTO_KERNEL);
    assert_eq!(raw.request(NewRoute(route), CREATE_EXCL), 0);
    let kernels = DelRoute(with_metric(delete_any(vip, link), 0));
    assert_eq!(raw.request(kernels, 0), 0);

    net.ip(&format!(
        "addr change {vip}/128 dev {VIP_LINK} noprefixroute metric 7 valid_lft forever \
         preferred_lft forever"
    ));
    let state = net.local_state();
    let [address] = state.addresses_of(vip) else {
        panic!("{state:?}");
    };
    assert!(!address.expires && address.noprefixroute && !address.tentative);
    assert!(!address.nodad, "what is not sent is lost");
    // Its prefix route stays: for an address that was not permanent the kernel deletes none.
    assert_eq!(in_main(&net, vip), [7]);
    let [local] = &local_routes(&net, vip)[..] else {
        panic!("{:?}", local_routes(&net, vip));
    };
    assert_eq!((local.metric, local.prefsrc), (1024, Some(V6)));

    // Gone, it stays gone.
    net.ip(&format!(
        "route del {vip} dev {VIP_LINK} table main metric 7"
    ));
    net.ip(&format!(
        "addr change {vip}/128 dev {VIP_LINK} noprefixroute metric 7 valid_lft forever \
         preferred_lft forever"
    ));
    assert!(in_main(&net, vip).is_empty());
    // Without the flag it comes back.
    net.ip(&format!(
        "addr change {vip}/128 dev {VIP_LINK} metric 7 valid_lft forever preferred_lft forever"
    ));
    assert_eq!(in_main(&net, vip), [7]);
}

#[test]
fn an_ipv4_address_is_made_permanent_beside_its_routes() {
    let net = Net::new();
    let vip = one_v4();
    net.ip(&format!(
        "addr add {vip}/32 dev {VIP_LINK} metric 7 valid_lft 600 preferred_lft 0 scope link"
    ));
    net.ip(&format!(
        "route replace local {vip} dev {VIP_LINK} table local proto kernel scope host src {NODE_V4}"
    ));
    let before = net.local_state();
    let shown = || net.ip(&format!("-d addr show dev {VIP_LINK} to {vip}"));
    net.ip(&format!(
        "addr change {vip}/32 dev {VIP_LINK} metric 7 valid_lft forever preferred_lft 0"
    ));
    let state = net.local_state();
    assert_eq!(state.routes_of(vip), before.routes_of(vip));
    let [address] = state.addresses_of(vip) else {
        panic!("{state:?}");
    };
    // 253: link.
    assert_eq!((address.expires, address.scope), (false, 253));
    assert!(
        shown().contains("metric 7") && shown().contains("deprecated"),
        "{}",
        shown()
    );
    // What is not sent is lost, but for scope, label and broadcast address.
    net.ip(&format!(
        "addr change {vip}/32 dev {VIP_LINK} valid_lft forever preferred_lft forever"
    ));
    assert!(
        !shown().contains("metric") && !shown().contains("deprecated"),
        "{}",
        shown()
    );
    assert_eq!(net.local_state().addresses_of(vip)[0].scope, 253);
}

/// The kernel looks for it by device alone (`addrconf_get_prefix_route`).
#[test]
fn an_ipv6_address_takes_the_first_route_in_table_main_for_its_prefix_route() {
    let net = Net::new();
    let link = net.vip_index();
    let watcher = RouteWatcher::new();
    let vip = one_v6();
    net.ip(&format!("addr add {vip}/128 dev {VIP_LINK} nodad"));
    wait_for_kernel_route(&watcher, vip, link);
    net.ip(&format!(
        "route del {vip} dev {VIP_LINK} table main metric 256"
    ));
    net.ip(&format!(
        "-6 route add {vip} dev {VIP_LINK} proto static metric 700"
    ));
    net.ip(&format!(
        "-6 route append {vip} dev {} metric 300",
        common::NODE_LINK
    ));
    net.ip(&format!("addr del {vip}/128 dev {VIP_LINK}"));
    assert_eq!(in_main(&net, vip), [300], "another device's stays");
}
