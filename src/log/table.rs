//! The segment table: from the index in an address to the segment, without locks.
//!
//! T1: an entry is null, or a pointer from `Arc::into_raw` that the table owns one count of. It is
//! taken out by `remove` alone, which retires it through the epoch, so a guard that could load
//! the pointer keeps the segment alive. `remove` goes by identity: it takes out the segment that
//! its caller has loaded under the same guard, never the one that has come to its place since.
//!
//! T2: an index is given again once its entry is null. Who calls `remove` sees to it that by then
//! no guard can hold an address or a word with that index: it was never in the index (a segment
//! that was discarded), or it left long enough ago (one that compaction emptied).
//!
//! T4: the unsettled marks are one bit an index. `insert` sets it before it returns, so before the
//! segment can become active; `clear_unsettled` is for the one thread that also takes settled
//! segments out, so the bit that it clears is that of the segment it has seen settled.
#![expect(unsafe_code, reason = "entries are raw pointers with a count")]

use crate::concurrency::epoch::Guard;
use crate::concurrency::growable_array::GrowableArray;
use crate::concurrency::sync::control::{AtomicU32, AtomicU64};
use crate::concurrency::sync::unmodelled::Arc;
use crate::concurrency::sync::{AtomicPtr, Ordering, control_point};
use crate::format::ids::TableIndex;
use crate::segment::Segment;

/// All segments of a store, by table index.
pub struct SegmentTable<M> {
    entries: GrowableArray<Segment<M>>,
    /// Which of them have something to flush or may have, 64 to a word.
    unsettled: GrowableArray<AtomicU64>,
    /// One past the highest index that was ever given.
    end: AtomicU32,
    /// Where to begin looking for a free one.
    free: AtomicU32,
    limit: u32,
}

