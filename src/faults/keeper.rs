//! What a keeper puts off, and for how long, without a clock: the tests make its memory older
//! instead of waiting.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::forged::{both, find, hear, patient, refusal, say, sequence, wrong};
use super::{LINK, NODE_V4, NODE_V6, builder, ip, kind, node, on_link, shared, v4, v6};
use crate::engine::decide::PATIENT_AFTER;
use crate::engine::lookup::ROUTES_MAX;
use crate::netlink::decode::NLMSG_ERROR;
use crate::sys::Received;
use crate::sys::fault::{Found, Line};
use crate::{Cause, Claim, Dispatched, ErrorKind, Keeper, LinkKind, Report};

/// Repairs without a pause, before and after a fight.
const FREE: u64 = 3;
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const CALM: Duration = Duration::from_secs(60);

/// The pause after so many repairs.
fn pause(repairs: u64) -> Duration {
    let doubled = u32::try_from(repairs.checked_sub(FREE + 1).unwrap()).unwrap();
    (Duration::from_millis(50) * (1 << doubled)).min(LONGEST_PAUSE)
}

/// Until there is nothing left to do or to tell.
fn dispatch_until_idle(keeper: &mut Keeper) {
    while keeper.dispatch(usize::MAX).unwrap() != Dispatched::default() {}
}

/// A keeper whose VIPs are there.
fn keeper(set: &[IpAddr]) -> Keeper {
    let mut keeper = patient().into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set);
    let report = dispatch(&mut keeper);
    assert_eq!(report.assigned, set.len(), "{report}");
    dispatch_until_idle(&mut keeper);
    keeper
}

fn dispatch(keeper: &mut Keeper) -> Report {
    keeper.dispatch(usize::MAX).unwrap().report
}

/// Another writer deletes the desired route of a VIP.
fn undo(vip: IpAddr) {
    ip(&format!(
        "route del local {vip} dev {LINK} table local proto kernel"
    ));
}

/// A source is notified, which makes the keeper read the whole link.
fn touch_the_link() {
    ip(&format!("addr change {NODE_V6}/128 dev node0 nodad"));
}

/// Whether the next repair waits for as long as it should after so many, counted from a moment
/// between these two.
fn is_put_off(keeper: &Keeper, repairs: u64, between: [Instant; 2]) -> bool {
    let [earliest, latest] = between.map(|at| at + pause(repairs));
    let at = keeper.next_deadline().expect("it is to be tried again");
    (earliest..=latest).contains(&at)
}

/// Undoes and repairs a VIP, after so many repairs, until the next pause is so long that no machine is as
/// slow. Returns the number of repairs, and the moments between which the last one was done.
fn repair_until_long_pause(
    keeper: &mut Keeper,
    mut undo: impl FnMut(),
    mut repairs: u64,
) -> (u64, [Instant; 2]) {
    let mut between = [Instant::now(); 2];
    while repairs <= FREE || pause(repairs) < LONGEST_PAUSE {
        undo();
        keeper.age(LONGEST_PAUSE);
        between[0] = Instant::now();
        assert_eq!(dispatch(keeper).repaired, 1);
        between[1] = Instant::now();
        repairs += 1;
        assert_eq!(keeper.counters().backoffs, repairs.saturating_sub(FREE));
        dispatch_until_idle(keeper);
    }
    (repairs, between)
}

#[test]
fn a_fight_is_put_off_and_ends() {
    let _node = node();
    let set = v4(2);
    let (vip, other) = (set[0], set[1]);
    let mut keeper = keeper(&set);
    let (repairs, between) = repair_until_long_pause(&mut keeper, || undo(vip), 0);
    undo(vip);
    assert_eq!(dispatch(&mut keeper).writes, 0, "it was not put off");
    assert!(is_put_off(&keeper, repairs, between));
    // The others do not wait for it.
    undo(other);
    assert_eq!(dispatch(&mut keeper).repaired, 1);
    assert_eq!(wrong(&set), [vip.to_string()]);
    assert!(is_put_off(&keeper, repairs, between));
    // The pause is over.
    keeper.age(LONGEST_PAUSE);
    assert_eq!(dispatch(&mut keeper).repaired, 1);
    dispatch_until_idle(&mut keeper);
    // So is the fight, after a while in which nothing happened.
    keeper.age(CALM);
    let backoffs = keeper.counters().backoffs;
    for _ in 0..FREE {
        undo(vip);
        assert_eq!(dispatch(&mut keeper).repaired, 1, "the fight never ended");
        dispatch_until_idle(&mut keeper);
    }
    assert_eq!(keeper.counters().backoffs, backoffs);
}

