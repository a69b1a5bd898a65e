//! Cancelling a call from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::{Waker, Wakes, wake_pair};

/// Cancels the calls of one manager from another thread.
///
/// The running call, or else the next call, stops at its next wait or batch and returns an error of
/// kind [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) with the report of what was done.
/// Changes that the kernel has already made stay, except routes whose VIP has no address yet. The same call
/// continues later.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{ErrorKind, VipManager};
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let ten_thousand: Vec<IpAddr> = Vec::new();
/// # fn wait_for_sigterm() {}
/// let canceller = vips.canceller();
/// std::thread::spawn(move || {
///     wait_for_sigterm();
///     canceller.cancel();
/// });
/// match vips.assign(ten_thousand) {
///     Err(error) if error.kind() == ErrorKind::Cancelled => println!("{error}"),
///     other => println!("{}", other?),
/// }
/// # Ok::<(), viproute::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Canceller(Waker);

impl Canceller {
    /// Cancels the running or the next call. Further cancellations before that call stops have no
    /// effect.
    pub fn cancel(&self) {
        self.0.wake();
    }
}

/// The manager's end.
#[derive(Debug)]
pub(crate) struct Cancelled {
    wakes: Wakes,
    canceller: Canceller,
}

impl Cancelled {
    pub(crate) fn new() -> io::Result<Self> {
        let (waker, wakes) = wake_pair()?;
        Ok(Self {
            wakes,
            canceller: Canceller(waker),
        })
    }

    pub(crate) fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Whether a cancellation has come since the last call of this function.
    pub(crate) fn take(&self) -> bool {
        self.wakes.drain()
    }
}

impl AsFd for Cancelled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakes.as_fd()
    }
}
