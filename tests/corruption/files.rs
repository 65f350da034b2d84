//! Files that are cut, lost, doubled, renamed, or not files at all. Whatever an opening makes of
//! them, once they are back nothing is missing: the engine removes nothing that it did not make.

use super::child::Role;
use super::common::{self, SEGMENT, State, assert_same, reopen, state};
use super::{Answer, Closed, RECORDS, SLOT, ask, id, read_only, tree, walk};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::header::{
    BOOT_AT, DIRECTORY_AT, FLUSH_AT, FlushNote, IDENTITY_BYTES, Identity, encode_flush,
};
use stratalog::{Options, Store};

/// What is in the store lies in whole segments, so each id is found or lost with its file.
fn assert_only_lost_in(closed: &Closed, store: &Store, path: &Path) {
    for id in closed.state.keys() {
        let answer = ask(store, &closed.state, id);
        let lost = closed.record(id).0 == path;
        let right = if lost { answer == Answer::Nothing } else { answer == Answer::Whole };
        assert!(right, "{} is {answer:?}", id.escape_ascii());
    }
}

/// Opens, writes, closes, twice: whatever an opening writes down about damage is written. Answers
/// what is found of the five records that were written.
fn use_twice(path: &Path) -> State {
    let new = |n: u32| format!("new {n}").into_bytes();
    for round in 0..2 {
        let store = common::open(path);
        for n in 0..5 {
            RECORDS.put(&store, &new(n), round);
        }
        store.close().unwrap();
    }
    let store = read_only(path);
    let found = (0..5).filter_map(|n| store.get_owned(new(n)).unwrap());
    found.map(|record| (record.id.clone(), record)).collect()
}

/// All that was there before, and what was written since.
#[track_caller]
fn assert_found(path: &Path, before: &State, written: &State) {
    let store = common::open(path);
    let expected: State = before.clone().into_iter().chain(written.clone()).collect();
    assert_same(&state(&store), &expected);
    assert!(store.verify().unwrap().is_clean(), "{:?}", store.verify());
}

#[test]
fn a_segment_that_is_missing_is_reported_and_counts_again_once_it_is_back() {
    let closed = Closed::of_segments(3);
    for (n, path) in closed.segments().iter().enumerate() {
        let aside = closed.path().with_extension("aside");
        std::fs::rename(path, &aside).unwrap();
        let store = read_only(closed.path());
        assert_eq!(store.recovery().missing_segments, 1, "segment {n}");
        let report = store.verify().unwrap();
        assert!(report.damaged.iter().any(|d| d.path == *path), "{report:?}");
        drop(store);
        let written = use_twice(closed.path());
        assert_eq!(written.len(), 5);
        assert_eq!(common::open(closed.path()).recovery().missing_segments, 1);
        std::fs::rename(&aside, path).unwrap();
        assert_found(closed.path(), &closed.state, &written);
        closed.restore();
    }
    closed.assert_whole();
}

const CUTS: [u64; 9] = [0, 1, 63, 4096, 5000, 20_000, 1 << 19, (1 << 20) - 4096, (1 << 20) - 1];

fn cut(path: &Path, len: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// A cut file's bytes beyond its end must not be touched: that would be a SIGBUS.
#[test]
fn a_segment_that_was_cut_short_costs_the_records_it_cut_and_is_reported() {
    let closed = Closed::of_segments(3);
    let segments = closed.segments();
    let mut silent = Vec::new();
    for (n, len) in [0, 2].into_iter().flat_map(|n| CUTS.map(|len| (n, len))) {
        cut(&segments[n], len);
        for store in [read_only(closed.path()), common::open(closed.path())] {
            for id in closed.state.keys() {
                let answer = ask(&store, &closed.state, id);
                let right = answer == Answer::Whole || closed.record(id).0 == segments[n];
                assert!(right && answer != Answer::Older, "segment {n} of {len} bytes");
            }
            if store.verify().unwrap().is_clean() {
                silent.push((n, len));
            }
        }
        closed.restore();
    }
    closed.assert_whole();
    assert!(silent.is_empty(), "(segment, bytes): {silent:?}");
}

/// A removal went with what it had removed, and the segment that held a newer version had nothing
/// left that said so: it was back with the file.
#[test]
fn what_was_removed_while_a_segment_had_lost_its_slots_stays_removed_once_it_is_back() {
    let removed = b"removed".as_slice();
    // Two of these fill a segment.
    let fill = |store: &Store| {
        for n in 0..3 {
            let content = vec![7; SEGMENT as usize / 5 * 2];
            store.put(id(n), &[1.0; RECORDS.dimension], content).unwrap();
        }
    };
    let closed = Closed::new(|store| {
        for version in 0..2 {
            RECORDS.put(store, removed, version);
            fill(store);
        }
    });
    let path = closed.record(removed).0;
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 100, DIRECTORY_AT, DIRECTORY_AT + SLOT] {
        cut(&path, len as u64);
        let store = common::open(closed.path());
        assert!(store.remove(removed).unwrap().is_some(), "{len}: the older one");
        fill(&store);
        for _ in 0..3 {
            store.compact().unwrap();
        }
        store.close().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert!(!common::open(closed.path()).contains(removed), "{len}");
        closed.restore();
    }
    closed.assert_whole();
}

