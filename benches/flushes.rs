//! `cargo bench --bench flushes -- 4000`: what `sync`, `put` and `stats` cost in a store of 11
//! segments of 1 MiB and in one of 4,000, in turns. `TMPDIR` says where; in memory (`/dev/shm`) the
//! device hides nothing. The figures of the larger store are to be those of the smaller one.

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use stratalog::{Compaction, Options, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SEGMENT: u64 = 1 << 20;
/// Of which there is room for two in a segment.
const LARGE: usize = 500_000;
/// It comes to 11 meanwhile.
const FEW: u64 = 8;
const MANY: u64 = 4_000;
const ROUNDS: usize = 1_000;
const PUTS_A_ROUND: u32 = 20;

/// A store, and what its calls cost, in nanoseconds.
struct Measured {
    store: Store,
    sync: Histogram<u64>,
    /// Of the thread that puts: time on a core.
    put_cpu: Histogram<u64>,
    stats: Histogram<u64>,
}

fn cpu() -> Result<Duration, Failure> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

impl Measured {
    fn new(path: &Path, segments: u64) -> Result<Self, Failure> {
        let options = Options::new().dimension(1).segment_size(SEGMENT).flush_interval(None);
        let store = options.compaction(Compaction::Manual).open(path)?;
        let content = vec![7; LARGE];
        let mut n = 0_u64;
        while store.stats().segments < segments {
            store.put(n.to_le_bytes(), &[1.0], &content)?;
            n += 1;
            if n.is_multiple_of(64) {
                store.sync()?;
            }
        }
        store.sync()?;
        let none = Histogram::new(3)?;
        Ok(Self { store, sync: none.clone(), put_cpu: none.clone(), stats: none })
    }

    fn round(&mut self) -> Result<(), Failure> {
        let store = &self.store;
        store.put("small", &[1.0], "x")?;
        let begin = Instant::now();
        store.sync()?;
        self.sync.record(begin.elapsed().as_nanos() as u64)?;
        let begin = cpu()?;
        for n in 0..PUTS_A_ROUND {
            store.put(n.to_le_bytes(), &[1.0], "x")?;
        }
        let took = cpu()? - begin;
        Ok(self.put_cpu.record((took / PUTS_A_ROUND).as_nanos() as u64)?)
    }

    fn look(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        black_box(self.store.stats());
        Ok(self.stats.record(begin.elapsed().as_nanos() as u64)?)
    }
}

fn main() -> Result<(), Failure> {
    let number = std::env::args().find_map(|arg| arg.parse().ok());
    // `cargo test --benches` only wants to know that it runs.
    let benched = std::env::args().any(|arg| arg == "--bench");
    let (many, rounds) = if benched { (number.unwrap_or(MANY), ROUNDS) } else { (20, 10) };
    let dir = tempfile::tempdir()?;
    let mut few = Measured::new(&dir.path().join("few"), FEW)?;
    let mut many = Measured::new(&dir.path().join("many"), many)?;
    for _ in 0..rounds {
        few.round()?;
        many.round()?;
    }
    for _ in 0..rounds {
        few.look()?;
        many.look()?;
    }
    let [fewer, more] = [&few, &many].map(|measured| measured.store.stats().segments);
    println!("p50 with {fewer} segments and with {more}, {rounds} rounds in turns:");
    for (what, few, many) in [
        ("sync after a put", &few.sync, &many.sync),
        ("put, time on a core", &few.put_cpu, &many.put_cpu),
        ("stats", &few.stats, &many.stats),
    ] {
        let [few, many] = [few, many].map(|times| times.value_at_quantile(0.5) as f64 / 1e3);
        println!("{what}: {few:.2} us, {many:.2} us: {:.2} times", many / few);
    }
    Ok(())
}
