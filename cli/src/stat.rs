//! `stat`: counts and sizes of a store, and what opening it found.

mod segments;

use crate::output::{self, count, size};
use crate::{Outcome, open_read_only};
use segments::Segment;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use stratalog::{RecoveryReport, Stats, Store};

/// Print counts and sizes of a store, and what opening it found
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// List each segment too, with a picture of what it holds
    #[arg(long)]
    segments: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Counts and sizes, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    pub live_records: u64,
    pub segments: u64,
    pub live_bytes: u64,
    pub dead_bytes: u64,
    pub disk_bytes: u64,
    pub index_bytes: u64,
    pub disk_bytes_per_record: Option<f64>,
    pub index_bytes_per_record: Option<f64>,
    pub tail: u64,
    pub durable: u64,
    pub unflushed_slots: u64,
    pub retired: u64,
    pub retained_bytes: u64,
    pub retained_seconds: f64,
}

impl From<&Stats> for Counts {
    fn from(stats: &Stats) -> Self {
        Self {
            live_records: stats.live_records,
            segments: stats.segments,
            live_bytes: stats.live_bytes,
            dead_bytes: stats.dead_bytes,
            disk_bytes: stats.disk_bytes,
            index_bytes: stats.index_bytes,
            disk_bytes_per_record: output::each(stats.disk_bytes, stats.live_records),
            index_bytes_per_record: output::each(stats.index_bytes, stats.live_records),
            tail: stats.tail.as_u64(),
            durable: stats.durable.as_u64(),
            unflushed_slots: stats.unflushed_slots,
            retired: stats.retired,
            retained_bytes: stats.retained_bytes,
            retained_seconds: stats.retained_age.as_secs_f64(),
        }
    }
}

/// What opening found, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    pub records: u64,
    pub torn: u64,
    pub void: u64,
    pub corrupt: u64,
    pub lost: u64,
    pub missing_segments: u64,
    pub foreign_files: u64,
    pub scanned_bytes: u64,
    pub seconds: f64,
}

impl From<&RecoveryReport> for Recovery {
    fn from(report: &RecoveryReport) -> Self {
        Self {
            records: report.records,
            torn: report.torn,
            void: report.void,
            corrupt: report.corrupt,
            lost: report.lost.len() as u64 + report.lost_unlisted,
            missing_segments: report.missing_segments,
            foreign_files: report.foreign_files,
            scanned_bytes: report.scanned_bytes,
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    path: String,
    dimension: usize,
    stats: Counts,
    recovery: Recovery,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<Vec<Segment>>,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    if args.json {
        output::json(&Report {
            path: store.path().display().to_string(),
            dimension: store.dimension(),
            stats: Counts::from(&store.stats()),
            recovery: Recovery::from(store.recovery()),
            segments: args
                .segments
                .then(|| store.segments().iter().map(|s| Segment::new(s, &store)).collect()),
        })?;
    } else {
        print(&store)?;
        if args.segments {
            segments::print(&store)?;
        }
    }
    Ok(Outcome::Good)
}

fn print(store: &Store) -> anyhow::Result<()> {
    let stats = store.stats();
    let each = |bytes| match output::each(bytes, stats.live_records) {
        Some(each) => format!("{:>12}   {each:.1} bytes a record", size(bytes)),
        None => format!("{:>12}", size(bytes)),
    };
    let mut out = output::stdout();
    writeln!(out, "store             {}", store.path().display())?;
    writeln!(out, "dimension         {:>12}", count(store.dimension() as u64))?;
    writeln!(out, "live records      {:>12}", count(stats.live_records))?;
    writeln!(out, "segments          {:>12}", count(stats.segments))?;
    writeln!(out, "live log          {}", each(stats.live_bytes))?;
    writeln!(out, "dead log          {:>12}", size(stats.dead_bytes))?;
    writeln!(out, "disk              {}", each(stats.disk_bytes))?;
    writeln!(out, "index in memory   {}", each(stats.index_bytes))?;
    writeln!(out, "tail LSN          {:>12}", stats.tail.to_string())?;
    writeln!(out, "durable LSN       {:>12}", stats.durable.to_string())?;
    let lag = match stats.unflushed_slots {
        0 => "all that was written survives power loss",
        _ => "slots that may not survive power loss",
    };
    writeln!(out, "durability lag    {:>12}   {lag}", count(stats.unflushed_slots))?;
    writeln!(out, "retired           {:>12}", count(stats.retired))?;
    writeln!(out)?;
    print_recovery(store.recovery(), &mut out)?;
    Ok(out.flush()?)
}

fn print_recovery(report: &RecoveryReport, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "opened in {}, this found", output::duration(report.elapsed))?;
    writeln!(out, "records           {:>12}", count(report.records))?;
    writeln!(out, "torn              {:>12}", count(report.torn))?;
    writeln!(out, "void              {:>12}", count(report.void))?;
    writeln!(out, "corrupt           {:>12}", count(report.corrupt))?;
    let lost = report.lost.len() as u64 + report.lost_unlisted;
    writeln!(out, "lost              {:>12}", count(lost))?;
    writeln!(out, "missing segments  {:>12}", count(report.missing_segments))?;
    writeln!(out, "foreign files     {:>12}", count(report.foreign_files))?;
    writeln!(out, "scanned           {:>12}", size(report.scanned_bytes))?;
    Ok(())
}
