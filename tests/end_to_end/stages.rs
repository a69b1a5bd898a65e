//! The fault and its cure with `ip` alone: which route decides.

use viproute::Family::{V4, V6};

use crate::topology::Topology;

#[test]
fn ipv4_is_cured_by_the_replaced_route() {
    let topology = Topology::new();
    topology.add_address(V4);
    topology.assert_lost(V4);
    topology.replace_route(V4);
    topology.assert_reached_from_node(V4);
}

#[test]
fn ipv6_is_cured_only_when_the_kernel_local_route_is_gone() {
    let topology = Topology::new();
    topology.add_address(V6);
    topology.assert_lost(V6);
    topology.replace_route(V6);
    assert_eq!(topology.routes(V6).len(), 3, "{}", topology.state(V6));
    topology.assert_lost(V6);
    topology.delete_kernel_local_route();
    topology.assert_reached_from_node(V6);
}

#[test]
fn ipv6_is_not_cured_by_deleting_the_prefix_route() {
    let topology = Topology::new();
    topology.add_address(V6);
    topology.replace_route(V6);
    topology.delete_prefix_route();
    assert_eq!(topology.routes(V6).len(), 2, "{}", topology.state(V6));
    topology.assert_lost(V6);
}
