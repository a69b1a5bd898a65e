//! A thread that asks the kernel without pause for the route of each VIP.
//!
//! Not part of `common/mod.rs`: a test takes it with `#[path = "common/lookups.rs"] mod lookups;`.
#![allow(dead_code, unreachable_pub)]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage::{GetRoute, NewRoute};
use netlink_packet_route::route::{RouteFlags, RouteType};

use crate::common::raw::{self, Raw, Request};
use crate::common::{Event, RouteWatcher};

/// Look-ups in one send: their answers fit the default receive buffer.
const AT_ONCE: usize = 32;

/// RTNLGRP_IPV6_ROUTE.
const IPV6_ROUTES: u32 = 11;

/// How long after a look-up the notification of a change that it met may come.
const NOTIFIED_WITHIN: Duration = Duration::from_millis(200);

/// One IPv6 look-up in so many may find nothing though the route is there: beside a writer of the
/// same table, one in two million walks past a route that nobody touches (measured on 6.18). Each
/// gap shows in the replayed notifications as well, which are never blind.
const BLIND: u64 = 250_000;

/// The same on an emulated processor, which the host may stop anywhere: between finding a route
/// that is deleted just then and taking hold of it (`fib6_info_hold_safe`, include/net/ip6_fib.h)
/// there is time enough to find none. Seen up to three times in a call of 200 VIPs, on 6.12
/// under QEMU.
const BLIND_IN_A_GUEST: u64 = 200;

/// Whose route is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Of VIPs that have a local route in each table that a walk can meet.
    Any,
    /// Of IPv6 VIPs whose only local route is replaced in place. `fib6_add_rt2node` (net/ipv6/ip6_fib.c)
    /// unlinks the old route before a walk that stands on it has read it: 61 of 600,200 look-ups found no
    /// route on 6.18, and one of table main's. In the replayed notifications there is no gap. Each such
    /// answer must have met a notified change of the VIP's routes.
    OnlyRoute,
}

/// Asks for the route of each VIP, over and over, until stopped.
#[derive(Debug)]
pub struct LookUps {
    stop: Arc<AtomicBool>,
    passes: Arc<AtomicU64>,
    thread: Option<JoinHandle<(u64, Vec<String>)>>,
}

impl LookUps {
    /// Starts, and returns after the first pass over all VIPs.
    pub fn start(vips: &[IpAddr]) -> Self {
        Self::start_of(vips, Of::Any)
    }

