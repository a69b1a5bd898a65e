//! A keeper on a thread of its own, which an asynchronous program orders by its handle; and a keeper and a
//! watcher in an event loop of the caller's own, which wakes for what is new and not for what is left
//! (edge-triggered), as those of asynchronous runtimes do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::{Net, PROTO_KERNEL, VIP_LINK, vips};
use tokio::io::unix::AsyncFd;
use tokio::time::{timeout, timeout_at};
use viproute::{Claim, Event, Keeper, Origin, Report, Vip, Watcher};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[allow(unsafe_code)]
fn listening<T: AsRawFd>(inner: T) -> AsyncFd<T> {
    // SAFETY: keepers and watchers have the same descriptor as long as they live.
    unsafe { AsyncFd::register(inner) }.unwrap()
}

/// Dispatches whenever the keeper asks for it, until it has done something.
async fn until_something_is_done(keeper: &mut AsyncFd<Keeper>) {
    loop {
        let done = keeper.get_mut().dispatch(64).unwrap();
        assert!(done.report.is_complete(), "{done}");
        if done.report.writes > 0 {
            return;
        }
        wait(keeper).await;
    }
}

/// Waits as the documentation of `Keeper` has it.
async fn wait(keeper: &mut AsyncFd<Keeper>) {
    match keeper.get_ref().next_deadline() {
        None => keeper.readable_mut().await.unwrap().clear_ready(),
        Some(at) => {
            if let Ok(ready) = timeout_at(at.into(), keeper.readable_mut()).await {
                ready.unwrap().clear_ready();
            }
        }
    }
}

/// Reads until there is a change of the VIP with this origin.
async fn until_told(watcher: &mut AsyncFd<Watcher>, of: Vip, by: Origin) {
    let mut events = Vec::new();
    loop {
        watcher.get_mut().read(&mut events).unwrap();
        let matches = |event: &Event| match event {
            Event::Vip { vip, origin, .. } => *vip == of && origin.contains(by),
            _ => false,
        };
        if events.iter().any(matches) {
            return;
        }
        watcher.readable_mut().await.unwrap().clear_ready();
    }
}

#[test]
fn an_edge_triggered_loop_serves_a_keeper_and_a_watcher() {
    let net = Net::new();
    let mut manager = common::builder().open().unwrap();
    let all = vips(3);
    let [four, six] = [all[0], all[1]];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let drive = async {
        let mut watcher = listening(manager.watcher().unwrap());
        let mut keeper = listening(manager.into_keeper(Claim::link()).unwrap());
        keeper.get_mut().set_desired(&all[..4]);
        until_something_is_done(&mut keeper).await;
        watcher.get_mut().read(&mut Vec::new()).unwrap();
        for breakage in [
            format!("addr del {four}/32 dev {VIP_LINK}"),
            format!("route del local {six} dev {VIP_LINK} table local"),
            format!("addr del {six}/128 dev {VIP_LINK}"),
        ] {
            net.ip(&breakage);
            until_something_is_done(&mut keeper).await;
            net.assert_single_route(&all[..4], PROTO_KERNEL);
        }
        watcher.get_mut().read(&mut Vec::new()).unwrap();
        net.ip(&format!(
            "route del local {four} dev {VIP_LINK} table local"
        ));
        until_told(&mut watcher, four.into(), Origin::OTHER).await;
        until_something_is_done(&mut keeper).await;
        // The watcher that the manager made before.
        until_told(&mut watcher, four.into(), Origin::OURS).await;
        keeper.get_mut().add_desired(&all[4..]);
        until_something_is_done(&mut keeper).await;
        net.assert_single_route(&all, PROTO_KERNEL);
        keeper.get_mut().remove_desired(&all[..4]);
        until_something_is_done(&mut keeper).await;
        net.assert_absent(&all[..4]);
        net.assert_single_route(&all[4..], PROTO_KERNEL);
        // Its own changes are read, and then nothing wakes it any more.
        let began = Instant::now();
        while timeout(Duration::from_millis(300), wait(&mut keeper))
            .await
            .is_ok()
        {
            assert_eq!(keeper.get_mut().dispatch(64).unwrap().report.writes, 0);
            assert!(began.elapsed() < PATIENCE, "it is never idle");
        }
    };
    runtime
        .block_on(async { timeout(PATIENCE, drive).await })
        .expect("the loop was not woken");
}

/// As the documentation of `Keeper::spawn` has it.
#[test]
fn a_tokio_program_orders_a_keeper_by_its_handle() {
    let net = Net::new();
    let manager = common::builder();
    let keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    let all = vips(3);
    let drive = async {
        let (send, mut dispatches) = tokio::sync::mpsc::unbounded_channel();
        let (handle, thread) = keeper
            .spawn(move |done| {
                let _ = send.send(done);
            })
            .unwrap();
        let did = |report: Report| (report.assigned, report.repaired, report.released);
        handle.set(&all[..4]).unwrap();
        let done = dispatches.recv().await.unwrap().unwrap();
        assert_eq!(did(done.report), (4, 0, 0));
        net.assert_single_route(&all[..4], PROTO_KERNEL);
        // An order from a task.
        let (other, more) = (handle.clone(), all.clone());
        let task = tokio::task::spawn(async move { other.add(&more[4..]) });
        let done = dispatches.recv().await.unwrap().unwrap();
        assert_eq!(did(done.report), (2, 0, 0));
        task.await.unwrap().unwrap();
        net.ip(&format!("addr del {}/128 dev {VIP_LINK}", all[1]));
        let done = dispatches.recv().await.unwrap().unwrap();
        assert_eq!(done.report.assigned + done.report.repaired, 1, "{done}");
        net.assert_single_route(&all, PROTO_KERNEL);
        drop(handle);
        // The end of the channel says that the thread has ended.
        while dispatches.recv().await.is_some() {}
        let keeper = thread.join().unwrap().unwrap();
        assert_eq!(keeper.desired().len(), all.len());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { timeout(PATIENCE, drive).await })
        .expect("the program was not woken");
}
