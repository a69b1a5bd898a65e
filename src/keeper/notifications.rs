//! The notifications that a keeper reads.

use std::time::Instant;

use super::reading::Why;
use super::{Counters, Dirty, Keeper};
use crate::base::{Family, SourcePolicy, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::Binding;
use crate::manager::VipManager;
use crate::netlink::decode::{self, LinkTraits, Message};
use crate::outcome::Error;
use crate::sys::Received;
use crate::trace::{self, Lost};

pub(super) const RECEIVE_ROOM: usize = 64 * 1024;

impl Keeper {
    /// Reads the notifications.
    pub(super) fn listen(&mut self) -> Result<(), Error> {
        loop {
            let received = self
                .listener
                .receive(&mut self.receive)
                .map_err(|error| Error::io("cannot receive notifications", &error))?;
            let mut heard = Heard::Noted;
            match received {
                Received::Nothing => return Ok(()),
                Received::Overflow => {
                    trace::lost(Lost::Notifications);
                    heard = Heard::ReadAgain;
                }
                Received::Datagram(datagram) => {
                    let mut handler = NotificationHandler {
                        manager: &self.manager,
                        desired: &self.desired,
                        link: &mut self.link,
                        link_traits: &mut self.link_traits,
                        dirty: &mut self.dirty,
                        counters: &mut self.counters,
                    };
                    for message in decode::messages(datagram) {
                        let one = message.and_then(|message| handler.hear(&message));
                        heard = heard.max(one.unwrap_or(Heard::ReadAgain));
                    }
                }
            }
            match heard {
                Heard::Noted => {}
                Heard::ReadAgain => self.reading.schedule(Why::Loss, Instant::now()),
                Heard::Resync => self.reading.schedule(Why::Event, Instant::now()),
            }
        }
    }
}

/// What a notification asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    /// Nothing beyond what was noted.
    Noted,
    /// The whole link is to be looked at, unless such looks have found nothing lately.
    ReadAgain,
    /// The whole link is to be looked at.
    Resync,
}

/// What notifications are heard with.
struct NotificationHandler<'a> {
    manager: &'a VipManager,
    desired: &'a [Vip],
    link: &'a mut Option<u32>,
    link_traits: &'a mut LinkTraits,
    dirty: &'a mut Dirty,
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

    /// A change of the link may have changed all its VIPs, unless it left all that VIPs depend on.
    fn hear_link(&mut self, message: &Message<'_>) -> Result<Heard, decode::Malformed> {
        let link = message.link()?;
        if !link.is_itself {
            return Ok(Heard::Noted);
        }
        let config = &self.manager.config;
        let is_ours = config.is_link(&link);
        let known = *self.link == Some(link.index);
        if message.kind == libc::RTM_NEWLINK && is_ours {
            let traits = link.traits();
            let before = std::mem::replace(self.link_traits, traits);
            *self.link = Some(link.index);
            if known {
                let is_same = before == traits;
                self.counters.events += u64::from(!is_same);
                return Ok(match is_same {
                    true => Heard::Noted,
                    // The kernel flushes the IPv4 routes of a link without a notification
                    // (`fib_disable_ip`, net/ipv4/fib_frontend.c).
                    false if before.is_up() != traits.is_up() => Heard::Resync,
                    false => Heard::ReadAgain,
                });
            }
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
        if self
            .manager
            .filter
            .sources
            .contains(&SourcePolicy::Address(address.addr))
        {
            // With the source go, or come, the routes of a whole family.
            self.counters.events += 1;
            return Ok(Heard::Resync);
        }
        if Some(address.link) != *self.link {
            return Ok(Heard::Noted);
        }
        let vip = Vip::from(address.addr);
        let family = vip.family();
        if message.port != self.manager.connection.port()
            && !there
            && family == Family::V4
            && self.manager.config.binding == Binding::Route
        {
            // Perhaps the last one of the link: then all IPv4 routes through it went, and the
            // kernel says nothing of that.
            self.counters.events += 1;
            return Ok(Heard::Resync);
        }
        // Our own IPv6 changes bear no port id: they cost a look.
        if message.port == self.manager.connection.port() || !self.concerns(vip) {
            return Ok(Heard::Noted);
        }
        self.counters.events += 1;
        if address.prefix_length == family.host_bits() {
            let is_desired = self.is_desired(vip);
            let notified = self.dirty.entry(vip);
            notified.note_address(&address, there);
            // The keeper has not read this VIP before, so an address of another length may be there.
            notified.unverified |= there && family == Family::V4 && !is_desired;
            Ok(Heard::Noted)
        } else if self.is_desired(vip) || self.dirty.contains(vip) {
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
        let on_link = route.link.is_some() && route.link == *self.link;
        // A VIP that is not desired shows by a local route that is there for no address, as in
        // every other call; any other route belongs to another program.
        let shows = route.kind == libc::RTN_LOCAL && !route.is_kernels_own();
        let matters = !route.cloned
            && match route.table {
                TABLE_LOCAL => self.is_desired(vip) || on_link && shows,
                TABLE_MAIN => on_link && self.is_desired(vip),
                _ => false,
            };
        if !matters || !self.concerns(vip) {
            return Ok(Heard::Noted);
        }
        let notified = if message.port == self.manager.connection.port() {
            // Our own change needs no look, but it outdates the notifications before it.
            let Some(notified) = self.dirty.get_mut(vip) else {
                return Ok(Heard::Noted);
            };
            if message.kind == libc::RTM_NEWROUTE {
                return Ok(Heard::Noted);
            }
            notified
        } else {
            self.counters.events += 1;
            self.dirty.entry(vip)
        };
        if message.kind == libc::RTM_DELROUTE {
            notified.note_deleted(&route);
        } else if on_link && !route.indirect {
            notified.note_added(&route);
        }
        Ok(Heard::Noted)
    }

    fn is_desired(&self, vip: Vip) -> bool {
        self.desired.binary_search(&vip).is_ok()
    }

    /// Whether the VIP is desired, or the claim could cover it.
    fn concerns(&self, vip: Vip) -> bool {
        self.is_desired(vip) || self.manager.could_hold(vip)
    }
}
