//! `backup`: a copy of a store that opens as a store.

use crate::Outcome;
use crate::damage::{self, Place};
use crate::output::{self, count, size};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use stratalog::{Compaction, Options};

/// Copy a store into a new directory (exit code 3 if opening the store found something lost)
///
/// The store must not be open for writing elsewhere: a program that has it open makes its own
/// backups, with `Store::backup`. The copy has an identity of its own; it is on the device when the
/// command ends, and never there in part under its name. Damaged records are copied as they are.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Directory of the copy; missing or empty
    dest: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    /// The copy holds what was written up to this LSN.
    lsn: u64,
    live_records: u64,
    disk_bytes: u64,
    seconds: f64,
    lost: Vec<Place<'a>>,
    lost_unlisted: u64,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    // By hand only: compaction in the background takes away what has expired, and counts it no
    // more.
    let options = Options::new().create(false).compaction(Compaction::Manual);
    let store = options.open(&args.store)?;
    let at = || args.dest.display().to_string();
    store.backup(&args.dest).with_context(at)?;
    let (lsn, records) = (store.durable_lsn(), store.len());
    // Whether it opens, and holds as much, is better known now than when it is needed.
    let copy = Options::new().read_only(true).open(&args.dest)?;
    // What this opening left out as damaged counts in the copy: asking for such a record says so,
    // and such a removal removes.
    let is_whole = copy.len() == records || !store.recovery().is_clean();
    ensure!(
        is_whole,
        "{} has {} records, the store has {records}: do not rely on this copy",
        args.dest.display(),
        copy.len()
    );
    let (disk_bytes, opening) = (copy.stats().disk_bytes, store.recovery());
    let (seconds, records) = (started.elapsed(), records as u64);
    if args.json {
        output::json(&Report {
            path: at(),
            lsn: lsn.as_u64(),
            live_records: records,
            disk_bytes,
            seconds: seconds.as_secs_f64(),
            lost: damage::places(&opening.lost),
            lost_unlisted: opening.lost_unlisted,
        })?;
    } else {
        let mut out = output::stdout();
        damage::print(&opening.lost, &mut out)?;
        let (records, bytes, time) = (count(records), size(disk_bytes), output::duration(seconds));
        write!(out, "copied {records} records up to LSN {lsn}, {bytes}, in {time} to {}", at())?;
        match opening.lost.len() as u64 + opening.lost_unlisted {
            0 => writeln!(out)?,
            lost => writeln!(out, "; LOST before that: {}", count(lost))?,
        }
        out.flush()?;
    }
    Ok(if opening.is_clean() { Outcome::Good } else { Outcome::Bad })
}
