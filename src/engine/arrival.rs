//! What a notification of a local route means for the rows.

use crate::base::TABLE_LOCAL;
use crate::core::{LateRoute, Rows};
use crate::netlink::decode::Message;

/// What a notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// No news of a row that is not settled.
    None,
    /// The kernel's own route of one has come, or gone.
    Kernels,
    /// Another route of one has.
    Other,
}

/// Takes note of a notification of a local route to one of the rows.
pub(crate) fn note_arrival(message: &Message<'_>, rows: &mut Rows, link: u32) -> Arrival {
    if !matches!(message.kind, libc::RTM_NEWROUTE | libc::RTM_DELROUTE) {
        return Arrival::None;
    }
    // One that cannot be read is none of ours: the observation that follows decides.
    let Ok(Some(route)) = message.route() else {
        return Arrival::None;
    };
    let local = route.table == TABLE_LOCAL && route.link == Some(link);
    if let Some(host) = route.host().filter(|_| local)
        && let Some(at) = rows.index_of(host)
        && let Some(row) = rows.get_mut(at)
        && row.progress.late_route != LateRoute::Seen
    {
        // The kernel's has come; its deletion by another hand proves that as well. And a route in
        // the place of ours tells that somebody else got further: worth another look.
        if !route.is_kernels_own() {
            return Arrival::Other;
        }
        row.progress.late_route = LateRoute::Seen;
        return Arrival::Kernels;
    }
    Arrival::None
}
