//! Rebuilds and splits chunks: copy on write, by whoever comes along.
//!
//! 1. [I4] finish the replacement that the chunk itself came from;
//! 2. freeze it: from here on its image is the same for everyone [I2];
//! 3. build what replaces it, privately, from the image: without tombstones, except pending ones
//!    [I3] and, while a store is being recovered, all of them;
//! 4. publish that by one exchange on forward, or drop it if another thread was first;
//! 5. bring the directory up to date.
//!
//! A thread may stop, or unwind out of a question to the log (in 3), between any two steps: the
//! next one that meets a frozen word or a forward takes all that is missing. Nobody waits.

use super::chunk::{Bucket, Chunk, CopyTotals, fill, load};
use super::entry::{Exhausted, FINGERPRINT_BITS, Resolve, Word};
use super::{Index, MAX_DEPTH};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::Ordering;

/// The directory may grow to this size whatever the chunks' is; beyond it not past theirs.
const DIRECTORY_BYTES_FREE: u64 = 1 << 20;

/// After the first one, every so many writes to a chunk past its limit try to replace it again.
const RETRY_EVERY: u64 = 64;

/// What to replace a chunk with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Itself, without what is dead.
    Rebuild,
    /// Its two children, without what is dead.
    Split,
}

/// The end of a chain of a chunk that is being built.
struct Tail<'a, const SLOTS: usize> {
    chunk: &'a Chunk<SLOTS>,
    bucket: &'a Bucket<SLOTS>,
    slot: usize,
}

impl<'a, const SLOTS: usize> Tail<'a, SLOTS> {
    fn new(chunk: &'a Chunk<SLOTS>, number: usize) -> Self {
        Self { chunk, bucket: chunk.bucket(number), slot: 0 }
    }

    fn push(&mut self, word: Word) {
        if self.slot == SLOTS
            && let Ok(bucket) = self.chunk.extend(self.bucket, usize::MAX)
        {
            self.bucket = bucket;
            self.slot = 0;
        }
        let slot = self.bucket.slots.get(self.slot);
        debug_assert!(slot.is_some(), "a private chain can always be extended");
        if let Some(slot) = slot {
            fill(slot, word);
            self.slot += 1;
        }
    }
}

/// Returns whether the thread that counted up to here is to replace the chunk. Not all that come
/// past the limit: the first, and now and then another one in case it stopped. All others help
/// anyway when they meet what it has frozen.
fn is_due(count: u64, limit: u64) -> bool {
    count.checked_sub(limit).is_some_and(|over| over % RETRY_EVERY == 0)
}

