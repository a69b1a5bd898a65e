//! How a VIP differs from its single-route state.

use std::fmt;

bitflags::bitflags! {
    /// How a VIP differs from its single-route state. Empty: it does not.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Drift: u32 {
        /// The VIP's address is not on the link.
        const MISSING_ADDRESS = 1;
        /// The address is on the link with another prefix length than /32 or /128.
        const WRONG_PREFIX_LENGTH = 1 << 1;
        /// The address is tentative: duplicate address detection has not ended (RFC 4862 5.4).
        const TENTATIVE = 1 << 2;
        /// Duplicate address detection found the address in use elsewhere.
        const DAD_FAILED = 1 << 3;
        /// The kernel's prefix route of the address is in table main. IPv6 only.
        const PREFIX_ROUTE = 1 << 4;
        /// The kernel's own local route is there and has the VIP as its source. Not where the
        /// family [keeps it](crate::VipManagerBuilder::kernel_source): there it is the wanted route.
        const KERNEL_LOCAL_ROUTE = 1 << 5;
        /// The wanted route is not there.
        const MISSING_ROUTE = 1 << 6;
        /// The VIP's route has another preferred source than the wanted one, or none.
        const WRONG_SOURCE = 1 << 7;
        /// The VIP's route has another protocol than the wanted one.
        const WRONG_PROTOCOL = 1 << 8;
        /// There is a further route to the VIP through the link.
        const DUPLICATE = 1 << 9;
        /// A route to the VIP is there without its address: the node swallows its traffic.
        const STALE = 1 << 10;
        /// Another device holds a local route for the VIP.
        const CONFLICT = 1 << 11;
        /// The address is on the link, though the VIPs are bound by their routes only
        /// ([`Binding::Route`](crate::Binding::Route)).
        const UNWANTED_ADDRESS = 1 << 12;
        /// A further table has a route to the VIP through the link. Only a deep audit looks.
        const OTHER_TABLE = 1 << 13;
        /// The VIP could not be read: other hands kept changing the tables, so that every dump was
        /// interrupted, and no look-up could tell, because of the node's routing rules. What else is
        /// said of the VIP was seen; what is not said may be so all the same.
        const UNREAD = 1 << 14;
        /// The address has a finite valid lifetime: the kernel will delete it.
        const EXPIRING_ADDRESS = 1 << 15;
        /// The VIP's route has a lifetime. IPv6 only.
        const EXPIRING_ROUTE = 1 << 16;
        /// Table local holds the wanted route, and a routing rule that comes before it (`ip rule`)
        /// sends the node's own traffic to the VIP elsewhere. Only a deep audit looks.
        const DIVERTED = 1 << 20;
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.iter_names().map(|(name, _)| name))
    }
}

/// The names of flags as words: `WRONG_SOURCE` is "wrong source".
pub(crate) fn write_names<'n>(
    f: &mut fmt::Formatter<'_>,
    names: impl Iterator<Item = &'n str>,
) -> fmt::Result {
    for (at, name) in names.enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        for letter in name.chars() {
            let letter = if letter == '_' {
                ' '
            } else {
                letter.to_ascii_lowercase()
            };
            fmt::Write::write_char(f, letter)?;
        }
    }
    Ok(())
}
