//! Where two parts of the engine hand a segment to each other: steps that the public API cannot be
//! stopped between, one by one.
#![cfg(test)]

use std::sync::Arc;
use stratalog::Error;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::frame::{FORWARD, WriteMode};
use stratalog::internals::format::header::{Features, HEADER_END, Identity, Role, StoreId};
use stratalog::internals::format::ids::{Sequence, SlotNumber, TableIndex};
use stratalog::internals::format::slot::{Kind, SlotState};
use stratalog::internals::index::{KeyHash, Shape};
use stratalog::internals::segment::{
    ForwardingTable, Geometry, RecordParts, Segment, WriteRequest,
};
use stratalog::internals::{Engine, HeapMemory, Log, Memory, Purpose, Relocation, Source};

const SEGMENT_BYTES: usize = 4096;
const TAG: u64 = 5;

/// Segments on the heap.
struct Heap;

impl Heap {
    fn segment(sequence: Sequence, role: Role) -> Segment<HeapMemory> {
        let identity = Identity {
            store: StoreId([7; 16]),
            sequence,
            salt: Salt(77 + sequence.0),
            dimension: 1,
            features: Features::default(),
            segment_bytes: SEGMENT_BYTES as u64,
            directory_at: HEADER_END as u32,
            role,
        };
        Segment::create(HeapMemory::new(SEGMENT_BYTES), &identity)
    }
}

impl Source<HeapMemory> for Heap {
    fn create(&self, s: Sequence, role: Role, _: Purpose) -> Result<Segment<HeapMemory>, Error> {
        Ok(Self::segment(s, role))
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {}
}

type HeapEngine = Engine<HeapMemory, Heap, 7>;

fn engine() -> HeapEngine {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    Engine::new(Log::new(Heap, geometry, Sequence(1)), Shape::default())
}

fn hash(id: &[u8]) -> u64 {
    u64::from(id[0]) << 8
}

fn put(engine: &HeapEngine, id: &[u8]) {
    let record = WriteRequest::new(RecordParts {
        kind: Kind::Put,
        writing: WriteMode::Blind,
        id,
        key_hash: hash(id),
        embedding: &[0; 4],
        content: b"xxxx",
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    });
    engine.put(&record).unwrap();
}

fn tag(engine: &HeapEngine, id: &[u8]) -> u64 {
    let guard = engine.epoch().pin();
    let Ok(Some(at)) = engine.get(&guard, KeyHash(hash(id)), id) else { panic!("it is gone") };
    at.segment.tags().tag(&at.frame)
}

/// A store of one record with a tag, whose segment compaction is at work on.
struct Moving {
    engine: HeapEngine,
    victim: Arc<Segment<HeapMemory>>,
    output: Arc<Segment<HeapMemory>>,
}

impl Moving {
    fn new() -> Self {
        let engine = engine();
        put(&engine, b"a");
        let guard = engine.epoch().pin();
        let victim = engine.log().table().get_arc(&guard, TableIndex(0)).unwrap();
        victim.tags().update_tag(&victim.committed_frame(SlotNumber(0)).unwrap(), |_| TAG).unwrap();
        engine.log().end_active(&guard);
        let output = engine.log().make_for_copies(&guard).unwrap();
        drop(guard);
        Self { engine, victim, output }
    }

