//! Encoding and decoding without a kernel. The templates give the bytes that netlink-packet-route
//! gives, and no input bytes cause more than an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK_TLVS, NLM_F_APPEND, NLM_F_CAPPED, NLM_F_CREATE, NLM_F_DUMP,
    NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage::{
    self, DelAddrLabel, DelAddress, DelRoute, GetAddrLabel, GetAddress, GetRoute, NewAddrLabel,
    NewAddress, NewRoute,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::addrlabel::{AddrLabelAttribute, AddrLabelMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteScope, RouteType,
};
use proptest::prelude::*;

use super::batch::{Batch, Response};
use super::decode::{Ack, Label, Malformed, Message, NLMSG_DONE, NLMSG_ERROR, messages};
use super::dump_cache::{Addresses, MessageMask, Routes};
use super::encode::*;
use crate::base::*;
use crate::fuzzing::wire;

const LINK: u32 = 7;
const SEQUENCE: u32 = 0xfedc_ba98;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn either<T>(of: Family, v4: T, v6: T) -> T {
    match of {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn vip(of: Family) -> IpAddr {
    addr(either(of, "10.96.0.10", "2001:db8:42::a"))
}

fn source(of: Family) -> IpAddr {
    addr(either(of, "192.0.2.10", "2001:db8::10"))
}

fn desired(family: Family) -> DesiredRoute {
    DesiredRoute {
        family,
        link: LINK,
        source: SourcePolicy::Address(source(family)),
        protocol: 2,
        staged: 251,
        address_protocol: None,
        deprecated: false,
    }
}

/// The bytes that netlink-packet-route writes for a whole message.
fn whole(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = SEQUENCE;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    // Behind another message, as in a batch.
    let mut bytes = vec![0xaa; 8];
    write(&mut bytes);
    bytes.split_off(8)
}

#[track_caller]
fn assert_written(write: impl FnOnce(&mut Vec<u8>, u32), message: RouteNetlinkMessage, flags: u16) {
    assert_eq!(written(|out| write(out, SEQUENCE)), whole(message, flags));
}

#[track_caller]
fn assert_template(template: &Template, of: Family, message: RouteNetlinkMessage, flags: u16) {
    assert_written(
        |out, sequence| template.push(out, sequence, &vip(of)),
        message,
        flags,
    );
}

fn family(of: Family) -> AddressFamily {
    either(of, AddressFamily::Inet, AddressFamily::Inet6)
}

fn address(of: Family, attributes: Vec<AddressAttribute>) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(of);
    message.header.prefix_len = of.host_bits();
    message.header.scope = either(of, AddressScope::Link, AddressScope::Universe);
    message.header.index = LINK;
    message.attributes = attributes;
    message
}

fn lifetime(valid: u32, preferred: u32, created: u32) -> AddressAttribute {
    let mut cache = CacheInfo::default();
    (cache.ifa_valid, cache.ifa_preferred) = (valid, preferred);
    cache.cstamp = created;
    AddressAttribute::CacheInfo(cache)
}

fn route(of: Family, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    message.header.destination_prefix_length = of.host_bits();
    message.header.table = 255;
    message.header.protocol = protocol.into();
    message.header.scope = either(of, RouteScope::Host, RouteScope::Universe);
    message.header.kind = RouteType::Local;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(vip(of))),
        RouteAttribute::PrefSource(RouteAddress::from(source(of))),
        RouteAttribute::Oif(LINK),
    ];
    if of == Family::V6 {
        message.attributes.push(RouteAttribute::Priority(1024));
    }
    message
}

#[test]
fn address_templates_match_netlink_packet_route() {
    for of in Family::ALL {
        let templates = Templates::new(&desired(of));
        let local = AddressAttribute::Local(vip(of));
        let flags = AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute);
        let attributes = either(of, vec![local.clone()], vec![local.clone(), flags]);
        let add = NewAddress(address(of, attributes));
        assert_template(&templates.add_address, of, add, NLM_F_CREATE | NLM_F_EXCL);
        let peer = AddressAttribute::Address(vip(of));
        let delete = DelAddress(address(of, vec![local, peer]));
        assert_template(&templates.delete_address, of, delete, 0);
    }
}

