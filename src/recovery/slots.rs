//! Step 4 of opening for slots: those that nobody will decide about any more are void for good.

use super::Candidate;
use super::scan::check;
use crate::catalog::FileEngine;
use crate::format::slot::SlotState;
use crate::memory::Memory;
use crate::segment::Segment;

/// Step 4's part for copies: those that count are put in force, all others are void for good.
pub(super) fn decide_copies(engine: &FileEngine, candidate: &Candidate) {
    let guard = engine.epoch().pin();
    let segment = &*candidate.segment;
    let trusted = candidate.inherited.durable_end;
    // Below this every record was checked, as in a salvage: the index has none that does not hold.
    let doubted = match candidate.flaw {
        Some(_) => u32::MAX,
        None if candidate.trusted < trusted.min(candidate.limit) => trusted,
        None => 0,
    };
    let (mut void, mut in_force) = (Vec::new(), Vec::new());
    for (slot, state) in segment.slots(candidate.limit) {
        match state {
            SlotState::Void => {}
            SlotState::Copy(_, body) => {
                if engine.leads_to(&guard, segment, body) {
                    in_force.push(slot);
                } else {
                    // What it was copied from still counts.
                    void.push(slot);
                }
            }
            // Of a flawed segment the durable end may be lost, too, and the source be gone with it.
            SlotState::Committed(kind, body)
                if slot.0 < doubted && check(segment, slot, kind, body, true).is_err() =>
            {
                if engine.has_lsn(&guard, body) {
                    // Its source answers, and a backup, which has no flaw, or the next opening,
                    // which is no salvage, would believe this slot.
                    void.push(slot);
                }
            }
            // Below the durable end it is damage, and stays to be named.
            _ if slot.0 < trusted => {}
            SlotState::Committed(kind, body) if check(segment, slot, kind, body, true).is_ok() => {}
            _ => void.push(slot),
        }
    }
    for slot in in_force {
        segment.decide_copy(slot, true);
    }
    for slot in void {
        segment.void(slot);
    }
}

/// Step 4's part for slots: nobody will ever decide about these any more. Below the durable end an
/// undecided slot is damage, and stays to be named.
pub(super) fn void_undecided<M: Memory>(segment: &Segment<M>, durable: u32, limit: u32) {
    let undecided = |state| matches!(state, SlotState::Empty | SlotState::Pending(..));
    let slots = segment.slots(limit).filter(|(slot, state)| slot.0 >= durable && undecided(*state));
    let slots: Vec<_> = slots.collect();
    for (slot, _) in slots {
        segment.void(slot);
    }
}

/// The same for the members of a batch whose head is void: they would count if that were damaged
/// some day. Their writer came to its end before it had voided them.
pub(super) fn void_headless<M: Memory>(segment: &Segment<M>, limit: u32) {
    let (mut headless, mut void_head) = (Vec::new(), false);
    for (slot, state) in segment.slots(limit) {
        let is_member = state == SlotState::Void && segment.is_member(slot);
        if !is_member {
            void_head = state == SlotState::Void;
        } else if void_head {
            headless.push(slot);
        }
    }
    for slot in headless {
        segment.void(slot);
    }
}
