//! Calls against the real kernel, in a network namespace of its own: `cargo bench --bench kernel`.
//!
//! Needs no privilege. What a call needs to begin with is made before its time is taken. How the
//! times compare with the kernel's own cost, `ratio` tells.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Duration;

use common::floor::{self, Floor};
use common::time::timed;
use common::{Node, manager};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use viproute::{Binding, Claim, sandbox};

fn main() {
    sandbox::enter().expect("a private namespace");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    // For its function only a tenth will do.
    let part = if std::env::args().any(|argument| argument == "--test") {
        10
    } else {
        1
    };
    for (family, vips) in common::FAMILIES {
        let mut bench = Bench {
            criterion: &mut criterion,
            family,
        };
        for n in [100, 1_000, 10_000] {
            bench.assign(&vips(n / part), Binding::Address);
            bench.again(&vips(n / part));
        }
        for n in [10_000, 100_000] {
            bench.assign(&vips(n / part), Binding::Route);
        }
        bench.one_of_many(&vips(10_000 / part + 1));
        bench.normalize(&vips(10_000 / part));
        bench.release(&vips(5_000 / part));
        let others = vips(1_000_000 + 200_000 / part);
        bench.audit(&vips(10_000 / part), &others[1_000_000..]);
    }
    criterion.final_summary();
}

struct Bench<'a> {
    criterion: &'a mut Criterion,
    family: &'a str,
}

impl Bench<'_> {
    /// Measures `work`, after `before`, where that counts as one per VIP.
    fn measure(
        &mut self,
        name: &str,
        vips: usize,
        mut before: impl FnMut(),
        mut work: impl FnMut(),
    ) {
        let mut group = self
            .criterion
            .benchmark_group(format!("{name} {}", self.family));
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(vips as u64));
        group.bench_function(BenchmarkId::from_parameter(vips), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut measured = Duration::ZERO;
                for _ in 0..iterations {
                    before();
                    measured += timed(&mut work).wall;
                }
                measured
            });
        });
        group.finish();
    }

    /// Fresh VIPs, verified.
    fn assign(&mut self, set: &[IpAddr], binding: Binding) {
        let node = Node::new();
        let mut manager = manager(binding);
        let name = match binding {
            Binding::Route => "assign route-only",
            _ => "assign",
        };
        let before = || {
            node.fresh_link();
        };
        self.measure(name, set.len(), before, || {
            assert_eq!(manager.assign(set).unwrap().assigned, set.len());
        });
    }

    /// VIPs that are right: nothing is written.
    fn again(&mut self, set: &[IpAddr]) {
        let node = Node::new();
        node.fresh_link();
        let mut manager = manager(Binding::Address);
        manager.assign(set).unwrap();
        self.measure(
            "assign again",
            set.len(),
            || {},
            || {
                assert_eq!(manager.assign(set).unwrap().writes, 0);
            },
        );
    }

    /// The last VIP comes and goes on a link that holds all others.
    fn one_of_many(&mut self, all: &[IpAddr]) {
        let (set, one) = all.split_at(all.len() - 1);
        let node = Node::new();
        node.fresh_link();
        let restorer = RefCell::new(manager(Binding::Address));
        restorer.borrow_mut().assign(set).unwrap();
        let gone = || {
            restorer.borrow_mut().release(one).unwrap();
        };
        let there = || {
            restorer.borrow_mut().assign(one).unwrap();
        };
        let mut manager = manager(Binding::Address);
        let claim = Claim::link();
        self.measure("reconcile one change", all.len(), gone, || {
            assert_eq!(manager.reconcile(&claim, all).unwrap().assigned, 1);
        });
        self.measure("one VIP new", 1, gone, || {
            assert_eq!(manager.assign(one).unwrap().assigned, 1);
        });
        self.measure("one VIP gone", 1, there, || {
            assert_eq!(manager.release(one).unwrap().released, 1);
        });
    }

    /// VIPs as kube-router before 2.6 leaves them.
    fn normalize(&mut self, set: &[IpAddr]) {
        let node = Node::new();
        let mut manager = manager(Binding::Address);
        let mut floor = Floor::new();
        let before = || {
            let link = node.fresh_link();
            floor.send(&floor::as_kube_router_leaves(link, set));
            if set[0].is_ipv6() {
                while common::late(set) {}
            }
        };
        self.measure("normalize", set.len(), before, || {
            let report = manager.normalize().unwrap();
            assert_eq!(report.repaired + report.unchanged, set.len());
        });
    }

    /// Everything away again.
    fn release(&mut self, set: &[IpAddr]) {
        let node = Node::new();
        node.fresh_link();
        let mut assigner = manager(Binding::Address);
        let mut manager = manager(Binding::Address);
        let before = || {
            assigner.assign(set).unwrap();
        };
        self.measure("release", set.len(), before, || {
            assert_eq!(manager.release(set).unwrap().released, set.len());
        });
    }

    /// Reads VIPs that are right, on a node with many other routes; beside them the same
    /// dumps, only received.
    fn audit(&mut self, set: &[IpAddr], others: &[IpAddr]) {
        let node = Node::new();
        let link = node.fresh_link();
        let mut manager = manager(Binding::Address);
        manager.assign(set).unwrap();
        let mut floor = Floor::new();
        let node_link = common::index_of("node0");
        floor.send(&floor::Messages::encode(
            others.iter().map(|to| floor::other_route(node_link, to)),
        ));
        self.measure(
            "audit beside others",
            set.len(),
            || {},
            || {
                assert_eq!(manager.audit().unwrap().drifted().count(), 0);
            },
        );
        let claim = Claim::link();
        self.measure(
            "reconcile beside others",
            set.len(),
            || {},
            || {
                assert_eq!(manager.reconcile(&claim, set).unwrap().writes, 0);
            },
        );
        let requests = floor::dumps(link);
        self.measure(
            "raw dumps beside others",
            set.len(),
            || {},
            || {
                for request in &requests {
                    floor.read(request);
                }
            },
        );
    }
}
