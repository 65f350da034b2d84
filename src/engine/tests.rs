//! Ids that share a hash: the index has room for so many, and what it has no room for leaves
//! nothing that recovery could find.
#![cfg(test)]

use super::*;
use crate::format::frame::{WriteMode, units_of};
use crate::format::header::{HEADER_END, Role};
use crate::format::ids::{Sequence, SlotNumber};
use crate::format::slot::Kind;
use crate::log::Purpose;
use crate::log::tests::{Heap, SEGMENT_BYTES};
use crate::memory::HeapMemory;
use crate::segment::Geometry;
use crate::segment::RecordParts;
use std::collections::BTreeMap;

type Small = Engine<HeapMemory, Heap, 7>;

fn engine() -> Small {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let log = Log::new(Heap, geometry, Sequence(1));
    let shape = Shape { buckets: 1, split_at: 20, overflow_blocks: 1, initial_depth: 0 };
    Engine::new(log, shape)
}

fn record(id: &[u8], writing: WriteMode) -> WriteRequest<'_> {
    WriteRequest::new(RecordParts {
        kind: Kind::Put,
        writing,
        id,
        key_hash: 7,
        embedding: &[0; 4],
        content: &[],
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    })
}

fn put_one(engine: &Small, content: &[u8]) -> Lsn {
    engine
        .put(&WriteRequest::new(RecordParts { content, ..*record(&ONE, WriteMode::Blind) }))
        .unwrap()
}

fn put(engine: &Small, id: u32) -> Result<Lsn, Error> {
    engine.put(&record(&id.to_le_bytes(), WriteMode::Blind))
}

/// Ids for which a get finds something, and those of committed slots.
fn assert_memory_is_log(engine: &Small) -> usize {
    let guard = engine.epoch().pin();
    let mut newest = BTreeMap::new();
    for segment in engine.log().table().iter(&guard) {
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            let SlotState::Committed(kind, body) = state else { continue };
            let frame = segment.committed_frame(slot).unwrap();
            let at = newest.entry(frame.id().to_vec()).or_insert((body.lsn, kind));
            if at.0 < body.lsn {
                *at = (body.lsn, kind);
            }
        }
    }
    for (id, (_, kind)) in &newest {
        let found = engine.get(&guard, KeyHash(7), id).unwrap().is_some();
        assert_eq!(found, *kind == Kind::Put, "memory and log disagree about {id:?}");
    }
    newest.values().filter(|(_, kind)| *kind == Kind::Put).count()
}

/// A put was committed before the index was asked for room: the one that was refused would have
/// been there after recovery.
#[test]
fn a_put_for_which_there_is_no_room_leaves_nothing() {
    let engine = engine();
    let room = (0..).take_while(|&id| put(&engine, id).is_ok()).count();
    assert!(room >= 7 * 17, "{room}");
    assert_eq!(assert_memory_is_log(&engine), room);
    for id in 1_000..1_010u32 {
        assert!(put(&engine, id).is_err());
        let bytes = id.to_le_bytes();
        let written =
            engine.write_if(&record(&bytes, WriteMode::Conditional), |_, now| now.is_none());
        assert!(written.is_err());
    }
    assert_eq!(assert_memory_is_log(&engine), room);
    // What is there can be overwritten, and removed, which makes room.
    put(&engine, 3).unwrap();
    let gone = 5u32.to_le_bytes();
    let (embedding, kind) = (&[][..], Kind::Tombstone);
    let tombstone = WriteRequest::new(RecordParts {
        kind,
        embedding,
        ..*record(&gone, WriteMode::Conditional)
    });
    engine.remove(&tombstone).unwrap().unwrap();
    assert_eq!(assert_memory_is_log(&engine), room - 1);
    let more = (2_000..).take_while(|&id| put(&engine, id).is_ok()).count();
    assert!(more <= 1, "{more} for the room of one");
    assert_eq!(assert_memory_is_log(&engine), room - 1 + more);
}

