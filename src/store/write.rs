//! Writing: the checks before anything is touched, and what a write waits for.

use super::batch::Batch;
use super::finite;
use super::new_record::{NewRecord, TagRule};
use super::{Store, check_id};
use crate::background::throttle;
use crate::clock::now_ns;
use crate::engine::Refused;
use crate::error::Error;
use crate::format::frame::WriteMode;
use crate::format::ids::Lsn;
use crate::format::slot::Kind;
use crate::memory::Memory;
use crate::options::Condition;
use crate::segment::{RecordParts, TagTooLarge, WriteRequest};

impl Store {
    /// Stores a version of an id: inserts or overwrites. The embedding has as many finite values
    /// as the store's dimension; id and content are any bytes. When this returns, every later read
    /// sees it, and it survives the death of the process; power loss may take it until the next
    /// [`sync`](Store::sync). Costs one copy into the log; no system call but when a segment is
    /// full (64 MiB unless chosen otherwise) and none is preallocated.
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

    /// Puts a record with more than its three parts: an expiry, a tag, a condition. Of concurrent
    /// conditional writes of one id that exclude each other, one succeeds.
    ///
    /// # Errors
    ///
    /// As [`put`](Store::put), and [`Error::InvalidTag`], [`Error::ConditionFailed`].
    #[inline]
    pub fn put_record(&self, record: NewRecord<'_>) -> Result<Lsn, Error> {
        if let Some(condition) = record.condition {
            return self.put_conditionally(record, condition);
        }
        let record = self.checked_put(record, WriteMode::Blind)?;
        let lsn = self.engine().put(&record)?;
        self.sync_or_throttle(lsn, record.layout().bytes())
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
        self.put_conditionally(NewRecord::new(&id, embedding, &content), c)
    }

    fn put_conditionally(&self, record: NewRecord<'_>, c: Condition) -> Result<Lsn, Error> {
        let record = self.checked_put(record, WriteMode::Conditional)?;
        let engine = self.engine();
        let written = engine.write_if(&record, |guard, current| match (c, current) {
            (Condition::Absent, current) => current.is_none(),
            (Condition::Present, current) => current.is_some(),
            (Condition::Lsn(_), None) => false,
            (Condition::Lsn(lsn), Some(entry)) => engine.lsn_of(guard, entry) == lsn,
        })?;
        match written {
            Ok(lsn) => self.sync_or_throttle(lsn, record.layout().bytes()),
            Err(Refused(current)) => Err(Error::ConditionFailed { current }),
        }
    }

    /// Removes an id. Returns the removal's LSN, or `None` if there was no such record.
    ///
    /// # Errors
    ///
    /// As [`put`](Store::put): a removal is a small record of its own.
    pub fn remove(&self, id: impl AsRef<[u8]>) -> Result<Option<Lsn>, Error> {
        let id = id.as_ref();
        self.check_writable()?;
        check_id(id)?;
        let removed = self.engine().remove(&WriteRequest::new(RecordParts {
            kind: Kind::Tombstone,
            writing: WriteMode::Conditional,
            id,
            key_hash: self.hash(id).0,
            embedding: &[],
            content: &[],
            created_ns: now_ns(),
            expires_ns: 0,
            tag: 0,
        }))?;
        match removed {
            // It frees room, so it is not delayed.
            Ok(lsn) => self.sync_or_throttle(lsn, 0).map(Some),
            Err(Refused(_)) => Ok(None),
        }
    }

    /// Replaces an id's user tag by what `f` makes of it, in place and atomically: no copy of the
    /// record, no new version. The new tag, or `None` if the id has no record. Lock-free beside
    /// everything else; `f` may be called many times.
    ///
    /// Tags survive the death of the process. After power loss a tag may be an older one that it
    /// had: tags are not flushed with the records. A new version of the id begins with tag 0, or as
    /// [`NewRecord::tag`] and [`NewRecord::keep_tag`] say.
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
        let Some(record) = pinned.get(id)? else { return Ok(None) };
        let at = record.located();
        let log = self.engine().log();
        if at.segment.memory().lacks_blocks() && log.source().make_storable(at.segment)? {
            log.recount_disk(at.segment);
        }
        let updated = at.segment.tags().update_tag(&at.frame, f);
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
            if operation.condition.is_some() {
                let reason = "a record in a batch cannot have a condition; put it by itself";
                return Err(Error::InvalidOption(reason.to_owned()));
            }
            let tag = self.tag_of(&operation)?;
            let record = WriteRequest::new(RecordParts {
                kind,
                writing: WriteMode::Blind,
                id: operation.id,
                key_hash: self.hash(operation.id).0,
                embedding: bytemuck::cast_slice(operation.embedding),
                content: operation.content,
                created_ns,
                expires_ns: operation.expiry.resolve(created_ns, self.time_to_live),
                tag,
            });
            self.check_size(&record)?;
            records.push(record);
        }
        if records.is_empty() {
            let guard = self.engine().epoch().pin();
            return Ok(self.engine().log().last_allocated(&guard));
        }
        let lsn = self.engine().write_batch(&mut records)?;
        let puts = records.iter().filter(|record| record.kind == Kind::Put);
        self.sync_or_throttle(lsn, puts.map(|record| record.layout().bytes()).sum())
    }

    /// All that can be wrong with a put, before anything is touched.
    fn checked_put<'a>(
        &self,
        record: NewRecord<'a>,
        writing: WriteMode,
    ) -> Result<WriteRequest<'a>, Error> {
        let NewRecord { id, embedding, content, expiry, created_ns, .. } = record;
        let created_ns = created_ns.unwrap_or_else(now_ns);
        self.check_writable()?;
        check_id(id)?;
        self.check_embedding(embedding)?;
        let tag = self.tag_of(&record)?;
        let record = WriteRequest::new(RecordParts {
            kind: Kind::Put,
            writing,
            id,
            key_hash: self.hash(id).0,
            embedding: bytemuck::cast_slice(embedding),
            content,
            created_ns,
            expires_ns: expiry.resolve(created_ns, self.time_to_live),
            tag,
        });
        self.check_size(&record)?;
        Ok(record)
    }

    /// The user tag of a new version.
    #[inline]
    fn tag_of(&self, record: &NewRecord<'_>) -> Result<u64, Error> {
        match record.tag {
            TagRule::Set(tag) if tag >> 63 == 0 => Ok(tag),
            TagRule::Set(tag) => Err(Error::InvalidTag(tag)),
            TagRule::Keep => {
                let pinned = self.pin();
                let found = pinned.get(record.id).ok().flatten();
                Ok(found.map_or(0, |found| found.tag()))
            }
        }
    }

    fn check_size(&self, record: &WriteRequest<'_>) -> Result<(), Error> {
        let max = self.engine().log().geometry().frame_bytes_max();
        let len = record.layout().bytes();
        if len > max { Err(Error::RecordTooLarge { len, max }) } else { Ok(()) }
    }

    /// Waits if the store promises that a write that returned is durable; else delays who puts
    /// faster than compaction follows.
    fn sync_or_throttle(&self, lsn: Lsn, bytes_put: u64) -> Result<Lsn, Error> {
        if self.core.synced {
            self.core.flusher.wait(self.engine(), lsn)?;
        } else {
            self.core.throttle.delay_put(bytes_put, || throttle::space_of(self.engine()));
        }
        Ok(lsn)
    }

    #[inline]
    fn check_writable(&self) -> Result<(), Error> {
        if self.read_only || !self.owner.is_current() {
            return Err(self.refusal());
        }
        self.core.flusher.check()
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
