//! What is still to be moved to the file of its behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::time::Duration;

use broken::manager;
use common::{Net, PROTO_KERNEL, VIP_LINK, vip};
use viproute::Drift;

/// An IPv6 route with a lifetime serves nobody once that is over, and stays in the table for half a
/// minute or so.
#[test]
fn a_route_that_expires_is_not_the_wanted_one() {
    for (protocol, wait) in [(PROTO_KERNEL, false), (PROTO_KERNEL, true), (201, true)] {
        let net = Net::new();
        let vip = vip("2001:db8:42::1");
        let mut manager = manager(protocol);
        manager.assign([vip]).unwrap();
        net.ip(&format!(
            "-6 route replace local {vip} dev {VIP_LINK} table local proto {protocol} src {} \
             metric 1024 expires {}",
            common::NODE_V6,
            if wait { 1 } else { 100 }
        ));
        let reaches = || net.try_ip(&format!("-6 route get {vip}")).is_ok();
        if wait {
            while reaches() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let drift = manager.audit().unwrap().vips[0].drift;
        assert!(drift.contains(Drift::MISSING_ROUTE), "{drift}");
        let report = manager.normalize().unwrap();
        assert_eq!(report.repaired, 1, "{report}");
        assert!(reaches());
        let routes = net.ip(&format!("-6 route show table local {vip}"));
        assert!(!routes.contains("expires"), "{routes}");
        net.assert_single_route(&[vip], protocol);
    }
}
