//! A chunk of the index: buckets of one cache line each, filled in order, replaced as a whole.
//!
//! A bucket is `SLOTS` entry words and a link to one more bucket, so that a chain of buckets holds
//! all entries whose hashes name its first one. The first buckets are the chunk's own, the others
//! come in blocks made when they are needed. Life of a chunk:
//!
//! 1. *private*: a box, filled by one thread;
//! 2. *current*: in the directory, forward unset; words and links change by compare-exchange;
//! 3. *frozen*: [`Chunk::freeze`] has passed, all that can be reached is final [I2];
//! 4. *replaced*: forward set, once, by [`Chunk::publish`]; still read by who found it earlier;
//! 5. *retired*: out of the directory; dropped when no guard can protect it any more.
//!
//! What the code below rests on (I1 to I5 are in DESIGN.md, section 5.3):
//!
//! - IC1: a block hangs on the chunk's list from its making until the chunk is dropped, so its
//!   buckets live as long as the chunk does. A link is null, [`frozen_end`], or such a bucket.
//! - IC2: forward is null or a leaked box, which only the chunk's drop takes back. The chunks it
//!   names are not the chunk's own: once published, the directory answers for them.
//! - IC3: slots of a chain are filled in order and never emptied [I1], so the chain ends at its
//!   first empty slot. Once that slot is frozen nothing behind it can ever be reached.
#![expect(unsafe_code, reason = "overflow buckets and successors are published as raw pointers")]

use super::OVERFLOW_BLOCK;
use super::entry::{Entry, Fingerprint, Spot, Word, low_bits};
use crate::concurrency::sync::unmodelled::{Arc, AtomicU64 as PlainU64, Ordering as PlainOrdering};
use crate::concurrency::sync::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, Ordering};
use crate::format::ids::Lsn;
use crate::memory::prefetch;
use std::ptr;

/// `SLOTS` words and a link: with 7 slots, one cache line.
#[repr(C, align(64))]
pub(super) struct Bucket<const SLOTS: usize> {
    pub(super) slots: [AtomicU64; SLOTS],
    link: AtomicPtr<Self>,
}

/// What follows a bucket in its chain.
pub(super) enum Link<'a, const SLOTS: usize> {
    Bucket(&'a Bucket<SLOTS>),
    Nothing,
    /// Nothing, and nothing will: the chunk is frozen.
    Frozen,
}

/// Why a chain did not get longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    Frozen,
    /// The chunk has no overflow bucket left.
    Starved,
}

/// The link of a frozen chain's last bucket; not the address of anything.
fn frozen_end<const SLOTS: usize>() -> *mut Bucket<SLOTS> {
    ptr::without_provenance_mut(1)
}

impl<const SLOTS: usize> Bucket<SLOTS> {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(Word::EMPTY.0)),
            link: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn link_from(&self, link: *mut Self) -> Link<'_, SLOTS> {
        if link == frozen_end() {
            return Link::Frozen;
        }
        // SAFETY: IC1, null or a bucket that lives as long as the chunk; so does `self`, which is
        // one of the same chunk's buckets, and is borrowed.
        match unsafe { link.as_ref() } {
            Some(bucket) => Link::Bucket(bucket),
            None => Link::Nothing,
        }
    }

    #[inline]
    pub(super) fn link(&self) -> Link<'_, SLOTS> {
        // Acquire: pairs with the Release exchange in `Chunk::extend`; the bucket's empty words
        // are there before the link is.
        self.link_from(self.link.load(Ordering::Acquire))
    }

    /// Asks for the bucket.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self);
    }

    /// The bucket behind this one, if there is one.
    #[inline]
    pub(super) fn behind(&self) -> Option<&Self> {
        match self.link() {
            Link::Bucket(bucket) => Some(bucket),
            Link::Nothing | Link::Frozen => None,
        }
    }

    /// Freezes the words up to the first empty one. Returns what follows if there was no empty
    /// one, and then the link is final too.
    fn freeze(&self) -> Option<&Self> {
        for slot in &self.slots {
            // Acquire: pairs with the Release exchange in `store`; the rebuild reads the records
            // of tombstones.
            let mut word = Word(slot.load(Ordering::Acquire));
            if !word.is_frozen() {
                // Acquire: as above, for the word that is there at this moment. It is final now,
                // because every exchange on it expects a word that is not frozen. Nothing is
                // published by this: the words' own Release goes on through it.
                word = Word(slot.fetch_or(Word::FROZEN_BIT, Ordering::Acquire));
            }
            if word.is_empty() {
                return None;
            }
        }
        // Relaxed: publishes nothing. Acquire on failure: pairs with the Release exchange in
        // `Chunk::extend`; another bucket is there and will be read.
        let frozen = self.link.compare_exchange(
            ptr::null_mut(),
            frozen_end(),
            Ordering::Relaxed,
            Ordering::Acquire,
        );
        match self.link_from(frozen.err()?) {
            Link::Bucket(bucket) => Some(bucket),
            Link::Nothing | Link::Frozen => None,
        }
    }
}

