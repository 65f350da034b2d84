//! The `stratalog` command: import, read, search, inspect, check, copy, compact and salvage stores,
//! and a demonstration.
//!
//! Exit codes: 0 all well; 1 an error, explained on stderr; 2 wrong usage; 3 the answer is bad news
//! (`verify` found damage, `get` or `search` no such id, `backup` and `salvage` did what they could
//! and have losses to name). Reports go to stdout, with `--json` as one JSON document and nothing
//! else; progress goes to stderr, and only when that is a terminal.

mod backup;
mod bench;
mod compact;
mod damage;
mod demo;
mod get;
mod import;
mod list;
mod npy;
mod output;
mod salvage;
mod search;
mod stat;
mod torture;
mod verify;

use clap::{Parser, Subcommand};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use stratalog::{Options, Store};

/// Stores of embedding + content records: import, look inside, check.
#[derive(Debug, Parser)]
#[command(name = "stratalog", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Import(import::Args),
    Get(get::Args),
    List(list::Args),
    Search(search::Args),
    Stat(stat::Args),
    Verify(verify::Args),
    Backup(backup::Args),
    Compact(compact::Args),
    Bench(bench::Args),
    Salvage(salvage::Args),
    #[command(hide = true)]
    Torture(torture::Args),
    #[command(hide = true)]
    TortureChild(torture::child::Args),
}

/// How a command that ran without an error ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// As hoped.
    Good,
    /// It did what it was asked, and what it found is bad news.
    Bad,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match &command {
        Command::Demo(args) => demo::run(args),
        Command::Import(args) => import::run(args),
        Command::Get(args) => get::run(args),
        Command::List(args) => list::run(args),
        Command::Search(args) => search::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Backup(args) => backup::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Salvage(args) => salvage::run(args),
        Command::Torture(args) => torture::run(args),
        Command::TortureChild(args) => torture::child::run(args),
    };
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(3),
        Err(error) if reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let salvaging = matches!(command, Command::Salvage(_));
            output::complain(&explain(&error, salvaging));
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has closed the pipe, as `head` does: no error.
fn reader_is_gone(error: &anyhow::Error) -> bool {
    let broken = |io: &io::Error| io.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// The whole chain of an error, and what to do without a manifest.
fn explain(error: &anyhow::Error, salvaging: bool) -> String {
    let mut text = format!("error: {error:#}");
    for cause in error.chain() {
        if let Some(stratalog::Error::Corrupt { path, .. }) = cause.downcast_ref()
            && path.ends_with("MANIFEST")
            && !salvaging
        {
            text.push_str("\n`stratalog salvage` copies what the segments hold into a new store");
        }
    }
    text
}

/// Opens a store for looking at it: no lock, no file changed, beside a live writer if need be.
fn open_read_only(path: &Path) -> anyhow::Result<Store> {
    Ok(Options::new().read_only(true).open(path)?)
}
