//! Segments ahead of need, and their pages ahead of the writers.
//!
//! The kernel writes back whole folios, and makes a page that a writer meets unmade in 4 us. So
//! what a segment's pages are to be depends on how it is filled:
//!
//! - *Large*: a flush finds several huge pages full of records. They are made in a sixth of the
//!   time, and a flush writes little that is not new.
//! - *Written*: flushes are small, and writers wait for them. Pages are made one by one, so that a
//!   flush writes no more than was stored, and their blocks are written ahead, so that it need not
//!   note in the file system's journal that they are.
//! - *Small*: flushes are small, and nobody waits: pages one by one, when they are met.

use super::StoreCore;
use crate::concurrency::sync::unmodelled::{AtomicBool, Ordering, thread};
use crate::disk::DiskEngine;
use crate::durability::Flusher;
use crate::error::{At, Error};
use crate::format::ids::Sequence;
use crate::log::PREALLOCATED_MAX;
use crate::memory::{Folios, Memory, MmapMemory};
use crate::os::time::Instant;
use crate::segment::Segment;
use std::time::Duration;

/// Large pages are made so many bytes at a time, which is one of them.
const LARGE_STEP: usize = 2 << 20;
/// Written ones: a writer's flush beside it takes no more of them along than this.
const WRITTEN_STEP: usize = 256 << 10;
/// How long device, or memory, is left to the writers between two such steps.
const NAP: Duration = Duration::from_millis(2);
/// A flush that finds so many bytes of new records, twice a large page for each of the two places
/// that a segment grows at, may as well write large pages.
const LARGE_FROM: u64 = 4 << 20;
/// Flushes that show that there are no such any more.
const FLUSHES: u64 = 4;
/// The part of a new segment whose blocks are written at once: the rest follows when the segment
/// is seen to be used.
const FIRST_PART: usize = 8;

/// A log that rolled within this time gets as many preallocated segments as there may be: a burst
/// fills one faster than the next can be made. Any other gets one, and a small store none.
const BURST: Duration = Duration::from_secs(10);

/// What a segment's pages are made to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    Large,
    Written,
    Small,
}

/// How fast the log rolls, and how much a flush finds.
#[derive(Debug, Default)]
pub struct GrowthRate {
    /// Whether it was looked at: what an opening found was not written at any pace.
    has_observed: bool,
    /// The active segment, when it was last looked at, and how much of it was taken.
    active: Option<(Sequence, u64)>,
    /// When it was seen to have taken over from another one.
    rolled: Option<Instant>,
    /// Bytes taken since this many flushes had begun.
    bytes: u64,
    flushes: u64,
    large: bool,
}

impl GrowthRate {
    /// Looks at the log again.
    fn observe(&mut self, engine: &DiskEngine, flusher: &Flusher) {
        let guard = engine.epoch().pin();
        let active = engine.log().active(&guard).map(|s| (s.sequence(), s.filling().frame_bytes()));
        let grown = match (self.active, active) {
            (Some((before, taken)), Some((now, bytes))) if before == now => {
                bytes - taken.min(bytes)
            }
            (Some((before, taken)), Some((now, bytes))) if before < now => {
                self.rolled = Some(Instant::now());
                engine.log().geometry().segment_bytes as u64 - taken + bytes
            }
            (_, Some((_, bytes))) => bytes,
            (_, None) => 0,
        };
        self.active = active;
        if std::mem::replace(&mut self.has_observed, true) {
            self.count(grown, flusher.group().flushes());
        }
    }

    /// So much more was written, and so many flushes have begun in all.
    fn count(&mut self, grown: u64, flushes: u64) {
        self.bytes += grown;
        let large = self.bytes >= LARGE_FROM * (flushes - self.flushes + 1);
        if large || flushes - self.flushes >= FLUSHES {
            *self = Self { large, bytes: 0, flushes, ..*self };
        }
    }

    /// Returns how many segments are to be preallocated now.
    fn ahead(&self, engine: &DiskEngine) -> usize {
        if self.rolled.is_some_and(|at| at.elapsed() < BURST) {
            PREALLOCATED_MAX
        } else {
            usize::from(engine.log().nears_roll(&engine.epoch().pin()))
        }
    }

    fn pages(&self, synced: bool) -> Pages {
        match (self.large, synced) {
            (true, _) => Pages::Large,
            (false, true) => Pages::Written,
            (false, false) => Pages::Small,
        }
    }
}

/// Preallocates segments for a store.
#[derive(Debug)]
pub struct Preallocator<'a> {
    /// The store.
    pub core: &'a StoreCore,
    /// Whether the store is being closed.
    pub stop: &'a AtomicBool,
}

