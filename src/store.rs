//! The store: what a program uses. Checks arguments, names the path in an error, and hands on.

mod durable;
mod open;
mod pinned;
mod upkeep;

pub use pinned::{Iter, Pinned};
pub use upkeep::lock_holder;

use crate::engine::{Damaged, Refused};
use crate::error::Error;
use crate::format::checksum::Salt;
use crate::format::frame::{ID_BYTES_MAX, Writing};
use crate::format::ids::{Lsn, Sequence};
use crate::format::slot::Kind;
use crate::index::KeyHash;
use crate::maintenance::{Duties, Maintenance};
use crate::memory::MmapMemory;
use crate::options::{Condition, Verify};
use crate::record::{OwnedRecord, SharedRecord};
use crate::recovery::FileEngine;
use crate::report::{Damage, RecoveryReport};
use crate::segment;
use crate::sync::unmodelled::Arc;
use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

/// A store of embedding + content records, open in this process. `Send + Sync`: share it by
/// reference or in an `Arc`.
///
/// Readers never block, never copy, and never write to shared memory. Of two concurrent writes of
/// one id, the one with the higher [`Lsn`] wins, now and after any recovery. No operation but
/// [`sync`](Store::sync) and [`close`](Store::close) waits for another thread.
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
    maintenance: Option<Maintenance>,
    duties: Arc<Duties>,
    synced: bool,
    verify: Verify,
    read_only: bool,
    hash_seed: u64,
    report: RecoveryReport,
    damage: Vec<Damage>,
    closed: bool,
    /// Held as long as the store is open for writing; given back last.
    _lock: Option<File>,
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<SharedRecord>();
};

impl Store {
    fn engine(&self) -> &FileEngine {
        &self.duties.engine
    }

