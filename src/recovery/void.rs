//! Copies that count though nobody put them in force; and step 4 of opening for slots: those that
//! nobody will decide about any more are void for good.

use super::SegmentCandidate;
use super::scan::check;
use crate::disk::DiskEngine;
use crate::error::Error;
use crate::format::slot::SlotState;
use crate::memory::Memory;
use crate::segment::Segment;

/// A copy without force counts after all if its source says that the move was made: the process
/// died between the two. After step 3, when every source is in the index.
pub(super) fn finish_moves(engine: &DiskEngine, candidate: &SegmentCandidate) -> Result<(), Error> {
    let segment = &*candidate.segment;
    for (slot, state) in segment.directory().slots(candidate.limit) {
        if let SlotState::Copy(kind, body) = state
            && engine.log().may_have_given(body.lsn)
            && check(segment, slot, kind, body, true).is_ok()
            && engine.restore_copy(segment, kind, body)?
            && body.expires
        {
            // As in `scan::scan_all`.
            segment.usage().note_expiry(0);
        }
    }
    Ok(())
}

/// Step 4's part for copies: those that count are put in force, all others are void for good.
pub(super) fn decide_copies(engine: &DiskEngine, candidate: &SegmentCandidate) {
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
    for (slot, state) in segment.directory().slots(candidate.limit) {
        match state {
            SlotState::Void => {}
            SlotState::Copy(_, body) => {
                if engine.resolves_to(&guard, segment, body) {
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
        segment.directory().decide_copy(slot, true);
    }
    for slot in void {
        segment.directory().void(slot);
    }
}

/// Step 4's part for slots: nobody will ever decide about these any more. Below the durable end an
/// undecided slot is damage, and stays to be named.
pub(super) fn void_undecided<M: Memory>(segment: &Segment<M>, durable: u32, limit: u32) {
    let undecided = |state| matches!(state, SlotState::Empty | SlotState::Pending(..));
    let slots = segment
        .directory()
        .slots(limit)
        .filter(|(slot, state)| slot.0 >= durable && undecided(*state));
    let slots: Vec<_> = slots.collect();
    for (slot, _) in slots {
        segment.directory().void(slot);
    }
}

/// The same for the members of a batch whose head is void: they would count if that were damaged
/// some day. Their writer came to its end before it had voided them.
pub(super) fn void_headless<M: Memory>(segment: &Segment<M>, limit: u32) {
    let (mut headless, mut void_head) = (Vec::new(), false);
    for (slot, state) in segment.directory().slots(limit) {
        let is_member = state == SlotState::Void && segment.directory().is_member(slot);
        if !is_member {
            void_head = state == SlotState::Void;
        } else if void_head {
            headless.push(slot);
        }
    }
    for slot in headless {
        segment.directory().void(slot);
    }
}
