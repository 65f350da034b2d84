//! `cargo bench --bench get`: by random ids, in stores that fit the page cache.
#![expect(clippy::unwrap_used, reason = "a bench that cannot read has nothing to measure")]

mod common;
#[path = "common/dot.rs"]
mod dot;
#[path = "common/fill.rs"]
mod fill;

use common::{CONTENT, embedding, id, random};
use criterion::{Criterion, criterion_group, criterion_main};
use dot::dot;
use fill::filled;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stratalog::{Pinned, Record, Store};

/// Reads a byte of each part, as one who uses a record would.
fn touch(record: &Record<'_>) -> f32 {
    record.embedding()[0] + f32::from(record.content()[0])
}

fn hit<'p>(pinned: &'p Pinned<'_>, seed: &mut u64, records: u64) -> Record<'p> {
    pinned.get(id(random(seed) % records)).unwrap().unwrap()
}

fn gets(criterion: &mut Criterion, store: &Store, records: u64) {
    let mut group = criterion.benchmark_group(format!("get of {}k, 768-d", records / 1000));
    group.sample_size(20).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    let (mut seed, query) = (1, embedding(7));
    let pinned = store.pin();
    group.bench_function("hit and touch, one pin for many", |bencher| {
        bencher.iter(|| touch(&hit(&pinned, &mut seed, records)));
    });
    group.bench_function("miss, one pin for many", |bencher| {
        bencher.iter(|| pinned.get(id(records + random(&mut seed))).unwrap().is_none());
    });
    group.bench_function("hit and dot, one pin for many", |bencher| {
        bencher.iter(|| dot(hit(&pinned, &mut seed, records).embedding(), &query));
    });
    drop(pinned);
    group.bench_function("hit and touch, a pin each", |bencher| {
        bencher.iter(|| touch(&hit(&store.pin(), &mut seed, records)));
    });
    group.bench_function("pin and unpin", |bencher| bencher.iter(|| black_box(store.pin())));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut seed, embedding) = (5, embedding(5));
            while !stop.load(Ordering::Relaxed) {
                store.put(id(random(&mut seed) % records), &embedding, CONTENT).unwrap();
                // Some 20,000 a second: what is measured is the reader.
                std::thread::sleep(Duration::from_micros(1));
            }
        });
        group.bench_function("hit and touch, a pin each, beside 1 writer", |bencher| {
            bencher.iter(|| touch(&hit(&store.pin(), &mut seed, records)));
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
}

fn get(criterion: &mut Criterion) {
    for records in [10_000, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(&dir.path().join("store"), records).unwrap();
        gets(criterion, &store, records);
    }
}

criterion_group!(benches, get);
criterion_main!(benches);
