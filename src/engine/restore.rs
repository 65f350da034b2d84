//! Bringing what recovery found into the index.

use super::Engine;
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::lock;
use crate::error::Error;
use crate::format::ids::{Lsn, Units};
use crate::format::slot::{Kind, SlotBody, WriteOrigin};
use crate::index::{Decision, Entry, Found, Index, KeyHash, Resolve, Room};
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::{Frame, Segment};

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Puts a record found by recovery into the index: highest LSN wins, whatever the order; for
    /// what does not count all the same see [`Engine::find_outdone`]. Of two copies
    /// of one record, which have the same LSN, the one that was not moved on: it has the
    /// tag. Its segment may well be the older one: one for copies takes them from log segments that
    /// were begun after it. Where the beginning of a frame is damaged, its tag says nothing: a
    /// whole copy that has one goes before it.
    pub fn restore(&self, segment: &Segment<M>, kind: Kind, body: SlotBody) -> Result<(), Error> {
        let live = self.restore_newest(&self.epoch.pin(), segment, kind, body)?;
        self.add_live(live);
        Ok(())
    }

    /// The same with several records, whose places in the index are on their way while others are
    /// put in. How many more ids are live then, for [`Engine::add_live`]: threads that counted on
    /// one line for each record would wait for each other.
    pub fn restore_all(
        &self,
        segment: &Segment<M>,
        records: &[(Kind, SlotBody)],
    ) -> Result<i64, Error> {
        let guard = self.epoch.pin();
        for step in 0..Index::<SLOTS>::PREFETCH_STEPS {
            for (_, body) in records {
                self.index.prefetch_step(&guard, KeyHash(body.key_hash), step);
            }
        }
        let mut live = 0;
        for (kind, body) in records {
            live += self.restore_newest(&guard, segment, *kind, *body)?;
        }
        Ok(live)
    }

    /// Restores the newest version, as [`Engine::restore`] says. Returns the change in the number
    /// of live records.
    fn restore_newest(
        &self,
        guard: &Guard,
        segment: &Segment<M>,
        kind: Kind,
        body: SlotBody,
    ) -> Result<i64, Error> {
        let last = |segment: &Segment<M>, offset| {
            let has_tag = kind == Kind::Put && !segment.tags().is_forwarded(offset);
            (has_tag && says_lsn(segment, offset, body.lsn), has_tag, segment.sequence())
        };
        let older = |guard: &Guard, old: Entry| {
            let Some(found) = self.slot_of(guard, old) else { return true };
            let before = || self.log.resolve(guard, old.address);
            self.note_unseen(found, segment, body);
            if found.written == WriteOrigin::Conditionally
                && let Some((its, _)) = before()
            {
                self.note_unseen(body, its, found);
            }
            found.lsn < body.lsn
                || found.lsn == body.lsn
                    && before().is_none_or(|(s, at)| last(s, at) < last(segment, body.offset))
        };
        let wins = |guard: &Guard, old: Option<Entry>| old.is_none_or(|old| older(guard, old));
        let (_, live) = self.restore_if(guard, segment, kind, body, wins)?;
        Ok(live)
    }

    /// Notes the id if a conditional put has not seen something with a lower LSN that asks nothing.
    /// Where a put is the newest of its id and a member of a batch has outdone it, such a thing is
    /// met, in whatever order its records come: the member, or what stood above it.
    fn note_unseen(&self, other: SlotBody, segment: &Segment<M>, put: SlotBody) {
        let conditional = WriteOrigin::Conditionally;
        if put.written != conditional || other.written == conditional || other.lsn >= put.lsn {
            return;
        }
        let frame = segment.frame(put.offset).ok();
        if frame.and_then(|frame| segment.seen(&frame)).is_some_and(|seen| seen < other.lsn) {
            lock(&self.unseen).insert(put.key_hash);
        }
    }

    /// Puts a copy without force into the index if the record that it was made of is there, and
    /// says that it was moved. Whether it was.
    pub fn restore_copy(
        &self,
        segment: &Segment<M>,
        kind: Kind,
        body: SlotBody,
    ) -> Result<bool, Error> {
        let moved = |guard: &Guard, old: Entry| {
            let source = self.log.resolve(guard, old.address);
            self.slot_of(guard, old).is_some_and(|found| found.lsn == body.lsn)
                && source.is_some_and(|(source, offset)| source.tags().is_forwarded(offset))
        };
        let wins = |guard: &Guard, old: Option<Entry>| old.is_some_and(|old| moved(guard, old));
        let (won, live) = self.restore_if(&self.epoch.pin(), segment, kind, body, wins)?;
        self.add_live(live);
        Ok(won)
    }

    /// Returns whether the record is in the index, and the change in the number of live records.
    fn restore_if(
        &self,
        guard: &Guard,
        segment: &Segment<M>,
        kind: Kind,
        body: SlotBody,
        wins: impl Fn(&Guard, Option<Entry>) -> bool,
    ) -> Result<(bool, i64), Error> {
        let tomb = kind == Kind::Tombstone;
        let entry = Entry { address: segment.address(body.offset), tomb, pending: false };
        let keys = RestoredKeys { engine: self, guard, segment, body };
        let mut won = false;
        let decide = |found| {
            won = match found {
                Found::Absent { .. } => wins(guard, None),
                Found::Entry(old) => wins(guard, Some(old)),
            };
            if won { Decision::Set(entry) } else { Decision::Keep }
        };
        // It was there once: tombstones that a rebuild had dropped may take any room here.
        let (hash, room) = (KeyHash(body.key_hash), Room::Committed);
        let before = self.index.update_within(room, guard, hash, &keys, decide)?;
        let live = if won { self.count_restored(guard, segment, tomb, body, before) } else { 0 };
        Ok((won, live))
    }

    /// The record of this slot was the id's newest and is damaged: what is older than it in the
    /// index does not stand for the id any more. Whether there was something older.
    pub fn shadow(&self, segment: &Segment<M>, body: SlotBody) -> bool {
        let guard = self.epoch.pin();
        let keys = RestoredKeys { engine: self, guard: &guard, segment, body };
        let is_older = |old| self.slot_of(&guard, old).is_some_and(|old| old.lsn < body.lsn);
        let change =
            |old: Entry| (!old.tomb && is_older(old)).then_some(Entry { tomb: true, ..old });
        let hash = KeyHash(body.key_hash);
        let Some(old) = self.index.update_if(&guard, hash, &keys, change) else { return false };
        self.log.count_live(0, self.subtract_live(&guard, old));
        self.add_live(-1);
        true
    }

    fn count_restored(
        &self,
        guard: &Guard,
        segment: &Segment<M>,
        tomb: bool,
        body: SlotBody,
        before: Option<Entry>,
    ) -> i64 {
        let live_bytes = if tomb { 0 } else { body.len.bytes() as u64 };
        segment.usage().add_live(live_bytes);
        let old = before.filter(|old| !old.tomb);
        let bytes_before = old.map_or(0, |old| self.subtract_live(guard, old));
        self.log.count_live(live_bytes, bytes_before);
        i64::from(!tomb) - i64::from(old.is_some())
    }
}

