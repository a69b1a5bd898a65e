//! The sources of the VIPs: the addresses of the node, from its own Node object.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;

/// The node's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) ipv4: Option<IpAddr>,
    pub(crate) ipv6: Option<IpAddr>,
}

impl Sources {
    /// Of each family the first InternalIP, or else the first ExternalIP.
    pub(crate) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_deref());
        let addresses = addresses.unwrap_or_default();
        let first = |is_family: fn(&IpAddr) -> bool| {
            ["InternalIP", "ExternalIP"].into_iter().find_map(|kind| {
                let of_kind = addresses.iter().filter(|address| address.type_ == kind);
                let mut ips = of_kind.filter_map(|address| address.address.parse().ok());
                ips.find(is_family)
            })
        };
        Self {
            ipv4: first(IpAddr::is_ipv4),
            ipv6: first(IpAddr::is_ipv6),
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.into_iter().chain(self.ipv6)
    }

    /// Takes over the addresses of the other one. Returns those that are new. A family that the other one
    /// lacks keeps its address: the kernel has it until the kubelet says what comes instead.
    pub(crate) fn update(&mut self, new: Self) -> impl Iterator<Item = IpAddr> {
        let before = *self;
        self.ipv4 = new.ipv4.or(self.ipv4);
        self.ipv6 = new.ipv6.or(self.ipv6);
        self.iter()
            .filter(move |source| !before.iter().any(|old| old == *source))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources(addresses: &[(&str, &str)]) -> Sources {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|(kind, address)| json!({ "type": kind, "address": address }))
            .collect();
        let node = json!({ "metadata": {}, "status": { "addresses": addresses } });
        Sources::of(&serde_json::from_value(node).unwrap())
    }

    fn texts(sources: impl Iterator<Item = IpAddr>) -> Vec<String> {
        sources.map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn first_internal_address_of_each_family_counts() {
        let sources = sources(&[
            ("Hostname", "node-1"),
            ("ExternalIP", "203.0.113.1"),
            ("InternalIP", "2001:db8::10"),
            ("InternalIP", "192.0.2.10"),
            ("InternalIP", "192.0.2.11"),
            ("InternalIP", "2001:db8::11"),
        ]);
        assert_eq!(texts(sources.iter()), ["192.0.2.10", "2001:db8::10"]);
    }

    #[test]
    fn external_address_counts_where_a_family_has_no_internal_one() {
        let sources = sources(&[
            ("ExternalIP", "203.0.113.1"),
            ("ExternalIP", "2001:db8::1"),
            ("InternalIP", "192.0.2.10"),
        ]);
        assert_eq!(texts(sources.iter()), ["192.0.2.10", "2001:db8::1"]);
    }

    #[test]
    fn node_without_addresses_has_no_source() {
        assert_eq!(Sources::of(&Node::default()), Sources::default());
        assert_eq!(sources(&[("InternalIP", "no address")]), Sources::default());
    }

    #[test]
    fn update_returns_new_addresses_and_keeps_a_family_that_is_missing() {
        let mut now = sources(&[("InternalIP", "192.0.2.10"), ("InternalIP", "2001:db8::1")]);
        let new = sources(&[("InternalIP", "192.0.2.11")]);
        assert_eq!(texts(now.update(new)), ["192.0.2.11"]);
        assert_eq!(texts(now.iter()), ["192.0.2.11", "2001:db8::1"]);
        assert_eq!(texts(now.update(new)), [""; 0]);
    }
}
