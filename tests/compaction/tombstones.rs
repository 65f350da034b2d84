//! Tombstones that were needed once, in a store that only the background compacts.

use super::{Batch, Compaction, DIM, options};
use std::time::Duration;
use stratalog::Store;

const EMBEDDING: [f32; DIM] = [1.0; DIM];
const COHORTS: u32 = 5;
const IDS: u32 = 30_000;
/// Writes of a batch.
const AT_ONCE: u32 = 500;

fn write_all(store: &Store, mut add: impl FnMut(&mut Batch, u32)) {
    for first in (0..IDS).step_by(AT_ONCE as usize) {
        let mut batch = Batch::new();
        (first..first + AT_ONCE).for_each(|n| add(&mut batch, n));
        store.write(batch).unwrap();
    }
}

fn needed(store: &Store) -> u64 {
    store.segments().iter().map(|segment| segment.needed_bytes).sum()
}

/// What was needed while an older version stood elsewhere was kept for good by the background:
/// each removed id cost a tombstone for ever.
#[test]
fn the_background_does_not_keep_tombstones_whose_older_versions_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = options()
        .compaction(Compaction::Auto)
        .flush_interval(Some(Duration::from_millis(20)))
        .open(dir.path().join("s"))
        .unwrap();
    for cohort in 0..COHORTS {
        // So little of each segment is removed that it stays.
        write_all(&store, |batch, n| {
            batch.put(format!("removed-{cohort}-{n}"), &EMBEDDING, "");
            batch.put(format!("stays-{cohort}-{n}"), &EMBEDDING, [7; 500]);
        });
        let removed = || store.stats().compaction_segments_removed;
        let before = removed();
        write_all(&store, |batch, n| {
            batch.remove(format!("removed-{cohort}-{n}"));
        });
        super::beside::wait_until("tombstones are moved", || removed() > before);
        // Now all of each segment is dead, and it goes.
        write_all(&store, |batch, n| {
            batch.put(format!("stays-{cohort}-{n}"), &EMBEDDING, "");
        });
    }
    // Of one cohort, half as much again, a segment, and what comes meanwhile.
    let most = u64::from(IDS) * 64 * 3 / 2 + 2 * super::SEGMENT;
    println!("{} of {most}", needed(&store));
    super::beside::wait_until("few are needed", || needed(&store) < most);
    assert_eq!(store.len() as u32, COHORTS * IDS);
}
