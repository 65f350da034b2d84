//! What every engine is made to do, and how long it takes.

use crate::data::{Asked, Dot, PAYLOAD, See, Touch, Values};
use crate::engines::{Driver, Engine, Failure, Mode};
use hdrhistogram::Histogram;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Gets under one pin.
const UNDER_ONE_PIN: usize = 1000;
/// Records of a batch.
const BATCH: u64 = 100;
/// Where the ids of a thread begin, so that no two threads share one.
const THREAD: u64 = 1 << 32;
/// The limit of durable puts, as the tables call it.
pub const BARE: &str = "bare fdatasync";
/// Threads of the durable puts that share flushes.
pub const THREADS: u64 = 8;

/// What a run is made with.
pub struct Setup {
    pub values: Values,
    pub asked: Asked,
    pub dot: Dot,
    pub records: u64,
    /// Of each kind of get.
    pub gets: Duration,
    /// Of the durable puts of one engine, for each number of threads.
    pub durable: Duration,
    /// Of puts at a stretch, if not as many as come to 4 GiB.
    pub stretch: Option<u64>,
    /// Where the stores are made.
    pub dir: PathBuf,
    /// Where a store lies that outlives its process.
    pub kept: PathBuf,
}

/// What one engine did in one round.
#[derive(Default)]
pub struct Done {
    /// Workloads and their figures.
    pub figures: Vec<(String, f64)>,
    /// Latencies of durable puts, in nanoseconds, by the number of threads.
    pub latencies: Vec<(u64, Histogram<u64>)>,
    /// Of gets, alone (0) and beside writers (1).
    pub reads: Vec<(u64, Histogram<u64>)>,
}

impl Done {
    pub fn add(&mut self, workload: &str, value: f64) {
        self.figures.push((workload.into(), value));
    }
}

/// An empty directory, gone with all that is in it when dropped.
pub fn place(setup: &Setup) -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("store-").tempdir_in(&setup.dir)
}

pub fn thousands_per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64() / 1000.0
}

/// Since when: by the clock on the wall, and by what all threads of the process have worked.
struct Begin(Instant, Duration);

impl Begin {
    fn now() -> Self {
        Self(Instant::now(), worked())
    }

    /// Adds thousands a second, and microseconds of work for each.
    fn done(&self, done: &mut Done, workload: &str, count: u64) {
        let work = worked() - self.1;
        done.add(workload, thousands_per_second(count, self.0.elapsed()));
        done.add(&format!("{workload} cpu"), work.as_secs_f64() * 1e6 / count as f64);
    }
}

fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Everything but the durable puts: loads a store, reads it, looks at its size.
pub fn buffered<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let dir = place(setup)?;
    let engine = E::open(dir.path(), Mode::Buffered, setup.records)?;
    let begin = Begin::now();
    for n in 0..setup.records {
        engine.put(&setup.values, n)?;
    }
    begin.done(done, "put", setup.records);
    engine.quiesce()?;
    if E::ON_DISK {
        begin.done(done, "put+sync", setup.records);
    }
    check(&engine, setup)?;
    reads(&engine, setup, done)?;
    drop(engine);
    if E::ON_DISK {
        let payload = (setup.records * PAYLOAD) as f64;
        done.add("disk", allocated(dir.path())? as f64 / payload);
    }
    drop(dir);
    batches::<E>(setup, done)
}

/// What all of these figures hold besides the engine.
pub fn driver(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let driver = Driver::open(&setup.dir, Mode::Buffered, 0)?;
    let begin = Begin::now();
    for n in 0..setup.records {
        driver.put(&setup.values, n)?;
    }
    begin.done(done, "put", setup.records);
    gets_of(&driver, setup, done)
}

/// Half as many records again, into a fresh store, a hundred in a transaction.
fn batches<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let dir = place(setup)?;
    let engine = E::open(dir.path(), Mode::Buffered, setup.records)?;
    let batches = setup.records / BATCH / 2;
    let begin = Begin::now();
    for n in 0..batches {
        engine.put_many(&setup.values, n * BATCH..(n + 1) * BATCH)?;
    }
    begin.done(done, "put x100", batches * BATCH);
    Ok(())
}

/// Compares every byte, where a bench would otherwise measure how fast nonsense is returned.
struct Compare<'a>(&'a [u8]);

impl See for Compare<'_> {
    fn see(&self, embedding: &[u8], content: &[u8]) -> f32 {
        f32::from(u8::from([embedding, content].concat() == self.0))
    }
}

fn check<E: Engine>(engine: &E, setup: &Setup) -> Result<(), Failure> {
    for n in (0..setup.records).step_by(97) {
        let joined = &setup.values.of(n).joined;
        if engine.get(n, &Compare(joined))? == 0.0 {
            return Err(format!("{}: record {n} is not what was put", E::NAME).into());
        }
    }
    Ok(())
}

fn reads<E: Engine>(engine: &E, setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    gets_of(engine, setup, done)?;
    let begin = Begin::now();
    let (records, sum) = black_box(engine.scan(&setup.dot)?);
    begin.done(done, "scan+dot", records);
    if records != setup.records || !sum.is_finite() {
        return Err(format!("{}: a scan saw {records} records, sum {sum}", E::NAME).into());
    }
    Ok(())
}

