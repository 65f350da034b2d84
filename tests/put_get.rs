//! One handle, from outside: what was put is what is read, by every way of reading, whatever is
//! overwritten, removed or rolled over meanwhile. Invariant: a call that returned an error has
//! changed nothing; a call that returned is found by every later one, also after a reopen.
#![cfg(test)]

mod common;
#[path = "put_get/limits.rs"]
mod limits;
#[path = "put_get/many.rs"]
mod many;
#[path = "put_get/walks.rs"]
mod walks;

use common::{Records, SEGMENT, mix, reopen, state};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;
use stratalog::{Compaction, Error, Lsn, Options, SharedRecord, Store};
use tempfile::TempDir;

const RECORDS: Records = Records { dimension: 32, content_max: 500 };

fn new_store(dimension: usize) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().dimension(dimension).segment_size(SEGMENT);
    let store = options.compaction(Compaction::Manual).open(dir.path().join("store")).unwrap();
    (dir, store)
}

#[test]
fn every_accessor_gives_back_what_was_put() {
    let (dir, store) = new_store(3);
    let embedding = [0.25f32, -1.5, 3.0e30];
    let before = SystemTime::now();
    let lsn = store.put("doc-1", &embedding, "The tide leaves a mark.").unwrap();
    let after = SystemTime::now();

    let pinned = store.pin();
    let record = pinned.get("doc-1").unwrap().unwrap();
    assert_eq!(record.id(), b"doc-1");
    assert_eq!(record.embedding(), embedding);
    assert_eq!(record.content(), b"The tide leaves a mark.");
    assert_eq!(record.content_str(), Ok("The tide leaves a mark."));
    assert_eq!((record.lsn(), record.tag()), (lsn, 0));
    assert!(
        before <= record.created_at() && record.created_at() <= after,
        "{:?}",
        record.created_at()
    );
    let said = format!("{record:?}");
    assert!(said.contains("doc-1") && !said.contains("tide"), "no contents in logs: {said}");

    let owned = store.get_owned("doc-1").unwrap().unwrap();
    assert_eq!(owned, record.to_owned());
    assert_eq!((owned.id, owned.embedding), (b"doc-1".to_vec(), embedding.to_vec()));
    assert_eq!(owned.content, b"The tide leaves a mark.");
    assert_eq!((owned.lsn, owned.tag, owned.created_at), (lsn, 0, record.created_at()));

    let shared = store.get_shared("doc-1").unwrap().unwrap();
    assert_eq!(shared.clone().to_owned(), record.to_owned());
    assert_eq!((shared.id(), shared.embedding()), (record.id(), record.embedding()));
    assert_eq!((shared.content(), shared.content_str()), (record.content(), record.content_str()));
    assert_eq!((shared.lsn(), shared.tag()), (lsn, 0));
    assert_eq!(shared.created_at(), record.created_at());
    assert!(format!("{shared:?} {store:?} {pinned:?}").contains("doc-1"));
    drop((pinned, shared));

    assert_eq!(store.path(), dir.path().join("store"));
    assert_eq!((store.dimension(), store.len(), store.is_empty()), (3, 1, false));
    assert!(store.contains("doc-1") && !store.contains("doc-2"));
    reopen(store);
}

#[test]
fn an_overwrite_replaces_the_whole_record_and_has_a_higher_lsn() {
    let (_dir, store) = new_store(RECORDS.dimension);
    let pinned = store.pin();
    let mut last = Lsn::default();
    for version in 0..500 {
        let lsn = RECORDS.put(&store, b"one", version);
        assert!(lsn > last);
        last = lsn;
        let now = pinned.get("one").unwrap().unwrap();
        assert_eq!(RECORDS.version_of(b"one", now.embedding(), now.content()), version);
        assert_eq!((now.lsn(), store.len()), (lsn, 1));
    }
    drop(pinned);
    let stats = store.stats();
    assert_eq!(stats.live_records, 1);
    assert!(stats.dead_bytes > 400 * stats.live_bytes, "{stats:?}");
    assert_eq!(reopen(store).get_owned("one").unwrap().unwrap().lsn, last);
}

#[test]
fn a_removed_id_is_gone_for_every_way_of_reading_and_can_come_back() {
    let (_dir, store) = new_store(RECORDS.dimension);
    assert!(store.remove("never").unwrap().is_none());
    RECORDS.put(&store, b"stays", 1);
    let first = RECORDS.put(&store, b"goes", 1);
    assert!(store.remove("goes").unwrap().is_some(), "it was there");
    assert!(store.remove("goes").unwrap().is_none(), "it was gone already");
    assert!(!store.contains("goes"));
    assert!(store.pin().get("goes").unwrap().is_none());
    assert!(store.get_owned("goes").unwrap().is_none());
    assert!(store.get_shared("goes").unwrap().is_none());
    assert_eq!(state(&store).len(), 1);
    let store = reopen(store);
    assert!(!store.contains("goes") && store.remove("goes").unwrap().is_none());
    let second = RECORDS.put(&store, b"goes", 2);
    assert!(second > first && store.contains("goes") && store.len() == 2);
    let store = reopen(store);
    assert!(store.remove("goes").unwrap().is_some() && store.remove("stays").unwrap().is_some());
    assert!(store.is_empty());
    assert!(reopen(store).is_empty());
}

