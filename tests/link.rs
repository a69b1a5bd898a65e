//! The link that holds the VIPs: by name or by index, made on request, followed as it comes and
//! goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::Value;
use viproute::{Claim, Error, ErrorKind, LinkIndex, LinkKind, LinkRef, Report, Vip};

mod common;
use common::{
    NODE_LINK, Net, PROTO_KERNEL, VIP_LINK, Want, builder_of as builder, skipped, vips, vips_v4,
    vips_v6,
};

const RENAMED: &str = "renamed0";

fn index_of(net: &Net, link: &str) -> LinkIndex {
    LinkIndex::new(net.index(link)).unwrap()
}

/// A node without the VIP link.
fn without_link() -> Net {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.wait_for_kernel();
    net
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, word: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(word), "{error}");
    assert!(error.report().is_none());
}

/// What `ip -d -json link` says of a link.
fn shown(net: &Net, link: &str) -> Value {
    net.ip_json(&format!("link show dev {link}"))[0].clone()
}

fn has_flag(link: &Value, flag: &str) -> bool {
    link["flags"].as_array().unwrap().iter().any(|f| f == flag)
}

fn rename(net: &Net, from: &str, to: &str) {
    net.ip(&format!("link set dev {from} down"));
    net.ip(&format!("link set dev {from} name {to}"));
    net.ip(&format!("link set dev {to} up"));
}

#[track_caller]
fn assert_single_route_on(net: &Net, link: &str, vips: &[IpAddr]) {
    let want = Want {
        link,
        ..Want::default()
    };
    net.local_state().assert_single_route(vips, &want);
}

/// The kinds of link to test, those that this kernel has.
fn kinds(test: &str) -> Vec<(LinkKind, &'static str)> {
    let mut kinds = vec![(LinkKind::Bridge, "bridge")];
    if Net::bare().try_ip("link add dev probe type dummy").is_ok() {
        kinds.push((LinkKind::Dummy, "dummy"));
    } else {
        skipped(test, "this kernel has no dummy links: only with a bridge");
    }
    kinds
}

#[test]
fn manager_finds_its_link_by_index() {
    let net = Net::new();
    let set = vips(5);
    for none in [0, u32::MAX / 2 + 1, u32::MAX] {
        assert_eq!(LinkIndex::new(none), None);
    }
    let index = index_of(&net, VIP_LINK);
    assert_eq!(index.get(), net.vip_index());
    let mut manager = builder(index).open().unwrap();
    assert_eq!(manager.assign(&set).unwrap().assigned, 10);
    net.assert_single_route(&set, PROTO_KERNEL);
    assert_eq!(manager.normalize().unwrap().unchanged, 10);
    assert_eq!(manager.audit().unwrap().vips.len(), 10);
    // By its name, however that is given, it is the same link.
    let name = VIP_LINK.to_owned();
    let by_name: [LinkRef; 3] = [VIP_LINK.into(), (&name).into(), name.into()];
    for link in by_name {
        let report = builder(link).open().unwrap().assign(&set).unwrap();
        assert_eq!((report.unchanged, report.writes), (10, 0));
    }
    assert_eq!(manager.release(&set).unwrap().released, 10);
    net.assert_absent(&set);
}

#[test]
fn index_without_a_link_is_an_error() {
    let net = Net::new();
    let free = LinkIndex::new(4711).unwrap();
    let before = net.snapshot_without(&[]);
    let mut manager = builder(free).bring_up().open().unwrap();
    let word = "index 4711";
    refused(manager.assign(vips(2)), ErrorKind::LinkNotFound, word);
    refused(manager.normalize(), ErrorKind::LinkNotFound, word);
    refused(manager.release(vips(2)), ErrorKind::LinkNotFound, word);
    refused(manager.audit(), ErrorKind::LinkNotFound, word);
    refused(manager.watcher(), ErrorKind::LinkNotFound, word);
    before.assert_same(&net.snapshot_without(&[]));
    let largest = LinkIndex::new(u32::MAX / 2).unwrap();
    let mut manager = builder(largest).open().unwrap();
    refused(manager.audit(), ErrorKind::LinkNotFound, "index 2147483647");
}