#[test]
fn deprecated_address_is_valid_for_ever() {
    let of = Family::V6;
    let deprecated = |family| {
        Templates::new(&DesiredRoute {
            deprecated: true,
            ..desired(family)
        })
        .add_address
    };
    let attributes = vec![
        AddressAttribute::Local(vip(of)),
        AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
        lifetime(u32::MAX, 0, 0),
    ];
    let add = NewAddress(address(of, attributes));
    assert_template(&deprecated(of), of, add, NLM_F_CREATE | NLM_F_EXCL);
    // An IPv4 address is never deprecated.
    let (of, plain) = (Family::V4, Templates::new(&desired(Family::V4)).add_address);
    assert_eq!(
        written(|out| deprecated(of).push(out, SEQUENCE, &vip(of))),
        written(|out| plain.push(out, SEQUENCE, &vip(of)))
    );
}

fn label() -> AddrLabelMessage {
    let mut message = AddrLabelMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 7;
    message.header.index = LINK;
    message.attributes = vec![
        AddrLabelAttribute::Address(addr("fc00::")),
        AddrLabelAttribute::Label(99),
    ];
    message
}

#[test]
fn labels_are_written_and_read() {
    let entry = Label {
        prefix: "fc00::/7".parse().unwrap(),
        link: LINK,
        label: 99,
    };
    let bytes = whole(NewAddrLabel(label()), NLM_F_CREATE | NLM_F_EXCL);
    let message = |kind| written(|out| label_message(out, SEQUENCE, kind, &entry));
    assert_eq!(message(libc::RTM_NEWADDRLABEL), bytes);
    assert_eq!(only(&bytes).label(), Ok(Some(entry)));
    assert_eq!(
        message(libc::RTM_DELADDRLABEL),
        whole(DelAddrLabel(label()), 0)
    );
    let mut all = AddrLabelMessage::default();
    all.header.family = AddressFamily::Inet6;
    assert_written(dump_labels, GetAddrLabel(all), NLM_F_DUMP);
    // A prefix longer than an address, an address of the other family's length, no label.
    let damages: [fn(&mut AddrLabelMessage); 3] = [
        |message| message.header.prefix_len = 129,
        |message| message.attributes[0] = AddrLabelAttribute::Address(addr("192.0.2.1")),
        |message| message.attributes.truncate(1),
    ];
    for damage in damages {
        let mut message = label();
        damage(&mut message);
        let bytes = whole(NewAddrLabel(message), 0);
        assert_eq!(only(&bytes).label(), Err(Malformed));
    }
    let mut other = label();
    other.header.family = AddressFamily::Inet;
    let bytes = whole(NewAddrLabel(other), 0);
    assert_eq!(only(&bytes).label(), Ok(None));
}

#[test]
fn update_changes_only_the_lifetime() {
    let (join, no_prefix_route) = (AddressFlags::Mcautojoin, AddressFlags::Noprefixroute);
    for (of, deprecated, flags) in [
        (Family::V4, true, join),
        (Family::V6, false, join | no_prefix_route),
    ] {
        let keep = AddressAttrs {
            flags: crate::base::IFA_F_MCAUTOJOIN,
            end: source(of),
            expires: true,
            deprecated,
            protocol: Some(77),
            rt_priority: Some(5),
        };
        let preferred = if deprecated { 0 } else { u32::MAX };
        let attributes = vec![
            AddressAttribute::Local(vip(of)),
            AddressAttribute::Address(source(of)),
            AddressAttribute::Flags(flags),
            lifetime(u32::MAX, preferred, 0),
            AddressAttribute::Protocol(AddressProtocol::from(77)),
            AddressAttribute::RoutePriority(5),
        ];
        let templates = Templates::new(&desired(of));
        assert_written(
            |out, sequence| templates.push_update_address(out, sequence, &vip(of), &keep),
            NewAddress(address(of, attributes)),
            NLM_F_REPLACE,
        );
    }
}

