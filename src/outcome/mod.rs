//! What the caller is told, and what the caller says: reports, errors, audits, claims.

mod audit;
mod cancel;
mod claim;
mod error;
mod netns;
mod report;

pub use audit::{Audit, Audited};
pub(crate) use cancel::Cancelled;
pub use cancel::Canceller;
pub use claim::Claim;
pub(crate) use error::is_shortage;
pub use error::{Error, ErrorKind};
pub use netns::Netns;
pub use report::{Cause, Failure, Operation, Report};
