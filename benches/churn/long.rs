//! Overwriting at full speed for a long time: what one minute is like, and the last one.

use super::held::Held;
use super::{CONTENT, DIMENSION, Failure, embedding, fill, id, mib, random};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

/// Small, so that many come and go.
const SEGMENT: u64 = 1 << 20;
const WRITERS: u64 = 2;
const RECORDS: u64 = 6_000;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const PERIODS: u32 = 10;

/// A minute, or a part of a short run.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    puts_a_second: f64,
    looks: u64,
    /// Sums over the looks.
    descriptors: u64,
    mappings: u64,
    bytes: u64,
    most: Held,
}

impl Period {
    fn add(&mut self, held: Held) {
        self.looks += 1;
        self.descriptors += held.descriptors;
        self.mappings += held.mappings;
        self.bytes += held.bytes();
        let most = &mut self.most;
        most.descriptors = most.descriptors.max(held.descriptors);
        most.mappings = most.mappings.max(held.mappings);
        most.named_bytes = most.named_bytes.max(held.bytes());
    }

    /// Puts a second, and means of descriptors, mappings and MiB on disk.
    fn figures(&self) -> [f64; 4] {
        let looks = self.looks.max(1) as f64;
        let disk = mib(self.bytes) / looks;
        [self.puts_a_second, self.descriptors as f64 / looks, self.mappings as f64 / looks, disk]
    }
}

fn write(store: &Store, seed: u64, puts: &AtomicU64, stop: &AtomicBool) -> Result<(), Failure> {
    let (mut seed, embedding) = (seed, embedding(seed));
    while !stop.load(Ordering::Relaxed) {
        store.put(id(random(&mut seed) % RECORDS), &embedding, CONTENT)?;
        puts.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn watch(path: &Path, puts: &AtomicU64, time: Duration) -> Result<Period, Failure> {
    let (begin, before) = (Instant::now(), puts.load(Ordering::Relaxed));
    let mut period = Period::default();
    while begin.elapsed() < time {
        sleep(LOOK_EVERY.min(time / 4));
        period.add(Held::of(path)?);
    }
    let made = puts.load(Ordering::Relaxed) - before;
    period.puts_a_second = made as f64 / begin.elapsed().as_secs_f64();
    Ok(period)
}

/// Overwrites for so many seconds, and compares the last minute (of ten parts, if there is less
/// than five minutes, the last) with the second one.
pub fn overwrite(dir: &Path, seconds: u64) -> Result<(), Failure> {
    let path = dir.join("long");
    let store = Options::new().dimension(DIMENSION).segment_size(SEGMENT).open(&path)?;
    fill(&store, RECORDS)?;
    let live = mib(store.stats().live_bytes);
    println!("{RECORDS} records, {live:.0} MiB live, overwritten by {WRITERS} writers");
    let time = Duration::from_secs(seconds);
    let part = if seconds >= 300 { Duration::from_secs(60) } else { time / PERIODS };
    let parts = (time.as_secs_f64() / part.as_secs_f64()).round() as u32;
    let (puts, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let periods = std::thread::scope(|scope| -> Result<Vec<Period>, Failure> {
        let (store, puts, stop) = (&store, &puts, &stop);
        let writers: Vec<_> =
            (1..=WRITERS).map(|n| scope.spawn(move || write(store, n, puts, stop))).collect();
        let periods = (1..=parts).map(|number| {
            let period = watch(&path, puts, part)?;
            let [rate, descriptors, mappings, disk] = period.figures();
            let most = period.most;
            println!(
                "{:5.0} s: {rate:6.0} puts/s; mean (most): {descriptors:.1} ({}) descriptors, \
                 {mappings:.1} ({}) mappings, {disk:.1} ({:.1}) MiB on disk, unlinked included",
                (part * number).as_secs_f64(),
                most.descriptors,
                most.mappings,
                mib(most.named_bytes)
            );
            Ok(period)
        });
        let periods = periods.collect();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_panic| "a writer panicked")??;
        }
        periods
    })?;
    if let (Some(second), Some(last)) = (periods.get(1), periods.last()) {
        let (second, last) = (second.figures(), last.figures());
        let [rate, descriptors, mappings, disk] = [0, 1, 2, 3].map(|n| last[n] / second[n].max(1.));
        println!(
            "the last against the second: puts {rate:.3} (at least 0.9), descriptors \
             {descriptors:.3}, mappings {mappings:.3}, disk {disk:.3} (at most 1.1)"
        );
    }
    Ok(store.close()?)
}
