//! Reading a segment: the frames that its slots lead to, their checksums, and hints.

use super::{Frame, FrameDamage, ReadAhead, Segment};
use crate::concurrency::sync::Ordering;
use crate::format::frame::{FrameHeader, FramePlace};
use crate::format::ids::{SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::memory::Memory;

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

impl<M: Memory> Segment<M> {
    /// The index entry whose place a pending record took, as its writer noted it.
    pub fn previous(&self, frame: &Frame<'_>) -> u64 {
        let at = frame.offset().bytes() + frame.layout().previous_at();
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
        match self.directory().slot(slot) {
            SlotState::Committed(_, body)
            | SlotState::Pending(_, body)
            | SlotState::Copy(_, body)
            | SlotState::Member(_, body) => self.frame(body.offset),
            _ => Err(FrameDamage("the slot holds no record")),
        }
    }

    /// Every put below `end` that is committed or pending, whether it still counts or not.
    #[inline]
    pub fn puts(&self, end: u32) -> impl Iterator<Item = ScannedPut<'_>> {
        let mut ahead = ReadAhead::new();
        // Not later: slots above it may still be decided.
        let durable = self.durable().flushed().slot;
        self.directory().slots(end).filter_map(move |(slot, state)| match state {
            SlotState::Committed(Kind::Put, body) | SlotState::Pending(Kind::Put, body) => {
                self.read_on(&mut ahead, body.offset, body.len);
                let frame = self.frame(body.offset);
                // A tombstone has no embedding, and no slot of its kind led here.
                match frame {
                    Ok(frame) if frame.kind() == Kind::Put => Some(ScannedPut::Whole(body, frame)),
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

    /// Returns whether a frame's checksum matches its bytes and its place.
    pub(super) fn checksum_matches(&self, frame: &Frame<'_>, header: &FrameHeader) -> bool {
        let place = FramePlace { salt: self.salt, offset: frame.offset() };
        let sum = header.sum(place, frame.id(), frame.embedding_bytes(), frame.content());
        sum == header.checksum
    }

    /// Checks a frame's checksum against its bytes, and remembers a success.
    pub fn verify(&self, frame: &Frame<'_>) -> Result<(), FrameDamage> {
        let header = frame.header();
        if !self.checksum_matches(frame, &header) {
            self.checks().note_damage(frame.offset());
            return Err(FrameDamage("the checksum does not match"));
        }
        // Readers that check each time would write to what others read.
        if header.kind == Kind::Put && !self.checks().is_verified(frame.offset()) {
            self.checks().set_verified(frame.offset());
        }
        Ok(())
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests;
