//! Writing: the checks before anything is touched, and what a write waits for.

use super::{Store, check_id};
use crate::batch::Batch;
use crate::clock::now_ns;
use crate::compaction;
use crate::engine::Refused;
use crate::error::Error;
use crate::finite;
use crate::format::frame::Writing;
use crate::format::ids::Lsn;
use crate::format::slot::Kind;
use crate::memory::Memory;
use crate::new_record::NewRecord;
use crate::options::Condition;
use crate::segment::{Record, TagTooLarge};

impl Store {
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
    /// acknowledged is lost, try again once there is room), [`Error::FlushFailed`],
    /// [`Error::Forked`].
    pub fn put(
        &self,
        id: impl AsRef<[u8]>,
        embedding: &[f32],
        content: impl AsRef<[u8]>,
    ) -> Result<Lsn, Error> {
        self.put_record(NewRecord::new(&id, embedding, &content))
    }

    /// As [`put`](Store::put), for a record with more than its three parts.
    ///
    /// # Errors
    ///
    /// As [`put`](Store::put).
    #[inline]
    pub fn put_record(&self, record: NewRecord<'_>) -> Result<Lsn, Error> {
        let record = self.checked_put(record, Writing::Blind)?;
        let lsn = self.engine().put(&record)?;
        self.finish_write(lsn, record.layout().bytes())
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
    /// let refused = store.put_if("a", &[1.0], "yours", Condition::Absent).unwrap_err();
    /// assert!(matches!(refused, Error::ConditionFailed { current } if current == Some(first)));
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
        self.put_record_if(NewRecord::new(&id, embedding, &content), c)
    }

