//! What should change: one pure function from what was seen to the next steps.

use super::{Binding, Cause, Done, Facts, Goal, LateRoute, Policy, Progress, Step};
use crate::base::Family;

/// What to do for a VIP now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is as wanted.
    Done,
    /// Send these, in this order; then look again.
    Steps(&'static [Step]),
    /// Send nothing; the kernel has something to finish.
    Wait,
    /// Send nothing; more may be there than was seen.
    Read,
    /// It cannot be made as wanted.
    Fail(Cause),
}

/// The next steps for one VIP, from what was just seen of it.
///
/// It remembers nothing, except for what `progress` says of this call: whether the call itself made
/// the address, and whether it has seen the kernel's route since. Sent steps may fail or be lost;
/// the next observation leads to the right ones.
pub(crate) fn next(family: Family, facts: Facts, progress: Progress, policy: Policy) -> Next {
    match policy.goal {
        Goal::Look => Next::Done,
        _ if facts.is_unread() => Next::Read,
        Goal::Release => release(facts, progress),
        Goal::Assign | Goal::Normalize => {
            if let Some(next) = obstacle(facts, progress, policy) {
                return next;
            }
            match (policy.binding, family) {
                (Binding::Route, _) => plan_route_only(family, facts, policy.goal),
                (Binding::Address, _) if policy.kernel_source => {
                    plan_kernel_source(family, facts, progress, policy.goal)
                }
                (Binding::Address, Family::V4) => plan_v4(facts, policy.goal),
                (Binding::Address, Family::V6) => plan_v6(facts, progress, policy),
            }
        }
    }
}

/// What forbids to write the wanted state.
fn obstacle(facts: Facts, progress: Progress, policy: Policy) -> Option<Next> {
    if facts.contains(Facts::FOREIGN) {
        let good = facts.drift(policy).is_empty();
        return Some(match (good, progress.has(Done::ADDRESS_IS_NEW)) {
            // It is there, but the look-up said that ours is the one that is used.
            (true, _) => Next::Done,
            // It came while we were at work: take back what this call put there.
            (false, true) if facts.contains(Facts::DESIRED) => Next::Steps(&[Step::DeleteDesired]),
            (false, true) if facts.contains(Facts::ADDRESS) => Next::Steps(&[Step::DeleteAddress]),
            // Without an address of its own, too.
            (false, _)
                if policy.binding == Binding::Route
                    && progress.has(Done::WAS_ABSENT | Done::WRITTEN)
                    && facts.contains(Facts::DESIRED)
                    && !facts.contains(Facts::AMBIGUOUS_DELETE_LOCAL) =>
            {
                Next::Steps(&[Step::DeleteDesired])
            }
            (false, _) => Next::Fail(Cause::Conflict),
        });
    }
    if facts.contains(Facts::OTHER_LENGTH) {
        return Some(Next::Fail(Cause::Unrepaired));
    }
    if facts.contains(Facts::AMBIGUOUS_DELETE_MAIN)
        && facts.intersects(Facts::EXTRA | Facts::PREFIX)
    {
        // A deletion could hit that one instead.
        return Some(Next::Fail(Cause::Conflict));
    }
    match policy.binding {
        Binding::Route if must_expire(facts, policy.goal) => Some(Next::Fail(Cause::Unrepaired)),
        Binding::Address => {
            let absent = !facts.contains(Facts::ADDRESS) && policy.goal == Goal::Normalize;
            let absent = absent && !progress.has(Done::RENEWED);
            if absent || facts.contains(Facts::DAD_FAILED) {
                return Some(Next::Fail(Cause::Unrepaired));
            }
            facts.contains(Facts::TENTATIVE).then_some(Next::Wait)
        }
        Binding::Route => {
            let absent = !facts.on_link() && policy.goal == Goal::Normalize;
            (absent && !progress.has(Done::WRITTEN)).then_some(Next::Fail(Cause::Unrepaired))
        }
    }
}

/// Our route, and no address: the route first, which needs none, then the address with all that
/// the kernel made for it.
fn plan_route_only(family: Family, facts: Facts, goal: Goal) -> Next {
    if !facts.contains(Facts::DESIRED) {
        // In IPv4 the kernel's stands in the place of ours, in IPv6 beside it.
        let in_place = match family {
            Family::V4 => facts.intersects(Facts::SAME_KEY | Facts::KERNEL),
            Family::V6 => facts.contains(Facts::SAME_KEY),
        };
        Next::Steps(if in_place {
            &[Step::ReplaceRoute]
        } else {
            &[Step::AddRoute]
        })
    } else if facts.contains(Facts::ADDRESS) {
        Next::Steps(&[Step::DeleteAddress])
    } else {
        rest(facts, goal)
    }
}