/// Entries of one chain that have the fingerprint that is looked for: one of them at most is the
/// key's.
pub struct Candidates<'a, const SLOTS: usize> {
    bucket: &'a Bucket<SLOTS>,
    fingerprint: Fingerprint,
    words: [Word; SLOTS],
    /// Of those words, which have the fingerprint and were not given out yet.
    hits: u32,
}

impl<'a, const SLOTS: usize> Candidates<'a, SLOTS> {
    #[inline(always)]
    fn new(bucket: &'a Bucket<SLOTS>, fingerprint: Fingerprint) -> Self {
        // All words first: which of them match is one number then, not seven branches.
        let words = bucket.slots.each_ref().map(load);
        let mut hits = 0;
        for (place, word) in words.iter().enumerate() {
            hits |= u32::from(word.has_fingerprint(fingerprint)) << place;
        }
        Self { bucket, fingerprint, words, hits }
    }
}

impl<const SLOTS: usize> Iterator for Candidates<'_, SLOTS> {
    type Item = Entry;

    #[inline(always)]
    fn next(&mut self) -> Option<Entry> {
        loop {
            while let Some(word) = self.words.get(self.hits.trailing_zeros() as usize) {
                self.hits &= self.hits.wrapping_sub(1);
                if !word.is_empty() {
                    return Some(word.entry());
                }
            }
            if self.words[SLOTS - 1].is_empty() {
                return None; // [IC3] Nothing follows it.
            }
            *self = Self::new(self.bucket.behind()?, self.fingerprint);
        }
    }
}

/// Replaces `old` by `new` in a slot, or says what is there instead.
#[inline]
pub(super) fn store(slot: &AtomicU64, old: Word, new: Word) -> Result<(), Word> {
    // Release: pairs with every Acquire load of a slot (`find`, `load`, `freeze`); the
    // record is whole before its address can be read here. Acquire on failure: pairs with the
    // same exchange of the thread that was first, whose record will be looked at.
    match slot.compare_exchange(old.0, new.0, Ordering::Release, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(now) => Err(Word(now)),
    }
}

/// A slot's word now.
#[inline]
pub(super) fn load(slot: &AtomicU64) -> Word {
    // Acquire: pairs with the Release exchange in `store`; the record behind the address is whole.
    Word(slot.load(Ordering::Acquire))
}

/// Fills a slot of a private chunk.
pub(super) fn fill(slot: &AtomicU64, word: Word) {
    // Relaxed: private, published by the Release in `Chunk::publish`.
    slot.store(word.0, Ordering::Relaxed);
}

/// Overflow buckets. `taken` may run past the number there are: then the block is used up.
struct Block<const SLOTS: usize> {
    buckets: [Bucket<SLOTS>; OVERFLOW_BLOCK],
    older: *mut Self,
    number: usize,
    taken: AtomicU64,
}