/// Another writer deletes the route right after each write of one repair.
#[test]
fn vip_that_is_undone_during_its_repair_is_put_off() {
    let _node = node();
    let vip = v4(1)[0];
    let mut keeper = keeper(&[vip]);
    undo(vip);
    let mut left = PATIENT_AFTER;
    let requests = keeper.manager_mut().connection.requests();
    find(&requests, move |bytes| {
        if kind(&bytes) == NLMSG_ERROR
            && ip("route show table local").contains(&vip.to_string())
            && left > 0
        {
            left -= 1;
            undo(vip);
        }
        Found::Datagram(bytes)
    });
    assert_eq!(dispatch(&mut keeper).repaired, 1);
    assert_eq!(keeper.counters().backoffs, 1);
    dispatch_until_idle(&mut keeper);
    let (repairs, between) = repair_until_long_pause(&mut keeper, || undo(vip), FREE + 1);
    undo(vip);
    keeper.dispatch(0).unwrap();
    assert!(is_put_off(&keeper, repairs, between));
}

/// What is undone is a different VIP each time, but all of it with the link, which is read as a
/// whole: that is put off, too.
#[test]
fn a_link_that_is_fought_over_is_put_off_and_calms_down() {
    for begins_with_a_source in [false, true] {
        let _node = node();
        let set = v4(20);
        let mut victims = set.iter().copied();
        let mut keeper = keeper(&set);
        if begins_with_a_source {
            // Neither a new set nor a new source is a repair.
            ip("addr add 192.0.2.11/32 dev node0");
            keeper
                .set_source(std::net::Ipv4Addr::new(192, 0, 2, 11))
                .unwrap();
            assert_eq!(dispatch(&mut keeper).repaired, set.len());
            dispatch_until_idle(&mut keeper);
        }
        let mut undo_another = || {
            undo(victims.next().unwrap());
            touch_the_link();
        };
        let resyncs = keeper.counters().resyncs;
        let (repairs, between) = repair_until_long_pause(&mut keeper, &mut undo_another, 0);
        assert_eq!(keeper.counters().resyncs, resyncs + repairs);
        touch_the_link();
        let resyncs = keeper.counters().resyncs;
        assert_eq!(keeper.dispatch(usize::MAX).unwrap(), Dispatched::default());
        assert_eq!(keeper.counters().resyncs, resyncs, "it was not put off");
        assert!(is_put_off(&keeper, repairs, between));
        keeper.age(LONGEST_PAUSE);
        dispatch_until_idle(&mut keeper);
        assert_eq!(keeper.counters().resyncs, resyncs + 1);
        // It is over after a while in which nothing happened.
        keeper.age(CALM);
        let resyncs = keeper.counters().resyncs;
        for repairs in 1..=FREE {
            undo_another();
            assert_eq!(dispatch(&mut keeper).repaired, 1);
            let done = keeper.counters().resyncs - resyncs;
            assert_eq!(done, repairs, "the fight never ended");
            dispatch_until_idle(&mut keeper);
        }
    }
}

/// The next reading of the link is put off, because the link is fought over. The event that asked for it may
/// have changed any VIP: here an address of another prefix length, which no look-up shows.
#[test]
fn look_before_a_reading_that_is_put_off_believes_nothing_remembered() {
    let _node = node();
    let set = v4(20);
    let mut victims = set.iter().copied();
    let undo_another = || {
        undo(victims.next().unwrap());
        touch_the_link();
    };
    let mut keeper = keeper(&set);
    repair_until_long_pause(&mut keeper, undo_another, 0);
    let resyncs = keeper.counters().resyncs;
    ip(&format!("addr add {}/24 dev {LINK}", set[19]));
    undo(set[19]);
    let causes = dispatch(&mut keeper).failures.into_iter();
    let causes: Vec<Cause> = causes.map(|failure| failure.cause).collect();
    assert_eq!(causes, [Cause::OtherPrefixLength]);
    assert_eq!(keeper.counters().resyncs, resyncs, "it was not put off");
}

