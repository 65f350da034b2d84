//! The manifest, kept in step with the log: which segments there are, and which are gone.
//!
//! By [K1] a segment for copies is named before it holds any, and segments leave in one step: the
//! manifest that names them no more, and tells to remove their files, replaces the one that did.

use crate::concurrency::epoch::Published;
use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{Arc, Mutex, Weak};
use crate::disk::SegmentFiles;
use crate::durability::Covered;
use crate::engine::Engine;
use crate::error::{At, Error};
use crate::format::header::{Role, SegmentId};
use crate::format::ids::Sequence;
use crate::format::manifest::Manifest;
use crate::log::Source;
use crate::memory::MmapMemory;
use crate::os::time::Instant;
use crate::segment::Segment;
use std::time::Duration;

/// The engine of a store on disk.
pub type DiskEngine = Engine<MmapMemory, SegmentFiles>;

/// What the manifest says, and what it has to go on saying.
#[derive(Debug)]
pub struct LiveManifest {
    /// Segments that are named though they are not there: they may come back.
    missing: Vec<SegmentId>,
    state: Mutex<State>,
    /// Dropped, and maybe still mapped. Replaced under the lock of the state, and read without one:
    /// statistics do not wait.
    retained: Published<Vec<Dropped>>,
}

#[derive(Clone, Debug)]
struct Dropped {
    segment: Weak<Segment<MmapMemory>>,
    since: Instant,
    disk_bytes: u64,
}

/// A segment that was given up and is still mapped.
#[derive(Debug)]
pub struct Retained {
    /// It.
    pub segment: Arc<Segment<MmapMemory>>,
    /// How long ago that was.
    pub age: Duration,
    /// Bytes that were allocated to its file.
    pub disk_bytes: u64,
}

#[derive(Debug)]
struct State {
    /// What the manifest named last.
    named: Vec<SegmentId>,
    /// The sequence that it called next.
    floor: Sequence,
    /// Dropped, and their files may still come back with a power cut.
    dropped: Vec<SegmentId>,
    /// The incarnation that it named last.
    incarnation: u64,
}

impl LiveManifest {
    /// For a store with this manifest, of whose segments some are not there. `rebuilt`:
    /// it is not on disk.
    #[must_use]
    pub fn new(missing: Vec<SegmentId>, manifest: &Manifest, rebuilt: bool) -> Self {
        let floor = if rebuilt { Sequence(0) } else { manifest.next_sequence };
        let (named, dropped) = (manifest.segments.clone(), manifest.dropped.clone());
        let incarnation = manifest.meta.incarnation;
        let state = Mutex::new(State { named, floor, dropped, incarnation });
        Self { missing, state, retained: Published::new(Vec::new()) }
    }

    /// Segments that the manifest names and that are not there.
    pub fn missing(&self) -> &[SegmentId] {
        &self.missing
    }

