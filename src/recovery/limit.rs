//! Step 2 of opening: which slots of each segment count. After a process kill every committed one
//! does; after power loss a prefix, and never less than was durable.

use super::SegmentCandidate;
use super::scan;
use crate::format::header::UNKNOWN_BOOT;
use crate::format::ids::SlotNumber;
use crate::format::slot::SlotState;
use crate::options::Recovery;
use crate::report::{Counted, RecoveryReport};

/// Step 2. Counts what a cut costs as torn. Returns whether nothing is ever cut in this way of
/// opening: each record that proves itself counts.
pub(super) fn limit(
    candidates: &mut [SegmentCandidate],
    boot: [u64; 2],
    mode: Recovery,
    report: &mut RecoveryReport,
) -> bool {
    if mode != Recovery::Salvage && is_unknown(candidates, boot) {
        report.counted = Counted::Each;
        for candidate in candidates.iter_mut().filter(|candidate| candidate.flaw.is_none()) {
            candidate.each = true;
            if !candidate.holds_copies() {
                candidate.unproven = unproven(candidate, true);
                report.torn += candidate.unproven.len() as u64;
                // Checked just now.
                candidate.trusted = candidate.limit;
            }
        }
        return true;
    }
    let mut cutting = false;
    let ends = ends(candidates);
    for (candidate, end) in candidates.iter_mut().zip(ends) {
        let open_ended = end == SegmentEnd::Open;
        let wholly_durable = candidate.trusted >= candidate.limit;
        if candidate.flaw.is_some() || mode == Recovery::Salvage {
            // Damage, not power loss: the header's words mean nothing. Every record is checked, and
            // none is given up because of another.
            candidate.trusted = 0;
            if candidate.flaw.is_none() && !candidate.inherited.is_of_boot(boot) {
                candidate.unproven = torn(candidate);
                report.torn += candidate.unproven.len() as u64;
            }
            continue;
        }
        if candidate.holds_copies() {
            continue;
        }
        if end == SegmentEnd::Durable && !candidate.inherited.is_of_boot(boot) {
            // The cursor of a full segment counts slots that were never granted. Without a seal
            // nothing else tells them from slots that were lost; here none was.
            candidate.limit = scan::end_of_stored(&candidate.segment).min(candidate.limit);
            candidate.trusted = candidate.limit;
            continue;
        }
        if candidate.inherited.is_of_boot(boot) && !cutting || wholly_durable && !open_ended {
            continue;
        }
        report.counted = Counted::Prefix;
        let valid = if cutting { candidate.trusted } else { valid_prefix(candidate) };
        report.scanned_bytes += u64::from(candidate.limit) * 32;
        if valid < candidate.limit {
            report.torn += u64::from(candidate.limit - valid);
            candidate.limit = valid;
            candidate.cut = true;
        }
        cutting |= candidate.cut || open_ended;
        // Checked just now.
        candidate.trusted = candidate.limit;
    }
    mode == Recovery::Salvage
}

/// Returns whether something was not known to be durable, and nobody knows whether the system has
/// booted since: now, or when it was written, the kernel did not tell the boot id.
fn is_unknown(candidates: &[SegmentCandidate], boot: [u64; 2]) -> bool {
    let log = || candidates.iter().filter(|c| c.flaw.is_none() && !c.holds_copies());
    let unknown = || log().any(|candidate| candidate.inherited.boot_id == UNKNOWN_BOOT);
    (boot == UNKNOWN_BOOT || unknown())
        && log().any(|candidate| candidate.trusted < candidate.limit)
}

/// Returns whether a record above a durable end was found unsound though the system has not booted
/// since: the page cache was lost, and what is there came from the device. Then batches count only
/// whole.
pub(super) fn has_lost_its_cache(candidates: &mut [SegmentCandidate]) -> bool {
    if !candidates.iter().any(|candidate| candidate.walked.unsound && !candidate.each) {
        return false;
    }
    for candidate in candidates.iter_mut().filter(|c| c.flaw.is_none() && !c.holds_copies()) {
        candidate.each = true;
        candidate.unproven = unproven(candidate, false);
    }
    true
}

