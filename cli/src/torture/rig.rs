//! A round: start a child that writes, kill it, open what it left, compare with the oracle.

use super::child;
use super::event::Event;
use super::oracle::{Kind, Oracle, Violation};
use super::value::{self, Found, Key, Keys, PREFIX, Value};
use anyhow::{Context, anyhow, bail, ensure};
use serde::Serialize;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

/// SIGKILL, which cannot be caught.
const SIGKILL: i32 = 9;
/// A child that has not opened the store after this long never will.
const OPENING_MAX: Duration = Duration::from_secs(120);

/// What is written, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub keys: Keys,
    pub dimension: usize,
    /// `None`: as the store has it.
    pub segment_bytes: Option<u64>,
}

/// When a child is killed.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after it was started.
    Started(Duration),
    /// So long after it had opened the store.
    Opened(Duration),
}

/// Sums over all rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub kills: u64,
    /// Of those: before the store was open.
    pub kills_opening: u64,
    /// Kills of processes that were started only to be killed while they open.
    pub kills_reopening: u64,
    pub begun: u64,
    pub acknowledged: u64,
    pub gets: u64,
    pub syncs: u64,
    /// Openings by this process, each compared with the oracle.
    pub openings: u64,
    pub judged: u64,
    /// Of the keys judged: those that had a record.
    pub records: u64,
    pub verified: u64,
    pub torn: u64,
    #[serde(skip)]
    pub opening_max: Duration,
    pub disk_bytes_max: u64,
    pub lost: u64,
    pub wrong: u64,
}

impl Tally {
    pub fn violations(&self) -> u64 {
        self.lost + self.wrong
    }
}

/// Rounds over one directory.
#[derive(Debug)]
pub struct Rig {
    store: PathBuf,
    plan: Plan,
    oracle: Oracle,
    rng: fastrand::Rng,
    round: u32,
    pub tally: Tally,
    pub violations: Vec<String>,
}

impl Rig {
    pub fn new(store: &Path, plan: Plan, seed: u64) -> Self {
        Self {
            store: store.to_owned(),
            plan,
            oracle: Oracle::new(plan.keys),
            rng: fastrand::Rng::with_seed(seed),
            round: 0,
            tally: Tally::default(),
            violations: Vec::new(),
        }
    }

    /// The directory was removed: nothing is expected any more.
    pub fn begin_again(&mut self) {
        self.oracle = Oracle::new(self.plan.keys);
    }

    /// One round at moments and in ways that the seed chooses.
    pub fn round(&mut self) -> anyhow::Result<()> {
        let after = Duration::from_micros(match self.rng.u8(..100) {
            0..70 => self.rng.u64(..60_000),
            70..90 => self.rng.u64(60_000..400_000),
            _ => self.rng.u64(..5_000),
        });
        // Counted from its start, a large store is still being opened.
        let opened = self.rng.u8(..4) > 0;
        self.kill_writer(if opened { Moment::Opened(after) } else { Moment::Started(after) })?;
        while self.rng.u8(..4) == 0 && self.store.join("MANIFEST").exists() {
            self.kill_reopening()?;
        }
        // Read-only first: it changes nothing, so a violation leaves the files as the kill did.
        self.compare(true)?;
        if self.tally.violations() == 0 && self.rng.bool() {
            self.compare(false)?;
        }
        Ok(())
    }

    /// Kills a writing child, and takes note of what it reported.
    pub fn kill_writer(&mut self, moment: Moment) -> anyhow::Result<()> {
        let events = self.kill(moment)?;
        self.tally.kills += 1;
        if !events.contains(&Event::Opened) {
            self.tally.kills_opening += 1;
        }
        for event in &events {
            match event {
                Event::Begin { .. } => self.tally.begun += 1,
                Event::Put { .. } | Event::Removed { .. } => self.tally.acknowledged += 1,
                Event::Got { .. } => self.tally.gets += 1,
                Event::Synced => self.tally.syncs += 1,
                _ => {}
            }
            if let Err(violation) = self.oracle.note(event) {
                self.violation(&violation);
            }
        }
        Ok(())
    }

    /// Kills a child that should be opening the store, or have just opened it.
    fn kill_reopening(&mut self) -> anyhow::Result<()> {
        let after = Duration::from_micros(self.rng.u64(..15_000));
        let events = self.kill(Moment::Started(after))?;
        self.tally.kills_reopening += 1;
        for event in &events {
            if let Err(violation) = self.oracle.note(event) {
                self.violation(&violation);
            }
        }
        Ok(())
    }