    /// The same, counted apart.
    pub fn start_of(vips: &[IpAddr], of: Of) -> Self {
        let (stop, passes) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let vips = vips.to_vec();
        // In the namespace of the thread that starts it.
        let thread = std::thread::spawn({
            let (stop, passes) = (Arc::clone(&stop), Arc::clone(&passes));
            move || ask(&vips, of, &stop, &passes)
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while passes.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "the look-ups do not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        let thread = Some(thread);
        Self {
            stop,
            passes,
            thread,
        }
    }

    /// Passes over all VIPs so far.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Stops after the second pass or later, so that both kinds of look-up were made; tells how many look-ups there were, and which did not find the VIP local.
    pub fn stop(mut self) -> (u64, Vec<String>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.passes() < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Every second pass asks for the entry of the table, the others for the route itself.
#[expect(
    clippy::too_many_lines,
    reason = "one loop: look-ups, their answers, and what these show"
)]
fn ask(vips: &[IpAddr], of: Of, stop: &AtomicBool, passes: &AtomicU64) -> (u64, Vec<String>) {
    let mut socket = Raw::new();
    let by_entry: Vec<Request> = vips.iter().map(|vip| raw::fib_match(*vip)).collect();
    let by_route: Vec<Request> = by_entry
        .iter()
        .map(|request| {
            let mut request = request.clone();
            if let GetRoute(message) = &mut request.0 {
                message.header.flags = RouteFlags::empty();
            }
            request
        })
        .collect();
    let (mut count, mut wrong, mut blind) = (0_u64, Vec::new(), Vec::new());
    let mut overtaken = Vec::new();
    let watcher = (of == Of::OnlyRoute).then(|| RouteWatcher::of_groups(&[IPV6_ROUTES]));
    while !stop.load(Ordering::Relaxed) {
        let pass = passes.load(Ordering::Relaxed);
        let requests = if pass & 1 == 0 { &by_entry } else { &by_route };
        for (some, vips) in requests.chunks(AT_ONCE).zip(vips.chunks(AT_ONCE)) {
            if let Some(watcher) = &watcher {
                watcher.drain();
            }
            let mut lost = Vec::new();
            let first = socket.send(some, 0);
            let (datagrams, overflow) = socket.receive_all();
            assert!(!overflow, "the answers to {AT_ONCE} look-ups fit");
            let mut answered = 0;
            for bytes in datagrams {
                let mut rest = &bytes[..];
                while rest.len() >= 16 {
                    let length = NetlinkBuffer::new_checked(rest).unwrap().length() as usize;
                    let message = NetlinkMessage::deserialize(&rest[..length]).unwrap();
                    let vip = vips[(message.header.sequence_number - first) as usize];
                    let is_local = matches!(
                        &message.payload,
                        NetlinkPayload::InnerMessage(NewRoute(route))
                            if route.header.kind == RouteType::Local
                    );
                    let text = || format!("{vip}: {:?}", message.payload);
                    match &message.payload {
                        _ if is_local => {}
                        NetlinkPayload::Error(error)
                            if vip.is_ipv6() && error.raw_code() == -libc::ENETUNREACH =>
                        {
                            lost.push((vip, text()));
                        }
                        // Table main's.
                        NetlinkPayload::InnerMessage(NewRoute(_)) if of == Of::OnlyRoute => {
                            lost.push((vip, text()));
                        }
                        _ => wrong.push(text()),
                    }
                    answered += 1;
                    rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                }
            }
            assert_eq!(answered, some.len(), "each look-up is answered");
            if let Some(watcher) = watcher.as_ref().filter(|_| !lost.is_empty()) {
                let changed = changed(watcher, &lost);
                for (vip, text) in lost.drain(..) {
                    let list = if changed.contains(&vip) {
                        &mut overtaken
                    } else {
                        &mut wrong
                    };
                    list.push(text);
                }
            }
            blind.extend(lost.into_iter().map(|(_, text)| text));
            wrong.truncate(1000);
            blind.truncate(1000);
            count += answered as u64;
        }
        passes.store(pass + 1, Ordering::Relaxed);
    }
    if !overtaken.is_empty() {
        let overtaken_of = overtaken.len();
        println!("{overtaken_of} of {count} look-ups met a change of their VIP's only route");
    }
    let is_guest = std::env::var_os("VIPROUTE_AT_MOST").is_some();
    let one_in = if is_guest { BLIND_IN_A_GUEST } else { BLIND };
    if blind.len() as u64 > 1 + count / one_in {
        wrong.append(&mut blind);
    } else if !blind.is_empty() {
        let blind_of = blind.len();
        println!("{blind_of} of {count} look-ups were blind: {blind:?}");
    }
    (count, wrong)
}

/// The VIPs whose route was notified as deleted or replaced since the last reading.
fn changed(watcher: &RouteWatcher, vips: &[(IpAddr, String)]) -> Vec<IpAddr> {
    let deadline = Instant::now() + NOTIFIED_WITHIN;
    let mut events = Vec::new();
    loop {
        events.extend(watcher.drain());
        let is_changed = |vip: &IpAddr| {
            events.iter().any(|event| {
                matches!(event, Event::Route(route)
                    if route.local_host() == Some(*vip) && (!route.new || route.replaces()))
            })
        };
        let changed: Vec<IpAddr> = vips
            .iter()
            .map(|(vip, _)| *vip)
            .filter(is_changed)
            .collect();
        if vips.iter().all(|(vip, _)| changed.contains(vip)) || Instant::now() > deadline {
            return changed;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
