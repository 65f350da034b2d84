//! Payload: frames as borrowed slices, without a copy and with every length bounded before use, and
//! the stores of the writer that fills one. The one file of a segment that touches payload memory.
//!
//! F4: an offset of a frame leaves its writer only by publication: an index entry or a slot word
//! that is stored with Release after the fill. Who has it loaded that with Acquire, so the fill
//! happened before; and published bytes do not change. A segment that is borrowed exclusively has
//! no writer.
#![expect(unsafe_code, reason = "reads and writes payload by the rules of `Memory`")]

use super::Segment;
use crate::format::frame::{
    EXPIRY_BYTES, FIELDS_BYTES, FrameHeader, FrameLayout, HeaderBytes, Outline, TAG_BYTES,
};
use crate::format::ids::{Lsn, UNIT_BYTES, Units};
use crate::format::slot::{Kind, SLOT_BYTES};
use crate::memory::Memory;

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameDamage(pub &'static str);

/// A frame in place: small, because a get hands it on by value. What a get does not need of the
/// header stays where it is until somebody asks for it.
///
/// F1: made by `Segment::frame_at` alone, which has seen that the parts follow each other inside
/// `bytes`: header and id before `embedding_at`, that before `content_at`, that before the end;
/// `embedding_at` is a multiple of 64 in a frame that begins at one, and from there to `content_at`
/// lie whole values.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'s> {
    /// From the end of the tag to the end of the content.
    bytes: &'s [u8],
    offset: Units,
    /// Counted, as the next one, from the beginning of `bytes`.
    content_at: u32,
    embedding_at: u16,
    id_at: u8,
    expires: bool,
    id_len: u16,
    kind: Kind,
}

impl<'s> Frame<'s> {
    fn outline(&self) -> Outline {
        // Decoded before, when the frame was made; written once.
        let none = |_| Outline::NONE;
        Outline::decode(self.fields()).unwrap_or_else(none)
    }

    /// The header's fields.
    #[must_use]
    #[inline]
    pub fn header(&self) -> FrameHeader {
        FrameHeader::of(self.outline(), self.fields())
    }

    /// Order of the write.
    #[must_use]
    #[inline]
    pub fn lsn(&self) -> Lsn {
        self.header().lsn
    }

    fn fields(&self) -> &'s HeaderBytes {
        // The shortest frame is one unit, which is longer.
        self.bytes.first_chunk().unwrap_or(&[0; FIELDS_BYTES + EXPIRY_BYTES])
    }

    /// Put or tombstone.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the frame begins.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> Units {
        self.offset
    }

    /// Returns whether it has an expiry.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.expires
    }

    /// Returns whether its time is over. Asks the clock only if it has an expiry.
    #[must_use]
    #[inline]
    pub fn has_expired(&self) -> bool {
        self.expires && self.is_past_its_expiry()
    }

    #[cold]
    fn is_past_its_expiry(&self) -> bool {
        self.header().expires_ns <= crate::clock::now_ns()
    }

    pub(super) fn layout(&self) -> FrameLayout {
        FrameLayout::of(self.outline(), self.embedding_bytes().len() as u32)
    }

    /// Bytes of the frame in the log.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.layout().bytes()
    }

    #[inline]
    fn part(&self, from: usize, to: usize) -> &'s [u8] {
        debug_assert!(from <= to && to <= self.bytes.len(), "[F1]");
        // SAFETY: [F1], which every caller goes by.
        unsafe { self.bytes.get_unchecked(from..to) }
    }

    /// The id.
    #[must_use]
    #[inline]
    pub fn id(&self) -> &'s [u8] {
        let id_at = usize::from(self.id_at);
        self.part(id_at, id_at + usize::from(self.id_len))
    }

    /// The embedding; empty for a tombstone.
    #[must_use]
    #[inline]
    pub fn embedding(&self) -> &'s [f32] {
        let bytes = self.embedding_bytes();
        debug_assert!(bytes.as_ptr().cast::<f32>().is_aligned(), "[F1]");
        // SAFETY: [F1], whole values at a multiple of 64 bytes; any bits are an `f32`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<f32>()) }
    }

    /// The embedding's bytes.
    #[must_use]
    #[inline]
    pub fn embedding_bytes(&self) -> &'s [u8] {
        self.part(usize::from(self.embedding_at), self.content_at as usize)
    }

    /// The content.
    #[must_use]
    #[inline]
    pub fn content(&self) -> &'s [u8] {
        self.part(self.content_at as usize, self.bytes.len())
    }
}

const _: () = assert!(cfg!(target_endian = "little"), "embeddings are mapped as little-endian f32");

