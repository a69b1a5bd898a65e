//! Fault injection for the tests and the fuzzer: a socket that receives other messages than the
//! kernel's, or none.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The result of a receive.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Datagram(Vec<u8>),
    Nothing,
    Overflow,
    /// The receive fails with this error number.
    Error(i32),
}

/// Intercepts the messages between a socket and the kernel. The default methods change nothing.
pub(crate) trait Line: Send {
    /// Intercepts a send. `None` passes the bytes to the kernel.
    fn send(&mut self, _bytes: &[u8]) -> Option<io::Result<()>> {
        None
    }

    /// Intercepts a receive. `kernel` receives from the kernel.
    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        kernel()
    }
}

/// The interception of one socket; none unless a test sets it.
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

    /// `None` without an interception.
    pub(crate) fn receive(&self, kernel: &mut dyn FnMut() -> Found) -> Option<Found> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(line.as_mut()?.receive(kernel))
    }
}
