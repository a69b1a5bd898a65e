//! Holding a desired set against whatever happens to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Sub;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::Binding;
use crate::core::Cause;
use crate::engine::lookup::Notified;
use crate::manager::{Leaving, VipManager, check_claim};
use crate::netlink::GROUPS;
use crate::netlink::decode::{self, Message, Route};
use crate::outcome::Canceller;
use crate::outcome::Claim;
use crate::outcome::{Error, ErrorKind};
use crate::outcome::{Failure, Report};
use crate::sys::{Received, Socket, Woken, wait_readable};

/// VIPs that are mended one by one at the most; above that the link is read as a whole.
const LOOKUP_MAX: usize = 64;

/// Repairs of one VIP within [`CALM`] that need no pause.
const PATIENCE: u32 = 3;

/// The first pause of a VIP that is fought over, doubled with each further repair…
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// …up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After how long without a repair a fight is over.
const CALM: Duration = Duration::from_secs(60);

/// How often something that is missing is looked for, where no event tells of it.
const RETRY: Duration = Duration::from_secs(1);

const RECEIVE_ROOM: usize = 64 * 1024;

/// Holds a desired set of VIPs on the link until told to stop, repairing just what drifted.
///
/// Made by [`VipManager::into_keeper`]. It owns its sockets and follows the link, by name or by
/// index as the manager did. In a thread, call [`run`](Self::run). In an event loop, wait until its
/// descriptor ([`AsFd`]) is readable or [`next_deadline`](Self::next_deadline) has come, then call
/// [`dispatch`](Self::dispatch), which reads all that is there to be read, so that the loop may be
/// edge-triggered; call it once before the first wait. Idle, it uses no processor time.
///
/// A call blocks while the kernel does what it was told: a moment for one VIP, about a second for
/// ten thousand, up to two where another hand has deleted the route of an IPv6 address that was
/// added only just before. An asynchronous program had better give the keeper a thread of its own:
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Claim, VipManager};
/// # let manager = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// let mut keeper = manager.into_keeper(Claim::link().at_most(100))?;
/// keeper.set_desired(desired);
/// let canceller = keeper.canceller();
/// let thread = std::thread::spawn(move || {
///     keeper.run(|done| {
///         for failure in &done.report.failures {
///             eprintln!("{failure}");
///         }
///         println!("{done}");
///     })
/// });
/// // At the end; the VIPs stay.
/// canceller.cancel();
/// thread.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A loop that does other things too, here on tokio:
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
/// The example `controller` is a whole program that takes orders while it keeps.
///
/// What it does is what [`reconcile`](VipManager::reconcile) with the same claim would do; one VIP
/// that drifts costs one VIP's work. Against an adversary that keeps undoing a repair it pauses
/// longer and longer, for that VIP alone, or for the link as a whole where that is what is undone.
pub struct Keeper {
    manager: VipManager,
    claim: Claim,
    /// Sorted.
    desired: Vec<Vip>,
    socket: Socket,
    receive: Box<[u8]>,
    link: Option<u32>,
    /// Removed by name, sorted, and not yet seen to be gone.
    leaving: Vec<Vip>,
    /// When the whole link is to be reconciled.
    full: Option<Instant>,
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
    /// When it is looked again at what the families wait for.
    again: Instant,
    releases: Releases,
    /// What the next reading finds to do was asked for, and is no repair.
    expected: bool,
    dirty: BTreeMap<Vip, Notified>,
    backoffs: BTreeMap<Vip, Backoff>,
    /// Of the link as a whole: readings of it that found something to repair.
    link_backoff: Option<Backoff>,
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

/// Whether VIPs can be kept: of the link, or of one family.
#[derive(Debug, Default)]
enum Keeping {
    #[default]
    Possible,
    /// Not until this is there.
    Waiting { missing: Missing, since: Instant },
}

impl Keeping {
    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    /// Waits for this. The time of the wait goes on where it waited for something before.
    fn wait_for(&mut self, missing: Missing) {
        let since = match self {
            Self::Possible => Instant::now(),
            Self::Waiting { since, .. } => *since,
        };
        *self = Self::Waiting { missing, since };
    }

    fn waiting(&self) -> Option<Waiting> {
        match self {
            Self::Possible => None,
            Self::Waiting { missing, since } => Some(Waiting {
                missing: missing.clone(),
                since: since.elapsed(),
            }),
        }
    }

    fn missing(&self) -> Option<&Missing> {
        match self {
            Self::Possible => None,
            Self::Waiting { missing, .. } => Some(missing),
        }
    }
}

/// Whether VIPs are released that are claimed and not desired.
#[derive(Debug, Default)]
enum Releases {
    #[default]
    Allowed,
    /// No VIP is desired, or none of one family: see [`Claim`].
    Guarded(Box<str>),
    /// They would pass the claim's bound: none is, until a new set is given.
    Refused(Box<str>),
}

impl Releases {
    fn are_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// As an error's kind and detail.
    fn in_words(&self) -> Option<(ErrorKind, &str)> {
        match self {
            Self::Allowed => None,
            Self::Guarded(detail) => Some((ErrorKind::EmptySet, detail)),
            Self::Refused(detail) => Some((ErrorKind::TooManyReleases, detail)),
        }
    }
}

/// What a [`Keeper`] waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// Whose VIPs wait; `None`: those of both families.
    pub family: Option<Family>,
    /// What is missing: the link ([`ErrorKind::LinkNotFound`], [`ErrorKind::LinkInVrf`]), or for one
    /// family what [`Cause::Missing`] says.
    pub kind: ErrorKind,
    /// The same in full: which source it is, and what to do.
    pub detail: Box<str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(family) = self.family {
            write!(f, "{family}: ")?;
        }
        write!(f, "{} ({})", self.kind, self.detail)
    }
}

#[derive(Clone, Copy, Debug)]
struct Backoff {
    repairs: u32,
    last: Instant,
    until: Instant,
}

