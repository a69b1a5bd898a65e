//! How a VIP differs from its single-route state.

use std::fmt;

bitflags::bitflags! {
    /// How a VIP differs from its single-route state. Empty: it does not.
    ///
    /// ```
    /// use viproute::Drift;
    ///
    /// let drift = Drift::WRONG_SOURCE | Drift::DUPLICATE;
    /// assert!(drift.contains(Drift::DUPLICATE));
    /// assert_eq!(drift.iter_names().map(|(name, _)| name).collect::<Vec<_>>(), ["WRONG_SOURCE", "DUPLICATE"]);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Drift: u32 {
        /// The VIP's address is not on the link.
        const MISSING_ADDRESS = 1;
        /// The address is on the link with another prefix length than /32 or /128.
        const WRONG_PREFIX_LENGTH = 1 << 1;
        /// The address is tentative: duplicate address detection has not ended (RFC 4862 5.4).
        const TENTATIVE = 1 << 2;
        /// Duplicate address detection found the address on another node.
        const DAD_FAILED = 1 << 3;
        /// The kernel's prefix route of the address is in table main. IPv6 only.
        const PREFIX_ROUTE = 1 << 4;
        /// The kernel's own local route exists. Its source is the VIP. Never set for a family that
        /// [keeps it](crate::VipManagerBuilder::kernel_source), whose desired route it is.
        const KERNEL_LOCAL_ROUTE = 1 << 5;
        /// The desired route is missing.
        const MISSING_ROUTE = 1 << 6;
        /// The VIP's route has no preferred source, or another than the desired one.
        const WRONG_SOURCE = 1 << 7;
        /// The VIP's route has another protocol than the desired one.
        const WRONG_PROTOCOL = 1 << 8;
        /// Another route leads to the VIP through the link.
        const DUPLICATE = 1 << 9;
        /// A route to the VIP exists without its address: the node still accepts the VIP's traffic.
        const STALE = 1 << 10;
        /// Another device holds a local route for the VIP.
        const CONFLICT = 1 << 11;
        /// The address is on the link, though the VIPs are bound by their routes only
        /// ([`Binding::Route`](crate::Binding::Route)).
        const UNWANTED_ADDRESS = 1 << 12;
        /// A table other than local and main has a route to the VIP through the link. Only a deep
        /// audit checks this.
        const OTHER_TABLE = 1 << 13;
        /// The VIP could not be read. Every dump was interrupted, because other writers kept changing
        /// the tables, and look-ups could not replace the dumps: a routing rule made them inconclusive,
        /// or the table was main. The set flags were seen; others may apply.
        const UNREAD = 1 << 14;
        /// The address has a finite valid lifetime: the kernel will delete it.
        const EXPIRING_ADDRESS = 1 << 15;
        /// The VIP's route has a lifetime. IPv6 only.
        const EXPIRING_ROUTE = 1 << 16;
        /// Table local has the desired route, but an earlier routing rule (`ip rule`) sends the node's
        /// own traffic to the VIP elsewhere. Only a deep audit checks this.
        const DIVERTED = 1 << 20;
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.iter_names().map(|(name, _)| name))
    }
}

/// Writes the names of flags as words: `WRONG_SOURCE` becomes "wrong source".
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
