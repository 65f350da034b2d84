//! Holes in segment files. Invariant: no store beside one needs room that a full disk lacks.

use super::{Small, has_spares, options, pause, punch, put, run, text};
use rustix::fs::{Advice, FallocateFlags};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stratalog::internals::format::header::{BOOT_AT, FLUSH_AT, FlushNote, Identity, encode_flush};
use stratalog::{Error, Options, Store};

const SEGMENT: u64 = 16 << 20;

fn large() -> Options {
    options().segment_size(SEGMENT)
}

/// As `tar` would: the page cache then holds the files in folios as large as the kernel makes them.
fn read_in_a_row(path: &Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let file = entry.unwrap().path();
        let handle = File::open(&file).unwrap();
        handle.sync_all().unwrap();
        rustix::fs::fadvise(&handle, 0, None, Advice::DontNeed).unwrap();
        std::fs::read(&file).unwrap();
    }
}

fn segments(path: &Path) -> impl Iterator<Item = PathBuf> {
    let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|e| e == "seg"))
}

/// A copy of the store at `path` without its zeros.
fn sparse_copy(disk: &Small, path: &Path) -> PathBuf {
    let sparse = disk.at("sparse");
    // Of an open store: a file may have got its name since it was listed.
    while !run("cp", &["-r", "--sparse=always", text(path), text(&sparse)]) {
        std::fs::remove_dir_all(&sparse).unwrap();
    }
    sparse
}

/// A sparse copy of a store with 25 records, as a kill leaves it. The store is gone.
fn killed_sparse_copy(disk: &Small) -> PathBuf {
    let path = disk.at("s");
    let store = options().open(&path).unwrap();
    for n in 0..25 {
        put(&store, n).unwrap();
    }
    let sparse = sparse_copy(disk, &path);
    drop(store);
    std::fs::remove_dir_all(&path).unwrap();
    sparse
}

/// On a full disk the store opens, or says that there is no room. Its records once there is.
fn records_after_a_full_disk(disk: &Small, sparse: &Path) -> usize {
    disk.fill();
    let opened = options().open(sparse);
    assert!(matches!(opened, Ok(_) | Err(Error::StorageFull)), "{opened:?}");
    drop(opened);
    std::fs::remove_file(disk.at("filler")).unwrap();
    options().open(sparse).unwrap().len()
}

/// Fills the disk, but for what the store keeps back.
fn fill(disk: &Small, path: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    while !has_spares(path) && Instant::now() < end && !pause() {}
    disk.fill();
}

fn update_tags(store: &Store) -> Vec<Result<Option<u64>, Error>> {
    (0..20).map(|n| store.update_tag(u32::to_le_bytes(n), |tag| tag + 1)).collect()
}

