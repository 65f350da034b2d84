//! The transitions of a segment's life.

use super::*;
use crate::format::header::FlushNote;
use crate::log::tests::segment;

#[test]
fn the_durable_mark_only_grows() {
    let segment = segment(1);
    let mark = |slot, floor| Mark { slot, floor: Units(floor) };
    segment.durable().set_flushed(mark(4, 50));
    segment.durable().set_flushed(mark(2, 60));
    assert_eq!(segment.durable().flushed(), mark(4, 50));
    segment.durable().set_flushed(mark(5, 40));
    assert_eq!(segment.durable().flushed(), mark(5, 40));
}

#[test]
fn sealing_closes_the_cursor() {
    let segment = segment(1);
    assert!(!segment.filling().is_full() && segment.reserve(64).is_some());
    segment.filling().seal_at(Mark { slot: 1, floor: Units(63) });
    assert!(segment.filling().is_full() && segment.reserve(64).is_none());
    assert_eq!((segment.filling().sealed(), segment.filling().slots_end()), (Some(1), 1));
    assert_eq!(segment.filling().frame_bytes(), 64);
}

#[test]
fn a_segment_is_one_compactions_victim_and_what_is_dropped_stays_so() {
    let segment = segment(1);
    assert!(segment.reclamation().become_victim() && !segment.reclamation().become_victim());
    segment.reclamation().release_victim();
    assert_eq!(segment.reclamation().reclaiming(), Reclaiming::None);
    assert!(segment.reclamation().become_victim());
    segment.reclamation().set_dropped();
    segment.reclamation().release_victim();
    assert!(
        segment.reclamation().is_dropped()
            && !segment.reclamation().become_victim()
            && !segment.reclamation().is_released()
    );
    segment.reclamation().set_released();
    assert!(segment.reclamation().is_dropped() && segment.reclamation().is_released());
}

#[test]
fn a_flush_is_noted_for_one_boot() {
    let segment = segment(1);
    assert_eq!(segment.durable().flush_note([1, 2]), FlushNote::Ended);
    for note in [FlushNote::Begun, FlushNote::Failed, FlushNote::Ended] {
        segment.durable().note_flush(note, [1, 2]);
        assert_eq!(segment.durable().flush_note([1, 2]), note);
        assert_eq!(segment.durable().flush_note([1, 3]), FlushNote::Ended);
    }
}
