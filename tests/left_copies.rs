//! A process that died while it compacted. Invariant: the next one gives back what it had copied,
//! and after a removal, a compaction and a close no file holds the removed bytes; and a backup
//! holds what was moved.
#![cfg(test)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};
use stratalog::internals::format::header::{DIRECTORY_AT, DURABLE_AT, Identity, encode_count};
use stratalog::{Compaction, Error, NewRecord, Options, OwnedRecord, Recovery, SegmentRole, Store};

const RECORDS: u32 = 300;

fn options() -> Options {
    let options = Options::new().dimension(1).segment_size(1 << 20);
    options.compaction(Compaction::Manual).flush_interval(None)
}

fn content(n: u32) -> Vec<u8> {
    format!("<{n:08}>").into_bytes().repeat(300)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // A segment that is being prepared just now changes its name.
        if !entry.file_name().to_string_lossy().ends_with(".tmp") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn holds(dir: &Path, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut contents = files.map(|path| std::fs::read(path).unwrap());
    contents.any(|content| content.windows(bytes.len()).any(|window| window == bytes))
}

/// A store, and in `killed` what it left when its process died while it compacted: copies without
/// force.
fn killed_while_it_copied(dir: &Path) -> (Store, PathBuf) {
    killed_while_it_copied_what(dir, |store, n| {
        store.put(n.to_le_bytes(), &[1.0], content(n)).unwrap();
    })
}

fn killed_while_it_copied_what(dir: &Path, put: impl Fn(&Store, u32)) -> (Store, PathBuf) {
    let (path, killed) = (dir.join("s"), dir.join("killed"));
    let store = options().compaction_rate(400_000).open(&path).unwrap();
    for n in 0..RECORDS {
        put(&store, n);
    }
    store.remove(0_u32.to_le_bytes()).unwrap();
    // All of the active segment lives: it goes on.
    for n in RECORDS.. {
        put(&store, n);
        if store.segments().len() > 1 {
            break;
        }
    }
    store.sync().unwrap();
    thread::scope(|scope| {
        let compaction = scope.spawn(|| store.compact().unwrap());
        // Of the 64 that are copied before it sleeps.
        let copied = |s: &stratalog::SegmentStats| s.role == SegmentRole::Copies && s.slots > 50;
        while !store.segments().iter().any(copied) {
            assert!(!compaction.is_finished(), "nothing was copied");
            thread::sleep(Duration::from_millis(1));
        }
        // As after a kill: the compaction sleeps, for its rate.
        copy(&path, &killed);
    });
    (store, killed)
}

/// As if it had died a moment later: the source of the copy says that it was moved.
fn set_forward(killed: &Path, lsn: u64) {
    let name = format!("{:010x}-", lsn >> 24);
    let entries = std::fs::read_dir(killed).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&name);
    let file = entries.into_iter().find(is_it).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut offset = [0; 4];
    let slot = DIRECTORY_AT as u64 + (lsn & 0xFF_FFFF) * 32;
    file.read_exact_at(&mut offset, slot + 24).unwrap();
    let frame = u64::from(u32::from_le_bytes(offset)) * 64;
    file.write_all_at(&[0x80], frame + 7).unwrap();
}

#[test]
fn copies_of_a_process_that_died_are_given_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, killed) = killed_while_it_copied(dir.path());
    store.close().unwrap();

    let store = options().open(&killed).unwrap();
    let left = store.segments();
    let left = left.iter().find(|segment| segment.role == SegmentRole::Copies).unwrap();
    assert!(left.dead_bytes > 100_000, "{left:?}");
    for n in 0..RECORDS {
        store.remove(n.to_le_bytes()).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    for n in 1..4 {
        assert!(!holds(&killed, &content(n)[..20]), "removed bytes of {n}");
    }
}

/// The copy was in no backup, since its process had died before it noted how far it was flushed;
/// and what it was copied from had the tag as it was when the record was moved.
#[test]
fn a_backup_has_the_tags_of_what_a_process_that_died_had_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (store, killed) = killed_while_it_copied(dir.path());
    let id = 5_u32.to_le_bytes();
    let lsn = store.get_owned(id).unwrap().unwrap().lsn.as_u64();
    store.close().unwrap();
    set_forward(&killed, lsn);

    let store = options().open(&killed).unwrap();
    let (live, backup) = (store.len(), dir.path().join("backup"));
    assert_eq!(store.update_tag(id, |_| 77).unwrap(), Some(77));
    store.backup(&backup).unwrap();
    store.close().unwrap();
    for path in [killed, backup] {
        let store = options().open(&path).unwrap();
        assert_eq!(store.len(), live);
        assert_eq!(store.get_owned(id).unwrap().unwrap().tag, 77, "{}", path.display());
    }
}

