//! `normalize`: every broken state becomes the single-route state, without a gap, and a good one
//! is left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use broken::{Random, State, assert_single_route, manager, put};
use common::{Net, PROTO_KERNEL, RouteWatcher, Snapshot, VIP_LINK, vips_v4, vips_v6};
use viproute::{Cause, Drift, Error, ErrorKind, Report};

/// Both kinds of wanted protocol.
const PROTOCOLS: [u8; 2] = [PROTO_KERNEL, 201];

/// The report of a call, whether or not it fell short.
#[track_caller]
fn report(result: Result<Report, Error>) -> Report {
    match result {
        Ok(report) => {
            assert!(report.failures.is_empty(), "{report:?}");
            report
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
            error.into_report().unwrap()
        }
    }
}

/// One VIP of each state of both families.
fn one_of_each() -> Vec<(IpAddr, State)> {
    let zip = |vips: Vec<IpAddr>| {
        let states = State::of(vips[0]);
        vips.into_iter().zip(states).collect::<Vec<_>>()
    };
    [
        zip(vips_v4(State::V4.len() + 1)),
        zip(vips_v6(State::V6.len())),
    ]
    .concat()
}

#[test]
fn each_state_by_itself_and_nothing_else() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        let all = one_of_each();
        put(&net, &all, protocol);
        let mut manager = manager(protocol);
        for &(vip, state) in &all {
            let rest = net.snapshot_without(&[vip]);
            let own = Snapshot::take(&[]);
            let report = report(manager.normalize_only([vip]));
            println!("{protocol}: {state:?} {vip}: {report}");
            rest.assert_same(&net.snapshot_without(&[vip]));
            match state {
                State::Stale => {
                    assert_eq!(report.failures.len(), 1, "{report:?}");
                    assert_eq!(report.failures[0].vip, vip.into());
                    assert_eq!(report.failures[0].cause, Cause::Unrepaired);
                    assert!(report.failures[0].drift.contains(Drift::STALE));
                    assert!(report.failures[0].drift.contains(Drift::MISSING_ADDRESS));
                    assert_eq!(report.writes, 0);
                    own.assert_same(&Snapshot::take(&[]));
                }
                State::Fine => {
                    assert_eq!((report.unchanged, report.writes), (1, 0), "{report}");
                    own.assert_same(&Snapshot::take(&[]));
                    assert_single_route(&net, &[vip], protocol);
                }
                _ => {
                    assert_eq!(
                        (report.repaired, report.failures.len()),
                        (1, 0),
                        "{report:?}"
                    );
                    assert!((1..=9).contains(&report.writes), "{state:?} {report}");
                    assert_single_route(&net, &[vip], protocol);
                }
            }
        }
    }
}
