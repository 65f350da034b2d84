//! `cargo bench --bench reopen`: the time `open` takes, files in the page cache: after a close, and
//! as after a kill, when every frame's checksum has to be looked at.
#![expect(clippy::unwrap_used, reason = "a bench that cannot open has nothing to measure")]

mod common;
#[path = "common/fill.rs"]
mod fill;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fill::filled;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

/// Where a segment's header says what is durable. Without that, a closed store is as one whose
/// process was killed before its first flush.
const DURABLE_AT: u64 = 128;

fn forget_what_is_durable(path: &Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|ending| ending == "seg") {
            let file = std::fs::File::options().write(true).open(file).unwrap();
            file.write_all_at(&[0; 8], DURABLE_AT).unwrap();
        }
    }
}

fn open(path: &Path, records: u64) -> (Store, Duration) {
    let begin = Instant::now();
    let store = Options::new().open(path).unwrap();
    let time = begin.elapsed();
    assert_eq!(store.len() as u64, records);
    (store, time)
}

fn reopen(criterion: &mut Criterion) {
    for records in [10_000u64, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        filled(&path, records).unwrap().close().unwrap();
        let name = format!("reopen of {}k, 768-d + 256 B", records / 1000);
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(records));
        group.bench_function("after a close", |bencher| {
            bencher.iter_custom(|n| (0..n).map(|_| open(&path, records).1).sum());
        });
        group.bench_function("after a kill", |bencher| {
            let killed = |_| {
                forget_what_is_durable(&path);
                open(&path, records).1
            };
            bencher.iter_custom(|n| (0..n).map(killed).sum());
        });
        group.finish();
    }
}

criterion_group!(benches, reopen);
criterion_main!(benches);
