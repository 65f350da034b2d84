//! Log, index and epoch together: the operations on one id. Everything here runs unchanged on
//! files, on the heap and under loom.
//!
//! The rules of "highest LSN wins" are in DESIGN.md 5.4; each closure below is one column of that
//! table. [W1]: nobody acts on a pending entry before its slot is committed.
#![expect(unsafe_code, reason = "follows addresses from the index into frames")]

use crate::epoch::{Epoch, Guard};
use crate::error::Error;
use crate::format::ids::Lsn;
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::index::{Decision, Entry, Exhausted, Found, Index, KeyHash, Resolve, Shape};
use crate::log::{Log, Source};
use crate::memory::Memory;
use crate::segment::{Frame, FrameDamage, Record, Segment};
use crate::sync::{AtomicI64, Ordering};

/// A record that the index points at and whose lengths are sound.
#[derive(Debug)]
pub struct Located<'g, M> {
    /// Its segment.
    pub segment: &'g Segment<M>,
    /// The frame.
    pub frame: Frame<'g>,
    /// Where the index says it lies.
    pub entry: Entry,
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
}

/// What an index entry is to an id.
enum Identified<'g, M> {
    Same(Located<'g, M>),
    Other,
    /// The id's, says the slot's hash; but the frame is damaged.
    Broken(Damaged<'g, M>),
}

/// How a put ended.
enum Published {
    Installed,
    Absorbed,
    AppendAgain,
}

/// How an attempt to remove ended.
enum Removal {
    Removed,
    Gone,
    Retry,
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// An engine over a log, with an empty index.
    #[must_use]
    pub fn new(log: Log<M, S>, shape: Shape) -> Self {
        Self { epoch: Epoch::new(), log, index: Index::new(shape), live: AtomicI64::new(0) }
    }

    /// Pins, and reclamation.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The segments.
    pub fn log(&self) -> &Log<M, S> {
        &self.log
    }

    /// The index.
    pub fn index(&self) -> &Index<SLOTS> {
        &self.index
    }

    /// Live records.
    pub fn live(&self) -> u64 {
        // Relaxed: a statistic; in passing it may be below zero, which reads as none.
        u64::try_from(self.live.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn add_live(&self, by: i64) {
        // Relaxed: a statistic.
        self.live.fetch_add(by, Ordering::Relaxed);
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
        // SAFETY: an address is put into the index, with Release, only after its frame was filled;
        // the index loaded the entry with Acquire.
        match unsafe { segment.frame(offset) } {
            Ok(frame) => Ok(Located { segment, frame, entry }),
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
            Ok(at) if at.segment.is_verified(at.frame.header().slot) => Identified::Other,
            Ok(at) => match at.segment.verify(&at.frame) {
                Ok(()) => Identified::Other,
                Err(damage) => {
                    let (segment, offset) = (at.segment, self.offset_of(entry));
                    self.identify_damaged(Damaged { segment: Some(segment), offset, damage }, hash)
                }
            },
            Err(damaged) => self.identify_damaged(damaged, hash),
        }
    }

    /// Byte offset of an entry's frame in its file.
    #[must_use]
    pub fn offset_of(&self, entry: Entry) -> u64 {
        let layout = crate::format::ids::AddressLayout::new(self.log.geometry().segment_bytes);
        layout.split(entry.address).1.bytes() as u64
    }

    #[cold]
    fn identify_damaged<'g>(&self, at: Damaged<'g, M>, hash: KeyHash) -> Identified<'g, M> {
        match at.segment.and_then(|segment| slot_of_frame(segment, at.offset)) {
            Some(body) if body.key_hash == hash.0 => Identified::Broken(at),
            _ => Identified::Other,
        }
    }

    /// LSN of what an entry points at. A frame header that this process has not checked is only
    /// believed after its checksum was, or else the slot is asked.
    fn lsn_of(&self, guard: &Guard, entry: Entry) -> Lsn {
        match self.locate(guard, entry) {
            Ok(at)
                if at.segment.is_verified(at.frame.header().slot)
                    || at.segment.verify(&at.frame).is_ok() =>
            {
                at.frame.header().lsn
            }
            Ok(at) => slot_of_frame(at.segment, self.offset_of(entry)).map_or(Lsn::ZERO, |b| b.lsn),
            Err(at) => at
                .segment
                .and_then(|segment| slot_of_frame(segment, at.offset))
                .map_or(Lsn::ZERO, |body| body.lsn),
        }
    }

    /// Commits the slot behind a pending entry [W1].
    fn settle(&self, guard: &Guard, entry: Entry) {
        if entry.pending
            && let Ok(at) = self.locate(guard, entry)
        {
            let kind = if entry.tomb { Kind::Tombstone } else { Kind::Put };
            at.segment.settle(at.frame.header().slot, kind);
        }
    }

    /// The id's live record. Wait-free; writes nothing shared (but for the rare pending entry).
    #[inline]
    pub fn get<'g>(
        &'g self,
        guard: &'g Guard,
        hash: KeyHash,
        id: &[u8],
    ) -> Result<Option<Located<'g, M>>, Damaged<'g, M>> {
        let mut found = None;
        let entry = self.index.get(guard, hash, |entry| {
            match self.identify(guard, entry, hash, id) {
                Identified::Same(at) => found = Some(Ok(at)),
                Identified::Broken(at) => found = Some(Err(at)),
                Identified::Other => return false,
            }
            true
        });
        match entry {
            None => Ok(None),
            Some(entry) if entry.tomb => {
                self.settle(guard, entry);
                Ok(None)
            }
            Some(entry) => {
                self.settle(guard, entry);
                found.transpose()
            }
        }
    }

    /// Stores a version of an id. The record's parts have passed the store's checks.
    pub fn put(&self, record: &Record<'_>) -> Result<Lsn, Error> {
        let bytes = record.layout().bytes();
        loop {
            let guard = self.epoch.pin();
            let reservation = self.log.reserve(&self.epoch, &guard, bytes)?;
            let (segment, lsn) = (reservation.segment(), reservation.lsn());
            let Ok(address) = reservation.commit(record) else { continue };
            let entry = Entry { address, tomb: false, pending: false };
            segment.add_live(bytes);
            let published = self.publish(&guard, record, lsn, entry);
            if !matches!(published, Ok(Published::Installed)) {
                segment.sub_live(bytes);
            }
            match published {
                Ok(Published::Installed | Published::Absorbed) => return Ok(lsn),
                Ok(Published::AppendAgain) => {}
                Err(Exhausted) => return Err(exhausted()),
            }
        }
    }

    /// The put column of DESIGN.md 5.4.
    fn publish(
        &self,
        guard: &Guard,
        record: &Record<'_>,
        lsn: Lsn,
        entry: Entry,
    ) -> Result<Published, Exhausted> {
        let mut outcome = Published::Absorbed;
        let decide = |found| {
            let decision;
            (outcome, decision) = match found {
                Found::Absent { drop_lsn } if drop_lsn >= lsn => {
                    (Published::AppendAgain, Decision::Keep)
                }
                Found::Absent { .. } => (Published::Installed, Decision::Set(entry)),
                Found::Entry(old) => {
                    self.settle(guard, old);
                    if self.lsn_of_racing(guard, old, lsn) > lsn {
                        (Published::Absorbed, Decision::Keep)
                    } else {
                        (Published::Installed, Decision::Set(entry))
                    }
                }
            };
            decision
        };
        let keys = self.keys(guard, record);
        let before =
            self.index.update(&self.epoch, guard, KeyHash(record.key_hash), &keys, decide)?;
        if matches!(outcome, Published::Installed) {
            self.account_replaced(guard, before);
        }
        Ok(outcome)
    }

    /// The LSN of an entry that a write with `lsn` competes with: the header's word for it is
    /// enough while it is lower, which is nearly always; a higher one is checked first.
    fn lsn_of_racing(&self, guard: &Guard, entry: Entry, lsn: Lsn) -> Lsn {
        match self.locate(guard, entry) {
            Ok(at) if at.frame.header().lsn < lsn => at.frame.header().lsn,
            _ => self.lsn_of(guard, entry),
        }
    }

    /// After a put took an entry's place.
    fn account_replaced(&self, guard: &Guard, before: Option<Entry>) {
        match before {
            Some(old) if !old.tomb => self.sub_live_of(guard, old),
            _ => self.add_live(1),
        }
    }

    fn sub_live_of(&self, guard: &Guard, old: Entry) {
        match self.locate(guard, old) {
            Ok(at) => at.segment.sub_live(at.frame.len_bytes()),
            Err(at) => {
                if let Some(segment) = at.segment
                    && let Some(body) = slot_of_frame(segment, at.offset)
                {
                    segment.sub_live(body.len.bytes() as u64);
                }
            }
        }
    }

    /// Removes an id; whether it was there. `record` is the tombstone.
    pub fn remove(&self, record: &Record<'_>) -> Result<bool, Error> {
        loop {
            let guard = self.epoch.pin();
            if !self.present(&guard, record) {
                return Ok(false);
            }
            let bytes = record.layout().bytes();
            let reservation = self.log.reserve(&self.epoch, &guard, bytes)?;
            let Ok(pending) = reservation.pend(record) else { continue };
            let entry = Entry { address: pending.address(), tomb: true, pending: true };
            match self.decide_removal(&guard, record, pending.lsn(), entry)? {
                Removal::Removed => {
                    pending.commit();
                    self.clear_pending(&guard, record, entry)?;
                    return Ok(true);
                }
                // Dropping `pending` voids its slot.
                Removal::Gone => return Ok(false),
                Removal::Retry => {}
            }
        }
    }

    fn present(&self, guard: &Guard, record: &Record<'_>) -> bool {
        let keys = self.keys(guard, record);
        let hash = KeyHash(record.key_hash);
        match self.index.get(guard, hash, |entry| keys.same_key(entry)) {
            None => false,
            Some(entry) => {
                self.settle(guard, entry);
                !entry.tomb
            }
        }
    }

    /// The remove column of DESIGN.md 5.4.
    fn decide_removal(
        &self,
        guard: &Guard,
        record: &Record<'_>,
        lsn: Lsn,
        entry: Entry,
    ) -> Result<Removal, Error> {
        let mut outcome = Removal::Gone;
        let decide = |found| {
            let decision;
            (outcome, decision) = match found {
                Found::Absent { .. } => (Removal::Gone, Decision::Keep),
                Found::Entry(old) => {
                    self.settle(guard, old);
                    if old.tomb {
                        (Removal::Gone, Decision::Keep)
                    } else if self.lsn_of_racing(guard, old, lsn) > lsn {
                        (Removal::Retry, Decision::Keep)
                    } else {
                        (Removal::Removed, Decision::Set(entry))
                    }
                }
            };
            decision
        };
        let keys = self.keys(guard, record);
        let hash = KeyHash(record.key_hash);
        let before = self
            .index
            .update(&self.epoch, guard, hash, &keys, decide)
            .map_err(|Exhausted| exhausted())?;
        if matches!(outcome, Removal::Removed) {
            self.add_live(-1);
            if let Some(old) = before {
                self.sub_live_of(guard, old);
            }
        }
        Ok(outcome)
    }

    fn clear_pending(
        &self,
        guard: &Guard,
        record: &Record<'_>,
        pending: Entry,
    ) -> Result<(), Error> {
        let clear = |found| match found {
            Found::Entry(entry) if entry == pending => {
                Decision::Set(Entry { pending: false, ..pending })
            }
            _ => Decision::Keep,
        };
        let keys = self.keys(guard, record);
        self.index
            .update(&self.epoch, guard, KeyHash(record.key_hash), &keys, clear)
            .map_err(|Exhausted| exhausted())?;
        Ok(())
    }

    /// Puts a record found by recovery into the index: highest LSN wins, whatever the order.
    pub fn restore(&self, segment: &Segment<M>, kind: Kind, body: SlotBody) -> Result<(), Error> {
        let guard = self.epoch.pin();
        let tomb = kind == Kind::Tombstone;
        let entry = Entry { address: segment.address(body.offset), tomb, pending: false };
        // SAFETY: recovery has seen the slot committed, by Acquire.
        let id = unsafe { segment.frame(body.offset) }.map_or(&[][..], |frame| frame.id());
        let keys = Keys { engine: self, guard: &guard, hash: KeyHash(body.key_hash), id };
        let mut won = false;
        let decide = |found| {
            won = match found {
                Found::Absent { .. } => true,
                Found::Entry(old) => self.lsn_of(&guard, old) < body.lsn,
            };
            if won { Decision::Set(entry) } else { Decision::Keep }
        };
        let before = self
            .index
            .update(&self.epoch, &guard, KeyHash(body.key_hash), &keys, decide)
            .map_err(|Exhausted| exhausted())?;
        if won {
            self.account_restored(&guard, segment, tomb, body, before);
        }
        Ok(())
    }

    fn account_restored(
        &self,
        guard: &Guard,
        segment: &Segment<M>,
        tomb: bool,
        body: SlotBody,
        before: Option<Entry>,
    ) {
        if !tomb {
            segment.add_live(body.len.bytes() as u64);
            self.add_live(1);
        }
        if let Some(old) = before.filter(|old| !old.tomb) {
            self.sub_live_of(guard, old);
            self.add_live(-1);
        }
    }

    fn keys<'a>(&'a self, guard: &'a Guard, record: &Record<'a>) -> Keys<'a, M, S, SLOTS> {
        Keys { engine: self, guard, hash: KeyHash(record.key_hash), id: record.id }
    }
}

