//! Puts service VIPs on a Linux link and keeps each in its *single-route state*.
//!
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("viproute speaks rtnetlink, which only Linux has: build it for a Linux target");

mod error;
mod report;
#[cfg(feature = "sandbox")]
pub mod sandbox;
mod state;
mod sys;
mod vip;

pub use error::{Error, ErrorKind};
pub use report::{Cause, Failure, Operation, Report};
pub use state::Drift;
pub use vip::{Family, ParseVipError, Reject, Vip};