    fn hash(&self, id: &[u8]) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_64_with_seed(id, self.hash_seed))
    }

    /// Stores a version of an id: inserts or overwrites. The embedding has as many finite values
    /// as the store's dimension; id and content are any bytes. When this returns, every later read
    /// sees it, and it survives the death of the process; power loss may take it until the next
    /// [`sync`](Store::sync). Costs one copy into the log; no system call but when a segment is
    /// full (64 MiB unless chosen otherwise) and none is prepared.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidId`], [`Error::DimensionMismatch`], [`Error::NonFinite`],
    /// [`Error::RecordTooLarge`], [`Error::ReadOnly`], [`Error::StorageFull`] (nothing
    /// acknowledged is lost, try again once there is room), [`Error::FlushFailed`].
    pub fn put(
        &self,
        id: impl AsRef<[u8]>,
        embedding: &[f32],
        content: impl AsRef<[u8]>,
    ) -> Result<Lsn, Error> {
        let (id, content) = (id.as_ref(), content.as_ref());
        let record = self.checked_put(id, embedding, content, Writing::Blind)?;
        let lsn = self.engine().put(&record)?;
        self.finish_write(lsn)
    }

    /// Stores a version of an id if a condition holds; otherwise nothing is changed. Of concurrent
    /// conditional writes of one id that exclude each other, one succeeds.
    ///
    /// ```
    /// use stratalog::{Condition, Error};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// let first = store.put_if("a", &[1.0], "mine", Condition::Absent)?;
    /// let second = store.put_if("a", &[1.0], "yours", Condition::Absent);
    /// assert!(matches!(second, Err(Error::ConditionFailed { current }) if current == Some(first)));
    /// store.put_if("a", &[2.0], "mine, revised", Condition::Lsn(first))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ConditionFailed`], and those of [`put`](Store::put).
    pub fn put_if(
        &self,
        id: impl AsRef<[u8]>,
        embedding: &[f32],
        content: impl AsRef<[u8]>,
        c: Condition,
    ) -> Result<Lsn, Error> {
        let (id, content) = (id.as_ref(), content.as_ref());
        let record = self.checked_put(id, embedding, content, Writing::Conditional)?;
        let engine = self.engine();
        let written = engine.write_if(&record, |guard, current| match (c, current) {
            (Condition::Absent, current) => current.is_none(),
            (Condition::Present, current) => current.is_some(),
            (Condition::Lsn(_), None) => false,
            (Condition::Lsn(lsn), Some(entry)) => engine.lsn_of(guard, entry) == lsn,
        })?;
        match written {
            Ok(lsn) => self.finish_write(lsn),
            Err(Refused(current)) => Err(Error::ConditionFailed { current }),
        }
    }

    /// Removes an id. `true`: it was there.
    ///
    /// # Errors
    ///
    /// As [`put`](Store::put): a removal is a small record of its own.
    pub fn remove(&self, id: impl AsRef<[u8]>) -> Result<bool, Error> {
        let id = id.as_ref();
        self.check_writable()?;
        check_id(id)?;
        let removed = self.engine().remove(&segment::Record {
            kind: Kind::Tombstone,
            writing: Writing::Conditional,
            id,
            key_hash: self.hash(id).0,
            embedding: &[],
            content: &[],
            created_ns: now_ns(),
        })?;
        match removed {
            Ok(lsn) => self.finish_write(lsn).map(|_| true),
            Err(Refused(_)) => Ok(false),
        }
    }

    /// Pins this thread, so that records can be borrowed. Costs some 10 ns alone and up to 100 ns
    /// inside a get (its fence ends the overlap of cache misses): pin once for many gets. While a
    /// pin lives, what it can see is not given back to the system. Pins nest and are not `Send`.
    #[must_use]
    #[inline]
    pub fn pin(&self) -> Pinned<'_> {
        Pinned::new(self, self.engine().epoch().pin())
    }

    /// A copy of an id's record.
    ///
    /// # Errors
    ///
    /// As [`Pinned::get`].
    pub fn get_owned(&self, id: impl AsRef<[u8]>) -> Result<Option<OwnedRecord>, Error> {
        Ok(self.pin().get(id)?.map(|record| record.to_owned()))
    }

    /// An id's record without a copy and without a pin: it keeps its segment mapped.
    ///
    /// # Errors
    ///
    /// As [`Pinned::get`].
    pub fn get_shared(&self, id: impl AsRef<[u8]>) -> Result<Option<SharedRecord>, Error> {
        self.pin().get_shared(id.as_ref())
    }

    /// Whether an id has a live record. Reads the id, not the record: damage shows at `get`.
    #[must_use]
    pub fn contains(&self, id: impl AsRef<[u8]>) -> bool {
        let (id, pinned) = (id.as_ref(), self.pin());
        check_id(id).is_ok() && !matches!(pinned.find(id), Ok(None))
    }

    /// Live records.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.engine().live()).unwrap_or(usize::MAX)
    }

    /// Whether there is no live record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `f32` values of every embedding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.engine().log().geometry().dimension
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.engine().log().source().directory()
    }

    /// All that can be wrong with a put, before anything is touched.
    fn checked_put<'a>(
        &self,
        id: &'a [u8],
        embedding: &'a [f32],
        content: &'a [u8],
        writing: Writing,
    ) -> Result<segment::Record<'a>, Error> {
        self.check_writable()?;
        check_id(id)?;
        self.check_embedding(embedding)?;
        let record = segment::Record {
            kind: Kind::Put,
            writing,
            id,
            key_hash: self.hash(id).0,
            embedding: bytemuck::cast_slice(embedding),
            content,
            created_ns: now_ns(),
        };
        let max = self.engine().log().geometry().frame_bytes_max();
        let len = record.layout().bytes();
        if len > max {
            return Err(Error::RecordTooLarge { len, max });
        }
        Ok(record)
    }

    /// Waits if the store promises that a write that returned is durable.
    fn finish_write(&self, lsn: Lsn) -> Result<Lsn, Error> {
        if self.synced {
            self.duties.durability.wait(self.engine(), lsn)?;
        }
        Ok(lsn)
    }

    fn check_writable(&self) -> Result<(), Error> {
        if self.read_only { Err(Error::ReadOnly) } else { self.duties.durability.check() }
    }

    fn check_embedding(&self, embedding: &[f32]) -> Result<(), Error> {
        let (expected, actual) = (self.dimension(), embedding.len());
        if expected != actual {
            return Err(Error::DimensionMismatch { expected, actual });
        }
        // The largest magnitude as an integer: NaN and the infinities have the highest exponent.
        // Without an early exit this is a few dozen vector instructions.
        let magnitude = |value: &f32| value.to_bits() & 0x7FFF_FFFF;
        let largest = embedding.iter().map(magnitude).fold(0, u32::max);
        if largest >= f32::INFINITY.to_bits() {
            let index = embedding.iter().position(|value| !value.is_finite());
            return Err(Error::NonFinite { index: index.unwrap_or(0) });
        }
        Ok(())
    }

    fn corrupt(&self, at: &Damaged<'_, MmapMemory>) -> Error {
        let files = self.engine().log().source();
        let segment = at.segment.map_or_else(
            || self.path().to_owned(),
            |segment| files.path_of(segment.sequence(), segment.salt()),
        );
        Error::Corrupt { segment, offset: at.offset, reason: at.damage.0.to_owned() }
    }

    /// Sequence and salt of every segment in use, in order.
    fn segments(&self) -> Vec<(Sequence, Salt)> {
        let guard = self.engine().epoch().pin();
        let log = self.engine().log();
        let mut segments: Vec<_> =
            log.in_use(&guard).map(|segment| (segment.sequence(), segment.salt())).collect();
        segments.sort_by_key(|segment| segment.0);
        segments
    }
}

fn check_id(id: &[u8]) -> Result<(), Error> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) {
        Ok(())
    } else {
        Err(Error::InvalidId { len: id.len() })
    }
}

/// Nanoseconds since 1970; a clock before that counts as 1970, one after 2554 as 2554.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
