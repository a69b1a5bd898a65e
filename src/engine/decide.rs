//! What a call does next: the decisions of its loop, without I/O.
//!
//! The driver ([`Call`](super::Call)) does what [`Engine::stage`] says, and reports the result to the
//! engine: [`observed`](Engine::observed), [`replied`](Engine::replied), [`waited`](Engine::waited).
//! The exhaustive check (`check.rs`) drives the same engine over a model of the kernel.

use std::time::Duration;

use crate::base::{Family, PerFamily};
use crate::core::{
    Binding, Cause, Done, Facts, Goal, LateRoute, Next, Policy, RECENT_FOR, Row, Step, next,
};
use crate::netlink::batch::Response;

/// Rounds with messages for a VIP before the VIP fails as contended. An undisturbed VIP takes at most
/// six.
const ATTEMPTS: u16 = 20;

/// Rounds of a VIP after which a pause precedes each further round. An undisturbed VIP never exceeds
/// this number.
pub(crate) const PATIENT_AFTER: u16 = 6;

/// Rounds of a VIP after which a blind deletion that came too early is not repeated, and an observation follows. They
/// leave a round for the steps after that observation, and one to spare.
const BLIND_UNTIL: u16 = PATIENT_AFTER - 2;

/// Successive rounds without a readable VIP before it fails. A round takes several dumps.
const READINGS: u8 = 10;

/// The time without changes after which a VIP is finished although this call never saw its late route.
/// The late route takes microseconds, under load milliseconds.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// The same time for a VIP with the desired route and a recent address. Another writer has usually
/// completed the whole sequence; the route may still predate this address. The late route comes from
/// `addrconf_dad_work` (net/ipv6/addrconf.c), which waits for the RTNL. With two writers at the RTNL and
/// ten busy processes on two cores, 2 of 180 late routes took more than 50 ms, and none took 100 ms.
pub(super) const BRIEF: Duration = Duration::from_millis(100);

/// How often a wait checks the age of a recent address.
pub(crate) const AGING: Duration = Duration::from_millis(100);

/// The longest wait for quiet, as a multiple of that time. A writer that never pauses would otherwise
/// keep the call waiting forever.
pub(crate) const RESTLESS: u32 = 4;

/// The least time that a call waits for recent addresses to age, without progress.
pub(crate) const AGES: Duration = Duration::from_secs(2);

/// The next action, the same for all rows.
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
    /// Wait for the kernel, or for time to pass.
    Wait,
    /// Every row is as desired, has failed, or cannot make progress.
    Finished,
}

/// The source of the rows' facts when the rows are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Basis {
    /// Addresses and routes were observed.
    Observed,
    /// The routes were observed. New addresses are known by their acks.
    AckedAddresses,
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
    /// Only new IPv6 addresses, all acked, and blind deletions of the kernel's routes for them.
    NewAddresses,
    Other,
}

/// The order of the steps for new IPv4 VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    /// Each VIP's address, its route, and the deletion of the kernel's route, in one send.
    ByVip,
    /// The routes of all VIPs, then the addresses. A VIP is local as soon as it has its route.
    RoutesFirst,
}

/// How the replies to a batch arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Replies {
    /// The last message was acked, so the kernel handled every message before it.
    Complete,
    /// Replies were lost: only an observation shows the effect of the messages.
    Lost,
    /// The kernel accepted no message of the batch, for lack of memory.
    NotSent,
}

/// A sent message, and the kernel's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reply {
    pub(crate) step: Step,
    pub(crate) response: Response,
}

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Progress,
    Stalled,
}

/// The decision for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Do nothing: the row is as desired, or has failed.
    Nothing,
    /// Send these steps, in this order.
    Steps(&'static [Step]),
    /// Wait: the kernel has work to finish, or time must pass.
    Wait,
    /// The row fails.
    Fail(Cause),
    /// The row fails: its steps were sent [`ATTEMPTS`] times without success.
    Exhausted,
}

/// The event that a row waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// The kernel's own route, or the end of duplicate address detection.
    Kernel,
    /// Another writer's recent address to age, which no notification reports.
    Age,
    /// This much time without a change.
    Quiet(Duration),
}

/// A wait for time to pass, and not for the kernel. It takes up to seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LongWait {
    /// [`Awaited::Age`].
    Age,
    /// [`Awaited::Quiet`]: the VIP looks as desired.
    Rest(Duration),
}

impl LongWait {
    /// After how long the VIP is looked at again.
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::Age => Duration::from_millis(10 * u64::from(RECENT_FOR)),
            Self::Rest(quiet) => quiet,
        }
    }
}

