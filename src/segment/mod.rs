//! A slotted segment over any memory. Layout and states: DESIGN.md 3.
//!
//! Who may touch what, when:
//!
//! | what | who | when |
//! | --- | --- | --- |
//! | identity | its creator | before anybody else has the segment |
//! | cursor | any writer | by `fetch_add` in [`cursor::reserve`] |
//! | slot words 1-3, frame | the owner of the reservation | before word 0 leaves EMPTY |
//! | slot word 0 | owner, whoever meets it pending, whoever voids it | by compare-exchange |
//! | frame | anyone | read only, after an Acquire load saw its slot or index entry |
//! | durable end, sealed count | the holder of the flush lock; recovery | atomic stores |

mod ahead;
mod copy;
pub mod cursor;
mod directory;
mod expiry;
mod lines;
mod moved;
mod reader;
mod replica;
mod shared;
mod writer;

pub use ahead::Ahead;
pub use directory::{Mark, Slots};
pub use expiry::Look;
pub use moved::{Moves, TagTooLarge};
pub use reader::{Frame, FrameDamage, Put};
pub use shared::SharedFrame;
pub use writer::{BatchReservation, Claim, Pending, Record, Reservation, Voided};

use crate::format::checksum::Salt;
use crate::format::frame::{FrameLayout, Writing};
use crate::format::header::{self, IDENTITY_BYTES, Identity, Role, SegmentId};
use crate::format::ids::{Address, AddressLayout, Sequence, TableIndex, UNIT_BYTES, Units};
use crate::format::slot::SlotState;
use crate::memory::Memory;
use crate::sync::unmodelled::OnceLock;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use cursor::{Capacity, Taken};
use expiry::Expiry;

/// Sizes that every segment of a store shares.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Bytes of a segment, a power of two.
    pub segment_bytes: usize,
    /// Where its directory begins.
    pub directory_at: usize,
    /// `f32` values of every embedding.
    pub dimension: usize,
}

impl Geometry {
    /// What the cursor of such a segment may hand out.
    #[must_use]
    pub fn capacity(self) -> Capacity {
        Capacity {
            segment_bytes: self.segment_bytes as u64,
            directory_at: self.directory_at as u64,
        }
    }

    /// How far to shift a frame's offset for its bit among the verified ones: puts are at least so
    /// far apart that no two of them share a bit. (Found by the offset, which the index gives,
    /// rather than by the slot number, which would have to be read from the unchecked header.)
    fn verified_shift(self) -> u32 {
        let smallest_put = FrameLayout::new(1, self.dimension, 0, Writing::Blind, false).bytes();
        (smallest_put / UNIT_BYTES as u64).max(1).ilog2()
    }

    /// Whether so many frames, with so many bytes in all, fit an empty segment as a batch.
    #[must_use]
    pub fn fits_batch(self, frames: usize, bytes: u64) -> bool {
        let slots = frames as u64 + 1;
        let units = (bytes / UNIT_BYTES as u64).saturating_add(1);
        // Bounded first, so that nothing below can overflow.
        units <= self.segment_bytes as u64 && self.capacity().fits(Taken { slots, units })
    }

    /// Bytes of the largest frame: half a segment.
    #[must_use]
    pub fn frame_bytes_max(self) -> u64 {
        self.segment_bytes as u64 / 2
    }
}

/// One segment of the log.
#[derive(Debug)]
pub struct Segment<M> {
    memory: M,
    geometry: Geometry,
    sequence: Sequence,
    salt: Salt,
    role: Role,
    layout: AddressLayout,
    /// Bytes of every embedding.
    embedding_bytes: u32,
    /// Set once, before the segment is published in the table.
    table: AtomicU32,
    /// This process has made it, and so the checksums of all that is in it.
    is_own: bool,
    /// One bit for each put: its checksum was checked, or made, by this process.
    verified: Box<[AtomicU64]>,
    verified_shift: u32,
    limit: AtomicU32,
    standing: AtomicU32,
    moves: OnceLock<Moves<M>>,
    counts: Counts,
}

