//! `import`: records from files into a store, with as many threads as there are cores.
//!
//! One thread reads lines and hands each to the worker that its id belongs to, so that of two lines
//! with one id the later one wins. Nothing is held in memory but the batches on their way.

mod job;
mod lines;

use crate::Outcome;
use crate::npy::Matrix;
use crate::output::{self, count, size};
use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use job::{Failure, Imported, Job};
use lines::{Fields, Line, Lines};
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use stratalog::Options;

/// Buffer for reading lines.
const BUFFER_BYTES: usize = 1 << 20;

/// Read records from files into a store
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store; made if there is none
    store: PathBuf,
    /// One JSON object a line: {"id", "content"}, and "embedding" (an array) unless --embeddings
    /// is given
    #[arg(long, value_name = "JSONL")]
    records: PathBuf,
    /// Embeddings as a 2-D float32 array, one row for each line of the records, in their order
    #[arg(long, value_name = "NPY")]
    embeddings: Option<PathBuf>,
    /// Threads that write [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Values of an embedding [default: as in the data]
    #[arg(long, value_name = "N")]
    dimension: Option<usize>,
    /// Size of a log file if the store is made here, such as 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    segment_size: Option<u64>,
    /// Sync every 1,000 records too, not only at the end
    #[arg(long)]
    sync: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    records: u64,
    /// Of ids, embeddings and contents.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    live_records: usize,
}

/// `65536`, `64KiB`, `64MiB` or `1GiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => return Err(format!("{unit:?} is none of KiB, MiB, GiB")),
    };
    let n: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    n.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let at = || args.records.display().to_string();
    let matrix = args.embeddings.as_deref().map(open_matrix).transpose()?;
    let file = File::open(&args.records).with_context(at)?;
    if let (Some(path), Some(matrix)) = (&args.embeddings, &matrix) {
        compare_lengths(&args.records, &file, path, matrix.header().rows)?;
    }
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, file));
    let first = lines.read().with_context(at)?;
    let dimension = dimension(args, matrix.as_ref(), first.as_ref())?;
    let mut options = Options::new().dimension(dimension);
    if let Some(bytes) = args.segment_size {
        options = options.segment_size(bytes);
    }

    let started = Instant::now();
    let store = options.open(&args.store)?;
    let bar = progress_bar(matrix.as_ref())?;
    let job = Job::new(&store, matrix.as_ref(), args.sync, &bar);
    let imported = job.run(threads(args), first, lines);
    bar.finish_and_clear();
    let live_records = store.len();
    let closed = store.close();
    let mut imported = imported.with_context(at)?;
    if let Some(failure) = imported.failure.take() {
        return Err(explain(args, failure, imported.records));
    }
    closed.context("all records are stored, but the final sync failed")?;
    // Only for a pipe: a file's lines were counted before.
    let rows = matrix.map_or(imported.records, |matrix| matrix.header().rows);
    ensure!(imported.records == rows, "the array has {} rows more", rows - imported.records);
    report(args, &imported, live_records, started.elapsed())?;
    Ok(Outcome::Good)
}

fn threads(args: &Args) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or(cores, usize::from)
}

fn open_matrix(path: &Path) -> anyhow::Result<Matrix> {
    Matrix::open(path).with_context(|| path.display().to_string())
}

/// One line for each row, before anything is stored. A pipe cannot be read twice: there a row that
/// is missing shows when its line comes.
fn compare_lengths(records: &Path, file: &File, npy: &Path, rows: u64) -> anyhow::Result<()> {
    let at = || records.display().to_string();
    if !file.metadata().with_context(at)?.is_file() {
        return Ok(());
    }
    let again = File::open(records).with_context(at)?;
    let count = lines::count(BufReader::with_capacity(1 << 20, again)).with_context(at)?;
    ensure!(
        count == rows,
        "{} has {count} records and {} has {rows} rows: line and row belong together, so nothing \
         was imported",
        records.display(),
        npy.display()
    );
    Ok(())
}

/// The embeddings' length, from the array or the first line; what was asked for must agree.
fn dimension(args: &Args, matrix: Option<&Matrix>, first: Option<&Line>) -> anyhow::Result<usize> {
    let found = match (matrix, first) {
        (Some(matrix), _) => usize::try_from(matrix.header().dimension)?,
        (None, Some(line)) => {
            let mut values = Vec::new();
            let parsed = Fields::parse(&line.text).and_then(|f| f.embedding(&mut values));
            let line = line.number;
            parsed.map_err(|error| explain(args, Failure { line, error }, 0))?;
            values.len()
        }
        (None, None) => args.dimension.with_context(|| {
            format!("{} has no records; nothing was imported", args.records.display())
        })?,
    };
    if let Some(asked) = args.dimension {
        ensure!(asked == found, "--dimension is {asked}, but the embeddings have {found} values");
    }
    Ok(found)
}

fn explain(args: &Args, failure: Failure, stored: u64) -> anyhow::Error {
    let Failure { line, error } = failure;
    let at = format!("{}, line {line}", args.records.display());
    if stored == 0 {
        return error.context(at);
    }
    let stored = count(stored);
    error.context(format!("{stored} records are stored; importing again overwrites them: {at}"))
}

/// On stderr, and hidden unless that is a terminal.
fn progress_bar(matrix: Option<&Matrix>) -> anyhow::Result<ProgressBar> {
    Ok(match matrix {
        Some(matrix) => {
            let style = "{wide_bar} {human_pos} of {human_len} records, {per_sec}, {eta} left";
            ProgressBar::new(matrix.header().rows)
                .with_style(ProgressStyle::with_template(style)?.progress_chars("## "))
        }
        None => {
            let style = "{human_pos} records, {per_sec}, {elapsed}";
            ProgressBar::new_spinner().with_style(ProgressStyle::with_template(style)?)
        }
    })
}

fn report(
    args: &Args,
    imported: &Imported,
    live_records: usize,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let &Imported { records, bytes, .. } = imported;
    let seconds = elapsed.as_secs_f64();
    let records_per_second = if seconds > 0.0 { records as f64 / seconds } else { 0.0 };
    if args.json {
        return output::json(&Report { records, bytes, seconds, records_per_second, live_records });
    }
    let mut out = output::stdout();
    writeln!(
        out,
        "imported {} records, {}, in {} ({} records/s); {} live records in {}",
        count(records),
        size(bytes),
        output::duration(elapsed),
        count(records_per_second as u64),
        count(live_records as u64),
        args.store.display()
    )?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in
            [("65536", 1 << 16), ("64KiB", 1 << 16), ("64 MiB", 1 << 26), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "MiB", "1 parsec", "-1", "99999999999GiB", "1.5MiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