/// It may be so when recovery begins, too: in whatever order they come.
#[test]
fn all_that_was_put_finds_room_again() {
    let before = engine();
    let room = (0..).take_while(|&id| put(&before, id).is_ok()).count();
    let again = Engine::<HeapMemory, Heap, 7>::new(
        before.into_log(),
        Shape { buckets: 1, split_at: 20, overflow_blocks: 1, initial_depth: 0 },
    );
    let guard = again.epoch().pin();
    for segment in again.log().table().iter(&guard) {
        for (_, state) in segment.directory().slots(segment.filling().slots_end()) {
            let SlotState::Committed(kind, body) = state else { continue };
            again.restore(segment, kind, body).unwrap();
        }
    }
    assert_eq!(assert_memory_is_log(&again), room);
}

#[test]
fn a_batch_of_ids_with_hashes_that_end_alike_is_refused_before_anything_is_written() {
    let engine = engine();
    let ids: Vec<_> = (0..2_000u32).map(u32::to_le_bytes).collect();
    let mut records: Vec<_> = ids.iter().map(|id| record(id, WriteMode::Blind)).collect();
    assert!(engine.write_batch(&mut records).is_err());
    assert_eq!(assert_memory_is_log(&engine), 0);
}

/// The compaction that gives up the tombstone's record does not see a previous word.
#[test]
fn a_voided_insert_does_not_restore_the_entry_of_a_tombstone() {
    let engine = engine();
    put(&engine, 1).unwrap();
    let id = 1u32.to_le_bytes();
    let (embedding, kind) = (&[][..], Kind::Tombstone);
    let tombstone =
        WriteRequest::new(RecordParts { kind, embedding, ..*record(&id, WriteMode::Conditional) });
    let removed = engine.remove(&tombstone).unwrap().unwrap();
    let guard = engine.epoch().pin();
    let active = engine.log().active(&guard).unwrap();
    let body = active.directory().body_of(SlotNumber(1));
    assert_eq!(body.lsn, removed);
    assert!(engine.resolves_to(&guard, active, body));
    // The condition is evaluated first by lookup, then by the index with the slot pending.
    let asked = std::cell::Cell::new(0);
    let inserted = engine.write_if(&record(&id, WriteMode::Conditional), |_, current| {
        asked.set(asked.get() + 1);
        if asked.get() == 2 {
            (0..active.filling().slots_end())
                .for_each(|n| active.directory().void_if_pending(SlotNumber(n)));
        }
        assert_eq!(current, None);
        asked.get() <= 2
    });
    assert_eq!(inserted.unwrap(), Err(Refused(None)));
    assert!(!engine.resolves_to(&guard, active, body), "the tombstone's entry came back");
    assert_eq!(assert_memory_is_log(&engine), 0);
}

fn lack_of_mappings() -> Error {
    Error::io("here".as_ref(), std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}

/// One segment and no more. Called when half of it is reserved, it writes the id 1, conditionally.
#[derive(Clone, Default)]
struct One(std::sync::Arc<std::sync::OnceLock<std::sync::Weak<Engine<HeapMemory, One, 7>>>>);

impl Source<HeapMemory> for One {
    fn create(
        &self,
        s: Sequence,
        role: Role,
        purpose: Purpose,
    ) -> Result<Segment<HeapMemory>, Error> {
        if s == Sequence(1) { Heap.create(s, role, purpose) } else { Err(lack_of_mappings()) }
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {
        let Some(engine) = self.0.get().and_then(std::sync::Weak::upgrade) else { return };
        let guard = engine.epoch().pin();
        let begun =
            engine.log().active(&guard).is_some_and(|active| active.filling().slots_end() > 0);
        let id = 1u32.to_le_bytes();
        if begun && engine.get(&guard, KeyHash(7), &id).unwrap().is_none() {
            let record = record(&id, WriteMode::Conditional);
            engine.write_if(&record, |_, current| current.is_none()).unwrap().unwrap();
        }
    }
}

/// What a batch has committed is there after the next opening, so it is there now [W6].
#[test]
fn a_member_that_finds_no_room_again_does_not_keep_the_others_from_being_published() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let source = One::default();
    let log = Log::new(source.clone(), geometry, Sequence(1));
    let engine = std::sync::Arc::new(Engine::<_, _, 7>::new(log, Shape::default()));
    assert!(source.0.set(std::sync::Arc::downgrade(&engine)).is_ok());
    let ids = [1, 2].map(u32::to_le_bytes);
    let content = vec![1; geometry.frame_bytes_max() as usize * 3 / 4];
    let mut records = ids.each_ref().map(|id| record(id, WriteMode::Blind)).to_vec();
    records[0] = WriteRequest::new(RecordParts { content: &content, ..*records[0] });
    let written = engine.write_batch(&mut records);
    assert!(matches!(written, Err(Error::StorageFull)), "{written:?}");
    let guard = engine.epoch().pin();
    assert!(engine.get(&guard, KeyHash(7), &ids[0]).unwrap().is_some());
    assert!(engine.get(&guard, KeyHash(7), &ids[1]).unwrap().is_some(), "committed, and not there");
}

const ONE: [u8; 4] = [1; 4];
const TWO: [u8; 4] = [2; 4];

fn tombstone(id: &[u8]) -> WriteRequest<'_> {
    let (embedding, kind) = (&[][..], Kind::Tombstone);
    WriteRequest::new(RecordParts { kind, embedding, ..*record(id, WriteMode::Conditional) })
}

