//! What was seen of each VIP.

use std::fmt;

bitflags::bitflags! {
    /// How a VIP differs from its single-route state. Empty: it does not.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Drift: u16 {
        /// The VIP's address is not on the link.
        const MISSING_ADDRESS = 1;
        /// The address is on the link with another prefix length than /32 or /128.
        const WRONG_PREFIX_LENGTH = 1 << 1;
        /// The address is tentative: duplicate address detection has not ended (RFC 4862 5.4).
        const TENTATIVE = 1 << 2;
        /// Duplicate address detection found the address in use elsewhere.
        const DAD_FAILED = 1 << 3;
        /// The kernel's prefix route of the address is in table main, or will be after the next
        /// link flap because the address lacks `IFA_F_NOPREFIXROUTE`. IPv6 only.
        const PREFIX_ROUTE = 1 << 4;
        /// The kernel's own local route is there and has the VIP as its source.
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
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, _) in self.iter_names() {
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            for part in name.split_inclusive('_') {
                match part.strip_suffix('_') {
                    Some(word) => write!(f, "{} ", word.to_ascii_lowercase())?,
                    None => f.write_str(&part.to_ascii_lowercase())?,
                }
            }
        }
        Ok(())
    }
}
