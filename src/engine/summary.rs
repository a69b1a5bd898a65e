//! The report of a call.

use super::Call;
use crate::base::PerFamily;
use crate::core::{Cause, Done, Drift, Goal, Next, Policy, Refusal, Row};
use crate::outcome::{Outcome, OutcomeKind, Report};

/// What this call did, or had begun to do, for a VIP. `None`: it wrote nothing.
fn kind(row: &Row) -> Option<OutcomeKind> {
    match row.goal {
        _ if !row.progress.has(Done::WRITTEN) => None,
        Goal::Release => Some(OutcomeKind::Released),
        _ if row.progress.has(Done::WAS_ABSENT) => Some(OutcomeKind::Assigned),
        _ => Some(OutcomeKind::Repaired),
    }
}

/// The outcomes of the rows that did not fail: one allocation, because their number is known.
fn outcomes(rows: &[Row], policies: PerFamily<Policy>, count: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(count);
    outcomes.extend(
        rows.iter()
            .filter(|row| !row.has_failed())
            .filter_map(|row| {
                let kind = kind(row)?;
                let cured = match kind {
                    OutcomeKind::Repaired => row.before.drift(policies[row.vip.family()]),
                    OutcomeKind::Assigned | OutcomeKind::Released => Drift::empty(),
                };
                Some(Outcome {
                    vip: row.vip,
                    kind,
                    cured,
                })
            }),
    );
    outcomes
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
            // Only an observation after the last write to a VIP proves its state.
            let written = row.progress.has(Done::WRITTEN);
            let next = self.engine.next(&row);
            if !self.observed || stopped && written || next != Next::Done {
                let cause = match next {
                    Next::Wait => Cause::Pending,
                    _ if stopped => Cause::NotReached,
                    // The call gave up on another VIP before this one could be read.
                    Next::Read => Cause::Unread,
                    _ => Cause::Pending,
                };
                self.fail(at, cause);
                continue;
            }
            *match kind(&row) {
                None => &mut report.unchanged,
                Some(OutcomeKind::Released) => &mut report.released,
                Some(OutcomeKind::Assigned) => &mut report.assigned,
                Some(OutcomeKind::Repaired) => &mut report.repaired,
            } += 1;
        }
        let observed = self.observed;
        let policies = *self.engine.policies();
        let written = report.assigned + report.repaired + report.released;
        report.outcomes = outcomes(self.buffers.rows.as_slice(), policies, written);
        if self.buffers.failed.is_empty() && self.buffers.rejected.is_empty() {
            return report;
        }
        let failed = std::mem::take(&mut self.buffers.failed);
        let buffers = &*self.buffers;
        let rejected = buffers.rejected.iter();
        let failures = rejected.map(|(vip, why)| buffers.failure(*vip, *why));
        report.failures.extend(failures);
        // Each VIP's decisive refusal: the first final one, else the last.
        let mut decisive = std::collections::BTreeMap::new();
        for (place, refusal) in buffers.refusals.iter().enumerate() {
            let is_final = refusal.tag.step.refused(refusal.errno) == Refusal::Final;
            let entry = decisive.entry(refusal.tag.row).or_insert((place, is_final));
            if !entry.1 {
                *entry = (place, is_final);
            }
        }
        for (at, cause) in failed {
            let Some(row) = buffers.rows.get(at) else {
                continue;
            };
            let mut failure = buffers.failure(row.vip, cause);
            failure.begun = kind(row);
            let decided = |is_final| match cause {
                Cause::Kernel => true,
                Cause::Missing(_) => is_final,
                _ => false,
            };
            if let Some((place, is_final)) = decisive.get(&at).copied()
                && decided(is_final)
                && let Some(refusal) = buffers.refusals.get(place)
            {
                failure.operation = Some(refusal.tag.step.operation());
                failure.errno = Some(refusal.errno);
                let text = buffers.texts.binary_search_by_key(&place, |(of, _)| *of);
                failure.text = text.ok().map(|at| buffers.texts[at].1.clone());
            }
            if observed {
                failure.drift = row.facts.drift(policies[row.vip.family()]);
            }
            report.failures.push(failure);
        }
        report.failures.sort_by_key(|failure| failure.vip);
        report
    }
}
