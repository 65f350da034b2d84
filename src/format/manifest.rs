//! The manifest's bytes: what a store is, and which segments it has.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `stratman` |
//! | 8 | 4 | format version |
//! | 12 | 4 | dimension |
//! | 16 | 16 | store UUID |
//! | 32 | 8 | segment size |
//! | 40 | 8 | first sequence number that this manifest says nothing about |
//! | 48 | 8 | number of segments |
//! | 56 | 16 each | sequence, salt |
//! | end | 4 | CRC-32 of all before it |

use crate::format::checksum::{self, Salt};
use crate::format::header::{FORMAT_VERSION, HeaderError, StoreId};
use crate::format::ids::Sequence;

const MAGIC: [u8; 8] = *b"stratman";
const FIXED_BYTES: usize = 56;
const ENTRY_BYTES: usize = 16;

/// The contents of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The store's identity.
    pub store: StoreId,
    /// `f32` values of every embedding.
    pub dimension: u32,
    /// Bytes of every segment.
    pub segment_bytes: u64,
    /// Segments at or above this sequence are younger than the manifest; below it, only those
    /// listed belong to the store.
    pub next_sequence: Sequence,
    /// The segments, in order of their sequence.
    pub segments: Vec<(Sequence, Salt)>,
}

impl Manifest {
    /// The whole file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + ENTRY_BYTES * self.segments.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.dimension.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.segment_bytes.to_le_bytes());
        out.extend_from_slice(&self.next_sequence.0.to_le_bytes());
        out.extend_from_slice(&(self.segments.len() as u64).to_le_bytes());
        for (sequence, salt) in &self.segments {
            out.extend_from_slice(&sequence.0.to_le_bytes());
            out.extend_from_slice(&salt.0.to_le_bytes());
        }
        let sum = checksum::plain(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// The manifest of a whole file.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(HeaderError::Foreign);
        };
        let Some((fixed, entries)) = body.split_first_chunk::<FIXED_BYTES>() else {
            return Err(HeaderError::Foreign);
        };
        if fixed[..8] != MAGIC {
            return Err(HeaderError::Foreign);
        }
        if checksum::plain(body) != u32::from_le_bytes(*sum) {
            return Err(HeaderError::Damaged);
        }
        let word = |bytes: &[u8]| {
            let mut b = [0; 8];
            b.copy_from_slice(bytes);
            u64::from_le_bytes(b)
        };
        let version = word(&fixed[8..16]) as u32;
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut store = [0; 16];
        store.copy_from_slice(&fixed[16..32]);
        // The count is only ever compared: no allocation is sized by it.
        if entries.len() as u64 != word(&fixed[48..56]).saturating_mul(ENTRY_BYTES as u64) {
            return Err(HeaderError::Damaged);
        }
        let segments: Vec<_> = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| (Sequence(word(&entry[..8])), Salt(word(&entry[8..]))))
            .collect();
        let next_sequence = Sequence(word(&fixed[40..48]));
        let ordered = segments.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && segments.last().is_none_or(|last| last.0 < next_sequence)
            && next_sequence <= Sequence::MAX;
        if !ordered {
            return Err(HeaderError::Damaged);
        }
        Ok(Self {
            store: StoreId(store),
            dimension: (word(&fixed[8..16]) >> 32) as u32,
            segment_bytes: word(&fixed[32..40]),
            next_sequence,
            segments,
        })
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            store: StoreId(*b"fedcba9876543210"),
            dimension: 16,
            segment_bytes: 1 << 20,
            next_sequence: Sequence(9),
            segments: vec![(Sequence(1), Salt(5)), (Sequence(4), Salt(6))],
        }
    }

    #[test]
    fn a_manifest_survives_the_round_trip_and_any_flipped_bit_or_cut_is_seen() {
        let bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest()));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn segments_out_of_order_are_refused() {
        let mut twisted = manifest();
        twisted.segments.reverse();
        assert_eq!(Manifest::decode(&twisted.encode()), Err(HeaderError::Damaged));
    }
}
