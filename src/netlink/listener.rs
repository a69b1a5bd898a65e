//! A socket for notifications alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::filter::{self, Interest};
use crate::sys::{Received, Socket};

/// The groups of the notifications (linux/rtnetlink.h).
pub(crate) const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// A socket that receives the notifications that matter.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    interest: Interest,
}

impl Listener {
    /// Listens from now on.
    pub(crate) fn new(socket: Socket, interest: Interest) -> io::Result<Self> {
        socket.attach_filter(&filter::notifications(&interest))?;
        for group in GROUPS {
            socket.join(group)?;
        }
        Ok(Self { socket, interest })
    }

    /// Which notifications it receives.
    pub(crate) fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Receives these notifications from now on. What is queued stays queued. What the earlier filter
    /// dropped is lost, so the caller reads it afterwards.
    pub(crate) fn listen_to(&mut self, interest: Interest) -> io::Result<()> {
        if self.interest != interest {
            self.socket
                .attach_filter(&filter::notifications(&interest))?;
            self.interest = interest;
        }
        Ok(())
    }

    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        self.socket.receive(buffer)
    }

    /// The socket, to ask a question whose answer comes behind what is queued. The filter drops an answer
    /// that is a notification of no interest.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
