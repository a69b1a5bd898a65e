//! Types that every floor uses: VIPs, families, and the kernel's constants.

mod count;
mod errno;
mod kernel;
mod named;
mod number;
mod per_family;
mod route;
mod vip;

pub(crate) use count::Count;
pub(crate) use errno::{is_shortage, means_no_address};
pub(crate) use kernel::*;
pub(crate) use named::named;
pub use number::{InvalidProtocol, Metric, Protocol, RouteType, Table};
pub(crate) use per_family::PerFamily;
pub(crate) use route::{
    AddressAttrs, DesiredRoute, RouteKey, SourcePolicy, desired_key, kernel_key, prefix_key,
    staged_key, staged_lifetime,
};
pub use vip::{Family, ParseVipError, RejectReason, Vip};

/// 0, which is no link's index.
pub(crate) const NO_LINK: u32 = 0;
