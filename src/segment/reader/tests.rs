//! Frames without their directory.
#![cfg(test)]

use super::*;
use crate::format::checksum::Salt;
use crate::format::frame::WriteMode;
use crate::format::header::{Features, HEADER_END, Identity, Role, StoreId};
use crate::format::ids::Lsn;
use crate::format::ids::Sequence;
use crate::memory::HeapMemory;
use crate::segment::{RecordParts, WriteRequest};

const BYTES: usize = 1 << 14;

fn identity(salt: u64) -> Identity {
    Identity {
        store: StoreId([7; 16]),
        sequence: Sequence(3),
        salt: Salt(salt),
        dimension: 4,
        segment_bytes: BYTES as u64,
        directory_at: HEADER_END as u32,
        role: Role::Log,
        features: Features::default(),
    }
}

fn segment() -> Segment<HeapMemory> {
    Segment::create(HeapMemory::new(BYTES), &identity(9))
}

fn record<'a>(id: &'a [u8], content: &'a [u8]) -> WriteRequest<'a> {
    WriteRequest::new(RecordParts {
        kind: Kind::Put,
        writing: WriteMode::Blind,
        id,
        key_hash: 5,
        embedding: &[0; 16],
        content,
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    })
}

/// One of each kind that a segment of the log can hold.
fn fill(segment: &Segment<HeapMemory>) {
    let reserve = |record: &WriteRequest<'_>| segment.reserve(record.layout().bytes()).unwrap().0;
    let long = vec![3; 700];
    for content in [&b""[..], b"short", &long] {
        let record = record(b"blind", content);
        assert!(reserve(&record).commit(&record).is_ok());
    }
    let expiring =
        WriteRequest::new(RecordParts { expires_ns: 77, ..*record(b"expires", b"soon") });
    assert!(reserve(&expiring).commit(&expiring).is_ok());
    let conditional = WriteRequest::new(RecordParts {
        writing: WriteMode::Conditional,
        ..*record(b"conditional", b"x")
    });
    reserve(&conditional).pend(&conditional).unwrap().commit().unwrap();
    let gone = WriteRequest::new(RecordParts {
        kind: Kind::Tombstone,
        embedding: &[],
        ..*record(b"gone", b"")
    });
    let gone = WriteRequest::new(RecordParts { writing: WriteMode::Conditional, ..*gone });
    reserve(&gone).pend(&gone).unwrap().commit().unwrap();
    let members = [record(b"one", b"1"), record(b"two", &long)];
    let lengths = members.map(|m| Units((m.layout().bytes() / 64) as u32));
    let (batch, _) = segment.reserve_batch(&lengths).unwrap();
    assert_eq!(batch.commit(&members).unwrap().len(), 2);
}

fn zero_directory(segment: &Segment<HeapMemory>, slots: u32) {
    for slot in 0..slots {
        for n in 0..4 {
            // Relaxed: nobody else has the segment.
            segment.directory().slot_word(SlotNumber(slot), n).store(0, Ordering::Relaxed);
        }
    }
}

#[test]
fn frames_prove_themselves_without_a_directory() {
    let mut segment = segment();
    fill(&segment);
    let slots = segment.filling().slots_end();
    let expected: Vec<_> = segment
        .directory()
        .slots(slots)
        .filter(|(_, state)| !matches!(state, SlotState::Batch(..)))
        .map(|(slot, state)| (state.extent().unwrap().offset, slot))
        .collect();
    assert_eq!(expected.len(), 8);
    zero_directory(&segment, slots);
    let mut found: Vec<_> = segment.proven_frames().collect();
    // Frames grow downwards.
    found.reverse();
    let places: Vec<_> = found.iter().map(|frame| (frame.offset(), frame.header().slot)).collect();
    assert_eq!(places, expected);
    for frame in found {
        let (header, id) = (frame.header(), frame.id());
        assert_eq!(header.lsn, Lsn::new(Sequence(3), header.slot));
        assert_eq!(header.in_batch, [&b"one"[..], b"two"].contains(&id));
        assert_eq!(header.kind == Kind::Tombstone, id == b"gone");
        assert_eq!(header.expires_ns != 0, id == b"expires");
        let is_conditional = header.writing == WriteMode::Conditional;
        assert_eq!(is_conditional, id == b"conditional" || id == b"gone");
    }
}

#[test]
fn no_frame_proves_itself_in_another_segment() {
    let source = segment();
    fill(&source);
    let mut same = Segment::attach(source.memory.snapshot(), &identity(9));
    assert_eq!(same.proven_frames().count(), 8);
    let mut other = Segment::attach(source.memory.snapshot(), &identity(10));
    assert_eq!(other.proven_frames().count(), 0);
}
