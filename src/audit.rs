//! What a look at the link found.

use std::fmt;

use crate::state::Drift;
use crate::vip::Vip;

/// The VIPs on the link, each with how it differs from its single-route state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// Every VIP found, in order of address.
    pub vips: Vec<Audited>,
}

/// One VIP as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audited {
    /// The VIP.
    pub vip: Vip,
    /// How it differs; empty if it does not.
    pub drift: Drift,
}

impl Audit {
    /// Whether every VIP is in its single-route state.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.drifted().next().is_none()
    }

    /// The VIPs that are not.
    pub fn drifted(&self) -> impl Iterator<Item = &Audited> {
        self.vips.iter().filter(|vip| !vip.drift.is_empty())
    }
}

impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.drift.is_empty() {
            true => write!(f, "{}: as wanted", self.vip),
            false => write!(f, "{}: {}", self.vip, self.drift),
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} VIPs, {} drifted",
            self.vips.len(),
            self.drifted().count()
        )
    }
}