/// What a keeper has done so far. No counter ever decreases; the difference of two readings is what
/// happened between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Notifications that concerned the link, its VIPs or the sources, but for the keeper's own
    /// changes.
    pub events: u64,
    /// VIPs that the keeper looked at one by one, because something had happened to them.
    pub looks: u64,
    /// Desired VIPs that were already in their single-route state when the keeper first looked at
    /// them.
    pub adopted: u64,
    /// VIPs that something was written for: assigned, repaired or released.
    pub repairs: u64,
    /// VIPs that were released. [`repairs`](Self::repairs) includes them.
    pub released: u64,
    /// VIPs that began to fail, or to fail for another reason. A failure that lasts counts once.
    pub failures: u64,
    /// Times that the whole link was read: at first, with a new desired set, after lost
    /// notifications, and when the link or a source came back.
    pub resyncs: u64,
    /// Repairs that were put off because the VIP had been repaired too often of late.
    pub backoffs: u64,
}

impl Counters {
    /// Each counter with its name.
    fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("events", self.events),
            ("looks", self.looks),
            ("adopted", self.adopted),
            ("repairs", self.repairs),
            ("released", self.released),
            ("failures", self.failures),
            ("resyncs", self.resyncs),
            ("backoffs", self.backoffs),
        ]
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, count)) in self.named().into_iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {name}")?;
        }
        Ok(())
    }
}

/// What was counted since an earlier reading of the same keeper.
impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            events: self.events.saturating_sub(earlier.events),
            looks: self.looks.saturating_sub(earlier.looks),
            adopted: self.adopted.saturating_sub(earlier.adopted),
            repairs: self.repairs.saturating_sub(earlier.repairs),
            released: self.released.saturating_sub(earlier.released),
            failures: self.failures.saturating_sub(earlier.failures),
            resyncs: self.resyncs.saturating_sub(earlier.resyncs),
            backoffs: self.backoffs.saturating_sub(earlier.backoffs),
        }
    }
}

/// How a keeper stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeeperStatus {
    /// The IPv4 VIPs.
    pub ipv4: FamilyStatus,
    /// The IPv6 VIPs.
    pub ipv6: FamilyStatus,
    /// How long ago the keeper last read the whole link. `None`: never.
    pub last_full_sync: Option<Duration>,
}

impl KeeperStatus {
    /// The VIPs of this family.
    #[must_use]
    pub fn family(&self, family: Family) -> &FamilyStatus {
        match family {
            Family::V4 => &self.ipv4,
            Family::V6 => &self.ipv6,
        }
    }
}

/// How a keeper stands with the VIPs of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FamilyStatus {
    /// How many VIPs are desired.
    pub desired: usize,
    /// How many VIPs failed when the keeper last looked at them: see [`Keeper::failing`].
    pub failing: usize,
    /// What the family waits for: the link, or what it lacks itself. `None`: nothing.
    pub waiting: Option<Waiting>,
    /// How long ago the keeper last looked at VIPs of this family and left none failing. `None`: never.
    pub last_success: Option<Duration>,
}

/// What a family waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// What is missing.
    pub missing: Missing,
    /// How long the family has waited.
    pub since: Duration,
}

/// What one [`Keeper::dispatch`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dispatched {
    /// What became of the VIPs that were looked at. Failures are tried again later, so a failure that
    /// lasts is in many reports.
    pub report: Report,
    /// The failures of the report that are new: the VIP did not fail before, or for another reason.
    pub new_failures: Vec<Failure>,
    /// The failures that ended, each as it was: the VIP is in its single-route state, or no longer
    /// desired. While the link is missing, no failure ends.
    pub recovered: Vec<Failure>,
    /// Whether this dispatch has news: something was written, a failure began, changed or ended,
    /// something else is missing or refused than before, or it is the first one after an order: a
    /// desired set, VIPs added or removed, a source.
    /// [`Keeper::run`] calls back for these.
    pub has_news: bool,
    /// What is missing, so that nothing can be kept until it is back, or nothing of one family. VIPs
    /// of the other one are kept meanwhile. Empty: nothing is missing.
    pub missing: Vec<Missing>,
    /// What is not released though it is claimed and not desired, until another set is given:
    /// [`ErrorKind::TooManyReleases`] where the claim's bound would have been passed, because so many
    /// others came (the bound is one of each dispatch); [`ErrorKind::EmptySet`] where no VIP is desired,
    /// or on the link are claimed VIPs of a family of which none is desired. Desired VIPs are kept.
    pub refused: Option<ErrorKind>,
    /// The latter in full: how many would have gone, of which family none is desired.
    pub detail: Option<String>,
    /// Whether more is due at once: call again.
    pub more: bool,
}

impl fmt::Display for Dispatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the link there is nothing to report.
        if let Some(link) = self.missing.iter().find(|missing| missing.family.is_none()) {
            return write!(f, "waiting: {link}");
        }
        fmt::Display::fmt(&self.report, f)?;
        for missing in &self.missing {
            write!(f, "; waiting for {missing}")?;
        }
        match (self.refused, &self.detail) {
            (Some(refused), Some(detail)) => write!(f, "; refused: {refused} ({detail})"),
            _ => Ok(()),
        }
    }
}

impl Keeper {
    pub(crate) fn new(
        mut manager: VipManager,
        claim: Claim,
        socket: Socket,
    ) -> Result<Self, Error> {
        for group in GROUPS {
            socket
                .join(group)
                .map_err(|error| Error::io("cannot listen to notifications", &error))?;
        }
        // Only now, so that no change in between is missed.
        let link = manager.find_link()?.map(|link| link.index);
        Ok(Self {
            manager,
            claim,
            desired: Vec::new(),
            socket,
            receive: vec![0; RECEIVE_ROOM].into_boxed_slice(),
            link,
            leaving: Vec::new(),
            full: None,
            link_state: Keeping::default(),
            families: Default::default(),
            failing: BTreeMap::new(),
            unseen: Vec::new(),
            is_order_new: false,
            said_missing: Vec::new(),
            said_refused: None,
            last_success: PerFamily::splat(None),
            last_full_sync: None,
            again: Instant::now(),
            releases: Releases::default(),
            expected: true,
            dirty: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            link_backoff: None,
            counters: Counters::default(),
        })
    }