fn put_if(engine: &Small, content: &[u8]) {
    let record =
        WriteRequest::new(RecordParts { content, ..*record(&ONE, WriteMode::Conditional) });
    engine.write_if(&record, |_, _| true).unwrap().unwrap();
}

/// An engine that has met these of the committed records of a log, in this order.
fn restored(log: Log<HeapMemory, Heap>, order: &[usize], outdone: &[SlotNumber]) -> Small {
    log.reset_live();
    let shape = Shape { buckets: 1, split_at: 20, overflow_blocks: 1, initial_depth: 0 };
    let engine = Engine::new(log, shape);
    let guard = engine.epoch().pin();
    let records = committed(&engine, &guard);
    for record in order.iter().filter_map(|&n| records.get(n)) {
        if !outdone.contains(&record.slot) {
            engine.restore(record.segment, record.kind, record.body).unwrap();
        }
    }
    drop(records);
    drop(guard);
    engine
}

fn committed<'g>(engine: &'g Small, guard: &'g Guard) -> Vec<FoundRecord<'g, HeapMemory>> {
    let mut records = Vec::new();
    for segment in engine.log().table().iter(guard) {
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            if let SlotState::Committed(kind, body) = state {
                records.push(FoundRecord { segment, number: 0, slot, kind, body });
            }
        }
    }
    records
}

/// What the two ids hold after recovery has met the records in this order. All lie in one segment.
fn recovered_in(engine: Small, order: &[usize]) -> (Small, [Option<Vec<u8>>; 2]) {
    let mut engine = restored(engine.into_log(), order, &[]);
    let guard = engine.epoch().pin();
    let hashes = engine.unseen();
    let mut records = committed(&engine, &guard);
    records.retain(|record| hashes.contains(&record.body.key_hash));
    let outdone = engine.find_outdone(records.into_iter());
    drop(guard);
    if !outdone.is_empty() {
        let outdone: Vec<_> = outdone.into_iter().map(|(_, slot)| slot).collect();
        engine = restored(engine.into_log(), order, &outdone);
    }
    let guard = engine.epoch().pin();
    let found = [ONE, TWO].map(|id| {
        let found = engine.get(&guard, KeyHash(7), &id).unwrap();
        found.map(|at| at.frame.content().to_vec())
    });
    drop(guard);
    (engine, found)
}

/// The same for one order, and the other one.
fn recovered(engine: Small) -> [[Option<Vec<u8>>; 2]; 2] {
    let order: Vec<_> = (0..100).collect();
    let (engine, one) = recovered_in(engine, &order);
    let order: Vec<_> = (0..100).rev().collect();
    [one, recovered_in(engine, &order).1]
}

