//! The loop of every call that writes: observe, plan, send, look again, until nothing is left to
//! do or nothing more can be done.

pub(crate) mod observe;
pub(crate) mod obstacle;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::base::{Family, Vip};
use crate::core::{Admit, Facts, MatchContext, Phase, Row, Rows};
use crate::core::{Binding, Goal, Next, Policy, Refusal, Step, next};
use crate::engine::observe::{
    Arrival, LOOKUP_MAX, Lookup, Notified, Observer, awaits_kernel, can_be_told, is_in_the_making,
    known_of_address, note_arrival, route_group,
};
use crate::engine::obstacle;
use crate::link::trouble::{self, Trouble, Troubles};
use crate::link::{self, LinkIndex, LinkRef};
use crate::manager::VipManagerBuilder;
use crate::netlink::batch::{Batch, Entry, Refused};
use crate::netlink::connection::{Connection, Dumped, Failed};
use crate::netlink::encode::{DesiredRoute, Templates};
use crate::outcome::Cancelled;
use crate::outcome::{Cause, Failure, Report};
use crate::outcome::{Error, ErrorKind};
use crate::sys::{Woken, hundredths_since_boot, wait_readable};

/// Messages in one send at the most. Flat from 32 upward; more only delays a cancellation.
const BATCH: usize = 256;

/// Rounds in which something is sent for a VIP before it counts as fought over. Six are the most
/// that an undisturbed one takes.
const ATTEMPTS: u16 = 20;

/// Rounds after which a VIP's next one waits first: more than an undisturbed one takes.
pub(crate) const PATIENT_AFTER: u16 = 6;

/// Rounds in a row in which a VIP could not be read, each of several dumps, before it fails.
const READINGS: u32 = 10;

/// How long nothing may move before a VIP counts as settled whose kernel route this call never saw.
/// It is late by microseconds, by milliseconds under load.
const QUIET: Duration = Duration::from_millis(500);

/// The same where the wanted route is there and only the address is new: nearly always somebody has
/// been through all of it. But the route may have outlived an earlier address.
const BRIEF: Duration = Duration::from_millis(20);

/// How many times as long a call waits for quiet at the most. Beside a hand that never rests there
/// is none.
const RESTLESS: u32 = 4;

/// How long a call waits at least for addresses to be no longer young, though nothing is gained.
const AGES: Duration = Duration::from_secs(2);

/// How long a wait that has seen the kernel move goes on for the rest to move too.
const GATHER: Duration = Duration::from_millis(2);

/// The time limits of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long to wait without any sign of progress.
    pub(crate) stall: Duration,
    /// When the whole call must end.
    pub(crate) deadline: Option<Instant>,
}

/// Buffers of a call, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) rows: Rows,
    batch: Batch,
    /// Rows whose address is to be deleted, or updated, after all routes.
    deferred: Vec<(u32, Step)>,
    /// The kernel's refusals, in order.
    refusals: Vec<Refused<'static>>,
    texts: Vec<(usize, Box<str>)>,
    failed: Vec<(u32, Cause)>,
    /// VIPs that are no rows of the call, sorted, and why.
    pub(crate) rejected: Vec<(Vip, Cause)>,
    /// What keeps a whole family from being served.
    troubles: Troubles,
}

impl Buffers {
    /// Begins a call.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.deferred.clear();
        self.refusals.clear();
        self.texts.clear();
        self.failed.clear();
        self.rejected.clear();
        self.troubles = Troubles::default();
        // A call that stopped may have left messages unsent.
        self.batch.begin(0);
    }

    /// Fails what could not be read, unless `belongs` says that it is of the call all the same.
    pub(crate) fn fail_unread(&mut self, belongs: impl Fn(&Row) -> bool) {
        for (at, row) in (0..).zip(self.rows.iter_mut()) {
            if row.facts.is_unread() && !belongs(row) {
                row.phase |= Phase::FAILED;
                self.failed.push((at, Cause::Unread));
            }
        }
    }

    /// Takes out the VIPs of a family that cannot be put on the link or kept there. Releases go on.
    pub(crate) fn exclude_family(&mut self, trouble: Trouble) {
        let family = trouble.family;
        self.exclude(trouble, |row| row.needs_source(family));
    }

    /// Takes out these rows.
    pub(crate) fn exclude(&mut self, trouble: Trouble, which: impl Fn(&Row) -> bool) {
        let cause = Cause::Missing(trouble.kind);
        let family = trouble.family as usize;
        self.troubles[family].get_or_insert(trouble);
        if self.failed.is_empty() {
            let why = |row: &Row| which(row).then_some(cause);
            self.rows.reject(why, &mut self.rejected);
            self.rejected.sort_unstable_by_key(|(vip, _)| *vip);
            return;
        }
        // By their places failures are known already: the rows stay.
        for (at, row) in (0..).zip(self.rows.iter_mut()) {
            if which(row) && !row.phase.contains(Phase::FAILED) {
                row.phase |= Phase::FAILED;
                self.failed.push((at, cause));
            }
        }
    }

    /// The failure of a VIP.
    pub(crate) fn failure(&self, vip: Vip, cause: Cause) -> Failure {
        let trouble = self.troubles[vip.family() as usize].as_ref();
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
        self.refusals.shrink_to(0);
        self.texts.shrink_to(0);
        self.failed.shrink_to(0);
        self.rejected.shrink_to(0);
    }
}

