//! A VIP is never the source of other traffic.
//!
//! On a node that has its addresses on `lo` and an uplink without any, the kernel must look on
//! other links for the source of what it sends there, and finds VIPs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::addrlabel::AddrLabelMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use viproute::{Binding, Cause, Claim, ErrorKind, SourceAvoidance, VipManager};

mod common;
use common::raw::Raw;
use common::{
    NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, Want, builder, vips, vips_v4, vips_v6,
};

const UPLINK: &str = "uplink0";

/// Somewhere behind the uplink, closer to the VIPs' addresses than to the node's (RFC 6724, rule 8).
const NEAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 0xffff);
/// Somewhere behind the uplink, no closer to the one than to the other.
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0, 0, 0, 1);
const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Unique local addresses (RFC 4193): a VIP, a destination, and one of the node's.
const ULA_VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 1);
const ULA_FAR: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0xffff);
const ULA_NODE: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);

const BOTH: [SourceAvoidance; 2] = [SourceAvoidance::AddressLabel, SourceAvoidance::Deprecated];

/// The node's addresses on `lo`, the VIP link, and an uplink without addresses that leads to
/// everywhere.
fn node_on_lo() -> Net {
    let net = Net::with_node_on_lo();
    add_uplink(&net);
    net
}

fn add_uplink(net: &Net) {
    net.ip(&format!(
        "link add dev {UPLINK} type veth peer name {UPLINK}p"
    ));
    for end in [UPLINK, &format!("{UPLINK}p")] {
        net.ip(&format!("link set dev {end} addrgenmode none"));
        net.ip(&format!("link set dev {end} up"));
    }
    // The kernel reports the carrier from a work queue, which would change a snapshot.
    while net.ip("link show type veth").contains("NO-CARRIER") {
        std::thread::sleep(Duration::from_millis(10));
    }
    net.ip(&format!("-4 route add default dev {UPLINK}"));
    net.ip(&format!("-6 route add default dev {UPLINK}"));
}

fn avoiding(avoidance: SourceAvoidance) -> VipManager {
    builder().avoid_as_source(avoidance).open().unwrap()
}

/// The source of traffic to a destination: as the route look-up tells it and as a connected socket
/// has it, which agree.
#[track_caller]
fn source_to(net: &Net, to: impl Into<IpAddr>) -> IpAddr {
    let to = to.into();
    let chosen = net.ip_json(&format!("route get {to}"))[0]["prefsrc"]
        .as_str()
        .expect("the look-up tells a source")
        .parse::<IpAddr>()
        .unwrap();
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect((to, 9)).unwrap();
    assert_eq!(socket.local_addr().unwrap().ip(), chosen, "to {to}");
    chosen
}

/// The node's own connection to its VIP comes from the node's address, and arrives.
#[track_caller]
fn assert_reached_from_the_node(net: &Net, vip: IpAddr) {
    let node: IpAddr = if vip.is_ipv4() {
        NODE_V4.into()
    } else {
        NODE_V6.into()
    };
    assert_eq!(source_to(net, vip), node);
    let listener = TcpListener::bind((vip, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), node);
    assert_eq!(listener.accept().unwrap().1.ip(), node);
}

/// The lines of `ip addrlabel` that are of the VIP link.
fn labels(net: &Net) -> Vec<String> {
    let listed = net.ip("addrlabel list");
    let lines = listed.lines().map(|line| line.trim().to_owned());
    let dev = format!(" dev {VIP_LINK} ");
    lines.filter(|line| line.contains(&dev)).collect()
}

fn label_line(prefix: &str) -> String {
    format!(
        "prefix {prefix} dev {VIP_LINK} label {}",
        SourceAvoidance::LABEL
    )
}

/// How often the table of address labels was written to: the kernel counts it in every entry.
fn label_writes() -> u32 {
    let mut raw = Raw::new();
    let mut all = AddrLabelMessage::default();
    all.header.family = AddressFamily::Inet6;
    raw.send(&[(RouteNetlinkMessage::GetAddrLabel(all), 0)], NLM_F_DUMP);
    let (datagrams, overflow) = raw.receive_all();
    assert!(!overflow);
    let first = &datagrams[0];
    let length = NetlinkBuffer::new_checked(first).unwrap().length() as usize;
    match NetlinkMessage::deserialize(&first[..length])
        .unwrap()
        .payload
    {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddrLabel(label)) => {
            label.header.sequence
        }
        other => panic!("no label: {other:?}"),
    }
}

