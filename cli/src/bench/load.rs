//! The threads that read and write, and what they measured.
//!
//! *Closed loop*: each thread begins an operation when the one before has ended. A store that stops
//! for a second is then asked less often, and the second shows in one latency only ("coordinated
//! omission").
//!
//! *Open loop*: operations fall due at times that were fixed beforehand, whatever became of the
//! ones before. Latency counts from when an operation was due; those that were due and never begun
//! count with the time that they had waited when the run ended.

use super::keys::Keys;
use anyhow::{anyhow, ensure};
use hdrhistogram::Histogram;
use std::hint::{black_box, spin_loop};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use stratalog::Store;

/// Highest latency that is told apart from higher ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// A sleeping thread may wake this late: the rest of the time it spins.
const OVERSLEEP: Duration = Duration::from_micros(150);
/// Embeddings that records share in turns: made beforehand, so that making them is not measured.
const EMBEDDINGS: u64 = 64;

/// What records are made of.
#[derive(Debug)]
pub struct Values {
    embeddings: Vec<Vec<f32>>,
    content_bytes: usize,
}

/// What is done with them.
#[derive(Debug)]
pub struct Plan {
    pub keys: Keys,
    /// Of `reads + writes` operations so many read.
    pub reads: u32,
    pub writes: u32,
    pub threads: u32,
    /// Operations a second of all threads together; `None`: closed loop.
    pub rate: Option<f64>,
    pub warm_up: Duration,
    pub duration: Duration,
    pub seed: u64,
}

/// What came of it, the warm-up left out.
#[derive(Debug)]
pub struct Ran {
    /// Nanoseconds of each read.
    pub reads: Histogram<u64>,
    /// Nanoseconds of each write.
    pub writes: Histogram<u64>,
    /// Open loop: due before the end, and not begun.
    pub unserved: u64,
    pub elapsed: Duration,
}

impl Values {
    pub fn new(dimension: usize, content_bytes: usize) -> Self {
        let embedding = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..dimension).map(|_| random.f32() - 0.5).collect()
        };
        Self { embeddings: (0..EMBEDDINGS).map(embedding).collect(), content_bytes }
    }

    /// The `n`th record's content: its number, and padding.
    fn content(&self, n: u64, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&n.to_le_bytes());
        into.resize(self.content_bytes, b'.');
    }

    pub fn put(&self, store: &Store, n: u64, content: &mut Vec<u8>) -> anyhow::Result<()> {
        self.content(n, content);
        store.put(id(n), &self.embeddings[(n % EMBEDDINGS) as usize], &content)?;
        Ok(())
    }

    /// Reads a line of the embedding and of the content, and sees that it is the right record's.
    fn get(&self, store: &Store, n: u64) -> anyhow::Result<()> {
        let pinned = store.pin();
        let record = pinned.get(id(n))?.ok_or_else(|| anyhow!("record {n} is missing"))?;
        let (first, content) = (record.embedding().first(), record.content());
        black_box(first);
        let number = &n.to_le_bytes()[..self.content_bytes.min(8)];
        ensure!(content.starts_with(number), "record {n} is not what was put");
        Ok(())
    }
}

/// 16 bytes without an order.
fn id(n: u64) -> [u8; 16] {
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(mixed ^ mixed >> 29).to_le_bytes());
    id[8..].copy_from_slice(&n.to_le_bytes());
    id
}

impl Ran {
    fn new() -> anyhow::Result<Self> {
        let highest = u64::try_from(LATENCY_MAX.as_nanos())?;
        let histogram = || Histogram::new_with_bounds(1, highest, 3);
        Ok(Self { reads: histogram()?, writes: histogram()?, unserved: 0, elapsed: Duration::ZERO })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.reads.add(&other.reads)?;
        self.writes.add(&other.writes)?;
        self.unserved += other.unserved;
        self.elapsed = self.elapsed.max(other.elapsed);
        Ok(())
    }

