//! Waiting for a socket.

use std::os::fd::AsRawFd;

/// Waits until the socket is readable, a tenth of a second at the most.
#[allow(unsafe_code)]
pub fn readable(socket: &impl AsRawFd) {
    let mut waiting = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one initialised entry, whose descriptor is open during the call.
    unsafe { libc::poll(&raw mut waiting, 1, 100) };
}
