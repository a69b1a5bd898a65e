//! The state of the link and of the sources, on which the reachability of VIPs depends.

use crate::base::named;

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

named! { LinkStatus:
    Self::Up => "up", "up";
    Self::Down => "down", "down";
    Self::InVrf => "in_vrf", "enslaved to a VRF";
    Self::Ipv6Disabled => "ipv6_disabled", "IPv6 is disabled";
    Self::MtuTooSmall => "mtu_too_small", "no IPv6, because the MTU is below 1280";
    Self::Ipv6Unsupported => "ipv6_unsupported", "no IPv6 in this kernel";
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

named! { SourceStatus:
    Self::Present => "present", "present";
    Self::Tentative => "tentative", "tentative";
    Self::DadFailed => "dad_failed", "in use elsewhere (duplicate address detection failed)";
    Self::LinkDown => "link_down", "on a link that is down";
    Self::Missing => "missing", "no address of this node";
    Self::NotGiven => "not_given", "not given";
    Self::Kernel => "kernel", "the kernel's";
}
