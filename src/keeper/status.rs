//! What a keeper counts, and how it stands.

use std::fmt;
use std::ops::Sub;
use std::time::Duration;

use super::Keeper;
use super::state::{Keeping, Missing};
use crate::base::{Family, Vip};

/// What a keeper has done so far. No counter ever decreases; the difference of two readings is what
/// happened between them.
///
/// ```
#[doc = include_str!("example.txt")]
#[doc = include_str!("example_keeper.txt")]
/// let before = keeper.counters();
/// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
/// keeper.dispatch(usize::MAX)?;
/// println!("{}", keeper.counters() - before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
    /// Repairs that were put off because the VIP had been repaired too often recently.
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
            let one = name.strip_suffix('s').filter(|_| count == 1);
            write!(f, "{comma}{count} {}", one.unwrap_or(name))?;
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
///
/// ```
#[doc = include_str!("example.txt")]
#[doc = include_str!("example_keeper.txt")]
/// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
/// keeper.dispatch(usize::MAX)?;
/// let status = keeper.status();
/// println!("{} of {} fail", status.ipv4.failing, status.ipv4.desired);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeeperStatus {
    /// The IPv4 VIPs.
    pub ipv4: FamilyStatus,
    /// The IPv6 VIPs.
    pub ipv6: FamilyStatus,
    /// How long ago the keeper last read the whole link. `None`: never.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "last_full_sync_seconds", serialize_with = "seconds")
    )]
    pub last_full_sync: Option<Duration>,
    /// How long ago the last dispatch without an error ended, also if it had nothing to do. `None`: never.
    /// Idle, a keeper does not dispatch. [`KeeperHandle::add`](crate::KeeperHandle::add) without a VIP
    /// makes it dispatch, so a caller can see that its thread is alive.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "last_dispatch_seconds", serialize_with = "seconds")
    )]
    pub last_dispatch: Option<Duration>,
}

impl KeeperStatus {
    /// The VIPs of this family.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// use viproute::Family;
    ///
    /// let status = keeper.status();
    /// assert_eq!(status.family(Family::V6), &status.ipv6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn family(&self, family: Family) -> &FamilyStatus {
        match family {
            Family::V4 => &self.ipv4,
            Family::V6 => &self.ipv6,
        }
    }
}

/// How a keeper stands with the VIPs of one family.
///
/// ```
#[doc = include_str!("example.txt")]
/// // No link has this name, and this manager creates none.
/// let manager = VipManager::builder("absent").source([192, 0, 2, 10]).open()?;
/// let mut keeper = manager.into_keeper(Claim::link())?;
/// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
/// keeper.dispatch(usize::MAX)?;
/// let status = keeper.status();
/// let waiting = status.ipv4.waiting.as_ref().unwrap();
/// println!("{} since {:?}", waiting.missing, waiting.since);
/// assert_eq!(waiting.missing.kind, viproute::ErrorKind::LinkNotFound);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FamilyStatus {
    /// How many VIPs are desired.
    pub desired: usize,
    /// How many VIPs failed when the keeper last looked at them: see [`Keeper::failing`].
    pub failing: usize,
    /// What the family waits for: the link, or what it lacks itself. `None`: nothing.
    pub waiting: Option<Waiting>,
    /// How long ago the keeper last looked at VIPs of this family and left none failing. `None`: never.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "last_success_seconds", serialize_with = "seconds")
    )]
    pub last_success: Option<Duration>,
}

/// What a family waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Waiting {
    /// What is missing.
    pub missing: Missing,
    /// How long the family has waited.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "since_seconds", serialize_with = "seconds")
    )]
    pub since: Duration,
}

impl KeeperStatus {
    /// The same status after this time.
    pub(super) fn older(mut self, by: Duration) -> Self {
        let later = |time: &mut Duration| *time += by;
        self.last_full_sync.iter_mut().for_each(later);
        self.last_dispatch.iter_mut().for_each(later);
        for family in [&mut self.ipv4, &mut self.ipv6] {
            family.last_success.iter_mut().for_each(later);
            let waiting = family.waiting.iter_mut();
            waiting.for_each(|waiting| later(&mut waiting.since));
        }
        self
    }
}

/// A duration serializes as a number of seconds.
#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(
    duration: &(impl Copy + Into<Option<Duration>>),
    to: S,
) -> Result<S::Ok, S::Error> {
    let duration: Option<Duration> = (*duration).into();
    serde::Serialize::serialize(&duration.map(|duration| duration.as_secs_f64()), to)
}

impl Keeper {
    pub(super) fn family_status(&self, family: Family) -> FamilyStatus {
        // IPv4 comes first.
        let is_v4 = |vip: &Vip| vip.family() == Family::V4;
        let (v4, v6) = self.desired.split_at(self.desired.partition_point(is_v4));
        let desired = if family == Family::V4 { v4 } else { v6 };
        let failing = self.failing.keys().filter(|vip| vip.family() == family);
        let states = [&self.link_state, &self.families[family]];
        FamilyStatus {
            desired: desired.len(),
            failing: failing.count(),
            waiting: states.into_iter().find_map(Keeping::waiting),
            last_success: self.last_success[family].map(|at| at.elapsed()),
        }
    }
}
