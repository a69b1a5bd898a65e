//! Cancelling a call from another thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Cancels the calls of one manager from another thread.
///
/// The running call, or else the next call, stops at its next wait or batch and returns an error of
/// kind [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) with the report of what was done.
/// Changes that the kernel has already made stay. The same call continues later.
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
pub struct Canceller(Arc<UnixStream>);

impl Canceller {
    /// Cancels the running or the next call. Further cancellations before that call stops have no
    /// effect.
    pub fn cancel(&self) {
        // A full socket means that earlier cancellations are still unread, and a closed socket that
        // the manager is gone. Neither needs a further byte.
        let _ = (&*self.0).write(&[1]);
    }
}

/// The manager's end.
#[derive(Debug)]
pub(crate) struct Cancelled {
    read: UnixStream,
    write: Canceller,
}

impl Cancelled {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        Ok(Self {
            read,
            write: Canceller(Arc::new(write)),
        })
    }

    pub(crate) fn canceller(&self) -> Canceller {
        self.write.clone()
    }

    /// Whether a cancellation has come since the last call of this function.
    pub(crate) fn take(&self) -> bool {
        let mut seen = false;
        let mut buffer = [0; 64];
        while matches!((&self.read).read(&mut buffer), Ok(1..)) {
            seen = true;
        }
        seen
    }
}

impl AsFd for Cancelled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
