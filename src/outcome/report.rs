//! What became of every VIP of a call.

use std::fmt;

use crate::base::Vip;
use crate::core::{Cause, Drift, Operation};

/// The outcome of one call, VIP by VIP.
///
/// A call that returns `Ok(Report)` saw *every* VIP in the wanted state in the kernel, after its
/// last write; such a report has no failures. A call that fell short for some of its VIPs returns
/// an [`Error`](crate::Error) that carries the report of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// VIPs that were not on the link and now are in their single-route state.
    pub assigned: usize,
    /// VIPs that were on the link in another state and now are in their single-route state.
    pub repaired: usize,
    /// VIPs whose address or routes were on the link and now are gone.
    pub released: usize,
    /// VIPs that were as wanted from the start: nothing was written for them.
    pub unchanged: usize,
    /// Messages sent that ask the kernel for a change. Zero where nothing was wrong.
    pub writes: u64,
    /// Writes of [`writes`](Self::writes) that repeated an earlier one of the same VIP in this
    /// call, because something else changed the VIP meanwhile or the kernel was short of memory.
    pub retries: u64,
    /// The VIPs that fell short, in order of address, each exactly once.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether every VIP is as wanted.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} assigned, {} repaired, {} released, {} unchanged, {} failed ({} writes, {} retries)",
            self.assigned,
            self.repaired,
            self.released,
            self.unchanged,
            self.failures.len(),
            self.writes,
            self.retries
        )
    }
}

/// One VIP that is not in the wanted state, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The VIP.
    pub vip: Vip,
    /// What kind of failure this is.
    pub cause: Cause,
    /// What exactly is missing and what to do about it, for [`Cause::Missing`].
    pub detail: Option<Box<str>>,
    /// The operation that the kernel refused, for [`Cause::Kernel`], and for [`Cause::Missing`]
    /// where a refusal showed it.
    pub operation: Option<Operation>,
    /// The error number of that refusal (positive, as in `errno.h`).
    pub errno: Option<i32>,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`, linux/netlink.h), where it gave any. For
    /// [`Cause::Conflict`] the route in the way and its device.
    pub text: Option<Box<str>>,
    /// How the VIP differed from the wanted state when it was last seen; what was written for it
    /// after that does not show.
    pub drift: Drift,
}

impl Failure {
    /// A failure that no operation caused.
    pub(crate) fn new(vip: Vip, cause: Cause, detail: Option<Box<str>>) -> Self {
        Self {
            vip,
            cause,
            detail,
            operation: None,
            errno: None,
            text: None,
            drift: Drift::empty(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.vip)?,
            None => write!(f, "{}: {}", self.vip, self.cause)?,
        }
        if let Some(operation) = self.operation {
            write!(f, ": {operation}")?;
        }
        if let Some(errno) = self.errno {
            write!(f, ": {}", std::io::Error::from_raw_os_error(errno))?;
        }
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        if !self.drift.is_empty() {
            write!(f, " [{}]", self.drift)?;
        }
        Ok(())
    }
}
