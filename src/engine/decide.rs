//! What a call does next: the decisions of its loop, without I/O.
//!
//! The driver ([`Call`](super::Call)) does what [`Engine::stage`] says, and tells the engine what
//! came of it: [`observed`](Engine::observed), [`replied`](Engine::replied),
//! [`waited`](Engine::waited). The exhaustive check (`check.rs`) drives the same engine over a model
//! of the kernel.

use std::time::Duration;

use crate::base::{Family, PerFamily};
use crate::core::{Cause, Done, Facts, LateRoute, Next, Policy, Row, Step, next};

/// Rounds in which something is sent for a VIP before it counts as contended. An undisturbed one
/// takes at most six.
const ATTEMPTS: u16 = 20;

/// Rounds after which a VIP's next one waits first: more than an undisturbed one takes.
pub(crate) const PATIENT_AFTER: u16 = 6;

/// Rounds in a row in which a VIP could not be read, each of several dumps, before it fails.
const READINGS: u8 = 10;

/// How long nothing may change before a VIP counts as finished whose kernel route this call never
/// saw. The kernel's route is late by microseconds, under load by milliseconds.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// The same where the desired route is there and only the address is recent. Another writer has
/// usually completed the whole sequence; the route may still predate this address. The kernel's route
/// comes from `addrconf_dad_work`, which waits for the RTNL: with two writers at the RTNL and ten busy
/// processes on two cores, it was later than 50 ms for 2 of 180 addresses, and for none than 100 ms.
pub(super) const BRIEF: Duration = Duration::from_millis(100);

/// A call waits for quiet at most this many times as long. A writer that never pauses would
/// otherwise keep the call waiting forever.
const RESTLESS: u32 = 4;

/// How long a call waits at least for recent addresses to age, though nothing progresses.
const AGES: Duration = Duration::from_secs(2);

/// What comes next, for all rows alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Read the addresses and the routes of the link.
    ReadAll,
    /// Read the routes alone. Since the last observation only IPv6 addresses were added, and their
    /// acks stand for them.
    ReadRoutes,
    /// Look up each row.
    LookUp,
    /// Plan each row, and send its steps.
    Plan(Basis),
    /// Wait for what only the kernel, or time, can bring.
    Wait,
    /// Nothing is left to do, or nothing more can be done.
    Finished,
}

/// What the rows' facts rest on when they are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Basis {
    /// All of it was observed.
    Observed,
    /// The routes were observed. New addresses are known by their acks.
    AckedAddresses,
    /// Nothing was observed since the last acks.
    Acks,
}

/// How rows are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    /// By dumps of the link's addresses and routes.
    Dumps,
    /// Row by row, by look-ups.
    LookUps,
}

/// What was written since the last observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Written {
    Nothing,
    /// New IPv6 addresses, all acked, and blind deletions of the kernel's routes for them.
    NewAddresses,
    Other,
}

/// Whether the kernel's routes may be deleted right behind the acked addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BlindDeletion {
    Possible,
    /// One of them found nothing to delete: the kernel's work queue is late.
    TooEarly,
}

/// How the replies to a batch arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Replies {
    /// Every message was answered, or handled before the last one was.
    Complete,
    /// Some were lost: only an observation shows what became of the messages.
    Lost,
    /// The kernel took no message of the batch, for lack of memory.
    NotSent,
}

/// One sent message, and whether the kernel refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reply {
    pub(crate) step: Step,
    pub(crate) refused: bool,
}

/// What a wait brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Progress,
    Stalled,
}

/// What is to be done for a row now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing: it is as desired, or it has failed.
    Nothing,
    /// Send these steps, in this order.
    Steps(&'static [Step]),
    /// Nothing yet: the kernel has something to finish, or time must pass.
    Wait,
    /// It fails.
    Fail(Cause),
    /// It fails: its steps were sent too often, to no avail.
    Exhausted,
}

/// What a row waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// The kernel's own route, or the end of duplicate address detection.
    Kernel,
    /// A recent address of another writer to age: no event tells of that.
    Age,
    /// That nothing changes for so long.
    Quiet(Duration),
}

/// The time that has passed, as far as decisions depend on it.
pub(crate) trait Clock {
    /// Since this call last wrote, or saw a route to a row change.
    fn since_change(&self) -> Duration;
    /// Since this call last wrote, or saw a kernel's route come that it waited for.
    fn since_progress(&self) -> Duration;
}

