//! The preview against the [model](crate::engine::check::model) of the kernel: the steps that it foretells from
//! what was seen, played from the very state, end where they shall.

use std::collections::BTreeMap;

use super::plan::Likelihood;
use super::simulation::{Move, Simulation, Turn};
use crate::base::Family;
use crate::core::{Binding, Cause, Goal, Policy, Step};
use crate::core::{Facts, Progress};
use crate::engine::check::model::{Extent, KERNEL, Kernel, MARK, Message, Missed, Seen, World};
use crate::engine::check::{policies, states};

/// One preview, to its end: its moves and the facts foretold behind each round.
struct Foretold {
    rounds: Vec<(Vec<Move>, Facts)>,
    turn: Turn,
}

fn observe(world: &World, policy: Policy, kernel: &Kernel) -> Seen {
    let extent = Extent {
        release: policy.goal == Goal::Release,
        main: true,
        interrupted: None,
        missed: Missed::Nothing,
        diverted: false,
    };
    world.observe(kernel.addresses, &kernel.routes, extent)
}

fn foretell(world: &World, policy: Policy, seen: &Seen) -> Foretold {
    let family = world.family;
    let mut simulation = Simulation::new(
        family,
        seen.facts,
        Progress::default(),
        seen.keys.iter().copied(),
    );
    let desired = world.desired()[family];
    let mut rounds = Vec::new();
    loop {
        let mut moves = Vec::new();
        let turn = simulation.advance(policy, &desired, |what, _| moves.push(what));
        if turn != Turn::Moved {
            return Foretold { rounds, turn };
        }
        // The script deletes addresses behind all routes of the round.
        moves.sort_by_key(|what| *what == Move::Step(Step::DeleteAddress));
        rounds.push((moves, simulation.facts));
    }
}

/// What the script passes over.
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
        Move::Step(_) | Move::Wait { .. } => false,
    }
}

/// What a forecast cannot or need not know.
fn known(facts: Facts) -> Facts {
    facts - (Facts::SAME_KEY_DIFFERS | Facts::WINS | Facts::MARKED | Facts::RECENT)
}

fn is_wanted(kernel: &Kernel, world: &World, policy: Policy) -> bool {
    match (policy.goal, policy.binding) {
        (Goal::Release, _) => kernel.is_released(),
        (_, Binding::Address) => kernel.is_single_route(world),
        (_, Binding::Route) => {
            let desired = world.desired_route();
            let is_single =
                kernel.link_routes().eq([&desired]) && kernel.routes.first() == Some(&desired);
            kernel.addresses.host.is_none() && is_single
        }
    }
}

/// Plays the steps; the late route comes before the one of this number, or when it is waited for.
fn play(world: &World, policy: Policy, start: &Kernel, foretold: &Foretold, late: usize) {
    let mut kernel = start.clone();
    // The anchor sees to it.
    kernel.last &= policy.binding == Binding::Address;
    let waits = |(moves, _): &(Vec<Move>, Facts)| {
        let wait = |what: &Move| matches!(what, Move::Wait { .. });
        moves.iter().any(wait)
    };
    let stays = policy.goal != Goal::Release && policy.binding == Binding::Address;
    if stays && !foretold.rounds.iter().any(waits) {
        // A route still to come, of which nothing tells, only a second look finds.
        kernel.late = false;
    }
    let late = kernel.late.then_some(late);
    let mut played = Vec::new();
    let context = |played: &[Move], kernel: &Kernel| {
        format!("{policy:?}\nfrom {start:?}\nby {played:?}\nto {kernel:?}")
    };
    // Whether all was as foretold.
    let mut exact = world.family == Family::V6 && !start.late;
    for (moves, facts) in &foretold.rounds {
        for &what in moves {
            if kernel.late && late == Some(played.len()) {
                kernel.late_route_arrives();
            }
            played.push(what);
            let message = match what {
                Move::Wait { likelihood } => {
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
                        // It will not come, and only a second look finds that the address must be
                        // made anew.
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
        is_wanted(&kernel, world, policy),
        "not as wanted: {context}"
    );
}

#[test]
fn the_steps_foretold_end_where_they_shall() {
    for family in Family::ALL {
        let mut ends = BTreeMap::<String, usize>::new();
        for policy in policies() {
            let protocol = if policy.as_kernel { KERNEL } else { MARK };
            let world = World {
                family,
                protocol,
                binding: policy.binding,
                kernel_source: policy.kernel_source,
            };
            for start in states(&world, false) {
                let seen = observe(&world, policy, &start);
                let foretold = foretell(&world, policy, &seen);
                *ends.entry(format!("{:?}", foretold.turn)).or_default() += 1;
                match foretold.turn {
                    Turn::Done => {
                        let waits = foretold.rounds.iter().flat_map(|(moves, _)| moves);
                        let before = waits
                            .take_while(|what| !matches!(what, Move::Wait { .. }))
                            .count();
                        for late in 0..=before {
                            play(&world, policy, &start, &foretold, late);
                            if !start.late {
                                break;
                            }
                        }
                    }
                    Turn::Failed(cause) => {
                        let hopeless = cause == Cause::Conflict || cause.is_not_ours_to_change();
                        // All but the lifetime is healed.
                        let expires = policy.goal == Goal::Normalize && start.expires();
                        assert!(
                            hopeless && (expires || foretold.rounds.is_empty()),
                            "{cause:?}: {start:?}"
                        );
                    }
                    Turn::Moved => unreachable!("is no end"),
                }
            }
        }
        println!("{family:?}: {ends:?}");
        assert!(
            ends["Done"] > 1000 && ends["Failed(Conflict)"] > 100,
            "{ends:?}"
        );
    }
}
