//! The segments that take a compaction's copies: made when the first copy needs one, and closed
//! when they are full or the run ends [R9].

use super::{Compactor, DiskSegment, Stopped};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{Arc, Mutex};
use crate::engine::Relocation;
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::{Lsn, Sequence, UNIT_BYTES};
use crate::format::slot::{Kind, SLOT_BYTES, SlotBody};
use crate::segment::Frame;
use std::collections::BTreeSet;

/// The segments that copies go to: open from one group to the next.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// For records.
    records: Option<Arc<DiskSegment>>,
    /// For tombstones, apart from the records, so that looking again whether they are still needed
    /// moves nothing else.
    tombstones: Option<Arc<DiskSegment>>,
    /// Follows when one of them is full; made before what may not fit is copied.
    pub(super) next: Option<Arc<DiskSegment>>,
    /// Full, and not known to be flushed for the last time.
    ended: Vec<Arc<DiskSegment>>,
    /// Segments of these in which a copy came into force. All others hold nothing.
    in_force: BTreeSet<Sequence>,
}

/// A copy without force, and where it came from.
#[derive(Debug)]
pub(super) struct Copied {
    /// Which segment of the group it was copied from.
    pub(super) victim: usize,
    pub(super) output: Arc<DiskSegment>,
    pub(super) copy: Relocation,
}

impl Compactor<'_> {
    /// Copies a frame to the segment for its kind; to another one if that is full.
    pub(super) fn copy_frame(
        &self,
        (from, frame): (&DiskSegment, &Frame<'_>),
        (kind, body): (Kind, SlotBody),
        outputs: &Mutex<&mut Outputs>,
    ) -> Result<Copied, Stopped> {
        loop {
            let output = self.output(kind, &mut lock(outputs))?;
            if let Some(copy) = self.core.engine.copy_record((from, frame), kind, body, &output)? {
                return Ok(Copied { victim: 0, output, copy });
            }
            let mut outputs = lock(outputs);
            // Unless another thread was faster.
            let full = outputs.output_for(kind).take_if(|now| Arc::ptr_eq(now, &output));
            outputs.ended.extend(full);
        }
    }

    /// The segment for copies of this kind; made if need be, and named before it is used.
    fn output(&self, kind: Kind, outputs: &mut Outputs) -> Result<Arc<DiskSegment>, Error> {
        if let Some(output) = outputs.output_for(kind) {
            return Ok(Arc::clone(output));
        }
        let made = outputs.next.take().map_or_else(|| self.make_output(outputs), Ok);
        let made = match (made, outputs.open()) {
            // Better together than not at all.
            (Err(Error::StorageFull), Some(other)) => other,
            (made, _) => made?,
        };
        *outputs.output_for(kind) = Some(Arc::clone(&made));
        if let Err(error) = self.core.live_manifest.update(&self.core.engine) {
            // Nobody is to come back to one that is not named, but who has it named first.
            let unnamed = outputs.output_for(kind).take();
            outputs.ended.extend(unnamed.filter(|unnamed| unnamed.filling().taken().slots > 0));
            return Err(error);
        }
        Ok(made)
    }

    /// One that was made before and could not be named, or a new one: while no manifest can be
    /// written, each try would leave another one.
    pub(super) fn make_output(&self, outputs: &Outputs) -> Result<Arc<DiskSegment>, Error> {
        let guard = self.core.engine.epoch().pin();
        let unused = self.unused_outputs(&guard, outputs).pop();
        unused.map_or_else(|| self.core.engine.log().make_for_copies(&guard), Ok)
    }

    /// Those that were made before and could not be named.
    fn unused_outputs(&self, guard: &Guard, outputs: &Outputs) -> Vec<Arc<DiskSegment>> {
        let unused = |segment: &DiskSegment| {
            segment.role() == Role::Copies
                && segment.checks().is_created_here()
                && segment.filling().taken().slots == 0
        };
        let mut unused = self.core.engine.log().in_use_arcs(guard, unused);
        unused.retain(|segment| !outputs.hold(segment));
        unused
    }

    /// Drops them, once a run has ended well that had no need of them.
    pub(super) fn drop_unused_outputs(&self, outputs: &Outputs) -> Result<(), Error> {
        let unused = self.unused_outputs(&self.core.engine.epoch().pin(), outputs);
        unused.iter().try_for_each(|segment| self.finish_one(segment, false))
    }

    /// Step 3: what was copied is on the device before anything leads to it.
    pub(super) fn flush_outputs(&self, outputs: &Outputs) -> Result<(), Error> {
        outputs.all().try_for_each(|output| self.core.flusher.flush_copies(output))
    }

    /// Closes the segments that took copies: they take no more, and return what is empty between
    /// their slots and their frames.
    pub(super) fn finish_outputs(&self, outputs: &mut Outputs) -> Result<(), Error> {
        let open = [outputs.records.take(), outputs.tombstones.take(), outputs.next.take()];
        outputs.ended.extend(open.into_iter().flatten());
        self.finish_ended(outputs)
    }

    /// The same for the segment of tombstones alone, so that it can be looked through again.
    pub(super) fn close_tombstones(&self, outputs: &mut Outputs) -> Result<(), Error> {
        outputs.ended.extend(outputs.tombstones.take());
        self.finish_ended(outputs)
    }

    /// The same for those that are full. One in which no copy came into force is dropped.
    pub(super) fn finish_ended(&self, outputs: &mut Outputs) -> Result<(), Error> {
        let mut done = Ok(());
        while let Some(output) = outputs.ended.last().cloned() {
            let shared = outputs.open_ones().any(|open| Arc::ptr_eq(open, &output));
            if !shared {
                // Whatever became of another one: nobody comes back to one that stays open, and
                // what dies in it would stay on disk.
                let its = self.finish_one(&output, outputs.in_force.contains(&output.sequence()));
                done = done.and(its);
                outputs.in_force.remove(&output.sequence());
            }
            outputs.ended.retain(|ended| !Arc::ptr_eq(ended, &output));
        }
        done
    }

    fn finish_one(&self, output: &Arc<DiskSegment>, in_force: bool) -> Result<(), Error> {
        if output.reclamation().is_dropped() {
            return Ok(());
        }
        output.filling().close();
        if in_force {
            return self.core.flusher.sync_copies(output);
        }
        let covered = self.core.flusher.cover(&self.core.engine, Lsn::ZERO)?;
        self.drop_victims(&[Arc::clone(output)], covered)
    }
}

