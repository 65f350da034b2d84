//! A record to be put, with more than its three parts.

use crate::clock;
use crate::options::Condition;
use std::time::{Duration, SystemTime};

/// When a record is to be there no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExpiryRule {
    /// As the store's options say.
    #[default]
    AsStore,
    Never,
    After(Duration),
    At(SystemTime),
}

impl ExpiryRule {
    /// In nanoseconds since 1970, for a record made at `created_ns` in a store with this time to
    /// live; 0: never.
    pub(crate) fn resolve(self, created_ns: u64, store: Option<Duration>) -> u64 {
        let after = |time: Duration| {
            let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            created_ns.saturating_add(ns).max(1)
        };
        match self {
            Self::AsStore => store.map_or(0, after),
            Self::Never => 0,
            Self::After(time) => after(time),
            Self::At(moment) => clock::nanoseconds(moment).max(1),
        }
    }
}

/// The user tag of a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TagRule {
    Set(u64),
    Keep,
}

/// A record to be put by [`Store::put_record`](crate::Store::put_record), or in a
/// [`Batch`](crate::Batch): its parts, when it expires, its tag, and a condition.
///
/// ```
/// use std::time::Duration;
/// use stratalog::NewRecord;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
/// store.put_record(NewRecord::new("scratch", &[0.5], "").expires_in(Duration::from_secs(60)))?;
/// store.put_record(NewRecord::new("gone", &[0.5], "").expires_in(Duration::ZERO))?;
/// assert!(store.contains("scratch") && !store.contains("gone"));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
#[must_use = "a new record does nothing until it is put"]
pub struct NewRecord<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) embedding: &'a [f32],
    pub(crate) content: &'a [u8],
    pub(crate) expiry: ExpiryRule,
    pub(super) tag: TagRule,
    pub(super) condition: Option<Condition>,
    /// Nanoseconds since 1970, if it is not created now.
    pub(super) created_ns: Option<u64>,
}

impl<'a> NewRecord<'a> {
    /// Creates a record with tag 0 that expires as the store's options say.
    pub fn new(
        id: &'a (impl AsRef<[u8]> + ?Sized),
        embedding: &'a [f32],
        content: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> Self {
        let (id, content) = (id.as_ref(), content.as_ref());
        let (expiry, tag) = (ExpiryRule::AsStore, TagRule::Set(0));
        Self { id, embedding, content, expiry, tag, condition: None, created_ns: None }
    }

    /// Gives the new version this user tag instead of 0. A tag has 63 bits: a put with the top bit
    /// set is [`Error::InvalidTag`](crate::Error::InvalidTag) and changes nothing.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = TagRule::Set(tag);
        self
    }

    /// Gives the new version a tag that the id had at some moment during the put; 0 if it had no
    /// record, or a damaged one. An `update_tag` of the id that runs at the same time may be lost.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// use stratalog::NewRecord;
    /// store.put_record(NewRecord::new("a", &[1.0], "draft").tag(5))?;
    /// store.put_record(NewRecord::new("a", &[1.0], "final").keep_tag())?;
    /// assert_eq!(store.pin().get("a")?.map(|record| record.tag()), Some(5));
    /// # Ok(()) }
    /// ```
    pub fn keep_tag(mut self) -> Self {
        self.tag = TagRule::Keep;
        self
    }

    /// Puts the record only if the condition holds; else the put is
    /// [`Error::ConditionFailed`](crate::Error::ConditionFailed) and changes nothing. Not for
    /// batches.
    pub fn only_if(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    pub(crate) fn created_at(mut self, moment: SystemTime) -> Self {
        self.created_ns = Some(clock::nanoseconds(moment));
        self
    }

    /// Lets the record expire this long after the call that puts it.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expiry = ExpiryRule::After(time);
        self
    }

    /// Lets the record expire at this time, by the clock of the machine that reads.
    pub fn expires_at(mut self, moment: SystemTime) -> Self {
        self.expiry = ExpiryRule::At(moment);
        self
    }

    /// Keeps the record until it is removed, also where the store's options have a time to live.
    pub fn never_expires(mut self) -> Self {
        self.expiry = ExpiryRule::Never;
        self
    }
}

impl std::fmt::Debug for NewRecord<'_> {
    /// Lengths, not contents: a record may be somebody's memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRecord")
            .field("id", &String::from_utf8_lossy(self.id))
            .field("dimension", &self.embedding.len())
            .field("content_len", &self.content.len())
            .field("expiry", &self.expiry)
            .field("tag", &self.tag)
            .field("condition", &self.condition)
            .finish()
    }
}