/// IPv4: the kernel's route is there at once, in the place of ours.
fn plan_v4(facts: Facts, goal: Goal) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        // Side by side for each VIP: ten thousand addresses first would leave as many different
        // preferred sources in the kernel's table of route properties. A replacement would be one
        // message less, but takes the first route in the place, whosever it is by now.
        Next::Steps(if facts.intersects(Facts::ANY_ROUTE) {
            // What outlived its address still delivers: nothing goes before ours was seen.
            &[Step::AddAddress, Step::AppendRoute]
        } else {
            &[Step::AddAddress, Step::AppendRoute, Step::DeleteKernel]
        })
    } else if !facts.contains(Facts::DESIRED) {
        if facts.intersects(Facts::SAME_KEY | Facts::KERNEL) {
            Next::Steps(&[Step::ReplaceRoute])
        } else {
            Next::Steps(&[Step::AddRoute])
        }
    } else {
        rest(facts, goal)
    }
}

/// IPv6: the kernel's route comes late, beside ours, and wins.
fn plan_v6(facts: Facts, progress: Progress, policy: Policy) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        // A route that outlived its address would pass for the wanted one before the kernel's late
        // one has come. As a route in transit it still delivers, and waits to be ours again.
        // In a round of its own: were it refused beside the address, it would pass all the same.
        return Next::Steps(if facts.contains(Facts::DESIRED) {
            &[Step::ReplaceStaged]
        } else {
            &[Step::AddAddress]
        });
    }
    if progress.late_route == LateRoute::Unobserved {
        // Nearly always it has come by now. It is the only one there, so nothing else is hit.
        return Next::Steps(&[Step::DeleteKernelBlind]);
    }
    let kernel = facts.contains(Facts::KERNEL);
    let new = progress.has(Done::ADDRESS_IS_NEW) || facts.contains(Facts::RECENT);
    let told = progress.knows_late_route();
    if new && !facts.contains(Facts::DESIRED) && !kernel && !told {
        // The kernel's route is on its way: ours now would leave two, and deleting would hit ours
        // or nothing. Where ours is there, somebody has been through this. And where an attempt to
        // delete it went unheard, only time tells: ours goes in, and has to stay as it is.
        return Next::Wait;
    }
    if facts.intersects(Facts::DESIRED | Facts::SAME_KEY) {
        // What is to be deleted beside ours goes with the same send. What is in the place of ours is
        // no longer there then, and its deletion could hit ours.
        let others =
            facts.intersects(Facts::EXTRA | Facts::PREFIX) && !facts.contains(Facts::SAME_KEY);
        return Next::Steps(match (kernel, policy.as_kernel, others) {
            // While ours bears another protocol, the deletion cannot hit it, even if the kernel's
            // route went away since it was seen.
            (true, true, true) => &[
                Step::ReplaceStaged,
                Step::DeleteKernel,
                Step::ReplaceRoute,
                Step::DeleteOthers,
            ],
            (true, true, false) => &[Step::ReplaceStaged, Step::DeleteKernel, Step::ReplaceRoute],
            (true, false, true) => &[Step::ReplaceRoute, Step::DeleteKernel, Step::DeleteOthers],
            (true, false, false) => &[Step::ReplaceRoute, Step::DeleteKernel],
            (false, _, _) if facts.contains(Facts::DESIRED) => return rest(facts, policy.goal),
            (false, _, _) => &[Step::ReplaceRoute],
        });
    }
    match (kernel, progress.has(Done::ADDRESS_IS_NEW), policy.as_kernel) {
        (false, _, _) => Next::Steps(&[Step::AddRoute]),
        // Nobody uses it yet, so the kernel's may go first: one message less. Unless a further route
        // made the VIP local before: should the kernel's be gone already, that would be hit.
        (true, true, _) if !facts.contains(Facts::EXTRA) => {
            Next::Steps(&[Step::DeleteKernel, Step::AddRoute])
        }
        // Make before break.
        (true, _, true) => Next::Steps(&[Step::AddStaged]),
        (true, _, false) => Next::Steps(&[Step::AddRoute]),
    }
}

