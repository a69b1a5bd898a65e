//! Faults for the tests and the fuzzer: a socket that hears something else than what the kernel
//! said, or nobody.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

/// What a receive finds.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Datagram(Vec<u8>),
    Nothing,
    Overflow,
    /// The receive fails with this error number.
    Error(i32),
}

/// What stands between a socket and the kernel. Left as they are, the methods change nothing.
pub(crate) trait Line: Send {
    /// A send. `None` hands the bytes to the kernel.
    fn send(&mut self, _bytes: &[u8]) -> Option<io::Result<()>> {
        None
    }

    /// A receive; `kernel` asks the kernel.
    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        kernel()
    }
}

/// The line of one socket: none, outside the tests that put one there.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Box<dyn Line>>>);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    pub(crate) fn put(&self, line: impl Line + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(line));
    }

    #[cfg(test)]
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> Option<io::Result<()>> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.as_mut()?.send(bytes)
    }

    /// `None`: there is no line.
    pub(crate) fn receive(&self, kernel: &mut dyn FnMut() -> Found) -> Option<Found> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(line.as_mut()?.receive(kernel))
    }
}
