//! Whether values are numbers, as fast as they can be read.

use pulp::{Arch, Simd, WithSimd};

/// Sums at once, so that additions overlap.
const SUMS: usize = 4;

/// Returns whether none of the values is NaN or an infinity. Some 300 instructions for 768 of them
/// where there is AVX2.
#[must_use]
pub fn all(values: &[f32]) -> bool {
    // Sums of zeros: only of what is no number is the difference to itself no number.
    !Arch::new().dispatch(Nothing(values)).is_nan()
}

/// Sums each value's difference to itself.
struct Nothing<'v>(&'v [f32]);

impl WithSimd for Nothing<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (values, rest) = S::as_simd_f32s(self.0);
        let (values, few) = values.as_chunks::<SUMS>();
        let mut sums = [simd.splat_f32s(0.0); SUMS];
        for values in values {
            for n in 0..SUMS {
                sums[n] = simd.add_f32s(sums[n], simd.sub_f32s(values[n], values[n]));
            }
        }
        for &value in few {
            sums[0] = simd.add_f32s(sums[0], simd.sub_f32s(value, value));
        }
        let [a, b, c, d] = sums;
        let sum = simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)));
        // What is a number is zero times itself, too.
        rest.iter().fold(sum, |sum, value| sum + value * 0.0)
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_value_that_is_no_number_is_found_wherever_it_stands() {
        let extremes = [0.0, -0.0, 1.5, f32::MIN, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1)];
        for len in (0..70).chain([768, 771]) {
            let mut values: Vec<f32> = extremes.iter().copied().cycle().take(len).collect();
            assert!(all(&values), "{len} numbers");
            for at in 0..len {
                let number = values[at];
                for other in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    values[at] = other;
                    assert!(!all(&values), "{other} at {at} of {len}");
                }
                values[at] = number;
            }
        }
    }
}
