//! The messages for a VIP, and what the kernel's refusal of one means.

use super::Operation;
use crate::base::is_shortage;

/// One message for one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// Add the address; fails where it is there.
    AddAddress,
    /// Make the address valid for ever. In IPv6 it gets NOPREFIXROUTE with that.
    UpdateAddress,
    DeleteAddress,
    /// Delete the address, for the next step to add it anew.
    RenewAddress,
    /// Add our route; fails where the place is taken, by whatever device.
    AddRoute,
    /// The same as a route in transit (see [`staged_key`](crate::netlink::encode::transit_key)).
    AddStaged,
    /// Replace what is in the place by our route, or add it.
    ReplaceRoute,
    /// The same as a route in transit.
    ReplaceStaged,
    /// Add our route behind what is in the place, by whatever device; fails where it is there.
    AppendRoute,
    /// Delete the wanted route.
    DeleteDesired,
    /// Delete the kernel's local route (by protocol, not by metric: see
    /// [`kernel_key`](crate::base::kernel_key)).
    DeleteKernel,
    /// Delete the kernel's local route without having seen it: if the kernel has none to delete,
    /// it is still on its way.
    DeleteKernelBlind,
    /// Delete every other route of the link to the VIP.
    DeleteOthers,
}

impl Step {
    /// A bit of its own, to remember what was sent.
    pub(crate) fn bit(self) -> u16 {
        1 << self as u8
    }

    /// What the report calls it.
    pub(crate) fn operation(self) -> Operation {
        match self {
            Self::AddAddress => Operation::AddAddress,
            Self::UpdateAddress => Operation::UpdateAddress,
            Self::DeleteAddress | Self::RenewAddress => Operation::DeleteAddress,
            Self::AddRoute | Self::AddStaged | Self::AppendRoute => Operation::AddRoute,
            Self::ReplaceRoute | Self::ReplaceStaged => Operation::ReplaceRoute,
            Self::DeleteDesired
            | Self::DeleteKernel
            | Self::DeleteKernelBlind
            | Self::DeleteOthers => Operation::DeleteRoute,
        }
    }

    /// What an error reply to this step means for the VIP.
    pub(crate) fn refused(self, errno: i32) -> Refusal {
        if is_shortage(errno) {
            return Refusal::LookAgain;
        }
        match (self, errno) {
            // Something else was faster, or got in our way: the next observation tells.
            (
                Self::AddAddress | Self::AddRoute | Self::AddStaged | Self::AppendRoute,
                libc::EEXIST,
            )
            // IPv4: the very route is there, but behind another one.
            | (Self::ReplaceRoute | Self::ReplaceStaged, libc::EEXIST)
            | (
                Self::DeleteDesired | Self::DeleteKernel | Self::DeleteKernelBlind | Self::DeleteOthers,
                // ENOENT: two deletions of it at once, which 6.18 does not serialise.
                libc::ESRCH | libc::ENOENT,
            )
            | (Self::DeleteAddress | Self::RenewAddress, libc::EADDRNOTAVAIL) => {
                Refusal::LookAgain
            }
            _ => Refusal::Final,
        }
    }
}

/// What an error reply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Observe and plan again; it counts only if it stays.
    LookAgain,
    /// The VIP failed.
    Final,
}
