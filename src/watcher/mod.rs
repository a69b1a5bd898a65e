//! What happens to the VIPs of a link, as the kernel tells it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::write_names;
use crate::link::{LinkIndex, LinkRef, get_link_message};
use crate::manager::{Ranges, VipFilter, VipManager, find_link};
use crate::netlink::GROUPS;
use crate::netlink::decode::{self, Address, Link, Message, Route};
use crate::netlink::encode::dump_addresses;
use crate::netlink::lifetime::Lifetime;
use crate::outcome::Error;
use crate::sys::{Received, Socket, Woken, wait_readable};

bitflags::bitflags! {
    /// What changed of a VIP.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Change: u8 {
        /// Its address was added to the link, or its flags or lifetimes changed.
        const ADDRESS_SET = 1;
        /// Its address was removed from the link.
        const ADDRESS_REMOVED = 1 << 1;
        /// A route to it through the link was added or replaced.
        const ROUTE_SET = 1 << 2;
        /// A route to it through the link was removed.
        const ROUTE_REMOVED = 1 << 3;
        /// Another device's local route to it was added, replaced or removed.
        const FOREIGN_ROUTE = 1 << 4;
    }
}

/// `address set, route removed`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.iter_names().map(|(name, _)| name))
    }
}

bitflags::bitflags! {
    /// Who caused the changes of an event, by the port ids of their notifications. A burst of changes
    /// of one VIP is one event, so an event may have several origins.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Origin: u8 {
        /// The manager that the watcher belongs to.
        const OURS = 1;
        /// Another process, or another socket of this one.
        const OTHER = 1 << 1;
        /// The kernel by itself.
        const KERNEL = 1 << 2;
        /// The kernel does not say: notifications of IPv6 addresses bear no port id
        /// (`inet6_ifa_notify`, net/ipv6/addrconf.c).
        const UNKNOWN = 1 << 3;
    }
}

/// To follow "by": `this manager and the kernel`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, origin) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(" and ")?;
            }
            f.write_str(match origin {
                Self::OURS => "this manager",
                Self::OTHER => "another process",
                Self::KERNEL => "the kernel",
                _ => "an unknown process",
            })?;
        }
        Ok(())
    }
}

/// Something that happened. Printed, it is a line for a log, without the link's name.
///
/// A VIP is told of only if the manager could hold it: a host address of the link, or a local or
/// unicast host route, that is no loopback, link-local or multicast one, no source, and within the
/// allowed ranges. An address with another prefix length is no VIP, and neither it nor the kernel's
/// own route for it is told, not even where the VIP of that address is on the link too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A VIP changed. Several changes of one VIP in one burst are one event.
    Vip {
        /// Which.
        vip: Vip,
        /// In what respects.
        change: Change,
        /// By whom.
        origin: Origin,
    },
    /// An address of the node outside the link was added or changed: perhaps a source.
    NodeAddressSet(IpAddr),
    /// An address of the node outside the link was removed: perhaps a source.
    NodeAddressRemoved(IpAddr),
    /// The link is there and up, with this index.
    LinkUp(LinkIndex),
    /// The link is there and down.
    LinkDown(LinkIndex),
    /// The link is gone: deleted or moved to another namespace; where it is followed by its name,
    /// also renamed.
    LinkGone,
    /// Notifications were lost. Whatever happened meanwhile must be read anew
    /// ([`audit`](crate::VipManager::audit), [`reconcile`](crate::VipManager::reconcile)). The
    /// watcher looks the link up itself, and tells if it is another one now.
    Resync,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip {
                vip,
                change,
                origin,
            } => write!(f, "{vip}: {change} by {origin}"),
            Self::NodeAddressSet(addr) => write!(f, "node address {addr} set"),
            Self::NodeAddressRemoved(addr) => write!(f, "node address {addr} removed"),
            Self::LinkUp(index) => write!(f, "the link is up, with index {index}"),
            Self::LinkDown(index) => write!(f, "the link is down, with index {index}"),
            Self::LinkGone => f.write_str("the link is gone"),
            Self::Resync => f.write_str("notifications were lost"),
        }
    }
}

const RECEIVE_ROOM: usize = 64 * 1024;

/// How often one reading asks which link it is now: the answer may be lost, too.
const QUESTIONS: u32 = 2;

/// The sequence number of these questions.
const QUESTION: u32 = 0x7669_7072;

