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
//! | control words of the header page | `life/mod.rs` alone | see there |

mod copy;
pub mod cursor;
mod expiry;
mod forwarding;
mod life;
mod line_buffer;
mod payload;
mod read_ahead;
mod reader;
mod replica;
mod seen;
mod shared;
mod slots;
mod writer;

pub use expiry::ExpiryScan;
pub use forwarding::{ForwardingTable, TagTooLarge};
pub use life::{Inherited, Reclaiming};
pub use payload::{Frame, FrameDamage};
pub use read_ahead::ReadAhead;
pub use reader::ScannedPut;
pub use shared::SharedFrame;
pub use slots::{Mark, SlotIter};
pub use writer::{BatchReservation, Claim, Pending, Reservation, Voided, WriteRequest};

use crate::concurrency::sync::unmodelled::{AtomicBool, OnceLock, Ordering as PlainOrdering};
use crate::concurrency::sync::{AtomicU32, AtomicU64, Ordering};
use crate::format::checksum::Salt;
use crate::format::frame::{FrameLayout, WriteMode};
use crate::format::header::{IDENTITY_BYTES, Identity, Role, SegmentId};
use crate::format::ids::{Address, AddressLayout, Sequence, TableIndex, UNIT_BYTES, Units};
use crate::memory::Memory;
use cursor::{Capacity, Taken};
use expiry::ExpiryState;
use life::Life;

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
        let smallest_put = FrameLayout::new(1, self.dimension, 0, WriteMode::Blind, false).bytes();
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
    /// Damage was found in it: what this process has made is checked again.
    distrusted: AtomicBool,
    /// One bit for each put: its checksum was checked, or made, by this process.
    verified: Box<[AtomicU64]>,
    verified_shift: u32,
    life: Life,
    forwarding: OnceLock<ForwardingTable<M>>,
    counts: CompactionCounts,
}

/// What compaction counts, on lines of its own: readers never miss because of it.
#[derive(Debug)]
#[repr(align(64))]
struct CompactionCounts {
    /// Bytes of tombstones that compaction has found to be needed.
    needed: AtomicU64,
    expiry: ExpiryState,
}

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
            distrusted: AtomicBool::new(false),
            verified_shift,
            life: Life::new(geometry.segment_bytes),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
            forwarding: OnceLock::new(),
            counts: CompactionCounts { needed: AtomicU64::new(0), expiry: ExpiryState::default() },
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

    /// Whether this process has made it.
    pub fn is_own(&self) -> bool {
        self.is_own
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

    /// Marks the checksum of the put at this offset as checked by this process.
    pub fn set_verified(&self, offset: Units) {
        if self.trusts_itself() {
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
        self.trusts_itself() || self.was_verified(offset)
    }

    /// Whether every checksum in it was made by this process, and no damage was found since.
    #[inline]
    fn trusts_itself(&self) -> bool {
        // Relaxed: whoever misses it hands out bytes that were right once; it orders nothing.
        self.is_own && !self.distrusted.load(PlainOrdering::Relaxed)
    }

    /// A frame's checksum did not hold: from now on it, and what this process has made in the
    /// segment, is checked before it is handed out.
    fn note_damage(&self, offset: Units) {
        // Relaxed: as in `trusts_itself`.
        self.distrusted.store(true, PlainOrdering::Relaxed);
        let bit = offset.0 >> self.verified_shift;
        if let Some(word) = self.verified.get(bit as usize / 64) {
            // Relaxed: as in `set_verified`.
            word.fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
        }
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
        self.life.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the index points at one frame less. May come before its `add_live` on another
    /// thread, so the count wraps.
    pub fn sub_live(&self, bytes: u64) {
        // Relaxed: statistics.
        self.life.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of tombstones that compaction found to be needed: dead, but not to be had back yet.
    pub fn needed_bytes(&self) -> u64 {
        // Relaxed: statistics.
        self.counts.needed.load(Ordering::Relaxed)
    }

    /// More of them are needed.
    pub(crate) fn add_needed(&self, bytes: u64) {
        // Relaxed: statistics.
        self.counts.needed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The index that the counts spoke of is gone.
    pub fn forget_live(&self) {
        // Relaxed: statistics; recovery is alone.
        self.life.live_bytes.store(0, Ordering::Relaxed);
    }

    /// Bytes of frames that the index points at; exact when nobody writes.
    pub fn live_bytes(&self) -> u64 {
        // Relaxed: statistics. A count in passing below zero reads as none.
        let bytes = self.life.live_bytes.load(Ordering::Relaxed);
        if bytes > i64::MAX as u64 { 0 } else { bytes }
    }
}
