//! What takes a store of its own each, beside the common load of `work`: prepared pages, many
//! threads, readers beside writers, gigabytes at a stretch, memory, and opening again.

use crate::data::Touch;
use crate::engines::{Engine, Failure, Mode};
use crate::work::{Done, Setup, place, thousands_per_second};
use hdrhistogram::Histogram;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Puts of a burst: 50 MB, less than a segment of the default size.
const BURST: u64 = 15_000;
const BURSTS: usize = 5;
/// Threads of the plot.
pub const THREADS: [u64; 4] = [1, 2, 4, 8];
/// Bytes that are put at a stretch: far more than is prepared ahead.
const STRETCH: u64 = 4 << 30;

/// Bursts of puts, everything prepared that an engine prepares.
pub fn prepared<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let dir = place(setup)?;
    let engine = E::open(dir.path(), Mode::Buffered, BURST * (BURSTS as u64 + 1))?;
    let (mut rates, mut faults) = (Vec::new(), Vec::new());
    for burst in 0..=BURSTS as u64 {
        engine.prepare()?;
        let before = faults_so_far()?;
        let begin = Instant::now();
        for n in burst * BURST..(burst + 1) * BURST {
            engine.put(&setup.values, n)?;
        }
        rates.push(thousands_per_second(BURST, begin.elapsed()));
        faults.push((faults_so_far()? - before) as f64 * 1000.0 / BURST as f64);
    }
    for (name, mut bursts) in [("put prepared", rates), ("put prepared faults", faults)] {
        // The first finds everything cold.
        bursts.remove(0);
        bursts.sort_by(f64::total_cmp);
        done.add(name, bursts[bursts.len() / 2]);
    }
    Ok(())
}

/// Page faults of this thread: what shows whether pages were there before they were stored to.
fn faults_so_far() -> Result<u64, Failure> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat")?;
    // The tenth field, the second being a name in brackets.
    let minor = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(7));
    Ok(minor.ok_or("no faults")?.parse()?)
}

/// Gigabytes without a pause: making pages is part of it.
pub fn sustained<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let dir = place(setup)?;
    let records = setup.stretch.unwrap_or(STRETCH / crate::data::PAYLOAD);
    let engine = E::open(dir.path(), Mode::Buffered, records)?;
    let mut times = Histogram::<u64>::new(3)?;
    let begin = Instant::now();
    let mut before = begin;
    for n in 0..records {
        engine.put(&setup.values, n)?;
        let now = Instant::now();
        times.record((now - before).as_nanos() as u64)?;
        before = now;
    }
    done.add("put sustained", thousands_per_second(records, begin.elapsed()));
    done.add("put sustained p99.9", times.value_at_quantile(0.999) as f64 / 1000.0);
    Ok(())
}

/// Puts, then gets, of 1, 2, 4 and 8 threads.
pub fn threads<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    for threads in THREADS {
        let dir = place(setup)?;
        let engine = E::open(dir.path(), Mode::Buffered, setup.records)?;
        let each = setup.records / threads;
        let put = |thread: u64| -> Result<u64, Failure> {
            for n in thread * each..(thread + 1) * each {
                engine.put(&setup.values, n)?;
            }
            Ok(each)
        };
        done.add(&format!("put x{threads}t"), together(threads, put)?);
        let get = |thread: u64| -> Result<u64, Failure> {
            let asked = &setup.asked.uniform;
            let from = asked.len() / threads as usize * thread as usize;
            let (begin, mut count, mut sum) = (Instant::now(), 0, 0.0);
            for n in asked[from..].iter().chain(&asked[..from]).cycle() {
                let n = u64::from(*n) % (each * threads);
                sum += engine.get(n, &Touch)?;
                count += 1;
                if count % 256 == 0 && begin.elapsed() > setup.gets {
                    break;
                }
            }
            black_box(sum);
            Ok(count)
        };
        done.add(&format!("get x{threads}t"), together(threads, get)?);
    }
    Ok(())
}

/// Thousands a second of all threads.
fn together(
    threads: u64,
    work: impl Fn(u64) -> Result<u64, Failure> + Sync,
) -> Result<f64, Failure> {
    let barrier = Barrier::new(threads as usize);
    let run = |thread| {
        barrier.wait();
        let begin = Instant::now();
        work(thread).map(|count| (count, begin.elapsed()))
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = &run;
        let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || run(n))).collect();
        all.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let (mut count, mut elapsed) = (0, Duration::ZERO);
    for result in results {
        let (its, took) = result.map_err(|_panic| "a thread panicked")??;
        count += its;
        elapsed = elapsed.max(took);
    }
    Ok(thousands_per_second(count, elapsed))
}