/// Compares keys in the log, for the index.
struct Keys<'a, M: Memory, S, const SLOTS: usize> {
    engine: &'a Engine<M, S, SLOTS>,
    guard: &'a Guard,
    hash: KeyHash,
    id: &'a [u8],
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Resolve for Keys<'_, M, S, SLOTS> {
    fn same_key(&self, entry: Entry) -> bool {
        let identified = self.engine.identify(self.guard, entry, self.hash, self.id);
        !matches!(identified, Identified::Other)
    }

    fn lsn(&self, entry: Entry) -> Lsn {
        self.engine.lsn_of(self.guard, entry)
    }
}

/// The slot that names a frame, found by looking through the directory: only for damaged frames.
#[cold]
fn slot_of_frame<M: Memory>(segment: &Segment<M>, offset: u64) -> Option<SlotBody> {
    segment.slots(u32::MAX).find_map(|(_, state)| match state {
        SlotState::Committed(_, body) if body.offset.bytes() as u64 == offset => Some(body),
        _ => None,
    })
}

/// More ids with one hash than a bucket's chain can hold: only a crafted store has them.
fn exhausted() -> Error {
    Error::Io(std::io::Error::other("too many ids share one hash; the index cannot grow further"))
}

impl<M: Memory, S, const SLOTS: usize> std::fmt::Debug for Engine<M, S, SLOTS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("log", &self.log).finish_non_exhaustive()
    }
}
