//! The life of a segment: how far writers, the device and compaction have come with it.
//!
//! Other modules rely on what somebody else has done with a segment: a flush on the writers, a
//! compaction on the flush, an opening on the process before it. This file is the one place that
//! says what has been done, and the only one that reads or writes the control words of the header
//! page. Three facts, each moved by one compare-exchange or one monotone store, so that a thread
//! may be stopped inside any transition and holds nobody up:
//!
//! - *Writers*: preallocated, active, sealed, quiet. `Log` says which segment is active; the first
//!   reservation that does not fit, or [`close`](Segment::close), seals; claims make it quiet.
//! - *Durable mark*: how many slots are decided and on the device, and whether the header says so
//!   on the device too (settled). Moved by the flusher, and by recovery.
//! - *Reclaiming*: none, victim, dropped, released. Moved by the compactor, the manifest and the
//!   epoch.
//!
//! - SL1: Sealing closes the cursor, and a sealed count is stored only where the cursor is closed.
//!   So a segment that says how many slots count grants no more.
//! - SL2: The durable mark only grows. Every slot below it was decided, and is on the device.
//! - SL3: A segment becomes a victim once at a time (compare-exchange from none), and only a victim
//!   or an output without records is dropped. What is dropped never comes back.

use super::{Mark, Segment, cursor};
use crate::concurrency::sync::{AtomicU32, AtomicU64, Ordering};
use crate::format::header::{self, FlushNote, UNKNOWN_BOOT};
use crate::format::ids::{Sequence, SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::SlotState;
use crate::memory::Memory;
use cursor::{Reserved, Taken};
use std::ops::Range;

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
    /// Bytes of frames that the index points at.
    pub(super) live_bytes: AtomicU64,
    reclaiming: AtomicU32,
    quarantined: AtomicU32,
    for_removals: AtomicU32,
    /// One more than the bytes on disk with which it is in the running totals; see `count_in`.
    counted: AtomicU64,
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
            live_bytes: AtomicU64::new(0),
            reclaiming: AtomicU32::new(Reclaiming::None as u32),
            quarantined: AtomicU32::new(0),
            for_removals: AtomicU32::new(0),
            counted: AtomicU64::new(UNCOUNTED),
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
    /// As [`Segment::predecessor`].
    pub predecessor: Option<(Sequence, bool)>,
}

impl Inherited {
    /// Whether the segment was last open for writing under this boot. An unknown boot is none.
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

/// How far compaction has come with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reclaiming {
    /// Compaction has not chosen it.
    None = 0,
    /// Compaction empties it.
    Victim = 1,
    /// No manifest names it any more; its file is unlinked, or will be at the next opening.
    Dropped = 2,
    /// No guard is left that could hold an address in it: its owner may take it out of the table.
    Released = 3,
}

/// In `Life::quarantined`.
const DAMAGED: u32 = 1;
const FOR_GOOD: u32 = 2;

/// In `Life::counted`.
const UNCOUNTED: u64 = 0;
const COUNTED_OUT: u64 = u64::MAX;

/// Writers: the cursor and the sealed count.
impl<M: Memory> Segment<M> {
    pub(super) fn cursor_word(&self) -> &AtomicU64 {
        self.memory.word(header::CURSOR_AT)
    }

    /// What is taken now; past the capacity if the segment is full.
    pub fn taken(&self) -> Taken {
        // Relaxed: whoever needs to see a certain reservation was told of it by other means.
        Taken::from_word(self.cursor_word().load(Ordering::Relaxed))
    }

    /// Whether no reservation fits any more, not even the smallest.
    pub fn is_full(&self) -> bool {
        let taken = self.taken();
        !self.geometry.capacity().fits(Taken { slots: taken.slots + 1, units: taken.units + 1 })
    }

