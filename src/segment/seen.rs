//! What a conditional put has seen of its id [W9].
//!
//! A member of a batch may be published after a conditional put with a higher LSN, whose condition
//! has not seen it; the member is then written again above that put. A process that dies in between
//! leaves both, and recovery must not take the higher LSN for the newer state: the batch would be
//! there but for one member. So a conditional put says what it has seen, next to its previous word
//! and under a checksum of its own, because that is known only after the frame's was made.

use super::{Frame, Segment};
use crate::concurrency::sync::Ordering;
use crate::format::checksum::Salted;
use crate::format::frame::FrameLayout;
use crate::format::ids::{Lsn, SlotNumber, Units};
use crate::memory::Memory;

impl<M: Memory> Segment<M> {
    /// Notes what the conditional put of this slot, slot and frame, has seen; of other records
    /// nothing.
    pub(super) fn store_seen(
        &self,
        slot: SlotNumber,
        offset: Units,
        layout: FrameLayout,
        seen: Lsn,
    ) {
        let Some(at) = layout.seen_at() else { return };
        for (n, word) in [seen.as_u64(), self.seen_sum(slot, seen)].into_iter().enumerate() {
            // Relaxed: published by the index entry or the slot, with Release.
            self.memory.word(offset.bytes() + at + 8 * n).store(word, Ordering::Relaxed);
        }
    }

    /// The highest LSN of what counted for the id before a conditional put, conditional puts left
    /// out. `None`: it is no such put, or the words are damaged.
    pub fn seen(&self, frame: &Frame<'_>) -> Option<Lsn> {
        let at = frame.offset().bytes() + frame.layout().seen_at()?;
        // Relaxed: stored before what led here was published with Release.
        let [seen, sum] = [0, 8].map(|n| self.memory.word(at + n).load(Ordering::Relaxed));
        let seen = Lsn::from_u64(seen);
        (sum == self.seen_sum(frame.header().slot, seen)).then_some(seen)
    }

    fn seen_sum(&self, slot: SlotNumber, seen: Lsn) -> u64 {
        let sum = Salted::of_slot(self.salt, slot).and(&seen.as_u64().to_le_bytes()).finish();
        // Never 0, which is what a frame holds before.
        u64::from(sum) | 1 << 32
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use crate::format::frame::WriteMode;
    use crate::format::slot::{Kind, SlotState};
    use crate::log::tests::segment;
    use crate::segment::{RecordParts, WriteRequest};

    fn record(writing: WriteMode) -> WriteRequest<'static> {
        let (kind, embedding, content) = (Kind::Put, &[0; 4], b"x");
        let (key_hash, created_ns, expires_ns) = (7, 1, 0);
        WriteRequest::new(RecordParts {
            kind,
            writing,
            id: b"id",
            key_hash,
            embedding,
            content,
            created_ns,
            expires_ns,
            tag: 0,
        })
    }

    #[test]
    fn a_copy_says_what_its_source_has_seen() {
        let (source, output, mut backup) = (segment(1), segment(2), segment(2));
        let record = record(WriteMode::Conditional);
        let reserve = |segment: &Segment<_>| segment.reserve(record.layout().bytes()).is_some();
        assert!(reserve(&output), "the copy lies in another slot");
        let bytes = record.layout().bytes();
        let mut pending = source.reserve(bytes).unwrap().0.pend(&record).unwrap();
        let seen = Lsn::from_u64(5 << 24);
        pending.set_seen(seen);
        pending.commit().unwrap();
        let frame = source.committed_frame(SlotNumber(0)).unwrap();
        assert_eq!(source.seen(&frame), Some(seen));
        let reservation = output.reserve(bytes).unwrap().0;
        let (slot, _) = reservation.copy(&record, pending.lsn(), source.seen(&frame)).unwrap();
        assert!(output.directory().decide_copy(slot, true));
        let copy = output.committed_frame(slot).unwrap();
        assert_eq!(output.seen(&copy), Some(seen));
        assert!(matches!(output.directory().slot(slot), SlotState::Committed(..)));
        let mut walk = output.directory().slots(output.filling().slots_end());
        walk.by_ref().for_each(drop);
        output.replicate(&mut backup, walk.mark());
        let copy = backup.committed_frame(slot).unwrap();
        assert_eq!(backup.seen(&copy), Some(seen));
    }

    #[test]
    fn only_a_conditional_put_says_anything_and_damage_is_noticed() {
        let segment = segment(1);
        let blind = record(WriteMode::Blind);
        let (reservation, _) = segment.reserve(blind.layout().bytes()).unwrap();
        assert!(reservation.commit(&blind).is_ok());
        assert_eq!(segment.seen(&segment.committed_frame(SlotNumber(0)).unwrap()), None);
        let record = record(WriteMode::Conditional);
        let (reservation, _) = segment.reserve(record.layout().bytes()).unwrap();
        let mut pending = reservation.pend(&record).unwrap();
        pending.set_seen(Lsn::ZERO);
        pending.commit().unwrap();
        let frame = segment.committed_frame(SlotNumber(1)).unwrap();
        assert_eq!(segment.seen(&frame), Some(Lsn::ZERO));
        let at = frame.offset().bytes() + record.layout().seen_at().unwrap();
        for n in [0, 8] {
            // Relaxed: no other thread.
            segment.memory.word(at + n).fetch_xor(1 << 30, Ordering::Relaxed);
            assert_eq!(segment.seen(&frame), None);
            segment.memory.word(at + n).fetch_xor(1 << 30, Ordering::Relaxed);
        }
    }
}