/// The VIP stays due, but the keeper does not spin.
#[test]
fn look_that_fails_at_a_vip_that_rests_is_put_off() {
    let _node = node();
    let set = v6(1);
    let mut keeper = keeper(&set);
    undo(set[0]);
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(done.resting, 1, "{done}");
    keeper.age(LONGEST_PAUSE);
    let before = Instant::now();
    let requests = keeper.manager_mut().connection.requests();
    let fails = |_: &[u8]| Some(Err(std::io::Error::from_raw_os_error(libc::EIO)));
    say(&requests, fails);
    let error = keeper.dispatch(usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System, "{error}");
    let at = keeper.next_deadline().expect("it is to be tried again");
    assert!(at >= before + RETRY, "in {:?}", at - before);
    requests.fault.clear();
    dispatch_until_idle(&mut keeper);
    assert_eq!(wrong(&set), [""; 0]);
}

/// Notifications are lost again and again, and no VIP has changed: the readings after that get rarer, until one
/// finds something. A VIP whose change is notified does not wait for them.
#[test]
fn readings_that_find_nothing_are_spaced_out() {
    const LONGEST_SPACING: Duration = Duration::from_secs(5);
    let _node = node();
    let set = both(2);
    let mut keeper = keeper(&set);
    let is_lost = shared::<AtomicBool>();
    hear(keeper.listener(), move |kernel| {
        if is_lost.swap(false, Ordering::Relaxed) {
            return Found::Overflow;
        }
        kernel()
    });
    // Returns how many readings a dispatch makes after a loss.
    let lose = |keeper: &mut Keeper| {
        let before = keeper.counters().resyncs;
        is_lost.store(true, Ordering::Relaxed);
        let report = dispatch(keeper);
        assert_eq!(report.writes, 0, "{report}");
        keeper.counters().resyncs - before
    };
    let mut readings = 0;
    let mut between = [Instant::now(); 2];
    while readings <= FREE || pause(readings) < LONGEST_SPACING {
        between[0] = Instant::now();
        assert_eq!(lose(&mut keeper), 1, "after {readings}");
        between[1] = Instant::now();
        readings += 1;
        if readings > FREE {
            let put_off = pause(readings).min(LONGEST_SPACING);
            let again = lose(&mut keeper);
            // A busy machine may take longer than the first pauses.
            if Instant::now() < between[0] + put_off {
                assert_eq!(again, 0, "after {readings}");
                let at = keeper.next_deadline().expect("the loss is not forgotten");
                assert!((between[0] + put_off..=between[1] + put_off).contains(&at));
            }
            readings += again;
            keeper.age(LONGEST_SPACING);
        }
    }
    // At last a change is lost.
    assert_eq!(lose(&mut keeper), 1);
    assert_eq!(lose(&mut keeper), 0);
    undo(set[0]);
    let mut buffer = [0; 1 << 12];
    while let Ok(Received::Datagram(_)) = keeper.listener().receive(&mut buffer) {}
    assert_eq!(dispatch(&mut keeper).writes, 0);
    keeper.age(LONGEST_SPACING);
    assert_eq!(dispatch(&mut keeper).repaired, 1);
    dispatch_until_idle(&mut keeper);
    // That reading has found something.
    for _ in 0..=FREE {
        assert_eq!(lose(&mut keeper), 1);
    }
    while lose(&mut keeper) == 1 {}
    undo(set[1]);
    assert_eq!(dispatch(&mut keeper).repaired, 1, "its change is notified");
    assert_eq!(wrong(&set), [""; 0]);
    // With nothing to keep, nothing is due.
    dispatch_until_idle(&mut keeper);
    while lose(&mut keeper) == 1 {}
    keeper.set_desired([set[0]; 0]);
    keeper.age(LONGEST_SPACING);
    dispatch(&mut keeper);
    assert_eq!(keeper.next_deadline(), None);
}

