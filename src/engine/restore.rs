//! Bringing what recovery found into the index.
#![expect(unsafe_code, reason = "follows slots into frames")]

use super::{Engine, Keys, exhausted};
use crate::epoch::Guard;
use crate::error::Error;
use crate::format::slot::{Kind, SlotBody};
use crate::index::{Decision, Entry, Exhausted, Found, KeyHash};
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::Segment;

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Puts a record found by recovery into the index: highest LSN wins, whatever the order.
    pub fn restore(&self, segment: &Segment<M>, kind: Kind, body: SlotBody) -> Result<(), Error> {
        let guard = self.epoch.pin();
        let tomb = kind == Kind::Tombstone;
        let entry = Entry { address: segment.address(body.offset), tomb, pending: false };
        // SAFETY: recovery has seen the slot committed, by Acquire.
        let id = unsafe { segment.frame(body.offset) }.map_or(&[][..], |frame| frame.id());
        let keys = Keys { engine: self, guard: &guard, hash: KeyHash(body.key_hash), id };
        let mut won = false;
        let decide = |found| {
            won = match found {
                Found::Absent { .. } => true,
                Found::Entry(old) => self.lsn_of(&guard, old) < body.lsn,
            };
            if won { Decision::Set(entry) } else { Decision::Keep }
        };
        let before = self
            .index
            .update(&self.epoch, &guard, KeyHash(body.key_hash), &keys, decide)
            .map_err(|Exhausted| exhausted())?;
        if won {
            self.account_restored(&guard, segment, tomb, body, before);
        }
        Ok(())
    }

    fn account_restored(
        &self,
        guard: &Guard,
        segment: &Segment<M>,
        tomb: bool,
        body: SlotBody,
        before: Option<Entry>,
    ) {
        if !tomb {
            segment.add_live(body.len.bytes() as u64);
            self.add_live(1);
        }
        if let Some(old) = before.filter(|old| !old.tomb) {
            self.sub_live_of(guard, old);
            self.add_live(-1);
        }
    }
}
