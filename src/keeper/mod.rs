//! A keeper holds a desired set: it repairs every change of a VIP.
//!
//! `orders` takes what the caller wants, `notifications` reads the kernel's notifications. `reading` says when the
//! whole link is read. `dirty` has the VIPs to look up, `resting` the repaired IPv6 VIPs whose late route may
//! still come. `dispatch` repairs, `backoff` delays repairs that another writer undoes, `state` has what is
//! missing, `report` and `status` the results. `run` is the loop, `handle` the thread.

mod backoff;
mod dirty;
mod dispatch;
mod handle;
mod notifications;
mod orders;
mod reading;
mod report;
mod resting;
mod run;
mod state;
mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use crate::base::{Family, PerFamily, Vip};
use crate::link::{self, LinkRef};
use crate::manager::{VipManager, check_claim};
use crate::netlink::decode::LinkTraits;
use crate::netlink::filter::{Elsewhere, Interest};
use crate::netlink::listener::Listener;
use crate::outcome::Canceller;
use crate::outcome::Claim;
use crate::outcome::{Error, ErrorKind};
use crate::outcome::{Failure, Report};
use crate::sys::Socket;
use crate::trace;

use backoff::Backoff;
use dirty::Dirty;
pub use handle::KeeperHandle;
use notifications::RECEIVE_ROOM;
use reading::Reading;
pub use report::Dispatched;
use report::Look;
use resting::Resting;
pub use state::Missing;
use state::{Keeping, Releases};
pub use status::{Counters, FamilyStatus, KeeperStatus, Waiting};

/// The most VIPs that are looked up one by one. For more, the keeper reads the whole link.
const LOOKUP_MAX: usize = 64;

/// How often the keeper checks for a missing link or source that no event announces.
const RETRY: Duration = Duration::from_secs(1);

