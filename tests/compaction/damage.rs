//! Compaction of a store in which a frame is damaged, or a tag word carries what an earlier process
//! left there.

use super::{DIM, beside, contains_bytes, options, put, segment_files, version};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::{Compaction, Condition, Error, Store};

const EMBEDDING: [f32; DIM] = [1.0; DIM];
const DAMAGED: &[u8] = b"the-content-that-is-damaged";
/// In a tag word: the record was moved.
const FORWARD: u64 = 1 << 63;

/// The one place in the files of segments that holds these bytes.
#[track_caller]
fn place_of(path: &Path, needle: &[u8]) -> (PathBuf, u64) {
    let in_file = |file: PathBuf| {
        let bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((file, at as u64))
    };
    let found: Vec<_> = segment_files(path).into_iter().filter_map(in_file).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

fn overwrite(place: &(PathBuf, u64), bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(&place.0).unwrap();
    file.write_all_at(bytes, place.1).unwrap();
}

/// What the store takes, and in how many pieces.
fn taken(store: &Store) -> (usize, u64, u64, u64) {
    let stats = store.stats();
    let disk = store.segments().iter().map(|segment| segment.disk_bytes).sum();
    (segment_files(store.path()).len(), stats.segments, stats.dead_bytes, disk)
}

/// A group with a damaged victim was given up as a whole, at each run, after it had been copied.
/// (mutation: damaged-group-given-up)
#[test]
fn a_damaged_frame_costs_no_space_but_that_of_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("damaged", &EMBEDDING, DAMAGED).unwrap();
    for id in 0..6_000 {
        put(&store, id, 0);
        if id > 3_000 && id % 100 == 0 {
            store.put(format!("secret-{id}"), &EMBEDDING, "the-secret-that-must-go").unwrap();
        }
    }
    for id in (0..6_000u32).filter(|id| id % 10 > 0) {
        assert!(store.remove(id.to_le_bytes()).unwrap().is_some());
    }
    for id in (3_100..6_000).step_by(100) {
        assert!(store.remove(format!("secret-{id}")).unwrap().is_some());
    }
    store.close().unwrap();
    overwrite(&place_of(&path, DAMAGED), b"X");
    let store = options().open(&path).unwrap();
    let before = store.stats().segments;
    let first = store.compact().unwrap();
    assert!(first.segments_removed + 2 >= before, "{before} segments, {first:?}");
    // Copies that were made beside the damaged segment's may be left over from the first run.
    store.compact().unwrap();
    let after = taken(&store);
    for run in 3..=5 {
        store.compact().unwrap();
        assert_eq!(taken(&store), after, "files, segments, dead and disk bytes after run {run}");
    }
    assert!((0..6_000).all(|id| version(&store, id) == (id % 10 == 0).then_some(0)));
    assert!(store.pin().get("damaged").is_err(), "it is damaged");
    store.close().unwrap();
    assert!(!contains_bytes(&path, b"the-secret-that-must-go"));
    // An opening knows nothing of the damage.
    for _ in 0..3 {
        let store = options().open(&path).unwrap();
        store.compact().unwrap();
        assert_eq!((taken(&store).1, taken(&store).2), (after.1, after.2), "segments, dead bytes");
        store.close().unwrap();
    }
}

/// The process before may have died after it had moved a record to a copy that was lost. Its mark
/// in the tag word means nothing to this process, which clears it before it makes a copy of its
/// own: else that copy could count without its tag. Shown where it stays to be seen: the segment is
/// damaged further on, so it is not given up. (mutation: forward-not-cleared)
#[test]
fn what_an_earlier_process_left_in_a_tag_word_is_cleared_before_the_record_is_copied() {
    const TAG: u64 = 0x0123_4567_89AB_CDEF;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("moved", &EMBEDDING, "moved").unwrap();
    assert_eq!(store.update_tag("moved", |_| TAG).unwrap(), Some(TAG));
    store.put("damaged", &EMBEDDING, DAMAGED).unwrap();
    store.put("dead", &EMBEDDING, "1").unwrap();
    store.put("dead", &EMBEDDING, "2").unwrap();
    store.close().unwrap();
    let word = place_of(&path, &TAG.to_le_bytes());
    overwrite(&word, &(TAG | FORWARD).to_le_bytes());
    overwrite(&place_of(&path, DAMAGED), b"X");
    let tag = |store: &Store| store.pin().get("moved").unwrap().unwrap().tag();
    let store = options().open(&path).unwrap();
    assert_eq!(tag(&store), TAG, "it counts as it is");
    assert_eq!(store.compact().unwrap().segments_removed, 0, "its segment is damaged");
    assert_eq!(tag(&store), TAG);
    store.close().unwrap();
    assert_eq!(place_of(&path, &TAG.to_le_bytes()), word);
}