#[test]
fn route_templates_match_netlink_packet_route() {
    for of in Family::ALL {
        let t = Templates::new(&desired(of));
        let (create, replace) = (NLM_F_CREATE, NLM_F_REPLACE);
        for (template, protocol, flags) in [
            (&t.add_route, 2, create | NLM_F_EXCL),
            (&t.add_staged, 251, create | NLM_F_EXCL),
            (&t.replace_route, 2, create | replace),
            (&t.replace_staged, 251, create | replace),
            (&t.append_route, 2, create | NLM_F_APPEND),
        ] {
            assert_template(template, of, NewRoute(route(of, protocol)), flags);
        }
    }
}

/// The manager's own protocol does not matter.
#[test]
fn kernel_source_ipv4_route_equals_the_kernels() {
    let of = Family::V4;
    let templates = Templates::new(&DesiredRoute {
        source: SourcePolicy::Kernel,
        protocol: 201,
        ..desired(of)
    });
    let mut message = route(of, 2);
    message.attributes[1] = RouteAttribute::PrefSource(RouteAddress::from(vip(of)));
    for (template, flags) in [
        (&templates.add_route, NLM_F_CREATE | NLM_F_EXCL),
        (&templates.replace_route, NLM_F_CREATE | NLM_F_REPLACE),
    ] {
        assert_template(template, of, NewRoute(message.clone()), flags);
    }
}

#[test]
fn deletion_names_table_metric_protocol_and_device() {
    for of in Family::ALL {
        let key = RouteKey {
            table: 1000,
            metric: 300,
            protocol: 186,
            kind: libc::RTN_UNICAST,
            tos: 4,
            prefsrc: Some(source(of)),
        };
        let mut message = route(of, 186);
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unicast;
        message.header.tos = 4;
        message.header.table = 0;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::from(vip(of))),
            RouteAttribute::Oif(LINK),
            RouteAttribute::Table(1000),
            RouteAttribute::Priority(300),
        ];
        if of == Family::V4 {
            let source = RouteAttribute::PrefSource(RouteAddress::from(source(of)));
            message.attributes.push(source);
        }
        let templates = Templates::new(&desired(of));
        assert_written(
            |out, sequence| templates.push_delete_route(out, sequence, &vip(of), &key),
            DelRoute(message),
            0,
        );
        // Protocol 0 would match any protocol.
        assert_ne!(desired_key(&desired(of)).protocol, 0);
        assert_eq!(kernel_key(&vip(of)).protocol, libc::RTPROT_KERNEL);
    }
}

#[test]
fn requests_set_only_the_needed_fields() {
    for of in Family::ALL {
        let mut header = RouteMessage::default();
        header.header.address_family = family(of);

        let mut look_up = header.clone();
        look_up.header.destination_prefix_length = of.host_bits();
        let fib_match = RouteFlags::FibMatch;
        look_up.header.flags = either(of, fib_match | RouteFlags::LookupTable, fib_match);
        look_up.attributes = vec![RouteAttribute::Destination(RouteAddress::from(vip(of)))];
        let templates = Templates::new(&desired(of));
        assert_template(&templates.look_up, of, GetRoute(look_up.clone()), 0);
        assert_written(
            |out, sequence| look_up_message(out, sequence, &vip(of)),
            GetRoute(look_up),
            0,
        );

        let mut routes = header.clone();
        routes.attributes = vec![RouteAttribute::Table(255)];
        for link in [None, Some(LINK)] {
            routes.attributes.extend(link.map(RouteAttribute::Oif));
            assert_written(
                |out, sequence| dump_routes(out, sequence, of, Some(255), link),
                GetRoute(routes.clone()),
                NLM_F_DUMP,
            );
        }

        let mut addresses = AddressMessage::default();
        addresses.header.family = family(of);
        let mut one = addresses.clone();
        addresses.header.index = LINK;
        assert_written(
            |out, sequence| dump_addresses(out, sequence, of, LINK),
            GetAddress(addresses),
            NLM_F_DUMP,
        );
        one.attributes = vec![AddressAttribute::Address(vip(of))];
        assert_written(
            |out, sequence| get_address_message(out, sequence, &vip(of), 0),
            GetAddress(one),
            0,
        );
    }
}

