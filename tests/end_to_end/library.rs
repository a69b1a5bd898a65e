//! The cure by the crate.

use std::net::TcpListener;

use viproute::{Binding, Error, Family, Report, VipManager};

use crate::topology::{BOTH, LINK, Topology, node_address, vip};

/// A manager of node A's link; it has to be opened in A.
pub(crate) fn open() -> Result<VipManager, Error> {
    open_with(Binding::Address)
}

pub(crate) fn open_with(binding: Binding) -> Result<VipManager, Error> {
    VipManager::builder(LINK)
        .binding(binding)
        .source(node_address(Family::V4))
        .source(node_address(Family::V6))
        .open()
}

#[track_caller]
pub(crate) fn assert_cured(topology: &Topology, report: Result<Report, Error>) {
    let report = report.unwrap_or_else(|e| panic!("{e:?}"));
    assert!(report.is_complete(), "{report}");
    for family in BOTH {
        topology.assert_reached_from_node(family);
        assert_eq!(
            topology.routes(family).len(),
            1,
            "{}",
            topology.state(family)
        );
    }
}

#[test]
fn normalize_repairs_addresses_with_replaced_routes() {
    let topology = Topology::new();
    for family in BOTH {
        topology.add_address(family);
        topology.replace_route(family);
    }
    topology.assert_reached_from_node(Family::V4);
    topology.assert_lost(Family::V6);

    let report = topology.in_node_a(|| open()?.normalize());
    assert_cured(&topology, report);
}

#[test]
fn normalize_repairs_addresses_without_routes() {
    let topology = Topology::new();
    for family in BOTH {
        topology.add_address(family);
        topology.assert_lost(family);
    }

    let report = topology.in_node_a(|| open()?.normalize());
    assert_cured(&topology, report);
}

#[test]
fn assign_makes_vips_reachable() {
    let topology = Topology::new();

    let report = topology.in_node_a(|| open()?.assign(BOTH.map(vip)));
    assert_cured(&topology, report);
}

/// Whether node A has the VIP's address on its link.
fn has_address(topology: &Topology, family: Family) -> bool {
    let state = topology.state(family);
    let needle = format!(
        "inet{} {}/",
        if family == Family::V4 { "" } else { "6" },
        vip(family)
    );
    state.contains(&needle)
}

#[test]
fn route_only_vips_are_reachable() {
    let topology = Topology::new();

    let report = topology.in_node_a(|| open_with(Binding::Route)?.assign(BOTH.map(vip)));
    assert_cured(&topology, report);
    for family in BOTH {
        assert!(
            !has_address(&topology, family),
            "{}",
            topology.state(family)
        );
        // A server on the node itself: IPv6 asks for an address, unless the socket has FREEBIND.
        let bound = topology.in_node_a(move || TcpListener::bind((vip(family), 6000)));
        assert_eq!(bound.is_ok(), family == Family::V4, "{family}: {bound:?}");
        if let Err(error) = bound {
            assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
        }
    }
}

#[test]
fn vips_stay_reachable_after_a_move_between_bindings() {
    let topology = Topology::new();
    for family in BOTH {
        topology.add_address(family);
        topology.assert_lost(family);
    }
    for binding in [Binding::Route, Binding::Address, Binding::Route] {
        let report = topology.in_node_a(move || open()?.set_binding(binding));
        assert_cured(&topology, report);
        for family in BOTH {
            let by_address = binding == Binding::Address;
            assert_eq!(
                has_address(&topology, family),
                by_address,
                "{}",
                topology.state(family)
            );
            // The control: where the address is, IPv6 binds too.
            let bound = topology.in_node_a(move || TcpListener::bind((vip(family), 6000)));
            let binds = by_address || family == Family::V4;
            assert_eq!(bound.is_ok(), binds, "{family}: {bound:?}");
        }
    }
}
