//! The background threads of a store open for writing. One prepares the next segment, keeps the
//! manifest in step with the log, and gives back what was retired; nothing waits for it but
//! `close`. One flushes: at an interval, and for those who wait without a thread. One compacts,
//! unless that is left to the caller.

use crate::catalog::{Catalog, FileEngine};
use crate::compaction::{self, Compactor, Scope, Totals};
use crate::durability::Durability;
use crate::error::Error;
use crate::files::lock;
use crate::memory::{Memory, MmapMemory};
use crate::options::Compaction;
use crate::report::CompactionReport;
use crate::segment::Segment;
use crate::sync::unmodelled::{Arc, AtomicBool, Mutex, Ordering, thread};
use std::time::Duration;

/// How long it sleeps when nobody rings.
const NAP: Duration = Duration::from_secs(1);
/// How long it sleeps while something retired waits for its grace period.
const SHORT_NAP: Duration = Duration::from_millis(10);
/// A retired thing is free after two epochs; each reclaim can begin one.
const EPOCHS: u32 = 3;
/// Pages are made in steps of this many bytes, so that closing does not wait for all of them.
const POPULATE_BYTES: usize = 2 << 20;

/// What the thread works on.
#[derive(Debug)]
pub struct Duties {
    /// The store's engine.
    pub engine: FileEngine,
    /// The store's flush state.
    pub durability: Arc<Durability>,
    /// What the manifest says.
    pub catalog: Catalog,
    /// Bytes a second that compaction may copy.
    pub compaction_rate: Option<u64>,
    /// Held by the one compaction there is at a time.
    pub compacting: Mutex<()>,
    /// What it and those before it have done.
    pub compacted: Totals,
}

impl Duties {
    /// Compacts, after whoever is at it just now.
    pub fn compact(&self, scope: Scope, stop: &AtomicBool) -> Result<CompactionReport, Error> {
        let _turn = lock(&self.compacting);
        let mut report = CompactionReport::default();
        let compactor = Compactor {
            engine: &self.engine,
            durability: &self.durability,
            catalog: &self.catalog,
            stop,
            bytes_a_second: self.compaction_rate,
            totals: &self.compacted,
        };
        compactor.run(scope, &mut report)?;
        Ok(report)
    }
}

/// The running threads. Dropping this stops them and waits until they have.
#[derive(Debug)]
pub struct Maintenance {
    stop: Arc<AtomicBool>,
    duties: Arc<Duties>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Maintenance {
    /// Starts both.
    pub fn start(
        duties: &Arc<Duties>,
        flush_interval: Option<Duration>,
        compaction: Compaction,
    ) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut this = Self { stop, duties: Arc::clone(duties), threads: Vec::new() };
        let bell = &duties.engine.log().source().bell;
        let (stop, its) = (Arc::clone(&this.stop), Arc::clone(duties));
        let name = |name: &str| thread::Builder::new().name(name.to_owned());
        let keeper = name("stratalog").spawn(move || run(&its, &stop))?;
        bell.add_thread(keeper.thread().clone());
        this.threads.push(keeper);
        if compaction == Compaction::Auto {
            let (stop, its) = (Arc::clone(&this.stop), Arc::clone(duties));
            let compactor = name("stratalog-compact").spawn(move || compact(&its, &stop))?;
            bell.add_thread(compactor.thread().clone());
            this.threads.push(compactor);
        }
        let its = Arc::clone(duties);
        let flush = move || its.durability.run(&its.engine, flush_interval);
        this.threads.push(name("stratalog-flush").spawn(flush)?);
        Ok(this)
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `run`.
        self.stop.store(true, Ordering::Release);
        self.duties.engine.log().source().bell.ring();
        self.duties.durability.stop();
        for thread in self.threads.drain(..) {
            // A panic in there has been printed by the hook; closing goes on.
            drop(thread.join());
        }
    }
}

fn run(duties: &Duties, stop: &AtomicBool) {
    let engine = &duties.engine;
    let bell = &engine.log().source().bell;
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let heard = bell.heard();
        // An error here (no room, most likely) costs only the head start: a writer that needs a
        // segment tries itself, and its caller hears of it. The manifest is tried again next time.
        drop(prepare(engine, stop));
        drop(duties.catalog.update(engine));
        for _ in 0..EPOCHS {
            engine.epoch().reclaim();
        }
        compaction::take_out(engine);
        bell.wait(heard, if engine.epoch().pending() > 0 { SHORT_NAP } else { NAP });
    }
    drop(duties.catalog.update(engine));
    let guard = engine.epoch().pin();
    engine.log().discard_prepared(engine.epoch(), &guard);
}

/// Compacts whenever it pays. After an error, a full disk most likely, it waits for the next ring.
fn compact(duties: &Duties, stop: &AtomicBool) {
    let bell = &duties.engine.log().source().bell;
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let heard = bell.heard();
        drop(duties.compact(Scope::Worthwhile, stop));
        bell.wait(heard, NAP);
    }
}

fn prepare(engine: &FileEngine, stop: &AtomicBool) -> Result<(), Error> {
    let guard = engine.epoch().pin();
    if engine.log().wants_segment(&guard) {
        engine.log().prepare(engine.epoch(), &guard, |segment| populate(segment, stop))?;
    }
    // A store of one segment has nothing to give back yet.
    if engine.log().in_use(&guard).nth(1).is_some() {
        drop(guard);
        engine.log().source().keep_spares()?;
    }
    Ok(())
}

/// Makes a segment's pages ahead of its writers: 0.2 ms a MiB here instead of a fault for each
/// first touch there. Where the kernel cannot, the writers' faults do it.
fn populate(segment: &Segment<MmapMemory>, stop: &AtomicBool) {
    let bytes = segment.memory().len();
    for at in (0..bytes).step_by(POPULATE_BYTES) {
        // Acquire: as in `run`.
        let stopped = stop.load(Ordering::Acquire);
        let len = POPULATE_BYTES.min(bytes - at);
        if stopped || segment.memory().populate(at, len).is_err() {
            return;
        }
    }
}
