//! Faults that the adversaries of this directory have found, one test each, as small as they shrank
//! to. CHANGELOG.md tells of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::net::IpAddr;

use broken::manager;
use common::{Net, PROTO_KERNEL, VIP_LINK};
use viproute::{Cause, Claim, Drift, ErrorKind};

fn vip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A VIP that is on the link twice, as a host and with another prefix length, is not ours to
/// change, also where the call finds it by itself.
#[test]
fn a_vip_of_two_lengths_is_found_with_both() {
    for other_first in [false, true] {
        let net = Net::new();
        let (stays, goes) = (vip("10.96.0.2"), vip("10.96.0.3"));
        let other = || net.ip(&format!("addr add {stays}/24 dev {VIP_LINK}"));
        if other_first {
            other();
            net.ip(&format!("addr add {stays}/32 dev {VIP_LINK}"));
        }
        let mut manager = manager(PROTO_KERNEL);
        if !other_first {
            manager.assign([stays, goes]).unwrap();
            other();
        }
        let before = net.snapshot_without(&[goes]);
        let desired = [vip("10.96.0.9")];
        for call in 0..3 {
            let result = match call {
                0 => manager.reconcile(&Claim::link(), desired),
                1 => manager.normalize(),
                _ => manager.release_all(&Claim::link()),
            };
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incomplete);
            let report = error.into_report().unwrap();
            assert_eq!(report.failures.len(), 1, "{report:?}");
            assert_eq!(report.failures[0].vip.addr(), stays);
            assert_eq!(report.failures[0].cause, Cause::Unrepaired);
            let drift = report.failures[0].drift;
            assert!(drift.contains(Drift::WRONG_PREFIX_LENGTH), "{drift}");
        }
        before.assert_same(&net.snapshot_without(&[goes]));
    }
}
