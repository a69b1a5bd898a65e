//! The desired routes and addresses of a VIP, and the keys of their deletion.

use std::cmp::Ordering;
use std::net::IpAddr;

use super::{Family, IP6_PREFIX_METRIC, TABLE_LOCAL, TABLE_MAIN, user_metric};

/// The attributes that a deletion names to delete exactly one route.
///
/// The order is that of the deletions. A deletion without a metric or a source matches any of them, so it goes
/// last: the others have then deleted what it could hit instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteKey {
    pub(crate) table: u32,
    pub(crate) metric: u32,
    pub(crate) protocol: u8,
    pub(crate) kind: u8,
    pub(crate) tos: u8,
    /// The kernel compares it in IPv4 only.
    pub(crate) prefsrc: Option<IpAddr>,
}

impl Ord for RouteKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |key: &Self| {
            let matches_any = (key.metric == 0, key.prefsrc.is_none());
            let exact = (key.table, key.metric, key.protocol, key.kind, key.tos);
            (matches_any, exact, key.prefsrc)
        };
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for RouteKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The attributes of an address that an update of its lifetime must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressAttrs {
    /// The flags that user space can set.
    pub(crate) flags: u32,
    /// The peer; the VIP itself if the address has no peer.
    pub(crate) end: IpAddr,
    /// Its valid lifetime is finite.
    pub(crate) expires: bool,
    /// Its preferred lifetime is 0.
    pub(crate) deprecated: bool,
    pub(crate) protocol: Option<u8>,
    pub(crate) rt_priority: Option<u32>,
}

/// The desired preferred source of a family's routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SourcePolicy {
    /// None is given, so no route is the desired one. A release needs none.
    #[default]
    Unset,
    /// An address of the node.
    Address(IpAddr),
    /// The kernel's own route is the desired route.
    Kernel,
}

impl SourcePolicy {
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Unset | Self::Kernel => None,
        }
    }

    pub(crate) fn is_kernel(self) -> bool {
        self == Self::Kernel
    }
}

/// The desired route of one family through the link, and the attributes of new addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DesiredRoute {
    pub(crate) family: Family,
    pub(crate) link: u32,
    pub(crate) source: SourcePolicy,
    pub(crate) protocol: u8,
    /// The protocol of the staged route. If it equals `protocol`, the staged route has a lifetime
    /// instead (see [`staged_lifetime`]).
    pub(crate) staged: u8,
    /// The mark of new addresses (IFA_PROTO), if any.
    pub(crate) address_protocol: Option<u8>,
    /// Whether new IPv6 addresses are deprecated (preferred lifetime 0).
    pub(crate) deprecated: bool,
}

/// The key of the desired route.
pub(crate) fn desired_key(want: &DesiredRoute) -> RouteKey {
    RouteKey {
        table: TABLE_LOCAL,
        metric: user_metric(want.family),
        protocol: want.protocol,
        kind: libc::RTN_LOCAL,
        tos: 0,
        prefsrc: want.source.address(),
    }
}

/// The key of the staged route, which a deletion of the kernel's route cannot match.
pub(crate) fn staged_key(want: &DesiredRoute) -> RouteKey {
    RouteKey {
        protocol: want.staged,
        ..desired_key(want)
    }
}

/// The lifetime, in seconds, that distinguishes a staged route of the same protocol from the desired
/// route. A staged route with a lifetime still delivers. A staged route without its source would lose
/// TCP segments (seen on 6.18). Only IPv6 has staged routes.
pub(crate) fn staged_lifetime(want: &DesiredRoute) -> Option<u32> {
    let same = want.staged == want.protocol;
    (same && want.family == Family::V6).then_some(24 * 60 * 60)
}

/// The key of the kernel's prefix route of an IPv6 address. The metric is the address's, if it has one
/// (`addrconf_prefix_route`, net/ipv6/addrconf.c).
pub(crate) fn prefix_key(metric: Option<u32>) -> RouteKey {
    RouteKey {
        table: TABLE_MAIN,
        metric: metric.unwrap_or(IP6_PREFIX_METRIC),
        protocol: libc::RTPROT_KERNEL,
        kind: libc::RTN_UNICAST,
        tos: 0,
        prefsrc: None,
    }
}

/// The key of the kernel's own local route of `vip`.
///
/// In IPv6 metric 0 matches *any* metric, and the kernel deletes the route of the lowest: its own, if it
/// exists (`ip6_route_del`, net/ipv6/route.c). So this deletion is sent only while the desired route is
/// staged, missing, or of another protocol.
pub(crate) fn kernel_key(vip: &IpAddr) -> RouteKey {
    RouteKey {
        table: TABLE_LOCAL,
        metric: 0,
        protocol: libc::RTPROT_KERNEL,
        kind: libc::RTN_LOCAL,
        tos: 0,
        prefsrc: Some(*vip),
    }
}
