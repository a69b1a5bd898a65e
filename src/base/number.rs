//! The numbers of a route, each with its own type.

use std::fmt;
use std::num::NonZeroU8;

use super::{TABLE_LOCAL, TABLE_MAIN};

/// The protocol of a route, which says who added it (`rtm_protocol`, linux/rtnetlink.h).
///
/// ```
/// use viproute::Protocol;
///
/// let mark = Protocol::try_from(201)?;
/// assert_eq!((mark.get(), mark.to_string()), (201, "201".to_owned()));
/// assert_eq!(Protocol::KERNEL.to_string(), "kernel");
/// assert!(Protocol::try_from(0).is_err());
/// # Ok::<(), viproute::InvalidProtocol>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Protocol(NonZeroU8);

impl Protocol {
    /// `proto kernel`, the default. Network managers such as systemd-networkd leave routes of this
    /// protocol alone.
    pub const KERNEL: Self = Self(NonZeroU8::MIN.saturating_add(1));

    /// A protocol by its number, 1 to 255. `None` for 0, which means *any* in a deletion.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match NonZeroU8::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

/// The number 0 is no protocol of a route: in a deletion it means any protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("0 is no protocol of a route: give a number from 1 to 255")]
#[non_exhaustive]
pub struct InvalidProtocol;

impl TryFrom<u8> for Protocol {
    type Error = InvalidProtocol;

    fn try_from(number: u8) -> Result<Self, InvalidProtocol> {
        Self::new(number).ok_or(InvalidProtocol)
    }
}

/// The protocol's name in `ip` (`kernel`, `boot`, `static`), or its number.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            libc::RTPROT_KERNEL => f.write_str("kernel"),
            libc::RTPROT_BOOT => f.write_str("boot"),
            libc::RTPROT_STATIC => f.write_str("static"),
            number => write!(f, "{number}"),
        }
    }
}

/// A routing table (`rtm_table`, linux/rtnetlink.h).
///
/// ```
/// use viproute::Table;
///
/// assert_eq!(Table::LOCAL.to_string(), "local");
/// assert_eq!(Table(100).to_string(), "100");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Table(pub u32);

impl Table {
    /// Table local, 255.
    pub const LOCAL: Self = Self(TABLE_LOCAL);
    /// Table main, 254.
    pub const MAIN: Self = Self(TABLE_MAIN);
}

/// The table's name in `ip` (`local`, `main`), or its number.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LOCAL => f.write_str("local"),
            Self::MAIN => f.write_str("main"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// The metric of a route (`RTA_PRIORITY`). The kernel uses the route of the lowest metric to a
/// destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Metric(pub u32);

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The type of a route (`rtm_type`, linux/rtnetlink.h).
///
/// ```
/// use viproute::RouteType;
///
/// assert_eq!(RouteType::LOCAL.to_string(), "local");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RouteType(pub u8);

impl RouteType {
    /// A route to the node itself, 2.
    pub const LOCAL: Self = Self(libc::RTN_LOCAL);

    /// The type's name in `ip`, which accepts types by name only.
    pub(crate) const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::RTN_UNICAST => "unicast",
            libc::RTN_LOCAL => "local",
            libc::RTN_BROADCAST => "broadcast",
            libc::RTN_ANYCAST => "anycast",
            libc::RTN_MULTICAST => "multicast",
            libc::RTN_BLACKHOLE => "blackhole",
            libc::RTN_UNREACHABLE => "unreachable",
            libc::RTN_PROHIBIT => "prohibit",
            libc::RTN_THROW => "throw",
            _ => return None,
        })
    }
}

/// The type's name in `ip`, or its number.
impl fmt::Display for RouteType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
