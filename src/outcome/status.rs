//! What the reachability of VIPs rests on: the link's state, and each source's.

use std::fmt;

/// The state of the link, as far as the VIPs of one family rest on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkStatus {
    /// It is up, and the family works on it.
    #[default]
    Up,
    /// It is down. The kernel has taken the IPv6 VIPs off it, or will not serve them. The routes of
    /// IPv4 VIPs work.
    Down,
    /// It is enslaved to a VRF, where the routes of table local are not used.
    InVrf,
    /// IPv6 is disabled on it (`net/ipv6/conf/LINK/disable_ipv6`).
    Ipv6Disabled,
    /// It has no IPv6, because its MTU is below 1280 (RFC 8200, section 5; `addrconf_notify`,
    /// net/ipv6/addrconf.c).
    MtuTooSmall,
    /// It has no IPv6, because the kernel has none.
    Ipv6Unsupported,
}

impl LinkStatus {
    /// A stable name for machines, in snake_case: `up`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::InVrf => "in_vrf",
            Self::Ipv6Disabled => "ipv6_disabled",
            Self::MtuTooSmall => "mtu_too_small",
            Self::Ipv6Unsupported => "ipv6_unsupported",
        }
    }
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::InVrf => "enslaved to a VRF",
            Self::Ipv6Disabled => "IPv6 is disabled",
            Self::MtuTooSmall => "no IPv6, because the MTU is below 1280",
            Self::Ipv6Unsupported => "no IPv6 in this kernel",
        })
    }
}

/// The state of a family's source: whether the kernel takes it as the preferred source of routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceStatus {
    /// It is an address of the node, and the kernel takes it.
    Present,
    /// Duplicate address detection has not ended (RFC 4862, 5.4): the kernel does not take it yet.
    Tentative,
    /// Duplicate address detection found it in use elsewhere: the kernel does not take it.
    DadFailed,
    /// It is on a link that is down, where duplicate address detection cannot end.
    LinkDown,
    /// It is no address of the node.
    Missing,
    /// None was given, and the family does not
    /// [keep the kernel's](crate::VipManagerBuilder::kernel_source).
    #[default]
    NotGiven,
    /// The family [keeps the kernel's](crate::VipManagerBuilder::kernel_source): each VIP is its own.
    Kernel,
}

impl SourceStatus {
    /// A stable name for machines, in snake_case: `present`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Tentative => "tentative",
            Self::DadFailed => "dad_failed",
            Self::LinkDown => "link_down",
            Self::Missing => "missing",
            Self::NotGiven => "not_given",
            Self::Kernel => "kernel",
        }
    }
}

impl fmt::Display for SourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Present => "present",
            Self::Tentative => "tentative",
            Self::DadFailed => "in use elsewhere (duplicate address detection failed)",
            Self::LinkDown => "on a link that is down",
            Self::Missing => "no address of this node",
            Self::NotGiven => "not given",
            Self::Kernel => "the kernel's",
        })
    }
}