/// Typed events of one link's VIPs, made by
/// [`VipManager::watcher`](crate::VipManager::watcher).
///
/// It has a socket of its own, and so outlives the manager, or goes on where that became a
/// [`Keeper`](crate::Keeper), whose changes are told as [`Origin::OURS`]. Needs no privilege.
///
/// ```no_run
/// # use std::time::Duration;
/// # use viproute::{Event, VipManager};
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// let mut watcher = vips.watcher()?;
/// let mut events = Vec::new();
/// while watcher.wait(&mut events, Duration::from_secs(3600))? > 0 {
///     for event in events.drain(..) {
///         println!("{event}");
///         if event == Event::Resync {
///             println!("{}", vips.audit()?);
///         }
///     }
/// }
/// # Ok::<(), viproute::Error>(())
/// ```
///
/// In an event loop, wait until its descriptor ([`AsFd`]) is readable, then call
/// [`read`](Self::read), which reads all that is there, so that the loop may be edge-triggered.
pub struct Watcher {
    socket: Socket,
    followed: Followed,
    /// Something was lost, and with it perhaps that the link is another one now.
    lost: bool,
    /// The kernel was asked, and has not answered yet.
    asked: bool,
    /// The manager's requests. While this is open, no other socket can take its port id.
    requests: Arc<Socket>,
    receive: Box<[u8]>,
    burst: Burst,
}

/// The link that is followed.
#[derive(Debug)]
struct Followed {
    which: LinkRef,
    /// Where it is given by its index.
    lifetime: Option<Lifetime>,
    /// Its index while it is there.
    link: Option<u32>,
}

/// What is told in one go, and what it is told from.
struct Burst {
    sources: PerFamily<Option<IpAddr>>,
    ranges: Ranges,
    /// Addresses of the link with a prefix that is no host's, and whether they are still there: the
    /// kernel's own route goes after its address.
    wide: BTreeMap<IpAddr, bool>,
    vips: BTreeMap<Vip, (Change, Origin)>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("followed", &self.followed)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// `socket` is in the manager's namespace, `requests` the manager's. It tells of what `filter`
    /// lets through.
    pub(crate) fn new(
        socket: Socket,
        which: &LinkRef,
        lifetime: Option<Lifetime>,
        requests: Arc<Socket>,
        filter: &VipFilter<'_>,
    ) -> io::Result<Self> {
        for group in GROUPS {
            socket.join(group)?;
        }
        Ok(Self {
            socket,
            followed: Followed {
                which: which.clone(),
                lifetime,
                link: None,
            },
            lost: false,
            asked: false,
            requests,
            receive: vec![0; RECEIVE_ROOM].into_boxed_slice(),
            burst: Burst {
                sources: filter.sources,
                ranges: filter.ranges.clone(),
                wide: BTreeMap::new(),
                vips: BTreeMap::new(),
            },
        })
    }

    /// Begins with the link of this index.
    pub(crate) fn follow(&mut self, link: Option<u32>) {
        self.followed.link = link;
    }

    /// Takes note of an address that is on that link already.
    pub(crate) fn begin_with(&mut self, address: &Address) {
        self.burst.note_length(address, true);
    }

    /// Appends what has happened since the last call, without waiting; returns how many events
    /// that are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`](crate::ErrorKind::System) if the socket fails. Lost notifications are
    /// no error but an [`Event::Resync`].
    pub fn read(&mut self, events: &mut Vec<Event>) -> Result<usize, Error> {
        let before = events.len();
        self.drain(events)?;
        for _ in 0..QUESTIONS {
            if !self.lost {
                break;
            }
            self.ask()?;
            // The kernel has answered by now.
            self.drain(events)?;
        }
        self.burst.flush(events);
        // What the caller had before is the caller's.
        let mut end = before;
        for at in before..events.len() {
            if end == before || events[at] != events[end - 1] {
                events[end] = events[at];
                end += 1;
            }
        }
        events.truncate(end);
        Ok(end - before)
    }

    /// Appends what is queued.
    fn drain(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        loop {
            let received = self
                .socket
                .receive(&mut self.receive)
                .map_err(|error| Error::io("cannot receive notifications", &error))?;
            let datagram = match received {
                Received::Datagram(datagram) => datagram,
                Received::Overflow => {
                    // What is still queued is older than the loss.
                    events.push(Event::Resync);
                    self.lost = true;
                    continue;
                }
                Received::Nothing => return Ok(()),
            };
            for message in decode::messages(datagram) {
                let told = message.and_then(|message| {
                    // A link that was made from another namespace is told with the port id of a
                    // socket there, which may be the same number.
                    if self.asked
                        && message.port == self.socket.port()
                        && message.sequence == QUESTION
                    {
                        self.asked = false;
                        return answer(&message, &mut self.followed, &mut self.lost);
                    }
                    let ours = self.requests.port();
                    tell(&message, &mut self.followed, ours, &mut self.burst)
                });
                match told {
                    Ok(None) => {}
                    Ok(Some(event)) => {
                        // In order: what the VIPs did before stands before it.
                        self.burst.flush(events);
                        events.push(event);
                    }
                    Err(decode::Malformed) => {
                        events.push(Event::Resync);
                        self.lost = true;
                    }
                }
            }
        }
    }

