//! A clock for tests and benches.

use std::time::Duration;

use super::decide::Clock;

/// A clock that does not move, with this stall time-out.
pub(crate) struct Still(pub(crate) Duration);

impl Clock for Still {
    fn since_change(&self) -> Duration {
        Duration::ZERO
    }

    fn since_progress(&self) -> Duration {
        Duration::ZERO
    }

    fn stall(&self) -> Duration {
        self.0
    }
}