/// The preferred lifetime of an address of the VIP link in seconds.
fn preferred_lifetime(net: &Net, vip: IpAddr) -> u32 {
    let link = &net.ip_json(&format!("-6 addr show dev {VIP_LINK}"))[0];
    let infos = link["addr_info"].as_array().unwrap();
    let is_vip = |info: &&serde_json::Value| info["local"] == vip.to_string();
    let info = infos.iter().find(is_vip).expect("the VIP is on the link");
    assert_eq!(info["valid_life_time"], u32::MAX, "{vip} is valid for ever");
    u32::try_from(info["preferred_life_time"].as_u64().unwrap()).unwrap()
}

#[test]
fn by_default_an_ipv6_vip_is_chosen_and_an_ipv4_one_is_not() {
    let net = node_on_lo();
    let before = label_writes();
    assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
    assert_eq!(source_to(&net, FAR_V6), NODE_V6);
    builder().open().unwrap().assign(vips(5)).unwrap();
    let chosen = source_to(&net, NEAR_V6);
    assert!(vips_v6(5).contains(&chosen), "{chosen}");
    assert_eq!(source_to(&net, FAR_V4), NODE_V4);
    for vip in vips(5) {
        assert_reached_from_the_node(&net, vip);
    }
    assert_eq!(label_writes(), before, "not asked for");
    assert_eq!(preferred_lifetime(&net, vips_v6(1)[0]), u32::MAX);
}

#[test]
fn each_avoidance_keeps_vips_from_being_chosen() {
    for avoidance in BOTH {
        let net = node_on_lo();
        let set = vips(5);
        let mut manager = avoiding(avoidance);
        assert!(labels(&net).is_empty(), "open writes nothing");
        let report = manager.assign(&set).unwrap();
        assert_eq!(report.assigned, 10);
        for to in [NEAR_V6, FAR_V6] {
            assert_eq!(source_to(&net, to), NODE_V6, "{avoidance:?}, to {to}");
        }
        assert_eq!(source_to(&net, FAR_V4), NODE_V4);
        for &vip in &set {
            assert_reached_from_the_node(&net, vip);
        }
        net.assert_single_route(&set, PROTO_KERNEL);
        let (expected, lifetime) = match avoidance {
            SourceAvoidance::AddressLabel => (vec![label_line("::/0")], u32::MAX),
            _ => (vec![], 0),
        };
        assert_eq!(labels(&net), expected);
        assert_eq!(preferred_lifetime(&net, vips_v6(1)[0]), lifetime);

        // On a good state nothing is written, by this manager and by another one.
        let before = label_writes();
        for mut manager in [manager, avoiding(avoidance)] {
            for report in [manager.assign(&set), manager.normalize()] {
                let report = report.unwrap();
                assert_eq!((report.unchanged, report.writes), (10, 0), "{avoidance:?}");
            }
        }
        assert_eq!(label_writes(), before);
    }
}

/// In IPv4 the kernel goes through the links in order, and takes the first address whose scope is
/// not link: where the node's own stands on a later one, that would be the VIP.
#[test]
fn scope_link_avoids_ipv4_vips() {
    let net = Net::bare();
    net.add_link(VIP_LINK);
    net.add_link(NODE_LINK);
    assert!(net.index(VIP_LINK) < net.index(NODE_LINK));
    net.add_node_addresses(NODE_LINK);
    add_uplink(&net);
    net.wait_for_kernel();
    let set = vips_v4(5);
    builder().open().unwrap().assign(&set).unwrap();
    assert_eq!(source_to(&net, FAR_V4), NODE_V4);
    for &vip in &set {
        assert_reached_from_the_node(&net, vip);
    }
    // As `ip` adds it, scope global.
    net.ip(&format!("addr add 10.96.1.1/32 dev {VIP_LINK}"));
    assert_eq!(source_to(&net, FAR_V4), Ipv4Addr::new(10, 96, 1, 1));
}

