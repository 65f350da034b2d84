//! What survives power loss: flushing, the durable end, and what a failed flush does.
//!
//! Threads that need a flush share it: [`group_commit`].
//!
//! A flush walks the slots that are not known to be flushed, in LSN order. A slot whose writer is
//! still at work gets a moment; after that the flush voids it by compare-exchange
//! (`wait_or_void`), and its writer, whose commit then fails, writes again: a stopped writer holds
//! nothing back.
//!
//! The rules [D1] to [D10] are in DESIGN.md 8, but for [D4], which is in [`group_commit`].

mod copies;
mod group_commit;
#[cfg(all(test, not(stratalog_loom)))]
mod tests;

pub use copies::Covered;
pub use group_commit::GroupCommit;

use crate::concurrency::sync::unmodelled::Arc;
use crate::concurrency::sync::yield_now;
use crate::engine::Engine;
use crate::error::Error;
use crate::format::header::FlushNote;
use crate::format::ids::{Lsn, SlotNumber};
use crate::format::slot::SlotState;
use crate::log::Source;
use crate::memory::Memory;
use crate::os::time::Instant;
use crate::segment::{Mark, Segment};
use group_commit::{FlushScope, Wakes};
use std::time::Duration;

/// How often a flush yields to the writers of a segment, all together, before it voids the slots
/// that they have reserved and not committed: all were reserved before it began to wait.
const YIELDS_MAX: u32 = 200;
/// Multiplies the yields, once for each time that a write in progress was voided before.
const PATIENCE: u32 = 4;
/// Bounds how many of those voids count.
const RETRIES_MAX: u64 = 6;
/// Bounds the wait in time: on a busy machine a yield may take milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The flush state of a store.
#[derive(Debug, Default)]
pub struct Flusher {
    /// The boot under which flushes are noted in the segments.
    boot_id: [u64; 2],
    group: GroupCommit,
}

impl Flusher {
    /// The flush state of a store that is open under this boot.
    #[must_use]
    pub fn new(boot_id: [u64; 2]) -> Self {
        Self { boot_id, ..Self::default() }
    }

    /// Turns, waiting tasks, and what is durable.
    pub fn group(&self) -> &GroupCommit {
        &self.group
    }

    /// As [`GroupCommit::check`].
    pub fn check(&self) -> Result<(), Error> {
        self.group.check()
    }

    /// As [`GroupCommit::durable`].
    pub fn durable(&self) -> Lsn {
        self.group.durable()
    }

    /// Notes that a segment is durable up to `slots`, as are all before it.
    pub fn advance<M: Memory>(&self, segment: &Segment<M>, slots: u32) {
        if let Some(last) = slots.checked_sub(1) {
            self.group.raise(Lsn::new(segment.sequence(), SlotNumber(last)));
        }
    }