    /// One past the highest slot that can hold anything: every reservation that was granted lies
    /// below. Exact, except between a first overrun and its note of the sealed count.
    pub fn slots_end(&self) -> u32 {
        let most = self.sealed().unwrap_or(u32::MAX).min(self.geometry.capacity().slots_max());
        let taken = self.taken().slots.min(u64::from(most)) as u32;
        // A cursor that is damaged, or older than the slots after power loss, may say less than
        // recovery has found; a read-only handle has a limit.
        // Relaxed: set by recovery, before anybody else has the segment.
        let found = self.life.found.load(Ordering::Relaxed).max(self.flushed().slot);
        // Relaxed: as above.
        let limit = self.life.limit.load(Ordering::Relaxed);
        taken.max(found.min(most)).min(limit)
    }

    /// An opening has found so many slots.
    pub fn set_found(&self, slots: u32) {
        // Relaxed: as in `slots_end`.
        self.life.found.store(slots, Ordering::Relaxed);
    }

    /// No slot at or above this counts, whatever the cursor says: for read-only handles, which
    /// cannot seal what they cut, and show what was there when they were opened.
    pub fn set_limit(&self, slots: u32) {
        // Relaxed: as in `slots_end`.
        self.life.limit.store(slots, Ordering::Relaxed);
    }

    /// Bytes of all frames taken, dead and void ones included.
    pub fn frame_bytes(&self) -> u64 {
        let bytes = self.geometry.segment_bytes as u64;
        // Relaxed: a statistic.
        match self.life.frames_begin.load(Ordering::Relaxed) {
            0 => (self.taken().units * UNIT_BYTES as u64).min(bytes),
            begin => bytes - u64::from(begin) * UNIT_BYTES as u64,
        }
    }

    /// As [`Segment::set_frames_begin`], if it takes no more.
    pub fn set_frames_begin_if_full(&self, begin: Units) {
        if self.is_full() {
            self.set_frames_begin(begin);
        }
    }

    /// Notes where the frames begin in a segment that takes no more: its cursor counts overruns.
    pub fn set_frames_begin(&self, begin: Units) {
        // Relaxed: a statistic.
        self.life.frames_begin.store(begin.0, Ordering::Relaxed);
    }

    /// Lets no further reservation succeed, as if one had not fitted.
    pub fn close(&self) {
        let units = Units((self.geometry.segment_bytes / UNIT_BYTES) as u32);
        let reserved = cursor::reserve(self.cursor_word(), self.geometry.capacity(), 1, units);
        debug_assert!(matches!(reserved, Reserved::Full { .. }), "a whole segment never fits");
        if let Reserved::Full { granted } = reserved {
            self.note_full(granted);
        }
    }

    /// The one reservation that found the segment full first notes how many slots were granted
    /// [C4]. The cursor is closed by then [SL1].
    pub(super) fn note_full(&self, granted: Option<Taken>) {
        if let Some(granted) = granted {
            let units = (self.geometry.segment_bytes / UNIT_BYTES) as u64;
            self.set_frames_begin(Units((units - granted.units) as u32));
            self.store_sealed(granted.slots as u32);
        }
    }

    /// Closes the cursor and seals in one go: for a segment that nobody else has, or that recovery
    /// has judged. No slot at or above the mark counts from now on.
    pub fn seal_at(&self, mark: Mark) {
        let units = self.geometry.segment_bytes as u64;
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
        let (begin, end) = (self.slot_offset(SlotNumber(mark.slot)), mark.floor.bytes());
        let below = begin..blank.start.clamp(begin, end.max(begin));
        let above = blank.end.clamp(below.end, end.max(below.end))..end;
        let word = size_of::<u64>();
        let words = || below.clone().step_by(word).chain(above.clone().step_by(word));
        // Relaxed, here and below: recovery is alone, and nothing there counts.
        let is_set = |at: &usize| self.memory.word(*at).load(Ordering::Relaxed) != 0;
        if !words().any(|at| is_set(&at)) {
            // As nearly always; so the directory need not be walked again.
            return;
        }
        if !self.slots(mark.slot).any(|(_, state)| state.is_lost()) {
            // Relaxed: as above.
            words().filter(is_set).for_each(|at| self.memory.word(at).store(0, Ordering::Relaxed));
        }
    }

    fn store_sealed(&self, slots: u32) {
        let word = header::encode_count(slots, self.salt, header::SEALED_AT);
        // Relaxed: a number of its own, checked by its checksum.
        self.memory.word(header::SEALED_AT).store(word, Ordering::Relaxed);
    }