impl<M: Memory> Segment<M> {
    /// Returns the published frame at an offset, its lengths bounded by the segment.
    #[inline(always)]
    pub fn frame(&self, offset: Units) -> Result<Frame<'_>, FrameDamage> {
        // SAFETY: [F4].
        unsafe { self.frame_at(offset) }
    }

    /// Returns the frame at an offset.
    ///
    /// # Safety
    ///
    /// If a frame was ever reserved at `offset`, its fill happened before this call.
    #[inline(always)]
    unsafe fn frame_at(&self, offset: Units) -> Result<Frame<'_>, FrameDamage> {
        let at = offset.bytes();
        let room = self.geometry.segment_bytes.saturating_sub(at);
        if at < self.geometry.directory_at || room < UNIT_BYTES {
            return Err(FrameDamage("the frame lies outside the segment"));
        }
        // SAFETY: at least one unit lies inside (above); filled before (contract).
        let fields = unsafe { self.memory.bytes(at + TAG_BYTES, FIELDS_BYTES + EXPIRY_BYTES) };
        let fields = fields.first_chunk().ok_or(FrameDamage("a frame header is cut"))?;
        let outline = Outline::decode(fields).map_err(FrameDamage)?;
        let layout = FrameLayout::of(outline, self.embedding_bytes);
        if layout.bytes() > room as u64 {
            return Err(FrameDamage("the frame is longer than what is left of the segment"));
        }
        // SAFETY: the whole frame lies inside (above); filled before (contract).
        let bytes = unsafe { self.memory.bytes(at + TAG_BYTES, layout.end - TAG_BYTES) };
        // [F1]: as the layout has them. A segment has at most 1 GiB, a header and an id together
        // less than 2 KiB.
        Ok(Frame {
            bytes,
            offset,
            content_at: (layout.content_at - TAG_BYTES) as u32,
            embedding_at: (layout.embedding_at - TAG_BYTES) as u16,
            id_at: (layout.id_at - TAG_BYTES) as u8,
            expires: outline.expires(),
            id_len: outline.id_len,
            kind: outline.kind,
        })
    }

    /// The frame at an offset, if one lies there that proves itself [F3]: its checksum covers the
    /// segment, its slot number and its place [F2], so nothing written elsewhere passes. For scans
    /// of a segment whose directory is damaged.
    ///
    /// # Safety
    ///
    /// Nobody writes to the segment.
    unsafe fn proven_frame(&self, offset: Units) -> Option<Frame<'_>> {
        // SAFETY: nobody writes (contract), so everything was filled before.
        let frame = unsafe { self.frame_at(offset) }.ok()?;
        let header = frame.header();
        // Directory and frames grow towards each other, and never meet.
        let is_behind_slot =
            self.directory().slot_offset(header.slot) + SLOT_BYTES <= offset.bytes();
        (is_behind_slot && self.checksum_matches(&frame, &header)).then_some(frame)
    }

    /// Every frame that proves itself, found without the directory: for a segment that nobody else
    /// has. A frame inside another one's content is none of its own.
    pub fn proven_frames(&mut self) -> impl Iterator<Item = Frame<'_>> {
        let segment = &*self;
        let mut unit = (segment.geometry.directory_at / UNIT_BYTES) as u32;
        let end = (segment.geometry.segment_bytes / UNIT_BYTES) as u32;
        std::iter::from_fn(move || {
            while unit < end {
                // SAFETY: the segment is borrowed for this alone, so nobody writes to it.
                let found = unsafe { segment.proven_frame(Units(unit)) };
                let len = found.map_or(1, |frame| frame.len_bytes() / UNIT_BYTES as u64);
                unit = unit.saturating_add(len as u32);
                if found.is_some() {
                    return found;
                }
            }
            None
        })
    }

    /// Stores whole lines of a frame: `at` bytes into the space of a reservation, which the caller
    /// owns and has not published.
    pub(super) fn write_lines(&self, (offset, len): (Units, Units), at: usize, lines: &[u8]) {
        assert!(at + lines.len() <= len.bytes(), "a frame longer than its reservation");
        let at = offset.bytes() + at;
        if M::STREAMS_FROM <= len.bytes() {
            // SAFETY: as below; the frame begins at a multiple of 64, and `LineBuffer` gives whole
            // lines. Its control words (tag, previous) were never stored to.
            unsafe { self.memory.stream(at, lines) };
        } else {
            // SAFETY: inside the frame (assertion), which the cursor gave to this reservation
            // alone [C3] and which lies inside the segment; nothing reads it before the slot or
            // the index entry is published with Release [S2].
            unsafe { self.memory.write(at, lines) };
        }
    }

    /// Stores what follows the tag of a frame, in a segment that nobody else has: no more than the
    /// length that its slot gives. By a damaged header the frame may extend into its neighbours,
    /// which are there already.
    pub(super) fn write_replica(&mut self, frame: &Frame<'_>, len: Units) {
        let at = frame.offset.bytes() + TAG_BYTES;
        let most = len.bytes().saturating_sub(TAG_BYTES);
        let bytes = frame.bytes.get(..most).unwrap_or(frame.bytes);
        assert!(at + bytes.len() <= self.memory.len(), "a replica is as large");
        // SAFETY: inside (assertion), and nobody else has the segment. The bytes end before the
        // control words at the end of a frame.
        unsafe { self.memory.write(at, bytes) };
    }
}

#[cfg(all(test, not(stratalog_loom)))]
impl<M: Memory> Segment<M> {
    /// Overwrites payload, as a bad device does.
    pub(crate) fn damage(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.memory.len(), "inside the segment");
        // SAFETY: inside (assertion); the test has no reference to those bytes, and one thread.
        unsafe { self.memory.write(at, bytes) };
    }
}
