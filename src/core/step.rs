//! The messages for a VIP, and the meaning of a refusal.

use super::Operation;
use crate::base::is_shortage;

/// One message for one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// Add the address. Refused if it exists.
    AddAddress,
    /// Make the address valid for ever. An IPv6 address also gets `IFA_F_NOPREFIXROUTE`.
    UpdateAddress,
    DeleteAddress,
    /// Delete the address. The next step adds it again.
    RenewAddress,
    /// Add the desired route. Refused if any device has a route of the same key.
    AddRoute,
    /// Add the staged route (see [`staged_key`](crate::base::staged_key)).
    AddStaged,
    /// Replace the route of the same key by the desired route, or add it.
    ReplaceRoute,
    /// Replace the route of the same key by the staged route, or add it.
    ReplaceStaged,
    /// Add the desired route behind the routes of the same key, of any device. Refused if it exists.
    AppendRoute,
    /// Delete the desired route.
    DeleteDesired,
    /// Delete the kernel's local route, by its protocol (see [`kernel_key`](crate::base::kernel_key)).
    DeleteKernel,
    /// Delete the kernel's local route before any observation of it, and request an echo of the deleted
    /// route. A refusal means that the kernel's route is still to come.
    DeleteKernelBlind,
    /// Delete every other route of the link to the VIP.
    DeleteOthers,
}

impl Step {
    /// The step's bit in [`Row::sent`](super::Row).
    pub(crate) fn bit(self) -> u16 {
        1 << self as u8
    }

    /// The operation in the report.
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

    /// The meaning of an error reply to this step.
    pub(crate) fn refused(self, errno: i32) -> Refusal {
        if is_shortage(errno) {
            return Refusal::LookAgain;
        }
        match (self, errno) {
            // Another writer was faster. The next observation shows the result.
            (
                Self::AddAddress | Self::AddRoute | Self::AddStaged | Self::AppendRoute,
                libc::EEXIST,
            )
            // IPv4: the same route exists behind another route of its key.
            | (Self::ReplaceRoute | Self::ReplaceStaged, libc::EEXIST)
            | (
                Self::DeleteDesired | Self::DeleteKernel | Self::DeleteKernelBlind | Self::DeleteOthers,
                // ENOENT: two simultaneous deletions, which Linux 6.18 does not serialise.
                libc::ESRCH | libc::ENOENT,
            )
            | (Self::DeleteAddress | Self::RenewAddress, libc::EADDRNOTAVAIL) => {
                Refusal::LookAgain
            }
            _ => Refusal::Final,
        }
    }
}

/// The meaning of an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Observe and plan again. The refusal counts only if the VIP stays in that state.
    LookAgain,
    /// The VIP failed.
    Final,
}
