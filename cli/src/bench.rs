//! `bench`: how fast a store is on the machine at hand.

mod keys;
mod load;

use crate::Outcome;
use crate::output::{self, count, size};
use anyhow::{Context, ensure};
use clap::value_parser;
use hdrhistogram::Histogram;
use humantime::parse_duration;
use indicatif::{ProgressBar, ProgressStyle};
use keys::{Distribution, Keys};
use load::{Plan, Ran, Values};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stratalog::{Durability, Options, Store};

/// Measure how fast a store is on this machine
///
/// Makes a store in a directory of its own, fills it, reads and overwrites its records for some
/// time, and removes it again. Without --rate each thread begins an operation when the one before
/// has ended. With --rate operations fall due at fixed times, and latency counts from when one was
/// due: so a stop shows in all that had to wait for it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is made and removed again; not a tmpfs, where a flush does nothing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Records of the store
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u64).range(1..1 << 32))]
    records: u64,
    /// Values of each embedding
    #[arg(long, default_value_t = 768)]
    dimension: usize,
    /// Bytes of each content
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(..1 << 24))]
    content: u32,
    /// Share of reads
    #[arg(long, default_value_t = 95, value_parser = value_parser!(u32).range(..=1_000_000))]
    reads: u32,
    /// Share of writes
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(..=1_000_000))]
    writes: u32,
    /// How often each record is asked for
    #[arg(long, value_enum, default_value_t = Distribution::Zipf)]
    distribution: Distribution,
    /// Threads that read and write; by default as many as there are processors
    #[arg(long, value_parser = value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Operations a second, of all threads together: an open loop
    #[arg(long, value_name = "OPS", value_parser = value_parser!(u64).range(1..=1_000_000_000))]
    rate: Option<u64>,
    /// Each write returns when it survives power loss
    #[arg(long)]
    synced: bool,
    /// For how long it is measured, such as 10s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// For how long it runs before that
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Which run of random numbers
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(..1 << 48))]
    seed: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Latencies of one kind of operation, in nanoseconds.
#[derive(Debug, Serialize)]
struct Latency {
    operations: u64,
    a_second: f64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    p99_99: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    records: u64,
    dimension: usize,
    content_bytes: u32,
    threads: u32,
    distribution: Distribution,
    durability: &'static str,
    /// Asked for; none in a closed loop.
    rate: Option<u64>,
    seconds: f64,
    load_seconds: f64,
    load_a_second: f64,
    reads: Option<Latency>,
    writes: Option<Latency>,
    /// Due before the end, and not begun.
    unserved: u64,
    index_bytes_a_record: Option<f64>,
    disk_bytes: u64,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    ensure!(args.reads + args.writes > 0, "--reads and --writes are both 0: nothing to do");
    ensure!(!args.duration.is_zero(), "--duration must be more than 0");
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir).with_context(|| dir.display().to_string())?,
        None => tempfile::tempdir()?,
    };
    let durability = if args.synced { Durability::Synced } else { Durability::Buffered };
    let options = Options::new().dimension(args.dimension);
    let values = Values::new(args.dimension, args.content as usize);
    let path = dir.path().join("store");
    let store = options.open(&path)?;
    let loading = Instant::now();
    fill(&store, &values, args.records)?;
    let loaded = loading.elapsed();
    // A fill that flushes each record would take longer than all of the rest.
    store.close()?;
    let store = options.durability(durability).open(&path)?;
    let plan = plan(args);
    let ran = load::run(&store, &values, &plan)?;
    let report = report(args, &plan, &ran, loaded, &store);
    store.close()?;
    dir.close()?;
    if args.json {
        output::json(&report)?
    } else {
        print(args, &report)?
    }
    Ok(Outcome::Good)
}

fn plan(args: &Args) -> Plan {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    Plan {
        keys: Keys::new(args.records, args.distribution),
        reads: args.reads,
        writes: args.writes,
        threads: args.threads.unwrap_or(cpus),
        rate: args.rate.map(|rate| rate as f64),
        warm_up: args.warm_up,
        duration: args.duration,
        seed: args.seed,
    }
}

fn fill(store: &Store, values: &Values, records: u64) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} records, {eta} left")?;
    let bar = ProgressBar::new(records).with_style(style.progress_chars("## "));
    let mut content = Vec::new();
    for n in 0..records {
        values.put(store, n, &mut content)?;
        if n % 4096 == 0 {
            bar.set_position(n);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn report(args: &Args, plan: &Plan, ran: &Ran, loaded: Duration, store: &Store) -> Report {
    let stats = store.stats();
    Report {
        records: args.records,
        dimension: args.dimension,
        content_bytes: args.content,
        threads: plan.threads,
        distribution: args.distribution,
        durability: if args.synced { "synced" } else { "buffered" },
        rate: args.rate,
        seconds: ran.elapsed.as_secs_f64(),
        load_seconds: loaded.as_secs_f64(),
        load_a_second: args.records as f64 / loaded.as_secs_f64(),
        reads: latency(&ran.reads, ran.elapsed),
        writes: latency(&ran.writes, ran.elapsed),
        unserved: ran.unserved,
        index_bytes_a_record: output::each(stats.index_bytes, args.records),
        disk_bytes: stats.disk_bytes,
    }
}

fn latency(of: &Histogram<u64>, elapsed: Duration) -> Option<Latency> {
    let at = |quantile| of.value_at_quantile(quantile);
    (!of.is_empty()).then(|| Latency {
        operations: of.len(),
        a_second: of.len() as f64 / elapsed.as_secs_f64(),
        mean: of.mean(),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p99_9: at(0.999),
        p99_99: at(0.9999),
        max: of.max(),
    })
}

fn print(args: &Args, report: &Report) -> anyhow::Result<()> {
    let mut out = output::stdout();
    writeln!(
        out,
        "{} records of {}-d with {} bytes of content, {}, {} threads, {:?}, reads:writes {}:{}",
        count(report.records),
        report.dimension,
        count(report.content_bytes.into()),
        report.durability,
        report.threads,
        report.distribution,
        args.reads,
        args.writes
    )?;
    writeln!(
        out,
        "filled in {}, {} a second; {} on disk, {:.1} bytes of index a record",
        output::duration(Duration::from_secs_f64(report.load_seconds)),
        count(report.load_a_second as u64),
        size(report.disk_bytes),
        report.index_bytes_a_record.unwrap_or_default()
    )?;
    match report.rate {
        Some(rate) => writeln!(
            out,
            "open loop, {} a second for {}; from when each was due; {} never begun",
            count(rate),
            output::duration(args.duration),
            count(report.unserved)
        )?,
        None => writeln!(out, "closed loop for {}", output::duration(args.duration))?,
    }
    writeln!(
        out,
        "\n{:<7}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "a second", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    )?;
    for (name, latency) in [("reads", &report.reads), ("writes", &report.writes)] {
        let Some(of) = latency else { continue };
        write!(out, "{name:<7}{:>12}", count(of.a_second as u64))?;
        for ns in [of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max] {
            write!(out, "{:>10}", output::duration(Duration::from_nanos(ns)))?;
        }
        writeln!(out)?;
    }
    Ok(out.flush()?)
}