/// Where chunks of one index count their memory. A statistic; no protocol depends on it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: PlainU64,
}

impl Meter {
    fn add(&self, bytes: usize) {
        // Relaxed: a statistic.
        self.bytes.fetch_add(bytes as u64, PlainOrdering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        // Relaxed: a statistic.
        self.bytes.fetch_sub(bytes as u64, PlainOrdering::Relaxed);
    }

    /// Bytes of all chunks that are not dropped yet, and of their overflow blocks.
    pub(super) fn bytes(&self) -> u64 {
        // Relaxed: a statistic.
        self.bytes.load(PlainOrdering::Relaxed)
    }
}

/// What writers count, on a cache line of its own: readers of the header never miss because of it.
#[repr(align(64))]
struct SlotCounts<const SLOTS: usize> {
    /// Slots that are not empty.
    used: AtomicU64,
    /// Slots whose word `is_dead`. Signed: the two sides of a race may count in either order.
    dead: AtomicI64,
    /// An insert found its chain full and no overflow bucket left.
    starved: AtomicBool,
    /// The newest overflow block: head of the list of all.
    newest: AtomicPtr<Block<SLOTS>>,
}

/// What there is to know of a private chunk once it is filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyTotals {
    pub(super) used: u64,
    pub(super) dead: i64,
    pub(super) drop_lsn: Lsn,
}

/// What replaced a chunk: itself rebuilt (`high` null), or its two children.
pub(super) struct Forward<const SLOTS: usize> {
    pub(super) low: *mut Chunk<SLOTS>,
    pub(super) high: *mut Chunk<SLOTS>,
}

/// A part of the index: all keys whose route ends in `prefix`, `depth` bits long.
#[repr(C, align(64))]
pub(super) struct Chunk<const SLOTS: usize> {
    forward: AtomicPtr<Forward<SLOTS>>,
    buckets: Box<[Bucket<SLOTS>]>,
    prefix: u64,
    depth: u32,
    drop_lsn: Lsn,
    meter: Arc<Meter>,
    counts: SlotCounts<SLOTS>,
}

#[cfg(not(stratalog_loom))]
const _: () = {
    assert!(size_of::<Bucket<7>>() == 64);
    assert!(std::mem::offset_of!(Chunk<7>, counts) == 64);
    assert!(size_of::<Chunk<7>>() == 128);
};

impl<const SLOTS: usize> Chunk<SLOTS> {
    /// A private chunk, empty.
    pub(super) fn new(prefix: u64, depth: u32, buckets: usize, meter: &Arc<Meter>) -> Box<Self> {
        let chunk = Box::new(Self {
            forward: AtomicPtr::new(ptr::null_mut()),
            buckets: (0..buckets).map(|_| Bucket::new()).collect(),
            prefix,
            depth,
            drop_lsn: Lsn::ZERO,
            meter: Arc::clone(meter),
            counts: SlotCounts {
                used: AtomicU64::new(0),
                dead: AtomicI64::new(0),
                starved: AtomicBool::new(false),
                newest: AtomicPtr::new(ptr::null_mut()),
            },
        });
        meter.add(chunk.own_bytes());
        chunk
    }

