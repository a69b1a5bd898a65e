//! All addresses and routes of a namespace, read by one raw socket in a millisecond.
//!
//! Not part of `common/mod.rs`: a test takes it with `#[path = "common/seen.rs"] mod seen;`.
#![allow(dead_code, unreachable_pub)]

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkBuffer};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage::{GetAddress, GetRoute, NewAddress, NewRoute};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use crate::common::raw::{Raw, Request};
use crate::common::{
    Address, LocalState, PROTO_KERNEL, Route, TABLE_LOCAL, TABLE_MAIN, TYPE_LOCAL, VIP_LINK,
    host_bits,
};

/// Flags of addresses (linux/if_addr.h).
const NODAD: u32 = 0x02;
const DADFAILED: u32 = 0x08;
const TENTATIVE: u32 = 0x40;
const NOPREFIXROUTE: u32 = 0x200;

/// An address on a link.
#[derive(Clone, Debug)]
pub struct SeenAddress {
    pub index: u32,
    pub address: Address,
    message: AddressMessage,
}

/// A route of any table.
#[derive(Clone, Debug)]
pub struct SeenRoute {
    pub oif: Option<u32>,
    /// It goes through a nexthop object.
    pub object: bool,
    /// Through an object, a gateway or several hops.
    pub indirect: bool,
    pub prefix_len: u8,
    pub route: Route,
    message: RouteMessage,
}

impl SeenRoute {
    /// To this host, direct, through this link.
    pub fn is_of(&self, vip: IpAddr, link: u32) -> bool {
        self.to(vip) && self.oif == Some(link) && !self.indirect
    }

    /// To this host.
    pub fn to(&self, vip: IpAddr) -> bool {
        self.route.dst == vip && self.prefix_len == host_bits(vip)
    }

    /// Such as the kernel makes for an address.
    pub fn is_kernels_own(&self) -> bool {
        let route = &self.route;
        route.is_local()
            && route.metric == 0
            && (route.dst.is_ipv6()
                || route.protocol == u32::from(PROTO_KERNEL) && route.prefsrc == Some(route.dst))
    }
}

impl SeenAddress {
    fn text(&self) -> String {
        let address = &self.address;
        format!(
            "address {}/{} dev #{} {:?} forever {}",
            address.local, address.prefix_len, self.index, self.message.attributes, address.forever
        )
    }
}

impl SeenRoute {
    fn text(&self) -> String {
        let route = &self.route;
        let attributes: Vec<_> = self
            .message
            .attributes
            .iter()
            // It counts.
            .filter(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)))
            .collect();
        format!(
            "route {}/{} table {} type {} proto {} scope {} metric {} tos {} {attributes:?}",
            route.dst,
            self.prefix_len,
            route.table,
            route.kind,
            route.protocol,
            route.scope,
            route.metric,
            self.message.header.tos,
        )
    }
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub addresses: Vec<SeenAddress>,
    pub routes: Vec<SeenRoute>,
    /// The links of the local routes that win for hosts to which several local routes lead.
    pub winners: HashMap<IpAddr, String>,
}

/// The index of a link by name, if there is one.
#[allow(unsafe_code)]
pub fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).unwrap();
    // SAFETY: a string that ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

impl Seen {
    /// Reads it all, when nobody writes but the kernel. IPv6 routes that come while they are read
    /// may be missing.
    pub fn read(link: u32) -> Self {
        let mut raw = Raw::new();
        let mut seen = Self::default();
        dump(
            &mut raw,
            &(GetAddress(AddressMessage::default()), NLM_F_DUMP),
            |all| {
                seen.addresses = all
                    .iter()
                    .filter_map(|message| match message {
                        NewAddress(message) => address(message, link),
                        _ => None,
                    })
                    .collect();
            },
        );
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            dump(&mut raw, &(GetRoute(message), NLM_F_DUMP), |all| {
                seen.routes
                    .extend(all.iter().filter_map(|message| match message {
                        NewRoute(message) => route(message, link),
                        _ => None,
                    }));
            });
        }
        let hosts: HashSet<IpAddr> = seen
            .routes
            .iter()
            .filter(|route| route.to(route.route.dst) && route.route.is_local())
            .map(|route| route.route.dst)
            .collect();
        for host in hosts {
            if seen.routes.iter().filter(|route| route.to(host)).count() > 1
                && let Ok(winner) = raw.winner(host)
                && let Some(winner) = route(&winner, link)
                && winner.route.kind == TYPE_LOCAL
            {
                seen.winners.insert(host, winner.route.dev);
            }
        }
        seen
    }

    /// All of it as lines, each with the host and link that it is about, sorted.
    pub fn lines(&self) -> Vec<Line> {
        let addresses = self.addresses.iter().map(|address| Line {
            host: Some(address.address.local),
            link: Some(address.index),
            is_route: false,
            in_scope: true,
            kernels_own: false,
            text: address.text(),
        });
        let routes = self.routes.iter().map(|route| Line {
            host: (route.prefix_len == host_bits(route.route.dst)).then_some(route.route.dst),
            link: route.oif.filter(|_| !route.indirect),
            is_route: true,
            in_scope: matches!(route.route.table, TABLE_LOCAL | TABLE_MAIN),
            kernels_own: route.is_kernels_own(),
            text: route.text(),
        });
        let mut lines: Vec<Line> = addresses.chain(routes).collect();
        lines.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        lines
    }

    /// As the witness of the single-route state takes it. Links have their index as name, but for
    /// the VIP link; routes through nexthop objects and gateways are no link's.
    pub fn local_state(&self) -> LocalState {
        let mut state = LocalState {
            addresses: HashMap::new(),
            routes: HashMap::new(),
            links: HashMap::new(),
        };
        for address in &self.addresses {
            let of = state.addresses.entry(address.address.local).or_default();
            of.push(address.address.clone());
        }
        for route in &self.routes {
            if route.prefix_len == host_bits(route.route.dst) {
                let of = state.routes.entry(route.route.dst).or_default();
                of.push(route.route.clone());
            }
        }
        state
    }

    /// What a later reading lacks (`-`) and what it has beyond this one (`+`).
    pub fn diff(&self, later: &Self) -> Vec<(char, Line)> {
        let mut extra = later.lines();
        let mut out = Vec::new();
        for line in self.lines() {
            match extra.iter().position(|other| other.text == line.text) {
                Some(at) => drop(extra.remove(at)),
                None => out.push(('-', line)),
            }
        }
        out.extend(extra.into_iter().map(|line| ('+', line)));
        out
    }
}

