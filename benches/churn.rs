//! `cargo bench --bench churn -- 200 50`: a working set of 200 MiB is overwritten 50 times by four
//! writers, ids at random, beside four readers; nobody pauses. What the disk holds beside what is
//! live, every 100 ms, files included that have no name any more and are still mapped or open; what
//! compaction copies for it; and what `compact` leaves.
//!
//! Then gets of the readers beside paced writers, with compaction and without, in turns.
//!
//! `cargo bench --bench churn -- overwrite 600`: overwrites at full speed for 600 s, and compares
//! put rate, descriptors, mappings and disk of the last minute with those of the second.

mod common;
#[path = "churn/held.rs"]
mod held;
#[path = "churn/long.rs"]
mod long;

use common::{CONTENT, DIMENSION, embedding, id, random};
use hdrhistogram::Histogram;
use held::Held;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};
use stratalog::{Compaction, Options, SegmentState, SegmentStats, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SEGMENT: u64 = 16 << 20;
const WRITERS: u64 = 4;
const READERS: u64 = 4;
const EVERY: Duration = Duration::from_millis(100);
const ROUNDS: usize = 5;
/// Between two operations of a thread in the rounds that compare.
const PACE: Duration = Duration::from_micros(100);
const COMPARED: Duration = Duration::from_secs(8);
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// What the log held at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    live: u64,
    /// Of the segments in use, those preallocated ahead excepted; and of files without a name that
    /// are still mapped or open.
    disk: u64,
    /// Of those without a name.
    unlinked: u64,
    /// Of all other files: those preallocated, and one in the making.
    others: u64,
}

impl Moment {
    fn of(store: &Store) -> Result<Self, Failure> {
        let held = Held::of(store.path())?;
        let stats = store.stats();
        let retained = |s: &&SegmentStats| s.state == SegmentState::Retained;
        let segments = store.segments();
        let in_use = segments.iter().filter(|segment| !retained(segment));
        let named: u64 = in_use.map(|segment| segment.disk_bytes).sum();
        let others = held.named_bytes.saturating_sub(named);
        let unlinked = held.unlinked_bytes;
        Ok(Self { live: stats.live_bytes, disk: named + unlinked, unlinked, others })
    }

    fn ratio(&self) -> f64 {
        self.disk as f64 / self.live.max(1) as f64
    }
}

/// What the crew does.
#[derive(Clone, Copy, Debug)]
struct Work {
    records: u64,
    /// Of each writer.
    puts: u64,
    until: Option<Duration>,
    pace: Option<Duration>,
}

fn open(path: &Path, compaction: Compaction) -> Result<Store, Failure> {
    let options = Options::new().dimension(DIMENSION).segment_size(SEGMENT);
    Ok(options.compaction(compaction).open(path)?)
}

fn fill(store: &Store, records: u64) -> Result<(), Failure> {
    let embeddings: Vec<_> = (0..64).map(embedding).collect();
    for n in 0..records {
        store.put(id(n), &embeddings[n as usize % 64], CONTENT)?;
    }
    Ok(store.sync()?)
}

fn write(store: &Store, seed: u64, work: Work) -> Result<(u64, Histogram<u64>), Failure> {
    let (mut seed, begin, embedding) = (seed, Instant::now(), embedding(seed));
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..work.puts {
        if work.until.is_some_and(|until| begin.elapsed() >= until) {
            break;
        }
        let started = Instant::now();
        store.put(id(random(&mut seed) % work.records), &embedding, CONTENT)?;
        times.record(started.elapsed().as_nanos() as u64)?;
        work.pace.into_iter().for_each(sleep);
    }
    Ok((times.len(), times))
}

/// A pin for each get.
fn read(
    store: &Store,
    seed: u64,
    work: Work,
    stop: &AtomicBool,
) -> Result<(u64, Histogram<u64>), Failure> {
    let (mut seed, mut times) = (seed, Histogram::<u64>::new(3)?);
    while !stop.load(Ordering::Relaxed) {
        let id = id(random(&mut seed) % work.records);
        let started = Instant::now();
        let pinned = store.pin();
        let found = pinned.get(id)?.map(|r| r.embedding()[0] + f32::from(r.content()[0]));
        drop(pinned);
        times.record(started.elapsed().as_nanos() as u64)?;
        black_box(found.ok_or("a record is not there")?);
        work.pace.into_iter().for_each(sleep);
    }
    Ok((times.len(), times))
}

type Thread<'scope> = ScopedJoinHandle<'scope, Result<(u64, Histogram<u64>), Failure>>;

fn join(threads: Vec<Thread<'_>>) -> Result<Histogram<u64>, Failure> {
    let mut all = Histogram::<u64>::new(3)?;
    for thread in threads {
        all.add(thread.join().map_err(|_panic| "a thread panicked")??.1)?;
    }
    Ok(all)
}

#[derive(Debug)]
struct Outcome {
    moments: Vec<Moment>,
    seconds: f64,
    writes: Histogram<u64>,
    reads: Histogram<u64>,
}

fn churn(store: &Store, work: Work) -> Result<Outcome, Failure> {
    let (stop, begin) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let stop = &stop;
        let readers: Vec<_> =
            (100..100 + READERS).map(|n| scope.spawn(move || read(store, n, work, stop))).collect();
        let writers: Vec<_> =
            (1..=WRITERS).map(|n| scope.spawn(move || write(store, n, work))).collect();
        let mut moments = Vec::new();
        while !writers.iter().all(Thread::is_finished) {
            moments.push(Moment::of(store)?);
            sleep(EVERY);
        }
        let seconds = begin.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        Ok(Outcome { moments, seconds, writes: join(writers)?, reads: join(readers)? })
    })
}

