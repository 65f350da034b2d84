//! Exact search: how near two vectors are, and which k are nearest. Pure functions of vectors;
//! where the records come from is the store's business.
//!
//! Every vector is measured in `f32` first, which memory can hardly keep up with. That gives a
//! bound ([`Query::bound`]) on how near it can be; only if that reaches the k nearest so far, it is
//! measured again in `f64` ([`Query::nearness`]), and that alone ranks. So what is found and its
//! order do not depend on the machine's vector registers, and rounding in `f32` loses nothing.

mod kernel;
#[cfg(test)]
mod tests;
mod top;

pub use top::{Rank, Top};

use kernel::{Kernel, sum_f64};

/// What "near" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Metric {
    /// The cosine of the angle between two vectors, -1 to 1: higher is nearer. 0 if one of them is
    /// zero. For vectors of length one it ranks as [`Dot`](Metric::Dot) does.
    Cosine,
    /// The dot product: higher is nearer.
    Dot,
    /// The Euclidean distance, 0 and up: lower is nearer.
    L2,
}

/// Squares in `f32` neither overflow nor lose digits to underflow while their sum is in here.
const TAME: std::ops::RangeInclusive<f64> = 1e-30..=1e30;

/// A vector that others are measured against. *Nearness* is a number that is higher for what is
/// nearer: the cosine, the dot product, the square of the distance below zero.
#[derive(Debug)]
pub struct Query<'q> {
    values: &'q [f32],
    metric: Metric,
    kernel: Kernel,
    /// Its length.
    norm: f64,
    /// Relative error of `f32` sums.
    error: f64,
}

impl<'q> Query<'q> {
    /// A query by these values, all of them finite.
    #[must_use]
    pub fn new(values: &'q [f32], metric: Metric) -> Self {
        let kernel = Kernel::new();
        let norm = sum_f64(values, values, |a, b| a * b).sqrt();
        Self { values, metric, kernel, norm, error: kernel.error(values.len()) }
    }

    /// No less than [`Query::nearness`] of the same vector, and hardly more; infinity where `f32`
    /// cannot tell.
    #[inline]
    #[must_use]
    pub fn bound(&self, vector: &[f32]) -> f64 {
        if self.metric == Metric::L2 {
            let distance = f64::from(self.kernel.distance(self.values, vector));
            let tame = TAME.contains(&distance);
            return if tame { -distance * (1.0 - 2.0 * self.error) } else { f64::INFINITY };
        }
        let (dot, square) = self.kernel.dot_and_square(self.values, vector);
        let (dot, square) = (f64::from(dot), f64::from(square));
        if !TAME.contains(&square) || !TAME.contains(&(self.norm * self.norm)) {
            return f64::INFINITY;
        }
        // Cauchy and Schwarz: the absolute values of the products sum up to `norms` at most.
        let norms = self.norm * square.sqrt();
        match self.metric {
            Metric::Cosine => dot / norms + 2.0 * self.error,
            _ => dot + 2.0 * self.error * norms,
        }
    }

    /// How near a vector is, to the precision of `f64`.
    #[must_use]
    pub fn nearness(&self, vector: &[f32]) -> f64 {
        let dot = || sum_f64(self.values, vector, |a, b| a * b);
        match self.metric {
            Metric::L2 => -sum_f64(self.values, vector, |a, b| (a - b) * (a - b)),
            Metric::Dot => dot(),
            Metric::Cosine => {
                let norms = self.norm * sum_f64(vector, vector, |a, b| a * b).sqrt();
                if norms > 0.0 { (dot() / norms).clamp(-1.0, 1.0) } else { 0.0 }
            }
        }
    }

    /// What the metric calls a nearness.
    #[must_use]
    pub fn score(&self, nearness: f64) -> f32 {
        let score = if self.metric == Metric::L2 { (-nearness).sqrt() } else { nearness };
        // Beyond the range of `f32` it becomes infinite.
        score as f32
    }
}
