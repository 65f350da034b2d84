//! The log: which segment is active, how the next one takes over, where an address leads.
//!
//! Roll: any writer that finds the active segment full installs the next one with one
//! compare-exchange on `active`. It takes the one preallocated ahead of need, and makes one itself
//! if there is none, so a stopped thread stops nobody. Whoever loses the exchange discards its
//! segment, or puts a preallocated one back. Every segment made gets a sequence number of its own,
//! above that of the active segment that its maker saw; so along the history of `active` they only
//! grow.
//!
//! Up to two segments are preallocated, in one word: they are taken in the order of their
//! sequences, so that none is passed over, and whoever has taken one has it alone.
//!
//! G1: `active` and `preallocated` hold table indexes of segments that stay in the table at least
//! until they are out of these words; and a table index is used again only after no guard is left
//! that could have seen it in them.

mod append;
mod in_use;
mod queue;
mod table;
#[cfg(all(test, not(stratalog_loom)))]
pub(crate) mod tests;
mod totals;

pub use append::Appended;
pub use table::SegmentTable;

use crate::concurrency::epoch::{Epoch, Guard};
use crate::concurrency::sync::Ordering;
use crate::concurrency::sync::control::AtomicU64;
use crate::concurrency::sync::unmodelled::Arc;
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::{Address, AddressLayout, Lsn, Sequence, SlotNumber, TableIndex, Units};
use crate::memory::Memory;
use crate::segment::cursor::PREALLOCATE_AT;
use crate::segment::{Geometry, Segment};
use queue::{NONE, Queue};
use totals::LogTotals;

/// Most segments that are preallocated at a time.
pub const PREALLOCATED_MAX: usize = 2;
/// No segment, in `active`: the other bits are the sequence that the last one had, so that no two
/// such words are the same.
const NONE_AFTER: u64 = 1 << 63;

/// What room is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For more.
    Grow,
    /// For what frees room in the end: removals, and the copies that compaction makes. May take the
    /// last room there is.
    FreeRoom,
    /// For removals, where no more room can be kept back: takes none but what is kept for them.
    KeptBack,
}

/// Where segments come from: files, or the heap in models and tests.
pub trait Source<M: Memory>: Send + Sync {
    /// A new, empty segment with this sequence number.
    fn create(&self, sequence: Sequence, role: Role, purpose: Purpose)
    -> Result<Segment<M>, Error>;
    /// The segment never held a record and will not be used: remove what stands behind it.
    fn discard(&self, segment: &Segment<M>);
    /// The log will soon need another segment, or has just begun one. Must not wait.
    fn wake(&self);
    /// The room that is to be kept back goes first: before a writer makes a segment itself, and
    /// after it, since others make some, too. An error: the log may not grow. Must not wait for
    /// another thread.
    fn keep_room(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Returns whether compaction finds room for one more segment of copies, be it the one that is
    /// kept back for them. Must not wait for another thread.
    fn has_room_for_copies(&self) -> bool {
        true
    }
    /// Bytes allocated to what stands behind a segment.
    fn disk_bytes(&self, _segment: &Segment<M>) -> u64 {
        0
    }
}

/// A segment that is out of the index, on its way through the epoch: its drop says that no guard
/// is left that could hold an address in it.
struct RetiredSegment<M: Memory>(Arc<Segment<M>>);

impl<M: Memory> Drop for RetiredSegment<M> {
    fn drop(&mut self) {
        self.0.reclamation().set_released();
    }
}

/// All segments, and the one that takes new records.
pub struct Log<M: Memory, S> {
    source: S,
    geometry: Geometry,
    layout: AddressLayout,
    table: SegmentTable<M>,
    active: AtomicU64,
    preallocated: AtomicU64,
    /// No segment made by this process has a lower sequence number.
    first: Sequence,
    /// The next segment made gets this sequence number.
    next_sequence: AtomicU64,
    /// The highest LSN given in a segment that is not in the table any more.
    last_gone: AtomicU64,
    /// Segments that were let go of and are still in the table.
    retired: AtomicU64,
    /// How many times segments were dropped.
    drops: AtomicU64,
    sweeps: AtomicU64,
    totals: LogTotals,
}

impl<M: Memory, S: Source<M>> Log<M, S> {
    /// A log without segments whose first own one will have the sequence `floor`.
    #[must_use]
    pub fn new(source: S, geometry: Geometry, floor: Sequence) -> Self {
        let layout = AddressLayout::new(geometry.segment_bytes);
        Self {
            source,
            geometry,
            layout,
            table: SegmentTable::new(layout.table_limit()),
            active: AtomicU64::new(NONE_AFTER | floor.0.saturating_sub(1)),
            preallocated: AtomicU64::new(Queue::EMPTY.word()),
            first: floor,
            next_sequence: AtomicU64::new(floor.0),
            last_gone: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
            totals: LogTotals::default(),
        }
    }

