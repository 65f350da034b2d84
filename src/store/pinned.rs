//! Reading under a pin.

use super::{Store, check_id};
use crate::engine::{Damaged, Located};
use crate::epoch::Guard;
use crate::error::Error;
use crate::index::{Entry, Walk};
use crate::memory::MmapMemory;
use crate::options::Verify;
use crate::record::{Record, SharedRecord};
use crate::segment::{Frame, Segment, SharedFrame};

/// A pin on a store: what is borrowed through it stays readable and unchanged until it is dropped.
/// See [`Store::pin`].
#[derive(Debug)]
pub struct Pinned<'s> {
    pub(super) store: &'s Store,
    pub(super) guard: Guard,
}

impl<'s> Pinned<'s> {
    pub(super) fn new(store: &'s Store, guard: Guard) -> Self {
        Self { store, guard }
    }

    #[inline]
    pub(super) fn find(
        &self,
        id: &[u8],
    ) -> Result<Option<Located<'_, MmapMemory>>, Damaged<'_, MmapMemory>> {
        self.store.engine().get(&self.guard, self.store.hash(id), id)
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

    /// All of a get in one function of its own.
    #[inline(never)]
    fn record(&self, id: &[u8]) -> Result<Option<Record<'_>>, Error> {
        Ok(self.checked(id)?.map(|at| Record::new(at.segment, at.frame)))
    }

    #[inline]
    pub(super) fn checked(&self, id: &[u8]) -> Result<Option<Located<'_, MmapMemory>>, Error> {
        if check_id(id).is_err() {
            return Ok(None);
        }
        let found = self.find(id).map_err(|at| self.store.corrupt(&at))?;
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

/// The live records of a store; made by [`Pinned::iter`]. A record that cannot be read is an `Err`
/// of its own, and the iteration goes on behind it.
#[derive(Debug)]
pub struct Iter<'p> {
    pinned: &'p Pinned<'p>,
    walk: Walk,
}

impl<'p> Iter<'p> {
    fn record(&self, entry: Entry, moved: bool) -> Result<Option<Record<'p>>, Error> {
        let pinned = self.pinned;
        let Some(entry) = pinned.store.engine().live_entry(&pinned.guard, entry) else {
            return Ok(None);
        };
        let at = pinned
            .store
            .engine()
            .locate(&pinned.guard, entry)
            .map_err(|at| pinned.store.corrupt(&at))?;
        pinned.check(&at)?;
        if moved {
            // The bucket was rebuilt under the walk: what it held may have been replaced since.
            return pinned.get(at.frame.id());
        }
        Ok(Some(Record::new(at.segment, at.frame)))
    }
}

impl<'p> Iterator for Iter<'p> {
    type Item = Result<Record<'p>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let index = self.pinned.store.engine().index();
            let (entry, moved) = self.walk.next(index, &self.pinned.guard)?;
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
