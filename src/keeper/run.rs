//! The loop of a keeper: dispatches, and waits for what makes the next one due.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::report::Dispatched;
use super::{Keeper, RETRY};
use crate::outcome::{Error, ErrorKind};
use crate::sys::{wait_any, wait_readable};
use crate::trace;

/// No deadline: as long as a wait can be.
const FOREVER: Duration = Duration::from_secs(86_400);

/// Failures of the system in a row that end the loop.
const FAILURES_MAX: u32 = 10;

impl Keeper {
    /// Keeps the set until it is cancelled. Calls `each` after each dispatch that
    /// [has news](Dispatched::has_news).
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// let canceller = keeper.canceller();
    /// keeper.run(|done| {
    ///     println!("{done}");
    ///     canceller.cancel();
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`dispatch`](Self::dispatch), but for the cancellation, which is how it ends, and for
    /// failures of the system that pass: only the tenth in a row ends it.
    pub fn run(&mut self, mut each: impl FnMut(&Dispatched)) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            match self.dispatch_or_pause(&mut failures) {
                Ok(None) => {}
                Ok(Some(done)) => {
                    if done.has_news {
                        each(&done);
                    }
                    if done.more {
                        if self.manager.cancelled.take() {
                            return Ok(());
                        }
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Ok(()),
                Err(error) => return Err(error),
            }
            // Without orders, the cancellation stands in their place.
            if self.wait(&self.manager.cancelled)? == Wait::Cancelled {
                return Ok(());
            }
        }
    }

    /// As [`dispatch`](Self::dispatch), of all VIPs. After a failure of the system that may pass, it
    /// pauses and returns `None`, unless there were too many in a row: `failures`.
    pub(super) fn dispatch_or_pause(
        &mut self,
        failures: &mut u32,
    ) -> Result<Option<Dispatched>, Error> {
        match self.dispatch(usize::MAX) {
            Ok(done) => {
                *failures = 0;
                Ok(Some(done))
            }
            Err(error) if may_pass(&error) && *failures + 1 < FAILURES_MAX => {
                *failures += 1;
                trace::pause(None, RETRY);
                // Not at once, even if an event calls.
                let cancelled = &self.manager.cancelled;
                let _ = wait_readable(cancelled, cancelled, RETRY);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for an event, the next deadline, a cancellation, or until `orders` is readable.
    pub(super) fn wait(&self, orders: impl AsFd) -> Result<Wait, Error> {
        let patience = self
            .next_deadline()
            .map_or(FOREVER, |at| at.saturating_duration_since(Instant::now()));
        let cancelled = &self.manager.cancelled;
        let descriptors = [self.listener.as_fd(), cancelled.as_fd(), orders.as_fd()];
        let [_, is_cancelled, _] = wait_any(descriptors, patience)
            .map_err(|error| Error::io("cannot wait for notifications", &error))?;
        Ok(match is_cancelled && cancelled.take() {
            true => Wait::Cancelled,
            false => Wait::Over,
        })
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The keeper was cancelled.
    Cancelled,
    /// A dispatch may be due.
    Over,
}

/// Whether it may be over at the next try. The kernel never comes to make a kind of link that it
/// does not know.
fn may_pass(error: &Error) -> bool {
    error.kind() == ErrorKind::System && error.raw_os_error() != Some(libc::EOPNOTSUPP)
}
