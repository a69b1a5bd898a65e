//! The exhaustive check: every state × every arrival of the late route × one fault, against the
//! [model] of the kernel.
//!
//! A run is one call for one row. The [`Engine`] that drives a call on sockets drives the run. The check
//! follows every branch: the late route may arrive before any action, and one fault may strike any
//! action.

pub(crate) mod model;

use std::collections;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use std::time::Duration;

use self::model::{
    Address, Addresses, Device, Extent, KERNEL, Kernel, MARK, Message, Missed, Route, STATIC, Seen,
    Source, World, user_metric,
};
use super::decide::{
    Awaited, Decision, Engine, Method, QUIET, Replies, Reply, Stage, Verdict, Waited,
};
use super::still::{Still, acked};
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN};
use crate::core::{
    Binding, Cause, Done, Facts, Goal, LateRoute, Next, Policy, Progress, Refusal, Row, Step, next,
};
use crate::netlink::batch::Response;

type HashMap<K, V> = collections::HashMap<K, V, BuildHasherDefault<Quick>>;
type HashSet<K> = collections::HashSet<K, BuildHasherDefault<Quick>>;

/// A hash for a million small states. The standard hash takes most of the time in a debug build.
#[derive(Default)]
struct Quick(u64);

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.add(u64::from(*byte)));
    }

    fn write_u16(&mut self, word: u16) {
        self.add(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// The stall time-out. The model's clock never reaches it.
const STALL: Duration = Duration::from_secs(5);

/// The most rounds with messages of a VIP. Up to three are blind deletions that came too early.
const UNDISTURBED: u16 = 6;
const WITH_A_FAULT: u16 = 9;

/// A fault, of which a run has at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    /// A message has no effect, and no reply reports that.
    Vanished,
    /// A message has no effect, and the replies of its batch are lost.
    Dropped,
    /// A message has its effect, but the replies of its batch are lost.
    RepliesLost,
    /// The kernel is short of memory.
    Refused,
    /// The process is killed after a message, and another process calls again.
    Killed,
    /// A dump was interrupted, and showed every route all the same.
    Interrupted,
    /// A dump was interrupted, and missed a route.
    Missed,
    /// A routing rule answers a look-up: after an interrupted dump, which may have missed the VIP's
    /// routes in table local, or during a wait.
    Diverted,
    /// Another writer deletes the address.
    Deleted,
    /// Another writer deletes the kernel's route, as other tools for VIPs do.
    Cleaned,
    /// A route of another device with this metric is added, behind the routes of the same metric.
    Rival(u32),
    /// IPv6: another writer adds a local route of `proto kernel` with this metric to the address, which a
    /// deletion of the kernel's route by its protocol can hit.
    Alike(u32),
    /// IPv4: another writer deletes an address of the link. If it is the last, the kernel deletes every
    /// route of the link, without a notification (`fib_disable_ip`, net/ipv4/fib_frontend.c).
    Flushed,
}

/// One VIP's call, between two of its actions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Driver {
    engine: Engine,
    row: Row,
    at: At,
    /// The deletions of the VIP's other routes, from the last observation.
    others: Vec<Message>,
    /// Whether table main is to be read.
    main: bool,
    /// For how long nothing has changed.
    quiet: Duration,
    many: Many,
    /// The deletion of an address of the link is notified, and not read yet.
    has_notified_deletion: bool,
}

/// Whether the VIP is one of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Many {
    No,
    /// In IPv4, the route comes before the address.
    Yes,
}

/// The next action of the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    /// The engine's stage.
    Stage,
    /// Dump the addresses again: the table changed under the dump.
    Reread,
    /// Dump the routes, after these addresses.
    Routes(Addresses),
    /// Listen to notifications.
    Listen(Awaited),
    Send(Batch),
    /// End a round with messages.
    EndRound {
        /// The row may go on from its acks instead. The driver decides by the number of rows.
        goes_on: bool,
    },
    Over(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Done,
    Conflict,
    Unrepaired,
    Pending,
    /// The kernel's final refusal, or too many rounds.
    Kernel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    /// The messages to send, last first.
    rest: Vec<Message>,
    replies: Vec<Reply>,
    heard: Replies,
    /// A refusal was final.
    failed: bool,
}

/// The model's clock, which only a wait advances.
fn time(since_change: Duration) -> Still {
    let stall = STALL;
    Still {
        since_change,
        stall,
    }
}

impl Driver {
    /// A releasing driver with marked routes claims by the mark.
    fn new(world: &World, policy: Policy, many: Many) -> Self {
        let by_mark = policy.goal == Goal::Release
            && (policy.binding, policy.kernel_source) == (Binding::Address, false)
            && !policy.as_kernel;
        let mut row = Row::new(world.vip(), policy.goal);
        row.progress.done.set(Done::BY_MARK, by_mark);
        Self {
            engine: Engine::new(PerFamily::splat(policy), Method::Dumps),
            row,
            at: At::Stage,
            others: Vec::new(),
            main: true,
            quiet: Duration::ZERO,
            many,
            has_notified_deletion: false,
        }
    }

    fn has(&self, done: Done) -> bool {
        self.row.progress.has(done)
    }

    fn saw_late_route(&self) -> bool {
        self.row.progress.late_route == LateRoute::Seen
    }

    fn reads(&self) -> bool {
        matches!(self.engine.stage(), Stage::ReadAll | Stage::ReadRoutes)
    }

    fn end_wait(&mut self, waited: Waited) {
        self.engine.waited(waited);
        self.at = At::Stage;
    }

    /// Goes on from acks in the same round, if the row may.
    fn go_on(&mut self) -> bool {
        let may = self.at == At::EndRound { goes_on: true };
        let goes_on = may && self.engine.trust_ack(&mut self.row);
        if goes_on {
            self.plan();
        }
        goes_on
    }

    fn end_round(&mut self, waits: bool) {
        self.engine.end_routes_first();
        self.has_notified_deletion = false;
        let rows = std::slice::from_ref(&self.row);
        let time = time(self.quiet);
        let verdict = self.engine.end_round(rows, waits, &time);
        self.at = match (verdict, self.engine.stage()) {
            (Verdict::GiveUp(cause), _) => {
                assert_eq!(cause, Cause::Pending);
                At::Over(Outcome::Pending)
            }
            (_, Stage::Finished) => At::Over(Outcome::Done),
            (_, _) => At::Stage,
        };
    }

