use super::kernel::{Kernel, sum_f64};
use super::{Metric, Query, Rank, Top};
use crate::format::ids::Lsn;
use proptest::prelude::*;

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

/// Straight from the definitions, one term after the other.
fn oracle(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (a, b) = (wide(a), wide(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = dot(&a, &a).sqrt() * dot(&b, &b).sqrt();
    match metric {
        Metric::Dot => dot(&a, &b),
        Metric::Cosine if norms == 0.0 => 0.0,
        Metric::Cosine => dot(&a, &b) / norms,
        Metric::L2 => a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
    }
}

/// Any magnitude, zeros and subnormals included.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -1f32..1.0,
        1 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
    ]
}

/// Two vectors of one length; sometimes one is nearly the other, or all is on a strange scale.
fn vectors() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    let scale = prop_oneof![4 => Just(1f32), 1 => Just(1e-30), 1 => Just(1e30), 1 => Just(1e-44)];
    let pairs = prop::collection::vec((value(), value()), 1..300);
    (pairs, scale, 0..4u8).prop_map(|(pairs, scale, close)| {
        let scaled = |x: f32| if (x * scale).is_finite() { x * scale } else { x };
        let (a, b): (Vec<f32>, Vec<f32>) =
            pairs.into_iter().map(|(a, b)| (scaled(a), scaled(b))).unzip();
        let near = a.iter().map(|&a| if close == 0 { a } else { a * (1.0 - 1e-6) }).collect();
        if close < 2 { (a, near) } else { (a, b) }
    })
}

proptest! {
    /// Scores are off by 1e-12 of the terms' sum at most, before they are rounded to `f32`.
    #[test]
    fn scores_are_the_oracles((a, b) in vectors()) {
        for metric in METRICS {
            let query = Query::new(&a, metric);
            let score = query.score(query.nearness(&b));
            let expected = oracle(metric, &a, &b);
            let terms = match metric {
                Metric::Cosine => 1.0,
                Metric::L2 => expected,
                Metric::Dot => sum_f64(&a, &b, |a, b| (a * b).abs()),
            };
            let low = (expected - 1e-12 * terms) as f32;
            let high = (expected + 1e-12 * terms) as f32;
            prop_assert!(low <= score && score <= high, "{metric:?}: {score}, not {expected}");
        }
    }

    #[test]
    fn a_bound_is_never_too_low((a, b) in vectors()) {
        for metric in METRICS {
            let query = Query::new(&a, metric);
            let (bound, nearness) = (query.bound(&b), query.nearness(&b));
            prop_assert!(bound >= nearness, "{metric:?}: {bound} < {nearness}");
        }
    }

    /// And for ordinary vectors hardly higher, or everything would be measured twice.
    #[test]
    fn a_bound_is_close(pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 64..300)) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let error = Kernel::new().error(a.len());
        prop_assert!(error < 1e-4);
        for metric in METRICS {
            let query = Query::new(&a, metric);
            let scale = match metric {
                Metric::Cosine => 1.0,
                _ => oracle(Metric::Dot, &a, &a) + oracle(Metric::Dot, &b, &b),
            };
            let above = query.bound(&b) - query.nearness(&b);
            prop_assert!(above <= 8.0 * error * scale, "{metric:?}: {above}");
        }
    }

    #[test]
    fn the_top_is_what_sorting_finds(
        offers in prop::collection::vec((0..12u8, 0..40u8), 0..80), k in 0..20usize,
    ) {
        let ids: Vec<[u8; 1]> = offers.iter().map(|offer| [offer.1]).collect();
        let mut top = Top::new(k);
        // Each id has one nearness, so that it does not matter which of its offers is taken.
        let nearness = |id: u8| f64::from(id % 7);
        for (n, id) in ids.iter().enumerate() {
            top.offer(Rank::new(nearness(id[0]), Lsn::from_u64(u64::from(id[0]))), id, n);
        }
        let found: Vec<u8> = top.into_nearest_first().map(|(_, n)| ids[n][0]).collect();
        let mut expected: Vec<u8> = ids.iter().map(|id| id[0]).collect();
        expected.sort_by_key(|&id| (std::cmp::Reverse(id % 7), id));
        expected.dedup();
        expected.truncate(k);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn zeros_are_equal_and_what_is_no_number_comes_last() {
    let mut top = Top::new(usize::MAX);
    let ids: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    for (n, nearness) in [f64::NAN, 0.0, -0.0, -1.0].into_iter().enumerate() {
        // Later ones have lower LSNs.
        top.offer(Rank::new(nearness, Lsn::from_u64(9 - n as u64)), ids[n], n);
    }
    let order: Vec<usize> = top.into_nearest_first().map(|(_, n)| n).collect();
    assert_eq!(order, [2, 1, 3, 0]);
}
