//! Whether an interface index still means the same link.
//!
//! Once a link is gone, another link can get its index: a link that keeps its index when it moves from
//! another namespace (`__dev_change_net_namespace`, net/core/dev.c), or a new link that requests the
//! index. The two links may have the same name, MAC address and MTU, so only the deletion of the first
//! link tells them apart.

use std::io;

use super::filter::deletion_of;
use crate::base::NO_LINK;
use crate::sys::{Received, Socket};

/// The lifetime of one link, from the look-up of its index.
///
/// The kernel sends `RTM_DELLINK` before another link can get the index: both operations hold the RTNL.
/// As long as no notification has arrived, the index means the link that was looked up.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// Receives only the deletion of `monitored` (a socket filter), so that it cannot overflow.
    socket: Socket,
    /// The link whose deletion the socket receives; [`NO_LINK`] at first.
    monitored: u32,
    /// The link whose lifetime this is; [`NO_LINK`] after [`forget`](Self::forget).
    link: u32,
    ended: bool,
}

impl Lifetime {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            monitored: NO_LINK,
            link: NO_LINK,
            ended: false,
        }
    }

    /// Starts with the link of this index. The caller looks the link up afterwards.
    pub(crate) fn begin(&mut self, link: u32) -> io::Result<()> {
        if self.monitored != link {
            self.socket.attach_filter(&deletion_of(link))?;
            if self.monitored == NO_LINK {
                self.socket.join(libc::RTNLGRP_LINK)?;
            }
            self.monitored = link;
        }
        // A deletion before this moment concerns an earlier link of the index.
        while !matches!(self.socket.receive(&mut [0; 64])?, Received::Nothing) {}
        self.link = link;
        self.ended = false;
        Ok(())
    }

    /// Stops to follow the link.
    pub(crate) fn forget(&mut self) {
        self.link = NO_LINK;
    }

    /// The link whose deletion the socket receives.
    pub(crate) fn monitored(&self) -> u32 {
        self.monitored
    }

    /// Notes that the link was not found: a later link of this index is another link.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the link is gone. Another link may have its index. The answer stays true.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.link != NO_LINK && !self.ended {
            // An overflow counts as the end: the kernel may have lacked memory for this very
            // notification.
            let mut buffer = [0; 64];
            let notification = self.socket.receive(&mut buffer);
            self.ended = !matches!(notification, Ok(Received::Nothing));
        }
        self.link != NO_LINK && self.ended
    }
}
