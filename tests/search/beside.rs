//! Searches beside writers.

use super::common::Records;
use super::{METRICS, new_store, vector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use stratalog::{Hit, Metric, Store};

const DIMENSION: usize = 64;
/// How long writers and searchers run beside each other.
const TIME: Duration = Duration::from_secs(2);

fn axis(n: usize, length: f32) -> Vec<f32> {
    (0..DIMENSION).map(|at| if at == n { length } else { 0.0 }).collect()
}

const RECORDS: Records = Records { dimension: DIMENSION, content_max: 700 };

/// Overwrites, removes and inserts far more than is searched for, until told to stop.
fn churn(store: &Store, worker: u64, stop: &AtomicBool) {
    for n in 0..1 << 24 {
        let id = format!("churn-{worker}-{}", n % 300);
        RECORDS.put(store, id.as_bytes(), n);
        if n % 3 == 0 {
            store.remove(&id).unwrap();
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

/// Overwrites `moving` with vectors that are all among the nearest to the first axis, so that the
/// version a search meets is nearly always an old one by then.
fn overwrite(store: &Store, moving: &[String], stop: &AtomicBool) {
    for n in 1.. {
        for id in moving {
            store.put(id, &axis(0, 1e9 + (n % 50) as f32 * 1e7), format!("{n}")).unwrap();
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

#[test]
fn no_id_that_stays_is_missed_and_none_is_found_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), DIMENSION);
    let gone: Vec<_> = (0..20).map(|n| format!("gone-{n}")).collect();
    let still: Vec<_> = (0..20).map(|n| format!("still-{n}")).collect();
    let moving: Vec<_> = (0..20).map(|n| format!("moving-{n}")).collect();
    let mut lsns = BTreeMap::new();
    for n in 0..20 {
        store.put(&gone[n], &axis(0, 1e10), "").unwrap();
        lsns.insert(still[n].as_bytes(), store.put(&still[n], &axis(0, 9e8), "").unwrap());
        store.put(&moving[n], &axis(0, 1e9), "0").unwrap();
        store.remove(&gone[n]).unwrap();
    }
    let stop = AtomicBool::new(false);
    let expected: BTreeSet<&[u8]> = still.iter().chain(&moving).map(|id| id.as_bytes()).collect();
    let (searches, segments) = thread::scope(|scope| {
        scope.spawn(|| churn(&store, 0, &stop));
        scope.spawn(|| overwrite(&store, &moving, &stop));
        let end = Instant::now() + TIME;
        let mut searches = 0;
        while Instant::now() < end {
            let pinned = store.pin();
            // Those forty are by far the nearest; k leaves no room for others.
            let hits = pinned.search(&axis(0, 120.0), 40, Metric::Dot).unwrap();
            let found: BTreeSet<&[u8]> = hits.iter().map(|hit| hit.record.id()).collect();
            assert_eq!(hits.len(), 40);
            assert_eq!(found, expected, "search {searches}");
            for hit in &hits {
                let dot = 120.0 * hit.record.embedding()[0];
                assert_eq!(hit.score, dot);
                let lsn = lsns.get(hit.record.id());
                assert!(lsn.is_none_or(|&lsn| lsn == hit.record.lsn()));
            }
            assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
            searches += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (searches, store.stats().segments)
    });
    println!("{searches} searches, {segments} segments");
    assert!(searches > 0 && segments > 2, "{searches} searches, {segments} segments");
}

/// With room for all, a search is a walk: every id that stays is there, none twice.
#[test]
fn a_search_for_all_finds_all_that_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), DIMENSION);
    let still: Vec<_> = (0..500).map(|n| format!("still-{n}")).collect();
    for (id, n) in still.iter().zip(0..) {
        RECORDS.put(&store, id.as_bytes(), n);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| churn(&store, 0, &stop));
        scope.spawn(|| churn(&store, 1, &stop));
        let end = Instant::now() + TIME;
        for metric in METRICS.into_iter().cycle() {
            let pinned = store.pin();
            let hits = pinned.search(&vector(DIMENSION, 7), usize::MAX, metric).unwrap();
            let found: BTreeSet<&[u8]> = hits.iter().map(|hit| hit.record.id()).collect();
            assert_eq!(found.len(), hits.len(), "an id was found twice");
            for Hit { record, .. } in hits {
                RECORDS.version_of(record.id(), record.embedding(), record.content());
            }
            assert!(still.iter().all(|id| found.contains(id.as_bytes())), "{metric:?}");
            if Instant::now() > end {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
