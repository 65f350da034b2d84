//! A frame: header, id, embedding, content. Byte layout: DESIGN.md 3.4.
//!
//! A further flag, or field, of a record touches these places. The fields of [`FrameHeader`],
//! `RecordParts` and `NewRecord` have no defaults, so the compiler finds where one is made:
//!
//! - *Found, for the header*: `FrameHeader::of`, which decodes, and `Reservation::fill_as`
//!   (`segment/writer/mod.rs`), which makes it from the parts.
//! - *Found, for the parts* (`segment/request.rs`): `Store::checked_put`, `Store::write` and
//!   `Store::remove` (`store/write.rs`), and for compaction `Engine::copy_record`.
//! - *Found, for the contract* (`store/new_record.rs`): `Batch::operations` (`store/batch.rs`). The
//!   field that it needs in `Operation`, and in `Batch::add`, is forgotten most easily: a batch
//!   keeps a copy of its own of each field.
//! - *Not found here*: the flags, the mask of known ones in `Outline::decode`, and
//!   `FrameHeader::encode`. A field needs [`FrameLayout`], `FrameHeader::begin_sum` and
//!   `Reservation::write_head` as well.
//! - *Not found in compaction*: `Engine::copy_record` also decides what a record that becomes a
//!   tombstone keeps.
//! - *Not found elsewhere*: `SlotBody` (`format/slot.rs`), if recovery must know it without the
//!   frame; `store/record.rs`; `cli/src/salvage.rs`; `fuzz/`; DESIGN.md 3.
//! - *Feature bits*: an older program takes an unknown flag for damage, so a bit of `Features`
//!   (`format/header.rs`) must forbid it to open the store, and `Features::KNOWN_INCOMPATIBLE` (or
//!   `KNOWN_READ_ONLY`) must name it here. It is set where an identity is made,
//!   `SegmentFiles::identity`, and where a manifest is: in `ManifestMeta`, for a backup in
//!   `SegmentFiles::of_backup`.
//! - *Backups*: `segment/replica.rs` copies the header as it is. Only words that the checksum
//!   leaves out concern it: the tag word, and words at the end of the frame.
//! - *Tests* that make parts or headers: `loom-tests/`, `tests/seams.rs`, `tests/group_commit.rs`.

use crate::format::checksum::{Salt, Salted};
use crate::format::ids::{Lsn, SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::Kind;

/// Bytes of the tag word, which the header's other fields follow.
pub const TAG_BYTES: usize = 8;
/// Bytes of the header, tag included; the id follows at once.
pub const HEADER_BYTES: usize = 40;
/// Bytes of the header without the tag.
pub const FIELDS_BYTES: usize = HEADER_BYTES - TAG_BYTES;
/// Bytes of the expiry, between header and id of a record that has one.
pub const EXPIRY_BYTES: usize = 8;
/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 1024;

const _: () = assert!(HEADER_BYTES + ID_BYTES_MAX < u16::MAX as usize);

/// How a record was written, which decides where its *previous* word lies: the index entry that it
/// took the place of, for the time while it is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Committed before it is published: there is no previous word.
    Blind,
    /// Decided by the index: the last 8 bytes of the frame are the previous word, and the 16 bytes
    /// before them say what the write has seen; of a tombstone, which has no user tag, the tag word
    /// is the previous one, and nothing is said.
    Conditional,
}

/// In the tag word: the record was moved, and the tag with it. The other 63 bits are the tag as it
/// was then.
pub const FORWARD: u64 = 1 << 63;
/// Bytes of the previous word at the end of a conditional put.
const PREVIOUS_BYTES: usize = 8;
/// Bytes before it: the LSN that the put has seen, and the checksum of that.
const SEEN_BYTES: usize = 16;

/// Flag in the frame header: a conditional put.
const FLAG_CONDITIONAL: u8 = 1;
/// Flag in the frame header: the record expires, and its id begins behind the expiry.
const FLAG_EXPIRES: u8 = 2;
/// Flag in the frame header: the record counts only if the batch does that it was written with.
const FLAG_MEMBER: u8 = 4;