/// An address or a route.
#[derive(Clone, Debug)]
pub struct Line {
    pub host: Option<IpAddr>,
    /// Of a route: that it goes through directly.
    pub link: Option<u32>,
    pub is_route: bool,
    /// An address, or a route in table local or main.
    pub in_scope: bool,
    pub kernels_own: bool,
    pub text: String,
}

impl Line {
    /// About addresses that a link has by itself, which come when the kernel likes.
    pub fn is_link_local(&self) -> bool {
        let of = self.text.split_once(' ').map_or("", |(_, rest)| rest);
        of.starts_with("fe80:") || of.starts_with("ff00::")
    }
}

/// A whole dump, repeated where the kernel says that it was interrupted.
fn dump(
    raw: &mut Raw,
    request: &Request,
    take: impl FnOnce(&[netlink_packet_route::RouteNetlinkMessage]),
) {
    'again: loop {
        raw.send(std::slice::from_ref(request), 0);
        let mut all = Vec::new();
        let mut interrupted = false;
        loop {
            let bytes = raw
                .receive_now()
                .unwrap_or_else(|error| panic!("a dump ends with NLMSG_DONE: {error}"));
            let mut rest = &bytes[..];
            while rest.len() >= 16 {
                let length = NetlinkBuffer::new_checked(rest).unwrap().length() as usize;
                let message = NetlinkMessage::deserialize(&rest[..length]).unwrap();
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => all.push(message),
                    NetlinkPayload::Done(_) if interrupted => continue 'again,
                    NetlinkPayload::Done(_) => return take(&all),
                    other => panic!("not in a dump: {other:?}"),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

fn name_of(index: u32, link: u32) -> String {
    if index == link {
        VIP_LINK.to_owned()
    } else {
        format!("#{index}")
    }
}

fn address(message: &AddressMessage, link: u32) -> Option<SeenAddress> {
    let (mut local, mut peer, mut flags, mut broadcast) = (None, None, None, None);
    let (mut forever, mut expires) = (true, false);
    let mut kept = message.clone();
    kept.attributes.retain(|attribute| match attribute {
        AddressAttribute::CacheInfo(cache) => {
            expires = cache.ifa_valid != u32::MAX;
            forever = !expires && cache.ifa_preferred == u32::MAX;
            false
        }
        _ => true,
    });
    for attribute in &kept.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => peer = Some(*addr),
            AddressAttribute::Flags(all) => flags = Some(all.bits()),
            AddressAttribute::Broadcast(addr) => broadcast = Some(IpAddr::V4(*addr)),
            _ => {}
        }
    }
    let flags = flags.unwrap_or_else(|| u32::from(message.header.flags.bits()));
    let local = local.or(peer)?;
    Some(SeenAddress {
        index: message.header.index,
        address: Address {
            local,
            prefix_len: message.header.prefix_len,
            dev: name_of(message.header.index, link),
            scope: u32::from(u8::from(message.header.scope)),
            broadcast,
            tentative: flags & TENTATIVE != 0,
            dadfailed: flags & DADFAILED != 0,
            nodad: flags & NODAD != 0,
            noprefixroute: flags & NOPREFIXROUTE != 0,
            forever,
            expires,
            link_up: true,
        },
        message: kept,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn route(message: &RouteMessage, link: u32) -> Option<SeenRoute> {
    let header = &message.header;
    let unspecified = if header.address_family == AddressFamily::Inet {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0_u16; 8])
    };
    let mut route = Route {
        dst: unspecified,
        table: u32::from(header.table),
        kind: u32::from(u8::from(header.kind)),
        dev: String::new(),
        protocol: u32::from(u8::from(header.protocol)),
        scope: u32::from(u8::from(header.scope)),
        metric: 0,
        prefsrc: None,
    };
    let (mut oif, mut object, mut indirect) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(dst) => route.dst = ip(dst)?,
            RouteAttribute::PrefSource(source) => route.prefsrc = ip(source),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::NhId(_) => (object, indirect) = (true, true),
            RouteAttribute::Gateway(_) | RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => {
                indirect = true;
            }
            _ => {}
        }
    }
    route.dev = match oif {
        Some(index) if !indirect => name_of(index, link),
        _ => "(indirect)".to_owned(),
    };
    Some(SeenRoute {
        oif,
        object,
        indirect,
        prefix_len: header.destination_prefix_length,
        message: message.clone(),
        route,
    })
}