fn gets_of<E: Engine>(engine: &E, setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    let Asked { uniform, zipf } = &setup.asked;
    let dot = &setup.dot;
    let one = |asked: &[u32], of: &mut f32| one_by_one(engine, asked, &Touch, of);
    let one_dot = |asked: &[u32], of: &mut f32| one_by_one(engine, asked, dot, of);
    let many = |asked: &[u32], of: &mut f32| -> Result<(), Failure> {
        *of += engine.get_many(asked, &Touch)?;
        Ok(())
    };
    gets(setup, done, "get", uniform, one)?;
    gets(setup, done, "get zipf", zipf, one)?;
    gets(setup, done, "get /1000", uniform, many)?;
    gets(setup, done, "get zipf /1000", zipf, many)?;
    gets(setup, done, "get+dot", uniform, one_dot)?;
    gets(setup, done, "get+dot zipf", zipf, one_dot)
}

fn one_by_one<E: Engine>(
    engine: &E,
    asked: &[u32],
    see: &impl See,
    of: &mut f32,
) -> Result<(), Failure> {
    for &n in asked {
        *of += engine.get(n.into(), see)?;
    }
    Ok(())
}

/// Gets for some time; the first quarter of it does not count.
fn gets(
    setup: &Setup,
    done: &mut Done,
    workload: &str,
    asked: &[u32],
    mut some: impl FnMut(&[u32], &mut f32) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut sum, mut count, mut warm) = (0.0, 0, false);
    let mut begin = Begin::now();
    for chunk in asked.chunks_exact(UNDER_ONE_PIN).cycle() {
        some(chunk, &mut sum)?;
        count += chunk.len() as u64;
        let elapsed = begin.0.elapsed();
        if !warm && elapsed > setup.gets / 4 {
            (warm, count, begin) = (true, 0, Begin::now());
        } else if warm && elapsed > setup.gets {
            break;
        }
    }
    black_box(sum);
    begin.done(done, workload, count);
    Ok(())
}

/// Bytes allocated to all files below a directory.
fn allocated(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { allocated(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// Durable puts of one thread and of several, each into a fresh store.
pub fn durable<E: Engine>(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    for threads in [1, THREADS] {
        let dir = place(setup)?;
        let engine = E::open(dir.path(), Mode::Synced, 100_000)?;
        let put = |n| engine.put(&setup.values, n);
        acknowledged(threads, setup.durable, put, done)?;
    }
    Ok(())
}

/// The limit: a page of a file that has all of its pages, written and flushed.
pub fn bare(setup: &Setup, done: &mut Done) -> Result<(), Failure> {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 16_384;
    let dir = place(setup)?;
    let file = File::create(dir.path().join("bare"))?;
    for n in 0..PAGES / 256 {
        file.write_all_at(&[1; 256 * PAGE as usize], n * 256 * PAGE)?;
    }
    file.sync_all()?;
    let put = |n: u64| -> Result<(), Failure> {
        let page = (n % THREAD + n / THREAD * (PAGES / THREADS)) % PAGES;
        file.write_all_at(&[n as u8; PAGE as usize], page * PAGE)?;
        Ok(file.sync_data()?)
    };
    for threads in [1, THREADS] {
        acknowledged(threads, setup.durable, put, done)?;
    }
    Ok(())
}

/// Puts of several threads for some time, and how long each took to be acknowledged.
fn acknowledged(
    threads: u64,
    time: Duration,
    put: impl Fn(u64) -> Result<(), Failure> + Sync,
    done: &mut Done,
) -> Result<(), Failure> {
    let barrier = Barrier::new(threads as usize);
    let work = |thread: u64| -> Result<(Histogram<u64>, Duration), Failure> {
        let mut times = Histogram::new(3)?;
        barrier.wait();
        let begin = Instant::now();
        for n in thread * THREAD.. {
            let before = begin.elapsed();
            if before > time {
                break;
            }
            put(n)?;
            times.record((begin.elapsed() - before).as_nanos() as u64)?;
        }
        Ok((times, begin.elapsed()))
    };
    let mut all = Histogram::<u64>::new(3)?;
    let mut elapsed = Duration::ZERO;
    let results: Vec<_> = std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        running.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for result in results {
        let (times, took) = result.map_err(|_panic| "a thread panicked")??;
        all.add(times)?;
        elapsed = elapsed.max(took);
    }
    let [rate, p50, p99] = match threads {
        1 => ["durable x1", "durable x1 p50", "durable x1 p99"],
        _ => ["durable x8", "durable x8 p50", "durable x8 p99"],
    };
    done.add(rate, thousands_per_second(all.len(), elapsed));
    done.add(p50, all.value_at_quantile(0.5) as f64 / 1000.0);
    done.add(p99, all.value_at_quantile(0.99) as f64 / 1000.0);
    done.latencies.push((threads, all));
    Ok(())
}
