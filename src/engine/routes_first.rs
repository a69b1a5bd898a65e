//! The routes of many new IPv4 VIPs before their addresses: every VIP is local after the few milliseconds of the
//! routes, not when the turn of its address has come. The addresses take longer and longer, because the kernel
//! walks its list of the link's addresses for each (`__inet_insert_ifa`, net/ipv4/devinet.c).

use super::send::BATCH;
use super::{Call, Stop};
use crate::netlink::connection::{Dumped, Groups};

/// The least number of new VIPs for this order. Fewer VIPs have their addresses within milliseconds, and this
/// order touches each VIP in three sends instead of one.
const LEAST: usize = 8 * BATCH;

impl Call<'_> {
    /// Adds the new IPv4 VIPs, the routes of all before the addresses. Returns whether a row waits.
    pub(super) fn put_routes_first(&mut self) -> Result<bool, Stop> {
        let rows = self.buffers.rows.iter();
        let new = rows.filter(|row| self.engine.may_be_route_first(row));
        if new.take(LEAST).count() < LEAST {
            return Ok(false);
        }
        let deletions = Groups::V4_ADDRESSES | Groups::DELETIONS;
        self.connection.listen_to(deletions)?;
        self.connection.notifications(|_| ())?;
        self.engine.begin_routes_first();
        let waits = self.send_routes_first();
        self.engine.end_routes_first();
        self.buffers.acked.clear();
        self.connection.listen_to(Groups::empty())?;
        waits
    }

    fn send_routes_first(&mut self) -> Result<bool, Stop> {
        let mut waits = false;
        let mut has_address = false;
        for at in self.indices() {
            let row = self.buffers.rows.get(at);
            if !row.is_some_and(|row| self.engine.may_be_route_first(row)) {
                continue;
            }
            if !self.engine.is_routes_first() {
                break;
            }
            waits |= self.advance(at)?;
            if !has_address {
                // With an address of its own on the link, the routes survive another writer's address that
                // comes and goes.
                self.flush()?;
                waits |= self.go_on(1)?;
                self.flush()?;
                has_address = self.buffers.acked.len() > 0;
            }
        }
        self.flush()?;
        // Each deletion goes into the send behind that of its address.
        let half = (self.send_capacity() / 2).max(1);
        while self.buffers.acked.len() > 0 {
            waits |= self.go_on(half)?;
            self.flush()?;
        }
        Ok(waits)
    }

    /// Ends the order if an address of the link was deleted, or if notifications were lost.
    pub(super) fn note_deletions(&mut self) -> Result<(), Stop> {
        if !self.engine.is_routes_first() {
            return Ok(());
        }
        let mut is_deleted = false;
        let link = self.link;
        let heard = self.connection.notifications(|message| {
            // A deletion that cannot be decoded may be the link's.
            is_deleted |= message.address().map_or(true, |address| {
                address.is_some_and(|address| address.link == link)
            });
        })?;
        if is_deleted || heard == Dumped::Interrupted {
            self.engine.end_routes_first();
        }
        Ok(())
    }
}
