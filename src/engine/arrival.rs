//! The effect of a local route's notification on the rows.

use crate::base::TABLE_LOCAL;
use crate::core::{LateRoute, Rows};
use crate::netlink::decode::Message;

/// The meaning of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing new, or the row's late route was already seen.
    None,
    /// The kernel's own route to a row was added or deleted.
    Kernels,
    /// Another local route to a row was added or deleted.
    Other,
}

/// Notes a notification of a local route to a row.
pub(crate) fn note_arrival(message: &Message<'_>, rows: &mut Rows, link: u32) -> Arrival {
    if !matches!(message.kind, libc::RTM_NEWROUTE | libc::RTM_DELROUTE) {
        return Arrival::None;
    }
    // The next observation decides about a route that cannot be decoded.
    let Ok(Some(route)) = message.route() else {
        return Arrival::None;
    };
    let local = route.table == TABLE_LOCAL && route.link == Some(link);
    if let Some(host) = route.host().filter(|_| local)
        && let Some(at) = rows.index_of(host)
        && let Some(row) = rows.get_mut(at)
        && row.progress.late_route != LateRoute::Seen
    {
        // The deletion of the kernel's route by another writer also proves that the route had come.
        // Any other route means that another writer changed the row: observe it again.
        if !route.is_kernels_own() {
            return Arrival::Other;
        }
        row.progress.late_route = LateRoute::Seen;
        return Arrival::Kernels;
    }
    Arrival::None
}
