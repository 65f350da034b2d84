//! A round: start a child that writes, kill it, open what it left, compare with the oracle.

mod backups;

use super::child;
use super::event::Event;
use super::oracle::{Kind, Oracle, Violation};
use super::step::Step;
use super::tally::{Place, Tally, pending};
use super::value::{self, Found, Key, Keys, PREFIX, Span, Value};
use anyhow::{Context, anyhow, bail, ensure};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use stratalog::{Options, Store};

/// SIGKILL, which cannot be caught.
const SIGKILL: i32 = 9;
/// A child that has not opened the store after this long never will.
const OPENING_MAX: Duration = Duration::from_secs(600);
/// For how long a child is waited for to do what it does now and then only.
const MARK_MAX: Duration = Duration::from_millis(500);
/// For how long one is waited for to come to the step that it is to be killed at.
const STEP_MAX: Duration = Duration::from_millis(500);

/// What is written, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub keys: Keys,
    pub dimension: usize,
    /// `None`: as the store has it.
    pub segment_bytes: Option<u64>,
    /// Children compact, back up, and close and open again, too.
    pub upkeep: bool,
    /// Some children are killed at a step, see `step`.
    pub steps: bool,
    /// For how long a store is open at a time, at most, with upkeep.
    pub session: Duration,
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
    /// As it makes this call.
    At(Step),
}

/// What a child may be heard to be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Opened,
    Compacting,
    Compacted,
    BackingUp,
    BackedUp,
    Closing,
    Closed,
}

impl Mark {
    fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Opened => Self::Opened,
            Event::Compacting => Self::Compacting,
            Event::Compacted { .. } => Self::Compacted,
            Event::BackingUp(_) => Self::BackingUp,
            Event::BackedUp(_) => Self::BackedUp,
            Event::Closing => Self::Closing,
            Event::Closed => Self::Closed,
            _ => return None,
        })
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
            _ if self.plan.steps && self.rng.u8(..5) < 2 => Moment::At(Step::choose(&mut self.rng)),
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
        *self.tally.kills_while.entry(Place::of(&events)).or_default() += 1;
        for what in pending(&events) {
            *self.tally.kills_during.entry(what).or_default() += 1;
        }
        for event in &events {
            self.tally.count(event);
        }
        self.note(&events)
    }

    /// Tells the oracle what a child reported, and judges the backups that it has left.
    fn note(&mut self, events: &[Event]) -> anyhow::Result<()> {
        for event in events {
            if let Err(violation) = self.oracle.note(event) {
                self.violation(&violation);
            }
        }
        if self.plan.upkeep { self.check_backups() } else { Ok(()) }
    }

    /// Kills a child that should be opening the store, or have just opened it.
    fn kill_reopening(&mut self) -> anyhow::Result<()> {
        let moment = match self.plan.steps && self.rng.bool() {
            true => Moment::At(Step::choose(&mut self.rng)),
            false => Moment::Started(Duration::from_micros(self.rng.u64(..15_000))),
        };
        let events = self.kill(moment)?;
        self.tally.kills_reopening += 1;
        self.note(&events)
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
            session: self.plan.session.as_millis() as u64,
        };
        let (program, trace) = (std::env::current_exe()?, self.store.with_file_name("trace"));
        let mut command = match moment {
            Moment::At(step) => step.command(&trace, program.into()),
            _ => Command::new(program),
        };
        let mut child = command
            .args(args.to_words())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process to kill")?;
        let pipe = child.stdout.take().context("the child has no pipe")?;
        let (tell, said) = channel();
        let listener = thread::Builder::new().spawn(move || listen(pipe, &tell))?;
        let waited = wait_for(moment, &said);
        // It may be dead already, but is still ours.
        child.kill()?;
        let status = child.wait()?;
        let heard = listener.join().map_err(|_panic| anyhow!("the listener panicked"))?;
        ensure!(
            status.signal() == Some(SIGKILL),
            "the writing process ended by itself: {status}; what it said is above"
        );
        waited?;
        if let (Moment::At(_), Ok(events)) = (moment, &heard) {
            // The tracer held the pipe's other end, so it has ended, too.
            self.tally.steps.note(&trace, events)?;
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
            let now = value::nanoseconds(SystemTime::now());
            self.judge(key, Found::Nothing, Span { from: now, to: now });
        }
        Ok(())
    }

    /// Judges every key and every record of an open store.
    pub fn compare_open(&mut self, store: &Store) -> anyhow::Result<()> {
        self.tally.openings += 1;
        self.judge_reports(store)?;
        let found = self.look_at_all(store);
        for (_, found, _) in &found {
            self.tally.records += u64::from(*found != Found::Nothing);
            if let Found::Version { tag, expires, .. } = found {
                self.tally.tags += tag;
                self.tally.expiring += u64::from(*expires > 0);
            }
        }
        self.oracle.conclude(found.iter().map(|(key, found, _)| (*key, *found)));
        for (key, state, span) in &found {
            self.judge(*key, *state, *span);
        }
        let [live, lingering] = self.judge_iteration(store, &found)?;
        // The store may still count what has expired.
        if !(live..=live + lingering).contains(&(store.len() as u64)) {
            let of = format!("{live} are there, {lingering} may have expired");
            self.wrong(format!("len() is {}, {of}", store.len()));
        }
        Ok(())
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

    /// What a store has of every key.
    fn look_at_all(&mut self, store: &Store) -> Vec<(Key, Found, Span)> {
        let mut scratch = Value::default();
        let keys = self.plan.keys.all();
        keys.map(|key| self.look(store, key, &mut scratch)).collect()
    }

    fn look(&mut self, store: &Store, key: Key, scratch: &mut Value) -> (Key, Found, Span) {
        let pinned = store.pin();
        let from = value::nanoseconds(SystemTime::now());
        let record = pinned.get(value::id_of(key));
        let span = Span { from, to: value::nanoseconds(SystemTime::now()) };
        let found = match record {
            Ok(None) => return (key, Found::Nothing, span),
            Ok(Some(record)) => Found::of(key, &record, scratch),
            Err(error) => Err(error.to_string()),
        };
        let found = found.unwrap_or_else(|what| {
            self.wrong(format!("key {}: {what}", key.0));
            Found::Nothing
        });
        (key, found, span)
    }

    fn judge(&mut self, key: Key, found: Found, span: Span) {
        self.tally.judged += 1;
        if let Err(violation) = self.oracle.judge(key, found, span) {
            self.violation(&violation);
        }
        self.tally.expired += u64::from(self.oracle.observe(key, found, span.to));
    }

    /// An iteration sees the same keys as the gets did, each once, but for what has expired
    /// meanwhile. How many records there are, and how many more may have expired.
    fn judge_iteration(
        &mut self,
        store: &Store,
        found: &[(Key, Found, Span)],
    ) -> anyhow::Result<[u64; 2]> {
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
        let now = value::nanoseconds(SystemTime::now());
        let (mut live, mut lingering) = (others, 0);
        for (&times, (key, state, _)) in seen.iter().zip(found) {
            let expected = u32::from(*state != Found::Nothing);
            live += u64::from(expected);
            lingering += u64::from(self.oracle.may_linger(*key));
            let went = times == 0 && state.has_expired(now);
            if times != expected && !went {
                let of = format!("get finds {expected}, iteration {times}");
                self.wrong(format!("key {}: {of}", key.0));
            }
        }
        Ok([live, lingering])
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
        Moment::At(_) => {
            let since = Instant::now();
            // Whatever it says: it is over when nobody can say anything any more.
            while said.recv_timeout(STEP_MAX.saturating_sub(since.elapsed())).is_ok() {}
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
