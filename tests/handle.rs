//! A keeper on a thread of its own, which takes orders through its handle: `Keeper::spawn`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/caps.rs"]
mod caps;
mod common;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::example::eventually;
use common::{
    LocalState, NODE_LINK, NODE_V4, Net, PROTO_KERNEL, SOURCES, VIP_LINK, Want, vip, vips,
};
use viproute::{Claim, Dispatched, Error, ErrorKind, Keeper, KeeperHandle};

/// Long enough for a busy machine; nothing here takes a second on an idle one.
const PATIENCE: Duration = Duration::from_secs(20);

fn keeper(claim: Claim) -> Keeper {
    let manager = common::builder().open().unwrap();
    manager.into_keeper(claim).unwrap()
}

/// A keeper's thread, with all that its callback got.
struct Spawned {
    handle: KeeperHandle,
    thread: JoinHandle<Result<Keeper, Error>>,
    calls: Receiver<Result<Dispatched, Error>>,
}

impl Spawned {
    fn new(keeper: Keeper) -> Self {
        let (send, calls) = mpsc::channel();
        let (handle, thread) = keeper.spawn(move |done| send.send(done).unwrap()).unwrap();
        Self {
            handle,
            thread,
            calls,
        }
    }

    #[track_caller]
    fn next(&self) -> Result<Dispatched, Error> {
        self.calls.recv_timeout(PATIENCE).expect("a call back")
    }

    /// The next dispatch: assigned, repaired, released.
    #[track_caller]
    fn did(&self) -> [usize; 3] {
        let report = self.next().unwrap().report;
        assert!(report.is_complete(), "{report}");
        [report.assigned, report.repaired, report.released]
    }

    /// Drops the handle; the thread gives the keeper back.
    #[track_caller]
    fn end(self) -> Keeper {
        drop(self.handle);
        self.thread.join().unwrap().unwrap()
    }
}

