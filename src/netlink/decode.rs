//! Reads the kernel's messages without copying them.

use std::net::IpAddr;

use netlink_packet_core::{NLA_HEADER_SIZE, NLA_TYPE_MASK, NLM_F_ACK_TLVS, NLM_F_CAPPED};

use ipnet::{IpNet, Ipv6Net};

use super::encode::{HEADER, IFADDRMSG, RTMSG};
use crate::base::{Family, TABLE_LOCAL};

/// Message types of netlink itself (linux/netlink.h).
const NLMSG_NOOP: u16 = 1;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

/// Attributes of an extended ack.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The bytes are no message, or no attribute, of the stated type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One netlink message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// In a notification: the port id of the socket whose request caused it. It is 0 for the kernel
    /// itself, and in every IPv6 address notification (`inet6_ifa_notify`, net/ipv6/addrconf.c).
    pub(crate) port: u32,
    payload: &'a [u8],
}

/// Splits a datagram into its messages. Ends after the first malformed message.
pub(crate) fn messages(
    mut datagram: &[u8],
) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let all = std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let split = split(std::mem::take(&mut datagram));
        Some(split.ok_or(Malformed).map(|(message, rest)| {
            datagram = rest;
            message
        }))
    });
    all.filter(|message| !matches!(message, Ok(message) if message.kind == NLMSG_NOOP))
}