#[test]
fn what_a_pin_has_handed_out_stays_as_it_is_whatever_happens_meanwhile() {
    let (_dir, store) = new_store(RECORDS.dimension);
    RECORDS.put(&store, b"overwritten", 1);
    RECORDS.put(&store, b"removed", 1);
    let pinned = store.pin();
    let overwritten = pinned.get("overwritten").unwrap().unwrap();
    let removed = pinned.get("removed").unwrap().unwrap();
    let copies = (overwritten.to_owned(), removed.to_owned());
    assert!(store.remove("removed").unwrap().is_some());
    for version in 0..10_000 {
        RECORDS.put(&store, b"overwritten", version % 3 + 2);
    }
    assert!(store.stats().segments > 3, "the log has rolled");
    assert_eq!((overwritten.to_owned(), removed.to_owned()), copies);
    assert!(pinned.get("removed").unwrap().is_none(), "but a new get sees what is now");
    drop(pinned);
    assert_eq!(reopen(store).len(), 1);
}

#[test]
fn pins_nest_and_see_every_write_that_returned() {
    let (_dir, store) = new_store(RECORDS.dimension);
    let outer = store.pin();
    RECORDS.put(&store, b"a", 1);
    let inner = store.pin();
    let from_inner = inner.get("a").unwrap().unwrap();
    let from_outer = outer.get("a").unwrap().unwrap();
    assert_eq!(from_inner.to_owned(), from_outer.to_owned());
    drop(outer);
    RECORDS.put(&store, b"a", 2);
    assert_eq!(RECORDS.version_of(b"a", from_inner.embedding(), from_inner.content()), 1);
    drop(inner);
    reopen(store);
}

