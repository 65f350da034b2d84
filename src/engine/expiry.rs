//! Looking for what has expired: the index says what of it still counts.

use super::Engine;
use crate::concurrency::epoch::Guard;
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::index::KeyHash;
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::Segment;

/// How long not to look again.
const RESCAN_AFTER_NS: u64 = 1_000_000_000;

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Counts the live bytes whose time is over now, if any can be that was not when it was looked
    /// for last, and that was to be done `by` then: a walk over the slots, and the headers of those
    /// that expire. Waits for whoever looks just now.
    ///
    /// Nothing is missed: a moment is noted after the index leads to its record, and a note that is
    /// taken back before the walk shows it what the index led to then.
    pub fn scan_for_expired(&self, guard: &Guard, segment: &Segment<M>, by_ns: u64, now_ns: u64) {
        let Some(scan) = segment.usage().begin_expiry_scan(by_ns) else { return };
        let (mut bytes, mut next) = (0, u64::MAX);
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            let SlotState::Committed(Kind::Put, body) = state else { continue };
            if !body.expires || !self.may_be_effective(guard, segment, body) {
                continue;
            }
            let Ok(frame) = segment.committed_frame(slot) else { continue };
            match frame.header().expires_ns {
                over if over <= now_ns && self.resolves_to(guard, segment, body) => {
                    bytes += body.len.bytes() as u64;
                }
                later => next = next.min(later),
            }
        }
        // Not for each single record that expires.
        self.log.count_expired(segment, bytes);
        scan.finish(next.max(now_ns.saturating_add(RESCAN_AFTER_NS)));
    }

    /// Returns whether the index leads to the record of a slot, or may be led back to it: by a
    /// pending write that has taken its place, and is voided. (Who publishes the record later notes
    /// its moment then.)
    fn may_be_effective(&self, guard: &Guard, segment: &Segment<M>, body: SlotBody) -> bool {
        let address = segment.address_if_inside(body.offset);
        address.is_some_and(|at| self.may_be_current(guard, KeyHash(body.key_hash), at))
    }
}