/// Returns how many slots of a chunk may be in use before it is split: `split_at`, an eighth more
/// or less of it. Which, follows from the chunk's route alone. Were it the same for all, then all
/// would come to it at the same moment, since hashes fill them evenly; what they were replaced by
/// and they themselves would be there together, and the allocator keep the room for both.
pub(super) fn split_limit(split_at: u64, prefix: u64, depth: u32) -> u64 {
    let spread = split_at / 4;
    // The golden ratio spreads neighbours, whatever the depth, evenly over the 32 high bits.
    let mixed = (prefix << 5 ^ u64::from(depth)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    split_at - spread / 2 + ((mixed * spread) >> 32)
}

impl<const SLOTS: usize> Index<SLOTS> {
    fn split_limit(&self, chunk: &Chunk<SLOTS>) -> u64 {
        split_limit(self.split_at, chunk.prefix(), chunk.depth())
    }

    /// After a word of the chunk was replaced: counts it, and has the chunk replaced if need be.
    pub(super) fn after_store(
        &self,
        guard: &Guard,
        chunk: &Chunk<SLOTS>,
        resolve: &impl Resolve,
        (old, new): (Word, Word),
    ) {
        let mut due = false;
        if old.is_empty() {
            due = is_due(chunk.count_used(), self.split_limit(chunk));
        }
        if old.is_dead() != new.is_dead() {
            let dead = chunk.count_dead(if new.is_dead() { 1 } else { -1 });
            due |= is_due(dead, self.dead_limit() + 1);
        }
        if due && let Some(plan) = self.plan(chunk) {
            self.replace(guard, chunk, plan, resolve);
        }
    }

    /// The chunk is, or is being, frozen.
    pub(super) fn help(&self, guard: &Guard, chunk: &Chunk<SLOTS>, resolve: &impl Resolve) {
        let plan = self.plan(chunk).unwrap_or(Plan::Rebuild);
        self.replace(guard, chunk, plan, resolve);
    }

    /// The chunk has no room for one more entry.
    pub(super) fn make_room(
        &self,
        guard: &Guard,
        chunk: &Chunk<SLOTS>,
        resolve: &impl Resolve,
    ) -> Result<(), Exhausted> {
        let Some(plan) = self.plan(chunk) else {
            self.note_crowd();
            return Err(Exhausted);
        };
        self.replace(guard, chunk, plan, resolve);
        Ok(())
    }

    /// More dead slots than this in one chunk are worth a rebuild.
    fn dead_limit(&self) -> u64 {
        self.split_at / 8
    }

    /// What the chunk should be replaced with, if anything.
    fn plan(&self, chunk: &Chunk<SLOTS>) -> Option<Plan> {
        let used = chunk.used();
        let dead = if self.keeps_tombstones() { 0 } else { chunk.dead() };
        let split_at = self.split_limit(chunk);
        let crowded = used >= split_at;
        if !crowded && !chunk.is_starved() {
            return (dead > self.dead_limit()).then_some(Plan::Rebuild);
        }
        let mostly_live = used.saturating_sub(dead) >= split_at - split_at / 4;
        if dead > 0 && !mostly_live {
            return Some(Plan::Rebuild);
        }
        if self.can_split(chunk) {
            return Some(Plan::Split);
        }
        let worth = if chunk.is_starved() { 0 } else { self.dead_limit() };
        (dead > worth).then_some(Plan::Rebuild)
    }

    /// Returns whether the fingerprint still tells the chunk's children apart, and the directory
    /// has room. Its size is bounded by the chunks', so that keys with equal low hash bits, which
    /// can be split for ever and never part, cannot make it grow without bound.
    fn can_split(&self, chunk: &Chunk<SLOTS>) -> bool {
        let depth = chunk.depth();
        let directory_bytes = 16u64 << depth;
        depth < (self.layout.initial_depth + FINGERPRINT_BITS).min(MAX_DEPTH)
            && (directory_bytes <= DIRECTORY_BYTES_FREE || directory_bytes <= self.meter.bytes())
    }

    /// Replaces a chunk that was found in the directory, or helps who is doing it.
    pub(super) fn replace(
        &self,
        guard: &Guard,
        chunk: &Chunk<SLOTS>,
        plan: Plan,
        resolve: &impl Resolve,
    ) {
        if chunk.forward().is_none() {
            self.directory.install_parents_successors(guard, chunk);
            chunk.freeze();
            debug_assert!(self.directory.stale_parent(guard, chunk).is_none(), "I4");
            if chunk.forward().is_none() {
                let (low, high) = self.build(chunk, plan, resolve);
                chunk.publish(low, high);
            }
        }
        self.directory.install_successors(guard, chunk);
    }

    /// Builds what replaces a frozen chunk.
    fn build(
        &self,
        chunk: &Chunk<SLOTS>,
        plan: Plan,
        resolve: &impl Resolve,
    ) -> (Box<Chunk<SLOTS>>, Option<Box<Chunk<SLOTS>>>) {
        let (prefix, depth) = (chunk.prefix(), chunk.depth());
        let empty = |prefix, depth| Chunk::new(prefix, depth, chunk.width(), &self.meter);
        match plan {
            Plan::Rebuild => {
                let mut only = empty(prefix, depth);
                let [totals] = self.copy(chunk, [&*only], |_| 0, resolve);
                only.describe(totals);
                (only, None)
            }
            Plan::Split => {
                let mut low = empty(prefix, depth + 1);
                let mut high = empty(prefix | 1 << depth, depth + 1);
                let side = |word| self.layout.side(word, depth);
                let [of_low, of_high] = self.copy(chunk, [&*low, &*high], side, resolve);
                low.describe(of_low);
                high.describe(of_high);
                (low, Some(high))
            }
        }
    }

    /// Copies the image of a frozen chunk, each word to the chunk that `side` names, in the order
    /// in which they lie.
    fn copy<const N: usize>(
        &self,
        from: &Chunk<SLOTS>,
        to: [&Chunk<SLOTS>; N],
        side: impl Fn(Word) -> usize,
        resolve: &impl Resolve,
    ) -> [CopyTotals; N] {
        let keep = self.keeps_tombstones();
        let mut totals = [CopyTotals { used: 0, dead: 0, drop_lsn: from.drop_lsn() }; N];
        for number in 0..from.width() {
            let mut tails = to.map(|chunk| Tail::new(chunk, number));
            for_each_word(from.bucket(number), |word| {
                let side = side(word);
                let totals = &mut totals[side];
                if word.is_dead() && !keep {
                    totals.drop_lsn = resolve.lsn(word.entry()).max(totals.drop_lsn);
                } else {
                    totals.used += 1;
                    totals.dead += i64::from(word.is_dead());
                    tails[side].push(word.thawed());
                }
            });
        }
        totals
    }

    pub(super) fn keeps_tombstones(&self) -> bool {
        // Relaxed: recovery sets it before its threads start and clears it after they ended, which
        // orders it.
        self.keep_tombstones.load(Ordering::Relaxed)
    }
}

/// Shows the words of a chain, in order, up to the first empty one.
pub(super) fn for_each_word<const SLOTS: usize>(
    first: &Bucket<SLOTS>,
    mut visit: impl FnMut(Word),
) {
    let mut bucket = Some(first);
    while let Some(now) = bucket {
        for slot in &now.slots {
            let word = load(slot);
            if word.is_empty() {
                return;
            }
            visit(word);
        }
        bucket = now.behind();
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::split_limit;

    #[test]
    fn chunks_of_one_depth_do_not_come_to_their_limits_together() {
        const SPLIT_AT: u64 = 2816;
        for depth in [3, 8, 10, 13] {
            let chunks = 1u64 << depth;
            let mut parts = [0u64; 8];
            for prefix in 0..chunks {
                let over = split_limit(SPLIT_AT, prefix, depth) - (SPLIT_AT - SPLIT_AT / 8);
                assert!(over < SPLIT_AT / 4, "{over} of {prefix}");
                parts[(over * 8 / (SPLIT_AT / 4)) as usize] += 1;
            }
            let most = chunks / 8 + chunks / 64 + 2;
            assert!(parts.iter().all(|part| *part <= most), "{parts:?} at depth {depth}");
        }
    }

    #[test]
    fn small_chunks_have_no_spread() {
        assert!((0..64).all(|prefix| (1..4).all(|at| split_limit(at, prefix, 6) == at)));
        assert!((0..64).all(|prefix| (7..=8).contains(&split_limit(8, prefix, 6))));
    }
}