    /// Seals a full segment at the end of a flush's walk, unless the reservation that knows the
    /// exact count has done so [C4].
    pub fn seal_unless_sealed(&self, slots: u32) {
        let sealed_at = self.memory.word(header::SEALED_AT);
        // Relaxed: as in `store_sealed`, here and below.
        let found = sealed_at.load(Ordering::Relaxed);
        if header::decode_count(found, self.salt, header::SEALED_AT).is_some() {
            return;
        }
        let word = header::encode_count(slots, self.salt, header::SEALED_AT);
        let sealed = sealed_at.compare_exchange(found, word, Ordering::Relaxed, Ordering::Relaxed);
        if sealed.is_err() {
            // By the reservation that found it full.
        }
    }

    /// The sealed slot count: no slot at or above it ever counts. `None`: not sealed.
    #[must_use]
    pub fn sealed(&self) -> Option<u32> {
        // Relaxed: as in `store_sealed`.
        let word = self.memory.word(header::SEALED_AT).load(Ordering::Relaxed);
        header::decode_count(word, self.salt, header::SEALED_AT)
    }

    /// Notes that writers have finished with this many more slots: everything that they had to
    /// publish of them is in the index.
    pub fn add_done(&self, slots: u32) {
        // Release: pairs with the Acquire in `is_quiet`; compaction then sees those entries.
        self.life.done.fetch_add(u64::from(slots), Ordering::Release);
    }

    /// Whether nobody can take a slot any more and no writer still has one of which it may publish
    /// something, so that every record that counts is in the index.
    pub fn is_quiet(&self) -> bool {
        // Acquire: pairs with the Release in `add_done`.
        let done = self.life.done.load(Ordering::Acquire);
        let Some(sealed) = self.sealed() else { return false };
        self.is_full() && (done >= u64::from(sealed) || self.is_sealed_too_high(done, sealed))
    }

    /// Whether no more slots were granted than those that writers have finished with, though the
    /// sealed count is higher [C4]: all above hold nothing for good, and say no extent, which every
    /// writer notes before it has finished. (One that has not come to that finds its slot void.)
    #[cold]
    fn is_sealed_too_high(&self, done: u64, sealed: u32) -> bool {
        self.slots(sealed).all(|(slot, state)| {
            u64::from(slot.0) < done || state == SlotState::Void && self.body_words(slot)[2] == 0
        })
    }

    /// It was made of the last room there was: no puts, so that what is there can be removed.
    pub fn keep_for_removals(&self) {
        // Relaxed: published together with the segment.
        self.life.for_removals.store(1, Ordering::Relaxed);
    }

    /// Whether puts keep away from it.
    #[inline]
    pub fn is_for_removals(&self) -> bool {
        // Relaxed: as in `keep_for_removals`.
        self.life.for_removals.load(Ordering::Relaxed) != 0
    }
}

