//! The index: from the hash of a key to where its record lies. Reads are wait-free and write
//! nothing shared; growth copies one chunk of 16 KiB at a time and is done by whoever meets it.
//!
//! One word per key ([`entry`](self)): the address of its record and 23 bits of its hash. The key
//! itself is compared in the log, through closures, so that this module knows nothing of it.
//!
//! - *Read*: hash -> directory -> chunk -> the words of one bucket, in order, up to the first empty
//!   one.
//! - *Write* ([`Index::update`]): the same, then one compare-exchange on the key's own slot, or on
//!   the first empty one of its chain. A slot once filled belongs to its key until the chunk is
//!   replaced, so two inserters of one new key meet at the same empty slot (I1).
//! - *Growth* (`grow`): freeze a chunk, copy it, publish the copy by one exchange.
//!
//! Writers only ever write to a chunk that they found in the directory and that was not replaced
//! then. So whoever starts after a write has ended finds a directory at least as new as it.
//!
//! Contract: all guards that are passed to one index are of one epoch.
//!
//! The invariants I1 to I5 are in DESIGN.md, section 5.3.

mod chunk;
mod directory;
mod entry;
mod grow;
#[cfg(all(test, not(stratalog_loom)))]
mod tests;
mod walk;

pub use chunk::Candidates;
pub use entry::{Decision, Entry, Exhausted, Found, KeyHash, Resolve};
pub use walk::Walk;

use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::unmodelled::Arc;
use crate::concurrency::sync::{AtomicBool, AtomicU64, Ordering};
use crate::memory::prefetch;
use crate::os::limits::CHUNK_BUCKETS;
use chunk::{Chunk, Link, Meter, Short, load, store};
use directory::ChunkDirectory;
use entry::{HashLayout, Spot, Word};
use grow::Plan;

/// No chunk is deeper: the directory's array ends there.
const MAX_DEPTH: u32 = 30;

/// Buckets per chunk, at most: the rest of the hash must hold route and fingerprint.
const MAX_BUCKETS: usize = 1 << 11;

/// Overflow buckets are made this many at a time.
pub const OVERFLOW_BLOCK: usize = 16;

/// The measures of an index.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// First buckets of a chunk, a power of two.
    pub buckets: usize,
    /// A chunk with this many slots in use, an eighth more or less, is split, or rebuilt if a
    /// quarter of them is dead.
    pub split_at: usize,
    /// Blocks of [`OVERFLOW_BLOCK`] further buckets that a chunk may have.
    pub overflow_blocks: usize,
    /// The index begins with `2^initial_depth` chunks.
    pub initial_depth: u32,
}

impl Default for Shape {
    fn default() -> Self {
        let (buckets, split_at) = (CHUNK_BUCKETS, 11 * CHUNK_BUCKETS);
        Self { buckets, split_at, overflow_blocks: 64, initial_depth: 0 }
    }
}

impl Shape {
    /// A shape in which `n` records can be put in without a split, but for chance.
    #[must_use]
    pub fn for_records(n: u64) -> Self {
        let shape = Self::default();
        // Two standard deviations below the lowest limit: few chunks get more than that.
        let lowest = shape.split_at - shape.split_at / 8;
        let per_chunk = (lowest - 2 * lowest.isqrt()) as u64;
        let chunks = n.div_ceil(per_chunk).max(1).checked_next_power_of_two();
        let initial_depth = chunks.map_or(MAX_DEPTH, u64::ilog2).min(MAX_DEPTH);
        Self { initial_depth, ..shape }
    }
}

/// The index of a store. See the module's head.
pub struct Index<const SLOTS: usize = 7> {
    directory: ChunkDirectory<SLOTS>,
    layout: HashLayout,
    split_at: u64,
    overflow_blocks: usize,
    keep_tombstones: AtomicBool,
    /// A key has found no room once.
    crowded: AtomicBool,
    meter: Arc<Meter>,
}

/// How much room a new key may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// What the shape allows.
    Bounded,
    /// As much as it takes: the record counts already. A put [asks before](Index::make_room_for);
    /// recovery cannot, and has all tombstones to put in besides.
    Committed,
}

