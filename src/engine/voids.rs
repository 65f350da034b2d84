//! How often flushes void what one call writes. A flush does not wait long for a writer, so one
//! that writes much would be voided by each of them, where others ask for one flush after the
//! other, and never come to its end. So while such a call goes on, flushes wait longer. A writer
//! that is stopped notes nothing, and each flush that has waited for it in vain takes one back.

use crate::sync::unmodelled::{AtomicU64, Ordering};

/// More than this count as so many.
const VOIDS_MAX: u64 = 6;

/// Of the calls that go on, the most voids of one.
#[derive(Debug, Default)]
pub(super) struct MostVoids(AtomicU64);

impl MostVoids {
    pub(super) fn get(&self) -> u32 {
        // Relaxed, here and below: a hint that orders nothing.
        self.0.load(Ordering::Relaxed).min(VOIDS_MAX) as u32
    }

    /// A flush has waited as long as that says, and in vain.
    pub(super) fn take_one_back(&self) {
        let fewer = |voids: u64| voids.min(VOIDS_MAX).checked_sub(1);
        // Relaxed: as in `get`. Nothing is done where there are none.
        let took = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        took.map(drop).unwrap_or(());
    }

    /// The voids of a call that begins.
    pub(super) fn of_call(&self) -> Voids<'_> {
        Voids { most: self, count: 0 }
    }
}

/// The voids of one call, until it ends.
#[derive(Debug)]
pub(super) struct Voids<'e> {
    most: &'e MostVoids,
    count: u64,
}

impl Voids<'_> {
    /// What it has written was voided by a flush that could not wait: it writes again.
    #[cold]
    pub(super) fn add_one(&mut self) {
        self.count += 1;
        // Relaxed: as in `get`.
        self.most.0.fetch_max(self.count, Ordering::Relaxed);
    }
}

impl Drop for Voids<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            // Relaxed: as in `get`. If it is another call's by now, that one goes on.
            let ended =
                self.most.0.compare_exchange(self.count, 0, Ordering::Relaxed, Ordering::Relaxed);
            ended.map(drop).unwrap_or(());
        }
    }
}
