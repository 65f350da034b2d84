//! A backup is the store as of one LSN: beside a writer, flushes and compaction, across ids,
//! segments and batches.

use super::{SEGMENT, options};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stratalog::{Batch, Compaction, Store};

const IDS: u64 = 300;
/// Every so many writes are one batch.
const BATCH: u64 = 5;
/// So that a segment is full again and again while a backup is made.
const CONTENT: usize = SEGMENT as usize / 64;

/// The id of a write: all writes are numbered, so what a store holds says which it has seen.
fn id(write: u64) -> [u8; 8] {
    (write * 7 % IDS).to_le_bytes()
}

fn write_one(store: &Store, write: u64) {
    let content = vec![write as u8; CONTENT];
    let embedding = [write as f32; super::DIM];
    if write % IDS < IDS / 2 || !write.is_multiple_of(BATCH) {
        store.put(id(write), &embedding, content).unwrap();
        return;
    }
    let mut batch = Batch::new();
    batch.put(b"beside", &embedding, b"").put(id(write), &embedding, content);
    store.write(batch).unwrap();
}

/// Fails unless the store holds what it held after one of the writes, at least the one given.
#[track_caller]
fn assert_of_one_moment(copy: &Store, at_least: u64) {
    let pinned = copy.pin();
    let number = |id: &[u8]| Some(pinned.get(id).unwrap()?.embedding()[0] as u64);
    let all: Vec<_> = (0..IDS).map(|n| number(&n.to_le_bytes())).collect();
    let last = all.iter().flatten().max().copied().unwrap_or(0);
    assert!(last >= at_least, "it returned before the backup: write {at_least}, not {last}");
    for write in last.saturating_sub(IDS - 1)..=last {
        let of = u64::from_le_bytes(id(write)) as usize;
        assert_eq!(all[of], Some(write), "the backup has write {last}, and not write {write}");
    }
    let batched = |write: &u64| *write % IDS >= IDS / 2 && write.is_multiple_of(BATCH);
    let beside = (0..=last).rev().find(batched);
    assert_eq!(number(b"beside"), beside, "a batch is there in part, at write {last}");
}

/// Returns how far each segment counts was read segment by segment, while flushes went on: so a
/// later write could be in a backup without an earlier one. (mutation: backup-marks-one-by-one)
#[test]
fn a_backup_beside_flushes_holds_all_that_came_before_what_it_holds() {
    let stores = if cfg!(debug_assertions) { 6 } else { 60 };
    for n in 0..stores {
        // In one with few segments the last ones are come to at once; in the other they move.
        let compaction = if n % 2 == 0 { Compaction::Manual } else { Compaction::Auto };
        let dir = tempfile::tempdir().unwrap();
        let store = options().compaction(compaction).open(dir.path().join("s")).unwrap();
        write_one(&store, 0);
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Numbers that an embedding holds exactly.
                for write in 1..1 << 23 {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    write_one(&store, write);
                    written.store(write, Ordering::Release);
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    store.sync().unwrap();
                }
            });
            let stop = SetAtEnd(&stop);
            for n in 0..3 {
                let at_least = written.load(Ordering::Acquire);
                let copy = dir.path().join(format!("copy-{n}"));
                store.backup(&copy).unwrap();
                let copied = options().read_only(true).open(&copy).unwrap();
                assert!(copied.recovery().is_clean(), "{:?}", copied.recovery());
                assert_of_one_moment(&copied, at_least);
            }
            drop(stop);
        });
    }
}

/// Ends the other threads, also if the check fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Once the last records of the log were moved, or removed, a backup's own log began with numbers
/// that the store had given before.
#[test]
fn a_backup_of_copies_alone_gives_no_lsn_that_the_store_gave() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    let embedding = [0.5; super::DIM];
    store.put("kept", &embedding, "").unwrap();
    store.put("gone", &embedding, "").unwrap();
    store.remove("gone").unwrap();
    store.compact().unwrap();
    // In a segment that is younger than the copy of the other.
    let given = store.put("gone", &embedding, "").unwrap();
    store.remove("gone").unwrap();
    store.compact().unwrap();
    let copy = dir.path().join("copy");
    store.backup(&copy).unwrap();
    let copy = options().open(&copy).unwrap();
    assert!(copy.contains("kept") && !copy.contains("gone"));
    let lsn = copy.put("new", &embedding, "").unwrap();
    assert!(lsn > given, "{lsn} after {given}");
}