/// The device: the durable mark, and what an opening asks the header.
impl<M: Memory> Segment<M> {
    /// What its header says of the process before this one.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        // Relaxed: only recovery reads and writes the boot id, alone.
        let boot = |at| self.memory.word(header::BOOT_AT + at).load(Ordering::Relaxed);
        Inherited {
            durable_end: self.durable_end(),
            sealed: self.sealed().is_some(),
            boot_id: [0, 8].map(boot),
            predecessor: self.predecessor(),
        }
    }

    /// Slots below this mark are decided and on the device, this process knows [SL2].
    pub fn flushed(&self) -> Mark {
        // Acquire: pairs with the Release in `set_flushed`; whoever sees the mark of a segment sees
        // those of the older ones that the same flush had set before.
        let word = self.life.durable.load(Ordering::Acquire);
        Mark { slot: word as u32, floor: Units((word >> 32) as u32) }
    }

    /// Notes that a flush that covered all slots below a mark has ended well.
    pub fn set_flushed(&self, mark: Mark) {
        // Relaxed: compared only; flushes of one segment follow one another.
        let mut now = self.life.durable.load(Ordering::Relaxed);
        while (now as u32) < mark.slot {
            // Release: as in `flushed`. Relaxed on failure: compared only.
            let raised = self.life.durable.compare_exchange(
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

    /// Whether the durable end in the header is on the device too, and nothing is left to flush.
    pub fn is_settled(&self) -> bool {
        // Acquire: pairs with the Release in `set_settled`; the mark is there.
        self.life.settled.load(Ordering::Acquire) == 1
    }

    /// Notes whether the durable end in the header is on the device too.
    pub fn set_settled(&self, settled: bool) {
        // Release: as in `is_settled`.
        self.life.settled.store(u32::from(settled), Ordering::Release);
        if settled && self.is_full() {
            self.memory.end_flushing();
        }
    }

    /// The durable end: every slot below it survives power loss. 0 if never stored, or damaged.
    #[must_use]
    pub fn durable_end(&self) -> u32 {
        // Relaxed: as in `store_sealed`.
        let word = self.memory.word(header::DURABLE_AT).load(Ordering::Relaxed);
        header::decode_count(word, self.salt, header::DURABLE_AT).unwrap_or(0)
    }

    /// Stores the durable end; the flush that makes it so has ended well.
    pub fn set_durable_end(&self, slots: u32) {
        let word = header::encode_count(slots, self.salt, header::DURABLE_AT);
        // Relaxed: as in `store_sealed`.
        self.memory.word(header::DURABLE_AT).store(word, Ordering::Relaxed);
    }

    /// Whether the durable end and the sealed count are what was stored, or were never stored.
    #[must_use]
    pub fn counts_hold(&self) -> bool {
        [header::DURABLE_AT, header::SEALED_AT].into_iter().all(|at| {
            // Relaxed: as in `store_sealed`.
            let word = self.memory.word(at).load(Ordering::Relaxed);
            word == 0 || header::decode_count(word, self.salt, at).is_some()
        })
    }

    /// The segment of the log that this one took over from, if it did and that is known; and
    /// whether that is certain [D8]. What was never flushed may have reached the device before its
    /// header, or with the name of an older one that it was to follow, and did not.
    #[must_use]
    pub fn predecessor(&self) -> Option<(Sequence, bool)> {
        // Relaxed: as in `store_sealed`.
        let word = self.memory.word(header::PREDECESSOR_AT).load(Ordering::Relaxed);
        header::decode_predecessor(word, self.salt)
    }

    fn store_predecessor(&self, sequence: Sequence, confirmed: bool) {
        let word = header::encode_predecessor(sequence, confirmed, self.salt);
        // Relaxed: as in `store_sealed`.
        self.memory.word(header::PREDECESSOR_AT).store(word, Ordering::Relaxed);
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
            self.memory.word(header::BOOT_AT + n * 8).store(half, Ordering::Relaxed);
        }
    }

    /// Notes under this boot how a flush of the segment stands, for the next opening: a process
    /// that is killed inside the call that fails has nobody left to tell.
    pub fn note_flush(&self, flush: FlushNote, boot: [u64; 2]) {
        let word = header::encode_flush(flush, boot, self.salt);
        // Relaxed: read by the next opening.
        self.memory.word(header::FLUSH_AT).store(word, Ordering::Relaxed);
    }

    /// How the last flush of the segment stood, if it was made under this boot, or may have been:
    /// where the process that noted it, or the caller, does not know its boot, nobody knows.
    #[must_use]
    pub fn flush_note(&self, boot: [u64; 2]) -> FlushNote {
        // Relaxed: as in `note_flush`.
        let word = self.memory.word(header::FLUSH_AT).load(Ordering::Relaxed);
        let of = |boot| header::decode_flush(word, boot, self.salt);
        let other = if boot == UNKNOWN_BOOT { self.inherited().boot_id } else { UNKNOWN_BOOT };
        match of(boot) {
            FlushNote::Ended => of(other),
            note => note,
        }
    }
}

/// Compaction: the reclaiming state.
impl<M: Memory> Segment<M> {
    /// How far compaction has come with it.
    pub fn reclaiming(&self) -> Reclaiming {
        // Acquire: pairs with the Release in `move_reclaiming`.
        match self.life.reclaiming.load(Ordering::Acquire) {
            0 => Reclaiming::None,
            1 => Reclaiming::Victim,
            2 => Reclaiming::Dropped,
            _ => Reclaiming::Released,
        }
    }

    fn move_reclaiming(&self, from: Reclaiming, to: Reclaiming) -> bool {
        // Release: pairs with the Acquire in `reclaiming`. Relaxed on failure: nothing is read.
        let moved = self.life.reclaiming.compare_exchange(
            from as u32,
            to as u32,
            Ordering::Release,
            Ordering::Relaxed,
        );
        moved.is_ok()
    }

    /// Makes it a victim of the caller's, unless it is one already, or was dropped [SL3].
    #[must_use]
    pub fn become_victim(&self) -> bool {
        self.move_reclaiming(Reclaiming::None, Reclaiming::Victim)
    }

    /// The victim stays in use: its group could not be emptied, or not be dropped.
    pub fn stay(&self) {
        self.move_reclaiming(Reclaiming::Victim, Reclaiming::None);
    }

    /// The manifest does not name it any more; its file is to be removed.
    pub fn set_dropped(&self) {
        if !self.move_reclaiming(Reclaiming::Victim, Reclaiming::Dropped) {
            // An output without records was never a victim.
            self.move_reclaiming(Reclaiming::None, Reclaiming::Dropped);
        }
    }

    /// Whether the manifest has given it up.
    pub fn is_dropped(&self) -> bool {
        self.reclaiming() >= Reclaiming::Dropped
    }

    /// No guard can hold an address in it any more that it took from the index.
    pub fn set_released(&self) {
        // Release: as in `move_reclaiming`; final, whatever it was before.
        self.life.reclaiming.store(Reclaiming::Released as u32, Ordering::Release);
    }

    /// Whether its owner may take it out of the table.
    pub fn is_released(&self) -> bool {
        self.reclaiming() == Reclaiming::Released
    }

    /// Something in it is damaged: it stays as it is, until that does not count any more, or
    /// `for_good`. Whether that was not known before.
    pub fn quarantine(&self, for_good: bool) -> bool {
        let quarantine = if for_good { FOR_GOOD } else { DAMAGED };
        // Relaxed: compaction alone asks, and sets it, but for recovery, which is alone.
        self.life.quarantined.fetch_max(quarantine, Ordering::Relaxed) == 0
    }

    /// Nothing that is damaged in it counts any more. Whether compaction may have it again.
    #[must_use]
    pub fn end_quarantine(&self) -> bool {
        // Relaxed: as in `quarantine`.
        let order = Ordering::Relaxed;
        self.life.quarantined.compare_exchange(DAMAGED, 0, order, order).is_ok()
    }

    /// Whether compaction keeps away from it.
    pub fn is_quarantined(&self) -> bool {
        // Relaxed: as in `quarantine`.
        self.life.quarantined.load(Ordering::Relaxed) != 0
    }

    /// Whether compaction keeps away from it until nothing damaged in it counts any more.
    pub fn may_leave_quarantine(&self) -> bool {
        // Relaxed: as in `quarantine`.
        self.life.quarantined.load(Ordering::Relaxed) == DAMAGED
    }

    /// Whether the caller is to add this settled segment to the running totals, with so many bytes
    /// on disk: once.
    #[must_use]
    pub fn count_in(&self, disk_bytes: u64) -> bool {
        // Relaxed: statistics.
        let order = Ordering::Relaxed;
        let to = disk_bytes.saturating_add(1);
        self.life.counted.compare_exchange(UNCOUNTED, to, order, order).is_ok()
    }

    /// If it is in the running totals, with how many bytes on disk: the caller is to subtract it.
    #[must_use]
    pub fn count_out(&self) -> Option<u64> {
        // Relaxed: statistics.
        let counted = self.life.counted.swap(COUNTED_OUT, Ordering::Relaxed);
        (counted != COUNTED_OUT).then(|| counted.checked_sub(1)).flatten()
    }

    /// Whether it is in the running totals, or was.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        // Relaxed: statistics.
        self.life.counted.load(Ordering::Relaxed) != UNCOUNTED
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests;
