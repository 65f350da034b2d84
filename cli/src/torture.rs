//! `torture`: kills a writing process at random moments, again and again over one directory, and
//! compares what the next opening finds with what was acknowledged.
//!
//! | module | what |
//! | --- | --- |
//! | `value` | keys, their ids, and what each version of each must look like to the bit |
//! | `event` | what the child says on its pipe: before and after each operation |
//! | `child` | the process that writes until it is killed |
//! | `oracle` | which states the events allow, and the judgement of one that was found |
//! | `rig` | a round: start, kill, open, compare; `rig::backups`: what is left of backups |
//! | `crew` | several stores at once |
//! | `step` | kills at a certain system call |
//! | `tally` | what is counted |

pub mod child;
mod crew;
pub mod event;
pub mod oracle;
pub mod rig;
pub mod step;
pub mod tally;
pub mod value;

use crate::Outcome;
use crate::output::{self, count, size};
use anyhow::{bail, ensure};
use crew::{Crew, Sums};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tally::Tally;

/// How many violations are printed.
const VIOLATIONS_SHOWN: usize = 20;

/// Kill a writing process again and again, and check that no acknowledged write is lost
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to work in: missing or empty
    directory: PathBuf,
    /// How many writing processes to kill
    #[arg(long, value_name = "N", default_value_t = 200)]
    kills: u64,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds_max: Option<u64>,
    /// What chooses keys, values and moments [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many stores, each with a writing process of its own
    #[arg(long, value_name = "N", default_value = "1")]
    stores: NonZeroU8,
    /// Threads of a writing process
    #[arg(long, value_name = "N", default_value = "4")]
    threads: NonZeroU8,
    /// Leave the directory as it is at the end
    #[arg(long)]
    keep: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    seed: u64,
    seconds: f64,
    #[serde(flatten)]
    tally: &'a Tally,
    wiped: u64,
    violations: &'a [String],
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    ensure_ours(&args.directory)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let steps = step::can_be_chosen();
    if !steps {
        output::complain("no strace here that may trace: kills at random moments only");
    }
    let (started, bar) = (Instant::now(), progress_bar(args.kills)?);
    let crew = Crew {
        directory: &args.directory,
        stores: u32::from(args.stores.get()),
        kills: args.kills,
        deadline: args.seconds_max.map(|seconds| started + Duration::from_secs(seconds)),
        seed,
        threads: args.threads.get(),
        steps,
        bar: &bar,
    };
    let sums = crew.run()?;
    bar.finish_and_clear();
    finish(args, &crew, &sums, started.elapsed())
}

fn finish(args: &Args, crew: &Crew<'_>, sums: &Sums, elapsed: Duration) -> anyhow::Result<Outcome> {
    let Sums { tally, wiped, violations } = sums;
    let (seed, wiped) = (crew.seed, *wiped);
    let violations = &violations[..violations.len().min(VIOLATIONS_SHOWN)];
    if args.json {
        let seconds = elapsed.as_secs_f64();
        output::json(&Report { seed, seconds, tally, wiped, violations })?;
    } else {
        print(tally, violations, seed, wiped, elapsed)?;
    }
    if tally.violations() > 0 {
        let at = args.directory.display();
        bail!("{} violations with seed {seed}; the files are in {at}", tally.violations());
    }
    if !args.keep {
        (0..crew.stores).try_for_each(|nth| fs::remove_dir_all(crew.place(nth)))?;
    }
    Ok(Outcome::Good)
}

fn print(
    tally: &Tally,
    violations: &[String],
    seed: u64,
    wiped: u64,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let mut out = output::stdout();
    for violation in violations {
        writeln!(out, "{violation}")?;
    }
    let line = |n: u64| format!("{:>14}", count(n));
    writeln!(out, "seed                  {seed:>14}")?;
    writeln!(out, "kills                 {}", line(tally.kills))?;
    for (place, kills) in &tally.kills_while {
        writeln!(out, "  {:<20}{}", place.to_string(), line(*kills))?;
    }
    for (what, kills) in &tally.kills_during {
        writeln!(out, "  {what:<11} pending {}", line(*kills))?;
    }
    writeln!(out, "kills of a recovery   {}", line(tally.kills_reopening))?;
    writeln!(out, "kills at a step       {}", line(tally.steps.kills()))?;
    writeln!(out, "operations begun      {}", line(tally.begun))?;
    writeln!(out, "  acknowledged        {}", line(tally.acknowledged))?;
    writeln!(out, "  pending at a kill   {}", line(tally.begun - tally.acknowledged))?;
    writeln!(out, "batches whole         {}", line(tally.batches))?;
    writeln!(out, "conditions refused    {}", line(tally.refused))?;
    writeln!(out, "tag updates begun     {}", line(tally.tags_begun))?;
    writeln!(out, "  acknowledged        {}", line(tally.tags_acknowledged))?;
    writeln!(out, "compactions           {}", line(tally.compactions))?;
    writeln!(out, "  segments removed    {}", line(tally.segments_removed))?;
    writeln!(out, "  records moved       {}", line(tally.records_moved))?;
    writeln!(out, "backups made          {}", line(tally.backups))?;
    writeln!(out, "  found and judged    {}", line(tally.backups_checked))?;
    writeln!(out, "  of those unfinished {}", line(tally.backups_unfinished))?;
    writeln!(out, "  records compared    {}", line(tally.backup_records))?;
    writeln!(out, "gets judged           {}", line(tally.gets))?;
    writeln!(out, "syncs                 {}", line(tally.syncs))?;
    writeln!(out, "openings compared     {}", line(tally.openings))?;
    writeln!(out, "keys judged           {}", line(tally.judged))?;
    writeln!(out, "records checked       {}", line(tally.records))?;
    writeln!(out, "  to expire           {}", line(tally.expiring))?;
    writeln!(out, "keys that had expired {}", line(tally.expired))?;
    writeln!(out, "log records verified  {}", line(tally.verified))?;
    writeln!(out, "torn slots            {}", line(tally.torn))?;
    writeln!(out, "longest opening       {:>14}", output::duration(tally.opening_max))?;
    writeln!(out, "largest store         {:>14}", size(tally.disk_bytes_max))?;
    writeln!(out, "begun again           {}", line(wiped))?;
    writeln!(out, "lost                  {}", line(tally.lost))?;
    writeln!(out, "wrong                 {}", line(tally.wrong))?;
    writeln!(out, "time                  {:>14}", output::duration(elapsed))?;
    if tally.steps.kills() > 0 {
        writeln!(out, "\n{}", tally.steps.lines().join("\n"))?;
    }
    Ok(out.flush()?)
}

/// Whatever is in the directory is not ours to remove.
fn ensure_ours(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let empty = fs::read_dir(directory)?.next().is_none();
    ensure!(empty, "{} is not empty; name a directory that is, or a new one", directory.display());
    Ok(())
}

fn progress_bar(kills: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} kills, {eta} left")?;
    Ok(ProgressBar::new(kills).with_style(style.progress_chars("## ")))
}
