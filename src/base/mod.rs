//! What every floor speaks of: VIPs, families, and the kernel's constants.

mod vip;

pub use vip::{Family, ParseVipError, RejectReason, Vip};