    /// Starts a child, waits, kills it; what it reported.
    fn kill(&mut self, moment: Moment) -> anyhow::Result<Vec<Event>> {
        self.round += 1;
        let args = child::Args {
            store: self.store.clone(),
            dimension: self.plan.dimension,
            segment_bytes: self.plan.segment_bytes,
            threads: self.plan.keys.threads,
            own: self.plan.keys.own,
            shared: self.plan.keys.shared,
            round: self.round,
            seed: self.rng.u64(..),
            sync: self.rng.u8(..3) == 0,
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(args.to_words())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process to kill")?;
        let pipe = child.stdout.take().context("the child has no pipe")?;
        let (tell, opened) = channel();
        let listener = thread::Builder::new().spawn(move || listen(pipe, &tell))?;
        let waited = wait_for(moment, &opened);
        child.kill()?;
        let status = child.wait()?;
        let heard = listener.join().map_err(|_panic| anyhow!("the listener panicked"))?;
        ensure!(
            status.signal() == Some(SIGKILL),
            "the writing process ended by itself: {status}; what it said is above"
        );
        waited?;
        heard
    }

    /// Opens the store and judges every key and every record.
    pub fn compare(&mut self, read_only: bool) -> anyhow::Result<()> {
        let options = Options::new().create(false).read_only(read_only);
        let started = Instant::now();
        let store = match options.open(&self.store) {
            // Killed before there was one.
            Err(stratalog::Error::NotFound(_)) => return self.judge_nothing(),
            store => store.with_context(|| format!("opening after kill {}", self.tally.kills))?,
        };
        self.tally.opening_max = self.tally.opening_max.max(started.elapsed());
        self.compare_open(&store)?;
        Ok(store.close()?)
    }

    fn judge_nothing(&mut self) -> anyhow::Result<()> {
        for key in self.plan.keys.all() {
            self.judge(key, Found::Nothing);
        }
        Ok(())
    }

    /// Judges every key and every record of an open store.
    pub fn compare_open(&mut self, store: &Store) -> anyhow::Result<()> {
        self.tally.openings += 1;
        self.judge_reports(store)?;
        let mut found = Vec::new();
        for key in self.plan.keys.all() {
            let state = self.look(store, key)?;
            self.judge(key, state);
            found.push(state);
        }
        self.judge_iteration(store, &found)
    }

    fn judge_reports(&mut self, store: &Store) -> anyhow::Result<()> {
        let report = store.recovery();
        self.tally.torn += report.torn;
        self.tally.disk_bytes_max = self.tally.disk_bytes_max.max(store.stats().disk_bytes);
        if report.corrupt + report.missing_segments + report.foreign_files > 0 {
            self.wrong(format!("opening found {report:?}"));
        }
        let verified = store.verify()?;
        self.tally.verified += verified.records;
        for damage in verified.damaged {
            self.wrong(format!("verify found {damage:?}"));
        }
        Ok(())
    }

    fn look(&mut self, store: &Store, key: Key) -> anyhow::Result<Found> {
        let pinned = store.pin();
        let record = match pinned.get(value::id_of(key)) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Found::Nothing),
            Err(error) => {
                self.wrong(format!("key {}: {error}", key.0));
                return Ok(Found::Nothing);
            }
        };
        self.tally.records += 1;
        let (embedding, content) = (record.embedding(), record.content());
        match value::identify(key, embedding, content, &mut Value::default()) {
            Ok(version) => Ok(Found::Version { version, lsn: record.lsn().as_u64() }),
            Err(what) => {
                self.wrong(format!("key {}: {what}", key.0));
                Ok(Found::Nothing)
            }
        }
    }

    fn judge(&mut self, key: Key, found: Found) {
        self.tally.judged += 1;
        if let Err(violation) = self.oracle.judge(key, found) {
            self.violation(&violation);
        }
        self.oracle.settle(key, found);
    }

    /// An iteration sees the same keys as the gets did, each once.
    fn judge_iteration(&mut self, store: &Store, found: &[Found]) -> anyhow::Result<()> {
        let mut seen = vec![0_u32; found.len()];
        let (mut others, pinned) = (0, store.pin());
        for record in &pinned {
            let id = record?.id();
            if !id.starts_with(PREFIX.as_bytes()) {
                others += 1;
                continue;
            }
            match value::key_of(id).and_then(|key| seen.get_mut(key.0 as usize)) {
                Some(times) => *times += 1,
                None => self.wrong(format!("a record with the id {}", id.escape_ascii())),
            }
        }
        let mut live = others;
        for (key, (&times, state)) in seen.iter().zip(found).enumerate() {
            let expected = u32::from(*state != Found::Nothing);
            live += u64::from(expected);
            if times != expected {
                self.wrong(format!("key {key}: get finds {expected}, iteration {times}"));
            }
        }
        if store.len() as u64 != live {
            self.wrong(format!("len() is {}, iteration finds {live}", store.len()));
        }
        Ok(())
    }

    fn wrong(&mut self, what: String) {
        self.violations.push(format!("WRONG: {what}"));
        self.tally.wrong += 1;
    }

    fn violation(&mut self, violation: &Violation) {
        self.violations.push(violation.to_string());
        match violation.kind {
            Kind::Lost => self.tally.lost += 1,
            Kind::Wrong => self.tally.wrong += 1,
        }
    }
}

/// Waits for the moment; an error if the child never opens the store.
fn wait_for(moment: Moment, opened: &Receiver<()>) -> anyhow::Result<()> {
    match moment {
        Moment::Started(after) => thread::sleep(after),
        Moment::Opened(after) => {
            opened.recv_timeout(OPENING_MAX).context("the child did not open the store")?;
            thread::sleep(after);
        }
    }
    Ok(())
}

/// Reads what a child reports until it is dead. Its writes are atomic, so the last
/// line is whole.
fn listen(pipe: ChildStdout, opened: &Sender<()>) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    let (mut pipe, mut line) = (BufReader::with_capacity(1 << 16, pipe), String::new());
    while pipe.read_line(&mut line)? > 0 {
        let Some(text) = line.strip_suffix('\n') else { bail!("the report ends in {line:?}") };
        let event = Event::parse(text)?;
        if event == Event::Opened && opened.send(()).is_err() {
            // Nobody waits for that moment.
        }
        events.push(event);
        line.clear();
    }
    Ok(events)
}
