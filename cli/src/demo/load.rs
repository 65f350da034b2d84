//! Writers and readers at once, and every read checked.
//!
//! Each id has one writer, which numbers its operations. It raises `begun` before an operation and
//! `done` after it. A reader notes `done`, reads, notes `begun`: what it read must be what one of
//! the versions from the first to the second left, bit for bit.

use super::sample::{Left, Sample, left_by};
use anyhow::{anyhow, bail};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use stratalog::{Record, Store};

/// Operations on an id, on average.
const OPERATIONS_EACH: usize = 5;
/// Highest latency that is told apart from higher ones.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// The ids and how far each has come.
#[derive(Debug)]
pub struct Load {
    sample: Sample,
    ids: Vec<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    begun: AtomicU32,
    done: AtomicU32,
}

/// What a thread did.
#[derive(Debug)]
pub struct Done {
    /// Nanoseconds of each operation.
    pub latency: Histogram<u64>,
    pub inserts: u64,
    pub overwrites: u64,
    pub removes: u64,
    /// Of the reads: those that found a record.
    pub found: u64,
}

/// What all threads did.
#[derive(Debug)]
pub struct Ran {
    pub writes: Done,
    pub reads: Done,
    pub elapsed: Duration,
}

/// What a thread uses again and again.
#[derive(Default)]
struct Buffers {
    id: String,
    content: String,
    embedding: Vec<f32>,
}

impl Done {
    fn new() -> anyhow::Result<Self> {
        let highest = u64::try_from(LATENCY_MAX.as_nanos())?;
        let latency = Histogram::new_with_bounds(1, highest, 3)?;
        Ok(Self { latency, inserts: 0, overwrites: 0, removes: 0, found: 0 })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency.add(&other.latency)?;
        self.inserts += other.inserts;
        self.overwrites += other.overwrites;
        self.removes += other.removes;
        self.found += other.found;
        Ok(())
    }

    fn record(&mut self, started: Instant) {
        let ns = started.elapsed().as_nanos();
        self.latency.saturating_record(u64::try_from(ns).unwrap_or(u64::MAX));
    }
}

impl Load {
    /// So many ids, none of them stored yet.
    pub fn new(sample: Sample, ids: usize) -> Self {
        Self { sample, ids: (0..ids).map(|_| Progress::default()).collect() }
    }

    /// Values of an embedding.
    pub fn dimension(&self) -> usize {
        self.sample.dimension
    }

    /// Ids that should have a record.
    pub fn live(&self) -> u64 {
        // Acquire: pairs with the Release in `write`.
        let version = |progress: &Progress| progress.done.load(Ordering::Acquire);
        let lives = |(n, progress)| left_by(n, version(progress)) == Left::Record;
        self.ids.iter().enumerate().filter(|&each| lives(each)).count() as u64
    }

    /// Runs `threads` writers and as many readers until each id was written five times on average,
    /// or the time is over.
    pub fn run(&self, store: &Store, threads: usize, at_most: Duration) -> anyhow::Result<Ran> {
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        let deadline = started + at_most;
        thread::scope(|scope| {
            let write = |thread| {
                let stop = &stop;
                scope.spawn(move || self.write_all(store, thread, threads, deadline, stop))
            };
            let read = |thread| {
                let stop = &stop;
                scope.spawn(move || self.read_all(store, thread, stop))
            };
            let writers: Vec<_> = (0..threads).map(write).collect();
            let readers: Vec<_> = (0..threads).map(read).collect();
            let writes = join(writers);
            let elapsed = started.elapsed();
            // Relaxed: a hint; joining is what orders.
            stop.store(true, Ordering::Relaxed);
            let reads = join(readers);
            Ok(Ran { writes: writes?, reads: reads?, elapsed })
        })
    }

    fn write_all(
        &self,
        store: &Store,
        thread: usize,
        threads: usize,
        deadline: Instant,
        stop: &AtomicBool,
    ) -> anyhow::Result<Done> {
        let mut rng = fastrand::Rng::with_seed(thread as u64);
        let (mut done, mut buffers) = (Done::new()?, Buffers::default());
        let mine: Vec<usize> = (thread..self.ids.len()).step_by(threads).collect();
        let again = mine.len() * (OPERATIONS_EACH - 1);
        let again = (0..again).map(|_| mine[rng.usize(..mine.len())]);
        for n in mine.iter().copied().chain(again) {
            // Relaxed: a hint.
            if Instant::now() >= deadline || stop.load(Ordering::Relaxed) {
                break;
            }
            self.write(store, n, &mut done, &mut buffers)?;
        }
        Ok(done)
    }

