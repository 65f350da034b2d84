//! Writers, readers and walkers of a chunk that is being split or rebuilt.
//!
//! Holds: no entry is lost or doubled, whoever splits and whoever is late; a reader always finds
//! what was there before it began; a tombstone leaves, and a put older than it does not come back;
//! a walk meets every lasting key once.
//!
//! mutation: index-no-freeze (a chunk is copied without being frozen)
//! mutation: index-freeze-store (a slot is frozen by a store, not by a read-modify-write)
//! mutation: index-freeze-relaxed (a chunk is frozen and copied without Acquire)
//! mutation: index-link-not-frozen (the end of a full chain is not frozen)
//! mutation: index-low-first (the directory's low entry is replaced before the high one is set)
//! mutation: index-parent-left (a child is replaced while its parent is still in the directory)
//! mutation: index-depth-late (the directory's depth is not raised after a split)
//! mutation: index-forward-relaxed (what replaces a chunk is published without Release)
//! mutation: index-forward-load-relaxed (forward is followed without Acquire)
//! mutation: index-entry-relaxed (the directory is read without Acquire)
//! mutation: index-settle-relaxed (the directory is changed without Release)
//! mutation: index-drop-lsn-lost (a rebuild forgets what it dropped)
//! mutation: index-drop-lsn-not-inherited (a rebuild forgets what the one before it dropped)
//! mutation: index-pending-dropped (a rebuild drops a pending tombstone)
//! mutation: index-walk-restarts (a walk begins a split chunk's children at their first bucket)
//! mutation: index-walk-skips (a walk leaves out a split chunk's low child)
#![cfg(stratalog_loom)]

mod index_common;

use index_common::{Store, explore};
use std::sync::Arc;
use stratalog::internals::index::Shape;

/// Two slots, and a split as soon as both are used. Keys are their hashes, so bit 0 of a key
/// chooses the child in the first split, bit 1 in the second.
fn pair_with(keys: &[u64]) -> Arc<Store<2>> {
    let shape = Shape { buckets: 1, split_at: 2, overflow_blocks: 0, initial_depth: 0 };
    let store = Store::new(shape, u64::MAX);
    for &key in keys {
        store.put(key);
    }
    store
}

/// Room for a few keys; every dead slot is worth a rebuild.
fn tidy_with<const SLOTS: usize>(keys: &[u64]) -> Arc<Store<SLOTS>> {
    let shape = Shape { buckets: 1, split_at: 7, overflow_blocks: 0, initial_depth: 0 };
    let store = Store::new(shape, u64::MAX);
    for &key in keys {
        store.put(key);
    }
    store
}

#[test]
fn a_split_loses_no_insert() {
    let put = |store: &Store<2>| assert!(store.put(3) > 1);
    let put_other = |store: &Store<2>| assert!(store.put(4) > 1);
    explore(
        "a_split_loses_no_insert",
        || pair_with(&[2]),
        [put, put_other],
        |store| {
            store.check();
            assert_eq!(store.walk().len(), 3);
        },
    );
}

#[test]
fn a_split_hides_nothing_from_readers() {
    let splits = |store: &Store<2>| assert!(store.put(3) > 1);
    let read = |store: &Store<2>| {
        let new = store.read_twice(3);
        assert!(store.get(3) >= new);
        assert_eq!(store.get(2), 1);
    };
    explore("a_split_hides_nothing", || pair_with(&[2]), [splits, read], Store::check);
}

#[test]
fn a_split_loses_no_overwrite() {
    let splits = |store: &Store<2>| assert!(store.put(3) > 1);
    let overwrites = |store: &Store<2>| assert!(store.put(2) > 1);
    let actors = [splits, overwrites];
    explore("a_split_loses_no_overwrite", || pair_with(&[2]), actors, Store::check);
}

#[test]
fn a_rebuild_takes_no_reader_back() {
    let rebuilds = |store: &Store<1>| store.rebuild(1);
    let overwrites = |store: &Store<1>| assert_eq!(store.put(1), 2);
    let read = |store: &Store<1>| assert_ne!(store.read_twice(1), 0);
    let actors = [overwrites, rebuilds, read];
    explore("a_rebuild_takes_no_reader_back", || tidy_with(&[1]), actors, Store::check);
}

