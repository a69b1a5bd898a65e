//! What happens to the VIPs of a link, as the kernel says it.
//!
//! `event` has what a watcher says, `link` the link that it follows, `burst` how it coalesces changes
//! of one VIP, and `notifications` what each notification means.

mod burst;
mod event;
mod link;
mod notifications;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::base::Family;
use crate::core::VipFilter;
use crate::link::{LinkIndex, LinkRef, get_link_message};
use crate::manager::{VipManager, find_link};
use crate::netlink::decode;
use crate::netlink::encode::dump_addresses;
use crate::netlink::lifetime::Lifetime;
use crate::netlink::listener::Listener;
use crate::outcome::Error;
use crate::sys::{Received, Socket, Woken, wait_readable};
use crate::trace::{self, Lost};

use burst::Burst;
pub use event::{Change, Event, Origin};
use link::{Belief, Followed, answer};
use notifications::tell;

const RECEIVE_ROOM: usize = 64 * 1024;

/// How often one reading asks which link it is now: the answer may be lost, too.
const QUESTIONS: u32 = 2;

/// The sequence number of the request that asks for the link.
const QUESTION: u32 = 0x7669_7072;

/// Typed events of one link's VIPs, made by
/// [`VipManager::watcher`](crate::VipManager::watcher).
///
/// It has a socket of its own, and so outlives the manager, or goes on where that became a
/// [`Keeper`](crate::Keeper), whose changes have [`Origin::OURS`]. Needs no privilege.
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
    listener: Listener,
    followed: Followed,
    belief: Belief,
    /// The manager's requests. While this is open, no other socket can take its port id.
    requests: Arc<Socket>,
    receive: Box<[u8]>,
    burst: Burst,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("followed", &self.followed)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// `socket` is in the manager's namespace, `requests` the manager's. Its events are of VIPs
    /// that `filter` admits.
    pub(crate) fn new(
        socket: Socket,
        which: &LinkRef,
        lifetime: Option<Lifetime>,
        requests: Arc<Socket>,
        filter: VipFilter,
    ) -> io::Result<Self> {
        let followed = Followed {
            which: which.clone(),
            lifetime,
            link: None,
        };
        Ok(Self {
            listener: Listener::new(socket, followed.interest())?,
            followed,
            belief: Belief::Sure,
            requests,
            receive: vec![0; RECEIVE_ROOM].into_boxed_slice(),
            burst: Burst::new(filter),
        })
    }

    #[cfg(test)]
    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Begins with the link of this index.
    pub(crate) fn follow(&mut self, link: Option<u32>) {
        self.followed.link = link;
    }

    /// Appends what has happened since the last call, without waiting; returns how many events
    /// that are.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// let mut manager = manager;
    /// let mut watcher = manager.watcher()?;
    /// manager.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// let mut events = Vec::new();
    /// let count = watcher.read(&mut events)?;
    /// assert_eq!(count, events.len());
    /// for event in &events {
    ///     println!("{event}");
    /// }
    /// assert!(count > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`](crate::ErrorKind::System) if the socket fails. Lost notifications are
    /// no error but an [`Event::Resync`].
    pub fn read(&mut self, events: &mut Vec<Event>) -> Result<usize, Error> {
        let before = events.len();
        self.drain(events)?;
        self.follow_heard(events, before)?;
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

    /// Makes sure that the link is known, and that its notifications pass. This reading's events begin at
    /// `start`.
    fn follow_heard(&mut self, events: &mut Vec<Event>, start: usize) -> Result<(), Error> {
        let cannot = Error::listening;
        for _ in 0..QUESTIONS {
            let (before, followed) = (*self.listener.interest(), self.followed.interest());
            let passes = before == followed || before.link.is_none();
            if passes && self.belief != Belief::Lost {
                break;
            }
            let link = self.followed.link;
            // Until the answer has come, also if a step below fails.
            self.belief = Belief::Lost;
            // The answer is about a link, so every link passes before the question.
            self.listener
                .listen_to(self.followed.interest_in(None))
                .map_err(cannot)?;
            self.request_link()?;
            // The kernel has answered by now.
            self.drain(events)?;
            let is_another = self.followed.link.is_some() && self.followed.link != link;
            if is_another && !events[start..].contains(&Event::Resync) {
                // The filter dropped what had happened to this link.
                self.burst.flush(events);
                events.push(Event::Resync);
            }
        }
        let interest = match self.belief {
            Belief::Sure => self.followed.interest(),
            Belief::Lost | Belief::Asked => self.followed.interest_in(None),
        };
        self.listener.listen_to(interest).map_err(cannot)
    }

    /// Appends what is queued.
    fn drain(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        loop {
            let received = self
                .listener
                .receive(&mut self.receive)
                .map_err(|error| Error::io("cannot receive notifications", &error))?;
            let datagram = match received {
                Received::Datagram(datagram) => datagram,
                Received::Overflow => {
                    // What is still queued is older than the loss.
                    events.push(Event::Resync);
                    trace::lost(Lost::Notifications);
                    self.belief = Belief::Lost;
                    continue;
                }
                Received::Nothing => return Ok(()),
            };
            for message in decode::messages(datagram) {
                let event = message.and_then(|message| {
                    // A link may be made from another namespace. Its notification then bears the
                    // port id of a socket there, which may be the same number.
                    if self.belief != Belief::Sure
                        && message.port == self.listener.socket().port()
                        && message.sequence == QUESTION
                    {
                        return answer(&message, &mut self.followed, &mut self.belief);
                    }
                    let own_port = self.requests.port();
                    tell(&message, &mut self.followed, own_port, &mut self.burst)
                });
                match event {
                    Ok(None) => {}
                    Ok(Some(event)) => {
                        // In order: what the VIPs did before stands before it.
                        self.burst.flush(events);
                        events.push(event);
                    }
                    Err(decode::Malformed) => {
                        events.push(Event::Resync);
                        self.belief = Belief::Lost;
                    }
                }
            }
        }
    }

    /// Asks the kernel for the link, behind what is queued.
    fn request_link(&mut self) -> Result<(), Error> {
        let mut request = Vec::new();
        get_link_message(&mut request, QUESTION, &self.followed.which);
        self.listener
            .socket()
            .send(&request)
            .map_err(|error| Error::io("cannot look up the link", &error))?;
        self.belief = Belief::Asked;
        Ok(())
    }

    /// Waits for events until `timeout` has passed, then reads them like [`read`](Self::read).
    /// Zero means that none came.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// let mut manager = manager;
    /// let mut watcher = manager.watcher()?;
    /// manager.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// use std::time::Duration;
    ///
    /// let mut events = Vec::new();
    /// assert!(watcher.wait(&mut events, Duration::from_secs(1))? > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
            let woken = wait_readable(&self.listener, &self.listener, left)
                .map_err(|error| Error::io("cannot wait for notifications", &error))?;
            if woken == Woken::TimedOut {
                return Ok(0);
            }
        }
    }

    /// The index of the link, as far as is known; `None` while there is none of that name, or
    /// once the link that had the index is gone.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// let mut manager = manager;
    /// let mut watcher = manager.watcher()?;
    /// assert_eq!(watcher.link(), None);
    /// // This creates the link.
    /// manager.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// watcher.read(&mut Vec::new())?;
    /// assert!(watcher.link().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn link(&self) -> Option<LinkIndex> {
        self.followed.link.and_then(LinkIndex::new)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// For event loops that take nothing else, tokio's `AsyncFd` for one. Always the same, and open as
