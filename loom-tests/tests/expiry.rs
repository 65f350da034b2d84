//! What expires is counted by who looks for it, or is to be looked for again: no moment is lost
//! beside a look, whether the record is put or moved meanwhile.
//!
//! mutations: expiry-note-overwritten (who looks stores what it found over what was noted
//! meanwhile), expiry-noted-early (a moment is noted before the index leads to its record),
//! expiry-move-not-noted (compaction leaves it to the copy's fill)
#![cfg(stratalog_loom)]

use loom::sync::Arc;
use loom_tests::{SmallEngine, engine, put};
use stratalog::internals::HeapMemory;
use stratalog::internals::segment::{RecordParts, Segment, WriteRequest};

const NOW: u64 = 10;
const EVER: u64 = u64::MAX - 1;

fn expiring<'a>(id: &'a [u8], value: &'a [u8; 4], at: u64) -> WriteRequest<'a> {
    WriteRequest::new(RecordParts { expires_ns: at, ..*put(id, value) })
}

fn look(engine: &SmallEngine, segment: &Segment<HeapMemory>) {
    let guard = engine.epoch().pin();
    engine.scan_for_expired(&guard, segment, EVER, NOW);
}

/// The first segment of the log.
fn first(engine: &SmallEngine) -> std::sync::Arc<Segment<HeapMemory>> {
    let guard = engine.epoch().pin();
    let index = engine.log().active(&guard).expect("an active segment").table_index();
    engine.log().table().get_arc(&guard, index).expect("it is in the table")
}

#[test]
fn a_put_beside_a_look_is_looked_for_again() {
    loom::model(|| {
        let engine = engine(1024);
        // Something to look for, and it has expired: it is no reason to look again.
        engine.put(&expiring(b"a", b"1111", 5)).unwrap();
        let segment = first(&engine);
        let looking = {
            let (engine, segment) = (Arc::clone(&engine), std::sync::Arc::clone(&segment));
            loom::thread::spawn(move || look(&engine, &segment))
        };
        engine.put(&expiring(b"b", b"2222", 30)).unwrap();
        looking.join().unwrap();
        assert!(segment.usage().next_scan_ns() < u64::MAX, "nobody will ever look for it");
        assert!(segment.usage().expired_bytes() > 0);
    });
}

#[test]
fn a_move_beside_a_look_is_looked_for_again() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&expiring(b"a", b"1111", 30)).unwrap();
        let victim = first(&engine);
        let output = {
            let guard = engine.epoch().pin();
            assert!(engine.log().end_active(&guard));
            engine.log().make_for_copies(&guard).unwrap()
        };
        // As if something else had been moved there, that has expired.
        output.usage().note_expiry(5);
        let looking = {
            let (engine, output) = (Arc::clone(&engine), std::sync::Arc::clone(&output));
            loom::thread::spawn(move || look(&engine, &output))
        };
        loom_tests::compact(&engine, &victim, &output);
        looking.join().unwrap();
        assert!(output.usage().next_scan_ns() < u64::MAX, "nobody will ever look for it");
    });
}