/// What was cut off a segment for copies passed for copies that had not been finished, and only the
/// file was named.
/// With nothing left in it, it was in use no more: the next manifest did not name it, so later
/// openings called the store sound, and took the file for a stranger's when it was put back.
#[test]
fn a_segment_that_has_lost_everything_is_reported_and_counts_again_once_it_is_back() {
    let closed = Closed::of_segments(3);
    for path in closed.segments() {
        let bytes = std::fs::read(&path).unwrap();
        for len in [0, DIRECTORY_AT as u64, SEGMENT] {
            std::fs::write(&path, []).unwrap();
            cut(&path, len);
            let written = use_twice(closed.path());
            let store = common::open(closed.path());
            assert_eq!(store.recovery().corrupt, 1, "{len}: {:?}", store.recovery());
            let report = store.verify().unwrap();
            assert!(report.damaged.iter().any(|d| d.path == path), "{len}: {report:?}");
            drop(store);
            std::fs::write(&path, &bytes).unwrap();
            assert_found(closed.path(), &closed.state, &written);
            closed.restore();
        }
    }
    closed.assert_whole();
}

#[test]
fn what_a_segment_for_copies_that_was_cut_short_has_lost_is_named_one_by_one() {
    let closed = Closed::new(|store| {
        for n in 0..100 {
            RECORDS.put(store, &id(n), n);
        }
        store.remove(id(0)).unwrap();
        store.compact().unwrap();
    });
    let mut named = 0;
    for path in closed.segments() {
        cut(&path, SEGMENT - 40_000);
        for store in [read_only(closed.path()), common::open(closed.path())] {
            let nothing = |id: &&Vec<u8>| ask(&store, &closed.state, id) == Answer::Nothing;
            let gone = closed.state.keys().filter(nothing).count();
            if gone > 0 {
                let report = store.recovery();
                assert_eq!((report.lost.len(), report.corrupt), (gone + 1, gone as u64 + 1));
                named += gone;
            }
        }
        closed.restore();
    }
    assert!(named > 20, "{named}");
}

/// What the engine cannot map it must not write to: an acknowledged record is in a file.
#[test]
fn what_is_put_after_a_segment_was_cut_short_is_found_again() {
    let closed = Closed::of_segments(3);
    let segments = closed.segments();
    let mut gone = Vec::new();
    for (n, len) in [0, 2].into_iter().flat_map(|n| CUTS.map(|len| (n, len))) {
        cut(&segments[n], len);
        let written = use_twice(closed.path());
        for record in written.values() {
            RECORDS.version_of(&record.id, &record.embedding, &record.content);
        }
        if written.len() != 5 {
            gone.push((n, len, written.len()));
        }
        closed.restore();
    }
    closed.assert_whole();
    assert!(gone.is_empty(), "(segment, bytes, found of 5): {gone:?}");
}

/// The slots are there, and say by id's hash and LSN that what is older does not count: as where
/// only the record is damaged.
#[test]
fn what_a_segment_that_was_cut_short_had_removed_or_replaced_stays_away() {
    let mut last = 0;
    let closed = Closed::new(|store| {
        RECORDS.put(store, b"removed", 1);
        RECORDS.put(store, b"replaced", 1);
        while store.stats().segments < 2 {
            RECORDS.put(store, &id(last), last);
            last += 1;
        }
        store.remove("removed").unwrap();
        RECORDS.put(store, b"replaced", 2);
    });
    let (path, _) = closed.record(b"replaced");
    cut(&path, SEGMENT / 2);
    for _ in 0..2 {
        for store in [read_only(closed.path()), common::open(closed.path())] {
            for id in ["removed", "replaced"] {
                assert_eq!(store.get_owned(id).unwrap(), None, "{id}");
            }
            assert_eq!(walk(&store, &closed.state), last as usize - 1);
            assert_eq!(store.len(), last as usize - 1);
        }
        common::open(closed.path()).compact().unwrap();
    }
    closed.restore();
    closed.assert_whole();
}