/// Who waits until time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LongWaits {
    /// The call.
    InCall,
    /// The caller, who then looks at the VIPs again. The call ends once only they wait.
    Postponed,
}

/// The times on which decisions depend.
pub(crate) trait Clock {
    /// The time since this call last wrote, or saw a route to a row change.
    fn since_change(&self) -> Duration;
    /// The time since this call last wrote, or saw an awaited late route.
    fn since_progress(&self) -> Duration;
    /// The stall time-out: how long a wait lasts without progress.
    fn stall(&self) -> Duration;
}

/// The state of a call's decisions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Engine {
    /// The policy of each family. A row's own goal replaces the policy's.
    policies: PerFamily<Policy>,
    stage: Stage,
    method: Method,
    order: Order,
    written: Written,
    /// Whether the last wait ended without progress, with no write since.
    stalled: bool,
    /// Successive rounds with an unread row.
    unread: u8,
    long_waits: LongWaits,
}

/// What the driver does at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    GoOn,
    /// Pause this long: the tables keep changing.
    Pause(Duration),
    /// Fail, with this cause, the rows that the engine [gives up](Engine::gives_up).
    GiveUp(Cause),
}

impl Engine {
    pub(crate) fn new(policies: PerFamily<Policy>, method: Method) -> Self {
        Self {
            policies,
            stage: Stage::read(method),
            method,
            order: Order::ByVip,
            written: Written::Nothing,
            stalled: false,
            unread: 0,
            long_waits: LongWaits::InCall,
        }
    }

    /// Leaves it to the caller to wait until time has passed.
    pub(crate) fn postpone_long_waits(&mut self) {
        self.long_waits = LongWaits::Postponed;
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn policies(&self) -> &PerFamily<Policy> {
        &self.policies
    }

    /// Begins with the routes of new IPv4 VIPs. From now on the driver reports each deletion of an address
    /// of the link ([`end_routes_first`](Self::end_routes_first)): with the link's last IPv4 address, the
    /// kernel deletes every IPv4 route through the link, without a notification (`fib_disable_ip`,
    /// net/ipv4/fib_frontend.c). The deletion of the kernel's route would then leave no route.
    ///
    /// Once a VIP's own address is acked and no deletion was reported, its route is safe: the link's last
    /// address can no longer go before the VIP's own.
    pub(crate) fn begin_routes_first(&mut self) {
        self.order = Order::RoutesFirst;
    }

    /// Ends that order. Rows that it has begun wait for an observation.
    pub(crate) fn end_routes_first(&mut self) {
        self.order = Order::ByVip;
    }

    pub(crate) fn is_routes_first(&self) -> bool {
        self.order == Order::RoutesFirst
    }

    /// Whether the route of this row may come before its address.
    pub(crate) fn may_be_route_first(&self, row: &Row) -> bool {
        let policy = policy_for(row, &self.policies);
        row.vip.family() == Family::V4
            && (policy.goal, policy.binding) == (Goal::Assign, Binding::Address)
            && !policy.kernel_source
            && row.facts.is_empty()
            && !row.progress.has(Done::WRITTEN)
            && !row.has_failed()
    }

    /// Observes the rows by this method from now on.
    pub(crate) fn observe_by(&mut self, method: Method) {
        self.method = method;
        if matches!(self.stage, Stage::ReadAll | Stage::LookUp) {
            self.stage = Stage::read(method);
        }
    }

    /// The next step of a row, by its family's policy.
    #[inline]
    pub(crate) fn next(&self, row: &Row) -> Next {
        let policy = policy_for(row, &self.policies);
        next(row.vip.family(), row.facts, row.progress, policy)
    }

    /// Takes an observation, whose facts the rows hold.
    pub(crate) fn observed<'r>(&mut self, rows: impl IntoIterator<Item = &'r mut Row>) {
        self.stage = Stage::Plan(match self.stage {
            Stage::ReadRoutes => Basis::AckedAddresses,
            _ => Basis::Observed,
        });
        self.written = Written::Nothing;
        rows.into_iter()
            .for_each(|row| row.progress.observed(row.facts));
    }

    /// Whether nothing was written since the last observation.
    pub(crate) fn is_observed(&self) -> bool {
        self.written == Written::Nothing
    }

