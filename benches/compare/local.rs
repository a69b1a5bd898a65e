// Each bench uses a part of it.
#![allow(dead_code, unreachable_pub)]

//! A reader of table local that counts VIPs by their state.

use std::net::IpAddr;

use crate::common::floor::{self, Floor};
use crate::common::source;

/// Of a VIP's routes through the link in table local: all, and desired ones.
type Routes = (u8, u8);
pub const RIGHT: Routes = (1, 1);
pub const GONE: Routes = (0, 0);

/// Reads table local.
pub struct Watch<'a> {
    floor: Floor,
    request: Vec<u8>,
    of_addresses: Vec<u8>,
    received: Vec<u8>,
    vips: &'a [IpAddr],
    routes: Vec<Routes>,
}

impl<'a> Watch<'a> {
    /// For these VIPs of one family, which are sorted.
    pub fn new(link: u32, vips: &'a [IpAddr]) -> Self {
        // Addresses and routes of IPv4, then of IPv6.
        let at = if vips[0].is_ipv4() { 0 } else { 2 };
        Self {
            of_addresses: floor::dumps(link).swap_remove(at),
            floor: Floor::new(),
            request: floor::dump_of_local_routes(link, floor::family(&vips[0])),
            received: Vec::new(),
            vips,
            routes: vec![GONE; vips.len()],
        }
    }

    /// How many bytes the addresses of the link fill in a dump.
    pub fn addresses(&mut self) -> usize {
        self.received.clear();
        self.floor.read_into(&self.of_addresses, &mut self.received);
        self.received.len()
    }

    /// How many VIPs are in this state.
    pub fn count(&mut self, state: Routes) -> usize {
        self.received.clear();
        self.floor.read_into(&self.request, &mut self.received);
        self.routes.fill(GONE);
        for route in floor::routes(&self.received) {
            let place =
                floor::destination_of(route).and_then(|to| self.vips.binary_search(&to).ok());
            let Some(place) = place else { continue };
            let (all, desired) = &mut self.routes[place];
            *all = all.saturating_add(1);
            let is_desired = floor::source_of(route) == Some(source(&self.vips[place]))
                && floor::is_kernels(route);
            *desired += u8::from(is_desired);
        }
        self.routes
            .iter()
            .filter(|routes| **routes == state)
            .count()
    }
}