    /// Plans the row.
    fn plan(&mut self) {
        let steps = match self.engine.plan(&mut self.row, &time(self.quiet)) {
            Decision::Nothing => return self.end_round(false),
            Decision::Wait => return self.end_round(true),
            Decision::Fail(Cause::Conflict) => return self.at = At::Over(Outcome::Conflict),
            Decision::Fail(cause) if cause.is_not_ours_to_change() => {
                return self.at = At::Over(Outcome::Unrepaired);
            }
            Decision::Fail(other) => panic!("{other:?}"),
            Decision::Exhausted => return self.at = At::Over(Outcome::Kernel),
            Decision::Steps(steps) => steps,
        };
        self.quiet = Duration::ZERO;
        let mut rest = Vec::new();
        for step in steps {
            self.row.note_sent(*step);
            match step {
                Step::DeleteOthers => rest.extend(&self.others),
                step => rest.push(Message::Step(*step)),
            }
        }
        assert!(
            !rest.is_empty(),
            "{steps:?} for {:?}: no message",
            self.row.facts
        );
        rest.reverse();
        self.at = At::Send(Batch {
            rest,
            replies: Vec::new(),
            heard: Replies::Complete,
            failed: false,
        });
    }

    /// Takes the replies to a batch.
    fn take_replies(&mut self, batch: &Batch) {
        let mut goes_on = false;
        for reply in &batch.replies {
            self.engine.replied(&mut self.row, *reply, batch.heard);
            goes_on |= self.engine.goes_on(&self.row, *reply, batch.heard);
        }
        if std::mem::take(&mut self.has_notified_deletion) {
            self.engine.end_routes_first();
        }
        self.at = if batch.failed {
            At::Over(Outcome::Kernel)
        } else {
            At::EndRound { goes_on }
        };
    }
}

/// The data that all runs of one policy share.
struct Course {
    world: World,
    policy: Policy,
    /// The link gets a placeholder address before its last address is deleted.
    adds_placeholder: bool,
    /// The driver reads the notifications of deleted addresses.
    notes_deletions: bool,
    seen: HashMap<(Addresses, Vec<Route>, Extent), Seen>,
}

impl Course {
    fn new(family: Family, policy: Policy) -> Self {
        Self {
            world: World::new(family, policy),
            policy,
            adds_placeholder: policy.binding == Binding::Route,
            notes_deletions: true,
            seen: HashMap::default(),
        }
    }

    fn observe(&mut self, addresses: Addresses, routes: &[Route], extent: Extent) -> Seen {
        let world = self.world;
        self.seen
            .entry((addresses, routes.to_vec(), extent))
            .or_insert_with(|| world.observe(addresses, routes, extent))
            .clone()
    }

    /// Another writer deletes an address of the link that is not the VIP's.
    fn delete_address_of_another_vip(&self, mut moment: Moment) -> Moment {
        let listens = moment.driver.engine.is_routes_first();
        moment.driver.has_notified_deletion = listens && self.notes_deletions;
        let addresses = moment.kernel.addresses;
        if addresses.host.is_none() && !addresses.other_length {
            moment.kernel.routes.retain(|r| r.device != Device::Link);
        }
        // This gap is the other writer's.
        moment.had_local &= moment.kernel.has_local();
        moment
    }

    /// Another writer adds a route to the VIP's address that a deletion of the kernel's route can hit.
    fn add_route_alike(&self, mut moment: Moment, metric: u32) -> Option<Moment> {
        moment.kernel.addresses.host?;
        let route = Route {
            metric,
            ..same_key(&self.world, KERNEL, Source::Stray)
        };
        moment.kernel.add_route(route).ok()?;
        Some(moment)
    }

    /// Another writer deletes the kernel's route.
    fn delete_kernels_route(&self, mut moment: Moment) -> Option<Moment> {
        let own = Kernel::own(self.world.family);
        moment.kernel.delete_first(|r| *r == own).ok()?;
        if matches!(moment.driver.at, At::Listen(_)) {
            moment.driver.row.progress.late_route = LateRoute::Seen;
        }
        // This gap is the other writer's.
        moment.had_local &= moment.kernel.has_local();
        Some(moment)
    }

    fn extent(&self, main: bool) -> Extent {
        Extent::whole(self.policy, main)
    }

    /// Ends an observation, and plans.
    fn observed(
        &mut self,
        kernel: &Kernel,
        driver: &mut Driver,
        addresses: Addresses,
        extent: Extent,
    ) {
        let seen = self.observe(addresses, &kernel.routes, extent);
        driver.main = seen.main_used;
        driver.row.facts = seen.facts;
        driver.engine.observed([&mut driver.row]);
        let first = driver.row.attempts == 0 && driver.engine.readings() == 0;
        if first && !seen.facts.on_link() && !seen.facts.is_unread() {
            driver.row.progress.done |= Done::WAS_ABSENT;
        }
        if driver.many == Many::Yes {
            driver.engine.begin_routes_first();
        }
        driver.others = seen.others.iter().map(Message::delete).collect();
        driver.plan();
    }

    /// Performs the next action. Returns false if the driver cannot act, for instance while it waits for a
    /// notification.
    fn act(&mut self, kernel: &mut Kernel, driver: &mut Driver, fault: Option<Fault>) -> bool {
        match &mut driver.at {
            At::Stage => match driver.engine.stage() {
                Stage::ReadAll => driver.at = At::Routes(kernel.addresses),
                Stage::ReadRoutes => {
                    driver.at = At::Routes(Addresses {
                        host: Some(Address::NEW),
                        other_length: false,
                    });
                }
                Stage::Wait => {
                    let facts = driver.row.facts;
                    let routes = &kernel.routes;
                    let is_diverted = fault == Some(Fault::Diverted);
                    driver.row.facts = self.world.look_up(facts, routes, is_diverted);
                    match driver.engine.awaits(&driver.row) {
                        Some(awaited) => driver.at = At::Listen(awaited),
                        None => driver.end_wait(Waited::Progress),
                    }
                }
                stage => unreachable!("{stage:?}"),
            },
            At::Reread => driver.at = At::Routes(kernel.addresses),
            At::Routes(addresses) => {
                let (addresses, extent) = (*addresses, self.extent(driver.main));
                self.observed(kernel, driver, addresses, extent);
            }
            At::Listen(awaited) => {
                let awaited = *awaited;
                return self.end_listening(kernel, driver, awaited);
            }
            At::Send(_) => self.send(kernel, driver, fault),
            At::EndRound { .. } => driver.end_round(false),
            At::Over(_) => return false,
        }
        true
    }

