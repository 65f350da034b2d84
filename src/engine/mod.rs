//! Log, index and epoch together: the operations on one id. Everything here runs unchanged on
//! files, on the heap and under loom.
//!
//! [W1]: nobody acts on a pending entry before its slot is decided.

mod batch;
mod expiry;
mod outdone;
mod relocate;
mod restore;
mod retries;
#[cfg(all(test, not(stratalog_loom)))]
mod tests;
mod write;

pub use outdone::FoundRecord;
pub use relocate::Relocation;
pub use write::Refused;

use crate::concurrency::epoch::{Epoch, Guard};
use crate::concurrency::sync::{AtomicI64, AtomicU64, Mutex, Ordering};
use crate::error::Error;
use crate::format::bytes::same_bytes;
use crate::format::ids::{Address, Lsn};
use crate::format::slot::{SlotBody, SlotState};
use crate::index::{Entry, Exhausted, Index, KeyHash, Resolve, Shape};
use crate::log::{Log, Source};
use crate::memory::Memory;
use crate::segment::{Frame, FrameDamage, Segment, WriteRequest};
use retries::Retries;
use std::collections::BTreeSet;

/// An id and its hash.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Hash of the id.
    pub hash: KeyHash,
    /// The id.
    pub id: &'a [u8],
}

impl<'a> Key<'a> {
    /// The id of a write.
    #[must_use]
    pub fn of(record: &WriteRequest<'a>) -> Self {
        Self { hash: KeyHash(record.key_hash), id: record.id }
    }
}

/// A record that the index points at and whose lengths are sound.
#[derive(Debug)]
pub struct Located<'g, M> {
    /// Its segment.
    pub segment: &'g Segment<M>,
    /// The frame.
    pub frame: Frame<'g>,
}

impl<M> Clone for Located<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Located<'_, M> {}

impl<'g, M: Memory> Located<'g, M> {
    /// Byte offset of the frame in the segment.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.frame.offset().bytes() as u64
    }

    /// Where the frame lies.
    #[must_use]
    pub fn address(&self) -> Address {
        self.segment.address(self.frame.offset())
    }

    /// Returns whether its time is over. A frame that is damaged does not say so: it may be live.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        let (segment, frame) = (self.segment, &self.frame);
        let checksum_matches =
            || segment.checks().is_verified(frame.offset()) || segment.verify(frame).is_ok();
        frame.has_expired() && checksum_matches()
    }

    /// The same record with its damage.
    #[must_use]
    pub fn damaged(&self, damage: FrameDamage) -> Damaged<'g, M> {
        Damaged { segment: Some(self.segment), offset: self.offset(), damage }
    }
}

/// A record that the index points at and that cannot be read.
#[derive(Debug)]
pub struct Damaged<'g, M> {
    /// Its segment, if the address named one.
    pub segment: Option<&'g Segment<M>>,
    /// Byte offset of its frame.
    pub offset: u64,
    /// What does not hold.
    pub damage: FrameDamage,
}

/// The engine below the store.
pub struct Engine<M: Memory, S, const SLOTS: usize = 7> {
    epoch: Epoch,
    log: Log<M, S>,
    index: Index<SLOTS>,
    live: AtomicI64,
    /// Hashes of ids of which recovery has met a conditional put that has not seen all [W9].
    unseen: Mutex<BTreeSet<u64>>,
    /// The highest LSN of a member of a batch that is never published, though a later opening may
    /// find it: there was no room to write it again, or it was written before this opening [W9].
    given_up: AtomicU64,
    retries: Retries,
}

