//! The floor: what the kernel itself costs. The messages are encoded before the clock starts, 256
//! go in one send, one ack is asked for per send, and nothing is checked that need not be.
//!
//! It is meant to be read. It does the same kernel operations as the library, in the best order
//! known, and where two ways are open both are here and the cheaper one is the floor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::source;

/// Messages in one send.
pub const BATCH: usize = 256;

/// Lengths and places in a netlink message (linux/netlink.h).
const HEADER: usize = 16;
const KIND_AT: usize = 4;
const FLAGS_AT: usize = 6;
const SEQUENCE_AT: usize = 8;
/// The place of the protocol in `struct rtmsg` (linux/rtnetlink.h).
const PROTOCOL_AT: usize = 5;
const NLMSG_ERROR: u16 = 2;

const TABLE_LOCAL: u8 = 255;

/// Messages for the kernel, ready to be sent.
#[derive(Default)]
pub struct Messages {
    sends: Vec<Send>,
}

/// Messages of one send: their sequence numbers are their places, the last one asks for an ack.
#[derive(Clone, Default)]
struct Send {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Messages {
    /// Encodes messages.
    pub fn encode(messages: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>) -> Self {
        let mut sends: Vec<Send> = Vec::new();
        for (message, flags) in messages {
            if sends.last().is_none_or(|send| send.starts.len() == BATCH) {
                sends.push(Send::default());
            }
            let send = sends.last_mut().unwrap();
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | flags;
            message.header.sequence_number = u32::try_from(send.starts.len()).unwrap();
            message.finalize();
            let at = send.bytes.len();
            send.starts.push(at);
            send.bytes.resize(at + message.buffer_len(), 0);
            message.serialize(&mut send.bytes[at..]);
        }
        for send in &mut sends {
            send.ask_for_ack();
        }
        Self { sends }
    }
}

impl Send {
    fn ask_for_ack(&mut self) {
        // The low byte of the flags has it, whatever the byte order.
        let at = self.starts.last().unwrap() + FLAGS_AT;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The message at this place.
    fn message(&self, place: usize) -> &[u8] {
        let end = self.starts.get(place + 1).copied();
        &self.bytes[self.starts[place]..end.unwrap_or(self.bytes.len())]
    }
}

pub fn family(of: &IpAddr) -> AddressFamily {
    match of {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn bits(of: &IpAddr) -> u8 {
    match of {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn address(link: u32, vip: &IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(vip);
    message.header.prefix_len = bits(vip);
    message.header.index = link;
    message.attributes = vec![AddressAttribute::Local(*vip)];
    message
}

pub fn add_address(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut message = address(link, vip);
    if vip.is_ipv4() {
        message.header.scope = AddressScope::Link;
    } else {
        message.attributes.push(AddressAttribute::Flags(
            AddressFlags::Nodad | AddressFlags::Noprefixroute,
        ));
    }
    (
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// An address without any flag, as who knows of none adds it.
pub fn plain_address(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut message = address(link, vip);
    message.header.scope = AddressScope::Link;
    (
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// The same without duplicate address detection.
pub fn plain_nodad_address(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut plain = plain_address(link, vip);
    if let (RouteNetlinkMessage::NewAddress(address), true) = (&mut plain.0, vip.is_ipv6()) {
        let quick = AddressAttribute::Flags(AddressFlags::Nodad);
        address.attributes.push(quick);
    }
    plain
}

pub fn delete_address(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let message = address(link, vip);
    (RouteNetlinkMessage::DelAddress(message), 0)
}

fn route(link: u32, vip: &IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(vip);
    message.header.destination_prefix_length = bits(vip);
    message.header.table = TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Kernel;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(*vip)),
        RouteAttribute::Oif(link),
    ];
    message
}

/// The desired route, to be added with these flags.
pub fn wanted_route(link: u32, vip: &IpAddr, flags: u16) -> (RouteNetlinkMessage, u16) {
    let mut message = route(link, vip);
    message
        .attributes
        .push(RouteAttribute::PrefSource(RouteAddress::from(source(vip))));
    if vip.is_ipv6() {
        message.attributes.push(RouteAttribute::Priority(1024));
    }
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | flags)
}

pub fn add_route(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    wanted_route(link, vip, NLM_F_EXCL)
}

/// The desired route under another protocol, in the place of the desired route.
pub fn staged_route(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut staged = wanted_route(link, vip, NLM_F_REPLACE);
    if let RouteNetlinkMessage::NewRoute(route) = &mut staged.0 {
        route.header.protocol = RouteProtocol::Static;
    }
    staged
}

/// Deletes the desired route.
pub fn delete_route(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let (RouteNetlinkMessage::NewRoute(message), _) = wanted_route(link, vip, 0) else {
        unreachable!()
    };
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// Deletes the kernel's own route: in IPv4 the route whose source is the VIP, in IPv6 the one
/// with the lowest metric.
pub fn delete_kernels(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut message = route(link, vip);
    if vip.is_ipv4() {
        let source = RouteAttribute::PrefSource(RouteAddress::from(*vip));
        message.attributes.push(source);
    }
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// A route of another link in table main: what a node has besides.
pub fn other_route(link: u32, to: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut message = route(link, to);
    message.header.table = 254;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Link;
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE)
}

/// Fresh VIPs, IPv4, one after the other: address, the desired route behind the kernel's, the kernel's
/// away.
pub fn assign_v4_append(link: u32, vips: &[IpAddr]) -> Messages {
    Messages::encode(vips.iter().flat_map(|vip| {
        [
            add_address(link, vip),
            wanted_route(link, vip, NLM_F_APPEND),
            delete_kernels(link, vip),
        ]
    }))
}

/// Fresh VIPs, IPv4, one after the other: address, the desired route in the place of the kernel's route.
///
/// One message less. The library does not do it: it would take the place of another device's route
/// that came in between.
pub fn assign_v4_replace(link: u32, vips: &[IpAddr]) -> Messages {
    Messages::encode(vips.iter().flat_map(|vip| {
        [
            add_address(link, vip),
            wanted_route(link, vip, NLM_F_REPLACE),
        ]
    }))
}

/// Fresh VIPs, IPv6.
pub struct AssignV6 {
    addresses: Messages,
    deletions: Messages,
    routes: Messages,
}

impl AssignV6 {
    pub fn encode(link: u32, vips: &[IpAddr]) -> Self {
        Self {
            addresses: Messages::encode(vips.iter().map(|vip| add_address(link, vip))),
            deletions: Messages::encode(vips.iter().map(|vip| delete_kernels(link, vip))),
            routes: Messages::encode(vips.iter().map(|vip| add_route(link, vip))),
        }
    }

    /// All addresses; then, send by send, deletes the kernel's routes and adds the desired ones.
    pub fn addresses_first(&self, floor: &mut Floor) {
        floor.send(&self.addresses);
        for (deletions, routes) in self.deletions.sends.iter().zip(&self.routes.sends) {
            floor.delete_when_there(deletions);
            floor.send_one(routes);
        }
    }

    /// Send by send: addresses, deletions of the kernel's routes, the desired routes.
    pub fn send_by_send(&self, floor: &mut Floor) {
        let all = self.addresses.sends.iter();
        for (addresses, (deletions, routes)) in
            all.zip(self.deletions.sends.iter().zip(&self.routes.sends))
        {
            floor.send_one(addresses);
            floor.delete_when_there(deletions);
            floor.send_one(routes);
        }
    }
}

/// The desired routes, and no addresses.
pub fn assign_route_only(link: u32, vips: &[IpAddr]) -> Messages {
    Messages::encode(vips.iter().map(|vip| add_route(link, vip)))
}

/// VIPs as kube-router before 2.6 leaves them: address and replaced route, one by one. In IPv6 the
/// kernel's prefix route is there too, and its local route will be.
///
/// But without duplicate address detection, which ends the same and takes the kernel ten times as
/// long.
pub fn as_kube_router_leaves(link: u32, vips: &[IpAddr]) -> Messages {
    Messages::encode(vips.iter().flat_map(|vip| {
        let route = wanted_route(link, vip, NLM_F_REPLACE);
        [plain_nodad_address(link, vip), route]
    }))
}

/// Deletes the prefix route that the kernel made for an IPv6 address.
pub fn delete_prefix_route(link: u32, vip: &IpAddr) -> (RouteNetlinkMessage, u16) {
    let mut message = route(link, vip);
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Priority(256));
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// Repairs IPv6 VIPs with prefix routes by the fewest messages.
///
/// The library does not do it: if the kernel's route had gone, the deletion would take the
/// desired one.
pub fn heal_v6(link: u32, vips: &[IpAddr]) -> Messages {
    Messages::encode(
        vips.iter()
            .flat_map(|vip| [delete_kernels(link, vip), delete_prefix_route(link, vip)]),
    )
}

/// Repairs them by messages that cannot hit the wrong route: the desired route has another protocol while
/// the kernel's is deleted. By routes alone: to set NOPREFIXROUTE deletes the prefix route, too, but walks
/// all addresses of the link and of the namespace for each VIP.
pub fn heal_v6_safely(link: u32, vips: &[IpAddr]) -> Messages {
    Messages::encode(vips.iter().flat_map(|vip| {
        [
            staged_route(link, vip),
            delete_kernels(link, vip),
            wanted_route(link, vip, NLM_F_REPLACE),
            delete_prefix_route(link, vip),
        ]
    }))
}

/// Releases VIPs that were assigned in this order: all routes, then the addresses from the head of
/// the kernel's list, which in IPv6 are the newest.
pub fn release(link: u32, vips: &[IpAddr]) -> Messages {
    let routes = vips.iter().map(|vip| delete_route(link, vip));
    let mut head_first: Vec<_> = vips.iter().collect();
    if vips[0].is_ipv6() {
        head_first.reverse();
    }
    let addresses = head_first.into_iter().map(|vip| delete_address(link, vip));
    Messages::encode(routes.chain(addresses))
}

/// The same from the tail of the kernel's list.
pub fn release_tail_first(link: u32, vips: &[IpAddr]) -> Messages {
    let routes = vips.iter().map(|vip| delete_route(link, vip));
    let mut tail_first: Vec<_> = vips.iter().collect();
    if vips[0].is_ipv4() {
        tail_first.reverse();
    }
    let addresses = tail_first.into_iter().map(|vip| delete_address(link, vip));
    Messages::encode(routes.chain(addresses))
}

/// Requests for what a look at the link reads of both families: its addresses, and its routes in
/// table local.
pub fn dumps(link: u32) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut addresses = AddressMessage::default();
        addresses.header.family = family;
        addresses.header.index = link;
        let addresses = RouteNetlinkMessage::GetAddress(addresses);
        requests.push(request(addresses, NLM_F_DUMP));
        requests.push(dump_of_local_routes(link, family));
    }
    requests
}

/// Asks for the link's routes in table local.
pub fn dump_of_local_routes(link: u32, family: AddressFamily) -> Vec<u8> {
    dump_of_routes(TABLE_LOCAL, Some(link), family)
}

/// Asks for the routes in a table, of one link or of all.
pub fn dump_of_routes(table: u8, link: Option<u32>, family: AddressFamily) -> Vec<u8> {
    let mut routes = RouteMessage::default();
    routes.header.address_family = family;
    routes.attributes = vec![RouteAttribute::Table(table.into())];
    routes.attributes.extend(link.map(RouteAttribute::Oif));
    request(RouteNetlinkMessage::GetRoute(routes), NLM_F_DUMP)
}

/// Asks for every IPv6 route of the node.
pub fn dump_of_all_routes() -> Vec<u8> {
    let mut routes = RouteMessage::default();
    routes.header.address_family = AddressFamily::Inet6;
    request(RouteNetlinkMessage::GetRoute(routes), NLM_F_DUMP)
}

/// One message by itself, with its flags.
fn request(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The messages of a dump that are routes.
pub fn routes(dump: &[u8]) -> impl Iterator<Item = &[u8]> {
    messages(dump).filter(|message| kind_of(message) == libc::RTM_NEWROUTE)
}

/// All messages.
pub fn messages(datagrams: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagrams;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().unwrap()) as usize;
        let message = &rest[..length];
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(message)
    })
}

/// The kind of a message, say `RTM_NEWROUTE`.
pub fn kind_of(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[KIND_AT], message[KIND_AT + 1]])
}

/// The messages of a dump that are routes to this VIP.
pub fn routes_to<'d>(dump: &'d [u8], vip: &IpAddr) -> impl Iterator<Item = &'d [u8]> {
    routes(dump).filter(move |route| destination_of(route) == Some(*vip))
}

