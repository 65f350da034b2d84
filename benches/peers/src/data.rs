//! The records, who asks for which of them, and what is done with them. All of it the same in
//! every run.

use pulp::Arch;

/// Values of an embedding.
pub const DIMENSION: usize = 768;
/// Bytes of an embedding and of a content.
pub const EMBEDDING: usize = DIMENSION * 4;
pub const CONTENT: usize = 256;
/// Bytes of an id.
pub const ID: usize = 16;
/// What a record carries: nothing that is stored can be smaller.
pub const PAYLOAD: u64 = (ID + EMBEDDING + CONTENT) as u64;
/// Bytes of the cache line that a touch reads at both ends of a record.
const LINE: usize = 64;
/// Values that are handed over in turn: few enough to stay in a core's own cache.
const POOL: u64 = 64;

/// An id.
pub type Id = [u8; ID];

/// The id of a record: 16 bytes without an order.
pub fn id(n: u64) -> Id {
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut id = [0; ID];
    id[..8].copy_from_slice(&(mixed ^ mixed >> 29).to_le_bytes());
    id[8..].copy_from_slice(&n.to_le_bytes());
    id
}

/// The next of a run of random numbers, 31 bits of it.
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// What is stored under an id, ready to be handed over in either form.
pub struct Value {
    pub embedding: Vec<f32>,
    pub content: Vec<u8>,
    /// Both after each other, for engines that know bytes only.
    pub joined: Vec<u8>,
}

impl Value {
    fn new(n: u64) -> Self {
        let mut seed = n;
        let raw: Vec<f32> =
            (0..DIMENSION).map(|_| random(&mut seed) as f32 / (1u64 << 31) as f32 - 0.5).collect();
        let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        let embedding: Vec<f32> = raw.iter().map(|x| x / length).collect();
        let content: Vec<u8> =
            (0..CONTENT).map(|_| b'a' + (random(&mut seed) % 26) as u8).collect();
        let joined = [bytemuck::cast_slice(&embedding), &content[..]].concat();
        Self { embedding, content, joined }
    }
}

/// All values there are: record `n` has the `n`th, going round.
pub struct Values(Vec<Value>);

impl Values {
    pub fn new() -> Self {
        Self((0..POOL).map(Value::new).collect())
    }

    pub fn of(&self, n: u64) -> &Value {
        &self.0[(n % POOL) as usize]
    }
}

/// An embedding and a content out of the bytes that an engine keeps.
pub fn split(joined: &[u8]) -> (&[u8], &[u8]) {
    joined.split_at(EMBEDDING)
}

/// What a reader does with a record.
pub trait See {
    fn see(&self, embedding: &[u8], content: &[u8]) -> f32;
}

/// Reads a cache line of the embedding and one of the content.
pub struct Touch;

impl See for Touch {
    #[inline]
    fn see(&self, embedding: &[u8], content: &[u8]) -> f32 {
        let sum = |bytes: &[u8]| bytes.chunks_exact(8).fold(0u64, |sum, b| sum ^ word(b));
        (sum(&embedding[..LINE]) ^ sum(&content[..LINE])) as u32 as f32
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Multiplies the whole embedding with a query, with the widest vectors that this processor has.
pub struct Dot {
    arch: Arch,
    query: Vec<f32>,
}

impl Dot {
    pub fn new(values: &Values) -> Self {
        Self { arch: Arch::new(), query: values.of(0).embedding.clone() }
    }
}

impl See for Dot {
    #[inline]
    fn see(&self, embedding: &[u8], content: &[u8]) -> f32 {
        let dot = self.arch.dispatch(
            #[inline(always)]
            || dot(embedding, &self.query),
        );
        dot + f32::from(content[0])
    }
}

/// Thirty-two sums at once, so that the compiler can use vectors; the bytes need no alignment,
/// because most engines give none.
#[inline(always)]
fn dot(bytes: &[u8], query: &[f32]) -> f32 {
    const AT_ONCE: usize = 32;
    let mut sums = [0f32; AT_ONCE];
    for (bytes, query) in bytes.chunks_exact(4 * AT_ONCE).zip(query.chunks_exact(AT_ONCE)) {
        let values: [f32; AT_ONCE] = bytemuck::pod_read_unaligned(bytes);
        for n in 0..AT_ONCE {
            sums[n] += values[n] * query[n];
        }
    }
    sums.iter().sum()
}

/// Which records are asked for.
pub struct Asked {
    pub uniform: Vec<u32>,
    pub zipf: Vec<u32>,
}

/// How many questions are made ahead; a reader goes round.
const ASKED: usize = 1 << 19;

impl Asked {
    pub fn new(records: u64) -> Self {
        let mut seed = 42;
        let uniform = (0..ASKED).map(|_| (random(&mut seed) % records) as u32).collect();
        Self { uniform, zipf: zipf(records, &mut seed) }
    }
}

/// Zipfian with exponent 0.99; who is popular has nothing to do with when it was put.
fn zipf(records: u64, seed: &mut u64) -> Vec<u32> {
    let mut record: Vec<u32> = (0..records as u32).collect();
    for n in (1..record.len()).rev() {
        record.swap(n, random(seed) as usize % (n + 1));
    }
    let mut total = 0.0;
    let below: Vec<f64> = (1..=records)
        .map(|rank| {
            total += (rank as f64).powf(-0.99);
            total
        })
        .collect();
    let mut ask = || {
        let at = random(seed) as f64 / (1u64 << 31) as f64 * total;
        record[below.partition_point(|&sum| sum <= at).min(record.len() - 1)]
    };
    (0..ASKED).map(|_| ask()).collect()
}
