//! `next` exhaustively: every state × every moment of the late route × one fault, against the
//! [model](super::model) of the kernel.
//!
//! A run is what `round.rs` does for one row. It is followed through every branch: the late route
//! may arrive before any action of ours, and one fault may strike at any of them.

use std::collections::{HashMap, HashSet};

use super::model::{
    Address, Addresses, Device, KERNEL, Kernel, Look, MARK, Message, Route, STATIC, Seen, Source,
    TRANSIT, World, user_metric,
};
use super::{Goal, Next, Policy, Refusal, Step, next};
use crate::observe::awaits_kernel;
use crate::report::Cause;
use crate::state::{Facts, Phase, Row};
use crate::vip::Family;
use crate::wire::{TABLE_LOCAL, TABLE_MAIN};

/// Rounds with messages that a VIP may take.
const UNDISTURBED: u16 = 6;
const WITH_A_FAULT: u16 = 8;

/// What may go wrong, once in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    /// A message has no effect, and nothing says so.
    Vanished,
    /// A message has no effect, and the replies of its batch are lost.
    Dropped,
    /// A message has its effect, but the replies of its batch are lost.
    Unheard,
    /// The kernel is short of memory.
    Refused,
    /// The process is killed behind a message, and the next one calls again.
    Killed,
    /// A dump was torn: it told every route, but nobody knows.
    Torn,
    /// A dump was torn and a route was not told.
    Missed,
    /// Another hand deletes the address.
    Deleted,
    /// A route of another device comes, behind others of the metric or priority that it has.
    Rival(u32),
}

/// One VIP's place in the loop of `round.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    /// About to dump addresses.
    Addresses,
    /// About to dump routes, with the addresses dumped.
    Routes(Addresses),
    /// About to look up, before it listens.
    LookUp(Facts),
    /// Listens for the kernel's route; or also for time to pass.
    Listen {
        ages: bool,
    },
    Send(Batch),
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
    /// Messages still to send, last first.
    rest: Vec<Message>,
    /// Its address was added without a refusal heard.
    added: bool,
    /// No reply was lost.
    heard: bool,
    /// A final refusal was heard.
    failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Driver {
    at: At,
    phase: Phase,
    attempts: u16,
    scan_main: bool,
    stalled: bool,
}

impl Driver {
    fn new() -> Self {
        Self {
            at: At::Addresses,
            phase: Phase::empty(),
            attempts: 0,
            scan_main: true,
            stalled: false,
        }
    }
}

/// How one message fares.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fate {
    applied: bool,
    refused: bool,
    heard: bool,
}

impl Fate {
    const GOOD: Self = Self {
        applied: true,
        refused: false,
        heard: true,
    };

    fn of(fault: Fault) -> Option<Self> {
        let (applied, refused, heard) = match fault {
            Fault::Vanished => (false, false, true),
            Fault::Dropped => (false, false, false),
            Fault::Unheard => (true, false, false),
            Fault::Refused => (false, true, true),
            _ => return None,
        };
        Some(Self {
            applied,
            refused,
            heard,
        })
    }
}

/// What all runs of one policy share.
struct Course {
    world: World,
    policy: Policy,
    seen: HashMap<(Addresses, Vec<Route>, Look), Seen>,
}

impl Course {
    fn new(family: Family, policy: Policy) -> Self {
        let protocol = if policy.as_kernel { KERNEL } else { MARK };
        Self {
            world: World { family, protocol },
            policy,
            seen: HashMap::new(),
        }
    }

    fn observe(&mut self, addresses: Addresses, routes: &[Route], look: Look) -> Seen {
        let world = self.world;
        self.seen
            .entry((addresses, routes.to_vec(), look))
            .or_insert_with(|| world.observe(addresses, routes, look))
            .clone()
    }

    fn look(&self, main: bool) -> Look {
        Look {
            release: self.policy.goal == Goal::Release,
            main,
            torn: false,
            missed: None,
        }
    }

    fn next(&self, facts: Facts, phase: Phase) -> Next {
        next(self.world.family, facts, phase, self.policy)
    }

