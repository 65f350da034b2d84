//! The segment's header page. Byte layout: DESIGN.md 3.1.

use crate::format::checksum::{self, Salt};
use crate::format::ids::{Sequence, UNIT_BYTES};

/// Version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Where the directory begins in every segment file.
pub const DIRECTORY_AT: usize = 4096;
/// Bytes of the identity, which fill one cache line.
pub const IDENTITY_BYTES: usize = 64;
/// Where the cursor lies.
pub const CURSOR_AT: usize = 64;
/// Where the durable end lies.
pub const DURABLE_AT: usize = 128;
/// Where the boot id of the last writer lies: two words.
pub const BOOT_AT: usize = 192;
/// Where the sealed slot count lies.
pub const SEALED_AT: usize = 208;
/// Where the sequence lies of the segment that this one took over from.
pub const PREDECESSOR_AT: usize = 216;
/// Where it is noted how the last flush stands.
pub const FLUSH_AT: usize = 224;
/// First byte that a directory may begin at: everything above must come before it.
pub const HEADER_END: usize = 256;

const MAGIC: [u8; 8] = *b"stratlog";

/// A store's identity, in its manifest and in each of its segments: 8 random bytes that a backup
/// shares with its original, because the key hashes in the slots depend on them, and 8 of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// The seed of the store's key hash: secret enough that colliding ids cannot be computed
    /// without reading the store's files.
    #[must_use]
    pub fn hash_seed(self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.0[..8])
    }

    /// The identity of a copy of this store.
    #[must_use]
    pub fn of_copy(self, own: [u8; 8]) -> Self {
        let mut id = self.0;
        id[8..].copy_from_slice(&own);
        Self(id)
    }
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// It takes new records: its sequence and its slots are their LSNs.
    #[default]
    Log,
    /// It holds copies that compaction made, which keep the LSNs of their first places.
    Copies,
}

/// What a manifest says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId {
    /// Place in the log's history.
    pub sequence: Sequence,
    /// Seed of all its checksums.
    pub salt: Salt,
    /// What it is for.
    pub role: Role,
}

/// What a segment is: written once, before the segment is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store it belongs to.
    pub store: StoreId,
    /// Its place in the log's history.
    pub sequence: Sequence,
    /// Seed of all its checksums.
    pub salt: Salt,
    /// `f32` values of every embedding.
    pub dimension: u32,
    /// Bytes of the file.
    pub segment_bytes: u64,
    /// Where its directory begins.
    pub directory_at: u32,
    /// What it is for.
    pub role: Role,
}

/// In the word that says where the directory begins: the segment holds copies.
const COPIES_FLAG: u32 = 1 << 31;

/// Why a header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Another magic number.
    Foreign,
    /// A format of another version.
    Version(u32),
    /// The checksum, or a field, does not hold.
    Damaged,
}

impl Identity {
    /// What a manifest says of such a segment.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        SegmentId { sequence: self.sequence, salt: self.salt, role: self.role }
    }

    /// The first cache line of the segment.
    #[must_use]
    pub fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.dimension.to_le_bytes());
        out[16..32].copy_from_slice(&self.store.0);
        out[32..40].copy_from_slice(&self.sequence.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.salt.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let flag = if self.role == Role::Copies { COPIES_FLAG } else { 0 };
        out[56..60].copy_from_slice(&(self.directory_at | flag).to_le_bytes());
        let sum = checksum::plain(&out[..60]);
        out[60..64].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The identity of the first cache line of a file.
    pub fn decode(bytes: &[u8; IDENTITY_BYTES]) -> Result<Self, HeaderError> {
        let u64_at = |at: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(b)
        };
        let u32_at = |at: usize| u64_at(at / 8 * 8) >> (at % 8 * 8) & 0xFFFF_FFFF;
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Foreign);
        }
        if u64::from(checksum::plain(&bytes[..60])) != u32_at(60) {
            return Err(HeaderError::Damaged);
        }
        let version = u32_at(8) as u32;
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut store = [0; 16];
        store.copy_from_slice(&bytes[16..32]);
        let place = u32_at(56) as u32;
        let identity = Self {
            store: StoreId(store),
            sequence: Sequence(u64_at(32)),
            salt: Salt(u64_at(40)),
            dimension: u32_at(12) as u32,
            segment_bytes: u64_at(48),
            directory_at: place & !COPIES_FLAG,
            role: if place & COPIES_FLAG == 0 { Role::Log } else { Role::Copies },
        };
        let directory_at = identity.directory_at as usize;
        let sound = (HEADER_END..=DIRECTORY_AT).contains(&directory_at)
            && directory_at.is_multiple_of(UNIT_BYTES)
            && (1..=Sequence::MAX.0).contains(&identity.sequence.0);
        if sound { Ok(identity) } else { Err(HeaderError::Damaged) }
    }
}

/// A slot count with its checksum: the durable end, or the sealed count, in one word.
#[must_use]
pub fn encode_count(count: u32, salt: Salt, at: usize) -> u64 {
    u64::from(count) | u64::from(count_sum(count, salt, at)) << 32
}