#[test]
fn unique_local_vips_get_their_own_label_entry() {
    let net = node_on_lo();
    net.ip(&format!("addr add {ULA_NODE}/128 dev lo nodad"));
    net.wait_for_kernel();
    builder().open().unwrap().assign([ULA_VIP]).unwrap();
    assert_eq!(source_to(&net, ULA_FAR), ULA_VIP);

    let mut manager = avoiding(SourceAvoidance::AddressLabel);
    let report = manager.normalize().unwrap();
    assert_eq!((report.unchanged, report.writes), (1, 1), "{report}");
    assert_eq!(labels(&net), [label_line("fc00::/7")]);
    assert_eq!(source_to(&net, ULA_FAR), ULA_NODE);
    // The entry for all prefixes would not do.
    net.ip(&format!(
        "addrlabel del prefix fc00::/7 dev {VIP_LINK} label 99"
    ));
    net.ip(&format!(
        "addrlabel add prefix ::/0 dev {VIP_LINK} label 99"
    ));
    assert_eq!(source_to(&net, ULA_FAR), ULA_VIP);
    // The next call puts it back; with global VIPs too, there are two.
    assert_eq!(manager.normalize().unwrap().writes, 1);
    manager.assign(vips_v6(1)).unwrap();
    assert_eq!(
        labels(&net),
        [label_line("fc00::/7"), label_line("::/0")],
        "in the kernel's order"
    );
    assert_eq!(source_to(&net, ULA_FAR), ULA_NODE);
    assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
}

/// Where no address of the node has the destination's label, labels decide nothing.
#[test]
fn only_a_deprecated_vip_is_avoided_where_the_nodes_label_is_not_the_destinations() {
    for avoidance in BOTH {
        let net = node_on_lo();
        avoiding(avoidance).assign([ULA_VIP]).unwrap();
        let expected = match avoidance {
            SourceAvoidance::AddressLabel => ULA_VIP,
            _ => NODE_V6,
        };
        assert_eq!(source_to(&net, ULA_FAR), expected, "{avoidance:?}");
        assert_reached_from_the_node(&net, ULA_VIP.into());
    }
}

#[test]
fn vips_bound_by_route_alone_are_no_source() {
    let ways = [None, Some(BOTH[0]), Some(BOTH[1])];
    for avoidance in ways {
        let net = node_on_lo();
        let before = label_writes();
        let builder = builder().binding(Binding::Route);
        let builder = match avoidance {
            Some(avoidance) => builder.avoid_as_source(avoidance),
            None => builder,
        };
        let mut manager = builder.open().unwrap();
        let set = vips(5);
        assert_eq!(manager.assign(&set).unwrap().assigned, 10);
        let want = Want {
            address: false,
            ..Want::default()
        };
        net.local_state().assert_single_route(&set, &want);
        for to in [NEAR_V6, FAR_V6] {
            assert_eq!(source_to(&net, to), NODE_V6);
        }
        assert_eq!(source_to(&net, FAR_V4), NODE_V4);
        for vip in set {
            assert_reached_from_the_node_freely(&net, vip);
        }
        assert_eq!(label_writes(), before, "nothing to label");

        // Bound by their addresses, they are what the option is for.
        manager.set_binding(Binding::Address).unwrap();
        let chosen = source_to(&net, NEAR_V6);
        assert_eq!(chosen == NODE_V6, avoidance.is_some(), "{chosen}");
    }
}

/// As [`assert_reached_from_the_node`], where nothing can be bound to the VIP.
#[track_caller]
fn assert_reached_from_the_node_freely(net: &Net, vip: IpAddr) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let to = (vip, listener.local_addr().unwrap().port()).into();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), source_to(net, vip));
    assert!(common::SOURCES.contains(&stream.local_addr().unwrap().ip()));
}

