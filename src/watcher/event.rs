//! What a watcher says.

use std::fmt;
use std::net::IpAddr;

use crate::base::{Vip, named};
use crate::core::write_names;
use crate::link::LinkIndex;

bitflags::bitflags! {
    /// What changed of a VIP.
    ///
    /// ```
    /// use viproute::Change;
    ///
    /// let change = Change::ADDRESS_SET | Change::ROUTE_REMOVED;
    /// assert_eq!(change.to_string(), "address set, route removed");
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Change: u8 {
        /// Its address was added to the link, or its flags or lifetimes changed.
        const ADDRESS_SET = 1;
        /// Its address was removed from the link.
        const ADDRESS_REMOVED = 1 << 1;
        /// A route to it through the link was added or replaced.
        const ROUTE_SET = 1 << 2;
        /// A route to it through the link was removed.
        const ROUTE_REMOVED = 1 << 3;
        /// Another device's local route to it was added, replaced or removed.
        const FOREIGN_ROUTE = 1 << 4;
    }
}

/// `address set, route removed`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.iter_names().map(|(name, _)| name))
    }
}

bitflags::bitflags! {
    /// Who caused the changes of an event, by the port ids of their notifications. A burst of changes
    /// of one VIP is one event, so an event may have several origins.
    ///
    /// ```
    /// use viproute::Origin;
    ///
    /// let origin = Origin::OURS | Origin::KERNEL;
    /// assert_eq!(origin.to_string(), "this manager and the kernel");
    /// // Another process had no part in it.
    /// assert!(!origin.contains(Origin::OTHER));
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Origin: u8 {
        /// The manager that the watcher belongs to.
        const OURS = 1;
        /// Another process, or another socket of this one.
        const OTHER = 1 << 1;
        /// The kernel by itself.
        const KERNEL = 1 << 2;
        /// The kernel does not say: notifications of IPv6 addresses bear no port id
        /// (`inet6_ifa_notify`, net/ipv6/addrconf.c).
        const UNKNOWN = 1 << 3;
    }
}

/// To follow "by": `this manager and the kernel`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, origin) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(" and ")?;
            }
            f.write_str(match origin {
                Self::OURS => "this manager",
                Self::OTHER => "another process",
                Self::KERNEL => "the kernel",
                _ => "an unknown process",
            })?;
        }
        Ok(())
    }
}

/// Something that happened. Printed, it is a line for a log, without the link's name.
///
/// Events are only of VIPs that the manager could hold: a host address of the link, or a local or
/// unicast host route, that is no loopback, link-local or multicast one, no source, and within the
/// allowed ranges. An address with another prefix length is no VIP, and neither it nor the kernel's
/// own route for it makes an event, not even where the VIP of that address is on the link too.
///
/// ```
#[doc = include_str!("../keeper/example.txt")]
/// let mut manager = manager;
/// let mut watcher = manager.watcher()?;
/// manager.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
/// let mut events = Vec::new();
/// watcher.read(&mut events)?;
/// let is_of_vip = |event: &viproute::Event| {
///     matches!(event, viproute::Event::Vip { vip, .. } if vip.to_string() == "10.96.0.10")
/// };
/// assert!(events.iter().any(is_of_vip));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A VIP changed. Several changes of one VIP in one burst are one event.
    Vip {
        /// Which.
        vip: Vip,
        /// In what respects.
        change: Change,
        /// By whom.
        origin: Origin,
    },
    /// An address of the node outside the link was added or changed: perhaps a source.
    NodeAddressSet(IpAddr),
    /// An address of the node outside the link was removed: perhaps a source.
    NodeAddressRemoved(IpAddr),
    /// The link is there and up, with this index.
    LinkUp(LinkIndex),
    /// The link is there and down.
    LinkDown(LinkIndex),
    /// The link is gone: deleted or moved to another namespace; where it is followed by its name,
    /// also renamed.
    LinkGone,
    /// Notifications were lost. Read the VIPs anew
    /// ([`audit`](crate::VipManager::audit), [`reconcile`](crate::VipManager::reconcile)). The
    /// watcher looks the link up itself. If the link is another one now, an event says so.
    Resync,
}

named! { Event:
    Self::Vip { vip, change, origin } => "vip", "{vip}: {change} by {origin}";
    Self::NodeAddressSet(addr) => "node_address_set", "node address {addr} set";
    Self::NodeAddressRemoved(addr) => "node_address_removed", "node address {addr} removed";
    Self::LinkUp(index) => "link_up", "the link is up, with index {index}";
    Self::LinkDown(index) => "link_down", "the link is down, with index {index}";
    Self::LinkGone => "link_gone", "the link is gone";
    Self::Resync => "resync", "notifications were lost";
}