/// The same in a segment that is given up.
#[test]
fn a_tag_word_with_the_mark_of_an_earlier_process_loses_no_update() {
    const TAG: u64 = 0x0123_4567_89AB_CDEF;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("moved", &EMBEDDING, "moved").unwrap();
    assert_eq!(store.update_tag("moved", |_| TAG).unwrap(), Some(TAG));
    store.put("dead", &EMBEDDING, "1").unwrap();
    store.put("dead", &EMBEDDING, "2").unwrap();
    store.close().unwrap();
    overwrite(&place_of(&path, &TAG.to_le_bytes()), &(TAG | FORWARD).to_le_bytes());
    let mut store = options().open(&path).unwrap();
    for n in 1..=3 {
        assert_eq!(store.update_tag("moved", |tag| tag + 1).unwrap(), Some(TAG + 2 * n - 1));
        assert!(store.compact().unwrap().segments_removed > 0);
        assert_eq!(store.update_tag("moved", |tag| tag + 1).unwrap(), Some(TAG + 2 * n));
        store.put("dead", &EMBEDDING, "3").unwrap();
        store.close().unwrap();
        store = options().open(&path).unwrap();
        assert_eq!(store.pin().get("moved").unwrap().unwrap().tag(), TAG + 2 * n);
    }
}

/// The tombstone was copied while an older version stood in another segment, which the same run
/// emptied later. (mutation: tombstones-looked-at-once)
#[test]
fn one_compaction_leaves_no_id_of_a_removed_record() {
    const ID: &str = "secret-id-of-a-removed-record";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let content = vec![1; 10_000];
    let fill = |name: &str| {
        for n in 0..60 {
            store.put(format!("{name}-{n}"), &EMBEDDING, &content).unwrap();
        }
    };
    fill("old");
    store.put(ID, &EMBEDDING, b"SECRET-CONTENT".repeat(500)).unwrap();
    store.put("dead", &EMBEDDING, "x").unwrap();
    store.put("dead", &EMBEDDING, "y").unwrap();
    // So that the segment that takes the tombstone has a lower sequence than that of the copies,
    // and is emptied before it; and with this much live in both, each is a group of its own.
    beside::wait_until("the next segment is preallocated", || {
        segment_files(&path).len() as u64 > store.stats().segments
    });
    store.compact().unwrap();
    fill("new");
    assert!(store.remove(ID).unwrap().is_some());
    store.compact().unwrap();
    store.close().unwrap();
    assert!(!contains_bytes(&path, b"SECRET-CONTENT"));
    assert!(!contains_bytes(&path, ID.as_bytes()), "a tombstone still says it");
}