#[test]
fn conflicting_label_is_reported_before_any_write() {
    // The kernel's label of all destinations.
    let on_link = format!("dev {VIP_LINK} label 1");
    let destinations = "label 99";
    for (entry, word) in [
        (format!("prefix ::/0 {on_link}"), "remove that entry"),
        (
            format!("prefix 2001:db8::/32 {on_link}"),
            "remove that entry",
        ),
        (
            format!("prefix 2001:db8:7::/48 {destinations}"),
            "change that entry",
        ),
    ] {
        let net = node_on_lo();
        net.ip(&format!("addrlabel add {entry}"));
        let before = (net.snapshot_without(&[]), label_writes());
        let mut manager = avoiding(SourceAvoidance::AddressLabel);
        let error = manager.assign(vips_v6(5)).unwrap_err();
        let failures = &error.report().unwrap().failures;
        assert_eq!(failures.len(), 5, "{entry}: {error}");
        for failure in failures {
            let missing = Cause::Missing(ErrorKind::LabelConflict);
            assert_eq!(failure.cause, missing, "{entry}: {failure}");
            assert!(failure.to_string().contains(word), "{failure}");
        }
        assert_eq!(before, (net.snapshot_without(&[]), label_writes()));

        // IPv4 has no part in it, and neither has a release.
        let error = manager.assign(vips(5)).unwrap_err();
        assert_eq!(error.report().unwrap().assigned, 5, "{error}");
        net.assert_single_route(&vips_v4(5), PROTO_KERNEL);
        builder().open().unwrap().assign(vips_v6(5)).unwrap();
        assert_eq!(manager.release(vips(5)).unwrap().released, 10);
        assert_eq!(label_writes(), before.1);

        net.ip(&format!("addrlabel del {entry}"));
        assert_eq!(manager.assign(vips(5)).unwrap().assigned, 10);
        assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
    }
}

#[test]
fn existing_label_that_no_destination_has_is_accepted() {
    let net = node_on_lo();
    // By another writer, with a label of its own.
    net.ip(&format!(
        "addrlabel add prefix ::/0 dev {VIP_LINK} label 98"
    ));
    let before = label_writes();
    avoiding(SourceAvoidance::AddressLabel)
        .assign(vips(5))
        .unwrap();
    assert_eq!(label_writes(), before);
    assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
}

