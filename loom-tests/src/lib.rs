//! Models of stratalog's lock-free protocols, run on the code that ships: only the atomics below it
//! are loom's, or shuttle's (`src/concurrency/sync.rs`). This file is what the models share; each
//! model is a file in `tests/` and names the mutation that turns it red.
#![cfg(stratalog_loom)]

#[cfg(not(stratalog_shuttle))]
mod explore;
#[cfg(not(stratalog_shuttle))]
pub mod watched;

#[cfg(not(stratalog_shuttle))]
pub use explore::explore;
#[cfg(not(stratalog_shuttle))]
use loom::sync::Arc;
#[cfg(stratalog_shuttle)]
use std::sync::Arc;
use stratalog::Error;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::frame::WriteMode;
use stratalog::internals::format::header::{Features, HEADER_END, Identity, Role, StoreId};
use stratalog::internals::format::ids::{Lsn, Sequence};
use stratalog::internals::format::slot::{Kind, SlotState};
use stratalog::internals::index::{KeyHash, Shape};
use stratalog::internals::segment::{
    ForwardingTable, Geometry, RecordParts, Segment, WriteRequest,
};
use stratalog::internals::{Engine, HeapMemory, Key, Log, Purpose, Source};

/// Bytes of a segment, and where its directory begins, by the size that a model asks for. The
/// smallest are twice as large, because the header takes more than half of them: one of 512 bytes
/// has room for one put and one removal, one of 256 bytes for nothing.
#[must_use]
pub const fn sizes(asked: u64) -> (u64, usize) {
    match asked {
        256 => (512, 512),
        512 => (1024, 768),
        _ => (asked, HEADER_END),
    }
}

/// The sizes of such a segment.
#[must_use]
pub const fn geometry(asked: u64) -> Geometry {
    let (bytes, directory_at) = sizes(asked);
    Geometry { segment_bytes: bytes as usize, directory_at, dimension: 1 }
}

/// Segments on the heap, all of one small size.
#[derive(Debug)]
pub struct Heap {
    /// The size that the model asks for: see [`sizes`].
    pub segment_bytes: u64,
}

impl Heap {
    /// What a segment of this source says about itself.
    #[must_use]
    pub fn identity(&self, sequence: Sequence) -> Identity {
        let (segment_bytes, directory_at) = sizes(self.segment_bytes);
        Identity {
            store: StoreId([7; 16]),
            sequence,
            salt: Salt(0x5EED_0000 + sequence.0),
            dimension: 1,
            segment_bytes,
            directory_at: directory_at as u32,
            features: Features::default(),
            role: Role::Log,
        }
    }

    /// A new segment of the log.
    #[must_use]
    pub fn segment(&self, sequence: Sequence) -> Segment<HeapMemory> {
        self.segment_for(sequence, Role::Log)
    }

    fn segment_for(&self, sequence: Sequence, role: Role) -> Segment<HeapMemory> {
        let memory = HeapMemory::new(sizes(self.segment_bytes).0 as usize);
        Segment::create(memory, &Identity { role, ..self.identity(sequence) })
    }
}

impl Source<HeapMemory> for Heap {
    fn create(
        &self,
        sequence: Sequence,
        role: Role,
        _: Purpose,
    ) -> Result<Segment<HeapMemory>, Error> {
        Ok(self.segment_for(sequence, role))
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {}
}

/// The engine of the models: buckets of two slots.
pub type SmallEngine = Engine<HeapMemory, Heap, 2>;

/// An empty engine over segments of this size, with an index of one bucket.
#[must_use]
pub fn engine(segment_bytes: u64) -> Arc<SmallEngine> {
    let log = Log::new(Heap { segment_bytes }, geometry(segment_bytes), Sequence(1));
    let shape = Shape { buckets: 1, split_at: 8, overflow_blocks: 1, initial_depth: 0 };
    Arc::new(Engine::new(log, shape))
}

/// A put of `id` whose embedding and content are `value`.
#[must_use]
pub fn put<'a>(id: &'a [u8], value: &'a [u8; 4]) -> WriteRequest<'a> {
    WriteRequest::new(RecordParts {
        kind: Kind::Put,
        writing: WriteMode::Blind,
        id,
        key_hash: hash(id),
        embedding: value,
        content: value,
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    })
}

/// A removal of `id`.
#[must_use]
pub fn tombstone(id: &[u8]) -> WriteRequest<'_> {
    let (kind, key_hash) = (Kind::Tombstone, hash(id));
    let writing = WriteMode::Conditional;
    WriteRequest::new(RecordParts {
        kind,
        writing,
        id,
        key_hash,
        embedding: &[],
        content: &[],
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    })
}

/// Any hash does; the first byte makes it easy to choose.
#[must_use]
pub fn hash(id: &[u8]) -> u64 {
    let first = id.first().map_or(0, |&b| u64::from(b));
    // With shuttle the index grows: there the low bits tell ids apart, too.
    first << 8 | if cfg!(stratalog_shuttle) { first } else { 0 }
}

