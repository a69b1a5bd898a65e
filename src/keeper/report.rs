//! What a dispatch says.

use std::fmt;
use std::time::Instant;

use super::Keeper;
use super::state::{Keeping, Missing};
use crate::base::{Count, Vip};
use crate::core::Drift;
use crate::outcome::{ErrorKind, Failure, Report};
use crate::trace;

/// What one [`Keeper::dispatch`] did.
///
/// ```
#[doc = include_str!("example.txt")]
#[doc = include_str!("example_keeper.txt")]
/// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(127, 0, 0, 1)]);
/// let done = keeper.dispatch(usize::MAX)?;
/// for failure in &done.new_failures {
///     eprintln!("{failure}");
/// }
/// for failure in &done.recovered {
///     eprintln!("{}: fails no longer", failure.vip);
/// }
/// assert_eq!(done.new_failures.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Dispatched {
    /// What became of the VIPs that were looked at. Failures are tried again later, so a failure that
    /// lasts is in many reports.
    pub report: Report,
    /// The failures of the report that are new: the VIP did not fail before, or for another reason.
    pub new_failures: Vec<Failure>,
    /// The failures that ended, each as it was: the VIP is in its single-route state, or no longer
    /// desired. While the link is missing, no failure ends.
    pub recovered: Vec<Failure>,
    /// Whether this dispatch has news: something was written or proven right, a failure began, changed or
    /// ended,
    /// something else is missing or refused than before, or it is the first one after an order: a
    /// desired set, VIPs added or removed, a source.
    /// [`Keeper::run`] calls back for these.
    pub has_news: bool,
    /// What is missing, so that nothing can be kept until it is back, or nothing of one family. VIPs
    /// of the other family are kept. Empty: nothing is missing.
    pub missing: Vec<Missing>,
    /// Why claimed VIPs that are not desired stay, until another set is given.
    /// [`ErrorKind::TooManyReleases`]: one dispatch would have released more VIPs than the claim's bound.
    /// [`ErrorKind::EmptySet`]: no VIP is desired, or the link has claimed VIPs of a family without a desired
    /// VIP. Desired VIPs are kept.
    pub refused: Option<ErrorKind>,
    /// [`refused`](Self::refused) in full: how many VIPs would have been released, or which family has no
    /// desired VIP.
    pub detail: Option<String>,
    /// How many VIPs the keeper looks at again at [`Keeper::next_deadline`], because only time proves them
    /// right: the kernel may still add its own route to an IPv6 VIP. The report of that dispatch counts
    /// them.
    pub resting: usize,
    /// Whether more is due at once: call again.
    pub more: bool,
}

impl fmt::Display for Dispatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the link there is nothing to report.
        if let Some(link) = self.missing.iter().find(|missing| missing.family.is_none()) {
            return write!(f, "waiting: {link}");
        }
        fmt::Display::fmt(&self.report, f)?;
        for missing in &self.missing {
            write!(f, "; waiting for {missing}")?;
        }
        if self.resting > 0 {
            write!(
                f,
                "; {} looked at again",
                Count(self.resting, "VIP is", "VIPs are")
            )?;
        }
        match (self.refused, &self.detail) {
            (Some(_), Some(detail)) => write!(f, "; refused: {detail}"),
            _ => Ok(()),
        }
    }
}

/// What a call looked at.
#[derive(Clone, Copy)]
pub(super) enum Look<'a> {
    /// The whole link.
    All,
    /// These VIPs, sorted.
    At(&'a [Vip]),
}

impl Look<'_> {
    pub(super) fn is_at(self, vip: Vip) -> bool {
        match self {
            Self::All => true,
            Self::At(vips) => vips.binary_search(&vip).is_ok(),
        }
    }
}

/// The failure of a VIP. A report has them in order.
pub(super) fn failure_of<'a>(report: &'a Report, vip: &Vip) -> Option<&'a Failure> {
    let failures = &report.failures;
    let at = failures.binary_search_by_key(vip, |failure| failure.vip);
    at.ok().map(|at| &failures[at])
}

/// Whether a VIP fails as before. Where one of the two readings was incomplete, their differences say nothing.
fn is_as_before(mut known: Failure, failure: &Failure) -> bool {
    if (known.drift | failure.drift).contains(Drift::UNREAD) {
        known.drift = failure.drift;
    }
    known == *failure
}

/// As the events of tracing take it.
fn lacks(missing: &[Missing]) -> impl Iterator<Item = trace::Lack<'_>> + Clone {
    let missing = missing.iter();
    missing.map(|missing| (missing.family, missing.kind, &*missing.detail))
}

