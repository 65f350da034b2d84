//! `Pinned::search` from outside. Invariants: it finds exactly what a comparison with every live
//! record finds, in the same order; beside writers it misses no id whose record stays, and never
//! gives two versions of one; damage is an error, or costs only what it hit.
#![cfg(test)]

#[path = "search/beside.rs"]
mod beside;
mod common;
#[path = "search/damage.rs"]
mod damage;

use common::{SEGMENT, mix, reopen};
use proptest::prelude::*;
use std::path::Path;
use stratalog::{Batch, Condition, Error, Lsn, Metric, Options, Pinned, Store};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

/// Values between -1 and 1 that follow from a seed.
fn vector(dimension: usize, seed: u64) -> Vec<f32> {
    let value = |n: usize| mix(mix(seed) ^ n as u64) as i32 as f32 / (1u32 << 31) as f32;
    (0..dimension).map(value).collect()
}

/// From the definitions, in `f64`. Higher is nearer.
fn nearness(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let dot = pairs().map(|(a, b)| a * b).sum::<f64>();
    let norms = (pairs().map(|(a, _)| a * a).sum::<f64>()
        * pairs().map(|(_, b)| b * b).sum::<f64>())
    .sqrt();
    match metric {
        Metric::Dot => dot,
        Metric::Cosine if norms == 0.0 => 0.0,
        Metric::Cosine => dot / norms,
        _ => -pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
    }
}

/// How far sums in another order may be apart, for vectors as these tests have them.
const TOLERANCE: f64 = 1e-9;

/// Compares a search with all that `iter` shows. Nobody may write meanwhile.
#[track_caller]
fn assert_exact(pinned: &Pinned<'_>, query: &[f32], k: usize, metric: Metric) {
    let mut all: Vec<(f64, Lsn)> = pinned
        .iter()
        .map(|record| record.expect("a whole record"))
        .map(|record| (nearness(metric, query, record.embedding()), record.lsn()))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let hits = pinned.search(query, k, metric).expect("a search");
    assert_eq!(hits.len(), k.min(all.len()));
    for (n, (hit, expected)) in hits.iter().zip(&all).enumerate() {
        let exact = nearness(metric, query, hit.record.embedding());
        // Another record in this place is right only if it is as near.
        let same = hit.record.lsn() == expected.1 || (exact - expected.0).abs() <= TOLERANCE;
        assert!(same, "{metric:?}: place {n} is {hit:?}, expected was {expected:?}");
        let score = if metric == Metric::L2 { -exact } else { exact };
        let off = (f64::from(hit.score) - score).abs();
        assert!(off <= 1e-6 * score.abs() + TOLERANCE, "{metric:?}: {} for {score}", hit.score);
        let live = pinned.get(hit.record.id()).expect("a whole record").expect("it is live");
        assert_eq!(live.lsn(), hit.record.lsn());
    }
    let mut ids: Vec<_> = hits.iter().map(|hit| hit.record.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), hits.len(), "an id was found twice");
}

fn new_store(path: &Path, dimension: usize) -> Store {
    Options::new().dimension(dimension).segment_size(SEGMENT).open(path).expect("a store")
}

fn ids<'p>(pinned: &'p Pinned<'_>, query: &[f32], k: usize, metric: Metric) -> Vec<&'p [u8]> {
    let hits = pinned.search(query, k, metric).expect("a search");
    hits.iter().map(|hit| hit.record.id()).collect()
}

#[test]
fn all_kinds_of_writes_are_seen_as_get_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let dimension = 100;
    let store = new_store(dir.path(), dimension);
    let id = |n: u64| format!("id-{n}");
    for n in 0..6_000 {
        store.put(id(n % 2_500), &vector(dimension, n), vec![b'c'; (n % 300) as usize]).unwrap();
        match n % 11 {
            3 => assert!(store.remove(id(n % 2_500)).unwrap().is_some()),
            5 => {
                let mut batch = Batch::new();
                batch.put(id(n + 1), &vector(dimension, n + 1), "").remove(id(n % 2_500));
                store.write(batch).unwrap();
            }
            7 => {
                store
                    .put_if(id(n % 2_500), &vector(dimension, !n), "", Condition::Present)
                    .unwrap();
            }
            _ => {}
        }
    }
    assert!(store.stats().segments > 2);
    let check = |store: &Store| {
        let pinned = store.pin();
        for (metric, seed) in METRICS.into_iter().zip(1 << 40..) {
            for k in [1, 10, 500, usize::MAX] {
                assert_exact(&pinned, &vector(dimension, seed), k, metric);
            }
            // As near as can be: itself.
            let query = pinned.get(id(42)).unwrap().map(|record| record.embedding().to_vec());
            assert_exact(&pinned, &query.unwrap_or_else(|| vec![0.0; dimension]), 10, metric);
        }
    };
    check(&store);
    let store = reopen(store);
    check(&store);
    let path = store.path().to_owned();
    check(&Options::new().read_only(true).open(&path).unwrap());
}