/// Nor does it live on as something that compaction moves: the copy counted as live, and took room
/// for as long as the process ran, and the copy of it in the next one.
#[test]
fn what_a_segment_that_was_cut_short_had_replaced_is_not_moved_as_something_live() {
    let mut last = 0;
    let closed = Closed::new(|store| {
        RECORDS.put(store, b"removed", 1);
        RECORDS.put(store, b"replaced", 1);
        RECORDS.put(store, b"kept", 1);
        while store.stats().segments < 2 {
            RECORDS.put(store, &id(last), last);
            last += 1;
        }
        store.remove("removed").unwrap();
        RECORDS.put(store, b"replaced", 2);
    });
    let (path, _) = closed.record(b"replaced");
    cut(&path, SEGMENT / 2);
    let store = common::open(closed.path());
    let (live, moved) = (store.stats().live_bytes, store.compact().unwrap().moved_bytes);
    assert!(moved <= live, "{moved} bytes moved of {live}");
    let of_segments: u64 = store.segments().iter().map(|segment| segment.live_bytes).sum();
    assert_eq!((store.stats().live_bytes, of_segments), (live, live));
    for id in ["removed", "replaced"] {
        assert_eq!(store.get_owned(id).unwrap(), None, "{id}");
    }
}

#[test]
fn a_segment_that_was_extended_is_read_as_before() {
    let closed = Closed::of_segments(2);
    for path in closed.segments() {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_len((1 << 20) + 12_345).unwrap();
    }
    assert_found(closed.path(), &closed.state, &use_twice(closed.path()));
    closed.restore();
    closed.assert_whole();
}

/// Copies and strangers beside the store's own files: not believed, and not removed.
#[test]
fn files_that_only_look_like_segments_are_neither_read_nor_removed() {
    let closed = Closed::of_segments(3);
    let other = Closed::of_segments(2);
    let first = std::fs::read(&closed.segments()[0]).unwrap();
    let strange = std::fs::read(&other.segments()[1]).unwrap();
    let strange_name = other.segments()[1].file_name().unwrap().to_owned();
    let strangers: Vec<(PathBuf, &[u8])> = vec![
        // A copy under the number of the original, of another one, of a coming one.
        ("0000000001-00c0ffee.seg".into(), &first),
        ("0000000002-00c0ffee.seg".into(), &first),
        ("0000000099-00c0ffee.seg".into(), &first),
        // Another store's.
        (strange_name.into(), &strange),
        ("0000000098-00c0ffee.seg".into(), &strange),
        // No segments at all.
        ("0000000003-00c0ffee.seg".into(), b""),
        ("0000000097-00c0ffee.seg".into(), b"short"),
        ("backup.seg".into(), &first),
        ("notes.txt".into(), b"hello"),
    ];
    for (name, bytes) in &strangers {
        std::fs::write(closed.path().join(name), bytes).unwrap();
    }
    let store = read_only(closed.path());
    assert_same(&state(&store), &closed.state);
    assert!(store.recovery().foreign_files >= 8, "{:?}", store.recovery());
    drop(store);
    let written = use_twice(closed.path());
    for (name, bytes) in &strangers {
        let found = std::fs::read(closed.path().join(name)).ok();
        assert!(found.as_deref() == Some(bytes), "{} was removed or changed", name.display());
    }
    assert_found(closed.path(), &closed.state, &written);
    closed.restore();
    closed.assert_whole();
}

#[test]
fn a_segment_under_another_name_is_missing_until_it_has_its_own_again() {
    let closed = Closed::of_segments(3);
    let [first, second, _] = &closed.segments()[..] else { panic!("three segments") };
    for name in ["0000000099-00c0ffee.seg", "0000000001-00c0ffee.seg", "renamed.seg"] {
        let renamed = closed.path().join(name);
        std::fs::rename(first, &renamed).unwrap();
        let store = read_only(closed.path());
        assert_only_lost_in(&closed, &store, first);
        assert_eq!(store.recovery().missing_segments, 1);
        drop(store);
        let written = use_twice(closed.path());
        assert!(renamed.exists(), "{name} was removed: it held records");
        std::fs::rename(&renamed, first).unwrap();
        assert_found(closed.path(), &closed.state, &written);
        closed.restore();
    }
    // Two that have changed places are each not what their names say.
    let aside = closed.path().join("aside");
    std::fs::rename(first, &aside).unwrap();
    std::fs::rename(second, first).unwrap();
    std::fs::rename(&aside, second).unwrap();
    let store = read_only(closed.path());
    assert!(walk(&store, &closed.state) < closed.state.len());
    assert!(!store.verify().unwrap().is_clean());
    drop(store);
    let written = use_twice(closed.path());
    assert!(first.exists() && second.exists(), "they held records");
    std::fs::rename(first, &aside).unwrap();
    std::fs::rename(second, first).unwrap();
    std::fs::rename(&aside, second).unwrap();
    assert_found(closed.path(), &closed.state, &written);
}