/// What cannot be mended is not tried without a pause, though nobody backoffs over it.
#[test]
fn what_is_not_there_yet_is_retried_after_a_second() {
    // Another device has the VIP; the link is down; a source is missing.
    for (set, breaks, mends, missing) in [
        (
            v4(1),
            "addr add 10.96.0.1/32 dev node0".into(),
            "addr del 10.96.0.1/32 dev node0".into(),
            None,
        ),
        (
            v6(1),
            format!("link set {LINK} down"),
            format!("link set {LINK} up"),
            Some(ErrorKind::LinkDown),
        ),
        (
            v4(1),
            format!("addr del {NODE_V4}/32 dev node0"),
            format!("addr add {NODE_V4}/32 dev node0"),
            Some(ErrorKind::SourceNotOnNode),
        ),
    ] {
        let _node = node();
        let mut keeper = patient().into_keeper(Claim::link()).unwrap();
        keeper.set_desired(&set);
        ip(&breaks);
        for _ in 0..3 {
            let before = Instant::now();
            let done = keeper.dispatch(usize::MAX).unwrap();
            let reported = done.missing.first().map(|missing| missing.kind);
            assert_eq!(reported, missing);
            let cause = missing.map_or(Cause::Conflict, Cause::Missing);
            let mut failures = done.report.failures.iter();
            assert!(failures.all(|failure| failure.cause == cause));
            let at = keeper.next_deadline().expect("it is to be tried again");
            assert!(at >= before + RETRY, "{breaks}: in {:?}", at - before);
            // Not before.
            let readings = |keeper: &Keeper| (keeper.counters().resyncs, keeper.counters().looks);
            let before = readings(&keeper);
            assert_eq!(dispatch(&mut keeper), Report::default());
            assert_eq!(readings(&keeper), before);
            keeper.age(RETRY);
        }
        ip(&mends);
        dispatch_until_idle(&mut keeper);
        assert_eq!(wrong(&set), [""; 0], "{breaks}");
    }
}

