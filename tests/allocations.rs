//! What an operation allocates on the thread that asks for it: counts, so no machine changes them.
#![cfg(test)]

use allocation_counter::measure;
use stratalog::{Batch, Condition, Options, Store};

const DIMENSION: usize = 16;
const IDS: u32 = 2_000;
const EMBEDDING: [f32; DIMENSION] = [0.5; DIMENSION];

/// A store whose active segment has room for all that these tests do, with so many ids in it.
fn store(dir: &tempfile::TempDir) -> Store {
    let options = Options::new().dimension(DIMENSION).segment_size(64 << 20);
    let store = options.open(dir.path().join("store")).expect("a store");
    for n in 0..IDS {
        store.put(n.to_le_bytes(), &EMBEDDING, "content").expect("a put");
    }
    // What a thread does once: its registration with the epoch.
    assert!(store.pin().get(0u32.to_le_bytes()).expect("a record").is_some());
    store
}

#[test]
fn a_put_of_an_id_that_is_there_allocates_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(&dir);
    let puts = measure(|| {
        for n in 0..IDS {
            store.put(n.to_le_bytes(), &EMBEDDING, "content").expect("a put");
        }
    });
    assert_eq!(puts.count_total, 0, "of {IDS} puts");
    let conditional = measure(|| {
        for n in 0..IDS {
            let written = store.put_if(n.to_le_bytes(), &EMBEDDING, "content", Condition::Present);
            written.expect("it is there");
        }
    });
    assert_eq!(conditional.count_total, 0, "of {IDS} conditional puts");
}

/// The index grows by chunks and by blocks of buckets, and by nothing smaller.
#[test]
fn a_put_of_a_new_id_allocates_only_where_the_index_grows() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(&dir);
    let mut allocating = 0;
    for n in IDS..10 * IDS {
        let put = measure(|| {
            store.put(n.to_le_bytes(), &EMBEDDING, "content").expect("a put");
        });
        allocating += u32::from(put.count_total > 0);
    }
    assert!(allocating <= 9 * IDS / 50, "{allocating} of {} puts", 9 * IDS);
}

#[test]
fn a_get_allocates_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(&dir);
    let gets = measure(|| {
        for n in 0..2 * IDS {
            let pinned = store.pin();
            let found = pinned.get(n.to_le_bytes()).expect("no damage");
            assert_eq!(found.is_some(), n < IDS);
            assert_eq!(store.contains(n.to_le_bytes()), n < IDS);
        }
    });
    assert_eq!(gets.count_total, 0, "of {} gets", 2 * IDS);
}

#[test]
fn a_batch_allocates_as_often_however_many_it_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(&dir);
    let allocations = |members: u32| {
        let mut batch = Batch::new();
        for n in 0..members {
            batch.put(n.to_le_bytes(), &EMBEDDING, "content");
        }
        let written = measure(|| {
            store.write(batch).expect("a batch");
        });
        written.count_total
    };
    let few = allocations(10);
    assert!(few <= 8, "{few} for a batch of 10");
    assert_eq!(allocations(1_000), few);
}
