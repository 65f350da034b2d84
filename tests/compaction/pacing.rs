//! Puts that outrun compaction are delayed, and only where that can gain something.

use super::{DIM, SEGMENT, options, put};
use std::time::Duration;
use stratalog::{Compaction, Durability, Error, Options, Store};

const CONTENT: usize = 60_000;

/// Overwrites one record until the log takes so many segments besides; for how long it was delayed.
fn overwrite(store: &Store, segments: u64) -> Duration {
    for _ in 0..segments * SEGMENT / CONTENT as u64 {
        store.put("a", &[1.0; DIM], [7; CONTENT]).unwrap();
    }
    store.stats().write_stall
}

#[test]
fn nobody_is_delayed_where_it_is_left_to_the_caller_or_to_the_device() {
    let hows = [
        ("compaction by hand", options()),
        ("no target", options().compaction(Compaction::Auto).space_target(None)),
        ("synced", options().compaction(Compaction::Auto).durability(Durability::Synced)),
    ];
    for (how, options) in hows {
        let dir = tempfile::tempdir().unwrap();
        let store = options.open(dir.path().join("s")).unwrap();
        assert_eq!(overwrite(&store, 24), Duration::ZERO, "{how}");
    }
}

#[test]
fn compaction_is_not_faster_than_its_rate() {
    const RATE: u64 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let store = options().compaction_rate(RATE).open(dir.path().join("s")).unwrap();
    (0..500).for_each(|id| put(&store, id, 1));
    put(&store, 0, 2);
    let report = store.compact().unwrap();
    assert!(report.moved_bytes > RATE, "{report:?}");
    let least = Duration::from_millis(report.moved_bytes * 1_000 / RATE);
    assert!(report.elapsed >= least, "{report:?}");
}

#[test]
fn a_target_that_compaction_could_not_keep_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |times: f64| {
        let options = Options::new().dimension(DIM).segment_size(SEGMENT).space_target(times);
        options.open(dir.path().join("s"))
    };
    for times in [1.99, 0.0, -3.0, f64::NAN, f64::INFINITY] {
        let refused = open(times).unwrap_err();
        assert!(matches!(refused, Error::InvalidOption(_)), "{times}: {refused}");
        assert!(!dir.path().join("s").exists(), "nothing was touched");
    }
    assert!(open(2.0).is_ok());
}
