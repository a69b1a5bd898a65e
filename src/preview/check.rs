//! The preview against the [model](crate::engine::check::model) of the kernel: the predicted steps, played
//! from the same state, reach the desired state.

use std::collections::BTreeMap;

use super::plan::{Likelihood, Reason};
use super::reason;
use super::simulation::{Move, Simulation, Turn};
use crate::base::Family;
use crate::core::{Binding, Cause, Drift, Goal, Policy, Step};
use crate::core::{Facts, Progress};
use crate::engine::check::model::{Extent, Kernel, Message, Seen, World};
use crate::engine::check::{policies, states};

/// One complete simulation: its moves, and the predicted facts after each round.
struct Predicted {
    rounds: Vec<(Vec<Move>, Facts)>,
    turn: Turn,
}

fn observe(world: &World, policy: Policy, kernel: &Kernel) -> Seen {
    let extent = Extent::whole(policy, true);
    world.observe(kernel.addresses, &kernel.routes, extent)
}

fn predict(world: &World, policy: Policy, seen: &Seen) -> Predicted {
    let family = world.family;
    let others = seen.others.iter().copied();
    let mut simulation = Simulation::new(family, seen.facts, Progress::default(), others);
    let desired = world.desired()[family];
    let mut rounds = Vec::new();
    loop {
        let mut moves = Vec::new();
        let turn = simulation.advance(policy, &desired, |what, _| moves.push(what));
        if turn != Turn::Moved {
            return Predicted { rounds, turn };
        }
        // The script deletes addresses after all routes of the round.
        moves.sort_by_key(|what| *what == Move::Step(Step::DeleteAddress));
        rounds.push((moves, simulation.facts));
    }
}

/// The refusals that the script accepts.
fn is_tolerated(what: Move, errno: i32) -> bool {
    match what {
        Move::Step(Step::AppendRoute) => errno == libc::EEXIST,
        Move::Step(
            Step::DeleteAddress
            | Step::DeleteDesired
            | Step::DeleteKernel
            | Step::DeleteKernelBlind
            | Step::DeleteOthers,
        )
        | Move::Delete(_) => matches!(errno, libc::ESRCH | libc::EADDRNOTAVAIL),
        Move::Step(_) | Move::Wait(_) => false,
    }
}

/// The facts without those that the simulation does not predict.
fn known(facts: Facts) -> Facts {
    facts - (Facts::SAME_KEY_DIFFERS | Facts::WINS | Facts::MARKED | Facts::RECENT)
}

/// Plays the steps. The late route comes before step number `late`, or during a wait.
fn play(world: &World, policy: Policy, start: &Kernel, predicted: &Predicted, late: usize) {
    let mut kernel = start.clone();
    // The placeholder address stays on the link.
    kernel.last &= policy.binding == Binding::Address;
    let mut moves = predicted.rounds.iter().flat_map(|(moves, _)| moves);
    let waits = moves.any(|what| matches!(what, Move::Wait(_)));
    let stays = policy.goal != Goal::Release && policy.binding == Binding::Address;
    if stays && !waits {
        // Only a second observation finds a late route that no fact shows.
        kernel.late = false;
    }
    let late = kernel.late.then_some(late);
    let mut played = Vec::new();
    let context = |played: &[Move], kernel: &Kernel| {
        format!("{policy:?}\nfrom {start:?}\nby {played:?}\nto {kernel:?}")
    };
    // Whether the facts must be as predicted.
    let mut exact = world.family == Family::V6 && !start.late;
    for (moves, facts) in &predicted.rounds {
        for &what in moves {
            if kernel.late && late == Some(played.len()) {
                kernel.late_route_arrives();
            }
            played.push(what);
            let message = match what {
                Move::Wait(likelihood) => {
                    if kernel.late {
                        kernel.late_route_arrives();
                    }
                    let there = kernel.routes.contains(&Kernel::own(world.family));
                    assert!(
                        there || likelihood == Likelihood::Possible,
                        "waits for ever: {}",
                        context(&played, &kernel)
                    );
                    if policy.kernel_source && !there {
                        // The route will not come. Only a second observation shows that the address must
                        // be made again.
                        return;
                    }
                    exact &= there;
                    continue;
                }
                Move::Step(step) => Message::Step(step),
                Move::Delete(key) => Message::delete(&key),
            };
            if let Err(errno) = kernel.handle(message, world) {
                assert!(
                    is_tolerated(what, errno),
                    "refused with {errno}: {}",
                    context(&played, &kernel)
                );
            }
        }
        if exact {
            let seen = observe(world, policy, &kernel).facts;
            assert_eq!(known(*facts), known(seen), "{}", context(&played, &kernel));
        }
    }
    let context = context(&played, &kernel);
    assert!(!kernel.late, "the late route is still to come: {context}");
    assert!(
        kernel.is_as_desired(world, policy.goal),
        "not as desired: {context}"
    );
}

#[test]
fn planned_steps_reach_the_desired_state() {
    for family in Family::ALL {
        let mut outcomes = BTreeMap::<String, usize>::new();
        for policy in policies() {
            let world = World::new(family, policy);
            for start in states(&world, false) {
                let seen = observe(&world, policy, &start);
                let predicted = predict(&world, policy, &seen);
                *outcomes.entry(format!("{:?}", predicted.turn)).or_default() += 1;
                match predicted.turn {
                    Turn::Done => {
                        let waits = predicted.rounds.iter().flat_map(|(moves, _)| moves);
                        let before = waits
                            .take_while(|what| !matches!(what, Move::Wait(_)))
                            .count();
                        for late in 0..=before {
                            play(&world, policy, &start, &predicted, late);
                            if !start.late {
                                break;
                            }
                        }
                    }
                    Turn::Failed(cause) => {
                        let hopeless = cause == Cause::Conflict || cause.is_not_ours_to_change();
                        // Everything but the lifetime is repaired.
                        let expires = policy.goal == Goal::Normalize && start.expires();
                        assert!(
                            hopeless && (expires || predicted.rounds.is_empty()),
                            "{cause:?}: {start:?}"
                        );
                    }
                    Turn::Moved => unreachable!("is no end"),
                }
            }
        }
        println!("{family:?}: {outcomes:?}");
        assert!(
            outcomes["Done"] > 1000 && outcomes["Failed(Conflict)"] > 100,
            "{outcomes:?}"
        );
    }
}

/// Each step names the differences that it cures, and no others.
#[test]
fn step_names_the_differences_that_it_cures() {
    let others = Facts::ADDRESS | Facts::KERNEL | Facts::PREFIX;
    let route = Drift::MISSING_ROUTE;
    for (differs, step, cured) in [
        (
            Facts::WRONG_SOURCE,
            Step::ReplaceRoute,
            route | Drift::WRONG_SOURCE,
        ),
        (
            Facts::WRONG_PROTOCOL,
            Step::ReplaceRoute,
            route | Drift::WRONG_PROTOCOL,
        ),
        (
            Facts::SAME_KEY_EXPIRES,
            Step::ReplaceRoute,
            route | Drift::EXPIRING_ROUTE,
        ),
        (
            Facts::WRONG_SOURCE,
            Step::DeleteKernel,
            Drift::KERNEL_LOCAL_ROUTE,
        ),
    ] {
        let facts = others | Facts::SAME_KEY | differs;
        let named = reason(Move::Step(step), Policy::ASSIGN, facts);
        assert_eq!(named, Reason::Drift(cured), "{step:?} {facts:?}");
    }
}
