//! A disk without a byte left. Invariant: what is dead can be removed and compacted all the same,
//! and no store to a mapping kills the process.
#![cfg(test)]

#[path = "full/holes.rs"]
mod holes;

use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use stratalog::{Compaction, Error, Options, Store};
use tempfile::TempDir;

/// A small file system, gone when dropped. `None` where the test may not mount one.
struct Small(TempDir);

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in ASCII")
}

impl Small {
    /// As large as the memory; it says that it has no blocks, and none is free.
    fn without_limit() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", "size=0", "tmpfs", text(dir.path())]);
        Self::if_mounted(mounted, dir)
    }

    fn tmpfs(bytes: u64) -> Option<Self> {
        Self::tmpfs_of_files(bytes, 1000)
    }

    fn tmpfs_of_files(bytes: u64, files: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes},nr_inodes={files}");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(dir.path())]);
        Self::if_mounted(mounted, dir)
    }

    fn ext4(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(bytes).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", text(image.path())])
            && run("mount", &["-o", "loop", text(image.path()), text(dir.path())]);
        Self::if_mounted(made, dir)
    }

    /// Of 320 MiB, nearly the least that it can have.
    fn xfs() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(320 << 20).unwrap();
        let made = run("mkfs.xfs", &["-q", text(image.path())])
            && run("mount", &["-o", "loop", text(image.path()), text(dir.path())]);
        Self::if_mounted(made, dir)
    }

    fn if_mounted(mounted: bool, dir: TempDir) -> Option<Self> {
        if !mounted {
            println!("skipped: a small file system cannot be mounted here (it takes root)");
        }
        mounted.then_some(Self(dir))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes what room is left, to the last page.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.at("filler")).unwrap();
        // Nearly all of it at once: bit by bit, a background thread could make its spares.
        for _ in 0..100 {
            let about = rustix::fs::fstatvfs(&file).unwrap();
            let free = (about.f_bavail * about.f_frsize).saturating_sub(64 << 10);
            let from = file.metadata().unwrap().len();
            // One that is just making a segment may be faster.
            let filled = rustix::fs::fallocate(&file, FallocateFlags::empty(), from, free.max(1));
            if filled.is_ok() {
                break;
            }
        }
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", text(self.0.path())]);
    }
}

fn options() -> Options {
    let options = Options::new().dimension(1).segment_size(1 << 20);
    options.compaction(Compaction::Manual).flush_interval(None)
}

fn pause() -> bool {
    std::thread::sleep(Duration::from_millis(100));
    false
}

/// A background thread was faster than the filler, and has made its spares.
fn has_spares(path: &Path) -> bool {
    ["spare-for-removals.tmp", "spare-for-copies.tmp"].iter().any(|name| path.join(name).exists())
}

fn put(store: &Store, n: u32) -> Result<stratalog::Lsn, Error> {
    store.put(n.to_le_bytes(), &[n as f32], vec![n as u8; 100_000])
}

/// Defect H8: somebody else has taken the last byte; whole segments are dead, and their room is
/// needed.
#[test]
fn without_a_byte_left_what_is_dead_is_compacted() {
    let Some(disk) = Small::tmpfs(40 << 20) else { return };
    let store = options().open(disk.at("s")).unwrap();
    for round in 0..3 {
        for n in 0..60 {
            put(&store, n).unwrap();
        }
        store.sync().unwrap();
        // Room for removals in the active segment, and some that are not dead.
        for n in 0..4 {
            put(&store, 1000 + n).unwrap();
        }
        disk.fill();
        for n in 0..60 {
            assert!(store.remove(u32::to_le_bytes(n)).unwrap().is_some(), "{n}");
        }
        let report = store.compact().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(report.segments_removed >= 5, "round {round}: {report:?}");
        put(&store, 7).unwrap();
        std::fs::remove_file(disk.at("filler")).unwrap();
    }
    store.close().unwrap();
    let store = options().open(disk.at("s")).unwrap();
    assert_eq!(store.len(), 5);
    assert!(store.verify().unwrap().is_clean());
}