/// Where the parts of a frame lie, in bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// Beginning of the id.
    pub id_at: usize,
    /// Beginning of the embedding, a multiple of 64.
    pub embedding_at: usize,
    /// Beginning of the content.
    pub content_at: usize,
    /// End of the content.
    pub end: usize,
    /// Whether what was seen and a previous word come last.
    has_previous: bool,
}

impl FrameLayout {
    /// The layout of a frame with these lengths. `dimension` is 0 for a tombstone. `usize` has 64
    /// bits and the lengths at most 32, so nothing here can overflow.
    #[must_use]
    #[inline]
    pub fn new(
        id_len: usize,
        dimension: usize,
        content_len: usize,
        writing: WriteMode,
        expires: bool,
    ) -> Self {
        let id_at = Self::id_at(expires);
        let embedding_at = whole_units(id_at + id_len);
        let content_at = embedding_at + dimension * size_of::<f32>();
        let has_previous = writing == WriteMode::Conditional && dimension > 0;
        Self { id_at, embedding_at, content_at, end: content_at + content_len, has_previous }
    }

    /// The layout of the frame with this outline, in a store whose embeddings have so many bytes.
    #[must_use]
    #[inline]
    pub fn of(outline: Outline, embedding_bytes: u32) -> Self {
        let bytes = if outline.kind == Kind::Put { embedding_bytes } else { 0 };
        let (id_len, content_len) = (usize::from(outline.id_len), outline.content_len as usize);
        let dimension = bytes as usize / size_of::<f32>();
        Self::new(id_len, dimension, content_len, outline.writing(), outline.expires())
    }

    /// Where the id begins.
    #[must_use]
    #[inline]
    pub fn id_at(expires: bool) -> usize {
        HEADER_BYTES + if expires { EXPIRY_BYTES } else { 0 }
    }

    /// Bytes of the whole frame, a multiple of 64.
    #[must_use]
    #[inline]
    pub fn bytes(self) -> u64 {
        let last = if self.has_previous { SEEN_BYTES + PREVIOUS_BYTES } else { 0 };
        whole_units(self.end + last) as u64
    }

    /// Returns where a conditional put stores the LSN that it has observed, if this is one.
    #[must_use]
    pub fn seen_at(self) -> Option<usize> {
        self.has_previous.then(|| self.bytes() as usize - PREVIOUS_BYTES - SEEN_BYTES)
    }

    /// Where the previous word lies, if the record is a conditional one.
    #[must_use]
    pub fn previous_at(self) -> usize {
        if self.has_previous { self.bytes() as usize - PREVIOUS_BYTES } else { 0 }
    }
}

const _: () = assert!(usize::BITS == 64, "lengths are summed in 64 bits");

/// So many bytes, and what is missing to a multiple of 64.
#[inline]
fn whole_units(bytes: usize) -> usize {
    (bytes + (UNIT_BYTES - 1)) & !(UNIT_BYTES - 1)
}

/// What of a header says where the frame's parts lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Bytes of the content.
    pub content_len: u32,
    /// Bytes of the id.
    pub id_len: u16,
    /// Put or tombstone.
    pub kind: Kind,
    flags: u8,
}

impl Outline {
    /// Of nothing.
    pub const NONE: Self = Self { content_len: 0, id_len: 0, kind: Kind::Tombstone, flags: 0 };

    /// The outline of bytes 8..48 of a frame, its fields within their ranges.
    #[inline]
    pub fn decode(bytes: &HeaderBytes) -> Result<Self, &'static str> {
        let (id_len, kind, flags) = (u16::from_le_bytes(part(bytes, 28)), bytes[30], bytes[31]);
        let kind = Kind::from_byte(kind).ok_or("unknown kind in a frame header")?;
        if flags & !(FLAG_CONDITIONAL | FLAG_EXPIRES | FLAG_MEMBER) != 0 {
            return Err("unknown flags in a frame header");
        }
        let content_len = u32::from_le_bytes(part(bytes, 16));
        let outline = Self { content_len, id_len, kind, flags };
        if outline.expires() && part(bytes, 32) == [0; EXPIRY_BYTES] {
            return Err("an impossible expiry in a frame header");
        }
        if id_len == 0 || usize::from(id_len) > ID_BYTES_MAX {
            return Err("impossible id length in a frame header");
        }
        Ok(outline)
    }

    /// Returns whether it has an expiry.
    #[must_use]
    #[inline]
    pub fn expires(self) -> bool {
        self.flags & FLAG_EXPIRES != 0
    }

    /// Returns whether the index decided about it.
    #[must_use]
    #[inline]
    pub fn writing(self) -> WriteMode {
        if self.flags & FLAG_CONDITIONAL != 0 { WriteMode::Conditional } else { WriteMode::Blind }
    }
}