#[track_caller]
fn await_single_route(net: &Net, vips: &[IpAddr]) {
    let began = Instant::now();
    loop {
        let wrong = net.wrong_vips(vips, PROTO_KERNEL);
        if wrong.is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "still wrong: {wrong:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every call of a handle says that the keeper has stopped, and why.
#[track_caller]
fn assert_stopped(handle: &KeeperHandle, why: &str) {
    let all = vips(1);
    let calls = [
        handle.set(&all).unwrap_err(),
        handle.add(&all).unwrap_err(),
        handle.remove(&all).unwrap_err(),
        handle.set_source(NODE_V4).unwrap_err(),
        handle.counters().unwrap_err(),
        handle.status().unwrap_err(),
        handle.failing().unwrap_err(),
        handle.clone().add(&all).unwrap_err(),
    ];
    for error in calls {
        assert_eq!(error.kind(), ErrorKind::KeeperStopped, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn each_order_takes_effect() {
    let net = Net::new();
    let other_source = "192.0.2.11";
    net.ip(&format!("addr add {other_source}/32 dev {NODE_LINK}"));
    let spawned = Spawned::new(keeper(Claim::link()));
    let (handle, all) = (&spawned.handle, vips(3));
    handle.set(&all[..4]).unwrap();
    assert_eq!(spawned.did(), [4, 0, 0]);
    net.assert_single_route(&all[..4], PROTO_KERNEL);
    handle.add(&all[4..]).unwrap();
    assert_eq!(spawned.did(), [2, 0, 0]);
    net.assert_single_route(&all, PROTO_KERNEL);
    handle.remove(&all[..2]).unwrap();
    assert_eq!(spawned.did(), [0, 0, 2]);
    net.assert_absent(&all[..2]);
    net.assert_single_route(&all[2..], PROTO_KERNEL);
    handle.set_source(vip(other_source)).unwrap();
    assert_eq!(spawned.did(), [0, 2, 0]);
    let sources = [vip(other_source), SOURCES[1]];
    let want = Want {
        link: VIP_LINK,
        sources: &sources,
        protocol: PROTO_KERNEL,
        address: true,
    };
    LocalState::read().assert_single_route(&all[2..], &want);
    let error = handle.set_source([127, 0, 0, 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let counters = handle.counters().unwrap();
    assert_eq!((counters.repairs, counters.released), (10, 2));
    assert_eq!(spawned.end().counters().repairs, 10);
}

#[test]
fn order_without_a_vip_shows_that_the_thread_dispatches() {
    let _net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link()));
    let handle = &spawned.handle;
    // The keeper looks once more at a new IPv6 VIP.
    handle.set(common::vips_v4(1)).unwrap();
    spawned.next().unwrap();
    let pause = Duration::from_millis(50);
    // Idle, it does not.
    eventually("a pause", || {
        handle.status().unwrap().last_dispatch.unwrap() >= pause
    });
    handle.add([IpAddr::V4(NODE_V4); 0]).unwrap();
    eventually("a dispatch", || {
        handle.status().unwrap().last_dispatch.unwrap() < pause
    });
}

#[test]
fn status_and_failures_are_those_of_the_last_dispatch() {
    let net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link()));
    let (handle, all) = (&spawned.handle, vips(1));
    let status = handle.status().unwrap();
    assert_eq!((status.ipv4.desired, status.last_full_sync), (0, None));
    net.ip(&format!("addr add {} dev {NODE_LINK}", all[0]));
    handle.set(&all).unwrap();
    assert_eq!(spawned.next().unwrap().new_failures.len(), 1);
    let status = handle.status().unwrap();
    assert_eq!((status.ipv4.desired, status.ipv4.failing), (1, 1));
    assert_eq!((status.ipv6.desired, status.ipv6.failing), (1, 0));
    let failing = handle.failing().unwrap();
    assert_eq!(failing[0].vip.addr(), all[0]);
    // The durations go on between dispatches.
    let since = handle.status().unwrap().ipv6.last_success.unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let later = handle.status().unwrap().ipv6.last_success.unwrap();
    assert!(
        later >= since + Duration::from_millis(30),
        "{since:?} {later:?}"
    );
    net.ip(&format!("addr del {} dev {NODE_LINK}", all[0]));
    while handle.failing().unwrap().len() == 1 {
        spawned.next().unwrap();
    }
    assert_eq!(handle.status().unwrap().ipv4.failing, 0);
    net.assert_single_route(&all, PROTO_KERNEL);
    spawned.end();
}

#[test]
fn keeper_comes_back_when_the_last_handle_is_dropped_and_goes_on() {
    let net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link()));
    let all = vips(2);
    spawned.handle.set(&all).unwrap();
    assert_eq!(spawned.did(), [4, 0, 0]);
    let clone = spawned.handle.clone();
    drop(spawned.handle);
    // A handle is left, so the thread repairs.
    net.ip(&format!("addr del {}/32 dev {VIP_LINK}", all[0]));
    await_single_route(&net, &all);
    drop(clone);
    let mut keeper = spawned.thread.join().unwrap().unwrap();
    net.assert_single_route(&all, PROTO_KERNEL);
    net.ip(&format!("addr del {}/32 dev {VIP_LINK}", all[0]));
    keeper.add_desired([vip("10.97.0.1")]);
    while keeper.dispatch(usize::MAX).unwrap().more {}
    net.assert_single_route(&all, PROTO_KERNEL);
    net.assert_single_route(&[vip("10.97.0.1")], PROTO_KERNEL);
}

#[test]
fn orders_before_the_last_drop_are_carried_out() {
    let net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link()));
    let all = vips(5);
    spawned.handle.set(&all).unwrap();
    spawned.handle.remove(&all[..2]).unwrap();
    spawned.end();
    net.assert_absent(&all[..2]);
    net.assert_single_route(&all[2..], PROTO_KERNEL);
}