    /// The next operation on an id.
    fn write(
        &self,
        store: &Store,
        n: usize,
        done: &mut Done,
        buffers: &mut Buffers,
    ) -> anyhow::Result<()> {
        let progress = &self.ids[n];
        // Relaxed: this thread alone writes it.
        let before = progress.done.load(Ordering::Relaxed);
        let version = before + 1;
        self.sample.id(n, &mut buffers.id);
        self.sample.content(n, version, &mut buffers.content);
        self.sample.embedding(n, version, &mut buffers.embedding);
        // Release: whoever sees the record sees this too, as the store publishes it after.
        progress.begun.store(version, Ordering::Release);
        let started = Instant::now();
        if left_by(n, version) == Left::Record {
            store.put(&buffers.id, &buffers.embedding, &buffers.content)?;
            done.record(started);
            match left_by(n, before) {
                Left::Record => done.overwrites += 1,
                Left::Nothing => done.inserts += 1,
            }
        } else {
            let was_there = store.remove(&buffers.id)?.is_some();
            done.record(started);
            done.removes += 1;
            if was_there != (left_by(n, before) == Left::Record) {
                bail!("check failed: remove of {} answered {was_there}", buffers.id);
            }
        }
        // Release: pairs with the Acquire in `read`.
        progress.done.store(version, Ordering::Release);
        Ok(())
    }

    fn read_all(&self, store: &Store, thread: usize, stop: &AtomicBool) -> anyhow::Result<Done> {
        let mut rng = fastrand::Rng::with_seed(!(thread as u64));
        let (mut done, mut buffers) = (Done::new()?, Buffers::default());
        // Relaxed: a hint.
        while !stop.load(Ordering::Relaxed) {
            let read = self.read(store, rng.usize(..self.ids.len()), &mut done, &mut buffers);
            if read.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            read?;
        }
        Ok(done)
    }

    fn read(
        &self,
        store: &Store,
        n: usize,
        done: &mut Done,
        buffers: &mut Buffers,
    ) -> anyhow::Result<()> {
        let progress = &self.ids[n];
        self.sample.id(n, &mut buffers.id);
        // Acquire: pairs with the Release in `write`: what is done by now must be seen.
        let lowest = progress.done.load(Ordering::Acquire);
        let started = Instant::now();
        let pinned = store.pin();
        let record = pinned.get(&buffers.id)?;
        done.record(started);
        // Acquire: whatever was seen had begun.
        let highest = progress.begun.load(Ordering::Acquire);
        done.found += u64::from(record.is_some());
        self.judge(n, record.as_ref(), lowest, highest, &mut buffers.content)
    }

    fn judge(
        &self,
        n: usize,
        record: Option<&Record<'_>>,
        lowest: u32,
        highest: u32,
        scratch: &mut String,
    ) -> anyhow::Result<()> {
        let wrong = |what: &str| {
            let mut id = String::new();
            self.sample.id(n, &mut id);
            anyhow!("check failed: {id}: {what}; versions {lowest} to {highest} were possible")
        };
        let Some(record) = record else {
            let possible = (lowest..=highest).any(|version| left_by(n, version) == Left::Nothing);
            return if possible { Ok(()) } else { Err(wrong("it is not there")) };
        };
        let (embedding, content) = (record.embedding(), record.content());
        let version = self.sample.version_of(n, embedding, content, scratch).map_err(&wrong)?;
        let possible = (lowest..=highest).contains(&version) && left_by(n, version) == Left::Record;
        if possible { Ok(()) } else { Err(wrong(&format!("version {version} is there"))) }
    }

    /// Checks every id once, when nobody writes. How many there are.
    pub fn check_all(&self, store: &Store) -> anyhow::Result<u64> {
        let (mut done, mut buffers) = (Done::new()?, Buffers::default());
        for n in 0..self.ids.len() {
            self.read(store, n, &mut done, &mut buffers)?;
        }
        Ok(self.ids.len() as u64)
    }
}

fn join(threads: Vec<thread::ScopedJoinHandle<'_, anyhow::Result<Done>>>) -> anyhow::Result<Done> {
    let mut sum = Done::new()?;
    for thread in threads {
        let done = thread.join().map_err(|_panic| anyhow!("a thread of the demo panicked"))??;
        sum.add(&done)?;
    }
    Ok(sum)
}
