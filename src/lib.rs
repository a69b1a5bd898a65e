//! Puts service VIPs on a Linux link and keeps each in its *single-route state*.
//!
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("viproute speaks rtnetlink, which only Linux has: build it for a Linux target");

mod batch;
mod cancel;
mod error;
#[cfg(test)]
mod faults;
mod link;
mod manager;
mod observe;
mod plan;
mod report;
mod round;
#[cfg(feature = "sandbox")]
pub mod sandbox;
mod state;
mod sys;
mod talk;
mod vip;
mod wire;

pub use cancel::Canceller;
pub use error::{Error, ErrorKind};
pub use link::LinkKind;
pub use manager::{Builder, Protocol, VipManager};
pub use report::{Cause, Failure, Operation, Report};
pub use state::Drift;
pub use vip::{Family, ParseVipError, Reject, Vip};
