//! `get`: records by id.

use crate::output::{self, Bytes};
use crate::{Outcome, open_read_only};
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use stratalog::Record;

/// Print records by their ids (exit code 3 if one is not there)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Ids, as they are
    #[arg(required = true, value_name = "ID")]
    ids: Vec<OsString>,
    /// Print the embedding too
    #[arg(long)]
    embedding: bool,
    /// Print the bytes of the content and nothing else
    #[arg(long, conflicts_with_all = ["embedding", "json"])]
    raw: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: Bytes<'a>,
    lsn: u64,
    created: String,
    content: Bytes<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct Report<'a> {
    records: Vec<Entry<'a>>,
    missing: Vec<Bytes<'a>>,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    let pinned = store.pin();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for id in &args.ids {
        match pinned.get(id.as_bytes())? {
            Some(record) => found.push(record),
            None => missing.push(id.as_bytes()),
        }
    }
    if args.json {
        let records = found.iter().map(|record| as_json(record, args.embedding)).collect();
        let missing = missing.iter().map(|id| Bytes::new(id)).collect();
        output::json(&Report { records, missing })?;
    } else {
        print(args, &found)?;
    }
    for id in &missing {
        output::complain(&format!("no record with id {}", output::printable(id, false)));
    }
    Ok(if missing.is_empty() { Outcome::Good } else { Outcome::Bad })
}

fn as_json<'p>(record: &Record<'p>, embedding: bool) -> Entry<'p> {
    Entry {
        id: Bytes::new(record.id()),
        lsn: record.lsn().as_u64(),
        created: output::time(record.created_at()),
        content: Bytes::new(record.content()),
        embedding: embedding.then(|| record.embedding()),
    }
}

fn print(args: &Args, found: &[Record<'_>]) -> anyhow::Result<()> {
    let mut out = output::stdout();
    for (n, record) in found.iter().enumerate() {
        if args.raw {
            out.write_all(record.content())?;
            continue;
        }
        if n > 0 {
            writeln!(out)?;
        }
        writeln!(out, "id         {}", output::printable(record.id(), false))?;
        writeln!(out, "lsn        {}", record.lsn())?;
        writeln!(out, "created    {}", output::time(record.created_at()))?;
        if args.embedding {
            let values: Vec<String> = record.embedding().iter().map(f32::to_string).collect();
            writeln!(out, "embedding  [{}]", values.join(", "))?;
        }
        writeln!(out, "content    {}", output::printable(record.content(), true))?;
    }
    Ok(out.flush()?)
}