/// One call at work on its rows.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) buffers: &'a mut Buffers,
    pub(crate) cancelled: &'a Cancelled,
    pub(crate) link: u32,
    pub(crate) desired: [DesiredRoute; 2],
    pub(crate) templates: [Templates; 2],
    pub(crate) binding: Binding,
    /// The policies of the families, whatever a row's goal is.
    pub(crate) policies: [Policy; 2],
    pub(crate) limits: Limits,
    pub(crate) report: Report,
    /// Where the rows are few: observed one by one, instead of reading the link.
    pub(crate) lookup: Option<Lookup>,
    /// Whether the rows hold the facts of a whole observation.
    pub(crate) observed: bool,
    /// Whether table main is to be read.
    pub(crate) scan_main: bool,
    /// Whether nothing is to be written.
    pub(crate) only_looks: bool,
    /// Whether since the last look nothing was written but new IPv6 addresses, all of them acked,
    /// and attempts to delete the kernel's routes for those.
    only_new: bool,
    /// Whether such an attempt was in vain: the kernel is not that far.
    in_vain: bool,
    /// Whether the last look read routes only, and took those addresses for granted.
    assumed: bool,
    /// Whether the kernel's routes are listened to since this call began to add addresses.
    pub(crate) listening: bool,
    /// When this call last wrote, or saw a route of the kernel's come that it waited for.
    last_progress: Instant,
    /// When this call last wrote, or saw any route to a row come or go.
    pub(crate) last_change: Instant,
}

/// Why a call stops before all of its VIPs are decided.
enum Stop {
    Cancelled,
    TimedOut,
    Error(Error),
}

impl Stop {
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

/// What the last wait brought.
#[derive(PartialEq, Eq)]
enum Waited {
    Progress,
    Stalled,
}

impl<'a> Call<'a> {
    /// A call on this link, of which nothing is known yet.
    pub(crate) fn new(
        config: &VipManagerBuilder,
        sources: &[Option<IpAddr>; 2],
        connection: &'a mut Connection,
        buffers: &'a mut Buffers,
        cancelled: &'a Cancelled,
        link: u32,
    ) -> Self {
        let desired = config.desired(sources, link);
        let policies = Family::ALL.map(|family| Policy {
            goal: Goal::Look,
            as_kernel: config.writes_as_kernel(),
            binding: config.how_bound(),
            kernel_source: desired[family as usize].kernel_source,
        });
        Self {
            connection,
            buffers,
            cancelled,
            link,
            templates: [Templates::new(&desired[0]), Templates::new(&desired[1])],
            desired,
            binding: config.how_bound(),
            policies,
            limits: config.limits(),
            report: Report::default(),
            lookup: None,
            observed: false,
            scan_main: true,
            only_looks: false,
            only_new: false,
            in_vain: false,
            assumed: false,
            last_progress: Instant::now(),
            listening: false,
            last_change: Instant::now(),
        }
    }

    /// Observes for the first time. With `admit`, VIPs found on the link become rows, too.
    pub(crate) fn look(&mut self, admit: Option<Admit<'_>>) -> Result<(), Error> {
        // The kernel refuses to tell the routes of a link that is not there.
        self.scan_main = self.link != link::NONE;
        self.observe(admit).map_err(|stop| match stop {
            Stop::Error(error) => error,
            Stop::Cancelled | Stop::TimedOut => Error::new(ErrorKind::Cancelled, "cancelled"),
        })?;
        for row in self.buffers.rows.iter_mut() {
            if !row.facts.on_link() && !row.facts.is_unread() {
                row.phase |= Phase::WAS_ABSENT;
            }
        }
        Ok(())
    }

    /// Looks for what a look at the link does not show: routes of other devices, and, as the
    /// result, VIPs to which the link has routes in further tables.
    pub(crate) fn look_deep(&mut self) -> Result<Vec<Vip>, Error> {
        let read = "cannot read the node's routes";
        let mut elsewhere = Vec::new();
        self.observer(None)
            .observe_node(&mut elsewhere)
            .map_err(|failed| failed.into_error(read.into()))?;
        elsewhere.sort_unstable();
        Ok(elsewhere)
    }

