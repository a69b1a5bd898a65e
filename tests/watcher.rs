//! The watcher's events: the kernel's notifications of VIPs, typed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::{NODE_LINK, NODE_V4, Net, VIP_LINK, vips, vips_v4};
use viproute::{Change, Event, LinkIndex, Origin, Vip, VipManager, Watcher};

const PATIENCE: Duration = Duration::from_secs(10);

fn manager() -> VipManager {
    common::builder().open().unwrap()
}

/// Reads until `enough` of the events so far.
fn read_until(watcher: &mut Watcher, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let began = Instant::now();
    let mut events = Vec::new();
    while !enough(&events) {
        assert!(began.elapsed() < PATIENCE, "only these came: {events:#?}");
        watcher
            .wait(&mut events, Duration::from_millis(100))
            .unwrap();
    }
    events
}

/// Every change of a VIP, and its origin.
fn of_vip(events: &[Event], vip: IpAddr) -> Option<(Change, Origin)> {
    let mut all: Option<(Change, Origin)> = None;
    for event in events {
        if let Event::Vip {
            vip: of,
            change,
            origin,
        } = event
            && *of == Vip::from(vip)
        {
            all = Some(match all {
                None => (*change, *origin),
                Some((changes, origins)) => (changes | *change, origins | *origin),
            });
        }
    }
    all
}

/// What a program that only logs events prints.
#[test]
fn events_print_as_one_line() {
    let net = Net::new();
    let mut manager = manager();
    let four = vips_v4(1)[0];
    manager.assign([four]).unwrap();
    let mut watcher = manager.watcher().unwrap();
    let mut log = |enough: &str| {
        let is_there = |events: &[Event]| events.iter().any(|event| event.to_string() == enough);
        read_until(&mut watcher, is_there);
    };
    net.ip(&format!(
        "route replace local {four} dev {VIP_LINK} table local proto static scope host"
    ));
    log(&format!("{four}: route set by another process"));
    manager.assign([four]).unwrap();
    log(&format!("{four}: route set by this manager"));
    net.ip(&format!("addr add 192.0.2.77/32 dev {NODE_LINK}"));
    log("node address 192.0.2.77 set");
    net.ip(&format!("addr del 192.0.2.77/32 dev {NODE_LINK}"));
    log("node address 192.0.2.77 removed");
    let index = net.vip_index();
    net.ip(&format!("link set {VIP_LINK} down"));
    log(&format!("the link is down, with index {index}"));
    net.ip(&format!("link set {VIP_LINK} up"));
    log(&format!("the link is up, with index {index}"));
    net.ip(&format!("link del {VIP_LINK}"));
    log("the link is gone");

    assert_eq!(Event::Resync.to_string(), "notifications were lost");
    let change = Change::ADDRESS_REMOVED | Change::ROUTE_REMOVED;
    assert_eq!(change.to_string(), "address removed, route removed");
    for (origin, by) in [
        (Origin::KERNEL, "the kernel"),
        (Origin::OURS | Origin::KERNEL, "this manager and the kernel"),
        (Origin::UNKNOWN, "an unknown process"),
    ] {
        assert_eq!(origin.to_string(), by);
    }
}

