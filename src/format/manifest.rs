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
//! | 56 | 24 | features: compatible, read-only-compatible, incompatible |
//! | 80 | 8 | incarnation |
//! | 88 | 4 | length of the fixed part: 128 or, by a later version, more |
//! | 92 | | reserved, up to the length of the fixed part; kept as it is found |
//! | then | 24 each | sequence (8), salt (8), role (4), reserved (4): segments, then the dropped |
//! | end | 4 | CRC-32 of all before it |

use crate::format::checksum::{self, Salt};
use crate::format::header::{
    self, FORMAT_VERSION, Features, HeaderError, Role, SegmentId, StoreId,
};
use crate::format::ids::Sequence;

const MAGIC: [u8; 8] = *b"stratman";
/// Bytes of the fixed part that this version writes.
const FIXED_BYTES: usize = 128;
/// Bytes of the fields that this version knows. The rest of the fixed part is reserved.
const KNOWN_BYTES: usize = 92;
const FEATURES_AT: usize = 56;
const INCARNATION_AT: usize = 80;
const FIXED_BYTES_AT: usize = 88;
const ENTRY_BYTES: usize = 24;

/// The incarnation of a store that was just created.
pub const FIRST_INCARNATION: u64 = 1;

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
    /// What does not change from one manifest of a store to the next, or rarely.
    pub meta: ManifestMeta,
}

/// What a manifest says besides which segments there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestMeta {
    /// Optional features that a writer of the store used.
    pub features: Features,
    /// Changes whenever a recovery gives up a write that a reader may have seen. Two incarnations
    /// can only be compared for equality.
    pub incarnation: u64,
    /// The reserved bytes of the fixed part; empty if they are those that this version writes.
    reserved: Vec<u8>,
}

impl ManifestMeta {
    /// What this version writes, with a given incarnation.
    #[must_use]
    pub fn of_incarnation(incarnation: u64) -> Self {
        Self { features: Features::default(), incarnation, reserved: Vec::new() }
    }
}

impl Default for ManifestMeta {
    fn default() -> Self {
        Self::of_incarnation(FIRST_INCARNATION)
    }
}

fn encode_entry(segment: &SegmentId) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    out[..8].copy_from_slice(&segment.sequence.0.to_le_bytes());
    out[8..16].copy_from_slice(&segment.salt.0.to_le_bytes());
    out[16..20].copy_from_slice(&segment.role.number().to_le_bytes());
    out
}

fn decode_entry(entry: &[u8]) -> Option<SegmentId> {
    // The upper half is nothing's yet: what a later version writes there takes a feature word.
    let role = Role::from_number(u32::try_from(word(entry, 16)).ok()?)?;
    Some(SegmentId { sequence: Sequence(word(entry, 0)), salt: Salt(word(entry, 8)), role })
}

/// The 8 bytes at a place that lies inside, as the caller has checked.
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Manifest {
    /// The whole file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.segments.len() + self.dropped.len();
        let fixed_bytes = FIXED_BYTES.max(KNOWN_BYTES + self.meta.reserved.len());
        let mut out = Vec::with_capacity(fixed_bytes + ENTRY_BYTES * entries + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.dimension.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.segment_bytes.to_le_bytes());
        out.extend_from_slice(&self.next_sequence.0.to_le_bytes());
        // Both fit: a store has fewer than 2^32 segments.
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.dropped.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.meta.features.encode());
        out.extend_from_slice(&self.meta.incarnation.to_le_bytes());
        // Fits: the length was read from these four bytes, or is that of this version.
        out.extend_from_slice(&(fixed_bytes as u32).to_le_bytes());
        out.extend_from_slice(&self.meta.reserved);
        out.resize(fixed_bytes, 0);
        for segment in self.segments.iter().chain(&self.dropped) {
            out.extend_from_slice(&encode_entry(segment));
        }
        let sum = checksum::plain(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// The manifest of a whole file. Features that concern only writers are the caller's to check.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        header::check_version(bytes, MAGIC)?;
        let bytes = without_padding(bytes);
        let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(HeaderError::Damaged);
        };
        if body.len() < FIXED_BYTES || checksum::plain(body) != u32::from_le_bytes(*sum) {
            return Err(HeaderError::Damaged);
        }
        let features = Features::decode([0, 8, 16].map(|n| word(body, FEATURES_AT + n)));
        match features.forbidding(false) {
            0 => {}
            unknown => return Err(HeaderError::Features(unknown)),
        }
        let fixed_bytes = word(body, FIXED_BYTES_AT) as u32 as usize;
        if !(FIXED_BYTES..=body.len()).contains(&fixed_bytes) {
            return Err(HeaderError::Damaged);
        }
        let (fixed, entries) = body.split_at(fixed_bytes);
        let (segments, dropped) = decode_entries(entries, word(fixed, 48))?;
        let next_sequence = Sequence(word(fixed, 40));
        if !are_ordered(&segments, next_sequence) {
            return Err(HeaderError::Damaged);
        }
        let mut store = [0; 16];
        store.copy_from_slice(&fixed[16..32]);
        let reserved = &fixed[KNOWN_BYTES..];
        let usual = fixed_bytes == FIXED_BYTES && reserved.iter().all(|&byte| byte == 0);
        let reserved = if usual { Vec::new() } else { reserved.to_vec() };
        let incarnation = word(fixed, INCARNATION_AT);
        Ok(Self {
            store: StoreId(store),
            dimension: (word(fixed, 8) >> 32) as u32,
            segment_bytes: word(fixed, 32),
            next_sequence,
            segments,
            dropped,
            meta: ManifestMeta { features, incarnation, reserved },
        })
    }
}