    /// Ends a wait, unless another event of the kernel precedes its end.
    fn end_listening(
        &mut self,
        kernel: &mut Kernel,
        driver: &mut Driver,
        awaited: Awaited,
    ) -> bool {
        let seen = driver.saw_late_route();
        match awaited {
            // The late route comes before the quiet time ends.
            Awaited::Quiet(QUIET) if kernel.late => return false,
            Awaited::Quiet(quiet) => driver.quiet = quiet,
            _ if seen && !self.policy.kernel_source => {}
            // The kernel's work item runs before the address is no longer recent.
            Awaited::Age if kernel.late => return false,
            Awaited::Age => {
                if let Some(host) = &mut kernel.addresses.host {
                    host.recent = false;
                }
            }
            Awaited::Kernel if seen => {}
            Awaited::Kernel => {
                driver.end_wait(Waited::Stalled);
                return true;
            }
        }
        driver.end_wait(Waited::Progress);
        true
    }

    /// Sends the next message of the batch. After the last message, the replies arrive.
    fn send(&mut self, kernel: &mut Kernel, driver: &mut Driver, fault: Option<Fault>) {
        let At::Send(batch) = &mut driver.at else {
            unreachable!("{driver:?}")
        };
        let message = batch.rest.pop().expect("a batch is not empty");
        if self.adds_placeholder && message == Message::Step(Step::DeleteAddress) {
            kernel.last = false;
        }
        let had_kernels = kernel.has_kernels();
        let answer = match fault {
            Some(Fault::Refused) => Err(libc::ENOMEM),
            Some(Fault::Vanished | Fault::Dropped) => Ok(()),
            _ => kernel.handle(message, &self.world),
        };
        let is_lost = matches!(fault, Some(Fault::Dropped | Fault::RepliesLost));
        if is_lost {
            batch.heard = Replies::Lost;
        }
        let step = match message {
            Message::Step(step) => step,
            Message::Delete(_) => Step::DeleteOthers,
        };
        if let Err(errno) = answer {
            batch.failed |= step.refused(errno) == Refusal::Final;
        }
        let is_echoed = step == Step::DeleteKernelBlind && !is_lost;
        let response = match answer {
            Err(libc::ESRCH) => Response::Absent,
            Err(_) => Response::Refused,
            Ok(()) if is_echoed && had_kernels && !kernel.has_kernels() => Response::DeletedKernels,
            Ok(()) => Response::Acked,
        };
        batch.replies.push(Reply { step, response });
        if batch.rest.is_empty() {
            let batch = batch.clone();
            driver.take_replies(&batch);
        }
    }
}

/// The late route arrives. A waiting driver gets the notification. A driver that has added the address
/// and not observed since gets it too, unless the notification is lost.
fn arrive<'a>(
    kernel: &mut Kernel,
    drivers: impl IntoIterator<Item = &'a mut Driver>,
    is_lost: bool,
) {
    kernel.late_route_arrives();
    for driver in drivers {
        let listens = match driver.at {
            At::Listen(_) => true,
            At::Stage | At::Reread | At::Routes(_) => {
                driver.reads() && driver.has(Done::ADDRESS_IS_NEW) && !is_lost
            }
            // The driver joins the group when it observes.
            _ => false,
        };
        if listens {
            driver.row.progress.late_route = LateRoute::Seen;
        }
        if matches!(driver.at, At::Routes(_)) {
            driver.at = At::Reread;
        }
    }
}

/// A moment of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    kernel: Kernel,
    driver: Driver,
    fault: Option<Fault>,
    /// The link delivered the VIP's packets at the start.
    had_local: bool,
    /// This call made the address.
    added: bool,
    /// The kernel acked the deletion of the address, which is there all the same: another writer has added it
    /// again, as its own.
    returned: bool,
}

/// Follows every run of one policy.
struct Walk {
    course: Course,
    faults: &'static [Fault],
    /// The number of runs from each moment.
    known: HashMap<Rc<Moment>, u64>,
    path: Vec<Rc<Moment>>,
    /// The most rounds with messages, without and with a fault.
    rounds: [u16; 2],
    outcomes: HashMap<Outcome, u64>,
}

impl Walk {
    fn new(family: Family, policy: Policy, faults: &'static [Fault]) -> Self {
        Self {
            course: Course::new(family, policy),
            faults,
            known: HashMap::default(),
            path: Vec::new(),
            rounds: [0; 2],
            outcomes: HashMap::default(),
        }
    }

    fn start(&mut self, kernel: &Kernel) -> u64 {
        let orders: &[Many] = match self.course.world.family {
            Family::V4 => &[Many::No, Many::Yes],
            Family::V6 => &[Many::No],
        };
        let mut runs = 0;
        for many in orders {
            runs += self.follow(Moment {
                kernel: kernel.clone(),
                driver: Driver::new(&self.course.world, self.course.policy, *many),
                fault: None,
                had_local: kernel.has_local(),
                added: false,
                returned: false,
            });
        }
        runs
    }

    fn demand(&self, holds: bool, what: &str) {
        if !holds {
            let policy = self.course.policy;
            for moment in &self.path {
                eprintln!("{moment:?}");
            }
            panic!("{what} ({policy:?}); the run is above");
        }
    }

    /// Follows all runs from a moment. Returns their number.
    fn follow(&mut self, moment: Moment) -> u64 {
        if let Some(runs) = self.known.get(&moment) {
            return *runs;
        }
        let moment = Rc::new(moment);
        self.path.push(Rc::clone(&moment));
        // A run that returns to an earlier moment would never end.
        self.demand(self.path.len() < 500, "a run without an end");
        let runs = match moment.driver.at {
            At::Over(outcome) => self.judge(&moment, outcome),
            _ => self.branch(&moment),
        };
        self.path.pop();
        self.known.insert(moment, runs);
        runs
    }

