//! A call that is not made: its steps as data, and as a script of `ip` commands.
//!
//! Each row is simulated: `next` chooses the steps, and [`Simulation`] predicts the facts after them.

#[cfg(test)]
mod check;
mod plan;
mod script;
mod simulation;

use std::sync::Arc;

pub use plan::{Action, Likelihood, Plan, PlannedRoute, PlannedStep, Reason};

use crate::base::{
    AddressAttrs, DesiredRoute, Family, Metric, Protocol, RouteKey, RouteType, Table, Vip,
    desired_key, kernel_key, staged_key, staged_lifetime,
};
use crate::core::{Binding, Drift, Facts, Goal, Policy, Row, Step};
use crate::engine::obstacle;
use crate::engine::{Call, decide::policy_for};
use crate::link::{LinkChanges, PLACEHOLDER};
use crate::manager::{Leaving, Mode, Scope, VipManager};
use crate::outcome::{Claim, Error, Failure};
use simulation::{Move, Simulation, Turn};

/// Simulates a prepared call to its end.
pub(crate) fn preview(call: Call<'_>, link_changes: &LinkChanges) -> Plan {
    let link: Arc<str> = link_changes.name.as_str().into();
    let mut plan = Plan::default();
    let rows = &call.buffers.rows;
    prepare_link(&mut plan, &link, link_changes);
    let mut playing: Vec<(&Row, Simulation)> = rows
        .iter()
        .map(|row| {
            let has_others = Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX;
            let others = row
                .facts
                .intersects(has_others)
                .then(|| rows.others(row.vip));
            let mut simulation = Simulation::new(
                row.vip.family(),
                row.facts,
                row.progress,
                others.into_iter().flatten().copied(),
            );
            if link_changes.bring_up {
                let to_vip = link_changes.broadcasts.iter();
                let to_vip = to_vip.filter(|(to, _)| *to == row.vip.addr());
                let desired = &call.desired[row.vip.family()];
                let metric = rows
                    .address_attrs(row.vip)
                    .find_map(|keep| keep.rt_priority);
                simulation.link_comes_up(metric, to_vip.map(|(_, of)| *of), desired);
            }
            (row, simulation)
        })
        .collect();
    let mut has_placeholder = call.binding == Binding::Address || rows.unmanaged_v4() > 0;
    let mut deferred: Vec<(&Row, PlannedStep)> = Vec::new();
    while !playing.is_empty() {
        playing.retain_mut(|(row, simulation)| {
            let policy = policy_for(row, call.engine.policies());
            let desired = &call.desired[row.vip.family()];
            let turn = simulation.advance(policy, desired, |what, facts| {
                let reason = reason(what, policy, facts);
                let vip = Some(row.vip);
                if what == Move::Step(Step::UpdateAddress) {
                    let expiring = rows.address_attrs(row.vip).filter(|keep| keep.expires);
                    deferred.extend(expiring.map(|keep| {
                        let action = update(row.vip, keep, &link);
                        (
                            *row,
                            PlannedStep {
                                vip,
                                action,
                                reason,
                            },
                        )
                    }));
                    return;
                }
                let action = action(what, row.vip, desired, &link);
                let step = PlannedStep {
                    vip,
                    action,
                    reason,
                };
                if what == Move::Step(Step::DeleteAddress) {
                    let mut peers = rows.peers(row.vip).peekable();
                    if peers.peek().is_none() {
                        deferred.push((row, step));
                        return;
                    }
                    deferred.extend(peers.map(|end| {
                        let action = Action::DeleteAddress {
                            link: link.clone(),
                            vip: row.vip,
                            peer: Some(*end).filter(|end| *end != row.vip.addr()),
                        };
                        (
                            *row,
                            PlannedStep {
                                action,
                                ..step.clone()
                            },
                        )
                    }));
                } else {
                    plan.steps.push(step);
                }
            });
            if let Turn::Failed(cause) = turn {
                plan.failures.push(Failure {
                    drift: simulation.facts.drift(policy),
                    ..Failure::new(row.vip, cause, None)
                });
            }
            turn == Turn::Moved
        });
        let is_v4 = |(row, _): &(&Row, PlannedStep)| row.vip.family() == Family::V4;
        if !has_placeholder && deferred.iter().any(is_v4) {
            has_placeholder = true;
            plan.steps.push(PlannedStep {
                vip: None,
                action: Action::AddPlaceholder {
                    link: link.clone(),
                    address: PLACEHOLDER,
                },
                reason: Reason::LastAddress,
            });
        }
        deferred.sort_unstable_by_key(|(row, _)| row.order);
        plan.steps.extend(deferred.drain(..).map(|(_, step)| step));
    }
    let rejected = call.buffers.rejected.iter();
    let rejected = rejected.map(|(vip, why)| call.buffers.failure(*vip, *why));
    plan.failures.extend(rejected);
    plan.failures.sort_by_key(|failure| failure.vip);
    obstacle::explain(call.connection, call.link, &mut plan.failures);
    plan
}

fn prepare_link(plan: &mut Plan, link: &Arc<str>, link_changes: &LinkChanges) {
    let mut push = |action, reason| {
        plan.steps.push(PlannedStep {
            vip: None,
            action,
            reason,
        });
    };
    if let Some(kind) = link_changes.create {
        let link = link.clone();
        push(Action::CreateLink { link, kind }, Reason::NoLink);
    }
    let link = link.clone();
    if link_changes.create.is_some() {
        let link = link.clone();
        push(Action::NoOwnAddress { link }, Reason::NoLink);
    }
    if link_changes.bring_up {
        let link = link.clone();
        push(Action::BringUp { link }, Reason::LinkDown);
    }
    for prefix in &link_changes.labels {
        let action = Action::AddLabel {
            link: link.clone(),
            prefix: *prefix,
            label: link_changes.label,
        };
        push(action, Reason::SourceChoice);
    }
}