/// Something else at a segment's name, for as long as it is there; the segment itself lies aside.
#[test]
fn what_is_no_file_in_place_of_a_segment_is_reported_waits_for_nobody_and_stays() {
    let closed = Closed::of_segments(3);
    let path = &closed.segments()[1];
    let aside = closed.path().with_extension("aside");
    type Maker = fn(&Path, &Path);
    let makers: [(&str, Maker); 4] = [
        ("symbolic link", |path, aside| symlink(aside, path).unwrap()),
        ("directory", |path, _| std::fs::create_dir(path).unwrap()),
        ("pipe", |path, _| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("link to nowhere", |path, _| symlink("nowhere", path).unwrap()),
    ];
    for (what, make) in makers {
        std::fs::rename(path, &aside).unwrap();
        make(path, &aside);
        let kind = path.symlink_metadata().unwrap().file_type();
        let store = read_only(closed.path());
        assert!(walk(&store, &closed.state) >= 1, "{what}");
        let report = store.verify().unwrap();
        assert!(report.damaged.iter().any(|d| d.path == *path), "{what}: {report:?}");
        drop(store);
        let written = use_twice(closed.path());
        let left = path.symlink_metadata().map(|metadata| metadata.file_type());
        assert_eq!(left.ok(), Some(kind), "the {what} was removed");
        std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path)).unwrap();
        std::fs::rename(&aside, path).unwrap();
        assert_found(closed.path(), &closed.state, &written);
        closed.restore();
    }
    closed.assert_whole();
}

/// The same beside the store's files, under names that no segment has.
#[test]
fn what_is_no_file_beside_the_segments_stops_nothing_and_stays() {
    let closed = Closed::of_segments(2);
    for name in ["0000000001-00c0ffee.seg", "0000000099-00c0ffee.seg"] {
        let path = closed.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("thesis.tex"), "years of work").unwrap();
        let opened = Options::new().open(closed.path()).map(|store| store.len());
        assert_eq!(opened.ok(), Some(closed.state.len()), "a directory {name} stops it");
        let written = use_twice(closed.path());
        assert!(path.join("thesis.tex").exists());
        assert_found(closed.path(), &closed.state, &written);
        closed.restore();
        symlink("/etc/hostname", &path).unwrap();
        let written = use_twice(closed.path());
        assert!(path.symlink_metadata().is_ok(), "the link {name} was removed");
        assert_found(closed.path(), &closed.state, &written);
        closed.restore();
    }
    closed.assert_whole();
}

/// A segment that cannot be opened today (too many open files) is not a segment that is gone.
#[test]
fn a_lack_of_file_handles_loses_nothing() {
    let closed = Closed::new(|store| {
        // Records of a third of a segment: many segments, few bytes to check.
        let content = vec![7; 400_000];
        for n in 0..60 {
            store.put(id(n), &RECORDS.embedding(&id(n), n), &content).unwrap();
        }
    });
    assert!(closed.segments().len() > 25);
    let mut child = Role::play("open with few files", closed.path(), 25);
    let mut said = Vec::new();
    for _ in 0..2 {
        child.go_on();
        said.extend(child.hear());
    }
    drop(child.kill());
    let found = common::open(closed.path()).len();
    let gone = closed.files.keys().filter(|path| !path.exists()).count();
    assert_eq!((found, gone), (60, 0), "records and lost files, after {said:?}");
    assert!(said.iter().all(|s| s == "opened 60" || s.starts_with("refused")), "{said:?}");
    closed.assert_whole();
}

/// A stranger's file may have any number in its name, the highest one too.
#[test]
fn a_strangers_file_with_the_highest_number_does_not_end_the_store() {
    let closed = Closed::of_segments(1);
    std::fs::write(closed.path().join("fffffffffe-00000000.seg"), "a stranger's").unwrap();
    let store = common::open(closed.path());
    let mut written = Ok(store.stats().tail);
    for n in 0..20_000 {
        let id = id(n);
        written = store.put(&id, &RECORDS.embedding(&id, n), RECORDS.content(&id, n));
        if written.is_err() {
            break;
        }
    }
    assert!(written.is_ok(), "{written:?}");
    reopen(store);
}