#[test]
fn panic_of_the_callback_stops_the_handle() {
    let net = Net::new();
    let (handle, thread) = keeper(Claim::link())
        .spawn(|_| panic!("as this test wants it"))
        .unwrap();
    handle.set(vips(1)).unwrap();
    let panic = thread.join().unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"as this test wants it"));
    assert_stopped(&handle, "its callback panicked");
    net.assert_single_route(&vips(1), PROTO_KERNEL);
}

#[test]
fn error_stops_the_handle_and_comes_back_by_the_join() {
    let net = Net::new();
    let (done, calls) = mpsc::channel();
    // The callback runs on the keeper's thread: what that thread may do ends with the first dispatch.
    let spawned = keeper(Claim::link()).spawn(move |result: Result<Dispatched, Error>| {
        caps::drop_net_admin();
        done.send(result).unwrap();
    });
    let (handle, thread) = spawned.unwrap();
    handle.set(vips(1)).unwrap();
    calls.recv_timeout(PATIENCE).unwrap().unwrap();
    handle.add(vips(2)).unwrap();
    // The end of the channel says that the thread ends; the handle knows it already.
    assert_eq!(
        calls.recv_timeout(PATIENCE).unwrap_err(),
        RecvTimeoutError::Disconnected
    );
    assert_stopped(&handle, "CAP_NET_ADMIN");
    let error = thread.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    net.assert_single_route(&vips(1), PROTO_KERNEL);
}

#[test]
fn cancellation_stops_the_handle_and_gives_the_keeper_back() {
    let net = Net::new();
    let keeper = keeper(Claim::link());
    let canceller = keeper.canceller();
    let spawned = Spawned::new(keeper);
    spawned.handle.set(vips(1)).unwrap();
    spawned.did();
    canceller.cancel();
    let mut keeper = spawned.thread.join().unwrap().unwrap();
    assert_stopped(&spawned.handle, "it was cancelled");
    keeper.dispatch(usize::MAX).unwrap();
    net.assert_single_route(&vips(1), PROTO_KERNEL);
}

/// Some of the VIPs come and go while the other ones stay, from each thread; no order is lost, and no
/// dispatch is cut short.
#[test]
fn orders_from_eight_threads_are_all_carried_out() {
    let net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link()));
    let all = vips(8 * 8);
    spawned.handle.set([vip("10.97.0.1")]).unwrap();
    std::thread::scope(|scope| {
        for own in all.chunks(16) {
            let handle = spawned.handle.clone();
            scope.spawn(move || {
                let (stay, go) = own.split_at(8);
                for round in 0..20 {
                    handle.add(go).unwrap();
                    handle.add([stay[round % 8]]).unwrap();
                    handle.counters().unwrap();
                    handle.remove(go).unwrap();
                }
            });
        }
    });
    let thread = spawned.thread;
    drop(spawned.handle);
    let keeper = thread.join().unwrap().unwrap();
    for call in spawned.calls {
        let done = call.unwrap();
        assert!(done.report.is_complete(), "{done}");
    }
    let (mut stay, mut go) = (vec![vip("10.97.0.1")], Vec::new());
    for own in all.chunks(16) {
        stay.extend(&own[..8]);
        go.extend(&own[8..]);
    }
    assert_eq!(keeper.desired().len(), stay.len());
    net.assert_single_route(&stay, PROTO_KERNEL);
    net.assert_absent(&go);
}