/// Returns whether the beginning of a frame, where the tag is, is as it was written, by what else
/// is there.
fn says_lsn<M: Memory>(segment: &Segment<M>, offset: Units, lsn: Lsn) -> bool {
    let frame = segment.frame(offset);
    frame.is_ok_and(|frame| frame.header().lsn == lsn)
}

/// Returns whether two frames are of one id, as far as can be told where their hashes are equal.
pub(super) fn may_be_of_one_id<M: Memory>(
    (mine, frame): (&Segment<M>, &Frame<'_>),
    (its, other): (&Segment<M>, &Frame<'_>),
) -> bool {
    let whole = || mine.verify(frame).is_ok() && its.verify(other).is_ok();
    frame.id() == other.id() || !whole()
}

/// Compares keys of records that may be damaged. Slots are under checksums of their own, so equal
/// hashes there decide, unless both frames are whole and their ids differ.
struct RestoredKeys<'a, M: Memory, S, const SLOTS: usize> {
    engine: &'a Engine<M, S, SLOTS>,
    guard: &'a Guard<'a>,
    segment: &'a Segment<M>,
    body: SlotBody,
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Resolve for RestoredKeys<'_, M, S, SLOTS> {
    fn same_key(&self, entry: Entry) -> bool {
        let body = self.engine.slot_of(self.guard, entry);
        if body.is_none_or(|body| body.key_hash != self.body.key_hash) {
            return false;
        }
        let mine = self.segment.frame(self.body.offset);
        let (Ok(mine), Ok(other)) = (mine, self.engine.locate(self.guard, entry)) else {
            return true;
        };
        may_be_of_one_id((self.segment, &mine), (other.segment, &other.frame))
    }

    fn lsn(&self, entry: Entry) -> Lsn {
        self.engine.slot_of(self.guard, entry).map_or(Lsn::ZERO, |body| body.lsn)
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use crate::format::frame::WriteMode;
    use crate::format::header::HEADER_END;
    use crate::format::ids::Sequence;
    use crate::format::slot::SlotState;
    use crate::index::Shape;
    use crate::log::Log;
    use crate::log::tests::{Heap, SEGMENT_BYTES};
    use crate::memory::HeapMemory;
    use crate::segment::{Geometry, RecordParts, WriteRequest};

    fn committed(segment: &Segment<HeapMemory>) -> Option<(Kind, SlotBody)> {
        let committed = |(_, state)| match state {
            SlotState::Committed(kind, body) => Some((kind, body)),
            _ => None,
        };
        segment.directory().slots(segment.filling().slots_end()).find_map(committed)
    }

    /// A process dies after it has moved a record, and then what it was moved from is damaged, so
    /// that it does not say so any more: nothing that counts was hit.
    #[test]
    fn a_whole_copy_goes_before_a_damaged_source_whichever_segment_is_older() {
        let geometry =
            Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
        let log = Log::new(Heap, geometry, Sequence(1));
        let engine = Engine::<_, _, 7>::new(log, Shape::default());
        let guard = engine.epoch().pin();
        let copies = engine.log().make_for_copies(&guard).unwrap();
        let record = WriteRequest::new(RecordParts {
            kind: Kind::Put,
            writing: WriteMode::Blind,
            id: b"a",
            key_hash: 7,
            embedding: &[0; 4],
            content: b"moved",
            created_ns: 1,
            expires_ns: 0,
            tag: 0,
        });
        engine.put(&record).unwrap();
        let source = engine.log().active(&guard).unwrap();
        assert!(copies.sequence() < source.sequence());
        let (kind, body) = committed(source).unwrap();
        let frame = source.frame(body.offset).unwrap();
        let copy = engine.copy_record((source, &frame), kind, body, &copies).unwrap().unwrap();
        assert!(copies.directory().decide_copy(copy.slot, true));
        source.damage(body.offset.bytes() + 8, &[0; 56]);

        // As an opening does, in whatever order.
        for segment in [&*copies, source] {
            let (kind, body) = committed(segment).unwrap();
            engine.restore(segment, kind, body).unwrap();
            let found = engine.get(&guard, KeyHash(7), b"a").ok().flatten();
            assert_eq!(found.map(|at| at.frame.content()), Some(&b"moved"[..]));
        }
    }

    /// Removals left room to other ids, and recovery keeps all tombstones until it has ended.
    #[test]
    fn ids_with_one_hash_find_room_however_many_there_were() {
        const IDS: u32 = 400;
        let geometry =
            Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
        let log = Log::new(Heap, geometry, Sequence(1));
        let engine = Engine::<_, _, 7>::new(log, Shape::default());
        for n in 0..IDS {
            let id = n.to_le_bytes();
            let record = WriteRequest::new(RecordParts {
                kind: Kind::Put,
                writing: WriteMode::Blind,
                id: &id,
                key_hash: 7,
                embedding: &[0; 4],
                content: b"",
                created_ns: 1,
                expires_ns: 0,
                tag: 0,
            });
            engine.put(&record).unwrap();
        }
        // Room for 7 of them and 112 more.
        let shape = Shape { buckets: 1, split_at: 20, overflow_blocks: 1, initial_depth: 0 };
        let engine = Engine::<_, _, 7>::new(engine.into_log(), shape);
        engine.index().set_keep_tombstones(true);
        let guard = engine.epoch().pin();
        for segment in engine.log().in_use(&guard) {
            for (_, state) in segment.directory().slots(segment.filling().slots_end()) {
                if let SlotState::Committed(kind, body) = state {
                    engine.restore(segment, kind, body).unwrap();
                }
            }
        }
        assert_eq!(engine.live(), u64::from(IDS));
        engine.index().set_keep_tombstones(false);
        let found = engine.get(&guard, KeyHash(7), &(IDS - 1).to_le_bytes());
        assert!(matches!(found, Ok(Some(_))));
    }
}
