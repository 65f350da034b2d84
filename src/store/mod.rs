//! The store: what a program uses. Checks arguments, names the path in an error, and hands on.

mod backup;
mod batch;
mod close;
mod compact;
#[cfg(stratalog_simulation)]
mod compared;
mod finite;
mod new_record;
mod open;
mod owner;
mod pinned;
mod record;
mod search;
mod stats;
mod sync;
mod verify;
mod write;

pub use batch::Batch;
pub use new_record::NewRecord;
pub use pinned::{GetMany, Iter, Pinned};
pub use record::{OwnedRecord, Record, SharedRecord};
pub use search::Hit;

use crate::background::{BackgroundThreads, StoreCore};
use crate::concurrency::sync::unmodelled::Arc;
use crate::disk::fs::DirectoryLock;
use crate::disk::{DiskEngine, Retained};
use crate::engine::Damaged;
use crate::error::Error;
use crate::format::frame::ID_BYTES_MAX;
use crate::format::header::SegmentId;
use crate::format::ids::TableIndex;
use crate::index::KeyHash;
use crate::memory::MmapMemory;
use crate::options::Verify;
use crate::report::{Damage, RecoveryReport};
use owner::OwnerProcess;
use std::path::Path;
use std::time::Duration;

/// A store of embedding + content records, open in this process. `Send + Sync`: share it by
/// reference or in an `Arc`.
///
/// Readers never block, never copy, and never write to shared memory. Of two concurrent writes of
/// one id, the one with the higher [`Lsn`](crate::Lsn) wins, now and after any recovery. Nothing
/// waits for another thread but what waits for the device: [`sync`](Store::sync),
/// [`wait_durable`](Store::wait_durable), writes of a synced store, `backup` and `close`.
///
/// ```
/// use stratalog::Options;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("memories");
/// let store = Options::new().dimension(3).open(&path)?;
/// store.put("doc-1", &[0.0, 0.6, 0.8], "The tide leaves a mark at its highest point.")?;
///
/// let pinned = store.pin();
/// let record = pinned.get("doc-1")?.ok_or("gone")?;
/// assert_eq!(record.embedding(), &[0.0, 0.6, 0.8]);
/// assert_eq!(record.content_str()?, "The tide leaves a mark at its highest point.");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Store {
    /// Stopped first.
    background: Option<BackgroundThreads>,
    core: Arc<StoreCore>,
    time_to_live: Option<Duration>,
    verify: Verify,
    read_only: bool,
    hash_seed: u64,
    report: RecoveryReport,
    damage: Vec<Damage>,
    closed: bool,
    /// The process that opened it.
    owner: Arc<OwnerProcess>,
    /// Held as long as the store is open for writing; given back last.
    lock: Option<DirectoryLock>,
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<SharedRecord>();
};

impl Store {
    #[inline]
    fn engine(&self) -> &DiskEngine {
        &self.core.engine
    }

    #[inline]
    fn hash(&self, id: &[u8]) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_64_with_seed(id, self.hash_seed))
    }

    /// Pins this thread, so that records can be borrowed. Costs some 10 ns alone and up to 100 ns
    /// inside a get (its fence ends the overlap of cache misses): pin once for many gets. While a
    /// pin lives, what it can see is not given back to the system. Pins nest and are not `Send`.
    #[must_use]
    #[inline]
    pub fn pin(&self) -> Pinned<'_> {
        Pinned::new(self, self.engine().epoch().pin())
    }

    /// Returns a copy of an id's record.
    ///
    /// # Errors
    ///
    /// As [`Pinned::get`].
    pub fn get_owned(&self, id: impl AsRef<[u8]>) -> Result<Option<OwnedRecord>, Error> {
        self.pin().get_owned(id)
    }

    /// Returns an id's record without a copy and without a pin: it keeps its segment mapped.
    ///
    /// # Errors
    ///
    /// As [`Pinned::get`].
    pub fn get_shared(&self, id: impl AsRef<[u8]>) -> Result<Option<SharedRecord>, Error> {
        self.pin().get_shared(id)
    }

    /// Returns whether an id has a live record. Reads the id, not the record: damage shows at
    /// `get`.
    #[must_use]
    pub fn contains(&self, id: impl AsRef<[u8]>) -> bool {
        self.pin().contains(id)
    }

    /// Returns the number of live records. A record that has expired is counted until compaction
    /// reaches it; for an exact number walk the records ([`Pinned::iter`]). While writers run, the
    /// number is that of one moment.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.engine().live()).unwrap_or(usize::MAX)
    }

    /// Returns whether there is no live record, as [`Store::len`] counts them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of `f32` values of every embedding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.engine().log().geometry().dimension
    }

    /// Returns the size of each segment file in bytes.
    #[must_use]
    pub fn segment_size(&self) -> u64 {
        self.engine().log().geometry().segment_bytes as u64
    }

    /// Returns the store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.engine().log().source().directory().path()
    }

    #[cold]
    fn corrupt(&self, at: &Damaged<'_, MmapMemory>) -> Error {
        let files = self.engine().log().source();
        let path = at.segment.map_or_else(
            || self.path().to_owned(),
            |segment| files.path_of(segment.sequence(), segment.salt()),
        );
        Error::Corrupt { path, offset: at.offset, reason: at.damage.0.to_owned() }
    }

    /// The segments that compaction has given up and somebody still has mapped.
    fn retained(&self) -> Vec<Retained> {
        self.core.live_manifest.retained(self.engine())
    }

    /// Every segment in use, in order, and its place in the table.
    fn segment_places(&self) -> Vec<(TableIndex, SegmentId)> {
        let guard = self.engine().epoch().pin();
        let segments = self.engine().log().in_use_at_once(&guard);
        segments.iter().map(|segment| (segment.table_index(), segment.id())).collect()
    }
}

/// Returns whether a record can have this id.
#[inline]
fn is_id(id: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
}

#[inline]
fn check_id(id: &[u8]) -> Result<(), Error> {
    if is_id(id) { Ok(()) } else { Err(Error::InvalidId { len: id.len() }) }
}