#[test]
fn request_ack_changes_only_the_flag() {
    let templates = Templates::new(&desired(Family::V6));
    let mut bytes = Vec::new();
    templates
        .add_route
        .push(&mut bytes, SEQUENCE, &vip(Family::V6));
    let at = bytes.len();
    templates
        .add_route
        .push(&mut bytes, SEQUENCE + 1, &vip(Family::V6));
    let before = bytes.clone();
    request_ack(&mut bytes, at);
    let changed: Vec<usize> = (0..bytes.len())
        .filter(|i| bytes[*i] != before[*i])
        .collect();
    assert_eq!(changed, [at + 6]);
    let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes[at..]).unwrap();
    assert_eq!(
        parsed.header.flags,
        NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | 4
    );
}

/// The one message of a datagram.
fn only(datagram: &[u8]) -> Message<'_> {
    let mut all = messages(datagram);
    let message = all.next().unwrap().unwrap();
    assert!(all.next().is_none());
    message
}

#[test]
fn routes_are_read() {
    for of in Family::ALL {
        let bytes = whole(NewRoute(route(of, 201)), 0);
        let message = only(&bytes);
        assert_eq!(
            (message.kind, message.sequence),
            (libc::RTM_NEWROUTE, SEQUENCE)
        );
        let read = message.route().unwrap().unwrap();
        assert_eq!(read.family, of);
        assert_eq!(read.host(), Some(vip(of)));
        assert_eq!(
            (read.table, read.protocol, read.kind),
            (255, 201, libc::RTN_LOCAL)
        );
        assert_eq!((read.link, read.prefsrc), (Some(LINK), Some(source(of))));
        assert_eq!(read.metric, if of == Family::V6 { 1024 } else { 0 });
        assert!(!read.indirect && !read.cloned);

        // RTA_TABLE overrides the byte of the header. A shorter prefix is no host.
        let mut other = route(of, 2);
        other.header.destination_prefix_length = 24;
        other.attributes.push(RouteAttribute::Table(1_000_000));
        let bytes = whole(NewRoute(other), 0);
        let read = only(&bytes).route().unwrap().unwrap();
        assert_eq!((read.table, read.host()), (1_000_000, None));

        // Routes that this crate never adds.
        let indirect = [
            RouteAttribute::Gateway(RouteAddress::from(source(of))),
            RouteAttribute::MultiPath(vec![RouteNextHop::default()]),
            RouteAttribute::NhId(9),
        ];
        for attribute in indirect {
            let mut other = route(of, 2);
            other.attributes.push(attribute);
            let bytes = whole(NewRoute(other), 0);
            assert!(only(&bytes).route().unwrap().unwrap().indirect);
        }
    }
    // Another family (here MPLS) is ignored, not an error.
    let mut bytes = whole(NewRoute(route(Family::V4, 2)), 0);
    bytes[HEADER] = 28;
    assert_eq!(only(&bytes).route(), Ok(None));
}

#[test]
fn addresses_are_read() {
    for of in Family::ALL {
        let attributes = vec![
            AddressAttribute::Address(source(of)),
            AddressAttribute::Local(vip(of)),
            AddressAttribute::Flags(AddressFlags::Noprefixroute | AddressFlags::Tentative),
            lifetime(100, 50, 4242),
            AddressAttribute::Protocol(AddressProtocol::from(3)),
            AddressAttribute::Label("kube-dummy-if".into()),
        ];
        let bytes = whole(NewAddress(address(of, attributes)), 0);
        let read = only(&bytes).address().unwrap().unwrap();
        // With a peer, IFA_LOCAL is the address.
        assert_eq!(read.addr, vip(of));
        assert_eq!((read.link, read.prefix_length), (LINK, of.host_bits()));
        assert_eq!(read.flags, 0x240);
        assert_eq!((read.valid, read.preferred, read.created), (100, 50, 4242));
        assert_eq!(read.protocol, Some(3));
    }
    // IPv6 has only IFA_ADDRESS.
    let attributes = vec![AddressAttribute::Address(vip(Family::V6))];
    let bytes = whole(NewAddress(address(Family::V6, attributes)), 0);
    assert_eq!(
        only(&bytes).address().unwrap().unwrap().addr,
        vip(Family::V6)
    );
    // A message without an address is malformed.
    let bytes = whole(NewAddress(address(Family::V6, Vec::new())), 0);
    assert_eq!(only(&bytes).address(), Err(Malformed));
}

