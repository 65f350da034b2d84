//! The slowest puts, and why each was slow: what its thread met meanwhile (a roll, growth of the
//! index, pacing, page faults, the scheduler), asked of store and kernel right before and after.

use super::{Answer, CONTENT, DIMENSION, embedding, id, on_its_own_core, random};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use rustix::thread::sched_getaffinity;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

/// Ids that there are in the end: from then on puts overwrite.
const RECORDS: u64 = 300_000;
/// Puts that are shown.
const SHOWN: usize = 20;
/// The low bits of an LSN are the slot, the others the segment's sequence.
const SLOT_BITS: u32 = 24;
/// What the target allows: slower ones are counted by cause.
const SLOW: Duration = Duration::from_micros(100);

/// What store and kernel say of a thread.
#[derive(Clone, Copy)]
struct State {
    index_bytes: u64,
    delayed: Duration,
    minor: i64,
    major: i64,
    waits: i64,
    taken_off: i64,
    on_core: Duration,
}

impl State {
    fn of(store: &Store) -> Answer<Self> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
        let on_core = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        let (index_bytes, delayed) = store.growth();
        Ok(Self {
            index_bytes,
            delayed,
            minor: usage.minor_page_faults(),
            major: usage.major_page_faults(),
            waits: usage.voluntary_context_switches(),
            taken_off: usage.involuntary_context_switches(),
            on_core,
        })
    }
}

/// One put, and what changed meanwhile.
#[derive(Clone, Copy)]
struct Slow {
    took: Duration,
    on_core: Duration,
    /// Its record is this thread's first in its segment.
    rolled: bool,
    /// Bytes; of several writers, another one's may be among it.
    index: i64,
    delayed: Duration,
    minor: i64,
    major: i64,
    waits: i64,
    taken_off: i64,
}

impl Slow {
    fn between(took: Duration, rolled: bool, before: State, after: State) -> Self {
        Self {
            took,
            on_core: after.on_core.saturating_sub(before.on_core),
            rolled,
            index: after.index_bytes as i64 - before.index_bytes as i64,
            delayed: after.delayed.saturating_sub(before.delayed),
            minor: after.minor - before.minor,
            major: after.major - before.major,
            waits: after.waits - before.waits,
            taken_off: after.taken_off - before.taken_off,
        }
    }

    /// The first that is enough to explain it. A put sleeps for nothing but pacing, the files of a
    /// segment that it makes itself, and what a page fault waits for.
    fn cause(&self) -> &'static str {
        let off_core = self.took.saturating_sub(self.on_core);
        match self {
            _ if self.delayed > self.took / 2 => "delayed by pacing",
            Self { rolled: true, waits: 1.., .. } => "made the next segment itself",
            // As the kernel counts them: pages that were not in the page cache, blank ones too.
            Self { major: 1.., waits: 0, .. } => "made pages itself (none were preallocated)",
            Self { major: 1.., .. } => "waited for pages that were not there",
            Self { waits: 1.., minor: 1.., .. } => "waited in a page fault",
            Self { waits: 1.., .. } => "waited otherwise",
            Self { taken_off: 1.., .. } if off_core > self.took / 2 => "taken off its core",
            Self { rolled: true, .. } => "rolled to a preallocated segment",
            Self { index: 8192.., .. } => "split a chunk of the index",
            Self { minor: 1.., .. } => "page faults",
            Self { index: 1.., .. } => "an overflow block of the index",
            _ if off_core > self.took / 2 => "off its core, no switch counted (host)",
            _ => "none of these: on its core (interrupts, host)",
        }
    }
}

/// What one thread's puts were like.
struct Puts {
    times: Histogram<u64>,
    slow: Vec<Slow>,
    rolls: u64,
}

fn puts(store: &Store, thread: u64, writers: u64, time: Duration) -> Answer<Puts> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 100_000_000_000, 3)?;
    let (mut slow, mut rolls, mut segment, mut seed) = (Vec::new(), 0, None, thread);
    let embedding = embedding(thread);
    let (begin, each) = (Instant::now(), RECORDS / writers);
    let mut before = State::of(store)?;
    for n in 0.. {
        let n = if n < each { n } else { random(&mut seed) % each };
        let id = id(thread * each + n);
        let start = Instant::now();
        let lsn = store.put(id, &embedding, CONTENT)?;
        let took = start.elapsed();
        let after = State::of(store)?;
        let now = Some(lsn.as_u64() >> SLOT_BITS);
        let rolled = segment != now;
        (segment, rolls) = (now, rolls + u64::from(rolled));
        times.record(took.as_nanos() as u64)?;
        if took > SLOW / 4 {
            slow.push(Slow::between(took, rolled, before, after));
        }
        before = after;
        if begin.elapsed() > time {
            break;
        }
    }
    Ok(Puts { times, slow, rolls })
}

/// Puts of so many threads, the only or first one on a core of its own.
pub fn main(writers: u64, time: Duration) -> Answer<()> {
    let dir = tempfile::tempdir()?;
    let store = Options::new().dimension(DIMENSION).open(dir.path().join("store"))?;
    let cores = sched_getaffinity(None)?;
    let all: Vec<Answer<Puts>> = if writers == 1 {
        vec![on_its_own_core(&cores, || puts(&store, 0, 1, time))]
    } else {
        std::thread::scope(|scope| {
            let store = &store;
            let put = move |n| puts(store, n, writers, time).map_err(|error| error.to_string());
            let all: Vec<_> = (0..writers).map(|n| scope.spawn(move || put(n))).collect();
            let join = |one: std::thread::ScopedJoinHandle<'_, Result<Puts, String>>| {
                Ok(one.join().map_err(|_panic| "a writer panicked")??)
            };
            all.into_iter().map(join).collect()
        })
    };
    let (mut times, mut slow, mut rolls) = (Histogram::<u64>::new(3)?, Vec::new(), 0);
    for puts in all {
        let puts = puts?;
        times.add(puts.times)?;
        slow.extend(puts.slow);
        rolls += puts.rolls;
    }
    let us = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{} puts of {writers} threads in {} s, {rolls} rolls, index {:.1} MB; us: p50 {:.2}, p99 \
         {:.1}, p99.9 {:.1}, p99.99 {:.1}, slowest {:.0}\n",
        times.len(),
        time.as_secs(),
        store.growth().0 as f64 / 1e6,
        us(0.5),
        us(0.99),
        us(0.999),
        us(0.9999),
        us(1.0)
    );
    show(&mut slow);
    Ok(store.close()?)
}

fn show(slow: &mut [Slow]) {
    let mut causes = BTreeMap::<_, (u64, Duration)>::new();
    for put in slow.iter().filter(|put| put.took > SLOW) {
        let of = causes.entry(put.cause()).or_default();
        *of = (of.0 + 1, of.1.max(put.took));
    }
    println!("| puts above 100 us, by cause | puts | slowest, us |\n| --- | ---: | ---: |");
    for (cause, (count, most)) in causes {
        println!("| {cause} | {count} | {} |", most.as_micros());
    }
    slow.sort_by_key(|put| std::cmp::Reverse(put.took));
    println!(
        "\n| us | on core, us | rolled | index, bytes | paced, us | minor | major | waits | taken \
         off | cause |"
    );
    println!("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    for put in slow.iter().take(SHOWN) {
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            put.took.as_micros(),
            put.on_core.as_micros(),
            if put.rolled { "yes" } else { "" },
            put.index,
            put.delayed.as_micros(),
            put.minor,
            put.major,
            put.waits,
            put.taken_off,
            put.cause()
        );
    }
}
