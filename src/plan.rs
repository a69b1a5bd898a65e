//! What should change: one pure function from what was seen to the next steps.

#[cfg(test)]
mod check;
#[cfg(test)]
mod model;

use crate::report::{Cause, Operation};
use crate::state::{Facts, Phase};
use crate::vip::Family;

/// What a call wants for each of its VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// On the link, in the single-route state.
    Assign,
    /// In the single-route state, if it is on the link; never put there.
    Normalize,
    /// Not on the link.
    Release,
}

/// What `next` must know of the manager's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) goal: Goal,
    /// The wanted route bears the kernel's own protocol, so a deletion by that protocol could hit
    /// it.
    pub(crate) as_kernel: bool,
}

/// One message for one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// Add the address; fails where it is there.
    AddAddress,
    /// Set NOPREFIXROUTE on the address, which deletes its prefix route.
    UpdateAddress,
    DeleteAddress,
    /// Add our route; fails where the place is taken, by whatever device.
    AddRoute,
    /// The same under the transit protocol.
    AddTransit,
    /// Replace what is in the place by our route, or add it.
    ReplaceRoute,
    /// The same under the transit protocol.
    ReplaceTransit,
    /// Replace what is in the place by our route, but never add it.
    ReplaceExisting,
    /// Delete the wanted route.
    DeleteOurs,
    /// Delete the kernel's local route (by protocol, not by metric: see
    /// [`kernel_key`](crate::wire::encode::kernel_key)).
    DeleteKernel,
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
            Self::DeleteAddress => Operation::DeleteAddress,
            Self::AddRoute | Self::AddTransit => Operation::AddRoute,
            Self::ReplaceRoute | Self::ReplaceTransit | Self::ReplaceExisting => {
                Operation::ReplaceRoute
            }
            Self::DeleteOurs | Self::DeleteKernel | Self::DeleteOthers => Operation::DeleteRoute,
        }
    }

    /// What an error reply to this step means for the VIP.
    pub(crate) fn refused(self, errno: i32) -> Refusal {
        match (self, errno) {
            // Something else was faster, or got in our way: the next observation tells.
            (Self::AddAddress | Self::AddRoute | Self::AddTransit, libc::EEXIST)
            // IPv4: the very route is there, but behind another one.
            | (Self::ReplaceRoute | Self::ReplaceTransit | Self::ReplaceExisting, libc::EEXIST)
            | (Self::ReplaceExisting, libc::ENOENT)
            | (Self::DeleteOurs | Self::DeleteKernel | Self::DeleteOthers, libc::ESRCH)
            | (Self::DeleteAddress, libc::EADDRNOTAVAIL)
            // The kernel is short of something that comes back.
            | (_, libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EAGAIN | libc::EINTR) => {
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

/// What to do for a VIP now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is as wanted.
    Done,
    /// Send these, in this order; then look again.
    Steps(&'static [Step]),
    /// Send nothing; the kernel has something to finish.
    Wait,
    /// It cannot be made as wanted.
    Fail(Cause),
}

/// The next steps for one VIP, from what was just seen of it.
///
/// It remembers nothing, except for what `phase` says of this call: whether the call itself made
/// the address, and whether it has seen the kernel's route since. Sent steps may fail or be lost;
/// the next observation leads to the right ones.
pub(crate) fn next(family: Family, facts: Facts, phase: Phase, policy: Policy) -> Next {
    match policy.goal {
        Goal::Release => release(facts),
        Goal::Assign | Goal::Normalize => {
            if let Some(next) = obstacle(facts, phase, policy.goal) {
                return next;
            }
            match family {
                Family::V4 => settle_v4(facts),
                Family::V6 => settle_v6(facts, phase, policy.as_kernel),
            }
        }
    }
}

/// What forbids to write the wanted state.
fn obstacle(facts: Facts, phase: Phase, goal: Goal) -> Option<Next> {
    if facts.contains(Facts::FOREIGN) {
        let good = facts.drift().is_empty();
        return Some(match (good, phase.contains(Phase::FRESH)) {
            // It is there, but the look-up said that ours is the one that is used.
            (true, _) => Next::Done,
            // It came while we were at work: take back what this call put there.
            (false, true) if facts.contains(Facts::OURS) => Next::Steps(&[Step::DeleteOurs]),
            (false, true) if facts.contains(Facts::ADDRESS) => Next::Steps(&[Step::DeleteAddress]),
            (false, _) => Next::Fail(Cause::Conflict),
        });
    }
    if facts.intersects(Facts::OTHER_LENGTH | Facts::DAD_FAILED) {
        return Some(Next::Fail(Cause::Unrepaired));
    }
    if !facts.contains(Facts::ADDRESS) && goal == Goal::Normalize {
        return Some(Next::Fail(Cause::Unrepaired));
    }
    if facts.contains(Facts::TENTATIVE) {
        return Some(Next::Wait);
    }
    None
}

/// IPv4: the kernel's route is there at once, in the place of ours, and a replace is in place.
fn settle_v4(facts: Facts) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        // Side by side for each VIP: ten thousand addresses first would leave as many different
        // preferred sources in the kernel's table of route properties. Never creating: where the
        // address is refused, no route is left behind.
        Next::Steps(&[Step::AddAddress, Step::ReplaceExisting])
    } else if !facts.contains(Facts::OURS) {
        if facts.intersects(Facts::SLOT | Facts::KERNEL) {
            Next::Steps(&[Step::ReplaceRoute])
        } else {
            Next::Steps(&[Step::AddRoute])
        }
    } else {
        rest(facts)
    }
}

/// IPv6: the kernel's route comes late, beside ours, and wins.
fn settle_v6(facts: Facts, phase: Phase, as_kernel: bool) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        // A route that outlived its address would pass for the wanted one before the kernel's late
        // one has come. Under the transit protocol it still delivers, and waits to be ours again.
        // In a round of its own: were it refused beside the address, it would pass all the same.
        return Next::Steps(if facts.contains(Facts::OURS) {
            &[Step::ReplaceTransit]
        } else {
            &[Step::AddAddress]
        });
    }
    if !facts.contains(Facts::NO_PREFIX_ROUTE) {
        // The cause of the prefix route; with it goes the route itself.
        return Next::Steps(&[Step::UpdateAddress]);
    }
    let kernel = facts.contains(Facts::KERNEL);
    let new = phase.contains(Phase::FRESH) || facts.contains(Facts::YOUNG);
    if new && !facts.contains(Facts::OURS) && !kernel && !phase.contains(Phase::SETTLED) {
        // The kernel's route is on its way: ours now would leave two, and deleting would hit ours
        // or nothing. Where ours is there, somebody has been through this.
        return Next::Wait;
    }
    if facts.intersects(Facts::OURS | Facts::SLOT) {
        return match (kernel, as_kernel) {
            // While ours bears another protocol, the deletion cannot hit it, even if the kernel's
            // route went away since it was seen.
            (true, true) => {
                Next::Steps(&[Step::ReplaceTransit, Step::DeleteKernel, Step::ReplaceRoute])
            }
            (true, false) => Next::Steps(&[Step::ReplaceRoute, Step::DeleteKernel]),
            (false, _) if facts.contains(Facts::OURS) => rest(facts),
            (false, _) => Next::Steps(&[Step::ReplaceRoute]),
        };
    }
    match (kernel, phase.contains(Phase::FRESH), as_kernel) {
        (false, _, _) => Next::Steps(&[Step::AddRoute]),
        // Nobody uses it yet, so the kernel's may go first: one message less. Unless a further route
        // made the VIP local before: should the kernel's be gone already, that would be hit.
        (true, true, _) if !facts.contains(Facts::EXTRA) => {
            Next::Steps(&[Step::DeleteKernel, Step::AddRoute])
        }
        // Make before break.
        (true, _, true) => Next::Steps(&[Step::AddTransit]),
        (true, _, false) => Next::Steps(&[Step::AddRoute]),
    }
}

