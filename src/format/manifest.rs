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
//! | 48 | 4 | number of segments |
//! | 52 | 4 | number of segments that were dropped and whose files may still be there |
//! | 56 | 16 each | sequence (top bit: holds copies), salt; first the segments, then the dropped |
//! | end | 4 | CRC-32 of all before it |

use crate::format::checksum::{self, Salt};
use crate::format::header::{FORMAT_VERSION, HeaderError, Role, SegmentId, StoreId};
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
    /// Segments at or above this sequence may be younger than the manifest; below it, only those
    /// listed belong to the store.
    pub next_sequence: Sequence,
    /// The segments, in order of their sequence.
    pub segments: Vec<SegmentId>,
    /// Segments that compaction has emptied: their files are to be removed, and never read.
    pub dropped: Vec<SegmentId>,
}

/// In the sequence of an entry: the segment holds copies.
const COPIES_FLAG: u64 = 1 << 63;

fn encode_entry(segment: &SegmentId) -> [u8; ENTRY_BYTES] {
    let flag = if segment.role == Role::Copies { COPIES_FLAG } else { 0 };
    let mut out = [0; ENTRY_BYTES];
    out[..8].copy_from_slice(&(segment.sequence.0 | flag).to_le_bytes());
    out[8..].copy_from_slice(&segment.salt.0.to_le_bytes());
    out
}

fn decode_entry(sequence: u64, salt: u64) -> SegmentId {
    let role = if sequence & COPIES_FLAG == 0 { Role::Log } else { Role::Copies };
    SegmentId { sequence: Sequence(sequence & !COPIES_FLAG), salt: Salt(salt), role }
}

impl Manifest {
    /// The whole file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.segments.len() + self.dropped.len();
        let mut out = Vec::with_capacity(FIXED_BYTES + ENTRY_BYTES * entries + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.dimension.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.segment_bytes.to_le_bytes());
        out.extend_from_slice(&self.next_sequence.0.to_le_bytes());
        // Both fit: a store has fewer than 2^32 segments.
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.dropped.len() as u32).to_le_bytes());
        for segment in self.segments.iter().chain(&self.dropped) {
            out.extend_from_slice(&encode_entry(segment));
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
        // The counts are only ever compared: no allocation is sized by them.
        let (live, dropped) = (word(&fixed[48..56]) as u32, word(&fixed[48..56]) >> 32);
        if entries.len() as u64 != (u64::from(live) + dropped) * ENTRY_BYTES as u64 {
            return Err(HeaderError::Damaged);
        }
        let mut segments: Vec<_> = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| decode_entry(word(&entry[..8]), word(&entry[8..])))
            .collect();
        let dropped = segments.split_off(live as usize);
        let next_sequence = Sequence(word(&fixed[40..48]));
        let ordered = segments.windows(2).all(|pair| pair[0].sequence < pair[1].sequence)
            && segments.iter().all(|segment| match segment.role {
                Role::Log => segment.sequence < next_sequence,
                // Made ahead of segments of the log that are not named yet.
                Role::Copies => segment.sequence <= Sequence::MAX,
            })
            && next_sequence > Sequence(0)
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
            dropped,
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
            segments: vec![
                SegmentId { sequence: Sequence(1), salt: Salt(5), role: Role::Log },
                SegmentId { sequence: Sequence(14), salt: Salt(6), role: Role::Copies },
            ],
            dropped: vec![SegmentId { sequence: Sequence(2), salt: Salt(7), role: Role::Log }],
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