/// Holds a desired set of VIPs on the link until it is cancelled, and repairs only what drifted.
///
/// Made by [`VipManager::into_keeper`]. It owns its sockets and follows the link, by name or by
/// index as the manager did. In a thread, call [`run`](Self::run). In an event loop, wait until its
/// descriptor ([`AsFd`]) is readable or [`next_deadline`](Self::next_deadline) has come, then call
/// [`dispatch`](Self::dispatch), which reads all that is there to be read, so that the loop may be
/// edge-triggered; call it once before the first wait. Idle, it uses no processor time.
///
/// A dispatch blocks while the kernel carries out its requests: a moment for one VIP, about a second for
/// ten thousand. A dispatch that reads the whole link may wait up to two seconds more for the late routes of
/// IPv6 VIPs. A dispatch that repairs VIPs one by one does not wait for time to pass: it returns, and a
/// dispatch at [`next_deadline`](Self::next_deadline) reads those VIPs again ([`Dispatched::resting`]). It does
/// wait, up to the stall time-out, for a late route that is due or for the end of duplicate address detection.
/// A program that does other things too gives the keeper a thread of its own, and orders by a
/// [`KeeperHandle`]:
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Claim, VipManager};
/// # let manager = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// let keeper = manager.into_keeper(Claim::link().at_most(100))?;
/// let (handle, thread) = keeper.spawn(|done| match done {
///     Ok(done) => println!("{done}"),
///     Err(error) => eprintln!("refused: {error}"),
/// })?;
/// handle.set(desired)?;
/// // At the end; the VIPs stay.
/// drop(handle);
/// thread.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// An asynchronous program uses [`spawn`](Self::spawn), which shows it on tokio: no unsafe code, and no call of
/// the handle blocks the runtime. A program can also wait for the keeper's descriptor in a loop of its own, here
/// on tokio. Each dispatch then blocks the loop:
///
/// ```no_run
/// use tokio::io::unix::AsyncFd;
/// use tokio::time::timeout_at;
/// use viproute::Keeper;
///
/// async fn keep(keeper: Keeper) -> Result<(), Box<dyn std::error::Error>> {
///     // SAFETY: a keeper has the same descriptor as long as it lives.
///     let mut keeper = unsafe { AsyncFd::register(keeper) }?;
///     loop {
///         let done = keeper.get_mut().dispatch(64)?;
///         println!("{done}");
///         // Here `add_desired` and `remove_desired`, if services came or went.
///         match keeper.get_ref().next_deadline() {
///             None => keeper.readable_mut().await?.clear_ready(),
///             Some(at) => {
///                 if let Ok(ready) = timeout_at(at.into(), keeper.readable_mut()).await {
///                     ready?.clear_ready();
///                 }
///             }
///         }
///     }
/// }
/// ```
///
/// Many links or namespaces need a keeper each, and one thread for all: it polls their descriptors until
/// the earliest of their deadlines, and dispatches each keeper that is readable or due.
/// `tests/many.rs` is that program, and prints what it costs. For 100 namespaces of 10 VIPs, not optimized
/// and with [receive buffers](crate::VipManagerBuilder::receive_buffer) of 64 KiB
/// (`VIPROUTE_NAMESPACES=100 cargo test --test many -- --nocapture`): 40 kB and 8 descriptors a keeper,
/// 1.5 ms for its first dispatch, and 35 microseconds for a wait that finds no keeper due.
/// [`spawn`](Self::spawn) instead costs a thread each, and no namespace then waits for the kernel's work
/// in another one.
///
/// The example `controller` is a whole program that takes orders while it keeps.
///
/// A keeper reaches the state that [`reconcile`](VipManager::reconcile) with the same claim would reach. A VIP
/// that drifts costs the work of one VIP. If another writer keeps undoing a repair of one VIP, the keeper
/// pauses longer before each further repair of that VIP. If the writer keeps undoing what a reading of the whole
/// link repaired, the keeper pauses longer before the next such reading.
pub struct Keeper {
    manager: VipManager,
    claim: Claim,
    /// Sorted.
    desired: Vec<Vip>,
    listener: Listener,
    receive: Box<[u8]>,
    link: Option<u32>,
    /// The state of that link when it was last looked up or notified.
    link_traits: LinkTraits,
    /// Removed by name, sorted, and not yet seen to be gone.
    leaving: Vec<Vip>,
    reading: Reading,
    /// Whether the link can hold VIPs.
    link_state: Keeping,
    /// Whether VIPs of each family can be kept.
    families: PerFamily<Keeping>,
    /// The VIPs that failed when the keeper last looked at them.
    failing: BTreeMap<Vip, Failure>,
    /// Desired VIPs, sorted, that the keeper has not yet seen in their single-route state.
    unseen: Vec<Vip>,
    /// The caller gave an order, and no dispatch has ended since.
    is_order_new: bool,
    /// What the last dispatch said is missing and refused.
    said_missing: Vec<Missing>,
    said_refused: Option<(ErrorKind, Box<str>)>,
    last_success: PerFamily<Option<Instant>>,
    last_full_sync: Option<Instant>,
    last_dispatch: Option<Instant>,
    /// When it is looked again at what the families wait for.
    again: Instant,
    releases: Releases,
    dirty: Dirty,
    resting: Resting,
    backoffs: BTreeMap<Vip, Backoff>,
    counters: Counters,
}

