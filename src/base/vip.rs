//! The VIP type, and the addresses that can be VIPs.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::named;

/// A service address: one host, a /32 in IPv4 or a /128 in IPv6.
///
/// Converts from the address types of the standard library, and from a prefix or text that names exactly
/// one host. The call that gets a VIP decides whether it is *admissible* (see [`RejectReason`]), because
/// that depends on the manager's sources and allowed ranges.
///
/// ```
/// use std::net::Ipv4Addr;
/// use viproute::Vip;
///
/// let a = Vip::from(Ipv4Addr::new(10, 96, 0, 10));
/// let b: Vip = "10.96.0.10/32".parse()?;
/// assert_eq!(a, b);
/// assert!("10.96.0.0/24".parse::<Vip>().is_err());
/// # Ok::<(), viproute::ParseVipError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vip(IpAddr);

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

named! { Family:
    Self::V4 => "ipv4", "IPv4";
    Self::V6 => "ipv6", "IPv6";
}

impl Family {
    /// Both families, IPv4 first.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub(crate) const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address of zeros.
    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The length of a host prefix in bits: 32 or 128.
    pub(crate) const fn host_bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl Vip {
    /// The address.
    #[must_use]
    pub const fn addr(&self) -> IpAddr {
        self.0
    }

    /// The address family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(&self.0)
    }

    /// Whether this address can be a VIP at all. [`VipManager::check`](crate::VipManager::check) also
    /// looks at the sources and ranges of a manager.
    ///
    /// ```
    /// use viproute::{RejectReason, Vip};
    ///
    /// assert_eq!("10.96.0.10".parse::<Vip>()?.check(), Ok(()));
    /// assert_eq!("::1".parse::<Vip>()?.check(), Err(RejectReason::Loopback));
    /// # Ok::<(), viproute::ParseVipError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Why the address names no single host. [`RejectReason::LinkLocal`] also for an IPv4 address that a
    /// manager with an [allowed](crate::VipManagerBuilder::allow) range inside 169.254.0.0/16 admits.
    pub fn check(&self) -> Result<(), RejectReason> {
        self.inadmissible().map_or(Ok(()), Err)
    }

    /// Why this address can be no VIP under any configuration.
    pub(crate) fn inadmissible(&self) -> Option<RejectReason> {
        match self.0 {
            IpAddr::V4(a) => inadmissible_v4(a),
            IpAddr::V6(a) => inadmissible_v6(a),
        }
    }
}

/// IPv4 before IPv6, in numeric order. Compares the addresses as numbers: the order of `Ipv6Addr`
/// compares segment by segment, which would slow down sorting.
impl Ord for Vip {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.to_bits().cmp(&b.to_bits()),
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits().cmp(&b.to_bits()),
            _ => self.family().cmp(&other.family()),
        }
    }
}

impl PartialOrd for Vip {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn inadmissible_v4(a: Ipv4Addr) -> Option<RejectReason> {
    first([
        // 0.0.0.0/8 is "this network" (RFC 1122 3.2.1.3): never a destination.
        (a.octets()[0] == 0, RejectReason::Unspecified),
        (a.is_loopback(), RejectReason::Loopback),
        (a.is_multicast(), RejectReason::Multicast),
        (a.is_link_local(), RejectReason::LinkLocal),
        (a.is_broadcast(), RejectReason::Broadcast),
    ])
}

fn inadmissible_v6(a: Ipv6Addr) -> Option<RejectReason> {
    first([
        (a.is_unspecified(), RejectReason::Unspecified),
        (a.is_loopback(), RejectReason::Loopback),
        (a.is_multicast(), RejectReason::Multicast),
        (a.is_unicast_link_local(), RejectReason::LinkLocal),
        (a.to_ipv4_mapped().is_some(), RejectReason::V4Mapped),
    ])
}

/// The first reason that applies.
fn first(reasons: [(bool, RejectReason); 5]) -> Option<RejectReason> {
    let applies = reasons.into_iter().find(|(applies, _)| *applies);
    applies.map(|(_, reason)| reason)
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<IpAddr> for Vip {
    fn from(addr: IpAddr) -> Self {
        Self(addr)
    }
}

impl From<Ipv4Addr> for Vip {
    fn from(addr: Ipv4Addr) -> Self {
        Self(IpAddr::V4(addr))
    }
}

impl From<Ipv6Addr> for Vip {
    fn from(addr: Ipv6Addr) -> Self {
        Self(IpAddr::V6(addr))
    }
}

impl From<&IpAddr> for Vip {
    fn from(addr: &IpAddr) -> Self {
        Self(*addr)
    }
}

impl From<&Ipv4Addr> for Vip {
    fn from(addr: &Ipv4Addr) -> Self {
        Self::from(*addr)
    }
}

impl From<&Ipv6Addr> for Vip {
    fn from(addr: &Ipv6Addr) -> Self {
        Self::from(*addr)
    }
}

impl From<&Vip> for Vip {
    fn from(vip: &Vip) -> Self {
        *vip
    }
}

impl From<Vip> for IpAddr {
    fn from(vip: Vip) -> Self {
        vip.0
    }
}

/// The text or prefix does not name exactly one host address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not one host address: give an IPv4 or IPv6 address, alone or as /32 or /128")]
pub struct ParseVipError(Box<str>);

impl TryFrom<IpNet> for Vip {
    type Error = ParseVipError;

    fn try_from(net: IpNet) -> Result<Self, ParseVipError> {
        if net.prefix_len() == net.max_prefix_len() {
            Ok(Self(net.addr()))
        } else {
            Err(ParseVipError(net.to_string().into()))
        }
    }
}

impl TryFrom<Ipv4Net> for Vip {
    type Error = ParseVipError;

    fn try_from(net: Ipv4Net) -> Result<Self, ParseVipError> {
        IpNet::V4(net).try_into()
    }
}

impl TryFrom<Ipv6Net> for Vip {
    type Error = ParseVipError;

    fn try_from(net: Ipv6Net) -> Result<Self, ParseVipError> {
        IpNet::V6(net).try_into()
    }
}

impl FromStr for Vip {
    type Err = ParseVipError;

    fn from_str(text: &str) -> Result<Self, ParseVipError> {
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Self(addr));
        }
        match text.parse::<IpNet>() {
            Ok(net) => net.try_into(),
            Err(_) => Err(ParseVipError(text.into())),
        }
    }
}