impl Outputs {
    fn output_for(&mut self, kind: Kind) -> &mut Option<Arc<DiskSegment>> {
        match kind {
            Kind::Put => &mut self.records,
            Kind::Tombstone => &mut self.tombstones,
        }
    }

    /// Returns whether the live records of these segments fit what is left in the open one for
    /// records.
    pub(super) fn have_room_for(&self, victims: &[Arc<DiskSegment>], capacity: u64) -> bool {
        let sum = |of: fn(&DiskSegment) -> u64| victims.iter().map(|v| of(v)).sum::<u64>();
        let live = sum(|v| v.usage().live_bytes().saturating_sub(v.usage().expired_bytes()));
        let slots = sum(|v| u64::from(v.filling().slots_end()));
        let wanted = live + slots.min(live / UNIT_BYTES as u64) * SLOT_BYTES as u64;
        let left = |open: &Arc<DiskSegment>| {
            let taken = open.filling().taken();
            let directory = open.geometry().directory_at as u64 + taken.slots * SLOT_BYTES as u64;
            capacity.saturating_sub(directory + taken.units * UNIT_BYTES as u64)
        };
        wanted <= self.records.as_ref().map_or(0, left)
    }

    /// One that is open, whichever.
    fn open(&self) -> Option<Arc<DiskSegment>> {
        self.open_ones().find(|output| !output.filling().is_full()).cloned()
    }

    /// Notes where copies came into force.
    pub(super) fn note_in_force(&mut self, copied: &[Copied]) {
        self.in_force.extend(copied.iter().map(|copied| copied.output.sequence()));
    }

    fn open_ones(&self) -> impl Iterator<Item = &Arc<DiskSegment>> {
        self.records.iter().chain(&self.tombstones)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().chain(&self.next).next().is_none()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<DiskSegment>> {
        self.open_ones().chain(&self.ended)
    }

    fn hold(&self, segment: &Arc<DiskSegment>) -> bool {
        self.all().chain(&self.next).any(|held| Arc::ptr_eq(held, segment))
    }
}
