//! Two threads that keep the RTNL busy.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::NewAddress;
use netlink_packet_route::link::InfoKind;

use super::Net;
use super::raw::{self, CREATE_EXCL, Raw};

/// The link whose addresses come and go.
pub const HAMMER_LINK: &str = "hammer0";
/// The link that comes and goes.
const ANVIL: &str = "hammer1";
/// A forgotten hammer stops by itself.
const LONGEST: Duration = Duration::from_secs(120);

/// One thread makes and deletes a link, one adds and deletes addresses of both families on
/// another link, until dropped.
///
/// Addresses are 198.18.0.0/24 and 2001:db8:ffff::/64: no VIP of the generators. Stop it before
/// reading a `LocalState`, because dumps are interrupted while it runs.
#[derive(Debug)]
pub struct Hammer<'a> {
    net: &'a Net,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl<'a> Hammer<'a> {
    /// Starts to hammer, and returns when both threads are at it.
    pub fn start(net: &'a Net) -> Self {
        let link = net.add_link(HAMMER_LINK);
        net.wait_for_kernel();
        let mut hammer = Self {
            net,
            stop: Arc::default(),
            count: Arc::default(),
            threads: Vec::new(),
        };
        let links = [raw::new_link(ANVIL, InfoKind::Bridge), raw::del_link(ANVIL)];
        let started = [
            hammer.spawn(move |socket, _| {
                socket.batch_ok(&links);
                links.len()
            }),
            hammer.spawn(move |socket, round| {
                let host = u8::try_from(round % 250 + 1).unwrap();
                let v4 = IpAddr::from([198, 18, 0, host]);
                let v6 = IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, u16::from(host)]);
                let steps =
                    [v4, v6].map(|addr| (NewAddress(raw::vip_address(addr, link)), CREATE_EXCL));
                socket.batch_ok(&steps);
                let steps = [v4, v6].map(|addr| raw::del_address(addr, link));
                socket.batch_ok(&steps);
                4
            }),
        ];
        let deadline = Instant::now() + Duration::from_secs(10);
        while started.iter().any(|at| !at.load(Ordering::Relaxed)) {
            assert!(Instant::now() < deadline, "the hammer does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        hammer
    }

    fn spawn(
        &mut self,
        mut blow: impl FnMut(&mut Raw, u64) -> usize + Send + 'static,
    ) -> Arc<AtomicBool> {
        let started = Arc::new(AtomicBool::new(false));
        let (stop, count, at) = (
            Arc::clone(&self.stop),
            Arc::clone(&self.count),
            Arc::clone(&started),
        );
        // The thread, and so its socket, is in the namespace of the thread that starts it.
        self.threads.push(std::thread::spawn(move || {
            let mut socket = Raw::new();
            let end = Instant::now() + LONGEST;
            for round in 0.. {
                if stop.load(Ordering::Relaxed) || Instant::now() > end {
                    break;
                }
                let done = blow(&mut socket, round);
                count.fetch_add(done as u64, Ordering::Relaxed);
                at.store(true, Ordering::Relaxed);
            }
        }));
        started
    }

    /// The operations so far.
    pub fn operations(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Stops, and tells how many operations there were.
    pub fn stop(mut self) -> u64 {
        self.halt();
        self.operations()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = false;
        for thread in self.threads.drain(..) {
            failed |= thread.join().is_err();
        }
        // Not from a drop during a panic, which would abort.
        if !std::thread::panicking() {
            assert!(!failed, "a thread of the hammer panicked");
        }
    }
}

impl Drop for Hammer<'_> {
    fn drop(&mut self) {
        self.halt();
        println!("the hammer did {} operations", self.operations());
        let gone = self.net.try_ip(&format!("link del dev {HAMMER_LINK}"));
        if !std::thread::panicking() {
            assert!(gone.is_ok(), "{gone:?}");
        }
    }
}
