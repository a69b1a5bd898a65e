//! The flags of an address, as the kernel reports them.

use std::fmt;

use super::drift::write_names;

bitflags::bitflags! {
    /// The flags of an address (`IFA_F_*`, linux/if_addr.h), with the kernel's values. `Display` prints
    /// their names. Unknown flags of newer kernels stay in [`bits`](Self::bits).
    ///
    /// ```
    /// use viproute::AddressFlags;
    ///
    /// let flags = AddressFlags::PERMANENT | AddressFlags::NO_DAD;
    /// assert_eq!(flags.to_string(), "no dad, permanent");
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct AddressFlags: u32 {
        /// IPv4: another address of the link has the same prefix and came first. IPv6: a temporary
        /// address (RFC 8981).
        const SECONDARY = 0x1;
        /// No duplicate address detection is done. IPv6 only.
        const NO_DAD = 0x2;
        /// The address is used before duplicate address detection has ended (RFC 4429).
        const OPTIMISTIC = 0x4;
        /// Duplicate address detection found the address on another node.
        const DAD_FAILED = 0x8;
        /// A home address of Mobile IPv6 (RFC 6275).
        const HOME_ADDRESS = 0x10;
        /// The preferred lifetime has ended: no new connection gets this source.
        const DEPRECATED = 0x20;
        /// Duplicate address detection has not ended.
        const TENTATIVE = 0x40;
        /// The valid lifetime is infinite.
        const PERMANENT = 0x80;
        /// The kernel makes temporary addresses from this address.
        const MANAGE_TEMPORARY = 0x100;
        /// The kernel makes no prefix route for the address.
        const NO_PREFIX_ROUTE = 0x200;
        /// The node joins the address's multicast group.
        const MULTICAST_AUTOJOIN = 0x400;
        /// The kernel made the address from a secret (RFC 7217).
        const STABLE_PRIVACY = 0x800;
        const _ = !0;
    }
}

impl fmt::Display for AddressFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.iter_names().map(|(name, _)| name))
    }
}
