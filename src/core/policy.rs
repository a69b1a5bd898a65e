//! The goal of a call, and the part of the manager's configuration that decides its steps.

use crate::base::named;

/// The goal of a call for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    /// On the link, in the single-route state.
    Assign,
    /// In the single-route state, if the VIP is on the link. Never adds the VIP.
    Normalize,
    /// Not on the link.
    Release,
    /// Observed only.
    Look,
}

impl Goal {
    /// Whether another device's route to the VIP prevents the goal.
    pub(crate) fn is_threatened(self) -> bool {
        matches!(self, Self::Assign | Self::Normalize)
    }
}

/// How a VIP is bound to its link.
///
/// ```
#[doc = include_str!("../keeper/example.txt")]
/// use viproute::Binding;
///
/// assert_eq!(Binding::default(), Binding::Address);
/// let mut vips = VipManager::builder("vips")
///     .source([192, 0, 2, 10])
///     .create_link(LinkKind::Bridge)
///     .binding(Binding::Route)
///     .open()?;
/// assert_eq!(vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?.assigned, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binding {
    /// By its address on the link and the desired route. This is the default.
    ///
    /// Programs that use addresses see the VIP (`ip addr`, `bind`, ARP and NDP). The kernel's cost of
    /// adding an address grows with the number of addresses on the link.
    #[default]
    Address,
    /// By the desired route alone ("AnyIP"), without an address on the link.
    ///
    /// The cost of a VIP does not grow with the number of VIPs: a hundred thousand take less than a second.
    /// There is no late route. The limits:
    ///
    /// * IPv6 `bind` to the VIP needs `IPV6_FREEBIND` or the sysctl `ip_nonlocal_bind`. IPv4 `bind`
    ///   works.
    /// * NDP does not answer for the VIP. ARP answers only with `arp_ignore=0`.
    /// * `ip addr` does not show the VIP.
    /// * IPv6 VIPs disappear when the link goes down.
    /// * When the last IPv4 address of the link is removed, the kernel flushes every IPv4 route through
    ///   the link.
    Route,
}

named! { Binding:
    Self::Address => "address", "by address and route";
    Self::Route => "route", "by route alone";
}

/// The goal and the part of the manager's configuration that [`next`](super::next) needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Policy {
    pub(crate) goal: Goal,
    /// The desired route has the kernel's own protocol, so a deletion by protocol could hit it.
    pub(crate) as_kernel: bool,
    pub(crate) binding: Binding,
    /// The kernel's own route is the desired route.
    pub(crate) kernel_source: bool,
}

#[cfg(any(test, feature = "bench-internals"))]
impl Policy {
    pub(crate) const ASSIGN: Self = Self {
        goal: Goal::Assign,
        as_kernel: true,
        binding: Binding::Address,
        kernel_source: false,
    };
}