/// What an index entry is to an id.
enum Identified<'g, M> {
    Same(Located<'g, M>),
    Other,
    /// The id's, says the slot's hash; but the frame is damaged.
    Broken(Damaged<'g, M>),
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// An engine over a log, with an empty index.
    #[must_use]
    pub fn new(log: Log<M, S>, shape: Shape) -> Self {
        let (epoch, index) = (Epoch::new(), Index::new(shape));
        let (live, unseen, given_up) =
            (AtomicI64::new(0), Mutex::new(BTreeSet::new()), AtomicU64::new(0));
        let retries = Retries::default();
        Self { epoch, log, index, live, unseen, given_up, retries }
    }

    /// The log, without the index: for recovery, which may want another one.
    #[must_use]
    pub fn into_log(self) -> Log<M, S> {
        self.log
    }

    /// Pins, and reclamation.
    #[inline]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The segments.
    #[inline]
    pub fn log(&self) -> &Log<M, S> {
        &self.log
    }

    /// The index.
    #[inline]
    pub fn index(&self) -> &Index<SLOTS> {
        &self.index
    }

    /// Returns how many times flushes have voided the writes that are in progress.
    pub fn retries(&self) -> u64 {
        self.retries.count()
    }

    /// Live records.
    pub fn live(&self) -> u64 {
        // Relaxed: a statistic; in passing it may be below zero, which reads as none.
        u64::try_from(self.live.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Counts live records that came, or went.
    pub fn add_live(&self, by: i64) {
        if by != 0 {
            // Relaxed: a statistic.
            self.live.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// The frame behind an entry of the index.
    #[inline]
    pub fn locate<'g>(
        &'g self,
        guard: &'g Guard,
        entry: Entry,
    ) -> Result<Located<'g, M>, Damaged<'g, M>> {
        let Some((segment, offset)) = self.log.resolve(guard, entry.address) else {
            let damage = FrameDamage("the index names a segment that is not there");
            return Err(Damaged { segment: None, offset: 0, damage });
        };
        match segment.frame(offset) {
            Ok(frame) => Ok(Located { segment, frame }),
            Err(damage) => {
                Err(Damaged { segment: Some(segment), offset: offset.bytes() as u64, damage })
            }
        }
    }

    /// Is this entry the id's? Decided by the id's bytes in the log; where those are damaged, by
    /// the hash in the slot, so that damage is reported and not taken for absence.
    #[inline]
    fn identify<'g>(
        &'g self,
        guard: &'g Guard,
        entry: Entry,
        hash: KeyHash,
        id: &[u8],
    ) -> Identified<'g, M> {
        match self.locate(guard, entry) {
            Ok(at) if at.frame.id() == id => Identified::Same(at),
            Ok(at) if !entry.tomb && at.segment.checks().is_verified(at.frame.offset()) => {
                Identified::Other
            }
            Ok(at) => match at.segment.verify(&at.frame) {
                Ok(()) => Identified::Other,
                Err(damage) => self.identify_damaged(at.damaged(damage), hash),
            },
            Err(damaged) => self.identify_damaged(damaged, hash),
        }
    }

    #[cold]
    fn identify_damaged<'g>(&self, at: Damaged<'g, M>, hash: KeyHash) -> Identified<'g, M> {
        match at.segment.and_then(|segment| slot_of_frame(segment, at.offset)) {
            Some(body) if body.key_hash == hash.0 => Identified::Broken(at),
            _ => Identified::Other,
        }
    }

    /// LSN of what an entry points at: what its slot says, which opening has judged. A frame under
    /// a right sum may be forged, and its number would hold up whatever is written from now on.
    pub fn lsn_of(&self, guard: &Guard, entry: Entry) -> Lsn {
        if let Some(body) = self.slot_of(guard, entry) {
            return body.lsn;
        }
        // A write that was voided, or a slot that was damaged since.
        let located = self.locate(guard, entry);
        let sound = located.ok().filter(|at| at.segment.verify(&at.frame).is_ok());
        sound.map_or(Lsn::ZERO, |at| at.frame.lsn())
    }

    /// The slot of what an entry points at, which is under a checksum of its own. The frame's
    /// header says which it is; if it says wrong, the directory is looked through.
    fn slot_of(&self, guard: &Guard, entry: Entry) -> Option<SlotBody> {
        let (segment, offset) = match self.locate(guard, entry) {
            Ok(at) => {
                let slot = at.frame.header().slot;
                if slot.0 < at.segment.filling().slots_end()
                    && let SlotState::Committed(_, body)
                    | SlotState::Member(_, body)
                    | SlotState::Copy(_, body) = at.segment.directory().slot(slot)
                    && body.offset == at.frame.offset()
                {
                    return Some(body);
                }
                (at.segment, at.offset())
            }
            Err(at) => (at.segment?, at.offset),
        };
        slot_of_frame(segment, offset)
    }

    /// The entry that counts for the key whose slot holds this one. A pending entry's record is
    /// committed first [W1]; if its slot was voided instead, what it took the place of counts.
    #[inline]
    fn effective(&self, guard: &Guard, entry: Entry) -> Option<Entry> {
        if entry.pending { self.resolve_pending(guard, entry) } else { Some(entry) }
    }

    #[cold]
    fn resolve_pending(&self, guard: &Guard, entry: Entry) -> Option<Entry> {
        match self.locate(guard, entry) {
            Ok(at) if !at.segment.directory().commit_if_pending(at.frame.header().slot) => {
                Entry::from_bits(at.segment.previous(&at.frame))
            }
            _ => Some(Entry { pending: false, ..entry }),
        }
    }

    /// Looks an id up: calls `live` with its live record, `nothing` if it has no entry, and `rare`
    /// for everything else: a tombstone, an undecided write, an expired record, damage. `rare` is
    /// expected to call [`Engine::get_closely`], which starts again, so that this path carries
    /// nothing for it. Wait-free; writes nothing shared. Inlined with its closures, so that the
    /// result of a get is built in registers.
    #[inline(always)]
    pub fn lookup<'g, R>(
        &'g self,
        guard: &'g Guard,
        hash: KeyHash,
        id: &[u8],
        live: impl FnOnce(Located<'g, M>) -> R,
        nothing: impl FnOnce() -> R,
        rare: impl FnOnce() -> R,
    ) -> R {
        for entry in self.index.candidates(guard, hash) {
            if let Some((segment, offset)) = self.log.resolve(guard, entry.address) {
                segment.prefetch(offset);
                if let Ok(frame) = segment.frame(offset)
                    && same_bytes(frame.id(), id)
                {
                    let plain = !entry.tomb && !entry.pending && !frame.has_expired();
                    return if plain { live(Located { segment, frame }) } else { rare() };
                }
            }
            if self.is_the_ids(guard, entry, hash, id) {
                return rare();
            }
        }
        nothing()
    }

    /// Returns the id's live record.
    #[inline]
    pub fn get<'g>(
        &'g self,
        guard: &'g Guard,
        hash: KeyHash,
        id: &[u8],
    ) -> Result<Option<Located<'g, M>>, Damaged<'g, M>> {
        let rare = || self.get_closely(guard, hash, id);
        self.lookup(guard, hash, id, |at| Ok(Some(at)), || Ok(None), rare)
    }

    /// Returns whether an entry is the id's, whole or damaged, and not another's with the same tag.
    #[cold]
    fn is_the_ids(&self, guard: &Guard, entry: Entry, hash: KeyHash, id: &[u8]) -> bool {
        !matches!(self.identify(guard, entry, hash, id), Identified::Other)
    }

    /// Returns the id's live record, whatever its entry leads to: the slow path of
    /// [`Engine::lookup`].
    #[cold]
    pub fn get_closely<'g>(
        &'g self,
        guard: &'g Guard,
        hash: KeyHash,
        id: &[u8],
    ) -> Result<Option<Located<'g, M>>, Damaged<'g, M>> {
        let same = |entry| self.is_the_ids(guard, entry, hash, id);
        let Some(entry) = self.index.get(guard, hash, same) else { return Ok(None) };
        let Some(counts) = self.effective(guard, entry).filter(|counts| !counts.tomb) else {
            return Ok(None);
        };
        let at = if entry.pending {
            self.locate(guard, counts)?
        } else {
            match self.identify(guard, counts, hash, id) {
                Identified::Same(at) => at,
                Identified::Broken(at) => return Err(at),
                Identified::Other => return Ok(None),
            }
        };
        Ok(Some(at).filter(|at| !at.has_expired()))
    }

    /// Damage that hides a record from a get: it was whole when it was checked, and by its bytes is
    /// another id's now, or over. For who checks at every read, where a get has found nothing.
    #[cold]
    pub fn find_hidden<'g>(
        &'g self,
        guard: &'g Guard,
        hash: KeyHash,
    ) -> Result<(), Damaged<'g, M>> {
        for entry in self.index.candidates(guard, hash).filter(|entry| !entry.tomb) {
            if let Ok(at) = self.locate(guard, entry)
                && let Err(damage) = at.segment.verify(&at.frame)
                && let Identified::Broken(at) = self.identify_damaged(at.damaged(damage), hash)
            {
                return Err(at);
            }
        }
        Ok(())
    }

    /// A hint that an id with this hash will be asked for soon: its lines in the index.
    #[inline]
    pub fn prefetch_index(&self, guard: &Guard, hash: KeyHash) {
        self.index.prefetch(guard, hash);
    }

    /// The same, for its lines in the log. The index's should have come.
    #[inline]
    pub fn prefetch_frame(&self, guard: &Guard, hash: KeyHash) {
        if let Some(entry) = self.index.get(guard, hash, |_| true) {
            self.prefetch_entry(guard, entry);
        }
    }

    /// A hint that an entry's record will be read soon.
    #[inline]
    pub fn prefetch_entry(&self, guard: &Guard, entry: Entry) {
        if let Some((segment, offset)) = self.log.resolve(guard, entry.address) {
            segment.will_read(offset);
            segment.prefetch_header(offset);
            segment.prefetch(offset);
        }
    }

    /// A hint that an entry's embedding will be read whole.
    #[inline]
    pub fn prefetch_embedding(&self, guard: &Guard, entry: Entry) {
        if let Some((segment, offset)) = self.log.resolve(guard, entry.address) {
            segment.prefetch_embedding(offset);
        }
    }

    /// The entry that counts where a walk has met this one, unless it is a removal. The record may
    /// have expired.
    #[inline]
    pub fn effective_entry(&self, guard: &Guard, entry: Entry) -> Option<Entry> {
        self.effective(guard, entry).filter(|counts| !counts.tomb)
    }

    /// The same, if it is a live record's.
    pub fn live_entry(&self, guard: &Guard, entry: Entry) -> Option<Entry> {
        self.effective(guard, entry).filter(|counts| self.is_live(guard, *counts))
    }

    /// Returns whether an entry that counts is a record's whose time is not over. Damage does not
    /// make it less live.
    fn is_live(&self, guard: &Guard, entry: Entry) -> bool {
        !entry.tomb && !self.locate(guard, entry).is_ok_and(|at| at.has_expired())
    }

    fn keys<'a>(&'a self, guard: &'a Guard, key: Key<'a>) -> Keys<'a, M, S, SLOTS> {
        Keys { engine: self, guard, key }
    }

    /// Replaces the id's entry if it still is `from`, and says whether it was.
    fn replace(&self, guard: &Guard, key: Key<'_>, from: Entry, to: Entry) -> bool {
        let change = |entry| (entry == from).then_some(to);
        self.index.update_if(guard, key.hash, &self.keys(guard, key), change).is_some()
    }
}

