//! The outcome of every VIP of a call.

use std::fmt;

use crate::base::{Count, Vip, named};
use crate::core::{Cause, Drift, Operation};

/// The outcome of one call, VIP by VIP.
///
/// A call that returns `Ok(Report)` saw *every* VIP in the desired state in the kernel after its last
/// write. Its report has no failures. If some VIPs failed, the call returns an [`Error`](crate::Error)
/// with the report of all VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// Number of VIPs that were not on the link and now are in their single-route state.
    pub assigned: usize,
    /// Number of VIPs that were on the link in another state and now are in their single-route state.
    pub repaired: usize,
    /// Number of VIPs whose address or routes were on the link and now are gone.
    pub released: usize,
    /// Number of VIPs that were in the desired state from the start. Nothing was written for them.
    pub unchanged: usize,
    /// Number of messages that request a change of the kernel. Zero if every VIP was in the desired
    /// state.
    pub writes: u64,
    /// Number of those [`writes`](Self::writes) that repeated an earlier write for the same VIP, because
    /// another writer changed the VIP or the kernel was short of memory.
    pub retries: u64,
    /// The VIPs that the call brought into the desired state, in order of address, each exactly once. A
    /// VIP that was in the desired state from the start has no outcome. A failed VIP has a
    /// [failure](Self::failures) instead.
    pub outcomes: Vec<Outcome>,
    /// The failed VIPs, in order of address, each exactly once.
    pub failures: Vec<Failure>,
}

/// What a call did for a VIP.
///
/// ```
/// use viproute::OutcomeKind;
///
/// assert_eq!(OutcomeKind::Repaired.as_str(), "repaired");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutcomeKind {
    /// The VIP was not on the link. The call put it there.
    Assigned,
    /// The VIP was on the link in another state. The call brought it into its single-route state.
    Repaired,
    /// The VIP's address or routes were on the link. The call removed them.
    Released,
}

named! { OutcomeKind:
    Self::Assigned => "assigned";
    Self::Repaired => "repaired";
    Self::Released => "released";
}

/// One VIP that a call brought into the desired state.
///
/// An embedder that must undo a call which failed in part releases the VIPs that this call put on the
/// link, and no other:
///
/// ```no_run
/// # use viproute::{OutcomeKind, Report, VipManager};
/// # fn roll_back(manager: &mut VipManager, report: &Report) -> Result<(), viproute::Error> {
/// let assigned = report.outcomes.iter().filter(|outcome| outcome.kind == OutcomeKind::Assigned);
/// let begun = report.failures.iter().filter(|failure| failure.begun == Some(OutcomeKind::Assigned));
/// let new = assigned.map(|outcome| outcome.vip).chain(begun.map(|failure| failure.vip));
/// manager.release(new)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Outcome {
    /// The VIP.
    pub vip: Vip,
    /// What the call did for the VIP.
    pub kind: OutcomeKind,
    /// How the VIP differed from its single-route state before the first write. Empty unless the
    /// call [repaired](OutcomeKind::Repaired) the VIP.
    pub cured: Drift,
}

/// `10.96.0.10: repaired (wrong source)`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.vip, self.kind)?;
        if self.cured.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.cured)
    }
}

impl Report {
    /// Whether every VIP is in the desired state.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// Adds the report of another call, for example of another link. Sums the counts, and keeps outcomes
    /// and failures in order of address. The two reports should be of different VIPs. A VIP that is in
    /// both counts twice, and its entry of this report comes first.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut first = manager;
    /// let mut second = VipManager::builder("other")
    ///     .source([192, 0, 2, 10])
    ///     .create_link(LinkKind::Auto)
    ///     .open()?;
    /// let mut report = first.assign([Ipv4Addr::new(10, 96, 0, 11)])?;
    /// report.merge(second.assign([Ipv4Addr::new(10, 96, 0, 10)])?);
    /// assert_eq!(report.assigned, 2);
    /// assert!(report.outcomes.is_sorted_by_key(|outcome| outcome.vip));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn merge(&mut self, other: Self) {
        let Self {
            assigned,
            repaired,
            released,
            unchanged,
            writes,
            retries,
            outcomes,
            failures,
        } = other;
        self.assigned += assigned;
        self.repaired += repaired;
        self.released += released;
        self.unchanged += unchanged;
        self.writes += writes;
        self.retries += retries;
        self.outcomes.extend(outcomes);
        self.outcomes.sort_by_key(|outcome| outcome.vip);
        self.failures.extend(failures);
        self.failures.sort_by_key(|failure| failure.vip);
    }
}

impl Report {
    /// The number of VIPs with this outcome.
    pub(crate) fn count(&mut self, kind: OutcomeKind) -> &mut usize {
        match kind {
            OutcomeKind::Assigned => &mut self.assigned,
            OutcomeKind::Repaired => &mut self.repaired,
            OutcomeKind::Released => &mut self.released,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} assigned, {} repaired, {} released, {} unchanged, {} failed ({}, {})",
            self.assigned,
            self.repaired,
            self.released,
            self.unchanged,
            self.failures.len(),
            Count(self.writes, "write", "writes"),
            Count(self.retries, "retry", "retries")
        )
    }
}

/// One VIP that is not in the desired state, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Failure {
    /// The VIP.
    pub vip: Vip,
    /// What kind of failure this is.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub cause: Cause,
    /// What exactly stands in the way, in the words of this crate. For [`Cause::Missing`]: what is
    /// missing, and what to do about it. For [`Cause::Conflict`]: the route in the way, and its device.
    pub detail: Option<Box<str>>,
    /// The operation that the kernel refused, for [`Cause::Kernel`], and for [`Cause::Missing`]
    /// where a refusal showed it.
    pub operation: Option<Operation>,
    /// The error number of that refusal (positive, as in `errno.h`).
    pub errno: Option<i32>,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`, linux/netlink.h), where it gave any.
    pub text: Option<Box<str>>,
    /// What the call had begun to do for the VIP: it wrote to the VIP before the VIP failed. `None`:
    /// the call wrote nothing for the VIP.
    pub begun: Option<OutcomeKind>,
    /// How the VIP differed from the desired state at the last observation, or before the call's first
    /// write to it if the call ended between a write and the next observation. Later writes do not show
    /// here.
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
            begun: None,
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