/// Its segments were sealed, and their cursors were not closed: so none was full, and none was ever
/// a victim.
#[test]
fn a_store_that_a_backup_made_is_compacted_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = options().open(&path).unwrap();
    let content = b"REMOVED-BYTES ".repeat(60);
    for n in 0..4_000 {
        store.put(format!("id-{n}"), &[1.0; super::DIM], &content).unwrap();
    }
    store.backup(&copy).unwrap();
    drop(store);
    let copied = options().open(&copy).unwrap();
    let segments = copied.stats().segments;
    assert!(segments > 3, "{segments} segments");
    for n in 0..4_000 {
        assert!(copied.remove(format!("id-{n}")).unwrap().is_some());
    }
    let report = copied.compact().unwrap();
    assert!(report.segments_removed >= segments, "{segments} segments, {report:?}");
    copied.close().unwrap();
    assert!(!super::contains_bytes(&copy, b"REMOVED-BYTES"));
    assert!(!super::contains_bytes(&copy, b"id-1234"), "a tombstone still says it");
}

fn tag(store: &Store, id: &str) -> u64 {
    store.pin().get(id).unwrap().expect("it was not removed").tag()
}

/// A backup brought along the mark of a move that compaction had just made, or a tag that it had
/// moved on. What is shown here depends on who comes first; `tests/seams.rs` has the steps one by
/// one. (mutation: replica-copies-tag-word)
#[test]
fn tags_in_a_backup_made_while_records_move_stay_what_they_are() {
    const TAG: u64 = 7;
    let dir = tempfile::tempdir().unwrap();
    let options = || options().flush_interval(Some(std::time::Duration::from_millis(5)));
    let store = options().compaction(Compaction::Auto).open(dir.path().join("s")).unwrap();
    let ids: Vec<String> = (1_000..9_999).map(|n| format!("id-{n}")).collect();
    let put = |store: &Store, id: &str| {
        store.put(id, &[1.0; super::DIM], [5; 60]).unwrap();
        store.update_tag(id, |_| TAG).unwrap();
    };
    ids.iter().for_each(|id| put(&store, id));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = SetAtEnd(&stop);
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                put(&store, &ids[super::mix(n) as usize % ids.len()]);
            }
        });
        for round in 0..6 {
            let path = dir.path().join(format!("copy-{round}"));
            store.backup(&path).unwrap();
            let mut copy = options().open(&path).unwrap();
            // A put that has no tag yet may be the last that a backup has.
            let before: Vec<_> = ids.iter().map(|id| tag(&copy, id)).collect();
            let none = before.iter().filter(|tag| **tag != TAG).count();
            assert!(none <= 1, "{none} tags are gone");
            for id in ids.iter().step_by(5) {
                copy.put(id, &[1.0; super::DIM], "").unwrap();
            }
            for close in [false, true] {
                copy.compact().unwrap();
                if close {
                    copy.close().unwrap();
                    copy = options().open(&path).unwrap();
                }
                for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 5 > 0) {
                    assert_eq!(tag(&copy, id), before[n], "{id}");
                }
            }
        }
    });
}

/// Of two victims that leave in one step, one holds a removal and the other what it removed. A
/// backup read which segments there are between the two. (mutation: backup-beside-a-drop)
#[test]
fn a_backup_while_segments_leave_brings_nothing_back() {
    let rounds = if cfg!(debug_assertions) { 60 } else { 400 };
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    let embedding = [1.0; super::DIM];
    let (done, removed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (done, store, removed) = (&done, &store, &removed);
    std::thread::scope(|scope| {
        let backups = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Acquire) {
                let before = removed.load(Ordering::Acquire);
                let path = dir.path().join(format!("copy-{n}"));
                store.backup(&path).unwrap();
                let copy = options().read_only(true).open(&path).unwrap();
                for round in 0..before {
                    assert!(!copy.contains(format!("removed-{round}")), "it is back: {round}");
                }
                drop(copy);
                std::fs::remove_dir_all(&path).unwrap();
                n += 1;
            }
            n
        });
        let _done = SetAtEnd(done);
        for round in 0..rounds {
            let id = format!("removed-{round}");
            store.put(&id, &embedding, "").unwrap();
            // So that what is removed lies in the segment for copies, and its removal in the log.
            store.put("dead", &embedding, "").unwrap();
            store.put("dead", &embedding, "").unwrap();
            store.compact().unwrap();
            assert!(store.remove(&id).unwrap().is_some());
            removed.store(round + 1, Ordering::Release);
            store.compact().unwrap();
        }
        done.store(true, Ordering::Release);
        println!("{} backups", backups.join().unwrap());
    });
}
