//! One netlink socket and messages that say exactly what the test means.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage::{
    self, DelAddress, DelLink, DelRoute, GetRoute, NewAddress, NewLink, NewRoute,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{TABLE_LOCAL, host_bits};

/// Flags of a request that must make something new.
pub const CREATE_EXCL: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Flags of a request that makes or replaces.
pub const CREATE_REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
/// Flags of a request that only replaces.
pub const REPLACE: u16 = NLM_F_REPLACE;
/// Flags of a request that adds beside what is there.
pub const CREATE_APPEND: u16 = NLM_F_CREATE | NLM_F_APPEND;

/// A message and its flags, without `NLM_F_REQUEST`.
pub type Request = (RouteNetlinkMessage, u16);

/// The kernel's answer to a request: 0 or a positive errno, and its text if it gave one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub seq: u32,
    pub errno: i32,
    pub text: Option<String>,
}

/// A netlink socket of the calling thread's namespace, with the default receive buffer.
#[derive(Debug)]
pub struct Raw {
    socket: Socket,
    seq: u32,
}

impl Raw {
    /// Opens it, with short error replies that carry the kernel's text.
    pub fn new() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.bind_auto().unwrap();
        Self::over(socket)
    }

    /// Over a socket that is bound.
    pub fn over(socket: Socket) -> Self {
        socket.set_cap_ack(true).unwrap();
        socket.set_ext_ack(true).unwrap();
        Self { socket, seq: 0 }
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The port id, which notifications of own changes carry.
    pub fn port(&self) -> u32 {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).unwrap();
        address.port_number()
    }

    /// Sends all requests in one datagram, with these further flags; returns the sequence number
    /// of the first.
    pub fn send(&mut self, requests: &[Request], flags: u16) -> u32 {
        let first = self.seq + 1;
        let mut bytes = Vec::new();
        for (message, own) in requests {
            self.seq += 1;
            let mut message = NetlinkMessage::new(
                NetlinkHeader::default(),
                NetlinkPayload::from(message.clone()),
            );
            message.header.flags = NLM_F_REQUEST | own | flags;
            message.header.sequence_number = self.seq;
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        let sent = self
            .socket
            .send_to(&bytes, &SocketAddr::new(0, 0), 0)
            .unwrap();
        assert_eq!(sent, bytes.len());
        first
    }

    /// One datagram that is there already, or else `WouldBlock`.
    pub fn receive_now(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1 << 16);
        self.socket.recv_from(&mut bytes, libc::MSG_DONTWAIT)?;
        Ok(bytes)
    }

    /// All answers that are there already; the flag says whether the kernel had to drop some
    /// (`ENOBUFS`).
    pub fn receive_all(&self) -> (Vec<Vec<u8>>, bool) {
        let mut all = Vec::new();
        let mut overflow = false;
        loop {
            match self.receive_now() {
                Ok(bytes) => all.push(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (all, overflow),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overflow = true,
                Err(error) => panic!("receiving: {error}"),
            }
        }
    }

    /// Sends all requests, in datagrams of up to 100, each acked; returns one answer a request.
    pub fn batch(&mut self, requests: &[Request]) -> Vec<Ack> {
        let mut acks = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(100) {
            let first = self.send(chunk, NLM_F_ACK);
            let (datagrams, overflow) = self.receive_all();
            assert!(!overflow, "100 acks must fit");
            let start = acks.len();
            acks.extend(datagrams.iter().flat_map(|bytes| parse_acks(bytes)));
            let seqs: Vec<u32> = acks[start..].iter().map(|ack| ack.seq).collect();
            assert_eq!(
                seqs,
                (first..=self.seq).collect::<Vec<_>>(),
                "one ack each, in order"
            );
        }
        acks
    }

    /// The same, where none may fail.
    #[track_caller]
    pub fn batch_ok(&mut self, requests: &[Request]) {
        for (ack, request) in self.batch(requests).iter().zip(requests) {
            assert_eq!(ack.errno, 0, "{ack:?} to {request:?}");
        }
    }

    /// Sends one request; returns 0 or its errno.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> i32 {
        self.batch(&[(message, flags)])[0].errno
    }

    /// The route that wins for this host, whatever its device; or the errno.
    pub fn winner(&mut self, vip: IpAddr) -> Result<RouteMessage, i32> {
        self.send(&[fib_match(vip)], 0);
        let bytes = self.receive_now().unwrap();
        match NetlinkMessage::deserialize(&bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(NewRoute(route)) => Ok(route),
            NetlinkPayload::Error(error) => Err(-error.raw_code()),
            other => panic!("no answer to a look-up: {other:?}"),
        }
    }

    /// Puts VIPs into their single-route state in the slow and certain way: by looking at the
    /// tables between the steps.
    #[track_caller]
    pub fn put_single_route(&mut self, vips: &[IpAddr], link: u32, sources: &[IpAddr], proto: u8) {
        let source = |vip: IpAddr| {
            *sources
                .iter()
                .find(|source| source.is_ipv4() == vip.is_ipv4())
                .unwrap()
        };
        let each = |step: &dyn Fn(IpAddr) -> Request| vips.iter().map(|&vip| step(vip)).collect();
        let all: Vec<_> = each(&|vip| (NewAddress(vip_address(vip, link)), CREATE_REPLACE));
        self.batch_ok(&all);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !has_kernel_routes(vips) {
            assert!(Instant::now() < deadline, "the kernel's routes never came");
            std::thread::sleep(Duration::from_millis(5));
        }
        // In IPv4 this replaces the kernel's route, and there is nothing to delete.
        let all: Vec<_> = each(&|vip| {
            let proto = if vip.is_ipv4() { proto } else { 201 };
            let route = local_route(vip, link, Some(source(vip)), proto);
            (NewRoute(route), CREATE_REPLACE)
        });
        self.batch_ok(&all);
        let v6 = || vips.iter().filter(|vip| vip.is_ipv6());
        let all: Vec<_> = v6()
            .map(|&vip| (DelRoute(delete_of_protocol(vip, link, 2)), 0))
            .collect();
        self.batch_ok(&all);
        let all: Vec<_> = v6()
            .map(|&vip| {
                let route = local_route(vip, link, Some(source(vip)), proto);
                (NewRoute(route), CREATE_REPLACE)
            })
            .collect();
        self.batch_ok(&all);
    }
}

