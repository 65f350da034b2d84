//! Finds the chunk of a route, and keeps the places of chunks up to date.
//!
//! Entry `p` of the array holds the chunk of prefix `p`, whose depth only grows. A route is looked
//! up by its low bits, as many as the deepest chunk so far has; where that entry is still null the
//! chunk has not been split that far, and the entry without the top bit is the next to try.
//!
//! A replaced chunk leaves in three steps, which anybody may take again [I4]:
//!
//! 1. split only: entry `p + 2^d` from null to the high child;
//! 2. split only: the depth of the directory is raised to `d + 1`;
//! 3. entry `p` from the old chunk to the low child or the rebuilt one. Whose exchange succeeds
//!    retires the old chunk.
//!
//! What the code below rests on (I1 to I5 are in DESIGN.md, section 5.3):
//!
//! - ID1: an entry is null or a leaked box; once it is not null it never is again. A chunk is in
//!   one entry at most, and leaves it for good by step 3.
//! - ID2: a chunk is dropped by the epoch after step 3, or by the directory's drop. So whoever saw
//!   it in an entry under a guard may use it for as long as the guard lives. That the guard is one
//!   of the epoch that chunks are retired to is the contract of [`Index`](super::Index).
//! - ID3: a successor is retired after its predecessor: it is replaced only after both steps 1 and
//!   3 of the predecessor [I4]. So whoever holds the predecessor under a guard may follow forward.
#![expect(unsafe_code, reason = "chunks are published as raw pointers")]

use super::chunk::Chunk;
use super::entry::low_bits;
use crate::concurrency::epoch::Guard;
use crate::concurrency::growable_array::GrowableArray;
use crate::concurrency::sync::{AtomicPtr, AtomicU64, Ordering};
use std::ptr;

/// The directory of chunks. Owns those that are in it.
pub(super) struct ChunkDirectory<const SLOTS: usize> {
    chunks: GrowableArray<Chunk<SLOTS>>,
    /// Depth of the deepest chunk that steps 1 and 2 were taken for.
    depth: AtomicU64,
}

/// A chunk on its way to the epoch. A pointer, not a box: others may still read the chunk.
struct RetiredChunk<const SLOTS: usize>(*mut Chunk<SLOTS>);

// SAFETY: a chunk owns nothing that is tied to a thread; what its pointers name is its own (IC1) or
// not touched by its drop (IC2).
unsafe impl<const SLOTS: usize> Send for RetiredChunk<SLOTS> {}