    fn branch(&mut self, moment: &Moment) -> u64 {
        let mut runs = 0;
        if moment.kernel.late {
            for is_lost in [true, false] {
                let mut then = moment.clone();
                arrive(&mut then.kernel, [&mut then.driver], is_lost);
                runs += self.follow(then);
            }
        }
        // The kernel's work for a thousand addresses takes long: an address that this call made may
        // be old before its late route comes.
        let own = moment.driver.has(Done::ADDRESS_IS_NEW);
        if let Some(host) = moment.kernel.addresses.host
            && host.recent
            && own
            && moment.kernel.late
        {
            let mut then = moment.clone();
            then.kernel.addresses.host = Some(Address {
                recent: false,
                ..host
            });
            runs += self.follow(then);
        }
        let mut then = moment.clone();
        if then.driver.go_on() {
            runs += self.follow(then);
        }
        runs += self.act(moment, None);
        if moment.fault.is_none() {
            for fault in self.faults {
                runs += self.strike(moment, *fault);
            }
        }
        self.demand(runs > 0, "no action is possible");
        runs
    }

    /// Performs the next action, with or without a fault.
    fn act(&mut self, before: &Moment, fault: Option<Fault>) -> u64 {
        let mut then = before.clone();
        then.fault = fault.or(before.fault);
        if !self.course.act(&mut then.kernel, &mut then.driver, fault) {
            return 0;
        }
        if let At::Send(batch) = &before.driver.at {
            let message = batch.rest.last().copied();
            self.check_message(before, &mut then, message.unwrap());
        }
        if fault == Some(Fault::Killed) {
            then.driver = Driver::new(&self.course.world, self.course.policy, before.driver.many);
        }
        self.follow(then)
    }

    fn check_message(&mut self, before: &Moment, then: &mut Moment, message: Message) {
        let is_untouched = before.kernel.foreign().eq(then.kernel.foreign());
        self.demand(is_untouched, "another device's route was touched");
        // An update of an address that another writer has just deleted makes the address too. No
        // observation can tell this address from another writer's address.
        then.added |= message == Message::Step(Step::AddAddress)
            && before.kernel.addresses.host.is_none()
            && then.kernel.addresses.host.is_some();
        let meddled = match then.fault {
            Some(Fault::Deleted | Fault::Rival(_)) => true,
            // The deleted route was the desired route.
            Some(Fault::Cleaned) => self.course.policy.kernel_source,
            _ => false,
        };
        if then.had_local && self.course.policy.goal != Goal::Release && !meddled {
            self.demand(then.kernel.has_local(), "a gap");
        }
        let is_undisturbed = matches!(then.fault, None | Some(Fault::Flushed));
        let family = self.course.world.family;
        if (family, message) == (Family::V4, Message::Step(Step::DeleteKernel))
            && self.course.policy.goal != Goal::Release
            && is_undisturbed
            && before.kernel.has_local()
        {
            self.demand(then.kernel.has_local(), "the only local route was deleted");
        }
        let marked = |kernel: &Kernel| {
            let mut routes = kernel.link_routes();
            routes.any(|r| r.table == TABLE_LOCAL && r.protocol == MARK)
        };
        let vanished = before.fault.is_none() && then.fault == Some(Fault::Vanished);
        then.returned |= vanished && message == Message::Step(Step::DeleteAddress);
        let is_ours = then.kernel.addresses.host.is_some() && !then.returned;
        if then.driver.has(Done::BY_MARK) && is_ours {
            let kept = !marked(&before.kernel) || marked(&then.kernel);
            self.demand(kept, "the mark went before the address");
        }
    }

    /// Applies one fault, if the fault is possible at this moment.
    fn strike(&mut self, moment: &Moment, fault: Fault) -> u64 {
        let struck = || Moment {
            fault: Some(fault),
            ..moment.clone()
        };
        let then = match (fault, &moment.driver.at) {
            (
                Fault::Vanished
                | Fault::Dropped
                | Fault::RepliesLost
                | Fault::Refused
                | Fault::Killed,
                At::Send(_),
            )
            | (Fault::Diverted, At::Stage) => return self.act(moment, Some(fault)),
            (Fault::Interrupted | Fault::Missed | Fault::Diverted, At::Routes(addresses)) => {
                return self.observe_in_part(&struck(), fault, *addresses);
            }
            (Fault::Rival(metric), _) => {
                let mut then = struck();
                then.kernel.insert(Route {
                    metric,
                    ..foreign(self.course.world.family)
                });
                Some(then)
            }
            // A change between the two dumps is equal to a change after both.
            (_, At::Routes(_)) => None,
            (Fault::Deleted, _) => {
                let mut then = struck();
                let deletion = Message::Step(Step::DeleteAddress);
                let gone = then.kernel.handle(deletion, &self.course.world);
                gone.is_ok().then_some(then)
            }
            (Fault::Cleaned, _) => self.course.delete_kernels_route(struck()),
            (Fault::Flushed, _) => Some(self.course.delete_address_of_another_vip(struck())),
            (Fault::Alike(metric), _) => self.course.add_route_alike(struck(), metric),
            _ => None,
        };
        then.map_or(0, |then| self.follow(then))
    }

    /// Follows a moment whose dump is interrupted, misses routes, or whose look-up is diverted.
    fn observe_in_part(&mut self, moment: &Moment, fault: Fault, addresses: Addresses) -> u64 {
        let extent = Extent {
            interrupted: Some(moment.driver.row.progress),
            diverted: fault == Fault::Diverted,
            ..self.course.extent(moment.driver.main)
        };
        // A missed route of another device is equal to a later one: `Fault::Rival`. A look-up does not
        // find a route behind an extra route, and no guarantee covers it.
        let routes = moment.kernel.routes.iter().enumerate();
        let missable = routes
            .take_while(|(_, r)| r.table == TABLE_LOCAL && r.metric != EXTRA)
            .filter(|(_, r)| r.device == Device::Link)
            .map(|(at, _)| Missed::One(at));
        let missed: Vec<_> = match fault {
            Fault::Interrupted => vec![Missed::Nothing],
            Fault::Diverted => vec![Missed::Nothing, Missed::Local],
            _ => missable.collect(),
        };
        let mut runs = 0;
        for missed in missed {
            let extent = Extent { missed, ..extent };
            let mut then = moment.clone();
            self.course
                .observed(&then.kernel, &mut then.driver, addresses, extent);
            runs += self.follow(then);
        }
        runs
    }

