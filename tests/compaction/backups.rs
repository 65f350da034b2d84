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

/// How far each segment counts was read segment by segment, while flushes went on: so a later write
/// could be in a backup without an earlier one. (mutation: backup-marks-one-by-one)
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
