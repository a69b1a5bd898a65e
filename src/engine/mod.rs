//! The loop of one call: observe the rows, plan, send, and observe again, until every row is as
//! desired or has failed.
//!
//! [`decide`] chooses the next action without I/O. This file drives that action. Observing is in
//! [`read`], [`lookup`] and [`answer`], sending in [`send`], [`acked`] and [`routes_first`], waiting in
//! [`wait`], and the report in [`summary`].

mod acked;
mod answer;
mod arrival;
#[cfg(test)]
pub(crate) mod check;
pub(crate) mod decide;
pub(crate) mod lookup;
pub(crate) mod obstacle;
mod read;
mod routes_first;
pub(crate) mod send;
#[cfg(any(test, feature = "bench-internals"))]
pub(crate) mod still;
mod summary;
#[cfg(test)]
mod tests;
mod wait;

use std::io;
use std::time::{Duration, Instant};

use crate::base::{DesiredRoute, Family, NO_LINK, PerFamily, Vip};
use crate::core::{Admit, Binding, Cause, Done, Goal, MatchContext, Next, Policy, Row, Rows, Step};
use crate::link::trouble::{Trouble, Troubles};
use crate::netlink::batch::{Batch, Refused};
use crate::netlink::connection::{Connection, Failed, Groups};
use crate::netlink::encode::Templates;
use crate::outcome::{Cancelled, Error, ErrorKind, Failure, Outcome, Report};
use crate::sys::{Woken, hundredths_since_boot, wait_readable};
use crate::trace;
use acked::Acked;
use decide::{Clock, Engine, LongWait, Method, PATIENT_AFTER, Stage, Verdict};
use lookup::{LOOKUP_MAX, Lookup, lookups_suffice};
use read::Observer;

/// Identifies a message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) row: u32,
    pub(crate) step: Step,
}

/// The configuration of a call on one link.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) link: u32,
    pub(crate) desired: PerFamily<DesiredRoute>,
    /// The policy of each family. A row's own goal replaces the policy's.
    pub(crate) policies: PerFamily<Policy>,
    pub(crate) binding: Binding,
    pub(crate) limits: Limits,
}

/// The time limits of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a wait lasts without progress.
    pub(crate) stall: Duration,
    /// When the whole call must end.
    pub(crate) deadline: Option<Instant>,
}

/// A VIP that only time can prove right: the report of the call does not count it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Postponed {
    pub(crate) vip: Vip,
    pub(crate) wait: LongWait,
    /// What the call did for the VIP.
    pub(crate) outcome: Option<Outcome>,
}

/// Buffers of a call, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) rows: Rows,
    batch: Batch<Tag>,
    /// Address deletions and updates, which follow all routes.
    deferred: Vec<(u32, Step)>,
    acked: Acked,
    /// The kernel's refusals, in order.
    refusals: Vec<Refused<'static, Tag>>,
    texts: Vec<(usize, Box<str>)>,
    failed: Vec<(u32, Cause)>,
    /// VIPs that the caller is to look at again.
    pub(crate) postponed: Vec<Postponed>,
    /// VIPs that the call does not serve, sorted, with the cause.
    pub(crate) rejected: Vec<(Vip, Cause)>,
    /// The fault of each family that the call cannot serve.
    pub(super) troubles: Troubles,
}