fn tail(times: &Histogram<u64>) -> String {
    let [p50, p99, p999] = PERCENTILES.map(|p| times.value_at_percentile(p) as f64 / 1000.0);
    format!("p50 {p50:.2}, p99 {p99:.1}, p99.9 {p999:.1}, most {:.0} us", times.max() as f64 / 1e3)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn overwrite(dir: &Path, records: u64, times: u64) -> Result<(), Failure> {
    let store = open(&dir.join("churn"), Compaction::Auto)?;
    fill(&store, records)?;
    let before = store.stats();
    let frame = before.live_bytes / before.live_records;
    let puts = records * times / WRITERS;
    let done = churn(&store, Work { records, puts, until: None, pace: None })?;
    let after = store.stats();
    let highest = done.moments.iter().copied().max_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    let highest = highest.unwrap_or_default();
    let mean = done.moments.iter().map(Moment::ratio).sum::<f64>() / done.moments.len() as f64;
    let user = puts * WRITERS * frame;
    let moved = after.compaction_moved_bytes - before.compaction_moved_bytes;
    println!(
        "{records} records, {:.0} MiB live, overwritten {times} times in {:.1} s: {:.0} MiB/s, \
         {:.0} puts/s, {:.0} gets/s",
        mib(before.live_bytes),
        done.seconds,
        mib(user) / done.seconds,
        (puts * WRITERS) as f64 / done.seconds,
        done.reads.len() as f64 / done.seconds
    );
    println!(
        "disk / live: highest {:.3} ({:.0} of {:.0} MiB, {:.0} of it unlinked; {:.0} in other \
         files), mean {mean:.3}",
        highest.ratio(),
        mib(highest.disk),
        mib(highest.live),
        mib(highest.unlinked),
        mib(highest.others)
    );
    println!(
        "puts were delayed by {:.2} s in all",
        (after.write_stall - before.write_stall).as_secs_f64()
    );
    println!(
        "write amplification {:.3}: {:.0} MiB written, {:.0} MiB copied, {} segments removed",
        (user + moved) as f64 / user as f64,
        mib(user),
        mib(moved),
        after.compaction_segments_removed
    );
    println!("put: {}\nget: {}", tail(&done.writes), tail(&done.reads));
    let report = store.compact()?;
    let moment = Moment::of(&store)?;
    println!(
        "after compact ({:.2} s): disk / live {:.3} ({:.0} MiB in other files)",
        report.elapsed.as_secs_f64(),
        moment.ratio(),
        mib(moment.others)
    );
    Ok(store.close()?)
}

/// Gets beside paced writers, of one round; and how many segments were removed meanwhile.
fn round(
    dir: &Path,
    records: u64,
    compaction: Compaction,
    time: Duration,
) -> Result<(Outcome, u64), Failure> {
    let path = dir.join("round");
    let store = open(&path, compaction)?;
    fill(&store, records)?;
    // As much again, so that there is something to compact from the beginning.
    fill(&store, records / 2)?;
    let work = Work { records, puts: u64::MAX, until: Some(time), pace: Some(PACE) };
    let outcome = churn(&store, work)?;
    let removed = store.stats().compaction_segments_removed;
    store.close()?;
    std::fs::remove_dir_all(path)?;
    Ok((outcome, removed))
}

fn compare(dir: &Path, records: u64, rounds: usize, time: Duration) -> Result<(), Failure> {
    let hows = [("with compaction", Compaction::Auto), ("without", Compaction::Manual)];
    let mut tails = [Vec::new(), Vec::new()];
    for number in 1..=rounds {
        for ((how, compaction), tails) in hows.into_iter().zip(&mut tails) {
            let (outcome, removed) = round(dir, records, compaction, time)?;
            let rate = outcome.writes.len() as f64 / outcome.seconds;
            println!(
                "round {number}, {how}: {rate:.0} puts/s, {removed} removed; get {}; put {}",
                tail(&outcome.reads),
                tail(&outcome.writes)
            );
            tails.push(PERCENTILES.map(|p| outcome.reads.value_at_percentile(p)));
        }
    }
    for ((how, _), tails) in hows.into_iter().zip(&tails) {
        let medians = [0, 1, 2].map(|n| {
            let mut values: Vec<_> = tails.iter().map(|tail| tail[n]).collect();
            values.sort_unstable();
            values[values.len() / 2] as f64 / 1000.0
        });
        let [p50, p99, p999] = medians;
        println!("get {how}, medians: p50 {p50:.2} us, p99 {p99:.1} us, p99.9 {p999:.1} us");
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    // `cargo test --benches` only wants to know that it runs.
    let benched = std::env::args().any(|arg| arg == "--bench");
    let (mib, times, rounds, time) =
        if benched { (200, 50, ROUNDS, COMPARED) } else { (50, 3, 1, Duration::from_millis(500)) };
    let mib = numbers.first().copied().unwrap_or(mib);
    let times = numbers.get(1).copied().unwrap_or(times);
    let rounds = numbers.get(2).map_or(rounds, |&rounds| rounds.max(1) as usize);
    let records = (mib << 20) / 3_392;
    let dir = tempfile::tempdir()?;
    if std::env::args().any(|arg| arg == "overwrite") {
        return long::overwrite(dir.path(), numbers.first().copied().unwrap_or(600));
    }
    overwrite(dir.path(), records, times)?;
    compare(dir.path(), records, rounds, time)
}
