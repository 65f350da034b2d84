//! The engine over memory on the heap: for stopping between two steps of a write, and for reading
//! what a process that died there would have left behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::frame::WriteMode;
use stratalog::internals::format::header::{DIRECTORY_AT, Features, Identity, Role, StoreId};
use stratalog::internals::format::ids::Sequence;
use stratalog::internals::format::slot::{Kind, SlotState};
use stratalog::internals::index::{KeyHash, Shape};
use stratalog::internals::segment::{Geometry, RecordParts, Segment, WriteRequest};
use stratalog::internals::{Engine, HeapMemory, Log, Purpose, Source};
use stratalog::{Error, Lsn};

/// `f32` values of every embedding.
pub const DIMENSION: usize = 4;
const SEGMENT: usize = 1 << 16;

/// Where the segments of these tests come from.
pub struct Heap {
    made: AtomicU64,
    before_making: Box<dyn Fn() + Send + Sync>,
}

impl Heap {
    fn identity(&self, sequence: Sequence, role: Role) -> Identity {
        // Relaxed: only uniqueness matters.
        let salt = Salt(self.made.fetch_add(1, Ordering::Relaxed));
        Identity {
            store: StoreId(*b"of heap segments"),
            sequence,
            salt,
            dimension: DIMENSION as u32,
            segment_bytes: SEGMENT as u64,
            directory_at: DIRECTORY_AT as u32,
            features: Features::default(),
            role,
        }
    }
}

impl Source<HeapMemory> for Heap {
    fn create(
        &self,
        sequence: Sequence,
        role: Role,
        _: Purpose,
    ) -> Result<Segment<HeapMemory>, Error> {
        (self.before_making)();
        Ok(Segment::create(HeapMemory::new(SEGMENT), &self.identity(sequence, role)))
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {}
}

pub type HeapEngine = Engine<HeapMemory, Heap>;

/// An engine without records.
pub fn engine() -> HeapEngine {
    engine_that(|| {})
}

/// An engine without records that does something before it makes each segment.
pub fn engine_that(before_making: impl Fn() + Send + Sync + 'static) -> HeapEngine {
    let geometry =
        Geometry { segment_bytes: SEGMENT, directory_at: DIRECTORY_AT, dimension: DIMENSION };
    let heap = Heap { made: AtomicU64::new(1), before_making: Box::new(before_making) };
    let log = Log::new(heap, geometry, Sequence(1));
    Engine::new(log, Shape::default())
}

fn hash(id: &[u8]) -> KeyHash {
    KeyHash(xxhash_rust::xxh3::xxh3_64(id))
}

/// A version of an id; the embedding is in bytes.
pub fn version<'a>(id: &'a [u8], embedding: &'a [u8], content: &'a [u8]) -> WriteRequest<'a> {
    let (kind, writing) = (Kind::Put, WriteMode::Blind);
    WriteRequest::new(RecordParts {
        kind,
        writing,
        id,
        key_hash: hash(id).0,
        embedding,
        content,
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    })
}

/// Puts a content; the embedding is its length, so that the two must fit.
pub fn put(engine: &HeapEngine, id: &[u8], content: &[u8]) -> Lsn {
    let embedding = [content.len() as f32; DIMENSION];
    engine.put(&version(id, bytemuck::cast_slice(&embedding), content)).expect("a put")
}

/// Removes an id.
pub fn remove(engine: &HeapEngine, id: &[u8]) -> bool {
    let tombstone = WriteRequest::new(RecordParts {
        kind: Kind::Tombstone,
        writing: WriteMode::Conditional,
        ..*version(id, &[], &[])
    });
    engine.remove(&tombstone).expect("a removal").is_ok()
}

/// The content of an id.
pub fn get(engine: &HeapEngine, id: &[u8]) -> Option<Vec<u8>> {
    let guard = engine.epoch().pin();
    let found = engine.get(&guard, hash(id), id).expect("a whole record")?;
    let content = found.frame.content().to_vec();
    assert_eq!(found.frame.embedding(), [content.len() as f32; DIMENSION]);
    assert_eq!(found.frame.id(), id);
    Some(content)
}

/// Everything that an engine holds.
pub fn contents(engine: &HeapEngine) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let guard = engine.epoch().pin();
    let mut walk = engine.index().walk();
    let mut contents = BTreeMap::new();
    while let Some((entry, _)) = walk.next(engine.index(), &guard) {
        let frame = engine.locate(&guard, entry).expect("a whole record").frame;
        let twice = contents.insert(frame.id().to_vec(), frame.content().to_vec());
        assert_eq!(twice, None, "an id was seen twice");
    }
    assert_eq!(engine.live(), contents.len() as u64);
    contents
}

/// An engine over copies of all segments: what is found after this process has died here. Also says
/// how many slots are void, and how many nobody has decided about.
pub fn reopened(engine: &HeapEngine) -> (HeapEngine, u32, u32) {
    let (again, guard) = (self::engine(), engine.epoch().pin());
    let (mut void, mut undecided) = (0, 0);
    for segment in engine.log().in_use(&guard) {
        let copy = segment.memory().snapshot();
        let header = Segment::identity_bytes(&copy);
        let identity = Identity::decode(&header).expect("a whole header");
        let copy = Arc::new(Segment::attach(copy, &identity));
        again.log().adopt(Arc::clone(&copy)).expect("room in the table");
        for (_, state) in copy.directory().slots(copy.filling().slots_end()) {
            match state {
                SlotState::Void => void += 1,
                SlotState::Empty | SlotState::Pending(..) => undecided += 1,
                SlotState::Committed(kind, body) => {
                    again.restore(&copy, kind, body).expect("room in the index");
                }
                SlotState::Batch(..) | SlotState::Member(..) | SlotState::Copy(..) => {}
                SlotState::Invalid => panic!("a slot is damaged"),
            }
        }
    }
    (again, void, undecided)
}