/// Bytes 8..48 of a frame: the header without the tag, and the expiry if there is one.
pub type HeaderBytes = [u8; FIELDS_BYTES + EXPIRY_BYTES];

/// `N` bytes of a header.
#[inline]
fn part<const N: usize>(bytes: &HeaderBytes, at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// Where a frame lies, as far as its checksum is bound to that.
#[derive(Clone, Copy, Debug)]
pub struct FramePlace {
    /// The salt of its segment.
    pub salt: Salt,
    /// Where it begins there.
    pub offset: Units,
}

/// The header without the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Order of the write.
    pub lsn: Lsn,
    /// When it was put, nanoseconds since 1970.
    pub created_ns: u64,
    /// Bytes of the content.
    pub content_len: u32,
    /// The slot that points here.
    pub slot: SlotNumber,
    /// See [`FrameHeader::sum`].
    pub checksum: u32,
    /// Bytes of the id.
    pub id_len: u16,
    /// Put or tombstone.
    pub kind: Kind,
    /// Whether the index decided about it.
    pub writing: WriteMode,
    /// Whether it was written as a member of a batch. A copy stands for itself.
    pub in_batch: bool,
    /// When it is there no more, nanoseconds since 1970; 0: never.
    pub expires_ns: u64,
}

impl FrameHeader {
    /// Returns whether it has an expiry.
    #[must_use]
    #[inline]
    pub fn expires(&self) -> bool {
        self.expires_ns != 0
    }

    /// Bytes 8..40 of the frame. The expiry, if there is one, follows.
    #[must_use]
    pub fn encode(&self) -> [u8; FIELDS_BYTES] {
        let mut out = [0; FIELDS_BYTES];
        out[0..8].copy_from_slice(&self.lsn.as_u64().to_le_bytes());
        out[8..16].copy_from_slice(&self.created_ns.to_le_bytes());
        out[16..20].copy_from_slice(&self.content_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.slot.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.checksum.to_le_bytes());
        out[28..30].copy_from_slice(&self.id_len.to_le_bytes());
        out[30] = self.kind.byte();
        if self.writing == WriteMode::Conditional {
            out[31] |= FLAG_CONDITIONAL;
        }
        if self.expires() {
            out[31] |= FLAG_EXPIRES;
        }
        if self.in_batch {
            out[31] |= FLAG_MEMBER;
        }
        out
    }

    /// The header of bytes 8..48, its fields within their ranges. Whether the frame fits where it
    /// lies is the segment's to check.
    #[inline]
    pub fn decode(bytes: &HeaderBytes) -> Result<Self, &'static str> {
        Ok(Self::of(Outline::decode(bytes)?, bytes))
    }

    /// The header whose outline is known.
    #[inline]
    pub(crate) fn of(outline: Outline, bytes: &HeaderBytes) -> Self {
        let expires_ns = if outline.expires() { u64::from_le_bytes(part(bytes, 32)) } else { 0 };
        Self {
            lsn: Lsn::from_u64(u64::from_le_bytes(part(bytes, 0))),
            created_ns: u64::from_le_bytes(part(bytes, 8)),
            content_len: outline.content_len,
            slot: SlotNumber(u32::from_le_bytes(part(bytes, 20))),
            checksum: u32::from_le_bytes(part(bytes, 24)),
            id_len: outline.id_len,
            kind: outline.kind,
            writing: outline.writing(),
            in_batch: outline.flags & FLAG_MEMBER != 0,
            expires_ns,
        }
    }

    /// The checksum of the frame at a place: of the header but for tag and checksum, of id,
    /// embedding and content. Padding and tag are not covered.
    #[must_use]
    pub fn sum(&self, place: FramePlace, id: &[u8], embedding: &[u8], content: &[u8]) -> u32 {
        self.begin_sum(place, id).and(embedding).and(content).finish()
    }

    /// The same without embedding and content, which are to be added in this order.
    pub fn begin_sum(&self, place: FramePlace, id: &[u8]) -> Salted {
        let fields = self.encode();
        let expiry = self.expires_ns.to_le_bytes();
        Salted::of_frame(place.salt, self.slot, place.offset)
            .and(&fields[..24])
            .and(&fields[28..])
            .and(if self.expires() { &expiry } else { &[] })
            .and(id)
    }
}

