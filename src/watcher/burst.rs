//! Changes of one VIP in one burst of notifications are one event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::base::{Family, Vip};
use crate::core::VipFilter;
use crate::netlink::decode::{Address, Route};

use super::{Change, Event, Origin};

/// The changes of one burst, and what is needed to judge them.
pub(super) struct Burst {
    filter: VipFilter,
    /// Addresses of the link with a prefix that is no host's.
    wide: BTreeSet<IpAddr>,
    /// The address last removed from `wide`. The kernel's own route goes right after its address
    /// (`__ipv6_ifa_notify`, net/ipv6/addrconf.c; `fib_del_ifaddr`, net/ipv4/fib_frontend.c).
    gone: Option<IpAddr>,
    vips: BTreeMap<Vip, (Change, Origin)>,
}

impl Burst {
    pub(super) fn new(filter: VipFilter) -> Self {
        Self {
            filter,
            wide: BTreeSet::new(),
            gone: None,
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
        let addr = address.addr;
        if is_host == there {
            let was_wide = self.wide.remove(&addr);
            self.gone = (was_wide && !there).then_some(addr);
        } else if there && self.filter.is_on_link(addr.into()) {
            self.wide.insert(addr);
        }
        is_host
    }

    /// Forgets the addresses that are no VIPs and have gone: the kernel may have removed their routes without a
    /// notification. If the link is gone, forgets them all.
    pub(super) fn link_changed(&mut self, is_there: bool) {
        self.gone = None;
        if !is_there {
            self.wide.clear();
        }
    }

    /// Whether the kernel made this route of the link, or takes it away, for an address that is no
    /// VIP.
    pub(super) fn is_of_wide(&mut self, host: IpAddr, route: &Route, new: bool) -> bool {
        if !route.is_kernels_own() {
            return false;
        }
        let goes = self.gone == Some(host);
        if goes && !new {
            self.gone = None;
        }
        goes || self.wide.contains(&host)
    }
}
