//! Frames as borrowed slices: no copy, every length bounded before use.
#![expect(unsafe_code, reason = "reads payload by the rules of `Memory`")]

use super::{ReadAhead, Segment};
use crate::concurrency::sync::Ordering;
use crate::format::frame::{
    EXPIRY_BYTES, FIELDS_BYTES, FrameHeader, FrameLayout, FramePlace, HeaderBytes, Outline,
    TAG_BYTES,
};
use crate::format::ids::{Lsn, SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::{Kind, SLOT_BYTES, SlotBody, SlotState};
use crate::memory::Memory;

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameDamage(pub &'static str);

/// No more values of an embedding are asked for ahead: 4 KiB of them, then the processor has seen
/// where it goes.
const PREFETCH_MOST: usize = 1024;

/// A put that a walk over a segment has met: committed, or pending.
#[derive(Clone, Copy, Debug)]
pub enum ScannedPut<'s> {
    /// Slot and frame; the frame's checksum has not been looked at.
    Whole(SlotBody, Frame<'s>),
    /// The slot is sound, the frame cannot be read.
    Broken(SlotBody, FrameDamage),
    /// The slot is damaged; what it held is not known.
    Lost,
}

/// A frame in place: small, because a get hands it on by value. What a get does not need of the
/// header stays where it is until somebody asks for it.
///
/// F1: made by [`Segment::frame`] alone, which has seen that the parts follow each other inside
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

    /// Where the frame begins.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> Units {
        self.offset
    }

    /// Whether it has an expiry.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.expires
    }

    /// Whether its time is over. Asks the clock only if it has an expiry.
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

    /// Everything behind the tag, up to the end of the content.
    pub(super) fn bytes(&self) -> &'s [u8] {
        self.bytes
    }
}

const _: () = assert!(cfg!(target_endian = "little"), "embeddings are mapped as little-endian f32");

impl<M: Memory> Segment<M> {
    /// The frame at an offset, its lengths bounded by the segment.
    ///
    /// # Safety
    ///
    /// If a frame was ever reserved at `offset`, its fill happened before this call: the caller
    /// has seen its slot committed or pending, or an index entry with its address, by Acquire.
    #[inline(always)]
    pub unsafe fn frame(&self, offset: Units) -> Result<Frame<'_>, FrameDamage> {
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

    /// The index entry whose place a pending record took, as its writer noted it.
    pub fn previous(&self, frame: &Frame<'_>) -> u64 {
        let at = frame.offset.bytes() + frame.layout().previous_at();
        // Relaxed: stored before the index entry that led here was published with Release.
        self.memory.word(at).load(Ordering::Relaxed)
    }

    /// Asks for the lines in which embedding and content of a put begin if its id is a short one,
    /// so that they come while the header, which says where they are, is still on its way.
    #[inline]
    pub fn prefetch(&self, offset: Units) {
        let embedding_at = offset.bytes() + UNIT_BYTES;
        self.memory.prefetch(embedding_at);
        self.memory.prefetch(embedding_at + self.embedding_bytes as usize);
    }

    /// Asks for the line in which a frame begins.
    #[inline]
    pub fn prefetch_header(&self, offset: Units) {
        self.memory.prefetch(offset.bytes());
    }

    /// Asks for all lines of a put's embedding, if its id is a short one.
    #[inline]
    pub fn prefetch_embedding(&self, offset: Units) {
        let begin = offset.bytes() + UNIT_BYTES;
        let end = begin + self.geometry.dimension.min(PREFETCH_MOST) * size_of::<f32>();
        for line in (begin..end).step_by(UNIT_BYTES) {
            self.memory.prefetch(line);
        }
    }

    /// The frame of a slot that is committed or pending.
    pub fn committed_frame(&self, slot: SlotNumber) -> Result<Frame<'_>, FrameDamage> {
        match self.slot(slot) {
            SlotState::Committed(_, body)
            | SlotState::Pending(_, body)
            | SlotState::Copy(_, body)
            | SlotState::Member(_, body) => {
                // SAFETY: the slot was loaded with Acquire; its frame was filled before [S2].
                unsafe { self.frame(body.offset) }
            }
            _ => Err(FrameDamage("the slot holds no record")),
        }
    }

    /// Every put below `end` that is committed or pending, whether it still counts or not.
    #[inline]
    pub fn puts(&self, end: u32) -> impl Iterator<Item = ScannedPut<'_>> {
        let mut ahead = ReadAhead::new();
        // Not later: slots above it may still be decided.
        let durable = self.flushed().slot;
        self.slots(end).filter_map(move |(slot, state)| match state {
            SlotState::Committed(Kind::Put, body) | SlotState::Pending(Kind::Put, body) => {
                self.read_on(&mut ahead, body.offset, body.len);
                // SAFETY: the slot was loaded with Acquire; its frame was filled before [S2].
                let frame = unsafe { self.frame(body.offset) };
                // A tombstone has no embedding, and no slot of its kind led here.
                match frame {
                    Ok(frame) if frame.kind == Kind::Put => Some(ScannedPut::Whole(body, frame)),
                    Ok(_) => {
                        Some(ScannedPut::Broken(body, FrameDamage("the kind is not the slot's")))
                    }
                    Err(damage) => Some(ScannedPut::Broken(body, damage)),
                }
            }
            SlotState::Invalid => Some(ScannedPut::Lost),
            // Below the durable mark every slot was decided once [D1]: its bytes are gone.
            SlotState::Empty if slot.0 < durable => Some(ScannedPut::Lost),
            _ => None,
        })
    }

    /// Whether a frame's checksum matches its bytes and its place.
    fn is_sound(&self, frame: &Frame<'_>, header: &FrameHeader) -> bool {
        let place = FramePlace { salt: self.salt, offset: frame.offset };
        let sum = header.sum(place, frame.id(), frame.embedding_bytes(), frame.content());
        sum == header.checksum
    }

    /// The frame at an offset, if one lies there that proves itself [F3]: its checksum covers the
    /// segment, its slot number and its place [F2], so nothing written elsewhere passes. For scans
    /// of a segment whose directory is damaged.
    ///
    /// # Safety
    ///
    /// Nobody writes to the segment.
    pub unsafe fn proven_frame(&self, offset: Units) -> Option<Frame<'_>> {
        // SAFETY: nobody writes (contract), so everything was filled before.
        let frame = unsafe { self.frame(offset) }.ok()?;
        let header = frame.header();
        // Directory and frames grow towards each other, and never meet.
        let is_behind_slot = self.slot_offset(header.slot) + SLOT_BYTES <= offset.bytes();
        (is_behind_slot && self.is_sound(&frame, &header)).then_some(frame)
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

    /// Checks a frame's checksum against its bytes, and remembers a success.
    pub fn verify(&self, frame: &Frame<'_>) -> Result<(), FrameDamage> {
        let header = frame.header();
        if !self.is_sound(frame, &header) {
            self.note_damage(frame.offset);
            return Err(FrameDamage("the checksum does not match"));
        }
        // Readers that check each time would write to what others read.
        if header.kind == Kind::Put && !self.is_verified(frame.offset) {
            self.set_verified(frame.offset);
        }
        Ok(())
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests;