/// Power was lost when the device had what the sources say of their moves, and not yet that their
/// copies count. What opening puts in force expires like what it finds in force.
#[test]
fn what_opening_puts_in_force_is_found_once_it_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let over = SystemTime::now() + Duration::from_secs(4);
    let (store, killed) = killed_while_it_copied_what(dir.path(), |store, n| {
        let (id, content) = (n.to_le_bytes(), content(n));
        store.put_record(NewRecord::new(&id, &[1.0], &content).expires_at(over)).unwrap();
    });
    drop(store);
    let store = options().read_only(true).open(&killed).unwrap();
    let copies = |s: &stratalog::SegmentStats| s.role == SegmentRole::Copies;
    let copies = store.segments().into_iter().find(copies).unwrap().path;
    let live = store.len();
    drop(store);
    let bytes = std::fs::read(copies).unwrap();
    for slot in bytes[DIRECTORY_AT..].chunks(32).take(64) {
        let lsn = u64::from_le_bytes(slot[8..16].try_into().unwrap());
        if lsn != 0 {
            set_forward(&killed, lsn);
        }
    }

    let store = options().open(&killed).unwrap();
    assert_eq!(store.len(), live);
    thread::sleep(over.duration_since(SystemTime::now()).unwrap_or_default());
    store.compact().unwrap();
    assert_eq!(store.len(), 0);
    store.close().unwrap();
    assert!(!holds(&killed, &content(5)[..20]), "what has expired is still on disk");
}

/// What a copy was made of answers where the copy is damaged, if the header is, too: so it does in
/// a backup, where the header is whole and each slot is believed.
#[test]
fn a_backup_has_what_answers_in_place_of_a_damaged_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (store, killed) = killed_while_it_copied(dir.path());
    let id = 5_u32.to_le_bytes();
    let lsn = store.get_owned(id).unwrap().unwrap().lsn.as_u64();
    store.close().unwrap();
    set_forward(&killed, lsn);

    // The background stores how far the copies are on the device.
    let auto = options().compaction(Compaction::Auto);
    let store = auto.open(&killed).unwrap();
    let copies = |s: &stratalog::SegmentStats| s.role == SegmentRole::Copies;
    let path = store.segments().into_iter().find(copies).unwrap().path;
    thread::sleep(Duration::from_secs(3));
    assert!(store.segments().iter().any(|s| s.path == path), "it was emptied");
    store.close().unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(1 << 19).unwrap();

    let store = options().open(&killed).unwrap();
    let found = store.get_owned(id).unwrap();
    assert!(found.is_some());
    let backup = dir.path().join("backup");
    store.backup(&backup).unwrap();
    assert_eq!(options().open(&backup).unwrap().get_owned(id).unwrap(), found);
}

/// Returns a store, killed with so many segments, whose last file was cut short, and the version of
/// "a" that answers: the newer one was in what was cut off, and nobody had flushed it.
fn with_a_damaged_record(dir: &Path, segments: usize) -> (Store, Option<OwnedRecord>) {
    let (path, killed) = (dir.join("s"), dir.join("k"));
    let store = options().open(&path).unwrap();
    store.put("a", &[1.0], "older").unwrap();
    for n in 0.. {
        store.put(u32::to_le_bytes(n), &[1.0], content(n)).unwrap();
        if store.segments().len() >= segments {
            break;
        }
    }
    store.put("a", &[1.0], "newer").unwrap();
    copy(&path, &killed);
    let last = store.segments().pop().unwrap().path;
    let file = std::fs::File::options().write(true).open(killed.join(last.file_name().unwrap()));
    file.unwrap().set_len((1 << 20) - 8192).unwrap();

    let store = options().open(&killed).unwrap();
    let found = store.get_owned("a").unwrap();
    assert_eq!(found.as_ref().map(|found| &found.content[..]), Some(&b"older"[..]));
    (store, found)
}

/// The same of a record that nobody had flushed, and of what stood before it: it cannot be told
/// whether the damaged one was ever whole.
#[test]
fn a_backup_has_what_answers_in_place_of_a_damaged_record() {
    let dir = tempfile::tempdir().unwrap();
    let (store, found) = with_a_damaged_record(dir.path(), 2);
    let backup = dir.path().join("b");
    store.backup(&backup).unwrap();
    let backup = options().open(&backup).unwrap();
    assert_eq!(backup.get_owned("a").unwrap(), found);
}

