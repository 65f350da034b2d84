//! Writes that were appended again ([W3] in DESIGN.md): committed, then found something newer that
//! had answered for what was there before it, and were committed once more above that. Power loss
//! may take that and leave the first copy (DESIGN.md 5.4).
//!
//! Such a write may have its place before the other: it had begun before that was made, and what
//! began after it had ended comes behind both. So by its first copy it may count, as a whole, where
//! the cut lies between the two; but only if it had been begun by then, and something that answers
//! came between its first copy and where it ended. Of calls that no other ran beside none may.

use super::claims::{Call, Contents, History, Write, apply, contents_at};
use stratalog::Lsn;

/// The history up to an LSN, with those of the later calls that count by their first copies before
/// the next one there, says what was found. `None`: there is none, or it must not count.
pub fn with_first_copies(history: &History, last: Lsn, found: &Contents) -> Option<History> {
    let upto = history.range(..=last).map(|(lsn, call)| (*lsn, call.clone()));
    let mut explained: History = upto.collect();
    let before = explained.len();
    let later = || history.range(last..).filter(|(lsn, _)| **lsn > last);
    let (next, _) = later().next()?;
    let later = || later().filter(|(_, call)| call.begun < *next);
    for (place, call) in later() {
        if let Some(first) = first_copy(call, found) {
            let inside = call.begun <= first && first < *next;
            if !inside || history.contains_key(&first) || !is_passed(history, first, *place) {
                return None;
            }
            insert(&mut explained, first, call, found);
        }
    }
    // Of those that leave no record only what they removed can tell. (A single one that removes
    // something is not appended again: what it found was older.)
    let mut removed = Vec::new();
    let silent = |call: &Call| call.writes.len() > 1 && first_copy(call, found).is_none();
    for (place, call) in later().filter(|(_, call)| silent(call)) {
        let there = contents_at(&explained, *next);
        let is_gone =
            |write: &Write| there.contains_key(&write.id) && !found.contains_key(&write.id);
        if call.writes.iter().any(is_gone) && is_passed(history, call.begun, *place) {
            removed.extend_from_slice(&call.writes);
        }
    }
    let changed = explained.len() > before || !removed.is_empty();
    let end = explained.entry(last).or_insert_with(|| Call::alone(Vec::new(), last));
    end.writes.append(&mut removed);
    changed.then_some(explained)
}

/// The LSN of a record that a call has left, the highest of them.
fn first_copy(call: &Call, found: &Contents) -> Option<Lsn> {
    let mut left = Contents::new();
    apply(&mut left, &call.writes);
    let lsns = left.iter().filter_map(|(id, held)| {
        let there = found.get(id).filter(|there| there.version == held.version);
        there.and_then(|there| there.lsn)
    });
    lsns.max()
}

/// Returns whether another call that answers for what was before it may have come between two LSNs.
fn is_passed(history: &History, first: Lsn, place: Lsn) -> bool {
    let between = history.range(first..).filter(|(lsn, _)| **lsn > first && **lsn != place);
    { between }.any(|(_, call)| call.answers && call.begun <= place)
}

fn insert(explained: &mut History, first: Lsn, call: &Call, found: &Contents) {
    let mut call = call.clone();
    for write in &mut call.writes {
        let there = found.get(&write.id).filter(|there| Some(there.version) == write.version);
        write.lsn = there.and_then(|there| there.lsn);
    }
    explained.insert(first, call);
}
