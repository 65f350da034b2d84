//! What the store says about itself.

use crate::format::ids::Lsn;
use std::path::PathBuf;
use std::time::Duration;

/// Counts and sizes of a store at one moment. Taken while writers run, its fields may be of
/// slightly different moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records that a get would find, and those that have expired until compaction comes by: as
    /// [`Store::len`](crate::Store::len).
    pub live_records: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Log bytes of live records: headers and padding included.
    pub live_bytes: u64,
    /// Log bytes of overwritten and removed records, tombstones and voids.
    pub dead_bytes: u64,
    /// Bytes allocated to all files of the store, segments preallocated ahead included.
    pub disk_bytes: u64,
    /// Anonymous memory of the index.
    pub index_bytes: u64,
    /// The lowest LSN not given yet.
    pub tail: Lsn,
    /// Everything written up to here survives power loss.
    pub durable: Lsn,
    /// Slots taken that are not known to survive power loss yet: what [`sync`](crate::Store::sync)
    /// would have to flush. A read-only handle goes by what the headers said when it was opened.
    pub unflushed_slots: u64,
    /// Segments and index chunks that were unlinked but that a pin may still see.
    pub retired: u64,
    /// Bytes of segments that were emptied and are still mapped, because of a pin, a
    /// [`SharedRecord`](crate::SharedRecord) or a backup under way. Their files have no names any
    /// more, so `disk_bytes` does not count them; the file system does.
    pub retained_bytes: u64,
    /// For how long the first of those has waited; zero if there is none.
    pub retained_age: Duration,
    /// Log bytes that compaction has copied since the store was opened: what it costs.
    pub compaction_moved_bytes: u64,
    /// Segments that compaction has emptied and removed since the store was opened.
    pub compaction_segments_removed: u64,
    /// How long puts were delayed since the store was opened, summed over all threads, because they
    /// outran compaction ([`Options::space_target`](crate::Options::space_target)).
    pub write_stall: Duration,
}

/// One segment of the log, as [`Store::segments`](crate::Store::segments) saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Place in the log's history.
    pub sequence: u64,
    /// What it is for.
    pub role: SegmentRole,
    /// What becomes of it.
    pub state: SegmentState,
    /// Its file; gone if it is [`SegmentState::Retained`].
    pub path: PathBuf,
    /// Slots taken: records, tombstones, voids.
    pub slots: u32,
    /// Slots that are known to survive power loss.
    pub durable_slots: u32,
    /// Log bytes of live records: headers and padding included.
    pub live_bytes: u64,
    /// Log bytes that a compaction would get back, as far as is known.
    pub dead_bytes: u64,
    /// Log bytes of removals that compaction has found to be needed, because another segment
    /// still holds what was removed.
    pub needed_bytes: u64,
    /// Bytes allocated to its file; of one that was removed, when it was.
    pub disk_bytes: u64,
}

impl SegmentStats {
    /// Returns whether all that it holds is known to survive power loss.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable_slots >= self.slots
    }
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SegmentRole {
    /// Writes, in the order of their LSNs.
    Log,
    /// What compaction has copied out of other segments.
    Copies,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SegmentState {
    /// It takes writes, or copies.
    Active,
    /// It takes no more.
    Sealed,
    /// It was emptied and its file removed; it stays mapped until nobody reads it.
    Retained,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Live records after opening, as [`Store::len`](crate::Store::len) counts them.
    pub records: u64,
    /// Reservations that a crash left without a whole record; none of them was acknowledged.
    pub torn: u64,
    /// Slots that were voided while the store ran (a panic in a writer, a lost race).
    pub void: u64,
    /// Records or slots that were whole once and are damaged now: lost, and listed by `verify`.
    pub corrupt: u64,
    /// Segments that the manifest names and that are not there.
    pub missing_segments: u64,
    /// Files ending in `.seg` that are no segments of this store; left alone.
    pub foreign_files: u64,
    /// Bytes read: directories, and frames whose checksum was checked.
    pub scanned_bytes: u64,
    /// Which of the writes that were not known to be durable were counted.
    pub counted: Counted,
    /// Time that opening took.
    pub elapsed: Duration,
    /// Every record and every place that opening knows to be lost, by file and offset: damage, and
    /// what power loss took of the writes that were not durable. At most 100,000 are listed.
    pub lost: Vec<Damage>,
    /// How many more there are than are listed.
    pub lost_unlisted: u64,
}

/// By which rule opening counted the writes that were not known to be durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Counted {
    /// All of them: the system has not booted since they were made, or there were none.
    #[default]
    All,
    /// A prefix in the order of LSNs: the system has booted since, so power may have failed.
    Prefix,
    /// Each that proves itself by its checksum, and batches only whole. The kernel does not tell
    /// whether the system has booted since, or the page cache was lost without that. The writes
    /// that are there need not be a prefix.
    Each,
}

