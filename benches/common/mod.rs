//! The records of all benches: 768 dimensions, contents of 256 bytes, ids of 16.

pub const DIMENSION: usize = 768;
pub const CONTENT: [u8; 256] = [b'c'; 256];

/// The id of a record: 16 bytes without an order.
pub fn id(n: u64) -> [u8; 16] {
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(mixed ^ mixed >> 29).to_le_bytes());
    id[8..].copy_from_slice(&n.to_le_bytes());
    id
}

/// The next of a run of random numbers.
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// An embedding like those that models make: of length one.
pub fn embedding(n: u64) -> Vec<f32> {
    let mut seed = n;
    let raw: Vec<f32> =
        (0..DIMENSION).map(|_| random(&mut seed) as f32 / (1u64 << 31) as f32 - 0.5).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.iter().map(|x| x / length).collect()
}
