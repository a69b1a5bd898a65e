//! Whether a link that is known by its index still is that link.
//!
//! The kernel gives an index to another link once its link is gone: to one that comes from another
//! namespace and had it there (`__dev_change_net_namespace`, net/core/dev.c), or is created with it.
//! Neither name, MAC address nor MTU tells the two apart; only the first link's end does.

use std::io;

use crate::base::NO_LINK as NONE;
use crate::sys::{Received, Socket};

/// The life of one link, from the moment that its index was looked up.
///
/// A link's end is told (`RTM_DELLINK`) before another link can have its index: both take the RTNL.
/// So a look-up by index that found a link found the same one as long as nothing was told by then.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// Hears of the end of `heard` only, so that it cannot overflow.
    socket: Socket,
    /// Which link it hears of; [`NONE`] at first.
    heard: u32,
    /// Which link is meant; [`NONE`]: none.
    link: u32,
    ended: bool,
}

impl Lifetime {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            heard: NONE,
            link: NONE,
            ended: false,
        }
    }

    /// Begins with the link that has this index; it is to be looked up afterwards.
    pub(crate) fn begin(&mut self, link: u32) -> io::Result<()> {
        if self.heard != link {
            self.socket.hear_only_end_of(link)?;
            if self.heard == NONE {
                self.socket.join(libc::RTNLGRP_LINK)?;
            }
            self.heard = link;
        }
        // What ended before is not the link of now.
        while !matches!(self.socket.receive(&mut [0; 64])?, Received::Nothing) {}
        self.link = link;
        self.ended = false;
        Ok(())
    }

    /// Means no link any more.
    pub(crate) fn forget(&mut self) {
        self.link = NONE;
    }

    /// Which link it hears of.
    pub(crate) fn heard(&self) -> u32 {
        self.heard
    }

    /// The link was not found: whatever link has the index later is another one.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the link is gone, and its index perhaps another link's. Once it is, that stays so.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.link != NONE && !self.ended {
            // An overflow is the kernel's want of memory for a notification: it may have been this.
            let mut room = [0; 64];
            let told = self.socket.receive(&mut room);
            self.ended = !matches!(told, Ok(Received::Nothing));
        }
        self.link != NONE && self.ended
    }
}
