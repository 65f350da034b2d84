//! `cargo bench --bench tails`: how long single gets of one thread take, alone and beside 1 to 8
//! writers who overwrite, insert and remove, so that segments roll, the index grows and compaction
//! runs. The reader has a core of its own, everybody else the other ones; of each percentile the
//! median of all rounds. And whether the reader ever waited: voluntary context switches and page
//! faults of its thread (system calls: `benches/syscalls.sh`).
//!
//! `-- slowest [WRITERS] [SECONDS]`: the other side, puts at full speed across rolls and growth of
//! the index, with the slowest of them by cause.

mod common;
#[path = "tails/slowest.rs"]
mod slowest;

use common::{CONTENT, DIMENSION, embedding, id, random};
use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::hint::black_box;
use std::os::unix::process::parent_id;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stratalog::{Error, Options, Store};

type Answer<T> = Result<T, Box<dyn std::error::Error>>;

const RECORDS: u64 = 50_000;
const GETS: u64 = 300_000;
const ROUNDS: usize = 5;
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];
/// How many writers, and how long each pauses after a write.
const COMPANY: [(u64, Duration); 5] = [
    (1, Duration::ZERO),
    (2, Duration::ZERO),
    (4, Duration::ZERO),
    (8, Duration::ZERO),
    (4, Duration::from_micros(50)),
];

/// What one thread's gets were like.
#[derive(Clone, Copy, Default)]
struct Tail {
    /// Nanoseconds of each percentile.
    ns: [u64; 3],
    waits: u64,
    faults: u64,
}

/// Voluntary context switches and page faults of this thread.
fn waits_and_faults() -> Answer<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    let stat = std::fs::read_to_string("/proc/thread-self/stat")?;
    // The tenth field, the second being a name in brackets.
    let minor = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(7));
    Ok((waits.ok_or("no switches")?.trim().parse()?, minor.ok_or("no faults")?.parse()?))
}

/// One thread's gets, each with a pin of its own, each touching its record.
fn gets(store: &Store, seed: &mut u64) -> Answer<Tail> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 100_000_000_000, 3)?;
    let mut get = |times: Option<&mut Histogram<u64>>| -> Answer<()> {
        let id = id(random(seed) % RECORDS);
        let begin = Instant::now();
        let pinned = store.pin();
        let found = pinned.get(id)?.map(|r| r.embedding()[0] + f32::from(r.content()[0]));
        drop(pinned);
        let took = begin.elapsed().as_nanos() as u64;
        black_box(found);
        Ok(times.map_or(Ok(()), |times| times.record(took))?)
    };
    // The thread's registration with the store, and its own caches.
    (0..1_000).try_for_each(|_| get(None))?;
    let before = waits_and_faults()?;
    // Marks for `benches/syscalls.sh`: a system call that nothing else here makes.
    black_box(parent_id());
    (0..GETS).try_for_each(|_| get(Some(&mut times)))?;
    black_box(parent_id());
    let after = waits_and_faults()?;
    let ns = PERCENTILES.map(|percentile| times.value_at_percentile(percentile));
    Ok(Tail { ns, waits: after.0 - before.0, faults: after.1 - before.1 })
}

/// Overwrites random records, and puts and removes others, until told to stop; how many it were.
fn write(store: &Store, thread: u64, pause: Duration, stop: &AtomicBool) -> Result<u64, Error> {
    let (mut seed, mut writes, embedding) = (thread, 0, embedding(thread));
    while !stop.load(Ordering::Relaxed) {
        let passing = id(RECORDS + (thread << 40) + writes / 100 % 5_000);
        match writes % 100 {
            0 => drop(store.put(passing, &embedding, CONTENT)?),
            1 => drop(store.remove(passing)?),
            _ => drop(store.put(id(random(&mut seed) % RECORDS), &embedding, CONTENT)?),
        }
        writes += 1;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    Ok(writes)
}

/// Gets beside writers; the writers' writes.
fn beside(store: &Store, seed: &mut u64, writers: u64, pause: Duration) -> Answer<(Tail, u64)> {
    let stop = AtomicBool::new(false);
    let cores = sched_getaffinity(None)?;
    std::thread::scope(|scope| {
        let stop = &stop;
        let others = (cores.count() > 1).then(|| {
            let mut others = cores;
            others.unset(reader_core(&cores));
            others
        });
        let all: Vec<_> = (1..=writers)
            .map(|n| {
                scope.spawn(move || {
                    others.map_or(Ok(()), |others| sched_setaffinity(None, &others)).map_err(
                        |source| Error::Io { path: "/proc/self".into(), source: source.into() },
                    )?;
                    write(store, n, pause, stop)
                })
            })
            .collect();
        let tail = on_its_own_core(&cores, || gets(store, seed));
        stop.store(true, Ordering::Relaxed);
        let mut writes = 0;
        for writer in all {
            writes += writer.join().map_err(|_panic| "a writer panicked")??;
        }
        Ok((tail?, writes))
    })
}

fn reader_core(cores: &CpuSet) -> usize {
    (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)).unwrap_or(0)
}

