//! A clock and a reply for tests and benches.

use std::time::Duration;

use super::decide::{Clock, Reply};
use crate::core::Step;
use crate::netlink::batch::Response;

/// A clock that does not move.
#[derive(Default)]
pub(crate) struct Still {
    pub(crate) since_change: Duration,
    pub(crate) stall: Duration,
}

impl Clock for Still {
    fn since_change(&self) -> Duration {
        self.since_change
    }

    fn since_progress(&self) -> Duration {
        Duration::ZERO
    }

    fn stall(&self) -> Duration {
        self.stall
    }
}

/// The reply to a step that has its effect.
pub(crate) fn acked(step: Step) -> Reply {
    let response = match step {
        Step::DeleteKernelBlind => Response::DeletedKernels,
        _ => Response::Acked,
    };
    Reply { step, response }
}