impl Buffers {
    /// Begins a call.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.deferred.clear();
        self.acked.clear();
        self.refusals.clear();
        self.texts.clear();
        self.failed.clear();
        self.postponed.clear();
        self.rejected.clear();
        self.troubles = Troubles::default();
        // A stopped call leaves its queued messages in the batch.
        self.batch.begin(0);
    }

    /// Fails the unread rows for which `belongs` is false.
    pub(crate) fn fail_unread(&mut self, belongs: impl Fn(&Row) -> bool) {
        for (at, row) in (0..).zip(self.rows.iter_mut()) {
            if row.facts.is_unread() && !belongs(row) {
                row.progress.done |= Done::FAILED;
                self.failed.push((at, Cause::Unread));
            }
        }
    }

    /// Fails the VIPs of a family that the link cannot hold. Releases continue.
    pub(crate) fn exclude_family(&mut self, trouble: Trouble) {
        let family = trouble.family;
        self.exclude(trouble, |row| row.needs_source(family));
    }

    /// Fails the rows that `which` picks, because of `trouble`.
    pub(crate) fn exclude(&mut self, trouble: Trouble, which: impl Fn(&Row) -> bool) {
        let cause = Cause::Missing(trouble.kind);
        let family = trouble.family;
        self.troubles[family].get_or_insert(trouble);
        if self.failed.is_empty() {
            let why = |row: &Row| which(row).then_some(cause);
            self.rows.reject(why, &mut self.rejected);
            self.rejected.sort_unstable_by_key(|(vip, _)| *vip);
            return;
        }
        // `failed` refers to rows by index, so no row may be removed any more.
        for (at, row) in (0..).zip(self.rows.iter_mut()) {
            if which(row) && !row.has_failed() {
                row.progress.done |= Done::FAILED;
                self.failed.push((at, cause));
            }
        }
    }

    /// The report's entry for a failed VIP.
    pub(crate) fn failure(&self, vip: Vip, cause: Cause) -> Failure {
        let trouble = self.troubles[vip.family()].as_ref();
        let detail = trouble
            .filter(|trouble| cause == Cause::Missing(trouble.kind))
            .map(|trouble| trouble.detail.clone());
        Failure::new(vip, cause, detail)
    }

    pub(crate) fn shrink_to(&mut self, rows: usize) {
        self.clear();
        self.rows.shrink_to(rows);
        self.batch.shrink_to(rows.saturating_mul(64));
        self.deferred.shrink_to(rows);
        self.acked.shrink_to(rows);
        self.refusals.shrink_to(0);
        self.texts.shrink_to(0);
        self.failed.shrink_to(0);
        self.postponed.shrink_to(0);
        self.rejected.shrink_to(0);
    }
}

/// One call at work on its rows.
pub(crate) struct Call<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) buffers: &'a mut Buffers,
    pub(crate) cancelled: &'a Cancelled,
    pub(crate) link: u32,
    pub(crate) desired: PerFamily<DesiredRoute>,
    pub(crate) templates: PerFamily<Templates>,
    pub(crate) binding: Binding,
    pub(crate) limits: Limits,
    pub(crate) report: Report,
    pub(crate) engine: Engine,
    clock: Times,
    /// What notifications reported, while rows are observed by look-ups.
    pub(crate) lookup: Option<Lookup>,
    /// Whether the rows hold the facts of a complete observation.
    pub(crate) observed: bool,
    /// Whether the next observation reads table main.
    pub(crate) scan_main: bool,
    /// Whether the call writes nothing.
    pub(crate) read_only: bool,
}

/// The monitor's groups while rows are observed by look-ups. RTM_GETADDR cannot ask for a single
/// IPv4 address (`rtm_gettable` has a dump only, net/ipv4/devinet.c), so notifications replace it.
pub(crate) fn lookup_groups(rows: &Rows) -> Groups {
    if rows.has(Family::V4) {
        Groups::V4_ADDRESSES
    } else {
        Groups::empty()
    }
}

/// The times of the last change and of the last progress, and the stall time-out.
#[derive(Clone, Copy, Debug)]
struct Times {
    change: Instant,
    progress: Instant,
    stall: Duration,
}

impl Times {
    fn begin(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            change: now,
            progress: now,
            stall: limits.stall,
        }
    }

    fn note_change(&mut self) {
        self.change = Instant::now();
    }

    /// Progress is also a change.
    fn note_progress(&mut self) {
        self.note_change();
        self.progress = self.change;
    }
}

impl Clock for Times {
    fn since_change(&self) -> Duration {
        self.change.elapsed()
    }

    fn since_progress(&self) -> Duration {
        self.progress.elapsed()
    }

    fn stall(&self) -> Duration {
        self.stall
    }
}