    /// As a process leaves it whose copy was lost.
    fn with_an_old_forward() -> Self {
        let moving = Self::new();
        let (_, at) = moving.place();
        let word = moving.victim.memory().word(at);
        word.fetch_or(FORWARD, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(tag(&moving.engine, b"a"), TAG, "it counts as it is");
        moving
    }

    fn place(&self) -> (Kind, usize) {
        let SlotState::Committed(kind, body) = self.victim.directory().slot(SlotNumber(0)) else {
            panic!("{:?}", self.victim.directory().slot(SlotNumber(0)))
        };
        (kind, body.offset.bytes())
    }

    /// What compaction does of its step 2.
    fn copy(&self) -> Relocation {
        let SlotState::Committed(kind, body) = self.victim.directory().slot(SlotNumber(0)) else {
            panic!("{:?}", self.victim.directory().slot(SlotNumber(0)))
        };
        self.victim.tags().clear_forward(body.offset);
        let frame = self.victim.committed_frame(SlotNumber(0)).unwrap();
        let from = (&*self.victim, &frame);
        self.engine.copy_record(from, kind, body, &self.output).unwrap().unwrap()
    }

    fn set_forwarding(&self, copy: &Relocation) {
        let mut moves = ForwardingTable::default();
        moves.add(copy.from, &self.output, copy.to);
        self.victim.tags().set_forwarding(moves);
    }

    fn r#move(&self, copy: &Relocation) -> bool {
        let guard = self.engine.epoch().pin();
        self.engine.move_record(&guard, copy, &self.victim, &self.output)
    }
}

fn replica_of(segment: &Segment<HeapMemory>) -> Segment<HeapMemory> {
    let mut to = Heap::segment(segment.sequence(), segment.role());
    let mut walk = segment.directory().slots(segment.filling().slots_end());
    walk.by_ref().for_each(drop);
    segment.replicate(&mut to, walk.mark());
    to
}

/// The backup has come to the segment for copies before the copy was in force, and to the victim
/// after its record was moved: then the victim's is the only copy that it has, and was said to have
/// been moved. (mutation: replica-copies-tag-word)
#[test]
fn a_backup_carries_no_half_made_move() {
    let moving = Moving::new();
    let copy = moving.copy();
    let output = replica_of(&moving.output);
    moving.set_forwarding(&copy);
    assert!(moving.r#move(&copy));
    // An update of the meantime is where the record is now.
    let guard = moving.engine.epoch().pin();
    let Ok(Some(at)) = moving.engine.get(&guard, KeyHash(hash(b"a")), b"a") else { panic!() };
    assert_eq!(at.segment.tags().update_tag(&at.frame, |tag| tag + 1), Ok(TAG + 1));
    let victim = replica_of(&moving.victim);
    assert_eq!(output.directory().slot(SlotNumber(0)), SlotState::Void);
    let (_, offset) = moving.place();
    let word = victim.memory().word(offset).load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(word, TAG + 1, "{word:#x}");
}

/// The copy is flushed before it is in force, and may count after power loss before the tag was
/// moved to it: then it must have a tag that its version once had, and 0 may never have been one.
/// (mutation: copies-begin-untagged)
#[test]
fn a_copy_has_the_tag_of_its_source_from_the_beginning() {
    let moving = Moving::new();
    let copy = moving.copy();
    let word = moving.output.memory().word(copy.to.bytes());
    assert_eq!(word.load(std::sync::atomic::Ordering::SeqCst), TAG);
}

/// A replica's segments take no more, so that compaction can have them.
/// (mutation: replica-not-closed)
#[test]
fn a_replica_is_full_and_quiet() {
    let engine = engine();
    put(&engine, b"a");
    let guard = engine.epoch().pin();
    let replica = replica_of(engine.log().active(&guard).unwrap());
    assert!(
        replica.filling().is_full()
            && replica.filling().sealed() == Some(1)
            && replica.filling().slots_end() == 1
    );
}

#[test]
fn an_old_forward_is_not_followed_while_its_record_is_moved() {
    let moving = Moving::with_an_old_forward();
    let copy = moving.copy();
    moving.set_forwarding(&copy);
    // All other records of the group may be moved in between.
    assert_eq!(tag(&moving.engine, b"a"), TAG);
    let frame = moving.victim.committed_frame(SlotNumber(0)).unwrap();
    assert_eq!(moving.victim.tags().update_tag(&frame, |tag| tag + 1), Ok(TAG + 1));
    assert!(moving.r#move(&copy));
    assert_eq!(tag(&moving.engine, b"a"), TAG + 1);
}

/// The process is killed between step 2 of a compaction and step 4.
#[test]
fn a_tag_survives_a_kill_between_the_copy_and_the_move() {
    for moving in [Moving::new(), Moving::with_an_old_forward()] {
        moving.copy();
        let SlotState::Committed(kind, body) = moving.victim.directory().slot(SlotNumber(0)) else {
            panic!()
        };
        // What an opening does.
        let again = HeapEngine::new(moving.engine.into_log(), Shape::default());
        again.restore(&moving.victim, kind, body).unwrap();
        let SlotState::Copy(kind, body) = moving.output.directory().slot(SlotNumber(0)) else {
            panic!()
        };
        assert!(!again.restore_copy(&moving.output, kind, body).unwrap(), "it has no tag");
        assert_eq!(tag(&again, b"a"), TAG);
    }
}

/// Two threads found the same segment released. The slower one took out what had come into its
/// place meanwhile: the active segment. (mutation: table-removes-by-index)
#[test]
fn a_segment_is_taken_out_of_the_table_once_and_no_other_one_for_it() {
    let engine = engine();
    put(&engine, b"a");
    let guard = engine.epoch().pin();
    let log = engine.log();
    log.end_active(&guard);
    put(&engine, b"a");
    // The slower one has this reference, and is stopped.
    let first = log.table().get(&guard, TableIndex(0)).unwrap();
    assert_eq!(first.sequence(), Sequence(1));
    let counted = log.table().get_arc(&guard, TableIndex(0)).unwrap();
    log.retire_segment(&guard, counted);
    first.reclamation().set_released();
    log.sweep(&guard);
    assert!(log.table().get(&guard, TableIndex(0)).is_none());
    log.end_active(&guard);
    put(&engine, b"b");
    assert_eq!(log.active(&guard).unwrap().table_index(), TableIndex(0), "its place is used again");
    assert!(!log.table().remove(&guard, first), "it was taken out before");
    assert_eq!(tag(&engine, b"b"), 0);
    assert_eq!(log.in_use(&guard).count(), 2);
}
