//! The background threads of a store open for writing. One preallocates the next segment, keeps the
//! manifest in step with the log, and reclaims what was retired; `close` waits for it, and so does
//! a compaction that needs the room of dropped segments, for a second at most. One flushes: at an
//! interval, and for those who wait without a thread. One compacts, unless that is left to the
//! caller. `throttle` is called by puts, in their own thread: it delays writers that outrun
//! compaction.

pub mod compaction;
pub mod compaction_totals;
mod page_cache;
mod preallocation;
mod store_core;
pub mod throttle;

pub use page_cache::PageCachePolicy;
pub use store_core::StoreCore;

use crate::concurrency::sync::unmodelled::{Arc, AtomicBool, Ordering, thread};
use crate::error::{At, Error};
use crate::options::Compaction;
use crate::os::time::Instant;
use crate::recovery::{self, Leftovers};
use compaction::Scope;
use preallocation::{GrowthRate, Preallocator};
use std::time::Duration;

/// How long it sleeps when nobody notifies it.
const NAP: Duration = Duration::from_secs(1);
/// How long it sleeps while something retired waits for its grace period.
const SHORT_NAP: Duration = Duration::from_millis(10);
/// A retired thing is free after two epochs; each reclaim can begin one.
const EPOCHS: u32 = 3;

/// The running threads. Dropping this stops them and waits until they have.
#[derive(Debug)]
pub struct BackgroundThreads {
    stop: Arc<AtomicBool>,
    core: Arc<StoreCore>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl BackgroundThreads {
    /// Starts them; the one that compacts only if that is not left to the caller. First of all what
    /// opening has left to do is done.
    pub fn start(
        core: &Arc<StoreCore>,
        leftovers: Leftovers,
        (flush_interval, compaction): (Option<Duration>, Compaction),
    ) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut this = Self { stop, core: Arc::clone(core), threads: Vec::new() };
        let source = core.engine.log().source();
        let (notifier, path) = (&source.notifier, source.directory().path());
        let (stop, its) = (Arc::clone(&this.stop), Arc::clone(core));
        let name = |name: &str| thread::Builder::new().name(name.to_owned());
        let keeper = name("stratalog").spawn(move || run(&its, leftovers, &stop)).at(path)?;
        notifier.add_thread(keeper.thread().clone());
        this.threads.push(keeper);
        if compaction == Compaction::Auto {
            let (stop, its) = (Arc::clone(&this.stop), Arc::clone(core));
            let compactor =
                name("stratalog-compact").spawn(move || compact(&its, &stop)).at(path)?;
            notifier.add_thread(compactor.thread().clone());
            this.threads.push(compactor);
        }
        let its = Arc::clone(core);
        let flush = move || its.flusher.run(&its.engine, flush_interval);
        this.threads.push(name("stratalog-flush").spawn(flush).at(path)?);
        Ok(this)
    }
}

impl Drop for BackgroundThreads {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `run`.
        self.stop.store(true, Ordering::Release);
        self.core.engine.log().source().notifier.notify();
        self.core.flusher.group().stop();
        for thread in self.threads.drain(..) {
            // A waker may have dropped the store, on the thread that flushes: it ends by itself.
            if thread.thread().id() != thread::current().id() {
                // A panic in there has been printed by the hook; closing goes on.
                drop(thread.join());
            }
        }
    }
}

fn run(core: &StoreCore, leftovers: Leftovers, stop: &AtomicBool) {
    let engine = &core.engine;
    // After an error the next opening does it.
    drop(recovery::tidy_up(engine, &core.live_manifest, leftovers));
    let notifier = &engine.log().source().notifier;
    let preallocator = Preallocator { core, stop };
    let (mut growth, mut updated) = (GrowthRate::default(), Instant::now());
    let (mut flushed_up_to, mut page_cache) = (None, PageCachePolicy::new());
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let seen = notifier.count();
        // Relaxed: a hint.
        core.set_throttle(core.failed.load(Ordering::Relaxed));
        core.flush_full(&mut flushed_up_to);
        // An error here (no room, most likely) costs only the head start: a writer that needs a
        // segment tries itself, and its caller hears of it. The manifest is tried again next time.
        let more = preallocator.preallocate(&mut growth).is_ok_and(|more| more);
        // Until then recovery finds what is younger than the manifest by its sequence [K1].
        if !more || updated.elapsed() > NAP {
            drop(core.live_manifest.update(engine));
            updated = Instant::now();
        }
        for _ in 0..EPOCHS {
            engine.epoch().reclaim();
        }
        engine.log().sweep(&engine.epoch().pin());
        page_cache.update(engine, &engine.epoch().pin());
        if !more {
            notifier.wait(seen, if engine.epoch().pending() > 0 { SHORT_NAP } else { NAP });
        }
    }
    drop(core.live_manifest.update(engine));
    let guard = engine.epoch().pin();
    engine.log().discard_preallocated(&guard);
}

/// Compacts whenever it pays. After an error, a full disk most likely, it waits for the next
/// notification.
fn compact(core: &StoreCore, stop: &AtomicBool) {
    let notifier = &core.engine.log().source().notifier;
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let seen = notifier.count();
        let done = core.compact(Scope::Worthwhile, stop, &mut |_, _| ());
        // Relaxed: a hint for the other thread.
        core.failed.store(done.is_err(), Ordering::Relaxed);
        core.set_throttle(done.is_err());
        notifier.wait(seen, NAP);
    }
}