/// Without its buffers and sets.
impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("manager", &self.manager)
            .field("claim", &self.claim)
            .field("link", &self.link)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    pub(crate) fn new(manager: VipManager, claim: Claim, socket: Socket) -> Result<Self, Error> {
        let interest = interest(&manager, None);
        let listener = Listener::new(socket, interest).map_err(Error::listening)?;
        let mut keeper = Self {
            manager,
            claim,
            desired: Vec::new(),
            listener,
            receive: vec![0; RECEIVE_ROOM].into_boxed_slice(),
            link: None,
            link_traits: LinkTraits::default(),
            leaving: Vec::new(),
            reading: Reading::new(Instant::now()),
            link_state: Keeping::default(),
            families: Default::default(),
            failing: BTreeMap::new(),
            unseen: Vec::new(),
            is_order_new: false,
            said_missing: Vec::new(),
            said_refused: None,
            last_success: PerFamily::splat(None),
            last_full_sync: None,
            last_dispatch: None,
            again: Instant::now(),
            releases: Releases::default(),
            dirty: Dirty::default(),
            resting: Resting::default(),
            backoffs: BTreeMap::new(),
            counters: Counters::default(),
        };
        // Only now, so that no change in between is missed.
        keeper.find_link()?;
        Ok(keeper)
    }

    /// Looks the link up, and listens to what matters now. The last look-up comes after the listener's
    /// filter was attached, so no change after it is missed.
    fn find_link(&mut self) -> Result<(), Error> {
        loop {
            let found = link::find(&mut self.manager.connection, &self.manager.config.link)?;
            self.link_traits = found.as_ref().map(|link| link.traits).unwrap_or_default();
            self.link = found.map(|link| link.index);
            let interest = interest(&self.manager, self.link);
            if *self.listener.interest() == interest {
                return Ok(());
            }
            self.listener
                .listen_to(interest)
                .map_err(Error::listening)?;
        }
    }

    /// What has been done so far.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// let before = keeper.counters();
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// keeper.dispatch(usize::MAX)?;
    /// let done = keeper.counters() - before;
    /// assert_eq!((done.repairs, done.failures), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The desired VIPs, in order of address.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 11), Ipv4Addr::new(10, 96, 0, 10)]);
    /// assert_eq!(keeper.desired()[0].to_string(), "10.96.0.10");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn desired(&self) -> &[Vip] {
        &self.desired
    }

    /// The VIPs that failed when the keeper last looked at them, in order of address. While the link
    /// is missing, the failures from before it went missing.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// // No host has this address.
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(127, 0, 0, 1)]);
    /// keeper.dispatch(usize::MAX)?;
    /// for failure in keeper.failing() {
    ///     println!("{failure}");
    /// }
    /// assert_eq!(keeper.failing().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn failing(&self) -> impl ExactSizeIterator<Item = &Failure> {
        self.failing.values()
    }

    /// How the keeper stands now.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// keeper.dispatch(usize::MAX)?;
    /// let status = keeper.status();
    /// assert_eq!((status.ipv4.desired, status.ipv4.failing), (1, 0));
    /// assert!(status.last_full_sync.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> KeeperStatus {
        let [ipv4, ipv6] = Family::ALL.map(|family| self.family_status(family));
        KeeperStatus {
            ipv4,
            ipv6,
            last_full_sync: self.last_full_sync.map(|at| at.elapsed()),
            last_dispatch: self.last_dispatch.map(|at| at.elapsed()),
        }
    }

    /// The latest time at which [`dispatch`](Self::dispatch) must be called, even without an event. `None`: there
    /// is no deadline.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// assert_eq!(keeper.next_deadline(), None);
    /// // There is something to do now.
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// assert!(keeper.next_deadline().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let dirty = self.dirty.vips().map(|vip| self.free_at(*vip)).min();
        let waits = self.families.iter().any(Keeping::is_waiting);
        let again = waits.then_some(self.again);
        let resting = self.resting.next(|vip| !self.dirty.contains(*vip));
        let reading = self.reading.at().filter(|_| self.is_at_work());
        let due = [reading, again, dirty.flatten(), resting];
        due.into_iter().flatten().min()
    }

    /// When a VIP may be repaired again; `None` without a set.
    fn free_at(&self, vip: Vip) -> Option<Instant> {
        let now = Instant::now();
        Some(
            self.backoffs
                .get(&vip)
                .map_or(now, |backoff| backoff.until.max(now)),
        )
    }

    /// A handle that ends [`run`](Self::run), or the call that runs, from another thread. It does
    /// not wake an event loop of the caller's own: the next [`dispatch`](Self::dispatch) that looks
    /// at VIPs says [`ErrorKind::Cancelled`].
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// let canceller = keeper.canceller();
    /// let thread = std::thread::spawn(move || keeper.run(|done| println!("{done}")));
    /// canceller.cancel();
    /// thread.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.manager.canceller()
    }

    /// Gives the manager back; the VIPs stay as they are.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// keeper.dispatch(usize::MAX)?;
    /// let mut manager = keeper.into_manager();
    /// assert_eq!(manager.release_all(&Claim::link())?.released, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn into_manager(self) -> VipManager {
        self.manager
    }

    /// Reads the pending notifications, and repairs the VIPs that are due. Looks up at most `max_vips` VIPs
    /// (at least one); if more are due, [`Dispatched::more`] is true. A reading of the whole link has no such
    /// limit. Does not wait for events.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// let done = keeper.dispatch(64)?;
    /// assert!(done.has_news);
    /// assert_eq!(done.report.assigned, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`], [`ErrorKind::InvalidConfig`], [`ErrorKind::EmptySet`] (VIPs are
    /// desired, but no admissible one), [`ErrorKind::Cancelled`] and [`ErrorKind::System`]; and
    /// [`ErrorKind::TooManyReleases`] for a set that is new: nothing was written, and a better set can
    /// be given. After any error the keeper can be dispatched again. It tries again by itself, except
    /// after [`ErrorKind::EmptySet`]. A missing link or source, and VIPs that failed, are no errors: see
    /// [`Dispatched`].
    pub fn dispatch(&mut self, max_vips: usize) -> Result<Dispatched, Error> {
        let _span = trace::span!("dispatch", self.manager.config.link, self.desired.len());
        self.dispatch_due(max_vips).inspect_err(trace::error)
    }

    fn dispatch_due(&mut self, max_vips: usize) -> Result<Dispatched, Error> {
        self.listen()?;
        if !self.is_at_work() {
            self.reading.cancel();
            self.dirty.clear();
            self.resting.clear();
            return Ok(self.dispatched(Report::default(), Look::At(&[])));
        }
        self.look_again();
        if self.reading.at().is_some_and(|at| at <= Instant::now()) {
            return self.keep_all();
        }
        if self.link_state.is_waiting() {
            // Nothing can be mended until that is back, and then everything is looked at.
            self.dirty.clear();
            return Ok(self.dispatched(Report::default(), Look::At(&[])));
        }
        self.keep_dirty(max_vips.max(1))
    }

    /// Whether there is anything to do.
    fn is_at_work(&self) -> bool {
        !self.desired.is_empty() || !self.leaving.is_empty()
    }

    /// Whether the VIPs of a family cannot be kept just now.
    fn waits(&self, family: Family) -> bool {
        self.families[family].is_waiting()
    }

    fn is_desired(&self, vip: Vip) -> bool {
        self.desired.binary_search(&vip).is_ok()
    }
}

