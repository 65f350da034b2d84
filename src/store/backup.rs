//! Copying a store while it is written to.

use super::Store;
use crate::concurrency::sync::unmodelled::Arc;
use crate::disk::fs;
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::{Lsn, Sequence, SlotNumber};
use crate::format::slot::SlotState;
use crate::memory::MmapMemory;
use crate::recovery::check;
use crate::segment::{Mark, Segment};
use std::collections::BTreeMap;
use std::path::Path;

impl Store {
    /// Makes a copy of the store in `dir`, which must be missing or empty, beside readers and
    /// writers. The copy holds exactly what was written up to [`Store::durable_lsn`] at a moment
    /// during the call, everything that returned before it included. Returns that LSN; those of the
    /// copy continue above it. The copy has an identity of its own, is on the device when this
    /// returns, and is never there in part under its name.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "kept")?;
    /// let copy = dir.path().join("copy");
    /// let lsn = store.backup(&copy)?;
    /// assert!(lsn <= store.durable_lsn());
    /// let copy = stratalog::Options::new().read_only(true).open(&copy)?;
    /// assert!(copy.contains("a"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] of kind `AlreadyExists`: something is in `dir`. [`Error::StorageFull`],
    /// [`Error::FlushFailed`], [`Error::Forked`], [`Error::ReadOnly`] (copy the directory instead).
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<Lsn, Error> {
        let dir = dir.as_ref();
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.owner.check()?;
        let live_manifest = &self.core.live_manifest;
        let gave_way = self.find_what_gave_way();
        // Two victims of one group may need each other: one removed what the other holds.
        let moment = live_manifest.while_none_leaves(|| {
            self.core.flusher.sync_and_then(self.engine(), || self.moment())
        })?;
        let unfinished = fs::begin_directory(dir)?;
        self.copy_into(unfinished.directory(), &moment, &gave_way)?;
        unfinished.finish()?;
        Ok(moment.lsn)
    }

    /// What counts just now. To be called while nobody flushes, after a flush: then all that was
    /// flushed is a prefix in LSN order, across segments. What compaction has moved since is a copy
    /// of what was flushed before, and what it moves later is still where it was.
    fn moment(&self) -> BackupPoint {
        let guard = self.engine().epoch().pin();
        let log = self.engine().log();
        let (next, lsn) = (log.floor(&guard), self.core.flusher.durable());
        let segments = log.counted(&guard, log.in_use_at_once(&guard));
        // Read last: whatever was moved out of a segment that was gone by then is below a mark.
        let marked = segments.into_iter().map(|segment| {
            let mark = mark_of(&segment);
            (segment, mark)
        });
        let (parts, others): (Vec<_>, Vec<_>) = marked.partition(|(_, mark)| mark.slot > 0);
        let above = parts.last().map_or(Sequence(1), |(last, _)| last.sequence().next());
        // No LSN is given by the copy that was given before, be its segment gone.
        BackupPoint { parts, _others: others, next: next.max(above), lsn }
    }

    fn copy_into(
        &self,
        directory: &fs::Directory,
        moment: &BackupPoint,
        gave_way: &GaveWay,
    ) -> Result<(), Error> {
        let named = moment.parts.iter().map(|(segment, _)| segment.id()).collect();
        let source = self.engine().log().source();
        let (files, manifest) = source.of_backup(directory, moment.next, named)?;
        for (segment, mark) in &moment.parts {
            let copy = files.create_with(segment.id(), |copy| {
                segment.replicate(copy, *mark);
                let void = gave_way.get(&segment.sequence()).into_iter().flatten();
                void.filter(|slot| slot.0 < mark.slot)
                    .for_each(|slot| copy.directory().void(*slot));
            })?;
            drop(copy);
        }
        directory.replace_manifest(&manifest.encode())
    }

    /// Where an older version answers for a damaged record, because opening has found that in a
    /// segment with a flaw, it does so in the copy, which has no flaw: all its slots are believed.
    ///
    /// To be asked before the moment of the copy: then that version answers there still, or
    /// something newer does that the copy has.
    fn find_what_gave_way(&self) -> GaveWay {
        let (engine, guard) = (self.engine(), self.engine().epoch().pin());
        let gave_way = |segment: &Arc<Segment<MmapMemory>>| {
            let slots =
                segment.directory().slots(segment.filling().slots_end()).filter(|(slot, state)| {
                    match *state {
                        SlotState::Committed(kind, body) => {
                            engine.has_older(&guard, body)
                                && check(segment, *slot, kind, body, true).is_err()
                        }
                        _ => false,
                    }
                });
            (segment.sequence(), slots.map(|(slot, _)| slot).collect())
        };
        let quarantined =
            engine.log().in_use_arcs(&guard, |segment| segment.reclamation().is_quarantined());
        quarantined.iter().map(gave_way).collect()
    }
}

/// By segment, the slots of damaged records for which an older version answers.
type GaveWay = BTreeMap<Sequence, Vec<SlotNumber>>;

/// Returns how far a segment counts. One for copies that an earlier process has made, all of it: it
/// takes no more, opening has decided about each of its slots, and its mark may be lower, since
/// that process died before it had stored it, or its header was damaged. What it was copied from
/// may be gone.
fn mark_of(segment: &Segment<MmapMemory>) -> Mark {
    match segment.role() {
        Role::Copies if !segment.checks().is_created_here() => segment.directory().end_mark(),
        Role::Copies | Role::Log => segment.durable().flushed(),
    }
}

/// Everything that counts at one moment.
struct BackupPoint {
    /// Segments in the order of their sequences, and how far each counts.
    parts: Vec<(Arc<Segment<MmapMemory>>, Mark)>,
    /// Segments of which nothing counts yet. Records of the parts may have been moved there, and
    /// their tags are there as long as the segment is: compaction may be done with it long before
    /// the copying has come to them.
    _others: Vec<(Arc<Segment<MmapMemory>>, Mark)>,
    /// The first segment that the copy makes itself.
    next: Sequence,
    /// Everything written up to here counts, and nothing above.
    lsn: Lsn,
}
