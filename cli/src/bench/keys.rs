//! Which record the next operation is about.

use clap::ValueEnum;
use serde::Serialize;

/// How often each record is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// All alike
    Uniform,
    /// Few very often, most seldom: Zipfian with exponent 0.99
    Zipf,
}

/// The exponent that benchmarks of key-value stores agree on.
const THETA: f64 = 0.99;

/// Chooses records of `0..records`.
#[derive(Clone, Debug)]
pub struct Keys {
    records: u64,
    zipf: Option<Zipf>,
}

/// Ranks by the method of Gray et al. 1994: constant time each, after one pass over all ranks.
#[derive(Clone, Copy, Debug)]
struct Zipf {
    zeta: f64,
    eta: f64,
}

impl Keys {
    /// At least one record.
    pub fn new(records: u64, distribution: Distribution) -> Self {
        let zipf = (distribution == Distribution::Zipf).then(|| Zipf::new(records));
        Self { records: records.max(1), zipf }
    }

    /// The next one.
    pub fn next(&self, random: &mut fastrand::Rng) -> u64 {
        let Some(zipf) = self.zipf else { return random.u64(..self.records) };
        // Who is popular has nothing to do with when it was put.
        scatter(zipf.rank(random.f64(), self.records)) % self.records
    }
}

fn scatter(rank: u64) -> u64 {
    let mixed = (rank + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 16
}

impl Zipf {
    fn new(records: u64) -> Self {
        let n = records.max(2) as f64;
        let zeta: f64 = (1..=records.max(2)).map(|rank| (rank as f64).powf(-THETA)).sum();
        let of_two = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / n).powf(1.0 - THETA)) / (1.0 - of_two / zeta);
        Self { zeta, eta }
    }

    /// The rank for a number of 0..1; rank 0 is the most frequent.
    fn rank(self, u: f64, records: u64) -> u64 {
        let scaled = u * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(THETA) {
            return 1.min(records - 1);
        }
        let rank = records as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank as u64).min(records - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ranks_come_as_often_as_zipf_says() {
        let (records, draws) = (1000, 400_000);
        let zipf = Zipf::new(records);
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = vec![0u64; records as usize];
        for _ in 0..draws {
            counts[zipf.rank(random.f64(), records) as usize] += 1;
        }
        for rank in [0, 1, 9, 99] {
            let expected = draws as f64 / zipf.zeta * ((rank + 1) as f64).powf(-THETA);
            let seen = counts[rank] as f64;
            assert!((seen / expected - 1.0).abs() < 0.25, "rank {rank}: {seen}, not {expected}");
        }
    }

    #[test]
    fn every_choice_is_a_record_that_there_is() {
        let mut random = fastrand::Rng::with_seed(2);
        for records in [1, 2, 3, 1000] {
            for distribution in [Distribution::Uniform, Distribution::Zipf] {
                let keys = Keys::new(records, distribution);
                assert!((0..10_000).all(|_| keys.next(&mut random) < records));
            }
        }
    }
}
