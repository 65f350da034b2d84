//! `compact`: gives back the space of what was overwritten and removed.

use crate::output::{self, count, size};
use crate::{Outcome, open_read_only};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use stratalog::{CompactionReport, Options, SegmentStats, Store};

/// Give back the space of what was overwritten and removed
///
/// The store must not be open for writing elsewhere: a program that has it open compacts it itself.
/// With --dry-run nothing is changed, and the store may be open anywhere.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Only say what could be gained
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What a compaction would do.
#[derive(Debug, Serialize)]
struct Forecast {
    dry_run: bool,
    segments: u64,
    segments_to_empty: u64,
    /// Live bytes in those: what is to be copied.
    bytes_to_copy: u64,
    /// Dead bytes in those: what comes back, but for removals that are still needed.
    bytes_to_gain: u64,
    disk_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    reclaimed_bytes: u64,
    moved_records: u64,
    moved_bytes: u64,
    segments_removed: u64,
    disk_bytes_before: u64,
    disk_bytes: u64,
    seconds: f64,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if args.dry_run { forecast(args) } else { compact(args) }
}

/// The segments that a compaction would empty.
fn to_empty(segments: &[SegmentStats]) -> impl Iterator<Item = &SegmentStats> {
    segments.iter().filter(|segment| segment.dead_bytes + segment.needed_bytes > 0)
}

fn forecast(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    let segments = store.segments();
    let sum = |of: fn(&SegmentStats) -> u64| to_empty(&segments).map(of).sum::<u64>();
    let forecast = Forecast {
        dry_run: true,
        segments: segments.len() as u64,
        segments_to_empty: sum(|_| 1),
        bytes_to_copy: sum(|segment| segment.live_bytes),
        bytes_to_gain: sum(|segment| segment.dead_bytes),
        disk_bytes: store.stats().disk_bytes,
    };
    if args.json {
        output::json(&forecast)?;
        return Ok(Outcome::Good);
    }
    let mut out = output::stdout();
    let (empty, all) = (count(forecast.segments_to_empty), count(forecast.segments));
    let (gain, copy) = (size(forecast.bytes_to_gain), size(forecast.bytes_to_copy));
    writeln!(out, "would empty {empty} of {all} segments: copy {copy}, gain up to {gain}")?;
    writeln!(out, "nothing was changed")?;
    out.flush()?;
    Ok(Outcome::Good)
}

fn compact(args: &Args) -> anyhow::Result<Outcome> {
    // By hand only: what the background does meanwhile would be missing from the report.
    let options = Options::new().create(false).compaction(stratalog::Compaction::Manual);
    let store = options.open(&args.store)?;
    let disk_bytes_before = store.stats().disk_bytes;
    let done = with_bar(&store)?;
    let seconds = done.elapsed.as_secs_f64();
    store.close()?;
    let disk_bytes = open_read_only(&args.store)?.stats().disk_bytes;
    if args.json {
        output::json(&Report {
            dry_run: false,
            reclaimed_bytes: done.reclaimed_bytes,
            moved_records: done.moved_records,
            moved_bytes: done.moved_bytes,
            segments_removed: done.segments_removed,
            disk_bytes_before,
            disk_bytes,
            seconds,
        })?;
        return Ok(Outcome::Good);
    }
    let mut out = output::stdout();
    let (segments, records) = (count(done.segments_removed), count(done.moved_records));
    let (back, moved) = (size(done.reclaimed_bytes), size(done.moved_bytes));
    let time = output::duration(done.elapsed);
    writeln!(out, "removed {segments} segments in {time}, and {back} of dead log with them")?;
    writeln!(out, "moved {records} records, {moved}")?;
    writeln!(out, "disk: {} before, {} now", size(disk_bytes_before), size(disk_bytes))?;
    out.flush()?;
    Ok(Outcome::Good)
}

fn with_bar(store: &Store) -> anyhow::Result<CompactionReport> {
    let template = "{wide_bar} {bytes} of {total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(template)?.progress_chars("## ");
    let bar = ProgressBar::new(0).with_style(style);
    let done = store.compact_with(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(done?)
}
