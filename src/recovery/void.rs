//! Step 4 of opening for slots: which of them recovery voids. Nobody else has the segments yet, so
//! it stores the void whatever the slot says.
//!
//! - *Undecided* slots, whose writers are gone: [`void_undecided`].
//! - *Members* of a batch whose head is void or lost: [`void_headless`].
//! - *Unproven* slots above the durable end, whose frames or batches are not whole:
//!   [`void_unproven`].
//! - *Outdone* conditional puts [W9]: [`void_outdone`], found by `recovery/outdone.rs`.
//! - *Copies* whose source does not say that the record was moved: [`decide_copies`], which puts
//!   the others in force. [`finish_moves`] brings those into the index before. It also voids a
//!   committed copy that is damaged while its source is there, and all that is not whole above the
//!   durable end of a segment for copies.
//!
//! A salvage voids more than one segment at a time: `salvage::void_torn`.

use super::SegmentCandidate;
use super::limit;
use super::scan::check;
use crate::disk::DiskEngine;
use crate::error::Error;
use crate::format::ids::SlotNumber;
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

/// Puts the copies that count in force, and voids all others for good.
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

/// Voids the slots that nobody will ever decide about any more. Below the durable end an undecided
/// slot is damage, and stays to be named.
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

/// Voids the members of a batch whose head is void, or lost above the durable end: a walk does not
/// meet it, so they read as void. They would count, or be damage, once the durable end is beyond
/// them.
pub(super) fn void_headless<M: Memory>(segment: &Segment<M>, limit: u32) {
    let headless = |slot, state| state == SlotState::Void && segment.directory().is_member(slot);
    let slots = segment.directory().slots(limit).filter(|(slot, state)| headless(*slot, *state));
    let slots: Vec<_> = slots.collect();
    for (slot, _) in slots {
        segment.directory().void(slot);
    }
}

/// Voids what does not hold above the durable end. It does not count now, and must not begin to
/// once the next flush has moved the durable end: in a store that was killed it is damage, and
/// reported.
pub(super) fn void_unproven(candidate: &SegmentCandidate) {
    let (found, damaged) = (&candidate.unproven, candidate.walked.unsound && candidate.each);
    let unproven = if damaged { &limit::unproven(candidate, true) } else { found };
    for slot in unproven {
        candidate.segment.directory().void(SlotNumber(*slot));
    }
}

/// Voids the conditional puts that a member of a batch has outdone [W9], and returns whether there
/// were any. A segment that has a flaw is never written to.
pub(super) fn void_outdone(candidate: &SegmentCandidate) -> bool {
    let outdone = candidate.outdone.iter().filter(|_| candidate.flaw.is_none());
    outdone.for_each(|slot| candidate.segment.directory().void(*slot));
    !candidate.outdone.is_empty() && candidate.flaw.is_none()
}
