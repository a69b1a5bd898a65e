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
pub(crate) mod filter;
pub(crate) mod lifetime;
pub(crate) mod listener;
#[cfg(test)]
mod tests;
