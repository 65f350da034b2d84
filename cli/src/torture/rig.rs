//! A round: start a child that writes, kill it, open what it left, compare with the oracle.

use super::child;
use super::event::Event;
use super::oracle::{Kind, Oracle, Violation};
use super::value::{self, Found, Key, Keys, PREFIX, Value};
use anyhow::{Context, anyhow, bail, ensure};
use serde::Serialize;
use std::fs;
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
/// For how long a child is waited for to do what it does now and then only.
const MARK_MAX: Duration = Duration::from_millis(1_500);

/// What is written, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub keys: Keys,
    pub dimension: usize,
    /// `None`: as the store has it.
    pub segment_bytes: Option<u64>,
    /// Children compact, back up, and close and open again, too.
    pub upkeep: bool,
}

/// When a child is killed.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after it was started.
    Started(Duration),
    /// So long after it had opened the store.
    Opened(Duration),
    /// So long after it had said this for the so-manieth time, counted from 1.
    Said(Mark, u32, Duration),
}

/// What a child may be heard to be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Opened,
    Compacting,
    Compacted,
    BackingUp,
    Closing,
    Closed,
}

impl Mark {
    fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Opened => Self::Opened,
            Event::Compacting => Self::Compacting,
            Event::Compacted { .. } => Self::Compacted,
            Event::BackingUp => Self::BackingUp,
            Event::Closing => Self::Closing,
            Event::Closed => Self::Closed,
            _ => return None,
        })
    }
}