/// A store that two compactions leave with a hole in a segment for copies, beside live records.
fn with_copies(path: &Path) {
    let store = large().open(path).unwrap();
    for n in (0..20).chain(0..20) {
        put(&store, n).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
}

/// A store to a large folio that lies partly in a hole has the file system allocate all of it: on
/// a full disk `update_tag`, and what compaction stores to its sources, were a SIGBUS.
#[test]
fn tags_and_compaction_need_no_room_after_all_files_were_read() {
    let Some(disk) = Small::ext4(120 << 20) else { return };
    let path = disk.at("s");
    with_copies(&path);
    read_in_a_row(&path);
    disk.fill();
    let store = large().open(&path).unwrap();
    for updated in update_tags(&store) {
        assert_eq!(updated.unwrap(), Some(1));
    }
    std::fs::remove_file(disk.at("filler")).unwrap();
    store.put("small", &[1.0], "x").unwrap();
    fill(&disk, &path);
    for n in 0..10 {
        assert!(store.remove(u32::to_le_bytes(n)).unwrap().is_some());
    }
    let report = store.compact();
    assert!(matches!(report, Ok(_) | Err(Error::StorageFull)), "{report:?}");
    store.close().unwrap();
    let store = large().open(&path).unwrap();
    assert_eq!(store.len(), 11);
    assert!(store.verify().unwrap().is_clean());
}

/// The same, where a copy of the store was made without its zeros: what a tag takes is allocated
/// when the first is stored, and refused where there is no room.
#[test]
fn a_sparse_copy_is_not_stored_to_where_that_takes_room() {
    for room in [true, false] {
        let Some(disk) = Small::ext4(120 << 20) else { return };
        let path = disk.at("s");
        with_copies(&path);
        for file in segments(&path) {
            // All but the records, 20 of 100,000 bytes, and the directory.
            punch(&file, 16 << 10, SEGMENT - (16 << 10) - 2_200_000);
        }
        read_in_a_row(&path);
        if !room {
            disk.fill();
        }
        let store = large().open(&path).unwrap();
        if room {
            assert!(update_tags(&store).iter().all(Result::is_ok));
            disk.fill();
            assert!(update_tags(&store).iter().all(Result::is_ok));
        } else {
            let full = |updated: &Result<_, _>| matches!(updated, Err(Error::StorageFull));
            assert!(update_tags(&store).iter().all(full));
        }
        let report = store.compact();
        assert!(matches!(report, Ok(_) | Err(Error::StorageFull)), "{report:?}");
        std::fs::remove_file(disk.at("filler")).unwrap();
        assert!(update_tags(&store).iter().all(Result::is_ok));
        store.compact().unwrap();
        assert!(store.verify().unwrap().is_clean());
    }
}

/// The blocks around the holes of all segments once took, at an opening, the room that removals
/// need: nothing could be written, and nothing removed to make room.
#[test]
fn a_sparse_copy_of_a_nearly_full_store_can_be_emptied() {
    const IDS: u32 = 500;
    let Some(disk) = Small::ext4(24 << 20) else { return };
    let path = disk.at("s");
    let store = options().open(&path).unwrap();
    for id in 0..IDS {
        let mut content = vec![0; 10_000];
        content[9_999] = 1;
        store.put(id.to_le_bytes(), &[1.0], content).unwrap();
    }
    store.close().unwrap();
    let sparse = sparse_copy(&disk, &path);
    std::fs::remove_dir_all(&path).unwrap();
    let file = File::create(disk.at("filler")).unwrap();
    let about = rustix::fs::fstatvfs(&file).unwrap();
    let taken = (about.f_bavail * about.f_frsize).saturating_sub(5 << 19);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, taken).unwrap();
    let store = options().open(&sparse).unwrap();
    for id in 0..IDS {
        assert!(store.remove(id.to_le_bytes()).unwrap().is_some(), "{id}: {:?}", store.stats());
    }
    store.compact().unwrap();
    assert!(store.put("again", &[1.0], "x").is_ok());
    store.close().unwrap();
    assert_eq!(options().open(&sparse).unwrap().len(), 1);
}

/// Without a byte left an opening of such a copy was a SIGBUS, at the header of a segment.
#[test]
fn a_sparse_copy_on_a_full_disk_opens_or_says_that_it_cannot() {
    let Some(disk) = Small::ext4(24 << 20) else { return };
    let path = disk.at("s");
    let store = options().open(&path).unwrap();
    for n in 0..30 {
        put(&store, n).unwrap();
    }
    store.close().unwrap();
    let sparse = sparse_copy(&disk, &path);
    for file in segments(&sparse) {
        // Of another boot: so an opening stores to each.
        let handle = File::options().write(true).open(&file).unwrap();
        handle.write_all_at(&[7; 16], BOOT_AT as u64).unwrap();
        punch(&file, 64 << 10, 32 << 10);
    }
    read_in_a_row(&sparse);
    assert_eq!(records_after_a_full_disk(&disk, &sparse), 30);
}

/// The same file with all its blocks but for the hole between multiples of 2 MiB, and only those
/// written that hold something: as the store's own are where the kernel has no large page free.
fn with_blocks_never_written(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let file = File::create(path).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SEGMENT).unwrap();
    for (n, page) in bytes.chunks(4096).enumerate().filter(|(_, p)| p.iter().any(|&b| b != 0)) {
        file.write_all_at(page, n as u64 * 4096).unwrap();
    }
    punch(path, 2 << 20, 8 << 20);
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