    /// Checks the end of a run, and follows the next call if the fault needs one.
    fn judge(&mut self, moment: &Moment, outcome: Outcome) -> u64 {
        let Moment {
            kernel,
            driver,
            fault,
            ..
        } = moment;
        let Policy { goal, .. } = self.course.policy;
        let world = self.course.world;
        let rounds = &mut self.rounds[usize::from(fault.is_some())];
        *rounds = driver.row.attempts.max(*rounds);
        let most = if fault.is_some() {
            WITH_A_FAULT
        } else {
            UNDISTURBED
        };
        self.demand(driver.row.attempts <= most, "too many rounds");
        *self.outcomes.entry(outcome).or_default() += 1;
        let host = kernel.addresses.host;
        let written = driver.has(Done::WRITTEN);
        let meddled = matches!(fault, Some(Fault::Deleted | Fault::Rival(_)));
        match outcome {
            Outcome::Done => return self.judge_done(moment),
            Outcome::Conflict => {
                let conflict = goal != Goal::Release && kernel.foreign().next().is_some();
                self.demand(conflict, "no conflict");
                self.demand(meddled || !written, "written in spite of a conflict");
                let bound_anew = Done::WAS_ABSENT | Done::WRITTEN;
                if driver.has(Done::ADDRESS_IS_NEW)
                    || world.binding == Binding::Route && driver.has(bound_anew)
                {
                    let desired = world.desired_route();
                    let left = host.is_some() || kernel.link_routes().any(|r| *r == desired);
                    self.demand(!left, "the call left its own address or route");
                }
            }
            Outcome::Unrepaired => self.judge_unrepaired(moment, meddled),
            Outcome::Pending => {
                // The last observation was interrupted, or the awaited route came and went unseen.
                // Only the next call can tell.
                let unseen = matches!(
                    fault,
                    Some(Fault::Missed | Fault::Diverted | Fault::Cleaned)
                );
                self.demand(kernel.late || unseen, "pending, but no late route is due");
                let tentative = host.is_some_and(|host| host.tentative);
                self.demand(moment.added || tentative, "waited too briefly");
                self.demand(
                    !(tentative && written),
                    "written beside a tentative address",
                );
            }
            Outcome::Kernel => self.demand(false, "a final refusal"),
        }
        1
    }

    fn judge_done(&mut self, moment: &Moment) -> u64 {
        let Moment { kernel, fault, .. } = moment;
        let Course { world, policy, .. } = self.course;
        let good = kernel.is_as_desired(&world, policy.goal);
        if !good && *fault == Some(Fault::Missed) {
            // The next call observes the route that no look-up shows.
            let mut then = moment.clone();
            then.fault = Some(Fault::Killed);
            then.driver = Driver::new(&world, policy, moment.driver.many);
            return self.follow(then);
        }
        self.demand(good, "done, but not as desired");
        let late = kernel.late && moment.added;
        self.demand(!late, "done before the late route arrives");
        let extent = self.course.extent(true);
        let again = self
            .course
            .observe(kernel.addresses, &kernel.routes, extent)
            .facts;
        let again = next(world.family, again, Progress::default(), policy);
        self.demand(again == Next::Done, "not idempotent");
        1
    }

    fn judge_unrepaired(&self, moment: &Moment, meddled: bool) {
        let Moment { kernel, fault, .. } = moment;
        let Course { world, policy, .. } = self.course;
        let host = kernel.addresses.host;
        let written = moment.driver.has(Done::WRITTEN);
        let keeps_lifetime = policy.goal == Goal::Normalize && kernel.expires();
        if keeps_lifetime && world.binding == Binding::Address && written {
            // The VIP is repaired, except for the lifetime, which stays. Only a new address brings a
            // missing kernel's route back.
            let unseen = matches!(fault, Some(Fault::Missed | Fault::Cleaned));
            let good = unseen || kernel.is_single_route_for_now(&world);
            return self.demand(good, "an expiring address, and not as desired");
        }
        let is_absent = policy.goal == Goal::Normalize && host.is_none();
        let hopeless_binding = match world.binding {
            Binding::Address => {
                let dad_failed = host.is_some_and(|host| host.dad_failed);
                policy.goal != Goal::Release && dad_failed || is_absent
            }
            Binding::Route => {
                // No look-up shows an extra route that an interrupted dump missed.
                let extra = |r: &Route| r.metric != user_metric(world.family);
                let missed = *fault == Some(Fault::Missed);
                is_absent && kernel.link_routes().all(|r| missed && extra(r))
            }
        };
        let hopeless = kernel.addresses.other_length || keeps_lifetime || hopeless_binding;
        self.demand(hopeless, "given up for no reason");
        self.demand(meddled || !written, "written in spite of no hope");
    }
}

/// A route of another device with the desired route's key.
fn foreign(family: Family) -> Route {
    Route {
        table: TABLE_LOCAL,
        metric: user_metric(family),
        device: Device::Other,
        protocol: KERNEL,
        source: Source::None,
        expires: false,
    }
}

/// A route of the link with the desired route's key.
fn same_key(world: &World, protocol: u8, source: Source) -> Route {
    Route {
        protocol,
        source,
        ..world.desired_route()
    }
}

/// The metric of an extra route that precedes the desired route in IPv6.
const EXTRA: u32 = 500;

fn extras(family: Family) -> [Option<Route>; 4] {
    let local = Route {
        table: TABLE_LOCAL,
        metric: EXTRA,
        device: Device::Link,
        protocol: KERNEL,
        source: Source::Stray,
        expires: false,
    };
    [
        None,
        Some(local),
        Some(Route {
            metric: 2048,
            protocol: STATIC,
            source: Source::Node,
            ..local
        }),
        Some(Route {
            table: TABLE_MAIN,
            metric: user_metric(family),
            protocol: STATIC,
            ..local
        }),
    ]
}

/// Distinct states, in a fixed order.
#[derive(Default)]
struct States {
    list: Vec<Kernel>,
    known: HashSet<Kernel>,
}

impl States {
    fn push(
        &mut self,
        addresses: Addresses,
        (late, last): (bool, bool),
        routes: impl Iterator<Item = Route>,
    ) {
        let mut kernel = Kernel {
            addresses,
            late,
            last,
            routes: Vec::new(),
        };
        routes.for_each(|route| kernel.insert(route));
        if self.known.insert(kernel.clone()) {
            self.list.push(kernel);
        }
    }
}