    /// The VIPs, sorted, of rows that `has_route` picks, which a routing rule sends elsewhere.
    pub(crate) fn look_for_diverted(
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
        let scan_main = self.scan_main;
        let mut lookup = self.lookup.take();
        let mut main_of_few = scan_main;
        let enough = match &mut lookup {
            Some(lookup) => self
                .observer(admit)
                .observe_by_lookup(lookup, &mut main_of_few)?,
            None => false,
        };
        if enough {
            self.lookup = lookup;
            self.scan_main = main_of_few;
            self.assumed = false;
            self.stop_listening()?;
        } else {
            // What it hears then is that the table changes under the dump.
            self.connection.hear_addresses(false).map_err(Stop::Error)?;
            // Table main is read once, and again only while it holds something to remove.
            // A look at a few has already forgotten what was known.
            self.assumed = std::mem::take(&mut self.only_new) && lookup.is_none();
            let only_new = self.assumed;
            let mut observer = self.observer(admit);
            observer.only_new = only_new;
            self.scan_main = observer.observe(scan_main)?;
            // It listens for itself, and ends all of it.
            self.listening = false;
        }
        // What was seen is this link's only if it still is there.
        self.connection.check_link()?;
        self.observed = true;
        // Where the kernel's own routes for them are the wanted ones, one look is to tell all.
        self.only_new = !self.desired[Family::V6 as usize].kernel_source;
        for row in self.buffers.rows.iter_mut() {
            row.phase.remove(Phase::UNSEEN);
            if !row.facts.contains(Facts::ADDRESS) {
                // The next address, whoever makes it, brings a route of its own.
                row.phase.remove(Phase::SETTLED);
            }
            if row.facts.contains(Facts::KERNEL) {
                row.phase |= Phase::SETTLED;
            }
        }
        Ok(())
    }

    /// Runs the call to its end.
    pub(crate) fn run(mut self) -> Result<Report, Error> {
        let mut stopped = self.switch_to_lookups().and_then(|()| self.rounds()).err();
        if let Err(error) = self.stop_listening() {
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

    /// Where all but a few were seen as wanted, goes on with those alone, looked at one by one: what
    /// this call does not touch need not be read again.
    fn switch_to_lookups(&mut self) -> Result<(), Stop> {
        // Look-ups do not show what table main holds, and failures are noted by their rows' places.
        if self.lookup.is_some() || self.scan_main || !self.buffers.failed.is_empty() {
            return Ok(());
        }
        let policies = self.policies;
        let is_open =
            |row: &Row| next_for(row, &policies) != Next::Done || !quiet_for(row).is_zero();
        let rows = &mut self.buffers.rows;
        let open = || rows.iter().filter(|row| is_open(row));
        let count = open().take(LOOKUP_MAX + 1).count();
        let are_told = open().all(|row| can_be_told(row, self.binding));
        if !(1..=LOOKUP_MAX).contains(&count) || !are_told {
            return Ok(());
        }
        self.report.unchanged += rows.len() - count;
        rows.retain(is_open);
        self.connection
            .hear_addresses(rows.has(Family::V4))
            .map_err(Stop::Error)?;
        self.lookup = Some(Lookup::unknown(rows));
        Ok(())
    }

    fn stop_listening(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.listening) {
            self.connection.monitor().leave(route_group(Family::V6))?;
        }
        Ok(())
    }

    /// Begins with the facts of [`look`](Self::look).
    fn rounds(&mut self) -> Result<(), Stop> {
        let policies = self.policies;
        let mut stalled = false;
        let mut unread = 0;
        loop {
            self.check_time()?;
            let open = |row: &&Row| !row.phase.contains(Phase::FAILED);
            let rows = self.buffers.rows.iter().filter(open);
            let rounds = rows.map(|row| row.attempts).max();
            let patience = rounds.unwrap_or_default().saturating_sub(PATIENT_AFTER);
            if patience > 0 {
                self.pause(Duration::from_millis(1 << patience.min(6)))?;
            }
            let writes = self.report.writes;
            let mut waiting = false;
            for at in self.indices() {
                waiting |= self.advance(at)?;
            }
            self.delete_deferred()?;
            self.flush()?;
            let reads = self.buffers.rows.iter().any(is_to_be_read);
            unread = if reads { unread + 1 } else { 0 };
            if unread > READINGS {
                self.fail_where(Cause::Unread, is_to_be_read);
            } else if reads {
                self.pause(Duration::from_millis(1 << unread.min(6)))?;
            }
            self.only_new &= self.report.writes != writes;
            if self.report.writes != writes {
                // What was just written deserves a wait of its own.
                stalled = false;
                if self.only_new && self.assume_kernel_routes() {
                    continue;
                }
            } else if !waiting && (self.assumed || reads) {
                // Another hand did the rest, or made the tables unreadable. An ack is no sight: this
                // time addresses are read, too.
            } else if !waiting {
                return Ok(());
            } else if !self.assumed
                && (stalled || self.last_progress.elapsed() >= self.limits.stall.max(AGES))
            {
                // Seen once more, and it still is not there. Or others move, to no avail.
                self.fail_where(Cause::Pending, |row| next_for(row, &policies) == Next::Wait);
                return Ok(());
            } else {
                stalled = self.wait()? == Waited::Stalled;
            }
            self.check_time()?;
            self.observe(None)?;
        }
    }

    /// Behind new addresses the kernel's routes need not be looked for: what is to be deleted is
    /// there, or the kernel says that it is not. Says whether that leads on.
    ///
    /// Right behind a few addresses it would be too early.
    fn assume_kernel_routes(&mut self) -> bool {
        let is_made = |row: &Row| is_in_the_making(row) && !row.phase.contains(Phase::FAILED);
        let made = self.buffers.rows.iter().filter(|row| is_made(row));
        if self.in_vain || made.take(LOOKUP_MAX + 1).count() <= LOOKUP_MAX {
            return false;
        }
        for row in self.buffers.rows.iter_mut() {
            if !is_made(row) {
                continue;
            }
            if !row.phase.contains(Phase::SETTLED) {
                if !row.phase.contains(Phase::WAS_ABSENT) {
                    return false;
                }
                row.phase |= Phase::UNSEEN;
            }
            row.facts = known_of_address(row);
        }
        true
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
            },
            templates: &self.templates,
            only_looks: self.only_looks,
            only_new: false,
            admit,
        }
    }

