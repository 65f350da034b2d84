//! Flushing the copies that compaction makes (`background/compaction/copy.rs`). They touch other
//! segments than the log's flushes and share nothing with them but the first failure, so nobody who
//! waits for the log waits for copies.
//!
//! A segment is dropped only by a caller that shows a [`Covered`] [D9].

use super::Flusher;
use super::group_commit::{FlushScope, Wakes};
use crate::engine::Engine;
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::{Lsn, SlotNumber};
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::Segment;

/// Shows that what dropped segments leave behind is on the device [D9].
#[derive(Debug)]
#[must_use = "it is needed to drop segments"]
pub struct Covered(());

impl Flusher {
    /// Brings copies to the device that nothing leads to yet: before records are moved [R3].
    pub fn flush_copies<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        segment.durable().before_flush(segment.directory().end_mark());
        self.flush(segment)
    }

    /// Brings everything to the device that dropping segments relies on: the log up to `needs`, and
    /// every segment for copies that is not settled [D9]. For the compactor, after it has moved
    /// what it means to move.
    pub fn cover<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        needs: Lsn,
    ) -> Result<Covered, Error> {
        self.group.wait(Some(needs), Wakes::Flusher, || self.flush_log(engine, FlushScope::All))?;
        let copies = {
            let guard = engine.epoch().pin();
            let copies = engine.log().table().unsettled(&guard);
            let copies =
                copies.filter(|s| s.role() == Role::Copies && !s.reclamation().is_dropped());
            engine.log().counted(&guard, copies)
        };
        for segment in copies {
            self.sync_copies(&segment)?;
        }
        Ok(Covered(()))
    }

    /// Flushes a segment for copies after records were moved to it, and records that. A closed one
    /// returns the space between its slots and its frames, and is settled.
    pub fn sync_copies<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        if segment.durable().is_settled() {
            return Ok(());
        }
        let mark = segment.directory().end_mark();
        segment.durable().before_flush(mark);
        self.flush(segment)?;
        segment.durable().set_durable_end(mark.slot);
        segment.durable().set_flushed(mark);
        if segment.filling().is_full() {
            let from = segment.directory().slot_offset(SlotNumber(mark.slot));
            // Where the file system cannot do it, the space stays allocated. Nothing may be stored
            // after it: a store to a large folio allocates all of that again.
            segment.memory().punch_hole(from, mark.floor.bytes()).unwrap_or(());
            self.flush_header(segment)?;
            segment.durable().set_settled(true);
        }
        Ok(())
    }
}
