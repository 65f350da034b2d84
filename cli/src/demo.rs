//! `demo`: what the engine promises, shown on real records in some seconds, without arguments.
//!
//! Every number printed was measured or counted in this run, and every check can fail: then the
//! demo stops there, says which one it was, and the exit code is 1.

mod load;
mod report;
mod sample;

use crate::Outcome;
use crate::output::{self, count, duration, size};
use crate::stat::{Counts, Recovery};
use crate::torture::rig::{Moment, Plan, Rig};
use crate::torture::value::Keys;
use anyhow::{Context, bail, ensure};
use load::Load;
use report::{Kill, Report, Verify};
use sample::Sample;
use std::io::Write;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

/// Keys that the processes write that are killed.
const KILL_KEYS: Keys = Keys { threads: 2, own: 500, shared: 50 };

/// Show it working: threads writing and reading at once, kills, recovery, every byte checked
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Records to store
    #[arg(long, value_name = "N", default_value = "20000")]
    records: NonZeroU32,
    /// Writing threads, and as many that read [default: half the cores, at least 2]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Write no longer than so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// How many writing processes to kill
    #[arg(long, value_name = "N", default_value_t = 5)]
    kills: u64,
    /// Where to make the store [default: the system's place for temporary files]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Keep the store
    #[arg(long)]
    keep: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

struct Demo<'a> {
    args: &'a Args,
    threads: usize,
    path: PathBuf,
    load: Load,
    report: Report,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut place = tempfile::Builder::new();
    place.prefix("stratalog-demo-").disable_cleanup(args.keep);
    let place = match &args.dir {
        Some(dir) => place.tempdir_in(dir).with_context(|| dir.display().to_string())?,
        None => place.tempdir()?,
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or((cores / 2).max(2), usize::from);
    let sample = Sample::load()?;
    let load = Load::new(sample, args.records.get() as usize);
    let path = place.path().join("store");
    let report = Report {
        store: path.display().to_string(),
        dimension: load.dimension(),
        threads,
        cores,
        ..Report::default()
    };
    Demo { args, threads, path, load, report }.run()?;
    if args.keep && !args.json {
        let mut out = output::stdout();
        writeln!(out, "kept: {}", place.path().display())?;
        out.flush()?;
    }
    Ok(Outcome::Good)
}

impl Demo<'_> {
    fn run(mut self) -> anyhow::Result<()> {
        let (records, dimension) = (count(self.args.records.get().into()), self.load.dimension());
        self.say(&[
            format!(
                "stratalog demo: {records} records of {dimension} x f32 and a text, from WordNet"
            ),
            format!("store: {}", self.report.store),
        ])?;
        let options = Options::new().dimension(self.load.dimension());
        let store = options.open(&self.path)?;
        self.write_and_read(&store).context("1. writing and reading")?;
        self.weigh(&store).context("2. counting")?;
        let started = Instant::now();
        store.close()?;
        self.say(&[format!("   closed, all on the device, in {}", duration(started.elapsed()))])?;
        self.kill().context("3. killing and reopening")?;
        self.verify().context("4. verifying")?;
        if self.args.json {
            output::json(&self.report)?;
        }
        self.say(&[String::new(), format!("demo: all {} checks passed", count(self.report.checks))])
    }

    /// Prints, unless a JSON document is asked for.
    fn say(&self, lines: &[String]) -> anyhow::Result<()> {
        if self.args.json {
            return Ok(());
        }
        let mut out = output::stdout();
        for line in lines {
            writeln!(out, "{line}")?;
        }
        Ok(out.flush()?)
    }

    fn write_and_read(&mut self, store: &Store) -> anyhow::Result<()> {
        let threads = self.threads;
        let title = format!(
            "1. {threads} threads write while {threads} read and check, on {} cores",
            self.report.cores
        );
        self.say(&[String::new(), title])?;
        let ran = self.load.run(store, threads, Duration::from_secs(self.args.seconds))?;
        let load = report::Load::from(&ran);
        self.say(&load.lines())?;
        self.report.checks += load.reads + load.removes;
        self.report.load = Some(load);
        let checked = self.load.check_all(store)?;
        self.report.checks += checked;
        self.say(&[format!("   then all {} ids once more: all as they were left", count(checked))])
    }

    fn weigh(&mut self, store: &Store) -> anyhow::Result<()> {
        self.say(&[String::new(), "2. What they take".to_owned()])?;
        let stats = store.stats();
        let (live, expected) = (stats.live_records, self.load.live());
        ensure!(live == expected, "check failed: {live} live records, not {expected}");
        self.report.checks += 1;
        self.report.stats = Some(Counts::from(&stats));
        self.say(&report::size_lines(&stats))
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.say(&[
            String::new(),
            "3. kill -9 of a process that writes to this store, at a random moment".to_owned(),
            Kill::heading(),
        ])?;
        let plan = Plan {
            keys: KILL_KEYS,
            dimension: self.load.dimension(),
            segment_bytes: None,
            upkeep: false,
            steps: false,
            session: Duration::from_millis(150),
        };
        let mut rig = Rig::new(&self.path, plan, fastrand::u64(..));
        for _ in 0..self.args.kills {
            let kill = self.kill_once(&mut rig)?;
            self.say(&[kill.line()])?;
            self.report.checks += kill.checked;
            self.report.kills.push(kill);
        }
        if self.args.kills == 0 {
            return Ok(());
        }
        self.say(&["   all acknowledged writes are there, nothing removed is back".to_owned()])
    }

    fn kill_once(&mut self, rig: &mut Rig) -> anyhow::Result<Kill> {
        let after = Duration::from_micros(fastrand::u64(50_000..800_000));
        let before = rig.tally.clone();
        rig.kill_writer(Moment::Opened(after))?;
        let started = Instant::now();
        let store = Options::new().create(false).open(&self.path)?;
        let reopened = started.elapsed();
        rig.compare_open(&store)?;
        if let Some(violation) = rig.violations.first() {
            bail!("check failed: {violation}");
        }
        let checked = self.load.check_all(&store)? + rig.tally.judged - before.judged;
        let recovery = Recovery::from(store.recovery());
        store.close()?;
        let acknowledged = rig.tally.acknowledged - before.acknowledged;
        Ok(Kill {
            after_seconds: after.as_secs_f64(),
            acknowledged,
            lost: rig.tally.lost,
            wrong: rig.tally.wrong,
            pending: rig.tally.begun - before.begun - acknowledged,
            reopened_seconds: reopened.as_secs_f64(),
            checked,
            recovery,
        })
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let store = crate::open_read_only(&self.path)?;
        let started = Instant::now();
        let found = store.verify()?;
        let elapsed = started.elapsed();
        if let Some(damage) = found.damaged.first() {
            bail!("check failed: {damage:?}");
        }
        let (records, bytes) = (found.records, found.bytes);
        self.report.checks += records;
        self.report.verify = Some(Verify { records, bytes, seconds: elapsed.as_secs_f64() });
        let (records, bytes, time) = (count(records), size(bytes), duration(elapsed));
        self.say(&[
            String::new(),
            "4. Every checksum of the log, dead records too".to_owned(),
            format!("   {records} records, {bytes} in {time}: clean"),
        ])
    }
}