/// A manifest that could not be written once left a segment of copies open, which no later
/// compaction could empty. Here the segment for tombstones cannot be named, and not be dropped.
#[test]
fn a_manifest_that_fails_once_leaves_no_segment_that_cannot_be_emptied() {
    const SECRET: &[u8] = b"the-secret-that-must-go";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let content = vec![1; 10_000];
    let fill = |name: &str, count: u32| {
        for n in 0..count {
            store.put(format!("{name}-{n}"), &EMBEDDING, &content).unwrap();
        }
    };
    // The older version that keeps the tombstone is in a segment that stays, since it is damaged.
    store.put("removed", &EMBEDDING, "x").unwrap();
    store.put("damaged", &EMBEDDING, DAMAGED).unwrap();
    store.put("dead-0", &EMBEDDING, "x").unwrap();
    fill("dead", 1);
    overwrite(&place_of(&path, DAMAGED), b"X");
    store.compact().unwrap();
    // One group of records, and one with a tombstone besides.
    fill("first", 60);
    store.put("secret", &EMBEDDING, SECRET).unwrap();
    (0..45).for_each(|_| fill("dead", 1));
    fill("second", 30);
    assert!(store.remove("removed").unwrap().is_some());
    let in_the_way = ["MANIFEST.next", "MANIFEST.tmp"].map(|name| path.join(name));
    let mut groups = 0;
    let failed = store.compact_with(|_, _| {
        groups += 1;
        if groups == 1 {
            std::fs::remove_file(&in_the_way[0]).unwrap();
            in_the_way.iter().for_each(|name| std::fs::create_dir(name).unwrap());
        }
    });
    assert!(matches!(failed, Err(Error::Io { .. })) && groups == 1, "{failed:?} after {groups}");
    in_the_way.iter().for_each(|name| std::fs::remove_dir(name).unwrap());
    assert!(store.remove("secret").unwrap().is_some());
    store.compact().unwrap();
    store.close().unwrap();
    assert!(!contains_bytes(&path, SECRET));
}

/// A segment in which something was damaged was left alone until the store was opened again, also
/// once the damaged id was overwritten: removed bytes stayed in it.
#[test]
fn what_is_overwritten_after_it_was_damaged_keeps_its_segment_no_longer() {
    const SECRET: &[u8] = b"the-secret-that-must-go";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("damaged", &EMBEDDING, DAMAGED).unwrap();
    store.put("secret", &EMBEDDING, SECRET).unwrap();
    store.put("dead", &EMBEDDING, "1").unwrap();
    store.put("dead", &EMBEDDING, "2").unwrap();
    overwrite(&place_of(&path, DAMAGED), b"X");
    for _ in 0..2 {
        store.compact().unwrap();
        assert!(store.pin().get("damaged").is_err(), "it is damaged");
        assert!(contains_bytes(&path, DAMAGED.strip_prefix(b"t").unwrap()), "it stays");
    }
    assert!(store.remove("secret").unwrap().is_some());
    store.put("damaged", &EMBEDDING, "whole").unwrap();
    store.compact().unwrap();
    assert!(store.verify().unwrap().is_clean());
    assert_eq!(store.stats().dead_bytes, 0);
    store.close().unwrap();
    assert!(!contains_bytes(&path, SECRET));
}

/// Slots that were lost (a zeroed sector) were passed over, and the segment given up: the records
/// whose frames still stood there were gone for good, and nothing named the damage any more.
/// (mutation: lost-slots-given-up)
#[test]
fn a_segment_with_slots_that_were_lost_stays_and_goes_on_being_named() {
    for compaction in [Compaction::Manual, Compaction::Auto] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = options().open(&path).unwrap();
        (0..400).for_each(|id| put(&store, id, 0));
        assert_eq!(store.stats().segments, 1);
        (128..400).for_each(|id| assert!(store.remove(u32::to_le_bytes(id)).unwrap().is_some()));
        store.close().unwrap();
        let [file] = &segment_files(&path)[..] else { panic!("one segment") };
        // The first block of the directory, and the one in front of it, whose slots are whole.
        overwrite(&(file.clone(), 4096), &[0; 4096]);
        let store = options().compaction(compaction).open(&path).unwrap();
        let lost = store.recovery().corrupt;
        assert_eq!((lost, store.len()), (128, 0));
        // Another one becomes active, so that the background may have it.
        (0..2_000).for_each(|id| put(&store, 1_000 + id, 0));
        store.sync().unwrap();
        if compaction == Compaction::Manual {
            store.compact().unwrap();
        } else {
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        assert!(file.exists(), "{compaction:?}: the frames are gone");
        assert_eq!(store.verify().unwrap().damaged.len() as u64, lost, "{compaction:?}");
        store.close().unwrap();
        let store = options().open(&path).unwrap();
        assert_eq!((store.recovery().corrupt, store.len()), (lost, 2_000), "{compaction:?}");
    }
}

