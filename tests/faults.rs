//! Faults that can be caused from outside the library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use common::{Net, PROTO_KERNEL, VIP_LINK, vips};
use viproute::{Claim, ErrorKind, Event, Netns, VipManager};

/// The caller's vector is only appended to. It once lost events of its own that were alike, and
/// the count of the new ones went below zero.
#[test]
fn watcher_only_appends_to_the_callers_events() {
    let net = Net::new();
    let mut manager = VipManager::builder(VIP_LINK).open().unwrap();
    let mut watcher = manager.watcher().unwrap();
    let own = [Event::Resync, Event::Resync, Event::LinkGone];
    let mut events = own.to_vec();
    assert_eq!(watcher.read(&mut events).unwrap(), 0);
    assert_eq!(events, own);
    // The same event in two readings happened twice.
    let vip = vips(1)[0];
    for add in ["add", "del", "add"] {
        net.ip(&format!("addr {add} {vip} dev {VIP_LINK}"));
    }
    let mut counts = Vec::new();
    for _ in 0..2 {
        events.truncate(own.len() + 1);
        net.ip(&format!("link set {VIP_LINK} up"));
        net.ip(&format!("link set {VIP_LINK} down"));
        counts.push(watcher.read(&mut events).unwrap());
    }
    assert_eq!(events[..own.len()], own);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// Signals at one thread, as fast as they go, while it works.
mod storm {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread::JoinHandle;

    static CAUGHT: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count(_: libc::c_int) {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) struct Storm {
        calm: Arc<AtomicBool>,
        sender: Option<JoinHandle<()>>,
        before: usize,
    }

    impl Storm {
        /// At the calling thread.
        #[allow(unsafe_code)]
        pub(crate) fn start() -> Self {
            // SAFETY: all zeroes is a valid sigaction; its handler only counts, and system calls that
            // it interrupts are not begun anew by the kernel (no SA_RESTART).
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int) = count;
                action.sa_sigaction = handler as usize;
                assert_eq!(
                    libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
                    0
                );
            }
            // SAFETY: pthread_self cannot fail.
            let target = unsafe { libc::pthread_self() };
            let calm = Arc::new(AtomicBool::new(false));
            let ended = Arc::clone(&calm);
            let sender = std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    // SAFETY: the target is the thread that joins this one before it ends.
                    unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                    // So that the target gets further than its handler.
                    std::thread::sleep(std::time::Duration::from_micros(20));
                }
            });
            Self {
                calm,
                sender: Some(sender),
                before: CAUGHT.load(Ordering::Relaxed),
            }
        }

        /// Ends it; how many signals were caught.
        pub(crate) fn end(mut self) -> usize {
            self.calm.store(true, Ordering::Relaxed);
            self.sender.take().unwrap().join().unwrap();
            CAUGHT.load(Ordering::Relaxed) - self.before
        }
    }
}

fn manager() -> VipManager {
    common::builder().open().unwrap()
}

/// The control: a call that does not begin anew what was interrupted falls short in this storm.
#[test]
#[allow(unsafe_code)]
fn signal_storm_interrupts_system_calls() {
    let storm = storm::Storm::start();
    // SAFETY: poll with no descriptors reads none.
    let result = unsafe { libc::poll(std::ptr::null_mut(), 0, 10_000) };
    let error = std::io::Error::last_os_error();
    storm.end();
    assert_eq!(
        (result, error.kind()),
        (-1, std::io::ErrorKind::Interrupted)
    );
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one set of VIPs goes through every call, each in a storm"
)]
fn signal_storm_changes_no_result() {
    let net = Net::new();
    let set = vips(1000);
    let claim = Claim::link();
    let link = net.vip_index();
    let mut vips = manager();
    let mut caught = Vec::new();

    let storm = storm::Storm::start();
    let report = vips.assign(&set).unwrap();
    caught.push(storm.end());
    assert_eq!(report.assigned, 2000);
    net.assert_single_route(&set, PROTO_KERNEL);

    net.ip_batch(
        set[..200]
            .iter()
            .map(|vip| format!("route del local {vip} dev {VIP_LINK} table local")),
    );
    let mut watcher = vips.watcher().unwrap();
    let mut events = Vec::new();
    let storm = storm::Storm::start();
    let report = vips.normalize().unwrap();
    let audit = vips.audit().unwrap();
    let deep = vips.audit_deep().unwrap();
    let plan = vips.plan(&claim, &set).unwrap();
    watcher.wait(&mut events, Duration::from_secs(5)).unwrap();
    // Nothing is to come: a wait that nothing ends, however often it is interrupted.
    let waited = watcher
        .wait(&mut events, Duration::from_millis(100))
        .unwrap();
    caught.push(storm.end());
    assert_eq!((report.repaired, report.unchanged), (200, 1800));
    assert!(audit.is_clean() && deep.is_clean());
    assert_eq!((audit.vips.len(), deep.vips.len()), (2000, 2000));
    assert!(plan.is_empty(), "{plan}");
    assert!(events.len() >= 200);
    assert_eq!(waited, 0);
    net.assert_single_route(&set, PROTO_KERNEL);

    let mut keeper = vips.into_keeper(claim.clone()).unwrap();
    keeper.set_desired(&set);
    let canceller = keeper.canceller();
    let broken = std::cell::Cell::new(0);
    let storm = storm::Storm::start();
    let result = keeper.run(|done| {
        broken.set(broken.get() + 1);
        assert_eq!(done.report.failures, []);
        if broken.get() < 20 {
            // Outside the storm, which the raw socket is not made for.
            let deletion = common::raw::del_address(set[broken.get()], link);
            std::thread::spawn(move || common::raw::Raw::new().batch_ok(&[deletion]))
                .join()
                .unwrap();
        } else {
            canceller.cancel();
        }
    });
    caught.push(storm.end());
    result.unwrap();
    let mut vips = keeper.into_manager();
    assert_eq!(vips.normalize().unwrap().unchanged, 2000);

    let storm = storm::Storm::start();
    let report = vips.release(&set).unwrap();
    caught.push(storm.end());
    assert_eq!(report.released, 2000);
    net.assert_absent(&set);
    println!("signals caught: {caught:?}");
    assert!(caught.iter().all(|caught| *caught > 10), "{caught:?}");
}