    fn next(&self, row: &Row) -> Next {
        next_for(row, &self.policies)
    }

    /// Plans one row and queues its messages. Returns whether it waits for the kernel.
    fn advance(&mut self, at: u32) -> Result<bool, Stop> {
        let Some(row) = self.buffers.rows.get(at).copied() else {
            return Ok(false);
        };
        if row.phase.contains(Phase::FAILED) {
            self.roll_back(at, &row)?;
            return Ok(false);
        }
        let steps = match self.next(&row) {
            Next::Done => return Ok(!self.rests_for(quiet_for(&row))),
            Next::Wait => return Ok(true),
            Next::Read => return Ok(false),
            Next::Fail(cause) => {
                self.fail(at, cause);
                return Ok(false);
            }
            Next::Steps(steps) => steps,
        };
        if self.in_vain && steps == [Step::DeleteKernelBlind] {
            return Ok(true);
        }
        if row.attempts >= ATTEMPTS {
            // Somebody keeps undoing it, or the kernel keeps refusing.
            let refused = self
                .buffers
                .refusals
                .iter()
                .any(|refusal| refusal.row == at);
            self.fail(
                at,
                if refused {
                    Cause::Kernel
                } else {
                    Cause::Contended
                },
            );
            return Ok(false);
        }
        if let Some(row) = self.buffers.rows.get_mut(at) {
            row.attempts += 1;
        }
        for step in steps {
            if matches!(step, Step::DeleteAddress | Step::UpdateAddress) {
                self.buffers.deferred.push((at, *step));
            } else {
                self.queue(at, *step)?;
            }
        }
        Ok(false)
    }

    /// Whether nothing has moved for so long. Nearly every row asks for no quiet at all, and then
    /// not for the time either: that costs as much as the rest of its plan.
    fn rests_for(&self, quiet: Duration) -> bool {
        quiet.is_zero()
            || self.last_change.elapsed() >= quiet
            || self.last_progress.elapsed() >= quiet.saturating_mul(RESTLESS)
    }

    /// Where the address was refused, its route went in alone: nothing is left for a VIP that
    /// failed.
    fn roll_back(&mut self, at: u32, row: &Row) -> Result<(), Stop> {
        let alone = row.facts.contains(Facts::DESIRED)
            && !row.facts.intersects(Facts::ADDRESS | Facts::UNREAD_ADDRESS);
        if !row.phase.contains(Phase::APPENDED) || !alone {
            return Ok(());
        }
        if let Some(row) = self.buffers.rows.get_mut(at) {
            row.phase.remove(Phase::APPENDED);
        }
        self.queue(at, Step::DeleteDesired)
    }

    /// Queues what is to be done to addresses behind all routes, in the order in which the kernel's
    /// walks are the shortest: in IPv6 from the head of its list, where it looks for each; in IPv4 from
    /// the tail, for the rest of the list behind each is gone through more than once
    /// (`__inet_del_ifa`, net/ipv4/devinet.c).
    fn delete_deferred(&mut self) -> Result<(), Stop> {
        if self.buffers.deferred.is_empty() {
            return Ok(());
        }
        if self.binding == Binding::Route {
            self.keep_an_address()?;
        }
        let Buffers { rows, deferred, .. } = &mut *self.buffers;
        deferred.sort_unstable_by_key(|(at, _)| {
            rows.get(*at).map(|row| match row.vip.family() {
                Family::V4 => u32::MAX - row.order,
                Family::V6 => row.order,
            })
        });
        for place in 0..deferred.len() {
            let (at, step) = self.buffers.deferred[place];
            self.queue(at, step)?;
        }
        self.buffers.deferred.clear();
        Ok(())
    }