/// An NLMSG_ERROR in the kernel's form (`netlink_ack`, net/netlink/af_netlink.c).
fn error_reply(kind: u16, flags: u16, code: i32, echoed: &[u8], text: Option<&str>) -> Vec<u8> {
    let mut body = code.to_ne_bytes().to_vec();
    body.extend_from_slice(echoed);
    if let Some(text) = text {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        for nla in [DefaultNla::new(2, vec![9; 4]), DefaultNla::new(1, value)] {
            let at = body.len();
            body.resize(at + nla.buffer_len(), 0);
            nla.emit(&mut body[at..]);
        }
    }
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&SEQUENCE.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(body);
    bytes
}

#[test]
fn acks_and_refusals_are_read_with_the_kernels_text() {
    let request = whole(NewRoute(route(Family::V6, 2)), 0);
    let capped = &request[..HEADER];
    let tlvs = NLM_F_ACK_TLVS;
    let prefsrc = Some("Invalid prefsrc");
    for (kind, flags, code, echoed, text) in [
        (NLMSG_ERROR, NLM_F_CAPPED, 0, capped, None),
        (NLMSG_ERROR, NLM_F_CAPPED, -17, capped, None),
        (NLMSG_ERROR, NLM_F_CAPPED | tlvs, -22, capped, prefsrc),
        // Not capped: the whole request is echoed before the attributes.
        (NLMSG_ERROR, tlvs, -22, &request, Some("no")),
        (NLMSG_DONE, tlvs, -95, &[], Some("not here")),
        (NLMSG_DONE, 0, 0, &[], None),
    ] {
        let bytes = error_reply(kind, flags, code, echoed, text);
        let errno = -code;
        assert_eq!(only(&bytes).ack(), Ok(Ack { errno, text }));
    }
    // `i32::MIN` has no positive counterpart, so it is no error number.
    let bytes = error_reply(NLMSG_ERROR, NLM_F_CAPPED, i32::MIN, capped, None);
    assert_eq!(only(&bytes).ack(), Err(Malformed));
}

/// The refusal to delete a missing route is distinguished from other refusals.
#[test]
fn batch_distinguishes_an_absent_route_from_other_refusals() {
    for (errno, response) in [
        (libc::ESRCH, Response::Absent),
        (libc::ENOENT, Response::Refused),
        (libc::ENOMEM, Response::Refused),
        (0, Response::Acked),
    ] {
        let mut batch = Batch::default();
        batch.begin(SEQUENCE);
        batch.push(0, dump_labels);
        let mut sealed = batch.seal();
        let bytes = error_reply(NLMSG_ERROR, NLM_F_CAPPED, -errno, &[0; HEADER], None);
        assert_eq!(sealed.reply(&only(&bytes)).is_some(), errno != 0);
        assert!(sealed.is_complete());
        assert_eq!(sealed.entries()[0].response, response, "{errno}");
    }
}

/// A late reply to the message before the batch, or to one behind it, is no reply to a message of the batch.
#[test]
fn batch_ignores_replies_to_other_messages() {
    let mut batch = Batch::default();
    batch.begin(SEQUENCE);
    (0..2).for_each(|tag| batch.push(tag, dump_labels));
    let mut sealed = batch.seal();
    for sequence in [SEQUENCE - 1, SEQUENCE - 2, SEQUENCE + 2] {
        for errno in [0, -libc::ENODEV] {
            let mut bytes = vec![0; 36];
            bytes[..4].copy_from_slice(&36_u32.to_ne_bytes());
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
            bytes[16..20].copy_from_slice(&errno.to_ne_bytes());
            assert_eq!(sealed.reply(&only(&bytes)), None, "{sequence}");
        }
    }
    assert!(!sealed.is_complete());
    let are_acked = (sealed.entries().iter()).all(|entry| entry.response == Response::Acked);
    assert!(are_acked);
}