/// XFS told them as parts of the hole, and had no room to allocate them again: tags and compaction
/// were refused for want of blocks that the file has.
#[test]
fn blocks_that_were_never_written_are_there_on_a_full_disk() {
    let Some(disk) = Small::xfs() else { return };
    let path = disk.at("s");
    with_copies(&path);
    segments(&path).for_each(|file| with_blocks_never_written(&file));
    disk.fill();
    let store = large().open(&path).unwrap();
    for updated in update_tags(&store) {
        assert_eq!(updated.unwrap(), Some(1));
    }
}

/// What a killed process has not flushed is stored to by the first flush after it: the headers of
/// its segments. In a sparse copy, once the disk had filled up, that was a SIGBUS.
/// (mutation: flush-stores-to-holes)
#[test]
fn a_flush_of_what_a_killed_process_has_left_needs_no_room() {
    let Some(disk) = Small::ext4(24 << 20) else { return };
    let sparse = killed_sparse_copy(&disk);
    read_in_a_row(&sparse);
    let store = options().open(&sparse).unwrap();
    assert_eq!(store.len(), 25);
    disk.fill();
    store.sync().unwrap();
    store.close().unwrap();
}

/// The note that a flush had begun when the process was killed is replaced before an opening has
/// asked for room: a SIGBUS. (mutation: begun-stores-to-holes)
#[test]
fn a_sparse_copy_of_what_was_killed_inside_a_flush_opens_or_says_that_it_cannot() {
    let Some(disk) = Small::ext4(24 << 20) else { return };
    let sparse = killed_sparse_copy(&disk);
    for file in segments(&sparse) {
        let bytes = std::fs::read(&file).unwrap();
        let salt = Identity::decode(bytes.first_chunk().unwrap()).unwrap().salt;
        let half = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let boot = [half(BOOT_AT), half(BOOT_AT + 8)];
        let note = encode_flush(FlushNote::Begun, boot, salt).to_le_bytes();
        let file = File::options().write(true).open(&file).unwrap();
        file.write_all_at(&note, FLUSH_AT as u64).unwrap();
    }
    read_in_a_row(&sparse);
    assert_eq!(records_after_a_full_disk(&disk, &sparse), 25);
}

/// A sparse copy had no blocks for the next manifest: on a full disk none could be written.
#[test]
fn an_opening_gives_the_file_for_the_next_manifest_its_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let open = || options().open(&path).unwrap();
    open().close().unwrap();
    open().close().unwrap();
    let next = path.join("MANIFEST.next");
    let len = std::fs::metadata(&next).unwrap().len();
    punch(&next, 0, len);
    assert_eq!(allocated(&next), 0);
    let before = std::fs::read(path.join("MANIFEST")).unwrap();
    open().close().unwrap();
    assert_eq!(std::fs::read(path.join("MANIFEST")).unwrap(), before, "it was replaced");
    assert!(allocated(&next) >= len);
}

fn allocated(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().blocks() * 512
}

/// What a sparse copy's segments got after they had been counted was left out of `disk_bytes`.
#[test]
fn blocks_that_the_first_tag_takes_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    with_copies(&path);
    for file in segments(&path) {
        punch(&file, 16 << 10, SEGMENT - (16 << 10) - 2_200_000);
    }
    let store = large().open(&path).unwrap();
    let files = || std::fs::read_dir(&path).unwrap().map(|entry| allocated(&entry.unwrap().path()));
    // A background thread makes a segment, and what is kept for a full disk.
    let agrees = || {
        let end = Instant::now() + Duration::from_secs(5);
        while store.stats().disk_bytes != files().sum::<u64>() && Instant::now() < end {
            pause();
        }
        store.stats().disk_bytes == files().sum::<u64>()
    };
    assert!(agrees());
    store.sync().unwrap();
    // By then the background has counted the segment.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(update_tags(&store).iter().all(Result::is_ok));
    assert!(agrees(), "{:?}", store.stats());
}