    /// The end of an observation and what follows it without a further look at the kernel.
    fn plan(&mut self, kernel: &Kernel, driver: &mut Driver, addresses: Addresses, look: Look) {
        let seen = self.observe(addresses, &kernel.routes, look);
        driver.scan_main = seen.main_used;
        if seen.facts.contains(Facts::KERNEL) {
            driver.phase |= Phase::SETTLED;
        }
        let steps = match self.next(seen.facts, driver.phase) {
            Next::Done => return driver.at = At::Over(Outcome::Done),
            Next::Fail(cause) => {
                driver.at = At::Over(match cause {
                    Cause::Conflict => Outcome::Conflict,
                    Cause::Unrepaired => Outcome::Unrepaired,
                    other => panic!("{other:?}"),
                });
                return;
            }
            Next::Wait => {
                driver.at = if driver.stalled {
                    At::Over(Outcome::Pending)
                } else {
                    At::LookUp(seen.facts)
                };
                return;
            }
            Next::Steps(steps) => steps,
        };
        driver.attempts += 1;
        driver.stalled = false;
        driver.phase |= Phase::WRITTEN;
        let mut rest = Vec::new();
        for step in steps {
            match step {
                Step::DeleteOthers => rest.extend(&seen.others),
                step => rest.push(Message::Step(*step)),
            }
        }
        assert!(
            !rest.is_empty(),
            "{steps:?} for {:?}: no message",
            seen.facts
        );
        rest.reverse();
        driver.at = At::Send(Batch {
            rest,
            added: false,
            heard: true,
            failed: false,
        });
    }

    /// Does what comes next where nothing goes wrong. Returns whether it could: a listener may
    /// have nothing to hear.
    fn act(&mut self, kernel: &mut Kernel, driver: &mut Driver, fate: Fate) -> bool {
        match &mut driver.at {
            At::Addresses => driver.at = At::Routes(kernel.addresses),
            At::Routes(addresses) => {
                let (addresses, look) = (*addresses, self.look(driver.scan_main));
                self.plan(kernel, driver, addresses, look);
            }
            At::LookUp(facts) => {
                let facts = self.world.look_up(*facts, &kernel.routes);
                let mut row = Row::new(self.world.vip());
                row.facts = facts;
                row.phase = driver.phase;
                let waits =
                    !facts.contains(Facts::KERNEL) && self.next(facts, driver.phase) == Next::Wait;
                driver.at = if waits {
                    let ages = !awaits_kernel(&row) && !facts.contains(Facts::TENTATIVE);
                    At::Listen { ages }
                } else {
                    At::Addresses
                };
            }
            At::Listen { ages } => {
                if !driver.phase.contains(Phase::SETTLED) {
                    match (kernel.late, *ages) {
                        // The kernel's work is done long before an address is no longer young.
                        (true, true) => return false,
                        (false, true) => {
                            if let Some(host) = &mut kernel.addresses.host {
                                host.young = false;
                            }
                        }
                        (_, false) => driver.stalled = true,
                    }
                }
                driver.at = At::Addresses;
            }
            At::Send(batch) => {
                let message = batch.rest.pop().expect("a batch is not empty");
                let answer = match fate {
                    Fate { refused: true, .. } => Err(libc::ENOMEM),
                    Fate { applied: false, .. } => Ok(()),
                    _ => kernel.take(message, &self.world),
                };
                batch.heard &= fate.heard;
                let step = match message {
                    Message::Step(step) => step,
                    Message::Delete(_) => Step::DeleteOthers,
                };
                match answer {
                    Ok(()) => batch.added |= step == Step::AddAddress,
                    Err(errno) => batch.failed |= step.refused(errno) == Refusal::Final,
                }
                if batch.rest.is_empty() {
                    let batch = batch.clone();
                    driver.at = At::Addresses;
                    if batch.added && batch.heard {
                        driver.phase = acked(driver.phase);
                    }
                    if batch.failed {
                        driver.at = At::Over(Outcome::Kernel);
                    }
                }
            }
            At::Over(_) => return false,
        }
        true
    }
}

/// What `round.rs` makes of an acked [`Step::AddAddress`].
fn acked(phase: Phase) -> Phase {
    phase | Phase::FRESH
}

/// The late route arrives, and whoever listens hears it.
fn arrive<'a>(kernel: &mut Kernel, drivers: impl IntoIterator<Item = &'a mut Driver>) {
    kernel.late_route_arrives();
    for driver in drivers {
        if matches!(driver.at, At::Listen { .. }) {
            driver.phase |= Phase::SETTLED;
        }
    }
}

/// A moment of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    kernel: Kernel,
    driver: Driver,
    fault: Option<Fault>,
    /// The rival has been there at an observation.
    rival_seen: bool,
    /// Our link delivered the VIP's packets at the start.
    had_local: bool,
    /// The address is of our making.
    added: bool,
}

