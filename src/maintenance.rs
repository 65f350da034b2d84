//! The one background thread of a store open for writing: prepares the next segment, keeps the
//! manifest in step with the log, gives back what was retired. Nothing waits for it but `close`.

use crate::error::Error;
use crate::format::checksum::Salt;
use crate::format::ids::Sequence;
use crate::memory::{Memory, MmapMemory};
use crate::recovery::FileEngine;
use crate::segment::Segment;
use crate::sync::unmodelled::{Arc, AtomicBool, Ordering, thread};
use std::time::Duration;

/// How long it sleeps when nobody rings.
const NAP: Duration = Duration::from_secs(1);
/// How long it sleeps while something retired waits for its grace period.
const SHORT_NAP: Duration = Duration::from_millis(10);
/// Pages are made in steps of this many bytes, so that closing does not wait for all of them.
const POPULATE_BYTES: usize = 2 << 20;

/// What the thread works on.
#[derive(Debug)]
pub struct Duties {
    /// The store's engine.
    pub engine: FileEngine,
    /// Segments that the manifest goes on naming though they are not there.
    pub missing: Vec<(Sequence, Salt)>,
}

/// The running thread. Dropping it stops it and waits until it has.
#[derive(Debug)]
pub struct Maintenance {
    stop: Arc<AtomicBool>,
    duties: Arc<Duties>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Maintenance {
    /// Starts it.
    pub fn start(duties: &Arc<Duties>) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (its_stop, its_duties) = (Arc::clone(&stop), Arc::clone(duties));
        let thread = thread::Builder::new()
            .name("stratalog".to_owned())
            .spawn(move || run(&its_duties, &its_stop))?;
        duties.engine.log().source().bell.set_thread(thread.thread().clone());
        Ok(Self { stop, duties: Arc::clone(duties), thread: Some(thread) })
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `run`.
        self.stop.store(true, Ordering::Release);
        self.duties.engine.log().source().bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed by the hook; closing goes on.
            drop(thread.join());
        }
    }
}

fn run(duties: &Duties, stop: &AtomicBool) {
    let engine = &duties.engine;
    let bell = &engine.log().source().bell;
    let mut named = 0;
    // Acquire: pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let heard = bell.heard();
        // An error here (no room, most likely) costs only the head start: a writer that needs a
        // segment tries itself, and its caller hears of it. The manifest is tried again next time.
        drop(prepare(engine, stop));
        drop(name_segments(duties, &mut named));
        engine.epoch().reclaim();
        bell.wait(heard, if engine.epoch().pending() > 0 { SHORT_NAP } else { NAP });
    }
    let guard = engine.epoch().pin();
    engine.log().discard_prepared(engine.epoch(), &guard);
}

fn prepare(engine: &FileEngine, stop: &AtomicBool) -> Result<(), Error> {
    let guard = engine.epoch().pin();
    if engine.log().wants_segment(&guard) {
        engine.log().prepare(engine.epoch(), &guard, |segment| populate(segment, stop))?;
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

/// Writes the manifest if the log has segments that it does not name yet.
fn name_segments(duties: &Duties, named: &mut usize) -> Result<(), Error> {
    let engine = &duties.engine;
    let guard = engine.epoch().pin();
    let mut segments: Vec<_> =
        engine.log().in_use(&guard).map(|s| (s.sequence(), s.salt())).collect();
    drop(guard);
    if segments.len() == *named {
        return Ok(());
    }
    let count = segments.len();
    segments.extend(&duties.missing);
    segments.sort_by_key(|segment| segment.0);
    segments.dedup_by_key(|segment| segment.0);
    if let Some(&(last, _)) = segments.last() {
        engine.log().source().write_manifest(last.next(), segments)?;
    }
    *named = count;
    Ok(())
}