/// An IPv6 VIP's address, whether its late route is due, and whether the kernel's route is there.
fn bases_v6(small: bool) -> Vec<(Addresses, bool, bool)> {
    let none = Addresses {
        host: None,
        other_length: false,
    };
    let host = |host| Addresses {
        host: Some(host),
        ..none
    };
    let mut bases = vec![(none, false, false)];
    for no_prefix_route in [true, false] {
        for recent in [true, false] {
            let address = Address {
                no_prefix_route,
                recent,
                ..Address::NEW
            };
            for (late, own) in [(true, false), (false, true), (false, false)] {
                bases.push((host(address), late, own));
            }
            if small {
                continue;
            }
            let tentative = Address {
                tentative: true,
                ..address
            };
            let dad_failed = Address {
                dad_failed: true,
                ..tentative
            };
            bases.push((host(tentative), true, false));
            bases.push((host(dad_failed), false, false));
        }
        let expires = Address {
            no_prefix_route,
            expires: true,
            ..Address::OLD
        };
        bases.extend([true, false].map(|own| (host(expires), false, own)));
        if !small {
            let recent = Address {
                recent: true,
                ..expires
            };
            bases.push((host(recent), true, false));
        }
    }
    if !small {
        let other = Addresses {
            other_length: true,
            ..none
        };
        bases.extend([(other, false, true), (other, false, false)]);
    }
    bases
}

/// A foreign route's metric, and whether the route precedes the link's routes of the same metric.
const FOREIGN_AT: [Option<(u32, bool)>; 6] = [
    None,
    Some((0, true)),
    Some((0, false)),
    Some((1024, true)),
    Some((1024, false)),
    Some((2048, true)),
];

/// Of the routes with the desired route's key, the observation knows the staged one.
#[test]
fn staged_route_is_seen_as_such() {
    for as_kernel in [true, false] {
        let policy = Policy {
            as_kernel,
            ..Policy::ASSIGN
        };
        let world = World::new(Family::V6, policy);
        for route in same_keys_v6(&world).into_iter().flatten() {
            let addresses = Addresses {
                host: None,
                other_length: false,
            };
            let seen = world.observe(addresses, &[route], Extent::whole(policy, true));
            let is_staged = route == world.staged_route();
            assert_eq!(seen.facts.is_staged_alone(), is_staged, "{route:?}");
        }
    }
}

/// A protocol other than the desired route's.
fn other_protocol(world: &World) -> u8 {
    match world.protocol {
        KERNEL => STATIC,
        _ => KERNEL,
    }
}

/// The routes that an IPv6 VIP can have with the desired route's key.
fn same_keys_v6(world: &World) -> [Option<Route>; 8] {
    let other_protocol = other_protocol(world);
    [
        None,
        Some(world.desired_route()),
        Some(same_key(world, world.protocol, Source::Stray)),
        Some(same_key(world, world.protocol, Source::Vip)),
        Some(same_key(world, world.protocol, Source::None)),
        Some(world.staged_route()),
        Some(same_key(world, other_protocol, Source::Node)),
        Some(same_key(world, other_protocol, Source::Stray)),
    ]
}

/// Every state of one VIP in IPv6.
fn states_v6(world: &World, small: bool) -> Vec<Kernel> {
    let family = Family::V6;
    let same_keys = same_keys_v6(world);
    let prefix = Route {
        table: TABLE_MAIN,
        metric: 256,
        ..Kernel::own(family)
    };
    let foreigns = if small { &FOREIGN_AT[..1] } else { &FOREIGN_AT };
    let extras = extras(family);
    let extras = if small { &extras[..2] } else { &extras[..] };
    let mut states = States::default();
    for (addresses, late, own) in bases_v6(small) {
        for (same_key, foreign_at) in same_keys
            .iter()
            .flat_map(|s| foreigns.iter().map(move |f| (s, f)))
        {
            // A conflict forbids every write, so fewer extras suffice.
            let count = if foreign_at.is_some() {
                2
            } else {
                extras.len()
            };
            let rival = foreign_at.map(|(metric, first)| {
                let foreign = foreign(family);
                (Route { metric, ..foreign }, first)
            });
            let at = |place| {
                rival
                    .filter(|(_, first)| *first == place)
                    .map(|(route, _)| route)
            };
            let own = own.then(|| Kernel::own(family));
            for (extra, prefix) in extras[..count]
                .iter()
                .flat_map(|e| [None, Some(prefix)].map(|p| (e, p)))
            {
                let routes = [at(true), own, *same_key, at(false), *extra, prefix];
                states.push(addresses, (late, false), routes.into_iter().flatten());
            }
        }
    }
    states.list
}

/// Each order of up to three routes.
fn orders(kinds: &[Route]) -> Vec<Vec<Route>> {
    let mut orders: Vec<Vec<Route>> = vec![Vec::new()];
    for length in 0..3 {
        for shorter in orders.clone() {
            if shorter.len() == length {
                let longer = kinds.iter().filter(|kind| !shorter.contains(kind));
                orders.extend(longer.map(|kind| {
                    let mut longer = shorter.clone();
                    longer.push(*kind);
                    longer
                }));
            }
        }
    }
    orders
}

/// Every state of one VIP in IPv4: up to three routes with the desired route's key.
fn states_v4(world: &World, small: bool) -> Vec<Kernel> {
    let family = Family::V4;
    let other_protocol = other_protocol(world);
    let kinds = [
        Kernel::own(family),
        world.desired_route(),
        same_key(world, world.protocol, Source::Stray),
        same_key(world, world.protocol, Source::None),
        same_key(world, other_protocol, Source::Node),
        foreign(family),
    ];
    let kinds = if small { &kinds[..5] } else { &kinds[..] };
    let expires = Address {
        expires: true,
        ..Address::OLD
    };
    let behind = Route {
        metric: 700,
        ..foreign(family)
    };
    let all = extras(family);
    let [no_rival, both] = [&[None][..], &[None, Some(behind)]];
    let mut states = States::default();
    for place in orders(kinds) {
        // A conflict forbids every write, so fewer extras suffice.
        let (extras, behinds) = if small || place.contains(&foreign(family)) {
            (&all[..2], no_rival)
        } else {
            (&all[..], both)
        };
        for (extra, behind) in extras
            .iter()
            .flat_map(|e| behinds.iter().map(move |b| (e, *b)))
        {
            for (host, other_length, last) in [
                (None, false, false),
                (None, true, false),
                (Some(Address::NEW), false, true),
                (Some(Address::OLD), false, false),
                (Some(Address::OLD), true, false),
                (Some(expires), false, false),
            ] {
                let addresses = Addresses { host, other_length };
                let routes = place.iter().copied().chain(*extra).chain(behind);
                states.push(addresses, (false, last), routes);
            }
        }
    }
    states.list
}