#[inline]
fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    let length = usize::try_from(u32_at(header, 0)?).ok()?;
    let message = Message {
        kind: u16_at(header, 4)?,
        flags: u16_at(header, 6)?,
        sequence: u32_at(header, 8)?,
        port: u32_at(header, 12)?,
        payload: bytes.get(HEADER..length)?,
    };
    // The last message of a datagram may lack its padding.
    Some((message, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// The aligned length (`NLMSG_ALIGN` and `NLA_ALIGN`). `next_multiple_of` divides and checks, which
/// would add a fifteenth to the cost of reading.
pub(super) fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An ack, or an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack<'a> {
    /// Zero for an ack, else a positive error number.
    pub(crate) errno: i32,
    /// The kernel's message (`NLMSGERR_ATTR_MSG`).
    pub(crate) text: Option<&'a str>,
}

impl<'a> Message<'a> {
    /// The fixed part and the attributes.
    pub(super) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Reads an NLMSG_ERROR, or the status of an NLMSG_DONE.
    pub(crate) fn ack(&self) -> Result<Ack<'a>, Malformed> {
        let code = u32_at(self.payload, 0).ok_or(Malformed)?.cast_signed();
        let mut text = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            // The request's header follows the code, and its payload unless NLM_F_CAPPED is set. An
            // NLMSG_DONE has neither.
            let echoed = match (self.kind, self.flags & NLM_F_CAPPED != 0) {
                (NLMSG_DONE, _) => 0,
                (_, true) => HEADER,
                (_, false) => usize::try_from(u32_at(self.payload, 4).ok_or(Malformed)?)
                    .map(aligned)
                    .map_err(|_| Malformed)?,
            };
            let attributes = self.payload.get(echoed.saturating_add(4)..);
            let attributes = attributes.ok_or(Malformed)?;
            for attribute in self::attributes(attributes) {
                let (kind, value) = attribute?;
                if kind == NLMSGERR_ATTR_MSG {
                    let bytes = value.strip_suffix(&[0]).unwrap_or(value);
                    text = std::str::from_utf8(bytes).ok();
                }
            }
        }
        Ok(Ack {
            errno: code.checked_neg().ok_or(Malformed)?,
            text,
        })
    }

    /// Reads an RTM_NEWROUTE or RTM_DELROUTE; `None` for a family other than IPv4 and IPv6.
    pub(crate) fn route(&self) -> Result<Option<Route>, Malformed> {
        let fixed: &[u8; RTMSG] = self.payload.first_chunk().ok_or(Malformed)?;
        let Some(family) = family_of(fixed[0]) else {
            return Ok(None);
        };
        let mut route = Route {
            family,
            prefix_length: fixed[1],
            tos: fixed[3],
            table: u32::from(fixed[4]),
            protocol: fixed[5],
            scope: fixed[6],
            kind: fixed[7],
            cloned: u32_at(fixed, 8).ok_or(Malformed)? & libc::RTM_F_CLONED != 0,
            destination: None,
            link: None,
            prefsrc: None,
            metric: 0,
            indirect: fixed[2] != 0,
            by_object: false,
            metrics_digest: 0,
            expires: false,
        };
        for attribute in attributes(&self.payload[RTMSG..]) {
            let (kind, value) = attribute?;
            match kind {
                libc::RTA_DST => route.destination = Some(address_of(family, value)?),
                libc::RTA_OIF => route.link = Some(number(value)?),
                libc::RTA_PREFSRC => route.prefsrc = Some(address_of(family, value)?),
                libc::RTA_PRIORITY => route.metric = number(value)?,
                libc::RTA_TABLE => route.table = number(value)?,
                RTA_NH_ID => {
                    route.indirect = true;
                    route.by_object = true;
                }
                libc::RTA_GATEWAY | libc::RTA_MULTIPATH | RTA_VIA | RTA_ENCAP => {
                    route.indirect = true;
                }
                // The third member of struct rta_cacheinfo, which is 0 for an IPv6 route without a
                // lifetime.
                libc::RTA_CACHEINFO if family == Family::V6 => {
                    route.expires = u32_at(value, 8).is_some_and(|left| left != 0);
                }
                libc::RTA_METRICS | libc::RTA_FLOW => {
                    let digest = |digest: u32, byte: &u8| {
                        digest.wrapping_mul(31).wrapping_add(u32::from(*byte))
                    };
                    route.metrics_digest = value
                        .iter()
                        .fold(route.metrics_digest ^ u32::from(kind), digest);
                }
                _ => {}
            }
        }
        Ok(Some(route))
    }

    /// The links of the next hops of a multipath route (RTA_MULTIPATH), in order.
    pub(crate) fn hops(&self) -> impl Iterator<Item = u32> {
        let attributes = attributes(self.payload.get(RTMSG..).unwrap_or_default());
        let hops = attributes
            .map_while(Result::ok)
            .find(|(kind, _)| *kind == libc::RTA_MULTIPATH);
        let mut rest = hops.map(|(_, hops)| hops).unwrap_or_default();
        // struct rtnexthop: length, flags, weight, index. Attributes follow.
        std::iter::from_fn(move || {
            let index = u32_at(rest, 4)?;
            let length = usize::from(u16_at(rest, 0)?).max(RTNEXTHOP);
            rest = rest.get(aligned(length)..).unwrap_or_default();
            Some(index)
        })
    }

    /// Reads an RTM_NEWADDR or RTM_DELADDR; `None` for a family other than IPv4 and IPv6.
    pub(crate) fn address(&self) -> Result<Option<Address>, Malformed> {
        let fixed: &[u8; IFADDRMSG] = self.payload.first_chunk().ok_or(Malformed)?;
        let Some(family) = family_of(fixed[0]) else {
            return Ok(None);
        };
        let mut local = None;
        let mut peer = None;
        let mut address = Address {
            prefix_length: fixed[1],
            // The header has the low byte of the flags. IFA_FLAGS, if present, has all flags.
            flags: u32::from(fixed[2]),
            link: u32_at(fixed, 4).ok_or(Malformed)?,
            addr: family.unspecified(),
            valid: u32::MAX,
            preferred: u32::MAX,
            created: 0,
            protocol: None,
            rt_priority: None,
            peer: None,
            broadcast: None,
        };
        for attribute in attributes(&self.payload[IFADDRMSG..]) {
            let (kind, value) = attribute?;
            match kind {
                libc::IFA_ADDRESS => peer = Some(address_of(family, value)?),
                libc::IFA_LOCAL => local = Some(address_of(family, value)?),
                libc::IFA_BROADCAST => address.broadcast = Some(address_of(family, value)?),
                libc::IFA_FLAGS => address.flags = number(value)?,
                libc::IFA_CACHEINFO => address.set_times(value)?,
                IFA_RT_PRIORITY => address.rt_priority = Some(number(value)?),
                IFA_PROTO => address.protocol = value.first().copied(),
                _ => {}
            }
        }
        // With a peer, IFA_LOCAL is the address and IFA_ADDRESS the peer.
        address.addr = local.or(peer).ok_or(Malformed)?;
        address.peer = peer.filter(|peer| *peer != address.addr);
        Ok(Some(address))
    }

    /// Reads an RTM_NEWADDRLABEL; `None` for a family other than IPv6.
    pub(crate) fn label(&self) -> Result<Option<Label>, Malformed> {
        // struct ifaddrlblmsg: family, reserved, prefix length, flags, index, sequence.
        let fixed: &[u8; IFADDRLBLMSG] = self.payload.first_chunk().ok_or(Malformed)?;
        if family_of(fixed[0]) != Some(Family::V6) {
            return Ok(None);
        }
        let mut prefix = None;
        let mut label = None;
        for attribute in attributes(&self.payload[IFADDRLBLMSG..]) {
            let (kind, value) = attribute?;
            match kind {
                IFAL_ADDRESS => prefix = Some(<[u8; 16]>::try_from(value).map_err(|_| Malformed)?),
                IFAL_LABEL => label = Some(number(value)?),
                _ => {}
            }
        }
        let prefix = prefix.ok_or(Malformed)?.into();
        Ok(Some(Label {
            prefix: Ipv6Net::new(prefix, fixed[2]).map_err(|_| Malformed)?,
            link: u32_at(fixed, 4).ok_or(Malformed)?,
            label: label.ok_or(Malformed)?,
        }))
    }

    /// Reads an RTM_NEWRULE: its effect on a look-up without a mark. The look-ups of this crate have
    /// none.
    pub(crate) fn rule(&self) -> Result<Rule, Malformed> {
        // struct fib_rule_hdr: family, lengths of destination and source, type of service, table,
        // reserved, action, flags.
        let fixed: &[u8; FIB_RULE_HDR] = self.payload.first_chunk().ok_or(Malformed)?;
        let mut table = u32::from(fixed[4]);
        let (mut mark, mut mask) = (0, 0);
        let flags = u32_at(fixed, 8).ok_or(Malformed)?;
        let mut is_plain =
            fixed[1..4] == [0; 3] && fixed[7] == FR_ACT_TO_TBL && flags & !FIB_RULE_PERMANENT == 0;
        for attribute in attributes(&self.payload[FIB_RULE_HDR..]) {
            let (kind, value) = attribute?;
            match kind {
                FRA_TABLE => table = number(value)?,
                FRA_FWMARK => mark = number(value)?,
                FRA_FWMASK => mask = number(value)?,
                FRA_SUPPRESS_PREFIXLEN => is_plain &= number(value)? == u32::MAX,
                FRA_PAD | FRA_PRIORITY | FRA_PROTOCOL => {}
                _ => is_plain = false,
            }
        }
        let is_inverted = flags & FIB_RULE_INVERT != 0;
        Ok(if mark & mask != 0 && !is_inverted {
            Rule::ForMarked
        } else if is_plain && mask == 0 && table == TABLE_LOCAL {
            Rule::LookUpLocal
        } else {
            Rule::Other
        })
    }

    /// The fixed part and the attributes of an RTM_NEWLINK.
    pub(crate) fn link(&self) -> Result<Link<'a>, Malformed> {
        let family = self.payload.first().ok_or(Malformed)?;
        Ok(Link {
            is_itself: i32::from(*family) == libc::AF_UNSPEC,
            index: u32_at(self.payload, 4).ok_or(Malformed)?,
            flags: u32_at(self.payload, 8).ok_or(Malformed)?,
            attributes: self.payload.get(16..).ok_or(Malformed)?,
        })
    }
}

