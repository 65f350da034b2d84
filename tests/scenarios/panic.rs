//! The sixth scenario: a panic in the caller's code, or in the middle of a write, changes nothing
//! and leaves the store usable by everybody else, at once and after a reopen.

use super::common::{Records, SEGMENT, reopen, state};
use super::heap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use stratalog::internals::segment::{RecordParts, WriteRequest};
use stratalog::{Options, Store};

const SMALL: Records = Records { dimension: 16, content_max: 300 };

/// Bytes whose owner panics when asked for them.
struct Panics;

impl AsRef<[u8]> for Panics {
    fn as_ref(&self) -> &[u8] {
        panic!("in the caller's code")
    }
}

/// Returns whether something that others do comes about; gives up after a minute.
fn eventually(done: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !done() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    done()
}

fn new_store(dir: &tempfile::TempDir) -> Store {
    let options = Options::new().dimension(SMALL.dimension).segment_size(SEGMENT);
    options.open(dir.path().join("store")).unwrap()
}

#[test]
fn in_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    SMALL.put(&store, b"before", 1);
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        let panicking: Vec<_> = (0..4)
            .map(|n| {
                let (store, barrier) = (&store, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let embedding = SMALL.embedding(b"before", 2);
                    match n {
                        0 => drop(store.put(Panics, &embedding, "content")),
                        1 => drop(store.put("before", &embedding, Panics)),
                        2 => drop(store.remove(Panics)),
                        _ => drop(store.get_owned(Panics)),
                    }
                })
            })
            .collect();
        for writer in 0..4 {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for n in 0..100 {
                    SMALL.put(store, format!("{writer}-{n}").as_bytes(), 1);
                }
            });
        }
        for thread in panicking {
            assert!(thread.join().is_err(), "it did not panic");
        }
    });
    let found = state(&store);
    assert_eq!(found.len(), 401);
    for (id, record) in &found {
        assert_eq!(SMALL.version_of(id, &record.embedding, &record.content), 1);
    }
    let store = reopen(store);
    assert_eq!(store.recovery().torn + store.recovery().void, 0, "a panic reserved something");
}

#[test]
fn in_a_task_of_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(new_store(&dir));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        for n in 0..20u32 {
            let held = std::sync::Arc::clone(&store);
            let task = tokio::spawn(async move {
                let pinned = held.pin();
                assert!(pinned.get(Panics).is_err());
            });
            assert!(task.await.is_err_and(|error| error.is_panic()), "it did not panic");
            SMALL.put(&store, format!("after {n}").as_bytes(), n);
        }
    });
    drop(runtime);
    let store = std::sync::Arc::into_inner(store).expect("no task is left");
    assert_eq!(reopen(store).len(), 20);
}

/// A guard that an unwinding left behind would hold back all memory from then on.
#[test]
fn while_holding_a_pin() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    SMALL.put(&store, b"pinned", 1);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let pinned = store.pin();
            let nested = store.pin();
            let record = pinned.get("pinned").unwrap().unwrap();
            assert_eq!(nested.iter().count(), record.id().len(), "a panic while pinned");
        });
        assert!(thread.join().is_err(), "it did not panic");
    });
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _pinned = store.pin();
        panic!("on a thread that lives on");
    }));
    assert!(caught.is_err());
    // Enough ids for the index to give up chunks; they are given back only if nobody is pinned.
    let writer =
        || (0..6000u32).try_for_each(|n| store.put(n.to_le_bytes(), &[0.0; 16], "").map(drop));
    std::thread::scope(|scope| scope.spawn(writer).join()).unwrap().unwrap();
    assert!(eventually(|| store.stats().retired == 0), "a panic has left a pin behind");
    assert_eq!(store.len(), 6001);
    assert_eq!(reopen(store).len(), 6001);
}

/// The unwinding drops the reservation, and that voids its slot: nobody has to guess.
#[test]
fn between_reserve_and_commit() {
    let engine = heap::engine();
    heap::put(&engine, b"before", b"one");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let guard = engine.epoch().pin();
            let reserved =
                engine.log().reserve(&guard, 256, stratalog::internals::Purpose::Grow).unwrap();
            panic!("between reserve and commit of {}", reserved.lsn());
        });
        assert!(thread.join().is_err(), "it did not panic");
    });
    heap::put(&engine, b"after", b"two");
    assert_eq!(heap::get(&engine, b"before").as_deref(), Some(&b"one"[..]));
    assert_eq!(heap::get(&engine, b"after").as_deref(), Some(&b"two"[..]));
    assert!(heap::remove(&engine, b"before"));

    let (again, void, undecided) = heap::reopened(&engine);
    assert_eq!((void, undecided), (1, 0));
    assert_eq!(heap::contents(&again), heap::contents(&engine));
    assert_eq!(heap::contents(&again).len(), 1);
}

/// A pending removal whose writer dies before the index has decided must not remove at recovery.
#[test]
fn between_the_frame_of_a_removal_and_its_decision() {
    let engine = heap::engine();
    heap::put(&engine, b"stays", b"here");
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let guard = engine.epoch().pin();
        let kind = stratalog::internals::format::slot::Kind::Tombstone;
        let parts = RecordParts { kind, ..*heap::version(b"stays", &[], &[]) };
        let tombstone = WriteRequest::new(parts);
        let bytes = tombstone.layout().bytes();
        let reserved =
            engine.log().reserve(&guard, bytes, stratalog::internals::Purpose::Grow).unwrap();
        let pending = reserved.pend(&tombstone).unwrap();
        panic!("before the index has seen {}", pending.lsn());
    }));
    assert!(caught.is_err());
    assert_eq!(heap::get(&engine, b"stays").as_deref(), Some(&b"here"[..]));
    let (again, void, undecided) = heap::reopened(&engine);
    assert_eq!((void, undecided), (1, 0));
    assert_eq!(heap::contents(&again), heap::contents(&engine));
    assert_eq!(heap::contents(&again).len(), 1);
}
