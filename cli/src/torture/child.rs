//! The process that is killed: threads that put, remove, get, write batches and update tags, and
//! say so, for ever. With upkeep: beside one that compacts and backs up, and now and then all of it
//! stops for the store to be closed and opened again.

use super::event::{Event, Reporter, UPKEEP, What};
use super::value::{self, Found, Key, Keys, Value, Version};
use crate::Outcome;
use anyhow::{Context, anyhow};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use stratalog::{Batch, Condition, Error, NewRecord, Options, Store};

/// One operation in so many is a sync, where syncs are asked for.
const SYNC_ONE_IN: u32 = 400;
/// With upkeep a writer rests after so many operations, so that compaction gets its turns.
const REST_ONE_IN: u32 = 32;
/// Operations of a batch, at most: what they say must fit one write.
const BATCH_MAX: usize = 6;
/// One put in so many expires.
const EXPIRES_ONE_IN: u8 = 8;
/// One session in so many has no upkeep but the engine's own.
const QUIET_ONE_IN: u8 = 3;
/// One compaction in so many is followed by a backup.
const BACKUP_ONE_IN: u8 = 4;
/// Backups of one process that are there at the same time: a kill leaves them to be looked at.
pub const BACKUPS_KEPT: u64 = 3;

/// Write to a store until killed, reporting on stdout
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    pub store: PathBuf,
    #[arg(long)]
    pub dimension: usize,
    #[arg(long)]
    pub segment_bytes: Option<u64>,
    #[arg(long)]
    pub threads: u8,
    #[arg(long)]
    pub own: u32,
    #[arg(long)]
    pub shared: u32,
    #[arg(long)]
    pub round: u32,
    #[arg(long)]
    pub seed: u64,
    #[arg(long)]
    pub sync: bool,
    /// How long the store is open at a time, at most, in milliseconds
    #[arg(long)]
    pub session: u64,
    /// Compact, back up, close and open again, too
    #[arg(long)]
    pub upkeep: bool,
}

/// Where a backup of a store goes.
pub fn backup_of(store: &Path, number: u64) -> PathBuf {
    store.with_file_name(format!("backup.{number}"))
}

/// The round whose child makes backups from this number on.
pub fn backups_from(round: u32) -> u64 {
    u64::from(round) << 16
}

/// The round whose child has made a backup.
pub fn round_of(backup: u64) -> u32 {
    (backup >> 16) as u32
}

impl Args {
    /// The command line that says so.
    pub fn to_words(&self) -> Vec<std::ffi::OsString> {
        let mut words: Vec<std::ffi::OsString> = vec!["torture-child".into()];
        words.push(self.store.clone().into());
        let mut option = |name: &str, value: u64| {
            words.push(format!("--{name}={value}").into());
        };
        option("dimension", self.dimension as u64);
        if let Some(bytes) = self.segment_bytes {
            option("segment-bytes", bytes);
        }
        option("threads", self.threads.into());
        option("own", self.own.into());
        option("shared", self.shared.into());
        option("round", self.round.into());
        option("seed", self.seed);
        option("session", self.session);
        if self.sync {
            words.push("--sync".into());
        }
        if self.upkeep {
            words.push("--upkeep".into());
        }
        words
    }
}

struct Writer<'a> {
    args: &'a Args,
    store: &'a Store,
    reporter: &'a Reporter,
    stop: &'a AtomicBool,
    keys: Keys,
    thread: u8,
    rng: fastrand::Rng,
    version: Version,
    value: Value,
    /// What is to be said with the next report.
    lines: String,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut options = Options::new().dimension(args.dimension);
    if let Some(bytes) = args.segment_bytes {
        options = options.segment_size(bytes);
    }
    let reporter = Reporter::new()?;
    let mut rng = fastrand::Rng::with_seed(args.seed ^ 0xFF << 56);
    let mut versions: Vec<_> =
        (0..args.threads).map(|thread| Version::first(args.round, thread)).collect();
    // No other process of this store's makes one of the same number.
    let mut backups = backups_from(args.round);
    say_thread(&reporter, UPKEEP)?;
    loop {
        let store = options.open(&args.store)?;
        say(&reporter, &Event::Opened)?;
        let until = Instant::now() + Duration::from_millis(rng.u64(5..args.session));
        let upkeep = Upkeep { until, seed: rng.u64(..), backups: &mut backups };
        session(args, &store, &reporter, &mut versions, upkeep)?;
        say(&reporter, &Event::Closing)?;
        store.close()?;
        say(&reporter, &Event::Closed)?;
    }
}

fn say(reporter: &Reporter, event: &Event) -> anyhow::Result<()> {
    let mut line = String::new();
    event.write(&mut line);
    reporter.report(&line)
}

