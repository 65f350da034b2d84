//! Compaction: space comes back, nothing else changes, whoever else is at work.

#![cfg(test)]

#[path = "compaction/backups.rs"]
mod backups;
#[path = "compaction/beside.rs"]
mod beside;
#[path = "compaction/damage.rs"]
mod damage;
#[path = "compaction/endless.rs"]
mod endless;
#[path = "compaction/erased.rs"]
mod erased;
#[path = "compaction/pacing.rs"]
mod pacing;
#[path = "compaction/readers.rs"]
mod readers;
#[path = "compaction/segments.rs"]
mod segments;
#[path = "compaction/tags.rs"]
mod tags;
#[path = "compaction/tombstones.rs"]
mod tombstones;

use std::path::{Path, PathBuf};
use stratalog::{Batch, Compaction, Condition, Error, Options, Store};

const DIM: usize = 8;
const SEGMENT: u64 = 1 << 20;

fn options() -> Options {
    Options::new()
        .dimension(DIM)
        .segment_size(SEGMENT)
        .compaction(Compaction::Manual)
        .flush_interval(None)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ n >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ n >> 31
}

/// A record whose every part follows from id and version.
fn content(id: u32, version: u32) -> Vec<u8> {
    let mut bytes = format!("{id}/{version}/").into_bytes();
    bytes.resize(300 + (id as usize * 7 + version as usize * 13) % 900, version as u8);
    bytes
}

fn put(store: &Store, id: u32, version: u32) {
    let embedding = [id as f32, version as f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    store.put(id.to_le_bytes(), &embedding, content(id, version)).unwrap();
}

/// The version of an id, its parts compared.
fn version(store: &Store, id: u32) -> Option<u32> {
    let pinned = store.pin();
    let record = pinned.get(id.to_le_bytes()).unwrap()?;
    let version = record.embedding()[1] as u32;
    assert_eq!(record.id(), id.to_le_bytes());
    assert_eq!(record.embedding()[0], id as f32);
    assert_eq!(record.content(), content(id, version), "id {id} version {version}");
    Some(version)
}

fn segment_files(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect()
}

fn contains_bytes(path: &Path, needle: &[u8]) -> bool {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).any(|file| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[test]
fn nothing_changes_but_the_space_and_a_second_time_there_is_nothing_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    for round in 0..10 {
        for id in 0..2_000 {
            put(&store, id, round);
        }
    }
    for id in (0..2_000u32).step_by(3) {
        assert!(store.remove(id.to_le_bytes()).unwrap());
    }
    let before = store.stats();
    let report = store.compact().unwrap();
    let after = store.stats();
    assert!(report.segments_removed >= 10, "{report:?}");
    assert_eq!(report.reclaimed_bytes, before.dead_bytes, "{before:?} {after:?}");
    let totals = (after.compaction_moved_bytes, after.compaction_segments_removed);
    assert_eq!(totals, (report.moved_bytes, report.segments_removed));
    assert_eq!((after.live_bytes, after.dead_bytes), (before.live_bytes, 0));
    assert_eq!(after.live_records, before.live_records);
    // One that takes more, one with copies that is not full, one made ahead.
    assert!(after.disk_bytes < before.live_bytes * 5 / 4 + 3 * SEGMENT, "{after:?}");
    let again = store.compact().unwrap();
    assert_eq!((again.segments_removed, again.moved_records), (0, 0));
    let check = |store: &Store| {
        for id in 0..2_000 {
            assert_eq!(version(store, id), (id % 3 != 0).then_some(9));
        }
        assert!(store.verify().unwrap().is_clean());
    };
    check(&store);
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(store.stats().live_bytes, after.live_bytes);
    check(&store);
    put(&store, 5, 77);
    assert_eq!(version(&store, 5), Some(77));
}

#[test]
fn a_store_that_is_filled_and_emptied_a_hundred_times_ends_as_small_as_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    put(&store, 1, 0);
    store.remove(1u32.to_le_bytes()).unwrap();
    store.compact().unwrap();
    let began = store.stats();
    for round in 0..100 {
        for id in 0..300u32 {
            put(&store, id, round);
        }
        for id in 0..300u32 {
            assert!(store.remove(id.to_le_bytes()).unwrap());
        }
        store.compact().unwrap();
    }
    let ended = store.stats();
    assert_eq!((ended.live_records, ended.dead_bytes, ended.segments), (0, 0, began.segments));
    assert!(ended.disk_bytes <= began.disk_bytes + 2 * SEGMENT, "{began:?} {ended:?}");
    store.close().unwrap();
    assert!(segment_files(&path).len() <= 2, "{:?}", segment_files(&path));
    assert_eq!(options().open(&path).unwrap().len(), 0);
}

