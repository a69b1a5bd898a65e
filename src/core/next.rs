//! The next steps for a VIP: one pure function of its facts and progress.

use super::{Binding, Cause, Done, Facts, Goal, LateRoute, Policy, Progress, Step};
use crate::base::Family;

/// The next action for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The VIP is in the desired state.
    Done,
    /// Send these steps in this order, then observe.
    Steps(&'static [Step]),
    /// Send nothing: the kernel has not finished.
    Wait,
    /// Send nothing: read again, because the VIP may have more than was seen.
    Read,
    /// The VIP cannot reach the desired state.
    Fail(Cause),
}

/// The next steps for one VIP, from the facts of the last observation.
///
/// The function has no memory but `progress`: whether this call made the address, and what it knows of
/// the late route. A sent step may fail or be lost. The next observation then leads to the right step.
///
/// The VIP works without its routes in table main. If they are unread, all steps come before the reading.
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
                (Binding::Address, Family::V4) => plan_v4(facts, progress, policy.goal),
                (Binding::Address, Family::V6) => plan_v6(facts, progress, policy),
            }
        }
    }
}

/// The obstacle to the desired state, if any.
fn obstacle(facts: Facts, progress: Progress, policy: Policy) -> Option<Next> {
    if facts.contains(Facts::FOREIGN) {
        let good = (facts - Facts::UNREAD_MAIN).drift(policy).is_empty();
        let lacks_address = progress.has(Done::APPENDED) && !facts.contains(Facts::ADDRESS);
        let is_new = progress.has(Done::ADDRESS_IS_NEW) || lacks_address;
        return Some(match (good, is_new) {
            (true, _) if facts.contains(Facts::UNREAD_MAIN) => Next::Read,
            // The other device's route exists, but the look-up used the desired route.
            (true, _) => Next::Done,
            // The other device's route came during this call: delete what this call added.
            (false, true) if facts.contains(Facts::DESIRED) => Next::Steps(&[Step::DeleteDesired]),
            (false, true) if facts.contains(Facts::ADDRESS) => Next::Steps(&[Step::DeleteAddress]),
            // The same for a route-only VIP, which has no address.
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
        return Some(Next::Fail(Cause::OtherPrefixLength));
    }
    if facts.contains(Facts::AMBIGUOUS_DELETE_MAIN)
        && facts.intersects(Facts::EXTRA | Facts::PREFIX)
    {
        // The deletion could hit the ambiguous route instead.
        return Some(Next::Fail(Cause::Conflict));
    }
    match policy.binding {
        Binding::Route if must_expire(facts, policy.goal) => {
            Some(Next::Fail(Cause::ExpiringAddress))
        }
        Binding::Address => {
            let absent = !facts.contains(Facts::ADDRESS) && policy.goal == Goal::Normalize;
            let absent = absent && !progress.has(Done::RENEWED);
            if absent {
                return Some(Next::Fail(if facts.on_link() {
                    Cause::StaleRoute
                } else {
                    Cause::NotOnLink
                }));
            }
            if facts.contains(Facts::DAD_FAILED) {
                return Some(Next::Fail(Cause::DadFailed));
            }
            facts.contains(Facts::TENTATIVE).then_some(Next::Wait)
        }
        Binding::Route => {
            let absent = !facts.on_link() && policy.goal == Goal::Normalize;
            (absent && !progress.has(Done::WRITTEN)).then_some(Next::Fail(Cause::NotOnLink))
        }
    }
}

/// The desired route without an address. The route comes first. Then the address is deleted, and the
/// kernel deletes its routes with it.
fn plan_route_only(family: Family, facts: Facts, goal: Goal) -> Next {
    if !facts.contains(Facts::DESIRED) {
        // The kernel's route has the key of the desired route in IPv4, and another key in IPv6.
        let same_key = match family {
            Family::V4 => facts.intersects(Facts::SAME_KEY | Facts::KERNEL),
            Family::V6 => facts.contains(Facts::SAME_KEY),
        };
        Next::Steps(if same_key {
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

/// IPv4: the kernel adds its route with the address, with the key of the desired route.
fn plan_v4(facts: Facts, progress: Progress, goal: Goal) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        if progress.has(Done::ROUTE_FIRST) {
            return Next::Steps(if facts.contains(Facts::DESIRED) {
                &[Step::AddAddress]
            } else {
                &[Step::AppendRoute]
            });
        }
        // Address and route of each VIP together: ten thousand addresses first would leave as many
        // preferred sources in the kernel's table of `struct fib_info`. A replacement would save a
        // message, but replaces the first route of the key, which may be another writer's.
        let survives = facts.intersects(Facts::ANY_ROUTE) && !facts.contains(Facts::DESIRED);
        Next::Steps(if survives {
            // A route that outlived its address still delivers. Delete nothing before the desired
            // route was seen.
            &[Step::AddAddress, Step::AppendRoute]
        } else {
            // If the desired route exists, the kernel refuses the addition. If the kernel has flushed
            // the route since (`fib_disable_ip`), the addition restores it before the deletion.
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

/// IPv6: the kernel's route comes late, beside the desired route, and wins.
fn plan_v6(facts: Facts, progress: Progress, policy: Policy) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        // A desired route that outlived its address would look finished before the late route has
        // come. So stage it: a staged route still delivers. Staging has a round of its own: if the
        // kernel refused it in the send of the address, the route would look finished all the same.
        return Next::Steps(if facts.contains(Facts::DESIRED) {
            &[Step::ReplaceStaged]
        } else {
            &[Step::AddAddress]
        });
    }
    if progress.late_route == LateRoute::Unobserved {
        // The late route has usually come. The VIP has no other route that the deletion could hit.
        return Next::Steps(&[Step::DeleteKernelBlind]);
    }
    let kernel = facts.contains(Facts::KERNEL);
    if !facts.intersects(Facts::DESIRED | Facts::KERNEL) && waits_for_late_route(facts, progress) {
        // Another writer's VIP may be in use. A staged route makes it local until the late route has
        // come, and no deletion by protocol `kernel` hits the staged route.
        let is_own = progress.has(Done::ADDRESS_IS_NEW);
        return match is_own || facts.contains(Facts::SAME_KEY) {
            true => Next::Wait,
            false => Next::Steps(&[Step::AddStaged]),
        };
    }
    if facts.intersects(Facts::DESIRED | Facts::SAME_KEY) || progress.is_staged(facts) {
        // Extra routes are deleted in the same send. A route of the same key is replaced, and its
        // deletion could then hit the desired route.
        let others =
            facts.intersects(Facts::EXTRA | Facts::PREFIX) && !facts.contains(Facts::SAME_KEY);
        return Next::Steps(match (kernel, policy.as_kernel, others) {
            // The deletion by protocol cannot hit a staged route, even if the kernel's route has
            // disappeared since it was seen.
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
        // No program uses a new address yet, so the kernel's route can be deleted first, which saves a
        // message. With an extra route that is unsafe: if the kernel's route has disappeared, the
        // deletion would hit the extra route.
        (true, true, _) if !facts.contains(Facts::EXTRA) => {
            Next::Steps(&[Step::DeleteKernel, Step::AddRoute])
        }
        // Make before break.
        (true, _, true) => Next::Steps(&[Step::AddStaged]),
        (true, _, false) => Next::Steps(&[Step::AddRoute]),
    }
}

/// Whether the late route will come before the desired route may. The desired route now would leave two
/// routes, and a deletion would hit the desired route or nothing.
///
/// If the desired route exists, another writer has usually completed the whole sequence. Another writer's
/// route with another source proves nothing of the late route, and is replaced at once. A keeper that has
/// verified the VIP adds a lost route at once. If the outcome of a blind deletion is unknown, add the desired
/// route. In each case, accept the desired route only after it has stayed unchanged.
fn waits_for_late_route(facts: Facts, progress: Progress) -> bool {
    let is_own = progress.has(Done::ADDRESS_IS_NEW);
    let is_others = facts.contains(Facts::RECENT)
        && !facts.contains(Facts::WRONG_SOURCE)
        && !progress.has(Done::WAS_VERIFIED);
    let knows_late_route = progress.knows_late_route();
    (is_own || is_others) && !knows_late_route
}

/// The address, with the kernel's own route as the desired route.
fn plan_kernel_source(family: Family, facts: Facts, progress: Progress, goal: Goal) -> Next {
    if !facts.contains(Facts::ADDRESS) {
        return Next::Steps(&[Step::AddAddress]);
    }
    if facts.contains(Facts::KERNEL) {
        // Make before break: delete the other routes last. The kernel's route stays.
        return rest(facts - Facts::KERNEL, goal);
    }
    // A recent address may be another manager's. Its late route is not the one seen before.
    let is_new = facts.contains(Facts::RECENT)
        || progress.has(Done::ADDRESS_IS_NEW) && progress.late_route != LateRoute::Seen;
    match family {
        // A route with all attributes of the kernel's route counts as the kernel's.
        Family::V4 if facts.contains(Facts::SAME_KEY) => Next::Steps(&[Step::ReplaceRoute]),
        Family::V4 => Next::Steps(&[Step::AddRoute]),
        Family::V6 if is_new => Next::Wait,
        // Adding the address again would make it permanent.
        Family::V6 if must_expire(facts, goal) => Next::Fail(Cause::ExpiringAddress),
        // Only the kernel can add a route of metric 0, and only when the address is added.
        Family::V6 => Next::Steps(&[Step::RenewAddress, Step::AddAddress]),
    }
}

/// Whether the address must keep its finite lifetime. If no caller named the VIP, another writer decides
/// how long this node has it, and may renew the lifetime (kube-vip does).
fn must_expire(facts: Facts, goal: Goal) -> bool {
    facts.contains(Facts::EXPIRES) && goal != Goal::Assign
}

/// The steps after the desired route exists: delete the other routes, then make the address permanent.
/// The update of an IPv6 address comes last, because it walks all addresses of the namespace
/// (`addrconf_verify_rtnl`, net/ipv6/addrconf.c).
fn rest(facts: Facts, goal: Goal) -> Next {
    let others = facts.intersects(Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX);
    match (facts.contains(Facts::KERNEL), others) {
        (false, false) if must_expire(facts, goal) => Next::Fail(Cause::ExpiringAddress),
        (false, false) if facts.contains(Facts::EXPIRES) => Next::Steps(&[Step::UpdateAddress]),
        (false, false) if facts.contains(Facts::UNREAD_MAIN) => Next::Read,
        (false, false) => Next::Done,
        (false, true) => Next::Steps(&[Step::DeleteOthers]),
        (true, false) => Next::Steps(&[Step::DeleteKernel]),
        (true, true) => Next::Steps(&[Step::DeleteKernel, Step::DeleteOthers]),
    }
}

/// Deletes the routes, then the address. The deletion of an IPv6 address walks every route of the node
/// (`rt6_remove_prefsrc`, net/ipv6/route.c). The kernel deletes its own routes with the address.
fn release(facts: Facts, progress: Progress) -> Next {
    if facts.contains(Facts::OTHER_LENGTH) {
        // The routes also serve the address with the other prefix length, which must not be deleted.
        // Deleting only the routes would cut that address off.
        return Next::Fail(Cause::OtherPrefixLength);
    }
    let local = Facts::DESIRED | Facts::SAME_KEY | Facts::EXTRA;
    let main = Facts::EXTRA | Facts::PREFIX;
    if facts.contains(Facts::AMBIGUOUS_DELETE_LOCAL) && facts.intersects(local)
        || facts.contains(Facts::AMBIGUOUS_DELETE_MAIN) && facts.intersects(main)
    {
        // The deletion could hit the ambiguous route instead.
        return Next::Fail(Cause::Conflict);
    }
    let address = facts.contains(Facts::ADDRESS);
    if progress.releases_address_first(facts) {
        return Next::Steps(&[Step::DeleteAddress]);
    }
    let desired = facts.contains(Facts::DESIRED);
    let others = facts.intersects(Facts::SAME_KEY | Facts::EXTRA)
        || facts.contains(Facts::PREFIX) && !address;
    match (desired, others, address) {
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
        (false, false, false) if facts.contains(Facts::UNREAD_MAIN) => Next::Read,
        (false, false, false) => Next::Done,
    }
}
