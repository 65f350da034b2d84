//! Puts for `benches/syscalls.sh` to watch: between two calls of `getppid`, which nothing else in
//! the process makes, there is nothing but puts.
//!
//!     steady fresh DIR PUTS RATE        puts of new ids by one thread, so many a second at most
//!     steady again DIR PUTS RATE        the same with ids that are there: the index need not grow
//!     steady synced DIR PUTS THREADS    durable puts, shared evenly by so many threads
//!
//! A rate of 0 is as fast as it goes. The pace is kept by looking at the clock over and over, which
//! is no system call.

#[path = "../data.rs"]
#[expect(dead_code, reason = "the puts are all that is needed here")]
mod data;

use data::{DIMENSION, PAYLOAD, Values, id};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use stratalog::{Durability, Error, Options, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Puts ahead of those that count: two segments of 64 MiB and some, so that the first roll, and
/// whatever is done only once, are over.
const AHEAD: u64 = 45_000;

fn mark() {
    std::hint::black_box(rustix::process::getppid());
}

fn open(dir: &str, durability: Durability) -> Result<Store, Error> {
    let options = Options::new().dimension(DIMENSION).durability(durability);
    options.open(Path::new(dir).join("store"))
}

fn put(store: &Store, values: &Values, range: std::ops::Range<u64>) -> Result<(), Error> {
    for n in range {
        let value = values.of(n);
        store.put(id(n), &value.embedding, &value.content)?;
    }
    Ok(())
}

/// Bytes that this process has made dirty so far, for the disk to take: whole folios, as the kernel
/// counts them.
fn dirtied() -> Result<u64, Failure> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(bytes.ok_or("the kernel does not count what is written")?.parse()?)
}

/// A segment's number is in the upper bits of an LSN.
fn segment(store: &Store) -> u64 {
    store.stats().tail.as_u64() >> 24
}

/// Puts of these ids, no more of them a second than asked for.
fn paced(
    store: &Store,
    values: &Values,
    ids: std::ops::Range<u64>,
    rate: u64,
) -> Result<(), Error> {
    let begin = Instant::now();
    for (n, id) in ids.enumerate() {
        while rate > 0 && begin.elapsed().as_secs_f64() * (rate as f64) < n as f64 {
            std::hint::spin_loop();
        }
        put(store, values, id..id + 1)?;
    }
    Ok(())
}

fn buffered(dir: &str, puts: u64, rate: u64, fresh: bool) -> Result<(), Failure> {
    let (store, values) = (open(dir, Durability::Buffered)?, Values::new());
    let ahead = if fresh { AHEAD } else { AHEAD.max(puts) };
    put(&store, &values, 0..ahead)?;
    // Whoever prepares the next segment may have fallen behind.
    std::thread::sleep(Duration::from_secs(1));
    let (before, written) = (segment(&store), dirtied()?);
    let first = if fresh { ahead } else { 0 };
    let done = std::thread::scope(|scope| {
        let putting = std::thread::Builder::new().name("putting".into());
        let thread = putting.spawn_scoped(scope, || {
            mark();
            let done = paced(&store, &values, first..first + puts, rate);
            mark();
            done
        })?;
        thread.join().map_err(|_panic| "the putting thread panicked")?.map_err(Failure::from)
    });
    done?;
    let (rolls, written) = (segment(&store) - before, dirtied()? - written);
    println!("puts {puts} rolls {rolls} dirtied {written} payload {}", puts * PAYLOAD);
    Ok(store.close()?)
}

fn synced(dir: &str, puts: u64, threads: u64) -> Result<(), Failure> {
    let (store, values) = (open(dir, Durability::Synced)?, Values::new());
    put(&store, &values, 0..100)?;
    // The next segment's pages are made, and flushed with the first put.
    std::thread::sleep(Duration::from_secs(1));
    put(&store, &values, 100..200)?;
    let written = dirtied()?;
    let (barrier, each) = (Barrier::new(threads as usize), puts / threads);
    mark();
    let work = |thread: u64| {
        let first = (1 + thread) << 32;
        barrier.wait();
        put(&store, &values, first..first + each)
    };
    std::thread::scope(|scope| -> Result<(), Failure> {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        for thread in running {
            thread.join().map_err(|_panic| "a putting thread panicked")??;
        }
        Ok(())
    })?;
    mark();
    let (puts, written) = (each * threads, dirtied()? - written);
    println!("puts {puts} rolls 0 dirtied {written} payload {}", puts * PAYLOAD);
    Ok(store.close()?)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["fresh", dir, puts, rate] => buffered(dir, puts.parse()?, rate.parse()?, true),
        ["again", dir, puts, rate] => buffered(dir, puts.parse()?, rate.parse()?, false),
        ["synced", dir, puts, threads] => synced(dir, puts.parse()?, threads.parse()?),
        _ => Err("steady fresh|again DIR PUTS RATE | steady synced DIR PUTS THREADS".into()),
    }
}