    /// Asks the kernel for the link, behind what is queued.
    fn ask(&mut self) -> Result<(), Error> {
        let mut request = Vec::new();
        get_link_message(&mut request, QUESTION, &self.followed.which);
        self.socket
            .send(&request)
            .map_err(|error| Error::io("cannot look up the link", &error))?;
        (self.lost, self.asked) = (false, true);
        Ok(())
    }

    /// Waits for events until `timeout` has passed, then reads them like [`read`](Self::read).
    /// Zero means that none came.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn wait(&mut self, events: &mut Vec<Event>, timeout: Duration) -> Result<usize, Error> {
        let began = std::time::Instant::now();
        loop {
            let count = self.read(events)?;
            let left = timeout.saturating_sub(began.elapsed());
            if count > 0 || left.is_zero() {
                return Ok(count);
            }
            let woken = wait_readable(&self.socket, &self.socket, left)
                .map_err(|error| Error::io("cannot wait for notifications", &error))?;
            if woken == Woken::TimedOut {
                return Ok(0);
            }
        }
    }

    /// The index of the link, as far as is known; `None` while there is none of that name, or
    /// once the one that had the index is gone.
    #[must_use]
    pub fn link(&self) -> Option<LinkIndex> {
        self.followed.link.and_then(LinkIndex::new)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// For event loops that take nothing else, tokio's `AsyncFd` for one. Always the same, and open as
/// long as the watcher lives.
impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Burst {
    fn flush(&mut self, events: &mut Vec<Event>) {
        while let Some((vip, (change, origin))) = self.vips.pop_first() {
            events.push(Event::Vip {
                vip,
                change,
                origin,
            });
        }
    }

    /// Takes note of a change of what could be a VIP.
    fn note(&mut self, addr: IpAddr, change: Change, origin: Origin) {
        let filter = VipFilter {
            sources: self.sources,
            // Only of those that a call is about.
            kernel_source: PerFamily::splat(false),
            ranges: &self.ranges,
        };
        let vip = Vip::from(addr);
        if !filter.is_on_link(vip) {
            return;
        }
        let (changes, origins) = self.vips.entry(vip).or_default();
        *changes |= change;
        *origins |= origin;
    }

    /// Takes note of how long an address's prefix is; says whether it is a host's.
    fn note_length(&mut self, address: &Address, there: bool) -> bool {
        let is_host = address.prefix_length == Family::of(&address.addr).host_bits();
        if !is_host {
            self.wide.insert(address.addr, there);
        } else if there {
            self.wide.remove(&address.addr);
        }
        is_host
    }

    /// Whether the kernel made this route of the link, or takes it away, for an address that is no
    /// VIP.
    fn is_of_wide(&mut self, host: IpAddr, route: &Route, new: bool) -> bool {
        if !route.is_kernels_own() {
            return false;
        }
        match self.wide.get(&host) {
            Some(there) => {
                if !there && !new {
                    self.wide.remove(&host);
                }
                true
            }
            None => false,
        }
    }
}

/// What the answer says to the question which link it is now, as an event where it is another one.
fn answer(
    message: &Message<'_>,
    followed: &mut Followed,
    lost: &mut bool,
) -> Result<Option<Event>, decode::Malformed> {
    if message.kind == libc::RTM_NEWLINK {
        let told = message.link()?;
        if !followed.is(&told) {
            return Ok(followed.link.take().map(|_| Event::LinkGone));
        }
        if followed.link == Some(told.index) {
            return Ok(None);
        }
        followed.link = Some(told.index);
        return Ok(state_of(&told));
    }
    if message.kind != decode::NLMSG_ERROR {
        return Ok(None);
    }
    if message.ack()?.errno == libc::ENODEV {
        return Ok(followed.link.take().map(|_| Event::LinkGone));
    }
    // It says nothing of the link.
    *lost = true;
    Ok(None)
}

/// The event of a link that is there.
fn state_of(told: &Link<'_>) -> Option<Event> {
    let up = told.flags & libc::IFF_UP.unsigned_abs() != 0;
    let event = if up { Event::LinkUp } else { Event::LinkDown };
    // The kernel's are all valid.
    LinkIndex::new(told.index).map(event)
}

/// What one notification says: of a VIP, into the burst; of anything else, as an event.
fn tell(
    message: &Message<'_>,
    followed: &mut Followed,
    ours: u32,
    burst: &mut Burst,
) -> Result<Option<Event>, decode::Malformed> {
    let origin = match message.port {
        0 => Origin::KERNEL,
        port if port == ours => Origin::OURS,
        _ => Origin::OTHER,
    };
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let told = message.link()?;
            if !told.is_itself {
                return Ok(None);
            }
            let new = message.kind == libc::RTM_NEWLINK;
            let event = followed.tell(new, &told);
            if event.is_some() {
                // Their routes may have gone without a word.
                burst
                    .wide
                    .retain(|_, there| *there && followed.link.is_some());
            }
            return Ok(event);
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let Some(address) = message.address()? else {
                return Ok(None);
            };
            let new = message.kind == libc::RTM_NEWADDR;
            if Some(address.link) != followed.link {
                return Ok(Some(if new {
                    Event::NodeAddressSet(address.addr)
                } else {
                    Event::NodeAddressRemoved(address.addr)
                }));
            }
            if !burst.note_length(&address, new) {
                return Ok(None);
            }
            let origin = if address.addr.is_ipv6() && message.port == 0 {
                Origin::UNKNOWN
            } else {
                origin
            };
            let change = if new {
                Change::ADDRESS_SET
            } else {
                Change::ADDRESS_REMOVED
            };
            burst.note(address.addr, change, origin);
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let Some(route) = message.route()? else {
                return Ok(None);
            };
            let Some(host) = route.host() else {
                return Ok(None);
            };
            // Broadcast and anycast routes are there for other addresses.
            let suits = matches!(route.kind, libc::RTN_LOCAL | libc::RTN_UNICAST)
                && matches!(route.table, TABLE_LOCAL | TABLE_MAIN);
            if route.cloned || !suits {
                return Ok(None);
            }
            let new = message.kind == libc::RTM_NEWROUTE;
            if route.link.is_some() && route.link == followed.link {
                let change = if new {
                    Change::ROUTE_SET
                } else {
                    Change::ROUTE_REMOVED
                };
                if !burst.is_of_wide(host, &route, new) {
                    burst.note(host, change, origin);
                }
            } else if route.table == TABLE_LOCAL {
                burst.note(host, Change::FOREIGN_ROUTE, origin);
            }
        }
        _ => {}
    }
    Ok(None)
}

