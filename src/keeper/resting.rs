//! The VIPs that a dispatch wrote for or looked at, and that only time can prove right. The keeper looks at
//! each again when its time has come, and reports the VIP only then.

use std::collections::BTreeMap;
use std::time::Instant;

use super::report::{Look, failure_of};
use crate::base::Vip;
use crate::core::Cause;
use crate::engine::Postponed;
use crate::engine::decide::{AGES, AGING, LongWait, RESTLESS};
use crate::outcome::{Failure, Outcome, OutcomeKind, Report};

/// How long a VIP still waits.
#[derive(Clone, Copy, Debug)]
enum State {
    Until(Instant),
    /// The time has passed, and nothing has happened to the VIP. The next look decides.
    Passed,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    began: Instant,
    wait: LongWait,
    state: State,
    /// What was done for the VIP, which is reported once the VIP is proven right.
    outcome: Option<Outcome>,
}

impl Rest {
    /// Waits anew, because something has happened to the VIP. A writer that never pauses does not keep it
    /// waiting forever; returns whether that limit has passed.
    fn begin_again(&mut self, wait: LongWait, now: Instant) -> bool {
        // The kernel's clock of ages may be ahead, so an age that has passed takes a moment more.
        let has_aged = matches!((self.state, wait), (State::Passed, LongWait::Age));
        let left = if has_aged { AGING } else { wait.duration() };
        self.wait = wait;
        self.state = State::Until(now + left);
        now >= self.began + wait.duration() * RESTLESS
    }
}

/// VIPs to look at again.
#[derive(Debug, Default)]
pub(super) struct Resting {
    vips: BTreeMap<Vip, Rest>,
}

impl Resting {
    pub(super) fn contains(&self, vip: Vip) -> bool {
        self.vips.contains_key(&vip)
    }

    /// Whether the VIP rests and has not looked right yet. The call that looked at it has ended, and with
    /// the call what it knew of further routes.
    pub(super) fn is_unfinished(&self, vip: Vip) -> bool {
        let rest = self.vips.get(&vip);
        rest.is_some_and(|rest| matches!(rest.wait, LongWait::Age))
    }

    pub(super) fn len(&self) -> usize {
        self.vips.len()
    }

    pub(super) fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.keys()
    }

    pub(super) fn clear(&mut self) {
        self.vips.clear();
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&Vip) -> bool) {
        self.vips.retain(|vip, _| is_kept(vip));
    }

    /// When the first VIP that `is_asked` picks is due.
    pub(super) fn next(&self, is_asked: impl Fn(&Vip) -> bool) -> Option<Instant> {
        let asked = self.vips.iter().filter(|(vip, _)| is_asked(vip));
        asked.map(|(_, rest)| rest.until()).min()
    }

    /// The VIPs whose time has come.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = Vip> {
        let due = self
            .vips
            .iter()
            .filter(move |(_, rest)| rest.until() <= now);
        due.map(|(vip, _)| *vip)
    }

    /// Takes note that the VIP, if it rests, has not changed, and is looked at now.
    pub(super) fn note_passed(&mut self, vip: Vip) {
        if let Some(rest) = self.vips.get_mut(&vip) {
            rest.state = State::Passed;
        }
    }

    /// Takes note that something has happened to the VIP, if it rests.
    pub(super) fn note_change(&mut self, vip: Vip, now: Instant) {
        if let Some(rest) = self.vips.get_mut(&vip) {
            rest.state = State::Until(now + rest.wait.duration());
        }
    }

    /// No look came about. Looks again then at VIPs whose time has passed.
    pub(super) fn put_off(&mut self, until: Instant) {
        for rest in self.vips.values_mut() {
            if matches!(rest.state, State::Passed) {
                rest.state = State::Until(until);
            }
        }
    }

    /// As if that time had passed.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: std::time::Duration) {
        for rest in self.vips.values_mut() {
            rest.began -= by;
            if let State::Until(until) = &mut rest.state {
                *until -= by;
            }
        }
    }

    /// Takes the outcome of a look. Moves what is not proven yet out of the report, and what is proven now
    /// into it.
    pub(super) fn conclude(
        &mut self,
        report: &mut Report,
        look: Look<'_>,
        postponed: &[Postponed],
        now: Instant,
    ) {
        let is_new = |postponed: &&Postponed| !self.vips.contains_key(&postponed.vip);
        let new: Vec<&Postponed> = postponed.iter().filter(is_new).collect();
        let mut proven = Vec::new();
        self.vips.retain(|vip, rest| {
            if !look.is_at(*vip) {
                return true;
            }
            let again = postponed.iter().find(|postponed| postponed.vip == *vip);
            let verdict = rest.judge(report, *vip, again, now);
            match verdict {
                Verdict::Rests | Verdict::Failed => {}
                Verdict::GivenUp => {
                    let failures = &mut report.failures;
                    let at = failures.partition_point(|failure| failure.vip < *vip);
                    failures.insert(at, Failure::new(*vip, Cause::Pending, None));
                }
                Verdict::Proven => proven.extend(rest.outcome),
            }
            verdict == Verdict::Rests
        });
        for new in new {
            self.vips.entry(new.vip).or_insert(Rest {
                began: now,
                wait: new.wait,
                state: State::Until(now + new.wait.duration()),
                outcome: new.outcome,
            });
        }
        for outcome in proven {
            add_outcome(report, outcome);
        }
    }
}