/// What became of one try to write.
enum Attempt {
    /// Decided to keep what was found.
    Kept(Option<Entry>),
    /// Replaced what was found: the words before and after.
    Stored(Option<Entry>, (Word, Word)),
    Frozen,
    /// No empty slot in the chain, and no bucket to add.
    Full,
}

impl<const SLOTS: usize> Index<SLOTS> {
    /// An index without entries.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        const { assert!(SLOTS > 0 && SLOTS < 32) };
        let buckets = shape.buckets.clamp(1, MAX_BUCKETS).next_power_of_two();
        let initial_depth = shape.initial_depth.min(MAX_DEPTH);
        let meter = Arc::<Meter>::default();
        let chunk = |prefix| Chunk::new(prefix, initial_depth, buckets, &meter);
        Self {
            directory: ChunkDirectory::new(initial_depth, chunk),
            layout: HashLayout { bucket_bits: buckets.ilog2(), initial_depth },
            split_at: shape.split_at.max(1) as u64,
            overflow_blocks: shape.overflow_blocks,
            keep_tombstones: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            meter,
        }
    }

    /// The key's entry, a tombstone's included: the first whose fingerprint matches and for which
    /// `same_key` says yes. Wait-free, allocates nothing, writes nothing shared.
    #[inline]
    pub fn get(
        &self,
        guard: &Guard,
        hash: KeyHash,
        mut same_key: impl FnMut(Entry) -> bool,
    ) -> Option<Entry> {
        self.candidates(guard, hash).find(|entry| same_key(*entry))
    }

    /// The entries that may be the key's, of which one at most is. Wait-free, allocates nothing,
    /// writes nothing shared.
    #[inline(always)]
    pub fn candidates<'g>(&'g self, guard: &'g Guard, hash: KeyHash) -> Candidates<'g, SLOTS> {
        let spot = self.layout.spot(hash);
        self.directory.readable(spot.route, guard).candidates(spot)
    }

    /// A hint that a key with this hash will be looked up soon.
    #[inline]
    pub fn prefetch(&self, guard: &Guard, hash: KeyHash) {
        let spot = self.layout.spot(hash);
        prefetch(self.directory.readable(spot.route, guard).bucket(spot.bucket));
    }

    /// The same, for the bucket behind its first, which should have come.
    #[inline]
    pub fn prefetch_behind(&self, guard: &Guard, hash: KeyHash) {
        self.prefetch_step(guard, hash, Self::PREFETCH_STEPS - 1);
    }

    /// Asks for the lines that a call for this hash will need: `step` 0 for the chunk's head, 1 for
    /// its bucket, 2 for the bucket behind that. For who has several hashes to go through: this is
    /// called for all of them before the next step, so that their lines come together.
    #[inline]
    pub fn prefetch_step(&self, guard: &Guard, hash: KeyHash, step: u32) {
        let spot = self.layout.spot(hash);
        let Some(chunk) = self.directory.likely(spot.route, guard) else { return };
        match step {
            0 => chunk.prefetch(),
            1 => chunk.bucket(spot.bucket).prefetch(),
            _ => {
                if let Some(behind) = chunk.bucket(spot.bucket).behind() {
                    behind.prefetch();
                }
            }
        }
    }

    /// How many steps there are to [`Index::prefetch_step`].
    pub const PREFETCH_STEPS: u32 = 3;

    /// The one write path: shows `decide` what there is of the key, stores what it answers by
    /// compare-exchange, and again until that succeeds or the answer is [`Decision::Keep`]. Returns
    /// what the last `decide` saw. Lock-free; allocates only to grow.
    ///
    /// `decide` may be called many times; what an earlier call said is then forgotten.
    ///
    /// # Errors
    ///
    /// [`Exhausted`]: the key would be a new one, and there is no room for it.
    pub fn update(
        &self,
        guard: &Guard,
        hash: KeyHash,
        resolve: &impl Resolve,
        decide: impl FnMut(Found) -> Decision,
    ) -> Result<Option<Entry>, Exhausted> {
        self.update_within(Room::Bounded, guard, hash, resolve, decide)
    }

    /// Replaces the key's entry by what `change` makes of it, and returns the entry that it
    /// replaced. `None`: the key has no entry, or `change` kept it. `change` may be called many
    /// times; only its last answer counts. An entry that is there needs no room, so this never
    /// fails.
    pub fn update_if(
        &self,
        guard: &Guard,
        hash: KeyHash,
        resolve: &impl Resolve,
        mut change: impl FnMut(Entry) -> Option<Entry>,
    ) -> Option<Entry> {
        let mut changed = false;
        let decide = |found| {
            let to = match found {
                Found::Entry(entry) => change(entry),
                Found::Absent { .. } => None,
            };
            changed = to.is_some();
            to.map_or(Decision::Keep, Decision::Set)
        };
        let seen = self.update(guard, hash, resolve, decide);
        debug_assert!(seen.is_ok(), "an entry that is there needs no room");
        seen.ok().flatten().filter(|_| changed)
    }

    /// As [`Index::update`], with more room or less for a new key. Never [`Exhausted`] with
    /// [`Room::Committed`].
    ///
    /// # Errors
    ///
    /// As [`Index::update`].
    pub fn update_within(
        &self,
        room: Room,
        guard: &Guard,
        hash: KeyHash,
        resolve: &impl Resolve,
        mut decide: impl FnMut(Found) -> Decision,
    ) -> Result<Option<Entry>, Exhausted> {
        let spot = self.layout.spot(hash);
        let mut blocks_max = self.overflow_blocks;
        loop {
            let chunk = self.current_chunk(guard, spot);
            match self.attempt(chunk, spot, blocks_max, resolve, &mut decide) {
                Attempt::Kept(seen) => return Ok(seen),
                Attempt::Stored(seen, words) => {
                    self.after_store(guard, chunk, resolve, words);
                    return Ok(seen);
                }
                Attempt::Frozen => self.help(guard, chunk, resolve),
                Attempt::Full => match self.make_room(guard, chunk, resolve) {
                    Ok(()) => {}
                    Err(Exhausted) if room == Room::Committed => blocks_max = usize::MAX,
                    Err(Exhausted) => return Err(Exhausted),
                },
            }
        }
    }

    /// The chunk of a spot that was not replaced when it was looked at.
    #[inline]
    fn current_chunk<'g>(&'g self, guard: &'g Guard, spot: Spot) -> &'g Chunk<SLOTS> {
        loop {
            let chunk = self.directory.current(spot.route, guard);
            if chunk.forward().is_none() {
                return chunk;
            }
            self.directory.install_successors(guard, chunk);
        }
    }

    /// Sees to it that there is room for a key whose record is about to be committed: what then
    /// finds none is put in nevertheless. As long as no key ever found none, this is one load.
    ///
    /// # Errors
    ///
    /// [`Exhausted`]: the key would be a new one, and there is no room for it.
    #[inline]
    pub fn make_room_for(
        &self,
        guard: &Guard,
        hash: KeyHash,
        resolve: &impl Resolve,
    ) -> Result<(), Exhausted> {
        // Relaxed: a hint. Who does not know yet puts one key too many in.
        if !self.crowded.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.make_room_in_a_crowd(guard, hash, resolve)
    }

    #[cold]
    fn make_room_in_a_crowd(
        &self,
        guard: &Guard,
        hash: KeyHash,
        resolve: &impl Resolve,
    ) -> Result<(), Exhausted> {
        let spot = self.layout.spot(hash);
        loop {
            let chunk = self.current_chunk(guard, spot);
            match self.ensure_slot(chunk, spot, resolve) {
                Ok(()) => return Ok(()),
                Err(Short::Frozen) => self.help(guard, chunk, resolve),
                Err(Short::Starved) => self.make_room(guard, chunk, resolve)?,
            }
        }
    }

    /// Returns whether the key is there, or an empty slot for it; if need be, a bucket is added.
    fn ensure_slot(
        &self,
        chunk: &Chunk<SLOTS>,
        spot: Spot,
        resolve: &impl Resolve,
    ) -> Result<(), Short> {
        let mut bucket = chunk.bucket(spot.bucket);
        loop {
            for word in bucket.slots.iter().map(load) {
                let ends = word.is_empty();
                if ends || word.has_fingerprint(spot.fingerprint) && resolve.same_key(word.entry())
                {
                    return if ends && word.is_frozen() { Err(Short::Frozen) } else { Ok(()) };
                }
            }
            bucket = match bucket.link() {
                Link::Bucket(behind) => behind,
                Link::Frozen => return Err(Short::Frozen),
                Link::Nothing => return chunk.extend(bucket, self.overflow_blocks).map(drop),
            };
        }
    }

    /// Notes that a key has found no room.
    fn note_crowd(&self) {
        // Relaxed: as in `make_room_for`.
        self.crowded.store(true, Ordering::Relaxed);
    }

    /// One try, in one chunk.
    fn attempt(
        &self,
        chunk: &Chunk<SLOTS>,
        spot: Spot,
        blocks_max: usize,
        resolve: &impl Resolve,
        decide: &mut impl FnMut(Found) -> Decision,
    ) -> Attempt {
        let absent = Found::Absent { drop_lsn: chunk.drop_lsn() };
        let mut bucket = chunk.bucket(spot.bucket);
        loop {
            for slot in &bucket.slots {
                if let Some(attempt) = attempt_slot(slot, spot, absent, resolve, decide) {
                    return attempt;
                }
            }
            bucket = match bucket.link() {
                Link::Bucket(behind) => behind,
                Link::Frozen => return Attempt::Frozen,
                Link::Nothing => {
                    if decide(absent) == Decision::Keep {
                        return Attempt::Kept(None);
                    }
                    match chunk.extend(bucket, blocks_max) {
                        Ok(behind) => behind,
                        Err(Short::Frozen) => return Attempt::Frozen,
                        Err(Short::Starved) => return Attempt::Full,
                    }
                }
            };
        }
    }

    /// Drops the tombstones that are not pending from the chunk that a hash belongs to, by a
    /// rebuild. For who is about to give up the records of tombstones.
    pub fn rebuild(&self, guard: &Guard, hash: KeyHash, resolve: &impl Resolve) {
        let chunk = self.directory.current(self.layout.spot(hash).route, guard);
        self.replace(guard, chunk, Plan::Rebuild, resolve);
    }

    /// Returns whether rebuilds and splits keep tombstones. Recovery puts records in in any order,
    /// so a tombstone has to stay for as long as an older record may still come. To be called while
    /// no other thread uses the index.
    pub fn set_keep_tombstones(&self, keep: bool) {
        // Relaxed: whoever starts threads afterwards orders it.
        self.keep_tombstones.store(keep, Ordering::Relaxed);
    }

    /// A walk over all entries, from the start.
    #[must_use]
    pub fn walk(&self) -> Walk {
        Walk::new()
    }

    /// Bytes of chunks, overflow blocks and directory. Replaced chunks count until the epoch has
    /// dropped them. A statistic.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        let directory = self.directory.made() * size_of::<usize>() + size_of::<Self>();
        self.meter.bytes() + directory as u64
    }
}

/// One try at one slot; `None` if it is another key's.
#[inline]
fn attempt_slot(
    slot: &AtomicU64,
    spot: Spot,
    absent: Found,
    resolve: &impl Resolve,
    decide: &mut impl FnMut(Found) -> Decision,
) -> Option<Attempt> {
    let mut word = load(slot);
    loop {
        let seen = if word.is_empty() {
            None
        } else if word.has_fingerprint(spot.fingerprint) && resolve.same_key(word.entry()) {
            Some(word.entry())
        } else {
            return None;
        };
        let Decision::Set(entry) = decide(seen.map_or(absent, Found::Entry)) else {
            return Some(Attempt::Kept(seen));
        };
        if word.is_frozen() {
            return Some(Attempt::Frozen);
        }
        let new = Word::new(entry, spot.fingerprint);
        match store(slot, word, new) {
            Ok(()) => return Some(Attempt::Stored(seen, (word, new))),
            // Another thread was first; perhaps it was our key that it put into an empty slot.
            Err(now) => word = now,
        }
    }
}

impl<const SLOTS: usize> std::fmt::Debug for Index<SLOTS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("bytes", &self.allocated_bytes()).finish_non_exhaustive()
    }
}
