//! Compaction: the reclaiming state, the quarantine, and the running totals.

use crate::concurrency::sync::Ordering;
use crate::concurrency::sync::control::{AtomicU32, AtomicU64};

/// How far compaction has come with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reclaiming {
    /// Compaction has not chosen it.
    None = 0,
    /// Compaction empties it.
    Victim = 1,
    /// No manifest names it any more; its file is unlinked, or will be at the next opening.
    Dropped = 2,
    /// No guard is left that could hold an address in it: its owner may take it out of the table.
    Released = 3,
}

/// In `Reclamation::quarantined`.
const DAMAGED: u32 = 1;
const FOR_GOOD: u32 = 2;

/// In `Reclamation::counted`.
const UNCOUNTED: u64 = 0;
const COUNTED_OUT: u64 = u64::MAX;

/// How far compaction has come with a segment; see [`Segment::reclamation`].
///
/// [`Segment::reclamation`]: super::super::Segment::reclamation
#[derive(Debug)]
pub struct Reclamation {
    reclaiming: AtomicU32,
    quarantined: AtomicU32,
    /// One more than the bytes on disk with which it is in the running totals; see `count_in`.
    counted: AtomicU64,
}

impl Reclamation {
    pub(super) fn new() -> Self {
        Self {
            reclaiming: AtomicU32::new(Reclaiming::None as u32),
            quarantined: AtomicU32::new(0),
            counted: AtomicU64::new(UNCOUNTED),
        }
    }
}

impl Reclamation {
    /// Returns how far compaction has come with it.
    pub fn reclaiming(&self) -> Reclaiming {
        // Acquire: pairs with the Release in `move_reclaiming`.
        match self.reclaiming.load(Ordering::Acquire) {
            0 => Reclaiming::None,
            1 => Reclaiming::Victim,
            2 => Reclaiming::Dropped,
            _ => Reclaiming::Released,
        }
    }

    fn move_reclaiming(&self, from: Reclaiming, to: Reclaiming) -> bool {
        // Release: pairs with the Acquire in `reclaiming`. Relaxed on failure: nothing is read.
        let moved = self.reclaiming.compare_exchange(
            from as u32,
            to as u32,
            Ordering::Release,
            Ordering::Relaxed,
        );
        moved.is_ok()
    }

    /// Makes it a victim of the caller's, unless it is one already, or was dropped [SL3].
    #[must_use]
    pub fn become_victim(&self) -> bool {
        self.move_reclaiming(Reclaiming::None, Reclaiming::Victim)
    }

    /// The victim stays in use: its group could not be emptied, or not be dropped.
    pub fn release_victim(&self) {
        self.move_reclaiming(Reclaiming::Victim, Reclaiming::None);
    }

    /// The manifest does not name it any more; its file is to be removed.
    pub fn set_dropped(&self) {
        if !self.move_reclaiming(Reclaiming::Victim, Reclaiming::Dropped) {
            // An output without records was never a victim.
            self.move_reclaiming(Reclaiming::None, Reclaiming::Dropped);
        }
    }

    /// Returns whether the manifest has given it up.
    pub fn is_dropped(&self) -> bool {
        self.reclaiming() >= Reclaiming::Dropped
    }

    /// No guard can hold an address in it any more that it took from the index.
    pub fn set_released(&self) {
        // Release: as in `move_reclaiming`; final, whatever it was before.
        self.reclaiming.store(Reclaiming::Released as u32, Ordering::Release);
    }

    /// Returns whether its owner may take it out of the table.
    pub fn is_released(&self) -> bool {
        self.reclaiming() == Reclaiming::Released
    }

    /// Something in it is damaged: it stays as it is, until that does not count any more, or
    /// `for_good`. Whether that was not known before.
    pub fn quarantine(&self, for_good: bool) -> bool {
        let quarantine = if for_good { FOR_GOOD } else { DAMAGED };
        // Relaxed: compaction alone asks, and sets it, but for recovery, which is alone.
        self.quarantined.fetch_max(quarantine, Ordering::Relaxed) == 0
    }

    /// Nothing that is damaged in it counts any more. Whether compaction may have it again.
    #[must_use]
    pub fn end_quarantine(&self) -> bool {
        // Relaxed: as in `quarantine`.
        let order = Ordering::Relaxed;
        self.quarantined.compare_exchange(DAMAGED, 0, order, order).is_ok()
    }

    /// Returns whether compaction keeps away from it.
    pub fn is_quarantined(&self) -> bool {
        // Relaxed: as in `quarantine`.
        self.quarantined.load(Ordering::Relaxed) != 0
    }

    /// Returns whether compaction keeps away from it until nothing damaged in it counts any more.
    pub fn may_leave_quarantine(&self) -> bool {
        // Relaxed: as in `quarantine`.
        self.quarantined.load(Ordering::Relaxed) == DAMAGED
    }

    /// Returns whether the caller is to add this settled segment to the running totals, with so
    /// many bytes on disk: once.
    #[must_use]
    pub fn claim_addition(&self, disk_bytes: u64) -> bool {
        // Relaxed: statistics.
        let order = Ordering::Relaxed;
        let to = disk_bytes.saturating_add(1);
        self.counted.compare_exchange(UNCOUNTED, to, order, order).is_ok()
    }

    /// If it is in the running totals, with how many bytes on disk: the caller is to subtract it.
    #[must_use]
    pub fn claim_subtraction(&self) -> Option<u64> {
        // Relaxed: statistics.
        let counted = self.counted.swap(COUNTED_OUT, Ordering::Relaxed);
        (counted != COUNTED_OUT).then(|| counted.checked_sub(1)).flatten()
    }

    /// If it is in the running totals: with how many bytes on disk it was until now.
    #[must_use]
    pub fn recount(&self, disk_bytes: u64) -> Option<u64> {
        // Relaxed: statistics.
        let order = Ordering::Relaxed;
        let recounted = |counted| match counted {
            UNCOUNTED | COUNTED_OUT => None,
            _ => Some(disk_bytes.saturating_add(1)),
        };
        self.counted.fetch_update(order, order, recounted).ok()?.checked_sub(1)
    }

    /// Returns whether it is in the running totals, or was.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        // Relaxed: statistics.
        self.counted.load(Ordering::Relaxed) != UNCOUNTED
    }
}