/// There were bytes enough, so no room was kept back: the store could not be emptied any more.
#[test]
fn where_no_file_can_be_made_any_more_records_are_removed_and_compacted() {
    let Some(disk) = Small::tmpfs_of_files(64 << 20, 12) else { return };
    let store = options().open(disk.at("s")).unwrap();
    let mut n = 0;
    while put(&store, n).is_ok() {
        n += 1;
    }
    assert!(matches!(put(&store, n), Err(Error::StorageFull)), "{n}");
    let is_there = |n: &u32| store.contains(u32::to_le_bytes(*n));
    for n in (0..n).filter(is_there) {
        assert!(store.remove(u32::to_le_bytes(n)).unwrap().is_some(), "{n}");
    }
    let report = store.compact().unwrap();
    assert!(report.segments_removed >= 4 && store.is_empty(), "{report:?}");
    put(&store, 7).unwrap();
    store.close().unwrap();
    assert_eq!(options().open(disk.at("s")).unwrap().len(), 1);
}

/// Nothing is dead as a whole, and no room is kept back: `compact` can do nothing, and must not end
/// the segment in which removals still find room. (mutation: full-active-ended)
#[test]
fn a_compaction_that_finds_no_room_leaves_removals_theirs() {
    let Some(disk) = Small::tmpfs(40 << 20) else { return };
    let store = options().open(disk.at("s")).unwrap();
    for n in 0..45 {
        put(&store, n).unwrap();
    }
    disk.fill();
    let mut removed = 0;
    for n in (0..45).step_by(3) {
        let done = store.remove(u32::to_le_bytes(n)).unwrap_or_else(|error| panic!("{n}: {error}"));
        removed += u32::from(done.is_some());
        let report = store.compact();
        assert!(matches!(report, Ok(_) | Err(Error::StorageFull)), "{report:?}");
    }
    assert_eq!((removed, store.len()), (15, 30));
}

/// What is dead as a whole needs no room, whatever else is worth emptying and does: it is dropped,
/// and gives the others theirs.
#[test]
fn without_a_byte_left_what_needs_copies_does_not_keep_what_is_dead() {
    let Some(disk) = Small::tmpfs(40 << 20) else { return };
    let store = options().open(disk.at("s")).unwrap();
    for n in 0..10 {
        put(&store, n).unwrap();
    }
    // Of the first ten, one stays.
    for n in 0..30 {
        put(&store, n % 9).unwrap();
    }
    disk.fill();
    while put(&store, 1).is_ok() {}
    let report = store.compact().unwrap();
    assert!(report.segments_removed >= 3 && report.moved_records > 0, "{report:?}");
    assert_eq!(store.len(), 10);
}

/// A compaction that had to leave the active segment as it is said that all went well, and the
/// bytes that were removed stayed in its file. It says so, and does it once there is room.
#[test]
fn a_compaction_that_cannot_end_the_active_segment_says_so() {
    const SECRET: &[u8] = b"the-secret-that-must-go";
    // In vain where a background thread is faster than the filler, and makes its spares.
    let full = || {
        let disk = Small::tmpfs(40 << 20)?;
        let path = disk.at("s");
        let store = options().open(&path).unwrap();
        for n in 0..45 {
            put(&store, n).unwrap();
        }
        store.put("secret", &[1.0], SECRET).unwrap();
        disk.fill();
        Some((!has_spares(&path), disk, path, store))
    };
    let Some(first) = full() else { return };
    let tried = std::iter::once(first).chain((0..20).filter_map(|_| full()));
    let (_, _disk, path, store) = tried.into_iter().find(|(is_full, ..)| *is_full).unwrap();
    assert!(store.remove("secret").unwrap().is_some());
    let report = store.compact();
    assert!(matches!(report, Err(Error::StorageFull)), "{report:?}");
    // What is dead elsewhere gives the room back in the same run.
    for n in 0..20 {
        assert!(store.remove(u32::to_le_bytes(n)).unwrap().is_some());
    }
    store.compact().unwrap();
    store.close().unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET));
    }
}

/// A store of one segment keeps no room back. With none left on the disk, `compact` ended that
/// segment, and from then on every put and every removal was refused, though it was all but empty.
#[test]
fn a_compaction_without_room_leaves_a_store_of_one_segment_its_own() {
    for left in [0, 500_000] {
        let Some(disk) = Small::tmpfs(40 << 20) else { return };
        let store = options().open(disk.at("s")).unwrap();
        for n in 0..10_u32 {
            store.put(n.to_le_bytes(), &[1.0], "small").unwrap();
        }
        disk.fill();
        let filler = File::options().write(true).open(disk.at("filler")).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - left).unwrap();
        for n in 0..5_u32 {
            assert!(store.remove(n.to_le_bytes()).unwrap().is_some(), "{n}");
            let report = store.compact();
            assert!(matches!(report, Err(Error::StorageFull)), "{report:?}");
            store.put("more", &[1.0], "small").unwrap();
        }
        // Room for its copies is room enough.
        filler.set_len(filler.metadata().unwrap().len() - (1 << 20) - (1 << 16)).unwrap();
        assert_eq!(store.compact().unwrap().moved_records, 6);
        store.put("more", &[1.0], "small").unwrap();
        store.close().unwrap();
    }
}

