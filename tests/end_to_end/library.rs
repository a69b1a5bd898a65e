//! The cure by the crate.

use viproute::{Error, Family, Report, VipManager};

use crate::topology::{BOTH, LINK, Topology, node_address, vip};

/// A manager of node A's link; it has to be opened in A.
fn open() -> Result<VipManager, Error> {
    VipManager::builder(LINK)
        .source(node_address(Family::V4))
        .source(node_address(Family::V6))
        .open()
}

#[track_caller]
fn assert_cured(topology: &Topology, report: Result<Report, Error>) {
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
fn normalize_cures_what_addresses_and_replaced_routes_left() {
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
fn normalize_cures_bare_addresses() {
    let topology = Topology::new();
    for family in BOTH {
        topology.add_address(family);
        topology.assert_lost(family);
    }

    let report = topology.in_node_a(|| open()?.normalize());
    assert_cured(&topology, report);
}

#[test]
fn assign_alone_is_enough() {
    let topology = Topology::new();

    let report = topology.in_node_a(|| open()?.assign(BOTH.map(vip)));
    assert_cured(&topology, report);
}