/// What writers, flushes and compaction count, on lines of its own: readers never miss because of
/// it.
#[derive(Debug)]
#[repr(align(64))]
struct Counts {
    /// Where the frames begin once no more can be taken; 0 before.
    frames_begin: AtomicU32,
    /// Bytes of frames that the index points at.
    live_bytes: AtomicU64,
    flushed: AtomicU64,
    settled: AtomicU32,
    /// Slots whose writers are through with them, the index included.
    done: AtomicU64,
    /// Bytes of tombstones that compaction has found to be needed.
    needed: AtomicU64,
    expiry: Expiry,
}

/// What is to be known of a segment, in `standing`; never taken back.
const DROPPED: u32 = 1;
const LEFT: u32 = 2;
const QUARANTINED: u32 = 4;
const FOR_REMOVALS: u32 = 8;

impl<M: Memory> Segment<M> {
    /// A new segment in zeroed memory: writes its identity.
    #[must_use]
    pub fn create(memory: M, identity: &Identity) -> Self {
        for (n, word) in identity.encode().chunks_exact(8).enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            // Relaxed: nobody else has the segment yet; handing it over orders this.
            memory.word(n * 8).store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        Self { is_own: true, ..Self::attach(memory, identity) }
    }

    /// A segment whose identity is known, from its own header or from the manifest.
    #[must_use]
    pub fn attach(memory: M, identity: &Identity) -> Self {
        debug_assert_eq!(memory.len() as u64, identity.segment_bytes);
        let geometry = Geometry {
            segment_bytes: memory.len(),
            directory_at: identity.directory_at as usize,
            dimension: identity.dimension as usize,
        };
        let verified_shift = geometry.verified_shift();
        let words = ((geometry.segment_bytes / UNIT_BYTES) >> verified_shift).div_ceil(64).max(1);
        Self {
            memory,
            geometry,
            sequence: identity.sequence,
            salt: identity.salt,
            role: identity.role,
            layout: AddressLayout::new(geometry.segment_bytes),
            // A dimension has at most 17 bits.
            embedding_bytes: (geometry.dimension * size_of::<f32>()) as u32,
            table: AtomicU32::new(u32::MAX),
            is_own: false,
            verified_shift,
            limit: AtomicU32::new(u32::MAX),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
            standing: AtomicU32::new(0),
            moves: OnceLock::new(),
            counts: Counts {
                frames_begin: AtomicU32::new(0),
                live_bytes: AtomicU64::new(0),
                flushed: AtomicU64::new((geometry.segment_bytes as u64 / 64) << 32),
                settled: AtomicU32::new(0),
                done: AtomicU64::new(0),
                needed: AtomicU64::new(0),
                expiry: Expiry::default(),
            },
        }
    }