/// Forty addresses of each family, which are no VIPs.
fn add_and_delete_addresses(raw: &mut common::raw::Raw, link: u32) {
    let others: Vec<IpAddr> = (1..=40_u16)
        .flat_map(|n| {
            let low = u8::try_from(n).unwrap();
            [
                IpAddr::from([198, 18, 0, low]),
                IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, n]),
            ]
        })
        .collect();
    let add: Vec<_> = others
        .iter()
        .map(|addr| {
            let address = common::raw::vip_address(*addr, link);
            let new = netlink_packet_route::RouteNetlinkMessage::NewAddress(address);
            (new, common::raw::CREATE_EXCL)
        })
        .collect();
    raw.batch_ok(&add);
    let del: Vec<_> = others
        .iter()
        .map(|addr| common::raw::del_address(*addr, link))
        .collect();
    raw.batch_ok(&del);
}

/// Address dumps that the kernel itself calls interrupted: another thread's addresses come and go, on the
/// link and elsewhere.
#[test]
fn calls_beside_a_writer_of_addresses_repeat_interrupted_dumps() {
    let net = Net::new();
    let link = net.vip_index();
    let set = vips(500);
    let mut vips = common::builder()
        .allow("10.96.0.0/12".parse::<ipnet::IpNet>().unwrap())
        .allow("2001:db8:42::/64".parse::<ipnet::IpNet>().unwrap())
        .open()
        .unwrap();
    vips.assign(&set).unwrap();
    let mut raw = common::raw::Raw::new();
    let interrupted = std::sync::atomic::AtomicUsize::new(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(order) {
                add_and_delete_addresses(&mut raw, link);
                interrupted.fetch_add(1, order);
            }
        });
        let over = common::SetOnDrop(&over);
        for round in 0..20 {
            let before = interrupted.load(order);
            let audit = vips.audit().unwrap();
            assert!(audit.is_clean(), "round {round}: {audit}");
            assert_eq!(audit.vips.len(), 1000, "round {round}");
            let report = vips.normalize().unwrap();
            assert_eq!(
                (report.unchanged, report.writes),
                (1000, 0),
                "round {round}"
            );
            let half = &set[..500];
            assert_eq!(vips.release(half).unwrap().released, 500, "round {round}");
            assert_eq!(vips.assign(half).unwrap().assigned, 500, "round {round}");
            while interrupted.load(order) == before {
                std::thread::yield_now();
            }
        }
        drop(over);
    });
    net.assert_single_route(&set, PROTO_KERNEL);
}

/// Nothing but the manager's sockets holds the namespace any more: it lives as long as they do.
#[test]
fn namespace_lives_as_long_as_the_managers_sockets() {
    let set = vips(50);
    let (mut vips, inside) = std::thread::spawn(|| {
        let net = Net::new();
        let inside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let vips = manager();
        drop(net);
        (vips, inside)
    })
    .join()
    .unwrap();
    // The thread has ended, and with it its descriptors.
    assert_ne!(
        std::fs::read_link("/proc/thread-self/ns/net").unwrap(),
        inside
    );
    assert_eq!(vips.assign(&set).unwrap().assigned, 100);
    assert_eq!(vips.audit().unwrap().vips.len(), 100);
    assert_eq!(vips.normalize().unwrap().unchanged, 100);
    // What needs a further socket says why it cannot have one there.
    let error = vips.watcher().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidNetns, "{error}");
    assert_eq!(vips.release(&set).unwrap().released, 100);
    let error = vips.into_keeper(Claim::link()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidNetns, "{error}");
}

/// A watcher or keeper that listened in the caller's namespace would receive nothing, or notifications
/// of other links.
#[test]
fn watcher_does_not_open_in_another_namespace() {
    let outer = Net::new();
    let mut vips = manager();
    {
        let _inner = Net::new();
        let error = vips.watcher().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidNetns, "{error}");
        // Where the namespace is given, it matters not where the caller is.
        let netns = Netns::try_from(outer.sandbox().as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut vips = VipManager::builder(VIP_LINK).netns(netns).open().unwrap();
        vips.watcher().unwrap();
        vips.into_keeper(Claim::link()).unwrap();
    }
    vips.watcher().unwrap();
    vips.into_keeper(Claim::link()).unwrap();
}