    /// Were the link's last IPv4 address to go, every IPv4 route through it would.
    fn keep_an_address(&mut self) -> Result<(), Stop> {
        let Buffers { rows, deferred, .. } = &*self.buffers;
        let is_v4 = |row: &Row| row.vip.family() == Family::V4;
        if !deferred
            .iter()
            .any(|(at, _)| rows.get(*at).is_some_and(is_v4))
        {
            return Ok(());
        }
        if self.lookup.is_some() {
            // Of the link's other addresses a look at a few tells nothing.
            self.observer(None).dump_addresses(Family::V4)?;
        }
        if self.buffers.rows.unmanaged_v4() == 0 {
            link::placeholder(self.connection, self.link).map_err(Stop::Error)?;
        }
        Ok(())
    }

    /// Adds the messages of one step to the batch; sends the batch first where it is full.
    fn queue(&mut self, at: u32, step: Step) -> Result<(), Stop> {
        match step {
            Step::DeleteOthers => return self.queue_others(at),
            Step::UpdateAddress => {
                let nth = |rows: &Rows, vip, place| {
                    let expiring = rows.address_attrs(vip).filter(|keep| keep.expires);
                    expiring.copied().nth(place)
                };
                return self.queue_each(at, step, nth, Templates::push_update_address);
            }
            Step::AddAddress | Step::DeleteAddress | Step::RenewAddress => {
                self.prepare_address(at, step)?;
                let has_peer = |row: &Row| row.facts.contains(Facts::PEER);
                if step == Step::DeleteAddress && self.buffers.rows.get(at).is_some_and(has_peer) {
                    let nth = |rows: &Rows, vip, place| rows.peers(vip).nth(place).copied();
                    return self.queue_each(at, step, nth, Templates::push_delete_address);
                }
            }
            _ => {}
        }
        self.push(at, step, |templates, vip, out, sequence| {
            if let Some(template) = templates.of(step) {
                template.push(out, sequence, vip);
            }
        })
    }

    fn queue_others(&mut self, at: u32) -> Result<(), Stop> {
        let nth = |rows: &Rows, vip, place| rows.others(vip).nth(place).copied();
        self.queue_each(at, Step::DeleteOthers, nth, Templates::push_delete_route)?;
        if let Some(vip) = self.buffers.rows.get(at).map(|row| row.vip) {
            self.outdate_notified(vip, |notified| notified.routes.clear());
        }
        Ok(())
    }

    /// One message for each thing that was found beside a row, a route or another end of its
    /// address; nearly always one.
    fn queue_each<T: Copy>(
        &mut self,
        at: u32,
        step: Step,
        nth: impl Fn(&Rows, Vip, usize) -> Option<T>,
        write: impl Fn(&Templates, &mut Vec<u8>, u32, &IpAddr, &T),
    ) -> Result<(), Stop> {
        let Some(vip) = self.buffers.rows.get(at).map(|row| row.vip) else {
            return Ok(());
        };
        for place in 0.. {
            let Some(what) = nth(&self.buffers.rows, vip, place) else {
                break;
            };
            self.push(at, step, |templates, vip, out, sequence| {
                write(templates, out, sequence, vip, &what);
            })?;
        }
        Ok(())
    }

    /// What is to be done before an address comes or goes, where few are looked at one by one.
    fn prepare_address(&mut self, at: u32, step: Step) -> Result<(), Stop> {
        let rows = &self.buffers.rows;
        let lookup = rows.len() <= LOOKUP_MAX;
        if step == Step::AddAddress && !self.listening && lookup && rows.has(Family::V6) {
            // Another manager may take the kernel's route away before the next observation: so
            // that this one knows that it has come. Of many that would cost more than all else; whose
            // route nobody saw then has to be quiet for a while.
            self.connection.monitor().join(route_group(Family::V6))?;
            self.listening = true;
        }
        if self.lookup.is_some()
            && let Some(vip) = rows.get(at).map(|row| row.vip)
        {
            self.outdate_notified(vip, |notified| notified.address = None);
        }
        Ok(())
    }

    /// What a notification told of this row before we wrote to it says nothing any more.
    fn outdate_notified(&mut self, vip: Vip, outdate: impl Fn(&mut Notified)) {
        for (of, notified) in self
            .lookup
            .iter_mut()
            .flat_map(|lookup| &mut lookup.all_notified)
        {
            if *of == vip {
                outdate(notified);
            }
        }
    }

    fn push(
        &mut self,
        at: u32,
        step: Step,
        write: impl FnOnce(&Templates, &IpAddr, &mut Vec<u8>, u32),
    ) -> Result<(), Stop> {
        if self.buffers.batch.len() >= BATCH.min(self.connection.reply_capacity()) {
            self.flush()?;
        }
        if self.buffers.batch.len() == 0 {
            self.buffers.batch.begin(self.connection.sequence());
        }
        let Some(row) = self.buffers.rows.get_mut(at) else {
            return Ok(());
        };
        // A replacement may stand twice in one plan; only another round repeats it.
        if row.sent & step.bit() != 0 && row.attempts > 1 {
            self.report.retries += 1;
        }
        row.sent |= step.bit();
        row.phase |= Phase::WRITTEN;
        match step {
            Step::RenewAddress => row.phase |= Phase::RENEWED,
            Step::DeleteKernelBlind => row.phase.remove(Phase::UNSEEN),
            _ => {}
        }
        let vip = row.vip.addr();
        let templates = &self.templates[row.vip.family() as usize];
        self.buffers.batch.push(at, step, |out, sequence| {
            write(templates, &vip, out, sequence)
        });
        Ok(())
    }

