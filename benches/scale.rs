//! `cargo bench --bench scale -- flat`: what a put and a get cost in stores of 10^4 to 10^7 records
//! (16-d, the last of them 1.6 GB), and a picture of it in the target's `tmp`.
//!
//! `-- large`: 10,000,000 records of 128-d (6.4 GB): puts, gets, opening, memory, disk.
//!
//! `-- limited [MIB]`: a store four times as large as the memory that the process and its page
//! cache may have (512 MiB unless given; a memory cgroup, so it needs root).

mod common;

use common::{CONTENT, DIMENSION, embedding, id, random};
use hdrhistogram::Histogram;
use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stratalog::{Options, Stats, Store};

type Failure = Box<dyn std::error::Error>;

const SIZES: [u64; 7] = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];
/// Gets of one figure.
const GETS: u64 = 200_000;
/// Figures of which the median counts.
const ROUNDS: usize = 5;
const MIB: u64 = 1 << 20;
/// How much more there is in the store than fits the memory.
const TIMES: u64 = 4;

/// What operations took, in nanoseconds.
struct Cost {
    mean: f64,
    p50: u64,
    p99: u64,
    p99_9: u64,
}

impl Cost {
    fn of(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile);
        Self { mean: times.mean(), p50: at(0.5), p99: at(0.99), p99_9: at(0.999) }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |ns: f64| ns / 1000.0;
        write!(
            f,
            "{:7.0} k/s, p50 {:7.2} us, p99 {:8.2} us, p99.9 {:8.1} us",
            1e6 / self.mean,
            us(self.p50 as f64),
            us(self.p99 as f64),
            us(self.p99_9 as f64)
        )
    }
}

struct Values {
    embeddings: Vec<Vec<f32>>,
    content: usize,
}

impl Values {
    fn new(dimension: usize, content: usize) -> Self {
        let short = |n| embedding(n)[..dimension].to_vec();
        Self { embeddings: (0..64).map(short).collect(), content }
    }

    /// Puts these records, and says what each took.
    fn put(&self, store: &Store, records: std::ops::Range<u64>) -> Result<Cost, Failure> {
        let mut times = Histogram::<u64>::new(3)?;
        let mut before = Instant::now();
        for n in records {
            store.put(id(n), &self.embeddings[n as usize % 64], &CONTENT[..self.content])?;
            let now = Instant::now();
            times.record((now - before).as_nanos() as u64)?;
            before = now;
        }
        Ok(Cost::of(&times))
    }
}

/// Gets of uniform ids below `records`, each with a pin of its own, each touching its record; for
/// `at_most` so long.
fn gets(store: &Store, records: u64, seed: &mut u64, at_most: Duration) -> Result<Cost, Failure> {
    let (mut times, begin) = (Histogram::<u64>::new(3)?, Instant::now());
    let mut before = begin;
    for _ in 0..GETS {
        let pinned = store.pin();
        let record = pinned.get(id(random(seed) % records))?.ok_or("a record is missing")?;
        black_box(record.embedding()[0] + f32::from(record.content()[0]));
        drop(pinned);
        let now = Instant::now();
        times.record((now - before).as_nanos() as u64)?;
        before = now;
        if now - begin > at_most {
            break;
        }
    }
    Ok(Cost::of(&times))
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs.get(costs.len() / 2).copied().unwrap_or_default()
}

const LONG: Duration = Duration::from_secs(60);

/// The cost of the last puts of a store, a tenth of it at most, and of gets over all of it.
fn flat(sizes: &[u64]) -> Result<(), Failure> {
    let values = Values::new(16, 16);
    let mut points = Vec::new();
    println!(
        "records      put, ns   get, ns   (medians of {ROUNDS} runs of means; 16-d, 16 bytes)"
    );
    for &records in sizes {
        let dir = tempfile::tempdir()?;
        let store = Options::new().dimension(16).open(dir.path().join("store"))?;
        let last = (records / 10).min(100_000);
        values.put(&store, 0..records - last)?;
        let part = last / ROUNDS as u64;
        let put = |round| {
            let from = records - last + part * round;
            Ok(values.put(&store, from..from + part)?.mean)
        };
        let puts = (0..ROUNDS as u64).map(put).collect::<Result<Vec<_>, Failure>>()?;
        let (mut seed, below) = (records, records - last);
        let get = |_| Ok(gets(&store, below, &mut seed, LONG)?.mean);
        let reads = (0..ROUNDS).map(get).collect::<Result<Vec<_>, Failure>>()?;
        let point = (records, median(puts), median(reads));
        println!("{:>10} {:>9.0} {:>9.0}", point.0, point.1, point.2);
        points.push(point);
        drop(store);
    }
    let picture = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("scale.svg");
    fs::write(&picture, svg(&points)?)?;
    println!("{}", picture.display());
    Ok(())
}

