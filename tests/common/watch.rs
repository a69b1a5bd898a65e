//! A second socket that records what the kernel says has changed, and the replay of it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{LocalState, TABLE_LOCAL, TYPE_LOCAL, host_bits};

/// RTNLGRP_IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE.
const GROUPS: [u32; 4] = [5, 7, 9, 11];
/// RTNLGRP_IPV6_IFADDR.
pub const IPV6_ADDRESSES: u32 = 9;

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Route(RouteEvent),
    Address(AddressEvent),
}

/// RTM_NEWROUTE or RTM_DELROUTE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    /// RTM_NEWROUTE.
    pub new: bool,
    /// The flags of the message: a replacement bears `NLM_F_REPLACE`.
    pub flags: u16,
    /// The port id of who asked for it.
    pub port: u32,
    /// The destination; the unspecified address where the message has none.
    pub dst: Option<IpAddr>,
    pub prefix_len: u8,
    pub table: u32,
    pub kind: u32,
    pub oif: u32,
    pub metric: u32,
    pub protocol: u8,
    pub scope: u8,
    pub prefsrc: Option<IpAddr>,
}

impl RouteEvent {
    /// It came in the place of another.
    pub fn replaces(&self) -> bool {
        self.new && self.flags & NLM_F_REPLACE != 0
    }

    /// The host whose local route, in table local, it is about.
    pub fn local_host(&self) -> Option<IpAddr> {
        self.dst.filter(|&dst| {
            self.prefix_len == host_bits(dst)
                && self.table == TABLE_LOCAL
                && self.kind == TYPE_LOCAL
        })
    }
}

/// RTM_NEWADDR or RTM_DELADDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressEvent {
    /// RTM_NEWADDR.
    pub new: bool,
    /// The port id of who asked for it; 0 for all of IPv6.
    pub port: u32,
    pub local: IpAddr,
    pub prefix_len: u8,
    pub index: u32,
    pub flags: u32,
    pub scope: u8,
}

/// What a notification takes of a receive buffer: one of up to some 450 bytes costs this much.
const COST: usize = 832;

/// Records the notifications about addresses and routes in the namespace in which it was made,
/// from then on.
#[derive(Debug)]
pub struct RouteWatcher {
    shared: Arc<Shared>,
    buffer: usize,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Inbox {
    socket: Socket,
    buffer: Vec<u8>,
    // As received: parsing can wait, the socket cannot.
    datagrams: Vec<Vec<u8>>,
    overflows: usize,
}

impl Inbox {
    fn pull(&mut self) {
        loop {
            self.buffer.clear();
            match self
                .socket
                .recv_from(&mut self.buffer, libc::MSG_DONTWAIT)
                .map(|_| ())
            {
                Ok(()) => self.datagrams.push(self.buffer.clone()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overflows += 1,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("watching: {error}"),
            }
        }
    }
}

impl RouteWatcher {
    /// Starts to record.
    pub fn new() -> Self {
        Self::of_groups(&GROUPS)
    }

    /// Starts to record these groups only, so that others take no room.
    pub fn of_groups(groups: &[u32]) -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        // As much as net.core.rmem_max allows.
        socket.set_rx_buf_sz(16_i32 << 20).unwrap();
        socket.bind(&SocketAddr::new(0, 0)).unwrap();
        for &group in groups {
            socket.add_membership(group).unwrap();
        }
        let fd = socket.as_raw_fd();
        let buffer = socket.get_rx_buf_sz().unwrap();
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox {
                socket,
                buffer: Vec::with_capacity(1 << 16),
                datagrams: Vec::new(),
                overflows: 0,
            }),
            stop: AtomicBool::new(false),
        });
        let reader = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    if readable(fd, 20) {
                        shared.inbox.lock().unwrap().pull();
                    }
                }
            }
        });
        Self {
            shared,
            buffer,
            reader: Some(reader),
        }
    }

    /// How many notifications certainly fit, even if the reader gets no processor. With
    /// net.core.rmem_max at its usual 212,992 that is 512, and the reader does not always keep up
    /// with thousands of changes in a row; with 4 MiB it did, under load too.
    pub fn capacity(&self) -> usize {
        self.buffer / COST
    }

    /// All that was recorded since the last call. What a request changed is in it once the request
    /// was acked; what the kernel does later (IPv6's own local route) is not. Panics if the kernel
    /// had to drop a notification.
    #[track_caller]
    pub fn drain(&self) -> Vec<Event> {
        let (datagrams, overflows) = {
            let mut inbox = self.shared.inbox.lock().unwrap();
            inbox.pull();
            (std::mem::take(&mut inbox.datagrams), inbox.overflows)
        };
        assert_eq!(
            overflows, 0,
            "the watcher lost notifications, so it proves nothing: its receive buffer has \
             {} bytes; allow more with: sysctl -w net.core.rmem_max=4194304",
            self.buffer
        );
        datagrams.iter().filter_map(|bytes| parse(bytes)).collect()
    }

    /// Waits until the kernel has said nothing for 50 ms, and forgets what it said, and whether
    /// that was all.
    #[track_caller]
    pub fn rest(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut still = 0;
        while still < 5 {
            assert!(Instant::now() < deadline, "the kernel never came to rest");
            std::thread::sleep(Duration::from_millis(10));
            let mut inbox = self.shared.inbox.lock().unwrap();
            inbox.pull();
            let silent = inbox.datagrams.is_empty() && inbox.overflows == 0;
            inbox.datagrams.clear();
            inbox.overflows = 0;
            still = if silent { still + 1 } else { 0 };
        }
    }

    /// All that was recorded since the last call, waiting until it holds what is asked for.
    #[track_caller]
    pub fn wait(&self, timeout: Duration, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + timeout;
        let mut events = Vec::new();
        loop {
            events.extend(self.drain());
            if enough(&events) {
                return events;
            }
            assert!(
                Instant::now() < deadline,
                "not seen within {timeout:?}; seen: {events:#?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for RouteWatcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.reader.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the reader panicked");
        }
    }
}

