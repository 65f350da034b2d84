//! Copying what a segment holds into another one with the same salt: for backups. Header, id,
//! embedding and content are copied byte by byte, with their checksum. Only the words that the
//! checksum leaves out are made anew: the tag, and those at the end of a conditional put.

use super::{Mark, ReadAhead, Segment};
use crate::concurrency::sync::Ordering;
use crate::format::ids::SlotNumber;
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::memory::Memory;

impl<M: Memory> Segment<M> {
    /// Copies the slots below a mark, all of which are decided, and their frames, to a new segment
    /// of the same geometry and salt that nobody else has yet; seals that one there.
    pub fn replicate<N: Memory>(&self, to: &mut Segment<N>, mark: Mark) {
        let mut ahead = ReadAhead::new();
        for (slot, _) in self.directory().slots(mark.slot) {
            let state = self.directory().slot(slot);
            for n in 0..4 {
                // Acquire: pairs with the Release in `decide`; the frame copied below is whole.
                let word = self.directory().slot_word(slot, n).load(Ordering::Acquire);
                // Relaxed: the copy is not shared yet.
                to.directory().slot_word(slot, n).store(word, Ordering::Relaxed);
            }
            match state {
                // A void's frame may still be written to by a writer that does not know yet.
                SlotState::Committed(kind, body) | SlotState::Member(kind, body) => {
                    self.read_on(&mut ahead, body.offset, body.len);
                    self.replicate_frame(to, slot, (kind, body));
                }
                // Not in force when it was looked at, so what it was made of is copied, too, and
                // may have been given a tag that this has not.
                SlotState::Copy(..) => to.directory().void(slot),
                _ => {}
            }
        }
        to.filling().seal_at(mark);
        to.durable().set_durable_end(mark.slot);
    }

    fn replicate_frame<N: Memory>(
        &self,
        to: &mut Segment<N>,
        slot: SlotNumber,
        (kind, body): (Kind, SlotBody),
    ) {
        let Ok(frame) = self.committed_frame(slot) else { return };
        let at = body.offset.bytes();
        // Wherever the record is now, and without FORWARD if this process has moved it: then
        // source and copy get the same tag. A tombstone's word is its previous one, which means
        // nothing any more.
        let tag = if kind == Kind::Put { self.tags().tag_to_replicate(&frame) } else { 0 };
        // Relaxed: the copy is not shared yet.
        to.memory.word(at).store(tag, Ordering::Relaxed);
        to.write_replica(&frame, body.len);
        if frame.len_bytes() == body.len.bytes() as u64 {
            // The previous word means nothing any more.
            let seen = self.seen(&frame).unwrap_or(body.lsn);
            to.store_seen(slot, body.offset, frame.layout(), seen);
        }
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use crate::format::checksum::Salt;
    use crate::format::frame::{FORWARD, WriteMode};
    use crate::format::header::{Features, HEADER_END, Identity, Role, StoreId};
    use crate::format::ids::{Lsn, Sequence, TableIndex, Units};
    use crate::memory::HeapMemory;
    use crate::segment::{ForwardingTable, RecordParts, WriteRequest};
    use std::sync::Arc;

    const BYTES: usize = 1 << 12;

    fn segment() -> Segment<HeapMemory> {
        let identity = Identity {
            store: StoreId([7; 16]),
            sequence: Sequence(3),
            salt: Salt(9),
            dimension: 1,
            segment_bytes: BYTES as u64,
            directory_at: HEADER_END as u32,
            features: Features::default(),
            role: Role::Copies,
        };
        let segment = Segment::create(HeapMemory::new(BYTES), &identity);
        segment.set_table_index(TableIndex(0));
        segment
    }

    /// Of a record and its copy with one LSN recovery takes the one that was not moved on. Both are
    /// in the backup, and only the copy has the tags that were given since.
    #[test]
    fn a_replica_says_that_an_earlier_process_has_moved_a_record() {
        let (segment, mut to) = (segment(), segment());
        let record = record(&[1; 4]);
        let (reservation, _) = segment.reserve(record.layout().bytes()).unwrap();
        let committed = reservation.commit(&record).unwrap();
        let at = segment.committed_frame(SlotNumber(0)).unwrap().offset();
        // Relaxed: no other thread.
        segment.memory.word(at.bytes()).store(FORWARD | 5, Ordering::Relaxed);
        drop(committed);
        let mut walk = segment.directory().slots(1);
        walk.by_ref().for_each(drop);
        segment.replicate(&mut to, walk.mark());
        assert!(to.tags().is_forwarded(at));
        assert_eq!(to.tags().tag(&to.committed_frame(SlotNumber(0)).unwrap()), 5);
    }

    fn record(id: &[u8; 4]) -> WriteRequest<'_> {
        WriteRequest::new(RecordParts {
            kind: Kind::Put,
            writing: WriteMode::Blind,
            id,
            key_hash: 7,
            embedding: &[0; 4],
            content: b"x",
            created_ns: 1,
            expires_ns: 0,
            tag: 0,
        })
    }

