//! The device: the durable mark, and what an opening asks the header.

use super::super::{Mark, Segment};
use super::{Inherited, word_of};
use crate::concurrency::sync::Ordering;
use crate::format::header::{self, FlushNote, UNKNOWN_BOOT};
use crate::format::ids::{Sequence, SlotNumber, Units};
use crate::memory::Memory;

/// So many bytes of frames are much for one flush.
const LONG_FLUSH_BYTES: usize = 1 << 20;

/// How much of a segment is on the device; made by [`Segment::durable`].
#[derive(Clone, Copy, Debug)]
pub struct Durable<'s, M> {
    pub(super) segment: &'s Segment<M>,
}

impl<M: Memory> Durable<'_, M> {
    /// What its header says of the process before this one.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        // Relaxed: only recovery reads and writes the boot id, alone.
        let boot = |at| self.segment.memory.word(header::BOOT_AT + at).load(Ordering::Relaxed);
        Inherited {
            durable_end: self.durable_end(),
            sealed: self.segment.filling().sealed().is_some(),
            boot_id: [0, 8].map(boot),
            predecessor: self.predecessor(),
        }
    }

    /// Slots below this mark are decided and on the device, this process knows [SL2].
    pub fn flushed(&self) -> Mark {
        // Acquire: pairs with the Release in `set_flushed`; whoever sees the mark of a segment sees
        // those of the older ones that the same flush had set before.
        let word = self.segment.life.durable.load(Ordering::Acquire);
        Mark { slot: word as u32, floor: Units((word >> 32) as u32) }
    }

    /// Notes that a flush that covered all slots below a mark has ended well.
    pub fn set_flushed(&self, mark: Mark) {
        // Relaxed: compared only; flushes of one segment follow one another.
        let mut now = self.segment.life.durable.load(Ordering::Relaxed);
        while (now as u32) < mark.slot {
            // Release: as in `flushed`. Relaxed on failure: compared only.
            let raised = self.segment.life.durable.compare_exchange(
                now,
                word_of(mark),
                Ordering::Release,
                Ordering::Relaxed,
            );
            match raised {
                Ok(_) => return,
                Err(found) => now = found,
            }
        }
    }

    /// Returns whether the durable end in the header is on the device too, and nothing is left to
    /// flush.
    pub fn is_settled(&self) -> bool {
        // Acquire: pairs with the Release in `set_settled`; the mark is there.
        self.segment.life.settled.load(Ordering::Acquire) == 1
    }

    /// Notes whether the durable end in the header is on the device too.
    pub fn set_settled(&self, settled: bool) {
        // Release: as in `is_settled`.
        self.segment.life.settled.store(u32::from(settled), Ordering::Release);
        if settled && self.segment.filling().is_full() {
            self.segment.memory.end_flushing();
        }
    }

    /// The durable end: every slot below it survives power loss. 0 if never stored, or damaged.
    #[must_use]
    pub fn durable_end(&self) -> u32 {
        // Relaxed: as in `store_sealed`.
        let word = self.segment.memory.word(header::DURABLE_AT).load(Ordering::Relaxed);
        header::decode_count(word, self.segment.salt, header::DURABLE_AT).unwrap_or(0)
    }

    /// Stores the durable end; the flush that makes it so has ended well.
    pub fn set_durable_end(&self, slots: u32) {
        let word = header::encode_count(slots, self.segment.salt, header::DURABLE_AT);
        // Relaxed: as in `store_sealed`.
        self.segment.memory.word(header::DURABLE_AT).store(word, Ordering::Relaxed);
    }

    /// Returns whether the durable end and the sealed count are what was stored, or were never
    /// stored.
    #[must_use]
    pub fn counts_hold(&self) -> bool {
        [header::DURABLE_AT, header::SEALED_AT].into_iter().all(|at| {
            // Relaxed: as in `store_sealed`.
            let word = self.segment.memory.word(at).load(Ordering::Relaxed);
            word == 0 || header::decode_count(word, self.segment.salt, at).is_some()
        })
    }

    /// The segment of the log that this one took over from, if it did and that is known; and
    /// whether that is certain [D8]. What was never flushed may have reached the device before its
    /// header, or with the name of an older one that it was to follow, and did not.
    #[must_use]
    pub fn predecessor(&self) -> Option<(Sequence, bool)> {
        // Relaxed: as in `store_sealed`.
        let word = self.segment.memory.word(header::PREDECESSOR_AT).load(Ordering::Relaxed);
        header::decode_predecessor(word, self.segment.salt)
    }

    fn store_predecessor(&self, sequence: Sequence, confirmed: bool) {
        let word = header::encode_predecessor(sequence, confirmed, self.segment.salt);
        // Relaxed: as in `store_sealed`.
        self.segment.memory.word(header::PREDECESSOR_AT).store(word, Ordering::Relaxed);
    }

    /// Notes which segment this one is to take over from: before it can.
    pub fn set_predecessor(&self, sequence: Sequence) {
        self.store_predecessor(sequence, false);
    }

    /// It has taken over: before anything of it is flushed.
    pub fn confirm_predecessor(&self) {
        if let Some((sequence, false)) = self.predecessor() {
            self.store_predecessor(sequence, true);
        }
    }

    /// Notes the boot id of this opening.
    pub fn set_boot_id(&self, boot: [u64; 2]) {
        for (n, half) in boot.into_iter().enumerate() {
            // Relaxed: as in `inherited`.
            self.segment.memory.word(header::BOOT_AT + n * 8).store(half, Ordering::Relaxed);
        }
    }

    /// Notes under this boot how a flush of the segment stands, for the next opening: a process
    /// that is killed inside the call that fails has nobody left to tell.
    pub fn note_flush(&self, flush: FlushNote, boot: [u64; 2]) {
        let word = header::encode_flush(flush, boot, self.segment.salt);
        // Relaxed: read by the next opening.
        self.segment.memory.word(header::FLUSH_AT).store(word, Ordering::Relaxed);
    }

    /// How the last flush of the segment stood, if it was made under this boot, or may have been:
    /// where the process that noted it, or the caller, does not know its boot, nobody knows.
    #[must_use]
    pub fn flush_note(&self, boot: [u64; 2]) -> FlushNote {
        // Relaxed: as in `note_flush`.
        let word = self.segment.memory.word(header::FLUSH_AT).load(Ordering::Relaxed);
        let of = |boot| header::decode_flush(word, boot, self.segment.salt);
        let other = if boot == UNKNOWN_BOOT { self.inherited().boot_id } else { UNKNOWN_BOOT };
        match of(boot) {
            FlushNote::Ended => of(other),
            note => note,
        }
    }

    /// Has a flush up to a mark made cheaper, if it has much to write: or any in a segment whose
    /// pages were made ahead, which are all dirty.
    pub fn before_flush(&self, to: Mark) {
        let from = self.flushed();
        let fresh = from.floor.bytes().saturating_sub(to.floor.bytes());
        if from.slot == 0 || fresh >= LONG_FLUSH_BYTES {
            let slots_end = self.segment.directory().slot_offset(SlotNumber(to.slot));
            self.segment.memory.before_long_flush(slots_end, to.floor.bytes());
        }
    }
}