/// Cost by records, both axes logarithmic.
fn svg(points: &[(u64, f64, f64)]) -> Result<String, Failure> {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 400.0;
    const LEFT: f64 = 70.0;
    const BOTTOM: f64 = 50.0;
    let x = |records: f64| LEFT + (records.log10() - 4.0) / 3.0 * (WIDTH - LEFT - 30.0);
    // 10 ns to 10 us.
    let y = |ns: f64| HEIGHT - BOTTOM - (ns.log10() - 1.0) / 3.0 * (HEIGHT - BOTTOM - 40.0);
    let mut out = String::new();
    writeln!(out, r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}""#)?;
    writeln!(out, r#" font-family="sans-serif" font-size="12">"#)?;
    writeln!(out, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    let title = "ns an operation, by records in the store";
    writeln!(out, r#"<text x="{LEFT}" y="22" font-size="15">{title}</text>"#)?;
    for (ns, text) in [(10.0, "10 ns"), (100.0, "100 ns"), (1e3, "1 us"), (1e4, "10 us")] {
        let (y, right) = (y(ns), WIDTH - 30.0);
        writeln!(out, r##"<path d="M{LEFT} {y} H{right}" stroke="#ccc"/>"##)?;
        writeln!(
            out,
            r#"<text x="{}" y="{}" text-anchor="end">{text}</text>"#,
            LEFT - 6.0,
            y + 4.0
        )?;
    }
    for (records, text) in [(1e4, "10^4"), (1e5, "10^5"), (1e6, "10^6"), (1e7, "10^7")] {
        let (x, y) = (x(records), HEIGHT - BOTTOM + 20.0);
        writeln!(out, r#"<text x="{x}" y="{y}" text-anchor="middle">{text}</text>"#)?;
    }
    type Series = (&'static str, &'static str, fn(&(u64, f64, f64)) -> f64);
    let series: [Series; 2] =
        [("put", "firebrick", |point| point.1), ("get", "steelblue", |point| point.2)];
    for (name, colour, of) in series {
        let places: Vec<_> = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0 as f64), y(of(point))))
            .collect();
        let line = places.join(" ");
        writeln!(
            out,
            r#"<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        )?;
        if let Some(last) = points.last() {
            // Outside the two lines.
            let beside = if of(last) < last.1.max(last.2) { 18.0 } else { -8.0 };
            let (x, y) = (x(last.0 as f64) - 4.0, y(of(last)) + beside);
            writeln!(
                out,
                r#"<text x="{x}" y="{y}" fill="{colour}" text-anchor="end">{name}</text>"#
            )?;
        }
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn describe(stats: &Stats) {
    let each = |bytes: u64| bytes as f64 / stats.live_records as f64;
    println!(
        "  {} records in {} segments; disk {:.1} bytes a record, index {:.1}",
        stats.live_records,
        stats.segments,
        each(stats.disk_bytes),
        each(stats.index_bytes)
    );
}

fn reopened(path: &Path, records: u64) -> Result<Store, Failure> {
    let begin = Instant::now();
    let store = Options::new().open(path)?;
    println!("  opened in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    if store.len() as u64 == records { Ok(store) } else { Err("records are missing".into()) }
}

fn large(records: u64) -> Result<(), Failure> {
    let (dir, values) = (tempfile::tempdir()?, Values::new(128, 64));
    let path = dir.path().join("store");
    let store = Options::new().dimension(128).open(&path)?;
    println!("{records} records of 128-d, 64 bytes of content:");
    for tenth in 0..10 {
        let cost = values.put(&store, records / 10 * tenth..records / 10 * (tenth + 1))?;
        println!("  puts, {:3} %: {cost}", tenth * 10 + 10);
    }
    describe(&store.stats());
    println!("  gets:        {}", gets(&store, records, &mut 1, LONG)?);
    store.close()?;
    let store = reopened(&path, records)?;
    println!("  gets:        {}", gets(&store, records, &mut 2, LONG)?);
    Ok(store.close()?)
}

/// A memory cgroup, given up when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Moves this process into one with so many bytes.
    fn enter(bytes: u64) -> Result<Self, Failure> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit) =
            if v1.is_dir() { (v1, "memory.limit_in_bytes") } else { (v2, "memory.max") };
        let group = Self(root.join(format!("stratalog-scale-{}", std::process::id())));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join(limit), bytes.to_string())?;
        fs::write(group.0.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(group)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let out = self.0.parent().map(|root| root.join("cgroup.procs"));
        let left = out.map(|out| fs::write(out, std::process::id().to_string()));
        // It stays, empty, if this process could not leave it.
        drop((left, fs::remove_dir(&self.0)));
    }
}

/// Gets of uniform ids, sixteen at a time; what each sixteen took for each of them.
fn many(store: &Store, records: u64, seed: &mut u64, at_most: Duration) -> Result<Cost, Failure> {
    let (mut times, begin) = (Histogram::<u64>::new(3)?, Instant::now());
    while begin.elapsed() < at_most {
        let before = Instant::now();
        let ids: Vec<_> = (0..16).map(|_| id(random(seed) % records)).collect();
        for record in store.pin().get_many(&ids) {
            let record = record?.ok_or("a record is missing")?;
            black_box(record.embedding()[0] + f32::from(record.content()[0]));
        }
        times.record(before.elapsed().as_nanos() as u64 / 16)?;
    }
    Ok(Cost::of(&times))
}

/// What reads everything, or as much of it as there is time for.
fn in_order(store: &Store, at_most: Duration) -> Result<(), Failure> {
    let rate = |count: u64, begin: Instant| count as f64 / begin.elapsed().as_secs_f64() / 1e3;
    let (begin, query) = (Instant::now(), embedding(3));
    black_box(store.pin().search(&query, 10, stratalog::Metric::Dot)?);
    println!("  search:              {:7.0} k/s", rate(store.len() as u64, begin));
    let (begin, pinned, mut count) = (Instant::now(), store.pin(), 0);
    for record in &pinned {
        black_box(record?.embedding()[0]);
        count += 1;
        if begin.elapsed() > at_most {
            break;
        }
    }
    println!("  walk:                {:7.0} k/s", rate(count, begin));
    Ok(())
}

fn limited(mib: u64) -> Result<(), Failure> {
    // Beside the log, index and program need some memory.
    let group = Cgroup::enter(mib * MIB)?;
    let (dir, values) = (tempfile::tempdir()?, Values::new(DIMENSION, CONTENT.len()));
    let path = dir.path().join("store");
    let records = TIMES * mib * MIB / 3392;
    let store = Options::new().dimension(DIMENSION).open(&path)?;
    println!("{records} records of 768-d ({} MiB) in {mib} MiB of memory:", TIMES * mib);
    for part in 0..8 {
        let cost = values.put(&store, records / 8 * part..records / 8 * (part + 1))?;
        println!("  puts, {:5.1} %: {cost}", (part + 1) as f64 * 12.5);
    }
    let records = records / 8 * 8;
    describe(&store.stats());
    let few = Duration::from_secs(10);
    println!("  gets, all of it:     {}", gets(&store, records, &mut 1, few)?);
    println!("  sixteen at a time:   {}", many(&store, records, &mut 4, few)?);
    println!("  gets, of an eighth:  {}", gets(&store, records / 8, &mut 2, few)?);
    println!("  once more:           {}", gets(&store, records / 8, &mut 3, few)?);
    in_order(&store, few)?;
    store.close()?;
    reopened(&path, records)?.close()?;
    drop(group);
    Ok(())
}

fn main() -> Result<(), Failure> {
    // `cargo test --benches` only wants to know that it runs.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let test = !std::env::args().any(|word| word == "--bench");
    match words.next().as_deref() {
        _ if test => flat(&[1000]),
        Some("flat") | None => flat(&SIZES),
        Some("large") => large(words.next().map_or(Ok(10_000_000), |records| records.parse())?),
        Some("limited") => limited(words.next().map_or(Ok(512), |mib| mib.parse())?),
        Some(word) => Err(format!("flat, large or limited, not {word}").into()),
    }
}
