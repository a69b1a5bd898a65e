//! The simulation of a row: the steps of `next`, and the facts after each.
//!
//! The unit test plays the same steps into the model of the kernel (`engine/check/model.rs`).

use std::net::IpAddr;

use super::plan::Likelihood;
use crate::base::{
    DesiredRoute, Family, RouteKey, TABLE_LOCAL, TABLE_MAIN, kernel_key, prefix_key, staged_key,
    staged_lifetime, user_metric,
};
use crate::core::{Cause, Done, Facts, Next, Policy, Progress, Step, next};

/// One event of a simulated row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Step(Step),
    /// A deletion of one route, of a [`Step::DeleteOthers`].
    Delete(RouteKey),
    /// The kernel's route comes.
    Wait(Likelihood),
}

/// How a round of a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Moved,
    Done,
    Failed(Cause),
}

/// The most rounds of a row. The model takes seven.
const ROUNDS: u16 = 20;

/// The simulated state of a row, if nothing else changes it.
#[derive(Clone, Debug)]
pub(crate) struct Simulation {
    family: Family,
    pub(crate) facts: Facts,
    progress: Progress,
    /// The routes to delete.
    others: Vec<RouteKey>,
    rounds: u16,
}

impl Simulation {
    pub(crate) fn new(
        family: Family,
        facts: Facts,
        progress: Progress,
        others: impl Iterator<Item = RouteKey>,
    ) -> Self {
        Self {
            family,
            facts,
            progress,
            others: others.collect(),
            rounds: 0,
        }
    }

    /// Simulates the link coming up. The kernel makes the routes of the link's addresses again
    /// (`fib_add_ifaddr`, net/ipv4/fib_frontend.c; `fixup_permanent_addr`, net/ipv6/addrconf.c). The
    /// routes of `broadcasts` lead to the VIP. `metric` is the address's own metric, if any.
    pub(crate) fn link_comes_up(
        &mut self,
        metric: Option<u32>,
        broadcasts: impl Iterator<Item = IpAddr>,
        desired: &DesiredRoute,
    ) {
        if self.facts.contains(Facts::ADDRESS) {
            self.facts |= Facts::KERNEL;
            if !self.facts.contains(Facts::NO_PREFIX_ROUTE) {
                self.facts |= Facts::PREFIX;
                self.others.retain(|key| !is_prefix(key));
                self.others.push(prefix_key(metric));
            }
        }
        for address in broadcasts {
            let key = RouteKey {
                kind: libc::RTN_BROADCAST,
                ..kernel_key(&address)
            };
            // The kernel does not add a route twice.
            if self.others.contains(&key) {
                continue;
            }
            self.others.push(key);
            self.facts |= Facts::SAME_KEY | Facts::WRONG_SOURCE;
            if desired.protocol != libc::RTPROT_KERNEL {
                self.facts |= Facts::WRONG_PROTOCOL;
            }
        }
    }

    /// Simulates one round.
    pub(crate) fn advance(
        &mut self,
        policy: Policy,
        desired: &DesiredRoute,
        mut emit: impl FnMut(Move, Facts),
    ) -> Turn {
        // The same transition as after every observation.
        self.progress.observed(self.facts);
        let steps = match next(self.family, self.facts, self.progress, policy) {
            Next::Done => return Turn::Done,
            Next::Fail(cause) => return Turn::Failed(cause),
            Next::Read => return Turn::Failed(Cause::Unread),
            _ if self.rounds == ROUNDS => return Turn::Failed(Cause::Pending),
            Next::Steps(steps) => steps,
            Next::Wait => {
                let certain = self.facts.contains(Facts::TENTATIVE)
                    || self.progress.has(Done::ADDRESS_IS_NEW);
                let likelihood = if certain {
                    Likelihood::Certain
                } else {
                    Likelihood::Possible
                };
                emit(Move::Wait(likelihood), self.facts);
                self.facts.remove(Facts::TENTATIVE | Facts::RECENT);
                self.facts |= Facts::KERNEL;
                self.rounds += 1;
                return Turn::Moved;
            }
        };
        self.rounds += 1;
        let before = self.facts;
        for &step in steps {
            if step == Step::DeleteOthers {
                for key in &self.others {
                    emit(Move::Delete(*key), before);
                }
            } else {
                emit(Move::Step(step), before);
            }
            self.apply(step, desired);
        }
        Turn::Moved
    }