/// Whoever traces this process knows its threads by the system's numbers.
fn say_thread(reporter: &Reporter, thread: u8) -> anyhow::Result<()> {
    let link = fs::read_link("/proc/thread-self")?;
    let number =
        link.file_name().and_then(|name| name.to_str()).context("a thread has a number")?;
    say(reporter, &Event::Thread { thread, number: number.parse()? })
}

/// What the thread that writes nothing does, if there is one.
struct Upkeep<'a> {
    until: Instant,
    seed: u64,
    /// Number of the last backup.
    backups: &'a mut u64,
}

/// All threads at work on an open store: for ever, or with upkeep until then.
fn session(
    args: &Args,
    store: &Store,
    reporter: &Reporter,
    versions: &mut [Version],
    upkeep: Upkeep<'_>,
) -> anyhow::Result<()> {
    let seed = upkeep.seed;
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let mut writers = Vec::new();
        for (thread, version) in versions.iter_mut().enumerate() {
            let thread = thread as u8;
            let mut writer = Writer {
                args,
                store,
                reporter,
                stop,
                keys: Keys { threads: args.threads, own: args.own, shared: args.shared },
                thread,
                rng: fastrand::Rng::with_seed(seed ^ u64::from(thread) << 56),
                version: *version,
                value: Value::default(),
                lines: String::new(),
            };
            writers.push(scope.spawn(move || {
                let done = say_thread(reporter, thread).and_then(|()| writer.run());
                *version = writer.version;
                done
            }));
        }
        if args.upkeep {
            let done = keep_up(args, store, reporter, upkeep);
            // Relaxed: a flag.
            stop.store(true, Ordering::Relaxed);
            done?;
        }
        for writer in writers {
            writer.join().map_err(|_panic| anyhow!("a writer panicked"))??;
        }
        Ok(())
    })
}

