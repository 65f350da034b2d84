//! What the store says about its segments, and how far a compaction is.

use super::{options, put, version};
use std::path::Path;
use std::time::Duration;
use stratalog::{CompactionReport, Options, SegmentRole, SegmentState};

#[test]
fn segments_add_up_to_the_stats_and_say_what_becomes_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    assert_eq!(store.segments(), []);
    (0..3_000).for_each(|id| put(&store, id % 1_500, id / 1_500));
    store.sync().unwrap();
    let (segments, stats) = (store.segments(), store.stats());
    assert_eq!(segments.len() as u64, stats.segments);
    assert!(segments.is_sorted_by_key(|segment| segment.sequence));
    let (last, full) = segments.split_last().unwrap();
    assert!(!full.is_empty() && full.iter().all(|s| s.state == SegmentState::Sealed));
    assert_eq!(last.state, SegmentState::Active);
    for segment in &segments {
        assert_eq!((segment.role, segment.needed_bytes), (SegmentRole::Log, 0));
        assert!(segment.is_durable() && segment.slots > 0, "{segment:?}");
        assert!(segment.path.is_file() && segment.disk_bytes > 0, "{segment:?}");
    }
    let live: u64 = segments.iter().map(|segment| segment.live_bytes).sum();
    let dead: u64 = segments.iter().map(|segment| segment.dead_bytes).sum();
    assert_eq!((live, dead), (stats.live_bytes, stats.dead_bytes));
    // A read-only handle counts the same, full segments included.
    let reader = Options::new().read_only(true).open(&path).unwrap();
    let sums = |segments: &[stratalog::SegmentStats]| {
        let of = |s: &stratalog::SegmentStats| (s.sequence, s.live_bytes, s.dead_bytes, s.slots);
        segments.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(sums(&reader.segments()), sums(&segments));
    store.compact().unwrap();
    let after = store.segments();
    let is_copies = |s: &&stratalog::SegmentStats| s.role == SegmentRole::Copies;
    assert!(after.iter().filter(is_copies).all(|s| s.dead_bytes == 0 && s.live_bytes > 0));
    assert!(after.iter().any(|s| is_copies(&s)), "{after:?}");
}

#[test]
fn what_a_pin_or_a_shared_record_holds_back_is_counted_and_has_an_age() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    (0..1_000).for_each(|id| put(&store, id, 1));
    let pinned = store.pin();
    let shared = store.get_shared(7u32.to_le_bytes()).unwrap().unwrap();
    (0..1_000).for_each(|id| put(&store, id, 2));
    assert_eq!(store.stats().retained_bytes, 0);
    store.compact().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let stats = store.stats();
    assert!(stats.retained_age >= Duration::from_millis(5), "{stats:?}");
    let retained = || -> Vec<_> {
        let segments = store.segments().into_iter();
        segments.filter(|segment| segment.state == SegmentState::Retained).collect()
    };
    let held = retained();
    assert!(!held.is_empty() && held.iter().all(|segment| !segment.path.exists()), "{held:?}");
    assert_eq!(held.iter().map(|s| s.disk_bytes).sum::<u64>(), stats.retained_bytes);
    drop(pinned);
    // The shared record holds its own segment, and no other.
    super::beside::wait_until("the pin's segments go", || retained().len() == 1);
    assert!(store.stats().retained_bytes > 0);
    drop(shared);
    super::beside::wait_until("the shared record's segment goes", || retained().is_empty());
    let stats = store.stats();
    assert_eq!((stats.retained_bytes, stats.retained_age), (0, Duration::ZERO));
}

#[test]
fn progress_grows_up_to_the_report_and_may_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    // Of each segment's records the half is dead: several groups.
    let fill = |round: u32| {
        (0..6_000).for_each(|id| put(&store, id, round));
        (0..6_000).step_by(2).for_each(|id| put(&store, id, round + 1));
    };
    fill(0);
    let mut steps: Vec<CompactionReport> = Vec::new();
    let done = store.compact_with(|report| steps.push(report.clone())).unwrap();
    assert!(steps.len() > 1, "{steps:?}");
    assert!(steps.is_sorted_by_key(|step| (step.segments_removed, step.moved_records)));
    assert_eq!(steps.last().map(|step| step.segments_removed), Some(done.segments_removed));
    fill(2);
    let panics = || store.compact_with(|_| panic!("in the callback"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    (0..6_000).for_each(|id| assert_eq!(version(&store, id), Some(3 - id % 2)));
    assert!(store.compact().unwrap().segments_removed > 0);
    assert_eq!(store.stats().dead_bytes, 0);
    assert!(store.verify().unwrap().is_clean());
}

/// Of a segment as small as these nothing is given back beside what is stored to: each compaction
/// left one that was not full, and no later one merged them.
#[test]
fn small_segments_for_copies_that_are_not_full_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    let put = |id: u32| store.put(id.to_le_bytes(), &[1.0; 8], vec![7; 100_000]).unwrap();
    for round in 0..20 {
        for n in [0, 1, 2, 0] {
            put(round * 4 + n);
        }
        store.compact().unwrap();
    }
    let taken = || {
        let stats = store.stats();
        // One may be preallocated.
        stats.segments <= 10 && stats.disk_bytes < stats.live_bytes * 2
    };
    super::beside::wait_until("they are merged", taken);
    assert_eq!((store.len(), store.stats().dead_bytes), (60, 0));
    // What is merged stays as it is.
    assert_eq!(store.compact().unwrap().moved_records, 0);
}

/// Segment files that are mapped though they have no name any more. (Under a sanitizer what is
/// given up stays, and may not be touched: that is none.)
fn mapped_without_a_name(store: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let store = store.to_str().unwrap();
    let held = |line: &&str| !line.contains(" ---") && line.contains(store);
    maps.lines().filter(held).filter(|line| line.ends_with("(deleted)")).count()
}

/// What was retired waited for the next pin of a thread that had been registered with the store,
/// and that might never come.
#[test]
fn nothing_stays_mapped_once_the_store_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("s");
    let store = options().open(&path).unwrap();
    (0..3_000).for_each(|id| put(&store, id, 0));
    let pinned = store.pin();
    (0..3_000).for_each(|id| put(&store, id, 1));
    assert!(store.compact().unwrap().segments_removed > 0);
    assert!(mapped_without_a_name(&path) > 0, "the pin holds them");
    drop(pinned);
    store.close().unwrap();
    assert_eq!(mapped_without_a_name(&path), 0);
}
