//! Conditional puts that do not count because of a member of a batch that they have not seen [W9].

use super::scan::counts;
use super::{DiskEngine, SegmentCandidate};
use crate::engine::FoundRecord;
use crate::format::slot::SlotState;

/// Finds them. They are to be void, so that the highest LSN is the newest state again. Whether
/// there are any: then the index has to be made without them.
pub(super) fn find_outdone(engine: &DiskEngine, candidates: &mut [SegmentCandidate]) -> bool {
    let hashes = engine.unseen();
    if hashes.is_empty() {
        return false;
    }
    let counting = |(number, candidate): (usize, &SegmentCandidate)| {
        let mut found = Vec::new();
        for (slot, state) in candidate.segment.directory().slots(candidate.limit) {
            let SlotState::Committed(kind, body) = state else { continue };
            let judged = (slot, state);
            if hashes.contains(&body.key_hash) && counts(engine, candidate, judged) {
                found.push((number, slot, kind, body));
            }
        }
        found
    };
    let found: Vec<_> = candidates.iter().enumerate().flat_map(counting).collect();
    let records = found.iter().map(|&(number, slot, kind, body)| {
        let segment = &*candidates[number].segment;
        FoundRecord { segment, number, slot, kind, body }
    });
    let outdone = engine.find_outdone(records);
    for (number, slot) in &outdone {
        candidates[*number].outdone.push(*slot);
    }
    !outdone.is_empty()
}