/// No report lists more, however damaged the files are.
const LOST_LISTED_MAX: usize = 100_000;

impl RecoveryReport {
    /// Returns whether opening knows of nothing that was lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.lost_unlisted == 0
    }

    /// Sorts the losses by their places, and names each place once, as it was noted first.
    pub(crate) fn sort_losses(&mut self) {
        let place = |damage: &Damage| (damage.path.clone(), damage.offset);
        self.lost.sort_by_cached_key(place);
        self.lost.dedup_by(|b, a| b.offset == a.offset && b.path == a.path);
    }

    /// Replaces the losses by those of another report.
    pub(crate) fn set_losses(&mut self, of: Self) {
        (self.corrupt, self.lost, self.lost_unlisted) = (of.corrupt, of.lost, of.lost_unlisted);
    }

    /// Notes a loss.
    pub(crate) fn lose(&mut self, damage: Damage) {
        if self.lost.len() < LOST_LISTED_MAX {
            self.lost.push(damage);
        } else {
            self.lost_unlisted += 1;
        }
    }

    /// Adds what another thread has found.
    pub(crate) fn add(&mut self, part: Self) {
        self.torn += part.torn;
        self.void += part.void;
        self.corrupt += part.corrupt;
        self.scanned_bytes += part.scanned_bytes;
        self.lost_unlisted += part.lost_unlisted;
        part.lost.into_iter().for_each(|damage| self.lose(damage));
    }
}

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Log bytes of the segments removed, less those of the copies made.
    pub reclaimed_bytes: u64,
    /// Records and tombstones copied to other segments.
    pub moved_records: u64,
    /// Log bytes of those.
    pub moved_bytes: u64,
    /// Segments emptied and removed.
    pub segments_removed: u64,
    /// Time that it took.
    pub elapsed: Duration,
}

/// What `Store::verify` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Records checked, live or not.
    pub records: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Records whose id was looked up and compared with the log, by `Store::verify_deep`.
    pub compared: u64,
    /// One entry for each damaged place.
    pub damaged: Vec<Damage>,
}

impl VerifyReport {
    /// Returns whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
    }
}

/// A damaged place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Byte offset of the damaged slot, frame or header.
    pub offset: u64,
    /// The id of the record it cost, where its bytes can still be read.
    pub id: Option<Vec<u8>>,
    /// What does not hold.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_beyond_the_limit_are_counted_not_listed() {
        let damage =
            Damage { path: PathBuf::new(), offset: 0, id: None, reason: "a reason".to_owned() };
        let mut part = RecoveryReport::default();
        (0..LOST_LISTED_MAX + 3).for_each(|_| part.lose(damage.clone()));
        assert_eq!((part.lost.len(), part.lost_unlisted), (LOST_LISTED_MAX, 3));
        let mut all = RecoveryReport::default();
        assert!(all.is_clean());
        all.lose(damage);
        all.add(part);
        assert_eq!((all.lost.len(), all.lost_unlisted), (LOST_LISTED_MAX, 4));
        assert!(!all.is_clean());
    }
}