/// Attributes that libc lacks (linux/rtnetlink.h, linux/if_addr.h).
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;

/// Length of `struct rtnexthop` (linux/rtnetlink.h).
const RTNEXTHOP: usize = 8;

/// Length of `struct ifaddrlblmsg`, and its attributes (linux/if_addrlabel.h).
const IFADDRLBLMSG: usize = 12;
const IFAL_ADDRESS: u16 = 1;
const IFAL_LABEL: u16 = 2;

/// Length of `struct fib_rule_hdr`, and its values and attributes (linux/fib_rules.h).
const FIB_RULE_HDR: usize = 12;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_PERMANENT: u32 = 1;
const FIB_RULE_INVERT: u32 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;

/// The effect of a routing rule on a look-up without a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// None: the rule matches only traffic with a mark (`fib_rule_match`, net/core/fib_rules.c).
    ForMarked,
    /// The rule sends every look-up to table local.
    LookUpLocal,
    /// Any other effect.
    Other,
}

/// The attributes of a route that this crate compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) family: Family,
    pub(crate) prefix_length: u8,
    pub(crate) tos: u8,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    pub(crate) scope: u8,
    pub(crate) kind: u8,
    /// The route is a cached copy (`RTM_F_CLONED`), no entry of the table.
    pub(crate) cloned: bool,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) link: Option<u32>,
    pub(crate) prefsrc: Option<IpAddr>,
    pub(crate) metric: u32,
    /// The route has a gateway, several next hops, a nexthop object, an encapsulation or a source
    /// prefix. This crate adds no route of this kind.
    pub(crate) indirect: bool,
    /// The route uses a nexthop object.
    pub(crate) by_object: bool,
    /// A digest of the metrics (MTU and others) and realms, by which IPv4 distinguishes routes of the
    /// same key (`fib_find_info`, net/ipv4/fib_semantics.c). 0: none.
    pub(crate) metrics_digest: u32,
    /// IPv6: the route has a lifetime. After the lifetime the kernel does not use the route, but the
    /// table shows it until garbage collection (`fib6_age`, net/ipv6/ip6_fib.c).
    pub(crate) expires: bool,
}