    /// Sends the batch and takes its replies.
    fn flush(&mut self) -> Result<(), Stop> {
        let Buffers {
            rows,
            batch,
            refusals,
            texts,
            ..
        } = &mut *self.buffers;
        if batch.len() == 0 {
            return Ok(());
        }
        let from = refusals.len();
        let count = batch.len();
        let mut sealed = batch.seal();
        let heard = self.connection.exchange(&mut sealed, |refused| {
            if let Some(text) = refused.text {
                texts.push((refusals.len(), text.into()));
            }
            refusals.push(Refused {
                text: None,
                ..refused
            });
        });
        self.report.writes += count as u64;
        self.last_change = Instant::now();
        self.last_progress = self.last_change;
        let is_new = |entry: &Entry| {
            let row = rows.get(entry.row);
            let made = entry.step == Step::AddAddress && !entry.refused;
            (made || entry.step == Step::DeleteKernelBlind)
                && row.is_some_and(|row| row.vip.family() == Family::V6)
        };
        self.only_new &=
            matches!(heard, Ok(Dumped::Complete)) && sealed.entries().iter().all(is_new);
        match heard {
            Ok(Dumped::Complete) => {
                for entry in sealed.entries() {
                    let Some(row) = rows.get_mut(entry.row) else {
                        continue;
                    };
                    match entry.step {
                        Step::DeleteKernelBlind if entry.refused => self.in_vain = true,
                        _ if entry.refused => {}
                        Step::AddAddress => row.phase = row.phase.with_new_address(),
                        Step::AppendRoute => row.phase |= Phase::APPENDED,
                        // The kernel handles the messages of a send in their order, and says which
                        // it refuses: there was one.
                        Step::DeleteKernelBlind => row.phase |= Phase::SETTLED,
                        _ => {}
                    }
                }
            }
            // Replies are lost: what became of the messages, the next observation shows. But it
            // does not show whether a route that is not there has been there.
            Ok(Dumped::Interrupted) => {
                for entry in sealed.entries() {
                    if entry.step == Step::DeleteKernelBlind
                        && let Some(row) = rows.get_mut(entry.row)
                    {
                        row.phase |= Phase::UNHEARD;
                    }
                }
            }
            // The kernel took none of them, for lack of memory: the next round tries again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => {}
            Err(error) => return Err(error.into()),
        }
        batch.begin(0);
        self.judge_refusals(from, count)?;
        self.check_time()
    }

