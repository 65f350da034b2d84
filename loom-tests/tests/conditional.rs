//! Writes that the index decides, against each other, against blind puts, and against a flush that
//! voids what it cannot wait for. `src/engine/write.rs`, [W1].
//!
//! mutations: conditional-ignores-void (the writer does not look whether its slot was voided),
//! void-without-previous (whoever meets a voided entry takes it for nothing), put-absorbed-by-
//! conditional (a blind put is placed before a newer conditional one), put-replaces-voided-insert
//! (a blind put does not compare LSNs with a voided insert), batch-writes-superseded (a batch
//! writes an id twice)
#![cfg(stratalog_loom)]

use loom::sync::Arc;
use loom_tests::{SmallEngine, check_at_rest, engine, explore, get, put, put_if_absent, tombstone};
use stratalog::internals::format::frame::WriteMode;
use stratalog::internals::format::ids::SlotNumber;
use stratalog::internals::segment::{RecordParts, WriteRequest};

const A: &[u8] = b"a";

fn spawn<T: 'static>(
    engine: &Arc<SmallEngine>,
    f: impl FnOnce(&SmallEngine) -> T + 'static,
) -> loom::thread::JoinHandle<T> {
    let engine = Arc::clone(engine);
    loom::thread::spawn(move || f(&engine))
}

/// What a flush does to the slots that it finds undecided.
fn void_undecided(engine: &SmallEngine) {
    let guard = engine.epoch().pin();
    for segment in engine.log().table().iter(&guard) {
        for n in 0..segment.filling().slots_end() {
            segment.directory().void_if_empty(SlotNumber(n));
            segment.directory().void_if_pending(SlotNumber(n));
        }
    }
}

#[test]
fn of_two_inserts_one_succeeds() {
    loom::model(|| {
        let engine = engine(1024);
        let other = spawn(&engine, |e| put_if_absent(e, A, b"1111"));
        let mine = put_if_absent(&engine, A, b"2222");
        let theirs = other.join().unwrap();
        assert!(mine != theirs, "both succeeded, or neither: {mine} {theirs}");
        let value = if mine { *b"2222" } else { *b"1111" };
        assert_eq!(get(&engine, A).map(|found| found.0), Some(value));
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn an_insert_and_a_blind_put_end_in_an_order_that_explains_both() {
    loom::model(|| {
        let engine = engine(2048);
        let other = spawn(&engine, |e| put_if_absent(e, A, b"1111"));
        engine.put(&put(A, b"2222")).unwrap();
        other.join().unwrap();
        // If the insert succeeded it came first, since it found nothing: the put is what is left.
        // If it failed, the put is what is there.
        assert_eq!(get(&engine, A).map(|found| found.0), Some(*b"2222"));
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn a_flush_that_voids_a_removal_makes_it_be_made_anew() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        let flusher = spawn(&engine, void_undecided);
        let removed = engine.remove(&tombstone(A)).unwrap().is_ok();
        flusher.join().unwrap();
        assert!(removed);
        assert_eq!(get(&engine, A), None);
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn a_reader_of_a_voided_insert_sees_what_was_there_before() {
    loom::model(|| {
        let engine = engine(2048);
        let flusher = spawn(&engine, |e| {
            void_undecided(e);
            get(e, A)
        });
        let inserted = put_if_absent(&engine, A, b"1111");
        let seen = flusher.join().unwrap();
        assert!(inserted);
        assert!(seen.is_none_or(|(value, _)| value == *b"1111"), "{seen:?}");
        assert_eq!(get(&engine, A).map(|found| found.0), Some(*b"1111"));
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn a_reader_never_misses_what_a_voided_removal_left() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        let reader = spawn(&engine, |e| {
            void_undecided(e);
            let (once, again) = (get(e, A), get(e, A));
            // Gone is gone: a removal that was seen is never taken back.
            assert!(once.is_some() || again.is_none(), "{once:?}, then {again:?}");
        });
        assert!(engine.remove(&tombstone(A)).unwrap().is_ok());
        reader.join().unwrap();
        check_at_rest(&engine, &[A]);
    });
}

/// Puts `A` if it is absent; a flush voids the write directly before it is published, and it is
/// not repeated.
fn put_if_absent_voided(engine: &SmallEngine) {
    let asked = std::cell::Cell::new(0);
    let record =
        WriteRequest::new(RecordParts { writing: WriteMode::Conditional, ..*put(A, b"2222") });
    let written = engine.write_if(&record, |_, current| {
        asked.set(asked.get() + 1);
        if asked.get() == 2 {
            let guard = engine.epoch().pin();
            for segment in engine.log().table().iter(&guard) {
                (0..segment.filling().slots_end())
                    .for_each(|n| segment.directory().void_if_pending(SlotNumber(n)));
            }
        }
        current.is_none() && asked.get() <= 2
    });
    assert!(written.unwrap().is_err());
}

#[test]
fn a_put_older_than_a_removal_does_not_replace_a_voided_insert() {
    let make = || {
        let engine = engine(2048);
        engine.put(&put(A, b"0000")).unwrap();
        engine
    };
    let writer = |e: &Arc<SmallEngine>| assert!(e.put(&put(A, b"1111")).is_ok());
    let other = |e: &Arc<SmallEngine>| {
        assert!(e.remove(&tombstone(A)).unwrap().is_ok());
        put_if_absent_voided(e);
    };
    explore(make, [writer, other], |e| check_at_rest(e, &[A]));
}

/// The record of a batch that removes `id`.
fn blind_tombstone(id: &[u8]) -> WriteRequest<'_> {
    WriteRequest::new(RecordParts { writing: WriteMode::Blind, ..*tombstone(id) })
}

#[test]
fn of_two_writes_of_an_id_in_a_batch_only_the_last_is_ever_seen() {
    for last in [put(A, b"2222"), blind_tombstone(A)] {
        loom::model(move || {
            let engine = engine(2048);
            engine.put(&put(A, b"0000")).unwrap();
            let remover = spawn(&engine, |e| e.remove(&tombstone(A)).unwrap().is_ok());
            assert!(engine.write_batch(&mut vec![put(A, b"1111"), last]).is_ok());
            let seen = get(&engine, A).map(|found| found.0);
            assert_ne!(seen, Some(*b"1111"), "after the batch");
            let removed = remover.join().unwrap();
            let left = get(&engine, A).map(|found| found.0);
            assert!(left.is_none() || left == Some(*b"2222"), "{left:?}, removed: {removed}");
            check_at_rest(&engine, &[A]);
        });
    }
}

#[test]
fn a_batch_that_ends_in_a_removal_leaves_only_what_an_insert_put_after_it() {
    loom::model(|| {
        let engine = engine(2048);
        let inserter = spawn(&engine, |e| put_if_absent(e, A, b"3333"));
        assert!(engine.write_batch(&mut vec![put(A, b"1111"), blind_tombstone(A)]).is_ok());
        assert!(inserter.join().unwrap(), "the id is absent at every moment");
        let left = get(&engine, A).map(|found| found.0);
        assert!(left.is_none() || left == Some(*b"3333"), "{left:?}");
        check_at_rest(&engine, &[A]);
    });
}