/// A segment that was damaged in its header before the manifest knew it, and two with one number.
#[test]
fn two_segments_with_one_number_are_told_apart_by_the_manifest() {
    let closed = Closed::of_segments(2);
    let path = &closed.segments()[1];
    let mut bytes = std::fs::read(path).unwrap();
    let mut identity = Identity::decode(bytes.first_chunk().unwrap()).unwrap();
    identity.salt.0 ^= 1;
    bytes[..IDENTITY_BYTES].copy_from_slice(&identity.encode());
    let name = format!("{:010x}-{:08x}.seg", identity.sequence.0, identity.salt.0 as u32);
    std::fs::write(closed.path().join(name), bytes).unwrap();
    assert_same(&state(&read_only(closed.path())), &closed.state);
    assert_found(closed.path(), &closed.state, &use_twice(closed.path()));
    closed.restore();
    closed.assert_whole();
}

/// Two stores that were one, each with a record that the other has not, in segments with one number
/// that the manifest does not know yet; the files of both are in the first's directory. Where the
/// segments are.
fn twins(dir: &Path) -> (PathBuf, [PathBuf; 2]) {
    let paths = [dir.join("a"), dir.join("b")];
    let options = Options::new().dimension(RECORDS.dimension).segment_size(common::SEGMENT);
    options.open(&paths[0]).unwrap().close().unwrap();
    tree::copy(&paths[0], &paths[1]);
    let manifest = std::fs::read(paths[0].join("MANIFEST")).unwrap();
    for (path, n) in paths.iter().zip(0..) {
        let store = common::open(path);
        RECORDS.put(&store, &id(n), n);
        store.close().unwrap();
    }
    let segments = paths.each_ref().map(|path| tree::segments(path)[0].clone());
    let twin = paths[0].join(segments[1].file_name().unwrap());
    std::fs::copy(&segments[1], &twin).unwrap();
    std::fs::write(paths[0].join("MANIFEST"), manifest).unwrap();
    (paths[0].clone(), [segments[0].clone(), twin])
}

#[track_caller]
fn only_one_of(store: &Store) -> u32 {
    let found: Vec<u32> = (0..2).filter(|&n| store.contains(id(n))).collect();
    assert_eq!((found.len(), store.len()), (1, 1), "{found:?}");
    found[0]
}

#[test]
fn of_two_segments_with_one_number_that_no_manifest_names_one_counts_and_the_other_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (path, segments) = twins(dir.path());
    let strict = Options::new().recovery(stratalog::Recovery::Strict).open(&path);
    assert!(matches!(strict, Err(stratalog::Error::Corrupt { .. })));
    let store = read_only(&path);
    let counts = only_one_of(&store);
    drop(store);
    let other = &segments[1 - counts as usize];
    let before = std::fs::read(other).unwrap();
    let store = common::open(&path);
    assert_eq!((only_one_of(&store), store.recovery().corrupt), (counts, 1));
    assert!(store.recovery().lost.iter().any(|lost| lost.path == *other));
    store.close().unwrap();
    let store = common::open(&path);
    assert_eq!((only_one_of(&store), store.recovery().foreign_files), (counts, 1));
    assert_eq!(std::fs::read(other).unwrap(), before, "it was changed");
}

/// A flush of it was under way when it was copied: it was flushed, copied to a new file, and said
/// something else then.
#[test]
fn what_a_strangers_segment_says_of_a_flush_changes_nothing() {
    let closed = Closed::of_segments(2);
    let mut bytes = std::fs::read(&closed.segments()[0]).unwrap();
    let mut identity = Identity::decode(bytes.first_chunk().unwrap()).unwrap();
    identity.salt = Salt(0x0123_4567_89AB_CDEF);
    bytes[..IDENTITY_BYTES].copy_from_slice(&identity.encode());
    let half = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let boot = [BOOT_AT, BOOT_AT + 8].map(half);
    let name = format!("{:010x}-89abcdef.seg", identity.sequence.0);
    let stranger = closed.path().join(name);
    for note in [FlushNote::Begun, FlushNote::Failed] {
        let word = encode_flush(note, boot, identity.salt);
        bytes[FLUSH_AT..FLUSH_AT + 8].copy_from_slice(&word.to_le_bytes());
        std::fs::write(&stranger, &bytes).unwrap();
        let store = common::open(closed.path());
        assert_eq!(store.recovery().foreign_files, 1);
        assert_same(&state(&store), &closed.state);
        store.close().unwrap();
        assert!(std::fs::read(&stranger).unwrap() == bytes, "{note:?}");
    }
}
