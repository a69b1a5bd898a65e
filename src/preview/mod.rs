//! A call that is not made: its steps as data, and as a script of `ip` commands.
//!
//! Each row is simulated: `next` chooses the steps, and [`Simulation`] predicts the facts after them.

#[cfg(test)]
mod check;
mod plan;
mod script;
mod simulation;

use std::net::IpAddr;
use std::sync::Arc;

pub use plan::{Action, Likelihood, Plan, PlannedRoute, PlannedStep, Reason};

use crate::base::{
    AddressAttrs, DesiredRoute, Family, Metric, PerFamily, Protocol, RouteKey, RouteType, Table,
    Vip, desired_key, kernel_key, staged_key, staged_lifetime,
};
use crate::core::{Binding, Drift, Facts, Goal, Policy, Row, Rows, Step};
use crate::engine::obstacle;
use crate::engine::{Call, decide::policy_for};
use crate::link::{LinkChanges, PLACEHOLDER};
use crate::manager::{Leaving, Mode, Scope, VipManager};
use crate::outcome::{Claim, Error, Failure};
use crate::trace;
use simulation::{Move, Simulation, Turn};

/// Simulates a prepared call to its end.
pub(crate) fn preview(call: Call<'_>, link_changes: &LinkChanges) -> Plan {
    let rows = &call.buffers.rows;
    let mut planner = Planner {
        rows,
        desired: &call.desired,
        link: link_changes.name.as_str().into(),
        plan: Plan::default(),
        deferred: Vec::new(),
        keeps_an_address: call.binding == Binding::Address || rows.unmanaged_v4() > 0,
    };
    planner.prepare_link(link_changes);
    let mut playing: Vec<_> = rows
        .iter()
        .map(|row| (row, planner.simulation(row, link_changes)))
        .collect();
    while !playing.is_empty() {
        playing.retain_mut(|(row, simulation)| {
            planner.advance(row, simulation, policy_for(row, call.engine.policies()))
        });
        planner.plan_deferred();
    }
    let mut plan = planner.plan;
    let rejected = call.buffers.rejected.iter();
    let rejected = rejected.map(|(vip, why)| call.buffers.failure(*vip, *why));
    plan.failures.extend(rejected);
    plan.failures.sort_by_key(|failure| failure.vip);
    obstacle::explain(call.connection, call.link, &mut plan.failures);
    plan
}

/// Collects the steps of the simulated rows.
struct Planner<'a> {
    rows: &'a Rows,
    desired: &'a PerFamily<DesiredRoute>,
    link: Arc<str>,
    plan: Plan,
    /// The changes of addresses in this round, each with its row's order. They follow the other steps.
    deferred: Vec<(u32, PlannedStep)>,
    /// Whether an IPv4 address stays on the link.
    keeps_an_address: bool,
}

impl Planner<'_> {
    fn prepare_link(&mut self, changes: &LinkChanges) {
        let link = || self.link.clone();
        let mut plan = |action, reason| {
            let vip = None;
            let step = PlannedStep {
                vip,
                action,
                reason,
            };
            self.plan.steps.push(step);
        };
        if let Some(kind) = changes.create {
            plan(Action::CreateLink { link: link(), kind }, Reason::NoLink);
            plan(Action::NoOwnAddress { link: link() }, Reason::NoLink);
        }
        if changes.bring_up {
            plan(Action::BringUp { link: link() }, Reason::LinkDown);
        }
        for prefix in &changes.labels {
            let (link, prefix, label) = (link(), *prefix, changes.label);
            let action = Action::AddLabel {
                link,
                prefix,
                label,
            };
            plan(action, Reason::SourceChoice);
        }
    }

    /// The row as it is after the changes of the link.
    fn simulation(&self, row: &Row, changes: &LinkChanges) -> Simulation {
        let (rows, vip) = (self.rows, row.vip);
        let has_others = Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX;
        let others = row.facts.intersects(has_others).then(|| rows.others(vip));
        let others = others.into_iter().flatten().copied();
        let mut simulation = Simulation::new(vip.family(), row.facts, row.progress, others);
        if changes.bring_up {
            let to_vip = changes.broadcasts.iter();
            let to_vip = to_vip.filter(|(to, _)| *to == vip.addr());
            let desired = &self.desired[vip.family()];
            let metric = rows.address_attrs(vip).find_map(|keep| keep.rt_priority);
            simulation.link_comes_up(metric, to_vip.map(|(_, of)| *of), desired);
        }
        simulation
    }

    /// Plans one round of a row. Returns whether another round follows.
    fn advance(&mut self, row: &Row, simulation: &mut Simulation, policy: Policy) -> bool {
        let desired = &self.desired[row.vip.family()];
        let turn = simulation.advance(policy, desired, |what, facts| {
            self.plan_move(row, what, reason(what, policy, facts));
        });
        if let Turn::Failed(cause) = turn {
            self.plan.failures.push(Failure {
                drift: simulation.facts.drift(policy),
                ..Failure::new(row.vip, cause, None)
            });
        }
        turn == Turn::Moved
    }

    /// Plans one move of a row. A VIP may have several addresses, each with another peer.
    fn plan_move(&mut self, row: &Row, what: Move, reason: Reason) {
        let (rows, vip, link) = (self.rows, row.vip, &self.link);
        let step = |action| PlannedStep {
            vip: Some(vip),
            action,
            reason,
        };
        let actions: Vec<Action> = match what {
            Move::Step(Step::UpdateAddress) => rows
                .address_attrs(vip)
                .filter(|keep| keep.expires)
                .map(|keep| update(vip, keep, link))
                .collect(),
            Move::Step(Step::DeleteAddress) if rows.peers(vip).next().is_some() => rows
                .peers(vip)
                .map(|end| Action::DeleteAddress {
                    link: link.clone(),
                    vip,
                    peer: peer(vip, *end),
                })
                .collect(),
            _ => vec![action(what, vip, &self.desired[vip.family()], link)],
        };
        let steps = actions.into_iter().map(step);
        match what {
            Move::Step(Step::UpdateAddress | Step::DeleteAddress) => {
                self.deferred.extend(steps.map(|step| (row.order, step)));
            }
            _ => self.plan.steps.extend(steps),
        }
    }

    /// Plans the changes of addresses, in the kernel's order. Before the first change of an IPv4
    /// address, adds a placeholder address if the link could lose its last one.
    fn plan_deferred(&mut self) {
        let is_v4 = |vip: Vip| vip.family() == Family::V4;
        let changes_v4 = |(_, step): &(u32, PlannedStep)| step.vip.is_some_and(is_v4);
        if !self.keeps_an_address && self.deferred.iter().any(changes_v4) {
            self.keeps_an_address = true;
            let action = Action::AddPlaceholder {
                link: self.link.clone(),
                address: PLACEHOLDER,
            };
            self.plan.steps.push(PlannedStep {
                vip: None,
                action,
                reason: Reason::LastAddress,
            });
        }
        self.deferred.sort_by_key(|(order, _)| *order);
        let steps = self.deferred.drain(..).map(|(_, step)| step);
        self.plan.steps.extend(steps);
    }
}

