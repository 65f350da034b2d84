//! Holes in segment files. Invariant: no store beside one needs room that a full disk does not
//! have.

use super::{Small, has_spares, options, pause, punch, put};
use rustix::fs::{Advice, FallocateFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
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
        assert!(store.remove(u32::to_le_bytes(n)).unwrap());
    }
    let report = store.compact();
    assert!(matches!(report, Ok(_) | Err(Error::StorageFull)), "{report:?}");
    store.close().unwrap();
    let store = large().open(&path).unwrap();
    assert_eq!(store.len(), 11);
    assert!(store.verify().unwrap().is_clean());
}

/// The same, where a copy of the store was made without its zeros.
#[test]
fn a_sparse_copy_is_not_stored_to_where_that_takes_room() {
    for room in [true, false] {
        let Some(disk) = Small::ext4(120 << 20) else { return };
        let path = disk.at("s");
        with_copies(&path);
        for entry in std::fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|e| e == "seg") {
                // All but the records, 20 of 100,000 bytes, and the directory.
                punch(&file, 16 << 10, SEGMENT - (16 << 10) - 2_200_000);
            }
        }
        read_in_a_row(&path);
        if !room {
            disk.fill();
        }
        let store = large().open(&path).unwrap();
        if room {
            fill(&disk, &path);
        }
        for updated in update_tags(&store) {
            match updated {
                Err(Error::StorageFull) if !room => {}
                updated => assert_eq!((updated.unwrap(), room), (Some(1), true)),
            }
        }
        for n in 0..10 {
            let removed = store.remove(u32::to_le_bytes(n));
            assert!(matches!(removed, Ok(true) | Err(Error::StorageFull)), "{removed:?}");
        }
        let report = store.compact();
        assert!(matches!(report, Ok(_) | Err(Error::StorageFull)), "{report:?}");
        std::fs::remove_file(disk.at("filler")).unwrap();
        for updated in update_tags(&store).split_off(10) {
            assert_eq!(updated.unwrap(), Some(1 + u64::from(room)));
        }
        store.compact().unwrap();
        assert!(store.verify().unwrap().is_clean());
    }
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
    for entry in std::fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "seg") {
            with_blocks_never_written(&file);
        }
    }
    disk.fill();
    let store = large().open(&path).unwrap();
    for updated in update_tags(&store) {
        assert_eq!(updated.unwrap(), Some(1));
    }
}