#[test]
fn address_label_stands_beside_another_programs_label() {
    let net = node_on_lo();
    // As pacemaker's IPaddr2 adds it for an address of its own.
    net.ip("addrlabel add prefix 2001:db8:7::7/128 label 99");
    let error = avoiding(SourceAvoidance::AddressLabel)
        .assign(vips_v6(5))
        .unwrap_err();
    let cause = error.report().unwrap().failures[0].cause;
    assert_eq!(cause, Cause::Missing(ErrorKind::LabelConflict), "{error}");
    assert!(
        error.to_string().contains("give VIPs another label"),
        "{error}"
    );
    let mut manager = builder().address_label(4711).open().unwrap();
    assert_eq!(manager.assign(vips(5)).unwrap().assigned, 10);
    let line = format!("prefix ::/0 dev {VIP_LINK} label 4711");
    assert_eq!(labels(&net), std::slice::from_ref(&line));
    assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
    assert_eq!(
        manager.reconcile(&Claim::link(), vips(5)).unwrap().writes,
        0
    );
    net.ip(&format!("addrlabel del {line}"));
    let plan = manager.plan(&Claim::link(), vips(5)).unwrap();
    assert!(plan.to_string().contains("label 4711"), "{plan}");
    // What the kernel takes for no label at all is refused at once.
    let error = builder().address_label(u32::MAX).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn link_that_is_created_again_is_labelled_again() {
    let net = node_on_lo();
    let mut manager = avoiding(SourceAvoidance::AddressLabel);
    manager.assign(vips(5)).unwrap();
    // Releasing leaves it.
    assert_eq!(manager.release(vips(5)).unwrap().released, 10);
    assert_eq!(labels(&net), [label_line("::/0")]);
    assert_eq!(manager.assign(vips(5)).unwrap().assigned, 10);
    net.ip(&format!("link del dev {VIP_LINK}"));
    net.add_link(VIP_LINK);
    net.wait_for_kernel();
    assert!(labels(&net).is_empty(), "the old one's are of its index");
    manager.assign(vips(5)).unwrap();
    assert_eq!(labels(&net), [label_line("::/0")]);
    assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
}

/// The kernel keeps the entries of a link that is gone.
#[test]
fn link_that_is_created_again_and_again_leaves_no_labels() {
    let net = node_on_lo();
    // Another program's entries: of a link that stays, and of the first VIP link, which goes.
    net.ip(&format!("addrlabel add prefix ::/0 dev {UPLINK} label 99"));
    net.ip(&format!(
        "addrlabel add prefix fd66::/16 dev {VIP_LINK} label 99"
    ));
    let mut manager = avoiding(SourceAvoidance::AddressLabel);
    let set = [&vips_v6(2)[..], &[ULA_VIP.into()]].concat();
    let count = || net.ip("addrlabel list").lines().count();
    let before = count();
    for _ in 0..common::number("VIPROUTE_LINKS", 100, 20) {
        manager.assign(&set).unwrap();
        assert_eq!(count(), before + 2, "one for ::/0, one for fc00::/7");
        net.ip(&format!("link del dev {VIP_LINK}"));
        net.add_link(VIP_LINK);
        net.wait_for_kernel();
    }
    // A call that labels nothing removes what is left of the last link.
    net.ip(&format!(
        "addrlabel add prefix ::/0 dev {VIP_LINK} label 98"
    ));
    assert_eq!(manager.assign(vips_v6(1)).unwrap().assigned, 1);
    assert_eq!(count(), before + 1);
    let others = net.ip("addrlabel list");
    assert!(others.contains("prefix fd66::/16 dev if"), "{others}");
    assert!(
        others.contains(&format!("dev {UPLINK} label 99")),
        "{others}"
    );
}

/// An entry that the manager added stays if it may still be of use: its link has got another name, or another
/// program has changed the entry.
#[test]
fn label_that_may_be_of_use_is_not_removed() {
    let net = node_on_lo();
    let mut manager = avoiding(SourceAvoidance::AddressLabel);
    manager.assign(vips_v6(1)).unwrap();
    net.ip(&format!("link set dev {VIP_LINK} down"));
    net.ip(&format!("link set dev {VIP_LINK} name renamed"));
    net.add_link(VIP_LINK);
    net.wait_for_kernel();
    manager.assign(vips_v6(1)).unwrap();
    let renamed = |label| format!("prefix ::/0 dev renamed label {label}");
    assert!(net.ip("addrlabel list").contains(&renamed(99)));

    net.ip(&format!("addrlabel del {}", label_line("::/0")));
    net.ip(&format!(
        "addrlabel add prefix ::/0 dev {VIP_LINK} label 98"
    ));
    net.ip(&format!("link del dev {VIP_LINK}"));
    net.add_link(VIP_LINK);
    net.wait_for_kernel();
    manager.assign(vips_v6(1)).unwrap();
    let left = net.ip("addrlabel list");
    assert!(
        left.lines()
            .any(|line| line.contains("dev if") && line.contains("label 98")),
        "{left}"
    );
}

#[test]
fn managers_that_label_the_link_at_once_share_the_entry() {
    for _ in 0..20 {
        let net = node_on_lo();
        let set = vips_v6(8);
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for part in set.chunks(2) {
                let start = &start;
                scope.spawn(move || {
                    let mut manager = avoiding(SourceAvoidance::AddressLabel);
                    start.wait();
                    assert_eq!(manager.assign(part).unwrap().assigned, 2);
                });
            }
        });
        assert_eq!(labels(&net), [label_line("::/0")]);
        net.assert_single_route(&set, PROTO_KERNEL);
        assert_eq!(source_to(&net, NEAR_V6), NODE_V6);
    }
}

