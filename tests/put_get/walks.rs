//! Walks beside writers. Invariant: an id that is live throughout is seen exactly once, whatever
//! the index does meanwhile; one that comes or goes, at most once.

use super::common::{Records, mix, reopen};
use super::new_store;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stratalog::Store;

const SMALL: Records = Records { dimension: 4, content_max: 30 };
/// Live throughout.
const FIXED: u32 = 3_000;

fn fixed(n: u32) -> Vec<u8> {
    format!("fixed {n}").into_bytes()
}

fn passing(n: u64) -> Vec<u8> {
    format!("passing {n}").into_bytes()
}

/// One walk: each fixed id once, no id twice, and each record of one piece.
fn walk(store: &Store) -> usize {
    let pinned = store.pin();
    let mut seen: BTreeMap<&[u8], u32> = BTreeMap::new();
    for record in pinned.iter() {
        let record = record.unwrap();
        let version = SMALL.version_of(record.id(), record.embedding(), record.content());
        let twice = seen.insert(record.id(), version);
        assert_eq!(twice, None, "{} was seen twice", record.id().escape_ascii());
    }
    for n in 0..FIXED {
        assert!(seen.contains_key(&fixed(n)[..]), "fixed {n} was not seen");
    }
    seen.len()
}

/// Overwrites fixed ids, brings others and takes some away again, until told to stop.
fn stir(store: &Store, thread: u64, stop: &AtomicBool) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        SMALL.put(store, &fixed(mix(n ^ thread << 32) as u32 % FIXED), n as u32 % 1000);
        // The set grows for a while (splits), then shrinks (rebuilds).
        let id = passing((thread << 32) + mix(n) % 4_000);
        if n / 5_000 % 2 == 0 {
            SMALL.put(store, &id, 1);
        } else {
            assert!(store.remove(&id).is_ok());
        }
    }
    n
}

#[test]
fn an_id_that_is_live_throughout_is_seen_exactly_once() {
    let (_dir, store) = new_store(SMALL.dimension);
    for n in 0..FIXED {
        SMALL.put(&store, &fixed(n), 0);
    }
    let (stop, stirred) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 1..=3 {
            let (store, stop, stirred) = (&store, &stop, &stirred);
            scope.spawn(move || stirred.fetch_add(stir(store, thread, stop), Ordering::Relaxed));
        }
        let walkers: Vec<_> =
            (0..2).map(|_| scope.spawn(|| (0..15).map(|_| walk(&store)).max())).collect();
        let most = walkers.into_iter().filter_map(|walker| walker.join().ok());
        let most: Vec<_> = most.collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(most.len(), 2, "a walk went wrong");
    });
    assert!(stirred.load(Ordering::Relaxed) > 0);
    assert_eq!(walk(&store), store.len());
    reopen(store);
}

/// A walk that is not finished sees the rest after the index has grown many times under it.
#[test]
fn a_walk_that_pauses_misses_nothing_and_repeats_nothing() {
    let (_dir, store) = new_store(SMALL.dimension);
    for n in 0..FIXED {
        SMALL.put(&store, &fixed(n), 0);
    }
    let pinned = store.pin();
    let mut walk = pinned.iter();
    let mut seen = BTreeMap::new();
    for n in 0..FIXED / 2 {
        let record = walk.next().expect("half is left").unwrap();
        assert_eq!(seen.insert(record.id(), n), None);
    }
    for n in 0..10_000 {
        SMALL.put(&store, &passing(n), 0);
        SMALL.put(&store, &fixed(n as u32 % FIXED), 1);
    }
    for n in 0..10_000 {
        assert!(store.remove(passing(n)).unwrap().is_some());
    }
    // It goes on with what there is now, not with what there was when it paused.
    for record in walk {
        let record = record.unwrap();
        let version = SMALL.version_of(record.id(), record.embedding(), record.content());
        assert_eq!(version, 1, "{} was overwritten or removed", record.id().escape_ascii());
        assert_eq!(seen.insert(record.id(), FIXED), None, "seen twice");
    }
    let fixed_seen = (0..FIXED).filter(|&n| seen.contains_key(&fixed(n)[..])).count();
    assert_eq!(fixed_seen, FIXED as usize);
    drop(pinned);
    assert_eq!(reopen(store).len(), FIXED as usize);
}

#[test]
fn a_walk_over_an_empty_store_ends_and_stays_ended() {
    let (_dir, store) = new_store(1);
    let pinned = store.pin();
    let mut walk = pinned.iter();
    assert!(walk.next().is_none() && walk.next().is_none());
    store.put("a", &[0.0], "").unwrap();
    assert_eq!((&pinned).into_iter().count(), 1);
    assert!(store.remove("a").unwrap().is_some());
    assert_eq!(pinned.iter().count(), 0);
    drop(pinned);
    reopen(store);
}
