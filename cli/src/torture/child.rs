//! The process that is killed: threads that put, remove and get, and say so, for ever.

use super::event::{Event, Reporter};
use super::value::{self, Found, Key, Keys, Value, Version};
use crate::Outcome;
use anyhow::anyhow;
use std::path::PathBuf;
use std::thread;
use stratalog::{Options, Store};

/// One operation in so many is a sync, where syncs are asked for.
const SYNC_ONE_IN: u32 = 400;

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
        if self.sync {
            words.push("--sync".into());
        }
        words
    }
}

struct Writer<'a> {
    args: &'a Args,
    store: &'a Store,
    reporter: &'a Reporter,
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
    let store = crate::open(&options, &args.store)?;
    let reporter = Reporter::new()?;
    reporter.report("opened\n")?;
    thread::scope(|scope| {
        let start = |thread| {
            let mut writer = Writer::new(args, &store, &reporter, thread);
            scope.spawn(move || writer.run())
        };
        let writers: Vec<_> = (0..args.threads).map(start).collect();
        for writer in writers {
            writer.join().map_err(|_panic| anyhow!("a writer panicked"))??;
        }
        Ok(Outcome::Good)
    })
}

impl<'a> Writer<'a> {
    fn new(args: &'a Args, store: &'a Store, reporter: &'a Reporter, thread: u8) -> Self {
        Self {
            args,
            store,
            reporter,
            keys: Keys { threads: args.threads, own: args.own, shared: args.shared },
            thread,
            rng: fastrand::Rng::with_seed(args.seed ^ u64::from(thread) << 56),
            version: Version::first(args.round, thread),
            value: Value::default(),
            lines: String::new(),
        }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let key = self.keys.pick(self.thread, &mut self.rng);
            match self.rng.u8(..100) {
                0..60 => self.put(key)?,
                60..82 => self.remove(key)?,
                _ => self.get(key)?,
            }
            if self.args.sync && self.rng.u32(..SYNC_ONE_IN) == 0 {
                self.store.sync()?;
                self.say(&Event::Synced);
            }
        }
    }

    fn say(&mut self, event: &Event) {
        event.write(&mut self.lines);
    }

    /// Says what is still to be said, and that an operation begins, in one write.
    fn begin(&mut self, key: Key, put: bool) -> anyhow::Result<Version> {
        let version = self.version;
        self.version = version.next();
        self.say(&Event::Begin { version, key, put });
        self.flush()?;
        Ok(version)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.reporter.report(&self.lines)?;
        self.lines.clear();
        Ok(())
    }

    fn put(&mut self, key: Key) -> anyhow::Result<()> {
        self.value.fill(key, self.version, self.args.dimension);
        let version = self.begin(key, true)?;
        let Value { embedding, content } = &self.value;
        let lsn = self.store.put(value::id_of(key), embedding, content)?.as_u64();
        self.say(&Event::Put { version, lsn });
        Ok(())
    }

    fn remove(&mut self, key: Key) -> anyhow::Result<()> {
        let version = self.begin(key, false)?;
        let was_there = self.store.remove(value::id_of(key))?;
        self.say(&Event::Removed { version, was_there });
        Ok(())
    }

    fn get(&mut self, key: Key) -> anyhow::Result<()> {
        let look = self.version;
        self.version = look.next();
        self.say(&Event::Look { look, key });
        self.flush()?;
        let pinned = self.store.pin();
        let event = match pinned.get(value::id_of(key))? {
            None => Event::Got { look, found: Found::Nothing },
            Some(record) => {
                let (embedding, content) = (record.embedding(), record.content());
                let lsn = record.lsn().as_u64();
                match value::identify(key, embedding, content, &mut self.value) {
                    Ok(version) => Event::Got { look, found: Found::Version { version, lsn } },
                    Err(what) => Event::Wrong { key, what },
                }
            }
        };
        self.say(&event);
        Ok(())
    }
}