    /// Decides for one row, and marks the row if it fails.
    #[inline]
    pub(crate) fn plan(&self, row: &mut Row, clock: &impl Clock) -> Decision {
        if row.has_failed() {
            return if row.take_orphan_route() {
                Decision::Steps(&[Step::DeleteDesired])
            } else {
                Decision::Nothing
            };
        }
        if self.is_routes_first() && self.may_be_route_first(row) {
            row.progress.done |= Done::ROUTE_FIRST;
        }
        let decision = match self.next(row) {
            Next::Done if has_rested(quiet_for(row), clock) => Decision::Nothing,
            Next::Done | Next::Wait if self.postpones(row).is_some() => Decision::Nothing,
            Next::Done | Next::Wait => Decision::Wait,
            Next::Read => Decision::Nothing,
            Next::Fail(cause) => Decision::Fail(cause),
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

    /// Takes the reply to one message of a batch, for the message's row.
    #[inline]
    pub(crate) fn replied(&mut self, row: &mut Row, reply: Reply, replies: Replies) {
        let v6 = row.vip.family() == Family::V6;
        let written = match (replies, reply.step) {
            (Replies::Complete, Step::AddAddress) if v6 && reply.response == Response::Acked => {
                Written::NewAddresses
            }
            (Replies::Complete, Step::DeleteKernelBlind) => Written::NewAddresses,
            _ => Written::Other,
        };
        self.written = self.written.max(written);
        self.stalled = false;
        match (replies, reply.response) {
            (_, Response::DeletedKernels) => row.progress.deleted_late_route(),
            (Replies::Complete, Response::Acked) => row.progress.acked(reply.step),
            (Replies::Lost, Response::Acked) => {}
            (_, Response::Absent | Response::Refused) | (Replies::NotSent, _) => {
                row.progress.refused(reply.step);
            }
        }
    }

    /// Whether a row may go on from this reply in the same round, without an observation: the kernel
    /// acked its new address, or an echo showed the blind deletion of its late route. The kernel refuses a
    /// blind deletion that comes too early, and it is repeated some sends later. An ack without the echo may mean
    /// that the deletion hit the desired route of another writer: the row adds that route again. Or the kernel
    /// acked the staged route beside its own. In IPv4, the kernel acked the route that comes first, or the address
    /// behind it. In a release, the kernel acked the deletion of the address that precedes its marked route.
    #[inline]
    pub(crate) fn goes_on(&self, row: &Row, reply: Reply, replies: Replies) -> bool {
        let is_due = match (row.vip.family(), reply.response) {
            (_, Response::Acked) if reply.step == Step::DeleteAddress => {
                // Further addresses of the VIP, with other peers, may follow.
                row.progress.releases_address_first(row.facts) && !row.facts.contains(Facts::PEER)
            }
            (Family::V4, Response::Acked) => {
                row.progress.has(Done::ROUTE_FIRST)
                    && matches!(reply.step, Step::AppendRoute | Step::AddAddress)
            }
            (Family::V6, Response::Acked) => match reply.step {
                Step::AddAddress => self.seeks_desired(),
                Step::DeleteKernelBlind => true,
                Step::AddStaged => row.progress.is_staged(row.facts),
                _ => false,
            },
            (_, Response::DeletedKernels) => self.seeks_desired(),
            (_, Response::Refused) => false,
            (_, Response::Absent) => {
                reply.step == Step::DeleteKernelBlind && row.attempts < BLIND_UNTIL
            }
        };
        is_due && replies == Replies::Complete
    }

    /// Lets a row go on from its last ack. Returns whether it may.
    #[inline]
    pub(crate) fn trust_ack(&self, row: &mut Row) -> bool {
        let may = row.is_of(Family::V6) || row.goal == Goal::Release || self.is_routes_first();
        may && row.trust_ack()
    }

    /// Ends a round, after every row was planned and every reply taken. `waits`: a row waits.
    ///
    /// Unread rows come before waiting rows: the call waits, and gives up on waiting rows, only when no
    /// row is unread. So the rows of a verdict are of one kind.
    pub(crate) fn end_round(&mut self, rows: &[Row], waits: bool, clock: &impl Clock) -> Verdict {
        let Stage::Plan(basis) = self.stage else {
            return Verdict::GoOn;
        };
        let reads = rows.iter().any(|row| self.is_to_be_read(row));
        self.unread = if reads {
            self.unread.saturating_add(1)
        } else {
            0
        };
        let mut verdict = match self.unread {
            0 => Verdict::GoOn,
            1..=READINGS => Verdict::Pause(Duration::from_millis(1 << self.unread.min(6))),
            _ => Verdict::GiveUp(Cause::Unread),
        };
        self.stage = match (self.written, waits) {
            (Written::NewAddresses, _) if self.method == Method::Dumps && self.seeks_desired() => {
                Stage::ReadRoutes
            }
            (Written::NewAddresses | Written::Other, _) => Stage::read(self.method),
            (Written::Nothing, _) if reads => Stage::read(self.method),
            // Another writer did the rest. An ack is no observation, so read the addresses again.
            (Written::Nothing, false) if basis != Basis::Observed => Stage::read(self.method),
            (Written::Nothing, false) => Stage::Finished,
            (Written::Nothing, true) if basis == Basis::Observed && self.has_stalled(clock) => {
                // An observation after the stall shows no progress, or other writers' changes never
                // lead to the desired state.
                verdict = Verdict::GiveUp(Cause::Pending);
                Stage::Finished
            }
            (Written::Nothing, true) => Stage::Wait,
        };
        verdict
    }

    /// Whether a row needs nothing but to be read again.
    #[inline]
    fn is_to_be_read(&self, row: &Row) -> bool {
        row.is_unread() && self.has_only_to_be_read(row)
    }

    // Out of line, so that the hot path keeps its one inlined `next`.
    #[cold]
    #[inline(never)]
    fn has_only_to_be_read(&self, row: &Row) -> bool {
        !row.has_failed() && self.next(row) == Next::Read
    }

    /// Whether waiting has led to no progress.
    fn has_stalled(&self, clock: &impl Clock) -> bool {
        self.stalled || clock.since_progress() >= clock.stall().max(AGES)
    }

    /// Whether the releases wait for another round, after the other rows were worked on: a VIP becomes
    /// right before another VIP's release begins, because the deletion of an IPv6 address walks every
    /// route of the node (`rt6_remove_prefsrc`, net/ipv6/route.c). Only the VIP's own steps and its
    /// late route count. Duplicate address detection and another writer's recent address take seconds.
    pub(crate) fn holds_releases(&self, rows: &[Row], clock: &impl Clock) -> bool {
        let is_imminent = |row: &Row| row.awaits_kernel() && !row.facts.contains(Facts::TENTATIVE);
        self.written != Written::Nothing || !self.has_stalled(clock) && rows.iter().any(is_imminent)
    }

    /// Whether the row fails with this cause when the engine gives up.
    pub(crate) fn gives_up(&self, row: &Row, cause: Cause) -> bool {
        match cause {
            Cause::Unread => self.is_to_be_read(row),
            _ => {
                let waits = !row.has_failed() && self.next(row) == Next::Wait;
                waits && self.postpones(row).is_none()
            }
        }
    }

    /// Takes the result of a wait.
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

    /// The event that the call waits for, for a row, if any.
    pub(crate) fn awaits(&self, row: &Row) -> Option<Awaited> {
        self.event(row)
            .filter(|event| *event == Awaited::Kernel || self.long_waits == LongWaits::InCall)
    }

    /// What the caller waits for, for a row, if anything: see [`LongWaits::Postponed`].
    pub(crate) fn postpones(&self, row: &Row) -> Option<LongWait> {
        if self.long_waits == LongWaits::InCall {
            return None;
        }
        match self.event(row)? {
            Awaited::Kernel => None,
            Awaited::Age => Some(LongWait::Age),
            Awaited::Quiet(quiet) => Some(LongWait::Rest(quiet)),
        }
    }

    /// The event that a row waits for, if any.
    fn event(&self, row: &Row) -> Option<Awaited> {
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

    /// Whether this library makes the desired IPv6 routes. If they are the kernel's own, one complete
    /// observation is needed.
    fn seeks_desired(&self) -> bool {
        !self.policies[Family::V6].kernel_source
    }
}

impl Stage {
    /// The complete observation.
    fn read(method: Method) -> Self {
        match method {
            Method::Dumps => Self::ReadAll,
            Method::LookUps => Self::LookUp,
        }
    }
}

/// Whether nothing has changed for this long. Most rows need no quiet, and for these rows the clock is
/// not read: reading it costs as much as the rest of the plan.
#[inline]
fn has_rested(quiet: Duration, clock: &impl Clock) -> bool {
    quiet.is_zero()
        || clock.since_change() >= quiet
        || clock.since_progress() >= quiet.saturating_mul(RESTLESS)
}

/// The policy of a row's family, with the row's own goal.
#[inline]
pub(crate) fn policy_for(row: &Row, policies: &PerFamily<Policy>) -> Policy {
    Policy {
        goal: row.goal,
        ..policies[row.vip.family()]
    }
}

/// The time without changes after which a row that looks as desired counts as desired. Zero where the
/// facts are certain.
#[inline]
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