    /// Sets what is to be kept from now on; the next [`dispatch`](Self::dispatch) brings it about.
    /// Where a few VIPs come or go, it looks at those alone.
    ///
    /// An empty set keeps nothing and releases nothing ([`Dispatched::refused`]), and so does one
    /// without a VIP of a family, for that family. [`remove_desired`](Self::remove_desired) releases
    /// the last one, too. To wipe, call [`release_all`](VipManager::release_all) on the manager
    /// ([`into_manager`](Self::into_manager)).
    pub fn set_desired<I>(&mut self, desired: I)
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        let desired = sorted(desired);
        let (before, after) = differing(&self.desired, &desired);
        let only_in = |some: &[Vip], others: &[Vip]| -> Vec<Vip> {
            let missing = some.iter().filter(|vip| others.binary_search(vip).is_err());
            missing.take(LOOKUP_MAX + 1).copied().collect()
        };
        let (goes, comes) = (only_in(before, after), only_in(after, before));
        self.is_order_new = true;
        let are_noted = goes.len() <= self.claim.bound() && self.note_changes(&goes, &comes);
        self.unseen.retain(|vip| desired.binary_search(vip).is_ok());
        let is_new = |vip: &&Vip| self.desired.binary_search(vip).is_err();
        self.unseen.extend(desired.iter().filter(is_new));
        self.unseen.sort_unstable();
        self.leaving
            .retain(|vip| desired.binary_search(vip).is_err());
        self.desired = desired;
        self.begin_set(are_noted);
        if self.desired.is_empty() {
            let detail = "no VIP is desired, and none is released for that: release VIPs by name";
            self.releases = Releases::Guarded(detail.into());
        }
    }

    /// Keeps these from now on, too. Like [`set_desired`](Self::set_desired) with these and those
    /// of before, without going through all of them.
    pub fn add_desired<I>(&mut self, vips: I)
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        let mut comes = sorted(vips);
        comes.retain(|vip| !self.is_desired(*vip));
        if comes.is_empty() {
            return;
        }
        self.is_order_new = true;
        let are_noted = self.note_changes(&[], &comes);
        self.leaving.retain(|vip| comes.binary_search(vip).is_err());
        self.unseen.extend(&comes);
        self.unseen.sort_unstable();
        if comes.len() > LOOKUP_MAX {
            self.desired.append(&mut comes);
            self.desired.sort();
        }
        for vip in comes {
            let at = self.desired.partition_point(|other| *other < vip);
            self.desired.insert(at, vip);
        }
        self.begin_set(are_noted);
    }

    /// Keeps these no longer, and releases them, also the last one: neither the claim nor its bound
    /// stops what is removed by its name. What is not desired is no news.
    pub fn remove_desired<I>(&mut self, vips: I)
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        let mut goes = sorted(vips);
        goes.retain(|vip| self.is_desired(*vip));
        if goes.is_empty() {
            return;
        }
        self.is_order_new = true;
        let are_noted = self.note_changes(&goes, &[]);
        // What can be no VIP was never put there.
        let could_hold = |vip: &&Vip| self.manager.could_hold(**vip);
        self.leaving.extend(goes.iter().filter(could_hold));
        self.leaving.sort_unstable();
        self.leaving.dedup();
        self.unseen.retain(|vip| goes.binary_search(vip).is_err());
        if goes.len() > LOOKUP_MAX {
            self.desired.retain(|vip| goes.binary_search(vip).is_err());
            goes.clear();
        }
        for vip in goes {
            if let Ok(at) = self.desired.binary_search(&vip) {
                self.desired.remove(at);
            }
        }
        self.begin_set(are_noted);
    }

    /// Begins to keep another set: what comes and goes is all there is to look at, or everything.
    fn begin_set(&mut self, are_changes_noted: bool) {
        self.link_backoff = None;
        if !are_changes_noted {
            self.dirty.clear();
            self.backoffs.clear();
            self.releases = Releases::Allowed;
            self.expected = true;
            self.full = self.is_at_work().then(Instant::now);
        }
        if !self.is_at_work() {
            self.link_state = Keeping::Possible;
            self.families = Default::default();
        }
    }

    /// Whether there is anything to do.
    fn is_at_work(&self) -> bool {
        !self.desired.is_empty() || !self.leaving.is_empty()
    }

    /// Where the set is kept and only a few VIPs change, notes that those are to be looked at. Else
    /// it says no.
    fn note_changes(&mut self, goes: &[Vip], comes: &[Vip]) -> bool {
        let is_kept = self.full.is_none()
            && !self.link_state.is_waiting()
            && matches!(self.releases, Releases::Allowed);
        if !is_kept
            || goes.len() + comes.len() > LOOKUP_MAX
            || goes.iter().any(|vip| self.is_mark_hidden(*vip))
        {
            return false;
        }
        // A set without an admissible VIP is to be refused.
        let stays = |vip: &Vip| goes.binary_search(vip).is_err() && self.manager.could_assign(*vip);
        if !self.desired.iter().any(stays) {
            return false;
        }
        for vip in goes {
            self.backoffs.remove(vip);
            let mut notified = self.dirty.remove(vip).unwrap_or_default();
            if !self.manager.could_hold(*vip) {
                // Nor does any other call release what can be no VIP.
                continue;
            }
            // For want of a source it was never put there.
            notified.unverified |= !self.manager.could_assign(*vip) || self.waits(vip.family());
            self.add_known(*vip, &mut notified);
            self.dirty.insert(*vip, notified);
        }
        for vip in comes {
            self.backoffs.remove(vip);
            self.dirty.entry(*vip).or_default().unverified = true;
        }
        true
    }

    /// Whether the VIPs of a family cannot be kept just now.
    fn waits(&self, family: Family) -> bool {
        self.families[family].is_waiting()
    }

    /// Adds what is known of the address of a desired VIP: it was verified before, and nothing has
    /// told otherwise. IPv6 is asked.
    fn add_known(&self, vip: Vip, notified: &mut Notified) {
        if vip.family() == Family::V4 && !notified.unverified {
            let known = self.manager.config().how_bound() == Binding::Address;
            notified.address = notified.address.or(Some(known));
        }
    }

    /// Whether only a dump of the link's addresses could tell that the VIP bears the mark by which
    /// it is claimed.
    fn is_mark_hidden(&self, vip: Vip) -> bool {
        self.claim.needs_mark()
            && vip.family() == Family::V4
            && self.manager.config().address_protocol.is_some()
    }

    /// Changes the source of its family: the node's address has changed. The next
    /// [`dispatch`](Self::dispatch) moves the VIPs, each in place.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for an address that no node can have.
    pub fn set_source(&mut self, source: impl Into<IpAddr>) -> Result<(), Error> {
        self.manager.replace_source(source.into())?;
        self.expected = true;
        self.is_order_new = true;
        self.link_backoff = None;
        self.resync(Instant::now());
        Ok(())
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The desired VIPs, in order of address.
    #[must_use]
    pub fn desired(&self) -> &[Vip] {
        &self.desired
    }

    /// The VIPs that failed when the keeper last looked at them, in order of address. While the link
    /// is missing, these are the failures of before.
    pub fn failing(&self) -> impl ExactSizeIterator<Item = &Failure> {
        self.failing.values()
    }

    /// How the keeper stands now.
    #[must_use]
    pub fn status(&self) -> KeeperStatus {
        let [ipv4, ipv6] = Family::ALL.map(|family| self.family_status(family));
        KeeperStatus {
            ipv4,
            ipv6,
            last_full_sync: self.last_full_sync.map(|at| at.elapsed()),
        }
    }

    fn family_status(&self, family: Family) -> FamilyStatus {
        let desired = self.desired.iter().filter(|vip| vip.family() == family);
        let failing = self.failing.keys().filter(|vip| vip.family() == family);
        let states = [&self.link_state, &self.families[family]];
        FamilyStatus {
            desired: desired.count(),
            failing: failing.count(),
            waiting: states.into_iter().find_map(Keeping::waiting),
            last_success: self.last_success[family].map(|at| at.elapsed()),
        }
    }

    /// When [`dispatch`](Self::dispatch) is to be called even if nothing happens. `None`: never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let dirty = self.dirty.keys().map(|vip| self.free_at(*vip)).min();
        let waits = self.families.iter().any(Keeping::is_waiting);
        let again = waits.then_some(self.again);
        let due = [self.full, again, dirty.flatten()];
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
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.manager.canceller()
    }

    /// Gives the manager back; the VIPs stay as they are.
    #[must_use]
    pub fn into_manager(self) -> VipManager {
        self.manager
    }

    /// Takes what has happened and repairs what is due, at most `max_vips` (but at least one) of the
    /// VIPs that drifted one by one. Does not wait for events, only for the kernel to finish what it
    /// was told.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`], [`ErrorKind::InvalidConfig`], [`ErrorKind::EmptySet`] (VIPs are
    /// desired, but no admissible one), [`ErrorKind::Cancelled`] and [`ErrorKind::System`]; and
    /// [`ErrorKind::TooManyReleases`] for a set that is new: nothing was written, and a better set can
    /// be given. Whatever it was, the keeper can go on, and but for an empty set it tries again. What is
    /// merely missing, and VIPs that fell short, are no errors: see [`Dispatched`].
    pub fn dispatch(&mut self, max_vips: usize) -> Result<Dispatched, Error> {
        self.listen()?;
        if !self.is_at_work() {
            self.dirty.clear();
            return Ok(self.dispatched(Report::default(), Look::At(&[])));
        }
        self.look_again();
        if self.full.is_some_and(|at| at <= Instant::now()) {
            return self.keep_all();
        }
        if self.link_state.is_waiting() {
            // Nothing can be mended until that is back, and then everything is looked at.
            self.dirty.clear();
            return Ok(self.dispatched(Report::default(), Look::At(&[])));
        }
        self.keep_dirty(max_vips.max(1))
    }

    /// Looks whether what a family waits for is there. Most of it comes with an event, but not every
    /// sysctl has one, nor have address labels.
    fn look_again(&mut self) {
        let now = Instant::now();
        let waiting = PerFamily::from_fn(|family| self.waits(family));
        if !waiting.any() || now < self.again {
            return;
        }
        self.again = now + RETRY;
        let desired = self.desired.iter().copied();
        let Ok(troubles) = self.manager.troubles(waiting, desired) else {
            // It is more than a family's: whoever reads the link is told.
            self.resync(now);
            return;
        };
        for family in Family::ALL.into_iter().filter(|f| waiting[*f]) {
            match &troubles[family] {
                Some(trouble) => self.wait_for(family, trouble.kind, &trouble.detail),
                None => self.resync(now),
            }
        }
    }

    fn wait_for(&mut self, family: Family, kind: ErrorKind, detail: &str) {
        self.families[family].wait_for(Missing {
            family: Some(family),
            kind,
            detail: detail.into(),
        });
    }

    /// Keeps the set until it is cancelled. Calls `each` after each dispatch that
    /// [has news](Dispatched::has_news).
    ///
    /// # Errors
    ///
    /// As for [`dispatch`](Self::dispatch), but for the cancellation, which is how it ends, and for
    /// failures of the system that pass: only the tenth in a row ends it.
    pub fn run(&mut self, mut each: impl FnMut(&Dispatched)) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            match self.dispatch(usize::MAX) {
                Ok(done) => {
                    failures = 0;
                    if done.has_news {
                        each(&done);
                    }
                    if done.more {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Ok(()),
                Err(error) if may_pass(&error) && failures < 9 => {
                    failures += 1;
                    // Not at once, even if an event calls.
                    let socket = self.manager.cancelled();
                    let _ = wait_readable(socket, socket, RETRY);
                }
                Err(error) => return Err(error),
            }
            // No deadline: as long as a wait can be.
            let patience = self
                .next_deadline()
                .map_or(Duration::from_secs(86_400), |at| {
                    at.saturating_duration_since(Instant::now())
                });
            let woken = wait_readable(&self.socket, self.manager.cancelled(), patience)
                .map_err(|error| Error::io("cannot wait for notifications", &error))?;
            if woken == Woken::Cancelled && self.manager.cancelled().take() {
                return Ok(());
            }
        }
    }

    fn resync(&mut self, at: Instant) {
        if self.is_at_work() {
            let free = self.link_backoff.map_or(at, |backoff| backoff.until);
            let at = at.max(free);
            self.full = Some(self.full.map_or(at, |before| before.min(at)));
        }
    }

    /// What a dispatch has to say that looked at these VIPs.
    fn dispatched(&mut self, report: Report, look: Look<'_>) -> Dispatched {
        let is_order_new = std::mem::take(&mut self.is_order_new);
        // Without the link no VIP was looked at.
        let looked = !self.link_state.is_waiting();
        let recovered = self.take_recovered(&report, look, is_order_new);
        let new_failures = match looked {
            true => self.note_failures(&report),
            false => Vec::new(),
        };
        let missing: Vec<Missing> = [&self.link_state]
            .into_iter()
            .chain(self.families.iter())
            .filter_map(Keeping::missing)
            .cloned()
            .collect();
        let refused = self.releases.in_words();
        let refused = refused.map(|(kind, detail)| (kind, Box::from(detail)));
        let has_news = is_order_new
            || report.writes > 0
            || !new_failures.is_empty()
            || !recovered.is_empty()
            || missing != self.said_missing
            || refused != self.said_refused;
        self.said_missing.clone_from(&missing);
        self.said_refused.clone_from(&refused);
        // What is due now is due at no earlier moment than when that was asked.
        let next = self.next_deadline();
        Dispatched {
            report,
            new_failures,
            recovered,
            has_news,
            missing,
            refused: refused.as_ref().map(|(kind, _)| *kind),
            detail: refused.map(|(_, detail)| detail.into()),
            more: next.is_some_and(|at| at <= Instant::now()),
        }
    }

    /// Forgets the failures that ended: of VIPs that were looked at and not found failing, and after
    /// an order of VIPs that are to be kept or released no longer.
    fn take_recovered(
        &mut self,
        report: &Report,
        look: Look<'_>,
        is_order_new: bool,
    ) -> Vec<Failure> {
        let fails = |vip: &Vip| failure_of(report, vip).is_some();
        match look {
            Look::At(vips) if !is_order_new => vips
                .iter()
                .filter(|vip| !fails(vip))
                .filter_map(|vip| self.failing.remove(vip))
                .collect(),
            _ => {
                let (desired, leaving) = (&self.desired, &self.leaving);
                let is_ours = |vip: &Vip| {
                    desired.binary_search(vip).is_ok() || leaving.binary_search(vip).is_ok()
                };
                let goes_on = |vip: &Vip| fails(vip) || !look.is_at(*vip) && is_ours(vip);
                let mut recovered = Vec::new();
                self.failing.retain(|vip, failure| {
                    let goes_on = goes_on(vip);
                    if !goes_on {
                        recovered.push(failure.clone());
                    }
                    goes_on
                });
                recovered
            }
        }
    }

    /// Remembers the failures of a report; returns the new ones.
    fn note_failures(&mut self, report: &Report) -> Vec<Failure> {
        let mut new = Vec::new();
        for failure in &report.failures {
            if self.failing.get(&failure.vip) != Some(failure) {
                self.failing.insert(failure.vip, failure.clone());
                new.push(failure.clone());
            }
        }
        self.counters.failures += new.len() as u64;
        new
    }

    /// Counts the new VIPs that were looked at and found right.
    fn note_adopted(&mut self, report: &Report, look: Look<'_>) {
        if self.unseen.is_empty() {
            return;
        }
        let mut written: Vec<Vip> = self.manager.written().map(|(vip, _)| vip).collect();
        written.sort_unstable();
        let mut adopted = 0;
        self.unseen.retain(|vip| {
            let is_right = look.is_at(*vip) && failure_of(report, vip).is_none();
            adopted += u64::from(is_right && written.binary_search(vip).is_err());
            !is_right
        });
        self.counters.adopted += adopted;
    }

    /// Reconciles the whole link.
    fn keep_all(&mut self) -> Result<Dispatched, Error> {
        self.full = None;
        self.dirty.clear();
        self.counters.resyncs += 1;
        // What told that it is another one by now may be among lost notifications.
        match self.manager.find_link() {
            Ok(link) => self.link = link.map(|link| link.index),
            Err(error) => return self.conclude(Err(error), Look::All, false),
        }
        let mut result = self.reconcile();
        let expected = std::mem::take(&mut self.expected);
        if let Err(error) = &result
            && error.kind() == ErrorKind::TooManyReleases
        {
            // Too many strangers are no reason to let the desired ones down. But where the set is
            // new, perhaps it is the set that is wrong.
            self.releases = Releases::Refused(error.detail().into());
            if expected {
                self.resync(Instant::now());
                return result.map(|_| Dispatched::default());
            }
            result = self.reconcile();
        }
        let done = self.conclude(result, Look::All, !expected);
        // Whoever did not get so far is still to do what was asked for.
        self.expected = expected && (done.is_err() || self.link_state.is_waiting());
        let done = done?;
        if done.report.writes > 0 && !expected {
            let backoff = self
                .link_backoff
                .get_or_insert(Backoff::begin(Instant::now()));
            self.counters.backoffs += u64::from(backoff.repair(Instant::now(), 1));
        }
        Ok(done)
    }

    fn reconcile(&mut self) -> Result<Report, Error> {
        let leaving = Leaving {
            claim: &self.claim,
            named: &self.leaving,
            only_named: self.releases.are_refused(),
            desired: self.desired_families(),
        };
        self.manager.keep(leaving, &self.desired)
    }

    /// Of which families an admissible VIP is desired.
    fn desired_families(&self) -> PerFamily<bool> {
        PerFamily::from_fn(|family| {
            let mut vips = self.desired.iter().filter(|vip| vip.family() == family);
            vips.any(|vip| self.manager.could_assign(*vip))
        })
    }

    /// Mends what is dirty and not being fought over.
    fn keep_dirty(&mut self, max_vips: usize) -> Result<Dispatched, Error> {
        let now = Instant::now();
        let releases = !self.releases.are_refused() && !self.desired.is_empty();
        let waits = PerFamily::from_fn(|family| self.waits(family));
        let (desired, leaving) = (&self.desired, &self.leaving);
        self.dirty.retain(|vip, _| {
            if desired.binary_search(vip).is_ok() {
                // When its family is back, everything is looked at.
                !waits[vip.family()]
            } else {
                releases || leaving.binary_search(vip).is_ok()
            }
        });
        let free = |vip: &Vip| {
            self.backoffs
                .get(vip)
                .is_none_or(|backoff| backoff.until <= now)
        };
        let due: Vec<Vip> = self.dirty.keys().filter(|vip| free(vip)).copied().collect();
        if due.is_empty() {
            return Ok(self.dispatched(Report::default(), Look::At(&[])));
        }
        let is_hidden = |vip: &Vip| !self.is_desired(*vip) && self.is_mark_hidden(*vip);
        if due.len() > LOOKUP_MAX && max_vips > LOOKUP_MAX || due.iter().any(is_hidden) {
            return self.keep_all();
        }
        let due = &due[..due.len().min(max_vips).min(LOOKUP_MAX)];
        let mut all_notified = Vec::with_capacity(due.len());
        for vip in due {
            if let Some(mut notified) = self.dirty.remove(vip) {
                if self.is_desired(*vip) {
                    self.add_known(*vip, &mut notified);
                }
                all_notified.push((*vip, notified));
            }
        }
        self.counters.looks += due.len() as u64;
        let leaving = Leaving {
            claim: &self.claim,
            named: &self.leaving,
            only_named: self.releases.are_refused(),
            desired: self.desired_families(),
        };
        let desired = &self.desired;
        let vips = due
            .iter()
            .map(|vip| (*vip, desired.binary_search(vip).is_ok()));
        let result = self.manager.mend(leaving, vips, all_notified);
        if let Err(error) = &result
            && error.kind() == ErrorKind::TooManyReleases
        {
            // The desired ones among them are looked at with all others.
            self.releases = Releases::Refused(error.detail().into());
            return self.keep_all();
        }
        self.conclude(result, Look::At(due), true)
    }

    fn is_desired(&self, vip: Vip) -> bool {
        self.desired.binary_search(&vip).is_ok()
    }

    /// Takes note of a call's outcome. With `watch`, of who was repaired too.
    fn conclude(
        &mut self,
        result: Result<Report, Error>,
        look: Look<'_>,
        watch: bool,
    ) -> Result<Dispatched, Error> {
        let report = match result {
            Ok(report) => report,
            Err(error)
                if matches!(error.kind(), ErrorKind::LinkNotFound | ErrorKind::LinkInVrf) =>
            {
                if error.kind() == ErrorKind::LinkNotFound {
                    // What was to leave it went with it.
                    self.leaving.clear();
                }
                if self.is_at_work() {
                    self.link_state.wait_for(Missing {
                        family: None,
                        kind: error.kind(),
                        detail: error.detail().into(),
                    });
                }
                // Nearly always it comes back with an event.
                self.resync(Instant::now() + RETRY);
                let report = error.into_report().unwrap_or_default();
                return Ok(self.dispatched(report, Look::At(&[])));
            }
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                error.into_report().unwrap_or_default()
            }
            Err(error) => {
                match error.kind() {
                    // Whoever goes on afterwards begins where this ended.
                    ErrorKind::Cancelled => self.resync(Instant::now()),
                    // It would be refused again: a better set is needed.
                    ErrorKind::EmptySet => {}
                    // What is to be done about it, no event tells; and what was to be kept is not.
                    _ => self.resync(Instant::now() + RETRY),
                }
                return Err(error);
            }
        };
        self.link_state = Keeping::Possible;
        if matches!(look, Look::All) {
            self.last_full_sync = Some(Instant::now());
            let lacks = |family: Family| {
                let of_family = |failure: &&Failure| {
                    failure.vip.family() == family
                        && matches!(failure.cause, Cause::Missing(kind) if kind != ErrorKind::EmptySet)
                };
                report.failures.iter().find(of_family)
            };
            for family in Family::ALL {
                match lacks(family) {
                    None => self.families[family] = Keeping::Possible,
                    Some(Failure {
                        cause: Cause::Missing(kind),
                        detail,
                        ..
                    }) => {
                        self.wait_for(family, *kind, detail.as_deref().unwrap_or_default());
                        self.again = Instant::now() + RETRY;
                    }
                    Some(_) => {}
                }
            }
            if !self.releases.are_refused() && !self.desired.is_empty() {
                self.releases = Releases::Allowed;
            }
        }
        let failed = |vip: &Vip| {
            failure_of(&report, vip)
                .is_some_and(|failure| !matches!(failure.cause, Cause::Rejected(_)))
        };
        self.leaving.retain(|vip| failed(vip) || !look.is_at(*vip));
        self.note_adopted(&report, look);
        let calm = |backoff: &Backoff| Instant::now().duration_since(backoff.last) >= CALM;
        if self.link_backoff.as_ref().is_some_and(calm) {
            self.link_backoff = None;
        }
        self.counters.repairs += (report.assigned + report.repaired + report.released) as u64;
        self.counters.released += report.released as u64;
        let now = Instant::now();
        self.backoffs
            .retain(|_, backoff| now.duration_since(backoff.last) < CALM);
        if watch {
            for (vip, was_undone) in self.manager.written() {
                if was_undone {
                    // The call has been patient enough.
                    let backoff = self.backoffs.entry(vip).or_insert(Backoff::begin(now));
                    backoff.repairs = backoff.repairs.max(PATIENCE);
                }
                let paused = pause(&mut self.backoffs, vip, now, 1);
                self.counters.backoffs += u64::from(paused);
            }
        }
        for failure in &report.failures {
            let (times, fought) = match failure.cause {
                // It can never be one.
                Cause::Rejected(_) => continue,
                Cause::Missing(kind) => {
                    self.note_missing(failure, kind);
                    continue;
                }
                // It is another's, or in a form that is not ours to change: until that ends.
                Cause::Conflict | Cause::Unrepaired | Cause::Unread => (1, false),
                _ => (PATIENCE + 1, true),
            };
            let paused = pause(&mut self.backoffs, failure.vip, now, times);
            self.counters.backoffs += u64::from(paused && fought);
            self.dirty.entry(failure.vip).or_default().unverified = true;
            if let Some(backoff) = self.backoffs.get_mut(&failure.vip) {
                backoff.until = backoff.until.max(now + RETRY);
            }
        }
        let done = self.dispatched(report, look);
        for family in Family::ALL {
            let has_family = |vip: &Vip| vip.family() == family;
            let is_seen = match look {
                Look::All => self.desired.iter().any(has_family),
                Look::At(vips) => vips.iter().any(has_family),
            };
            if is_seen && !self.failing.keys().any(has_family) {
                self.last_success[family] = Some(now);
            }
        }
        Ok(done)
    }

    /// Takes note of what a VIP's family lacks. That is looked for, not the VIP.
    fn note_missing(&mut self, failure: &Failure, kind: ErrorKind) {
        let family = failure.vip.family();
        let detail = failure.detail.as_deref().unwrap_or_default();
        if kind == ErrorKind::EmptySet {
            if matches!(self.releases, Releases::Allowed) {
                self.releases = Releases::Guarded(detail.into());
            }
        } else if !self.waits(family) {
            self.wait_for(family, kind, detail);
            self.again = Instant::now() + RETRY;
        }
    }

    /// Reads the notifications.
    fn listen(&mut self) -> Result<(), Error> {
        loop {
            let received = self
                .socket
                .receive(&mut self.receive)
                .map_err(|error| Error::io("cannot receive notifications", &error))?;
            let mut lost = false;
            match received {
                Received::Nothing => return Ok(()),
                Received::Overflow => lost = true,
                Received::Datagram(datagram) => {
                    let mut handler = NotificationHandler {
                        manager: &self.manager,
                        desired: &self.desired,
                        link: &mut self.link,
                        dirty: &mut self.dirty,
                        counters: &mut self.counters,
                    };
                    for message in decode::messages(datagram) {
                        let heard = message.and_then(|message| handler.hear(&message));
                        lost |= heard != Ok(Heard::Noted);
                    }
                }
            }
            if lost {
                self.resync(Instant::now());
            }
        }
    }
}