#[test]
fn refused_set_changes_nothing_and_ends_nothing() {
    let net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link().at_most(1)));
    let (handle, all) = (&spawned.handle, vips(3));
    handle.set(&all).unwrap();
    assert_eq!(spawned.did(), [6, 0, 0]);
    // Known at the call.
    for bad in ["127.0.0.1", "192.0.2.10"] {
        let error = handle.set([vip(bad)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EmptySet, "{error}");
    }
    // Known when the link is read. What was added since stands.
    handle.set(&all[..2]).unwrap();
    handle.add([vip("10.97.0.1")]).unwrap();
    let refused = spawned.next().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooManyReleases, "{refused}");
    await_single_route(&net, &[vip("10.97.0.1")]);
    net.assert_single_route(&all, PROTO_KERNEL);
    for gone in &all {
        net.ip(&format!("addr del {gone} dev {VIP_LINK}"));
    }
    await_single_route(&net, &all);
    // One release at once is allowed.
    let more = [vip("10.97.0.1")];
    let set = [&all[1..], &more].concat();
    handle.set(&set).unwrap();
    assert_eq!(spawned.end().desired().len(), set.len());
    net.assert_single_route(&set, PROTO_KERNEL);
    net.assert_absent(&all[..1]);
}

/// The refused set and the end come in one turn of the thread.
#[test]
fn orders_behind_a_refused_set_are_carried_out_before_the_end() {
    let net = Net::new();
    // The callback waits until each call is received.
    let (send, calls) = mpsc::sync_channel(0);
    let (handle, thread) = keeper(Claim::link().at_most(1))
        .spawn(move |done| send.send(done).unwrap())
        .unwrap();
    let (all, more) = (vips(3), vip("10.97.0.1"));
    handle.set(&all).unwrap();
    await_single_route(&net, &all);
    handle.set(&all[..2]).unwrap();
    handle.add([more]).unwrap();
    drop(handle);
    let refused = calls.iter().find_map(Result::err).unwrap();
    assert_eq!(refused.kind(), ErrorKind::TooManyReleases, "{refused}");
    for done in calls {
        done.unwrap();
    }
    thread.join().unwrap().unwrap();
    net.assert_single_route(&all, PROTO_KERNEL);
    net.assert_single_route(&[more], PROTO_KERNEL);
}

/// A repair that only time proves is reported before the thread ends.
#[test]
fn repair_that_rests_is_reported_before_the_end() {
    let net = Net::new();
    let spawned = Spawned::new(keeper(Claim::link()));
    let all = common::vips_v6(1);
    spawned.handle.set(&all).unwrap();
    assert_eq!(spawned.did(), [1, 0, 0]);
    // The address is no longer recent.
    std::thread::sleep(Duration::from_secs(2));
    net.ip(&format!(
        "route del local {} dev {VIP_LINK} table local proto kernel",
        all[0]
    ));
    await_single_route(&net, &all);
    assert_eq!(spawned.end().counters().repairs, 2);
}

/// The directory of the calling thread below /proc.
fn own_task() -> PathBuf {
    PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self").unwrap())
}

#[test]
fn idle_thread_uses_no_processor_time() {
    let net = Net::new();
    let (send, task): (Sender<PathBuf>, _) = mpsc::channel();
    let (handle, thread) = keeper(Claim::link())
        .spawn(move |_| send.send(own_task()).unwrap())
        .unwrap();
    handle.set(vips(2)).unwrap();
    let task = task.recv_timeout(PATIENCE).unwrap();
    // How often it slept, and its time on a processor (utime and stime of proc_pid_stat(5)).
    let used = || {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let stat = std::fs::read_to_string(task.join("stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let mut lines = status.lines();
        let sleeps = lines.find(|line| line.starts_with("voluntary_ctxt_switches"));
        let times = fields.split(' ').skip(11).take(2).collect::<Vec<_>>();
        format!("{}, {times:?}", sleeps.unwrap())
    };
    // The kernel may be late with what it says about the VIPs.
    let began = Instant::now();
    loop {
        let before = used();
        std::thread::sleep(Duration::from_secs(1));
        if used() == before {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it keeps waking up for nothing");
    }
    net.assert_single_route(&vips(2), PROTO_KERNEL);
    drop(handle);
    thread.join().unwrap().unwrap();
}
