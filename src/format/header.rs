//! The segment's header page. Byte layout: DESIGN.md 3.1.

use crate::format::checksum::{self, Salt};
use crate::format::ids::{Sequence, UNIT_BYTES};
use std::ops::Range;

/// Version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 2;
/// Where the directory begins in every segment file.
pub const DIRECTORY_AT: usize = 4096;
/// Bytes of the identity, which fills two cache lines.
pub const IDENTITY_BYTES: usize = 128;
/// Where the cursor lies.
pub const CURSOR_AT: usize = 128;
/// Where the durable end lies.
pub const DURABLE_AT: usize = 192;
/// Where the boot id of the last writer lies: two words.
pub const BOOT_AT: usize = 256;
/// Where the sealed slot count lies.
pub const SEALED_AT: usize = 272;
/// Where the sequence lies of the segment that this one took over from.
pub const PREDECESSOR_AT: usize = 280;
/// Where it is noted how the last flush stands.
pub const FLUSH_AT: usize = 288;
/// First byte that a directory may begin at: everything above must come before it.
pub const HEADER_END: usize = 320;

/// The boot id where the kernel does not tell it.
pub const UNKNOWN_BOOT: [u64; 2] = [0; 2];

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
    pub fn of_backup(self, own: [u8; 8]) -> Self {
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

/// Which optional features of the format a file uses, one bit each. This version knows none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A program that does not know these may read and write the file.
    pub compatible: u64,
    /// A program that does not know these may read the file, and must not write to the store.
    pub read_only: u64,
    /// A program that does not know these must not interpret the file.
    pub incompatible: u64,
}

impl Features {
    /// Bytes of the three words.
    pub const BYTES: usize = 24;
    const KNOWN_READ_ONLY: u64 = 0;
    const KNOWN_INCOMPATIBLE: u64 = 0;

    /// The three words, in order.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.compatible.to_le_bytes());
        out[8..16].copy_from_slice(&self.read_only.to_le_bytes());
        out[16..].copy_from_slice(&self.incompatible.to_le_bytes());
        out
    }

    /// The features that three words name.
    #[must_use]
    pub fn decode(words: [u64; 3]) -> Self {
        let [compatible, read_only, incompatible] = words;
        Self { compatible, read_only, incompatible }
    }

    /// The features that forbid this program to open the file, for writing or for reading; 0 if it
    /// may.
    #[must_use]
    pub fn forbidding(self, writable: bool) -> u64 {
        let read_only = if writable { self.read_only & !Self::KNOWN_READ_ONLY } else { 0 };
        self.incompatible & !Self::KNOWN_INCOMPATIBLE | read_only
    }
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
    /// Optional features that its writer used.
    pub features: Features,
}

/// Why a header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Another magic number.
    Foreign,
    /// A format of another version.
    Version(u32),
    /// The checksum holds, but features are used that this version does not know.
    Features(u64),
    /// The checksum, or a field, does not hold.
    Damaged,
}

/// The version that follows a magic number. It is tested before any checksum: a later version may
/// place its checksum elsewhere.
pub(super) fn check_version(bytes: &[u8], magic: [u8; 8]) -> Result<(), HeaderError> {
    let Some((start, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(HeaderError::Foreign);
    };
    let version = rest.first_chunk().filter(|_| *start == magic).ok_or(HeaderError::Foreign)?;
    let version = u32::from_le_bytes(*version);
    if version == FORMAT_VERSION { Ok(()) } else { Err(HeaderError::Version(version)) }
}

/// Where the store lies in the identity.
pub const STORE_AT: Range<usize> = 16..32;
/// Where the sequence lies in it, and the half of the salt that is in the file's name, too.
pub const NAMED_AT: Range<usize> = 32..44;
/// Where the role lies in the identity.
const ROLE_AT: usize = 60;
/// Where the features lie in the identity.
const FEATURES_AT: usize = 64;
/// Where the checksum of the identity lies. Up to here reserved bytes follow the features.
const IDENTITY_SUM_AT: usize = IDENTITY_BYTES - 4;

const _: () = assert!(IDENTITY_BYTES <= CURSOR_AT && FLUSH_AT + 8 <= HEADER_END);
const _: () = assert!(HEADER_END.is_multiple_of(UNIT_BYTES) && HEADER_END <= DIRECTORY_AT);

impl Role {
    /// The number on disk.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Log => 0,
            Self::Copies => 1,
        }
    }

    /// The role of a number from disk.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Log, Self::Copies].into_iter().find(|role| role.number() == number)
    }
}

