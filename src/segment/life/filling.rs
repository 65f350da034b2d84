//! Writers: the cursor, and the seal that closes it.

use super::super::{Mark, Segment, cursor};
use crate::concurrency::sync::{AtomicU64, Ordering};
use crate::format::header;
use crate::format::ids::{SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::SlotState;
use crate::memory::Memory;
use cursor::{Reserved, Taken};
use std::ops::Range;

/// How far writers have come with a segment; made by [`Segment::filling`].
#[derive(Clone, Copy, Debug)]
pub struct Filling<'s, M> {
    pub(super) segment: &'s Segment<M>,
}

impl<'s, M: Memory> Filling<'s, M> {
    pub(in crate::segment) fn cursor_word(&self) -> &'s AtomicU64 {
        self.segment.memory.word(header::CURSOR_AT)
    }

    /// What is taken now; past the capacity if the segment is full.
    pub fn taken(&self) -> Taken {
        // Relaxed: whoever needs to see a certain reservation was told of it by other means.
        Taken::from_word(self.cursor_word().load(Ordering::Relaxed))
    }

    /// Returns whether no reservation fits any more, not even the smallest.
    pub fn is_full(&self) -> bool {
        let taken = self.taken();
        !self
            .segment
            .geometry
            .capacity()
            .fits(Taken { slots: taken.slots + 1, units: taken.units + 1 })
    }

    /// One past the highest slot that can hold anything: every reservation that was granted lies
    /// below. Exact, except between a first overrun and its note of the sealed count.
    pub fn slots_end(&self) -> u32 {
        let most =
            self.sealed().unwrap_or(u32::MAX).min(self.segment.geometry.capacity().slots_max());
        let taken = self.taken().slots.min(u64::from(most)) as u32;
        // A cursor that is damaged, or older than the slots after power loss, may say less than
        // recovery has found; a read-only handle has a limit.
        // Relaxed: set by recovery, before anybody else has the segment.
        let found = self
            .segment
            .life
            .found
            .load(Ordering::Relaxed)
            .max(self.segment.durable().flushed().slot);
        // Relaxed: as above.
        let limit = self.segment.life.limit.load(Ordering::Relaxed);
        taken.max(found.min(most)).min(limit)
    }

    /// An opening has found so many slots.
    pub fn set_found(&self, slots: u32) {
        // Relaxed: as in `slots_end`.
        self.segment.life.found.store(slots, Ordering::Relaxed);
    }

    /// No slot at or above this counts, whatever the cursor says: for read-only handles, which
    /// cannot seal what they cut, and show what was there when they were opened.
    pub fn set_limit(&self, slots: u32) {
        // Relaxed: as in `slots_end`.
        self.segment.life.limit.store(slots, Ordering::Relaxed);
    }

    /// Bytes of all frames taken, dead and void ones included.
    pub fn frame_bytes(&self) -> u64 {
        let bytes = self.segment.geometry.segment_bytes as u64;
        // Relaxed: a statistic.
        match self.segment.life.frames_begin.load(Ordering::Relaxed) {
            0 => (self.taken().units * UNIT_BYTES as u64).min(bytes),
            begin => bytes - u64::from(begin) * UNIT_BYTES as u64,
        }
    }

    /// Calls [`set_frames_begin`](Self::set_frames_begin) if the segment is full.
    pub fn set_frames_begin_if_full(&self, begin: Units) {
        if self.is_full() {
            self.set_frames_begin(begin);
        }
    }

    /// Notes where the frames begin in a segment that takes no more: its cursor counts overruns.
    pub fn set_frames_begin(&self, begin: Units) {
        // Relaxed: a statistic.
        self.segment.life.frames_begin.store(begin.0, Ordering::Relaxed);
    }

    /// Lets no further reservation succeed, as if one had not fitted.
    pub fn close(&self) {
        let units = Units((self.segment.geometry.segment_bytes / UNIT_BYTES) as u32);
        let reserved =
            cursor::reserve(self.cursor_word(), self.segment.geometry.capacity(), 1, units);
        debug_assert!(matches!(reserved, Reserved::Full { .. }), "a whole segment never fits");
        if let Reserved::Full { granted } = reserved {
            self.seal_when_full(granted);
        }
    }

    /// The one reservation that found the segment full first notes how many slots were granted
    /// [C4]. The cursor is closed by then [SL1].
    pub(in crate::segment) fn seal_when_full(&self, granted: Option<Taken>) {
        if let Some(granted) = granted {
            let units = (self.segment.geometry.segment_bytes / UNIT_BYTES) as u64;
            self.set_frames_begin(Units((units - granted.units) as u32));
            self.store_sealed(granted.slots as u32);
        }
    }

    /// Closes the cursor and seals in one go: for a segment that nobody else has, or that recovery
    /// has judged. No slot at or above the mark counts from now on.
    pub fn seal_at(&self, mark: Mark) {
        let units = self.segment.geometry.segment_bytes as u64;
        let full = Taken { slots: u64::from(mark.slot), units };
        // Relaxed: handing the segment over orders this.
        self.cursor_word().store(full.word(), Ordering::Relaxed);
        self.set_frames_begin(mark.floor);
        self.store_sealed(mark.slot);
    }

    /// Overwrites what lies between the slots and the frames of a mark: for recovery, which has
    /// sealed the segment there after power loss. No slot that counts says that it is there, so
    /// compaction would not know that it is dead. Where a slot is lost, it may be its record, and
    /// stays. What is blank may have no blocks, and is left alone.
    ///
    /// `blank` is known to hold nothing, and is not read: on the device there may be none of it.
    pub fn erase_beyond(&self, mark: Mark, blank: Range<usize>) {
        let begin = self.segment.directory().slot_offset(SlotNumber(mark.slot));
        let end = mark.floor.bytes();
        let below = begin..blank.start.clamp(begin, end.max(begin));
        let above = blank.end.clamp(below.end, end.max(below.end))..end;
        let word = size_of::<u64>();
        let words = || below.clone().step_by(word).chain(above.clone().step_by(word));
        // Relaxed, here and below: recovery is alone, and nothing there counts.
        let is_set = |at: &usize| self.segment.memory.word(*at).load(Ordering::Relaxed) != 0;
        if !words().any(|at| is_set(&at)) {
            // As nearly always; so the directory need not be walked again.
            return;
        }
        if !self.segment.directory().slots(mark.slot).any(|(_, state)| state.is_lost()) {
            // Relaxed: as above.
            words()
                .filter(is_set)
                .for_each(|at| self.segment.memory.word(at).store(0, Ordering::Relaxed));
        }
    }

    fn store_sealed(&self, slots: u32) {
        let word = header::encode_count(slots, self.segment.salt, header::SEALED_AT);
        // Relaxed: a number of its own, checked by its checksum.
        self.segment.memory.word(header::SEALED_AT).store(word, Ordering::Relaxed);
    }

    /// Seals a full segment at the end of a flush's walk, unless the reservation that knows the
    /// exact count has done so [C4].
    pub fn seal_unless_sealed(&self, slots: u32) {
        let sealed_at = self.segment.memory.word(header::SEALED_AT);
        // Relaxed: as in `store_sealed`, here and below.
        let found = sealed_at.load(Ordering::Relaxed);
        if header::decode_count(found, self.segment.salt, header::SEALED_AT).is_some() {
            return;
        }
        let word = header::encode_count(slots, self.segment.salt, header::SEALED_AT);
        let sealed = sealed_at.compare_exchange(found, word, Ordering::Relaxed, Ordering::Relaxed);
        if sealed.is_err() {
            // By the reservation that found it full.
        }
    }

    /// The sealed slot count: no slot at or above it ever counts. `None`: not sealed.
    #[must_use]
    pub fn sealed(&self) -> Option<u32> {
        // Relaxed: as in `store_sealed`.
        let word = self.segment.memory.word(header::SEALED_AT).load(Ordering::Relaxed);
        header::decode_count(word, self.segment.salt, header::SEALED_AT)
    }

    /// Notes that writers have finished with this many more slots: everything that they had to
    /// publish of them is in the index.
    pub fn add_done(&self, slots: u32) {
        // Release: pairs with the Acquire in `is_quiet`; compaction then sees those entries.
        self.segment.life.done.fetch_add(u64::from(slots), Ordering::Release);
    }

    /// Returns whether nobody can take a slot any more and no writer still has one of which it may
    /// publish something, so that every record that counts is in the index.
    pub fn is_quiet(&self) -> bool {
        // Acquire: pairs with the Release in `add_done`.
        let done = self.segment.life.done.load(Ordering::Acquire);
        let Some(sealed) = self.sealed() else { return false };
        self.is_full() && (done >= u64::from(sealed) || self.is_sealed_too_high(done, sealed))
    }

    /// Returns whether no more slots were granted than those that writers have finished with,
    /// though the sealed count is higher [C4]: all above hold nothing for good, and say no extent,
    /// which every writer notes before it has finished. (One that has not come to that finds its
    /// slot void.)
    #[cold]
    fn is_sealed_too_high(&self, done: u64, sealed: u32) -> bool {
        self.segment.directory().slots(sealed).all(|(slot, state)| {
            u64::from(slot.0) < done
                || state == SlotState::Void && self.segment.directory().body_words(slot)[2] == 0
        })
    }

    /// It was made of the last room there was: no puts, so that what is there can be removed.
    pub fn keep_for_removals(&self) {
        // Relaxed: published together with the segment.
        self.segment.life.for_removals.store(1, Ordering::Relaxed);
    }

    /// Returns whether puts keep away from it.
    #[inline]
    pub fn is_for_removals(&self) -> bool {
        // Relaxed: as in `keep_for_removals`.
        self.segment.life.for_removals.load(Ordering::Relaxed) != 0
    }
}