    /// Sizes that all segments share.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Every segment of the log that is not active yet and ever will be has at least this sequence
    /// number, and no LSN was given in any that has. For the manifest.
    pub fn floor(&self, guard: &Guard) -> Sequence {
        // Acquire: as in `active`.
        let word = self.active.load(Ordering::Acquire);
        self.last_active(guard, word).next().max(self.first)
    }

    /// The sequence of the segment that a word of `active` names, or says to have been the last.
    fn last_active(&self, guard: &Guard, word: u64) -> Sequence {
        match self.segment_of_word(guard, word) {
            Some(active) => active.sequence(),
            None => Sequence(word & !NONE_AFTER),
        }
    }

    /// A sequence number that no other segment has.
    fn allocate_sequence(&self) -> Result<Sequence, Error> {
        // Relaxed: only uniqueness and growth matter. Whoever saw a segment active, by Acquire,
        // gets a higher number than it has: its maker added before it was published.
        let sequence = Sequence(self.next_sequence.fetch_add(1, Ordering::Relaxed));
        // The last number is never taken: the manifest must be able to name the one behind.
        if sequence >= Sequence::MAX { Err(Error::StorageFull) } else { Ok(sequence) }
    }

    /// Returns whether an LSN can be one of this log's: it was given before the number of the next
    /// segment.
    #[must_use]
    pub fn may_have_given(&self, lsn: Lsn) -> bool {
        // Relaxed: the number only grows, and whoever met a record that was really given saw, by
        // Acquire, what came after its segment's number was taken.
        lsn.sequence().0 < self.next_sequence.load(Ordering::Relaxed)
    }

    /// Makes a segment for copies, and puts it in the table.
    pub fn make_for_copies(&self, guard: &Guard) -> Result<Arc<Segment<M>>, Error> {
        let segment =
            self.source.create(self.allocate_sequence()?, Role::Copies, Purpose::FreeRoom)?;
        let index = self.adopt(Arc::new(segment))?;
        self.table.get_arc(guard, index).ok_or(Error::StorageFull)
    }

    /// Lets the active segment take no more, and the next put begin another one. `false` if there
    /// was none, or it was replaced just now.
    pub fn end_active(&self, guard: &Guard) -> bool {
        self.end_if(guard, |_| true)
    }

    /// The same where the active segment is full already: whoever found it so may have found no
    /// room for another one, and it must be out of `active` before it is emptied [G1].
    pub fn end_full(&self, guard: &Guard) -> bool {
        self.end_if(guard, |segment| segment.filling().is_full())
    }

    fn end_if(&self, guard: &Guard, condition: impl FnOnce(&Segment<M>) -> bool) -> bool {
        // Acquire: as in `active`.
        let word = self.active.load(Ordering::Acquire);
        let Some(segment) = self.segment_of_word(guard, word) else { return false };
        if !condition(segment) {
            return false;
        }
        // One that is full to the last unit may not have been found so yet.
        segment.filling().close();
        let none = NONE_AFTER | segment.sequence().0;
        // Release: pairs with the Acquire loads of `active`. A thread that finds no active segment
        // finds this one closed, so a flush of what comes after it seals it first [D5]. Relaxed on
        // failure: nothing is read.
        let ended = self.active.compare_exchange(word, none, Ordering::Release, Ordering::Relaxed);
        ended.is_ok()
    }

    /// Lets go of a segment that no entry of the index leads into any more. It stays in the table
    /// until no guard is left that could hold an address in it.
    pub fn retire_segment(&self, guard: &Guard, segment: Arc<Segment<M>>) {
        // Relaxed: a hint for `sweep`, and for who waits for it.
        self.retired.fetch_add(1, Ordering::Relaxed);
        guard.retire(Box::new(RetiredSegment(segment)));
    }

