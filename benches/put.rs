//! `cargo bench --bench put`: fresh ids into segments that were preallocated ahead.
#![expect(clippy::unwrap_used, reason = "a bench that cannot write has nothing to measure")]

mod common;

use common::{CONTENT, DIMENSION, embedding, id};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

/// Puts that are timed at a time; a segment of 64 MiB takes some 19,000.
const BATCH: u64 = 15_000;

/// A store at the beginning of a segment that was preallocated ahead, pages and all.
fn at_a_preallocated_segment(dir: &tempfile::TempDir) -> (Store, u64) {
    let store = Options::new().dimension(DIMENSION).open(dir.path().join("store")).unwrap();
    let embedding = embedding(0);
    let put = |n| store.put(id(n), &embedding, CONTENT).unwrap().as_u64() >> 24;
    let (first, mut n) = (put(0), 1);
    // Past the half the next segment is being made; some time later it is there.
    while n < 12_000 {
        put(n);
        n += 1;
    }
    let preallocated = 2 * (64 << 20);
    while store.stats().disk_bytes < preallocated {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    while put(n) == first {
        n += 1;
    }
    (store, n + 1)
}

/// The time that a batch of puts takes, split over so many threads.
fn batch(threads: u64) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let (store, from) = at_a_preallocated_segment(&dir);
    let barrier = Barrier::new(threads as usize);
    let each = BATCH / threads;
    let writer = |thread: u64| {
        let embedding = embedding(thread);
        barrier.wait();
        let begin = Instant::now();
        for n in 0..each {
            store.put(id(from + thread * each + n), &embedding, CONTENT).unwrap();
        }
        begin.elapsed()
    };
    std::thread::scope(|scope| {
        let writer = &writer;
        let threads: Vec<_> = (0..threads).map(|n| scope.spawn(move || writer(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    })
}

fn put(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put of 15k fresh ids, 768-d + 256 B");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Elements(BATCH));
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    for threads in [1, 2] {
        group.bench_function(format!("{threads} threads"), |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| batch(threads)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, put);
criterion_main!(benches);
