//! A segment that gets full while the thread that finds it out, and maybe the one with the last
//! slot, are stopped within a few instructions of their additions to the cursor.
#![cfg(test)]

use super::*;
use crate::durability::Flusher;
use crate::engine::Engine;
use crate::format::header::HEADER_END;
use crate::format::ids::Sequence;
use crate::index::Shape;
use crate::log::Log;
use crate::log::tests::{Heap, SEGMENT_BYTES};
use crate::memory::HeapMemory;
use crate::segment::Geometry;
use crate::segment::RecordParts;
use crate::segment::cursor::Taken;

fn engine() -> Engine<HeapMemory, Heap> {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    Engine::new(Log::new(Heap, geometry, Sequence(1)), Shape::default())
}

fn record(content: &[u8]) -> WriteRequest<'_> {
    WriteRequest::new(RecordParts {
        kind: Kind::Put,
        writing: WriteMode::Blind,
        id: b"a",
        key_hash: 7,
        embedding: &[0; 4],
        content,
        created_ns: 1,
        expires_ns: 0,
        tag: 0,
    })
}

/// The last slot is taken such that so much is left; then one does not fit, and stops before it
/// notes that. A flush comes by. If the last one was stopped, too, it goes on now. Whether the
/// segment is quiet then.
fn quiet_with_both_stopped(left: usize, last_stops: bool) -> bool {
    let engine = engine();
    engine.put(&record(b"first")).unwrap();
    let guard = engine.epoch().pin();
    let segment = engine.log().active(&guard).unwrap();
    let taken = segment.filling().taken();
    let used = HEADER_END + 32 * taken.slots as usize + 64 * taken.units as usize;
    let content = vec![9; (SEGMENT_BYTES - used - 32 - left) / 64 * 64 - 192];
    let (last, capacity) = (record(&content), segment.geometry.capacity());
    let units = units_of(last.layout().bytes()).unwrap();
    let reserved = cursor::reserve(segment.filling().cursor_word(), capacity, 1, units);
    let Reserved::Granted(Grant { slot, offset, .. }) = reserved else { panic!("{reserved:?}") };
    let mut reservation = None;
    if !last_stops {
        reservation = Some(segment.reservation(slot, offset, units));
    }
    for _ in 0..4 {
        let overrun = cursor::reserve(segment.filling().cursor_word(), capacity, 1, Units(40));
        assert!(matches!(overrun, Reserved::Full { .. }));
    }
    assert_eq!((segment.filling().sealed(), segment.filling().is_quiet()), (None, false));
    if let Some(reservation) = reservation.take() {
        assert!(reservation.commit(&last).is_ok());
    }
    let durability = Flusher::default();
    durability.sync(&engine).unwrap();
    assert!(segment.filling().sealed().is_some_and(|sealed| sealed >= 2));
    if last_stops {
        let resumed = segment.reservation(slot, offset, units);
        assert_eq!(resumed.commit(&last).err(), Some(Voided), "the flush could not wait");
    }
    let quiet = segment.filling().is_quiet();
    durability.sync(&engine).unwrap();
    // At last who found it full comes to it.
    segment
        .filling()
        .seal_when_full(Some(Taken { slots: 2, units: taken.units + u64::from(units.0) }));
    assert_eq!((segment.filling().sealed(), segment.filling().slots_end()), (Some(2), 2));
    quiet && segment.filling().is_quiet()
}

#[test]
fn a_full_segment_is_quiet_whoever_is_stopped() {
    for left in [0, 64, 640, 1024] {
        for last_stops in [false, true] {
            assert!(quiet_with_both_stopped(left, last_stops), "{left} bytes left");
        }
    }
}

/// The slots of those that did not fit, and of which a flush thinks that they may have, hide no
/// writer that still has one in hand.
#[test]
fn a_segment_is_not_quiet_while_a_writer_may_publish() {
    let engine = engine();
    engine.put(&record(b"first")).unwrap();
    let guard = engine.epoch().pin();
    let segment = engine.log().active(&guard).unwrap();
    let (reservation, _) = segment.reserve(record(b"held").layout().bytes()).unwrap();
    let (_, held) = reservation.commit(&record(b"held")).unwrap();
    let (capacity, word) = (segment.geometry.capacity(), segment.filling().cursor_word());
    let stopped = cursor::reserve(word, capacity, 1, Units(4));
    let Reserved::Granted(Grant { slot, offset, .. }) = stopped else { panic!("{stopped:?}") };
    let overrun = cursor::reserve(word, capacity, 1, Units(60));
    assert!(matches!(overrun, Reserved::Full { .. }));
    Flusher::default().sync(&engine).unwrap();
    assert!(!segment.filling().is_quiet());
    // It is through with its slot, which makes as many as lie below it.
    drop(segment.reservation(slot, offset, Units(4)));
    assert!(!segment.filling().is_quiet(), "one has committed, and not published");
    drop(held);
    assert!(segment.filling().is_quiet());
}