    /// As [`put_if`](Store::put_if), for a record with more than its three parts.
    ///
    /// # Errors
    ///
    /// As [`put_if`](Store::put_if).
    pub fn put_record_if(&self, record: NewRecord<'_>, c: Condition) -> Result<Lsn, Error> {
        let record = self.checked_put(record, Writing::Conditional)?;
        let engine = self.engine();
        let written = engine.write_if(&record, |guard, current| match (c, current) {
            (Condition::Absent, current) => current.is_none(),
            (Condition::Present, current) => current.is_some(),
            (Condition::Lsn(_), None) => false,
            (Condition::Lsn(lsn), Some(entry)) => engine.lsn_of(guard, entry) == lsn,
        })?;
        match written {
            Ok(lsn) => self.finish_write(lsn, record.layout().bytes()),
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
        let removed = self.engine().remove(&Record {
            kind: Kind::Tombstone,
            writing: Writing::Conditional,
            id,
            key_hash: self.hash(id).0,
            embedding: &[],
            content: &[],
            created_ns: now_ns(),
            expires_ns: 0,
        })?;
        match removed {
            // It frees room, so it is not delayed.
            Ok(lsn) => self.finish_write(lsn, 0).map(|_| true),
            Err(Refused(_)) => Ok(false),
        }
    }

    /// Replaces an id's user tag by what `f` makes of it, in place and atomically: no copy of the
    /// record, no new version. The new tag, or `None` if the id has no record. Lock-free beside
    /// everything else; `f` may be called many times.
    ///
    /// Tags survive the death of the process. After power loss a tag may be an older one that it
    /// had: tags are not flushed with the records. A new version of the id begins with 0 again.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "")?;
    /// assert_eq!(store.update_tag("a", |recalls| recalls + 1)?, Some(1));
    /// assert_eq!(store.pin().get("a")?.map(|record| record.tag()), Some(1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTag`]: `f` set the top bit; nothing is changed. [`Error::InvalidId`],
    /// [`Error::Corrupt`], [`Error::ReadOnly`], [`Error::FlushFailed`], [`Error::Forked`].
    /// [`Error::StorageFull`]: the store is a sparse copy, and there is no room for the blocks that
    /// the tag's place lacks.
    pub fn update_tag(
        &self,
        id: impl AsRef<[u8]>,
        f: impl FnMut(u64) -> u64,
    ) -> Result<Option<u64>, Error> {
        let id = id.as_ref();
        self.check_writable()?;
        check_id(id)?;
        let pinned = self.pin();
        let Some(at) = pinned.checked(id)? else { return Ok(None) };
        if at.segment.memory().lacks_blocks() {
            self.engine().log().source().make_storable(at.segment)?;
        }
        let updated = at.segment.update_tag(&at.frame, f);
        updated.map(Some).map_err(|TagTooLarge(tag)| Error::InvalidTag(tag))
    }

    /// Makes all writes of a batch, or none: after any crash it is there whole or not at all (a
    /// concurrent reader may see some of it before the rest). One reservation in one segment, so
    /// together they must fit an empty one. Of several writes of one id only the last is written;
    /// the others take no room and get no LSN. Returns the highest LSN given; an empty batch
    /// changes nothing and returns the highest LSN given so far.
    ///
    /// # Errors
    ///
    /// Those of [`put`](Store::put) for each of its writes, and [`Error::RecordTooLarge`] for all
    /// of them together: nothing is changed then.
    #[expect(clippy::needless_pass_by_value, reason = "the contract: a batch is written once")]
    pub fn write(&self, batch: Batch) -> Result<Lsn, Error> {
        self.check_writable()?;
        let created_ns = now_ns();
        let mut records = Vec::with_capacity(batch.len());
        for (kind, operation) in batch.operations() {
            check_id(operation.id)?;
            if kind == Kind::Put {
                self.check_embedding(operation.embedding)?;
            }
            let record = Record {
                kind,
                writing: Writing::Blind,
                id: operation.id,
                key_hash: self.hash(operation.id).0,
                embedding: bytemuck::cast_slice(operation.embedding),
                content: operation.content,
                created_ns,
                expires_ns: operation.expiry.resolve(created_ns, self.time_to_live),
            };
            self.check_size(&record)?;
            records.push(record);
        }
        if records.is_empty() {
            let guard = self.engine().epoch().pin();
            return Ok(self.engine().log().last_given(&guard));
        }
        let lsn = self.engine().write_batch(&mut records)?;
        let puts = records.iter().filter(|record| record.kind == Kind::Put);
        self.finish_write(lsn, puts.map(|record| record.layout().bytes()).sum())
    }

    /// All that can be wrong with a put, before anything is touched.
    fn checked_put<'a>(
        &self,
        record: NewRecord<'a>,
        writing: Writing,
    ) -> Result<Record<'a>, Error> {
        let NewRecord { id, embedding, content, expiry, created_ns } = record;
        let created_ns = created_ns.unwrap_or_else(now_ns);
        self.check_writable()?;
        check_id(id)?;
        self.check_embedding(embedding)?;
        let record = Record {
            kind: Kind::Put,
            writing,
            id,
            key_hash: self.hash(id).0,
            embedding: bytemuck::cast_slice(embedding),
            content,
            created_ns,
            expires_ns: expiry.resolve(created_ns, self.time_to_live),
        };
        self.check_size(&record)?;
        Ok(record)
    }

    fn check_size(&self, record: &Record<'_>) -> Result<(), Error> {
        let max = self.engine().log().geometry().frame_bytes_max();
        let len = record.layout().bytes();
        if len > max { Err(Error::RecordTooLarge { len, max }) } else { Ok(()) }
    }

    /// Waits if the store promises that a write that returned is durable; else delays who puts
    /// faster than compaction follows.
    fn finish_write(&self, lsn: Lsn, bytes_put: u64) -> Result<Lsn, Error> {
        if self.duties.synced {
            self.duties.durability.wait(self.engine(), lsn)?;
        } else {
            self.duties.pacer.pay(bytes_put, || compaction::space(self.engine()));
        }
        Ok(lsn)
    }

    #[inline]
    fn check_writable(&self) -> Result<(), Error> {
        if self.read_only || !self.owner.is_current() {
            return Err(self.refusal());
        }
        self.duties.durability.check()
    }

    #[cold]
    fn refusal(&self) -> Error {
        if self.read_only { Error::ReadOnly } else { Error::Forked }
    }

    fn check_embedding(&self, embedding: &[f32]) -> Result<(), Error> {
        let (expected, actual) = (self.dimension(), embedding.len());
        if expected != actual {
            return Err(Error::DimensionMismatch { expected, actual });
        }
        if !finite::all(embedding) {
            let index = embedding.iter().position(|value| !value.is_finite());
            return Err(Error::NonFinite { index: index.unwrap_or(0) });
        }
        Ok(())
    }
}