/// Why a call stops before every VIP is decided.
enum Stop {
    Cancelled,
    TimedOut,
    Error(Error),
}

impl Stop {
    fn into_error(self) -> Error {
        match self {
            Self::Error(error) => error,
            Self::Cancelled | Self::TimedOut => Error::new(ErrorKind::Cancelled, "cancelled"),
        }
    }

    fn link_gone() -> Self {
        let text = "the link went away during the call";
        Self::Error(Error::new(ErrorKind::LinkNotFound, text))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(libc::ENODEV) {
            return Self::link_gone();
        }
        Self::Error(Error::io("the netlink socket failed", &error))
    }
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        if failed.errno() == Some(libc::ENODEV) {
            return Self::link_gone();
        }
        Self::Error(failed.into_error("cannot read the link's addresses and routes".into()))
    }
}

impl<'a> Call<'a> {
    /// A call that has not yet observed its link.
    pub(crate) fn new(
        setup: Setup,
        connection: &'a mut Connection,
        buffers: &'a mut Buffers,
        cancelled: &'a Cancelled,
    ) -> Self {
        Self {
            connection,
            buffers,
            cancelled,
            link: setup.link,
            templates: PerFamily::from_fn(|family| Templates::new(&setup.desired[family])),
            desired: setup.desired,
            binding: setup.binding,
            limits: setup.limits,
            report: Report::default(),
            engine: Engine::new(setup.policies, Method::Dumps),
            clock: Times::begin(setup.limits),
            lookup: None,
            observed: false,
            scan_main: true,
            read_only: false,
        }
    }

    /// The first observation. With `admit`, VIPs discovered on the link become rows.
    pub(crate) fn observe_first(&mut self, admit: Option<Admit<'_>>) -> Result<(), Error> {
        // The kernel refuses to dump the routes of a link that does not exist.
        self.scan_main = self.link != NO_LINK;
        self.observe(admit).map_err(Stop::into_error)?;
        for row in self.buffers.rows.iter_mut() {
            if !row.facts.on_link() && !row.facts.is_unread() {
                row.progress.done |= Done::WAS_ABSENT;
            }
        }
        Ok(())
    }

    /// Observes the rows of an audit without reading the routes of the link, if that shows every row in
    /// its single-route state, and otherwise by dumps.
    pub(crate) fn observe_given(&mut self) -> Result<(), Error> {
        let policies = *self.engine.policies();
        let shown = self.observer(None).observe_given(&policies);
        let shown = shown.and_then(|shown| {
            self.connection.check_link()?;
            Ok(shown)
        });
        match shown.map_err(|failed| Stop::from(failed).into_error())? {
            true => Ok(()),
            false => self.observe_first(None),
        }
    }

    /// Observes the routes of other devices. Returns the VIPs to which the link has routes in
    /// tables other than local and main.
    pub(crate) fn observe_node(&mut self) -> Result<Vec<Vip>, Error> {
        let read = "cannot read the node's routes";
        let mut elsewhere = Vec::new();
        self.observer(None)
            .observe_node(&mut elsewhere)
            .map_err(|failed| failed.into_error(read.into()))?;
        elsewhere.sort_unstable();
        Ok(elsewhere)
    }

    /// Returns the VIPs, sorted, whose traffic a routing rule diverts, among the rows that
    /// `has_route` picks.
    pub(crate) fn observe_diverted(
        &mut self,
        has_route: impl Fn(&Row) -> bool,
    ) -> Result<Vec<Vip>, Error> {
        let mut diverted = Vec::new();
        self.observer(None)
            .observe_diverted(has_route, &mut diverted)
            .map_err(|error| Error::io("cannot look up the VIPs' routes", &error))?;
        diverted.sort_unstable();
        Ok(diverted)
    }

