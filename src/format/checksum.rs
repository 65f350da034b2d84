//! What is summed, with which seed. Nothing else in the crate computes a sum.
//!
//! CRC-32 (IEEE) by crc32fast. Every sum of a segment begins with the segment's random salt and
//! the slot number, so that bytes copied from another segment, another slot or another store do
//! not pass. A CRC shows accident, not intent.

use crate::format::ids::SlotNumber;

/// The salt of a segment: random, in its header, never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub u64);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// CRC-32 of one run of bytes, unsalted: for headers and the manifest, which carry the salt.
#[must_use]
pub fn plain(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A sum that begins with salt and slot number.
#[must_use]
#[derive(Clone, Debug)]
pub struct Salted(crc32fast::Hasher);

impl Salted {
    /// The sum of nothing yet.
    pub fn new(salt: Salt, slot: SlotNumber) -> Self {
        // The initial register of a CRC may be any 32 bits; the rest of the salt is summed.
        let low = (salt.0 as u32) ^ slot.0;
        let mut hasher = crc32fast::Hasher::new_with_initial(low);
        let mut rest = [0; 8];
        rest[..4].copy_from_slice(&((salt.0 >> 32) as u32).to_le_bytes());
        rest[4..].copy_from_slice(&slot.0.to_le_bytes());
        hasher.update(&rest);
        Self(hasher)
    }

    /// Sums more bytes.
    pub fn and(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    /// The sum.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}
