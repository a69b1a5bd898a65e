//! What a dispatch does: it keeps the whole set, or looks at the VIPs that something happened to.

use std::time::{Duration, Instant};

use super::backoff::{Backoff, PATIENCE, pause};
use super::reading::{Found, Why};
use super::report::{Dispatched, Look, failure_of};
use super::state::{Missing, ReleaseChange};
use super::{Keeper, LOOKUP_MAX, RETRY};
use crate::base::{Family, PerFamily, Vip};
use crate::core::Cause;
use crate::engine::lookup::Notified;
use crate::manager::Leaving;
use crate::outcome::{Error, ErrorKind, Failure, Report};
use crate::trace;

impl Keeper {
    /// Looks whether what a family waits for is there. Most of it comes with an event, but not every
    /// sysctl has one, nor have address labels.
    pub(super) fn look_again(&mut self) {
        let now = Instant::now();
        let waiting = PerFamily::from_fn(|family| self.waits(family));
        if !waiting.any() || now < self.again {
            return;
        }
        self.again = now + RETRY;
        let desired = self.desired.iter().copied();
        let Ok(troubles) = self.manager.troubles(waiting, desired) else {
            // The trouble is not of one family. The next reading of the link says what it is.
            self.reading.schedule(Why::Event, now);
            return;
        };
        for family in Family::ALL.into_iter().filter(|f| waiting[*f]) {
            match &troubles[family] {
                Some(trouble) => self.family_lacks(family, trouble.kind, &trouble.detail),
                None => self.reading.schedule(Why::Event, now),
            }
        }
    }

    fn family_lacks(&mut self, family: Family, kind: ErrorKind, detail: &str) {
        self.families[family].update(Some(Missing {
            family: Some(family),
            kind,
            detail: detail.into(),
        }));
    }

    /// Reconciles the whole link.
    pub(super) fn keep_all(&mut self) -> Result<Dispatched, Error> {
        let why = self.reading.begin();
        self.dirty.clear();
        self.counters.resyncs += 1;
        trace::resync();
        let done = self.reconcile_all(why);
        if done.is_err() || self.link_state.is_waiting() {
            // The next reading still does what was asked for.
            self.reading.failed(why);
        }
        let done = done?;
        let found = match done.has_news || self.link_state.is_waiting() {
            _ if done.report.writes > 0 => Found::Drift,
            true => Found::News,
            false => Found::Nothing,
        };
        let paused = self.reading.ended(why, found, Instant::now());
        self.counters.backoffs += u64::from(paused.is_some());
        paused.into_iter().for_each(|time| trace::pause(None, time));
        Ok(done)
    }

    fn reconcile_all(&mut self, why: Why) -> Result<Dispatched, Error> {
        let is_repair = why != Why::Order;
        // The notification that the link is another one now may be lost.
        if let Err(error) = self.find_link() {
            return self.conclude(Err(error), Look::All, false);
        }
        let mut result = self.reconcile();
        if let Err(error) = &result
            && error.kind() == ErrorKind::TooManyReleases
        {
            // The desired VIPs are kept even where too many others are on the link. But where the set
            // is new, the set may be wrong, so nothing is written.
            self.releases
                .update(&ReleaseChange::BoundPassed(error.detail()));
            if !is_repair {
                self.reading.schedule(Why::Event, Instant::now());
                return result.map(|_| Dispatched::default());
            }
            result = self.reconcile();
        }
        self.conclude(result, Look::All, is_repair)
    }

    fn reconcile(&mut self) -> Result<Report, Error> {
        let leaving = Leaving {
            claim: &self.claim,
            named: &self.leaving,
            only_named: self.releases.are_refused(),
            desired: self.desired_families(),
        };
        self.manager.keep(leaving, &self.desired)
    }

    /// Of which families an admissible VIP is desired.
    fn desired_families(&self) -> PerFamily<bool> {
        PerFamily::from_fn(|family| {
            let mut vips = self.desired.iter().filter(|vip| vip.family() == family);
            vips.any(|vip| self.manager.check(*vip).is_ok())
        })
    }

