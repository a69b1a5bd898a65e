//! Which addresses are VIPs of a manager.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::base::{Family, PerFamily, RejectReason, SourcePolicy, Vip};
use crate::core::Cause;
use crate::core::Row;

/// The allowed and denied ranges of a manager's VIPs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// If empty, every address that is not denied is allowed.
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
            // A range inside the link-local prefix allows its addresses on purpose.
            Some(RejectReason::LinkLocal) if allowing.clone().any(is_link_local_v4) => None,
            Some(why) => Some(why),
            None if self.allowed.is_empty() || allowing.next().is_some() => None,
            None => Some(RejectReason::OutsideAllowed),
        }
    }
}

/// Whether this range is inside 169.254.0.0/16 (RFC 3927), where node-local-dns has its VIP.
fn is_link_local_v4(range: &IpNet) -> bool {
    matches!(range, IpNet::V4(range)
        if range.network().is_link_local() && range.broadcast().is_link_local())
}

/// Which addresses are VIPs of this manager.
#[derive(Clone, Debug)]
pub(crate) struct VipFilter {
    pub(crate) sources: PerFamily<SourcePolicy>,
    pub(crate) ranges: Ranges,
}

impl VipFilter {
    /// Replaces the source of its family.
    pub(crate) fn set_source(&mut self, source: IpAddr) {
        self.sources[Family::of(&source)] = SourcePolicy::Address(source);
    }

    pub(crate) fn reject(&self, row: &Row) -> Option<Cause> {
        // Only a VIP that is assigned or normalized needs a source.
        let why = match row.goal.is_threatened() {
            true => self.check(row.vip).err(),
            false => self.reject_vip(row.vip),
        };
        why.map(Cause::Rejected)
    }

    /// Whether a call that assigns this VIP would admit it.
    pub(crate) fn check(&self, vip: Vip) -> Result<(), RejectReason> {
        match self.reject_vip(vip) {
            Some(why) => Err(why),
            None if self.has_source(vip.family()) => Ok(()),
            None => Err(RejectReason::NoSource),
        }
    }

    fn has_source(&self, family: Family) -> bool {
        self.sources[family] != SourcePolicy::Unset
    }

    /// Whether the manager is configured for VIPs of this family. Its source may be missing on the node
    /// at the moment. A manager without any source only releases VIPs, of both families.
    pub(crate) fn is_for(&self, family: Family) -> bool {
        self.has_source(family) || !Family::ALL.iter().any(|family| self.has_source(*family))
    }

    fn reject_vip(&self, vip: Vip) -> Option<RejectReason> {
        if self.sources.contains(&SourcePolicy::Address(vip.addr())) {
            return Some(RejectReason::IsSource);
        }
        self.ranges.reject(vip)
    }

    /// Whether an address on the link is a VIP. A VIP without a source in its family counts, and is
    /// rejected by a call that needs the source: a forgotten source must be an error.
    pub(crate) fn is_on_link(&self, vip: Vip) -> bool {
        self.reject_vip(vip).is_none()
    }
}