/// A member, a blind put and a conditional put of one id, none of which has seen another: decided
/// by twos, each of them was found, by the order in which the segments were scanned [W9].
#[test]
fn what_recovery_finds_does_not_depend_on_the_order_in_which_it_meets_it() {
    let mut engine = engine();
    let guard = engine.epoch().pin();
    let member =
        WriteRequest::new(RecordParts { content: b"batch", ..*record(&ONE, WriteMode::Blind) });
    let frames = [units_of(member.layout().bytes()).unwrap()];
    let batch = engine.log().reserve_batch(&guard, &frames, Purpose::Grow).unwrap();
    let claims = batch.commit(&[member]).unwrap();
    let blind =
        WriteRequest::new(RecordParts { content: b"blind", ..*record(&ONE, WriteMode::Blind) });
    let bytes = blind.layout().bytes();
    let reservation = engine.log().reserve(&guard, bytes, Purpose::Grow).unwrap();
    let claim = reservation.commit(&blind).unwrap();
    put_if(&engine, b"alone");
    std::mem::forget((claims, claim));
    drop(guard);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let found;
        (engine, found) = recovered_in(engine, &order);
        assert_eq!(found[0].as_deref(), Some(&b"blind"[..]), "{order:?}");
    }
}

/// A process dies between the commit of a batch and its publication. Meanwhile a conditional write
/// of one of its ids was made, with a higher LSN: the batch was there but for that id [W9].
#[test]
fn a_batch_of_which_a_conditional_put_has_seen_nothing_is_there_as_a_whole() {
    let (batch, alone) = (|| Some(b"batch".to_vec()), || Some(b"alone".to_vec()));
    type Case = (fn(&Small), fn(&Small), Option<Vec<u8>>);
    let cases: [Case; 9] = [
        (|_| (), |engine| put_if(engine, b"alone"), batch()),
        (|engine| _ = put_one(engine, b"old"), |engine| put_if(engine, b"alone"), batch()),
        // Nor have others that follow it.
        (
            |_| (),
            |engine| {
                put_if(engine, b"first");
                put_if(engine, b"alone");
            },
            batch(),
        ),
        // A removal stands above the batch.
        (
            |engine| put_if(engine, b"old"),
            |engine| _ = engine.remove(&tombstone(&ONE)).unwrap().unwrap(),
            None,
        ),
        (
            |engine| put_if(engine, b"old"),
            |engine| {
                engine.remove(&tombstone(&ONE)).unwrap().unwrap();
                put_if(engine, b"alone");
            },
            alone(),
        ),
        // So does a put that asks nothing, and what has seen that.
        (|_| (), |engine| _ = put_one(engine, b"alone"), alone()),
        (
            |_| (),
            |engine| {
                put_one(engine, b"blind");
                put_if(engine, b"alone");
            },
            alone(),
        ),
        (
            |_| (),
            |engine| {
                put_if(engine, b"first");
                put_one(engine, b"blind");
                put_if(engine, b"alone");
            },
            alone(),
        ),
        (|_| (), |_| (), batch()),
    ];
    for (n, (before, after, expected)) in cases.into_iter().enumerate() {
        let engine = engine();
        before(&engine);
        let guard = engine.epoch().pin();
        let (ids, content) = ([ONE, TWO], b"batch");
        let records = ids
            .each_ref()
            .map(|id| WriteRequest::new(RecordParts { content, ..*record(id, WriteMode::Blind) }));
        let frames = records.map(|record| units_of(record.layout().bytes()).unwrap());
        let batch_of = |frames| engine.log().reserve_batch(&guard, frames, Purpose::Grow);
        // What the process would have gone on with.
        let claims = batch_of(&frames).unwrap().commit(&records).unwrap();
        after(&engine);
        std::mem::forget(claims);
        drop(guard);
        for found in recovered(engine) {
            assert_eq!(found, [expected.clone(), batch()], "case {n}");
        }
    }
}

/// What has seen the batch stands above it, however old its members look.
#[test]
fn a_conditional_put_that_has_seen_a_batch_is_not_hidden_by_it() {
    let alone = Some(b"alone".to_vec());
    let written = |after: fn(&Small)| {
        let engine = engine();
        let content = b"batch";
        let mut records = [ONE, TWO]
            .each_ref()
            .map(|id| WriteRequest::new(RecordParts { content, ..*record(id, WriteMode::Blind) }))
            .to_vec();
        engine.write_batch(&mut records).unwrap();
        after(&engine);
        recovered(engine)
    };
    let removed = |engine: &Small| _ = engine.remove(&tombstone(&ONE)).unwrap().unwrap();
    let cases: [fn(&Small); 4] = [
        |engine| put_if(engine, b"alone"),
        |engine| {
            put_if(engine, b"first");
            put_if(engine, b"alone");
        },
        |engine| {
            engine.remove(&tombstone(&ONE)).unwrap().unwrap();
            put_if(engine, b"alone");
        },
        // The index has forgotten the removal.
        |engine| {
            engine.remove(&tombstone(&ONE)).unwrap().unwrap();
            let guard = engine.epoch().pin();
            engine.drop_tombstones(&guard, Key { hash: KeyHash(7), id: &ONE });
            put_if(engine, b"alone");
        },
    ];
    for case in cases {
        for found in written(case) {
            assert_eq!(found, [alone.clone(), Some(b"batch".to_vec())]);
        }
    }
    assert!(written(removed).iter().all(|found| found[0].is_none()));
}

