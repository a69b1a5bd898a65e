//! The report of a call.

use std::collections::BTreeMap;

use super::{Call, Postponed, Tag};
use crate::base::PerFamily;
use crate::core::{Cause, Done, Drift, Goal, Next, Policy, Refusal, Row};
use crate::netlink::batch::Refused;
use crate::outcome::{Failure, Outcome, OutcomeKind, Report};

/// What this call did, or had begun to do, for a VIP. `None`: it wrote nothing.
fn kind(row: &Row) -> Option<OutcomeKind> {
    match row.goal {
        _ if !row.progress.has(Done::WRITTEN) => None,
        Goal::Release => Some(OutcomeKind::Released),
        _ if row.progress.has(Done::WAS_ABSENT) => Some(OutcomeKind::Assigned),
        _ => Some(OutcomeKind::Repaired),
    }
}

/// The same, as the report has it.
fn outcome(row: &Row, policies: PerFamily<Policy>) -> Option<Outcome> {
    let kind = kind(row)?;
    let cured = match kind {
        OutcomeKind::Repaired => row.before.drift(policies[row.vip.family()]) - Drift::UNREAD,
        OutcomeKind::Assigned | OutcomeKind::Released => Drift::empty(),
    };
    Some(Outcome {
        vip: row.vip,
        kind,
        cured,
    })
}

/// The outcomes of the rows that neither failed nor were postponed: one allocation, because their number
/// is known.
fn outcomes(rows: &[Row], policies: PerFamily<Policy>, count: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(count);
    let counted = rows
        .iter()
        .filter(|row| !row.progress.done.intersects(Done::FAILED | Done::POSTPONED));
    outcomes.extend(counted.filter_map(|row| outcome(row, policies)));
    outcomes
}

/// The refusal that decides each VIP's failure, by its place: the first final one, else the last.
fn decisive(refusals: &[Refused<'static, Tag>]) -> BTreeMap<u32, (usize, Refusal)> {
    let mut decisive = BTreeMap::new();
    for (place, refused) in refusals.iter().enumerate() {
        let this = (place, refused.tag.step.refused(refused.errno));
        let entry = decisive.entry(refused.tag.row).or_insert(this);
        if entry.1 != Refusal::Final {
            *entry = this;
        }
    }
    decisive
}

impl Call<'_> {
    /// Sums up. `stopped`: before every VIP was decided.
    pub(super) fn conclude(&mut self, stopped: bool) -> Report {
        let mut report = std::mem::take(&mut self.report);
        for at in self.indices() {
            let Some(row) = self.buffers.rows.get(at).copied() else {
                continue;
            };
            if row.has_failed() {
                continue;
            }
            if !stopped && self.postpone(at, &row) {
                continue;
            }
            if let Some(cause) = self.unproven(&row, stopped) {
                self.fail(at, cause);
                continue;
            }
            *match kind(&row) {
                None => &mut report.unchanged,
                Some(kind) => report.count(kind),
            } += 1;
        }
        let written = report.assigned + report.repaired + report.released;
        let policies = *self.engine.policies();
        report.outcomes = outcomes(self.buffers.rows.as_slice(), policies, written);
        if !(self.buffers.failed.is_empty() && self.buffers.rejected.is_empty()) {
            self.report_failures(&mut report.failures);
        }
        report
    }

    /// Leaves a VIP to the caller if only time can prove it right. Returns whether it does.
    #[inline]
    fn postpone(&mut self, at: u32, row: &Row) -> bool {
        let Some(wait) = self.engine.postpones(row) else {
            return false;
        };
        self.buffers.postponed.push(Postponed {
            vip: row.vip,
            wait,
            outcome: outcome(row, *self.engine.policies()),
        });
        if let Some(row) = self.buffers.rows.get_mut(at) {
            row.progress.done |= Done::POSTPONED;
        }
        true
    }

    /// Why a VIP that did not fail is not proven to be as desired, if so. Only an observation after the
    /// last write to a VIP proves its state.
    #[inline]
    fn unproven(&self, row: &Row, stopped: bool) -> Option<Cause> {
        let written = row.progress.has(Done::WRITTEN);
        let next = self.engine.next(row);
        if self.observed && !(stopped && written) && next == Next::Done {
            return None;
        }
        // Only an observation shows that the kernel has not finished.
        let is_pending = next == Next::Wait && self.engine.is_observed();
        Some(if stopped && !is_pending {
            Cause::NotReached
        } else {
            Cause::Pending
        })
    }

    /// Reports the rejected and the failed VIPs, sorted.
    fn report_failures(&mut self, failures: &mut Vec<Failure>) {
        let failed = std::mem::take(&mut self.buffers.failed);
        let buffers = &*self.buffers;
        let rejected = buffers.rejected.iter();
        failures.extend(rejected.map(|(vip, why)| buffers.failure(*vip, *why)));
        let decisive = decisive(&buffers.refusals);
        for (at, cause) in failed {
            let Some(row) = buffers.rows.get(at) else {
                continue;
            };
            let mut failure = buffers.failure(row.vip, cause);
            failure.begun = kind(row);
            let decides = |refusal| match cause {
                Cause::Kernel => true,
                Cause::Missing(_) => refusal == Refusal::Final,
                _ => false,
            };
            if let Some((place, refusal)) = decisive.get(&at).copied()
                && decides(refusal)
                && let Some(refused) = buffers.refusals.get(place)
            {
                failure.operation = Some(refused.tag.step.operation());
                failure.errno = Some(refused.errno);
                let text = buffers.texts.binary_search_by_key(&place, |(of, _)| *of);
                failure.text = text.ok().map(|at| buffers.texts[at].1.clone());
            }
            if self.observed {
                // The facts after a write may be those of acks, which are no observation.
                let is_seen = self.engine.is_observed() || !row.progress.has(Done::WRITTEN);
                let facts = if is_seen { row.facts } else { row.before };
                failure.drift = facts.drift(self.engine.policies()[row.vip.family()]);
            }
            failures.push(failure);
        }
        failures.sort_by_key(|failure| failure.vip);
    }
}