/// A message of a dump, of a given kind and for a given host.
fn dump_message(kind: usize, host: u8) -> Vec<u8> {
    let of = Family::ALL[kind % 2];
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, host.into());
    let host = either(of, IpAddr::from([10, 96, 0, host]), v6.into());
    let times = lifetime(0, 0, u32::from(kind > 5) * 4242);
    let message = match kind / 2 {
        0 | 1 => {
            let mut route = route(of, if kind / 2 == 0 { 2 } else { 4 });
            route.attributes[0] = RouteAttribute::Destination(RouteAddress::from(host));
            NewRoute(route)
        }
        2 => NewAddress(address(of, vec![AddressAttribute::Address(host), times])),
        _ => NewAddress(address(
            of,
            vec![
                AddressAttribute::Address(source(of)),
                AddressAttribute::Local(host),
                AddressAttribute::Label("kube-dummy-if".into()),
                times,
            ],
        )),
    };
    whole(message, 0)
}

#[test]
fn repeated_messages_are_read_by_comparison() {
    for kind in 0..8 {
        let (mut routes, mut addresses) = (Routes::default(), Addresses::default());
        for host in 0..9 {
            let bytes = dump_message(kind, host);
            let message = only(&bytes);
            let (fits, is_as_parsed) = if kind < 4 {
                let fits = fits(&routes.mask, &message);
                let read = routes.read(&message).unwrap().copied();
                (fits, read == message.route().unwrap())
            } else {
                let fits = fits(&addresses.mask, &message);
                let read = addresses.read(&message).unwrap().copied();
                (fits, read == message.address().unwrap())
            };
            assert!(is_as_parsed, "kind {kind}, host {host}");
            assert_eq!(fits, host > 1, "kind {kind}, host {host}");
        }
    }
}

/// Whether this message is read by comparison.
fn fits<const N: usize>(mask: &MessageMask<N>, message: &Message<'_>) -> bool {
    mask.values(message.payload()).is_some()
}

/// One address may have a peer, and the next none.
#[test]
fn peer_is_read_by_comparison() {
    for of in Family::ALL {
        let mut addresses = Addresses::default();
        for (at, has_peer) in [false, false, true, false, true, true]
            .into_iter()
            .enumerate()
        {
            let end = if has_peer { source(of) } else { vip(of) };
            let both = [
                AddressAttribute::Address(end),
                AddressAttribute::Local(vip(of)),
            ];
            let message = NewAddress(address(of, both.into()));
            let bytes = whole(message, 0);
            let message = only(&bytes);
            assert_eq!(fits(&addresses.mask, &message), at > 1);
            let read = addresses.read(&message).unwrap().copied().unwrap();
            assert_eq!(read, message.address().unwrap().unwrap());
            assert_eq!((read.addr, read.peer), (vip(of), has_peer.then_some(end)));
        }
    }
}

/// Of a repeated attribute the last one counts, in this message and in the ones like it.
#[test]
fn message_with_a_repeated_attribute_is_parsed() {
    for of in Family::ALL {
        let mut routes = Routes::default();
        for host in 0..4 {
            let other = either(of, IpAddr::from([10, 96, 1, host]), source(of));
            let mut route = route(of, 2);
            let destination = |to| RouteAttribute::Destination(RouteAddress::from(to));
            route.attributes[0] = destination(other);
            route.attributes.push(destination(vip(of)));
            let bytes = whole(NewRoute(route), 0);
            let message = only(&bytes);
            let read = routes.read(&message).unwrap().copied();
            assert_eq!(read, message.route().unwrap(), "{of:?}, {host}");
            assert!(!fits(&routes.mask, &message), "{of:?}, {host}");
        }
    }
}

/// A default route has no destination. An interrupted dump may repeat it.
#[test]
fn repeated_default_route_is_read() {
    for of in Family::ALL {
        let mut route = route(of, 3);
        route.attributes.remove(0);
        let bytes = whole(NewRoute(route), 0);
        let message = only(&bytes);
        let mut routes = Routes::default();
        for _ in 0..4 {
            let read = routes.read(&message).map(Option::<&_>::copied);
            assert_eq!(read, message.route());
            assert_eq!(read.unwrap().unwrap().destination, None);
        }
    }
}

