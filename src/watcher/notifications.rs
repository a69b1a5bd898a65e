//! What each notification means.

use crate::base::{TABLE_LOCAL, TABLE_MAIN};
use crate::netlink::decode::{self, Address, Link, Message, Route};

use super::burst::Burst;
use super::link::Followed;
use super::{Change, Event, Origin};

/// What one notification says: of a VIP, into the burst; of anything else, as an event.
pub(super) fn tell(
    message: &Message<'_>,
    followed: &mut Followed,
    own_port: u32,
    burst: &mut Burst,
) -> Result<Option<Event>, decode::Malformed> {
    let origin = match message.port {
        0 => Origin::KERNEL,
        port if port == own_port => Origin::OURS,
        _ => Origin::OTHER,
    };
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let new = message.kind == libc::RTM_NEWLINK;
            Ok(tell_link(&message.link()?, new, followed, burst))
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let new = message.kind == libc::RTM_NEWADDR;
            let address = message.address()?;
            Ok(address.and_then(|address| tell_address(&address, new, origin, followed, burst)))
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let new = message.kind == libc::RTM_NEWROUTE;
            if let Some(route) = message.route()? {
                note_route(&route, new, origin, followed, burst);
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn tell_link(
    link: &Link<'_>,
    new: bool,
    followed: &mut Followed,
    burst: &mut Burst,
) -> Option<Event> {
    if !link.is_itself {
        return None;
    }
    let event = followed.tell(new, link);
    if event.is_some() {
        burst.link_changed(followed.link.is_some());
    }
    event
}

fn tell_address(
    address: &Address,
    new: bool,
    origin: Origin,
    followed: &Followed,
    burst: &mut Burst,
) -> Option<Event> {
    if Some(address.link) != followed.link {
        return Some(match new {
            true => Event::NodeAddressSet(address.addr),
            false => Event::NodeAddressRemoved(address.addr),
        });
    }
    if !burst.note_length(address, new) {
        return None;
    }
    let origin = match origin {
        Origin::KERNEL if address.addr.is_ipv6() => Origin::UNKNOWN,
        origin => origin,
    };
    let change = match new {
        true => Change::ADDRESS_SET,
        false => Change::ADDRESS_REMOVED,
    };
    burst.note(address.addr, change, origin);
    None
}

fn note_route(route: &Route, new: bool, origin: Origin, followed: &Followed, burst: &mut Burst) {
    let Some(host) = route.host() else {
        return;
    };
    // Broadcast and anycast routes are there for other addresses.
    let suits = matches!(route.kind, libc::RTN_LOCAL | libc::RTN_UNICAST)
        && matches!(route.table, TABLE_LOCAL | TABLE_MAIN);
    if route.cloned || !suits {
        return;
    }
    if route.link.is_some() && route.link == followed.link {
        let change = match new {
            true => Change::ROUTE_SET,
            false => Change::ROUTE_REMOVED,
        };
        if !burst.is_of_wide(host, route, new) {
            burst.note(host, change, origin);
        }
    } else if route.table == TABLE_LOCAL {
        burst.note(host, Change::FOREIGN_ROUTE, origin);
    }
}
