//! `cargo bench --bench iterate`: a walk over all records with one dot product each.
#![expect(clippy::unwrap_used, reason = "a bench that cannot read has nothing to measure")]

mod common;
#[path = "common/dot.rs"]
mod dot;
#[path = "common/fill.rs"]
mod fill;

use common::embedding;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dot::dot;
use fill::filled;
use std::time::Duration;

fn iterate(criterion: &mut Criterion) {
    let query = embedding(7);
    for records in [10_000u64, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(&dir.path().join("store"), records).unwrap();
        let name = format!("walk over {}k, 768-d", records / 1000);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Elements(records));
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        group.bench_function("ids only", |bencher| {
            bencher.iter(|| store.pin().iter().map(|r| r.unwrap().id().len()).sum::<usize>());
        });
        group.bench_function("dot each", |bencher| {
            bencher.iter(|| {
                let pinned = store.pin();
                pinned.iter().map(|r| dot(r.unwrap().embedding(), &query)).fold(0.0, f32::max)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, iterate);
criterion_main!(benches);