/// With our route in place: what is left over beside it.
fn rest(facts: Facts) -> Next {
    let others = facts.intersects(Facts::SLOT | Facts::EXTRA | Facts::PREFIX);
    match (facts.contains(Facts::KERNEL), others) {
        (false, false) => Next::Done,
        (false, true) => Next::Steps(&[Step::DeleteOthers]),
        (true, false) => Next::Steps(&[Step::DeleteKernel]),
        (true, true) => Next::Steps(&[Step::DeleteKernel, Step::DeleteOthers]),
    }
}

/// The routes first, then the address: deleting an IPv6 address walks every route of the node
/// (`rt6_remove_prefsrc`, net/ipv6/route.c), and takes the kernel's own routes with it.
fn release(facts: Facts) -> Next {
    if facts.contains(Facts::OTHER_LENGTH) {
        // The routes serve that address too, which is not ours to remove: half a release would cut
        // it off.
        return Next::Fail(Cause::Unrepaired);
    }
    let address = facts.contains(Facts::ADDRESS);
    let ours = facts.contains(Facts::OURS);
    let others =
        facts.intersects(Facts::SLOT | Facts::EXTRA) || facts.contains(Facts::PREFIX) && !address;
    match (ours, others, address) {
        (true, true, true) => {
            Next::Steps(&[Step::DeleteOurs, Step::DeleteOthers, Step::DeleteAddress])
        }
        (true, true, false) => Next::Steps(&[Step::DeleteOurs, Step::DeleteOthers]),
        (true, false, true) => Next::Steps(&[Step::DeleteOurs, Step::DeleteAddress]),
        (true, false, false) => Next::Steps(&[Step::DeleteOurs]),
        (false, true, true) => Next::Steps(&[Step::DeleteOthers, Step::DeleteAddress]),
        (false, true, false) => Next::Steps(&[Step::DeleteOthers]),
        (false, false, true) => Next::Steps(&[Step::DeleteAddress]),
        (false, false, false) if facts.contains(Facts::KERNEL) => {
            Next::Steps(&[Step::DeleteKernel])
        }
        (false, false, false) if facts.contains(Facts::PREFIX) => {
            Next::Steps(&[Step::DeleteOthers])
        }
        (false, false, false) => Next::Done,
    }
}