impl Rest {
    fn until(&self) -> Instant {
        match self.state {
            State::Until(until) => until,
            State::Passed => self.began,
        }
    }

    /// Judges the VIP after this look at it.
    fn judge(
        &mut self,
        report: &mut Report,
        vip: Vip,
        again: Option<&Postponed>,
        now: Instant,
    ) -> Verdict {
        let is_written = report
            .outcomes
            .binary_search_by_key(&vip, |outcome| outcome.vip)
            .is_ok();
        if failure_of(report, &vip).is_some() {
            return Verdict::Failed;
        }
        if is_written {
            return Verdict::Proven;
        }
        let has_rested = matches!(self.state, State::Passed);
        let looked_right = matches!(self.wait, LongWait::Rest(_));
        match again {
            // The call saw nothing that speaks against it.
            None if has_rested || !looked_right || self.begin_again(self.wait, now) => {
                Verdict::Proven
            }
            None => {
                // Counted again once the VIP is proven right.
                report.unchanged = report.unchanged.saturating_sub(1);
                Verdict::Rests
            }
            Some(again) => {
                let looks_right = matches!(again.wait, LongWait::Rest(_));
                let is_quiet = again.outcome.is_none() && looks_right && looked_right;
                let is_over = self.begin_again(again.wait, now);
                self.outcome = merged(self.outcome, again.outcome);
                if is_quiet && (has_rested || is_over) {
                    // No call counted it.
                    report.unchanged += 1;
                    Verdict::Proven
                } else if !looks_right && now >= self.began + AGES * 2 {
                    Verdict::GivenUp
                } else {
                    Verdict::Rests
                }
            }
        }
    }
}

/// What a look at a VIP that rests leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Rests,
    Proven,
    /// The report has the failure.
    Failed,
    /// Another writer keeps adding the address anew.
    GivenUp,
}

/// What was done for one VIP in two calls.
fn merged(earlier: Option<Outcome>, later: Option<Outcome>) -> Option<Outcome> {
    match (earlier, later) {
        (Some(earlier), Some(later)) => Some(Outcome {
            cured: match earlier.kind {
                OutcomeKind::Repaired => earlier.cured | later.cured,
                _ => earlier.cured,
            },
            ..earlier
        }),
        (earlier, later) => earlier.or(later),
    }
}

