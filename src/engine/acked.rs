//! IPv6 rows that go on from acks in the same round: a new VIP is right some sends after its address, not
//! after the addresses of all VIPs.

use std::collections::VecDeque;

use super::send::BATCH;
use super::{Call, Stop};
use crate::core::{Row, Step};

/// The rows with an ack to go on from ([`Engine::goes_on`](super::decide::Engine::goes_on)).
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// The address was acked. The late route comes from a work queue (`addrconf_dad_work`,
    /// net/ipv6/addrconf.c).
    made: VecDeque<u32>,
    /// The deletion of the late route was acked.
    freed: VecDeque<u32>,
}

impl Acked {
    pub(super) fn push(&mut self, at: u32, step: Step) {
        match step {
            Step::AddAddress => self.made.push_back(at),
            _ => self.freed.push_back(at),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.made.len() + self.freed.len()
    }

    /// Whether rows can go on. While another send of addresses is at work, the kernel inserts the late
    /// routes of the send before.
    pub(super) fn are_due(&self) -> bool {
        !self.freed.is_empty() || self.made.len() >= 2 * BATCH
    }

    pub(super) fn clear(&mut self) {
        self.made.clear();
        self.freed.clear();
    }

    pub(super) fn shrink_to(&mut self, rows: usize) {
        self.made.shrink_to(rows);
        self.freed.shrink_to(rows);
    }
}

impl Call<'_> {
    /// Plans the next steps of rows without their late route, and of at most `most` rows with a new
    /// address. Returns whether a row waits.
    pub(super) fn go_on(&mut self, most: usize) -> Result<bool, Stop> {
        let mut waits = false;
        while let Some(at) = self.buffers.acked.freed.pop_front() {
            waits |= self.go_on_with(at)?;
        }
        for _ in 0..most.min(self.buffers.acked.made.len()) {
            let Some(at) = self.buffers.acked.made.pop_front() else {
                break;
            };
            waits |= self.go_on_with(at)?;
        }
        Ok(waits)
    }

    fn go_on_with(&mut self, at: u32) -> Result<bool, Stop> {
        let row = self.buffers.rows.get_mut(at);
        if row.is_some_and(Row::trust_ack) {
            self.advance(at)
        } else {
            Ok(false)
        }
    }
}
