//! What `sync`, `close` and drop promise, and what a full disk does. Invariants: what `sync`
//! covered is durable, says the store; a disk without room costs nothing that was acknowledged,
//! never the process (SIGBUS), and neither reading nor opening; writing goes on once there is room.
#![cfg(test)]

mod common;

use common::{Records, SEGMENT, assert_same, mix, open, reopen, state};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use stratalog::{Compaction, Error, Lsn, Options, Store};
use tempfile::TempDir;

const RECORDS: Records = Records { dimension: 64, content_max: 4_000 };

fn create(path: &Path) -> Result<Store, Error> {
    let options = Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT);
    options.compaction(Compaction::Manual).open(path)
}

fn id(n: u32) -> Vec<u8> {
    format!("id {n}").into_bytes()
}

#[test]
fn what_was_put_before_a_sync_is_durable_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path()).unwrap();
    store.sync().unwrap();
    let mut last = Lsn::default();
    for round in 0..40 {
        for n in 0..50 {
            last = RECORDS.put(&store, &id(n + 50 * (round % 3)), round);
        }
        assert!(store.durable_lsn() <= last);
        store.sync().unwrap();
        assert!(store.durable_lsn() >= last && store.stats().durable >= last, "round {round}");
    }
    assert!(store.stats().segments > 2);
    assert!(store.remove(id(0)).unwrap().is_some());
    store.sync().unwrap();
    assert!(store.durable_lsn() > last, "a removal is durable too");
    store.sync().unwrap();
    let store = reopen(store);
    assert!(store.durable_lsn() > last, "it stays durable");
}

#[test]
fn a_close_and_a_drop_make_everything_durable() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let store = create(dir.path()).unwrap();
        let last = (0..400).map(|n| RECORDS.put(&store, &id(n), round)).max().unwrap();
        if round % 2 == 0 {
            store.close().unwrap();
        } else {
            drop(store);
        }
        let store = open(dir.path());
        assert!(store.durable_lsn() >= last, "round {round}");
        assert_eq!(store.recovery().torn, 0);
        // All of it was trusted: nothing but directories was read.
        assert!(store.recovery().scanned_bytes < 200_000, "{:?}", store.recovery());
    }
    reopen(open(dir.path()));
}

#[test]
fn syncs_beside_writers_and_beside_each_other_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u32)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..700 {
                        let lsn = RECORDS.put(store, &id(n % 100 + 1_000 * thread), n);
                        if n % 50 == 0 {
                            store.sync().unwrap();
                            assert!(store.durable_lsn() >= lsn);
                        }
                        assert!(
                            n % 9 > 0
                                || store.remove(id(n % 100 + 1_000 * thread)).unwrap().is_some()
                        );
                    }
                })
            })
            .collect();
        let syncers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut before = Lsn::default();
                    while !stop.load(Ordering::Relaxed) {
                        let given = store.stats().tail;
                        store.sync().unwrap();
                        let durable = store.durable_lsn();
                        assert!(durable >= before, "the durable end went back");
                        assert!(durable < store.stats().tail || given == Lsn::default());
                        before = durable;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for syncer in syncers {
            syncer.join().unwrap();
        }
    });
    assert!(store.verify().unwrap().is_clean());
    reopen(store);
}

/// A file system of a given size, gone when dropped. `None` where the test may not mount one.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if !mount(dir.path(), &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]) {
            println!("skipped: a small file system cannot be mounted here (it takes root)");
            return None;
        }
        Some(Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn enlarge(&self, bytes: u64) {
        assert!(mount(self.path(), &["-o", &format!("remount,size={bytes}")]));
    }

    /// Takes what room is left.
    fn fill(&self) {
        let mut bytes = 1 << 20;
        for n in 0.. {
            let written = std::fs::write(self.path().join(format!("filler {n}")), vec![1; bytes]);
            if written.is_err() {
                bytes /= 2;
            }
            if bytes < 4096 {
                return;
            }
        }
    }
}

