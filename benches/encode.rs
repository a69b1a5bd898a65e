//! Writing the messages that put fresh VIPs on a link: `cargo bench --bench encode`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("encode");
    for (family, vips) in common::FAMILIES {
        for n in [1_000, 10_000] {
            let mut pure = common::pure(&vips(n));
            group.throughput(Throughput::Elements(n.into()));
            group.bench_function(BenchmarkId::new(family, n), |bencher| {
                bencher.iter(|| black_box(pure.encode()));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
