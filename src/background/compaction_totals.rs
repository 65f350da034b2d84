//! What the compactions of a store have done, and how far the background has come with tombstones.

use crate::concurrency::sync::unmodelled::{AtomicU64, Ordering};
use crate::format::ids::Sequence;

/// What all compactions of a store have done since it was opened.
#[derive(Debug, Default)]
pub struct CompactionTotals {
    moved_bytes: AtomicU64,
    segments_removed: AtomicU64,
    pub(super) needed_check: NeededCheck,
}

impl CompactionTotals {
    pub(super) fn add(&self, moved_bytes: u64, segments_removed: u64) {
        // Relaxed: statistics, here and below.
        self.moved_bytes.fetch_add(moved_bytes, Ordering::Relaxed);
        self.segments_removed.fetch_add(segments_removed, Ordering::Relaxed);
    }

    /// Log bytes of all records copied.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        // Relaxed: as in `add`.
        self.moved_bytes.load(Ordering::Relaxed)
    }

    /// Segments emptied and removed.
    #[must_use]
    pub fn segments_removed(&self) -> u64 {
        // Relaxed: as in `add`.
        self.segments_removed.load(Ordering::Relaxed)
    }
}

/// How far the background is with checking which of the tombstones that were needed once still are.
/// Only the one compaction that there is at a time uses it.
#[derive(Debug, Default)]
pub(super) struct NeededCheck {
    /// Bytes of them that stayed the last time, at most.
    kept: AtomicU64,
    /// While a check is under way, one more than the highest sequence of a segment that it covers.
    end: AtomicU64,
}

impl NeededCheck {
    pub(super) fn is_under_way(&self) -> bool {
        // Relaxed: the lock that all compactions hold orders this, here and below.
        self.end.load(Ordering::Relaxed) > 0
    }

    pub(super) fn begin(&self, last: Sequence) {
        // Relaxed: as above.
        self.end.store(last.0 + 1, Ordering::Relaxed);
    }

    pub(super) fn covers(&self, sequence: Sequence) -> bool {
        // Relaxed: as above.
        sequence.0 < self.end.load(Ordering::Relaxed)
    }

    /// Ends the check. Groups that are not dropped yet are among what is `needed`.
    pub(super) fn end(&self, needed: u64) {
        // Relaxed: as above.
        self.end.store(0, Ordering::Relaxed);
        // Relaxed: as above.
        self.kept.store(needed, Ordering::Relaxed);
    }

    /// No more stayed than are needed now. How many did.
    pub(super) fn note_kept(&self, needed: u64) -> u64 {
        // Relaxed: as above.
        self.kept.fetch_min(needed, Ordering::Relaxed).min(needed)
    }
}