/// Adds what was done for a VIP before the call that the report is of.
fn add_outcome(report: &mut Report, earlier: Outcome) {
    let place = report
        .outcomes
        .binary_search_by_key(&earlier.vip, |outcome| outcome.vip);
    match place {
        Ok(at) => {
            let later = report.outcomes[at];
            *report.count(later.kind) -= 1;
            report.outcomes[at] = merged(Some(earlier), Some(later)).unwrap_or(later);
        }
        Err(at) => {
            report.unchanged = report.unchanged.saturating_sub(1);
            report.outcomes.insert(at, earlier);
        }
    }
    *report.count(earlier.kind) += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use std::time::Duration;

    const QUIET: LongWait = LongWait::Rest(Duration::from_millis(500));

    fn vip() -> Vip {
        std::net::IpAddr::from(Ipv6Addr::LOCALHOST).into()
    }

    /// A look at the VIP, after which the VIP waits in this way, if at all.
    fn conclude(resting: &mut Resting, wait: Option<LongWait>, now: Instant) -> Report {
        let postponed = wait.map(|wait| Postponed {
            vip: vip(),
            wait,
            outcome: None,
        });
        let mut report = Report {
            unchanged: usize::from(wait.is_none()),
            ..Report::default()
        };
        resting.conclude(&mut report, Look::At(&[vip()]), postponed.as_slice(), now);
        report
    }

    #[test]
    fn vip_is_proven_by_a_look_after_a_rest_without_a_change() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        conclude(&mut resting, Some(QUIET), now);
        // The time has passed, but the VIP has changed again.
        let later = now + QUIET.duration();
        resting.note_passed(vip());
        resting.note_change(vip(), later);
        assert_eq!(conclude(&mut resting, Some(QUIET), later).unchanged, 0);
        assert_eq!(resting.len(), 1);
        resting.note_passed(vip());
        let later = later + QUIET.duration();
        assert_eq!(conclude(&mut resting, Some(QUIET), later).unchanged, 1);
        assert_eq!(resting.len(), 0);
    }

    #[test]
    fn look_that_fails_is_put_off() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        conclude(&mut resting, Some(QUIET), now);
        resting.note_passed(vip());
        let later = now + Duration::from_secs(1);
        resting.put_off(later);
        assert_eq!(resting.next(|_| true), Some(later));
    }

    #[test]
    fn look_at_another_vip_decides_nothing() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        conclude(&mut resting, Some(QUIET), now);
        resting.note_passed(vip());
        let (mut report, later) = (Report::default(), now + QUIET.duration());
        let other = std::net::IpAddr::from(Ipv6Addr::UNSPECIFIED).into();
        resting.conclude(&mut report, Look::At(&[other]), &[], later);
        assert_eq!(conclude(&mut resting, Some(QUIET), later).unchanged, 1);
    }

    /// A writer that never pauses does not keep it waiting.
    #[test]
    fn vip_that_keeps_changing_is_proven_in_the_end() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        conclude(&mut resting, Some(QUIET), now);
        for rests in 1..=RESTLESS {
            assert_eq!(resting.len(), 1);
            let later = now + QUIET.duration() * rests;
            resting.note_change(vip(), later);
            conclude(&mut resting, Some(QUIET), later);
        }
        assert_eq!(resting.len(), 0);
    }

    /// Another writer adds the address again and again.
    #[test]
    fn vip_whose_address_stays_recent_fails() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        conclude(&mut resting, Some(LongWait::Age), now);
        let report = conclude(&mut resting, Some(LongWait::Age), now + AGES);
        assert_eq!((report.failures.len(), resting.len()), (0, 1));
        let report = conclude(&mut resting, Some(LongWait::Age), now + AGES * 2);
        let causes: Vec<_> = report
            .failures
            .iter()
            .map(|failure| failure.cause)
            .collect();
        assert_eq!((causes, resting.len()), (vec![Cause::Pending], 0));
    }
}