pub(crate) fn states(world: &World, small: bool) -> Vec<Kernel> {
    // The same states, whichever route is the desired one.
    let world = &World {
        kernel_source: false,
        ..*world
    };
    match world.family {
        Family::V4 => states_v4(world, small),
        Family::V6 => states_v6(world, small),
    }
}

pub(crate) fn policies() -> impl Iterator<Item = Policy> {
    let forms = [
        (Binding::Address, false),
        (Binding::Address, true),
        (Binding::Route, false),
    ];
    [Goal::Assign, Goal::Normalize, Goal::Release]
        .into_iter()
        .flat_map(move |goal| forms.map(|(binding, kernel_source)| (goal, binding, kernel_source)))
        .flat_map(|(goal, binding, kernel_source)| {
            [true, false].map(|as_kernel| Policy {
                goal,
                as_kernel,
                binding,
                kernel_source,
            })
        })
}

/// The size of a check, so that a check cannot become empty unnoticed.
#[derive(Debug, Default)]
struct Total {
    states: usize,
    moments: usize,
    runs: u64,
}

/// Follows every run from every state of a family under every policy.
fn walk_all(family: Family, small: bool, faults: &'static [Fault]) -> Total {
    let mut total = Total::default();
    for policy in policies() {
        let mut walk = Walk::new(family, policy, faults);
        for kernel in states(&walk.course.world, small) {
            total.states += 1;
            total.runs += walk.start(&kernel);
        }
        println!(
            "{family:?} {policy:?}: {} moments, rounds {:?}, finished {:?}",
            walk.known.len(),
            walk.rounds,
            walk.outcomes
        );
        total.moments += walk.known.len();
    }
    println!("{family:?} with {faults:?}: {total:?}");
    total
}

const LOSSES: [Fault; 8] = [
    Fault::Vanished,
    Fault::Dropped,
    Fault::RepliesLost,
    Fault::Refused,
    Fault::Killed,
    Fault::Interrupted,
    Fault::Missed,
    Fault::Diverted,
];

fn check_losses(family: Family) {
    let total = walk_all(family, false, &LOSSES);
    assert!(total.states > 20_000 && total.runs > 200_000, "{total:?}");
}

/// From fewer states, with one fault.
fn check_fault(family: Family, fault: &'static [Fault; 1]) {
    let total = walk_all(family, true, fault);
    assert!(total.states > 2_000 && total.runs > 10_000, "{total:?}");
}

#[test]
fn v4_converges_after_any_loss() {
    check_losses(Family::V4);
}

#[test]
fn v6_converges_after_any_loss_and_any_late_route() {
    check_losses(Family::V6);
}

/// The control: the kernel deletes every IPv4 route of the link with its last IPv4 address.
#[test]
#[should_panic(expected = "a gap")]
fn rebinding_to_route_only_without_a_placeholder_has_a_gap() {
    let policy = Policy {
        binding: Binding::Route,
        ..Policy::ASSIGN
    };
    let mut walk = Walk::new(Family::V4, policy, &[]);
    walk.course.adds_placeholder = false;
    for kernel in states(&walk.course.world, true) {
        walk.start(&kernel);
    }
}

#[test]
fn assign_restores_an_address_that_another_writer_deletes() {
    for family in Family::ALL {
        check_fault(family, &[Fault::Deleted]);
    }
}

#[test]
fn call_converges_when_another_writer_deletes_the_kernels_route() {
    for family in Family::ALL {
        check_fault(family, &[Fault::Cleaned]);
    }
}

#[test]
fn call_converges_when_another_writers_address_takes_all_routes_with_it() {
    check_fault(Family::V4, &[Fault::Flushed]);
}

#[test]
fn call_waits_for_the_late_route_when_a_deletion_hits_another_writers_route() {
    for faults in [&[Fault::Alike(1024)], &[Fault::Alike(2048)]] {
        check_fault(Family::V6, faults);
    }
}

/// The control: the route comes before the address, and another writer's address takes the route with it.
#[test]
#[should_panic(expected = "the only local route was deleted")]
fn route_first_without_the_notifications_of_addresses_deletes_the_only_route() {
    let mut walk = Walk::new(Family::V4, Policy::ASSIGN, &[Fault::Flushed]);
    walk.course.notes_deletions = false;
    for kernel in states(&walk.course.world, true) {
        walk.start(&kernel);
    }
}

#[test]
fn call_never_takes_a_rivals_route() {
    check_fault(Family::V4, &[Fault::Rival(0)]);
    check_fault(Family::V4, &[Fault::Rival(700)]);
    check_fault(Family::V6, &[Fault::Rival(0)]);
    check_fault(Family::V6, &[Fault::Rival(1024)]);
}

/// Two managers on one link, with the same VIP and policy, interleaved message by message.
struct Pair {
    course: Course,
    known: HashSet<(Kernel, [Driver; 2])>,
    path: Vec<(Kernel, [Driver; 2])>,
    rounds: u16,
    finished: u64,
    stalls: usize,
}