    /// Makes all that was committed before the call durable.
    pub fn sync<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.group.wait(None, Wakes::Here, || self.flush_log(engine, FlushScope::All))
    }

    /// Waits until a record that was committed before the call is durable.
    pub fn wait<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        lsn: Lsn,
    ) -> Result<(), Error> {
        self.group.wait(Some(lsn), Wakes::Here, || self.flush_log(engine, FlushScope::All))
    }

    /// As [`Flusher::sync`], by a flush of its own; and calls `then` before another one begins,
    /// so that how far each segment was flushed is of one moment: a prefix in LSN order.
    pub fn sync_and_then<M: Memory, S: Source<M>, R, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        then: impl FnOnce() -> R,
    ) -> Result<R, Error> {
        self.group.flush_alone(|| self.flush_log(engine, FlushScope::All).map(|()| then()))
    }

    /// As [`Flusher::sync`], for the compactor, which wakes no tasks: one may drop the store.
    pub fn sync_for_compaction<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.group.wait(None, Wakes::Flusher, || self.flush_log(engine, FlushScope::All))
    }

    /// The flusher thread: flushes for tasks, and every `interval`. Returns after
    /// [`GroupCommit::stop`].
    pub fn run<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        interval: Option<Duration>,
    ) {
        self.group.run(interval, |extent| self.flush_log(engine, extent));
    }

    fn flush_log<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        extent: FlushScope,
    ) -> Result<(), Error> {
        self.check()?;
        let gone = engine.log().last_gone();
        // In LSN order, and none behind one that is not full [D5].
        let wanted =
            |segment: &Arc<Segment<M>>| extent == FlushScope::All || segment.filling().is_full();
        for segment in to_flush(engine).into_iter().take_while(wanted) {
            self.sync_segment(engine, &segment)?;
        }
        // The caller that was given one of those LSNs may still wait for it; every earlier segment
        // is durable now.
        if extent == FlushScope::All && gone > self.durable() {
            self.group.raise(gone);
        }
        Ok(())
    }

    /// Makes the durable ends themselves durable, and wakes who still waits: for closing.
    pub fn close<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        let flushed = self.flush_durable_ends(engine);
        self.group.close();
        flushed
    }

    fn flush_durable_ends<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.sync(engine)?;
        self.group.flush_alone(|| {
            for segment in to_flush(engine) {
                self.flush_header(&segment)?;
                segment.durable().set_settled(true);
            }
            Ok(())
        })
    }

    fn sync_segment<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        segment: &Segment<M>,
    ) -> Result<(), Error> {
        // Whether any later reservation can be granted, asked before the end is read: if not, the
        // durable end stored below is this segment's last one.
        let full = segment.filling().is_full();
        let began = Instant::now();
        let mark = wait_or_void(segment, yields_max(engine.retries()), || {
            yield_now();
            began.elapsed() < WAIT_MAX
        });
        if full {
            // Who found the segment full may not have come to note it. Every slot that was granted
            // lies below the mark [D5]; so may some that were not.
            segment.filling().seal_unless_sealed(mark.slot);
        }
        if mark.slot > segment.durable().flushed().slot {
            if segment.durable().flushed().slot == 0 {
                segment.durable().confirm_predecessor();
            }
            segment.durable().before_flush(mark);
            self.flush(segment)?;
            segment.durable().set_flushed(mark);
            segment.durable().set_durable_end(mark.slot);
            segment.durable().set_settled(false);
            self.advance(segment, mark.slot);
        } else if full && !segment.durable().is_settled() {
            self.flush_header(segment)?;
            segment.durable().set_settled(true);
        }
        Ok(())
    }

    /// A flush of new records. The first failure is the last one [D3]. The segment says meanwhile
    /// that a flush has begun: a process that is killed inside the call may be the only one that
    /// the kernel tells of a failure.
    pub fn flush<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        self.check()?;
        segment.durable().note_flush(FlushNote::Begun, self.boot_id);
        self.flush_header(segment)?;
        segment.durable().note_flush(FlushNote::Ended, self.boot_id);
        Ok(())
    }

    /// A flush where only control words of the header are new, which an opening can do without.
    fn flush_header<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        self.check()?;
        segment.memory().flush().map_err(|error| {
            segment.durable().note_flush(FlushNote::Failed, self.boot_id);
            self.group.fail(&error)
        })
    }
}

fn to_flush<M: Memory, S: Source<M>, const N: usize>(
    engine: &Engine<M, S, N>,
) -> Vec<Arc<Segment<M>>> {
    let guard = engine.epoch().pin();
    engine.log().to_flush(&guard)
}

/// Has every granted slot that is not flushed decided, and returns where they end. Calls `wait` at
/// most `most` times, or until it is `false`, while writers are still at work. Then it voids their
/// slots.
fn wait_or_void<M: Memory>(segment: &Segment<M>, most: u32, wait: impl Fn() -> bool) -> Mark {
    let mut slots =
        segment.directory().slots_from(segment.durable().flushed(), segment.filling().slots_end());
    let mut waits = 0;
    while let Some((slot, mut state)) = slots.next() {
        while matches!(state, SlotState::Empty | SlotState::Pending(..)) {
            if waits < most {
                waits = if wait() { waits + 1 } else { most };
            } else if state == SlotState::Empty {
                segment.directory().void_if_empty(slot);
            } else {
                segment.directory().void_if_pending(slot);
            }
            state = segment.directory().slot(slot);
        }
        slots.update(&state);
    }
    slots.mark()
}

/// Returns how often a flush yields while writes in progress were voided this many times before.
fn yields_max(retries: u64) -> u32 {
    YIELDS_MAX * PATIENCE.pow(retries.min(RETRIES_MAX) as u32)
}