/// Does something with this thread bound to the first core.
fn on_its_own_core<T>(cores: &CpuSet, f: impl FnOnce() -> Answer<T>) -> Answer<T> {
    let mut own = CpuSet::new();
    own.set(reader_core(cores));
    sched_setaffinity(None, &own)?;
    let answer = f();
    sched_setaffinity(None, cores)?;
    answer
}

/// A store whose own threads keep off the reader's core.
fn filled(path: &std::path::Path) -> Answer<Store> {
    let cores = sched_getaffinity(None)?;
    let mut others = cores;
    if cores.count() > 1 {
        others.unset(reader_core(&cores));
    }
    sched_setaffinity(None, &others)?;
    // Small segments: they roll, and are compacted, all the time.
    let store = Options::new().dimension(DIMENSION).segment_size(16 << 20).open(path)?;
    let embedding = embedding(7);
    for n in 0..RECORDS {
        store.put(id(n), &embedding, CONTENT)?;
    }
    sched_setaffinity(None, &cores)?;
    Ok(store)
}

/// Of each percentile the median of all rounds; of the rest the sum.
fn summary(rounds: &[Tail]) -> Tail {
    let ns = [0, 1, 2].map(|n| {
        let mut values: Vec<_> = rounds.iter().map(|tail| tail.ns[n]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    });
    let sum = |of: fn(&Tail) -> u64| rounds.iter().map(of).sum();
    Tail { ns, waits: sum(|tail| tail.waits), faults: sum(|tail| tail.faults) }
}

fn main() -> Answer<()> {
    // `cargo test --benches` only wants to know that it runs.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let words: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if words.first().is_some_and(|word| word == "slowest") {
        let number = |n: usize, default| words.get(n).map_or(Ok(default), |word| word.parse());
        return slowest::main(number(1, 1)?, Duration::from_secs(number(2, 5)?));
    }
    let rounds = if bench { ROUNDS } else { 1 };
    let dir = tempfile::tempdir()?;
    let store = filled(&dir.path().join("store"))?;
    let cores = sched_getaffinity(None)?;
    let mut seed = 1;
    println!(
        "| writers | pause, us | writes/s | p50 | p99 | p99.9 ns | p99 to alone | waits | faults |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (writers, pause) in COMPANY {
        let (mut alone, mut company, mut writes, mut took) = (Vec::new(), Vec::new(), 0, 0.0);
        for _ in 0..rounds {
            alone.push(on_its_own_core(&cores, || gets(&store, &mut seed))?);
            let begin = Instant::now();
            let (tail, more) = beside(&store, &mut seed, writers, pause)?;
            company.push(tail);
            (writes, took) = (writes + more, took + begin.elapsed().as_secs_f64());
        }
        let (alone, company) = (summary(&alone), summary(&company));
        for (n, tail, rate) in [(0, alone, 0.0), (writers, company, writes as f64 / took)] {
            let [p50, p99, p999] = tail.ns;
            println!(
                "| {n} | {} | {rate:.0} | {p50} | {p99} | {p999} | {:.2} | {} | {} |",
                pause.as_micros(),
                p99 as f64 / alone.ns[1] as f64,
                tail.waits,
                tail.faults
            );
        }
    }
    Ok(store.close()?)
}
