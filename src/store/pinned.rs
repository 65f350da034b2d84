//! Reading under a pin.

use super::record::{Record, SharedRecord};
use super::{Store, is_id};
use crate::concurrency::epoch::Guard;
use crate::engine::{Damaged, Located};
use crate::error::Error;
use crate::index::{Entry, KeyHash, Walk};
use crate::memory::MmapMemory;
use crate::options::Verify;
use crate::segment::{Frame, Segment, SharedFrame};

/// So many look-ups overlap.
const BLOCK: usize = 16;

/// A pin on a store: what is borrowed through it stays readable and unchanged until it is dropped.
/// See [`Store::pin`].
#[derive(Debug)]
pub struct Pinned<'s> {
    pub(super) store: &'s Store,
    pub(super) guard: Guard<'s>,
}

impl<'s> Pinned<'s> {
    pub(super) fn new(store: &'s Store, guard: Guard<'s>) -> Self {
        Self { store, guard }
    }

    #[inline]
    pub(super) fn find(
        &self,
        id: &[u8],
    ) -> Result<Option<Located<'_, MmapMemory>>, Damaged<'_, MmapMemory>> {
        self.find_by(self.store.hash(id), id)
    }

    /// The same, with the id's hash.
    #[inline]
    fn find_by(
        &self,
        hash: KeyHash,
        id: &[u8],
    ) -> Result<Option<Located<'_, MmapMemory>>, Damaged<'_, MmapMemory>> {
        let engine = self.store.engine();
        match engine.get(&self.guard, hash, id) {
            Ok(None) if self.checks_all() => engine.find_hidden(&self.guard, hash).map(|()| None),
            found => found,
        }
    }

    #[inline]
    fn checks_all(&self) -> bool {
        self.store.verify == Verify::EveryRead
    }

    /// An id's live record, if it has one. Wait-free, allocates nothing; two dependent cache misses
    /// for an id of up to 24 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record's bytes are not what was written (when that is noticed:
    /// [`Verify`]).
    #[inline]
    pub fn get(&self, id: impl AsRef<[u8]>) -> Result<Option<Record<'_>>, Error> {
        self.record(id.as_ref())
    }

    /// The records of many ids, in their order: what [`Pinned::get`] would answer for each. The
    /// look-ups overlap, so that the memory is waited for once in sixteen ids; worth it from four
    /// or so. An id may be there twice. Allocates nothing.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "first")?;
    /// store.put("b", &[2.0], "second")?;
    /// let pinned = store.pin();
    /// let mut found = pinned.get_many(&["b", "nobody", "a"]);
    /// assert_eq!(found.next().ok_or("three")??.ok_or("gone")?.content(), b"second");
    /// assert!(found.next().ok_or("three")??.is_none());
    /// assert_eq!(found.next().ok_or("three")??.ok_or("gone")?.content(), b"first");
    /// assert!(found.next().is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Each item as [`Pinned::get`]; the iteration goes on behind an `Err`.
    #[must_use]
    pub fn get_many<'i, I: AsRef<[u8]>>(&self, ids: &'i [I]) -> GetMany<'_, 'i, I> {
        GetMany { pinned: self, ids, done: 0, hashes: [KeyHash(0); BLOCK] }
    }

    /// All of a get in one function of its own.
    #[inline(never)]
    fn record(&self, id: &[u8]) -> Result<Option<Record<'_>>, Error> {
        if is_id(id) { self.lookup(self.store.hash(id), id) } else { Ok(None) }
    }

    /// The same, with the id's hash.
    #[inline(never)]
    fn record_by(&self, hash: KeyHash, id: &[u8]) -> Result<Option<Record<'_>>, Error> {
        if is_id(id) { self.lookup(hash, id) } else { Ok(None) }
    }

    #[inline(always)]
    fn lookup(&self, hash: KeyHash, id: &[u8]) -> Result<Option<Record<'_>>, Error> {
        let (engine, guard) = (self.store.engine(), &self.guard);
        engine.lookup(
            guard,
            hash,
            id,
            |at| match self.is_to_be_checked(at.segment, &at.frame) {
                true => self.lookup_slowly(hash, id),
                false => Ok(Some(Record::new(at.segment, at.frame))),
            },
            || if self.checks_all() { self.lookup_slowly(hash, id) } else { Ok(None) },
            || self.lookup_slowly(hash, id),
        )
    }

    #[cold]
    fn lookup_slowly(&self, hash: KeyHash, id: &[u8]) -> Result<Option<Record<'_>>, Error> {
        Ok(self.checked_by(hash, id)?.map(|at| Record::new(at.segment, at.frame)))
    }

    #[inline]
    pub(super) fn checked(&self, id: &[u8]) -> Result<Option<Located<'_, MmapMemory>>, Error> {
        if is_id(id) { self.checked_by(self.store.hash(id), id) } else { Ok(None) }
    }

    #[inline]
    fn checked_by(
        &self,
        hash: KeyHash,
        id: &[u8],
    ) -> Result<Option<Located<'_, MmapMemory>>, Error> {
        let found = self.find_by(hash, id).map_err(|at| self.store.corrupt(&at))?;
        if let Some(at) = &found {
            self.check(at)?;
        }
        Ok(found)
    }

    /// Whether the store's [`Verify`] asks for a frame's checksum now.
    #[inline]
    pub(super) fn is_to_be_checked(
        &self,
        segment: &Segment<MmapMemory>,
        frame: &Frame<'_>,
    ) -> bool {
        match self.store.verify {
            Verify::FirstRead => !segment.is_verified(frame.offset()),
            Verify::EveryRead => true,
            Verify::Never => false,
        }
    }

    /// The check that the store's [`Verify`] asks for.
    #[inline]
    pub(super) fn check(&self, at: &Located<'_, MmapMemory>) -> Result<(), Error> {
        if self.is_to_be_checked(at.segment, &at.frame) { self.verify(at) } else { Ok(()) }
    }

    #[cold]
    fn verify(&self, at: &Located<'_, MmapMemory>) -> Result<(), Error> {
        let verified = at.segment.verify(&at.frame);
        verified.map_err(|damage| self.store.corrupt(&at.damaged(damage)))
    }

    pub(super) fn get_shared(&self, id: &[u8]) -> Result<Option<SharedRecord>, Error> {
        let Some(at) = self.checked(id)? else { return Ok(None) };
        let log = self.store.engine().log();
        let counted = log.resolve_counted(&self.guard, at.address());
        let shared = counted.map(|segment| SharedFrame::new(segment, at.frame.offset()));
        Ok(shared.map(SharedRecord::new))
    }

    /// Every live record, in no particular order, beside live writers. An id that is live
    /// throughout is seen exactly once; one that is put or removed meanwhile, at most once.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "")?;
    /// store.put("b", &[2.0], "")?;
    /// let pinned = store.pin();
    /// let sum: f32 = pinned.iter().map(|r| r.map(|r| r.embedding()[0])).sum::<Result<_, _>>()?;
    /// assert_eq!(sum, 3.0);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { pinned: self, walk: self.store.engine().index().walk() }
    }
}