/// Each run leaves a segment for copies that is nearly empty. Where compaction is left to the
/// caller nothing merged them: a mapping, a file and its blocks for each run, without bound.
#[test]
fn what_many_compactions_have_left_does_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    for id in 0..40 {
        put(&store, id, 0);
        put(&store, 1000, id);
        assert!(store.remove(1000u32.to_le_bytes()).unwrap());
        store.compact().unwrap();
        assert!(store.stats().segments <= 9, "{id}: {:?}", store.stats());
    }
    assert!((0..40).all(|id| version(&store, id) == Some(0)));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert!((0..40).all(|id| version(&store, id) == Some(0)));
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn removed_bytes_are_in_no_file_after_compact_and_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let secret = b"the-secret-that-must-go";
    for id in 0..3_000u32 {
        put(&store, id, 1);
        if id % 500 == 77 {
            store.put(format!("secret-id-{id}"), &[1.0; DIM], secret).unwrap();
        }
    }
    store.put("overwritten", &[1.0; DIM], secret).unwrap();
    store.put("overwritten", &[1.0; DIM], "harmless").unwrap();
    let refused = store.put_if("overwritten", &[1.0; DIM], secret, Condition::Absent);
    assert!(refused.is_err());
    let mut batch = Batch::new();
    batch.put("in a batch", &[1.0; DIM], secret).put("stays", &[1.0; DIM], "harmless");
    store.write(batch).unwrap();
    store.sync().unwrap();
    assert!(contains_bytes(&path, secret));
    for id in (0..3_000u32).filter(|id| id % 500 == 77) {
        assert!(store.remove(format!("secret-id-{id}")).unwrap());
    }
    assert!(store.remove("in a batch").unwrap());
    store.compact().unwrap();
    store.close().unwrap();
    assert!(!contains_bytes(&path, secret));
    assert!(!contains_bytes(&path, b"secret-id-"), "a tombstone still says it");
    let store = options().open(&path).unwrap();
    assert_eq!(store.len(), 3_002);
}

#[test]
fn a_removed_id_stays_removed_whatever_is_compacted_and_reopened_when() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = options().open(&path).unwrap();
    let mut state = [None; 400];
    let mut seed = 7;
    for step in 0..30_000u32 {
        seed = mix(seed);
        let id = seed as u32 % 400;
        if seed >> 32 & 3 == 0 {
            let there = state[id as usize].take().is_some();
            assert_eq!(store.remove(id.to_le_bytes()).unwrap(), there);
        } else {
            put(&store, id, step);
            state[id as usize] = Some(step);
        }
        if seed >> 40 & 0x7FF == 0 {
            store.compact().unwrap();
        }
        if seed >> 40 & 0xFFF == 1 {
            if seed & 1 == 0 {
                store.close().unwrap();
            } else {
                drop(store);
            }
            store = options().open(&path).unwrap();
        }
        if step % 5_000 == 0 {
            for (id, expected) in state.iter().enumerate() {
                assert_eq!(version(&store, id as u32), *expected, "step {step}");
            }
            assert_eq!(store.len(), state.iter().flatten().count());
        }
    }
    store.compact().unwrap();
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    for (id, expected) in state.iter().enumerate() {
        assert_eq!(version(&store, id as u32), *expected);
    }
}

/// Compaction in the background takes the segment of the tombstone, all else in it being dead, and
/// leaves the one with the older version, all else in it being live.
#[test]
fn a_removed_id_stays_removed_while_a_segment_that_stays_holds_an_older_version() {
    const OVERWRITTEN: u32 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().compaction(Compaction::Auto).open(&path).unwrap();
    let taken = || {
        let segments = store.segments().into_iter().filter(|segment| segment.slots > 0);
        segments.map(|segment| segment.sequence).collect::<Vec<_>>()
    };
    let mut ids = 0;
    while taken().len() < 2 {
        put(&store, ids, 0);
        ids += 1;
    }
    let (older, tombstone) = (taken()[0], taken()[1]);
    assert!(store.remove(0u32.to_le_bytes()).unwrap());
    (0..4_000).for_each(|version| put(&store, OVERWRITTEN, version));
    // The last of the first ones is in the segment of the tombstone.
    put(&store, ids - 1, 1);
    store.sync().unwrap();
    beside::wait_until("its segment goes", || !taken().contains(&tombstone));
    assert!(taken().contains(&older), "nothing older has stayed");
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(version(&store, 0), None, "it came back");
    assert!((1..ids - 1).all(|id| version(&store, id) == Some(0)));
}

#[test]
fn lsns_are_kept_and_never_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let first = store.put("a", &[1.0; DIM], "1").unwrap();
    let dead = store.put("b", &[1.0; DIM], "2").unwrap();
    store.remove("b").unwrap();
    let highest = store.write(Batch::new()).unwrap();
    store.compact().unwrap();
    assert_eq!(store.pin().get("a").unwrap().unwrap().lsn(), first);
    store.wait_durable(dead).unwrap();
    assert_eq!(store.write(Batch::new()).unwrap(), highest);
    let next = store.put("c", &[1.0; DIM], "3").unwrap();
    assert!(next > highest);
    store.remove("c").unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    // Closing has made all durable, the removal in a segment that is gone included.
    let durable = store.durable_lsn();
    assert!(durable > next);
    assert!(store.put("d", &[1.0; DIM], "4").unwrap() > durable, "it is not durable yet");
    let refused = store.put_if("a", &[1.0; DIM], "5", Condition::Lsn(dead));
    assert!(matches!(refused, Err(Error::ConditionFailed { current }) if current == Some(first)));
    store.put_if("a", &[1.0; DIM], "5", Condition::Lsn(first)).unwrap();
}