/// Units of a frame that is `bytes` long, if a segment can hold so many.
#[must_use]
pub fn units_of(bytes: u64) -> Option<Units> {
    u32::try_from(bytes.div_ceil(UNIT_BYTES as u64)).ok().map(Units)
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_survives_the_round_trip(
            lsn: u64, created_ns: u64, content_len: u32, slot: u32, checksum: u32,
            id_len in 1u16..=1024, tombstone: bool, conditional: bool, in_batch: bool,
            expires_ns: u64,
        ) {
            let header = FrameHeader {
                lsn: Lsn::from_u64(lsn), created_ns, content_len, slot: SlotNumber(slot), checksum,
                id_len, kind: if tombstone { Kind::Tombstone } else { Kind::Put },
                writing: if conditional { WriteMode::Conditional } else { WriteMode::Blind },
                in_batch, expires_ns,
            };
            let mut bytes = [0; FIELDS_BYTES + EXPIRY_BYTES];
            bytes[..FIELDS_BYTES].copy_from_slice(&header.encode());
            bytes[FIELDS_BYTES..].copy_from_slice(&expires_ns.to_le_bytes());
            prop_assert_eq!(FrameHeader::decode(&bytes), Ok(header));
        }

        #[test]
        fn parts_do_not_overlap_and_the_embedding_is_aligned(
            id in 1usize..=1024, dimension in 0usize..=65_536, content in 0usize..=1 << 29,
            expires: bool,
        ) {
            let layout = FrameLayout::new(id, dimension, content, WriteMode::Blind, expires);
            prop_assert!(layout.embedding_at >= layout.id_at + id);
            prop_assert_eq!(layout.embedding_at % 64, 0);
            prop_assert_eq!(layout.content_at, layout.embedding_at + 4 * dimension);
            prop_assert!(layout.bytes() as usize >= layout.content_at + content);
            prop_assert_eq!(layout.bytes() % 64, 0);
            let layout = FrameLayout::new(id, dimension, content, WriteMode::Conditional, expires);
            let previous = layout.previous_at();
            prop_assert!(previous.is_multiple_of(8) && previous + 8 <= layout.bytes() as usize);
            prop_assert!(previous >= layout.end || dimension == 0 && previous == 0);
            let seen = layout.seen_at();
            prop_assert!(seen.is_none_or(|at| at >= layout.end && at + SEEN_BYTES == previous));
            prop_assert_eq!(seen.is_some(), dimension > 0);
        }
    }

    #[test]
    fn impossible_fields_are_refused() {
        let fields = FrameHeader {
            lsn: Lsn::ZERO,
            created_ns: 0,
            content_len: 0,
            slot: SlotNumber(0),
            checksum: 0,
            id_len: 1,
            kind: Kind::Put,
            writing: WriteMode::Blind,
            in_batch: false,
            expires_ns: 0,
        }
        .encode();
        let mut bytes = [0; FIELDS_BYTES + EXPIRY_BYTES];
        bytes[..FIELDS_BYTES].copy_from_slice(&fields);
        assert!(FrameHeader::decode(&bytes).is_ok());
        bytes[28..30].copy_from_slice(&0u16.to_le_bytes());
        assert!(FrameHeader::decode(&bytes).is_err());
        bytes[28..30].copy_from_slice(&1025u16.to_le_bytes());
        assert!(FrameHeader::decode(&bytes).is_err());
        bytes[28..30].copy_from_slice(&1u16.to_le_bytes());
        bytes[30] = 9;
        assert!(FrameHeader::decode(&bytes).is_err());
        bytes[30] = Kind::Put.byte();
        for flags in [FLAG_EXPIRES, 8, 0xFF] {
            bytes[31] = flags;
            assert!(FrameHeader::decode(&bytes).is_err(), "flags {flags}");
        }
    }
}
