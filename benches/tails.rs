//! `cargo bench --bench tails`: how long single gets of one thread take, alone and beside four
//! writers, in turns; of each percentile the median of all rounds.

mod common;
#[path = "common/fill.rs"]
mod fill;

use common::{CONTENT, embedding, id, random};
use fill::filled;
use hdrhistogram::Histogram;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stratalog::{Error, Store};

const RECORDS: u64 = 50_000;
const GETS: u64 = 300_000;
const ROUNDS: usize = 7;
const WRITERS: u64 = 4;
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// Nanoseconds of each percentile.
type Tail = [u64; 3];

/// One thread's gets, each with a pin of its own, each touching its record.
fn gets(store: &Store, seed: &mut u64) -> Result<Tail, Box<dyn std::error::Error>> {
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..GETS {
        let id = id(random(seed) % RECORDS);
        let begin = Instant::now();
        let pinned = store.pin();
        let found = pinned.get(id)?.map(|r| r.embedding()[0] + f32::from(r.content()[0]));
        drop(pinned);
        times.record(begin.elapsed().as_nanos() as u64)?;
        black_box(found);
    }
    Ok(PERCENTILES.map(|percentile| times.value_at_percentile(percentile)))
}

/// Overwrites random records, some 10,000 a second, until told to stop; how many it were.
fn write(store: &Store, thread: u64, stop: &AtomicBool) -> Result<u64, Error> {
    let (mut seed, mut puts, embedding) = (thread, 0, embedding(thread));
    while !stop.load(Ordering::Relaxed) {
        store.put(id(random(&mut seed) % RECORDS), &embedding, CONTENT)?;
        puts += 1;
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(puts)
}

fn beside_writers(
    store: &Store,
    seed: &mut u64,
) -> Result<(Tail, u64), Box<dyn std::error::Error>> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> =
            (1..=WRITERS).map(|n| scope.spawn(move || write(store, n, stop))).collect();
        let tail = gets(store, seed);
        stop.store(true, Ordering::Relaxed);
        let mut puts = 0;
        for writer in writers {
            puts += writer.join().map_err(|_panic| "a writer panicked")??;
        }
        Ok((tail?, puts))
    })
}

/// Of each percentile the median of all rounds.
fn medians(rounds: &[Tail]) -> Tail {
    let mut of = [0, 1, 2].map(|n| rounds.iter().map(|tail| tail[n]).collect::<Vec<_>>());
    of.each_mut().map(|values| {
        values.sort_unstable();
        values[values.len() / 2]
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` only wants to know that it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { ROUNDS } else { 1 };
    let dir = tempfile::tempdir()?;
    let store = filled(&dir.path().join("store"), RECORDS)?;
    let (mut seed, mut alone, mut beside) = (1, Vec::new(), Vec::new());
    gets(&store, &mut seed)?;
    for round in 1..=rounds {
        alone.push(gets(&store, &mut seed)?);
        let (tail, puts) = beside_writers(&store, &mut seed)?;
        beside.push(tail);
        println!("round {round}: alone {:?} ns, beside {puts} puts {tail:?} ns", alone[round - 1]);
    }
    for (how, rounds) in [("alone", &alone), ("beside 4 writers", &beside)] {
        let [p50, p99, p999] = medians(rounds);
        println!("get of one thread, {how}: p50 {p50} ns, p99 {p99} ns, p99.9 {p999} ns");
    }
    Ok(store.close()?)
}