#[test]
fn events_name_vip_change_and_origin() {
    let net = Net::new();
    let mut manager = manager();
    let mut watcher = manager.watcher().unwrap();
    let [four, six] = [vips(1)[0], vips(1)[1]];

    // Another writer, IPv4: the address by its port id, the route by the kernel itself.
    net.ip(&format!("addr add {four}/32 dev {VIP_LINK}"));
    let events = read_until(&mut watcher, |e| {
        of_vip(e, four).is_some_and(|(c, _)| c.contains(Change::ADDRESS_SET | Change::ROUTE_SET))
    });
    assert_eq!(
        of_vip(&events, four).unwrap().1,
        Origin::OTHER | Origin::KERNEL,
        "two origins in one burst"
    );
    net.ip(&format!("route replace local {four} dev {VIP_LINK} table local proto kernel scope host src {NODE_V4}"));
    let events = read_until(&mut watcher, |e| of_vip(e, four).is_some());
    assert_eq!(
        of_vip(&events, four),
        Some((Change::ROUTE_SET, Origin::OTHER))
    );

    // IPv6 addresses bear no port id; the kernel's late route is the kernel's.
    net.ip(&format!(
        "addr add {six}/128 dev {VIP_LINK} nodad noprefixroute"
    ));
    let events = read_until(&mut watcher, |e| {
        of_vip(e, six).is_some_and(|(c, _)| c.contains(Change::ADDRESS_SET | Change::ROUTE_SET))
    });
    assert_eq!(
        of_vip(&events, six).unwrap().1,
        Origin::UNKNOWN | Origin::KERNEL
    );

    // By the manager.
    manager.normalize().unwrap();
    let events = read_until(&mut watcher, |e| {
        of_vip(e, six).is_some_and(|(c, _)| c.contains(Change::ROUTE_SET | Change::ROUTE_REMOVED))
    });
    assert_eq!(of_vip(&events, six).unwrap().1, Origin::OURS);
    assert_eq!(
        of_vip(&events, four),
        None,
        "it was fine, so nothing was written"
    );

    // Another device's route to it.
    net.ip(&format!(
        "route append local {six} dev node0 table local metric 2000"
    ));
    let events = read_until(&mut watcher, |e| of_vip(e, six).is_some());
    assert_eq!(
        of_vip(&events, six),
        Some((Change::FOREIGN_ROUTE, Origin::OTHER))
    );

    net.ip(&format!("addr del {four}/32 dev {VIP_LINK}"));
    let events = read_until(&mut watcher, |e| of_vip(e, four).is_some());
    assert_eq!(
        of_vip(&events, four),
        Some((Change::ADDRESS_REMOVED, Origin::OTHER))
    );
}

#[test]
fn changes_by_the_kernel_have_origin_kernel() {
    let net = Net::new();
    let mut manager = manager();
    let four = vips(1)[0];
    manager.assign([four]).unwrap();
    let mut watcher = manager.watcher().unwrap();
    // With the link the kernel's own IPv4 route comes back beside the desired one.
    net.ip(&format!("link set {VIP_LINK} down"));
    net.ip(&format!("link set {VIP_LINK} up"));
    let events = read_until(&mut watcher, |e| of_vip(e, four).is_some());
    assert_eq!(
        of_vip(&events, four),
        Some((Change::ROUTE_SET, Origin::KERNEL)),
        "{events:?}"
    );
}

#[test]
fn our_own_change_beside_the_kernels_is_both() {
    let _net = Net::new();
    let mut manager = manager();
    let mut watcher = manager.watcher().unwrap();
    let four = vips_v4(1)[0];
    // The kernel adds its own route with our address, and we replace it.
    manager.assign([four]).unwrap();
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    let (change, origin) = of_vip(&events, four).unwrap();
    assert!(change.contains(Change::ADDRESS_SET | Change::ROUTE_SET));
    assert_eq!(origin, Origin::OURS | Origin::KERNEL, "{events:?}");
}