impl<M: crate::memory::Memory> SegmentTable<M> {
    /// An empty table for at most `limit` segments at a time.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            entries: GrowableArray::new(),
            unsettled: GrowableArray::new(),
            end: AtomicU32::new(0),
            free: AtomicU32::new(0),
            limit,
        }
    }

    /// Gives a segment its table index and publishes it; `None` (and the segment back to its
    /// owner's drop) if the table is full.
    pub fn insert(&self, segment: Arc<Segment<M>>) -> Option<TableIndex> {
        segment.set_shared(Arc::downgrade(&segment));
        let segment = Arc::into_raw(segment).cast_mut();
        // Relaxed: a hint; every entry is taken by an exchange of its own.
        let from = self.free.load(Ordering::Relaxed);
        let mut index = from;
        while index < self.limit {
            let Some(entry) = self.entries.get_or_make(index as usize) else { break };
            let Some(marks) = self.marks_or_make(index) else { break };
            // SAFETY: T1, the count is still this function's.
            unsafe { &*segment }.set_table_index(TableIndex(index));
            // Release: pairs with the Acquire in `pointer`; the segment is whole before it is seen.
            // Relaxed on failure: another segment is there, on to the next entry.
            let put = entry.compare_exchange(
                std::ptr::null_mut(),
                segment,
                Ordering::Release,
                Ordering::Relaxed,
            );
            if put.is_ok() {
                // Release: pairs with the Acquire in `unsettled` [T4].
                marks.fetch_or(1 << (index % 64), Ordering::Release);
                // Relaxed: `iter` may miss what is inserted meanwhile.
                self.end.fetch_max(index + 1, Ordering::Relaxed);
                // Relaxed, on failure too: a hint. A lower one, of what was removed since, stays.
                self.free
                    .compare_exchange(from, index + 1, Ordering::Relaxed, Ordering::Relaxed)
                    .unwrap_or(from);
                return Some(TableIndex(index));
            }
            index += 1;
        }
        // SAFETY: T1, the count is still this function's.
        drop(unsafe { Arc::from_raw(segment.cast_const()) });
        None
    }

    #[inline]
    fn pointer(&self, index: TableIndex) -> *const Segment<M> {
        // Acquire: pairs with the Release in `insert`.
        let load = |entry: &AtomicPtr<Segment<M>>| entry.load(Ordering::Acquire).cast_const();
        self.entries.get(index.0 as usize).map_or(std::ptr::null(), load)
    }

    /// The segment at an index, for as long as the guard lives.
    #[inline]
    pub fn get<'g>(&'g self, _guard: &'g Guard, index: TableIndex) -> Option<&'g Segment<M>> {
        // SAFETY: T1, null or alive under the guard.
        unsafe { self.pointer(index).as_ref() }
    }

    /// The same with a count of its own: outlives guard and table.
    pub fn get_arc(&self, guard: &Guard, index: TableIndex) -> Option<Arc<Segment<M>>> {
        let segment: *const Segment<M> = self.get(guard, index)?;
        // SAFETY: T1, from `Arc::into_raw` and alive under the guard.
        unsafe { Arc::increment_strong_count(segment) };
        // SAFETY: the count just added is this `Arc`'s.
        Some(unsafe { Arc::from_raw(segment) })
    }

    /// Takes this segment out, which the caller has from the table under this guard, and retires
    /// the table's count of it. `false`: somebody else has taken it out.
    pub fn remove(&self, guard: &Guard, segment: &Segment<M>) -> bool {
        let index = segment.table_index();
        let Some(entry) = self.entries.get(index.0 as usize) else { return false };
        control_point();
        let is = std::ptr::from_ref(segment).cast_mut();
        // Acquire: pairs with the Release in `insert`. The exchange makes this thread the only one
        // that takes this segment out [T1]. Relaxed on failure: nothing is read.
        let taken =
            entry.compare_exchange(is, std::ptr::null_mut(), Ordering::Acquire, Ordering::Relaxed);
        let Ok(segment) = taken else { return false };
        // SAFETY: T1, the count that the table owned is now this function's.
        let segment = unsafe { Arc::from_raw(segment.cast_const()) };
        guard.retire(Box::new(segment));
        // Relaxed: a hint.
        self.free.fetch_min(index.0, Ordering::Relaxed);
        true
    }

    fn marks(&self, index: u32) -> Option<&AtomicU64> {
        // Acquire: pairs with the Release in `marks_or_make`.
        let marks = self.unsettled.get(index as usize / 64)?.load(Ordering::Acquire);
        // SAFETY: null, or from `Box::into_raw` and given back by the table's drop alone.
        unsafe { marks.as_ref() }
    }

    fn marks_or_make(&self, index: u32) -> Option<&AtomicU64> {
        let entry = self.unsettled.get_or_make(index as usize / 64)?;
        // Relaxed: only whether there are any; `marks` loads it again.
        if entry.load(Ordering::Relaxed).is_null() {
            let fresh = Box::into_raw(Box::new(AtomicU64::new(0)));
            let null = std::ptr::null_mut();
            // Release: pairs with the Acquire in `marks`. Relaxed on failure: as above.
            let made = entry.compare_exchange(null, fresh, Ordering::Release, Ordering::Relaxed);
            if made.is_err() {
                // SAFETY: the exchange failed, so nobody else has seen this box.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
        self.marks(index)
    }

    /// Every segment whose unsettled mark is set, in no order that means anything: a few, however
    /// many segments there are.
    pub fn unsettled<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g Segment<M>> {
        // Relaxed: as in `iter`.
        let end = self.end.load(Ordering::Relaxed).min(self.limit);
        let bits = move |first: u32| {
            // Acquire: pairs with the Release in `insert` [T4].
            let mut bits = self.marks(first).map_or(0, |marks| marks.load(Ordering::Acquire));
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some(first + bit)
            })
        };
        let indexes = (0..end).step_by(64).flat_map(bits);
        indexes.filter_map(|index| self.get(guard, TableIndex(index)))
    }

    /// Clears the unsettled mark of a segment that is settled for good. For the thread that takes
    /// segments out, alone [T4].
    pub fn clear_unsettled(&self, segment: &Segment<M>) {
        let index = segment.table_index().0;
        if let Some(marks) = self.marks(index) {
            // Relaxed: whoever misses it looks at a settled segment once more.
            marks.fetch_and(!(1 << (index % 64)), Ordering::Relaxed);
        }
    }

    /// Every segment there is, in no order that means anything.
    pub fn iter<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g Segment<M>> {
        // Relaxed: a segment inserted meanwhile may be missed.
        let end = self.end.load(Ordering::Relaxed).min(self.limit);
        (0..end).filter_map(|index| self.get(guard, TableIndex(index)))
    }
}

impl<M> Drop for SegmentTable<M> {
    fn drop(&mut self) {
        // Relaxed: `&mut self` orders this after every other access, here and below.
        for index in 0..self.end.load(Ordering::Relaxed).min(self.limit) {
            let Some(entry) = self.entries.get(index as usize) else { continue };
            // Relaxed: as above.
            let segment = entry.load(Ordering::Relaxed);
            if !segment.is_null() {
                // SAFETY: T1, the table's own count, given back once.
                drop(unsafe { Arc::from_raw(segment.cast_const()) });
            }
        }
        for word in 0..self.unsettled.made() {
            let Some(entry) = self.unsettled.get(word) else { continue };
            // Relaxed: as above.
            let marks = entry.load(Ordering::Relaxed);
            if !marks.is_null() {
                // SAFETY: from `Box::into_raw`, given back once.
                drop(unsafe { Box::from_raw(marks) });
            }
        }
    }
}

impl<M> std::fmt::Debug for SegmentTable<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentTable").field("entries", &self.entries).finish_non_exhaustive()
    }
}
