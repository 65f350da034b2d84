//! `verify`: reads the whole log and checks every checksum.

use crate::output::{self, Bytes, count, size};
use crate::{Outcome, open_read_only};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stratalog::{Damage, VerifyReport};

/// Check every record and slot of a store (exit code 3 if something is damaged)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    clean: bool,
    records: u64,
    bytes: u64,
    seconds: f64,
    damaged: Vec<Place<'a>>,
    corrupt_at_opening: u64,
    missing_segments: u64,
}

#[derive(Serialize)]
struct Place<'a> {
    segment: String,
    offset: u64,
    id: Option<Bytes<'a>>,
    reason: &'a str,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    let started = Instant::now();
    let report = store.verify()?;
    let elapsed = started.elapsed();
    // What opening could not use counts too, whether or not the walk met it again.
    let (corrupt, missing) = (store.recovery().corrupt, store.recovery().missing_segments);
    let clean = report.is_clean() && corrupt == 0 && missing == 0;
    if args.json {
        output::json(&Report {
            clean,
            records: report.records,
            bytes: report.bytes,
            seconds: elapsed.as_secs_f64(),
            damaged: report.damaged.iter().map(place).collect(),
            corrupt_at_opening: corrupt,
            missing_segments: missing,
        })?;
    } else {
        print(&report, clean, elapsed, corrupt)?;
    }
    Ok(if clean { Outcome::Good } else { Outcome::Bad })
}

fn place(damage: &Damage) -> Place<'_> {
    Place {
        segment: damage.segment.display().to_string(),
        offset: damage.offset,
        id: damage.id.as_deref().map(Bytes::new),
        reason: &damage.reason,
    }
}

fn print(
    report: &VerifyReport,
    clean: bool,
    elapsed: Duration,
    corrupt: u64,
) -> anyhow::Result<()> {
    let mut out = output::stdout();
    for damage in &report.damaged {
        let id = damage.id.as_deref().map(|id| output::printable(id, false));
        let id = id.map_or_else(|| "id unknown".to_owned(), |id| format!("id {id}"));
        let (segment, offset) = (damage.segment.display(), damage.offset);
        writeln!(out, "{segment}: byte {offset}: {id}: {}", damage.reason)?;
    }
    if clean {
        write!(out, "clean: ")?;
    } else {
        write!(out, "DAMAGED: {} places, {} at opening; ", report.damaged.len(), corrupt)?;
    }
    let (records, bytes) = (count(report.records), size(report.bytes));
    writeln!(out, "{records} records, {bytes} checked in {}", output::duration(elapsed))?;
    Ok(out.flush()?)
}
