//! The transitions of a segment's life.

use super::*;
use crate::log::tests::segment;

#[test]
fn the_durable_mark_only_grows() {
    let segment = segment(1);
    let mark = |slot, floor| Mark { slot, floor: Units(floor) };
    segment.set_flushed(mark(4, 50));
    segment.set_flushed(mark(2, 60));
    assert_eq!(segment.flushed(), mark(4, 50));
    segment.set_flushed(mark(5, 40));
    assert_eq!(segment.flushed(), mark(5, 40));
}

#[test]
fn sealing_closes_the_cursor() {
    let segment = segment(1);
    assert!(!segment.is_full() && segment.reserve(64).is_some());
    segment.seal_at(Mark { slot: 1, floor: Units(63) });
    assert!(segment.is_full() && segment.reserve(64).is_none());
    assert_eq!((segment.sealed(), segment.slots_end()), (Some(1), 1));
    assert_eq!(segment.frame_bytes(), 64);
}

#[test]
fn a_segment_is_one_compactions_victim_and_what_is_dropped_stays_so() {
    let segment = segment(1);
    assert!(segment.become_victim() && !segment.become_victim());
    segment.stay();
    assert_eq!(segment.reclaiming(), Reclaiming::None);
    assert!(segment.become_victim());
    segment.set_dropped();
    segment.stay();
    assert!(segment.is_dropped() && !segment.become_victim() && !segment.is_released());
    segment.set_released();
    assert!(segment.is_dropped() && segment.is_released());
}

#[test]
fn a_flush_is_noted_for_one_boot() {
    let segment = segment(1);
    assert_eq!(segment.flush_note([1, 2]), FlushNote::Ended);
    for note in [FlushNote::Begun, FlushNote::Failed, FlushNote::Ended] {
        segment.note_flush(note, [1, 2]);
        assert_eq!(segment.flush_note([1, 2]), note);
        assert_eq!(segment.flush_note([1, 3]), FlushNote::Ended);
    }
}
