//! The system calls, with all unsafe code of the crate.

mod clock;
#[cfg(any(test, fuzzing))]
pub(crate) mod fault;
pub(crate) mod ns;
mod poll;
mod process;
mod socket;
mod wake;

pub(crate) use clock::hundredths_since_boot;
pub(crate) use poll::{Woken, wait_any, wait_readable};
pub(crate) use process::OtherProcess;
pub(crate) use socket::{Received, Socket, Strictness};
pub(crate) use wake::{Waker, Wakes, wake_pair};