    /// Decides what the refusals from `from` on mean, of a batch of so many messages.
    fn judge_refusals(&mut self, from: usize, sent: usize) -> Result<(), Stop> {
        let of_link = |errno| matches!(errno, libc::ENODEV | libc::ENETDOWN);
        let refused = &self.buffers.refusals[from..];
        // For want of privilege the kernel takes no message at all (`rtnetlink_rcv_msg`,
        // net/core/rtnetlink.c).
        if refused.len() == sent && refused.iter().all(|refused| refused.errno == libc::EPERM) {
            return Err(Stop::Error(Error::kernel(
                "cannot change addresses and routes",
                libc::EPERM,
                None,
            )));
        }
        // Any other refusal, whatever it says, is of one message.
        let is_lasting = |refused: &&Refused<'_>| {
            of_link(refused.errno) || refused.step.refused(refused.errno) == Refusal::Final
        };
        let mut unverified = [false; 2];
        for refused in refused.iter().filter(is_lasting) {
            if let Some(row) = self.buffers.rows.get(refused.row) {
                unverified[row.vip.family() as usize] = true;
            }
        }
        let is_link_there = unverified == [false; 2] || self.look_at_families(unverified)?;
        for place in from..self.buffers.refusals.len() {
            let Refused {
                row, step, errno, ..
            } = self.buffers.refusals[place];
            match step.refused(errno) {
                // The link is as it should be again, or it is the family's trouble.
                _ if of_link(errno) && is_link_there => self.lookup = None,
                Refusal::Final => self.fail(row, Cause::Kernel),
                // It is otherwise than it seemed when looked at alone: read the link.
                Refusal::LookAgain => self.lookup = None,
            }
        }
        if is_link_there {
            Ok(())
        } else {
            Err(Stop::link_gone())
        }
    }

    /// Looks whether refusals in these families have a cause that is the whole family's, and fails its
    /// VIPs then. IPv6 says ENODEV, EINVAL or EACCES where only its own state of the link is gone
    /// (`addrconf_ifdown`, `ipv6_add_dev`, net/ipv6/addrconf.c). Returns whether the link is there.
    fn look_at_families(&mut self, families: [bool; 2]) -> Result<bool, Stop> {
        let Some(index) = LinkIndex::new(self.link) else {
            return Ok(false);
        };
        let found = link::find(self.connection, &LinkRef::Index(index)).map_err(Stop::Error)?;
        let Some(link) = found else {
            return Ok(false);
        };
        for family in Family::ALL.into_iter().filter(|f| families[*f as usize]) {
            let source = self.desired[family as usize].source;
            let found = trouble::of_family(self.connection, family, Some(&link), false, source);
            let Some(trouble) = found.map_err(Stop::Error)? else {
                continue;
            };
            let cause = Cause::Missing(trouble.kind);
            self.buffers.troubles[family as usize] = Some(trouble);
            for at in self.indices() {
                let row = self.buffers.rows.get(at);
                if row.is_some_and(|row| row.needs_source(family)) {
                    self.fail(at, cause);
                }
            }
        }
        Ok(true)
    }

    fn fail(&mut self, at: u32, cause: Cause) {
        if let Some(row) = self.buffers.rows.get_mut(at)
            && !row.phase.contains(Phase::FAILED)
        {
            row.phase |= Phase::FAILED;
            self.buffers.failed.push((at, cause));
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

    /// Lets a contended VIP rest. A cancellation ends the pause.
    fn pause(&self, time: Duration) -> Result<(), Stop> {
        match wait_readable(self.cancelled, self.cancelled, time)? {
            Woken::Cancelled => self.check_time(),
            Woken::Event | Woken::TimedOut => Ok(()),
        }
    }

    /// Waits until the kernel has put in the routes that rows wait for, or stops to make progress.
    fn wait(&mut self) -> Result<Waited, Stop> {
        let group = route_group(Family::V6);
        self.connection.monitor().join(group)?;
        let waited = self.wait_listening();
        self.connection.monitor().leave(group)?;
        waited
    }

    fn wait_listening(&mut self) -> Result<Waited, Stop> {
        self.connection.notifications(|_| ())?;
        let policies = self.policies;
        let waits = move |row: &Row| {
            !row.phase.contains(Phase::FAILED)
                && !row.facts.contains(Facts::KERNEL)
                && (!quiet_for(row).is_zero()
                    || matches!(next_for(row, &policies), Next::Wait | Next::Read))
        };
        // What came before we listened is found by looking, what comes after by listening.
        let before = self.buffers.rows.iter().filter(|row| waits(row)).count();
        self.observer(None).look_up(waits)?;
        let mut left = 0;
        let (mut recent, mut quiet) = (false, Duration::ZERO);
        for row in self.buffers.rows.iter().filter(|row| waits(row)) {
            left += 1;
            if !quiet_for(row).is_zero() {
                quiet = quiet.max(quiet_for(row));
            } else {
                recent |= !awaits_kernel(row) && !row.facts.contains(Facts::TENTATIVE);
            }
        }
        let mut progress = left < before;
        let began = Instant::now();
        while left > 0 {
            self.check_time()?;
            let mut patience = if progress {
                GATHER
            } else {
                self.limits.stall.saturating_sub(began.elapsed())
            };
            if recent {
                // An address of somebody else's grows old without an event.
                patience = patience.min(Duration::from_millis(100));
            }
            let unsure = !quiet.is_zero();
            if unsure {
                patience = patience.min(quiet.saturating_sub(self.last_change.elapsed()));
            }
            if let Some(deadline) = self.limits.deadline {
                patience = patience.min(deadline.saturating_duration_since(Instant::now()));
            }
            match wait_readable(self.connection.monitor(), self.cancelled, patience)? {
                Woken::Cancelled => {}
                Woken::TimedOut if progress || recent || unsure => return Ok(Waited::Progress),
                Woken::TimedOut => return Ok(Waited::Stalled),
                Woken::Event => {
                    let arrived = self.take_arrivals()?;
                    progress |= arrived != Some(0);
                    match arrived {
                        Some(arrived) => left = left.saturating_sub(arrived),
                        // Notifications are lost: look again.
                        None => return Ok(Waited::Progress),
                    }
                }
            }
        }
        Ok(Waited::Progress)
    }

    /// Reads the notifications for the rows that wait, and counts them. `None` if some were lost.
    fn take_arrivals(&mut self) -> io::Result<Option<usize>> {
        let rows = &mut self.buffers.rows;
        let link = self.link;
        let (mut arrived, mut last_progress) = (0, false);
        let heard = self.connection.notifications(|message| {
            let arrival = note_arrival(message, rows, link);
            arrived += usize::from(arrival != Arrival::None);
            last_progress |= arrival == Arrival::Kernels;
        })?;
        if arrived > 0 {
            self.last_change = Instant::now();
        }
        if last_progress {
            self.last_progress = Instant::now();
        }
        Ok((heard == Dumped::Complete).then_some(arrived))
    }

    /// Fails the rows that `which` picks.
    fn fail_where(&mut self, cause: Cause, which: impl Fn(&Row) -> bool) {
        for at in self.indices() {
            if self.buffers.rows.get(at).is_some_and(&which) {
                self.fail(at, cause);
            }
        }
    }

    /// Sums up. `stopped`: before every VIP was decided.
    fn conclude(&mut self, stopped: bool) -> Report {
        let mut report = std::mem::take(&mut self.report);
        for at in self.indices() {
            let Some(row) = self.buffers.rows.get(at).copied() else {
                continue;
            };
            if row.phase.contains(Phase::FAILED) {
                continue;
            }
            // Only what was *seen* as wanted counts, and seen after the last write to it.
            let written = row.phase.contains(Phase::WRITTEN);
            let next = self.next(&row);
            if !self.observed || stopped && written || next != Next::Done {
                let unreached = stopped && next != Next::Wait;
                self.fail(
                    at,
                    if unreached {
                        Cause::NotReached
                    } else {
                        Cause::Pending
                    },
                );
                continue;
            }
            let absent = row.phase.contains(Phase::WAS_ABSENT);
            *match (written, row.goal) {
                (false, _) => &mut report.unchanged,
                (true, Goal::Release) => &mut report.released,
                (true, _) if absent => &mut report.assigned,
                (true, _) => &mut report.repaired,
            } += 1;
        }
        let observed = self.observed;
        let policies = self.policies;
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
            let is_final = refusal.step.refused(refusal.errno) == Refusal::Final;
            let entry = decisive.entry(refusal.row).or_insert((place, is_final));
            if !entry.1 {
                *entry = (place, is_final);
            }
        }
        for (at, cause) in failed {
            let Some(row) = buffers.rows.get(at) else {
                continue;
            };
            let mut failure = buffers.failure(row.vip, cause);
            let decided = |is_final| match cause {
                Cause::Kernel => true,
                Cause::Missing(_) => is_final,
                _ => false,
            };
            if let Some((place, is_final)) = decisive.get(&at).copied()
                && decided(is_final)
                && let Some(refusal) = buffers.refusals.get(place)
            {
                failure.operation = Some(refusal.step.operation());
                failure.errno = Some(refusal.errno);
                let text = buffers.texts.binary_search_by_key(&place, |(of, _)| *of);
                failure.text = text.ok().map(|at| buffers.texts[at].1.clone());
            }
            if observed {
                failure.drift = row.facts.drift(policies[row.vip.family() as usize]);
            }
            report.failures.push(failure);
        }
        report.failures.sort_by_key(|failure| failure.vip);
        report
    }
}

