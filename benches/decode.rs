//! Reading the dumps of 10,000 VIPs' addresses and routes, received before, into the rows of a
//! call: `cargo bench --bench decode`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};

const VIPS: u32 = 10_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(VIPS.into()));
    for (family, vips) in common::FAMILIES {
        let vips = vips(VIPS);
        let dump = common::dump::dump(&vips);
        let mut pure = common::pure(&vips);
        assert_eq!(pure.decode(dump.iter().map(Vec::as_slice)), vips.len());
        group.bench_function(BenchmarkId::from_parameter(family), |bencher| {
            bencher.iter(|| black_box(pure.decode(dump.iter().map(Vec::as_slice))));
        });
    }
    group.finish();
    criterion.final_summary();
}