impl Followed {
    /// Whether it is this link.
    fn is(&mut self, told: &Link<'_>) -> bool {
        match &self.which {
            LinkRef::Name(name) => told.is_called(name),
            LinkRef::Index(index) => {
                told.index == index.get()
                    && !self.lifetime.as_mut().is_some_and(Lifetime::has_ended)
            }
        }
    }

    /// Takes note of what a notification says of a link.
    fn tell(&mut self, new: bool, told: &Link<'_>) -> Option<Event> {
        if new && self.is(told) {
            self.link = Some(told.index);
            return state_of(told);
        }
        // Gone, or our index is another link's or under another name now.
        (self.link == Some(told.index)).then(|| {
            self.link = None;
            Event::LinkGone
        })
    }
}

impl VipManager {
    /// The events of this manager's link, from now on, with the sources that the manager has now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] if a socket cannot be opened, or the link's addresses cannot be read;
    /// [`ErrorKind::InvalidNetns`] if the manager was opened without [`VipManagerBuilder::netns`] in another
    /// network namespace than the calling thread's. The link need not exist where the manager has
    /// its name. Where it has an index, [`ErrorKind::LinkNotFound`] if that link is gone.
    pub fn watcher(&mut self) -> Result<Watcher, Error> {
        let cannot = |error| Error::io("cannot listen to notifications", &error);
        let socket = self.open_listener()?;
        let requests = self.connection.requests();
        let mut lifetime = None;
        if let LinkRef::Index(index) = &self.config.link {
            let mut own = Lifetime::new(self.open_listener()?);
            own.begin(index.get()).map_err(cannot)?;
            lifetime = Some(own);
        }
        let filter = self.config.filter(self.sources);
        let mut watcher =
            Watcher::new(socket, &self.config.link, lifetime, requests, &filter).map_err(cannot)?;
        // Only now, so that no change in between is missed.
        let link = match &self.config.link {
            LinkRef::Name(_) => crate::link::find(&mut self.connection, &self.config.link)?,
            LinkRef::Index(_) => Some(find_link(&mut self.connection, &self.config)?),
        };
        let link = link.map(|link| link.index);
        watcher.follow(link);
        for family in Family::ALL {
            let Some(link) = link else { break };
            let dumped = self.connection.dump(
                |out, sequence| dump_addresses(out, sequence, family, link),
                |message| {
                    let address = message.address()?.filter(|address| address.link == link);
                    address
                        .iter()
                        .for_each(|address| watcher.begin_with(address));
                    Ok(())
                },
            );
            // If it is gone by now, the notification of that is on its way.
            if let Err(failed) = dumped
                && failed.errno() != Some(libc::ENODEV)
            {
                return Err(failed.into_error("cannot read the link's addresses".into()));
            }
        }
        Ok(watcher)
    }
}
