//! Matches the kernel's routes and addresses with the desired state of a VIP.

use super::Facts;
use crate::base::{
    AddressAttrs, DesiredRoute, Family, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_HOMEADDRESS,
    IFA_F_MANAGETEMPADDR, IFA_F_MCAUTOJOIN, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFA_F_TENTATIVE,
    IP6_USER_METRIC, PerFamily, RouteKey, TABLE_LOCAL, TABLE_MAIN, staged_lifetime,
};
use crate::netlink::decode::{Address, Route};

/// The state that observed routes and addresses are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatchContext<'a> {
    /// The link that holds the VIPs.
    pub(crate) link: u32,
    /// The desired routes of IPv4 and IPv6.
    pub(crate) desired: &'a PerFamily<DesiredRoute>,
    /// Hundredths of a second since boot.
    pub(crate) now: u32,
    /// Whether the flags of addresses are kept, for an audit.
    pub(crate) keeps_flags: bool,
}

impl MatchContext<'_> {
    /// Whether the kernel's own route is the desired route of a family.
    pub(crate) fn keeps_kernels(&self, family: Family) -> bool {
        self.desired[family].source.is_kernel()
    }

    /// The fact that a VIP of this family has the desired route.
    pub(crate) fn desired_fact(&self, family: Family) -> Facts {
        Facts::desired(self.keeps_kernels(family))
    }
}

/// The facts that a route shows of its destination, if any.
pub(super) fn meaning(route: &Route, context: &MatchContext<'_>) -> Option<Facts> {
    if route.cloned || !matches!(route.table, TABLE_LOCAL | TABLE_MAIN) {
        return None;
    }
    if route.link != Some(context.link) || route.indirect {
        // A multipath route names no single link, so the route may go through the VIPs' link.
        let through_link = route.indirect && route.link.is_none_or(|link| link == context.link);
        let other = route.family == Family::V6 && (route.by_object || through_link);
        let fact = if other {
            Facts::FOREIGN | Facts::AMBIGUOUS_DELETE_LOCAL
        } else {
            Facts::FOREIGN
        };
        return (route.table == TABLE_LOCAL).then_some(fact);
    }
    Some(classify_on_link(route, &context.desired[route.family]))
}

/// The facts that a direct route through the link, in table local or main, shows of its VIP.
fn classify_on_link(route: &Route, desired: &DesiredRoute) -> Facts {
    if route.table == TABLE_MAIN {
        // The metric of a prefix route is 256, or the address's own (IFA_RT_PRIORITY).
        let prefix = route.family == Family::V6 && route.protocol == libc::RTPROT_KERNEL;
        return if prefix { Facts::PREFIX } else { Facts::EXTRA };
    }
    if route.is_kernels_own() {
        return Facts::KERNEL;
    }
    if route.family == Family::V6 && route.metric == 0 {
        // The kernel's route for an anycast address, which must not change.
        return Facts::FOREIGN;
    }
    let (same_key, scope_fits) = match route.family {
        Family::V4 => (
            route.tos == 0 && route.metric == 0,
            route.scope == libc::RT_SCOPE_HOST,
        ),
        Family::V6 => (route.metric == IP6_USER_METRIC, true),
    };
    if !same_key {
        return Facts::EXTRA;
    }
    let local = route.kind == libc::RTN_LOCAL;
    // Without a desired source no source is wrong, but no route is the desired one either.
    let source = desired.source.address();
    let from_source = source.is_none() || route.prefsrc == source;
    let mut fact = Facts::empty();
    let form_fits = local && scope_fits;
    fact.set(Facts::WRONG_SOURCE, !form_fits || !from_source);
    fact.set(Facts::SAME_KEY_EXPIRES, route.expires);
    fact.set(Facts::WRONG_PROTOCOL, route.protocol != desired.protocol);
    let marked = route.protocol == desired.protocol && desired.protocol != libc::RTPROT_KERNEL;
    let mark = if marked {
        Facts::MARKED
    } else {
        Facts::empty()
    };
    if fact.is_empty() && source.is_some() {
        Facts::DESIRED | mark
    } else {
        let has_lifetime = staged_lifetime(desired).is_some();
        let is_staged = route.protocol == desired.staged && route.expires == has_lifetime;
        fact.set(Facts::STAGED, is_staged);
        fact | Facts::SAME_KEY | mark
    }
}

/// The facts that a host address on the link shows of its VIP. Its peer is not among them.
pub(super) fn meaning_of_address(address: &Address, context: &MatchContext<'_>) -> Facts {
    let family = Family::of(&address.addr);
    let has = |flag| address.flags & flag != 0;
    let mark = context.desired[family].address_protocol;
    let marked = mark.is_some() && address.protocol == mark;
    let mut facts = Facts::ADDRESS;
    facts.set(Facts::TENTATIVE, has(IFA_F_TENTATIVE));
    facts.set(Facts::DAD_FAILED, has(IFA_F_DADFAILED));
    facts.set(Facts::RECENT, is_recent(address.created, context.now));
    facts.set(Facts::MARKED | Facts::ADDRESS_MARKED, marked);
    facts.set(
        Facts::NO_PREFIX_ROUTE,
        family == Family::V4 || has(IFA_F_NOPREFIXROUTE),
    );
    facts.set(Facts::EXPIRES, expires(address));
    facts
}

fn expires(address: &Address) -> bool {
    address.valid != u32::MAX
}

/// The attributes that an update of the address must repeat, if it expires or has a metric.
pub(super) fn attrs_to_repeat(address: &Address) -> Option<AddressAttrs> {
    let expires = expires(address);
    if !expires && address.rt_priority.is_none() {
        return None;
    }
    let settable = IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_MCAUTOJOIN;
    Some(AddressAttrs {
        flags: address.flags & settable,
        end: address.peer.unwrap_or(address.addr),
        expires,
        deprecated: address.flags & IFA_F_DEPRECATED != 0 || address.preferred == 0,
        protocol: address.protocol,
        rt_priority: address.rt_priority,
    })
}

pub(super) fn key_of(route: &Route) -> RouteKey {
    RouteKey {
        table: route.table,
        metric: route.metric,
        protocol: route.protocol,
        kind: route.kind,
        tos: route.tos,
        prefsrc: route.prefsrc,
    }
}

/// How long after the creation of an address its late route may still come, in hundredths of a second.
/// The route comes within microseconds, or milliseconds under load.
pub(crate) const RECENT_FOR: u32 = 150;

/// How far the kernel's tick clock may be ahead of `CLOCK_MONOTONIC`, in hundredths of a second.
const CLOCKS_DIFFER: u32 = 100;

fn is_recent(created: u32, now: u32) -> bool {
    now.wrapping_sub(created).wrapping_add(CLOCKS_DIFFER) < RECENT_FOR + CLOCKS_DIFFER
}
