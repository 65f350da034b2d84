//! The cursor: one word that hands out slots and frame space together. DESIGN.md 3.2, (C1) to (C4).

use crate::concurrency::sync::{AtomicU64, Ordering};
use crate::format::ids::{SlotNumber, UNIT_BYTES, Units};
use crate::format::slot::SLOT_BYTES;

const UNITS_BITS: u32 = 40;
const UNITS_MASK: u64 = (1 << UNITS_BITS) - 1;

/// Slots and units taken so far; past the capacity once the segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Slots taken.
    pub slots: u64,
    /// Units taken.
    pub units: u64,
}

impl Taken {
    /// What a cursor word says.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self { slots: word >> UNITS_BITS, units: word & UNITS_MASK }
    }

    /// The cursor word that says so.
    #[must_use]
    pub fn word(self) -> u64 {
        self.slots << UNITS_BITS | (self.units & UNITS_MASK)
    }

    fn plus(self, slots: u32, units: Units) -> Self {
        Self { slots: self.slots + u64::from(slots), units: self.units + u64::from(units.0) }
    }
}

/// How much a segment holds.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Bytes of the segment.
    pub segment_bytes: u64,
    /// Where the directory begins.
    pub directory_at: u64,
}

impl Capacity {
    /// Returns whether directory and frames stay apart.
    #[must_use]
    pub fn fits(self, taken: Taken) -> bool {
        // 2^24 slots of 32 bytes and 2^40 units of 64 bytes cannot overflow 64 bits.
        let directory_end = self.directory_at + taken.slots * SLOT_BYTES as u64;
        directory_end + taken.units * UNIT_BYTES as u64 <= self.segment_bytes
    }

    /// One past the highest slot that any reservation can have been given.
    #[must_use]
    pub fn slots_max(self) -> u32 {
        let each = (SLOT_BYTES + UNIT_BYTES) as u64;
        (self.segment_bytes.saturating_sub(self.directory_at) / each) as u32
    }
}

/// The part of a segment behind which its mark lies: time to think of the next one. Making one
/// takes longer than filling half of one.
pub const PREALLOCATE_AT: u64 = 8;

/// A granted reservation: neighbouring slots, and the frame space below what was taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The first slot.
    pub slot: SlotNumber,
    /// The beginning of the space, which ends where the frames taken before begin.
    pub offset: Units,
    /// Whether this reservation took the segment past its mark.
    pub passed_threshold: bool,
}

/// How a reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It fitted.
    Granted(Grant),
    /// It did not, and neither will any later one (C1). To the one reservation that found it out
    /// first, this tells how much was granted in all.
    Full { granted: Option<Taken> },
}

/// Reserves `slots` neighbouring slots and `units` of frame space. Wait-free: one load, at most one
/// addition.
pub fn reserve(cursor: &AtomicU64, capacity: Capacity, slots: u32, units: Units) -> Reserved {
    debug_assert!(slots > 0 && slots <= units.0, "[C2]");
    // Relaxed: the cursor orders nothing but itself; what lies in the reserved ranges is published
    // by the commit word and the index. The check keeps full segments from being added to for ever.
    if !capacity.fits(Taken::from_word(cursor.load(Ordering::Relaxed))) {
        return Reserved::Full { granted: None };
    }
    let add = Taken { slots: u64::from(slots), units: u64::from(units.0) }.word();
    // Relaxed: as above. The addition itself makes the ranges disjoint [C3].
    let before = Taken::from_word(cursor.fetch_add(add, Ordering::Relaxed));
    let after = before.plus(slots, units);
    if !capacity.fits(after) {
        let granted = capacity.fits(before).then_some(before);
        return Reserved::Full { granted };
    }
    let mark = capacity.segment_bytes / PREALLOCATE_AT;
    let bytes = |taken: Taken| taken.slots * SLOT_BYTES as u64 + taken.units * UNIT_BYTES as u64;
    let end = capacity.segment_bytes / UNIT_BYTES as u64;
    Reserved::Granted(Grant {
        slot: SlotNumber(before.slots as u32),
        offset: Units((end - after.units) as u32),
        passed_threshold: bytes(before) < mark && bytes(after) >= mark,
    })
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Capacity = Capacity { segment_bytes: 1 << 20, directory_at: 4096 };

    proptest! {
        #[test]
        fn reservations_are_disjoint_and_inside_and_none_fits_after_one_did_not(
            asks in prop::collection::vec((1u32..4, 1u32..5_000), 1..300),
        ) {
            let cursor = AtomicU64::new(0);
            let (mut slots, mut floor, mut full) = (0, 1 << 14, false);
            for (n, extra) in asks {
                let units = Units(n + extra);
                match reserve(&cursor, SMALL, n, units) {
                    Reserved::Granted(grant) => {
                        prop_assert!(!full, "a reservation fitted after the segment was full");
                        prop_assert_eq!(grant.slot.0, slots);
                        prop_assert_eq!(grant.offset.0 + units.0, floor);
                        slots += n;
                        floor = grant.offset.0;
                        prop_assert!(4096 + 32 * u64::from(slots) <= 64 * u64::from(floor));
                    }
                    Reserved::Full { granted: Some(granted) } => {
                        prop_assert!(!full, "two reservations were the first that did not fit");
                        prop_assert_eq!(granted.slots, u64::from(slots));
                        full = true;
                    }
                    Reserved::Full { granted: None } => prop_assert!(full),
                }
            }
        }
    }

    #[test]
    fn a_full_segment_stays_full_under_the_most_overruns_that_a_process_can_make() {
        let largest = Capacity { segment_bytes: 1 << 30, directory_at: 4096 };
        let frame = Units(1 << 23);
        for (slots, label) in [(1, "one slot each"), (1 << 23, "a batch of the smallest frames")] {
            let cursor = AtomicU64::new(0);
            let add = Taken { slots, units: u64::from(frame.0) }.word();
            for overrun in 0..1u32 << 16 {
                cursor.fetch_add(add, Ordering::Relaxed);
                let fits = matches!(reserve(&cursor, largest, 1, Units(1)), Reserved::Granted(_));
                assert!(!fits || overrun < 2, "{label}: fits after {overrun} overruns");
            }
        }
    }

    #[test]
    fn the_mark_is_passed_once() {
        let cursor = AtomicU64::new(0);
        let mut passed = 0;
        while let Reserved::Granted(grant) = reserve(&cursor, SMALL, 1, Units(10)) {
            passed += u32::from(grant.passed_threshold);
        }
        assert_eq!(passed, 1);
    }
}
