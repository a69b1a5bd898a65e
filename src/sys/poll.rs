//! Waits for the kernel or for a cancellation.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The first descriptor is readable.
    Event,
    /// The second descriptor is readable.
    Cancelled,
    /// The time has passed.
    TimedOut,
}

/// Waits until `events` or `cancel` is readable, or `timeout` has passed. A signal does not
/// shorten or lengthen the wait.
pub(crate) fn wait_readable(
    events: impl AsFd,
    cancel: impl AsFd,
    timeout: Duration,
) -> io::Result<Woken> {
    let pollfd = |fd: i32| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [
        pollfd(events.as_fd().as_raw_fd()),
        pollfd(cancel.as_fd().as_raw_fd()),
    ];
    // The fuzzer has no kernel to wait for.
    #[cfg(fuzzing)]
    let timeout = timeout.min(Duration::ZERO);
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        // Rounded up, so that a wait of less than a millisecond is not a busy loop.
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: `fds` is a valid array of two pollfd for the whole call, and both descriptors
        // are borrowed, hence open, until it returns.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, millis) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        return Ok(if fds[1].revents != 0 {
            Woken::Cancelled
        } else if fds[0].revents != 0 {
            // POLLERR counts, too: a netlink socket signals an overflow with it, and the next receive
            // returns ENOBUFS.
            Woken::Event
        } else {
            Woken::TimedOut
        });
    }
}
