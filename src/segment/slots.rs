//! The directory: reading slots, and deciding them. Every store of a void is here, except that
//! a replica copies slots that are void already. Others decide that a slot is void:
//!
//! - *Its writer*, which fails or panics: the drops of `Reservation` and `Pending`, and
//!   `BatchReservation::commit` for the members of a batch (`segment/writer`).
//! - *A flush* that does not wait any longer for a writer: `wait_or_void` in `durability/mod.rs`.
//! - *Compaction* that gives up copies: `void_copies` in `background/compaction/copy.rs`.
//! - *Recovery*, step 4: the list in `recovery/void.rs`. A salvage: `void_torn` in
//!   `recovery/salvage.rs`.
//! - *A backup*, in its own segments: a copy that is not in force (`Segment::replicate`), and a
//!   damaged record that has given way to an older version (`Store::copy_into`).

use super::Segment;
use crate::concurrency::sync::{AtomicU64, Ordering};
use crate::format::ids::{Lsn, SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::{self, EMPTY_WORD, SLOT_BYTES, SlotBody, SlotState, WriteOrigin};
use crate::memory::Memory;

/// How far a walk through the directory has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The next slot.
    pub slot: u32,
    /// Where the frames of the slots before it begin.
    pub floor: Units,
}

/// So many slots are asked for at a time: half a mebibyte.
const ASKED_SLOTS: u32 = 16 << 10;

/// A walk through the directory. It ends where the directory meets the frames, so that a damaged
/// or overrun cursor never makes it read one as the other.
///
/// Members of a batch come as `Committed` if its head was met, as `Void` if not; so a walk that
/// begins inside a batch can tell decided from undecided, but not what counts. Below the durable
/// end, as it was when the walk began, a head was decided, so one that says nothing is damaged: its
/// members stand for themselves, unless its other words say that it was never committed.
#[derive(Debug)]
pub struct SlotIter<'s, M> {
    segment: &'s Segment<M>,
    mark: Mark,
    end: u32,
    members: u32,
    /// The slot before, or before the members, says nothing.
    no_head: bool,
    /// Slots below this were decided when the walk began.
    durable: u32,
    /// Slots below this were asked for ahead.
    asked: u32,
}

impl<M> SlotIter<'_, M> {
    /// Returns how far it has come.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Tells it what the slot that it gave out last says now. Its frame may have been taken in only
    /// since; a walk that does not know of it would go on into it.
    pub fn update(&mut self, state: &SlotState) {
        if let Some(extent) = state.extent()
            && extent.offset < self.mark.floor
        {
            self.mark.floor = extent.offset;
        }
    }
}

impl<M: Memory> SlotIter<'_, M> {
    /// Steps over blank slots, so many at most; how many. There is nothing to learn from them.
    pub fn pass_blank(&mut self, most: u32) -> u32 {
        let (first, floor) = (self.mark.slot, self.mark.floor.bytes());
        let room = floor.saturating_sub(self.segment.directory().slot_offset(SlotNumber(first)))
            / SLOT_BYTES;
        let end = self.end.min(first.saturating_add(most.min(room as u32)));
        let blank = |slot: &u32| self.segment.directory().slot_is_blank(SlotNumber(*slot));
        let passed = (first..end).take_while(blank).count() as u32;
        self.mark.slot += passed;
        self.members = self.members.saturating_sub(passed);
        self.no_head |= passed > 0;
        passed
    }

    /// Returns whether a slot whose checksum does not match was the head of a committed batch, as
    /// far as its other words tell, or a member behind such a head.
    #[cold]
    fn may_be_head(&self, slot: SlotNumber, words: [u64; 3]) -> bool {
        let (body, segment) = (SlotBody::from_words(words), self.segment);
        let most = u64::from(segment.geometry.capacity().slots_max());
        if body.lsn == Lsn::new(segment.sequence, slot) && (1..=most).contains(&body.key_hash) {
            return true;
        }
        match words {
            // Its reservation has noted the extent, and nothing else was written: it was void.
            [0, 0, extent] if extent != 0 => false,
            _ => body.written != WriteOrigin::InBatch || self.no_head,
        }
    }

    /// Has the next part of the directory brought into memory, if it would come page by page.
    #[cold]
    fn ask(&mut self) {
        self.asked = self.end.min(self.mark.slot.saturating_add(ASKED_SLOTS));
        let memory = &self.segment.memory;
        if memory.is_read_singly() {
            let at = self.segment.directory().slot_offset(SlotNumber(self.mark.slot));
            memory.will_read(at, ASKED_SLOTS as usize * SLOT_BYTES);
        }
    }
}