/// The state of a call's decisions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Engine {
    /// The policies of the families, whatever a row's goal is.
    policies: PerFamily<Policy>,
    stage: Stage,
    method: Method,
    written: Written,
    blind: BlindDeletion,
    /// Whether the last wait ended without progress and nothing was written since.
    stalled: bool,
    /// Rounds in a row in which a row could not be read.
    unread: u8,
}

/// How a round ends for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    GoOn,
    /// Go on after this time: the tables keep changing.
    Pause(Duration),
    /// The rows that the engine [gives up](Engine::gives_up) fail with this cause.
    GiveUp(Cause),
}

impl Engine {
    pub(crate) fn new(policies: PerFamily<Policy>, method: Method) -> Self {
        Self {
            policies,
            stage: Stage::read(method),
            method,
            written: Written::Nothing,
            blind: BlindDeletion::Possible,
            stalled: false,
            unread: 0,
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn policies(&self) -> &PerFamily<Policy> {
        &self.policies
    }

    /// From now on rows are observed in this way.
    pub(crate) fn observe_by(&mut self, method: Method) {
        self.method = method;
        if matches!(self.stage, Stage::ReadAll | Stage::LookUp) {
            self.stage = Stage::read(method);
        }
    }

    /// What is next for a row, by the policy of its family.
    pub(crate) fn next(&self, row: &Row) -> Next {
        let policy = policy_for(row, &self.policies);
        next(row.vip.family(), row.facts, row.progress, policy)
    }

    /// Takes the facts of an observation, which the rows hold now.
    pub(crate) fn observed<'r>(&mut self, rows: impl IntoIterator<Item = &'r mut Row>) {
        self.stage = Stage::Plan(match self.stage {
            Stage::ReadRoutes => Basis::AckedAddresses,
            _ => Basis::Observed,
        });
        self.written = Written::Nothing;
        rows.into_iter()
            .for_each(|row| row.progress.observed(row.facts));
    }

    /// Decides for one row. A row that fails is marked as failed.
    pub(crate) fn plan(&self, row: &mut Row, clock: &impl Clock) -> Decision {
        if row.has_failed() {
            return if row.take_orphan_route() {
                Decision::Steps(&[Step::DeleteDesired])
            } else {
                Decision::Nothing
            };
        }
        let decision = match self.next(row) {
            Next::Done if has_rested(quiet_for(row), clock) => Decision::Nothing,
            Next::Done | Next::Wait => Decision::Wait,
            Next::Read => Decision::Nothing,
            Next::Fail(cause) => Decision::Fail(cause),
            Next::Steps([Step::DeleteKernelBlind]) if self.blind == BlindDeletion::TooEarly => {
                Decision::Wait
            }
            Next::Steps(_) if row.attempts >= ATTEMPTS => Decision::Exhausted,
            Next::Steps(steps) => {
                row.attempts += 1;
                Decision::Steps(steps)
            }
        };
        if matches!(decision, Decision::Fail(_) | Decision::Exhausted) {
            row.progress.done |= Done::FAILED;
        }
        decision
    }

    /// Takes the replies to a batch; `row` finds the row of a message.
    pub(crate) fn replied(&mut self, row: &mut Row, reply: Reply, replies: Replies) {
        let v6 = row.vip.family() == Family::V6;
        let written = match (replies, reply.step) {
            (Replies::Complete, Step::AddAddress) if v6 && !reply.refused => Written::NewAddresses,
            (Replies::Complete, Step::DeleteKernelBlind) => Written::NewAddresses,
            _ => Written::Other,
        };
        self.written = self.written.max(written);
        self.stalled = false;
        match (replies, reply.refused) {
            (Replies::Complete, true) => {
                if reply.step == Step::DeleteKernelBlind {
                    self.blind = BlindDeletion::TooEarly;
                }
            }
            (Replies::Complete, false) => row.progress.acked(reply.step),
            (Replies::Lost, _) => row.progress.reply_lost(reply.step),
            (Replies::NotSent, _) => {}
        }
    }

    /// Ends a round: every row was planned, and every reply taken. With `waits`, a row waits.
    /// `many`: so many rows have an address of this call's making and no route yet that the
    /// kernel's work queue had time for the first of them.
    pub(crate) fn end_round(
        &mut self,
        rows: &mut [Row],
        waits: bool,
        many: bool,
        stall: Duration,
        clock: &impl Clock,
    ) -> Verdict {
        let Stage::Plan(basis) = self.stage else {
            return Verdict::GoOn;
        };
        let mut verdict = Verdict::GoOn;
        let reads = rows.iter().any(Row::is_to_be_read);
        self.unread = if reads { self.unread + 1 } else { 0 };
        if self.unread > READINGS {
            verdict = Verdict::GiveUp(Cause::Unread);
        } else if reads {
            verdict = Verdict::Pause(Duration::from_millis(1 << self.unread.min(6)));
        }
        self.stage = match (self.written, waits) {
            (Written::NewAddresses, _) if many && self.trusts_acks(rows) => {
                Stage::Plan(Basis::Acks)
            }
            (Written::NewAddresses, _) if self.method == Method::Dumps && self.seeks_desired() => {
                Stage::ReadRoutes
            }
            (Written::NewAddresses | Written::Other, _) => Stage::read(self.method),
            // Another writer did the rest, or keeps the tables unreadable. An ack is no observation:
            // read the addresses, too.
            (Written::Nothing, false) if basis != Basis::Observed || reads => {
                Stage::read(self.method)
            }
            (Written::Nothing, false) => Stage::Finished,
            (Written::Nothing, true)
                if basis == Basis::Observed
                    && (self.stalled || clock.since_progress() >= stall.max(AGES)) =>
            {
                // Observed once more, and it still is not there. Or others change it, to no avail.
                verdict = Verdict::GiveUp(Cause::Pending);
                Stage::Finished
            }
            (Written::Nothing, true) => Stage::Wait,
        };
        verdict
    }

    /// Whether a row is to fail for this cause where the engine gives up.
    pub(crate) fn gives_up(&self, row: &Row, cause: Cause) -> bool {
        match cause {
            Cause::Unread => row.is_to_be_read(),
            _ => !row.has_failed() && self.next(row) == Next::Wait,
        }
    }

    /// Ends a wait.
    pub(crate) fn waited(&mut self, waited: Waited) {
        self.stalled = waited == Waited::Stalled;
        self.stage = Stage::read(self.method);
    }

    #[cfg(test)]
    pub(super) fn readings(&self) -> u8 {
        self.unread
    }

    #[cfg(test)]
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What a row waits for, if anything.
    pub(crate) fn awaits(&self, row: &Row) -> Option<Awaited> {
        if row.has_failed() || row.facts.contains(Facts::KERNEL) {
            return None;
        }
        let quiet = quiet_for(row);
        match self.next(row) {
            Next::Done if !quiet.is_zero() => Some(Awaited::Quiet(quiet)),
            Next::Done | Next::Steps(_) | Next::Fail(_) => None,
            Next::Wait | Next::Read
                if row.awaits_kernel() || row.facts.contains(Facts::TENTATIVE) =>
            {
                Some(Awaited::Kernel)
            }
            Next::Wait | Next::Read => Some(Awaited::Age),
        }
    }

    /// Whether the desired routes of IPv6 are ours. Where they are the kernel's own, one
    /// observation is to show all of it.
    fn seeks_desired(&self) -> bool {
        !self.policies[Family::V6].kernel_source
    }

    /// Goes on without an observation, behind acked addresses: the kernel's routes are there to be
    /// deleted, or the kernel says that they are not.
    fn trusts_acks(&self, rows: &mut [Row]) -> bool {
        if self.blind == BlindDeletion::TooEarly || !self.seeks_desired() {
            return false;
        }
        rows.iter_mut()
            .filter(|row| row.is_in_the_making() && !row.has_failed())
            .all(Row::trust_ack)
    }
}

impl Stage {
    /// The whole observation.
    fn read(method: Method) -> Self {
        match method {
            Method::Dumps => Self::ReadAll,
            Method::LookUps => Self::LookUp,
        }
    }
}

/// Whether nothing has changed for so long. Most rows ask for no quiet; for those the clock is not
/// read, which would cost as much as the rest of their plan.
fn has_rested(quiet: Duration, clock: &impl Clock) -> bool {
    quiet.is_zero()
        || clock.since_change() >= quiet
        || clock.since_progress() >= quiet.saturating_mul(RESTLESS)
}

/// The policy of a row's family, with the row's own goal.
pub(crate) fn policy_for(row: &Row, policies: &PerFamily<Policy>) -> Policy {
    Policy {
        goal: row.goal,
        ..policies[row.vip.family()]
    }
}

/// How long nothing may change before a row that looks as desired is; zero where that is sure.
pub(super) fn quiet_for(row: &Row) -> Duration {
    if row.may_still_get_kernels() {
        return QUIET;
    }
    let recent = Facts::ADDRESS | Facts::DESIRED | Facts::RECENT;
    let is_known = row.facts.contains(Facts::KERNEL)
        || row.progress.late_route == LateRoute::Seen
        || row.has_failed();
    if row.vip.family() == Family::V6 && row.facts.contains(recent) && !is_known {
        BRIEF
    } else {
        Duration::ZERO
    }
}
