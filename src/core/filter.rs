//! Which addresses are VIPs of a manager.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::base::{Family, PerFamily, RejectReason, Vip};
use crate::core::Cause;
use crate::core::Row;

/// The ranges of addresses that may be VIPs of a manager, and those that may not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// Empty: all that is not denied.
    pub(crate) allowed: Vec<IpNet>,
    pub(crate) denied: Vec<IpNet>,
}

impl Ranges {
    fn reject(&self, vip: Vip) -> Option<RejectReason> {
        let holds = |range: &&IpNet| range.contains(&vip.addr());
        if self.denied.iter().any(|range| holds(&range)) {
            return Some(RejectReason::Denied);
        }
        let mut allowing = self.allowed.iter().filter(holds);
        match vip.inadmissible() {
            // A range that is link-local as a whole means what it says.
            Some(RejectReason::LinkLocal) if allowing.clone().any(is_link_local_v4) => None,
            Some(why) => Some(why),
            None if self.allowed.is_empty() || allowing.next().is_some() => None,
            None => Some(RejectReason::OutsideAllowed),
        }
    }
}

/// Whether all of this range is in 169.254.0.0/16 (RFC 3927), where node-local-dns has its VIP.
fn is_link_local_v4(range: &IpNet) -> bool {
    matches!(range, IpNet::V4(range)
        if range.network().is_link_local() && range.broadcast().is_link_local())
}

/// Which addresses are VIPs of this manager.
pub(crate) struct VipFilter<'a> {
    pub(crate) sources: PerFamily<Option<IpAddr>>,
    pub(crate) kernel_source: PerFamily<bool>,
    pub(crate) ranges: &'a Ranges,
}

impl VipFilter<'_> {
    pub(crate) fn reject(&self, row: &Row) -> Option<Cause> {
        let why = self.reject_vip(row.vip).or_else(|| {
            // To release a VIP, or to look at it, takes no source.
            let forgotten = !self.has_source(row.vip.family());
            (forgotten && row.goal.is_threatened()).then_some(RejectReason::NoSource)
        });
        why.map(Cause::Rejected)
    }

    fn has_source(&self, family: Family) -> bool {
        self.sources[family].is_some() || self.kernel_source[family]
    }

    /// Whether the manager's configuration is for VIPs of this family: whether they can be held now
    /// is another question. One without any source is for releasing, and for both.
    pub(crate) fn is_for(&self, family: Family) -> bool {
        self.has_source(family) || !Family::ALL.iter().any(|family| self.has_source(*family))
    }

    fn reject_vip(&self, vip: Vip) -> Option<RejectReason> {
        if self.sources.contains(&Some(vip.addr())) {
            return Some(RejectReason::IsSource);
        }
        self.ranges.reject(vip)
    }

    /// Whether an address found on the link is a VIP. One without a source is, and will be
    /// rejected where it needs one: a forgotten source is an error, not a silence.
    pub(crate) fn is_on_link(&self, vip: Vip) -> bool {
        self.reject_vip(vip).is_none()
    }
}