/// The records of many ids; made by [`Pinned::get_many`].
#[derive(Debug)]
pub struct GetMany<'p, 'i, I> {
    pinned: &'p Pinned<'p>,
    ids: &'i [I],
    done: usize,
    /// Of the ids of the block that `done` is in.
    hashes: [KeyHash; BLOCK],
}

impl<I: AsRef<[u8]>> GetMany<'_, '_, I> {
    /// Asks for what the next block of look-ups will read: first all lines of the index, then,
    /// found through those, all lines of the log. Only hints: each look-up is made anew.
    fn begin_block(&mut self) {
        let (store, guard) = (self.pinned.store, &self.pinned.guard);
        let block = self.ids.iter().skip(self.done);
        for (hash, id) in self.hashes.iter_mut().zip(block) {
            *hash = store.hash(id.as_ref());
            store.engine().prefetch_index(guard, *hash);
        }
        for hash in self.hashes.iter().take(self.ids.len() - self.done) {
            store.engine().prefetch_frame(guard, *hash);
        }
    }
}

impl<'p, I: AsRef<[u8]>> Iterator for GetMany<'p, '_, I> {
    type Item = Result<Option<Record<'p>>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let id = self.ids.get(self.done)?.as_ref();
        if self.done.is_multiple_of(BLOCK) {
            self.begin_block();
        }
        let hash = self.hashes[self.done % BLOCK];
        self.done += 1;
        Some(self.pinned.record_by(hash, id))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.ids.len() - self.done;
        (left, Some(left))
    }
}

impl<I: AsRef<[u8]>> ExactSizeIterator for GetMany<'_, '_, I> {}

impl<I: AsRef<[u8]>> std::iter::FusedIterator for GetMany<'_, '_, I> {}

/// The live records of a store; made by [`Pinned::iter`]. A record that cannot be read is an `Err`
/// of its own, and the iteration goes on behind it.
#[derive(Debug)]
pub struct Iter<'p> {
    pinned: &'p Pinned<'p>,
    walk: Walk,
}

impl<'p> Iter<'p> {
    /// The live record of the id whose entry the walk has met.
    fn record(&self, entry: Entry, moved: bool) -> Result<Option<Record<'p>>, Error> {
        let pinned = self.pinned;
        let engine = pinned.store.engine();
        let Some(counts) = engine.counting_entry(&pinned.guard, entry) else {
            return Ok(None);
        };
        let found = engine.locate(&pinned.guard, counts);
        let at = found.map_err(|at| pinned.store.corrupt(&at))?;
        pinned.check(&at)?;
        // The entry was current when the walk loaded it. If its chunk was replaced since, it may
        // be an old one; and before the record expired, a newer one may have replaced it.
        if moved || at.frame.has_expired() {
            return pinned.get(at.frame.id());
        }
        Ok(Some(Record::new(at.segment, at.frame)))
    }
}

impl<'p> Iterator for Iter<'p> {
    type Item = Result<Record<'p>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (engine, guard) = (self.pinned.store.engine(), &self.pinned.guard);
            let ahead = |entry| engine.prefetch_entry(guard, entry);
            let (entry, moved) = self.walk.next_ahead(engine.index(), guard, ahead)?;
            if let Some(next) = self.walk.peek() {
                engine.prefetch_embedding(guard, next);
            }
            if let Some(item) = self.record(entry, moved).transpose() {
                return Some(item);
            }
        }
    }
}

impl std::iter::FusedIterator for Iter<'_> {}

impl<'p> IntoIterator for &'p Pinned<'_> {
    type Item = Result<Record<'p>, Error>;
    type IntoIter = Iter<'p>;

    fn into_iter(self) -> Iter<'p> {
        self.iter()
    }
}
