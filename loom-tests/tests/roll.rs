//! The roll: whoever finds the segment full installs the next one; nobody waits, nothing is lost,
//! no LSN is given twice, and the log never goes back to an older segment. `src/log/mod.rs`, G1.
//!
//! mutation: roll-store (the active segment is replaced by a store instead of a compare-exchange)
//! mutation: predecessor-noted-late (a segment can be used before it says which one it follows)
//! mutation: flush-asks-late (which segments are in use is asked after the walk)
//! mutation: table-removes-by-index (whatever is at the place is taken out of the table)
#![cfg(stratalog_loom)]

use loom::sync::Arc;
use loom_tests::{check_at_rest, engine, put};
use stratalog::internals::format::ids::TableIndex;

#[test]
fn writers_that_meet_a_full_segment_lose_nothing() {
    loom::model(|| {
        // One put a segment.
        let engine = engine(512);
        engine.put(&put(b"x", b"0000")).unwrap();
        let ids: [(&[u8], [u8; 4]); 2] = [(b"a", *b"1111"), (b"b", *b"2222")];
        let writers = ids.map(|(id, value)| {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || engine.put(&put(id, &value)).unwrap())
        });
        let lsns = writers.map(|writer| writer.join().unwrap());
        assert_ne!(lsns[0], lsns[1], "one LSN was given twice");
        let tail = engine.log().tail(&engine.epoch().pin());
        assert!(lsns.iter().all(|lsn| *lsn < tail), "the log went back to an older segment");
        check_at_rest(&engine, &[b"x", b"a", b"b"]);
        let guard = engine.epoch().pin();
        let mut sequences: Vec<_> =
            engine.log().in_use(&guard).map(|segment| segment.sequence()).collect();
        sequences.sort_unstable();
        sequences.dedup();
        assert_eq!(sequences.len(), engine.log().in_use(&guard).count(), "a sequence twice");
    });
}

/// A flush of a record must bring the predecessor of its segment to the device [D8].
#[test]
fn a_segment_that_can_be_written_to_says_which_one_it_follows() {
    loom::model(|| {
        // One put a segment.
        let engine = engine(512);
        engine.put(&put(b"x", b"0000")).unwrap();
        let observer = {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || {
                let guard = engine.epoch().pin();
                let active = engine.log().active(&guard).expect("there is one throughout");
                if active.sequence().0 > 1 {
                    assert!(
                        active.durable().predecessor().is_some(),
                        "it may be used, and follows nobody"
                    );
                }
            })
        };
        engine.put(&put(b"a", b"1111")).unwrap();
        observer.join().unwrap();
    });
}

#[test]
fn a_preallocated_segment_is_used_or_discarded() {
    loom::model(|| {
        let engine = engine(512);
        engine.put(&put(b"x", b"0000")).unwrap();
        let preallocator = {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || {
                engine.log().preallocate(engine.epoch(), |_| Ok(true)).unwrap();
            })
        };
        engine.put(&put(b"a", b"1111")).unwrap();
        engine.put(&put(b"b", b"2222")).unwrap();
        preallocator.join().unwrap();
        check_at_rest(&engine, &[b"x", b"a", b"b"]);
        let guard = engine.epoch().pin();
        engine.log().discard_preallocated(&guard);
        let used = engine.log().in_use(&guard).count();
        assert_eq!((used, engine.log().table().iter(&guard).count()), (3, 3));
    });
}

/// A flush that brings a segment to the device, and not an older one, would have recovery believe
/// that the older one is there, too [D7]. Two preallocated segments come into use one after the
/// other. Found by the simulation, seed 13349.
#[test]
fn a_flush_misses_no_segment_that_is_older_than_one_of_its_own() {
    loom::model(|| {
        // One put a segment.
        let engine = engine(512);
        engine.put(&put(b"x", b"0000")).unwrap();
        for _ in 0..2 {
            engine.log().preallocate(engine.epoch(), |_| Ok(true)).unwrap();
        }
        let flush = {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || {
                let guard = engine.epoch().pin();
                let found: Vec<_> =
                    engine.log().to_flush(&guard).iter().map(|s| s.sequence().0).collect();
                let all: Vec<_> = (1..=found.len() as u64).collect();
                assert_eq!(found, all, "one is missing");
            })
        };
        engine.put(&put(b"a", b"1111")).unwrap();
        engine.put(&put(b"b", b"2222")).unwrap();
        flush.join().unwrap();
    });
}

/// Both find a segment released; one is stopped, the other takes it out, and a roll puts the new
/// active segment into its place.
#[test]
fn two_threads_that_sweep_take_out_no_segment_but_the_released() {
    loom::model(|| {
        let engine = engine(512);
        engine.put(&put(b"x", b"0000")).unwrap();
        engine.put(&put(b"x", b"0001")).unwrap();
        {
            let guard = engine.epoch().pin();
            let first = engine.log().table().get_arc(&guard, TableIndex(0)).unwrap();
            assert_eq!(first.usage().live_bytes(), 0);
            engine.log().retire_segment(&guard, first.clone());
            first.reclamation().set_released();
        }
        let sweeper = {
            let engine = Arc::clone(&engine);
            loom::thread::spawn(move || {
                engine.log().sweep(&engine.epoch().pin());
            })
        };
        engine.log().sweep(&engine.epoch().pin());
        engine.put(&put(b"a", b"1111")).unwrap();
        sweeper.join().unwrap();
        check_at_rest(&engine, &[b"x", b"a"]);
        let guard = engine.epoch().pin();
        assert_eq!(engine.log().table().iter(&guard).count(), 2);
        assert_eq!(engine.log().retired(), 0);
    });
}
