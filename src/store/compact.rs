//! Compaction at the caller's request.

use super::Store;
use crate::background::compaction::Scope;
use crate::concurrency::sync::unmodelled::AtomicBool;
use crate::error::Error;
use crate::report::CompactionReport;

impl Store {
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
        self.compact_with(|_, _| ())
    }

    /// Does what [`compact`](Store::compact) does, and calls `progress` after each group of
    /// segments with the log bytes of the segments emptied so far, and of all that are to be
    /// emptied. The second number grows when a segment turns out to need another pass. `progress`
    /// must not compact: it would wait for itself. If it panics, what was done stays done.
    ///
    /// # Errors
    ///
    /// As [`compact`](Store::compact).
    pub fn compact_with(
        &self,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<CompactionReport, Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.owner.check()?;
        self.core.flusher.check()?;
        self.core.compact(Scope::All, &AtomicBool::new(false), &mut progress)
    }
}
