//! Rounds with several rows of different states. The exhaustive check has one row a call.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::Buffers;
use super::acked::Acked;
use super::decide::{
    Decision, Engine, Method, PATIENT_AFTER, Replies, Reply, Stage, Verdict, Waited,
};
use super::still::{Still, acked};
use crate::base::{Family, PerFamily};
use crate::core::{Cause, Done, ErrorKind, Facts, Goal, Policy, Row, Step};
use crate::link::trouble::Trouble;
use crate::netlink::batch::Response;

const POLICY: Policy = Policy::ASSIGN;

const STILL: Still = Still {
    since_change: Duration::ZERO,
    stall: Duration::from_secs(5),
};

fn row(last: u16, facts: Facts) -> Row {
    let vip: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
    let mut row = Row::new(vip.into(), POLICY.goal);
    row.facts = facts;
    row
}

/// The kernel's answer to a blind deletion.
fn blind(response: Response) -> Reply {
    Reply {
        step: Step::DeleteKernelBlind,
        response,
    }
}

#[track_caller]
fn assert_plan(engine: &Engine, row: &mut Row, steps: &'static [Step]) {
    assert_eq!(engine.plan(row, &STILL), Decision::Steps(steps));
}

/// Does what the driver does in a round in which no row has steps.
fn round(engine: &mut Engine, rows: &mut [Row]) -> Verdict {
    engine.observed(rows.iter_mut());
    let mut waits = false;
    for row in rows.iter_mut() {
        match engine.plan(row, &STILL) {
            Decision::Nothing => {}
            Decision::Wait => waits = true,
            other => panic!("{other:?}"),
        }
    }
    let verdict = engine.end_round(rows, waits, &STILL);
    if let Verdict::GiveUp(cause) = verdict {
        for row in rows {
            if engine.gives_up(row, cause) {
                row.progress.done |= Done::FAILED;
            }
        }
    }
    verdict
}

/// One row cannot be read, and the other waits for duplicate address detection, which does not end. Each
/// fails for its own cause, and neither takes the other's time.
#[test]
fn unread_and_waiting_rows_fail_each_for_its_own_cause() {
    let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
    let waiting = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::TENTATIVE;
    let mut rows = [row(1, Facts::UNREAD_ROUTE), row(2, waiting)];
    let mut pauses = 0;
    // The last wait ended without progress.
    engine.waited(Waited::Stalled);
    let verdict = loop {
        match round(&mut engine, &mut rows) {
            Verdict::Pause(_) => pauses += 1,
            verdict => break verdict,
        }
        assert_eq!(engine.stage(), Stage::ReadAll);
    };
    assert_eq!((pauses, verdict), (10, Verdict::GiveUp(Cause::Unread)));
    assert_eq!(rows.map(|row| row.has_failed()), [true, false]);
    assert_eq!(engine.stage(), Stage::ReadAll);
    assert_eq!(
        round(&mut engine, &mut rows),
        Verdict::GiveUp(Cause::Pending)
    );
    assert_eq!(rows.map(|row| row.has_failed()), [true, true]);
    assert_eq!(engine.stage(), Stage::Finished);
}

/// A row that can be read at last is served, although the call would have given up on another row first.
#[test]
fn waiting_row_does_not_end_the_reading_of_another_row() {
    let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
    let waiting = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::TENTATIVE;
    let mut rows = [row(1, Facts::UNREAD_ADDRESS), row(2, waiting)];
    engine.waited(Waited::Stalled);
    assert!(matches!(round(&mut engine, &mut rows), Verdict::Pause(_)));
    assert_eq!(rows.map(|row| row.has_failed()), [false, false]);
    rows[0].facts = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::DESIRED;
    assert_eq!(
        round(&mut engine, &mut rows),
        Verdict::GiveUp(Cause::Pending)
    );
    assert_eq!(rows.map(|row| row.has_failed()), [false, true]);
}