/// It was taken for full, so what was removed from a store of one segment stayed for good.
#[test]
fn a_store_of_one_segment_is_compacted_where_the_file_system_does_not_say_what_is_free() {
    let Some(disk) = Small::without_limit() else { return };
    let store = options().open(disk.at("s")).unwrap();
    for n in 0..4 {
        put(&store, n).unwrap();
    }
    assert!(store.remove(1_u32.to_le_bytes()).unwrap().is_some());
    let report = store.compact().unwrap();
    assert_eq!((report.segments_removed, report.moved_records), (1, 3));
    put(&store, 1).unwrap();
}

/// Puts and removals were refused while another thread made what is kept back, as if that took the
/// last room there was.
#[test]
fn where_the_file_system_does_not_say_what_is_free_nothing_is_refused() {
    for round in 0..40 {
        let Some(disk) = Small::without_limit() else { return };
        let store = options().open(disk.at("s")).unwrap();
        let write = |thread: u32| {
            for n in (0..10).map(|n| thread * 10 + n) {
                put(&store, n).unwrap_or_else(|error| panic!("{round}, {n}: {error}"));
                let removed = store.remove(n.to_le_bytes());
                assert!(matches!(removed, Ok(Some(_))), "{round}, {n}: {removed:?}");
            }
        };
        std::thread::scope(|scope| {
            let write = &write;
            (0..4).for_each(|thread| drop(scope.spawn(move || write(thread))));
        });
    }
}

/// The segment that a removal had made of the last room took puts after a reopening, and then there
/// was no room for the next removal.
#[test]
fn what_was_made_of_the_last_room_is_for_removals_after_a_reopening_too() {
    let Some(disk) = Small::tmpfs(10 << 20) else { return };
    let path = disk.at("s");
    let mut store = options().open(&path).unwrap();
    // What was made ahead comes back at a close: until that makes no room any more.
    let (mut count, mut before) = (0, u32::MAX);
    while count != before {
        before = count;
        while put(&store, count).is_ok() {
            count += 1;
        }
        store.close().unwrap();
        store = options().open(&path).unwrap();
    }
    for n in 0..count {
        let removed = store.remove(n.to_le_bytes()).or_else(|_full| {
            store.compact()?;
            store.remove(n.to_le_bytes())
        });
        assert!(removed.unwrap().is_some(), "{n}");
        if n == 0 {
            store.close().unwrap();
            store = options().open(&path).unwrap();
            assert!(matches!(put(&store, count), Err(Error::StorageFull)));
        }
    }
    store.compact().unwrap();
    put(&store, 0).unwrap();
}

/// Room that comes back is for the next copies of compaction first, whoever finds it. A removal
/// took it, for a segment that took puts as well; then nothing could be compacted, and nothing be
/// removed, for good.
#[test]
fn a_removal_leaves_compaction_the_room_that_came_back() {
    let Some(disk) = Small::tmpfs(40 << 20) else { return };
    let store = options().open(disk.at("s")).unwrap();
    for n in 0..45 {
        put(&store, n % 40).unwrap();
    }
    disk.fill();
    while put(&store, 41).is_ok() {}
    let filler = File::options().write(true).open(disk.at("filler")).unwrap();
    filler.set_len(filler.metadata().unwrap().len() - (3 << 19)).unwrap();
    let removed = store.remove(0_u32.to_le_bytes());
    assert!(matches!(removed, Ok(Some(_)) | Err(Error::StorageFull)), "{removed:?}");
    assert!(matches!(put(&store, 42), Err(Error::StorageFull)));
    assert!(store.compact().unwrap().segments_removed > 0);
    assert!(store.remove(1_u32.to_le_bytes()).unwrap().is_some());
}

