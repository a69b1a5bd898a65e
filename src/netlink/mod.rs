//! Messages to bytes and back.
//!
//! Outgoing: netlink-packet-route writes each kind of message once, as a template, and [`encode`]
//! patches a VIP's own fields in place. Incoming: the iterators of [`decode`] check every length and
//! copy nothing. [`dump_cache`] reads only the bytes in which a dump message differs from the previous
//! one.

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