/// One segment, and more once there is room. Called when half of it is reserved, it writes the id
/// [`TWO`], conditionally.
#[derive(Clone, Default)]
struct Full(std::sync::Arc<FullState>);

#[derive(Default)]
struct FullState {
    engine: std::sync::OnceLock<std::sync::Weak<Engine<HeapMemory, Full, 7>>>,
    room: std::sync::atomic::AtomicBool,
}

impl Source<HeapMemory> for Full {
    fn create(
        &self,
        s: Sequence,
        role: Role,
        purpose: Purpose,
    ) -> Result<Segment<HeapMemory>, Error> {
        let room = self.0.room.load(std::sync::atomic::Ordering::SeqCst);
        if s == Sequence(1) || room {
            Heap.create(s, role, purpose)
        } else {
            Err(Error::StorageFull)
        }
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {
        let Some(engine) = self.0.engine.get().and_then(std::sync::Weak::upgrade) else { return };
        let guard = engine.epoch().pin();
        let begun =
            engine.log().active(&guard).is_some_and(|active| active.filling().slots_end() > 0);
        if begun && engine.get(&guard, KeyHash(7), &TWO).unwrap().is_none() {
            let record = WriteRequest::new(RecordParts {
                content: b"first",
                ..*record(&TWO, WriteMode::Conditional)
            });
            engine.write_if(&record, |_, current| current.is_none()).unwrap().unwrap();
        }
    }
}

/// A batch that has failed with one of its members unpublished may be found after the next opening,
/// but not in place of what was written after it [W9].
#[test]
fn a_batch_that_failed_does_not_come_back_over_what_was_written_after_it() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let source = Full::default();
    let log = Log::new(source.clone(), geometry, Sequence(1));
    let engine = std::sync::Arc::new(Engine::<_, _, 7>::new(log, Shape::default()));
    assert!(source.0.engine.set(std::sync::Arc::downgrade(&engine)).is_ok());
    let content = vec![1; geometry.frame_bytes_max() as usize * 3 / 4];
    let mut records = [ONE, TWO].each_ref().map(|id| record(id, WriteMode::Blind)).to_vec();
    records[1] = WriteRequest::new(RecordParts { content: &content, ..*records[1] });
    let written = engine.write_batch(&mut records);
    assert!(matches!(written, Err(Error::StorageFull)), "{written:?}");
    source.0.room.store(true, std::sync::atomic::Ordering::SeqCst);
    for content in [b"second", b"latest"] {
        let record =
            WriteRequest::new(RecordParts { content, ..*record(&TWO, WriteMode::Conditional) });
        engine.write_if(&record, |_, current| current.is_some()).unwrap().unwrap();
    }
    let log = std::sync::Arc::into_inner(engine).unwrap().into_log();
    let again = Engine::<_, _, 7>::new(log, Shape::default());
    let guard = again.epoch().pin();
    let mut records = Vec::new();
    for segment in again.log().table().iter(&guard) {
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            let SlotState::Committed(kind, body) = state else { continue };
            again.restore(segment, kind, body).unwrap();
            records.push(FoundRecord { segment, number: 0, slot, kind, body });
        }
    }
    let latest = again.get(&guard, KeyHash(7), &TWO).unwrap().unwrap();
    assert_eq!(latest.frame.content(), b"latest");
    let latest = latest.frame.header().slot;
    let outdone = again.find_outdone(records.into_iter());
    let hidden = outdone.iter().any(|(_, slot)| *slot == latest);
    assert!(!hidden, "a batch that failed hides what came later");
}