fn mount(at: &Path, how: &[&str]) -> bool {
    let output = Command::new("mount").args(how).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: another test may be starting a process just now, which has all files open.
        let gone = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Puts until there is no more room, from several threads, each of which has ids of its own; how
/// many of each were acknowledged.
fn fill(store: &Store, threads: Range<u32>) -> Vec<u32> {
    let writer = |thread: u32| {
        for n in 0.. {
            let id = id(thread * 1_000_000 + n);
            match store.put(&id, &RECORDS.embedding(&id, n), RECORDS.content(&id, n)) {
                Ok(_) => {}
                Err(Error::StorageFull) => return n,
                Err(error) => panic!("{error:?}"),
            }
        }
        unreachable!("every disk ends");
    };
    std::thread::scope(|scope| {
        let writer = &writer;
        let threads: Vec<_> = threads.map(|t| scope.spawn(move || writer(t))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// What was acknowledged is there, whole, and nothing else.
#[track_caller]
fn assert_acknowledged(store: &Store, acknowledged: &[u32]) {
    let found = state(store);
    for (thread, &count) in acknowledged.iter().enumerate() {
        for n in 0..count {
            let record = &found[&id(thread as u32 * 1_000_000 + n)];
            let version = RECORDS.version_of(&record.id, &record.embedding, &record.content);
            assert_eq!(version, n);
        }
    }
    assert_eq!(found.len() as u32, acknowledged.iter().sum::<u32>());
}

#[test]
fn a_full_disk_costs_nothing_acknowledged_and_more_room_lets_the_same_handle_go_on() {
    let Some(disk) = SmallDisk::new(16 << 20) else { return };
    let path = disk.path().join("store");
    let store = create(&path).unwrap();
    let mut acknowledged = fill(&store, 0..4);
    assert!(acknowledged.iter().sum::<u32>() > 4_000, "{acknowledged:?}");
    // Of two that roll at once, one gives its segment back: then there is room once more.
    disk.fill();
    acknowledged.extend(fill(&store, 4..5));
    assert_acknowledged(&store, &acknowledged);
    // A segment that the background thread was preallocating just then may still arrive, once.
    let mut refusals = 0;
    for n in 0.. {
        let id = id(7_000_000 + n);
        match store.put(&id, &RECORDS.embedding(&id, n), vec![0; 400_000]) {
            Err(Error::StorageFull) if refusals == 5 => break,
            Err(Error::StorageFull) => refusals += 1,
            put => refusals = put.map_or_else(|error| panic!("{error}"), |_| 0),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let before = state(&store);

    // Neither a put nor a removal changes anything now; reading and syncing go on.
    for n in 0..20 {
        let id = id(9_000_000 + n);
        let put = store.put(&id, &RECORDS.embedding(&id, n), vec![0; 400_000]);
        assert!(matches!(put, Err(Error::StorageFull)), "{put:?}");
    }
    assert_same(&state(&store), &before);
    store.sync().unwrap();
    assert!(store.verify().unwrap().is_clean());

    disk.enlarge(64 << 20);
    for n in 0..2_000 {
        RECORDS.put(&store, &id(8_000_000 + n), n);
    }
    assert!(store.remove(id(8_000_000)).unwrap().is_some());
    assert_eq!(reopen(store).len(), before.len() + 1_999);
}

#[test]
fn a_store_on_a_full_disk_opens_and_reads_and_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::new(12 << 20) else { return };
    let path = disk.path().join("store");
    let store = create(&path).unwrap();
    let acknowledged = fill(&store, 0..1);
    disk.fill();
    store.close().unwrap();
    disk.fill();
    for _ in 0..2 {
        let store = open(&path);
        assert_acknowledged(&store, &acknowledged);
        let reader = Options::new().read_only(true).open(&path).unwrap();
        assert_same(&state(&reader), &state(&store));
    }
    let store = open(&path);
    disk.enlarge(40 << 20);
    for n in 0..1_000 {
        RECORDS.put(&store, &id(8_000_000 + n), n);
    }
    reopen(store);
}

/// The sizes are such that the last segment takes the last page: there is none for the manifest
/// that should name it.
#[test]
fn a_disk_that_is_full_to_the_page_lets_a_store_open() {
    let mut refused = Vec::new();
    for pages in 0..6 {
        let Some(disk) = SmallDisk::new((6 << 20) + pages * 4096) else { return };
        let path = disk.path().join("store");
        let Ok(store) = create(&path) else { continue };
        let acknowledged = fill(&store, 0..1);
        assert_acknowledged(&store, &acknowledged);
        drop(store);
        match Options::new().open(&path) {
            Ok(store) => {
                assert_acknowledged(&store, &acknowledged);
                reopen(store);
            }
            Err(error) => refused.push((pages, error.to_string())),
        }
        disk.enlarge(16 << 20);
        let store = open(&path);
        assert_acknowledged(&store, &acknowledged);
        RECORDS.put(&store, b"more", 1);
        reopen(store);
    }
    assert!(refused.is_empty(), "(pages above six segments, error): {refused:#?}");
}

#[test]
fn a_store_that_finds_no_room_to_be_created_leaves_a_place_where_it_can_be_later() {
    let Some(disk) = SmallDisk::new(1 << 20) else { return };
    disk.fill();
    let path = disk.path().join("store");
    for _ in 0..2 {
        let result = create(&path).and_then(|store| {
            let id = id(1);
            store.put(&id, &RECORDS.embedding(&id, 1), "")
        });
        assert!(matches!(result, Err(Error::StorageFull)), "{result:?}");
    }
    disk.enlarge(8 << 20);
    let store = create(&path).unwrap();
    RECORDS.put(&store, b"now", 1);
    assert_eq!(reopen(store).len(), 1);
}

/// Removals want room too; what is removed on a disk that fills up is either gone for good or was
/// never removed.
#[test]
fn removals_on_a_disk_that_fills_up_hold_or_have_not_happened() {
    let Some(disk) = SmallDisk::new(4 << 20) else { return };
    let store = create(&disk.path().join("store")).unwrap();
    let acknowledged = fill(&store, 0..1)[0];
    let mut removed = 0;
    for n in 0..acknowledged {
        let id = id(n);
        match store.remove(&id) {
            Ok(was_there) => {
                assert!(was_there.is_some() && !store.contains(&id));
                removed += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::StorageFull), "{error:?}");
                assert!(store.contains(&id));
            }
        }
        if mix(u64::from(n)).is_multiple_of(4) {
            let put = store.put(&id, &RECORDS.embedding(&id, 0), "short");
            assert!(matches!(put, Ok(_) | Err(Error::StorageFull)), "{put:?}");
            removed -= u32::from(put.is_ok() && store.len() as u32 > acknowledged - removed);
        }
    }
    assert_eq!(store.len() as u32, acknowledged - removed);
    reopen(store);
}

/// The room for a segment is kept back, so that what filled the disk can be removed from it.
#[test]
fn a_full_disk_can_be_drained_and_filled_again() {
    let Some(disk) = SmallDisk::new(48 << 20) else { return };
    let path = disk.path().join("store");
    let store = create(&path).unwrap();
    let mut before = 0;
    for round in 0..3 {
        let acknowledged = fill(&store, 0..4);
        let count: u32 = acknowledged.iter().sum();
        assert!(count > before * 9 / 10, "round {round}: {acknowledged:?} after {before}");
        before = before.max(count);
        assert_acknowledged(&store, &acknowledged);
        for (thread, &count) in acknowledged.iter().enumerate() {
            for n in 0..count {
                let id = id(thread as u32 * 1_000_000 + n);
                let removed = store.remove(&id).or_else(|error| {
                    // The room kept back is used up: now there is something to be had back.
                    assert!(matches!(error, Error::StorageFull), "{error}");
                    store.compact()?;
                    store.remove(&id)
                });
                assert!(removed.unwrap().is_some(), "round {round}");
            }
        }
        assert!(store.is_empty());
        store.compact().unwrap();
        assert!(store.stats().disk_bytes < 6 << 20, "round {round}: {:?}", store.stats());
    }
    RECORDS.put(&store, b"last", 1);
    assert_eq!(reopen(store).len(), 1);
}

/// Compaction on a disk that is full takes the room that is kept back, and gives back more.
#[test]
fn a_full_disk_can_be_compacted() {
    let Some(disk) = SmallDisk::new(24 << 20) else { return };
    let store = create(&disk.path().join("store")).unwrap();
    let mut written = 0;
    // Of four versions one is live.
    while let Ok(_lsn) = {
        let id = id(written / 4);
        store.put(&id, &RECORDS.embedding(&id, written % 4), RECORDS.content(&id, written % 4))
    } {
        written += 1;
    }
    let before = state(&store);
    let used = store.stats().disk_bytes;
    let report = store.compact().unwrap();
    assert!(report.reclaimed_bytes > 12 << 20, "{report:?}");
    assert!(store.stats().disk_bytes < used / 2, "{:?}", store.stats());
    assert_same(&state(&store), &before);
    RECORDS.put(&store, b"more", 1);
    assert_eq!(reopen(store).len(), before.len() + 1);
}
