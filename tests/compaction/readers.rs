//! Read-only handles, opened while the writer overwrites and compacts: the files that the manifest
//! named may be gone before they are opened.

use super::{options, put, version};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use stratalog::Options;

#[test]
fn a_read_only_handle_opened_beside_compaction_misses_nothing() {
    const IDS: u32 = 400;
    let openings = if cfg!(debug_assertions) { 20 } else { 400 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let written: Vec<AtomicU32> = (0..IDS).map(|_| AtomicU32::new(0)).collect();
    (0..IDS).for_each(|id| put(&store, id, 0));
    let stop = AtomicBool::new(false);
    let removed = std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1.. {
                // It must not leave compaction behind: opening would take longer and longer.
                while store.stats().segments > 32 && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                for id in 0..IDS {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    put(&store, id, version);
                    written[id as usize].store(version, Ordering::Release);
                    // An id that is removed as often as it is put.
                    put(&store, IDS + id, version);
                    store.remove((IDS + id).to_le_bytes()).unwrap();
                }
            }
        });
        let compactor = scope.spawn(|| {
            let mut removed = 0;
            while !stop.load(Ordering::Relaxed) {
                removed += store.compact().unwrap().segments_removed;
            }
            removed
        });
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for n in 0..openings {
                        let load = |id: &AtomicU32| id.load(Ordering::Acquire);
                        let before: Vec<_> = written.iter().map(load).collect();
                        let reader = Options::new().read_only(true).open(&path).unwrap();
                        let report = reader.recovery();
                        let found = (report.missing_segments, report.corrupt, report.foreign_files);
                        assert_eq!(found, (0, 0, 0), "opening {n}: {report:?}");
                        for id in 0..IDS {
                            let seen = version(&reader, id).expect("an id is gone");
                            let at_least = before[id as usize];
                            assert!(seen >= at_least, "id {id}: {seen} after {at_least}");
                        }
                        let verified = reader.verify().unwrap();
                        assert!(verified.is_clean(), "opening {n}: {:?}", verified.damaged);
                    }
                })
            })
            .collect();
        let done: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(done.iter().all(Result::is_ok), "a reader has failed, see above");
        compactor.join().unwrap()
    });
    assert!(removed > 10, "compaction was not at work: {removed}");
}
