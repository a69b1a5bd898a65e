//! The state of the link and of the sources, on which the reachability of VIPs depends.

use std::fmt;

/// The state of the link for the VIPs of one family.
///
/// ```
#[doc = include_str!("../keeper/example.txt")]
/// use viproute::{Family, LinkStatus, SourceStatus};
///
/// # let mut vips = manager;
/// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
/// let audit = vips.audit()?;
/// assert_eq!(audit.link(Family::V4), LinkStatus::Up);
/// assert_eq!(audit.source(Family::V4), SourceStatus::Present);
/// assert_eq!(audit.source(Family::V6), SourceStatus::NotGiven);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkStatus {
    /// The link is up, and the family works on it.
    #[default]
    Up,
    /// The link is down. The kernel has removed its IPv6 VIPs, or does not serve them. The routes of
    /// IPv4 VIPs work.
    Down,
    /// The link is enslaved to a VRF, which does not use table local.
    InVrf,
    /// IPv6 is disabled on the link (`net/ipv6/conf/LINK/disable_ipv6`).
    Ipv6Disabled,
    /// The link has no IPv6, because its MTU is below 1280 (RFC 8200, section 5; `addrconf_notify`,
    /// net/ipv6/addrconf.c).
    MtuTooSmall,
    /// The link has no IPv6, because the kernel has none.
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

/// The state of a family's source: whether the kernel accepts it as the preferred source of a route.
///
/// See the example of [`LinkStatus`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceStatus {
    /// The source is an address of the node, and the kernel accepts it.
    Present,
    /// Duplicate address detection has not ended (RFC 4862, 5.4): the kernel does not accept the source
    /// yet.
    Tentative,
    /// Duplicate address detection found the source on another node: the kernel does not accept it.
    DadFailed,
    /// The source is on a link that is down, where duplicate address detection cannot end.
    LinkDown,
    /// The source is no address of the node.
    Missing,
    /// No source was given, and the family does not
    /// [keep the kernel's route](crate::VipManagerBuilder::kernel_source).
    #[default]
    NotGiven,
    /// The family [keeps the kernel's route](crate::VipManagerBuilder::kernel_source), whose source is
    /// the VIP itself.
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