/// The same beside a writer: what answered at the moment of the backup is there, though the id was
/// overwritten while the segments were copied.
#[test]
fn a_backup_has_what_answered_at_its_moment_in_place_of_a_damaged_record() {
    let dir = tempfile::tempdir().unwrap();
    let (store, found) = with_a_damaged_record(dir.path(), 13);
    let backup = dir.path().join("b");
    thread::scope(|scope| {
        let backing_up = scope.spawn(|| store.backup(&backup).unwrap());
        let begun = || {
            let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            let copies =
                names.filter(|at| !["s", "k"].map(|name| dir.path().join(name)).contains(at));
            let mut files = copies.flat_map(|at| std::fs::read_dir(at).into_iter().flatten());
            files.any(|file| file.unwrap().path().extension().is_some_and(|end| end == "seg"))
        };
        while !begun() {
            assert!(!backing_up.is_finished());
        }
        store.put("a", &[1.0], "newest").unwrap();
    });
    let backup = options().open(&backup).unwrap();
    assert_eq!(backup.get_owned("a").unwrap(), found);
}

/// A copy comes into force once its source says that it was moved. What opening decides in a file
/// that was cut short stays in memory: the source must not be given up for that.
#[test]
fn a_copy_in_a_file_that_was_cut_short_does_not_replace_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let (store, killed) = killed_while_it_copied(dir.path());
    let id = 5_u32.to_le_bytes();
    let found = store.get_owned(id).unwrap();
    store.close().unwrap();
    set_forward(&killed, found.as_ref().unwrap().lsn.as_u64());

    let store = options().read_only(true).open(&killed).unwrap();
    let copies = |s: &stratalog::SegmentStats| s.role == SegmentRole::Copies;
    let path = store.segments().into_iter().find(copies).unwrap().path;
    drop(store);
    // What is cut off is part of another copy.
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len((1 << 20) - 64).unwrap();

    let store = options().open(&killed).unwrap();
    assert!(store.get_owned(id).unwrap() == found, "after the kill");
    store.remove(7_u32.to_le_bytes()).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let store = options().open(&killed).unwrap();
    assert!(store.get_owned(id).unwrap() == found, "after a compaction");
    assert_eq!(store.len() as u64, store.recovery().records);
}

/// In a segment for copies that is on the device, to the end, damages the copy with this LSN.
fn damage_copy(path: &Path, slots: u32, lsn: u64) {
    let bytes = std::fs::read(path).unwrap();
    let salt = Identity::decode(bytes.first_chunk().unwrap()).unwrap().salt;
    let slots_at = (DIRECTORY_AT..).step_by(32).take(slots as usize);
    let mut of_lsn = slots_at.filter(|at| bytes[at + 8..at + 16] == lsn.to_le_bytes());
    let slot = of_lsn.next().unwrap();
    let units = u32::from_le_bytes(bytes[slot + 24..slot + 28].try_into().unwrap());
    let content = u64::from(units) * 64 + 200;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[!bytes[content as usize]], content).unwrap();
    let durable = encode_count(slots, salt, DURABLE_AT);
    file.write_all_at(&durable.to_le_bytes(), DURABLE_AT as u64).unwrap();
}

/// A salvage checks each copy, and finds that what it was made of is still there. Later openings,
/// and those of a backup, believe what is on the device.
#[test]
fn what_a_salvage_has_found_in_place_of_a_damaged_copy_is_there_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, killed) = killed_while_it_copied(dir.path());
    let id = 5_u32.to_le_bytes();
    let found = store.get_owned(id).unwrap();
    store.close().unwrap();
    let lsn = found.as_ref().unwrap().lsn.as_u64();
    set_forward(&killed, lsn);
    // Puts it in force.
    let store = options().open(&killed).unwrap();
    let copies = |s: &stratalog::SegmentStats| s.role == SegmentRole::Copies;
    let copies = store.segments().into_iter().find(copies).unwrap();
    store.close().unwrap();
    damage_copy(&copies.path, copies.slots, lsn);

    let store = options().read_only(true).open(&killed).unwrap();
    assert!(matches!(store.get_owned(id), Err(Error::Corrupt { .. })));
    drop(store);
    let store = options().recovery(Recovery::Salvage).open(&killed).unwrap();
    assert!(store.get_owned(id).unwrap() == found, "in the salvage");
    let backup = dir.path().join("backup");
    store.backup(&backup).unwrap();
    store.close().unwrap();
    for path in [&killed, &backup] {
        let store = options().open(path).unwrap();
        assert!(store.get_owned(id).unwrap() == found, "{}", path.display());
        assert_eq!(store.len() as u64, store.recovery().records);
    }
}
