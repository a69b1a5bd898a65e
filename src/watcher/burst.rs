//! Changes of one VIP in one burst of notifications are one event.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::base::{Family, Vip};
use crate::core::VipFilter;
use crate::netlink::decode::{Address, Route};

use super::{Change, Event, Origin};

/// The changes of one burst, and what is needed to judge them.
pub(super) struct Burst {
    filter: VipFilter,
    /// Addresses of the link with a prefix that is no host's, and whether they are still there: the
    /// kernel's own route goes after its address.
    pub(super) wide: BTreeMap<IpAddr, bool>,
    vips: BTreeMap<Vip, (Change, Origin)>,
}

impl Burst {
    pub(super) fn new(filter: VipFilter) -> Self {
        Self {
            filter,
            wide: BTreeMap::new(),
            vips: BTreeMap::new(),
        }
    }

    pub(super) fn flush(&mut self, events: &mut Vec<Event>) {
        while let Some((vip, (change, origin))) = self.vips.pop_first() {
            events.push(Event::Vip {
                vip,
                change,
                origin,
            });
        }
    }

    /// Takes note of a change of what could be a VIP.
    pub(super) fn note(&mut self, addr: IpAddr, change: Change, origin: Origin) {
        let vip = Vip::from(addr);
        if !self.filter.is_on_link(vip) {
            return;
        }
        let (changes, origins) = self.vips.entry(vip).or_default();
        *changes |= change;
        *origins |= origin;
    }

    /// Takes note of how long an address's prefix is; says whether it is a host's.
    pub(super) fn note_length(&mut self, address: &Address, there: bool) -> bool {
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
    pub(super) fn is_of_wide(&mut self, host: IpAddr, route: &Route, new: bool) -> bool {
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