    /// The identity line as it is in memory now.
    #[must_use]
    pub fn identity_bytes(memory: &M) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        for (n, chunk) in out.chunks_exact_mut(8).enumerate() {
            // Relaxed: written before the file was given its name, never after.
            chunk.copy_from_slice(&memory.word(n * 8).load(Ordering::Relaxed).to_le_bytes());
        }
        out
    }

    /// The memory below.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Place in the log's history.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Seed of all its checksums.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What the manifest says of it.
    pub fn id(&self) -> SegmentId {
        SegmentId { sequence: self.sequence, salt: self.salt, role: self.role }
    }

    /// Its entry in the segment table.
    pub fn table_index(&self) -> TableIndex {
        // Relaxed: set before the segment was published.
        TableIndex(self.table.load(Ordering::Relaxed))
    }

    /// Gives it its entry in the segment table; before it is published there.
    pub fn set_table_index(&self, index: TableIndex) {
        // Relaxed: published together with the segment.
        self.table.store(index.0, Ordering::Relaxed);
    }

    /// The address of a frame of this segment.
    pub fn address(&self, offset: Units) -> Address {
        self.layout.address(self.table_index(), offset)
    }

    fn cursor_word(&self) -> &AtomicU64 {
        self.memory.word(header::CURSOR_AT)
    }

    /// What is taken now; past the capacity if the segment is full.
    pub fn taken(&self) -> Taken {
        // Relaxed: whoever needs to see a certain reservation was told of it by other means.
        Taken::from_word(self.cursor_word().load(Ordering::Relaxed))
    }

    /// Whether no reservation fits any more, not even the smallest.
    pub fn is_full(&self) -> bool {
        let taken = self.taken();
        !self.geometry.capacity().fits(Taken { slots: taken.slots + 1, units: taken.units + 1 })
    }

    /// One past the highest slot worth looking at: every reservation that was granted lies below.
    /// Exact, but for the moment between a first overrun and its note of the sealed count.
    pub fn slots_end(&self) -> u32 {
        let most = self.sealed().unwrap_or(u32::MAX).min(self.geometry.capacity().slots_max());
        let taken = self.taken().slots.min(u64::from(most)) as u32;
        // A damaged cursor may say less than recovery has found, a read-only handle has a limit.
        // Relaxed: set by recovery, before anybody else has the segment.
        let limit = self.limit.load(Ordering::Relaxed);
        taken.max(self.flushed().slot.min(most)).min(limit)
    }

    /// No slot at or above this counts, whatever the cursor says: for read-only handles, which
    /// cannot seal what they cut, and show what was there when they were opened.
    pub fn set_limit(&self, slots: u32) {
        // Relaxed: as in `slots_end`.
        self.limit.store(slots, Ordering::Relaxed);
    }

    /// Slots below this mark are on the device, this process knows.
    pub fn flushed(&self) -> Mark {
        // Acquire: pairs with the Release in `set_flushed`; whoever sees the mark of a segment sees
        // those of the older ones that the same flush had set before.
        let word = self.counts.flushed.load(Ordering::Acquire);
        Mark { slot: word as u32, floor: Units((word >> 32) as u32) }
    }

    /// Notes that a flush has ended well.
    pub fn set_flushed(&self, mark: Mark) {
        let word = u64::from(mark.slot) | u64::from(mark.floor.0) << 32;
        // Release: as in `flushed`.
        self.counts.flushed.store(word, Ordering::Release);
    }

    /// Whether the durable end in the header is on the device too.
    pub fn is_settled(&self) -> bool {
        // Relaxed: written and relied on under the flush lock.
        self.counts.settled.load(Ordering::Relaxed) == 1
    }

    /// Notes whether the durable end in the header is on the device too.
    pub fn set_settled(&self, settled: bool) {
        // Relaxed: as in `is_settled`.
        self.counts.settled.store(u32::from(settled), Ordering::Relaxed);
        if settled && self.is_full() {
            self.memory.settle();
        }
    }

    /// Bytes of all frames taken, dead and void ones included.
    pub fn frame_bytes(&self) -> u64 {
        let bytes = self.geometry.segment_bytes as u64;
        // Relaxed: a statistic.
        match self.counts.frames_begin.load(Ordering::Relaxed) {
            0 => (self.taken().units * UNIT_BYTES as u64).min(bytes),
            begin => bytes - u64::from(begin) * UNIT_BYTES as u64,
        }
    }

    /// As [`Segment::set_frames_begin`], if it takes no more.
    pub fn set_frames_begin_if_full(&self, begin: Units) {
        if self.is_full() {
            self.set_frames_begin(begin);
        }
    }

    /// Notes where the frames begin in a segment that takes no more: its cursor counts overruns.
    pub fn set_frames_begin(&self, begin: Units) {
        // Relaxed: a statistic.
        self.counts.frames_begin.store(begin.0, Ordering::Relaxed);
    }

    /// Sets the cursor of a segment that nobody else has yet.
    fn set_taken(&self, slots: u32, units: u64) {
        let taken = Taken { slots: u64::from(slots), units };
        // Relaxed: handing the segment over orders this.
        self.cursor_word().store(taken.word(), Ordering::Relaxed);
    }

    /// Lets no further reservation succeed: for a segment that recovery has cut.
    pub fn close_cursor(&self, slots: u32) {
        let units = self.geometry.segment_bytes as u64;
        let full = Taken { slots: u64::from(slots), units };
        // Relaxed: recovery is the only writer.
        self.cursor_word().store(full.word(), Ordering::Relaxed);
    }

    /// Marks the checksum of the put at this offset as checked by this process.
    pub fn set_verified(&self, offset: Units) {
        if self.is_own {
            return;
        }
        let bit = offset.0 >> self.verified_shift;
        if let Some(word) = self.verified.get(bit as usize / 64) {
            // Relaxed: a hint that saves work; whoever misses it checks again.
            word.fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }

    /// Whether the checksum of the put at this offset was checked, or made, by this process. Says
    /// nothing about tombstones.
    #[inline]
    pub fn is_verified(&self, offset: Units) -> bool {
        self.is_own || self.was_verified(offset)
    }

    fn was_verified(&self, offset: Units) -> bool {
        let bit = offset.0 >> self.verified_shift;
        // Relaxed: as in `set_verified`.
        let word = self.verified.get(bit as usize / 64).map(|word| word.load(Ordering::Relaxed));
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Notes that the index points at one more frame of so many bytes.
    pub fn add_live(&self, bytes: u64) {
        // Relaxed: statistics.
        self.counts.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the index points at one frame less. May come before its `add_live` on another
    /// thread, so the count wraps.
    pub fn sub_live(&self, bytes: u64) {
        // Relaxed: statistics.
        self.counts.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of tombstones that compaction found to be needed: dead, but not to be had back yet.
    pub fn needed_bytes(&self) -> u64 {
        // Relaxed: statistics.
        self.counts.needed.load(Ordering::Relaxed)
    }

    /// Sets [`Segment::needed_bytes`].
    pub fn set_needed(&self, bytes: u64) {
        // Relaxed: statistics.
        self.counts.needed.store(bytes, Ordering::Relaxed);
    }

    /// Notes that writers are through with so many more slots: whatever they had to publish of
    /// them is in the index.
    pub fn add_done(&self, slots: u32) {
        // Release: pairs with the Acquire in `is_quiet`; compaction then sees those entries.
        self.counts.done.fetch_add(u64::from(slots), Ordering::Release);
    }

    /// Whether nobody can take a slot any more and no writer still has one in hand of which it may
    /// publish something, so that every record that counts is in the index.
    pub fn is_quiet(&self) -> bool {
        // Acquire: pairs with the Release in `add_done`.
        let done = self.counts.done.load(Ordering::Acquire);
        let Some(sealed) = self.sealed() else { return false };
        self.is_full() && (done >= u64::from(sealed) || self.is_sealed_too_high(done, sealed))
    }

    /// Whether no more slots were granted than those that writers are through with, though the
    /// sealed count is higher [C4]: all above hold nothing for good, and say no extent, which every
    /// writer notes before it is through. (One that has not come to that finds its slot void.)
    #[cold]
    fn is_sealed_too_high(&self, done: u64, sealed: u32) -> bool {
        self.slots(sealed).all(|(slot, state)| {
            u64::from(slot.0) < done || state == SlotState::Void && self.body_words(slot)[2] == 0
        })
    }

    fn stand(&self, bit: u32) {
        // Release: pairs with the Acquire in `stands`.
        self.standing.fetch_or(bit, Ordering::Release);
    }

    fn stands(&self, bit: u32) -> bool {
        // Acquire: pairs with the Release in `stand`.
        self.standing.load(Ordering::Acquire) & bit != 0
    }

    /// The manifest does not name it any more; its file is to be removed.
    pub fn set_dropped(&self) {
        self.stand(DROPPED);
    }

    /// Whether the manifest has given it up.
    pub fn is_dropped(&self) -> bool {
        self.stands(DROPPED)
    }

    /// No reader can hold an address in it any more that it took from the index.
    pub fn set_left(&self) {
        self.stand(LEFT);
    }

    /// Whether it may be taken out of the table.
    pub fn is_left(&self) -> bool {
        self.stands(LEFT)
    }

    /// Something in it is damaged: it stays as it is.
    pub fn quarantine(&self) {
        self.stand(QUARANTINED);
    }

    /// Whether compaction keeps away from it.
    pub fn is_quarantined(&self) -> bool {
        self.stands(QUARANTINED)
    }

    /// It was made of the last room there was: no puts, so that what is there can be removed.
    pub fn keep_for_removals(&self) {
        self.stand(FOR_REMOVALS);
    }

    /// Whether puts keep away from it.
    #[inline]
    pub fn is_for_removals(&self) -> bool {
        self.stands(FOR_REMOVALS)
    }

    /// The index that the counts spoke of is gone.
    pub fn forget_live(&self) {
        // Relaxed: statistics; recovery is alone.
        self.counts.live_bytes.store(0, Ordering::Relaxed);
    }

    /// Bytes of frames that the index points at; exact when nobody writes.
    pub fn live_bytes(&self) -> u64 {
        // Relaxed: statistics. A count in passing below zero reads as none.
        let bytes = self.counts.live_bytes.load(Ordering::Relaxed);
        if bytes > i64::MAX as u64 { 0 } else { bytes }
    }
}