/// Whether more of the row may be there than was seen.
fn is_to_be_read(row: &Row) -> bool {
    row.facts.is_unread() && row.goal != Goal::Look && !row.phase.contains(Phase::FAILED)
}

/// The policy of a row's family, with the row's own goal.
pub(crate) fn policy_for(row: &Row, policies: &[Policy; 2]) -> Policy {
    Policy {
        goal: row.goal,
        ..policies[row.vip.family() as usize]
    }
}

/// What is next for a row, by the policy of its family.
fn next_for(row: &Row, policies: &[Policy; 2]) -> Next {
    let policy = policy_for(row, policies);
    next(row.vip.family(), row.facts, row.phase, policy)
}

/// How long nothing may have moved before a row that looks as wanted is; zero where that is sure.
fn quiet_for(row: &Row) -> Duration {
    if is_unsure(row) {
        return QUIET;
    }
    let recent = Facts::ADDRESS | Facts::DESIRED | Facts::RECENT;
    let is_told =
        row.facts.contains(Facts::KERNEL) || row.phase.intersects(Phase::SETTLED | Phase::FAILED);
    if row.vip.family() == Family::V6 && row.facts.contains(recent) && !is_told {
        BRIEF
    } else {
        Duration::ZERO
    }
}

/// Whether a row that looks as wanted may still get the kernel's route: nobody saw that come or
/// go, and the row was without any local route in this call, or is of an address made by it.
///
/// An address has no sign of it. It happens when an old address comes back with its link
/// (`keep_addr_on_down`; `fixup_permanent_addr`, net/ipv6/addrconf.c), or when another hand adds
/// the wanted route to the address that this call has just made.
pub(crate) fn is_unsure(row: &Row) -> bool {
    let added = Step::AddRoute.bit() | Step::AddStaged.bit();
    row.vip.family() == Family::V6
        && row.facts.contains(Facts::ADDRESS | Facts::DESIRED)
        && !row.facts.contains(Facts::KERNEL)
        && !row.phase.intersects(Phase::SETTLED | Phase::FAILED)
        && (row.phase.contains(Phase::FRESH) || row.sent & added != 0)
}
