//! When a keeper pauses: because another writer keeps undoing its repairs, or because its readings find nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::base::Vip;
use crate::trace;

/// Repairs of one VIP within [`CALM`] that need no pause.
pub(super) const PATIENCE: u32 = 3;

/// The first pause of a VIP that is fought over, doubled with each further repair…
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// …up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest time between readings of the whole link that find nothing, where notifications are lost. A lost
/// change is repaired after this time at the latest.
pub(super) const LONGEST_SPACING: Duration = Duration::from_secs(5);

/// After how long without a repair a fight is over.
const CALM: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    pub(super) repairs: u32,
    pub(super) last: Instant,
    pub(super) until: Instant,
}

/// Takes note of repairs of a VIP, and puts the next one off at least so long; says whether it has to wait for
/// the repairs.
pub(super) fn pause(
    backoffs: &mut BTreeMap<Vip, Backoff>,
    vip: Vip,
    now: Instant,
    repairs: u32,
    at_least: Duration,
) -> bool {
    let backoff = backoffs.entry(vip).or_insert(Backoff::begin(now));
    let is_paused = backoff.repair(now, repairs);
    backoff.until = backoff.until.max(now + at_least);
    if backoff.until > now {
        trace::pause(Some(vip), backoff.until - now);
    }
    is_paused
}

impl Backoff {
    pub(super) fn begin(now: Instant) -> Self {
        Self {
            repairs: 0,
            last: now,
            until: now,
        }
    }

    /// Takes note of repairs; says whether the next one has to wait for them.
    pub(super) fn repair(&mut self, now: Instant, repairs: u32) -> bool {
        if self.is_over(now) {
            *self = Self::begin(now);
        }
        self.repairs = self.repairs.saturating_add(repairs);
        self.last = now;
        let Some(over) = self.repairs.checked_sub(PATIENCE + 1) else {
            return false;
        };
        let time = FIRST_PAUSE.saturating_mul(1 << over.min(16));
        self.until = now + time.min(LONGEST_PAUSE);
        true
    }

    /// As if that time had passed.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        self.last -= by;
        self.until -= by;
    }

    /// Whether so much time has passed without a repair that the fight is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.last) >= CALM
    }
}
