//! Writers of one id: the highest LSN wins in every order, also against remove, and what memory
//! says at the end is what a recovery of the segments would say. DESIGN.md 5.4, [W1].
//!
//! mutations: same-key-last-cas-wins (the LSN is not compared), remove-commits-late (whoever meets
//! a pending entry does not settle it), remove-no-void (a removal that found nothing is committed)
#![cfg(stratalog_loom)]

use loom::sync::Arc;
use loom_tests::{SmallEngine, check_at_rest, engine, get, put, recovered, tombstone};

const A: &[u8] = b"a";

fn spawn<T: 'static>(
    engine: &Arc<SmallEngine>,
    f: impl FnOnce(&SmallEngine) -> T + 'static,
) -> loom::thread::JoinHandle<T> {
    let engine = Arc::clone(engine);
    loom::thread::spawn(move || f(&engine))
}

#[test]
fn of_two_puts_the_higher_lsn_wins() {
    loom::model(|| {
        let engine = engine(1024);
        let first = spawn(&engine, |e| e.put(&put(A, b"1111")).unwrap());
        let second = spawn(&engine, |e| e.put(&put(A, b"2222")).unwrap());
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        let winner = if first > second { *b"1111" } else { *b"2222" };
        assert_eq!(get(&engine, A), Some((winner, first.max(second))));
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn a_reader_never_goes_back_to_an_older_version() {
    loom::model(|| {
        let engine = engine(1024);
        let reader = spawn(&engine, |e| {
            let once = get(e, A).map(|found| found.1);
            let again = get(e, A).map(|found| found.1);
            assert!(once <= again, "{once:?}, then {again:?}");
        });
        let other = spawn(&engine, |e| e.put(&put(A, b"1111")).unwrap());
        engine.put(&put(A, b"2222")).unwrap();
        reader.join().unwrap();
        other.join().unwrap();
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn a_put_and_a_remove_end_as_their_lsns_say() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        let writer = spawn(&engine, |e| e.put(&put(A, b"1111")).unwrap());
        let remover = spawn(&engine, |e| e.remove(&tombstone(A)).unwrap().is_ok());
        assert!(remover.join().unwrap(), "the id was there all the time before");
        writer.join().unwrap();
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn of_two_removes_one_finds_it() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        let one = spawn(&engine, |e| e.remove(&tombstone(A)).unwrap().is_ok());
        let other = spawn(&engine, |e| e.remove(&tombstone(A)).unwrap().is_ok());
        let (one, other) = (one.join().unwrap(), other.join().unwrap());
        assert!(one != other, "both found it, or neither: {one} {other}");
        assert_eq!(get(&engine, A), None);
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn a_remove_of_what_may_not_be_there_yet_leaves_nothing_that_wins_later() {
    loom::model(|| {
        let engine = engine(1024);
        let writer = spawn(&engine, |e| e.put(&put(A, b"1111")).unwrap());
        let remover = spawn(&engine, |e| e.remove(&tombstone(A)).unwrap().is_ok());
        let removed = remover.join().unwrap();
        writer.join().unwrap();
        assert_eq!(get(&engine, A).is_none(), removed);
        check_at_rest(&engine, &[A]);
    });
}

#[test]
fn what_a_reader_missed_a_recovery_misses_too() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        // Runs second: see the note in publish.rs.
        let reader = spawn(&engine, |e| {
            if get(e, A).is_none() {
                // A kill right now must not bring it back.
                assert_eq!(recovered(e, A), None);
            }
        });
        engine.remove(&tombstone(A)).unwrap().unwrap_or_default();
        reader.join().unwrap();
    });
}

#[test]
fn a_put_that_slept_through_remove_and_rebuild_does_not_bring_the_id_back() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        engine.put(&put(b"b", b"0000")).unwrap();
        let remover = spawn(&engine, |e| {
            e.remove(&tombstone(A)).unwrap().unwrap_or_default();
            // The second dead slot has the bucket rebuilt, without tombstones.
            e.remove(&tombstone(b"b")).unwrap().unwrap_or_default();
        });
        engine.put(&put(A, b"1111")).unwrap();
        remover.join().unwrap();
        check_at_rest(&engine, &[A, b"b"]);
    });
}

#[test]
fn a_remove_that_came_second_hides_no_put() {
    loom::model(|| {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).unwrap();
        let other = spawn(&engine, |e| {
            e.remove(&tombstone(A)).unwrap().unwrap_or_default();
        });
        let writer = spawn(&engine, |e| e.put(&put(A, b"1111")).unwrap());
        engine.remove(&tombstone(A)).unwrap().unwrap_or_default();
        other.join().unwrap();
        writer.join().unwrap();
        check_at_rest(&engine, &[A]);
    });
}