/// Changes the first byte of the id in the frame of a slot.
fn damage_frame(file: &Path, slot: usize) {
    let bytes = std::fs::read(file).unwrap();
    let offset = bytes[4096 + slot * 32 + 24..][..4].try_into().unwrap();
    overwrite(&(file.to_owned(), u64::from(u32::from_le_bytes(offset)) * 64 + 40), b"X");
}

/// A damaged removal kept its segment for good, also once nothing older was left that it hides.
#[test]
fn a_damaged_removal_keeps_its_segment_only_while_it_hides_something() {
    const SECRET: &[u8] = b"the-secret-that-must-go";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("a", &EMBEDDING, "1").unwrap();
    store.put("secret", &EMBEDDING, SECRET).unwrap();
    assert!(store.remove("a").unwrap().is_some());
    store.put("a", &EMBEDDING, "2").unwrap();
    assert!(store.remove("secret").unwrap().is_some());
    store.close().unwrap();
    damage_frame(&segment_files(&path)[0], 2);
    let store = options().open(&path).unwrap();
    store.compact().unwrap();
    store.compact().unwrap();
    assert!(store.verify().unwrap().is_clean());
    store.close().unwrap();
    assert!(!contains_bytes(&path, SECRET));
}

#[test]
fn what_a_damaged_removal_hides_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    // The older version is in a segment that stays, since it is damaged.
    store.put("removed", &EMBEDDING, "x").unwrap();
    store.put("damaged", &EMBEDDING, DAMAGED).unwrap();
    store.put("dead", &EMBEDDING, "1").unwrap();
    store.put("dead", &EMBEDDING, "2").unwrap();
    overwrite(&place_of(&path, DAMAGED), b"X");
    store.compact().unwrap();
    let first = segment_files(&path);
    assert!(store.remove("removed").unwrap().is_some());
    store.put("dead", &EMBEDDING, "3").unwrap();
    let second = segment_files(&path).into_iter().find(|file| !first.contains(file)).unwrap();
    damage_frame(&second, 0);
    for _ in 0..2 {
        store.compact().unwrap();
        assert!(second.exists() && !store.contains("removed"));
    }
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert!(!store.contains("removed"));
    store.compact().unwrap();
    assert!(second.exists());
    store.put("damaged", &EMBEDDING, "whole").unwrap();
    // The first run gives up the older version, the second one what hid it.
    store.compact().unwrap();
    store.compact().unwrap();
    assert!(!second.exists() && !store.contains("removed"));
    assert!(store.verify().unwrap().is_clean());
    store.close().unwrap();
    assert!(!options().open(&path).unwrap().contains("removed"));
}

/// A damaged length or flag made a backup store what a conditional put has seen behind the frame's
/// end: into the record that lies there, which is whole.
#[test]
fn a_damaged_length_costs_a_backup_no_other_record() {
    // Bytes 24..28 of a frame are the length of its content, byte 39 its flags.
    for (at, bit, len) in [(25, 1, 100), (24, 6, 100), (39, 0, 84), (39, 0, 100)] {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
        let store = options().open(&path).unwrap();
        (0..100).for_each(|id| put(&store, id, 0));
        let content = [DAMAGED, &vec![7; len - DAMAGED.len()]].concat();
        let written = match at {
            39 => store.put("damaged", &EMBEDDING, &content),
            _ => store.put_if("damaged", &EMBEDDING, &content, Condition::Absent),
        };
        written.unwrap();
        store.close().unwrap();
        let (file, content_at) = place_of(&path, DAMAGED);
        // Its header and id take a line, its embedding half of one.
        let place = (file, content_at - 96 + at);
        let byte = std::fs::read(&place.0).unwrap()[place.1 as usize];
        overwrite(&place, &[byte ^ 1 << bit]);
        let store = options().open(&path).unwrap();
        let damaged = store.verify().unwrap().damaged;
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        store.backup(&copy).unwrap();
        let copy = options().open(&copy).unwrap();
        let also = copy.verify().unwrap().damaged;
        assert_eq!((also.len(), &also[0].id), (1, &damaged[0].id), "{also:?}");
        assert!(copy.pin().get("damaged").is_err(), "it is damaged");
        assert!((0..100).all(|id| version(&copy, id) == Some(0)));
    }
}
