//! Sums over two vectors: in `f32` as fast as memory delivers, and in `f64` for what counts.
//!
//! The `f32` sums differ from machine to machine in their last bits (width of a register, fused
//! multiply-add or not), so nothing is decided by them but what need not be looked at more closely.
//! The `f64` sums are the same everywhere: one order, and nothing fused.

use pulp::{Arch, Simd, WithSimd};

/// Sums in each register's every lane are this many at once, so that additions overlap.
const SUMS: usize = 4;

/// The widest instructions that this machine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    arch: Arch,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self { arch: Arch::new() }
    }

    /// `a * b` and `b * b`, summed.
    #[inline]
    pub(super) fn dot_and_square(self, a: &[f32], b: &[f32]) -> (f32, f32) {
        self.arch.dispatch(DotAndSquare(a, b))
    }

    /// `(a - b)^2`, summed.
    #[inline]
    pub(super) fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        self.arch.dispatch(Distance(a, b))
    }

    /// A bound on the relative error of a sum of `n` products as above, against the sum of their
    /// absolute values. Each value goes through `n / (SUMS * lanes)` additions in its lane, and
    /// what follows (the rest that fills no register, the sum over lanes) adds fewer than
    /// `2 * SUMS + 2 * lanes`; every rounding is off by 2^-24 at most. The rest is room for the
    /// second-order terms and for three more roundings, as [`Kernel::distance`] has.
    pub(super) fn error(self, n: usize) -> f64 {
        let lanes = self.arch.dispatch(Lanes);
        let roundings = n / (SUMS * lanes) + 2 * (SUMS + lanes) + 32;
        roundings as f64 * f64::from(f32::EPSILON) / 2.0
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F32_LANES
    }
}

struct DotAndSquare<'v>(&'v [f32], &'v [f32]);

impl WithSimd for DotAndSquare<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
        let (a, a_rest) = S::as_simd_f32s(self.0);
        let (b, b_rest) = S::as_simd_f32s(self.1);
        let (a, a_few) = a.as_chunks::<SUMS>();
        let (b, b_few) = b.as_chunks::<SUMS>();
        let mut dots = [simd.splat_f32s(0.0); SUMS];
        let mut squares = dots;
        for (a, b) in a.iter().zip(b) {
            for n in 0..SUMS {
                dots[n] = simd.mul_add_e_f32s(a[n], b[n], dots[n]);
                squares[n] = simd.mul_add_e_f32s(b[n], b[n], squares[n]);
            }
        }
        for (&a, &b) in a_few.iter().zip(b_few) {
            dots[0] = simd.mul_add_e_f32s(a, b, dots[0]);
            squares[0] = simd.mul_add_e_f32s(b, b, squares[0]);
        }
        let (mut dot, mut square) = (total(simd, dots), total(simd, squares));
        for (a, b) in a_rest.iter().zip(b_rest) {
            dot += a * b;
            square += b * b;
        }
        (dot, square)
    }
}

struct Distance<'v>(&'v [f32], &'v [f32]);

impl WithSimd for Distance<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (a, a_rest) = S::as_simd_f32s(self.0);
        let (b, b_rest) = S::as_simd_f32s(self.1);
        let (a, a_few) = a.as_chunks::<SUMS>();
        let (b, b_few) = b.as_chunks::<SUMS>();
        let mut sums = [simd.splat_f32s(0.0); SUMS];
        for (a, b) in a.iter().zip(b) {
            for n in 0..SUMS {
                let apart = simd.sub_f32s(a[n], b[n]);
                sums[n] = simd.mul_add_e_f32s(apart, apart, sums[n]);
            }
        }
        for (&a, &b) in a_few.iter().zip(b_few) {
            let apart = simd.sub_f32s(a, b);
            sums[0] = simd.mul_add_e_f32s(apart, apart, sums[0]);
        }
        let mut sum = total(simd, sums);
        for (a, b) in a_rest.iter().zip(b_rest) {
            sum += (a - b) * (a - b);
        }
        sum
    }
}

#[inline(always)]
fn total<S: Simd>(simd: S, sums: [S::f32s; SUMS]) -> f32 {
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

/// The sum of `f` over two vectors, in `f64`: eight sums at once, in the same order everywhere.
#[inline]
pub(super) fn sum_f64(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64) -> f64 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for n in 0..8 {
            sums[n] += f(f64::from(a[n]), f64::from(b[n]));
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| f(f64::from(a), f64::from(b)));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}