impl Keeper {
    /// What a dispatch has to say that looked at these VIPs.
    pub(super) fn dispatched(&mut self, report: Report, look: Look<'_>) -> Dispatched {
        let is_order_new = std::mem::take(&mut self.is_order_new);
        self.last_dispatch = Some(Instant::now());
        // Without the link no VIP was looked at.
        let looked = !self.link_state.is_waiting();
        let recovered = self.take_recovered(&report, look, is_order_new);
        let new_failures = match looked {
            true => self.note_failures(&report),
            false => Vec::new(),
        };
        let missing: Vec<Missing> = [&self.link_state]
            .into_iter()
            .chain(self.families.iter())
            .filter_map(Keeping::missing)
            .cloned()
            .collect();
        let refused = self.releases.in_words();
        let refused = refused.map(|(kind, detail)| (kind, Box::from(detail)));
        let has_news = is_order_new
            || report.writes > 0
            || !report.outcomes.is_empty()
            || !new_failures.is_empty()
            || !recovered.is_empty()
            || missing != self.said_missing
            || refused != self.said_refused;
        if has_news {
            trace::lacks(lacks(&self.said_missing), lacks(&missing));
            trace::refused(refused != self.said_refused, refused.as_ref());
            trace::recovered(&recovered);
            trace::done(&report, &new_failures);
        }
        self.said_missing.clone_from(&missing);
        self.said_refused.clone_from(&refused);
        // What is due now is due at no earlier moment than when that was asked.
        let next = self.next_deadline();
        Dispatched {
            report,
            new_failures,
            recovered,
            has_news,
            missing,
            refused: refused.as_ref().map(|(kind, _)| *kind),
            detail: refused.map(|(_, detail)| detail.into()),
            resting: self.resting.len(),
            more: next.is_some_and(|at| at <= Instant::now()),
        }
    }

    /// Forgets the failures that ended: of VIPs that were looked at and not found failing, and after
    /// an order of VIPs that are to be kept or released no longer.
    pub(super) fn take_recovered(
        &mut self,
        report: &Report,
        look: Look<'_>,
        is_order_new: bool,
    ) -> Vec<Failure> {
        // A VIP that rests may fail yet.
        let resting = &self.resting;
        let fails = |vip: &Vip| failure_of(report, vip).is_some() || resting.contains(*vip);
        match look {
            Look::At(vips) if !is_order_new => vips
                .iter()
                .filter(|vip| !fails(vip))
                .filter_map(|vip| self.failing.remove(vip))
                .collect(),
            _ => {
                let (desired, leaving) = (&self.desired, &self.leaving);
                let is_ours = |vip: &Vip| {
                    desired.binary_search(vip).is_ok() || leaving.binary_search(vip).is_ok()
                };
                let goes_on = |vip: &Vip| fails(vip) || !look.is_at(*vip) && is_ours(vip);
                let mut recovered = Vec::new();
                self.failing.retain(|vip, failure| {
                    let goes_on = goes_on(vip);
                    if !goes_on {
                        recovered.push(failure.clone());
                    }
                    goes_on
                });
                recovered
            }
        }
    }

    /// Remembers the failures of a report; returns the new ones.
    pub(super) fn note_failures(&mut self, report: &Report) -> Vec<Failure> {
        let mut new = Vec::new();
        for failure in &report.failures {
            let known = self.failing.insert(failure.vip, failure.clone());
            if !known.is_some_and(|known| is_as_before(known, failure)) {
                new.push(failure.clone());
            }
        }
        self.counters.failures += new.len() as u64;
        new
    }

    /// Counts the new VIPs that were looked at and found right.
    pub(super) fn note_adopted(&mut self, report: &Report, look: Look<'_>) {
        let outcomes = &report.outcomes;
        let is_written = |vip: &Vip| {
            outcomes
                .binary_search_by_key(vip, |outcome| outcome.vip)
                .is_ok()
        };
        let mut adopted = 0;
        self.unseen.retain(|vip| {
            let is_open = failure_of(report, vip).is_some() || self.resting.contains(*vip);
            let is_right = look.is_at(*vip) && !is_open;
            adopted += u64::from(is_right && !is_written(vip));
            !is_right
        });
        self.counters.adopted += adopted;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::core::Cause;

    #[test]
    fn incomplete_reading_makes_no_new_failure() {
        let vip = IpAddr::from([10, 96, 0, 1]).into();
        let failing = |cause, drift| Failure {
            drift,
            ..Failure::new(vip, cause, None)
        };
        let read = failing(Cause::Conflict, Drift::CONFLICT | Drift::MISSING_ROUTE);
        let unread = failing(Cause::Conflict, Drift::CONFLICT | Drift::UNREAD);
        assert!(is_as_before(read.clone(), &unread) && is_as_before(unread.clone(), &read));
        let other_drift = failing(Cause::Conflict, Drift::CONFLICT);
        assert!(!is_as_before(read, &other_drift));
        assert!(!is_as_before(
            unread,
            &failing(Cause::Unread, Drift::UNREAD)
        ));
    }
}
