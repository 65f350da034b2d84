//! A compaction in the background that never comes to an end, because writers never pause.

use super::{DIM, options};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use stratalog::{Compaction, Store};

const IDS: u64 = 2_000;
const CONTENT: usize = 4_000;
const WRITERS: u64 = 2;
const PUTS: u64 = 40_000;
/// Descriptors of segments, and mappings of removed ones, at most: far more than a run needs that
/// closes what it has filled, and far fewer than one that does not comes to.
const MOST: usize = 50;

fn put(store: &Store, n: u64) {
    store.put((n % IDS).to_le_bytes(), &[1.0; DIM], [7; CONTENT]).unwrap();
}

/// Descriptors of this store's segments, and its segments that are mapped under no name.
fn held(path: &Path) -> (usize, usize) {
    let is_segment = |name: &str| {
        name.contains(path.to_str().expect("a name of characters")) && name.contains(".seg")
    };
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let links = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let descriptors = links.filter(|link| link.to_str().is_some_and(is_segment)).count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let unlinked = |line: &&str| is_segment(line) && line.ends_with("(deleted)");
    (descriptors, maps.lines().filter(unlinked).count())
}

/// Its outputs stayed open until its end, however many it had filled. (mutation:
/// outputs-closed-at-the-end)
#[test]
fn a_compaction_that_never_ends_holds_a_few_segments_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options()
        .compaction(Compaction::Auto)
        .flush_interval(Some(std::time::Duration::from_millis(20)))
        .open(&path)
        .unwrap();
    (0..IDS).for_each(|n| put(&store, n));
    let done = AtomicU64::new(0);
    let mut most = (0, 0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                for n in 0..PUTS {
                    put(store, super::mix(n * WRITERS + writer));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while done.load(Ordering::Relaxed) < WRITERS * PUTS {
            let (descriptors, unlinked) = held(&path);
            most = (most.0.max(descriptors), most.1.max(unlinked));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    let removed = store.stats().compaction_segments_removed;
    println!("at most {most:?} (descriptors, unlinked), {removed} segments removed");
    assert!(removed > MOST as u64, "too little was compacted: {removed} segments");
    // Under a sanitizer a mapping that was given up stays.
    let unlinked = if cfg!(stratalog_poison) { 0 } else { most.1 };
    assert!(most.0 <= MOST && unlinked <= MOST, "(descriptors, unlinked mappings): {most:?}");
}