    /// Mends what is dirty and not being fought over.
    pub(super) fn keep_dirty(&mut self, max_vips: usize) -> Result<Dispatched, Error> {
        let now = Instant::now();
        let releases = !self.releases.are_refused() && !self.desired.is_empty();
        let waits = PerFamily::from_fn(|family| self.waits(family));
        let (desired, leaving) = (&self.desired, &self.leaving);
        self.resting
            .retain(|vip| desired.binary_search(vip).is_ok());
        self.dirty.retain(|vip| {
            if desired.binary_search(vip).is_ok() {
                // When its family is back, everything is looked at.
                !waits[vip.family()]
            } else {
                releases || leaving.binary_search(vip).is_ok()
            }
        });
        let free = |vip: &Vip| {
            self.backoffs
                .get(vip)
                .is_none_or(|backoff| backoff.until <= now)
        };
        for vip in self.resting.due(now) {
            self.dirty.look_again(vip);
        }
        let mut due = self.dirty.by_age(free);
        if due.is_empty() {
            return Ok(self.dispatched(Report::default(), Look::At(&[])));
        }
        let is_hidden = |vip: &Vip| !self.is_desired(*vip) && self.is_mark_hidden(*vip);
        // A reading proves nothing of a VIP that rests.
        let changed = due.iter().filter(|vip| self.dirty.has_changed(**vip));
        let changed = changed.count();
        if changed > LOOKUP_MAX && max_vips > LOOKUP_MAX || due.iter().any(is_hidden) {
            return self.keep_all();
        }
        if changed > 0 && self.reading.is_brought_forward(now) {
            return self.keep_all();
        }
        // Dumps show any number of VIPs at the same cost.
        let is_unfinished = |vip: &Vip| self.resting.is_unfinished(*vip);
        let by_dumps = due.first().is_some_and(is_unfinished);
        due.retain(|vip| is_unfinished(vip) == by_dumps);
        due.truncate(max_vips.min(if by_dumps { usize::MAX } else { LOOKUP_MAX }));
        due.sort_unstable();
        self.look_at(&due, by_dumps)
    }

    /// Looks at these VIPs, sorted, and mends them.
    fn look_at(&mut self, due: &[Vip], by_dumps: bool) -> Result<Dispatched, Error> {
        let all_notified = self.take_notified(due);
        let all_notified = (!by_dumps).then_some(all_notified);
        self.counters.looks += due.len() as u64;
        let leaving = Leaving {
            claim: &self.claim,
            named: &self.leaving,
            only_named: self.releases.are_refused(),
            desired: self.desired_families(),
        };
        let desired = &self.desired;
        let vips = due
            .iter()
            .map(|vip| (*vip, desired.binary_search(vip).is_ok()));
        let result = self.manager.mend(leaving, vips, all_notified);
        if let Err(error) = &result
            && error.kind() == ErrorKind::TooManyReleases
        {
            // The desired ones among them are looked at with all others.
            self.releases
                .update(&ReleaseChange::BoundPassed(error.detail()));
            return self.keep_all();
        }
        self.conclude(result, Look::At(due), true)
    }

    /// Takes what is known of VIPs that are looked at now.
    fn take_notified(&mut self, due: &[Vip]) -> Vec<(Vip, Notified)> {
        let mut all_notified = Vec::with_capacity(due.len());
        let now = Instant::now();
        for vip in due {
            if self.dirty.has_changed(*vip) || self.reading.is_due() {
                self.resting.note_change(*vip, now);
            } else {
                self.resting.note_passed(*vip);
            }
            let mut notified = self.dirty.remove(*vip).unwrap_or_default();
            // Before the reading that is put off, what was lost is unknown.
            notified.unverified |= self.reading.is_due();
            if self.is_desired(*vip) {
                self.add_known(*vip, &mut notified);
            }
            all_notified.push((*vip, notified));
        }
        all_notified
    }

    /// Takes note of the outcome of a call. `watch`: also of the VIPs that were repaired.
    fn conclude(
        &mut self,
        result: Result<Report, Error>,
        look: Look<'_>,
        watch: bool,
    ) -> Result<Dispatched, Error> {
        let mut report = match result {
            Ok(report) => report,
            Err(error) => match error.kind() {
                ErrorKind::Incomplete => error.into_report().unwrap_or_default(),
                ErrorKind::LinkNotFound | ErrorKind::LinkInVrf => {
                    return Ok(self.await_link(error));
                }
                kind => {
                    self.resting.put_off(Instant::now() + RETRY);
                    match kind {
                        // The next dispatch begins where this one ended.
                        ErrorKind::Cancelled => self.reading.schedule(Why::Event, Instant::now()),
                        // It would be refused again: a better set is needed.
                        ErrorKind::EmptySet => {}
                        // No event says when this is over, and until then the set is not kept.
                        _ => self.reading.schedule(Why::Event, Instant::now() + RETRY),
                    }
                    return Err(error);
                }
            },
        };
        let now = Instant::now();
        self.link_state.update(None);
        if matches!(look, Look::All) {
            self.note_full_sync(&report, now);
        }
        let desired = &self.desired;
        self.resting
            .retain(|vip| desired.binary_search(vip).is_ok());
        let postponed = &self.manager.buffers.postponed;
        self.resting.conclude(&mut report, look, postponed, now);
        let fails = |vip: &Vip| {
            let failure = failure_of(&report, vip);
            failure.is_some_and(|failure| !matches!(failure.cause, Cause::Rejected(_)))
        };
        self.leaving.retain(|vip| fails(vip) || !look.is_at(*vip));
        self.note_adopted(&report, look);
        self.counters.repairs += (report.assigned + report.repaired + report.released) as u64;
        self.counters.released += report.released as u64;
        self.backoffs.retain(|_, backoff| !backoff.is_over(now));
        if watch {
            self.note_repairs(now);
        }
        for failure in &report.failures {
            self.retry_later(failure, now);
        }
        let done = self.dispatched(report, look);
        self.note_success(look, now);
        Ok(done)
    }