fn update(vip: Vip, keep: &AddressAttrs, link: &Arc<str>) -> Action {
    Action::UpdateAddress {
        link: link.clone(),
        vip,
        flags: keep.flags,
        deprecated: keep.deprecated,
        peer: Some(keep.end).filter(|end| *end != vip.addr()),
        metric: keep.rt_priority.map(Metric),
        protocol: keep.protocol.and_then(Protocol::new),
    }
}

fn action(what: Move, vip: Vip, desired: &DesiredRoute, link: &Arc<str>) -> Action {
    let link = link.clone();
    let written = |key: &RouteKey| {
        if desired.kernel_source {
            return named(&kernel_key(&vip.addr()), vip, &link);
        }
        named(key, vip, &link)
    };
    let staged = || PlannedRoute {
        lifetime: staged_lifetime(desired),
        ..written(&staged_key(desired))
    };
    let deleted = |key: &RouteKey| {
        let mut route = named(key, vip, &link);
        // IPv6 does not compare the source, and refuses a source that is not a local address.
        route.source = route.source.filter(|_| vip.family() == Family::V4);
        route.tos = if vip.family() == Family::V4 {
            key.tos
        } else {
            0
        };
        Action::DeleteRoute(route)
    };
    match what {
        Move::Wait { likelihood } => Action::AwaitRoute {
            link,
            vip,
            likelihood,
        },
        Move::Delete(key) => deleted(&key),
        Move::Step(step) => match step {
            Step::AddAddress => Action::AddAddress {
                link,
                vip,
                protocol: desired.address_protocol.and_then(Protocol::new),
                deprecated: desired.deprecated && vip.family() == Family::V6,
            },
            Step::DeleteAddress | Step::RenewAddress => Action::DeleteAddress {
                link,
                vip,
                peer: None,
            },
            Step::AddRoute => Action::AddRoute(written(&desired_key(desired))),
            Step::AddStaged => Action::AddRoute(staged()),
            Step::AppendRoute => Action::AppendRoute(written(&desired_key(desired))),
            Step::ReplaceRoute => Action::ReplaceRoute(written(&desired_key(desired))),
            Step::ReplaceStaged => Action::ReplaceRoute(staged()),
            // `advance` plans `DeleteOthers` for each route, `preview` plans `UpdateAddress` for each
            // address.
            Step::DeleteDesired | Step::DeleteOthers | Step::UpdateAddress => {
                deleted(&desired_key(desired))
            }
            Step::DeleteKernel | Step::DeleteKernelBlind => deleted(&kernel_key(&vip.addr())),
        },
    }
}

fn named(key: &RouteKey, vip: Vip, link: &Arc<str>) -> PlannedRoute {
    PlannedRoute {
        link: link.clone(),
        vip,
        table: Table(key.table),
        metric: Metric(key.metric),
        protocol: Protocol::new(key.protocol),
        kind: RouteType(key.kind),
        tos: key.tos,
        source: key.prefsrc,
        lifetime: None,
    }
}

/// Why `next` chose this move, from the facts before it.
fn reason(what: Move, policy: Policy, facts: Facts) -> Reason {
    let cured = match what {
        Move::Wait { .. } => return Reason::LateRoute,
        _ if policy.goal == Goal::Release => return Reason::NotDesired,
        Move::Delete(_) => Drift::DUPLICATE | Drift::PREFIX_ROUTE,
        Move::Step(step) => match step {
            Step::AddStaged | Step::ReplaceStaged => return Reason::Staged,
            Step::AddAddress => Drift::MISSING_ADDRESS | Drift::STALE,
            Step::RenewAddress => Drift::MISSING_ROUTE,
            Step::UpdateAddress => Drift::EXPIRING_ADDRESS,
            Step::DeleteAddress => Drift::UNWANTED_ADDRESS,
            Step::AddRoute | Step::AppendRoute | Step::ReplaceRoute => {
                Drift::MISSING_ROUTE
                    | Drift::WRONG_SOURCE
                    | Drift::WRONG_PROTOCOL
                    | Drift::EXPIRING_ROUTE
            }
            Step::DeleteKernel | Step::DeleteKernelBlind => Drift::KERNEL_LOCAL_ROUTE,
            Step::DeleteDesired | Step::DeleteOthers => Drift::DUPLICATE,
        },
    };
    let drift = facts.drift(policy);
    // A step may cure the drift that an earlier step of the same round causes.
    Reason::Drift(match drift & cured {
        cured if cured.is_empty() => drift,
        cured => cured,
    })
}

impl VipManager {
    /// Returns what [`reconcile`](Self::reconcile) would do now, as data: the steps in order, each with its
    /// reason, and the VIPs that would fail. `Display` prints the plan as a script of `ip` commands.
    ///
    /// Writes nothing, creates no link and needs no privilege. A plan is a preview: no call executes it.
    /// See [`Plan`].
    ///
    /// # Errors
    ///
    /// The errors of `reconcile` before its first write. A VIP that would fail is no error; see
    /// [`Plan::failures`].
    pub fn plan<I>(&mut self, claim: &Claim, desired: I) -> Result<Plan, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.fill_rows(desired, Goal::Assign);
        let mut link_changes = LinkChanges::default();
        let call = self.prepare(
            Scope::Claimed(Leaving::all(claim)),
            Mode::Preview(&mut link_changes),
        )?;
        Ok(preview(call, &link_changes))
    }
}
