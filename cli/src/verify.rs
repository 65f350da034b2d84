//! `verify`: whether what lies on disk is what was written.

use crate::damage::{self, Place};
use crate::output::{self, count, size};
use crate::{Outcome, open_read_only};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stratalog::{Damage, RecoveryReport, Store, VerifyReport};

/// Check the files of a store (exit code 3 if something is damaged)
///
/// Headers, files, every slot, and the checksum of every record, live or not. With --quick the
/// records are not read: 32 bytes each, and damage inside one goes unnoticed. With --deep also that
/// the index answers the newest version of every id.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Also compare what is answered for every id with what the log says
    #[arg(long)]
    deep: bool,
    /// Read the directories only, not the records
    #[arg(long, conflicts_with = "deep")]
    quick: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    clean: bool,
    deep: bool,
    records: u64,
    compared: u64,
    bytes: u64,
    seconds: f64,
    damaged: Vec<Place<'a>>,
    corrupt_at_opening: u64,
    missing_segments: u64,
    lost_at_opening: Vec<Place<'a>>,
    lost_unlisted: u64,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    let started = Instant::now();
    let report = match (args.quick, args.deep) {
        (true, _) => store.verify_quick()?,
        (_, true) => deep(&store)?,
        _ => store.verify()?,
    };
    let elapsed = started.elapsed();
    let opening = store.recovery();
    // What opening could not use counts too, whether or not the walk met it again.
    let clean = report.is_clean() && opening.corrupt == 0 && opening.missing_segments == 0;
    if args.json {
        output::json(&Report {
            clean,
            deep: args.deep,
            records: report.records,
            compared: report.compared,
            bytes: report.bytes,
            seconds: elapsed.as_secs_f64(),
            damaged: damage::places(&report.damaged),
            corrupt_at_opening: opening.corrupt,
            missing_segments: opening.missing_segments,
            lost_at_opening: damage::places(&opening.lost),
            lost_unlisted: opening.lost_unlisted,
        })?;
    } else {
        print(args, &report, opening, clean, elapsed)?;
    }
    Ok(if clean { Outcome::Good } else { Outcome::Bad })
}

fn deep(store: &Store) -> anyhow::Result<VerifyReport> {
    let bar = progress_bar("checked")?;
    let report = store.verify_deep(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(report?)
}

/// On stderr, and hidden unless that is a terminal.
pub fn progress_bar(what: &str) -> anyhow::Result<ProgressBar> {
    let style = format!("{{wide_bar}} {{human_pos}} of {{human_len}} {what}, {{eta}} left");
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(&style)?.progress_chars("## ")))
}

fn print(
    args: &Args,
    report: &VerifyReport,
    opening: &RecoveryReport,
    clean: bool,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let mut out = output::stdout();
    damage::print(&report.damaged, &mut out)?;
    // What the walk did not meet again: a handle that cannot write sees nothing behind a cut.
    let met = |lost: &Damage| {
        let same = |d: &Damage| d.path == lost.path && d.offset == lost.offset;
        report.damaged.iter().any(same)
    };
    let more: Vec<_> = opening.lost.iter().filter(|lost| !clean && !met(lost)).cloned().collect();
    damage::print(&more, &mut out)?;
    if clean {
        write!(out, "clean: ")?;
    } else {
        let places = report.damaged.len();
        write!(out, "DAMAGED: {places} places, {} at opening; ", opening.corrupt)?;
    }
    let (records, bytes) = (count(report.records), size(report.bytes));
    let time = output::duration(elapsed);
    if args.deep {
        let compared = count(report.compared);
        writeln!(out, "{records} records, {bytes} checked in {time}; {compared} looked up")?;
    } else if args.quick {
        writeln!(out, "slots of {records} records, {bytes} checked in {time}")?;
        writeln!(out, "the records themselves were not read: leave out --quick for that")?;
    } else {
        writeln!(out, "{records} records, {bytes} checked in {time}")?;
    }
    if clean && !opening.is_clean() {
        let lost = count(opening.lost.len() as u64 + opening.lost_unlisted);
        writeln!(out, "no damage: {lost} writes that were not durable when the power failed")?;
    }
    Ok(out.flush()?)
}
