//! Sizes that are small here, so that a simulated store has many segments, and its index grows.

/// The smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// The page cache keeps a file in folios of up to this many bytes.
pub const FOLIO_BYTES: usize = 8 << 10;
/// First buckets of a chunk of the index.
pub const CHUNK_BUCKETS: usize = 1;