fn datagram() -> Vec<u8> {
    let mut bytes = whole(NewRoute(route(Family::V6, 2)), 0);
    let attributes = vec![
        AddressAttribute::Local(vip(Family::V4)),
        AddressAttribute::Label("kube-dummy-if".into()),
    ];
    bytes.extend(whole(NewAddress(address(Family::V4, attributes)), 0));
    let text = Some("Invalid source address");
    let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    let reply = error_reply(NLMSG_ERROR, flags, -22, &bytes[..HEADER], text);
    bytes.extend(reply);
    bytes.extend(whole(NewAddrLabel(label()), 0));
    bytes
}

#[test]
fn truncated_input_is_an_error_never_a_panic() {
    let bytes = datagram();
    wire(&bytes);
    assert_eq!(messages(&bytes).filter(Result::is_ok).count(), 4);
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        let whole = messages(cut).filter(Result::is_ok).count();
        assert!(
            whole < 4,
            "a datagram cut at {length} of {} read as whole",
            bytes.len()
        );
        wire(cut);
    }
}

#[test]
fn message_shorter_than_its_header_ends_the_datagram() {
    let mut bytes = datagram();
    bytes[..4].copy_from_slice(&4_u32.to_ne_bytes());
    let all: Vec<_> = messages(&bytes).map(|message| message.is_ok()).collect();
    assert_eq!(all, [false]);
}

#[test]
fn wrong_attribute_lengths_are_malformed() {
    // An attribute that claims to be longer than its message.
    let mut bytes = whole(NewRoute(route(Family::V4, 2)), 0);
    let first_attribute = HEADER + RTMSG;
    bytes[first_attribute..first_attribute + 2].copy_from_slice(&500_u16.to_ne_bytes());
    assert_eq!(only(&bytes).route(), Err(Malformed));
    // A destination of the other family's length.
    let mut bytes = whole(NewRoute(route(Family::V4, 2)), 0);
    bytes[HEADER] = u8::try_from(libc::AF_INET6).unwrap();
    assert_eq!(only(&bytes).route(), Err(Malformed));
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        wire(&bytes);
    }

    #[test]
    fn no_damage_causes_a_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut bytes = datagram();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        wire(&bytes);
    }

    /// Any messages in any order, also malformed ones.
    #[test]
    fn dump_cache_agrees_with_the_parser(
        dumped in proptest::collection::vec(
            (0..8_usize, any::<u8>(), proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()))),
            1..20,
        ),
        times in 1..4_usize,
    ) {
        let mut datagram = Vec::new();
        for (kind, host, damage) in dumped {
            for time in 0..times {
                let mut bytes = dump_message(kind, host.wrapping_add(u8::try_from(time).unwrap()));
                if let Some((at, byte)) = damage {
                    let at = HEADER + at.index(bytes.len() - HEADER);
                    bytes[at] = byte;
                }
                datagram.extend(bytes);
            }
        }
        wire(&datagram);
    }

    #[test]
    fn every_vip_is_written_completely(v4 in any::<u32>(), v6 in any::<u128>(), sequence in any::<u32>()) {
        for vip in [IpAddr::from(Ipv4Addr::from(v4)), IpAddr::from(Ipv6Addr::from(v6))] {
            let templates = Templates::new(&desired(Family::of(&vip)));
            let bytes = written(|out| templates.replace_route.push(out, sequence, &vip));
            let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            prop_assert_eq!(parsed.header.sequence_number, sequence);
            let NetlinkPayload::InnerMessage(NewRoute(route)) = parsed.payload
            else {
                return Err(TestCaseError::fail("not a new route"));
            };
            let mut expected = self::route(Family::of(&vip), 2);
            expected.attributes[0] = RouteAttribute::Destination(RouteAddress::from(vip));
            prop_assert_eq!(route, expected);
        }
    }
}
