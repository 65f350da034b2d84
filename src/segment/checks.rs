//! Which checksums were checked, or made, by this process.

use super::Geometry;
use crate::concurrency::sync::unmodelled::{AtomicBool, Ordering as PlainOrdering};
use crate::concurrency::sync::{AtomicU64, Ordering};
use crate::format::frame::{FrameLayout, WriteMode};
use crate::format::ids::{UNIT_BYTES, Units};

/// The puts of a segment whose checksums need no check. See
/// [`Segment::checks`](super::Segment::checks).
#[derive(Debug)]
pub struct Checks {
    /// This process has made it, and so the checksums of all that is in it.
    is_created_here: bool,
    /// Damage was found in it: what this process has made is checked again.
    distrusted: AtomicBool,
    /// One bit for each put: its checksum was checked, or made, by this process.
    verified: Box<[AtomicU64]>,
    shift: u32,
}

/// Returns how far to shift a frame's offset for its bit among the verified ones: puts are at least
/// so far apart that no two of them share a bit. (Found by the offset, which the index gives,
/// rather than by the slot number, which would have to be read from the unchecked header.)
fn shift_for(geometry: Geometry) -> u32 {
    let smallest_put = FrameLayout::new(1, geometry.dimension, 0, WriteMode::Blind, false).bytes();
    (smallest_put / UNIT_BYTES as u64).max(1).ilog2()
}

impl Checks {
    pub(super) fn new(geometry: Geometry) -> Self {
        let shift = shift_for(geometry);
        let words = ((geometry.segment_bytes / UNIT_BYTES) >> shift).div_ceil(64).max(1);
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { is_created_here: false, distrusted: AtomicBool::new(false), verified, shift }
    }

    pub(super) fn set_own(&mut self) {
        self.is_created_here = true;
    }

    /// Returns whether this process has made the segment.
    pub fn is_created_here(&self) -> bool {
        self.is_created_here
    }

    /// Marks the checksum of the put at this offset as checked by this process.
    pub fn set_verified(&self, offset: Units) {
        if self.trusts_itself() {
            return;
        }
        let bit = offset.0 >> self.shift;
        if let Some(word) = self.verified.get(bit as usize / 64) {
            // Relaxed: a hint that saves work; whoever misses it checks again.
            word.fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }

    /// Returns whether the checksum of the put at this offset was checked, or made, by this
    /// process. Says nothing about tombstones.
    #[inline]
    pub fn is_verified(&self, offset: Units) -> bool {
        self.trusts_itself() || self.was_verified(offset)
    }

    /// Returns whether every checksum in it was made by this process, and no damage was found
    /// since.
    #[inline]
    fn trusts_itself(&self) -> bool {
        // Relaxed: whoever misses it hands out bytes that were right once; it orders nothing.
        self.is_created_here && !self.distrusted.load(PlainOrdering::Relaxed)
    }

    /// A frame's checksum did not hold: from now on it, and what this process has made in the
    /// segment, is checked before it is handed out.
    pub(super) fn note_damage(&self, offset: Units) {
        // Relaxed: as in `trusts_itself`.
        self.distrusted.store(true, PlainOrdering::Relaxed);
        let bit = offset.0 >> self.shift;
        if let Some(word) = self.verified.get(bit as usize / 64) {
            // Relaxed: as in `set_verified`.
            word.fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
        }
    }

    fn was_verified(&self, offset: Units) -> bool {
        let bit = offset.0 >> self.shift;
        // Relaxed: as in `set_verified`.
        let word = self.verified.get(bit as usize / 64).map(|word| word.load(Ordering::Relaxed));
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}
