//! What the kernel sent, read in place.

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

/// The bytes do not form what their header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One netlink message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// In a notification: the port of the socket whose request caused it; 0 for the kernel itself,
    /// and for every IPv6 address.
    pub(crate) port: u32,
    payload: &'a [u8],
}

/// Splits a datagram into its messages. Ends after the first malformed one.
pub(crate) fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

#[derive(Clone, Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let rest = std::mem::take(&mut self.rest);
            let message = match split(rest) {
                Some((message, rest)) => {
                    self.rest = rest;
                    message
                }
                None => return Some(Err(Malformed)),
            };
            if message.kind != NLMSG_NOOP {
                return Some(Ok(message));
            }
        }
    }
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
    // The last message of a datagram may come without its padding.
    Some((message, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// Where what follows begins (`NLMSG_ALIGN` and `NLA_ALIGN`). Written out, because
/// `next_multiple_of` divides and checks: a fifteenth of all reading.
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
    /// The kernel's own words.
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
            // Behind the code stands the request's header and, unless capped, its payload; an
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

    /// Reads an RTM_NEWROUTE or RTM_DELROUTE; `None` for a family that is not ours.
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
            more: 0,
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
                // struct rta_cacheinfo: its third member, in IPv6 0 for what does not expire.
                libc::RTA_CACHEINFO if family == Family::V6 => {
                    route.expires = u32_at(value, 8).is_some_and(|left| left != 0);
                }
                libc::RTA_METRICS | libc::RTA_FLOW => {
                    let digest = |digest: u32, byte: &u8| {
                        digest.wrapping_mul(31).wrapping_add(u32::from(*byte))
                    };
                    route.more = value.iter().fold(route.more ^ u32::from(kind), digest);
                }
                _ => {}
            }
        }
        Ok(Some(route))
    }

    /// The links of the next hops of a route that has several of its own, in order.
    pub(crate) fn hops(&self) -> impl Iterator<Item = u32> {
        let attributes = attributes(self.payload.get(RTMSG..).unwrap_or_default());
        let hops = attributes
            .map_while(Result::ok)
            .find(|(kind, _)| *kind == libc::RTA_MULTIPATH);
        let mut rest = hops.map(|(_, hops)| hops).unwrap_or_default();
        // struct rtnexthop: length, flags, weight, index; and attributes.
        std::iter::from_fn(move || {
            let index = u32_at(rest, 4)?;
            let length = usize::from(u16_at(rest, 0)?).max(RTNEXTHOP);
            rest = rest.get(aligned(length)..).unwrap_or_default();
            Some(index)
        })
    }

    /// Reads an RTM_NEWADDR or RTM_DELADDR; `None` for a family that is not ours.
    pub(crate) fn address(&self) -> Result<Option<Address>, Malformed> {
        let fixed: &[u8; IFADDRMSG] = self.payload.first_chunk().ok_or(Malformed)?;
        let Some(family) = family_of(fixed[0]) else {
            return Ok(None);
        };
        let mut local = None;
        let mut peer = None;
        let mut address = Address {
            prefix_length: fixed[1],
            // The header has the low byte; IFA_FLAGS, where present, has them all.
            flags: u32::from(fixed[2]),
            link: u32_at(fixed, 4).ok_or(Malformed)?,
            addr: match family {
                Family::V4 => IpAddr::from([0; 4]),
                Family::V6 => IpAddr::from([0; 16]),
            },
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
                IFA_FLAGS => address.flags = number(value)?,
                libc::IFA_CACHEINFO => address.set_times(value)?,
                IFA_RT_PRIORITY => address.rt_priority = Some(number(value)?),
                IFA_PROTO => address.protocol = value.first().copied(),
                _ => {}
            }
        }
        // With a peer, IFA_LOCAL is ours and IFA_ADDRESS the other end's.
        address.addr = local.or(peer).ok_or(Malformed)?;
        address.peer = peer.filter(|peer| *peer != address.addr);
        Ok(Some(address))
    }

    /// Reads an RTM_NEWADDRLABEL; `None` for a family that is not IPv6.
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

    /// Reads an RTM_NEWRULE: what the rule does to look-ups that have no mark, as ours.
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

/// Attributes that libc does not have (linux/rtnetlink.h, linux/if_addr.h).
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;

/// Length of `struct rtnexthop` (linux/rtnetlink.h).
const RTNEXTHOP: usize = 8;

/// Length of `struct ifaddrlblmsg`, and its attributes (linux/if_addrlabel.h).
const IFADDRLBLMSG: usize = 12;
const IFAL_ADDRESS: u16 = 1;
const IFAL_LABEL: u16 = 2;

/// Length of `struct fib_rule_hdr`, and what is in it (linux/fib_rules.h).
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

/// What a routing rule may do to a look-up without a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It matches traffic with a mark only (`fib_rule_match`, net/core/fib_rules.c).
    ForMarked,
    /// It sends every look-up to table local.
    LookUpLocal,
    /// Anything else.
    Other,
}

/// One route, as far as we compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) family: Family,
    pub(crate) prefix_length: u8,
    pub(crate) tos: u8,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    pub(crate) scope: u8,
    pub(crate) kind: u8,
    /// A cached copy (`RTM_F_CLONED`), no entry of the table.
    pub(crate) cloned: bool,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) link: Option<u32>,
    pub(crate) prefsrc: Option<IpAddr>,
    pub(crate) metric: u32,
    /// It has a gateway, several next hops, a nexthop object, an encapsulation or a source prefix:
    /// never one that we made.
    pub(crate) indirect: bool,
    /// It goes through a nexthop object.
    pub(crate) by_object: bool,
    /// A digest of what else IPv4 tells routes apart by: an MTU and its like, and realms. 0: none.
    pub(crate) more: u32,
    /// IPv6: it has a lifetime. When that has passed it serves nobody, and the table still shows it
    /// for a while.
    pub(crate) expires: bool,
}

