//! The life of a segment: how far writers, the device and compaction have come with it.
//!
//! Other modules rely on what somebody else has done with a segment: a flush on the writers, a
//! compaction on the flush, an opening on the process before it. This module is the one place that
//! says what has been done. It reads and writes the control words of the header page, with two
//! exceptions: `segment/writer` reserves on the cursor, which it gets from here, and
//! `recovery/failed_flush.rs` writes the note of a flush into a file that it copies.
//!
//! Three facts, each moved by one compare-exchange or one monotone store, so that a thread may be
//! stopped inside any transition and holds nobody up:
//!
//! - *Writers*: preallocated, active, sealed, quiet. `Log` says which segment is active; the first
//!   reservation that does not fit, or [`close`](Filling::close), seals; claims make it quiet.
//! - *Durable mark*: how many slots are decided and on the device, and whether the header says so
//!   on the device too (settled). Moved by the flusher, and by recovery.
//! - *Reclaiming*: none, victim, dropped, released. Moved by the compactor, the manifest and the
//!   epoch.
//!
//! The rules [SL1] to [SL3] are in DESIGN.md 6.2.

mod durable;
mod filling;
mod reclamation;

pub use durable::Durable;
pub use filling::Filling;
pub use reclamation::{Reclaiming, Reclamation};

use super::{Mark, Segment};
use crate::concurrency::sync::control::{AtomicU32, AtomicU64};
use crate::format::header::UNKNOWN_BOOT;
use crate::format::ids::{Sequence, UNIT_BYTES, Units};

/// What is known of a segment's life in memory, on lines of its own: readers never miss because
/// of it. The rest is in the control words of the header page.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Life {
    /// Where the frames begin once no more can be taken; 0 before.
    frames_begin: AtomicU32,
    /// Slots at or above do not count: for handles that cannot seal.
    limit: AtomicU32,
    /// Slots that an opening has found, whatever the cursor says.
    found: AtomicU32,
    /// The durable mark: slots in the low half, floor in the high.
    durable: AtomicU64,
    /// 1: the durable end in the header is on the device too.
    settled: AtomicU32,
    /// Slots that their writers have finished with, the index included.
    done: AtomicU64,
    for_removals: AtomicU32,
    reclamation: Reclamation,
}

impl Life {
    pub(super) fn new(segment_bytes: usize) -> Self {
        Self {
            frames_begin: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            found: AtomicU32::new(0),
            durable: AtomicU64::new(word_of(start_of(segment_bytes))),
            settled: AtomicU32::new(0),
            done: AtomicU64::new(0),
            for_removals: AtomicU32::new(0),
            reclamation: Reclamation::new(),
        }
    }
}

/// What the process before this one has left in the header of a segment: recovery reads it once,
/// before it changes anything, and decides by that alone.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// Every slot below it survives power loss; 0 where it was never stored, or is damaged.
    pub durable_end: u32,
    /// It was sealed: writers had come to its end, or an opening had judged it.
    pub sealed: bool,
    /// The boot under which it was last open for writing.
    pub boot_id: [u64; 2],
    /// As [`Durable::predecessor`].
    pub predecessor: Option<(Sequence, bool)>,
}

impl Inherited {
    /// Returns whether the segment was last open for writing under this boot. An unknown boot is
    /// none.
    ///
    /// The id is under no checksum. It is random, so what differs in a few bits is the same one,
    /// damaged: taken for another boot's, it would cut the records of a process that was killed.
    #[must_use]
    pub fn is_of_boot(&self, boot: [u64; 2]) -> bool {
        let differing = |(found, of): (&u64, u64)| (found ^ of).count_ones();
        let differing: u32 = self.boot_id.iter().zip(boot).map(differing).sum();
        boot != UNKNOWN_BOOT && differing <= DAMAGED_BITS
    }
}

/// So many bits of a boot id may be damaged: a byte. Two random ones differ in about 61.
const DAMAGED_BITS: u32 = 8;

/// The mark before the first slot.
fn start_of(segment_bytes: usize) -> Mark {
    Mark { slot: 0, floor: Units((segment_bytes / UNIT_BYTES) as u32) }
}

fn word_of(mark: Mark) -> u64 {
    u64::from(mark.slot) | u64::from(mark.floor.0) << 32
}

impl<M> Segment<M> {
    /// Returns how far writers have come with it.
    #[inline]
    pub fn filling(&self) -> Filling<'_, M> {
        Filling { segment: self }
    }

    /// How much of it is on the device.
    #[inline]
    pub fn durable(&self) -> Durable<'_, M> {
        Durable { segment: self }
    }

    /// Returns how far compaction has come with it.
    #[inline]
    pub fn reclamation(&self) -> &Reclamation {
        &self.life.reclamation
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests;