impl<M: Memory> Iterator for SlotIter<'_, M> {
    type Item = (SlotNumber, SlotState);

    fn next(&mut self) -> Option<Self::Item> {
        let slot = SlotNumber(self.mark.slot);
        let floor = self.mark.floor;
        if slot.0 >= self.end
            || self.segment.directory().slot_offset(slot) + SLOT_BYTES > floor.bytes()
        {
            return None;
        }
        if slot.0 >= self.asked {
            self.ask();
        }
        let (state, words) = self.segment.directory().slot_and_words(slot);
        let (extent, summed) = match state.extent() {
            Some(body) => (body, true),
            // Under no checksum: taken only if it continues the frames before it.
            None => (SlotBody::from_words(words), false),
        };
        let end = extent.offset.0.checked_add(extent.len.0);
        if end.is_some_and(|end| end == floor.0 || (summed && end < floor.0)) {
            self.mark.floor = extent.offset;
        }
        self.mark.slot += 1;
        let state = match state {
            SlotState::Member(kind, body) if self.members > 0 => SlotState::Committed(kind, body),
            SlotState::Member(kind, body) if self.no_head && slot.0 < self.durable => {
                SlotState::Committed(kind, body)
            }
            SlotState::Member(..) => SlotState::Void,
            _ => {
                self.no_head = state == SlotState::Empty
                    || state == SlotState::Invalid && self.may_be_head(slot, words);
                state
            }
        };
        self.members = match state {
            SlotState::Batch(members, _) => members,
            _ => self.members.saturating_sub(1),
        };
        Some((slot, state))
    }
}

/// The slots of a segment; made by [`Segment::directory`].
#[derive(Clone, Copy, Debug)]
pub struct SlotDirectory<'s, M> {
    segment: &'s Segment<M>,
}

impl<M> Segment<M> {
    /// Its slots.
    #[inline]
    pub fn directory(&self) -> SlotDirectory<'_, M> {
        SlotDirectory { segment: self }
    }
}