/// The rows have been observed, and one could not be read. Then the call finds that a family lacks its source.
#[test]
fn trouble_of_a_family_fails_no_row_of_the_other_family_and_none_twice() {
    let v4 = Row::new(IpAddr::from([10, 96, 0, 1]).into(), POLICY.goal);
    let rows = [v4, row(1, Facts::UNREAD_ROUTE), row(2, Facts::empty())];
    let mut buffers = Buffers::default();
    rows.into_iter().for_each(|row| buffers.rows.push_row(row));
    buffers.fail_unread(|_| false);
    buffers.exclude_family(Trouble {
        family: Family::V6,
        kind: ErrorKind::SourceNotOnNode,
        detail: "".into(),
    });
    let missing = Cause::Missing(ErrorKind::SourceNotOnNode);
    assert_eq!(buffers.failed, [(1, Cause::Unread), (2, missing)]);
    let have_failed: Vec<bool> = buffers.rows.iter().map(Row::has_failed).collect();
    assert_eq!(have_failed, [false, true, true]);
}

/// The kernel's route is deleted right behind the ack of the staged route, without a reading in between. Where
/// the kernel's route was not seen, or replies were lost, the VIP is read first.
#[test]
fn staged_route_beside_the_kernels_route_goes_on_without_an_observation() {
    let staged = acked(Step::AddStaged);
    let alone = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::RECENT;
    let beside = alone | Facts::KERNEL | Facts::PREFIX;
    for (facts, replies, goes_on) in [
        (beside, Replies::Complete, true),
        (beside, Replies::Lost, false),
        (alone, Replies::Complete, false),
    ] {
        let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
        let mut row = row(1, facts);
        engine.observed([&mut row]);
        assert_plan(&engine, &mut row, &[Step::AddStaged]);
        engine.replied(&mut row, staged, replies);
        assert_eq!(engine.goes_on(&row, staged, replies), goes_on, "{facts:?}");
        if !goes_on {
            continue;
        }
        assert!(engine.trust_ack(&mut row));
        const REST: [Step; 4] = [
            Step::ReplaceStaged,
            Step::DeleteKernel,
            Step::ReplaceRoute,
            Step::DeleteOthers,
        ];
        assert_plan(&engine, &mut row, &REST);
        engine.observed([&mut row]);
        assert_plan(&engine, &mut row, &[Step::AddStaged]);
    }
}

/// A release by the mark of a route deletes the address first. From the ack of that deletion it goes on with the
/// route, but not if replies were lost, or if the VIP has further addresses, with other peers.
#[test]
fn marked_route_follows_its_address_without_an_observation() {
    let deleted = acked(Step::DeleteAddress);
    let alone = Facts::ADDRESS | Facts::DESIRED | Facts::MARKED;
    for (facts, replies, goes_on) in [
        (alone, Replies::Complete, true),
        (
            alone | Facts::KERNEL | Facts::PREFIX,
            Replies::Complete,
            true,
        ),
        (alone, Replies::Lost, false),
        (alone | Facts::PEER, Replies::Complete, false),
    ] {
        let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
        let mut row = row(1, facts);
        row.goal = Goal::Release;
        row.progress.done |= Done::BY_MARK;
        engine.observed([&mut row]);
        assert_plan(&engine, &mut row, &[Step::DeleteAddress]);
        engine.replied(&mut row, deleted, replies);
        assert_eq!(engine.goes_on(&row, deleted, replies), goes_on, "{facts:?}");
        if goes_on {
            assert!(engine.trust_ack(&mut row));
            assert_plan(&engine, &mut row, &[Step::DeleteDesired]);
        }
    }
}

