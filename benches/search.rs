//! `cargo bench --bench search`: exact search over 768-d records, against a walk over the index
//! with one dot product each. `STRATALOG_RECORDS` sets how many (20,000 unless given).
#![expect(clippy::unwrap_used, reason = "a bench that cannot read has nothing to measure")]

mod common;
#[path = "common/dot.rs"]
mod dot;
#[path = "common/fill.rs"]
mod fill;

use common::embedding;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dot::dot;
use fill::filled;
use std::time::Duration;
use stratalog::Metric;

fn search(criterion: &mut Criterion) {
    let records = std::env::var("STRATALOG_RECORDS").map_or(20_000, |n| n.parse().unwrap());
    let query = embedding(1_000_007);
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("store"), records).unwrap();
    let bytes = records * size_of_val(&query[..]) as u64;
    for (unit, throughput) in
        [("records", Throughput::Elements(records)), ("vectors", Throughput::Bytes(bytes))]
    {
        let mut group = criterion.benchmark_group(format!("search in {records}, 768-d, by {unit}"));
        group.sample_size(10).throughput(throughput);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            let name = BenchmarkId::new("search, k 10", format!("{metric:?}"));
            group.bench_function(name, |bencher| {
                bencher.iter(|| store.pin().search(&query, 10, metric).unwrap().len());
            });
        }
        group.bench_function("walk over the index, dot each", |bencher| {
            bencher.iter(|| {
                let pinned = store.pin();
                pinned.iter().map(|r| dot(r.unwrap().embedding(), &query)).fold(0.0, f32::max)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, search);
criterion_main!(benches);