/// What a get sees: the value, having checked that it is whole.
#[must_use]
pub fn get(engine: &SmallEngine, id: &[u8]) -> Option<([u8; 4], Lsn)> {
    let guard = engine.epoch().pin();
    let found = engine.get(&guard, KeyHash(hash(id)), id).map_err(|_| "damaged");
    let at = found.unwrap_or_else(|reason| unreachable_model(reason))?;
    assert_eq!(at.frame.id(), id, "another id's record");
    assert_eq!(at.frame.embedding_bytes(), at.frame.content(), "a mix of two records");
    assert!(at.segment.verify(&at.frame).is_ok(), "the checksum does not match");
    let value = at.frame.content().first_chunk::<4>().copied();
    value.map(|value| (value, at.frame.header().lsn))
}

fn unreachable_model<T>(reason: &str) -> T {
    assert!(reason.is_empty(), "{reason}");
    unreachable_model(reason)
}

/// What a recovery of the segments would find for an id: the highest LSN among committed slots, of
/// two copies the one in the later segment. Copies without force do not count.
#[must_use]
pub fn recovered(engine: &SmallEngine, id: &[u8]) -> Option<([u8; 4], Lsn)> {
    recovered_without(engine, id, None)
}

/// The same after the file of one segment is gone.
#[must_use]
pub fn recovered_without(
    engine: &SmallEngine,
    id: &[u8],
    gone: Option<Sequence>,
) -> Option<([u8; 4], Lsn)> {
    let guard = engine.epoch().pin();
    let mut best: Option<((Lsn, Sequence), Option<[u8; 4]>)> = None;
    for segment in engine.log().table().iter(&guard) {
        if gone == Some(segment.sequence()) {
            continue;
        }
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            let SlotState::Committed(_, body) = state else { continue };
            let Ok(frame) = segment.committed_frame(slot) else { continue };
            let rank = (body.lsn, segment.sequence());
            if frame.id() == id && best.is_none_or(|(other, _)| other < rank) {
                best = Some((rank, frame.content().first_chunk::<4>().copied()));
            }
        }
    }
    best.and_then(|((lsn, _), value)| value.map(|value| (value, lsn)))
}

/// Every granted slot is decided, memory and recovery agree about these ids, and the counts of what
/// is live are exact.
pub fn check_at_rest(engine: &SmallEngine, ids: &[&[u8]]) {
    let guard = engine.epoch().pin();
    for segment in engine.log().table().iter(&guard) {
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            let decided =
                matches!(state, SlotState::Committed(..) | SlotState::Batch(..) | SlotState::Void);
            assert!(decided, "{slot:?} is left {state:?}");
        }
    }
    let (mut live, mut live_bytes) = (0, std::collections::BTreeMap::new());
    for id in ids {
        let (now, later) = (get(engine, id), recovered(engine, id));
        assert_eq!(now, later, "memory and recovery disagree about {id:?}");
        live += u64::from(now.is_some());
        if let Ok(Some(at)) = engine.get(&guard, KeyHash(hash(id)), id) {
            *live_bytes.entry(at.segment.sequence()).or_insert(0) += at.frame.len_bytes();
        }
    }
    assert_eq!(engine.live(), live, "the count of live records is off");
    for segment in engine.log().table().iter(&guard) {
        let sequence = segment.sequence();
        let here = live_bytes.get(&sequence).copied().unwrap_or(0);
        assert_eq!(segment.usage().live_bytes(), here, "live bytes of {sequence:?}");
    }
}

/// Puts `id` if it is not there; whether it was put.
#[must_use]
pub fn put_if_absent(engine: &SmallEngine, id: &[u8], value: &[u8; 4]) -> bool {
    let record =
        WriteRequest::new(RecordParts { writing: WriteMode::Conditional, ..*put(id, value) });
    let written = engine.write_if(&record, |_, current| current.is_none());
    written.is_ok_and(|written| written.is_ok())
}

/// What a compaction does with a group of one quiet segment, up to where it would be dropped.
pub fn compact(
    engine: &SmallEngine,
    victim: &Segment<HeapMemory>,
    output: &std::sync::Arc<Segment<HeapMemory>>,
) {
    assert!(victim.filling().is_quiet());
    let guard = engine.epoch().pin();
    let (mut copies, mut forwarding) = (Vec::new(), ForwardingTable::default());
    for (slot, state) in victim.directory().slots(victim.filling().slots_end()) {
        let SlotState::Committed(Kind::Put, body) = state else { continue };
        let frame = victim.committed_frame(slot).expect("it is whole");
        let key = Key { hash: KeyHash(body.key_hash), id: frame.id() };
        if engine.resolve_current(&guard, key, victim.address(body.offset)) {
            let copied = engine.copy_record((victim, &frame), Kind::Put, body, output);
            let copy = copied.expect("nobody voids it");
            copies.push(copy.expect("room"));
        }
    }
    for copy in &copies {
        forwarding.add(copy.from, output, copy.to);
    }
    victim.tags().set_forwarding(forwarding);
    for copy in &copies {
        engine.move_record(&guard, copy, victim, output);
    }
}