impl Route {
    /// Whether the kernel made this local route by itself, for an address. In IPv6 only the kernel
    /// can make metric 0: for user space it means 1024.
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

    /// Whether its prefix holds this address.
    pub(crate) fn leads_to(&self, addr: &IpAddr) -> bool {
        let destination = self.destination.unwrap_or(match self.family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        });
        IpNet::new(destination, self.prefix_length).is_ok_and(|prefix| prefix.contains(addr))
    }

    /// The destination, if it is one host.
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
    /// Remaining lifetimes in seconds; `u32::MAX` is for ever.
    pub(crate) valid: u32,
    pub(crate) preferred: u32,
    /// When it was made, in hundredths of a second since boot.
    pub(crate) created: u32,
    /// IFA_PROTO, Linux 5.18.
    pub(crate) protocol: Option<u8>,
    pub(crate) rt_priority: Option<u32>,
    /// The other end, where that is another address.
    pub(crate) peer: Option<IpAddr>,
    /// IPv4: the broadcast address that it was given.
    pub(crate) broadcast: Option<IpAddr>,
}

impl Address {
    /// Takes its times from a `struct ifa_cacheinfo`.
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
    /// The link whose addresses it is for; 0 for those of all links.
    pub(crate) link: u32,
    pub(crate) label: u32,
}

/// One link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link<'a> {
    /// Whether it is told of for its own sake: where a bridge tells of a port, "deleted" means that
    /// it is no port any more (`br_ifinfo_notify`, net/bridge/br_netlink.c).
    pub(crate) is_itself: bool,
    pub(crate) index: u32,
    pub(crate) flags: u32,
    attributes: &'a [u8],
}

/// Attributes of a link (linux/if_link.h).
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INET6_CONF: u16 = 2;
/// Index into IFLA_INET6_CONF (linux/ipv6.h, `DEVCONF_DISABLE_IPV6`).
const DEVCONF_DISABLE_IPV6: usize = 26;

impl<'a> Link<'a> {
    /// The value of an attribute behind a path of nested ones.
    fn attribute(&self, path: &[u16]) -> Option<&'a [u8]> {
        path.iter().try_fold(self.attributes, |inside, kind| {
            attributes(inside)
                .map_while(Result::ok)
                .find(|(of, _)| of == kind)
                .map(|(_, value)| value)
        })
    }

    /// The link's name.
    pub(crate) fn name(&self) -> Option<&'a str> {
        let name = self.attribute(&[libc::IFLA_IFNAME])?;
        std::str::from_utf8(name.strip_suffix(&[0])?).ok()
    }

    /// Whether this is the link's name, or one of its alternative ones, by which the kernel finds it
    /// just as well (Linux 5.5).
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let others = self.attribute(&[IFLA_PROP_LIST]).unwrap_or_default();
        self.name() == Some(name)
            || attributes(others)
                .map_while(Result::ok)
                .filter(|(kind, _)| *kind == IFLA_ALT_IFNAME)
                .any(|(_, other)| other.strip_suffix(&[0]) == Some(name.as_bytes()))
    }

    /// The kind of the link's driver, as `ip link add ... type` names it.
    pub(crate) fn kind(&self) -> Option<&'a [u8]> {
        let kind = self.attribute(&[IFLA_LINKINFO, IFLA_INFO_KIND])?;
        Some(kind.strip_suffix(&[0]).unwrap_or(kind))
    }

    /// Whether the link is enslaved to a VRF.
    pub(crate) fn in_vrf(&self) -> bool {
        self.attribute(&[IFLA_LINKINFO, IFLA_INFO_SLAVE_KIND])
            .is_some_and(|kind| kind.starts_with(b"vrf"))
    }

    /// Whether IPv6 is disabled on the link. `None` where the link has no IPv6 that could be: its
    /// MTU is too small, or the kernel has none.
    pub(crate) fn ipv6_disabled(&self) -> Option<bool> {
        let inet6 = u16::try_from(libc::AF_INET6).unwrap_or_default();
        self.attribute(&[IFLA_AF_SPEC, inet6, IFLA_INET6_CONF])
            .and_then(|conf| u32_at(conf, DEVCONF_DISABLE_IPV6 * 4))
            .map(|value| value != 0)
    }

    /// The link's MTU.
    pub(crate) fn mtu(&self) -> Option<u32> {
        number(self.attribute(&[libc::IFLA_MTU])?).ok()
    }
}

/// The attributes of a message, or those nested in one, each with its kind and value. Ends after
/// the first malformed one.
///
/// Our own, because where a dump does not repeat itself (see [`repeat`](super::dump_cache)), this walk is
/// most of the reading: netlink-packet-core's goes through calls that are not inlined, and costs
/// more than all the rest.
pub(super) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

#[derive(Clone, Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some([l0, l1, k0, k1]) = rest.first_chunk().copied() else {
            return Some(Err(Malformed));
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = rest.get(NLA_HEADER_SIZE..length) else {
            return Some(Err(Malformed));
        };
        // The last one may come without its padding.
        self.rest = rest.get(aligned(length)..).unwrap_or_default();
        Some(Ok((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value)))
    }
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