impl Route {
    /// Whether the kernel made this local route for an address. Only the kernel can add an IPv6 route
    /// of metric 0: a request with metric 0 adds a route of metric 1024.
    pub(crate) fn is_kernels_own(&self) -> bool {
        self.kind == libc::RTN_LOCAL
            && self.metric == 0
            && match self.family {
                Family::V6 => true,
                Family::V4 => {
                    self.protocol == libc::RTPROT_KERNEL
                        && self.tos == 0
                        && self.prefsrc == self.destination
                }
            }
    }

    /// Whether the route's prefix contains this address.
    pub(crate) fn leads_to(&self, addr: &IpAddr) -> bool {
        let destination = self.destination.unwrap_or(self.family.unspecified());
        IpNet::new(destination, self.prefix_length).is_ok_and(|prefix| prefix.contains(addr))
    }

    /// The destination, if it is a single host.
    pub(crate) fn host(&self) -> Option<IpAddr> {
        self.destination
            .filter(|_| self.prefix_length == self.family.host_bits())
    }
}

/// One address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) addr: IpAddr,
    pub(crate) prefix_length: u8,
    pub(crate) flags: u32,
    pub(crate) link: u32,
    /// Remaining lifetimes in seconds. `u32::MAX` means for ever.
    pub(crate) valid: u32,
    pub(crate) preferred: u32,
    /// Time of its creation, in hundredths of a second since boot.
    pub(crate) created: u32,
    /// IFA_PROTO, Linux 5.18.
    pub(crate) protocol: Option<u8>,
    pub(crate) rt_priority: Option<u32>,
    /// The peer, if it is another address.
    pub(crate) peer: Option<IpAddr>,
    /// IPv4: the address's broadcast address.
    pub(crate) broadcast: Option<IpAddr>,
}

impl Address {
    /// Reads the times from a `struct ifa_cacheinfo`.
    pub(super) fn set_times(&mut self, times: &[u8]) -> Result<(), Malformed> {
        self.preferred = u32_at(times, 0).ok_or(Malformed)?;
        self.valid = u32_at(times, 4).ok_or(Malformed)?;
        self.created = u32_at(times, 8).ok_or(Malformed)?;
        Ok(())
    }
}

/// One entry of the table of address labels (RFC 6724, 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) prefix: Ipv6Net,
    /// The link of the addresses that the label is for; 0: all links.
    pub(crate) link: u32,
    pub(crate) label: u32,
}

/// One link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    /// Whether the message concerns the link itself. A bridge also sends `RTM_DELLINK` for a port that
    /// leaves the bridge (`br_ifinfo_notify`, net/bridge/br_netlink.c).
    pub(crate) is_itself: bool,
    pub(crate) index: u32,
    pub(crate) flags: u32,
    attributes: &'a [u8],
}

/// What VIPs depend on of a link. Any other change of the link leaves its addresses and routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkTraits {
    /// [`LINK_FLAGS`] of the flags.
    flags: u32,
    master: Option<u32>,
    in_vrf: bool,
    /// How the kernel makes the link-local address (`addrgenmode`).
    generation: Option<u8>,
    ipv6_disabled: Option<bool>,
    is_mtu_for_ipv6: bool,
}

impl LinkTraits {
    pub(crate) fn is_up(self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }
}

/// The link is up; it does not use ARP, whose change restarts IPv6 (`addrconf_notify`,
/// net/ipv6/addrconf.c). The carrier removes and restores no local route, and an address that is no
/// longer tentative has a notification of its own.
const LINK_FLAGS: i32 = libc::IFF_UP | libc::IFF_NOARP;

/// The least MTU with which a link has IPv6 (`IPV6_MIN_MTU`, linux/in6.h).
pub(crate) const IPV6_MIN_MTU: u32 = 1280;

/// Attributes of a link (linux/if_link.h).
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// Index into IFLA_INET6_CONF (linux/ipv6.h, `DEVCONF_DISABLE_IPV6`).
const DEVCONF_DISABLE_IPV6: usize = 26;