/// A put that fills the active segment and finds no room for another one leaves it the active one.
/// Were it emptied as such, its entry in the table would be given again: to a segment for copies,
/// which then took puts that no flush covers. (mutation: full-active-emptied)
#[test]
fn a_full_segment_that_nothing_could_follow_is_not_emptied_while_it_is_active() {
    for kind in [Compaction::Manual, Compaction::Auto] {
        let Some(disk) = Small::tmpfs(40 << 20) else { return };
        let expiring = options().time_to_live(Duration::from_secs(1)).compaction(kind);
        let expiring = expiring.flush_interval(Some(Duration::from_millis(20)));
        let store = expiring.open(disk.at("s")).unwrap();
        for n in 0..45 {
            put(&store, n).unwrap();
        }
        disk.fill();
        let highest = (45..).map_while(|n| put(&store, n).ok()).last().unwrap();
        let tail = store.stats().tail;
        std::thread::sleep(Duration::from_millis(1100));
        if kind == Compaction::Manual {
            assert!(store.compact().unwrap().segments_removed >= 5);
        }
        let waiting = Instant::now();
        while store.stats().segments > 0 && waiting.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(store.stats().tail >= tail, "{} after {tail}", store.stats().tail);
        store.close().unwrap();
        std::fs::remove_file(disk.at("filler")).unwrap();
        let store = expiring.open(disk.at("s")).unwrap();
        let lsn = put(&store, 1).unwrap();
        assert!(lsn > highest, "{lsn} after {highest}");
        store.wait_durable(lsn).unwrap();
    }
}

/// A store that never replaced its manifest may be on the full disk, too.
#[test]
fn the_file_for_the_next_manifest_is_there_from_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    assert!(path.join("MANIFEST.next").is_file());
    put(&store, 1).unwrap();
    store.backup(dir.path().join("copy")).unwrap();
    assert!(dir.path().join("copy/MANIFEST.next").is_file());
}

/// The file for the next manifest is not read.
#[test]
fn the_file_for_the_next_manifest_means_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    put(&store, 1).unwrap();
    put(&store, 1).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let next = path.join("MANIFEST.next");
    let whole = std::fs::read(&next).unwrap();
    let check = || {
        let store = options().open(&path).unwrap();
        assert_eq!(store.len(), 1);
        put(&store, 1).unwrap();
        store.compact().unwrap();
        store.close().unwrap();
    };
    for bytes in [&whole[..], b"", b"nonsense", &whole[..whole.len() / 2]] {
        std::fs::write(&next, bytes).unwrap();
        check();
    }
    std::fs::remove_file(&next).unwrap();
    check();
    std::fs::remove_file(&next).unwrap();
    std::os::unix::fs::symlink(path.join("elsewhere"), &next).unwrap();
    check();
    assert!(!path.join("elsewhere").exists(), "a link was followed");
}

fn punch(path: &Path, from: u64, len: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, hole, from, len).unwrap();
}

/// Defect M5: `cp --sparse` leaves out what is not taken yet; a store to that on a full disk was a
/// SIGBUS.
#[test]
fn a_store_that_was_restored_without_its_zeros_survives_a_full_disk() {
    for room in [true, false] {
        let Some(disk) = Small::ext4(12 << 20) else { return };
        let path = disk.at("s");
        let store = options().open(&path).unwrap();
        put(&store, 1).unwrap();
        store.close().unwrap();
        let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        let segment = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).min().unwrap();
        punch(&segment, 8192, 800_000);
        let open = || options().open(&path).unwrap();
        if !room {
            disk.fill();
        }
        let store = open();
        if room {
            disk.fill();
        }
        let put: Vec<_> = (2..9).map_while(|n| put(&store, n).ok()).collect();
        assert_eq!(put.len() >= 7, room, "{put:?}");
        assert_eq!(store.len(), 1 + put.len());
        std::fs::remove_file(disk.at("filler")).unwrap();
        assert!(store.put("again", &[1.0], "x").is_ok());
        store.close().unwrap();
        assert_eq!(open().len(), 2 + put.len());
    }
}