fn has_kernel_routes(vips: &[IpAddr]) -> bool {
    let state = super::LocalState::read();
    vips.iter()
        .all(|&vip| state.routes_of(vip).iter().any(|route| route.metric == 0))
}

/// The acks and errors in a datagram.
pub fn parse_acks(bytes: &[u8]) -> Vec<Ack> {
    let mut acks = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 16 {
        let message = NetlinkBuffer::new_checked(rest).unwrap();
        let length = message.length() as usize;
        // struct nlmsgerr: the code, then the header of the request, then attributes.
        let payload = &rest[16..length];
        if message.message_type() == 2 {
            let errno = -i32::from_ne_bytes(payload[..4].try_into().unwrap());
            // NLM_F_ACK_TLVS with NLM_F_CAPPED; an ack is capped without saying so.
            let text = (message.flags() & 0x200 != 0)
                .then(|| {
                    NlasIterator::new(&payload[20..])
                        .map(|nla| nla.unwrap())
                        .find(|nla| nla.kind() == 1)
                        .map(|nla| {
                            let text = String::from_utf8_lossy(nla.value());
                            text.trim_end_matches('\0').to_owned()
                        })
                })
                .flatten();
            acks.push(Ack {
                seq: message.sequence_number(),
                errno,
                text,
            });
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    acks
}

fn family(addr: IpAddr) -> AddressFamily {
    if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// A VIP's address as we make it: a host prefix, in IPv6 NODAD and NOPREFIXROUTE.
pub fn vip_address(vip: IpAddr, link: u32) -> AddressMessage {
    let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
    address(
        vip,
        link,
        if vip.is_ipv4() {
            AddressFlags::empty()
        } else {
            flags
        },
    )
}

/// An address with a host prefix and these flags.
pub fn address(addr: IpAddr, link: u32, flags: AddressFlags) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(addr);
    message.header.prefix_len = host_bits(addr);
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(addr));
    message.attributes.push(AddressAttribute::Address(addr));
    if !flags.is_empty() {
        message.header.flags =
            AddressHeaderFlags::from_bits_truncate(flags.bits().to_le_bytes()[0]);
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

/// `local VIP dev LINK table local [src SOURCE] proto PROTOCOL`, the metric left to the kernel.
pub fn local_route(vip: IpAddr, link: u32, source: Option<IpAddr>, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(vip),
        destination_prefix_length: host_bits(vip),
        table: u8::try_from(TABLE_LOCAL).unwrap(),
        protocol: RouteProtocol::from(protocol),
        scope: if vip.is_ipv4() {
            RouteScope::Host
        } else {
            RouteScope::Universe
        },
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(vip.into()),
        RouteAttribute::Oif(link),
    ];
    if let Some(source) = source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// The same at a given metric.
pub fn with_metric(mut route: RouteMessage, metric: u32) -> RouteMessage {
    route.attributes.push(RouteAttribute::Priority(metric));
    route
}

/// `del local VIP dev LINK table local`, of any protocol and metric: `ip`'s `metric 0`.
pub fn delete_any(vip: IpAddr, link: u32) -> RouteMessage {
    let mut route = local_route(vip, link, None, 0);
    route.header.scope = RouteScope::NoWhere;
    route
}

/// `del local VIP dev LINK table local proto PROTOCOL`.
pub fn delete_of_protocol(vip: IpAddr, link: u32, protocol: u8) -> RouteMessage {
    let mut route = delete_any(vip, link);
    route.header.protocol = RouteProtocol::from(protocol);
    route
}

/// `del local VIP dev LINK table local src SOURCE`.
pub fn delete_with_source(vip: IpAddr, link: u32, source: IpAddr) -> RouteMessage {
    let mut route = delete_any(vip, link);
    route
        .attributes
        .push(RouteAttribute::PrefSource(source.into()));
    route
}

/// A question for the route that wins.
pub fn fib_match(vip: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(vip);
    message.header.destination_prefix_length = host_bits(vip);
    message.header.flags = RouteFlags::FibMatch | RouteFlags::LookupTable;
    message.attributes = vec![RouteAttribute::Destination(vip.into())];
    (GetRoute(message), 0)
}

/// A new link of this kind.
pub fn new_link(name: &str, kind: InfoKind) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
    ];
    (NewLink(message), CREATE_EXCL)
}

/// The end of a link.
pub fn del_link(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    (DelLink(message), 0)
}

/// The end of an address.
pub fn del_address(addr: IpAddr, link: u32) -> Request {
    (DelAddress(address(addr, link, AddressFlags::empty())), 0)
}
