//! What survives power loss: flushing, the durable end, and what a failed flush does.
//!
//! `sync` covers what was committed when it was called. It walks the slots that are not known to
//! be flushed, in LSN order. A slot whose writer is still at work gets a moment; after that it is
//! voided by compare-exchange, and its writer, whose commit then fails, appends again: a stopped
//! writer holds nothing back. A pending slot is a write that the index has all but decided; it
//! gets as long as it needs.
//!
//! D1: a slot below `Segment::flushed` was decided before a flush that ended well began.
//! D2: the durable end in a header is stored after the flush it speaks of ended well, so on the
//! device it lags by one flush and is never ahead of the data.
//! D3: after a flush failed, no later one is tried: the kernel reports such an error once, and may
//! have dropped the data.

use crate::engine::Engine;
use crate::error::Error;
use crate::files::lock;
use crate::format::ids::{Lsn, SlotNumber};
use crate::format::slot::SlotState;
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::{Mark, Segment};
use crate::sync::unmodelled::{Arc, AtomicU64, Mutex, OnceLock, Ordering, thread};

/// How often `sync` yields to a writer between its reservation and its commit before it voids the
/// slot.
const YIELDS_MAX: u32 = 200;

/// The flush state of a store.
#[derive(Debug, Default)]
pub struct Durability {
    flushing: Mutex<()>,
    failed: OnceLock<String>,
    durable: AtomicU64,
}

impl Durability {
    /// Refuses once a flush has failed: for everything that writes.
    pub fn check(&self) -> Result<(), Error> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(Error::FlushFailed(reason.clone())),
        }
    }

    /// Everything with this LSN or a lower one survives power loss.
    pub fn durable(&self) -> Lsn {
        // Acquire: pairs with the Release in `advance`.
        Lsn::from_u64(self.durable.load(Ordering::Acquire))
    }

    /// Notes that a segment is durable up to `slots`, as are all before it.
    pub fn advance<M: Memory>(&self, segment: &Segment<M>, slots: u32) {
        if let Some(last) = slots.checked_sub(1) {
            let lsn = Lsn::new(segment.sequence(), SlotNumber(last));
            // Release: pairs with the Acquire in `durable`. Only grows.
            self.durable.fetch_max(lsn.as_u64(), Ordering::Release);
        }
    }

    /// Makes all that was committed before the call durable.
    pub fn sync<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        let flushing = lock(&self.flushing);
        self.check()?;
        for segment in unflushed(engine) {
            self.sync_segment(&segment)?;
        }
        drop(flushing);
        Ok(())
    }

    /// Makes the durable ends themselves durable: for closing.
    pub fn settle<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.sync(engine)?;
        let flushing = lock(&self.flushing);
        self.check()?;
        for segment in unflushed(engine) {
            self.flush(&segment)?;
            segment.set_settled(true);
        }
        drop(flushing);
        Ok(())
    }

    fn sync_segment<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        // Whether any later reservation can be granted, asked before the end is read: if not, the
        // durable end stored below is this segment's last one.
        let full = segment.is_full();
        let mark = decide_all(segment, segment.flushed());
        if mark.slot > segment.flushed().slot {
            self.flush(segment)?;
            segment.set_flushed(mark);
            segment.set_durable_end(mark.slot);
            segment.set_settled(false);
            self.advance(segment, mark.slot);
        } else if full && !segment.is_settled() {
            self.flush(segment)?;
            segment.set_settled(true);
        }
        Ok(())
    }

    /// One flush. The first failure is the last one [D3].
    pub fn flush<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        segment.memory().flush().map_err(|error| {
            let reason = self.failed.get_or_init(|| error.to_string());
            Error::FlushFailed(reason.clone())
        })
    }
}

/// The segments that a flush has something to do in, in LSN order, with counts of their own: a
/// flush is no reason to hold a pin.
fn unflushed<M: Memory, S: Source<M>, const N: usize>(
    engine: &Engine<M, S, N>,
) -> Vec<Arc<Segment<M>>> {
    let guard = engine.epoch().pin();
    let table = engine.log().table();
    let mut segments: Vec<_> = engine
        .log()
        .in_use(&guard)
        .filter(|segment| !segment.is_settled() || segment.flushed().slot < segment.slots_end())
        .filter_map(|segment| table.get_counted(&guard, segment.table_index()))
        .collect();
    segments.sort_by_key(|segment| segment.sequence());
    segments
}

/// Sees to it that every granted slot from a mark on is decided; how far it came.
fn decide_all<M: Memory>(segment: &Segment<M>, from: Mark) -> Mark {
    let mut slots = segment.slots_from(from, segment.slots_end());
    for (slot, mut state) in slots.by_ref() {
        let mut yields = 0;
        while matches!(state, SlotState::Empty | SlotState::Pending(..)) {
            if yields >= YIELDS_MAX && state == SlotState::Empty {
                segment.void_if_empty(slot);
            } else {
                thread::yield_now();
                yields += 1;
            }
            state = segment.slot(slot);
        }
    }
    slots.mark()
}