#[test]
fn the_real_records_are_found_as_by_comparing_each() {
    let array = include_bytes!("../cli/data/sample.npy");
    let (values, _) = array[array.len() - 500 * 768 * 4..].as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), 768);
    for (n, row) in values.chunks(768).enumerate() {
        store.put(format!("{n}"), row, "").unwrap();
    }
    let pinned = store.pin();
    for (n, row) in values.chunks(768).enumerate().step_by(25) {
        for metric in METRICS {
            assert_exact(&pinned, row, 10, metric);
            assert_eq!(ids(&pinned, row, 1, metric), [n.to_string().as_bytes()]);
        }
    }
}

#[test]
fn of_equally_near_ones_the_oldest_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), 3);
    for name in ["d", "a", "c", "b"] {
        store.put(name, &[1.0, 2.0, 2.0], "").unwrap();
    }
    store.put("d", &[1.0, 2.0, 2.0], "again").unwrap();
    let pinned = store.pin();
    for metric in METRICS {
        assert_eq!(ids(&pinned, &[3.0, 0.0, 1.0], 3, metric), [b"a", b"c", b"b"]);
        assert_eq!(ids(&pinned, &[3.0, 0.0, 1.0], 9, metric), [b"a", b"c", b"b", b"d"]);
    }
}

#[test]
fn zero_vectors_have_a_cosine_of_zero() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), 2);
    store.put("zero", &[0.0, -0.0], "").unwrap();
    store.put("along", &[1e-30, 0.0], "").unwrap();
    store.put("against", &[-1e30, 0.0], "").unwrap();
    let pinned = store.pin();
    let scores = |query: &[f32]| -> Vec<(Vec<u8>, f32)> {
        let hits = pinned.search(query, 9, Metric::Cosine).unwrap();
        hits.iter().map(|hit| (hit.record.id().to_vec(), hit.score)).collect()
    };
    let named = |name: &str, score| (name.as_bytes().to_vec(), score);
    let expected = [named("along", 1.0), named("zero", 0.0), named("against", -1.0)];
    assert_eq!(scores(&[f32::MAX, 0.0]), expected);
    let expected = [named("zero", 0.0), named("along", 0.0), named("against", 0.0)];
    assert_eq!(scores(&[0.0, 0.0]), expected);
}

#[test]
fn the_largest_values_overflow_nothing_but_the_score() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), 4);
    let (max, small) = (f32::MAX, f32::from_bits(1));
    store.put("small", &[small; 4], "").unwrap();
    store.put("large", &[max; 4], "").unwrap();
    store.put("mixed", &[max, -max, max, -max], "").unwrap();
    store.put("larger", &[max, max, max, max / 2.0], "").unwrap();
    let pinned = store.pin();
    let found = |query: &[f32; 4], metric| ids(&pinned, query, 4, metric);
    let order: [&[u8]; 4] = [b"large", b"larger", b"small", b"mixed"];
    assert_eq!(found(&[max; 4], Metric::Dot), order);
    let hits = pinned.search(&[max; 4], 4, Metric::Dot).unwrap();
    assert!(hits[0].score == f32::INFINITY && hits[3].score == 0.0, "{hits:?}");
    // What is small has exactly the direction, too, and is older.
    let order: [&[u8]; 4] = [b"small", b"large", b"larger", b"mixed"];
    assert_eq!(found(&[max; 4], Metric::Cosine), order);
    assert_eq!(found(&[small; 4], Metric::L2)[0], b"small");
}

#[test]
fn what_is_no_query_is_refused_and_none_of_none_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), 3);
    let pinned = store.pin();
    assert!(pinned.search(&[1.0; 3], usize::MAX, Metric::Dot).unwrap().is_empty());
    store.put("a", &[1.0; 3], "").unwrap();
    for k in [0, 1] {
        let error = pinned.search(&[1.0; 2], k, Metric::L2).unwrap_err();
        assert!(matches!(error, Error::DimensionMismatch { expected: 3, actual: 2 }), "{error}");
        let error = pinned.search(&[1.0, f32::NAN, 1.0], k, Metric::L2).unwrap_err();
        assert!(matches!(error, Error::NonFinite { index: 1 }), "{error}");
    }
    assert!(pinned.search(&[1.0; 3], 0, Metric::Dot).unwrap().is_empty());
    assert_eq!(pinned.search(&[1.0; 3], usize::MAX, Metric::Dot).unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_history_is_searched_exactly(
        steps in prop::collection::vec((0..24u8, 0..4u8, any::<u64>()), 1..120),
        dimension in 1..40usize, k in 0..30usize, seed: u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = new_store(dir.path(), dimension);
        for (id, step, seed) in steps {
            if step == 0 {
                store.remove([id]).unwrap();
            } else {
                // Few different vectors: ties are common.
                store.put([id], &vector(dimension, seed % 16), "").unwrap();
            }
        }
        for metric in METRICS {
            assert_exact(&store.pin(), &vector(dimension, seed % 64), k, metric);
        }
    }
}
