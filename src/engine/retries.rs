//! Writes that are made again because a flush has voided them. A flush does not wait long for a
//! writer, so a write that takes longer would be voided by every flush, and never end, where
//! others ask for one flush after the other. While it is made again, flushes wait longer.

use crate::concurrency::sync::unmodelled::{AtomicU64, Ordering};

/// The number of times that the calls in progress have been voided.
#[derive(Debug, Default)]
pub(super) struct Retries(AtomicU64);

impl Retries {
    pub(super) fn count(&self) -> u64 {
        // Relaxed, here and below: a hint that orders nothing.
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn of_call(&self) -> CallRetries<'_> {
        CallRetries { all: self, count: 0 }
    }
}

/// Those of one call, until it ends.
#[derive(Debug)]
pub(super) struct CallRetries<'e> {
    all: &'e Retries,
    count: u64,
}

impl CallRetries<'_> {
    /// Notes that a flush has voided the write, and that it is made again.
    #[cold]
    pub(super) fn add_one(&mut self) {
        self.count += 1;
        // Relaxed: as in `count`.
        self.all.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for CallRetries<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            // Relaxed: as in `count`.
            self.all.0.fetch_sub(self.count, Ordering::Relaxed);
        }
    }
}
