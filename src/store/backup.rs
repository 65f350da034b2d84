//! Copying a store while it is written to.

use super::Store;
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::Sequence;
use crate::fs;
use crate::memory::MmapMemory;
use crate::segment::{Mark, Segment};
use crate::sync::unmodelled::Arc;
use std::path::Path;

impl Store {
    /// Makes a copy of the store in `dir`, which must be missing or empty, beside readers and
    /// writers. The copy holds exactly what was written up to [`Store::durable_lsn`] at a moment
    /// during the call, everything that returned before it included; it has an identity of its
    /// own, is on the device when this returns, and is never there in part under its name.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "kept")?;
    /// let copy = dir.path().join("copy");
    /// store.backup(&copy)?;
    /// let copy = stratalog::Options::new().read_only(true).open(&copy)?;
    /// assert!(copy.contains("a"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] of kind `AlreadyExists`: something is in `dir`. [`Error::StorageFull`],
    /// [`Error::FlushFailed`], [`Error::ReadOnly`] (copy the directory instead).
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        let dir = dir.as_ref();
        // Decides and flushes every slot below each segment's flushed mark: what is copied.
        self.sync()?;
        let unfinished = fs::begin_directory(dir)?;
        let copied = self.copy_into(unfinished.path());
        copied.and_then(|()| unfinished.finish(dir))
    }

    fn copy_into(&self, directory: &Path) -> Result<(), Error> {
        let segments = {
            let guard = self.engine().epoch().pin();
            let log = self.engine().log();
            log.counted(&guard, log.in_use_at_once(&guard))
        };
        let named: Vec<_> = segments.iter().map(|s| s.id()).collect();
        let next = named.last().map_or(Sequence(1), |last| last.sequence.next());
        let source = self.engine().log().source();
        let (files, manifest) = source.of_copy(directory, next, named)?;
        for (segment, mark) in marks(&segments) {
            let copy = files.create_with(segment.id(), |copy| {
                segment.replicate(copy, mark);
            })?;
            drop(copy);
        }
        fs::replace(directory, fs::MANIFEST, &manifest.encode())
    }
}

/// Each segment with its flushed mark, such that together they are what was flushed at a moment,
/// and copies of it.
///
/// The marks are read one after the other, and flushes and compactions go on. A flush ends in the
/// order of the log, so from the youngest back: wherever something of a younger segment counts, all
/// of the older ones was flushed before, and counts, too. Copies first of all: what they were made
/// from was flushed by then.
fn marks(segments: &[Arc<Segment<MmapMemory>>]) -> Vec<(&Segment<MmapMemory>, Mark)> {
    let is_copy = |segment: &Segment<MmapMemory>| segment.role() == Role::Copies;
    let mut marks: Vec<_> = segments.iter().rev().map(|s| (&**s, Mark::default())).collect();
    marks.sort_by_key(|(segment, _)| !is_copy(segment));
    for (segment, mark) in &mut marks {
        *mark = segment.flushed();
    }
    marks
}