/// A manifest's own bytes, if zeros follow them: its file may be longer than it is.
fn without_padding(bytes: &[u8]) -> &[u8] {
    if bytes.len() < FIXED_BYTES {
        return bytes;
    }
    let counts = word(bytes, 48);
    let entries = u64::from(counts as u32) + (counts >> 32);
    let fixed = u64::from(word(bytes, FIXED_BYTES_AT) as u32);
    let end = fixed + entries * ENTRY_BYTES as u64 + 4;
    match usize::try_from(end).ok().and_then(|end| bytes.split_at_checked(end)) {
        Some((own, padding)) if padding.iter().all(|&byte| byte == 0) => own,
        _ => bytes,
    }
}

/// The segments and the dropped ones. `counts`: how many of each, which are only ever compared: no
/// allocation is sized by them.
fn decode_entries(
    entries: &[u8],
    counts: u64,
) -> Result<(Vec<SegmentId>, Vec<SegmentId>), HeaderError> {
    let (live, dropped) = (counts as u32, counts >> 32);
    if entries.len() as u64 != (u64::from(live) + dropped) * ENTRY_BYTES as u64 {
        return Err(HeaderError::Damaged);
    }
    let decoded: Option<Vec<_>> = entries.chunks_exact(ENTRY_BYTES).map(decode_entry).collect();
    let mut segments = decoded.ok_or(HeaderError::Damaged)?;
    let dropped = segments.split_off(live as usize);
    Ok((segments, dropped))
}

fn are_ordered(segments: &[SegmentId], next_sequence: Sequence) -> bool {
    segments.windows(2).all(|pair| pair[0].sequence < pair[1].sequence)
        && segments.iter().all(|segment| match segment.role {
            Role::Log => segment.sequence < next_sequence,
            // Made ahead of segments of the log that are not named yet.
            Role::Copies => segment.sequence <= Sequence::MAX,
        })
        && next_sequence > Sequence(0)
        && next_sequence <= Sequence::MAX
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let features = Features { compatible: 5, read_only: 6, incompatible: 0 };
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
            meta: ManifestMeta { features, incarnation: 3, reserved: Vec::new() },
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

    #[test]
    fn another_version_is_named_whatever_follows() {
        for version in [1u32, 3] {
            let mut bytes = manifest().encode();
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            for len in 12..bytes.len() {
                let expected = Err(HeaderError::Version(version));
                assert_eq!(Manifest::decode(&bytes[..len]), expected);
            }
        }
    }

    #[test]
    fn unknown_incompatible_features_are_named_and_the_others_are_kept() {
        let mut newer = manifest();
        newer.meta.features.incompatible = 1 << 40;
        let expected = Err(HeaderError::Features(1 << 40));
        assert_eq!(Manifest::decode(&newer.encode()), expected);
        // Not if it is damaged: the bit may be.
        let mut bytes = newer.encode();
        bytes[20] ^= 1;
        assert_eq!(Manifest::decode(&bytes), Err(HeaderError::Damaged));
    }

    #[test]
    fn a_longer_fixed_part_and_reserved_bytes_are_kept() {
        for reserved in [vec![0; 36 + 40], vec![1; 36 + 7], vec![9; 36]] {
            let mut newer = manifest();
            newer.meta.reserved = reserved;
            let bytes = newer.encode();
            assert_eq!(Manifest::decode(&bytes), Ok(newer));
        }
        for fixed_bytes in [0u32, 127, 4096, u32::MAX] {
            let mut bytes = manifest().encode();
            bytes[FIXED_BYTES_AT..KNOWN_BYTES].copy_from_slice(&fixed_bytes.to_le_bytes());
            let end = bytes.len() - 4;
            let sum = checksum::plain(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Manifest::decode(&bytes), Err(HeaderError::Damaged), "{fixed_bytes}");
        }
    }
}
