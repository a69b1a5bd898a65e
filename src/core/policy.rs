//! What a call wants, and what of the manager's configuration decides how.

use std::fmt;

/// What a call wants for each of its VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    /// On the link, in the single-route state.
    Assign,
    /// In the single-route state, if it is on the link; never put there.
    Normalize,
    /// Not on the link.
    Release,
    /// However it is: only to be looked at.
    Look,
}

impl Goal {
    /// Whether another device's route to the VIP is in its way.
    pub(crate) fn is_threatened(self) -> bool {
        matches!(self, Self::Assign | Self::Normalize)
    }
}

/// How a VIP is bound to its link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binding {
    /// By its address on the link, and the wanted route: the default.
    ///
    /// Whatever looks at addresses sees the VIP (`ip addr`, `bind`, ARP and NDP). The kernel's cost
    /// of an address grows with the number of addresses that are there.
    #[default]
    Address,
    /// By the wanted route alone ("AnyIP"): no address on the link.
    ///
    /// The cost is flat, there is no late kernel route and nothing to leak: a hundred thousand VIPs
    /// in a second. What it costs instead: IPv6 `bind` to the VIP needs `IPV6_FREEBIND` or the
    /// sysctl `ip_nonlocal_bind` (IPv4 `bind` works); NDP does not answer for it, ARP only with
    /// `arp_ignore=0`; `ip addr` does not show it; IPv6 VIPs go when the link goes down; and
    /// whoever adds *and removes* an IPv4 address on the link, so that none is left, makes the
    /// kernel flush every IPv4 route through it.
    Route,
}

impl Binding {
    /// A stable name for machines, in snake_case: `address`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Route => "route",
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "by address and route",
            Self::Route => "by route alone",
        })
    }
}

/// What `next` must know of the manager's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Policy {
    pub(crate) goal: Goal,
    /// The wanted route bears the kernel's own protocol, so a deletion by that protocol could hit
    /// it.
    pub(crate) as_kernel: bool,
    pub(crate) binding: Binding,
    /// The VIP's family keeps the kernel's own route.
    pub(crate) kernel_source: bool,
}
