//! What is known and wanted of each VIP, and what follows from it: pure functions and tables.

mod cause;
mod error_kind;
mod filter;
mod plan;
mod row;
mod state;

pub use cause::{Cause, Operation};
pub use error_kind::ErrorKind;
pub(crate) use filter::{Ranges, VipFilter};
pub use plan::Binding;
pub(crate) use plan::{Goal, Next, Policy, Refusal, Step, next};
pub(crate) use row::{Done, LateRoute, Progress, Row};
pub use state::Drift;
pub(crate) use state::{Admit, Answer, Facts, MatchContext, Rows, write_names};