impl Pair {
    fn follow(&mut self, kernel: Kernel, drivers: [Driver; 2]) {
        if !self.known.insert((kernel.clone(), drivers.clone())) {
            return;
        }
        self.path.push((kernel.clone(), drivers.clone()));
        for driver in &drivers {
            self.rounds = self.rounds.max(driver.row.attempts);
        }
        let over = |driver: &Driver| match driver.at {
            At::Over(outcome) => Some(outcome),
            _ => None,
        };
        let outcomes = [over(&drivers[0]), over(&drivers[1])];
        let bad = outcomes
            .iter()
            .flatten()
            .any(|outcome| *outcome != Outcome::Done);
        // A late route that was due before both calls may still come.
        let others = drivers.iter().all(|d| !d.has(Done::ADDRESS_IS_NEW));
        let unfinished = outcomes == [Some(Outcome::Done); 2]
            && !(kernel.late && others || kernel.is_single_route(&self.course.world));
        if bad || unfinished || self.rounds > 20 {
            for moment in &self.path {
                eprintln!("{moment:?}");
            }
            panic!("{outcomes:?} {:?}", self.course.policy);
        }
        if outcomes == [Some(Outcome::Done); 2] {
            self.finished += 1;
        } else {
            self.advance(&kernel, &drivers);
        }
        self.path.pop();
    }

    /// Follows each next event.
    fn advance(&mut self, kernel: &Kernel, drivers: &[Driver; 2]) {
        let mut last_change = kernel.late;
        for at in 0..2 {
            let mut drivers = drivers.clone();
            if drivers[at].go_on() {
                self.follow(kernel.clone(), drivers);
                last_change = true;
            }
        }
        for at in 0..2 {
            last_change |= self.act(at, kernel, drivers.clone());
        }
        if kernel.late {
            for is_lost in [true, false] {
                let (mut kernel, mut drivers) = (kernel.clone(), drivers.clone());
                arrive(&mut kernel, &mut drivers, is_lost);
                self.follow(kernel, drivers);
            }
        }
        assert!(last_change);
    }

    /// Follows the next action of the driver at this index. Returns false if the driver cannot act.
    fn act(&mut self, at: usize, kernel: &Kernel, mut drivers: [Driver; 2]) -> bool {
        let mut then = kernel.clone();
        let idle = |driver: &Driver| matches!(driver.at, At::Listen(_) | At::Over(_));
        if matches!(drivers[at].at, At::Listen(Awaited::Kernel))
            && !drivers[at].saw_late_route()
            && (kernel.late || !idle(&drivers[1 - at]))
        {
            // Every other event happens before a listener gives up.
            return false;
        }
        if !self.course.act(&mut then, &mut drivers[at], None) {
            return false;
        }
        self.stalls += usize::from(drivers[at].engine.is_stalled());
        if then.routes != kernel.routes && matches!(drivers[1 - at].at, At::Listen(_)) {
            let own = Kernel::own(Family::V6);
            if kernel.routes.contains(&own) && !then.routes.contains(&own) {
                drivers[1 - at].row.progress.late_route = LateRoute::Seen;
            }
            drivers[1 - at].quiet = Duration::ZERO;
            drivers[1 - at].end_wait(Waited::Progress);
        }
        self.follow(then, drivers);
        true
    }
}

#[test]
fn two_managers_converge() {
    let mut starts = 0;
    let policies = policies().filter(|policy| policy.goal == Goal::Assign);
    for policy in policies {
        let mut pair = Pair {
            course: Course::new(Family::V6, policy),
            known: HashSet::default(),
            path: Vec::new(),
            rounds: 0,
            finished: 0,
            stalls: 0,
        };
        for kernel in states(&pair.course.world, true) {
            starts += 1;
            let world = pair.course.world;
            pair.follow(
                kernel,
                [0, 1].map(|_| Driver::new(&world, policy, Many::No)),
            );
        }
        println!(
            "{policy:?}: {} moments, {} finished, {} rounds, {} stalls",
            pair.known.len(),
            pair.finished,
            pair.rounds,
            pair.stalls
        );
        // A route-only binding has fewer moments.
        let least = match policy.binding {
            Binding::Address => (50_000, 100),
            Binding::Route => (1_000, 10),
        };
        assert!(pair.known.len() > least.0 && pair.finished > least.1);
    }
    println!("{starts} states");
}

/// The model has one row. Of two rows, the row that needs an observation decides.
#[test]
fn one_written_row_makes_the_call_read_all() {
    let policy = Policy::ASSIGN;
    let vip: IpAddr = Ipv6Addr::LOCALHOST.into();
    for (steps, stage) in [
        ([Step::AddAddress, Step::AddAddress], Stage::ReadRoutes),
        ([Step::ReplaceRoute, Step::AddAddress], Stage::ReadAll),
        ([Step::AddAddress, Step::ReplaceRoute], Stage::ReadAll),
    ] {
        let mut engine = Engine::new(PerFamily::splat(policy), Method::Dumps);
        let mut rows = [Row::new(vip.into(), policy.goal); 2];
        engine.observed(rows.iter_mut());
        for (row, step) in rows.iter_mut().zip(steps) {
            engine.replied(row, acked(step), Replies::Complete);
        }
        engine.end_round(&rows, false, &time(Duration::ZERO));
        assert_eq!(engine.stage(), stage, "{steps:?}");
    }
}

/// In the model, no other writer adds our route between the ack of the address and the look at the routes.
#[test]
fn acked_address_is_observed_before_the_call_ends() {
    let policy = Policy::ASSIGN;
    let mut engine = Engine::new(PerFamily::splat(policy), Method::Dumps);
    let vip: IpAddr = Ipv6Addr::LOCALHOST.into();
    let mut rows = [Row::new(vip.into(), policy.goal)];
    let mut round = |reply: Option<Step>, facts: Facts| {
        rows[0].facts = facts;
        engine.observed(rows.iter_mut());
        if let Some(step) = reply {
            engine.replied(&mut rows[0], acked(step), Replies::Complete);
        }
        engine.end_round(&rows, false, &time(QUIET));
        engine.stage()
    };
    let desired = Facts::ADDRESS | Facts::DESIRED;
    assert_eq!(
        round(Some(Step::AddAddress), Facts::empty()),
        Stage::ReadRoutes
    );
    assert_eq!(round(None, desired), Stage::ReadAll);
    assert_eq!(round(None, desired), Stage::Finished);
}

/// The model has no other writer that deletes an address and adds it again.
#[test]
fn late_route_of_a_deleted_address_says_nothing_of_the_next_address() {
    let mut progress = Progress {
        late_route: LateRoute::Seen,
        ..Progress::default()
    };
    progress.observed(Facts::ADDRESS | Facts::DESIRED);
    assert_eq!(progress.late_route, LateRoute::Seen);
    progress.observed(Facts::DESIRED);
    assert_eq!(progress.late_route, LateRoute::Unknown);
}