impl<'s, M: Memory> SlotDirectory<'s, M> {
    /// Word `n` of a slot. The directory of a slot that was granted lies inside the segment;
    /// others are refused by `Memory::word`.
    pub(super) fn slot_word(&self, slot: SlotNumber, n: usize) -> &'s AtomicU64 {
        self.segment.memory.word(self.slot_offset(slot) + n * 8)
    }

    /// Byte offset of a slot in the file.
    #[must_use]
    pub fn slot_offset(&self, slot: SlotNumber) -> usize {
        self.segment.geometry.directory_at + slot.index() * SLOT_BYTES
    }

    pub(super) fn body_words(&self, slot: SlotNumber) -> [u64; 3] {
        // Relaxed: ordered by the Acquire load of word 0 that comes first (or, in
        // `commit_if_pending`, by the index entry that led here).
        [1, 2, 3].map(|n| self.slot_word(slot, n).load(Ordering::Relaxed))
    }

    /// What a slot says. After `Committed` or `Pending` its frame may be read.
    #[must_use]
    pub fn slot(&self, slot: SlotNumber) -> SlotState {
        self.slot_and_words(slot).0
    }

    /// The same, and words 1 to 3, whatever they hold.
    fn slot_and_words(&self, slot: SlotNumber) -> (SlotState, [u64; 3]) {
        // Acquire: pairs with the Release in `decide`; words 1-3 and the frame are there [S2].
        let word0 = self.slot_word(slot, 0).load(Ordering::Acquire);
        let words = self.body_words(slot);
        (slot::decode(word0, words, self.segment.salt, slot), words)
    }

    /// Words 1 to 3 of a slot, whatever they hold.
    #[must_use]
    pub fn body_of(&self, slot: SlotNumber) -> SlotBody {
        SlotBody::from_words(self.body_words(slot))
    }

    /// Returns whether all four words are zero, as in space never used.
    #[must_use]
    pub fn slot_is_blank(&self, slot: SlotNumber) -> bool {
        // Relaxed: only recovery asks, when nobody writes.
        let words = [0, 1, 2, 3].map(|n| self.slot_word(slot, n).load(Ordering::Relaxed));
        words == [0; 4]
    }

    /// Notes where a reserved slot's frame will lie, so that whoever walks the directory can step
    /// over the slot even if nobody ever decides about it.
    pub(super) fn write_extent(&self, slot: SlotNumber, offset: Units, len: Units) {
        let (lsn, key_hash, expires, written) = (Lsn::ZERO, 0, false, WriteOrigin::Alone);
        let words = SlotBody { lsn, key_hash, offset, len, expires, written }.words();
        // Relaxed: a hint, believed only where it continues the frames before it.
        self.slot_word(slot, 3).store(words[2], Ordering::Relaxed);
    }

    /// Every slot that was granted below `end`, in order, with what it says.
    pub fn slots(&self, end: u32) -> SlotIter<'s, M> {
        let floor = Units((self.segment.geometry.segment_bytes / UNIT_BYTES) as u32);
        self.slots_from(Mark { slot: 0, floor }, end)
    }

    /// The same from a mark that an earlier walk left.
    pub fn slots_from(&self, mark: Mark, end: u32) -> SlotIter<'s, M> {
        let end = end.min(self.segment.geometry.capacity().slots_max());
        // Not later: a live writer's flush may decide a head that was met undecided, and move it.
        let durable = self.segment.durable().durable_end();
        SlotIter { segment: self.segment, mark, end, members: 0, no_head: false, durable, asked: 0 }
    }

    /// Where the slots taken so far end, and their frames begin.
    #[must_use]
    pub fn end_mark(&self) -> Mark {
        let mut walk =
            self.slots_from(self.segment.durable().flushed(), self.segment.filling().slots_end());
        walk.by_ref().for_each(drop);
        walk.mark()
    }

    pub(super) fn write_body(&self, slot: SlotNumber, body: SlotBody) {
        for (n, word) in body.words().into_iter().enumerate() {
            // Relaxed: published by word 0, or for a pending frame by the index entry.
            self.slot_word(slot, n + 1).store(word, Ordering::Relaxed);
        }
    }

    /// Moves word 0 from one value to another [S1]. `Err` carries what is there instead.
    pub(super) fn decide(&self, slot: SlotNumber, from: u64, to: u64) -> Result<(), u64> {
        // Release: pairs with the Acquire in `slot` [S2]. Acquire on failure: whoever decided first
        // may have done so with words and frame that the caller reads next.
        let exchange = self.slot_word(slot, 0).compare_exchange(
            from,
            to,
            Ordering::Release,
            Ordering::Acquire,
        );
        exchange.map(drop)
    }

    /// The same where losing means that somebody else has decided.
    pub(super) fn decide_or_leave(&self, slot: SlotNumber, from: u64, to: u64) {
        if self.decide(slot, from, to).is_err() {
            // Decided either way [S1].
        }
    }

    /// Commits a pending slot that was met in the index [W1], unless it is decided already. Whether
    /// the record counts.
    pub fn commit_if_pending(&self, slot: SlotNumber) -> bool {
        // Acquire: pairs with the Release in `decide`.
        let word0 = self.slot_word(slot, 0).load(Ordering::Acquire);
        match slot::decode(word0, self.body_words(slot), self.segment.salt, slot) {
            SlotState::Committed(..) => true,
            SlotState::Pending(kind, body) => {
                let committed = slot::committed_word(kind, body, self.segment.salt, slot);
                match self.decide(slot, word0, committed) {
                    Ok(()) => true,
                    Err(now) => now == committed,
                }
            }
            _ => false,
        }
    }

    /// Voids a slot that is still pending.
    pub fn void_if_pending(&self, slot: SlotNumber) {
        // Acquire: pairs with the Release in `decide`.
        let word0 = self.slot_word(slot, 0).load(Ordering::Acquire);
        let state = slot::decode(word0, self.body_words(slot), self.segment.salt, slot);
        if let SlotState::Pending(..) = state {
            self.decide_or_leave(slot, word0, slot::void_word(self.segment.salt, slot));
        }
    }

    /// Returns whether a slot was written as a member of a batch, whatever its head says.
    #[must_use]
    pub fn is_member(&self, slot: SlotNumber) -> bool {
        matches!(self.slot(slot), SlotState::Member(..))
    }

    /// Voids a member of a batch whose head is void.
    pub fn void_if_member(&self, slot: SlotNumber) {
        // Acquire: pairs with the Release in `decide`.
        let word0 = self.slot_word(slot, 0).load(Ordering::Acquire);
        let state = slot::decode(word0, self.body_words(slot), self.segment.salt, slot);
        if let SlotState::Member(..) = state {
            self.decide_or_leave(slot, word0, slot::void_word(self.segment.salt, slot));
        }
    }

    /// Voids a slot nobody has decided about, and says whether that is how it ended.
    pub fn void_if_empty(&self, slot: SlotNumber) -> bool {
        let void = slot::void_word(self.segment.salt, slot);
        match self.decide(slot, EMPTY_WORD, void) {
            Ok(()) => true,
            Err(now) => now == void,
        }
    }

    /// Voids a slot whatever it says: for recovery, which nobody races.
    pub fn void(&self, slot: SlotNumber) {
        let void = slot::void_word(self.segment.salt, slot);
        // Release: as in `decide`; plain store, because recovery is alone [S1].
        self.slot_word(slot, 0).store(void, Ordering::Release);
    }

    /// Puts a copy in force, or takes it back. Whether it was a copy without force till now.
    pub fn decide_copy(&self, slot: SlotNumber, in_force: bool) -> bool {
        // Acquire: pairs with the Release in `decide`.
        let word0 = self.slot_word(slot, 0).load(Ordering::Acquire);
        let SlotState::Copy(kind, body) =
            slot::decode(word0, self.body_words(slot), self.segment.salt, slot)
        else {
            return false;
        };
        let word = if in_force {
            slot::committed_word(kind, body, self.segment.salt, slot)
        } else {
            slot::void_word(self.segment.salt, slot)
        };
        self.decide(slot, word0, word).is_ok()
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use crate::format::slot::Kind;
    use crate::log::tests::segment;
    use crate::segment::{RecordParts, WriteRequest};

    fn record(id: &[u8]) -> WriteRequest<'_> {
        WriteRequest::new(RecordParts {
            kind: Kind::Put,
            writing: crate::format::frame::WriteMode::Blind,
            id,
            key_hash: 7,
            embedding: &[0; 4],
            content: b"x",
            created_ns: 1,
            expires_ns: 0,
            tag: 0,
        })
    }

    /// Beside a live writer: between head and members a flush voids the one and covers the others.
    #[test]
    fn a_head_that_was_not_decided_when_a_walk_began_is_not_a_damaged_one() {
        let segment = segment(1);
        let records = [record(b"a"), record(b"b")];
        let len = crate::format::frame::units_of(records[0].layout().bytes()).unwrap();
        let (batch, _) = segment.reserve_batch(&[len, len]).unwrap();
        assert!(batch.commit(&records).is_ok());
        // Relaxed: no other thread. As before its writer has come to it.
        segment.directory().slot_word(SlotNumber(0), 0).store(EMPTY_WORD, Ordering::Relaxed);
        let mut walk = segment.directory().slots(3);
        assert_eq!(walk.next(), Some((SlotNumber(0), SlotState::Empty)));
        assert!(segment.directory().void_if_empty(SlotNumber(0)));
        assert!(matches!(segment.directory().slot(SlotNumber(1)), SlotState::Member(..)));
        segment.durable().set_durable_end(3);
        for (slot, state) in walk {
            assert_eq!(state, SlotState::Void, "{slot:?}");
        }
    }

    /// It was void and never written; damaged, its head would say no more than one that was there.
    #[test]
    fn a_batch_whose_head_was_voided_leaves_no_members() {
        for stopped_at in [0, 1, 2] {
            let segment = segment(1);
            let records = [record(b"a"), record(b"b")];
            let len = crate::format::frame::units_of(records[0].layout().bytes()).unwrap();
            let (batch, _) = segment.reserve_batch(&[len, len]).unwrap();
            assert!(segment.directory().void_if_empty(SlotNumber(stopped_at)));
            assert!(batch.commit(&records).is_err());
            segment.durable().set_durable_end(3);
            // Relaxed: no other thread.
            segment.directory().slot_word(SlotNumber(0), 0).store(7, Ordering::Relaxed);
            let found: Vec<_> = segment.directory().slots(3).map(|(_, state)| state).collect();
            assert_eq!(found, [SlotState::Invalid, SlotState::Void, SlotState::Void]);
        }
    }
}
