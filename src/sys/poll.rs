//! Waits for the kernel or for a cancellation.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
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
    let [event, cancelled] = wait_any([events.as_fd(), cancel.as_fd()], timeout)?;
    Ok(if cancelled {
        Woken::Cancelled
    } else if event {
        Woken::Event
    } else {
        Woken::TimedOut
    })
}

/// Waits until any of the descriptors is readable or closed at its other end, or `timeout` has passed.
/// Returns which are.
pub(crate) fn wait_any<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let mut fds = descriptors.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // The fuzzer has no kernel to wait for.
    #[cfg(fuzzing)]
    let timeout = timeout.min(Duration::ZERO);
    let count = libc::nfds_t::try_from(N).unwrap_or_default();
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        // Rounded up, so that a wait of less than a millisecond is not a busy loop.
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: `fds` is a valid array of `count` pollfd for the whole call, and the descriptors
        // are borrowed, hence open, until it returns.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, millis) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // POLLERR counts, too: a netlink socket signals an overflow with it, and the next receive
        // returns ENOBUFS.
        return Ok(fds.map(|fd| fd.revents != 0));
    }
}