#[test]
fn a_child_is_split_while_the_first_split_is_unfinished() {
    // 3 belongs to the high child of the first split, and fills it.
    let splits = |store: &Store<2>| assert!(store.put(2) > 1);
    let splits_on = |store: &Store<2>| assert!(store.put(3) > 1);
    explore(
        "a_child_is_split",
        || pair_with(&[1]),
        [splits, splits_on],
        |store| {
            store.check();
            assert_eq!(store.walk().len(), 3);
        },
    );
}

#[test]
fn an_overflow_bucket_linked_during_a_rebuild_is_not_lost() {
    let make = || {
        let shape = Shape { buckets: 1, split_at: 1_000, overflow_blocks: 1, initial_depth: 0 };
        let store = Store::<1>::new(shape, 0);
        store.put(1);
        store
    };
    let rebuilds = |store: &Store<1>| store.rebuild(1);
    let links = |store: &Store<1>| assert!(store.put(2) > 1);
    explore("an_overflow_bucket_is_linked", make, [rebuilds, links], |store| {
        store.check();
        assert_eq!(store.walk().len(), 2);
    });
}

#[test]
fn a_rebuild_after_a_removal_loses_no_insert() {
    let removes = |store: &Store<3>| assert!(store.remove(1));
    let puts = |store: &Store<3>| assert!(store.put(3) > 2);
    let actors = [removes, puts];
    explore(
        "a_rebuild_after_a_removal",
        || tidy_with(&[1, 2]),
        actors,
        |store| {
            assert_eq!(store.get(2), 2);
            assert_eq!(store.entry(1), None, "the tombstone has left");
            store.check();
        },
    );
}

#[test]
fn a_put_older_than_a_dropped_tombstone_does_not_come_back() {
    let make = || {
        let store = tidy_with::<2>(&[]);
        assert_eq!(store.reserve(1), 1);
        assert_eq!(store.put(1), 2);
        store
    };
    let removes = |store: &Store<2>| {
        assert!(store.remove(1));
        store.rebuild(1);
    };
    let publishes = |store: &Store<2>| {
        if store.publish(1, 1) == Ok(false) {
            store.put(1);
        }
    };
    let actors = [removes, publishes];
    explore("a_put_older_than_a_dropped_tombstone", make, actors, Store::check);
}

#[test]
fn what_a_pending_tombstone_hides_is_not_seen_to_be_gone_before_it_is_committed() {
    let make = || {
        let shape = Shape { buckets: 1, split_at: 1_000, overflow_blocks: 0, initial_depth: 0 };
        let store = Store::<1>::new(shape, u64::MAX);
        store.put(1);
        store
    };
    let removes = |store: &Store<1>| assert!(store.remove(1));
    let rebuilds_and_reads = |store: &Store<1>| {
        store.rebuild(1);
        assert!(store.get(1) != 0 || store.has_committed_tombstone());
    };
    explore("a_pending_tombstone", make, [removes, rebuilds_and_reads], Store::check);
}

#[test]
fn a_walk_beside_a_split_meets_every_lasting_key_once() {
    let make = || {
        // Bit 0 of a key is its bucket, the bits above are its route.
        let shape = Shape { buckets: 2, split_at: 2, overflow_blocks: 0, initial_depth: 0 };
        let store = Store::<1>::new(shape, u64::MAX);
        store.put(0);
        let (walk, key) = store.begin_walk();
        assert_eq!(key, Some(0));
        *store.begun.lock().unwrap() = Some(walk);
        store
    };
    let splits = |store: &Store<1>| assert!(store.put(1) > 1);
    let walks = |store: &Store<1>| {
        let walk = store.begun.lock().unwrap().take().unwrap();
        let rest = store.finish_walk(walk);
        assert!(rest.is_empty() || rest == [1], "{rest:?}");
    };
    explore("a_walk_beside_a_split", make, [splits, walks], Store::check);
}
