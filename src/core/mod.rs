//! The observed and the desired state of each VIP, and the steps between them: pure functions and
//! tables.
//!
//! A [`Row`] holds the [`Facts`] that an observation showed of a VIP, and the [`Progress`] of this call.
//! [`next`] returns the next steps for a row under a [`Policy`].

mod address_flags;
mod cause;
mod drift;
mod error_kind;
mod facts;
mod filter;
mod matching;
mod next;
mod policy;
mod row;
#[cfg(test)]
mod row_tests;
mod rows;
mod step;

pub use address_flags::AddressFlags;
pub use cause::{Cause, Operation};
pub use drift::Drift;
pub(crate) use drift::write_names;
pub use error_kind::ErrorKind;
pub(crate) use facts::Facts;
pub(crate) use filter::{Ranges, VipFilter};
pub(crate) use matching::{MatchContext, RECENT_FOR};
pub(crate) use next::{Next, next};
pub use policy::Binding;
pub(crate) use policy::{Goal, Policy};
pub(crate) use row::{Done, LateRoute, Progress, Row};
pub(crate) use rows::{Admit, Answer, Rows};
pub(crate) use step::{Refusal, Step};
