//! Compaction beside readers, writers and pins.

use super::{DIM, content, options, put, segment_files, version};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use stratalog::{Compaction, SegmentRole, SegmentStats};

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn readers_see_every_id_and_never_an_older_version_while_it_compacts() {
    const IDS: u32 = 500;
    let rounds = if cfg!(debug_assertions) { 30 } else { 200 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let written: Vec<AtomicU32> = (0..IDS).map(|_| AtomicU32::new(0)).collect();
    for id in 0..IDS {
        put(&store, id, 0);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for id in 0..IDS {
                        let at_least = written[id as usize].load(Ordering::Acquire);
                        let seen = version(&store, id).expect("an id is gone");
                        assert!(seen >= at_least, "id {id}: {seen} after {at_least}");
                    }
                    let pinned = store.pin();
                    let mut seen: Vec<_> =
                        pinned.iter().map(|record| record.unwrap().id().to_vec()).collect();
                    seen.sort();
                    seen.dedup();
                    assert_eq!(seen.len(), IDS as usize, "an iteration missed an id");
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.compact().unwrap();
            }
        });
        let writers: Vec<_> = (0..2)
            .map(|t| {
                let (store, written) = (&store, &written);
                scope.spawn(move || {
                    for version in 1..=rounds {
                        for id in (t..IDS).step_by(2) {
                            put(store, id, version);
                            written[id as usize].store(version, Ordering::Release);
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.compact().unwrap();
    assert_eq!(store.len(), IDS as usize);
    assert_eq!(store.stats().dead_bytes, 0);
    drop(store);
    let store = options().open(&path).unwrap();
    for id in 0..IDS {
        assert_eq!(version(&store, id), Some(rounds));
    }
}

#[test]
fn what_a_pin_holds_stays_as_it_was_and_goes_when_the_pin_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    for id in 0..1_000 {
        put(&store, id, 1);
    }
    let shared = store.get_shared(7u32.to_le_bytes()).unwrap().unwrap();
    {
        let pinned = store.pin();
        let record = pinned.get(7u32.to_le_bytes()).unwrap().unwrap();
        for id in 0..1_000 {
            put(&store, id, 2);
        }
        let report = store.compact().unwrap();
        assert!(report.segments_removed > 0);
        assert_eq!(record.content(), content(7, 1));
        assert!(store.stats().retired > 0);
        assert_eq!(version(&store, 7), Some(2));
    }
    wait_until("emptied segments are given back", || store.stats().retired == 0);
    assert_eq!(shared.content(), content(7, 1));
    store.close().unwrap();
    assert_eq!(shared.content(), content(7, 1));
    assert_eq!(shared.embedding().len(), DIM);
}

#[test]
fn the_background_keeps_the_store_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().compaction(Compaction::Auto).open(&path).unwrap();
    for id in 0..4_000 {
        put(&store, id, 0);
    }
    let live = store.stats().live_bytes;
    for round in 1..10 {
        for id in 0..4_000 {
            put(&store, id, round);
        }
    }
    wait_until("the dead are given back", || {
        let stats = store.stats();
        stats.dead_bytes < live && stats.disk_bytes < 5 * live / 2
    });
    assert_eq!(store.len(), 4_000);
    store.close().unwrap();
    assert!(segment_files(&path).len() < 16, "{:?}", segment_files(&path));
    let store = options().open(&path).unwrap();
    for id in 0..4_000 {
        assert_eq!(version(&store, id), Some(9));
    }
}

/// A backup once read the table of segments in one go: a record that was moved meanwhile was
/// neither where it had been nor where it was now. (mutation: backup-one-reading)
#[test]
fn a_backup_beside_compaction_holds_every_record() {
    const IDS: u32 = 6_000;
    let backups = if cfg!(debug_assertions) { 6 } else { 40 };
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    (0..IDS).for_each(|id| put(&store, id, 0));
    let (stop, written) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                (0..IDS).step_by(3).for_each(|id| put(&store, id, version));
                written.store(version, Ordering::Release);
                store.compact().unwrap();
            }
        });
        let missing = (0..backups).find_map(|n| {
            let at_least = written.load(Ordering::Acquire);
            let copy = dir.path().join(format!("copy-{n}"));
            store.backup(&copy).unwrap();
            let copied = options().read_only(true).open(&copy).unwrap();
            let at_least = |id| if id % 3 == 0 { at_least } else { 0 };
            let missing = (0..IDS).find(|&id| version(&copied, id) < Some(at_least(id)));
            drop(copied);
            std::fs::remove_dir_all(copy).unwrap();
            missing.map(|id| (id, n))
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(missing, None, "an id is not in a backup, or an older version of it");
    });
}

/// At the rate given all that pays would take hours.
#[test]
fn closing_interrupts_compaction_and_loses_nothing() {
    const IDS: u32 = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    // Three quarters dead, in every segment of the first round.
    let last = |id| u32::from(id % 4 > 0);
    (0..IDS).for_each(|id| put(&store, id, 0));
    (0..IDS).filter(|id| last(*id) == 1).for_each(|id| put(&store, id, 1));
    store.close().unwrap();
    let slow = options().compaction(Compaction::Auto).compaction_rate(1_000);
    for how in ["close", "drop"] {
        let store = slow.open(&path).unwrap();
        let copies = |s: &SegmentStats| s.role == SegmentRole::Copies && s.slots > 0;
        wait_until("copies are made", || store.segments().iter().any(copies));
        if how == "close" {
            store.close().unwrap();
        } else {
            drop(store);
        }
    }
    let store = options().open(&path).unwrap();
    assert!((0..IDS).all(|id| version(&store, id) == Some(last(id))));
    assert!(store.verify().unwrap().is_clean());
    assert!(store.compact().unwrap().segments_removed > 0, "it was not interrupted");
}
