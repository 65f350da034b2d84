//! Copying what a segment holds into another one with the same salt: for backups.
#![expect(unsafe_code, reason = "writes payload by the rules of `Memory`")]

use super::{Ahead, Mark, Segment};
use crate::format::frame::TAG_BYTES;
use crate::format::slot::SlotState;
use crate::memory::Memory;
use crate::sync::Ordering;

impl<M: Memory> Segment<M> {
    /// Copies the slots below a mark, all of which are decided, and their frames, to a new segment
    /// of the same geometry and salt that nobody else has yet; seals that one there.
    pub fn replicate<N: Memory>(&self, to: &Segment<N>, mark: Mark) {
        let mut ahead = Ahead::new();
        for (slot, _) in self.slots(mark.slot) {
            for n in 0..4 {
                // Acquire: pairs with the Release in `decide`; the frame copied below is whole.
                let word = self.slot_word(slot, n).load(Ordering::Acquire);
                // Relaxed: the copy is not shared yet.
                to.slot_word(slot, n).store(word, Ordering::Relaxed);
            }
            // A void's frame may still be written to by a writer that does not know yet.
            if let SlotState::Committed(_, body)
            | SlotState::Member(_, body)
            | SlotState::Copy(_, body) = self.slot(slot)
                && let Ok(frame) = self.committed_frame(slot)
            {
                self.read_on(&mut ahead, body.offset, body.len);
                let at = body.offset.bytes();
                // Acquire, Relaxed: a tag may speak of what its writer did before; as above.
                let tag = self.memory.word(at).load(Ordering::Acquire);
                to.memory.word(at).store(tag, Ordering::Relaxed);
                // SAFETY: `frame` has checked that it lies inside this segment, and `to` is as
                // large; nobody else has it yet. The bytes end before a previous word, which is a
                // control word and means nothing any more.
                unsafe { to.memory.write(at + TAG_BYTES, frame.bytes()) };
            }
        }
        let units = (self.geometry.segment_bytes / 64 - mark.floor.0 as usize) as u64;
        to.set_taken(mark.slot, units);
        to.seal(mark.slot);
        to.set_durable_end(mark.slot);
    }
}
