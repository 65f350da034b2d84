//! What the store says about itself.

use crate::format::ids::Lsn;
use std::path::PathBuf;
use std::time::Duration;

/// Counts and sizes of a store at one moment. Taken while writers run, its fields may be of
/// slightly different moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records that a get would find.
    pub live_records: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Log bytes of live records: headers and padding included.
    pub live_bytes: u64,
    /// Log bytes of overwritten and removed records, tombstones and voids.
    pub dead_bytes: u64,
    /// Bytes allocated to all files of the store, segments prepared ahead included.
    pub disk_bytes: u64,
    /// Anonymous memory of the index.
    pub index_bytes: u64,
    /// The lowest LSN not given yet.
    pub tail: Lsn,
    /// Everything written up to here survives power loss.
    pub durable: Lsn,
    /// Segments and index chunks that were unlinked but that a pin may still see.
    pub retired: u64,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Live records after opening.
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
    /// Whether a checkpoint made opening faster.
    pub from_checkpoint: bool,
    /// Time that opening took.
    pub elapsed: Duration,
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
    /// One entry for each damaged place.
    pub damaged: Vec<Damage>,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
    }
}

/// A damaged place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub segment: PathBuf,
    /// Byte offset of the damaged slot, frame or header.
    pub offset: u64,
    /// The id of the record it cost, where its bytes can still be read.
    pub id: Option<Vec<u8>>,
    /// What does not hold.
    pub reason: String,
}