/// The VIPs that events tell of.
fn reported(events: &[Event]) -> Vec<Vip> {
    let vip = |event: &Event| match event {
        Event::Vip { vip, .. } => Some(*vip),
        _ => None,
    };
    events.iter().filter_map(vip).collect()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one watcher reads all changes in order"
)]
fn addresses_that_cannot_be_vips_are_not_reported() {
    let net = Net::new();
    // Two that are there before it begins.
    net.ip_batch([
        format!("addr add 10.96.7.1/24 dev {VIP_LINK}"),
        format!("addr add 2001:db8:42:7::1/64 dev {VIP_LINK} nodad"),
    ]);
    net.wait_for_kernel();
    let allow = |range: &str| range.parse::<ipnet::IpNet>().unwrap();
    let mut manager = common::builder()
        .allow(allow("10.96.0.0/16"))
        .allow(allow("2001:db8:42::/48"))
        .allow(allow("fe80::/10"))
        .allow(allow("192.0.2.0/24"))
        .open()
        .unwrap();
    let mut watcher = manager.watcher().unwrap();
    // The first with its broadcast route, all with the kernel's local ones.
    let others = [
        "10.96.1.1/24",
        "2001:db8:42:1::1/64",
        "fe80::9/128",
        "fe80::8/64",
        // A source, and outside the allowed ranges.
        "192.0.2.10/32",
        "10.97.0.1/32",
        "2001:db8:99::1/128",
    ];
    let nodad = |address: &str| if address.contains(':') { " nodad" } else { "" };
    let mut events = Vec::new();
    let mut until = |what: &str, vip: IpAddr| {
        // Earlier events have arrived; in IPv6 the kernel's route comes late.
        net.wait_for_kernel();
        net.ip(&format!("route add local {vip} dev {VIP_LINK} table local"));
        events.extend(read_until(&mut watcher, |e| of_vip(e, vip).is_some()));
        events.retain(|event| {
            !matches!(event, Event::Vip { vip: of, change: Change::ROUTE_SET, .. } if *of == Vip::from(vip))
        });
        assert_eq!(reported(&events), [], "{what}: {events:?}");
        events.clear();
    };
    // IPv6 ones would go with the link.
    let marks = vips_v4(4);
    net.ip_batch(
        others
            .iter()
            .map(|address| format!("addr add {address} dev {VIP_LINK}{}", nodad(address))),
    );
    for (address, dev) in [("10.96.0.255", VIP_LINK), ("10.96.3.255", "node0")] {
        net.ip(&format!(
            "route add broadcast {address} dev {dev} table local proto kernel scope link"
        ));
    }
    until("added", marks[0]);
    net.ip(&format!("addr del 10.96.1.1/24 dev {VIP_LINK}"));
    net.ip(&format!("addr del 2001:db8:42:1::1/64 dev {VIP_LINK}"));
    until("removed", marks[1]);
    net.ip(&format!("link set {VIP_LINK} down"));
    net.ip(&format!("link set {VIP_LINK} up"));
    until("down and up", marks[2]);
    for address in &others {
        let _ = net.try_ip(&format!("addr del {address} dev {VIP_LINK}"));
    }
    net.ip(&format!("addr del 10.96.7.1/24 dev {VIP_LINK}"));
    until("all removed", marks[3]);
    // The control: the same address as a host's.
    net.ip(&format!("addr add 10.96.1.1/32 dev {VIP_LINK}"));
    let vip: IpAddr = "10.96.1.1".parse().unwrap();
    read_until(&mut watcher, |e| {
        of_vip(e, vip).is_some_and(|(c, _)| c.contains(Change::ADDRESS_SET | Change::ROUTE_SET))
    });
}

#[test]
fn watcher_reports_link_and_node_addresses() {
    let net = Net::new();
    let mut watcher = manager().watcher().unwrap();
    let index = LinkIndex::new(net.vip_index()).unwrap();
    assert_eq!(watcher.link(), Some(index));
    net.ip(&format!("link set {VIP_LINK} down"));
    read_until(&mut watcher, |e| e.contains(&Event::LinkDown(index)));
    net.ip(&format!("link set {VIP_LINK} up"));
    read_until(&mut watcher, |e| e.contains(&Event::LinkUp(index)));
    net.ip(&format!("addr del {NODE_V4}/32 dev node0"));
    read_until(&mut watcher, |e| {
        e.contains(&Event::NodeAddressRemoved(NODE_V4.into()))
    });
    net.ip(&format!("addr add {NODE_V4}/32 dev node0"));
    read_until(&mut watcher, |e| {
        e.contains(&Event::NodeAddressSet(NODE_V4.into()))
    });
    net.ip(&format!("link del {VIP_LINK}"));
    read_until(&mut watcher, |e| e.contains(&Event::LinkGone));
    assert_eq!(watcher.link(), None);
    // It is followed by its name.
    let again = LinkIndex::new(net.add_link(VIP_LINK)).unwrap();
    read_until(&mut watcher, |e| e.contains(&Event::LinkUp(again)));
    assert_eq!(watcher.link(), Some(again));
}