impl<'a> Link<'a> {
    /// The value of the attribute at the end of a path of nested attributes.
    fn attribute(&self, path: &[u16]) -> Option<&'a [u8]> {
        path.iter().try_fold(self.attributes, |inside, kind| {
            attributes(inside)
                .map_while(Result::ok)
                .find(|(of, _)| of == kind)
                .map(|(_, value)| value)
        })
    }

    fn inet6(&self, kind: u16) -> Option<&'a [u8]> {
        let inet6 = u16::try_from(libc::AF_INET6).unwrap_or_default();
        self.attribute(&[libc::IFLA_AF_SPEC, inet6, kind])
    }

    /// The link's name.
    pub(crate) fn name(&self) -> Option<&'a str> {
        let name = self.attribute(&[libc::IFLA_IFNAME])?;
        std::str::from_utf8(name.strip_suffix(&[0])?).ok()
    }

    /// Whether this is the link's name or one of its alternative names. The kernel finds a link by any
    /// of them (Linux 5.5).
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let others = self.attribute(&[libc::IFLA_PROP_LIST]).unwrap_or_default();
        self.name() == Some(name)
            || attributes(others)
                .map_while(Result::ok)
                .filter(|(kind, _)| *kind == libc::IFLA_ALT_IFNAME)
                .any(|(_, other)| other.strip_suffix(&[0]) == Some(name.as_bytes()))
    }

    /// The link's driver, as in `ip link add ... type`.
    pub(crate) fn kind(&self) -> Option<&'a [u8]> {
        let kind = self.attribute(&[libc::IFLA_LINKINFO, libc::IFLA_INFO_KIND])?;
        Some(kind.strip_suffix(&[0]).unwrap_or(kind))
    }

    /// Whether the link is enslaved to a VRF.
    pub(crate) fn in_vrf(&self) -> bool {
        self.attribute(&[libc::IFLA_LINKINFO, libc::IFLA_INFO_SLAVE_KIND])
            .is_some_and(|kind| kind.starts_with(b"vrf"))
    }

    /// Whether IPv6 is disabled on the link. `None` if the link has no IPv6 at all, because its MTU is
    /// too small or the kernel has no IPv6.
    pub(crate) fn ipv6_disabled(&self) -> Option<bool> {
        self.inet6(IFLA_INET6_CONF)
            .and_then(|conf| u32_at(conf, DEVCONF_DISABLE_IPV6 * 4))
            .map(|value| value != 0)
    }

    /// What VIPs depend on.
    pub(crate) fn traits(&self) -> LinkTraits {
        let generation = self.inet6(IFLA_INET6_ADDR_GEN_MODE);
        let master = self.attribute(&[libc::IFLA_MASTER]);
        LinkTraits {
            flags: self.flags & LINK_FLAGS.unsigned_abs(),
            master: master.and_then(|index| number(index).ok()),
            in_vrf: self.in_vrf(),
            generation: generation.and_then(|mode| mode.first().copied()),
            ipv6_disabled: self.ipv6_disabled(),
            is_mtu_for_ipv6: self.mtu().is_none_or(|mtu| mtu >= IPV6_MIN_MTU),
        }
    }

    /// The link's MTU.
    pub(crate) fn mtu(&self) -> Option<u32> {
        number(self.attribute(&[libc::IFLA_MTU])?).ok()
    }
}

/// Iterates over the kind and value of the attributes in `bytes`. Ends after the first malformed
/// attribute.
///
/// For a message that the [dump cache](super::dump_cache) cannot compare, this iteration is most of the
/// cost of reading. The iterator of netlink-packet-core calls functions that are not inlined, and would
/// cost more than all the rest.
pub(super) fn attributes(
    mut bytes: &[u8],
) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut bytes);
        let Some([l0, l1, k0, k1]) = rest.first_chunk().copied() else {
            return Some(Err(Malformed));
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = rest.get(NLA_HEADER_SIZE..length) else {
            return Some(Err(Malformed));
        };
        // The last attribute may lack its padding.
        bytes = rest.get(aligned(length)..).unwrap_or_default();
        Some(Ok((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value)))
    })
}

fn family_of(byte: u8) -> Option<Family> {
    match i32::from(byte) {
        libc::AF_INET => Some(Family::V4),
        libc::AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

pub(super) fn address_of(family: Family, value: &[u8]) -> Result<IpAddr, Malformed> {
    match family {
        Family::V4 => <[u8; 4]>::try_from(value).map(IpAddr::from),
        Family::V6 => <[u8; 16]>::try_from(value).map(IpAddr::from),
    }
    .map_err(|_| Malformed)
}

fn number(value: &[u8]) -> Result<u32, Malformed> {
    value
        .try_into()
        .map(u32::from_ne_bytes)
        .map_err(|_| Malformed)
}
