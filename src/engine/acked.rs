//! Plans the next step of a new row as soon as the kernel acks the last one, without an observation. A new
//! IPv6 VIP is right a few sends after its address, not after the addresses of all VIPs. A new IPv4 VIP has its
//! route before the addresses of all VIPs. A VIP that is released address first loses its marked route right behind
//! its address.

use std::collections::VecDeque;

use super::decide::Reply;
use super::send::BATCH;
use super::{Call, Stop};
use crate::base::Family;
use crate::core::Step;
use crate::netlink::batch::Response;

/// Rows that may go on from the last reply, oldest first ([`Engine::goes_on`](super::decide::Engine::goes_on)).
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// IPv6: the new address was acked. The late route follows from a work queue (`addrconf_dad_work`,
    /// net/ipv6/addrconf.c). IPv4: the route was acked, and the address is next.
    made: VecDeque<u32>,
    /// IPv6: the deletion of the late route was acked, or the staged route beside it. IPv4: the address was
    /// acked, and the kernel's route came with it. A release: the deletion of the address was acked.
    freed: VecDeque<u32>,
    /// IPv6: the deletion came before the late route. It is repeated whenever other rows go on. At the end of the
    /// round, the observation is sooner.
    early: VecDeque<u32>,
}

impl Acked {
    pub(super) fn push(&mut self, at: u32, family: Family, reply: Reply) {
        match (family, reply.step, reply.response) {
            (_, _, Response::Absent) => self.early.push_back(at),
            (Family::V6, Step::AddAddress, _) | (Family::V4, Step::AppendRoute, _) => {
                self.made.push_back(at);
            }
            _ => self.freed.push_back(at),
        }
    }

    /// Number of rows that are to go on before the round ends.
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
        self.early.clear();
    }

    pub(super) fn shrink_to(&mut self, rows: usize) {
        self.made.shrink_to(rows);
        self.freed.shrink_to(rows);
        self.early.shrink_to(rows);
    }
}

impl Call<'_> {
    /// Plans the next steps of rows that are due, and notes that they are many. Returns whether a row waits.
    pub(super) fn go_on_if_due(&mut self, are_many: &mut bool) -> Result<bool, Stop> {
        if !self.buffers.acked.are_due() {
            return Ok(false);
        }
        *are_many = true;
        self.go_on(BATCH)
    }

    /// Plans the next step of every row in `freed` and `early`, and of at most `most` rows in `made`. Returns whether
    /// a row waits.
    pub(super) fn go_on(&mut self, most: usize) -> Result<bool, Stop> {
        // A repeated deletion may come too early again, and return.
        let early = self.buffers.acked.early.len();
        let mut waits = self.go_on_with_first(usize::MAX, |acked| &mut acked.freed)?;
        waits |= self.go_on_with_first(early, |acked| &mut acked.early)?;
        let made = most.min(self.buffers.acked.made.len());
        waits |= self.go_on_with_first(made, |acked| &mut acked.made)?;
        Ok(waits)
    }

    /// Plans the next step of the oldest rows of a queue.
    fn go_on_with_first(
        &mut self,
        most: usize,
        queue: impl Fn(&mut Acked) -> &mut VecDeque<u32>,
    ) -> Result<bool, Stop> {
        let mut waits = false;
        for _ in 0..most {
            let Some(at) = queue(&mut self.buffers.acked).pop_front() else {
                break;
            };
            waits |= self.go_on_with(at)?;
        }
        Ok(waits)
    }

    fn go_on_with(&mut self, at: u32) -> Result<bool, Stop> {
        let row = self.buffers.rows.get_mut(at);
        if row.is_some_and(|row| self.engine.trust_ack(row)) {
            self.advance(at)
        } else {
            Ok(false)
        }
    }
}