#[test]
fn burst_is_coalesced_to_one_event_per_vip() {
    let net = Net::new();
    let mut watcher = manager().watcher().unwrap();
    let vip = vips(1)[0];
    let lines = (0..200).map(|at| {
        let source = if at % 2 == 0 { NODE_V4.to_string() } else { vip.to_string() };
        format!("route replace local {vip} dev {VIP_LINK} table local proto kernel scope host src {source}")
    });
    net.ip(&format!("addr add {vip}/32 dev {VIP_LINK}"));
    let mut events = Vec::new();
    watcher.wait(&mut events, PATIENCE).unwrap();
    net.ip_batch(lines);
    events.clear();
    let count = watcher.read(&mut events).unwrap();
    assert_eq!((count, events.len()), (1, 1), "{events:?}");
    // Nothing happens: no event arrives, and reading does not wait.
    let began = Instant::now();
    assert_eq!(watcher.read(&mut events).unwrap(), 0);
    assert_eq!(
        watcher
            .wait(&mut events, Duration::from_millis(50))
            .unwrap(),
        0
    );
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert!(watcher.as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn overflow_is_a_resync_and_no_error() {
    let net = Net::new();
    // The smallest receive buffer that there is.
    let mut watcher = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .receive_buffer(1)
        .open()
        .unwrap()
        .watcher()
        .unwrap();
    let set = vips(200);
    net.ip_batch(set.iter().map(|vip| {
        let bits = common::host_bits(*vip);
        format!("addr add {vip}/{bits} dev {VIP_LINK}")
    }));
    read_until(&mut watcher, |e| e.contains(&Event::Resync));
    // And it hears again afterwards: once nothing is under way, one notification finds room.
    net.wait_for_kernel();
    let mut rest = Vec::new();
    while watcher.wait(&mut rest, Duration::from_millis(200)).unwrap() > 0 {}
    net.ip(&format!(
        "route del local {} dev {VIP_LINK} table local",
        set[1]
    ));
    let events = read_until(&mut watcher, |e| !e.is_empty());
    assert_eq!(
        events,
        [Event::Vip {
            vip: set[1].into(),
            change: Change::ROUTE_REMOVED,
            origin: Origin::OTHER
        }]
    );
}

/// That the link is another one now is among what was lost.
#[test]
fn watcher_follows_a_link_whose_re_creation_it_missed() {
    let net = Net::new();
    let manager = VipManager::builder(VIP_LINK).receive_buffer(4096);
    let mut watcher = manager.open().unwrap().watcher().unwrap();
    let vip = vips(1)[0];
    for is_there in [true, false, true] {
        net.notify_in_vain();
        let _ = net.try_ip(&format!("link del {VIP_LINK}"));
        let index = is_there.then(|| LinkIndex::new(net.add_link(VIP_LINK)).unwrap());
        net.notify_in_vain();
        let change = index.map_or(Event::LinkGone, Event::LinkUp);
        let events = read_until(&mut watcher, |e| e.contains(&change));
        assert_eq!(events, [Event::Resync, change]);
        assert_eq!(watcher.link(), index);
        if is_there {
            net.ip(&format!("addr add {vip}/32 dev {VIP_LINK}"));
            let events = read_until(&mut watcher, |e| !e.is_empty());
            let change = Change::ADDRESS_SET | Change::ROUTE_SET;
            assert_eq!(
                of_vip(&events, vip),
                Some((change, Origin::OTHER | Origin::KERNEL)),
                "{events:?}"
            );
        }
        // Where it is the same one, there is nothing to tell of it.
        net.notify_in_vain();
        let events = read_until(&mut watcher, |e| e.contains(&Event::Resync));
        assert_eq!(events, [Event::Resync]);
    }
}

/// The kernel drops notifications that concern neither the link nor an address of the node.
#[test]
fn watcher_is_not_notified_of_other_links() {
    let net = Net::new();
    let manager = VipManager::builder(VIP_LINK).receive_buffer(1);
    let mut watcher = manager.open().unwrap().watcher().unwrap();
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    net.change_other_links();
    watcher.read(&mut events).unwrap();
    assert_eq!(events, []);
}

/// What happened to the new link before the watcher heard of it is lost, and the watcher says so.
#[test]
fn watcher_says_resync_for_a_link_that_was_made_again_before_it_read() {
    let net = Net::new();
    let mut watcher = manager().watcher().unwrap();
    watcher.read(&mut Vec::new()).unwrap();
    for _ in 0..2 {
        net.ip(&format!("link del {VIP_LINK}"));
        let index = LinkIndex::new(net.add_link(VIP_LINK)).unwrap();
        net.ip(&format!("route add 10.96.0.1 dev {VIP_LINK}"));
        let mut events = Vec::new();
        watcher.read(&mut events).unwrap();
        assert!(events.contains(&Event::LinkGone), "{events:?}");
        assert!(
            events.ends_with(&[Event::LinkUp(index), Event::Resync]),
            "{events:?}"
        );
        assert_eq!(watcher.link(), Some(index));
        // From now on nothing is lost.
        net.ip(&format!("route del 10.96.0.1 dev {VIP_LINK}"));
        let events = read_until(&mut watcher, |e| !e.is_empty());
        let change = Event::Vip {
            vip: "10.96.0.1".parse().unwrap(),
            change: Change::ROUTE_REMOVED,
            origin: Origin::OTHER,
        };
        assert!(events.contains(&change), "{events:?}");
    }
}

/// The name may be one of the link's alternative ones.
#[test]
fn watcher_follows_a_link_by_alternative_name() {
    let net = Net::new();
    let index = LinkIndex::new(net.vip_index()).unwrap();
    let altname = |what: &str, name: &str| {
        net.ip(&format!(
            "link property {what} dev {VIP_LINK} altname {name}"
        ));
    };
    altname("add", "vips0");
    let manager = VipManager::builder("vips0").open();
    let mut watcher = manager.unwrap().watcher().unwrap();
    assert_eq!(watcher.link(), Some(index));
    for (what, name, change) in [
        ("add", "vips1", Event::LinkUp(index)),
        ("del", "vips0", Event::LinkGone),
        ("add", "vips0", Event::LinkUp(index)),
    ] {
        altname(what, name);
        let events = read_until(&mut watcher, |e| !e.is_empty());
        assert_eq!(events, [change], "{what} {name}");
    }
}

/// A port that leaves its bridge is not gone, though the bridge tells so in its own family.
#[test]
fn port_that_leaves_its_bridge_is_not_gone() {
    let net = Net::bare();
    // A bridge cannot be a port.
    let kinds = ["dummy", "ifb"];
    let add = |kind: &&str| {
        net.try_ip(&format!("link add {VIP_LINK} type {kind}"))
            .is_ok()
    };
    if !kinds.iter().any(add) {
        common::skipped("a port of a bridge", "no link that can be one");
        return;
    }
    net.ip("link add bridge0 type bridge");
    net.ip(&format!("link set {VIP_LINK} master bridge0 up"));
    let mut watcher = manager().watcher().unwrap();
    net.ip(&format!("link set {VIP_LINK} nomaster"));
    net.ip(&format!("addr add 10.96.0.1/32 dev {VIP_LINK}"));
    let vip = vips(1)[0];
    let events = read_until(&mut watcher, |e| of_vip(e, vip).is_some());
    let index = LinkIndex::new(net.vip_index()).unwrap();
    assert!(events.contains(&Event::LinkUp(index)), "{events:?}");
    assert!(!events.contains(&Event::LinkGone), "{events:?}");
}