/// The address, and the route that the kernel makes for it, in the place of ours.
fn plan_kernel_source(family: Family, facts: Facts, progress: Progress, goal: Goal) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        return Next::Steps(&[Step::AddAddress]);
    }
    if facts.contains(Facts::KERNEL) {
        // Make before break: whatever else made the VIP local goes last. The kernel's stays.
        return rest(facts - Facts::KERNEL, goal);
    }
    // A young address may be another manager's, whatever was seen of an earlier one.
    let is_new = facts.contains(Facts::RECENT)
        || progress.has(Done::ADDRESS_IS_NEW) && progress.late_route != LateRoute::Seen;
    match family {
        // One like the kernel's in all is the kernel's.
        Family::V4 if facts.contains(Facts::SAME_KEY) => Next::Steps(&[Step::ReplaceRoute]),
        Family::V4 => Next::Steps(&[Step::AddRoute]),
        Family::V6 if is_new => Next::Wait,
        // The address must not become permanent.
        Family::V6 if must_expire(facts, goal) => Next::Fail(Cause::Unrepaired),
        // Metric 0 is the kernel's alone, and it makes the route with the address only.
        Family::V6 => Next::Steps(&[Step::RenewAddress, Step::AddAddress]),
    }
}

/// Whether the address has a lifetime that is to stay: of a VIP that no caller named, somebody else
/// decides how long this node has it, and may renew that (kube-vip does).
fn must_expire(facts: Facts, goal: Goal) -> bool {
    facts.contains(Facts::EXPIRES) && goal != Goal::Assign
}

/// With our route in place: what is left over beside it, and the address's lifetime. That waits for
/// all else: the update of an IPv6 address walks every one of the namespace
/// (`addrconf_verify_rtnl`, net/ipv6/addrconf.c).
fn rest(facts: Facts, goal: Goal) -> Next {
    let others = facts.intersects(Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX);
    match (facts.contains(Facts::KERNEL), others) {
        (false, false) if must_expire(facts, goal) => Next::Fail(Cause::Unrepaired),
        (false, false) if facts.contains(Facts::EXPIRES) => Next::Steps(&[Step::UpdateAddress]),
        (false, false) => Next::Done,
        (false, true) => Next::Steps(&[Step::DeleteOthers]),
        (true, false) => Next::Steps(&[Step::DeleteKernel]),
        (true, true) => Next::Steps(&[Step::DeleteKernel, Step::DeleteOthers]),
    }
}

/// The routes first, then the address: deleting an IPv6 address walks every route of the node
/// (`rt6_remove_prefsrc`, net/ipv6/route.c), and takes the kernel's own routes with it.
fn release(facts: Facts, progress: Progress) -> Next {
    if facts.contains(Facts::OTHER_LENGTH) {
        // The routes serve that address too, which is not ours to remove: half a release would cut
        // it off.
        return Next::Fail(Cause::Unrepaired);
    }
    let local = Facts::DESIRED | Facts::SAME_KEY | Facts::EXTRA;
    let main = Facts::EXTRA | Facts::PREFIX;
    if facts.contains(Facts::AMBIGUOUS_DELETE_LOCAL) && facts.intersects(local)
        || facts.contains(Facts::AMBIGUOUS_DELETE_MAIN) && facts.intersects(main)
    {
        // A deletion could hit that one instead.
        return Next::Fail(Cause::Conflict);
    }
    let address = facts.contains(Facts::ADDRESS);
    if address && progress.has(Done::BY_MARK) && !facts.contains(Facts::ADDRESS_MARKED) {
        // The mark is a route's. Did that go first, a call that ends in between would leave an
        // address that nothing shows to be ours.
        return Next::Steps(&[Step::DeleteAddress]);
    }
    let ours = facts.contains(Facts::DESIRED);
    let others = facts.intersects(Facts::SAME_KEY | Facts::EXTRA)
        || facts.contains(Facts::PREFIX) && !address;
    match (ours, others, address) {
        (true, true, true) => {
            Next::Steps(&[Step::DeleteDesired, Step::DeleteOthers, Step::DeleteAddress])
        }
        (true, true, false) => Next::Steps(&[Step::DeleteDesired, Step::DeleteOthers]),
        (true, false, true) => Next::Steps(&[Step::DeleteDesired, Step::DeleteAddress]),
        (true, false, false) => Next::Steps(&[Step::DeleteDesired]),
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
