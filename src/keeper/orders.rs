//! What the caller orders: the desired set, and the sources.

use std::net::IpAddr;
use std::time::Instant;

use super::reading::Why;
use super::state::{ReleaseChange, Releases};
use super::{Keeper, LOOKUP_MAX};
use crate::base::{Family, Vip};
use crate::core::Binding;
use crate::engine::lookup::Notified;
use crate::outcome::Error;

impl Keeper {
    /// Sets the VIPs to keep from now on. The next [`dispatch`](Self::dispatch) assigns and releases.
    /// Where a few VIPs come or go, it looks at those alone.
    ///
    /// An empty set releases nothing, and the keeper keeps nothing from then on ([`Dispatched::refused`](crate::Dispatched::refused)). The
    /// same holds for each family alone: a set without an IPv6 VIP releases no IPv6 VIP. To release the last
    /// VIP, name it in [`remove_desired`](Self::remove_desired). To wipe, call [`release_all`](crate::VipManager::release_all) on the manager
    /// ([`into_manager`](Self::into_manager)).
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)]);
    /// let done = keeper.dispatch(usize::MAX)?;
    /// assert_eq!(done.report.assigned, 2);
    /// // The previous set is replaced.
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 11)]);
    /// let done = keeper.dispatch(usize::MAX)?;
    /// assert_eq!(done.report.released, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_desired<I: IntoIterator<Item: Into<Vip>>>(&mut self, desired: I) {
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
            self.releases.update(&ReleaseChange::NoneDesired(detail));
        }
    }

    /// Adds VIPs to the desired set: as [`set_desired`](Self::set_desired) with the union, without a
    /// comparison of the whole sets.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// keeper.add_desired([Ipv4Addr::new(10, 96, 0, 11)]);
    /// let done = keeper.dispatch(usize::MAX)?;
    /// assert_eq!(done.report.assigned, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_desired<I: IntoIterator<Item: Into<Vip>>>(&mut self, vips: I) {
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

    /// Removes VIPs from the desired set and releases them, the last VIP too. The claim and its bound do not
    /// limit a release by name. VIPs that are not desired are ignored.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// keeper.dispatch(usize::MAX)?;
    /// // The last VIP, too.
    /// keeper.remove_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// let done = keeper.dispatch(usize::MAX)?;
    /// assert_eq!(done.report.released, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_desired<I: IntoIterator<Item: Into<Vip>>>(&mut self, vips: I) {
        let mut goes = sorted(vips);
        goes.retain(|vip| self.is_desired(*vip));
        if goes.is_empty() {
            return;
        }
        self.is_order_new = true;
        let are_noted = self.note_changes(&goes, &[]);
        // An address that cannot be a VIP was never assigned.
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

    /// Begins a new desired set. If the changes are noted, only the changed VIPs are looked at; otherwise the whole
    /// link is read.
    fn begin_set(&mut self, are_changes_noted: bool) {
        self.reading.end_fight(Instant::now());
        if !are_changes_noted {
            self.dirty.clear();
            self.backoffs.clear();
            self.releases.update(&ReleaseChange::NewSet);
            self.reading.schedule(Why::Order, Instant::now());
        }
        if !self.is_at_work() {
            self.link_state.update(None);
            for family in Family::ALL {
                self.families[family].update(None);
            }
        }
    }

    /// Marks the changed VIPs to be looked at. Returns false if the whole link must be read instead.
    fn note_changes(&mut self, goes: &[Vip], comes: &[Vip]) -> bool {
        let is_kept = !self.reading.is_certain()
            && !self.link_state.is_waiting()
            && matches!(self.releases, Releases::Allowed);
        if !is_kept
            || goes.len() + comes.len() > LOOKUP_MAX
            || goes.iter().any(|vip| self.is_mark_hidden(*vip))
        {
            return false;
        }
        // A set without an admissible VIP is to be refused.
        let stays =
            |vip: &Vip| goes.binary_search(vip).is_err() && self.manager.check(*vip).is_ok();
        if !self.desired.iter().any(stays) {
            return false;
        }
        for vip in goes {
            self.backoffs.remove(vip);
            let mut notified = self.dirty.remove(*vip).unwrap_or_default();
            if !self.manager.could_hold(*vip) {
                // No other call releases an address that cannot be a VIP either.
                continue;
            }
            // The VIP may never have been assigned, because its family lacked a source.
            notified.unverified |= self.manager.check(*vip).is_err() || self.waits(vip.family());
            self.add_known(*vip, &mut notified);
            *self.dirty.entry(*vip) = notified;
        }
        for vip in comes {
            self.backoffs.remove(vip);
            self.dirty.entry(*vip).unverified = true;
        }
        true
    }

    /// Adds what is known of the address of a desired VIP: it was verified before, and nothing has
    /// said otherwise. For IPv6 the kernel is asked.
    pub(super) fn add_known(&self, vip: Vip, notified: &mut Notified) {
        if vip.family() == Family::V4 && !notified.unverified {
            let known = self.manager.config.binding == Binding::Address;
            notified.address = notified.address.or(Some(known));
        }
    }

    /// Whether only a dump of the link's addresses could show that the VIP bears the mark by which
    /// it is claimed.
    pub(super) fn is_mark_hidden(&self, vip: Vip) -> bool {
        self.claim.needs_mark()
            && vip.family() == Family::V4
            && self.manager.config.address_protocol.is_some()
    }

    /// Changes the source of its family: the node's address has changed. The next
    /// [`dispatch`](Self::dispatch) moves the VIPs, each in place.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// keeper.dispatch(usize::MAX)?;
    /// // Another address of the node.
    /// keeper.set_source([192, 0, 2, 11])?;
    /// let done = keeper.dispatch(usize::MAX)?;
    /// assert_eq!(done.report.repaired, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for an address that no node can have.
    pub fn set_source(&mut self, source: impl Into<IpAddr>) -> Result<(), Error> {
        self.manager.replace_source(source.into())?;
        self.is_order_new = true;
        self.reading.end_fight(Instant::now());
        self.reading.schedule(Why::Order, Instant::now());
        Ok(())
    }
}

/// VIPs as a set: in order, each once.
pub(super) fn sorted<I: IntoIterator<Item: Into<Vip>>>(vips: I) -> Vec<Vip> {
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
