//! What the caller is told, and what the caller says: reports, errors, audits, claims.

mod audit;
mod cancel;
mod claim;
mod error;
mod netns;
mod report;
mod status;

pub use crate::core::ErrorKind;
pub use audit::{Audit, Audited};
pub(crate) use cancel::Cancelled;
pub use cancel::Canceller;
pub use claim::Claim;
pub use error::Error;
pub use netns::Netns;
pub use report::{Failure, Outcome, OutcomeKind, Report};
pub use status::{LinkStatus, SourceStatus};