/// Sums over all rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub kills: u64,
    /// Of those: before the store was open.
    pub kills_opening: u64,
    /// Of those: in a compaction by hand, a backup, a close, an opening after a close.
    pub kills_compacting: u64,
    pub kills_backing_up: u64,
    pub kills_closing: u64,
    pub kills_opening_again: u64,
    /// Kills of processes that were started only to be killed while they open.
    pub kills_reopening: u64,
    pub begun: u64,
    pub acknowledged: u64,
    pub batches: u64,
    pub refused: u64,
    /// Updates of a tag: begun, and acknowledged.
    pub tags_begun: u64,
    pub tags_acknowledged: u64,
    pub gets: u64,
    pub syncs: u64,
    /// By hand: compactions that returned, what they did, and backups likewise.
    pub compactions: u64,
    pub segments_removed: u64,
    pub records_moved: u64,
    pub backups: u64,
    /// Backups that were whole when a process was killed, and were checked.
    pub backups_checked: u64,
    /// Openings by this process, each compared with the oracle.
    pub openings: u64,
    pub judged: u64,
    /// Of the keys judged: those that had a record.
    pub records: u64,
    /// Sum of their tags.
    pub tags: u64,
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

    fn count(&mut self, event: &Event) {
        match event {
            Event::Begin { .. } => self.begun += 1,
            Event::Put { .. } | Event::Removed { .. } => self.acknowledged += 1,
            Event::Refused { .. } => {
                self.acknowledged += 1;
                self.refused += 1;
            }
            Event::Wrote { count, .. } => {
                self.acknowledged += count;
                self.batches += 1;
            }
            Event::Bump { .. } => self.tags_begun += 1,
            Event::Bumped { .. } => self.tags_acknowledged += 1,
            Event::Got { .. } => self.gets += 1,
            Event::Synced => self.syncs += 1,
            Event::Compacted { segments, moved } => {
                self.compactions += 1;
                self.segments_removed += segments;
                self.records_moved += moved;
            }
            Event::BackedUp => self.backups += 1,
            _ => {}
        }
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
        // Half of them soon after the event: much of what is aimed at takes a millisecond.
        let soon = Duration::from_micros(match self.rng.bool() {
            true => self.rng.u64(..2_000),
            false => self.rng.u64(..20_000),
        });
        let moment = match self.rng.u8(..100) {
            0..30 => Moment::Said(Mark::Compacting, self.rng.u32(1..5), soon),
            30..35 => Moment::Said(Mark::Compacted, self.rng.u32(1..5), soon),
            35..48 => Moment::Said(Mark::BackingUp, 1, soon),
            48..58 => Moment::Said(Mark::Closing, self.rng.u32(1..3), soon),
            58..68 => Moment::Said(Mark::Closed, self.rng.u32(1..3), soon),
            // Counted from its start, a large store is still being opened.
            68..76 => Moment::Started(after),
            _ => Moment::Opened(after),
        };
        self.kill_writer(moment)?;
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
        self.note_place(&events);
        for event in &events {
            self.tally.count(event);
            if let Err(violation) = self.oracle.note(event) {
                self.violation(&violation);
            }
        }
        Ok(())
    }

    /// Takes note of what a child was at when it was killed.
    fn note_place(&mut self, events: &[Event]) {
        let (mut store, mut upkeep) = (None, None);
        for event in events {
            match event {
                Event::Opened | Event::Closing | Event::Closed => store = Some(event),
                Event::Compacting | Event::BackingUp => upkeep = Some(event),
                Event::Compacted { .. } | Event::BackedUp => upkeep = None,
                _ => {}
            }
        }
        let tally = &mut self.tally;
        match (store, upkeep) {
            (Some(Event::Closing), _) => tally.kills_closing += 1,
            (Some(Event::Closed), _) => tally.kills_opening_again += 1,
            (_, Some(Event::Compacting)) => tally.kills_compacting += 1,
            (_, Some(Event::BackingUp)) => tally.kills_backing_up += 1,
            _ => {}
        }
    }

    /// What a killed child has left of a backup: nothing under its name, or all of it.
    fn check_backup(&mut self) -> anyhow::Result<()> {
        let copy = child::backup_of(&self.store);
        let name = copy.file_name().context("a backup has a name")?.to_owned();
        if copy.join("MANIFEST").exists() {
            let options = Options::new().create(false).read_only(true);
            let store = options.open(&copy).context("opening a backup")?;
            let (report, verified) = (store.recovery().clone(), store.verify()?);
            if !report.is_clean() || !verified.is_clean() {
                self.wrong(format!("a backup is not clean: {report:?} {:?}", verified.damaged));
            }
            self.tally.backups_checked += 1;
        }
        for entry in fs::read_dir(copy.parent().context("a backup lies in a directory")?)? {
            let path = entry?.path();
            let begins =
                |n: &std::ffi::OsStr| n.as_encoded_bytes().starts_with(name.as_encoded_bytes());
            if path.file_name().is_some_and(begins) {
                fs::remove_dir_all(path)?;
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
            upkeep: self.plan.upkeep,
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(args.to_words())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process to kill")?;
        let pipe = child.stdout.take().context("the child has no pipe")?;
        let (tell, said) = channel();
        let listener = thread::Builder::new().spawn(move || listen(pipe, &tell))?;
        let waited = wait_for(moment, &said);
        child.kill()?;
        let status = child.wait()?;
        let heard = listener.join().map_err(|_panic| anyhow!("the listener panicked"))?;
        ensure!(
            status.signal() == Some(SIGKILL),
            "the writing process ended by itself: {status}; what it said is above"
        );
        waited?;
        if self.plan.upkeep {
            self.check_backup()?;
        }
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
            found.push(self.look(store, key)?);
        }
        self.oracle.conclude(self.plan.keys.all().zip(found.iter().copied()));
        for (key, state) in self.plan.keys.all().zip(&found) {
            self.judge(key, *state);
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
            Ok(version) => {
                let (lsn, tag) = (record.lsn().as_u64(), record.tag());
                self.tally.tags += tag;
                Ok(Found::Version { version, lsn, tag })
            }
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
fn wait_for(moment: Moment, said: &Receiver<Mark>) -> anyhow::Result<()> {
    let opened = || -> anyhow::Result<()> {
        let first = said.recv_timeout(OPENING_MAX).context("the child did not open the store")?;
        ensure!(first == Mark::Opened, "the child did {first:?} before it opened the store");
        Ok(())
    };
    match moment {
        Moment::Started(after) => thread::sleep(after),
        Moment::Opened(after) => {
            opened()?;
            thread::sleep(after);
        }
        Moment::Said(mark, times, after) => {
            opened()?;
            let (since, mut left) = (Instant::now(), times);
            while left > 0 {
                let wait = MARK_MAX.saturating_sub(since.elapsed());
                // It may be at something else all the time: then it is killed there.
                let Ok(heard) = said.recv_timeout(wait) else { break };
                left -= u32::from(heard == mark);
            }
            thread::sleep(after);
        }
    }
    Ok(())
}

/// Reads what a child reports until it is dead. Its writes are atomic, so the last
/// line is whole.
fn listen(pipe: ChildStdout, said: &Sender<Mark>) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    let (mut pipe, mut line) = (BufReader::with_capacity(1 << 16, pipe), String::new());
    while pipe.read_line(&mut line)? > 0 {
        let Some(text) = line.strip_suffix('\n') else { bail!("the report ends in {line:?}") };
        let event = Event::parse(text)?;
        if let Some(mark) = Mark::of(&event)
            && said.send(mark).is_err()
        {
            // Nobody waits for it any more.
        }
        events.push(event);
        line.clear();
    }
    Ok(events)
}