/// Follows every run of one policy.
struct Walk {
    course: Course,
    faults: Vec<Fault>,
    /// How many runs lead on from a moment.
    known: HashMap<Moment, u64>,
    path: Vec<Moment>,
    /// The most rounds with messages: undisturbed, and with a fault.
    rounds: [u16; 2],
    outcomes: HashMap<Outcome, u64>,
    thefts: HashSet<Message>,
}

impl Walk {
    fn new(family: Family, policy: Policy, faults: &[Fault]) -> Self {
        Self {
            course: Course::new(family, policy),
            faults: faults.to_vec(),
            known: HashMap::new(),
            path: Vec::new(),
            rounds: [0; 2],
            outcomes: HashMap::new(),
            thefts: HashSet::new(),
        }
    }

    fn start(&mut self, kernel: Kernel) -> u64 {
        let had_local = kernel.has_local();
        self.follow(Moment {
            kernel,
            driver: Driver::new(),
            fault: None,
            rival_seen: false,
            had_local,
            added: false,
        })
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

    /// Follows all runs from a moment on; returns how many there are.
    fn follow(&mut self, moment: Moment) -> u64 {
        if let Some(runs) = self.known.get(&moment) {
            return *runs;
        }
        self.path.push(moment.clone());
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
            let mut then = moment.clone();
            arrive(&mut then.kernel, [&mut then.driver]);
            runs += self.follow(then);
        }
        runs += self.act(moment, None);
        if moment.fault.is_none() {
            for fault in self.faults.clone() {
                runs += self.strike(moment, fault);
            }
        }
        self.demand(runs > 0, "nothing can happen any more");
        runs
    }

    /// What comes next, with or without a fault to one message.
    fn act(&mut self, before: &Moment, fault: Option<Fault>) -> u64 {
        let mut then = before.clone();
        then.fault = fault.or(before.fault);
        let fate = fault.and_then(Fate::of).unwrap_or(Fate::GOOD);
        if !self.course.act(&mut then.kernel, &mut then.driver, fate) {
            return 0;
        }
        if let At::Send(batch) = &before.driver.at {
            let message = batch.rest.last().copied();
            self.check_message(before, &mut then, message.unwrap());
        } else if let At::Routes(_) = before.driver.at {
            then.rival_seen = true;
        }
        if fault == Some(Fault::Killed) {
            then.driver = Driver::new();
        }
        self.follow(then)
    }

    fn check_message(&mut self, before: &Moment, then: &mut Moment, message: Message) {
        if !before.kernel.foreign().eq(then.kernel.foreign()) {
            // A replacement takes what came since it was planned; nothing can look in between.
            let unforeseen = matches!(then.fault, Some(Fault::Rival(_))) && !then.rival_seen;
            self.demand(unforeseen, "another device's route was touched");
            self.thefts.insert(message);
        }
        let added = before.kernel.addresses.host.is_none();
        then.added |= added && then.kernel.addresses.host.is_some();
        let meddled = matches!(then.fault, Some(Fault::Deleted | Fault::Rival(_)));
        if then.had_local && self.course.policy.goal != Goal::Release && !meddled {
            self.demand(then.kernel.has_local(), "a gap");
        }
    }

    /// One fault, where it can strike.
    fn strike(&mut self, moment: &Moment, fault: Fault) -> u64 {
        let mut then = moment.clone();
        then.fault = Some(fault);
        match (fault, &moment.driver.at) {
            (
                Fault::Vanished | Fault::Dropped | Fault::Unheard | Fault::Refused | Fault::Killed,
                At::Send(_),
            ) => self.act(moment, Some(fault)),
            (Fault::Torn | Fault::Missed, At::Routes(addresses)) => {
                let addresses = *addresses;
                let look = Look {
                    torn: true,
                    ..self.course.look(moment.driver.scan_main)
                };
                // One of another device that is not told is as one that comes later: a rival.
                let ours = moment.kernel.routes.iter().enumerate();
                let ours = ours
                    .filter(|(_, r)| r.table == TABLE_LOCAL && r.device == Device::Link)
                    .map(|(at, _)| Some(at));
                let missed: Vec<_> = match fault {
                    Fault::Torn => vec![None],
                    _ => ours.collect(),
                };
                let mut runs = 0;
                for missed in missed {
                    let look = Look { missed, ..look };
                    let mut then = then.clone();
                    self.course
                        .plan(&then.kernel, &mut then.driver, addresses, look);
                    runs += self.follow(then);
                }
                runs
            }
            (Fault::Deleted, _) => {
                let gone = then
                    .kernel
                    .take(Message::Step(Step::DeleteAddress), &self.course.world);
                if gone.is_ok() { self.follow(then) } else { 0 }
            }
            (Fault::Rival(metric), _) => {
                then.kernel.insert(Route {
                    metric,
                    ..foreign(self.course.world.family)
                });
                then.rival_seen = false;
                self.follow(then)
            }
            _ => 0,
        }
    }

