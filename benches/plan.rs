//! What is to be done for 10,000 VIPs that were seen: `cargo bench --bench plan`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use viproute::bench::State;

const VIPS: u32 = 10_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(VIPS.into()));
    for (family, vips) in common::FAMILIES {
        let mut pure = common::pure(&vips(VIPS));
        pure.set(VIPS as usize, State::Clean);
        assert_eq!(pure.plan(), 0);
        for (state, broken) in [("clean", 0), ("one change", 1), ("all broken", VIPS)] {
            pure.set(broken as usize, State::Broken);
            assert_eq!(pure.plan() > 0, broken > 0);
            group.bench_function(BenchmarkId::new(family, state), |bencher| {
                bencher.iter(|| black_box(pure.plan()));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
