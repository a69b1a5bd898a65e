//! The VIPs that something happened to, in the order in which it began.

use std::collections::BTreeMap;

use crate::base::Vip;
use crate::engine::lookup::Notified;

/// VIPs to look at. A VIP that changes again keeps its place until it is looked at; a later change puts it
/// behind the others. So no VIP, however often it changes, holds up another one.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    vips: BTreeMap<Vip, Entry>,
    /// The place of the next VIP.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    place: u64,
    notified: Notified,
    /// Something happened to the VIP.
    has_changed: bool,
}

impl Dirty {
    /// What is known of a VIP, to which something happened. It is to be looked at from now on.
    pub(super) fn entry(&mut self, vip: Vip) -> &mut Notified {
        let entry = self.place(vip);
        entry.has_changed = true;
        &mut entry.notified
    }

    /// The VIP is to be looked at again, though nothing may have happened to it.
    pub(super) fn look_again(&mut self, vip: Vip) {
        self.place(vip);
    }

    fn place(&mut self, vip: Vip) -> &mut Entry {
        self.vips.entry(vip).or_insert_with(|| {
            self.next += 1;
            Entry {
                place: self.next,
                notified: Notified::default(),
                has_changed: false,
            }
        })
    }

    pub(super) fn get_mut(&mut self, vip: Vip) -> Option<&mut Notified> {
        self.vips.get_mut(&vip).map(|entry| &mut entry.notified)
    }

    pub(super) fn has_changed(&self, vip: Vip) -> bool {
        self.vips.get(&vip).is_some_and(|entry| entry.has_changed)
    }

    pub(super) fn contains(&self, vip: Vip) -> bool {
        self.vips.contains_key(&vip)
    }

    pub(super) fn remove(&mut self, vip: Vip) -> Option<Notified> {
        self.vips.remove(&vip).map(|entry| entry.notified)
    }

    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&Vip) -> bool) {
        self.vips.retain(|vip, _| is_kept(vip));
    }

    pub(super) fn clear(&mut self) {
        self.vips.clear();
    }

    pub(super) fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.keys()
    }

    /// The VIPs that `is_due` picks, oldest first.
    pub(super) fn by_age(&self, is_due: impl Fn(&Vip) -> bool) -> Vec<Vip> {
        let due = self.vips.iter().filter(|(vip, _)| is_due(vip));
        let mut due: Vec<(u64, Vip)> = due.map(|(vip, entry)| (entry.place, *vip)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, vip)| vip).collect()
    }
}