    /// Whether a run ended as it should; the next call where that is part of the fault.
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
        *rounds = driver.attempts.max(*rounds);
        let most = if fault.is_some() {
            WITH_A_FAULT
        } else {
            UNDISTURBED
        };
        self.demand(driver.attempts <= most, "too many rounds");
        *self.outcomes.entry(outcome).or_default() += 1;
        let host = kernel.addresses.host;
        let written = driver.phase.contains(Phase::WRITTEN);
        let meddled = matches!(fault, Some(Fault::Deleted | Fault::Rival(_)));
        match outcome {
            Outcome::Done => {
                let good = match goal {
                    Goal::Assign | Goal::Normalize => kernel.is_single_route(&world),
                    Goal::Release => kernel.is_released(),
                };
                if !good && *fault == Some(Fault::Missed) {
                    // What no look-up can tell, the next call finds.
                    let mut then = moment.clone();
                    then.fault = Some(Fault::Killed);
                    then.driver = Driver::new();
                    return self.follow(then);
                }
                self.demand(good, "Done, but not as wanted");
                let late = kernel.late && moment.added;
                self.demand(!late, "Done, and then the late route arrives");
                let look = self.course.look(true);
                let again = self
                    .course
                    .observe(kernel.addresses, &kernel.routes, look)
                    .facts;
                let again = self.course.next(again, Phase::empty());
                self.demand(again == Next::Done, "not idempotent");
            }
            Outcome::Conflict => {
                let conflict = goal != Goal::Release && kernel.foreign().next().is_some();
                self.demand(conflict, "no conflict");
                self.demand(meddled || !written, "written in spite of a conflict");
                if driver.phase.contains(Phase::FRESH) {
                    let wanted = world.wanted_route();
                    let left = host.is_some() || kernel.ours().any(|r| *r == wanted);
                    self.demand(!left, "what this call made was not taken back");
                }
            }
            Outcome::Unrepaired => {
                let hopeless = kernel.addresses.other_length
                    || goal != Goal::Release && host.is_some_and(|host| host.dad_failed)
                    || goal == Goal::Normalize && host.is_none();
                self.demand(hopeless, "given up for no reason");
                self.demand(meddled || !written, "written in spite of no hope");
            }
            Outcome::Pending => {
                self.demand(kernel.late, "pending, but nothing is to come");
                let tentative = host.is_some_and(|host| host.tentative);
                self.demand(moment.added || tentative, "waited too briefly");
                self.demand(
                    !(tentative && written),
                    "written beside a tentative address",
                );
            }
            Outcome::Kernel => self.demand(false, "a refusal that is final"),
        }
        1
    }
}

/// A route of another device in the place that ours would take.
fn foreign(family: Family) -> Route {
    Route {
        table: TABLE_LOCAL,
        metric: user_metric(family),
        device: Device::Other,
        protocol: KERNEL,
        source: Source::None,
    }
}

/// The route of our link in the place of the wanted one.
fn slot(world: &World, protocol: u8, source: Source) -> Route {
    Route {
        protocol,
        source,
        ..world.wanted_route()
    }
}