/// The destination of a route to a host.
pub fn destination_of(route: &[u8]) -> Option<IpAddr> {
    attribute(route, libc::RTA_DST)
}

/// Whether the route's protocol is `kernel`.
pub fn is_kernels(route: &[u8]) -> bool {
    route[HEADER + PROTOCOL_AT] == libc::RTPROT_KERNEL
}

/// The preferred source of that route.
pub fn source_of(route: &[u8]) -> Option<IpAddr> {
    attribute(route, libc::RTA_PREFSRC)
}

/// An attribute of a route message that is an address.
fn attribute(route: &[u8], kind: u16) -> Option<IpAddr> {
    let mut rest = route.get(HEADER + 12..)?;
    while !rest.is_empty() {
        let length = u16::from_ne_bytes([rest[0], rest[1]]) as usize;
        if u16::from_ne_bytes([rest[2], rest[3]]) == kind {
            return match &rest[4..length] {
                v4 if v4.len() == 4 => {
                    Some(Ipv4Addr::from(<[u8; 4]>::try_from(v4).unwrap()).into())
                }
                v6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(v6).unwrap()).into()),
            };
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    None
}

/// A socket, and room for replies.
pub struct Floor {
    socket: Socket,
    receive: Vec<u8>,
    /// Deletions that came too early.
    again: Send,
}

