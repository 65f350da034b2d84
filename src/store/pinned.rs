//! Reading under a pin.

use super::record::{OwnedRecord, Record, SharedRecord};
use super::{Store, is_id};
use crate::concurrency::epoch::Guard;
use crate::engine::{Damaged, Located};
use crate::error::Error;
use crate::index::{Entry, KeyHash, Walk};
use crate::memory::MmapMemory;
use crate::options::Verify;

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
        let (engine, hash) = (self.store.engine(), self.store.hash(id));
        match engine.get(&self.guard, hash, id) {
            Ok(None) if self.checks_all() => engine.find_hidden(&self.guard, hash).map(|()| None),
            found => found,
        }
    }

    #[inline]
    fn checks_all(&self) -> bool {
        self.store.verify == Verify::EveryRead
    }

    /// Returns an id's live record, if it has one. Wait-free, allocates nothing; two dependent
    /// cache misses for an id of up to 24 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record's bytes are not what was written (when that is noticed:
    /// [`Verify`]).
    #[inline]
    pub fn get(&self, id: impl AsRef<[u8]>) -> Result<Option<Record<'_>>, Error> {
        self.record(id.as_ref())
    }

    /// Returns a copy of an id's record.
    ///
    /// # Errors
    ///
    /// As [`Pinned::get`].
    pub fn get_owned(&self, id: impl AsRef<[u8]>) -> Result<Option<OwnedRecord>, Error> {
        Ok(self.get(id)?.map(|record| record.to_owned()))
    }

    /// Returns an id's record without a copy. It outlives the pin, and keeps its segment mapped.
    ///
    /// # Errors
    ///
    /// As [`Pinned::get`].
    pub fn get_shared(&self, id: impl AsRef<[u8]>) -> Result<Option<SharedRecord>, Error> {
        Ok(self.get(id)?.map(|record| record.to_shared()))
    }

    /// Returns whether an id has a live record. Reads the id, not the record: damage shows at
    /// [`Pinned::get`].
    #[must_use]
    pub fn contains(&self, id: impl AsRef<[u8]>) -> bool {
        let id = id.as_ref();
        is_id(id) && !matches!(self.find(id), Ok(None))
    }

    /// Returns the records of many ids, in their order, each as [`Pinned::get`] would return it.
    /// The lookups overlap, so that one wait for memory serves sixteen ids; worth it from four or
    /// so. An id may be given twice. Allocates nothing.
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

    /// A get. One function of its own, so that it is compiled once.
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
        let live = |at| match self.is_to_be_checked(&at) {
            true => self.verify(at).map(Some),
            false => Ok(Some(Record::new(at))),
        };
        let nothing = || match self.checks_all() {
            true => self.lookup_closely(hash, id),
            false => Ok(None),
        };
        let closely = || self.lookup_closely(hash, id);
        self.store.engine().lookup(&self.guard, hash, id, live, nothing, closely)
    }

    /// The slow path of a get.
    #[cold]
    fn lookup_closely(&self, hash: KeyHash, id: &[u8]) -> Result<Option<Record<'_>>, Error> {
        let engine = self.store.engine();
        let corrupt = |at: Damaged<'_, MmapMemory>| self.store.corrupt(&at);
        match engine.get_closely(&self.guard, hash, id).map_err(corrupt)? {
            Some(at) => self.check(at).map(Some),
            None if self.checks_all() => {
                engine.find_hidden(&self.guard, hash).map(|()| None).map_err(corrupt)
            }
            None => Ok(None),
        }
    }

    /// Returns whether the store's [`Verify`] asks for a frame's checksum now.
    #[inline]
    pub(super) fn is_to_be_checked(&self, at: &Located<'_, MmapMemory>) -> bool {
        match self.store.verify {
            Verify::FirstRead => !at.segment.checks().is_verified(at.frame.offset()),
            Verify::EveryRead => true,
            Verify::Never => false,
        }
    }

    /// Makes the check that the store's [`Verify`] asks for.
    #[inline]
    pub(super) fn check<'g>(&self, at: Located<'g, MmapMemory>) -> Result<Record<'g>, Error> {
        if self.is_to_be_checked(&at) { self.verify(at) } else { Ok(Record::new(at)) }
    }

    #[cold]
    fn verify<'g>(&self, at: Located<'g, MmapMemory>) -> Result<Record<'g>, Error> {
        match at.segment.verify(&at.frame) {
            Ok(()) => Ok(Record::new(at)),
            Err(damage) => Err(self.store.corrupt(&at.damaged(damage))),
        }
    }

    /// Returns every live record, in no particular order, while writers run. An id that is live
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
    /// Returns the live record of the id whose entry the walk has met.
    #[inline]
    fn record(&self, entry: Entry, moved: bool) -> Option<Result<Record<'p>, Error>> {
        let pinned = self.pinned;
        let engine = pinned.store.engine();
        let counts = engine.effective_entry(&pinned.guard, entry)?;
        let at = match engine.locate(&pinned.guard, counts) {
            Ok(at) => at,
            Err(at) => return Some(Err(pinned.store.corrupt(&at))),
        };
        if pinned.is_to_be_checked(&at)
            && let Err(error) = pinned.verify(at)
        {
            return Some(Err(error));
        }
        // The entry was current when the walk loaded it. If its chunk was replaced since, it may
        // be an old one; and before the record expired, a newer one may have replaced it.
        if moved || at.frame.has_expired() {
            return pinned.get(at.frame.id()).transpose();
        }
        Some(Ok(Record::new(at)))
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
            let item = self.record(entry, moved);
            if item.is_some() {
                return item;
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