    fn observe(&mut self, admit: Option<Admit<'_>>) -> Result<(), Stop> {
        self.observed = false;
        if self.engine.stage() != Stage::LookUp || !self.observe_by_lookups(admit)? {
            // Table main may be large: read it again only while it holds routes to remove.
            let scan_main = self.scan_main;
            self.scan_main = self.observer(admit).observe(scan_main)?;
        }
        // The facts are this link's only if the link still exists: its index may have been reused.
        self.connection.check_link()?;
        self.observed = true;
        self.engine.observed(self.buffers.rows.iter_mut());
        Ok(())
    }

    /// Observes by look-ups. Returns false if they leave a row unknown: then dumps must follow.
    fn observe_by_lookups(&mut self, admit: Option<Admit<'_>>) -> Result<bool, Stop> {
        let mut main = self.scan_main;
        if let Some(mut lookup) = self.lookup.take()
            && self
                .observer(admit)
                .observe_by_lookup(&mut lookup, &mut main)?
        {
            self.lookup = Some(lookup);
            self.scan_main = main;
            self.connection
                .listen_to(lookup_groups(&self.buffers.rows))?;
            return Ok(true);
        }
        self.switch_to_dumps();
        Ok(false)
    }

    /// Runs the call to its end.
    pub(crate) fn run(mut self) -> Result<Report, Error> {
        let mut stopped = self.switch_to_lookups().and_then(|()| self.stages()).err();
        if matches!(stopped, Some(Stop::Cancelled | Stop::TimedOut))
            && let Err(error) = self.roll_back()
        {
            stopped = Some(error);
        }
        if let Err(error) = self.connection.listen_to(Groups::empty()) {
            stopped.get_or_insert(error.into());
        }
        let mut report = self.conclude(stopped.is_some());
        obstacle::explain(self.connection, self.link, &mut report.failures);
        match stopped {
            Some(Stop::Cancelled) => {
                Err(Error::new(ErrorKind::Cancelled, "the call was cancelled").with_report(report))
            }
            Some(Stop::Error(error)) => Err(error.with_report(report)),
            None | Some(Stop::TimedOut) if report.is_complete() => Ok(report),
            None | Some(Stop::TimedOut) => Err(Error::incomplete(report)),
        }
    }

    /// Continues by look-ups if at most [`LOOKUP_MAX`] rows still need work. The other rows were seen
    /// as desired; this call does not touch them, so it need not read them again.
    fn switch_to_lookups(&mut self) -> Result<(), Stop> {
        // Look-ups do not show table main. `failed` refers to rows by index.
        if self.lookup.is_some() || self.scan_main || !self.buffers.failed.is_empty() {
            return Ok(());
        }
        let engine = &self.engine;
        let is_open =
            |row: &Row| engine.next(row) != Next::Done || !decide::quiet_for(row).is_zero();
        let rows = &mut self.buffers.rows;
        let open = || rows.iter().filter(|row| is_open(row));
        let count = open().take(LOOKUP_MAX + 1).count();
        let are_shown = open().all(|row| lookups_suffice(row, self.binding));
        if !(1..=LOOKUP_MAX).contains(&count) || !are_shown {
            return Ok(());
        }
        self.report.unchanged += rows.len() - count;
        rows.retain(is_open);
        self.connection.listen_to(lookup_groups(rows))?;
        self.observe_by_lookups_from_now(Lookup::unknown(&self.buffers.rows));
        Ok(())
    }

    /// Observes the rows by look-ups from now on.
    pub(crate) fn observe_by_lookups_from_now(&mut self, lookup: Lookup) {
        self.lookup = Some(lookup);
        self.engine.observe_by(Method::LookUps);
    }

    /// Observes the rows by dumps from now on.
    fn switch_to_dumps(&mut self) {
        self.lookup = None;
        self.engine.observe_by(Method::Dumps);
    }

    /// Does what the engine says, from the facts of [`observe_first`](Self::observe_first).
    fn stages(&mut self) -> Result<(), Stop> {
        loop {
            self.check_time()?;
            match self.engine.stage() {
                Stage::ReadAll | Stage::ReadRoutes | Stage::LookUp => self.observe(None)?,
                Stage::Plan(_) => self.round()?,
                Stage::Wait => {
                    let waited = self.wait()?;
                    self.engine.waited(waited);
                }
                Stage::Finished => return Ok(()),
            }
        }
    }