/// Doors for the tests.
#[cfg(test)]
impl Keeper {
    /// Makes all that is remembered so much older, as if that time had passed.
    pub(crate) fn age(&mut self, by: Duration) {
        for backoff in self.backoffs.values_mut().chain(&mut self.link_backoff) {
            backoff.last -= by;
            backoff.until -= by;
        }
        if let Some(at) = &mut self.full {
            *at -= by;
        }
        self.again -= by;
    }

    pub(crate) fn manager_mut(&mut self) -> &mut VipManager {
        &mut self.manager
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// For event loops that take nothing else, tokio's `AsyncFd` for one. Always the same, and open as
/// long as the keeper lives.
impl AsRawFd for Keeper {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// What a call looked at.
#[derive(Clone, Copy)]
enum Look<'a> {
    /// The whole link.
    All,
    /// These VIPs, sorted.
    At(&'a [Vip]),
}

impl Look<'_> {
    fn is_at(self, vip: Vip) -> bool {
        match self {
            Self::All => true,
            Self::At(vips) => vips.binary_search(&vip).is_ok(),
        }
    }
}

/// The failure of a VIP. A report has them in order.
fn failure_of<'a>(report: &'a Report, vip: &Vip) -> Option<&'a Failure> {
    let failures = &report.failures;
    let at = failures.binary_search_by_key(vip, |failure| failure.vip);
    at.ok().map(|at| &failures[at])
}

