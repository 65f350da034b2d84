//! `search`: the records nearest to another one, or to vectors from a file.

use crate::npy::Matrix;
use crate::output::{self, Bytes};
use crate::{Outcome, open_read_only};
use anyhow::Context;
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use stratalog::{Hit, Metric};

/// Find the records nearest to a record or to a vector (exit code 3 if there is no such record)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Search with the embedding of the record with this id (which is found, too)
    #[arg(long, value_name = "ID", required_unless_present = "vector")]
    like: Option<OsString>,
    /// Search with a row of a .npy file: a 2-D array of float32
    #[arg(long, value_name = "FILE", conflicts_with = "like")]
    vector: Option<PathBuf>,
    /// The row, from 0
    #[arg(long, value_name = "N", default_value_t = 0, requires = "vector")]
    row: u64,
    /// How many records to find
    #[arg(short, value_name = "K", default_value_t = 10)]
    k: usize,
    /// What is near
    #[arg(long, value_enum, default_value_t = By::Cosine)]
    metric: By,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    /// Cosine: higher is nearer
    Cosine,
    /// Dot product: higher is nearer
    Dot,
    /// Euclidean distance: lower is nearer
    L2,
}

impl From<By> for Metric {
    fn from(by: By) -> Self {
        match by {
            By::Cosine => Self::Cosine,
            By::Dot => Self::Dot,
            By::L2 => Self::L2,
        }
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    score: f32,
    id: Bytes<'a>,
    lsn: u64,
    content: Bytes<'a>,
}

#[derive(Serialize)]
struct Report<'a> {
    hits: Vec<Entry<'a>>,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    let pinned = store.pin();
    let mut query = Vec::new();
    if let Some(file) = &args.vector {
        query = row(file, args.row).with_context(|| file.display().to_string())?;
    } else if let Some(id) = &args.like {
        let Some(record) = pinned.get(id.as_bytes())? else {
            let id = output::printable(id.as_bytes(), false);
            output::complain(&format!("no record with id {id}"));
            return Ok(Outcome::Bad);
        };
        query.extend(record.embedding());
    }
    let hits = pinned.search(&query, args.k, args.metric.into())?;
    if args.json {
        output::json(&Report { hits: hits.iter().map(as_json).collect() })?;
    } else {
        print(&hits)?;
    }
    Ok(Outcome::Good)
}

fn row(file: &Path, n: u64) -> anyhow::Result<Vec<f32>> {
    let mut values = Vec::new();
    Matrix::open(file)?.row(n, &mut Vec::new(), &mut values)?;
    Ok(values)
}

fn as_json<'p>(hit: &Hit<'p>) -> Entry<'p> {
    Entry {
        score: hit.score,
        id: Bytes::new(hit.record.id()),
        lsn: hit.record.lsn().as_u64(),
        content: Bytes::new(hit.record.content()),
    }
}

/// Score, id, and the content's first line as far as it fits one.
fn print(hits: &[Hit<'_>]) -> anyhow::Result<()> {
    const COLUMNS: usize = 80;
    let mut out = output::stdout();
    for Hit { score, record } in hits {
        let id = output::printable(record.id(), false);
        let line = record.content().split(|&byte| byte == b'\n').next().unwrap_or(&[]);
        // A character has up to four bytes; no more than what is printed is looked at.
        let line = &line[..line.len().min(4 * COLUMNS)];
        let line: String = output::printable(line, false).chars().take(COLUMNS).collect();
        writeln!(out, "{score:>9.4}  {id}  {line}")?;
    }
    Ok(out.flush()?)
}
