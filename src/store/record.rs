//! Records as readers see them: borrowed under a pin, shared by count, or owned.

use crate::clock;
use crate::engine::Located;
use crate::format::ids::Lsn;
use crate::memory::MmapMemory;
use crate::segment::SharedFrame;
use std::time::SystemTime;

/// One version of an id, in place: nothing is copied. Valid as long as the [`Pinned`] it came
/// from, whatever is overwritten or removed meanwhile.
///
/// [`Pinned`]: crate::Pinned
#[derive(Clone, Copy)]
pub struct Record<'p>(Located<'p, MmapMemory>);

impl<'p> Record<'p> {
    #[inline]
    pub(super) fn new(at: Located<'p, MmapMemory>) -> Self {
        Self(at)
    }

    /// Where it lies.
    #[inline]
    pub(super) fn located(&self) -> Located<'p, MmapMemory> {
        self.0
    }

    /// Returns the id, 1 to 1024 bytes.
    #[must_use]
    pub fn id(&self) -> &'p [u8] {
        self.0.frame.id()
    }

    /// Returns the embedding: the store's dimension in values, beginning at a multiple of 64
    /// bytes.
    #[must_use]
    #[inline]
    pub fn embedding(&self) -> &'p [f32] {
        self.0.frame.embedding()
    }

    /// Returns the content.
    #[must_use]
    #[inline]
    pub fn content(&self) -> &'p [u8] {
        self.0.frame.content()
    }

    /// Returns the content as text.
    ///
    /// # Errors
    ///
    /// If it is not UTF-8.
    pub fn content_str(&self) -> Result<&'p str, std::str::Utf8Error> {
        std::str::from_utf8(self.content())
    }

    /// Returns the LSN of the write that made this version.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.0.frame.header().lsn
    }

    /// Returns the time at which this version was put, by the writer's clock.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        clock::moment(self.0.frame.header().created_ns)
    }

    /// Returns the time at which the record expires, if it has one.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        let header = self.0.frame.header();
        header.expires().then(|| clock::moment(header.expires_ns))
    }

    /// Returns the version's user tag: 63 bits, 0 for a new version. It is the tag of this moment,
    /// not of the moment of the get; see [`Store::update_tag`](crate::Store::update_tag).
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.0.segment.tags().tag(&self.0.frame)
    }

    /// Returns the same version without a copy. It outlives the pin, and keeps its segment mapped.
    /// Costs one count; looks nothing up.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "first")?;
    /// let shared = store.pin().get("a")?.ok_or("not there")?.to_shared();
    /// store.put("a", &[1.0], "second")?;
    /// assert_eq!(shared.content(), b"first");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn to_shared(&self) -> SharedRecord {
        SharedRecord { shared: SharedFrame::new(self.0.segment, &self.0.frame) }
    }

    /// Returns a copy that owns its parts.
    #[must_use]
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            id: self.id().to_vec(),
            embedding: self.embedding().to_vec(),
            content: self.content().to_vec(),
            lsn: self.lsn(),
            created_at: self.created_at(),
            tag: self.tag(),
            expires_at: self.expires_at(),
        }
    }
}

impl std::fmt::Debug for Record<'_> {
    /// Lengths, not contents: a record may be somebody's memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("id", &String::from_utf8_lossy(self.id()))
            .field("lsn", &self.lsn())
            .field("dimension", &self.embedding().len())
            .field("content_len", &self.content().len())
            .finish()
    }
}

/// A copy of a record.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OwnedRecord {
    /// The id.
    pub id: Vec<u8>,
    /// The embedding.
    pub embedding: Vec<f32>,
    /// The content.
    pub content: Vec<u8>,
    /// Order of the write that made this version.
    pub lsn: Lsn,
    /// When this version was put.
    pub created_at: SystemTime,
    /// The user tag when the copy was made.
    pub tag: u64,
    /// From when on it is there no more, if it expires.
    pub expires_at: Option<SystemTime>,
}

/// A record that keeps its segment mapped, and nothing else: no pin, no copy, no borrow of the
/// store. Can be sent to other threads, kept across an `.await`, and outlive the store. Cloning
/// counts up by one.
#[derive(Clone)]
pub struct SharedRecord {
    shared: SharedFrame<MmapMemory>,
}

impl SharedRecord {
    fn record(&self) -> Option<Record<'_>> {
        let (segment, frame) = self.shared.parts()?;
        Some(Record::new(Located { segment, frame }))
    }

    /// See [`Record::id`].
    #[must_use]
    pub fn id(&self) -> &[u8] {
        self.record().map_or(&[], |record| record.id())
    }

    /// See [`Record::embedding`].
    #[must_use]
    pub fn embedding(&self) -> &[f32] {
        self.record().map_or(&[], |record| record.embedding())
    }

    /// See [`Record::content`].
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.record().map_or(&[], |record| record.content())
    }

    /// See [`Record::content_str`].
    ///
    /// # Errors
    ///
    /// If the content is not UTF-8.
    pub fn content_str(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(self.content())
    }

    /// See [`Record::lsn`].
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.record().map_or(Lsn::ZERO, |record| record.lsn())
    }

    /// See [`Record::created_at`].
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        self.record().map_or(SystemTime::UNIX_EPOCH, |record| record.created_at())
    }

    /// See [`Record::expires_at`]. The record stays readable after that time.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.record().and_then(|record| record.expires_at())
    }

    /// See [`Record::tag`]. Once compaction has moved the record twice, or has moved it and given
    /// the copy up again, the tag keeps its last value.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.record().map_or(0, |record| record.tag())
    }

    /// See [`Record::to_owned`]. [`Clone`] is cheaper: it copies nothing.
    #[must_use]
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            id: self.id().to_vec(),
            embedding: self.embedding().to_vec(),
            content: self.content().to_vec(),
            lsn: self.lsn(),
            created_at: self.created_at(),
            tag: self.tag(),
            expires_at: self.expires_at(),
        }
    }
}

impl std::fmt::Debug for SharedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedRecord").field(&self.record()).finish()
    }
}
