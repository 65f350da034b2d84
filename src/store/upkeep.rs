//! Closing, and what the store says about itself.

use super::Store;
use crate::compaction::Scope;
use crate::error::Error;
use crate::fs;
use crate::report::{CompactionReport, RecoveryReport, Stats};
use crate::sync::unmodelled::{Arc, AtomicBool};
use std::path::Path;

impl Store {
    /// Counts and sizes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let engine = self.engine();
        let guard = engine.epoch().pin();
        let held = engine.log().held(&guard);
        let mut stats = Stats {
            live_records: engine.live(),
            segments: held.segments,
            live_bytes: held.live_bytes,
            dead_bytes: held.frame_bytes.saturating_sub(held.live_bytes),
            lag: held.unflushed_slots,
            index_bytes: engine.index().allocated_bytes(),
            disk_bytes: held.disk_bytes + engine.log().source().other_bytes(),
            durable: self.duties.durability.durable(),
            tail: engine.log().tail(&guard),
            retired: engine.epoch().pending(),
            compaction_moved_bytes: self.duties.compacted.moved_bytes(),
            compaction_segments_removed: self.duties.compacted.segments_removed(),
            delayed: self.duties.pacer.delayed(),
            ..Stats::default()
        };
        for retained in self.retained() {
            stats.retained_bytes += retained.disk_bytes;
            stats.retained_age = stats.retained_age.max(retained.age);
        }
        stats
    }

    /// Bytes of the index, and how long puts were delayed in all: what a bench asks after each put.
    /// No part of the public contract.
    #[doc(hidden)]
    #[must_use]
    pub fn growth(&self) -> (u64, std::time::Duration) {
        (self.engine().index().allocated_bytes(), self.duties.pacer.delayed())
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Gives back the space of everything that was overwritten or removed: copies what is live out
    /// of every segment that holds something dead, and removes those. Beside readers and writers,
    /// who do not wait; this call waits for the device, for another compaction, and, no longer than
    /// five seconds, for writes under way in segments that are full. What is dead where a write
    /// takes longer is given back by the next one.
    ///
    /// Pins are not waited for: what a reader still holds stays mapped until its pin is gone, under
    /// no name. Needs room for one segment at a time, and syncs first. After remove (or overwrite),
    /// `compact` and [`close`](Store::close), with no pin held, no file of the store contains the
    /// removed bytes.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "x".repeat(1000))?;
    /// store.put("b", &[2.0], "kept")?;
    /// store.remove("a")?;
    /// let report = store.compact()?;
    /// assert_eq!((report.segments_removed, report.moved_records), (1, 1));
    /// assert!(report.reclaimed_bytes > 1000 && store.contains("b"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::StorageFull`]: there is no room for the copies; what was finished before stays
    /// finished, and nothing is lost. [`Error::FlushFailed`], [`Error::Forked`],
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn compact(&self) -> Result<CompactionReport, Error> {
        self.compact_with(|_| ())
    }

    /// As [`compact`](Store::compact), and says after each group of segments what was done so far.
    /// `progress` must not compact: it would wait for itself. If it panics, what was done stays
    /// done.
    ///
    /// # Errors
    ///
    /// As [`compact`](Store::compact).
    pub fn compact_with(
        &self,
        mut progress: impl FnMut(&CompactionReport),
    ) -> Result<CompactionReport, Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.owner.check()?;
        self.duties.durability.check()?;
        self.duties.compact(Scope::All, &AtomicBool::new(false), &mut progress)
    }

    /// Syncs, notes on disk that all is durable, and closes. Dropping the store does the same and
    /// ignores errors.
    ///
    /// # Errors
    ///
    /// [`Error::FlushFailed`]: what was not durable before may be lost at a power cut; it is still
    /// there after anything less. [`Error::Forked`]: the process inherited the store. Its copy is
    /// closed; the store itself stays open, and locked, in the process that opened it.
    pub fn close(mut self) -> Result<(), Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        if self.read_only {
            return Ok(());
        }
        if let Err(forked) = self.owner.check() {
            self.leave_to_parent();
            return Err(forked);
        }
        // Joins the threads; a prepared segment is discarded.
        self.maintenance = None;
        let settled = self.duties.durability.settle(self.engine());
        self.lock = None;
        settled
    }
}

impl Store {
    /// Closes what a child process has inherited: flushes nothing, removes no file and unlocks
    /// nothing. The threads exist in the parent only, so there is none to stop or to join.
    fn leave_to_parent(&mut self) {
        std::mem::forget(self.maintenance.take());
        // What the threads share is never dropped here: they hold counts, which nobody releases.
        std::mem::forget(Arc::clone(&self.duties));
        if let Some(lock) = self.lock.take() {
            lock.leave_to_parent();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // `close` is there for who wants to know.
        drop(self.finish());
    }
}

/// What the `LOCK` file of a store says about the process that holds it, or held it last: for a
/// message to a person after [`Error::Locked`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s")).unwrap();
/// let holder = stratalog::lock_holder(store.path()).unwrap();
/// assert!(holder.contains(&std::process::id().to_string()));
/// ```
#[must_use]
pub fn lock_holder(store: impl AsRef<Path>) -> Option<String> {
    fs::lock_holder(store.as_ref())
}
