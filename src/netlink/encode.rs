//! Templates of the messages that we send.

use std::net::IpAddr;

use libc::{RTM_DELADDR, RTM_GETADDR, RTM_GETROUTE, RTM_NEWADDR};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL,
    NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::addrlabel::{AddrLabelAttribute, AddrLabelHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleHeader};

use super::decode::Label;
use crate::base::{
    AddressAttrs, DesiredRoute, Family, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IP6_USER_METRIC,
    RTM_F_FIB_MATCH, RTM_F_LOOKUP_TABLE, RouteKey, desired_key, kernel_key, staged_key,
    staged_lifetime,
};

/// Length of a netlink message header.
pub(crate) const HEADER: usize = 16;
/// Length of `struct ifaddrmsg` and of `struct rtmsg`.
pub(crate) const IFADDRMSG: usize = 8;
pub(crate) const RTMSG: usize = 12;

const FLAGS_AT: usize = 6;
const SEQUENCE_AT: usize = 8;

/// One complete message, and the positions that differ between VIPs.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// The positions of the VIP. Both are the same in a message that has the VIP once.
    vip: [usize; 2],
}

impl Template {
    /// A message of a family's fixed part (`ifaddrmsg`, `rtmsg`) and attributes.
    fn new(kind: u16, flags: u16, fixed: &impl Emitable, attributes: &[impl Emitable]) -> Self {
        let mut bytes = Vec::new();
        push(&mut bytes, 0, kind, flags, fixed, attributes);
        Self { bytes, vip: [0; 2] }
    }

    /// Sets the position of the VIP: the value of the first attribute.
    fn vip_first(mut self, fixed: usize) -> Self {
        self.vip = [HEADER + fixed + 4; 2];
        self
    }

    /// Sets the second position of the VIP: the second attribute, behind an address of this family.
    fn vip_twice(mut self, of: Family) -> Self {
        self.vip[1] += usize::from(of.host_bits() / 8) + 4;
        self
    }

    /// Sets the second position of the VIP: the last attribute.
    fn vip_last(mut self, of: Family) -> Self {
        self.vip[1] = self.bytes.len() - usize::from(of.host_bits() / 8);
        self
    }

    /// The same message, and a request for an echo: the notification of its effect.
    fn echoed(&self) -> Self {
        let mut echoed = self.clone();
        add_flags(&mut echoed.bytes, NLM_F_ECHO);
        echoed
    }

    /// Appends the message for `vip`, with this sequence number, to `out`.
    #[inline]
    pub(crate) fn push(&self, out: &mut Vec<u8>, sequence: u32, vip: &IpAddr) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[at..];
        message[SEQUENCE_AT..SEQUENCE_AT + 4].copy_from_slice(&sequence.to_ne_bytes());
        let [first, second] = self.vip;
        put_address(&mut message[first..], vip);
        if second != first {
            put_address(&mut message[second..], vip);
        }
    }
}

