//! The background threads of a store open for writing. One prepares the next segment, keeps the
//! manifest in step with the log, and gives back what was retired; nothing waits for it but
//! `close`. One flushes: at an interval, and for those who wait without a thread. One compacts,
//! unless that is left to the caller.

use crate::catalog::{Catalog, FileEngine};
use crate::compaction::{Compactor, Scope, Totals};
use crate::durability::Durability;
use crate::error::Error;
use crate::format::ids::Sequence;
use crate::log::PREPARED_MAX;
use crate::memory::{Memory, MmapMemory};
use crate::options::Compaction;
use crate::recovery::{self, Leftovers};
use crate::report::CompactionReport;
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
/// Pages are made in steps of this many bytes, so that closing does not wait for all of them.
const POPULATE_BYTES: usize = 2 << 20;

/// A log that rolled within this time gets as many prepared segments as there may be: a burst fills
/// one faster than the next can be made. Any other gets one, and a small store none.
const BURST: Duration = Duration::from_secs(10);

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
    /// Who asks for a compaction by hand just now: the background makes way for them.
    pub asking: AtomicU64,
    /// What it and those before it have done.
    pub compacted: Totals,
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
        let compactor = Compactor {
            engine: &self.engine,
            durability: &self.durability,
            catalog: &self.catalog,
            stop,
            asking: &self.asking,
            bytes_a_second: self.compaction_rate,
            totals: &self.compacted,
        };
        compactor.run(scope, &mut report, progress)?;
        Ok(report)
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
    let mut pace = Pace::default();
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let heard = bell.heard();
        // An error here (no room, most likely) costs only the head start: a writer that needs a
        // segment tries itself, and its caller hears of it. The manifest is tried again next time.
        let more = prepare(engine, &mut pace, stop).is_ok_and(|more| more);
        drop(duties.catalog.update(engine));
        for _ in 0..EPOCHS {
            engine.epoch().reclaim();
        }
        engine.log().take_out(engine.epoch(), &engine.epoch().pin());
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
        drop(duties.compact(Scope::Worthwhile, stop, &mut |_| ()));
        bell.wait(heard, NAP);
    }
}

/// How fast the log rolls.
#[derive(Default)]
struct Pace {
    /// The active segment, when it was last looked at.
    active: Option<Sequence>,
    /// When it was seen to have taken over from another one.
    rolled: Option<Instant>,
}

impl Pace {
    /// How many segments are to be prepared now.
    fn ahead(&mut self, engine: &FileEngine) -> usize {
        let guard = engine.epoch().pin();
        let active = engine.log().active(&guard).map(Segment::sequence);
        if self.active.is_some() && self.active < active {
            self.rolled = Some(Instant::now());
        }
        self.active = active;
        if self.rolled.is_some_and(|at| at.elapsed() < BURST) {
            PREPARED_MAX
        } else {
            usize::from(engine.log().nears_roll(&guard))
        }
    }
}

/// Prepares one segment, if it is wanted. Whether there may be more to prepare.
fn prepare(engine: &FileEngine, pace: &mut Pace, stop: &AtomicBool) -> Result<bool, Error> {
    let wanted = pace.ahead(engine);
    // A store of one segment has nothing to give back yet.
    let several = engine.log().in_use(&engine.epoch().pin()).nth(1).is_some();
    // The room that is kept back goes first, and where there is little not much is hoarded.
    let scarce = several && engine.log().source().keep_spares()?;
    let wanted = if scarce { wanted.min(1) } else { wanted };
    if engine.log().prepared() >= wanted {
        return Ok(false);
    }
    // Without a pin: this takes long.
    engine.log().prepare(engine.epoch(), |segment| populate(segment, stop))?;
    // Acquire: as in `run`.
    Ok(!stop.load(Ordering::Acquire))
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