    /// Bytes without the overflow blocks.
    fn own_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val::<[Bucket<SLOTS>]>(&self.buckets)
    }

    #[inline]
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    #[inline]
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// Highest LSN among the tombstones dropped by the rebuilds that led to this chunk.
    #[inline]
    pub(super) fn drop_lsn(&self) -> Lsn {
        self.drop_lsn
    }

    /// Returns whether keys with this route are this chunk's.
    #[inline]
    pub(super) fn covers(&self, route: u64) -> bool {
        low_bits(route, self.depth) == self.prefix
    }

    /// Returns how many chains it has.
    pub(super) fn width(&self) -> usize {
        self.buckets.len()
    }

    /// Asks for the head of the chunk.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self);
        prefetch(&self.counts);
    }

    /// The first bucket of a chain. The number is below [`Chunk::width`], a power of two.
    #[inline]
    pub(super) fn bucket(&self, number: usize) -> &Bucket<SLOTS> {
        let place = number & self.buckets.len().wrapping_sub(1);
        debug_assert!(place < self.buckets.len(), "a chunk has buckets, a power of two of them");
        // SAFETY: masked by the number of buckets, a power of two and not 0 (`Index::new`).
        unsafe { self.buckets.get_unchecked(place) }
    }

    /// The entries with the fingerprint of a spot, in order, until the first empty slot.
    #[inline(always)]
    pub(super) fn candidates(&self, spot: Spot) -> Candidates<'_, SLOTS> {
        Candidates::new(self.bucket(spot.bucket), spot.fingerprint)
    }

    /// A bucket behind `last`, the end of one of this chunk's chains: one of the chunk's blocks,
    /// of which there may be `blocks_max`, or the one that another thread linked first.
    pub(super) fn extend<'a>(
        &'a self,
        last: &'a Bucket<SLOTS>,
        blocks_max: usize,
    ) -> Result<&'a Bucket<SLOTS>, Short> {
        let Some(fresh) = self.take_bucket(blocks_max) else {
            // Relaxed: only ever read by threads that freeze the chunk, as a hint for what to
            // replace it with.
            self.counts.starved.store(true, Ordering::Relaxed);
            return Err(Short::Starved);
        };
        // Release: pairs with the Acquire loads of links; the bucket's words are empty before it
        // is reached. Acquire on failure: pairs with the same exchange of the thread that was
        // first. The loser's bucket stays unused until the next rebuild.
        let linked = last.link.compare_exchange(
            ptr::null_mut(),
            ptr::from_ref(fresh).cast_mut(),
            Ordering::Release,
            Ordering::Acquire,
        );
        match linked.map_err(|now| last.link_from(now)) {
            Ok(_) => Ok(fresh),
            Err(Link::Bucket(theirs)) => Ok(theirs),
            Err(Link::Nothing | Link::Frozen) => Err(Short::Frozen),
        }
    }

    /// An overflow bucket that nobody else gets.
    fn take_bucket(&self, blocks_max: usize) -> Option<&Bucket<SLOTS>> {
        // Acquire: pairs with the Release exchange below; the block is whole before it is found.
        let mut newest = self.counts.newest.load(Ordering::Acquire);
        loop {
            // SAFETY: IC1, null or a block that stays until the chunk is dropped.
            let block = unsafe { newest.as_ref() };
            if let Some(block) = block {
                // Relaxed: only that each number is given once matters.
                let number = block.taken.fetch_add(1, Ordering::Relaxed);
                if let Some(bucket) = block.buckets.get(number as usize) {
                    return Some(bucket);
                }
            }
            let number = block.map_or(0, |block| block.number + 1);
            if number >= blocks_max {
                return None;
            }
            let fresh = Box::into_raw(Box::new(Block {
                buckets: std::array::from_fn(|_| Bucket::new()),
                older: newest,
                number,
                taken: AtomicU64::new(0),
            }));
            // Release: pairs with the Acquire load above. Acquire on failure: pairs with the same
            // exchange of the thread that was first, whose block will be used.
            let made = self.counts.newest.compare_exchange(
                newest,
                fresh,
                Ordering::Release,
                Ordering::Acquire,
            );
            newest = match made {
                Ok(_) => {
                    self.meter.add(size_of::<Block<SLOTS>>());
                    fresh
                }
                Err(theirs) => {
                    // SAFETY: the exchange failed, so nobody else has seen this box.
                    drop(unsafe { Box::from_raw(fresh) });
                    theirs
                }
            };
        }
    }

    /// Makes everything that can be reached final [I2]. Any number of threads may do it at once;
    /// each has the whole image when it returns.
    pub(super) fn freeze(&self) {
        for first in &self.buckets {
            let mut bucket = Some(first);
            while let Some(now) = bucket {
                bucket = now.freeze();
            }
        }
    }

    /// What replaced this chunk, if something did.
    #[inline]
    pub(super) fn forward(&self) -> Option<&Forward<SLOTS>> {
        // Acquire: pairs with the Release exchange in `publish`; the successors are whole.
        let forward = self.forward.load(Ordering::Acquire);
        // SAFETY: IC2, null or a box that stays until the chunk is dropped.
        unsafe { forward.as_ref() }
    }

    /// Sets forward, unless another thread was first: then the offer is dropped.
    pub(super) fn publish(&self, low: Box<Self>, high: Option<Box<Self>>) {
        let low = Box::into_raw(low);
        let high = high.map_or(ptr::null_mut(), Box::into_raw);
        let forward = Box::into_raw(Box::new(Forward { low, high }));
        // Release: pairs with the Acquire in `forward`. It is the linearisation point of the
        // replacement [I2]. Relaxed on failure: who goes on loads it again.
        let published = self.forward.compare_exchange(
            ptr::null_mut(),
            forward,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if published.is_err() {
            // SAFETY: the exchange failed, so nobody else has seen this box.
            drop(unsafe { Box::from_raw(forward) });
            // SAFETY: nor this one.
            drop(unsafe { Box::from_raw(low) });
            if !high.is_null() {
                // SAFETY: nor this one.
                drop(unsafe { Box::from_raw(high) });
            }
        }
    }

    /// Counts a slot that was filled, and says how many are.
    pub(super) fn count_used(&self) -> u64 {
        // Relaxed: only when to grow depends on it.
        self.counts.used.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a slot that became dead (1) or live again (-1), and says how many are dead.
    pub(super) fn count_dead(&self, change: i64) -> u64 {
        // Relaxed: only when to rebuild depends on it.
        let dead = self.counts.dead.fetch_add(change, Ordering::Relaxed) + change;
        dead.max(0).unsigned_abs()
    }

    /// Sets what was found out about a private chunk while filling it.
    pub(super) fn describe(&mut self, totals: CopyTotals) {
        // Relaxed: private, published by `publish`.
        self.counts.used.store(totals.used, Ordering::Relaxed);
        // Relaxed: as above.
        self.counts.dead.store(totals.dead, Ordering::Relaxed);
        self.drop_lsn = totals.drop_lsn;
    }

    pub(super) fn used(&self) -> u64 {
        // Relaxed: only when to grow depends on it.
        self.counts.used.load(Ordering::Relaxed)
    }

    pub(super) fn dead(&self) -> u64 {
        // Relaxed: only when to rebuild depends on it.
        self.counts.dead.load(Ordering::Relaxed).max(0).unsigned_abs()
    }

    pub(super) fn is_starved(&self) -> bool {
        // Relaxed: a hint; the thread that set it sees it.
        self.counts.starved.load(Ordering::Relaxed)
    }
}

impl<const SLOTS: usize> Drop for Chunk<SLOTS> {
    fn drop(&mut self) {
        let mut bytes = self.own_bytes();
        // Relaxed: `&mut self` orders this after every other access.
        let mut block = self.counts.newest.load(Ordering::Relaxed);
        while !block.is_null() {
            // SAFETY: IC1, each block of the list is a leaked box, and `&mut self` proves that no
            // reference into it is left.
            let owned = unsafe { Box::from_raw(block) };
            bytes += size_of::<Block<SLOTS>>();
            block = owned.older;
        }
        // Relaxed: as above.
        let forward = self.forward.load(Ordering::Relaxed);
        if !forward.is_null() {
            // SAFETY: IC2, a leaked box that only this drop takes back. What it names stays.
            drop(unsafe { Box::from_raw(forward) });
        }
        self.meter.subtract(bytes);
    }
}