/// The move of a route-only VIP to an address: a VIP with a staged route alone goes on from the ack of its address,
/// like a new VIP. Any other route may be what the blind deletion hits, or may have followed an address before.
#[test]
fn staged_route_alone_goes_on_from_the_ack_of_the_address() {
    let added = acked(Step::AddAddress);
    let staged = Facts::SAME_KEY | Facts::WRONG_PROTOCOL | Facts::STAGED;
    for (facts, goes_on) in [
        (staged, true),
        (staged - Facts::STAGED, false),
        (staged | Facts::EXTRA, false),
        (staged | Facts::PREFIX, false),
    ] {
        let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
        let mut row = row(1, facts);
        engine.observed([&mut row]);
        assert_plan(&engine, &mut row, &[Step::AddAddress]);
        engine.replied(&mut row, added, Replies::Complete);
        assert!(engine.goes_on(&row, added, Replies::Complete));
        assert_eq!(engine.trust_ack(&mut row), goes_on, "{facts:?}");
        if !goes_on {
            continue;
        }
        assert_plan(&engine, &mut row, &[Step::DeleteKernelBlind]);
        let deleted = acked(Step::DeleteKernelBlind);
        row.note_sent(deleted.step);
        engine.replied(&mut row, deleted, Replies::Complete);
        assert!(engine.goes_on(&row, deleted, Replies::Complete));
        assert!(engine.trust_ack(&mut row));
        assert_plan(&engine, &mut row, &[Step::ReplaceRoute]);
    }
}

/// A blind deletion that came before the late route is repeated a few times, which is no retry of the report. Then
/// the VIP is observed. If replies were lost, or the kernel is short of memory, it is observed at once.
#[test]
fn early_blind_deletion_is_repeated_before_the_next_observation() {
    let added = acked(Step::AddAddress);
    let early = blind(Response::Absent);
    let short_of_memory = blind(Response::Refused);
    let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
    let mut row = row(1, Facts::empty());
    row.progress.done |= Done::WAS_ABSENT;
    engine.observed([&mut row]);
    assert_plan(&engine, &mut row, &[Step::AddAddress]);
    engine.replied(&mut row, added, Replies::Complete);
    let mut deletions = 0;
    let (mut reply, mut repeats) = (added, 0);
    while engine.goes_on(&row, reply, Replies::Complete) {
        assert!(engine.trust_ack(&mut row));
        assert_plan(&engine, &mut row, &[Step::DeleteKernelBlind]);
        repeats += u32::from(row.note_sent(early.step));
        engine.replied(&mut row, early, Replies::Complete);
        assert!(!engine.goes_on(&row, early, Replies::Lost));
        assert!(!engine.goes_on(&row, short_of_memory, Replies::Complete));
        (reply, deletions) = (early, deletions + 1);
    }
    assert_eq!((deletions, repeats), (3, 0));
    row.facts = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::KERNEL | Facts::RECENT;
    engine.observed([&mut row]);
    assert_plan(&engine, &mut row, &[Step::DeleteKernel, Step::AddRoute]);
    assert!(row.attempts < PATIENT_AFTER);
}

/// A blind deletion without the echo of the late route may have hit the desired route of another writer. The route
/// is added at once, and the call still waits for the late route.
#[test]
fn blind_deletion_of_another_route_is_followed_by_the_desired_route() {
    let deleted = blind(Response::Acked);
    let mut engine = Engine::new(PerFamily::splat(POLICY), Method::Dumps);
    let mut row = row(1, Facts::ADDRESS | Facts::NO_PREFIX_ROUTE);
    row.progress.done |= Done::WAS_ABSENT | Done::ADDRESS_IS_NEW;
    engine.observed([]);
    assert!(engine.trust_ack(&mut row));
    assert_plan(&engine, &mut row, &[Step::DeleteKernelBlind]);
    row.note_sent(deleted.step);
    engine.replied(&mut row, deleted, Replies::Complete);
    assert!(!engine.goes_on(&row, deleted, Replies::Lost));
    assert!(engine.goes_on(&row, deleted, Replies::Complete));
    assert!(engine.trust_ack(&mut row));
    assert_plan(&engine, &mut row, &[Step::AddRoute]);
    row.facts |= Facts::DESIRED;
    assert!(row.may_still_get_kernels());
}

/// Early deletions count neither as addresses nor as rows that go on: they wait for other rows, and the round can end.
#[test]
fn early_deletions_make_no_row_due() {
    let early = blind(Response::Absent);
    let mut rows = Acked::default();
    (0..1_000).for_each(|at| rows.push(at, Family::V6, early));
    assert!(!rows.are_due());
    assert_eq!(rows.len(), 0);
    rows.push(0, Family::V6, acked(Step::DeleteKernelBlind));
    assert!(rows.are_due());
    assert_eq!(rows.len(), 1);
}
