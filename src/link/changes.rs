//! The changes of the link that a call makes before it changes a VIP.

use std::net::IpAddr;

use ipnet::Ipv6Net;

use super::LinkKind;

/// The changes of the link that a call would make before it changes a VIP.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkChanges {
    /// The link's name.
    pub(crate) name: String,
    pub(crate) create: Option<LinkKind>,
    pub(crate) bring_up: bool,
    /// Prefixes whose addresses on the link get `label`.
    pub(crate) labels: Vec<Ipv6Net>,
    /// The broadcast routes that the kernel adds when the link comes up: destination and address.
    pub(crate) broadcasts: Vec<(IpAddr, IpAddr)>,
    pub(crate) label: u32,
}
