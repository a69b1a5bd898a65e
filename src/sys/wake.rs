//! Wakes a thread that waits for descriptors.

#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Wakes the thread that waits for the other end.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<UnixStream>);

impl Waker {
    pub(crate) fn wake(&self) {
        // A full socket means that earlier bytes are still unread, and a closed socket that nothing
        // waits for them. Neither needs a further byte.
        //
        // `Write` sends without MSG_NOSIGNAL before Rust 1.90: the closed socket would raise SIGPIPE.
        let byte = [1_u8];
        // SAFETY: the descriptor is open as long as the stream lives, and the byte outlives the call.
        unsafe {
            libc::send(
                self.0.as_raw_fd(),
                byte.as_ptr().cast(),
                byte.len(),
                libc::MSG_NOSIGNAL,
            );
        }
    }
}

/// The end to wait for: readable after a wake, and once the last [`Waker`] is dropped.
#[derive(Debug)]
pub(crate) struct Wakes(UnixStream);

/// Both ends.
pub(crate) fn wake_pair() -> io::Result<(Waker, Wakes)> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    Ok((Waker(Arc::new(write)), Wakes(read)))
}

impl Wakes {
    /// Whether a wake has come since the last call of this function.
    pub(crate) fn drain(&self) -> bool {
        let mut seen = false;
        let mut buffer = [0; 64];
        while matches!((&self.0).read(&mut buffer), Ok(1..)) {
            seen = true;
        }
        seen
    }
}

impl AsFd for Wakes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
