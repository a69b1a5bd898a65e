//! Plans the next step of a new IPv6 row as soon as the kernel acks the last one, without an observation. A new
//! VIP is right a few sends after its address, not after the addresses of all VIPs.

use std::collections::VecDeque;

use super::send::BATCH;
use super::{Call, Stop};
use crate::core::{Row, Step};

/// Rows whose last step was acked, oldest first ([`Engine::goes_on`](super::decide::Engine::goes_on)).
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// The new address was acked. The late route follows from a work queue (`addrconf_dad_work`,
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

    /// Whether rows are to be planned now. Rows in `made` wait until two sends of addresses were acked: while
    /// the kernel worked on the second send, it inserted the late routes of the first.
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
    /// Plans the next step of every row whose late route was deleted, and of at most `most` rows whose address
    /// was added. Returns whether a row waits.
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