fn extras(family: Family) -> [Option<Route>; 4] {
    let local = Route {
        table: TABLE_LOCAL,
        metric: 500,
        device: Device::Link,
        protocol: KERNEL,
        source: Source::Stray,
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

/// States without repetition, in a fixed order.
#[derive(Default)]
struct States {
    list: Vec<Kernel>,
    known: HashSet<Kernel>,
}

impl States {
    fn push(&mut self, kernel: Kernel) {
        if self.known.insert(kernel.clone()) {
            self.list.push(kernel);
        }
    }
}

/// Every state of one VIP in IPv6.
fn states_v6(world: &World, small: bool) -> Vec<Kernel> {
    let family = Family::V6;
    let none = Addresses {
        host: None,
        other_length: false,
    };
    let host = |host| Addresses {
        host: Some(host),
        ..none
    };
    // Address, late route, kernel's route.
    let mut bases = vec![(none, false, false)];
    for no_prefix_route in [true, false] {
        for young in [true, false] {
            let address = Address {
                no_prefix_route,
                young,
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
    }
    if !small {
        let other = Addresses {
            other_length: true,
            ..none
        };
        bases.extend([(other, false, true), (other, false, false)]);
    }
    let other_protocol = if world.protocol == KERNEL {
        STATIC
    } else {
        KERNEL
    };
    let slots = [
        None,
        Some(world.wanted_route()),
        Some(slot(world, world.protocol, Source::Stray)),
        Some(slot(world, world.protocol, Source::Vip)),
        Some(slot(world, world.protocol, Source::None)),
        Some(slot(world, TRANSIT, Source::Node)),
        Some(slot(world, other_protocol, Source::Node)),
        Some(slot(world, other_protocol, Source::Stray)),
    ];
    let prefix = Route {
        table: TABLE_MAIN,
        metric: 256,
        ..Kernel::own(family)
    };
    // A foreign route's metric, and whether it stands before ours of the same metric.
    let foreigns: &[_] = if small {
        &[None]
    } else {
        &[
            None,
            Some((0, true)),
            Some((0, false)),
            Some((1024, true)),
            Some((1024, false)),
            Some((2048, true)),
        ]
    };
    let extras = extras(family);
    let extras = if small { &extras[..2] } else { &extras[..] };
    let mut states = States::default();
    for (addresses, late, own) in bases {
        for (slot, foreign_at) in slots
            .iter()
            .flat_map(|s| foreigns.iter().map(move |f| (s, f)))
        {
            for (extra, prefix) in extras
                .iter()
                .flat_map(|e| [None, Some(prefix)].map(|p| (e, p)))
            {
                let mut kernel = Kernel {
                    addresses,
                    late,
                    last: false,
                    routes: Vec::new(),
                };
                let rival = foreign_at.map(|(metric, first)| {
                    let foreign = foreign(family);
                    (Route { metric, ..foreign }, first)
                });
                let (before, behind) = match rival {
                    Some((route, true)) => (Some(route), None),
                    Some((route, false)) => (None, Some(route)),
                    None => (None, None),
                };
                let own = own.then(|| Kernel::own(family));
                for route in [before, own, *slot, behind, *extra, prefix]
                    .into_iter()
                    .flatten()
                {
                    kernel.insert(route);
                }
                states.push(kernel);
            }
        }
    }
    states.list
}

/// Every state of one VIP in IPv4: up to three routes in the place of the wanted one.
fn states_v4(world: &World) -> Vec<Kernel> {
    let family = Family::V4;
    let other_protocol = if world.protocol == KERNEL {
        STATIC
    } else {
        KERNEL
    };
    let kinds = [
        Kernel::own(family),
        world.wanted_route(),
        slot(world, world.protocol, Source::Stray),
        slot(world, world.protocol, Source::None),
        slot(world, other_protocol, Source::Node),
        foreign(family),
    ];
    let mut places: Vec<Vec<Route>> = vec![Vec::new()];
    for length in 0..3 {
        for shorter in places.clone() {
            if shorter.len() == length {
                let longer = kinds.iter().filter(|kind| !shorter.contains(kind));
                places.extend(longer.map(|kind| {
                    let mut longer = shorter.clone();
                    longer.push(*kind);
                    longer
                }));
            }
        }
    }
    let behind = Route {
        metric: 700,
        ..foreign(family)
    };
    let mut states = States::default();
    for place in places {
        for (extra, behind) in extras(family)
            .iter()
            .flat_map(|e| [None, Some(behind)].map(|b| (e, b)))
        {
            for (host, other_length, last) in [
                (None, false, false),
                (None, true, false),
                (Some(Address::NEW), false, true),
                (Some(Address::OLD), false, false),
                (Some(Address::OLD), true, false),
            ] {
                let mut kernel = Kernel {
                    addresses: Addresses { host, other_length },
                    late: false,
                    last,
                    routes: Vec::new(),
                };
                for route in place.iter().copied().chain(*extra).chain(behind) {
                    kernel.insert(route);
                }
                states.push(kernel);
            }
        }
    }
    states.list
}

fn states(world: &World) -> Vec<Kernel> {
    match world.family {
        Family::V4 => states_v4(world),
        Family::V6 => states_v6(world, false),
    }
}

fn policies() -> impl Iterator<Item = Policy> {
    [Goal::Assign, Goal::Normalize, Goal::Release]
        .into_iter()
        .flat_map(|goal| [true, false].map(|as_kernel| Policy { goal, as_kernel }))
}

/// Follows every run from every state of a family under every policy.
fn walk_all(family: Family, faults: &[Fault]) -> (usize, u64) {
    let (mut starts, mut runs) = (0, 0_u64);
    for policy in policies() {
        let mut walk = Walk::new(family, policy, faults);
        for kernel in states(&walk.course.world) {
            starts += 1;
            runs += walk.start(kernel);
        }
        println!(
            "{family:?} {policy:?}: {} moments, rounds {:?}, ends {:?}, thefts {:?}",
            walk.known.len(),
            walk.rounds,
            walk.outcomes,
            walk.thefts
        );
    }
    println!("{family:?} with {faults:?}: {starts} states, {runs} runs");
    (starts, runs)
}

const LOSSES: [Fault; 7] = [
    Fault::Vanished,
    Fault::Dropped,
    Fault::Unheard,
    Fault::Refused,
    Fault::Killed,
    Fault::Torn,
    Fault::Missed,
];

#[test]
fn v6_converges() {
    let (states, runs) = walk_all(Family::V6, &LOSSES);
    assert!(states > 10_000 && runs > 100_000, "{states} {runs}");
}

#[test]
fn v4_converges() {
    let (states, runs) = walk_all(Family::V4, &LOSSES);
    assert!(states > 10_000 && runs > 100_000, "{states} {runs}");
}

#[test]
fn an_address_deleted_by_another_hand_comes_back() {
    for family in Family::ALL {
        let (states, runs) = walk_all(family, &[Fault::Deleted]);
        assert!(states > 10_000 && runs > 10_000, "{states} {runs}");
    }
}

#[test]
fn a_rival_that_comes_in_between_is_not_fought() {
    for (family, metrics) in [(Family::V4, &[0, 700][..]), (Family::V6, &[0, 1024])] {
        for metric in metrics {
            let (states, runs) = walk_all(family, &[Fault::Rival(*metric)]);
            assert!(states > 10_000 && runs > 10_000, "{states} {runs}");
        }
    }
}

/// Two managers on one link, with the same VIP and policy, interleaved message by message.
struct Pair {
    course: Course,
    known: HashSet<(Kernel, [Driver; 2])>,
    path: Vec<(Kernel, [Driver; 2])>,
    rounds: u16,
    ends: u64,
}

impl Pair {
    fn follow(&mut self, kernel: Kernel, drivers: [Driver; 2]) {
        if !self.known.insert((kernel.clone(), drivers.clone())) {
            return;
        }
        self.path.push((kernel.clone(), drivers.clone()));
        for driver in &drivers {
            self.rounds = self.rounds.max(driver.attempts);
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
        let unfinished = outcomes == [Some(Outcome::Done); 2]
            && !(kernel.late || kernel.is_single_route(&self.course.world));
        if bad || unfinished || self.rounds > 20 {
            for moment in &self.path {
                eprintln!("{moment:?}");
            }
            panic!("{outcomes:?} {:?}", self.course.policy);
        }
        if outcomes == [Some(Outcome::Done); 2] {
            self.ends += 1;
        } else {
            let mut moved = false;
            for at in 0..2 {
                let (mut kernel, mut drivers) = (kernel.clone(), drivers.clone());
                if matches!(drivers[at].at, At::Listen { ages: false }) && kernel.late {
                    // It will come before the listener gives up.
                    continue;
                }
                if self.course.act(&mut kernel, &mut drivers[at], Fate::GOOD) {
                    moved = true;
                    self.follow(kernel, drivers);
                }
            }
            if kernel.late {
                let (mut kernel, mut drivers) = (kernel.clone(), drivers.clone());
                arrive(&mut kernel, &mut drivers);
                moved = true;
                self.follow(kernel, drivers);
            }
            assert!(moved);
        }
        self.path.pop();
    }
}

#[test]
fn two_managers_converge() {
    let mut starts = 0;
    for as_kernel in [true, false] {
        let policy = Policy {
            goal: Goal::Assign,
            as_kernel,
        };
        let mut pair = Pair {
            course: Course::new(Family::V6, policy),
            known: HashSet::new(),
            path: Vec::new(),
            rounds: 0,
            ends: 0,
        };
        for kernel in states_v6(&pair.course.world, true) {
            starts += 1;
            pair.follow(kernel, [Driver::new(), Driver::new()]);
        }
        println!(
            "{policy:?}: {} moments, {} ends, {} rounds",
            pair.known.len(),
            pair.ends,
            pair.rounds
        );
        assert!(pair.known.len() > 100_000 && pair.ends > 100);
    }
    println!("{starts} states");
}