impl<const SLOTS: usize> Drop for RetiredChunk<SLOTS> {
    fn drop(&mut self) {
        // SAFETY: ID1 and ID2, step 3 made this the chunk's one owner, and the epoch drops it when
        // no guard is left that could protect a reference to it.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<const SLOTS: usize> ChunkDirectory<SLOTS> {
    /// `2^depth` chunks of that depth, made by `chunk` from their prefixes.
    pub(super) fn new(depth: u32, chunk: impl Fn(u64) -> Box<Chunk<SLOTS>>) -> Self {
        let directory =
            Self { chunks: GrowableArray::new(), depth: AtomicU64::new(u64::from(depth)) };
        for prefix in 0..1u64 << depth {
            if let Some(entry) = directory.chunks.get_or_make(prefix as usize) {
                // Relaxed: nobody else has the directory yet.
                entry.store(Box::into_raw(chunk(prefix)), Ordering::Relaxed);
            }
        }
        directory
    }

    /// Entries that exist, used or not.
    pub(super) fn made(&self) -> usize {
        self.chunks.made()
    }

    #[inline]
    fn entry<'g>(&'g self, place: u64, _guard: &'g Guard) -> Option<&'g Chunk<SLOTS>> {
        // Acquire: pairs with the Release exchanges of `install_successors`; the chunk is whole,
        // and whatever step came before the one that stored it can be seen.
        let chunk = self.chunks.get(place as usize)?.load(Ordering::Acquire);
        // SAFETY: ID1 and ID2, null or a chunk that the guard protects from here on.
        unsafe { chunk.as_ref() }
    }

    /// The chunk that most likely has this route: nothing is read of it yet.
    #[inline]
    pub(super) fn likely<'g>(&'g self, route: u64, guard: &'g Guard) -> Option<&'g Chunk<SLOTS>> {
        // Relaxed: whatever it leads to is a guess.
        let depth = self.depth.load(Ordering::Relaxed);
        self.entry(low_bits(route, depth as u32), guard)
    }

    /// The chunk in the directory that has this route. It may be replaced already.
    #[inline]
    pub(super) fn current<'g>(&'g self, route: u64, guard: &'g Guard) -> &'g Chunk<SLOTS> {
        loop {
            // Relaxed: a depth that is too low leads to a chunk that does not cover the route, or
            // to one that is replaced; one too high, to entries that are null.
            let depth = self.depth.load(Ordering::Relaxed);
            let mut place = low_bits(route, depth as u32);
            let chunk = loop {
                if let Some(chunk) = self.entry(place, guard) {
                    break chunk;
                }
                debug_assert!(place != 0, "entry 0 is never null");
                place ^= place.checked_ilog2().map_or(0, |top| 1 << top);
            };
            if chunk.covers(route) {
                return chunk;
            }
            // The entry has been split since the ones above it were seen to be null. Step 3 comes
            // after steps 1 and 2, so the next try gets at least one bit further.
        }
    }

    /// The chunk to read this route in: the current one, or its successor if it is replaced.
    ///
    /// One step is enough. A successor can only be replaced in turn after the entry that led here
    /// was changed, so during the call that got here: what the successor held then counts [I5].
    #[inline]
    pub(super) fn readable<'g>(&'g self, route: u64, guard: &'g Guard) -> &'g Chunk<SLOTS> {
        let chunk = self.current(route, guard);
        let Some(forward) = chunk.forward() else { return chunk };
        let high = !forward.high.is_null() && route >> chunk.depth() & 1 == 1;
        let successor = if high { forward.high } else { forward.low };
        // SAFETY: ID3, and `chunk` was found under the guard.
        unsafe { &*successor }
    }

    /// Before a chunk is frozen: its predecessor's step 3, if it may still be missing [I4].
    pub(super) fn install_parents_successors(&self, guard: &Guard, chunk: &Chunk<SLOTS>) {
        if let Some(parent) = self.stale_parent(guard, chunk) {
            self.install_successors(guard, parent);
        }
    }

    /// What the chunk was split from, if that is still in the directory. Only a high child can be
    /// there at the same time; a low child, and a rebuilt chunk, got where they are by step 3.
    pub(super) fn stale_parent<'g>(
        &'g self,
        guard: &'g Guard,
        chunk: &Chunk<SLOTS>,
    ) -> Option<&'g Chunk<SLOTS>> {
        let top = 1 << chunk.depth().checked_sub(1)?;
        if chunk.prefix() & top == 0 {
            return None;
        }
        let parent = self.entry(chunk.prefix() ^ top, guard)?;
        (parent.depth() < chunk.depth()).then_some(parent)
    }

    /// Takes what is missing of a replaced chunk's three steps.
    pub(super) fn install_successors(&self, guard: &Guard, chunk: &Chunk<SLOTS>) {
        let Some(forward) = chunk.forward() else { return };
        if !forward.high.is_null() {
            let place = chunk.prefix() | 1 << chunk.depth();
            exchange(self.chunks.get_or_make(place as usize), ptr::null_mut(), forward.high);
            // Relaxed: published by the exchange below, so whoever sees the low child sees it.
            self.depth.fetch_max(u64::from(chunk.depth()) + 1, Ordering::Relaxed);
        }
        let old = ptr::from_ref(chunk).cast_mut();
        let entry = self.chunks.get(chunk.prefix() as usize);
        if let Some(old) = exchange(entry, old, forward.low) {
            guard.retire(Box::new(RetiredChunk(old)));
        }
    }
}

/// Replaces what an entry holds; `Some` with what it was if this thread did.
fn exchange<const SLOTS: usize>(
    entry: Option<&AtomicPtr<Chunk<SLOTS>>>,
    old: *mut Chunk<SLOTS>,
    new: *mut Chunk<SLOTS>,
) -> Option<*mut Chunk<SLOTS>> {
    // Release: pairs with the Acquire in `ChunkDirectory::entry`; passes on the new chunk, which
    // this thread got by Acquire from forward, and the steps taken before. Relaxed on failure:
    // another thread has taken this step.
    entry?.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).ok()
}

impl<const SLOTS: usize> Drop for ChunkDirectory<SLOTS> {
    fn drop(&mut self) {
        for entry in (0..self.chunks.made()).filter_map(|place| self.chunks.get(place)) {
            // Relaxed: `&mut self` orders this after every other access.
            let chunk = entry.load(Ordering::Relaxed);
            if !chunk.is_null() {
                // SAFETY: ID1, a leaked box in this entry only, and `&mut self` proves that no
                // reference to it is left.
                drop(unsafe { Box::from_raw(chunk) });
            }
        }
    }
}
