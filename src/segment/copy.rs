//! The copy of one record that compaction makes: whole and without force first, in force once the
//! place that it was copied from says so. `background/compaction/copy.rs` decides which records are
//! copied. A backup copies whole segments instead: `segment/replica.rs`.

use super::WriteRequest;
use super::writer::{Reservation, Voided};
use crate::format::ids::{Lsn, SlotNumber, Units};
use crate::format::slot;
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
