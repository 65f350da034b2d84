//! `list`: which ids a store holds.

use crate::output::{self, Bytes};
use crate::{Outcome, open_read_only};
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use stratalog::Record;

/// List the ids of a store, in no particular order
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// Stop after so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only ids that begin so
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: OsString,
    /// Print LSN, time and length of the content too
    #[arg(long)]
    long: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: Bytes<'a>,
    #[serde(flatten)]
    long: Option<Long>,
}

#[derive(Serialize)]
struct Long {
    lsn: u64,
    created: String,
    content_bytes: usize,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let store = open_read_only(&args.store)?;
    let pinned = store.pin();
    let mut out = output::stdout();
    let (mut listed, mut unreadable) = (0, 0);
    for record in &pinned {
        if args.limit.is_some_and(|limit| listed >= limit) {
            break;
        }
        match record {
            Ok(record) if record.id().starts_with(args.prefix.as_bytes()) => {
                print(args, &record, &mut out)?;
                listed += 1;
            }
            Ok(_) => {}
            Err(error) => {
                output::complain(&format!("skipped: {error}"));
                unreadable += 1;
            }
        }
    }
    out.flush()?;
    if unreadable > 0 {
        anyhow::bail!(
            "{unreadable} records could not be read; `stratalog verify` lists the damage"
        );
    }
    Ok(Outcome::Good)
}

fn print(args: &Args, record: &Record<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let long = args.long.then(|| Long {
        lsn: record.lsn().as_u64(),
        created: output::time(record.created_at()),
        content_bytes: record.content().len(),
    });
    if args.json {
        let mut line = serde_json::to_vec(&Entry { id: Bytes::new(record.id()), long })?;
        line.push(b'\n');
        return Ok(out.write_all(&line)?);
    }
    let id = output::printable(record.id(), false);
    match long {
        Some(long) => {
            let lsn = record.lsn().to_string();
            writeln!(out, "{lsn:>12}  {}  {:>9}  {id}", long.created, long.content_bytes)?;
        }
        None => writeln!(out, "{id}")?,
    }
    Ok(())
}