/// Writes an address at the start of `place`.
fn put_address(place: &mut [u8], addr: &IpAddr) {
    match addr {
        IpAddr::V4(a) => place[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => place[..16].copy_from_slice(&a.octets()),
    }
}

/// Requests an ack of the message that begins at `at`.
pub(crate) fn request_ack(out: &mut [u8], at: usize) {
    add_flags(&mut out[at..], NLM_F_ACK);
}

fn add_flags(message: &mut [u8], flags: u16) {
    let flags = u16::from_ne_bytes([message[FLAGS_AT], message[FLAGS_AT + 1]]) | flags;
    message[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&flags.to_ne_bytes());
}

fn family(of: Family) -> AddressFamily {
    match of {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The messages for one VIP of one family.
#[derive(Clone, Debug)]
pub(crate) struct Templates {
    link: u32,
    family: Family,
    pub(crate) add_address: Template,
    pub(crate) delete_address: Template,
    pub(crate) add_route: Template,
    pub(crate) add_staged: Template,
    pub(crate) replace_route: Template,
    pub(crate) replace_staged: Template,
    pub(crate) append_route: Template,
    /// Deletes the desired route.
    pub(crate) delete_desired: Template,
    /// Deletes the kernel's own local route.
    pub(crate) delete_kernel: Template,
    /// The same, and the kernel echoes the deleted route (`inet6_rt_notify`, net/ipv6/route.c).
    pub(crate) delete_kernel_blind: Template,
    pub(crate) look_up: Template,
}

impl Templates {
    pub(crate) fn new(want: &DesiredRoute) -> Self {
        let DesiredRoute { family, link, .. } = *want;
        let route = |flags, key: &RouteKey, life: Option<u32>| {
            let protocol = if want.source.is_kernel() {
                libc::RTPROT_KERNEL
            } else {
                key.protocol
            };
            let template = Template::new(
                libc::RTM_NEWROUTE,
                flags,
                &route_header(family, protocol, RouteType::Local),
                &route_attributes(want, life),
            )
            .vip_first(RTMSG);
            if want.source.is_kernel() {
                template.vip_twice(family)
            } else {
                template
            }
        };
        let (desired, staged) = (desired_key(want), staged_key(want));
        let life = staged_lifetime(want);
        let kernels = delete_route(family, link, &kernel_key(&family.unspecified()));
        let kernels = match family {
            Family::V4 => kernels.vip_last(family),
            Family::V6 => kernels,
        };
        Self {
            link,
            family,
            add_address: Template::new(
                RTM_NEWADDR,
                NLM_F_CREATE | NLM_F_EXCL,
                &address_header(family, link),
                &add_attributes(want),
            )
            .vip_first(IFADDRMSG),
            delete_address: Template::new(
                RTM_DELADDR,
                0,
                &address_header(family, link),
                // With both attributes IPv4 compares the prefix length, too (`inet_rtm_deladdr`,
                // net/ipv4/devinet.c): the same address with another length stays.
                &[
                    AddressAttribute::Local(family.unspecified()),
                    AddressAttribute::Address(family.unspecified()),
                ],
            )
            .vip_first(IFADDRMSG)
            .vip_twice(family),
            add_route: route(NLM_F_CREATE | NLM_F_EXCL, &desired, None),
            add_staged: route(NLM_F_CREATE | NLM_F_EXCL, &staged, life),
            replace_route: route(NLM_F_CREATE | NLM_F_REPLACE, &desired, None),
            replace_staged: route(NLM_F_CREATE | NLM_F_REPLACE, &staged, life),
            append_route: route(NLM_F_CREATE | NLM_F_APPEND, &desired, None),
            delete_desired: delete_route(family, link, &desired),
            delete_kernel_blind: kernels.echoed(),
            delete_kernel: kernels,
            look_up: look_up(family),
        }
    }

    /// Appends the deletion of one route to `vip` through the link (see [`push_delete_route`]).
    pub(crate) fn push_delete_route(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        vip: &IpAddr,
        key: &RouteKey,
    ) {
        push_delete_route(out, sequence, vip, self.link, key);
    }

    /// Appends the deletion of the address of `vip` with this peer.
    pub(crate) fn push_delete_address(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        vip: &IpAddr,
        peer: &IpAddr,
    ) {
        let attributes = [
            AddressAttribute::Local(*vip),
            AddressAttribute::Address(*peer),
        ];
        let header = address_header(self.family, self.link);
        push(out, sequence, RTM_DELADDR, 0, &header, &attributes);
    }

    /// Appends the update that makes the address of `vip` valid for ever and changes nothing else of
    /// it. The update repeats the other attributes, because the kernel resets an attribute that is not
    /// sent (`inet6_addr_modify`, net/ipv6/addrconf.c; `inet_rtm_newaddr`, net/ipv4/devinet.c, which
    /// finds the address by its peer, too).
    ///
    /// An IPv6 update sets `IFA_F_NOPREFIXROUTE`: without that flag the kernel makes the prefix route
    /// again. An existing prefix route stays.
    pub(crate) fn push_update_address(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        vip: &IpAddr,
        keep: &AddressAttrs,
    ) {
        let local = AddressAttribute::Local(*vip);
        let end = AddressAttribute::Address(keep.end);
        let flags = AddressAttribute::Flags(AddressFlags::from_bits_retain(match self.family {
            Family::V4 => keep.flags,
            Family::V6 => keep.flags | IFA_F_NOPREFIXROUTE,
        }));
        let cache = valid_for_ever(keep.deprecated);
        let protocol = keep
            .protocol
            .map(|p| AddressAttribute::Protocol(AddressProtocol::from(p)));
        let priority = keep.rt_priority.map(AddressAttribute::RoutePriority);
        let attributes = [Some(&local), Some(&end), Some(&flags), Some(&cache)]
            .into_iter()
            .chain([protocol.as_ref(), priority.as_ref()])
            .flatten();
        let header = address_header(self.family, self.link);
        let (kind, flags) = (RTM_NEWADDR, NLM_F_REPLACE);
        push(out, sequence, kind, flags, &header, attributes);
    }
}

/// Appends one message, written by netlink-packet-route straight into `out`.
fn push<'a, A: Emitable + 'a>(
    out: &mut Vec<u8>,
    sequence: u32,
    kind: u16,
    flags: u16,
    fixed: &impl Emitable,
    attributes: impl IntoIterator<Item = &'a A, IntoIter: Clone>,
) {
    let attributes = attributes.into_iter();
    let at = out.len();
    let fixed_at = at + HEADER;
    let mut end = fixed_at + fixed.buffer_len();
    let length = attributes.clone().map(Emitable::buffer_len).sum::<usize>() + end - at;
    out.resize(at + length, 0);
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    header.emit(&mut out[at..]);
    fixed.emit(&mut out[fixed_at..]);
    for attribute in attributes {
        let next = end + attribute.buffer_len();
        attribute.emit(&mut out[end..next]);
        end = next;
    }
}

/// Appends a message whose attributes, if it has any, are part of `fixed`.
pub(crate) fn push_fixed(
    out: &mut Vec<u8>,
    sequence: u32,
    kind: u16,
    flags: u16,
    fixed: &impl Emitable,
) {
    let none: [&RouteAttribute; 0] = [];
    push(out, sequence, kind, flags, fixed, none);
}

/// The fixed part of a question about the addresses of a link.
fn link_header(of: Family, link: u32) -> AddressHeader {
    AddressHeader {
        family: family(of),
        index: link,
        ..AddressHeader::default()
    }
}

fn address_header(of: Family, link: u32) -> AddressHeader {
    AddressHeader {
        prefix_len: of.host_bits(),
        // In IPv4 link scope keeps the kernel from choosing the VIP as a source for other
        // destinations (`inet_select_addr`, net/ipv4/devinet.c). IPv6 derives the scope from the
        // address.
        scope: match of {
            Family::V4 => AddressScope::Link,
            Family::V6 => AddressScope::Universe,
        },
        ..link_header(of, link)
    }
}

fn valid_for_ever(deprecated: bool) -> AddressAttribute {
    let mut cache = CacheInfo::default();
    cache.ifa_valid = u32::MAX;
    cache.ifa_preferred = if deprecated { 0 } else { u32::MAX };
    AddressAttribute::CacheInfo(cache)
}

fn add_attributes(want: &DesiredRoute) -> Vec<AddressAttribute> {
    // No IFA_BROADCAST: on a /32 it would add a `broadcast VIP` route (`fib_add_ifaddr`,
    // net/ipv4/fib_frontend.c).
    let mut attributes = vec![AddressAttribute::Local(want.family.unspecified())];
    if want.family == Family::V6 {
        attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(
            IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
        )));
        if want.deprecated {
            attributes.push(valid_for_ever(true));
        }
    }
    if let Some(protocol) = want.address_protocol {
        attributes.push(AddressAttribute::Protocol(AddressProtocol::from(protocol)));
    }
    attributes
}

fn route_header(of: Family, protocol: u8, kind: RouteType) -> RouteHeader {
    RouteHeader {
        address_family: family(of),
        destination_prefix_length: of.host_bits(),
        table: libc::RT_TABLE_LOCAL,
        protocol: protocol.into(),
        scope: match of {
            Family::V4 => RouteScope::Host,
            Family::V6 => RouteScope::Universe,
        },
        kind,
        ..RouteHeader::default()
    }
}

fn route_attributes(want: &DesiredRoute, life: Option<u32>) -> Vec<RouteAttribute> {
    // The preferred source of the kernel's own route is the VIP itself. Only the IPv4 route is ever
    // written.
    let mut attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(want.family.unspecified())),
        RouteAttribute::PrefSource(RouteAddress::from(
            want.source.address().unwrap_or(want.family.unspecified()),
        )),
        RouteAttribute::Oif(want.link),
    ];
    if want.family == Family::V6 {
        attributes.push(RouteAttribute::Priority(IP6_USER_METRIC));
    }
    attributes.extend(life.map(RouteAttribute::Expires));
    attributes
}