/// A dispatch that was cancelled did not do its work: the next one does.
#[test]
fn a_cancelled_keeper_goes_on_where_it_was() {
    let _node = node();
    let set = both(2);
    let mut keeper = patient().into_keeper(Claim::link()).unwrap();
    keeper.set_desired(&set);
    let cancelled = |keeper: &mut Keeper| {
        keeper.canceller().cancel();
        let error = keeper.dispatch(usize::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        let at = keeper.next_deadline().expect("there is work to do");
        assert!(at <= Instant::now());
    };
    // All, at first; one of them later; and a link that is read as a whole.
    cancelled(&mut keeper);
    assert_eq!(dispatch(&mut keeper).assigned, 4);
    dispatch_until_idle(&mut keeper);
    for vip in &set {
        undo(*vip);
        if vip.is_ipv4() {
            touch_the_link();
        }
        cancelled(&mut keeper);
        assert_eq!(dispatch(&mut keeper).repaired, 1);
        dispatch_until_idle(&mut keeper);
    }
    assert_eq!(wrong(&set), [""; 0]);
}

/// A further IPv4 route that notifications reported: a report from before we deleted the route says
/// nothing any more.
#[test]
fn a_route_that_was_heard_of_is_deleted_once() {
    let _node = node();
    let set = v4(1);
    let vip = set[0];
    let further = move |metric: u32| {
        ip(&format!(
            "route append local {vip} dev {LINK} table local proto 99 scope host metric {metric}"
        ));
    };
    let mut keeper = keeper(&set);
    further(2000);
    let report = dispatch(&mut keeper);
    assert_eq!(
        (report.repaired, report.writes, report.retries),
        (1, 1, 0),
        "{report}"
    );
    dispatch_until_idle(&mut keeper);
    // A route that comes while the link is read is seen, and deleted, before its notification is read.
    touch_the_link();
    let mut comes = true;
    hear(&keeper.manager_mut().connection.requests(), move |kernel| {
        if std::mem::take(&mut comes) {
            further(2001);
        }
        kernel()
    });
    let report = dispatch(&mut keeper);
    assert_eq!((report.repaired, report.writes), (1, 1), "{report}");
    let report = dispatch(&mut keeper);
    assert_eq!((report.unchanged, report.writes), (1, 0), "{report}");
    assert_eq!(wrong(&set), [""; 0]);
}

/// More routes than the keeper remembers, of which some went again: what it reads decides.
#[test]
fn routes_beyond_those_remembered_are_read() {
    let many = ROUTES_MAX + 10;
    let _node = node();
    let set = v4(1);
    let further = |act: &str, metric: usize| {
        let route = format!("local {} dev {LINK} table local proto 99", set[0]);
        ip(&format!("route {act} {route} scope host metric {metric}"));
    };
    let mut keeper = keeper(&set);
    let resyncs = keeper.counters().resyncs;
    (1..=many).for_each(|at| further("append", 2000 + at));
    (1..=20).for_each(|at| further("del", 2000 + at));
    let report = dispatch(&mut keeper);
    assert_eq!(usize::try_from(report.writes), Ok(many - 20), "{report}");
    assert_eq!((report.repaired, keeper.counters().resyncs), (1, resyncs));
    assert_eq!(wrong(&set), [""; 0]);
}

/// Once the claim's bound was passed, nothing is released, also not one by one.
#[test]
fn a_keeper_that_has_refused_releases_no_stranger() {
    let _node = node();
    let all = v4(5);
    let (set, unmanaged_v4) = all.split_at(1);
    let mut keeper = patient().into_keeper(Claim::link().at_most(1)).unwrap();
    keeper.set_desired(set);
    assert_eq!(dispatch(&mut keeper).assigned, 1);
    dispatch_until_idle(&mut keeper);
    let comes = |vip: &IpAddr| ip(&format!("addr add {vip}/32 dev {LINK}"));
    let (many, one) = unmanaged_v4.split_at(3);
    many.iter().for_each(|vip| drop(comes(vip)));
    touch_the_link();
    let done = keeper.dispatch(usize::MAX).unwrap();
    assert_eq!(done.refused, Some(ErrorKind::TooManyReleases));
    while keeper.dispatch(usize::MAX).unwrap().more {}
    comes(&one[0]);
    while keeper.dispatch(usize::MAX).unwrap().more {}
    assert_eq!(on_link(), all.iter().copied().collect());
}

/// Refuses the first creations of a link, with the same error number.
struct RefuseCreation {
    errno: i32,
    left: usize,
    refused: &'static AtomicUsize,
    pending: Option<u32>,
}

impl Line for RefuseCreation {
    fn send(&mut self, bytes: &[u8]) -> Option<std::io::Result<()>> {
        if kind(bytes) != libc::RTM_NEWLINK || self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.pending = Some(sequence(bytes));
        Some(Ok(()))
    }

    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        match self.pending.take() {
            Some(sequence) => Found::Datagram(refusal(sequence, self.errno)),
            None => kernel(),
        }
    }
}

/// A kernel never comes to know a kind of link. Any other refusal of the system may pass.
#[test]
fn run_ends_at_once_only_if_the_kernel_lacks_the_kind_of_link() {
    for (errno, is_final) in [(libc::EOPNOTSUPP, true), (libc::ENOMEM, false)] {
        let _node = node();
        ip(&format!("link del {LINK}"));
        let manager = builder().create_link(LinkKind::Bridge).open().unwrap();
        let refused = shared::<AtomicUsize>();
        let line = RefuseCreation {
            errno,
            left: 2,
            refused,
            pending: None,
        };
        manager.connection.requests().fault.put(line);
        let mut keeper = manager.into_keeper(Claim::link()).unwrap();
        keeper.set_desired(v4(2));
        let canceller = keeper.canceller();
        let mut assigned = 0;
        let result = keeper.run(|done| {
            assigned += done.report.assigned;
            canceller.cancel();
        });
        let refused = refused.load(Ordering::Relaxed);
        if is_final {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(errno));
            assert_eq!((refused, assigned), (1, 0));
        } else {
            result.unwrap();
            assert_eq!((refused, assigned), (2, 2));
        }
    }
}