#[test]
fn rejected_vips_cause_no_label() {
    let _net = node_on_lo();
    let before = label_writes();
    let mut manager = avoiding(SourceAvoidance::AddressLabel);
    let error = manager.normalize_only(vips_v6(1)).unwrap_err();
    assert_eq!(error.report().unwrap().writes, 0, "{error}");
    assert_eq!(manager.normalize().unwrap().writes, 0);
    assert_eq!(manager.release(vips_v6(1)).unwrap().writes, 0);
    assert!(manager.audit().unwrap().vips.is_empty());
    // An address of the node itself is no VIP, and a VIP of a family without a source is refused.
    manager.assign([NODE_V6]).unwrap_err();
    let mut sourceless = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .avoid_as_source(SourceAvoidance::AddressLabel)
        .open()
        .unwrap();
    sourceless.assign(vips_v6(1)).unwrap_err();
    assert_eq!(label_writes(), before);
    // The control: a VIP that is added.
    assert_eq!(manager.assign(vips_v6(1)).unwrap().assigned, 1);
    assert_eq!(label_writes(), before + 1);
}

#[test]
fn existing_address_keeps_its_preferred_lifetime() {
    let net = node_on_lo();
    let set = vips_v6(2);
    let (by_hand, added) = (set[0], set[1]);
    net.ip(&format!("addr add {by_hand}/128 dev {VIP_LINK} nodad"));
    net.wait_for_kernel();
    let mut manager = avoiding(SourceAvoidance::Deprecated);
    let report = manager.assign(&set).unwrap();
    assert_eq!((report.repaired, report.assigned), (1, 1), "{report}");
    // Neither the flags of an address that is there nor its lifetime are drift. Its prefix route is.
    let has_only_its_flags = |vip: IpAddr| {
        net.wrong_vips(&[vip], PROTO_KERNEL) == [format!("{vip}: address without noprefixroute")]
    };
    assert!(has_only_its_flags(by_hand));
    net.assert_single_route(&[added], PROTO_KERNEL);
    assert_eq!(preferred_lifetime(&net, by_hand), u32::MAX);
    assert_eq!(preferred_lifetime(&net, added), 0);
    assert_eq!(source_to(&net, NEAR_V6), by_hand);

    // And a deprecated one stays that when it is repaired: here of its prefix route.
    let bare = format!("addr change {added}/128 dev {VIP_LINK} nodad preferred_lft 0");
    net.ip(&bare);
    assert_eq!(manager.assign(&set).unwrap().repaired, 1);
    assert!(has_only_its_flags(by_hand) && has_only_its_flags(added));
    assert_eq!(preferred_lifetime(&net, added), 0);
    // Nor does another manager mind it.
    let report = builder().open().unwrap().assign(&set).unwrap();
    assert_eq!((report.unchanged, report.writes), (2, 0));
}

/// `cargo test --release --test source_choice -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for the documentation of SourceAvoidance::Deprecated"]
fn cost_of_deprecated_addresses() {
    for count in [1_000, 5_000, 10_000] {
        let mut best = [Duration::MAX; 3];
        for _ in 0..3 {
            for (best, avoidance) in best.iter_mut().zip([None, Some(BOTH[0]), Some(BOTH[1])]) {
                let _net = node_on_lo();
                let mut builder = builder();
                if let Some(avoidance) = avoidance {
                    builder = builder.avoid_as_source(avoidance);
                }
                let mut manager = builder.open().unwrap();
                let set = vips_v6(count);
                let began = Instant::now();
                assert_eq!(manager.assign(&set).unwrap().assigned, count);
                *best = (*best).min(began.elapsed());
            }
        }
        let [plain, label, deprecated] = best.map(|time| time.as_secs_f64() * 1e3);
        println!(
            "{count} IPv6 VIPs: plain {plain:.1} ms, labelled {label:.1} ms, deprecated \
             {deprecated:.1} ms ({:.2} times)",
            deprecated / plain
        );
    }

    let _net = node_on_lo();
    for builder in [builder(), builder().avoid_as_source(BOTH[0])] {
        let mut manager = builder.open().unwrap();
        let set = vips_v6(1);
        manager.assign(&set).unwrap();
        let began = Instant::now();
        for _ in 0..2_000 {
            assert_eq!(manager.assign(&set).unwrap().writes, 0);
        }
        println!(
            "one VIP that is right: {:.1?} a call",
            began.elapsed() / 2_000
        );
    }
}