    /// Nothing can be kept until the link is there, and then everything is looked at.
    fn await_link(&mut self, error: Error) -> Dispatched {
        self.resting.clear();
        if error.kind() == ErrorKind::LinkNotFound {
            // The VIPs to release went with the link.
            self.leaving.clear();
        }
        if self.is_at_work() {
            self.link_state.update(Some(Missing {
                family: None,
                kind: error.kind(),
                detail: error.detail().into(),
            }));
        }
        // Nearly always it comes back with an event.
        self.reading.schedule(Why::Event, Instant::now() + RETRY);
        self.dispatched(error.into_report().unwrap_or_default(), Look::At(&[]))
    }

    /// A reading of the whole link says what each family lacks, and whether VIPs may be released.
    fn note_full_sync(&mut self, report: &Report, now: Instant) {
        self.last_full_sync = Some(now);
        for family in Family::ALL {
            let lacks = report
                .failures
                .iter()
                .find_map(|failure| match failure.cause {
                    Cause::Missing(kind)
                        if kind != ErrorKind::EmptySet && failure.vip.family() == family =>
                    {
                        Some((kind, failure.detail.as_deref().unwrap_or_default()))
                    }
                    _ => None,
                });
            match lacks {
                None => self.families[family].update(None),
                Some((kind, detail)) => {
                    self.family_lacks(family, kind, detail);
                    self.again = now + RETRY;
                }
            }
        }
        if !self.desired.is_empty() {
            self.releases.update(&ReleaseChange::ReadInFull);
        }
    }

    /// Takes note of the VIPs that were repaired: the next repair may have to wait.
    fn note_repairs(&mut self, now: Instant) {
        for (vip, was_undone) in self.manager.written() {
            if was_undone {
                // The call has been patient enough.
                let backoff = self.backoffs.entry(vip).or_insert(Backoff::begin(now));
                backoff.repairs = backoff.repairs.max(PATIENCE);
            }
            let paused = pause(&mut self.backoffs, vip, now, 1, Duration::ZERO);
            self.counters.backoffs += u64::from(paused);
        }
    }

    /// Takes note when a failing VIP is looked at again.
    fn retry_later(&mut self, failure: &Failure, now: Instant) {
        let (times, fought) = match failure.cause {
            // It can never be a VIP.
            Cause::Rejected(_) => return,
            // The keeper looks for what is missing, not at the VIP.
            Cause::Missing(kind) => return self.note_missing(failure, kind, now),
            // Another link has the VIP, or no call may change its form: until that ends.
            Cause::Conflict => (1, false),
            // The table changes too often now, whatever the VIP does.
            Cause::Unread => (0, false),
            cause if cause.is_not_ours_to_change() => (1, false),
            _ => (PATIENCE + 1, true),
        };
        let paused = pause(&mut self.backoffs, failure.vip, now, times, RETRY);
        self.counters.backoffs += u64::from(paused && fought);
        self.dirty.entry(failure.vip).unverified = true;
    }

    /// Takes note of what the VIP's family lacks.
    fn note_missing(&mut self, failure: &Failure, kind: ErrorKind, now: Instant) {
        let family = failure.vip.family();
        let detail = failure.detail.as_deref().unwrap_or_default();
        if kind == ErrorKind::EmptySet {
            self.releases.update(&ReleaseChange::NoneDesired(detail));
        } else if !self.waits(family) {
            self.family_lacks(family, kind, detail);
            self.again = now + RETRY;
        }
    }

    /// Takes note of the families that were looked at and have no failing VIP.
    fn note_success(&mut self, look: Look<'_>, now: Instant) {
        for family in Family::ALL {
            let has_family = |vip: &Vip| vip.family() == family;
            let is_seen = match look {
                Look::All => self.desired.iter().any(has_family),
                Look::At(vips) => vips.iter().any(has_family),
            };
            let mut open = self.failing.keys().chain(self.resting.vips());
            if is_seen && !open.any(has_family) {
                self.last_success[family] = Some(now);
            }
        }
    }
}
