//! `salvage`: every record that can still be read, out of a damaged store and into a new one.

use crate::Outcome;
use crate::damage::{self, Place};
use crate::output::{self, count};
use crate::verify::progress_bar;
use anyhow::{Context, ensure};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use stratalog::internals::with_created;
use stratalog::{Compaction, NewRecord, Options, Record, Recovery, Store};
use tempfile::TempDir;

/// Copy what can be read of a damaged store into a new one (exit code 3 if something is lost)
///
/// Opens the store read-only, also without a MANIFEST, checks every record, and changes nothing
/// there; so it may be repeated. What is lost is named, a missing or damaged MANIFEST too. In the
/// new store each record has a new LSN; it keeps its tag, its expiry and its time of creation.
/// Records that have expired are left out. From a failing disk, copy the files first (with
/// ddrescue, say): an unreadable sector would end this program with SIGBUS.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the damaged store
    store: PathBuf,
    /// Directory of the new store; missing or empty
    dest: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    live_records: u64,
    expired_records: u64,
    torn: u64,
    foreign_files: u64,
    seconds: f64,
    lost: Vec<Place<'a>>,
    lost_unlisted: u64,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let at = || args.dest.display().to_string();
    let started = Instant::now();
    check_free(&args.dest).with_context(at)?;
    let store = Options::new().recovery(Recovery::Salvage).read_only(true).open(&args.store)?;
    let unfinished = begin(&args.store, &args.dest).with_context(at)?;
    let Copied { records, expired } = copy(&store, unfinished.path()).with_context(at)?;
    finish(unfinished, &args.dest).with_context(at)?;

    let opening = store.recovery();
    let all = opening.lost.len() as u64 + opening.lost_unlisted;
    let elapsed = started.elapsed();
    if args.json {
        output::json(&Report {
            path: at(),
            live_records: records,
            expired_records: expired,
            torn: opening.torn,
            foreign_files: opening.foreign_files,
            seconds: elapsed.as_secs_f64(),
            lost: damage::places(&opening.lost),
            lost_unlisted: opening.lost_unlisted,
        })?;
    } else {
        let mut out = output::stdout();
        damage::print(&opening.lost, &mut out)?;
        let (n, time) = (count(records), output::duration(elapsed));
        writeln!(out, "salvaged {n} records in {time} to {}", at())?;
        if expired > 0 {
            writeln!(out, "{} records had expired and were left out", count(expired))?;
        }
        match (all, opening.lost_unlisted) {
            (0, _) => writeln!(out, "nothing is lost")?,
            (_, 0) => writeln!(out, "LOST: {} places, named above", count(all))?,
            (_, more) => {
                writeln!(out, "LOST: {} places, {} not named", count(all), count(more))?;
            }
        }
        out.flush()?;
    }
    Ok(if all == 0 { Outcome::Good } else { Outcome::Bad })
}

fn check_free(dest: &Path) -> anyhow::Result<()> {
    match fs::read_dir(dest) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "something is there; choose another directory");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A directory beside the one that it will become; removed unless it is finished.
fn begin(store: &Path, dest: &Path) -> anyhow::Result<TempDir> {
    let name = dest.file_name().context("a directory needs a name")?;
    let parent = parent(dest);
    fs::create_dir_all(parent)?;
    let inside = parent.canonicalize()?.starts_with(store.canonicalize()?);
    ensure!(!inside, "it lies in the damaged store, which must not change; choose another one");
    let mut prefix = name.to_owned();
    prefix.push(".");
    Ok(tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempdir_in(parent)?)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The new store gets its name once it is whole and on the device.
fn finish(unfinished: TempDir, dest: &Path) -> anyhow::Result<()> {
    // Who opens a store without a lock file brings its name to the device first, should this
    // process not come to it.
    fs::remove_file(unfinished.path().join("LOCK"))?;
    fs::rename(unfinished.path(), dest)?;
    // Nothing is left under the old name to be removed.
    drop(unfinished.keep());
    Ok(File::open(parent(dest))?.sync_all()?)
}

/// What a copy has come to.
struct Copied {
    records: u64,
    /// Left out.
    expired: u64,
}

/// Copies every record that has not expired, with all that belongs to it but its LSN.
fn copy(store: &Store, dest: &Path) -> anyhow::Result<Copied> {
    let options = Options::new().dimension(store.dimension()).segment_size(store.segment_size());
    // Compaction would take away what expires during the copy, and count it no more.
    let new = options.compaction(Compaction::Manual).open(dest)?;
    let bar = progress_bar("records")?;
    let all = store.len() as u64;
    bar.set_length(all);
    let mut records = 0;
    for record in &store.pin() {
        match record {
            Ok(record) => put(&new, &record)?,
            // Each was checked on opening, so the medium has changed its mind since.
            Err(error) => return Err(error).context("it was whole a moment ago"),
        }
        records += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let arrived = new.len() as u64;
    new.close()?;
    ensure!(arrived == records, "{arrived} of {records} records arrived");
    // A store counts what has expired until it is compacted, and a walk passes it over.
    Ok(Copied { records, expired: all.saturating_sub(records) })
}

fn put(new: &Store, record: &Record<'_>) -> anyhow::Result<()> {
    let (id, content) = (record.id(), record.content());
    let copy = NewRecord::new(id, record.embedding(), content);
    let copy = match record.expires_at() {
        Some(moment) => copy.expires_at(moment),
        None => copy.never_expires(),
    };
    new.put_record(with_created(copy, record.created_at()))?;
    let tag = record.tag();
    if tag != 0 {
        // Absent only if it has expired since.
        new.update_tag(id, |_| tag)?;
    }
    Ok(())
}