    /// Returns how many sweeps have begun.
    pub fn sweeps(&self) -> u64 {
        // Relaxed: as in `sweep`.
        self.sweeps.load(Ordering::Relaxed)
    }

    /// Returns how many segments were let go of and are still in the table.
    pub fn retired(&self) -> u64 {
        // Relaxed: as in `retire_segment`.
        self.retired.load(Ordering::Relaxed)
    }

    /// Takes the segments out of the table that were dropped and in which no reader can have an
    /// address, and clears the marks of those that are settled. For the one thread that owns this
    /// [T3]: the background thread of a store.
    pub fn sweep(&self, guard: &Guard) {
        // Relaxed: a count of beginnings, for who waits for one.
        self.sweeps.fetch_add(1, Ordering::Relaxed);
        for segment in self.table.unsettled(guard) {
            if segment.durable().is_settled()
                && segment.filling().is_full()
                && !segment.reclamation().is_dropped()
            {
                self.count_in(segment);
                self.table.clear_unsettled(segment);
            }
        }
        if self.retired() == 0 {
            return;
        }
        for segment in self.table.iter(guard).filter(|segment| segment.reclamation().is_released())
        {
            self.keep_last_lsn(segment);
            self.table.clear_unsettled(segment);
            if self.table.remove(guard, segment) {
                // Relaxed: as in `retire_segment`.
                self.retired.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// A segment leaves the table: the LSNs that were given in it stay known.
    fn keep_last_lsn(&self, segment: &Segment<M>) {
        if segment.role() == Role::Log
            && let Some(last) = segment.filling().slots_end().checked_sub(1)
        {
            let lsn = Lsn::new(segment.sequence(), SlotNumber(last));
            // Relaxed: a statistic, told to who asks for the highest LSN.
            self.last_gone.fetch_max(lsn.as_u64(), Ordering::Relaxed);
        }
    }

    /// Where segments come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The segment table.
    pub fn table(&self) -> &SegmentTable<M> {
        &self.table
    }

    /// Adds a segment found at opening.
    pub fn adopt(&self, segment: Arc<Segment<M>>) -> Result<TableIndex, Error> {
        self.table.insert(segment).ok_or(Error::StorageFull)
    }

    /// Makes an adopted segment the one that takes new records.
    pub fn set_active(&self, index: TableIndex) {
        // Release: pairs with the Acquire in `active`.
        self.active.store(u64::from(index.0), Ordering::Release);
    }

    /// The segment that takes new records, if there is one yet.
    #[inline]
    pub fn active<'g>(&'g self, guard: &'g Guard) -> Option<&'g Segment<M>> {
        // Acquire: pairs with the Release in `install`; the table entry is there before.
        self.segment_of_word(guard, self.active.load(Ordering::Acquire))
    }

    #[inline]
    fn segment_of_word<'g>(&'g self, guard: &'g Guard, word: u64) -> Option<&'g Segment<M>> {
        if word & NONE_AFTER != 0 { None } else { self.table.get(guard, TableIndex(word as u32)) }
    }

    /// The segment and the offset that an address names. `None` only for an address that was never
    /// in the index.
    #[inline]
    pub fn resolve<'g>(
        &'g self,
        guard: &'g Guard,
        address: Address,
    ) -> Option<(&'g Segment<M>, Units)> {
        let (index, offset) = self.layout.split(address);
        Some((self.table.get(guard, index)?, offset))
    }

    /// The segment that an address names, with a count of its own.
    pub fn resolve_arc(&self, guard: &Guard, address: Address) -> Option<Arc<Segment<M>>> {
        self.table.get_arc(guard, self.layout.split(address).0)
    }

    /// Replaces the full segment that the word `current` of `active` names, or the lack of one, by
    /// the next one, unless somebody else has.
    #[cold]
    fn roll(&self, guard: &Guard, current: u64, purpose: Purpose) -> Result<(), Error> {
        let before = self.last_active(guard, current);
        let preallocated = self.take_preallocated(guard, before.next());
        let next = match preallocated {
            Some(next) => next,
            None => {
                let segment = self.create_successor(guard, purpose)?;
                self.adopt(Arc::new(segment))?
            }
        };
        if let Some(active) = self.segment_of_word(guard, current)
            && active.filling().is_for_removals()
        {
            // There is room again, so it need not be full.
            active.filling().close();
        }
        // Nobody else writes to it before it is installed. (Of a store just opened it may be a
        // number that no segment has.)
        if let Some(next) = self.table.get(guard, next) {
            next.durable().set_predecessor(before);
        }
        self.install(guard, current, next);
        Ok(())
    }

    /// A new segment for records. One for more, if the room that is kept back is not touched by it;
    /// one for removals all the same, but what compaction needs for its copies goes first, too.
    fn create_successor(&self, guard: &Guard, purpose: Purpose) -> Result<Segment<M>, Error> {
        if !self.keeps_room(guard) {
            return self.source.create(self.allocate_sequence()?, Role::Log, purpose);
        }
        let kept = self.source.keep_room();
        if purpose == Purpose::FreeRoom {
            // What room there is may be what another thread keeps back for copies just now.
            // (Any other error is not about room: making one meets it again, and says so.)
            let full = matches!(kept, Err(Error::StorageFull));
            let purpose = if full { Purpose::KeptBack } else { purpose };
            return self.source.create(self.allocate_sequence()?, Role::Log, purpose);
        }
        kept?;
        let segment = self.source.create(self.allocate_sequence()?, Role::Log, purpose)?;
        self.source.keep_room().inspect_err(|_| self.source.discard(&segment))?;
        Ok(segment)
    }

    fn install(&self, guard: &Guard, current: u64, next: TableIndex) {
        // Release: pairs with the Acquire loads of `active`; the table entry of `next` is seen by
        // whoever sees its index here. Relaxed on failure: nothing is read from the winner.
        let installed = self.active.compare_exchange(
            current,
            u64::from(next.0),
            Ordering::Release,
            Ordering::Relaxed,
        );
        match installed {
            Ok(_) => self.source.wake(),
            Err(_) => self.put_back(guard, next),
        }
    }

    /// Takes the next segment that was preallocated ahead of need, if it may follow: its sequence
    /// is `at_least`. Those that came too late are discarded.
    fn take_preallocated(&self, guard: &Guard, at_least: Sequence) -> Option<TableIndex> {
        while let Some(index) = self.pop_preallocated() {
            if self.table.get(guard, index)?.sequence() >= at_least {
                return Some(index);
            }
            self.discard(guard, index);
        }
        None
    }

    /// The next of the preallocated segments, which is the caller's alone from here on.
    fn pop_preallocated(&self) -> Option<TableIndex> {
        let mut taken = NONE;
        self.change_preallocated(|queue| {
            taken = queue.first;
            (taken != NONE).then_some(Queue { first: queue.second, second: NONE })
        });
        (taken != NONE).then_some(TableIndex(taken))
    }

    /// Returns whether the change was made; `None` of it means that it is not to be.
    fn change_preallocated(&self, mut change: impl FnMut(Queue) -> Option<Queue>) -> bool {
        let change = |word| change(Queue::from_word(word)).map(Queue::word);
        // AcqRel: Release pairs with the Acquire of whoever takes what is put in here; who takes it
        // sees the table entry and what `finish` did. Acquire on failure: the word is used again.
        self.preallocated.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    /// Gives a segment that was not installed to the next roll, if it may still follow, and else
    /// discards it.
    fn put_back(&self, guard: &Guard, index: TableIndex) {
        let sequence = self.table.get(guard, index).map(Segment::sequence);
        let sequence_of = |n: u32| self.table.get(guard, TableIndex(n)).map(Segment::sequence);
        let kept = sequence >= Some(self.floor(guard))
            && self.change_preallocated(|queue| {
                // The preallocated ones are taken in the order of their sequences.
                let first = queue.first == NONE || sequence < sequence_of(queue.first);
                if first { queue.after(index.0) } else { None }
            });
        if !kept {
            self.discard(guard, index);
        }
    }

    fn discard(&self, guard: &Guard, index: TableIndex) {
        if let Some(segment) = self.table.get(guard, index) {
            self.source.discard(segment);
            self.table.remove(guard, segment);
        }
    }

    /// Returns how many segments are preallocated.
    pub fn preallocated(&self) -> usize {
        // Relaxed: a hint; `preallocate` decides.
        Queue::from_word(self.preallocated.load(Ordering::Relaxed)).len()
    }

    /// Returns whether the active segment, if there is one, holds enough that the next one will be
    /// needed.
    pub fn nears_roll(&self, guard: &Guard) -> bool {
        let capacity = self.geometry.capacity();
        self.active(guard).is_some_and(|segment| {
            let mut taken = segment.filling().taken();
            (taken.slots, taken.units) =
                (taken.slots * PREALLOCATE_AT, taken.units * PREALLOCATE_AT);
            !capacity.fits(taken)
        })
    }

    /// Makes the next segment ahead of need: `finish` gets it before any writer can, and says
    /// whether it is still wanted. Returns it if the writers have it now. For the background
    /// thread.
    pub fn preallocate(
        &self,
        epoch: &Epoch,
        finish: impl FnOnce(&Segment<M>) -> Result<bool, Error>,
    ) -> Result<Option<Arc<Segment<M>>>, Error> {
        let segment = self.source.create(self.allocate_sequence()?, Role::Log, Purpose::Grow)?;
        let finished = finish(&segment);
        if !matches!(finished, Ok(true)) {
            self.source.discard(&segment);
            return finished.map(|_| None);
        }
        let segment = Arc::new(segment);
        let index = self.adopt(Arc::clone(&segment))?;
        let guard = epoch.pin();
        if self.change_preallocated(|queue| queue.and_then(index.0)) {
            return Ok(Some(segment));
        }
        self.discard(&guard, index);
        Ok(None)
    }

    /// Returns whether a writer that finds the active segment full gets another one before it comes
    /// to one with this sequence.
    pub fn has_preallocated_before(&self, guard: &Guard, sequence: Sequence) -> bool {
        // Acquire: pairs with the Release in `change_preallocated`; the table entry is there.
        let queue = Queue::from_word(self.preallocated.load(Ordering::Acquire));
        let first = self.table.get(guard, TableIndex(queue.first));
        queue.first != NONE && first.is_some_and(|first| first.sequence() < sequence)
    }

    /// Discards what was preallocated and not used: for closing.
    pub fn discard_preallocated(&self, guard: &Guard) {
        while let Some(index) = self.pop_preallocated() {
            self.discard(guard, index);
        }
    }

    /// The lowest LSN not given yet.
    pub fn tail(&self, guard: &Guard) -> Lsn {
        match self.active(guard) {
            Some(active) if !active.filling().is_full() => {
                Lsn::new(active.sequence(), SlotNumber(active.filling().slots_end()))
            }
            _ => Lsn::new(self.floor(guard), SlotNumber(0)),
        }
    }

    /// The highest LSN given so far; zero if none was.
    pub fn last_allocated(&self, guard: &Guard) -> Lsn {
        let last = |s: &Segment<M>| {
            s.filling().slots_end().checked_sub(1).map(|n| Lsn::new(s.sequence(), SlotNumber(n)))
        };
        // First, so that no segment is missed on its way out.
        let gone = self.last_gone();
        self.of_log(guard).filter_map(last).fold(gone, Lsn::max)
    }

    /// The highest LSN given in a segment that is not in the table any more.
    pub fn last_gone(&self) -> Lsn {
        // Relaxed: a statistic.
        Lsn::from_u64(self.last_gone.load(Ordering::Relaxed))
    }

    /// Notes that an LSN was given, or may have been: recovery has met it in a copy, say.
    pub fn note_allocated(&self, lsn: Lsn) {
        // Relaxed: as in `remove`.
        self.last_gone.fetch_max(lsn.as_u64(), Ordering::Relaxed);
    }

    /// Returns whether a reservation may have been given this LSN. Of a segment that compaction has
    /// taken away it is not known which slots were given: all of them count.
    pub fn was_allocated(&self, guard: &Guard, lsn: Lsn) -> bool {
        let slots = |sequence: Sequence, n| Lsn::new(sequence, SlotNumber(n));
        let of = |s: &&Segment<M>| s.sequence() == lsn.sequence();
        match self.table.iter(guard).find(of) {
            Some(s) if s.role() == Role::Log => lsn < slots(s.sequence(), s.filling().slots_end()),
            Some(_) => false,
            None => lsn == Lsn::ZERO || lsn <= self.last_allocated(guard),
        }
    }

    fn of_log<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g Segment<M>> {
        self.table.iter(guard).filter(|s| s.role() == Role::Log)
    }
}

impl<M: Memory, S> std::fmt::Debug for Log<M, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