/// Whether it may be over at the next try. The kernel never comes to make a kind of link that it
/// does not know.
fn may_pass(error: &Error) -> bool {
    error.kind() == ErrorKind::System && error.raw_os_error() != Some(libc::EOPNOTSUPP)
}

/// VIPs as a set: in order, each once.
fn sorted<I>(vips: I) -> Vec<Vip>
where
    I: IntoIterator,
    I::Item: Into<Vip>,
{
    let mut vips: Vec<Vip> = vips.into_iter().map(Into::into).collect();
    if !vips.is_sorted_by(|a, b| a < b) {
        vips.sort_unstable();
        vips.dedup();
    }
    vips
}

/// What is left of two sorted sets without what they begin and end with in common.
fn differing<'a>(mut one: &'a [Vip], mut other: &'a [Vip]) -> (&'a [Vip], &'a [Vip]) {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    (one, other) = (&one[same..], &other[same..]);
    let pairs = one.iter().rev().zip(other.iter().rev());
    let same = pairs.take_while(|(a, b)| a == b).count();
    (&one[..one.len() - same], &other[..other.len() - same])
}

/// Takes note of repairs of a VIP; says whether the next one has to wait for them.
fn pause(backoffs: &mut BTreeMap<Vip, Backoff>, vip: Vip, now: Instant, repairs: u32) -> bool {
    backoffs
        .entry(vip)
        .or_insert(Backoff::begin(now))
        .repair(now, repairs)
}