/// Appends the deletion of one route to `vip` through a link.
///
/// IPv6 compares table, prefix, metric (0: any), protocol and device (`ip6_route_del`,
/// net/ipv6/route.c). IPv4 also compares type and preferred source (`fib_table_delete`,
/// net/ipv4/fib_trie.c).
fn push_delete_route(out: &mut Vec<u8>, sequence: u32, vip: &IpAddr, link: u32, key: &RouteKey) {
    let family = Family::of(vip);
    let header = RouteHeader {
        scope: RouteScope::NoWhere,
        tos: key.tos,
        table: u8::try_from(key.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        flags: RouteFlags::empty(),
        ..route_header(family, key.protocol, RouteType::from(key.kind))
    };
    let destination = RouteAttribute::Destination(RouteAddress::from(*vip));
    let link = RouteAttribute::Oif(link);
    let table = RouteAttribute::Table(key.table);
    let metric = RouteAttribute::Priority(key.metric);
    let source = key.prefsrc.filter(|_| family == Family::V4);
    let source = source.map(|a| RouteAttribute::PrefSource(RouteAddress::from(a)));
    let attributes = [Some(&destination), Some(&link), Some(&table), Some(&metric)]
        .into_iter()
        .chain([source.as_ref()])
        .flatten();
    push(out, sequence, libc::RTM_DELROUTE, 0, &header, attributes);
}

/// The deletion of a route with the same key for every VIP.
fn delete_route(of: Family, link: u32, key: &RouteKey) -> Template {
    let mut bytes = Vec::new();
    push_delete_route(&mut bytes, 0, &of.unspecified(), link, key);
    Template { bytes, vip: [0; 2] }.vip_first(RTMSG)
}

/// The fixed part of a question about one address.
fn question_header(of: Family, flags: u32) -> RouteHeader {
    RouteHeader {
        address_family: family(of),
        destination_prefix_length: of.host_bits(),
        flags: RouteFlags::from_bits_retain(flags),
        ..RouteHeader::default()
    }
}

/// A look-up whose answer is the matching entry of the table and names the table. IPv6 always names
/// the table, and refuses the flag that requests it (`inet6_rtm_valid_getroute_req`,
/// net/ipv6/route.c).
fn look_up(of: Family) -> Template {
    let flags = match of {
        Family::V4 => RTM_F_FIB_MATCH | RTM_F_LOOKUP_TABLE,
        Family::V6 => RTM_F_FIB_MATCH,
    };
    let header = question_header(of, flags);
    let destination = RouteAttribute::Destination(RouteAddress::from(of.unspecified()));
    Template::new(RTM_GETROUTE, 0, &header, &[destination]).vip_first(RTMSG)
}

/// Requests the kernel's routing decision for traffic to one address, with the table of the route
/// (see [`look_up`]).
pub(crate) fn decision_message(out: &mut Vec<u8>, sequence: u32, addr: &IpAddr) {
    let of = Family::of(addr);
    let flags = match of {
        Family::V4 => RTM_F_LOOKUP_TABLE,
        Family::V6 => 0,
    };
    let header = question_header(of, flags);
    let destination = RouteAttribute::Destination(RouteAddress::from(*addr));
    push(out, sequence, RTM_GETROUTE, 0, &header, [&destination]);
}

/// Looks up the route of one address (see [`look_up`]).
pub(crate) fn look_up_message(out: &mut Vec<u8>, sequence: u32, addr: &IpAddr) {
    look_up(Family::of(addr)).push(out, sequence, addr);
}

/// Adds an IPv4 address of scope host.
pub(crate) fn add_host_address_message(out: &mut Vec<u8>, sequence: u32, addr: &IpAddr, link: u32) {
    let header = AddressHeader {
        scope: AddressScope::Host,
        ..address_header(Family::of(addr), link)
    };
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let local = AddressAttribute::Local(*addr);
    push(out, sequence, RTM_NEWADDR, flags, &header, [&local]);
}

/// Requests the address labels of the node.
pub(crate) fn dump_labels(out: &mut Vec<u8>, sequence: u32) {
    let header = AddrLabelHeader {
        family: AddressFamily::Inet6,
        ..AddrLabelHeader::default()
    };
    push_fixed(out, sequence, libc::RTM_GETADDRLABEL, NLM_F_DUMP, &header);
}

/// Adds (RTM_NEWADDRLABEL) or removes (RTM_DELADDRLABEL) an entry of the table of address labels.
pub(crate) fn label_message(out: &mut Vec<u8>, sequence: u32, kind: u16, entry: &Label) {
    let header = AddrLabelHeader {
        family: AddressFamily::Inet6,
        prefix_len: entry.prefix.prefix_len(),
        index: entry.link,
        ..AddrLabelHeader::default()
    };
    let address = AddrLabelAttribute::Address(entry.prefix.addr().into());
    let label = AddrLabelAttribute::Label(entry.label);
    let flags = match kind {
        libc::RTM_NEWADDRLABEL => NLM_F_CREATE | NLM_F_EXCL,
        _ => 0,
    };
    push(out, sequence, kind, flags, &header, [&address, &label]);
}

/// Requests one IPv6 address of this link, or of any link if `link` is 0.
pub(crate) fn get_address_message(out: &mut Vec<u8>, sequence: u32, addr: &IpAddr, link: u32) {
    let header = link_header(Family::of(addr), link);
    let local = AddressAttribute::Address(*addr);
    push(out, sequence, RTM_GETADDR, 0, &header, [&local]);
}

/// Requests the addresses of a link. A kernel without strict checking sends those of all links.
pub(crate) fn dump_addresses(out: &mut Vec<u8>, sequence: u32, of: Family, link: u32) {
    let header = link_header(of, link);
    push_fixed(out, sequence, RTM_GETADDR, NLM_F_DUMP, &header);
}

/// Requests the routes of one table or of all, through one link or all. A kernel without strict
/// checking sends all routes of the node.
pub(crate) fn dump_routes(
    out: &mut Vec<u8>,
    sequence: u32,
    of: Family,
    table: Option<u32>,
    link: Option<u32>,
) {
    let header = RouteHeader {
        address_family: family(of),
        ..RouteHeader::default()
    };
    let table = table.map(RouteAttribute::Table);
    let link = link.map(RouteAttribute::Oif);
    let attributes = [table.as_ref(), link.as_ref()].into_iter().flatten();
    push(out, sequence, RTM_GETROUTE, NLM_F_DUMP, &header, attributes);
}

/// Requests the routing rules of a family.
pub(crate) fn dump_rules(out: &mut Vec<u8>, sequence: u32, of: Family) {
    let header = RuleHeader {
        family: family(of),
        // The kernel refuses a dump request that names an action (`fib_valid_dumprule_req`,
        // net/core/fib_rules.c).
        action: RuleAction::Unspec,
        ..RuleHeader::default()
    };
    push_fixed(out, sequence, libc::RTM_GETRULE, NLM_F_DUMP, &header);
}