/// Gets of two threads, alone, and then beside two that overwrite at 5,000 puts a second each.
pub fn mixed<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    const PACE: Duration = Duration::from_micros(200);
    let dir = place(setup)?;
    let engine = E::open(dir.path(), Mode::Buffered, setup.records * 3)?;
    for n in 0..setup.records {
        engine.put(&setup.values, n)?;
    }
    for (kind, writers) in [(0u64, 0u64), (1, 2)] {
        let stop = AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            let (stop, engine) = (&stop, &engine);
            let write = |thread: u64| -> Result<(), Failure> {
                let (begin, mut count) = (Instant::now(), 0);
                for n in setup.asked.uniform.iter().skip(thread as usize * 1000).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    engine.put(&setup.values, u64::from(*n))?;
                    count += 1;
                    std::thread::sleep((PACE * count).saturating_sub(begin.elapsed()));
                }
                Ok(())
            };
            let read = |thread: usize| -> Result<Histogram<u64>, Failure> {
                let (mut times, begin, mut sum) = (Histogram::new(3)?, Instant::now(), 0.0);
                for n in setup.asked.zipf.iter().skip(thread * 1000).cycle() {
                    let before = Instant::now();
                    sum += engine.get(u64::from(*n), &Touch)?;
                    times.record(before.elapsed().as_nanos() as u64)?;
                    if before - begin > setup.gets {
                        break;
                    }
                }
                black_box(sum);
                Ok(times)
            };
            let writers: Vec<_> = (0..writers).map(|n| scope.spawn(move || write(n))).collect();
            let readers: Vec<_> = (0..2).map(|n| scope.spawn(move || read(n))).collect();
            let mut all = Histogram::<u64>::new(3)?;
            let read: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().map_err(|_panic| "a writer panicked")??;
            }
            for times in read {
                all.add(times.map_err(|_panic| "a reader panicked")??)?;
            }
            Ok::<_, Failure>(all)
        })?;
        let name = if kind == 0 { "alone" } else { "beside 2 writers" };
        for (q, text) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            done.add(&format!("get {text} {name}"), times.value_at_quantile(q) as f64 / 1000.0);
        }
        done.reads.push((kind, times));
    }
    Ok(())
}

/// Bytes of memory that no file stands behind.
fn anonymous() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no RssAnon")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// Fills a store that stays, and says what memory it takes.
fn fill_kept<E: Engine>(setup: &Setup, done: &mut Done) -> Result<E, Failure> {
    if setup.kept.exists() {
        std::fs::remove_dir_all(&setup.kept)?;
    }
    std::fs::create_dir(&setup.kept)?;
    let before = anonymous()?;
    let engine = E::open(&setup.kept, Mode::Buffered, setup.records)?;
    for n in 0..setup.records {
        engine.put(&setup.values, n)?;
    }
    let grown = anonymous()?.saturating_sub(before);
    done.add("memory", grown as f64 / setup.records as f64);
    Ok(engine)
}

/// The same, flushed and closed.
pub fn fill<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    fill_kept::<E>(setup, done)?.quiesce()
}

/// The same, and then SIGKILL.
pub fn fill_and_die<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let _engine = fill_kept::<E>(setup, done)?;
    println!("{}", crate::samples::tell(done));
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("it should be dead".into())
}

/// Opens what was closed.
pub fn closed<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let (elapsed, left) = reopen::<E>(setup)?;
    done.add("reopen after a close", elapsed);
    if left == setup.records { Ok(()) } else { Err(format!("{}: {left} left", E::NAME).into()) }
}

/// Opens what was killed, and counts what is still there.
pub fn killed<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let (elapsed, left) = reopen::<E>(setup)?;
    done.add("reopen after a kill", elapsed);
    let lost = setup.records.saturating_sub(left);
    done.add("lost", lost as f64 * 100.0 / setup.records as f64);
    Ok(())
}

/// Milliseconds until the first get is answered, and how many records there are.
fn reopen<E: Engine>(setup: &Setup) -> Result<(f64, u64), Failure> {
    let begin = Instant::now();
    let engine = E::open(&setup.kept, Mode::Buffered, setup.records)?;
    // It may have been lost.
    let _found = black_box(engine.get(0, &Touch).is_ok());
    let elapsed = begin.elapsed().as_secs_f64() * 1e3;
    Ok((elapsed, engine.scan(&Touch)?.0))
}