impl Preallocator<'_> {
    /// Preallocates one segment, if it is wanted. Whether there may be more to preallocate.
    pub fn preallocate(&self, growth: &mut GrowthRate) -> Result<bool, Error> {
        let engine = &self.core.engine;
        growth.observe(engine, &self.core.flusher);
        // The room that is kept back goes first, and where there is little not much is hoarded.
        let keeps_room = engine.log().keeps_room(&engine.epoch().pin());
        let scarce = keeps_room && engine.log().source().keep_spares()?;
        let pages = growth.pages(self.core.synced);
        self.catch_up(pages);
        let wanted = growth.ahead(engine);
        let wanted = if scarce { wanted.min(1) } else { wanted };
        if engine.log().preallocated() >= wanted {
            return Ok(false);
        }
        // Without a pin: this takes long.
        let preallocated = engine.log().preallocate(engine.epoch(), |segment| {
            if pages == Pages::Written {
                // If a block of it cannot be written, nobody is to have it.
                self.make(segment, pages, 0)?;
            }
            Ok(!self.is_late(segment))
        })?;
        if let Some(segment) = preallocated
            && pages != Pages::Written
        {
            // The writers have the file already, and need not make one if they are faster.
            self.make(&segment, pages, 0)?;
        }
        Ok(!self.stopped())
    }

    fn stopped(&self) -> bool {
        // Acquire: pairs with the Release in the drop of `BackgroundThreads`.
        self.stop.load(Ordering::Acquire)
    }

    /// Returns whether no writer comes to the segment any more: it is full, or they made a younger
    /// one.
    fn is_late(&self, segment: &Segment<MmapMemory>) -> bool {
        let guard = self.core.engine.epoch().pin();
        let active = self.core.engine.log().active(&guard).map(Segment::sequence);
        active > Some(segment.sequence()) || segment.filling().is_full()
    }

    /// Returns whether it is the one that the writers come to next, or are at.
    fn is_urgent(&self, segment: &Segment<MmapMemory>) -> bool {
        let guard = self.core.engine.epoch().pin();
        !self.core.engine.log().has_preallocated_before(&guard, segment.sequence())
    }

    /// Makes pages of the active segment, if it was not preallocated: a writer made it. The flushes
    /// of the writers take along what this dirties.
    fn catch_up(&self, pages: Pages) {
        let (log, guard) = (self.core.engine.log(), self.core.engine.epoch().pin());
        let Some(active) = log.active(&guard) else { return };
        let Some(active) = log.table().get_arc(&guard, active.table_index()) else { return };
        let bytes = active.memory().len();
        let down_to = match pages {
            Pages::Written if !log.nears_roll(&guard) => bytes - bytes / FIRST_PART,
            // Only once it is known to be needed.
            Pages::Large if !log.nears_roll(&guard) => return,
            _ => 0,
        };
        drop(guard);
        // Where it cannot be done, the writers' faults do it.
        self.make(&active, pages, down_to).unwrap_or(());
    }

    /// Makes a segment's pages, from its end, where the frames begin, downwards, those left out
    /// that are taken or were made before.
    fn make(
        &self,
        segment: &Segment<MmapMemory>,
        pages: Pages,
        down_to: usize,
    ) -> Result<(), Error> {
        let memory = segment.memory();
        let bytes = memory.len();
        let (folios, step) = match pages {
            Pages::Large => (Folios::Large, LARGE_STEP),
            Pages::Written => (Folios::Small, WRITTEN_STEP),
            Pages::Small => {
                memory.prefer(Folios::Small);
                return Ok(());
            }
        };
        if memory.made_from() <= down_to {
            return Ok(());
        }
        memory.prefer(folios);
        let first = (memory.made_from() == bytes).then_some(0);
        let rest = (down_to.max(step)..memory.made_from()).rev().step_by(step);
        for at in first.into_iter().chain(rest.map(|last| last / step * step)) {
            if self.stopped() || self.is_late(segment) {
                return Ok(());
            }
            if pages == Pages::Large && !self.is_urgent(segment) {
                // Zeroing takes half of the memory's bandwidth, which is the writers'.
                thread::park_timeout(NAP);
            }
            // A burst makes the index grow as well; what it outgrew is not to wait for all pages.
            self.core.engine.epoch().reclaim();
            // Looked at again each time: the writers may be faster.
            let taken = segment.filling().frame_bytes() as usize;
            if at < bytes - taken {
                if memory.populate(at, step.min(bytes - at)).is_err() {
                    // A kernel that cannot do it leaves it to the writers' faults.
                    return Ok(());
                }
                if pages == Pages::Written {
                    self.write_ahead(segment)?;
                }
            }
            if at > 0 || bytes <= step {
                memory.set_made_from(at);
            }
        }
        if down_to == 0 {
            memory.set_made_from(0);
        }
        Ok(())
    }

    /// Has the blocks of the pages written that were made just now, at a pace that leaves the
    /// device to the writers' flushes while there is time.
    fn write_ahead(&self, segment: &Segment<MmapMemory>) -> Result<(), Error> {
        let guard = self.core.engine.epoch().pin();
        let active = self.core.engine.log().active(&guard);
        let bytes = segment.memory().len() as u64;
        let hurry = active.is_some_and(|active| active.filling().frame_bytes() > bytes / 2);
        let is_active = active.map(Segment::sequence) == Some(segment.sequence());
        drop(guard);
        if !is_active && segment.filling().taken().slots == 0 {
            // Nobody has the segment yet: if this fails, it is never used. The active one's are
            // taken along by the flushes of its writers, which alone may be told of a failure
            // [D10]; so are those of one that was active when its pages were begun.
            let path = self.core.engine.log().source().directory().path();
            segment.memory().flush().at(path)?;
        }
        if !hurry {
            thread::park_timeout(NAP);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_are_for_flushes_that_find_much() {
        let mut growth = GrowthRate::default();
        assert_eq!(growth.pages(true), Pages::Written, "nothing is known yet");
        assert_eq!(growth.pages(false), Pages::Small, "nothing is known yet");
        growth.count(8 << 20, 1);
        assert_eq!((growth.pages(true), growth.pages(false)), (Pages::Large, Pages::Large));
        // One flush that finds little shows nothing, several do.
        growth.count(4096, 2);
        assert_eq!(growth.pages(true), Pages::Large);
        for flush in 3..=5 {
            growth.count(4096, flush);
        }
        assert_eq!((growth.pages(true), growth.pages(false)), (Pages::Written, Pages::Small));
        // Much at once, among many flushes that find little, is not much for each.
        growth.count(8 << 20, 8);
        assert_eq!(growth.pages(true), Pages::Written);
        growth.count(8 << 20, 8);
        assert_eq!(growth.pages(true), Pages::Large);
    }
}