/// Slots above the durable end that do not count where each record stands for itself: those of
/// batches that are not whole, and with `singles` also single ones that do not hold.
pub(super) fn unproven(candidate: &SegmentCandidate, singles: bool) -> Vec<u32> {
    let segment = &*candidate.segment;
    let mut unproven = Vec::new();
    // Of the batch that the walk is in: where it begins, and how many of its slots are to come.
    let (mut head, mut members, mut whole) = (0, 0u32, true);
    let end_batch = |head: u32, end: u32, whole: bool, unproven: &mut Vec<u32>| {
        if !whole {
            unproven.retain(|slot| *slot < head);
            unproven.extend(head..end);
        }
    };
    for (slot, state) in segment.directory().slots(candidate.limit) {
        if let SlotState::Batch(n, _) = state {
            (head, members, whole) = (slot.0, n, true);
            continue;
        }
        if slot.0 < candidate.durable() {
            members = members.saturating_sub(1);
            continue;
        }
        let holds = match state {
            SlotState::Void => members == 0,
            SlotState::Committed(kind, body) => scan::check_once(segment, slot, kind, body).is_ok(),
            _ => false,
        };
        if members > 0 {
            whole &= holds;
            members -= 1;
            if members == 0 {
                end_batch(head, slot.0 + 1, whole, &mut unproven);
            }
        } else if !holds && singles {
            unproven.push(slot.0);
        }
    }
    if members > 0 {
        end_batch(head, candidate.limit, false, &mut unproven);
    }
    unproven
}

/// Slots above the durable end of which power loss has left no more than a part, or whose records
/// it has taken: nothing was promised of them, so in a salvage they hide nothing that was.
fn torn(candidate: &SegmentCandidate) -> Vec<u32> {
    let segment = &*candidate.segment;
    // A durable end that is damaged does not say what was promised.
    let settled = candidate.durable() == candidate.limit || !segment.durable().counts_hold();
    if candidate.holds_copies() || settled {
        return Vec::new();
    }
    let is_torn = |(slot, state): &(SlotNumber, SlotState)| match state {
        SlotState::Committed(kind, body) => scan::check_once(segment, *slot, *kind, *body).is_err(),
        SlotState::Invalid => true,
        _ => false,
    };
    let above = segment
        .directory()
        .slots(candidate.limit)
        .filter(|(slot, _)| slot.0 >= candidate.durable());
    above.filter(is_torn).map(|(slot, _)| slot.0).collect()
}

/// What the segments after it tell of the end of a segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentEnd {
    /// Nothing: it has a seal, or is the last one with records.
    Told,
    /// It has no seal, though another one took over from it: power loss may have taken its end
    /// without a trace.
    Open,
    /// It has no seal, but a younger one is known to have been flushed. So it was wholly durable
    /// before that [D5] [D8], and its seal was lost or is damaged.
    Durable,
}

fn ends(candidates: &[SegmentCandidate]) -> Vec<SegmentEnd> {
    let (mut younger, mut durable) = (false, false);
    let mut found: Vec<_> = candidates
        .iter()
        .rev()
        .map(|candidate| {
            if candidate.holds_copies() {
                return SegmentEnd::Told;
            }
            let end = match (candidate.inherited.sealed, durable) {
                (false, true) => SegmentEnd::Durable,
                (false, false) if younger => SegmentEnd::Open,
                _ => SegmentEnd::Told,
            };
            younger |= candidate.limit > 0;
            let begun = candidate.inherited.predecessor.is_some_and(|(_, confirmed)| confirmed);
            durable |= candidate.inherited.durable_end > 0 || begun;
            end
        })
        .collect();
    found.reverse();
    found
}

/// Slots from the durable end on that hold: whole records and voids, without a gap.
fn valid_prefix(candidate: &SegmentCandidate) -> u32 {
    let segment = &*candidate.segment;
    let mut slots = segment.directory().slots(candidate.limit);
    let mut valid = candidate.trusted;
    // A batch is whole or absent: a member that does not hold cuts at its head.
    let (mut head, mut members) = (0, 0);
    for (slot, state) in slots.by_ref() {
        if let SlotState::Batch(n, _) = state {
            (head, members) = (slot.0, n.saturating_add(1));
        }
        let in_batch = members > 0;
        members = members.saturating_sub(1);
        if slot.0 < candidate.trusted {
            continue;
        }
        let holds = match state {
            SlotState::Void => !in_batch,
            SlotState::Batch(..) => true,
            SlotState::Committed(kind, body) => {
                scan::check(segment, slot, kind, body, true).is_ok()
            }
            _ => false,
        };
        if !holds {
            return if in_batch { head.max(candidate.trusted) } else { valid };
        }
        valid = slot.0 + 1;
    }
    if members > 0 { head.max(candidate.trusted) } else { valid }
}