/// Compares keys in the log, for the index.
struct Keys<'a, M: Memory, S, const SLOTS: usize> {
    engine: &'a Engine<M, S, SLOTS>,
    guard: &'a Guard<'a>,
    key: Key<'a>,
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Resolve for Keys<'_, M, S, SLOTS> {
    fn same_key(&self, entry: Entry) -> bool {
        let identified = self.engine.identify(self.guard, entry, self.key.hash, self.key.id);
        !matches!(identified, Identified::Other)
    }

    fn lsn(&self, entry: Entry) -> Lsn {
        self.engine.lsn_of(self.guard, entry)
    }
}

/// The slot that names a frame, found by looking through the directory: only for damaged frames.
#[cold]
fn slot_of_frame<M: Memory>(segment: &Segment<M>, offset: u64) -> Option<SlotBody> {
    segment.directory().slots(u32::MAX).find_map(|(_, state)| match state {
        SlotState::Committed(_, body) | SlotState::Copy(_, body)
            if body.offset.bytes() as u64 == offset =>
        {
            Some(body)
        }
        _ => None,
    })
}

/// More ids with one hash than a bucket's chain can hold: only a crafted store has them.
impl From<Exhausted> for Error {
    fn from(Exhausted: Exhausted) -> Self {
        Self::HashCollision
    }
}

impl<M: Memory, S, const SLOTS: usize> std::fmt::Debug for Engine<M, S, SLOTS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("log", &self.log).finish_non_exhaustive()
    }
}
