//! The same with real IPVS in masquerading mode in place of a rule of nftables: what kube-proxy and
//! kube-router do.
//!
//! It needs the kernel module `ip_vs`, the command `ipvsadm`, and `CAP_NET_ADMIN` of the first user
//! namespace: the IPVS of a network namespace may be set by nobody else. `tests/vm/run` has them
//! all.

use viproute::Binding;
use viproute::Family::{V4, V6};

use crate::common::skipped;
use crate::library::{assert_cured, open, open_with};
use crate::topology::{BOTH, Topology, vip};

/// The topology with IPVS, or word that there is none.
fn with_ipvs(test: &str) -> Option<Topology> {
    match Topology::with_ipvs() {
        Ok(topology) => Some(topology),
        Err(why) => {
            skipped(test, &format!("no IPVS: {}", why.trim_end()));
            None
        }
    }
}

#[test]
fn ipvs_depends_on_the_local_route() {
    let Some(topology) = with_ipvs("ipvs_depends_on_the_local_route") else {
        return;
    };
    for family in BOTH {
        topology.add_address(family);
        topology.assert_lost(family);
        topology.replace_route(family);
    }
    topology.assert_reached_from_node(V4);
    topology.assert_lost(V6);
    topology.delete_kernel_local_route();
    topology.assert_reached_from_node(V6);
}

#[test]
fn ipvs_is_cured_by_normalize() {
    let Some(topology) = with_ipvs("ipvs_is_cured_by_normalize") else {
        return;
    };
    for family in BOTH {
        topology.add_address(family);
        topology.assert_lost(family);
    }
    topology.replace_route(V6);
    topology.assert_lost(V6);

    let report = topology.in_node_a(|| open()?.normalize());
    assert_cured(&topology, report);
}

#[test]
fn ipvs_is_reached_after_assign() {
    let Some(topology) = with_ipvs("ipvs_is_reached_after_assign") else {
        return;
    };
    let report = topology.in_node_a(|| open()?.assign(BOTH.map(vip)));
    assert_cured(&topology, report);
}

#[test]
fn ipvs_is_reached_by_a_route_without_an_address() {
    let Some(topology) = with_ipvs("ipvs_is_reached_by_a_route_without_an_address") else {
        return;
    };
    let report = topology.in_node_a(|| open_with(Binding::Route)?.assign(BOTH.map(vip)));
    assert_cured(&topology, report);
}