    /// Writes the manifest if the log has segments that it does not name yet.
    pub fn update(&self, engine: &DiskEngine) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let (floor, named) = self.names(engine, &[]);
        let is_new = state.incarnation != engine.log().source().incarnation();
        if is_new || state.named != named || state.floor != floor {
            Self::write(engine, &mut state, (floor, named), &[])?;
        }
        Ok(())
    }

    /// Begins a new incarnation: for a recovery that is about to give up writes that a reader may
    /// have seen, before it makes that permanent. Otherwise a crash in between would hide that
    /// they were given up. `manifest` is the one that was found.
    ///
    /// If the disk is full the next manifest names the new incarnation.
    pub fn begin_incarnation(
        &self,
        files: &SegmentFiles,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        files.begin_incarnation();
        let (segments, dropped) = (manifest.segments.clone(), manifest.dropped.clone());
        match files.write_manifest(manifest.next_sequence, segments, dropped) {
            Ok(()) => lock(&self.state).incarnation = files.incarnation(),
            Err(Error::StorageFull) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Drops segments: in one durable step the manifest stops naming them, then their files are
    /// unlinked ([`SegmentFiles::remove_files`]). Nothing in them may be needed any more, and that
    /// must be durable [D9].
    ///
    /// After an error they may be gone from the manifest or not; they stay in the log.
    pub fn drop_segments(
        &self,
        engine: &DiskEngine,
        victims: &[Arc<Segment<MmapMemory>>],
        _covered: Covered,
    ) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let gone: Vec<_> = victims.iter().map(|segment| segment.id()).collect();
        let (floor, named) = self.names(engine, &gone);
        Self::write(engine, &mut state, (floor, named), &gone)?;
        self.retain(engine, victims);
        engine.log().mark_dropped(victims);
        state.dropped.extend(gone);
        // A file that stays is named as dropped, and the next opening removes it.
        engine.log().source().remove_files(&mut state.dropped).unwrap_or(());
        Ok(())
    }

    /// Remembers segments for as long as somebody has them mapped. The caller holds the lock of the
    /// state.
    fn retain(&self, engine: &DiskEngine, victims: &[Arc<Segment<MmapMemory>>]) {
        let since = Instant::now();
        let files = engine.log().source();
        let dropped = victims.iter().map(|victim| {
            let disk_bytes = files.disk_bytes(victim);
            engine.log().count_out(victim);
            Dropped { segment: Arc::downgrade(victim), since, disk_bytes }
        });
        let guard = engine.epoch().pin();
        let before = self.retained.read(&guard).iter();
        let before = before.filter(|dropped| dropped.segment.strong_count() > 0).cloned();
        self.retained.replace(&guard, before.chain(dropped).collect());
    }

    /// Calls back while no segment leaves: what is read of the log meanwhile holds all of a dropped
    /// group, or nothing of it.
    pub fn while_none_leaves<R>(&self, read: impl FnOnce() -> R) -> R {
        let _state = lock(&self.state);
        read()
    }

    /// The segments that were given up and that somebody still has mapped.
    pub fn retained(&self, engine: &DiskEngine) -> Vec<Retained> {
        let still = |dropped: &Dropped| {
            let segment = dropped.segment.upgrade()?;
            let age = dropped.since.elapsed();
            Some(Retained { segment, age, disk_bytes: dropped.disk_bytes })
        };
        let guard = engine.epoch().pin();
        self.retained.read(&guard).iter().filter_map(still).collect()
    }

    /// What the manifest is to call next, and which segments it is to name. In this order: what is
    /// installed in between has at least the sequence that is called next, and need not be named;
    /// the other way round it would be neither [K1].
    fn names(&self, engine: &DiskEngine, without: &[SegmentId]) -> (Sequence, Vec<SegmentId>) {
        let guard = engine.epoch().pin();
        let floor = engine.log().floor(&guard);
        let in_use = engine.log().in_use(&guard).map(Segment::id);
        let younger = |id: &SegmentId| id.role == Role::Log && id.sequence >= floor;
        let mut named: Vec<_> = in_use.filter(|id| !without.contains(id) && !younger(id)).collect();
        named.extend(&self.missing);
        named.sort_by_key(|id| id.sequence);
        named.dedup_by_key(|id| id.sequence);
        (floor, named)
    }

    fn write(
        engine: &DiskEngine,
        state: &mut State,
        (floor, named): (Sequence, Vec<SegmentId>),
        gone: &[SegmentId],
    ) -> Result<(), Error> {
        let dropped = state.dropped.iter().chain(gone).copied().collect();
        let files = engine.log().source();
        let incarnation = files.incarnation();
        // Until this has ended well nobody knows what the manifest says: the next update writes it.
        state.floor = Sequence(0);
        files.write_manifest(floor, named.clone(), dropped)?;
        *state = State { named, floor, dropped: std::mem::take(&mut state.dropped), incarnation };
        Ok(())
    }
}

/// Removes the files of segments that a manifest says are dropped: at opening.
pub fn remove_dropped(files: &SegmentFiles, dropped: &[SegmentId]) -> Result<(), Error> {
    if dropped.is_empty() {
        return Ok(());
    }
    // The process that wrote that manifest may have been killed before it was on the device under
    // its name: the one before it still needs them.
    let path = files.directory().path();
    files.directory().sync().at(path)?;
    // What cannot be removed goes on being named as dropped.
    files.remove_files(&mut dropped.to_vec()).at(path)
}
