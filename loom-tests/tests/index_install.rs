//! Several writers of one bucket that does not grow.
//!
//! Holds: the highest LSN wins in every order of publication, against puts and against removes; a
//! key never has two slots; a reader never goes back to an older record; a record can be read
//! whole as soon as the index leads to it.
//!
//! mutation: index-plain-store (a slot is stored to, not exchanged)
//! mutation: index-store-relaxed (an entry is published without Release)
//! mutation: index-load-relaxed (an entry is read without Acquire)
//! mutation: index-skip-slot (after a lost race the next slot is tried, not the same one)
//! mutation: index-link-relaxed (an overflow bucket is linked without Release)
//! mutation: index-link-load-relaxed (a link is followed without Acquire)
//! mutation: index-link-stored (an overflow bucket's link is stored, not exchanged)
//! mutation: index-block-relaxed (a block of overflow buckets is published without Release)
//! mutation: index-bucket-taken-twice (overflow buckets are counted by load and store)
#![cfg(stratalog_loom)]

mod index_common;

use index_common::{Store, explore};
use std::sync::Arc;
use stratalog::internals::index::Shape;

/// One bucket that no model here fills up, unless it says so, and keys that are their hashes.
fn one_bucket<const SLOTS: usize>(hash_bits: u64) -> Arc<Store<SLOTS>> {
    let shape = Shape { buckets: 1, split_at: 1_000, overflow_blocks: 1, initial_depth: 0 };
    Store::new(shape, hash_bits)
}

const WHOLE: u64 = u64::MAX;
/// All keys have the same hash, so the same tag too.
const NONE: u64 = 0;

fn with_key_1() -> Arc<Store<2>> {
    let store = one_bucket(WHOLE);
    assert_eq!(store.put(1), 1);
    store
}

fn put_1<const SLOTS: usize>(store: &Store<SLOTS>) {
    store.put(1);
}

fn put_2<const SLOTS: usize>(store: &Store<SLOTS>) {
    store.put(2);
}

fn put_3<const SLOTS: usize>(store: &Store<SLOTS>) {
    store.put(3);
}

fn remove_1<const SLOTS: usize>(store: &Store<SLOTS>) {
    store.remove(1);
}

#[test]
fn two_writers_of_a_new_key_get_one_slot_and_the_higher_lsn_stays() {
    let read = |store: &Store<2>| assert!(store.read_twice(1) <= 2);
    explore(
        "two_writers_of_a_new_key",
        || one_bucket(WHOLE),
        [put_1, put_1, read],
        |store| {
            assert_eq!(store.get(1), 2);
            store.check();
        },
    );
}

#[test]
fn two_writers_of_an_old_key_leave_the_higher_lsn() {
    let read = |store: &Store<2>| assert_ne!(store.read_twice(1), 0);
    explore("two_writers_of_an_old_key", with_key_1, [put_1, put_1, read], |store| {
        assert_eq!(store.get(1), 3);
        store.check();
    });
}

#[test]
fn two_new_keys_that_meet_at_one_slot_both_stay() {
    let read = |store: &Store<2>| assert!(store.read_twice(2) <= 2);
    explore(
        "two_new_keys",
        || one_bucket(NONE),
        [put_1, put_2, read],
        |store| {
            store.check();
            assert_eq!(store.walk().len(), 2);
        },
    );
}

#[test]
fn two_new_keys_that_need_an_overflow_bucket_both_stay() {
    let full = || {
        let store = one_bucket::<1>(NONE);
        store.put(1);
        store
    };
    let read = |store: &Store<1>| {
        store.read_twice(3);
        assert_eq!(store.get(1), 1);
    };
    explore("two_new_keys_overflow", full, [put_2, put_3, read], |store| {
        store.check();
        assert_eq!(store.walk().len(), 3);
    });
}

#[test]
fn two_chains_never_share_an_overflow_bucket() {
    let full = || {
        let shape = Shape { buckets: 2, split_at: 1_000, overflow_blocks: 1, initial_depth: 0 };
        let store = Store::<1>::new(shape, 1);
        store.put(2);
        store.put(3);
        store
    };
    let put_even = |store: &Store<1>| assert!(store.put(4) > 2);
    let put_odd = |store: &Store<1>| assert!(store.put(5) > 2);
    explore("two_chains", full, [put_even, put_odd], |store| {
        store.check();
        assert_eq!(store.walk().len(), 4);
    });
}

#[test]
fn a_put_and_a_remove_agree_with_the_log() {
    let read = |store: &Store<2>| assert_ne!(store.read_twice(1), 0);
    explore("a_put_and_a_remove", with_key_1, [put_1, remove_1, read], |store| {
        assert_eq!(store.removed(), 1, "there was something to remove all the time");
        store.check();
    });
}

#[test]
fn two_removes_take_one_record_once() {
    let read = |store: &Store<2>| assert_ne!(store.read_twice(1), 0);
    explore("two_removes", with_key_1, [remove_1, remove_1, read], |store| {
        assert_eq!(store.removed(), 1);
        store.check();
    });
}