impl Backoff {
    fn begin(now: Instant) -> Self {
        Self {
            repairs: 0,
            last: now,
            until: now,
        }
    }

    /// Takes note of repairs; says whether the next one has to wait for them.
    fn repair(&mut self, now: Instant, repairs: u32) -> bool {
        self.repairs = self.repairs.saturating_add(repairs);
        self.last = now;
        let Some(over) = self.repairs.checked_sub(PATIENCE + 1) else {
            return false;
        };
        let time = FIRST_PAUSE.saturating_mul(1 << over.min(16));
        self.until = now + time.min(LONGEST_PAUSE);
        true
    }
}

/// What a notification asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Nothing beyond what was noted.
    Noted,
    /// The whole link is to be looked at.
    Resync,
}

/// What notifications are heard with.
struct NotificationHandler<'a> {
    manager: &'a VipManager,
    desired: &'a [Vip],
    link: &'a mut Option<u32>,
    dirty: &'a mut BTreeMap<Vip, Notified>,
    counters: &'a mut Counters,
}

impl NotificationHandler<'_> {
    fn hear(&mut self, message: &Message<'_>) -> Result<Heard, decode::Malformed> {
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.hear_link(message),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.hear_address(message),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.hear_route(message),
            _ => Ok(Heard::Noted),
        }
    }

    /// Whatever happens to the link may have happened to all its VIPs.
    fn hear_link(&mut self, message: &Message<'_>) -> Result<Heard, decode::Malformed> {
        let told = message.link()?;
        if !told.is_itself {
            return Ok(Heard::Noted);
        }
        let config = self.manager.config();
        let is_ours = config.is_link(&told);
        let known = *self.link == Some(told.index);
        if message.kind == libc::RTM_NEWLINK && is_ours {
            *self.link = Some(told.index);
        } else if known {
            *self.link = None;
        } else {
            return Ok(Heard::Noted);
        }
        self.counters.events += 1;
        Ok(Heard::Resync)
    }

    fn hear_address(&mut self, message: &Message<'_>) -> Result<Heard, decode::Malformed> {
        let Some(address) = message.address()? else {
            return Ok(Heard::Noted);
        };
        let there = message.kind == libc::RTM_NEWADDR;
        if self.manager.sources().contains(&Some(address.addr)) {
            // With the source go, or come, the routes of a whole family.
            self.counters.events += 1;
            return Ok(Heard::Resync);
        }
        if Some(address.link) != *self.link {
            return Ok(Heard::Noted);
        }
        let vip = Vip::from(address.addr);
        let family = vip.family();
        if message.port != self.manager.port()
            && !there
            && family == Family::V4
            && self.manager.config().how_bound() == Binding::Route
        {
            // Perhaps the last one of the link: then all IPv4 routes through it went, and the
            // kernel says nothing of that.
            self.counters.events += 1;
            return Ok(Heard::Resync);
        }
        // Our own IPv6 changes bear no port id: they cost a look.
        if message.port == self.manager.port() || !self.concerns(vip) {
            return Ok(Heard::Noted);
        }
        self.counters.events += 1;
        if address.prefix_length == family.host_bits() {
            let is_desired = self.is_desired(vip);
            let notified = self.dirty.entry(vip).or_default();
            notified.note_address(&address, there);
            // Of one that was not looked at before, no other length was told.
            notified.unverified |= there && family == Family::V4 && !is_desired;
            Ok(Heard::Noted)
        } else if self.is_desired(vip) || self.dirty.contains_key(&vip) {
            // Looked at one by one it would not show in IPv4.
            Ok(Heard::Resync)
        } else {
            // An ordinary address is no VIP.
            Ok(Heard::Noted)
        }
    }

    fn hear_route(&mut self, message: &Message<'_>) -> Result<Heard, decode::Malformed> {
        let Some(route) = message.route()? else {
            return Ok(Heard::Noted);
        };
        let Some(host) = route.host() else {
            return Ok(Heard::Noted);
        };
        let vip = Vip::from(host);
        let ours = route.link.is_some() && route.link == *self.link;
        // A VIP that is not desired shows by a local route that is there for no address, as in
        // every other call; any other route is somebody's own.
        let shows = route.kind == libc::RTN_LOCAL && !route.is_kernels_own();
        let matters = !route.cloned
            && match route.table {
                TABLE_LOCAL => self.is_desired(vip) || ours && shows,
                TABLE_MAIN => ours && self.is_desired(vip),
                _ => false,
            };
        if !matters || !self.concerns(vip) {
            return Ok(Heard::Noted);
        }
        let notified = if message.port == self.manager.port() {
            // Our own change calls for nothing, but outdates what was told before.
            let Some(notified) = self.dirty.get_mut(&vip) else {
                return Ok(Heard::Noted);
            };
            if message.kind == libc::RTM_NEWROUTE {
                return Ok(Heard::Noted);
            }
            notified
        } else {
            self.counters.events += 1;
            self.dirty.entry(vip).or_default()
        };
        let same = |other: &Route| {
            (
                other.table,
                other.metric,
                other.protocol,
                other.tos,
                other.prefsrc,
            ) == (
                route.table,
                route.metric,
                route.protocol,
                route.tos,
                route.prefsrc,
            )
        };
        if message.kind == libc::RTM_DELROUTE {
            notified.routes.retain(|other| !same(other));
        } else if ours && !route.indirect && !notified.routes.iter().any(same) {
            notified.routes.push(route);
        }
        Ok(Heard::Noted)
    }

    fn is_desired(&self, vip: Vip) -> bool {
        self.desired.binary_search(&vip).is_ok()
    }

    /// Whether the VIP is desired, or could be one that is claimed.
    fn concerns(&self, vip: Vip) -> bool {
        self.is_desired(vip) || self.manager.could_hold(vip)
    }
}

impl VipManager {
    /// Makes a [`Keeper`] of this manager, which holds a desired set until told to stop. Writes
    /// nothing. Its [watchers](Self::watcher) and cancellers go on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] if a socket cannot be opened; [`ErrorKind::InvalidConfig`] if the claim
    /// goes by a mark that the manager has not; [`ErrorKind::InvalidNetns`] if the manager was opened
    /// without [`VipManagerBuilder::netns`] in another network namespace than the calling thread's.
    pub fn into_keeper(self, claim: Claim) -> Result<Keeper, Error> {
        check_claim(&claim, &self.config)?;
        let socket = self.open_listener()?;
        Keeper::new(self, claim, socket)
    }
}