    /// What the kernel makes of a step that `next` says.
    fn apply(&mut self, step: Step, desired: &DesiredRoute) {
        match step {
            Step::AddAddress => {
                self.facts |= Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::RECENT;
                if self.family == Family::V4 {
                    self.facts |= Facts::KERNEL;
                }
                self.progress.acked(step);
            }
            Step::UpdateAddress => {
                self.facts.remove(Facts::EXPIRES);
                self.facts |= Facts::NO_PREFIX_ROUTE;
            }
            Step::DeleteAddress | Step::RenewAddress => self.delete_address(),
            Step::AddRoute | Step::AppendRoute => {
                self.facts |= Facts::desired(desired.source.is_kernel());
            }
            Step::AddStaged | Step::ReplaceStaged => {
                self.clear_same_key();
                self.facts.remove(Facts::DESIRED);
                self.facts |= Facts::SAME_KEY | Facts::STAGED;
                self.facts
                    .set(Facts::SAME_KEY_EXPIRES, staged_lifetime(desired).is_some());
                self.facts
                    .set(Facts::WRONG_PROTOCOL, desired.staged != desired.protocol);
                self.others.push(staged_key(desired));
            }
            Step::ReplaceRoute => self.replace_route(desired),
            Step::DeleteDesired => self.facts.remove(Facts::DESIRED),
            Step::DeleteKernel | Step::DeleteKernelBlind => self.facts.remove(Facts::KERNEL),
            Step::DeleteOthers => self.delete_others(desired),
        }
    }

    /// The kernel also deletes its own routes of the address. For a permanent address that may have made a
    /// prefix route, the kernel deletes the first route in table main, of any origin
    /// (`addrconf_get_prefix_route`, net/ipv6/addrconf.c).
    fn delete_address(&mut self) {
        if self.family == Family::V6
            && !self
                .facts
                .intersects(Facts::NO_PREFIX_ROUTE | Facts::EXPIRES)
        {
            let main = self.others.iter().enumerate();
            let main = main.filter(|(_, key)| key.table == TABLE_MAIN);
            if let Some((first, _)) = main.min_by_key(|(_, key)| key.metric) {
                self.others.remove(first);
                let family = self.family;
                let is_extra = |key: &RouteKey| !is_prefix(key) && !has_same_key(key, family);
                self.facts
                    .set(Facts::PREFIX, self.others.iter().any(is_prefix));
                self.facts
                    .set(Facts::EXTRA, self.others.iter().any(is_extra));
            }
        }
        let lasting = Facts::OTHER_LENGTH | Facts::MARKED | Facts::ADDRESS_MARKED;
        self.facts.remove(Facts::OF_ADDRESS - lasting);
        self.facts.remove(Facts::KERNEL);
    }

    /// The routes with the desired route's key are gone.
    fn clear_same_key(&mut self) {
        self.facts.remove(Facts::OF_SAME_KEY);
        let family = self.family;
        self.others.retain(|key| !has_same_key(key, family));
    }

    /// IPv6 has one route of a key. IPv4 replaces the first of several, and the order is unknown: the
    /// simulation keeps all of them, and a planned deletion may find nothing.
    fn replace_route(&mut self, desired: &DesiredRoute) {
        let kernels = self.facts.contains(Facts::KERNEL);
        self.facts |= Facts::desired(desired.source.is_kernel());
        let others = self.others.iter();
        let same_keys = others.filter(|key| has_same_key(key, self.family));
        match (self.family, same_keys.count()) {
            (Family::V6, _) => self.clear_same_key(),
            (Family::V4, 0) if !desired.source.is_kernel() => self.facts.remove(Facts::KERNEL),
            (Family::V4, 1) if !kernels => self.clear_same_key(),
            (Family::V4, _) => {}
        }
    }

    /// An IPv4 deletion without a preferred source matches any source. If the deletion may have hit
    /// another route, the simulation keeps the planned route.
    fn delete_others(&mut self, desired: &DesiredRoute) {
        let others = std::mem::take(&mut self.others);
        let desired_route = self.facts.contains(Facts::DESIRED);
        let kernel = self.facts.contains(Facts::KERNEL);
        self.facts
            .remove(Facts::EXTRA | Facts::PREFIX | Facts::SAME_KEY);
        self.facts.remove(Facts::SAME_KEY_DIFFERS);
        let family = self.family;
        let left = others.iter().find(|key| {
            let any_source = key.prefsrc.is_none();
            let hits_desired = desired_route
                && key.protocol == desired.protocol
                && (any_source || key.prefsrc == desired.source.address());
            let hits_kernels = kernel && key.protocol == libc::RTPROT_KERNEL && any_source;
            let local = key.kind == libc::RTN_LOCAL && has_same_key(key, family);
            family == Family::V4 && local && (hits_desired || hits_kernels)
        });
        if let Some(left) = left {
            // One route is left, and this deletion matches that route.
            self.facts.remove(Facts::DESIRED | Facts::KERNEL);
            self.facts |= Facts::SAME_KEY | Facts::WRONG_SOURCE;
            self.others.push(*left);
        }
    }
}

/// Whether a route has the desired route's key.
fn has_same_key(key: &RouteKey, family: Family) -> bool {
    key.table == TABLE_LOCAL && key.tos == 0 && key.metric == user_metric(family)
}

/// Whether an IPv6 route is the kernel's prefix route of an address.
fn is_prefix(key: &RouteKey) -> bool {
    key.table == TABLE_MAIN && key.protocol == libc::RTPROT_KERNEL
}
