//! The background threads of a store open for writing. One prepares the next segment, keeps the
//! manifest in step with the log, and gives back what was retired; nothing waits for it but
//! `close`. One flushes: at an interval, and for those who wait without a thread. One compacts,
//! unless that is left to the caller.

use crate::catalog::{Catalog, FileEngine};
use crate::compaction::{Compactor, Scope, Totals};
use crate::durability::Durability;
use crate::error::Error;
use crate::format::ids::Sequence;
use crate::options::Compaction;
use crate::pacing::Pacer;
use crate::preparation::{Pace, Preparer};
use crate::recovery::{self, Leftovers};
use crate::report::CompactionReport;
use crate::residency::Residency;
use crate::segment::Segment;
use crate::sync::lock;
use crate::sync::unmodelled::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, thread};
use std::time::{Duration, Instant};

/// How long it sleeps when nobody rings.
const NAP: Duration = Duration::from_secs(1);
/// How long it sleeps while something retired waits for its grace period.
const SHORT_NAP: Duration = Duration::from_millis(10);
/// A retired thing is free after two epochs; each reclaim can begin one.
const EPOCHS: u32 = 3;

/// What the thread works on.
#[derive(Debug)]
pub struct Duties {
    /// The store's engine.
    pub engine: FileEngine,
    /// The store's flush state.
    pub durability: Arc<Durability>,
    /// What the manifest says.
    pub catalog: Catalog,
    /// Whether a write is to be durable when it returns.
    pub synced: bool,
    /// Bytes a second that compaction may copy.
    pub compaction_rate: Option<u64>,
    /// Held by the one compaction there is at a time.
    pub compacting: Mutex<()>,
    /// Who asks for a compaction by hand just now: the background makes way for them.
    pub asking: AtomicU64,
    /// What it and those before it have done.
    pub compacted: Totals,
    /// The last compaction in the background could not do its work.
    pub failed: AtomicBool,
    /// Whether a segment is flushed as soon as it is full.
    pub flushes_full: bool,
    /// Delays writers that are too fast for it.
    pub pacer: Pacer,
}

impl Duties {
    /// Compacts, after whoever is at it just now.
    pub fn compact(
        &self,
        scope: Scope,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&CompactionReport),
    ) -> Result<CompactionReport, Error> {
        let _asking = (scope == Scope::All).then(|| Asking::new(&self.asking));
        let _turn = lock(&self.compacting);
        let mut report = CompactionReport::default();
        let mut compactor = self.compactor(stop);
        compactor.gives_way = scope == Scope::Worthwhile;
        compactor.run(scope, &mut report, progress)?;
        Ok(report)
    }

    /// Has the flusher flush what is full, once for each segment: none can be emptied before, and
    /// what waits for the interval is more to flush at once.
    fn flush_full(&self, last: &mut Option<Sequence>) {
        if !self.flushes_full {
            return;
        }
        let guard = self.engine.epoch().pin();
        let active = self.engine.log().active(&guard).map(Segment::sequence);
        if active > *last {
            *last = active;
            self.durability.ask_for_full();
        }
    }

    fn compactor<'a>(&'a self, stop: &'a AtomicBool) -> Compactor<'a> {
        Compactor {
            engine: &self.engine,
            durability: &self.durability,
            catalog: &self.catalog,
            stop,
            asking: &self.asking,
            gives_way: true,
            bytes_a_second: self.compaction_rate,
            totals: &self.compacted,
            pacer: &self.pacer,
        }
    }
}

/// Somebody asks for a compaction by hand.
struct Asking<'a>(&'a AtomicU64);

impl<'a> Asking<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        // Relaxed: a hint to the background, which looks again after each group.
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    /// Starts them; the one that compacts only if that is not left to the caller. First of all what
    /// opening has left to do is done.
    pub fn start(
        duties: &Arc<Duties>,
        leftovers: Leftovers,
        (flush_interval, compaction): (Option<Duration>, Compaction),
    ) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut this = Self { stop, duties: Arc::clone(duties), threads: Vec::new() };
        let bell = &duties.engine.log().source().bell;
        let (stop, its) = (Arc::clone(&this.stop), Arc::clone(duties));
        let name = |name: &str| thread::Builder::new().name(name.to_owned());
        let keeper = name("stratalog").spawn(move || run(&its, leftovers, &stop))?;
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

fn run(duties: &Duties, leftovers: Leftovers, stop: &AtomicBool) {
    let engine = &duties.engine;
    // After an error the next opening does it.
    drop(recovery::tidy_up(engine, &duties.catalog, leftovers));
    let bell = &engine.log().source().bell;
    let preparer = Preparer { engine, durability: &duties.durability, synced: duties.synced, stop };
    let (mut pace, mut updated) = (Pace::default(), Instant::now());
    let (mut flushed_up_to, mut residency) = (None, Residency::new());
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let heard = bell.heard();
        // Relaxed: a hint.
        duties.compactor(stop).pace(duties.failed.load(Ordering::Relaxed));
        duties.flush_full(&mut flushed_up_to);
        // An error here (no room, most likely) costs only the head start: a writer that needs a
        // segment tries itself, and its caller hears of it. The manifest is tried again next time.
        let more = preparer.prepare(&mut pace).is_ok_and(|more| more);
        // Until then recovery finds what is younger than the manifest by its sequence [K1].
        if !more || updated.elapsed() > NAP {
            drop(duties.catalog.update(engine));
            updated = Instant::now();
        }
        for _ in 0..EPOCHS {
            engine.epoch().reclaim();
        }
        engine.log().sweep(engine.epoch(), &engine.epoch().pin());
        residency.look(engine, &engine.epoch().pin());
        if !more {
            bell.wait(heard, if engine.epoch().pending() > 0 { SHORT_NAP } else { NAP });
        }
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
        let done = duties.compact(Scope::Worthwhile, stop, &mut |_| ());
        // Relaxed: a hint for the other thread.
        duties.failed.store(done.is_err(), Ordering::Relaxed);
        duties.compactor(stop).pace(done.is_err());
        bell.wait(heard, NAP);
    }
}
