//! Copies that compaction makes: whole and without force first, in force once the place they were
//! copied from says so.

use super::Segment;
use super::writer::{Reservation, Voided, WriteRequest};
use crate::concurrency::sync::Ordering;
use crate::format::ids::{Lsn, SlotNumber, Units};
use crate::format::slot::{self, SlotState};
use crate::memory::Memory;

impl<M: Memory> Reservation<'_, M> {
    /// Fills the frame with a record that keeps an earlier LSN, and what it has seen, and leaves
    /// its slot a copy without force. Where it lies.
    pub fn copy(
        mut self,
        record: &WriteRequest<'_>,
        lsn: Lsn,
        seen: Option<Lsn>,
    ) -> Result<(SlotNumber, Units), Voided> {
        let body = self.fill_as(record, (lsn, false), || ());
        let (segment, slot) = (self.segment(), self.slot());
        // Where that is damaged, it has seen everything before it.
        segment.store_seen(slot, body.offset, record.layout(), seen.unwrap_or(lsn));
        let word = slot::copy_word(record.kind, body, segment.salt, slot);
        self.decide_with(word)?;
        Ok((slot, body.offset))
    }
}

impl<M: Memory> Segment<M> {
    /// Puts a copy in force, or takes it back. Whether it was a copy without force till now.
    pub fn decide_copy(&self, slot: SlotNumber, in_force: bool) -> bool {
        // Acquire: pairs with the Release in `decide`.
        let word0 = self.slot_word(slot, 0).load(Ordering::Acquire);
        let SlotState::Copy(kind, body) =
            slot::decode(word0, self.body_words(slot), self.salt, slot)
        else {
            return false;
        };
        let word = if in_force {
            slot::committed_word(kind, body, self.salt, slot)
        } else {
            slot::void_word(self.salt, slot)
        };
        self.decide(slot, word0, word).is_ok()
    }
}
