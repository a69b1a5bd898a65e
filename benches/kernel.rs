//! Bulk assignment against the real kernel, in a network namespace of its own: `cargo bench`.
//!
//! Needs no privilege. Each measured call begins with a link that was just made; making and
//! deleting it is not measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{LINK, NODE_V4, NODE_V6, Node, ip, v4, v6};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use viproute::VipManager;
use viproute::sandbox;

const SIZES: [u32; 3] = [100, 1_000, 10_000];

fn main() {
    sandbox::enter().expect("a private namespace");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    assign(&mut criterion, "IPv4", v4);
    assign(&mut criterion, "IPv6", v6);
    again(&mut criterion, "IPv4", v4);
    again(&mut criterion, "IPv6", v6);
    criterion.final_summary();
}

/// A node of its own, and a manager of a link that is still to be made.
fn node() -> (Node, VipManager) {
    let node = Node::new();
    let manager = VipManager::builder(LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .create_link(node.link_kind())
        .open()
        .unwrap();
    (node, manager)
}

/// Fresh VIPs, verified.
fn assign(criterion: &mut Criterion, family: &str, vips: fn(u32) -> Vec<IpAddr>) {
    let mut group = criterion.benchmark_group(format!("assign {family}"));
    group.sampling_mode(SamplingMode::Flat);
    for n in SIZES {
        let set = vips(n);
        let (_node, mut manager) = node();
        group.throughput(Throughput::Elements(n.into()));
        group.bench_with_input(BenchmarkId::from_parameter(n), &set, |bencher, set| {
            bencher.iter_custom(|iterations| {
                let mut measured = Duration::ZERO;
                for _ in 0..iterations {
                    // Makes the link, and warms the buffers.
                    manager.assign(&set[..1]).unwrap();
                    manager.release(&set[..1]).unwrap();
                    let began = Instant::now();
                    let report = manager.assign(set).unwrap();
                    measured += began.elapsed();
                    assert_eq!(report.assigned, set.len());
                    assert!(ip(&format!("link del {LINK}")));
                }
                measured
            });
        });
    }
    group.finish();
}

/// VIPs that are as wanted: nothing is written.
fn again(criterion: &mut Criterion, family: &str, vips: fn(u32) -> Vec<IpAddr>) {
    let mut group = criterion.benchmark_group(format!("assign again {family}"));
    for n in SIZES {
        let set = vips(n);
        let (_node, mut manager) = node();
        manager.assign(&set).unwrap();
        group.throughput(Throughput::Elements(n.into()));
        group.bench_with_input(BenchmarkId::from_parameter(n), &set, |bencher, set| {
            bencher.iter(|| {
                let report = manager.assign(set).unwrap();
                assert_eq!(report.writes, 0);
            });
        });
    }
    group.finish();
}
