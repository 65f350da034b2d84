//! A growing array of pointers that never moves: lock-free reads and writes, no copying.
//!
//! Level `k` holds `2^k` entries and is made when first written, so entry `i` lies at level
//! `ilog2(i + 1)`. An entry, once its level exists, keeps its place for ever. The array does not
//! own what its entries point to: the segment table and the index's directory do.
//!
//! L1: a level's pointer is null or the first entry of a leaked box of `2^k` entries, level `k`,
//! that only `drop` takes back.
#![expect(unsafe_code, reason = "levels are published as raw pointers")]

use crate::concurrency::sync::{AtomicPtr, Ordering};

/// Levels of the array: indexes below 2^31 - 1.
const LEVELS: usize = 31;

/// A growing array of `AtomicPtr<T>`, all null at first.
pub struct GrowableArray<T> {
    levels: [AtomicPtr<AtomicPtr<T>>; LEVELS],
}

impl<T> GrowableArray<T> {
    /// An array in which every entry is null. Allocates nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { levels: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())) }
    }

    /// Level and place in it; the place is below `2^level`.
    #[inline]
    fn place(index: usize) -> Option<(usize, usize)> {
        let number = index.wrapping_add(1);
        let level = number.checked_ilog2()? as usize;
        (level < LEVELS).then(|| (level, number ^ 1 << level))
    }

    /// The entry at `index`, if its level was ever made.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&AtomicPtr<T>> {
        let (level, offset) = Self::place(index)?;
        // Acquire: pairs with the Release compare-exchange in `get_or_make`; the level's nulls are
        // there before its pointer is.
        let first = self.levels[level].load(Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: L1, the level has `2^level` entries, and `offset` is below that.
        let entry = unsafe { first.add(offset) };
        // SAFETY: L1, the box stays as long as `self`.
        Some(unsafe { &*entry })
    }

    /// The entry at `index`, made if need be; `None` past the array's limit. Lock-free: losers of
    /// the race to make a level free their own.
    #[must_use]
    pub fn get_or_make(&self, index: usize) -> Option<&AtomicPtr<T>> {
        let (level, _) = Self::place(index)?;
        if self.get(index).is_none() {
            let fresh: Box<[AtomicPtr<T>]> =
                (0..1usize << level).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect();
            let fresh = Box::into_raw(fresh);
            // Release: pairs with the Acquire in `get`. Relaxed on failure: `get` loads it again.
            let made = self.levels[level].compare_exchange(
                std::ptr::null_mut(),
                fresh.cast(),
                Ordering::Release,
                Ordering::Relaxed,
            );
            if made.is_err() {
                // SAFETY: the exchange failed, so nobody else has seen this box.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
        self.get(index)
    }

    /// One past the highest index whose level exists.
    #[must_use]
    pub fn made(&self) -> usize {
        // Acquire: as in `get`; here only whether it is null matters.
        let made = |level: &AtomicPtr<AtomicPtr<T>>| !level.load(Ordering::Acquire).is_null();
        self.levels.iter().rposition(made).map_or(0, |level| (1 << (level + 1)) - 1)
    }
}

impl<T> Default for GrowableArray<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for GrowableArray<T> {
    fn drop(&mut self) {
        for (number, level) in self.levels.iter().enumerate() {
            // Relaxed: `&mut self` orders this after every other access.
            let first = level.load(Ordering::Relaxed);
            if !first.is_null() {
                let all = std::ptr::slice_from_raw_parts_mut(first, 1 << number);
                // SAFETY: L1, and `&mut self` proves that no reference into the level is left.
                drop(unsafe { Box::from_raw(all) });
            }
        }
    }
}

impl<T> std::fmt::Debug for GrowableArray<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrowableArray").field("made", &self.made()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_entry_and_keeps_it() {
        let array = GrowableArray::<u64>::new();
        assert!(array.get(0).is_none());
        let mut value = 5;
        for index in [0, 1, 2, 3, 6, 7, 100, 4_095] {
            let entry = array.get_or_make(index).unwrap();
            assert!(entry.load(Ordering::Relaxed).is_null(), "{index} was taken");
            entry.store(&mut value, Ordering::Relaxed);
            assert!(std::ptr::eq(entry, array.get(index).unwrap()));
        }
        assert!(array.made() >= 4_096);
        assert!(array.get_or_make(usize::MAX / 2).is_none());
    }
}
