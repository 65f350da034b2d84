//! stratalog: an embeddable, lock-free, log-structured storage engine for *embedding + content*
//! records.
//!
//! Writers reserve space with one atomic addition in a pre-sized, memory-mapped segment, write a
//! checksummed record in place and publish it in a lock-free index; readers never block and never
//! copy. What a [`put`](Store::put) acknowledged survives the death of the process; what a
//! [`sync`](Store::sync) covered survives power loss. How it works, and why it is right, is in the
//! repository's DESIGN.md.
//!
//! ```
//! use stratalog::Options;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("memories");
//! let store = Options::new().dimension(4).open(&path)?;
//! store.put("doc-1", &[0.5, 0.5, 0.5, 0.5], "The tide leaves a mark at its highest point.")?;
//! store.sync()?; // survives power loss from here on
//!
//! let pinned = store.pin(); // readers never block, and never copy
//! if let Some(record) = pinned.get("doc-1")? {
//!     let e: &[f32] = record.embedding(); // 64-byte aligned, straight out of the map
//!     println!("{} values, {}", e.len(), record.content_str()?);
//! }
//! # Ok(()) }
//! ```
//!
//! # Limits
//!
//! Ids of 1 to 1024 bytes, one dimension of 1 to 65,536 for all embeddings of a store, records of
//! up to half a segment (1 MiB to 1 GiB), 16 TiB in all. One process writes at a time (any number
//! of threads), others may open the store read-only. 64-bit little-endian Unix systems.
//!
//! # What a mapping asks for
//!
//! The files belong to the store while it is open. Another program that truncates one makes the
//! next touch of the lost pages a SIGBUS, as does a medium that cannot be read; the lock keeps
//! other writers of this crate away, and permissions (directories 0700, files 0600) other users.
//!
//! # Child processes
//!
//! A child process that inherits an open store by `fork` may read it, and sees the records as of
//! the fork. Its writes are [`Error::Forked`] and change nothing. Dropping its copy of the store
//! leaves the parent's lock, files and threads alone.

#[cfg(not(stratalog_loom))]
mod background;
mod clock;
mod concurrency;
#[cfg(not(stratalog_loom))]
mod disk;
mod durability;
mod engine;
mod error;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod index;
mod log;
mod memory;
#[cfg(not(stratalog_loom))]
mod options;
mod os;
#[cfg(not(stratalog_loom))]
mod recovery;
#[cfg(not(stratalog_loom))]
mod report;
#[cfg(not(stratalog_loom))]
mod search;
#[doc(hidden)]
pub mod segment;
#[cfg(not(stratalog_loom))]
mod store;

pub use error::Error;
pub use format::ids::{Lsn, ParseLsnError};
#[cfg(not(stratalog_loom))]
pub use options::{Compaction, Condition, Durability, Options, Recovery, Verify};
#[cfg(not(stratalog_loom))]
pub use report::{
    CompactionReport, Counted, Damage, RecoveryReport, SegmentRole, SegmentState, SegmentStats,
    Stats, VerifyReport,
};
#[cfg(not(stratalog_loom))]
pub use search::Metric;
#[cfg(not(stratalog_loom))]
pub use store::{
    Batch, GetMany, Hit, Iter, NewRecord, OwnedRecord, Pinned, Record, SharedRecord, Store,
};

/// The layers below the store, for the models in `loom-tests/`, for fuzzing and for tests that
/// need to stop between two steps. No part of the public contract.
#[doc(hidden)]
pub mod internals {
    pub use crate::{format, index, segment};

    pub use crate::concurrency::epoch::{Epoch, Garbage, Guard, Retired};
    pub use crate::concurrency::growable_array::GrowableArray;
    pub use crate::durability::Flusher;
    pub use crate::engine::{Damaged, Engine, Key, Located, Refused, Relocation};
    pub use crate::log::{Log, Purpose, SegmentTable, Source};
    pub use crate::memory::{HeapMemory, Memory};

    /// The same record with another time of creation: for `stratalog salvage`, which writes records
    /// anew. Not for batches.
    #[cfg(not(stratalog_loom))]
    pub fn with_created(
        record: crate::NewRecord<'_>,
        created: std::time::SystemTime,
    ) -> crate::NewRecord<'_> {
        record.created_at(created)
    }
}