    /// A copy without force: its slot, and where it lies.
    fn copy(segment: &Segment<HeapMemory>, n: u8) -> Option<(SlotNumber, Units)> {
        let id = id(n);
        let record = record(&id);
        let (reservation, _) = segment.reserve(record.layout().bytes())?;
        let lsn = Lsn::new(Sequence(2), SlotNumber(u32::from(n)));
        reservation.copy(&record, lsn, None).ok()
    }

    fn id(n: u8) -> [u8; 4] {
        [n; 4]
    }

    /// While a backup was at work its copy was moved on, and given up. If an earlier process had
    /// moved it, too, the source of that move says so as well, and its older tag could count.
    #[test]
    fn a_record_whose_copy_is_gone_is_not_moved_in_a_replica() {
        let (segment, mut to, output) = (segment(), segment(), Arc::new(segment()));
        let ((slot, from), (_, at)) = (copy(&segment, 0).unwrap(), copy(&output, 0).unwrap());
        assert!(segment.directory().decide_copy(slot, true));
        let frame = segment.committed_frame(slot).unwrap();
        assert_eq!(segment.tags().update_tag(&frame, |_| 77), Ok(77));
        let mut forwarding = ForwardingTable::default();
        forwarding.add(from, &output, at);
        segment.tags().set_forwarding(forwarding);
        segment.tags().forward(from, &output, at);
        drop(output);
        segment.replicate(&mut to, segment.directory().end_mark());
        let frame = to.committed_frame(slot).unwrap();
        assert_eq!((to.tags().tag(&frame), to.tags().is_forwarded(from)), (77, false));
    }

    /// Else a backup could count it, without the tag that its source passed on a moment later.
    #[test]
    fn a_copy_that_is_not_in_force_is_void_in_a_replica() {
        let (segment, mut to) = (segment(), segment());
        let slots = [0, 1, 2].map(|n| copy(&segment, n).unwrap().0);
        assert!(
            segment.directory().decide_copy(slots[0], true)
                && segment.directory().decide_copy(slots[2], true)
        );
        let mut walk = segment.directory().slots(3);
        walk.by_ref().for_each(drop);
        segment.replicate(&mut to, walk.mark());
        let found: Vec<_> =
            to.directory().slots(to.filling().slots_end()).map(|(_, state)| state).collect();
        let [SlotState::Committed(..), SlotState::Void, SlotState::Committed(..)] = found[..]
        else {
            panic!("{found:?}");
        };
        for (slot, n) in [(slots[0], 0), (slots[2], 2)] {
            let frame = to.committed_frame(slot).unwrap();
            assert_eq!((frame.id(), frame.content()), (&id(n)[..], &b"x"[..]));
            assert!(to.verify(&frame).is_ok());
        }
    }
}