impl Identity {
    /// What a manifest says of such a segment.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        SegmentId { sequence: self.sequence, salt: self.salt, role: self.role }
    }

    /// The first two cache lines of the segment.
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
        out[56..60].copy_from_slice(&self.directory_at.to_le_bytes());
        out[ROLE_AT..ROLE_AT + 4].copy_from_slice(&self.role.number().to_le_bytes());
        let features = self.features.encode();
        out[FEATURES_AT..FEATURES_AT + Features::BYTES].copy_from_slice(&features);
        let sum = checksum::plain(&out[..IDENTITY_SUM_AT]);
        out[IDENTITY_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The identity of the first two cache lines of a file. The caller checks its features: which
    /// store and which segment it is can be told whatever they are.
    pub fn decode(bytes: &[u8; IDENTITY_BYTES]) -> Result<Self, HeaderError> {
        let u64_at = |at: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(b)
        };
        let u32_at = |at: usize| (u64_at(at / 8 * 8) >> (at % 8 * 8)) as u32;
        check_version(bytes, MAGIC)?;
        if checksum::plain(&bytes[..IDENTITY_SUM_AT]) != u32_at(IDENTITY_SUM_AT) {
            return Err(HeaderError::Damaged);
        }
        let mut store = [0; 16];
        store.copy_from_slice(&bytes[16..32]);
        let identity = Self {
            store: StoreId(store),
            sequence: Sequence(u64_at(32)),
            salt: Salt(u64_at(40)),
            dimension: u32_at(12),
            segment_bytes: u64_at(48),
            directory_at: u32_at(56),
            role: Role::from_number(u32_at(ROLE_AT)).ok_or(HeaderError::Damaged)?,
            features: Features::decode([0, 8, 16].map(|n| u64_at(FEATURES_AT + n))),
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

/// A sequence with its checksum, in one word. `confirmed`: it is the last that is written there.
#[must_use]
pub fn encode_predecessor(sequence: Sequence, confirmed: bool, salt: Salt) -> u64 {
    sequence.0 << 24 | u64::from(predecessor_sum(sequence, confirmed, salt))
}

/// The sequence of such a word, and whether it is confirmed; `None` if it was never written, or
/// damaged.
#[must_use]
pub fn decode_predecessor(word: u64, salt: Salt) -> Option<(Sequence, bool)> {
    let sequence = Sequence(word >> 24);
    let is = |confirmed| word & 0xFF_FFFF == u64::from(predecessor_sum(sequence, confirmed, salt));
    let confirmed = [true, false].into_iter().find(|confirmed| is(*confirmed));
    confirmed.filter(|_| word != 0).map(|confirmed| (sequence, confirmed))
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

fn predecessor_sum(sequence: Sequence, confirmed: bool, salt: Salt) -> u32 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&sequence.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&salt.0.to_le_bytes());
    bytes[16..].copy_from_slice(&(PREDECESSOR_AT as u64).to_le_bytes());
    bytes[23] = u8::from(!confirmed);
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
            features: Features { compatible: 1, read_only: 2, incompatible: 4 },
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
    fn another_version_is_named_whatever_its_checksum_and_a_foreign_file_is_foreign() {
        for version in [1u32, 3] {
            let mut bytes = identity().encode();
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            assert_eq!(Identity::decode(&bytes), Err(HeaderError::Version(version)));
        }
        assert_eq!(Identity::decode(&[0; IDENTITY_BYTES]), Err(HeaderError::Foreign));
    }

    /// A later version may use them for what concerns this one not.
    #[test]
    fn reserved_bytes_are_ignored() {
        let mut bytes = identity().encode();
        bytes[FEATURES_AT + Features::BYTES..IDENTITY_SUM_AT].fill(7);
        let sum = checksum::plain(&bytes[..IDENTITY_SUM_AT]);
        bytes[IDENTITY_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Identity::decode(&bytes), Ok(identity()));
    }

    #[test]
    fn only_unknown_features_forbid_and_compatible_ones_never_do() {
        let features = Features { compatible: 1, read_only: 2, incompatible: 4 };
        assert_eq!((features.forbidding(false), features.forbidding(true)), (4, 6));
        let compatible = Features { compatible: u64::MAX, ..Features::default() };
        assert_eq!((compatible.forbidding(false), compatible.forbidding(true)), (0, 0));
    }

    #[test]
    fn a_predecessor_is_known_by_its_own_segment_only() {
        for sequence in [Sequence(1), Sequence(77), Sequence::MAX] {
            for confirmed in [false, true] {
                let word = encode_predecessor(sequence, confirmed, Salt(9));
                assert_eq!(decode_predecessor(word, Salt(9)), Some((sequence, confirmed)));
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