#[test]
fn lsns_are_unique_and_follow_the_order_of_writes_across_segments_and_threads() {
    let (_dir, store) = new_store(RECORDS.dimension);
    let write = |thread: u32| {
        let id = |n: u32| format!("{thread}-{n}").into_bytes();
        let lsns: Vec<Lsn> = (0..2_000).map(|n| RECORDS.put(&store, &id(n), n)).collect();
        assert!(lsns.is_sorted_by(|a, b| a < b), "one thread's writes are in order");
        lsns
    };
    let all: BTreeSet<Lsn> = std::thread::scope(|scope| {
        let write = &write;
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || write(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(all.len(), 8_000);
    let (last, stats) = (*all.last().unwrap(), store.stats());
    assert!(stats.tail > last && stats.segments > 3, "{stats:?}");
    assert_eq!(last.as_u64().to_string().is_empty(), last.to_string().is_empty());
    for record in state(&store).into_values() {
        assert!(all.contains(&record.lsn));
    }
    let store = reopen(store);
    assert!(RECORDS.put(&store, b"next", 0) > last);
}

/// Records from the smallest to the largest of a segment, over dozens of rolls: both ends of the
/// cursor's arithmetic.
#[test]
fn records_of_all_sizes_are_found_across_many_segments() {
    let (_dir, store) = new_store(1);
    let mut expected = std::collections::BTreeMap::new();
    for n in 0..300u64 {
        let id = format!("{:0width$}", n, width = 1 + (mix(n) % 1000) as usize).into_bytes();
        let most = if n % 10 == 0 { 500_000 } else { 3_000 };
        let content: Vec<u8> = vec![n as u8; (mix(!n) % most) as usize];
        let lsn = store.put(&id, &[n as f32], &content).unwrap();
        expected.insert(id, (lsn, n as f32, content));
    }
    assert!(store.stats().segments > 8, "{:?}", store.stats());
    for (id, (lsn, value, content)) in &expected {
        let record = store.get_owned(id).unwrap().unwrap();
        assert_eq!((record.lsn, record.embedding), (*lsn, vec![*value]));
        assert!(record.content == *content, "{} bytes differ", content.len());
    }
    assert_eq!(state(&reopen(store)).len(), expected.len());
}

#[test]
fn a_hundred_thousand_small_ids_are_all_found() {
    let (_dir, store) = new_store(1);
    for n in 0..100_000u32 {
        store.put(n.to_le_bytes(), &[n as f32], []).unwrap();
    }
    assert_eq!(store.len(), 100_000);
    let check = |store: &Store| {
        let pinned = store.pin();
        for n in 0..100_000u32 {
            let record = pinned.get(n.to_le_bytes()).unwrap().expect("it was put");
            assert_eq!(record.embedding(), [n as f32]);
        }
        assert!(!store.contains(100_000u32.to_le_bytes()));
    };
    check(&store);
    let stats = store.stats();
    assert_eq!((stats.live_records, stats.dead_bytes), (100_000, 0));
    assert!(stats.live_bytes >= 100_000 * 128 && stats.disk_bytes > stats.live_bytes, "{stats:?}");
    let store = reopen(store);
    check(&store);
}

/// The head of every embedding is where vector instructions want it, whatever lies before it.
#[test]
fn every_embedding_begins_at_a_multiple_of_64_bytes() {
    let (_dir, store) = new_store(5);
    for len in 1..=1024 {
        let id = vec![b'x'; len];
        store.put(&id, &[len as f32; 5], vec![0; len % 71]).unwrap();
    }
    let check = |store: &Store| {
        let pinned = store.pin();
        for record in &pinned {
            let record = record.unwrap();
            assert_eq!(record.embedding().as_ptr().addr() % 64, 0);
            assert_eq!(record.embedding(), [record.id().len() as f32; 5]);
        }
        let shared = store.get_shared("xxx").unwrap().unwrap();
        assert_eq!(shared.embedding().as_ptr().addr() % 64, 0);
    };
    check(&store);
    check(&reopen(store));
}

fn assert_version(shared: &SharedRecord, version: u32) {
    assert_eq!(RECORDS.version_of(shared.id(), shared.embedding(), shared.content()), version);
}

/// A shared record holds its segment by itself: no pin, no store, no thread.
#[test]
fn a_shared_record_outlives_overwrite_removal_and_store_on_any_thread() {
    let (dir, store) = new_store(RECORDS.dimension);
    RECORDS.put(&store, b"a", 1);
    RECORDS.put(&store, b"b", 1);
    let (a, b) = (store.get_shared("a").unwrap().unwrap(), store.get_shared("b").unwrap().unwrap());
    RECORDS.put(&store, b"a", 2);
    assert!(store.remove("b").unwrap().is_some());
    let later = store.get_shared("a").unwrap().unwrap();
    let store = reopen(store);
    drop(store);
    std::fs::remove_dir_all(dir.path()).unwrap();
    std::thread::spawn(move || {
        assert_version(&a, 1);
        assert_version(&a.clone(), 1);
        assert_version(&b, 1);
        assert_version(&later, 2);
        assert!(a.lsn() < b.lsn() && b.lsn() < later.lsn());
    })
    .join()
    .unwrap();
}

#[test]
fn a_shared_record_can_be_kept_across_an_await() {
    let (_dir, store) = new_store(RECORDS.dimension);
    RECORDS.put(&store, b"a", 1);
    let shared = store.get_shared("a").unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = runtime.block_on(async move {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let shared = shared.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        assert_version(&shared, 1);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for version in 0..1_000 {
            RECORDS.put(&store, b"a", version);
        }
        for task in tasks {
            task.await.unwrap();
        }
        store
    });
    reopen(store);
}

/// Uses a store when its thread ends, after the store's own thread-local state may be gone.
struct AtTheEnd(Arc<Store>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let n = self.0.len() as u32;
        RECORDS.put(&self.0, &n.to_le_bytes(), n);
        assert!(self.0.pin().get(n.to_le_bytes()).unwrap().is_some());
    }
}

thread_local! {
    static AT_THE_END: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
}

#[test]
fn a_store_can_be_used_while_a_thread_ends() {
    let (_dir, store) = new_store(RECORDS.dimension);
    let store = Arc::new(store);
    for used_before in [true, false, true] {
        let held = Arc::clone(&store);
        let thread = std::thread::spawn(move || {
            // Whose destructor runs first depends on which was used first: both orders.
            if used_before {
                drop(held.pin());
            }
            AT_THE_END.with_borrow_mut(|end| *end = Some(AtTheEnd(Arc::clone(&held))));
            drop(held.pin());
        });
        thread.join().unwrap();
    }
    assert_eq!(store.len(), 3);
    reopen(Arc::into_inner(store).expect("every thread has ended"));
}

/// What a call must leave alone if it fails.
fn looks(store: &Store) -> (common::State, Lsn, u64, u64) {
    let stats = store.stats();
    (state(store), stats.tail, stats.live_bytes, stats.dead_bytes)
}

#[test]
fn a_call_that_fails_has_changed_nothing() {
    let (_dir, store) = new_store(2);
    store.put("a", &[1.0, 2.0], "x").unwrap();
    let before = looks(&store);
    let long = vec![b'i'; 1025];
    assert!(matches!(store.put("", &[0.0; 2], ""), Err(Error::InvalidId { len: 0 })));
    assert!(matches!(store.put(&long, &[0.0; 2], ""), Err(Error::InvalidId { len: 1025 })));
    assert!(matches!(store.remove(""), Err(Error::InvalidId { len: 0 })));
    assert!(matches!(store.remove(&long), Err(Error::InvalidId { len: 1025 })));
    for actual in [0, 1, 3] {
        let result = store.put("a", &vec![0.0; actual], "");
        let Err(Error::DimensionMismatch { expected: 2, actual: named }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(named, actual);
    }
    assert!(matches!(store.put("a", &[0.0, f32::NAN], ""), Err(Error::NonFinite { index: 1 })));
    let large = vec![0; SEGMENT as usize];
    assert!(matches!(store.put("a", &[0.0; 2], large), Err(Error::RecordTooLarge { .. })));
    assert!(store.remove("b").unwrap().is_none());
    assert_eq!(looks(&store), before);
    reopen(store);
}