/// long as the watcher lives.
impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl VipManager {
    /// The events of this manager's link, from now on, with the sources that the manager has now.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// let mut manager = manager;
    /// let mut watcher = manager.watcher()?;
    /// // The watcher has a socket of its own.
    /// drop(manager);
    /// assert_eq!(watcher.read(&mut Vec::new())?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`](crate::ErrorKind::System) if a socket cannot be opened, or the link's addresses cannot be read;
    /// [`ErrorKind::InvalidNetns`](crate::ErrorKind::InvalidNetns) if the manager was opened without [`VipManagerBuilder::netns`](crate::VipManagerBuilder::netns) in another
    /// network namespace than the calling thread's. The link need not exist where the manager has
    /// its name. Where it has an index, [`ErrorKind::LinkNotFound`](crate::ErrorKind::LinkNotFound) if that link is gone.
    pub fn watcher(&mut self) -> Result<Watcher, Error> {
        let cannot = Error::listening;
        let socket = self.open_listener()?;
        let requests = self.connection.requests();
        let mut lifetime = None;
        if let LinkRef::Index(index) = &self.config.link {
            let mut own = Lifetime::new(self.open_listener()?);
            own.begin(index.get()).map_err(cannot)?;
            lifetime = Some(own);
        }
        let filter = self.filter.clone();
        let mut watcher =
            Watcher::new(socket, &self.config.link, lifetime, requests, filter).map_err(cannot)?;
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
                    // The address is on that link already.
                    if let Some(address) = address {
                        watcher.burst.note_length(&address, true);
                    }
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
