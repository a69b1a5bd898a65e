//! What is known and wanted of each VIP, and what follows from it: pure functions and tables.

mod filter;
mod plan;
mod state;

pub(crate) use filter::{Ranges, VipFilter};
pub use plan::Binding;
pub(crate) use plan::{Goal, Next, Policy, Refusal, Step, next};
pub use state::Drift;
pub(crate) use state::{Admit, Answer, Facts, MatchContext, Phase, Row, Rows, write_names};
