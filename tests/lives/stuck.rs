//! A segment's file that cannot be removed once compaction has given it up. Invariant: it costs its
//! own room, and nothing else.

use super::{BOOT_AT, CURSOR_AT, edit, has, killed, options, put_all, segments};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use stratalog::{Error, Store};

const ROUNDS: usize = 5;
const IDS: usize = 250;

/// Something that `unlink` refuses takes the place of the first segment's file, and of the file
/// itself only the mapping is left.
fn stick(path: &Path) -> PathBuf {
    let first = segments(path).remove(0);
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    first
}

fn overwrite_and_compact(store: &Store) {
    put_all(store, 0..IDS);
    let report = store.compact().unwrap();
    assert!(report.segments_removed >= 1, "{report:?}");
}

/// The files of all segments that were given up later stayed as well, whatever was removed from
/// them included, and an opening left them, too.
#[test]
fn a_file_that_cannot_be_removed_keeps_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    put_all(&store, 0..IDS);
    let stuck = stick(&path);
    for _ in 0..ROUNDS {
        overwrite_and_compact(&store);
    }
    // In addition to the stuck one, two may be preallocated.
    let unused = |store: &Store| segments(&path).len() as u64 - store.stats().segments;
    assert!(unused(&store) <= 3, "{:?}", segments(&path));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    std::fs::remove_dir(&stuck).unwrap();
    overwrite_and_compact(&store);
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert!((0..IDS).all(|n| has(&store, n)));
    assert!(!stuck.exists() && unused(&store) <= 2, "{:?}", segments(&path));
}

/// Each try to compact left a segment for copies that was made in vain: with compaction in the
/// background one a second, or more, for as long as no manifest could be written.
#[test]
fn while_no_manifest_can_be_written_compaction_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    put_all(&store, 0..IDS);
    put_all(&store, 0..IDS / 2);
    // The background has named what was begun.
    std::thread::sleep(Duration::from_millis(200));
    let in_the_way = ["MANIFEST.next", "MANIFEST.tmp"].map(|name| path.join(name));
    std::fs::remove_file(&in_the_way[0]).unwrap();
    in_the_way.iter().for_each(|name| std::fs::create_dir(name).unwrap());
    for _ in 0..ROUNDS {
        let report = store.compact();
        assert!(matches!(report, Err(Error::Io(_))), "{report:?}");
    }
    // One for the next try, and two may be preallocated.
    let (files, used) = (segments(&path).len() as u64, store.stats().segments);
    assert!(files <= used + 3, "{files} files, {used} segments");
    assert!(used <= 5, "{used} segments");
    in_the_way.iter().for_each(|name| std::fs::remove_dir(name).unwrap());
    overwrite_and_compact(&store);
    assert!((0..IDS).all(|n| has(&store, n)));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert!((0..IDS).all(|n| has(&store, n)) && store.recovery().is_clean());
    overwrite_and_compact(&store);
    assert!(segments(&path).len() as u64 <= store.stats().segments + 2, "{:?}", segments(&path));
}

/// The segment for copies that such a try had left stayed, with its room, until a compaction had
/// something to copy, or the next opening.
#[test]
fn once_manifests_can_be_written_a_segment_for_copies_that_nobody_needs_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    // Of each segment a part is dead.
    for n in 0..IDS {
        put_all(&store, n..n + 1);
        put_all(&store, n / 2..n / 2 + 1);
    }
    std::thread::sleep(Duration::from_millis(200));
    let in_the_way = ["MANIFEST.next", "MANIFEST.tmp"].map(|name| path.join(name));
    std::fs::remove_file(&in_the_way[0]).unwrap();
    in_the_way.iter().for_each(|name| std::fs::create_dir(name).unwrap());
    let report = store.compact();
    assert!(matches!(report, Err(Error::Io(_))), "{report:?}");
    in_the_way.iter().for_each(|name| std::fs::remove_dir(name).unwrap());
    let ids: Vec<_> = store.pin().iter().map(|record| record.unwrap().id().to_vec()).collect();
    ids.iter().for_each(|id| assert!(store.remove(id).unwrap()));
    store.compact().unwrap();
    assert_eq!(store.stats().segments, 0, "{:?}", store.segments());
    store.close().unwrap();
    assert!(options().open(&path).unwrap().recovery().is_clean());
}

/// An opening after a reboot, which removes such files at once, was refused for good.
#[test]
fn a_file_that_cannot_be_removed_is_no_reason_not_to_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    put_all(&store, 0..IDS);
    let stuck = stick(&path);
    overwrite_and_compact(&store);
    store.close().unwrap();
    for segment in segments(&path).iter().filter(|segment| **segment != stuck) {
        edit(segment, BOOT_AT, &[7; 16]);
    }
    let store = options().open(&path).unwrap();
    assert!((0..IDS).all(|n| has(&store, n)) && store.recovery().is_clean());
}

/// A preallocated segment that the process before left, whose file something is mounted on.
#[test]
fn a_blank_file_that_cannot_be_removed_is_no_reason_not_to_open() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..IDS);
    // Else one that the writer has overtaken, and that is not removed yet, is a gap.
    store.sync().unwrap();
    let is_blank = |segment: &PathBuf| {
        let bytes = std::fs::read(segment).unwrap();
        bytes[CURSOR_AT..CURSOR_AT + 8] == [0; 8]
    };
    let blank = &loop {
        killed(&store, &image);
        if let Some(blank) = segments(&image).into_iter().find(is_blank) {
            break blank;
        }
        std::fs::remove_dir_all(&image).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(store);
    segments(&image).iter().for_each(|segment| edit(segment, BOOT_AT, &[7; 16]));
    let mount = |program: &str, arguments: &[&Path]| {
        Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
    };
    if !mount("mount", &[Path::new("--bind"), blank, blank]) {
        println!("skipped: nothing can be mounted here");
        return;
    }
    let found = [(); 2].map(|()| {
        let store = options().open(&image)?;
        let found = (0..IDS).all(|n| has(&store, n));
        store.close().map(|()| found)
    });
    // A process that another test starts just now may have the file open: lazily.
    assert!(mount("umount", &[Path::new("--lazy"), blank]));
    assert!(matches!(found, [Ok(true), Ok(true)]), "{found:?}");
    let store = options().open(&image).unwrap();
    assert!((0..IDS).all(|n| has(&store, n)) && store.recovery().is_clean());
    store.close().unwrap();
    options().open(&image).unwrap().close().unwrap();
    assert!(!blank.exists());
}