/// The slot count of such a word; `None` if it was never written, or damaged.
#[must_use]
pub fn decode_count(word: u64, salt: Salt, at: usize) -> Option<u32> {
    let count = word as u32;
    (word != 0 && (word >> 32) as u32 == count_sum(count, salt, at)).then_some(count)
}

/// A sequence with its checksum, in one word. `settled`: it is the last that is written there.
#[must_use]
pub fn encode_predecessor(sequence: Sequence, settled: bool, salt: Salt) -> u64 {
    sequence.0 << 24 | u64::from(predecessor_sum(sequence, settled, salt))
}

/// The sequence of such a word, and whether it is settled; `None` if it was never written, or
/// damaged.
#[must_use]
pub fn decode_predecessor(word: u64, salt: Salt) -> Option<(Sequence, bool)> {
    let sequence = Sequence(word >> 24);
    let is = |settled| word & 0xFF_FFFF == u64::from(predecessor_sum(sequence, settled, salt));
    let settled = [true, false].into_iter().find(|settled| is(*settled));
    settled.filter(|_| word != 0).map(|settled| (sequence, settled))
}

/// How a flush of a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushNote {
    /// None is under way, and none has failed.
    Ended,
    /// One is under way; or the process was killed inside it.
    Begun,
    /// One has failed: what the page cache shows may never reach the device.
    Failed,
}

/// The note of a flush under a boot.
#[must_use]
pub fn encode_flush(flush: FlushNote, boot: [u64; 2], salt: Salt) -> u64 {
    let code = match flush {
        FlushNote::Ended => return 0,
        FlushNote::Begun => 1,
        FlushNote::Failed => 2,
    };
    code << 32 | u64::from(boot_sum(boot, salt))
}

/// The note in such a word. One of another boot, or damaged, says nothing.
#[must_use]
pub fn decode_flush(word: u64, boot: [u64; 2], salt: Salt) -> FlushNote {
    if word as u32 != boot_sum(boot, salt) {
        return FlushNote::Ended;
    }
    match word >> 32 {
        1 => FlushNote::Begun,
        2 => FlushNote::Failed,
        _ => FlushNote::Ended,
    }
}

fn boot_sum(boot: [u64; 2], salt: Salt) -> u32 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&boot[0].to_le_bytes());
    bytes[8..16].copy_from_slice(&boot[1].to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.0.to_le_bytes());
    bytes[24..].copy_from_slice(&(FLUSH_AT as u64).to_le_bytes());
    checksum::plain(&bytes)
}

fn predecessor_sum(sequence: Sequence, settled: bool, salt: Salt) -> u32 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&sequence.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&salt.0.to_le_bytes());
    bytes[16..].copy_from_slice(&(PREDECESSOR_AT as u64).to_le_bytes());
    bytes[23] = u8::from(!settled);
    checksum::plain(&bytes) >> 8
}

fn count_sum(count: u32, salt: Salt, at: usize) -> u32 {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&count.to_le_bytes());
    bytes[4..12].copy_from_slice(&salt.0.to_le_bytes());
    bytes[12..].copy_from_slice(&(at as u64).to_le_bytes());
    checksum::plain(&bytes)
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            store: StoreId(*b"0123456789abcdef"),
            sequence: Sequence(77),
            salt: Salt(0xDEAD_BEEF_0BAD_CAFE),
            dimension: 768,
            segment_bytes: 64 << 20,
            directory_at: DIRECTORY_AT as u32,
            role: Role::Copies,
        }
    }

    #[test]
    fn an_identity_survives_the_round_trip_and_any_flipped_bit_is_seen() {
        let bytes = identity().encode();
        assert_eq!(Identity::decode(&bytes), Ok(identity()));
        for bit in 0..IDENTITY_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named_and_a_foreign_file_is_foreign() {
        let mut bytes = identity().encode();
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let sum = checksum::plain(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Identity::decode(&bytes), Err(HeaderError::Version(2)));
        assert_eq!(Identity::decode(&[0; IDENTITY_BYTES]), Err(HeaderError::Foreign));
    }

    #[test]
    fn a_predecessor_is_known_by_its_own_segment_only() {
        for sequence in [Sequence(1), Sequence(77), Sequence::MAX] {
            for settled in [false, true] {
                let word = encode_predecessor(sequence, settled, Salt(9));
                assert_eq!(decode_predecessor(word, Salt(9)), Some((sequence, settled)));
                assert_eq!(decode_predecessor(word, Salt(8)), None);
                assert_eq!(decode_predecessor(word ^ 1 << 30, Salt(9)), None);
            }
        }
        assert_eq!(decode_predecessor(0, Salt(9)), None);
    }

    #[test]
    fn a_count_is_not_taken_for_another_place_or_segment() {
        let word = encode_count(5, Salt(9), DURABLE_AT);
        assert_eq!(decode_count(word, Salt(9), DURABLE_AT), Some(5));
        assert_eq!(decode_count(word, Salt(9), SEALED_AT), None);
        assert_eq!(decode_count(word, Salt(8), DURABLE_AT), None);
        assert_eq!(decode_count(0, Salt(9), DURABLE_AT), None);
    }
}
