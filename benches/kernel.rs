//! Bulk assignment against the real kernel, in a network namespace of its own: `cargo bench`.
//!
//! Needs no privilege. Each measured call begins with a link that was just made; making and
//! deleting it is not measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use viproute::sandbox::{self, Sandbox};
use viproute::{LinkKind, VipManager};

const LINK: &str = "kube-dummy-if";
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

fn v4(n: u32) -> Vec<IpAddr> {
    let base = u32::from(Ipv4Addr::new(10, 96, 0, 0));
    (1..=n).map(|i| Ipv4Addr::from(base + i).into()).collect()
}

fn v6(n: u32) -> Vec<IpAddr> {
    let base = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 0));
    (1..=n)
        .map(|i| Ipv6Addr::from(base + u128::from(i)).into())
        .collect()
}

fn ip(line: &str) -> bool {
    Command::new("ip")
        .args(line.split(' '))
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// A node of its own, and a manager of a link that is still to be made.
fn node() -> (Sandbox, VipManager) {
    let sandbox = Sandbox::new().unwrap();
    // Not every kernel has the dummy driver; a bridge without ports does as well.
    let dummy = ip("link add node0 type dummy");
    assert!(dummy || ip("link add node0 type bridge"));
    assert!(ip("link set node0 arp off up"));
    assert!(ip("addr add 192.0.2.10/32 dev node0"));
    assert!(ip("addr add 2001:db8::10/128 dev node0 nodad"));
    let manager = VipManager::builder(LINK)
        .source(Ipv4Addr::new(192, 0, 2, 10))
        .source(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))
        .create_link(if dummy {
            LinkKind::Dummy
        } else {
            LinkKind::Bridge
        })
        .open()
        .unwrap();
    (sandbox, manager)
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
