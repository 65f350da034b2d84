//! What keeps a tombstone.

use super::*;
use crate::format::ids::Sequence;
use crate::log::tests::segment;

const HASH: u64 = 77;

/// Returns whether a segment keeps a tombstone of this sequence.
fn keeps(segment: &Segment<crate::memory::HeapMemory>, tombstone: u64) -> bool {
    let lsn = Lsn::new(Sequence(tombstone), SlotNumber(0));
    let mut wanted = HashMap::from([(HASH, (lsn, false))]);
    note_older(segment, &mut wanted);
    wanted[&HASH].1
}

/// A writer with a slot of a lower LSN in hand may commit an older version of any id after the
/// segment was walked.
#[test]
fn a_tombstone_stays_while_an_older_write_may_still_be_committed() {
    let segment = segment(3);
    let reservation = segment.reserve(64).unwrap();
    segment.filling().close();
    assert!(!segment.filling().is_quiet() && keeps(&segment, 3) && keeps(&segment, 4));
    assert!(!keeps(&segment, 2), "whatever is written there is newer than the tombstone");
    drop(reservation);
    assert!(segment.filling().is_quiet() && !keeps(&segment, 4));
}