fn keep_up(
    args: &Args,
    store: &Store,
    reporter: &Reporter,
    upkeep: Upkeep<'_>,
) -> anyhow::Result<()> {
    let Upkeep { until, seed, backups } = upkeep;
    let mut rng = fastrand::Rng::with_seed(seed);
    if rng.u8(..QUIET_ONE_IN) == 0 {
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
    while Instant::now() < until {
        thread::sleep(Duration::from_micros(rng.u64(..4_000)));
        say(reporter, &Event::Compacting)?;
        let report = store.compact()?;
        let (segments, moved) = (report.segments_removed, report.moved_records);
        say(reporter, &Event::Compacted { segments, moved })?;
        if rng.u8(..BACKUP_ONE_IN) == 0 {
            *backups += 1;
            back_up(args, store, reporter, *backups)?;
        }
    }
    Ok(())
}

fn back_up(args: &Args, store: &Store, reporter: &Reporter, number: u64) -> anyhow::Result<()> {
    say(reporter, &Event::BackingUp(number))?;
    let past = backup_of(&args.store, number.saturating_sub(BACKUPS_KEPT));
    if past.exists() {
        // Half removed, it is not to be taken for one that is whole.
        let old = past.with_extension("old");
        fs::rename(&past, &old)?;
        fs::remove_dir_all(old)?;
    }
    store.backup(backup_of(&args.store, number))?;
    say(reporter, &Event::BackedUp(number))
}

impl Writer<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        // Relaxed: a flag.
        while !self.stop.load(Ordering::Relaxed) {
            let key = self.keys.pick(self.thread, &mut self.rng);
            match self.rng.u8(..100) {
                0..44 => self.put(key)?,
                44..50 => self.put_if(key)?,
                50..54 => self.batch()?,
                54..70 => self.remove(key)?,
                70..84 => self.bump(key)?,
                _ => self.get(key)?,
            }
            if self.args.upkeep && self.rng.u32(..REST_ONE_IN) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            if self.args.sync && self.rng.u32(..SYNC_ONE_IN) == 0 {
                self.store.sync()?;
                self.say(&Event::Synced);
            }
        }
        self.flush()
    }

    fn say(&mut self, event: &Event) {
        event.write(&mut self.lines);
    }

    fn take_version(&mut self) -> Version {
        let version = self.version;
        self.version = version.next();
        version
    }

    /// Says what is still to be said, and that an operation begins, in one write.
    fn begin(&mut self, key: Key, what: What, expires: u64) -> anyhow::Result<Version> {
        let version = self.take_version();
        self.say(&Event::Begin { version, key, what, expires });
        self.flush()?;
        Ok(version)
    }

    /// When the next put expires, if it does: at once, soon, or not in this round.
    fn expiry(&mut self) -> Option<SystemTime> {
        if self.rng.u8(..EXPIRES_ONE_IN) > 0 {
            return None;
        }
        let after = match self.rng.u8(..3) {
            0 => Duration::ZERO,
            1 => Duration::from_micros(self.rng.u64(..300_000)),
            _ => Duration::from_secs(self.rng.u64(10..3_600)),
        };
        Some(SystemTime::now() + after)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.reporter.report(&self.lines)?;
        self.lines.clear();
        Ok(())
    }

    fn put(&mut self, key: Key) -> anyhow::Result<()> {
        self.value.fill(key, self.version, self.args.dimension);
        let expires = self.expiry();
        let version = self.begin(key, What::Put, nanoseconds_or_never(expires))?;
        let (id, Value { embedding, content }) = (value::id_of(key), &self.value);
        let record = with_expiry(NewRecord::new(&id, embedding, content), expires);
        let lsn = self.store.put_record(record)?.as_u64();
        self.say(&Event::Put { version, lsn });
        Ok(())
    }

    fn put_if(&mut self, key: Key) -> anyhow::Result<()> {
        let (what, condition) = match self.rng.bool() {
            true => (What::PutIfAbsent, Condition::Absent),
            false => (What::PutIfPresent, Condition::Present),
        };
        self.value.fill(key, self.version, self.args.dimension);
        let version = self.begin(key, what, 0)?;
        let Value { embedding, content } = &self.value;
        let event = match self.store.put_if(value::id_of(key), embedding, content, condition) {
            Ok(lsn) => Event::Put { version, lsn: lsn.as_u64() },
            Err(Error::ConditionFailed { .. }) => Event::Refused { version },
            Err(error) => return Err(error.into()),
        };
        self.say(&event);
        Ok(())
    }

    /// Puts and removes of different keys, all or nothing.
    fn batch(&mut self) -> anyhow::Result<()> {
        let mut keys: Vec<Key> = Vec::new();
        for _ in 0..self.rng.usize(1..=BATCH_MAX) {
            let key = self.keys.pick(self.thread, &mut self.rng);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        // The acknowledgement before may fill the line.
        self.flush()?;
        let (first, count) = (self.version, keys.len() as u64);
        let mut batch = Batch::new();
        self.say(&Event::Batch { first, count });
        for key in keys {
            let version = self.take_version();
            self.value.fill(key, version, self.args.dimension);
            // A batch must fit a segment.
            let put = self.rng.u8(..4) > 0 && self.value.content.len() < 64 << 10;
            let (what, moment) = match put {
                true => (What::Put, self.expiry()),
                false => (What::Remove, None),
            };
            self.say(&Event::Begin { version, key, what, expires: nanoseconds_or_never(moment) });
            let (id, Value { embedding, content }) = (value::id_of(key), &self.value);
            if put {
                batch.put_record(with_expiry(NewRecord::new(&id, embedding, content), moment));
            } else {
                batch.remove(id);
            }
        }
        self.flush()?;
        self.store.write(batch)?;
        self.say(&Event::Wrote { first, count });
        Ok(())
    }

    fn remove(&mut self, key: Key) -> anyhow::Result<()> {
        let version = self.begin(key, What::Remove, 0)?;
        let was_there = self.store.remove(value::id_of(key))?.is_some();
        self.say(&Event::Removed { version, was_there });
        Ok(())
    }

    fn bump(&mut self, key: Key) -> anyhow::Result<()> {
        let bump = self.take_version();
        self.say(&Event::Bump { bump, key });
        self.flush()?;
        let tag = self.store.update_tag(value::id_of(key), |tag| tag + 1)?;
        self.say(&Event::Bumped { bump, tag: tag.unwrap_or(0) });
        Ok(())
    }

    fn get(&mut self, key: Key) -> anyhow::Result<()> {
        let look = self.take_version();
        self.say(&Event::Look { look, key, at: value::nanoseconds(SystemTime::now()) });
        self.flush()?;
        let pinned = self.store.pin();
        let record = pinned.get(value::id_of(key))?;
        let at = value::nanoseconds(SystemTime::now());
        let found = match record {
            None => Ok(Found::Nothing),
            Some(record) => Found::of(key, &record, &mut self.value),
        };
        let event = match found {
            Ok(found) => Event::Got { look, found, at },
            Err(what) => Event::Wrong { key, what },
        };
        self.say(&event);
        Ok(())
    }
}

fn nanoseconds_or_never(moment: Option<SystemTime>) -> u64 {
    moment.map_or(0, value::nanoseconds)
}

fn with_expiry(record: NewRecord<'_>, moment: Option<SystemTime>) -> NewRecord<'_> {
    match moment {
        Some(moment) => record.expires_at(moment),
        None => record,
    }
}