/// The process before was killed between the manifest that gives a segment up and the removal of
/// its file, and nothing is kept for the next manifest: the file is the room that there is.
#[test]
fn a_dropped_segment_whose_removal_was_cut_short_is_removed_without_a_byte_left() {
    let Some(small) = Small::tmpfs(16 << 20) else { return };
    let path = small.at("store");
    let store = options().open(&path).unwrap();
    put(&store, 1).unwrap();
    put(&store, 1).unwrap();
    let segment = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "seg")).min();
    let (segment, manifest) = (segment.unwrap(), path.join("MANIFEST"));
    let dead = std::fs::read(&segment).unwrap();
    assert_eq!(store.compact().unwrap().segments_removed, 1);
    let drops_it = std::fs::read(&manifest).unwrap();
    store.close().unwrap();
    std::fs::write(&manifest, drops_it).unwrap();
    std::fs::write(&segment, dead).unwrap();
    std::fs::remove_file(path.join("MANIFEST.next")).unwrap();
    small.fill();
    let store = options().open(&path).unwrap();
    assert!(store.contains(1u32.to_le_bytes()));
    store.close().unwrap();
    assert!(!segment.exists(), "it stays for as long as the disk is full");
}

/// Live records and tombstones of a group did not fit the one segment that there was room for. What
/// had been copied of them was taken back, and took the room that each alone would have found; so
/// nothing could be compacted, the next time neither.
#[test]
fn a_group_whose_tombstones_find_no_room_leaves_the_room_to_its_parts() {
    let Some(disk) = Small::tmpfs((7 << 20) + (1 << 16)) else { return };
    let store = options().open(disk.at("s")).unwrap();
    let id = |n: u32| format!("{n:0900}");
    let mut count = 0;
    while store.stats().segments <= 3 {
        store.put(id(count), &[1.0], "x").unwrap();
        count += 1;
    }
    // Something dead in each: they are copied to segments that are younger than the active one,
    // which the tombstones of what is removed then come to.
    (0..6).for_each(|n| assert!(store.remove(id(n * count / 6)).unwrap().is_some()));
    store.compact().unwrap();
    for n in (0..count).filter(|n| n % 10 < 3 && store.contains(id(*n))) {
        assert!(store.remove(id(n)).unwrap().is_some(), "{n} of {count}");
    }
    let left = store.len();
    // What another thread has not unmapped yet may be the room: then it is there the next time.
    let report = (0..5).find_map(|_| store.compact().ok()).expect("it is full for good");
    assert!(report.moved_records > 0 && report.segments_removed > 3, "{report:?}");
    assert_eq!(store.len(), left);
}

/// The second segment took the room without which nothing could be removed any more.
#[test]
fn what_fills_a_disk_of_four_segments_can_be_removed() {
    for disk_bytes in [7, 8, 9, 10].map(|half| (half << 19) + (1 << 16)) {
        let Some(disk) = Small::tmpfs(disk_bytes) else { return };
        let store = options().open(disk.at("s")).unwrap();
        let puts = (0..60).take_while(|n| put(&store, *n).is_ok()).count() as u32;
        assert!(puts >= 9, "{puts} of {disk_bytes}");
        for n in 0..puts {
            assert!(
                store.remove(n.to_le_bytes()).unwrap().is_some(),
                "{n} of {puts}, {disk_bytes}"
            );
        }
        store.compact().unwrap();
        // What is dropped may be mapped for a moment.
        let puts = || (0..9).all(|n| put(&store, n).is_ok());
        assert!((0..20).any(|_| puts() || pause()), "{disk_bytes}");
        store.close().unwrap();
    }
}

/// The next segment was there already: nothing needed any room, and it was refused for lack of it.
#[test]
fn without_a_byte_left_what_is_wholly_dead_makes_way_for_what_was_made_ahead() {
    let Some(disk) = Small::tmpfs(40 << 20) else { return };
    let store = options().open(disk.at("s")).unwrap();
    for n in 0..4 {
        put(&store, n).unwrap();
    }
    let files = || std::fs::read_dir(disk.at("s")).unwrap().map(|entry| entry.unwrap().path());
    let segments = || files().filter(|path| path.extension().is_some_and(|e| e == "seg")).count();
    let began = Instant::now();
    while segments() < 2 && began.elapsed() < Duration::from_secs(10) {
        pause();
    }
    disk.fill();
    (0..4).for_each(|n| assert!(store.remove(u32::to_le_bytes(n)).unwrap().is_some(), "{n}"));
    assert_eq!(store.compact().unwrap().segments_removed, 1);
    assert_eq!(store.stats().dead_bytes, 0);
    for n in 0..4 {
        put(&store, n).unwrap();
    }
}