    fn record(&mut self, read: bool, latency: Duration) {
        let of = if read { &mut self.reads } else { &mut self.writes };
        of.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Runs all threads to their end.
pub fn run(store: &Store, values: &Values, plan: &Plan) -> anyhow::Result<Ran> {
    let barrier = Barrier::new(plan.threads as usize);
    let all: Vec<_> = thread::scope(|scope| {
        let work = |thread| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                work(store, values, plan, thread)
            })
        };
        let threads: Vec<_> = (0..plan.threads).map(work).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut ran = Ran::new()?;
    for one in all {
        ran.add(&one.map_err(|_panic| anyhow!("a thread panicked"))??)?;
    }
    Ok(ran)
}

/// One thread's part.
fn work(store: &Store, values: &Values, plan: &Plan, thread: u32) -> anyhow::Result<Ran> {
    let mut ran = Ran::new()?;
    let mut random = fastrand::Rng::with_seed(plan.seed + u64::from(thread));
    let (begin, mut content) = (Instant::now(), Vec::new());
    let end = plan.warm_up + plan.duration;
    for n in 0.. {
        let due = match plan.rate {
            Some(rate) => wait_until(begin, due_at(n, thread, plan.threads, rate)),
            None => begin.elapsed(),
        };
        if begin.elapsed() >= end {
            if let Some(rate) = plan.rate {
                give_up(&mut ran, plan, (n, thread, rate), &mut random);
            }
            break;
        }
        let read = random.u32(..plan.reads + plan.writes) < plan.reads;
        let record = plan.keys.next(&mut random);
        // What choosing took is not the store's time; what waiting took, in an open loop, is.
        let since = if plan.rate.is_some() { due } else { begin.elapsed() };
        if read {
            values.get(store, record)?;
        } else {
            values.put(store, record, &mut content)?;
        }
        if since >= plan.warm_up {
            ran.record(read, begin.elapsed() - since);
        }
    }
    ran.elapsed = begin.elapsed().saturating_sub(plan.warm_up);
    Ok(ran)
}

/// When a thread's `n`th operation is due, the threads taking turns.
fn due_at(n: u64, thread: u32, threads: u32, rate: f64) -> Duration {
    let turn = n * u64::from(threads) + u64::from(thread);
    Duration::from_secs_f64(turn as f64 / rate)
}

/// Returns once that much time has passed since `begin`, and says how much that was to be.
fn wait_until(begin: Instant, due: Duration) -> Duration {
    loop {
        let left = due.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return due;
        }
        if left > OVERSLEEP {
            thread::sleep(left - OVERSLEEP);
        } else {
            spin_loop();
        }
    }
}

/// The run is over, and operations from the `n`th on were due before that and not begun.
fn give_up(
    ran: &mut Ran,
    plan: &Plan,
    (n, thread, rate): (u64, u32, f64),
    random: &mut fastrand::Rng,
) {
    let end = plan.warm_up + plan.duration;
    for n in n.. {
        let due = due_at(n, thread, plan.threads, rate);
        if due >= end {
            return;
        }
        let read = random.u32(..plan.reads + plan.writes) < plan.reads;
        ran.unserved += 1;
        if due >= plan.warm_up {
            ran.record(read, end - due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::keys::Distribution;
    use stratalog::Options;

    fn plan(rate: Option<f64>) -> Plan {
        Plan {
            keys: Keys::new(100, Distribution::Uniform),
            reads: 1,
            writes: 1,
            threads: 2,
            rate,
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(100),
            seed: 1,
        }
    }

    #[test]
    fn turns_fall_due_evenly_over_all_threads() {
        let due = |n, thread| due_at(n, thread, 4, 1000.0).as_millis();
        assert_eq!([due(0, 0), due(0, 1), due(0, 3), due(1, 0), due(1, 3)], [0, 1, 3, 4, 7]);
    }

    #[test]
    fn what_was_due_and_not_begun_counts_with_the_time_it_waited() {
        let (plan, mut ran) = (plan(Some(1000.0)), Ran::new().unwrap());
        give_up(&mut ran, &plan, (10, 0, 1000.0), &mut fastrand::Rng::with_seed(1));
        // Due at 20, 22, .. 98 ms of 100.
        assert_eq!(ran.unserved, 40);
        assert_eq!(ran.reads.len() + ran.writes.len(), 40);
        let longest = ran.reads.max().max(ran.writes.max());
        assert!((79_000_000..81_000_000).contains(&longest), "{longest}");
    }

    #[test]
    fn at_a_rate_no_schedule_bends_to_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new().dimension(3).open(dir.path().join("store")).unwrap();
        let values = Values::new(3, 20);
        (0..100).for_each(|n| values.put(&store, n, &mut Vec::new()).unwrap());
        let ran = run(&store, &values, &plan(Some(2000.0))).unwrap();
        // 200 were due in 100 ms, and each is accounted for, however slow the machine.
        assert_eq!(ran.reads.len() + ran.writes.len(), 200);
        let ran = run(&store, &values, &plan(None)).unwrap();
        assert!(ran.reads.len() + ran.writes.len() > 0 && ran.unserved == 0);
    }
}