    /// Plans every row and sends its steps.
    fn round(&mut self) -> Result<(), Stop> {
        let rounds = self.rounds();
        self.pause_if_contended(rounds)?;
        let mut waits = self.put_routes_first()?;
        waits |= self.work(|goal| goal != Goal::Release)?;
        let rows = self.buffers.rows.as_slice();
        let contended = rounds > PATIENT_AFTER;
        if contended || !self.engine.holds_releases(rows, &self.clock) {
            waits |= self.work(|goal| goal == Goal::Release)?;
        }
        let rows = self.buffers.rows.as_slice();
        match self.engine.end_round(rows, waits, &self.clock) {
            Verdict::GoOn => {}
            Verdict::Pause(time) => self.pause(time)?,
            Verdict::GiveUp(cause) => {
                for at in self.indices() {
                    let engine = &self.engine;
                    let fails = |row: &Row| engine.gives_up(row, cause);
                    if self.buffers.rows.get(at).is_some_and(fails) {
                        self.fail(at, cause);
                    }
                }
            }
        }
        Ok(())
    }

    /// Plans the rows whose goal `is_due`, and sends their steps. Returns whether one of the rows waits.
    fn work(&mut self, is_due: impl Fn(Goal) -> bool) -> Result<bool, Stop> {
        let mut waits = false;
        let mut are_many = false;
        for at in self.indices() {
            let row = self.buffers.rows.get(at);
            let is_begun = |row: &Row| row.progress.has(Done::ROUTE_FIRST);
            if row.is_some_and(|row| is_due(row.goal) && !is_begun(row)) {
                waits |= self.advance(at)?;
            }
            waits |= self.go_on_if_due(&mut are_many)?;
        }
        waits |= self.queue_deferred(&mut are_many)?;
        self.flush()?;
        // Look-ups show the late routes of a few VIPs.
        are_many |= self.lookup.is_none() && self.buffers.acked.len() > LOOKUP_MAX;
        while are_many && self.buffers.acked.len() > 0 {
            waits |= self.go_on(usize::MAX)?;
            self.flush()?;
        }
        self.buffers.acked.clear();
        Ok(waits)
    }

    /// The most rounds with messages that a row took.
    fn rounds(&self) -> u16 {
        let open = self.buffers.rows.iter().filter(|row| !row.has_failed());
        open.map(|row| row.attempts).max().unwrap_or_default()
    }

    /// Pauses before the next round if a row took more rounds than an undisturbed row takes.
    fn pause_if_contended(&mut self, rounds: u16) -> Result<(), Stop> {
        match rounds.saturating_sub(PATIENT_AFTER) {
            0 => Ok(()),
            patience => self.pause(Duration::from_millis(1 << patience.min(6))),
        }
    }

    fn indices(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.buffers.rows.len()).unwrap_or(u32::MAX)
    }

    fn observer<'s>(&'s mut self, admit: Option<Admit<'s>>) -> Observer<'s> {
        Observer {
            connection: self.connection,
            rows: &mut self.buffers.rows,
            context: MatchContext {
                link: self.link,
                desired: &self.desired,
                now: hundredths_since_boot(),
                keeps_flags: self.read_only,
            },
            templates: &self.templates,
            read_only: self.read_only,
            only_new: self.engine.stage() == Stage::ReadRoutes,
            admit,
        }
    }

    fn check_time(&self) -> Result<(), Stop> {
        if self.cancelled.take() {
            return Err(Stop::Cancelled);
        }
        match self.limits.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Stop::TimedOut),
            _ => Ok(()),
        }
    }

    /// Pauses. A cancellation ends the pause.
    fn pause(&self, time: Duration) -> Result<(), Stop> {
        trace::pause(None, time);
        match wait_readable(self.cancelled, self.cancelled, time)? {
            Woken::Cancelled => self.check_time(),
            Woken::Event | Woken::TimedOut => Ok(()),
        }
    }
}