/// Doors for the tests.
#[cfg(test)]
impl Keeper {
    /// Makes all that is remembered so much older, as if that time had passed.
    pub(crate) fn age(&mut self, by: Duration) {
        self.backoffs
            .values_mut()
            .for_each(|backoff| backoff.age(by));
        self.reading.age(by);
        self.again -= by;
        self.resting.age(by);
    }

    pub(crate) fn listener(&self) -> &Socket {
        self.listener.socket()
    }

    pub(crate) fn manager_mut(&mut self) -> &mut VipManager {
        &mut self.manager
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// For event loops that take nothing else, tokio's `AsyncFd` for one. Always the same, and open as
/// long as the keeper lives.
impl AsRawFd for Keeper {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The notifications that matter to a keeper of this manager. By an index, the link is always known.
fn interest(manager: &VipManager, link: Option<u32>) -> Interest {
    Interest {
        link: match &manager.config.link {
            LinkRef::Name(_) => link,
            LinkRef::Index(index) => Some(index.get()),
        },
        elsewhere: Elsewhere::Only(PerFamily::from_fn(|f| manager.filter.sources[f].address())),
    }
}

impl VipManager {
    /// Makes a [`Keeper`] of this manager, which holds a desired set until it is cancelled. Writes
    /// nothing. Its [watchers](Self::watcher) and cancellers go on.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    /// let mut keeper = manager.into_keeper(Claim::link().at_most(100))?;
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// assert_eq!(keeper.dispatch(usize::MAX)?.report.assigned, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] if a socket cannot be opened; [`ErrorKind::InvalidConfig`] if the claim
    /// goes by a mark that the manager has not; [`ErrorKind::InvalidNetns`] if the manager was opened
    /// without [`VipManagerBuilder::netns`](crate::VipManagerBuilder::netns) in another network namespace than the calling thread's.
    pub fn into_keeper(self, claim: Claim) -> Result<Keeper, Error> {
        check_claim(&claim, &self.config, &self.filter.sources)?;
        let socket = self.open_listener()?;
        Keeper::new(self, claim, socket)
    }
}
