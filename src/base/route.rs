//! What a VIP's routes and addresses are to be, and how a deletion names them.

use std::net::IpAddr;

use super::{Family, IP6_PREFIX_METRIC, IP6_USER_METRIC, TABLE_LOCAL, TABLE_MAIN};

/// A route as it must be named to delete exactly it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    pub(crate) table: u32,
    pub(crate) metric: u32,
    pub(crate) protocol: u8,
    pub(crate) kind: u8,
    pub(crate) tos: u8,
    /// Compared by the kernel in IPv4 only.
    pub(crate) prefsrc: Option<IpAddr>,
}

/// What of an address must survive an update of its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressAttrs {
    /// The settable ones.
    pub(crate) flags: u32,
    /// The other end; the VIP itself where there is none.
    pub(crate) end: IpAddr,
    /// Its valid lifetime is finite.
    pub(crate) expires: bool,
    /// Its preferred lifetime is 0.
    pub(crate) deprecated: bool,
    pub(crate) protocol: Option<u8>,
    pub(crate) rt_priority: Option<u32>,
}

/// The wanted route of one family, and through which link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DesiredRoute {
    pub(crate) family: Family,
    pub(crate) link: u32,
    /// The wanted preferred source. Without one nothing on the node is as wanted: it is enough to
    /// release.
    pub(crate) source: Option<IpAddr>,
    /// The kernel's own route is the wanted one; then there is no source.
    pub(crate) kernel_source: bool,
    pub(crate) protocol: u8,
    /// The protocol that our route bears while the kernel's is deleted, or still to come. Where it
    /// is the same, the route has a lifetime then (see [`staged_lifetime`]).
    pub(crate) staged: u8,
    /// The mark of our addresses (IFA_PROTO), if any.
    pub(crate) address_protocol: Option<u8>,
    /// Whether our IPv6 addresses are deprecated from the start (preferred lifetime 0).
    pub(crate) deprecated: bool,
}

/// The key of our own wanted route, to delete it.
pub(crate) fn desired_key(want: &DesiredRoute) -> RouteKey {
    RouteKey {
        table: TABLE_LOCAL,
        metric: match want.family {
            Family::V4 => 0,
            Family::V6 => IP6_USER_METRIC,
        },
        protocol: want.protocol,
        kind: libc::RTN_LOCAL,
        tos: 0,
        prefsrc: want.source,
    }
}

/// The key of our own route while it must not pass for the wanted one.
pub(crate) fn staged_key(want: &DesiredRoute) -> RouteKey {
    RouteKey {
        protocol: want.staged,
        ..desired_key(want)
    }
}

/// The lifetime, in seconds, that tells our route from the wanted one meanwhile where its protocol
/// does not. It delivers as before: without its source it does not, seen on 6.18 as segments that
/// were lost. IPv6 only, which alone has routes in transit.
pub(crate) fn staged_lifetime(want: &DesiredRoute) -> Option<u32> {
    let same = want.staged == want.protocol;
    (same && want.family == Family::V6).then_some(24 * 60 * 60)
}

/// The key of the prefix route that the kernel makes for an IPv6 address, which may have a metric of
/// its own (`addrconf_prefix_route`, net/ipv6/addrconf.c).
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

/// The key of the kernel's own local route of `vip`, to delete it.
///
/// IPv6: metric 0 means *any* to the kernel, which then takes the lowest: its own, if it is there.
/// So this deletion is only sent while our route bears another protocol, or is not there.
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