#[test]
fn link_to_create_needs_a_name() {
    let net = Net::new();
    let index = index_of(&net, VIP_LINK);
    for kind in [LinkKind::Bridge, LinkKind::Dummy] {
        let opened = builder(index).create_link(kind).open();
        refused(opened, ErrorKind::InvalidConfig, "needs a name");
    }
    let opened = builder("").create_link(LinkKind::Bridge).open();
    refused(opened, ErrorKind::InvalidConfig, "no link can be named");
}

/// A dummy link, or a bridge where the kernel has no dummy driver, as other programs see the link.
#[test]
fn auto_creates_the_kind_of_link_that_the_kernel_knows() {
    let net = Net::bare();
    net.add_link(common::NODE_LINK);
    net.add_node_addresses(common::NODE_LINK);
    let has_dummy = net.try_ip("link add dev probe type dummy").is_ok();
    let create = || {
        builder(VIP_LINK)
            .create_link(LinkKind::Auto)
            .open()
            .unwrap()
    };
    assert_eq!(create().assign(vips(2)).unwrap().assigned, 4);
    net.assert_single_route(&vips(2), PROTO_KERNEL);
    let kind = |net: &Net| {
        let links = net.ip_json(&format!("-details link show dev {VIP_LINK}"));
        links[0]["linkinfo"]["info_kind"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(kind(&net), if has_dummy { "dummy" } else { "bridge" });
    // What a killed call leaves behind is completed, of either kind.
    for (rest, _) in kinds("auto_creates_the_kind_of_link_that_the_kernel_knows") {
        net.ip(&format!("link del dev {VIP_LINK}"));
        net.ip(&format!("link add dev {VIP_LINK} arp off type {rest}"));
        assert_eq!(create().assign(vips(2)).unwrap().assigned, 4);
        net.assert_single_route(&vips(2), PROTO_KERNEL);
        let addresses = net.ip_json(&format!("-6 addr show dev {VIP_LINK} scope link"));
        assert!(!addresses.to_string().contains("fe80"), "{addresses}");
    }
}

#[test]
fn errors_name_the_link_that_the_index_stands_for() {
    let net = Net::new();
    let index = index_of(&net, VIP_LINK);
    net.ip(&format!("link set dev {VIP_LINK} down"));
    let mut manager = builder(index).open().unwrap();
    let error = manager.assign(vips(2)).unwrap_err().to_string();
    assert!(
        error.contains(&format!("link {VIP_LINK} is down")),
        "{error}"
    );
    let mut manager = builder(index).bring_up().open().unwrap();
    assert_eq!(manager.assign(vips(2)).unwrap().assigned, 2);
    net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/disable_ipv6"), "1");
    let sysctl = format!("net/ipv6/conf/{VIP_LINK}/disable_ipv6");
    let error = manager.assign(vips(2)).unwrap_err().to_string();
    assert!(error.contains(&sysctl), "{error}");
}

#[test]
fn a_renamed_link_keeps_its_index_and_loses_its_name() {
    let net = Net::new();
    let set = vips(5);
    let index = index_of(&net, VIP_LINK);
    let mut by_index = builder(index).open().unwrap();
    let mut by_name = builder(VIP_LINK).open().unwrap();
    by_name.assign(&set).unwrap();
    rename(&net, VIP_LINK, RENAMED);
    assert_eq!(index_of(&net, RENAMED), index);

    refused(by_name.assign(&set), ErrorKind::LinkNotFound, VIP_LINK);
    // Going down and up, it has lost its IPv6 addresses, and IPv4 has kernel routes beside the desired ones.
    let report = by_index.assign(&set).unwrap();
    assert_eq!((report.assigned, report.repaired), (5, 5), "{report}");
    assert_single_route_on(&net, RENAMED, &set);

    // The name is another link's now.
    by_index.release(&set).unwrap();
    net.add_link(VIP_LINK);
    assert_eq!(by_name.assign(&set).unwrap().assigned, 10);
    net.assert_single_route(&set, PROTO_KERNEL);
    net.local_state().assert_absent(&set, RENAMED);
}

#[test]
fn link_that_is_created_again_is_found_by_name_only() {
    let net = Net::new();
    let set = vips(5);
    let index = index_of(&net, VIP_LINK);
    let mut by_index = builder(index).open().unwrap();
    let mut by_name = builder(VIP_LINK).open().unwrap();
    by_name.assign(&set).unwrap();
    net.ip(&format!("link del dev {VIP_LINK}"));
    refused(by_name.assign(&set), ErrorKind::LinkNotFound, VIP_LINK);
    net.add_link(VIP_LINK);
    net.wait_for_kernel();
    assert_ne!(index_of(&net, VIP_LINK), index);

    let report = by_name.assign(&set).unwrap();
    assert_eq!((report.assigned, report.unchanged), (10, 0), "{report}");
    net.assert_single_route(&set, PROTO_KERNEL);
    let word = format!("index {}", index.get());
    refused(by_index.assign(&set), ErrorKind::LinkNotFound, &word);
    net.assert_single_route(&set, PROTO_KERNEL);
}

#[test]
fn a_keeper_by_index_follows_the_link_through_a_rename() {
    let net = Net::new();
    let set = vips(5);
    let manager = builder(index_of(&net, VIP_LINK)).open().unwrap();
    let mut keeper = manager.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(&set);
    let mut keep = |link| {
        let want = Want {
            link,
            ..Want::default()
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            keeper.dispatch(1_000).unwrap();
            let wrong = net.local_state().wrong_vips(&set, &want);
            if wrong.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{wrong:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    keep(VIP_LINK);
    rename(&net, VIP_LINK, RENAMED);
    keep(RENAMED);
    // It still hears of this link.
    net.ip(&format!("addr flush dev {RENAMED}"));
    keep(RENAMED);
}

/// Gives a bridge a port, so that it has a carrier, on which the kernel makes a link-local address.
fn add_port(net: &Net, bridge: &str, port: &str) {
    net.ip(&format!("link add dev {port} type veth peer name {port}p"));
    net.ip(&format!(
        "link set dev {port} addrgenmode none master {bridge}"
    ));
    net.ip(&format!("link set dev {port} up"));
    net.ip(&format!("link set dev {port}p addrgenmode none"));
    net.ip(&format!("link set dev {port}p up"));
}

fn has_link_local(net: &Net, link: &str) -> bool {
    let state = net.local_state();
    let mut addresses = state.addresses.values().flatten();
    addresses.any(|address| {
        address.dev == link && matches!(address.local, IpAddr::V6(v6) if v6.is_unicast_link_local())
    })
}

/// The link has the settings that the library gives it. The kernel gives a similar link addresses when it
/// has a carrier, and gives this one none.
#[track_caller]
fn assert_made_as_meant(net: &Net, kind: &str, set: &[IpAddr]) {
    let link = shown(net, VIP_LINK);
    assert_eq!(link["linkinfo"]["info_kind"], kind);
    assert!(has_flag(&link, "UP"), "{link:#}");
    assert!(has_flag(&link, "NOARP"), "{link:#}");
    assert_eq!(link["inet6_addr_gen_mode"], "none", "{link:#}");

    net.ip(&format!("link add dev other0 type {kind}"));
    net.ip("link set dev other0 arp off up");
    if kind == "bridge" {
        add_port(net, "other0", "port0");
        add_port(net, VIP_LINK, "port1");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !has_link_local(net, "other0") {
        assert!(Instant::now() < deadline, "the other never got one");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(!has_link_local(net, VIP_LINK));
    let state = net.local_state();
    let addresses = state.addresses.values().flatten();
    let on_link = addresses.filter(|address| address.dev == VIP_LINK).count();
    assert_eq!(on_link, set.len(), "no address but the VIPs");
    net.assert_single_route(set, PROTO_KERNEL);
}

#[test]
fn created_link_has_no_addresses_of_its_own() {
    for (kind, word) in kinds("created_link_has_no_addresses_of_its_own") {
        let net = without_link();
        let set = vips(5);
        let mut manager = builder(VIP_LINK).create_link(kind).open().unwrap();
        // Only a call that assigns makes it.
        refused(manager.normalize(), ErrorKind::LinkNotFound, VIP_LINK);
        refused(manager.release(&set), ErrorKind::LinkNotFound, VIP_LINK);
        refused(manager.audit(), ErrorKind::LinkNotFound, VIP_LINK);
        assert_eq!(manager.assign(&set).unwrap().assigned, 10);
        assert_made_as_meant(&net, word, &set);
    }
}

#[test]
fn assign_without_a_vip_creates_the_link() {
    let net = without_link();
    let mut manager = builder(VIP_LINK)
        .create_link(LinkKind::Auto)
        .open()
        .unwrap();
    let report = manager.assign(None::<Vip>).unwrap();
    assert_eq!(report, Report::default());
    let link = shown(&net, VIP_LINK);
    assert!(
        has_flag(&link, "UP") && has_flag(&link, "NOARP"),
        "{link:#}"
    );
}

#[test]
fn link_creation_after_a_kill_is_completed() {
    for (kind, word) in kinds("link_creation_after_a_kill_is_completed") {
        // After the message that creates it, and after the message that configures it.
        for killed_after in [1, 2] {
            let net = without_link();
            let set = vips(5);
            net.ip(&format!("link add dev {VIP_LINK} type {word}"));
            net.ip(&format!("link set dev {VIP_LINK} arp off"));
            if killed_after == 2 {
                net.ip(&format!("link set dev {VIP_LINK} addrgenmode none"));
            }
            let index = net.vip_index();
            let mut manager = builder(VIP_LINK).create_link(kind).open().unwrap();
            assert_eq!(manager.assign(&set).unwrap().assigned, 10);
            assert_eq!(net.vip_index(), index);
            assert_made_as_meant(&net, word, &set);
        }
    }
}

#[test]
fn existing_link_is_not_changed() {
    // Up, or down and no link of that kind as we make one (it has ARP): what it is stays.
    for (up, arp) in [(true, false), (false, true)] {
        let net = without_link();
        let set = vips(5);
        net.ip(&format!("link add dev {VIP_LINK} type bridge"));
        if !arp {
            net.ip(&format!("link set dev {VIP_LINK} arp off"));
        }
        if up {
            net.ip(&format!("link set dev {VIP_LINK} up"));
        }
        let before = shown(&net, VIP_LINK);
        let mode = &before["inet6_addr_gen_mode"];
        assert_ne!(mode, "none");
        let mut manager = builder(VIP_LINK)
            .create_link(LinkKind::Bridge)
            .open()
            .unwrap();
        assert_eq!(manager.assign(&set).unwrap().assigned, 10);
        net.assert_single_route(&set, PROTO_KERNEL);
        let after = shown(&net, VIP_LINK);
        assert_eq!(after["ifindex"], before["ifindex"]);
        assert_eq!(&after["inet6_addr_gen_mode"], mode);
        assert_eq!(has_flag(&after, "NOARP"), !arp);
        assert!(has_flag(&after, "UP"), "create_link implies bring_up");
    }
}

#[test]
fn managers_that_create_the_link_at_once_share_it() {
    for _ in 0..10 {
        let net = without_link();
        let start = Barrier::new(4);
        let (v4, v6) = (vips_v4(20), vips_v6(20));
        std::thread::scope(|scope| {
            for set in [&v4[..10], &v4[10..], &v6[..10], &v6[10..]] {
                let start = &start;
                scope.spawn(move || {
                    let mut manager = builder(VIP_LINK)
                        .create_link(LinkKind::Bridge)
                        .open()
                        .unwrap();
                    start.wait();
                    assert_eq!(manager.assign(set).unwrap().assigned, 10);
                });
            }
        });
        net.assert_single_route(&vips(20), PROTO_KERNEL);
        let link = shown(&net, VIP_LINK);
        assert_eq!(link["inet6_addr_gen_mode"], "none");
        assert!(has_flag(&link, "UP") && has_flag(&link, "NOARP"));
    }
}
