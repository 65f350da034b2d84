//! What a reader does with an embedding.

pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Sixteen sums at once, so that the compiler can use vectors.
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let sums = a.zip(b).fold([0f32; 16], |mut sums, (a, b)| {
        for n in 0..16 {
            sums[n] += a[n] * b[n];
        }
        sums
    });
    sums.iter().sum()
}
