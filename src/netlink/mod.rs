//! Messages to bytes and back.
//!
//! Outgoing: netlink-packet-route writes each kind of message once, as a template, and a VIP's own
//! fields are patched in place ([`encode`]). Incoming: iterators over the received bytes that
//! check every length and copy nothing ([`decode`]); of a dump, what one message has in common with
//! the next is read once ([`dump_cache`]).

pub(crate) mod batch;
pub(crate) mod connection;
pub(crate) mod decode;
pub(crate) mod dump_cache;
pub(crate) mod encode;
pub(crate) mod lifetime;
#[cfg(test)]
mod tests;

/// The groups of the notifications (linux/rtnetlink.h).
pub(crate) const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];