impl Floor {
    pub fn new() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.set_rx_buf_sz(1 << 20).unwrap();
        socket.set_cap_ack(true).unwrap();
        socket.set_netlink_get_strict_chk(true).unwrap();
        // The kernel answers inside of the send, so nothing ever waits.
        socket.set_non_blocking(true).unwrap();
        socket.bind_auto().unwrap();
        Self {
            socket,
            receive: vec![0; 64 * 1024],
            again: Send::default(),
        }
    }

    /// Sends messages, none of which may fail.
    pub fn send(&mut self, messages: &Messages) {
        for send in &messages.sends {
            self.send_one(send);
        }
    }

    /// Deletes the kernel's late routes, each as soon as it is there.
    pub fn delete_late(&mut self, messages: &Messages) {
        for send in &messages.sends {
            self.delete_when_there(send);
        }
    }

    fn send_one(&mut self, send: &Send) {
        self.write(&send.bytes);
        self.replies(send.starts.len(), |place, errno| {
            panic!("message {place} was refused: {errno}")
        });
    }

    /// Deletes the kernel's late routes: those that were not there yet, again, until they were.
    fn delete_when_there(&mut self, send: &Send) {
        self.write(&send.bytes);
        let mut again = std::mem::take(&mut self.again);
        let mut early = Vec::new();
        self.replies(send.starts.len(), |place, errno| {
            assert_eq!(errno, libc::ESRCH);
            early.push(place);
        });
        while !early.is_empty() {
            // Who puts the routes in needs the lock that each attempt takes, and a core.
            std::thread::yield_now();
            again.bytes.clear();
            again.starts.clear();
            for place in &early {
                again.starts.push(again.bytes.len());
                again.bytes.extend_from_slice(send.message(*place));
            }
            again.ask_for_ack();
            let places = std::mem::take(&mut early);
            self.write(&again.bytes);
            // The sequence numbers are still the places in `send`.
            self.replies(places[places.len() - 1] + 1, |place, errno| {
                assert_eq!(errno, libc::ESRCH);
                early.push(place);
            });
        }
        self.again = again;
    }

    fn write(&self, bytes: &[u8]) {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// Takes replies up to that of the message with the place `count - 1`.
    fn replies(&mut self, count: usize, mut refused: impl FnMut(usize, i32)) {
        loop {
            let length = self.socket.recv(&mut &mut self.receive[..], 0).unwrap();
            let mut rest = &self.receive[..length];
            while !rest.is_empty() {
                let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
                let kind = kind_of(rest);
                assert_eq!(kind, NLMSG_ERROR);
                let place = word(SEQUENCE_AT) as usize;
                let errno = word(HEADER).cast_signed().wrapping_neg();
                if errno != 0 {
                    refused(place, errno);
                }
                if place + 1 == count {
                    return;
                }
                rest = &rest[(word(0) as usize).next_multiple_of(4)..];
            }
        }
    }

    /// Reads a dump, and looks at nothing of it. Returns how many bytes it was.
    pub fn read(&mut self, request: &[u8]) -> usize {
        self.write(request);
        let mut total = 0;
        // The next part is there when one was received: nothing more means that it has ended.
        while let Ok(length) = self.socket.recv(&mut &mut self.receive[..], 0) {
            total += length;
        }
        total
    }

    /// The same, and keeps it.
    pub fn read_into(&mut self, request: &[u8], received: &mut Vec<u8>) {
        self.write(request);
        while let Ok(length) = self.socket.recv(&mut &mut self.receive[..], 0) {
            received.extend_from_slice(&self.receive[..length]);
        }
    }

    /// Sends one message by itself and waits for its ack.
    pub fn query(&mut self, message: &(RouteNetlinkMessage, u16)) -> Result<(), i32> {
        let (message, flags) = message;
        self.ask_bytes(&request(message.clone(), flags | NLM_F_ACK))
    }

    fn ask_bytes(&mut self, bytes: &[u8]) -> Result<(), i32> {
        self.write(bytes);
        let mut result = Ok(());
        self.replies(1, |_, errno| result = Err(errno));
        result
    }

    /// Deletes a route as a dump showed it.
    pub fn delete_as_told(&mut self, route: &[u8]) -> Result<(), i32> {
        let mut bytes = route.to_vec();
        bytes[KIND_AT..KIND_AT + 2].copy_from_slice(&libc::RTM_DELROUTE.to_ne_bytes());
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        bytes[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&flags.to_ne_bytes());
        bytes[SEQUENCE_AT..HEADER].fill(0);
        self.ask_bytes(&bytes)
    }

    /// Looks for a link by its name.
    pub fn find_link(&mut self, name: &str) {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.write(&request(RouteNetlinkMessage::GetLink(link), 0));
        let length = self.socket.recv(&mut &mut self.receive[..], 0).unwrap();
        let kind = kind_of(&self.receive);
        assert!(length > HEADER && kind == libc::RTM_NEWLINK);
    }
}
