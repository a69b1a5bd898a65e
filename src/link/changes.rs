//! What a call does to the link before it does anything for a VIP.

use std::net::IpAddr;

use ipnet::Ipv6Net;

use super::LinkKind;

/// What a call would do to the link before it does anything for a VIP.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkChanges {
    /// The link's name.
    pub(crate) name: String,
    pub(crate) create: Option<LinkKind>,
    pub(crate) bring_up: bool,
    /// Prefixes whose addresses on the link are to have our label.
    pub(crate) labels: Vec<Ipv6Net>,
    /// The broadcast routes that the kernel makes when the link comes up: to this destination, for
    /// this address.
    pub(crate) broadcasts: Vec<(IpAddr, IpAddr)>,
    pub(crate) label: u32,
}
