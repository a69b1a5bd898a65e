//! Which addresses are VIPs of a manager.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::state::Row;
use crate::vip::{Reject, Vip};

/// Which addresses are VIPs of this manager.
pub(crate) struct Screen<'a> {
    pub(crate) sources: [Option<IpAddr>; 2],
    pub(crate) kernel_source: [bool; 2],
    pub(crate) allowed: &'a [IpNet],
}

impl Screen<'_> {
    pub(super) fn reject(&self, row: &Row) -> Option<Reject> {
        self.reject_vip(row.vip).or_else(|| {
            // To release a VIP, or to look at it, takes no source.
            let family = row.vip.family() as usize;
            let forgotten = self.sources[family].is_none() && !self.kernel_source[family];
            (forgotten && row.goal.is_threatened()).then_some(Reject::NoSource)
        })
    }

    fn reject_vip(&self, vip: Vip) -> Option<Reject> {
        if let Some(why) = vip.inadmissible() {
            Some(why)
        } else if self.sources.contains(&Some(vip.addr())) {
            Some(Reject::IsSource)
        } else if !self.allows(vip) {
            Some(Reject::OutsideAllowed)
        } else {
            None
        }
    }

    fn allows(&self, vip: Vip) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|range| range.contains(&vip.addr()))
    }

    /// Whether an address found on the link is a VIP. One without a source is, and will be
    /// rejected where it needs one: a forgotten source is an error, not a silence.
    pub(crate) fn is_on_link(&self, vip: Vip) -> bool {
        self.reject_vip(vip).is_none()
    }
}
