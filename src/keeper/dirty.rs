//! The VIPs that something happened to, in the order in which it began.

use std::collections::BTreeMap;

use crate::base::Vip;
use crate::engine::lookup::Notified;

/// VIPs to look at. A VIP that changes again keeps its place until it is looked at; a later change puts it
/// behind the others. So no VIP, however often it changes, holds up another one.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    vips: BTreeMap<Vip, (u64, Notified)>,
    /// The place of the next VIP.
    next: u64,
}

impl Dirty {
    /// What is known of a VIP, which is to be looked at from now on.
    pub(super) fn entry(&mut self, vip: Vip) -> &mut Notified {
        let (_, notified) = self.vips.entry(vip).or_insert_with(|| {
            self.next += 1;
            (self.next, Notified::default())
        });
        notified
    }

    pub(super) fn get_mut(&mut self, vip: Vip) -> Option<&mut Notified> {
        self.vips.get_mut(&vip).map(|(_, notified)| notified)
    }

    pub(super) fn contains(&self, vip: Vip) -> bool {
        self.vips.contains_key(&vip)
    }

    pub(super) fn remove(&mut self, vip: Vip) -> Option<Notified> {
        self.vips.remove(&vip).map(|(_, notified)| notified)
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
        let mut due: Vec<(u64, Vip)> = due.map(|(vip, (place, _))| (*place, *vip)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, vip)| vip).collect()
    }
}