/// Why an address is not admissible as a VIP. Nothing is written for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// `::`, or an address in 0.0.0.0/8.
    Unspecified,
    /// In 127.0.0.0/8, or `::1`.
    Loopback,
    /// In 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// In fe80::/10, or in 169.254.0.0/16 unless
    /// [`VipManagerBuilder::allow`](crate::VipManagerBuilder::allow) was given a range inside it.
    LinkLocal,
    /// 255.255.255.255.
    Broadcast,
    /// In ::ffff:0:0/96: give the IPv4 address itself.
    V4Mapped,
    /// Equal to the node's own address, a source of this manager.
    IsSource,
    /// Outside every range given to [`VipManagerBuilder::allow`](crate::VipManagerBuilder::allow).
    OutsideAllowed,
    /// In a range given to [`VipManagerBuilder::deny`](crate::VipManagerBuilder::deny).
    Denied,
    /// No source of its family was given to [`VipManagerBuilder::source`](crate::VipManagerBuilder::source), and the
    /// family does not [keep the kernel's](crate::VipManagerBuilder::kernel_source) either.
    NoSource,
}

named! { RejectReason:
    Self::Unspecified => "unspecified", "the unspecified address names no host";
    Self::Loopback => "loopback", "a loopback address names every host itself";
    Self::Multicast => "multicast", "a multicast address names no host";
    Self::LinkLocal => "link_local", "a link-local address has no meaning beyond its link";
    Self::Broadcast => "broadcast", "the broadcast address names no host";
    Self::V4Mapped => "v4_mapped",
        "it is an IPv4-mapped IPv6 address: give the IPv4 address itself";
    Self::IsSource => "is_source", "it is the source, not a VIP";
    Self::OutsideAllowed => "outside_allowed", "it is outside the allowed ranges";
    Self::Denied => "denied", "it is in a denied range";
    Self::NoSource => "no_source", "no source address of its family was given";
}

impl std::error::Error for RejectReason {}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4 first, each as the standard library orders its addresses.
    #[test]
    fn the_order_is_that_of_the_addresses() {
        let ascending = [
            "1.2.3.4",
            "1.2.4.3",
            "255.0.0.0",
            "::1",
            "0:1::",
            "1::",
            "ff00::1",
        ];
        let vips = ascending.map(|text| text.parse::<Vip>().unwrap());
        for (at, a) in vips.iter().enumerate() {
            for (of, b) in vips.iter().enumerate() {
                assert_eq!(a.cmp(b), at.cmp(&of), "{a} {b}");
                assert_eq!(a.cmp(b), a.addr().cmp(&b.addr()), "{a} {b}");
            }
        }
    }

    #[test]
    fn text_and_prefixes_name_one_host() {
        for good in [
            "10.96.0.10",
            "10.96.0.10/32",
            "2001:db8::1",
            "2001:db8::1/128",
        ] {
            let vip: Vip = good.parse().unwrap();
            assert_eq!(vip.to_string(), good.split('/').next().unwrap());
        }
        for bad in [
            "",
            "10.96.0.0/24",
            "2001:db8::/64",
            "10.96.0",
            "vip",
            "10.96.0.1/33",
            "::1 ",
        ] {
            assert!(bad.parse::<Vip>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn admissibility() {
        let cases: &[(&str, Option<RejectReason>)] = &[
            ("0.0.0.0", Some(RejectReason::Unspecified)),
            ("0.1.2.3", Some(RejectReason::Unspecified)),
            ("127.0.0.1", Some(RejectReason::Loopback)),
            ("127.255.0.1", Some(RejectReason::Loopback)),
            ("224.0.0.1", Some(RejectReason::Multicast)),
            ("239.255.255.255", Some(RejectReason::Multicast)),
            ("169.254.20.10", Some(RejectReason::LinkLocal)),
            ("255.255.255.255", Some(RejectReason::Broadcast)),
            ("10.96.0.10", None),
            ("203.0.113.7", None),
            ("::", Some(RejectReason::Unspecified)),
            ("::1", Some(RejectReason::Loopback)),
            ("ff02::1", Some(RejectReason::Multicast)),
            ("fe80::1", Some(RejectReason::LinkLocal)),
            ("febf::1", Some(RejectReason::LinkLocal)),
            ("::ffff:10.96.0.10", Some(RejectReason::V4Mapped)),
            ("fd00::1", None),
            ("2001:db8::1", None),
        ];
        for (text, want) in cases {
            let vip: Vip = text.parse().unwrap();
            assert_eq!(vip.inadmissible(), *want, "{text}");
        }
    }
}
