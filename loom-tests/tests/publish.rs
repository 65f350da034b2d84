//! A reader sees nothing or the whole record, through the index and through the directory; a
//! reservation that is dropped voids its slot, and so does one that `sync` gave up on.
//!
//! mutations: publish-relaxed-slot (commit word stored with Relaxed), publish-before-fill (the
//! slot is committed before the frame is filled), void-overwrites (voiding stores instead of
//! comparing)
#![cfg(stratalog_loom)]

use loom::sync::Arc;
use loom_tests::{Heap, check_at_rest, engine, get, put};
use stratalog::internals::format::ids::{Sequence, SlotNumber};
use stratalog::internals::format::slot::SlotState;

// Readers are spawned and writers run first, on the main thread: loom then lets each load of the
// reader choose among all stores it could see. The other way round it looks for a place to switch
// threads only at the last access of a word, which a writer's own earlier load hides.

#[test]
fn a_reader_sees_nothing_or_the_whole_record() {
    loom::model(|| {
        let engine = engine(512);
        let reader = {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || {
                if let Some((value, _)) = get(&engine, b"a") {
                    assert_eq!(&value, b"1111");
                }
            })
        };
        engine.put(&put(b"a", b"1111")).unwrap();
        reader.join().unwrap();
        assert_eq!(get(&engine, b"a").map(|found| found.0), Some(*b"1111"));
        check_at_rest(&engine, &[b"a"]);
    });
}

#[test]
fn a_walk_through_the_directory_sees_whole_records_only() {
    loom::model(|| {
        let segment = Arc::new(Heap { segment_bytes: 512 }.segment(Sequence(1)));
        segment.set_table_index(stratalog::internals::format::ids::TableIndex(0));
        let reader = {
            let segment = Arc::clone(&segment);
            loom::thread::spawn(move || {
                for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
                    assert_eq!(slot, SlotNumber(0));
                    if let SlotState::Committed(..) = state {
                        let frame = segment.committed_frame(slot).expect("a sound frame");
                        assert_eq!((frame.id(), frame.content()), (&b"a"[..], &b"1111"[..]));
                        assert!(segment.verify(&frame).is_ok());
                    }
                }
            })
        };
        let record = put(b"a", b"1111");
        let (reservation, _) = segment.reserve(record.layout().bytes()).expect("room for one");
        reservation.commit(&record).expect("nobody voids here");
        reader.join().unwrap();
    });
}

#[test]
fn a_stalled_slot_is_committed_or_void_and_its_writer_knows_which() {
    loom::model(|| {
        let segment = Arc::new(Heap { segment_bytes: 512 }.segment(Sequence(1)));
        segment.set_table_index(stratalog::internals::format::ids::TableIndex(0));
        let record = put(b"a", b"1111");
        let (reservation, _) = segment.reserve(record.layout().bytes()).expect("room for one");
        let sync = {
            let segment = Arc::clone(&segment);
            loom::thread::spawn(move || segment.directory().void_if_empty(SlotNumber(0)))
        };
        let committed = reservation.commit(&record).is_ok();
        let voided = sync.join().unwrap();
        assert_ne!(committed, voided, "both, or neither, decided");
        let state = segment.directory().slot(SlotNumber(0));
        assert_eq!(committed, matches!(state, SlotState::Committed(..)), "{state:?}");
        assert_eq!(voided, state == SlotState::Void, "{state:?}");
    });
}

#[test]
fn a_dropped_reservation_is_void_and_stops_nobody() {
    loom::model(|| {
        let engine = engine(1024);
        let dropper = {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || {
                let guard = engine.epoch().pin();
                drop(
                    engine.log().reserve(&guard, 64, stratalog::internals::Purpose::Grow).unwrap(),
                );
            })
        };
        engine.put(&put(b"a", b"1111")).unwrap();
        dropper.join().unwrap();
        check_at_rest(&engine, &[b"a"]);
    });
}
