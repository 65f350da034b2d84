//! User tags: no update lost, wherever the record is.

use super::{content, options, put, segment_files, version};
use rustix::fs::FallocateFlags;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stratalog::{Error, Store};

fn tag(store: &Store, id: u32) -> u64 {
    store.pin().get(id.to_le_bytes()).unwrap().unwrap().tag()
}

#[test]
fn a_tag_belongs_to_a_version_and_survives_moves_closing_and_copies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    put(&store, 1, 1);
    put(&store, 2, 1);
    assert_eq!(store.update_tag(1u32.to_le_bytes(), |t| t + 41).unwrap(), Some(41));
    assert_eq!(
        store.update_tag(2u32.to_le_bytes(), |_| u64::MAX >> 1).unwrap(),
        Some(u64::MAX >> 1)
    );
    assert_eq!(store.update_tag("nobody", |t| t).unwrap(), None);
    assert!(matches!(store.update_tag("", |t| t), Err(Error::InvalidId { len: 0 })));
    let refused = store.update_tag(1u32.to_le_bytes(), |t| t | 1 << 63);
    assert!(matches!(refused, Err(Error::InvalidTag(t)) if t == 41 | 1 << 63));
    put(&store, 3, 1);
    put(&store, 3, 2);
    let pinned = store.pin();
    let before = pinned.get(1u32.to_le_bytes()).unwrap().unwrap();
    let shared = store.get_shared(1u32.to_le_bytes()).unwrap().unwrap();
    assert_eq!(store.compact().unwrap().segments_removed, 1);
    assert_eq!(store.update_tag(1u32.to_le_bytes(), |t| t + 1).unwrap(), Some(42));
    assert_eq!((before.tag(), shared.tag()), (42, 42), "seen from before the move");
    drop(pinned);
    for _ in 0..3 {
        put(&store, 3, 3);
        store.compact().unwrap();
    }
    assert_eq!((tag(&store, 1), tag(&store, 2), tag(&store, 3)), (42, u64::MAX >> 1, 0));
    assert_eq!(shared.content(), content(1, 1));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!((tag(&store, 1), tag(&store, 2)), (42, u64::MAX >> 1));
    put(&store, 1, 2);
    assert_eq!(tag(&store, 1), 0, "a new version begins with 0");
}

#[test]
fn a_panic_in_the_closure_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    put(&store, 1, 1);
    let update = || store.update_tag(1u32.to_le_bytes(), |_| panic!("in the closure"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(update)).is_err());
    assert_eq!((tag(&store, 1), version(&store, 1)), (0, Some(1)));
    assert_eq!(store.update_tag(1u32.to_le_bytes(), |t| t + 1).unwrap(), Some(1));
}

#[test]
fn no_update_is_lost_beside_compaction_and_overwrites() {
    const TAGGED: u32 = 64;
    // Beside each other in the segments, and overwritten one after the other: so a segment that
    // holds tagged records always comes to hold dead ones, too, and they move again and again.
    const OTHERS: u32 = 4_096;
    let updates: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_250_000 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    for id in 0..OTHERS {
        put(&store, 1_000 + id, 0);
        if id < TAGGED {
            put(&store, id, 0);
        }
    }
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    let made: u64 = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let report = store.compact().unwrap();
                moved.fetch_add(report.moved_records, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut version = 1;
            while !stop.load(Ordering::Relaxed) {
                put(&store, 1_000 + version % OTHERS, version);
                version += 1;
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        let updaters: Vec<_> = (0..8u64)
            .map(|t| {
                let (store, moved) = (&store, &moved);
                scope.spawn(move || {
                    let mut n = 0;
                    // On a busy machine it takes a while until compaction is at work.
                    while n < updates || moved.load(Ordering::Relaxed) < 4 * u64::from(TAGGED) {
                        let id = ((n * 7 + t) % u64::from(TAGGED)) as u32;
                        store.update_tag(id.to_le_bytes(), |tag| tag + 1).unwrap().unwrap();
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        let made = updaters.into_iter().map(|updater| updater.join().unwrap()).sum();
        stop.store(true, Ordering::Relaxed);
        made
    });
    println!("{made} updates, {} records moved meanwhile", moved.into_inner());
    let sum = |store: &Store| (0..TAGGED).map(|id| tag(store, id)).sum::<u64>();
    assert!(made >= 8 * updates);
    assert_eq!(sum(&store), made);
    store.close().unwrap();
    assert_eq!(sum(&options().open(&path).unwrap()), made);
}

/// A tag that meets a hole has its file filled first. That of a record that was removed meanwhile,
/// or whose file somebody has removed, is gone, and a group with such a segment was not emptied.
#[test]
fn tags_and_moves_need_no_name_of_a_segment_with_a_hole() {
    const SEGMENT: u64 = 16 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = options().segment_size(SEGMENT);
    let store = options.open(&path).unwrap();
    for id in (0..8).chain(0..8) {
        put(&store, id, 1);
    }
    store.compact().unwrap();
    store.close().unwrap();
    for file in segment_files(&path) {
        // As a sparse copy: the hole begins at no multiple of 2 MiB.
        let file = std::fs::File::options().write(true).open(file).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, 1 << 20, 1 << 20).unwrap();
    }
    let store = options.open(&path).unwrap();
    put(&store, 9, 1);
    let has_hole = |file: &std::fs::Metadata| file.blocks() * 512 < file.len();
    let mut files = segment_files(&path);
    files.retain(|file| has_hole(&file.metadata().unwrap()));
    assert_eq!(files.len(), 1);
    std::fs::remove_file(&files[0]).unwrap();
    assert_eq!(store.update_tag(1u32.to_le_bytes(), |tag| tag + 41).unwrap(), Some(41));
    store.remove(2u32.to_le_bytes()).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let store = options.open(&path).unwrap();
    assert_eq!((store.len(), store.recovery().missing_segments), (8, 0));
    assert_eq!((tag(&store, 1), version(&store, 9)), (41, Some(1)));
}