#[allow(unsafe_code)]
fn readable(fd: i32, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one initialised pollfd, which outlives the call. The descriptor is open: its socket
    // is owned by the `Shared` that the calling thread holds.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) > 0 }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
    let (flags, port) = (message.header.flags, message.header.port_number);
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        panic!("no notification: {message:?}");
    };
    match message {
        RouteNetlinkMessage::NewRoute(route) => {
            Some(Event::Route(route_event(&route, true, flags, port)))
        }
        RouteNetlinkMessage::DelRoute(route) => {
            Some(Event::Route(route_event(&route, false, flags, port)))
        }
        RouteNetlinkMessage::NewAddress(address) => address_event(&address, true, port),
        RouteNetlinkMessage::DelAddress(address) => address_event(&address, false, port),
        _ => None,
    }
}

/// A route message as an event.
pub fn route_event(message: &RouteMessage, new: bool, flags: u16, port: u32) -> RouteEvent {
    let header = &message.header;
    let mut event = RouteEvent {
        new,
        flags,
        port,
        dst: None,
        prefix_len: header.destination_prefix_length,
        table: u32::from(header.table),
        kind: u32::from(u8::from(header.kind)),
        oif: 0,
        metric: 0,
        protocol: u8::from(header.protocol),
        scope: u8::from(header.scope),
        prefsrc: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(dst) => event.dst = ip(dst),
            RouteAttribute::PrefSource(source) => event.prefsrc = ip(source),
            RouteAttribute::Oif(index) => event.oif = *index,
            RouteAttribute::Priority(metric) => event.metric = *metric,
            RouteAttribute::Table(table) => event.table = *table,
            _ => {}
        }
    }
    event
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn address_event(message: &AddressMessage, new: bool, port: u32) -> Option<Event> {
    let (mut local, mut address, mut flags) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => address = Some(*addr),
            AddressAttribute::Flags(all) => flags = Some(all.bits()),
            _ => {}
        }
    }
    Some(Event::Address(AddressEvent {
        new,
        port,
        local: local.or(address)?,
        prefix_len: message.header.prefix_len,
        index: message.header.index,
        flags: flags.unwrap_or_else(|| u32::from(message.header.flags.bits())),
        scope: u8::from(message.header.scope),
    }))
}

/// What the replay knows of a local route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    metric: u32,
    oif: u32,
    protocol: u8,
    prefsrc: Option<IpAddr>,
}

/// Replays the notifications over the state before them, and tells which VIPs were, at some
/// instant, without a local route on the link. A VIP that had none at first counts from its first.
///
/// A replacement takes the place of the route that it replaced, in one step, as in the kernel: the
/// first one with its metric, of whatever device. Not all that happens is notified: IPv4 routes
/// that go with their link are not. So a deletion of what the replay does not know is a fault of
/// the replay, and reported too.
pub fn never_without_local_route(
    events: &[Event],
    before: &LocalState,
    vips: &[IpAddr],
    link: u32,
) -> Result<(), Vec<String>> {
    let given: HashSet<IpAddr> = vips.iter().copied().collect();
    let mut held: HashMap<IpAddr, Vec<Held>> = vips
        .iter()
        .map(|&vip| {
            let routes = before
                .routes_of(vip)
                .iter()
                .filter(|route| route.is_local())
                .map(|route| Held {
                    metric: route.metric,
                    oif: before.links[&route.dev],
                    protocol: u8::try_from(route.protocol).unwrap(),
                    prefsrc: route.prefsrc,
                });
            (vip, routes.collect())
        })
        .collect();

    let mut wrong = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let Event::Route(event) = event else { continue };
        let Some(vip) = event.local_host().filter(|vip| given.contains(vip)) else {
            continue;
        };
        let routes = held.get_mut(&vip).unwrap();
        let on_link = |routes: &[Held]| routes.iter().any(|route| route.oif == link);
        let had = on_link(routes);
        let change = Held {
            metric: event.metric,
            oif: event.oif,
            protocol: event.protocol,
            prefsrc: event.prefsrc,
        };
        let same_metric = |route: &Held| route.metric == change.metric;
        if event.new {
            let replaced = event
                .replaces()
                .then(|| routes.iter().position(same_metric))
                .flatten();
            match replaced {
                Some(place) => routes[place] = change,
                // IPv4 puts a route before the others of its metric, unless it is appended.
                None if vip.is_ipv4() && event.flags & NLM_F_APPEND == 0 => {
                    routes.insert(0, change);
                }
                None => routes.push(change),
            }
        } else if let Some(place) = routes.iter().position(|route| *route == change) {
            routes.remove(place);
        } else {
            wrong.push(format!(
                "{vip}: event {at} deletes a route that the replay does not know \
                 ({routes:?}): {event:?}"
            ));
        }
        if had && !on_link(routes) {
            wrong.push(format!(
                "{vip}: without a local route after event {at}: {event:?}"
            ));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