/// The other end of an address, where it has one.
fn peer(vip: Vip, end: IpAddr) -> Option<IpAddr> {
    Some(end).filter(|end| *end != vip.addr())
}

fn update(vip: Vip, keep: &AddressAttrs, link: &Arc<str>) -> Action {
    Action::UpdateAddress {
        link: link.clone(),
        vip,
        flags: keep.flags,
        deprecated: keep.deprecated,
        peer: peer(vip, keep.end),
        metric: keep.rt_priority.map(Metric),
        protocol: keep.protocol.and_then(Protocol::new),
    }
}

fn action(what: Move, vip: Vip, desired: &DesiredRoute, link: &Arc<str>) -> Action {
    let link = link.clone();
    let written = |key: &RouteKey| {
        if desired.source.is_kernel() {
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
        if vip.family() == Family::V6 {
            (route.source, route.tos) = (None, 0);
        }
        Action::DeleteRoute(route)
    };
    match what {
        Move::Wait(likelihood) => Action::AwaitRoute {
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
            // `advance` plans `DeleteOthers` for each route, `plan_move` plans `UpdateAddress` for each
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
        Move::Wait(_) => return Reason::LateRoute,
        _ if policy.goal == Goal::Release => return Reason::NotDesired,
        Move::Delete(_) => Drift::DUPLICATE | Drift::PREFIX_ROUTE,
        Move::Step(step) => match step {
            Step::AddStaged if !facts.contains(Facts::KERNEL) => Drift::MISSING_ROUTE,
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
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// let desired = [Ipv4Addr::new(10, 96, 0, 11)];
    /// let plan = vips.plan(&Claim::link(), desired)?;
    /// assert!(!plan.is_empty());
    /// // A script of `ip` commands, each with its reason.
    /// println!("{plan}");
    /// // After the call, nothing is left to do.
    /// vips.reconcile(&Claim::link(), desired)?;
    /// assert!(vips.plan(&Claim::link(), desired)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of `reconcile` before its first write. A VIP that would fail is no error; see
    /// [`Plan::failures`].
    pub fn plan<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        claim: &Claim,
        desired: I,
    ) -> Result<Plan, Error> {
        self.fill_rows(desired, Goal::Assign);
        self.plan_call(Scope::Claimed(Leaving::all(claim)))
    }

    /// Returns what [`assign`](Self::assign) would do now: as [`plan`](Self::plan).
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use viproute::Action;
    ///
    /// # let mut manager = manager;
    /// let vip = Ipv4Addr::new(10, 96, 0, 10);
    /// let plan = manager.plan_assign([vip])?;
    /// println!("{plan}");
    /// let adds = |action: &Action| matches!(action, Action::AddAddress { vip: of, .. } if of.addr() == vip);
    /// assert!(plan.steps.iter().any(|step| adds(&step.action)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of `assign` before its first write. A VIP that would fail is no error; see
    /// [`Plan::failures`].
    pub fn plan_assign<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        vips: I,
    ) -> Result<Plan, Error> {
        self.fill_rows(vips, Goal::Assign);
        self.plan_call(Scope::Given(Goal::Assign))
    }

    /// Returns what [`release`](Self::release) would do now: as [`plan`](Self::plan).
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut manager = manager;
    /// let vip = Ipv4Addr::new(10, 96, 0, 10);
    /// manager.assign([vip])?;
    /// let plan = manager.plan_release([vip])?;
    /// println!("{plan}");
    /// assert!(plan.steps.iter().any(|step| step.reason == viproute::Reason::NotDesired));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of `release` before its first write. A VIP that would fail is no error; see
    /// [`Plan::failures`].
    pub fn plan_release<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        vips: I,
    ) -> Result<Plan, Error> {
        self.fill_rows(vips, Goal::Release);
        self.plan_call(Scope::Given(Goal::Release))
    }

    fn plan_call(&mut self, scope: Scope<'_>) -> Result<Plan, Error> {
        let _span = trace::span!("plan", self.config.link, self.buffers.rows.len());
        let mut link_changes = LinkChanges::default();
        let call = self.prepare(scope, Mode::Preview(&mut link_changes))?;
        Ok(preview(call, &link_changes))
    }
}
