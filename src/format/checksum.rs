//! What is summed, with which seed. Nothing else in the crate computes a sum.
//!
//! CRC-32 (IEEE), by crc32fast where that has wide instructions for it; what is shorter it sums
//! byte by byte, and slots and headers are all short. Every sum of a segment begins with the
//! segment's random salt and the slot number, that of a frame with the frame's offset, too. So
//! bytes copied from another segment, another slot, another offset or another store do not pass. A
//! CRC shows accident, not intent.

use crate::format::ids::{SlotNumber, Units};

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

/// From so many bytes on crc32fast takes 16 and more at a time.
const WIDE: usize = 128;

/// For each byte, what it adds to the sum when `n` more follow it: "slicing by 8" (Kounavis and
/// Berry 2005).
static SLICES: [[u32; 256]; 8] = slices();

const fn slices() -> [[u32; 256]; 8] {
    // The polynomial of IEEE 802.3, its lowest bit first.
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let mut slices = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        slices[0][byte] = sum;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = slices[n - 1][byte];
            slices[n][byte] = before >> 8 ^ slices[0][(before & 0xFF) as usize];
            byte += 1;
        }
        n += 1;
    }
    slices
}

/// A sum continued over a few bytes.
#[inline]
fn sum_few(sum: u32, bytes: &[u8]) -> u32 {
    let slice = |n: usize, word: u64, shift: u32| SLICES[n][(word >> shift) as usize & 0xFF];
    let (words, rest) = bytes.as_chunks();
    let mut sum = !sum;
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(sum);
        sum = slice(7, word, 0) ^ slice(6, word, 8) ^ slice(5, word, 16) ^ slice(4, word, 24);
        sum ^= slice(3, word, 32) ^ slice(2, word, 40) ^ slice(1, word, 48) ^ slice(0, word, 56);
    }
    let (halves, rest) = rest.as_chunks();
    for half in halves {
        let word = u64::from(u32::from_le_bytes(*half) ^ sum);
        sum = slice(3, word, 0) ^ slice(2, word, 8) ^ slice(1, word, 16) ^ slice(0, word, 24);
    }
    for byte in rest {
        sum = sum >> 8 ^ slice(0, u64::from(sum) ^ u64::from(*byte), 0);
    }
    !sum
}

/// A sum that begins with the place of what is summed.
#[must_use]
#[derive(Clone, Debug)]
pub struct Salted(u32);

impl Salted {
    /// The sum of a slot, with nothing summed yet.
    #[inline]
    pub fn of_slot(salt: Salt, slot: SlotNumber) -> Self {
        Self::new(salt, slot, slot.0)
    }

    /// The sum of the frame at an offset [F2], with nothing summed yet. The slot is summed with the
    /// frame's header. Of one frame at two offsets the sums always differ: a CRC sees every
    /// difference within 32 bits.
    #[inline]
    pub fn of_frame(salt: Salt, slot: SlotNumber, offset: Units) -> Self {
        Self::new(salt, slot, offset.0)
    }

    #[inline]
    fn new(salt: Salt, slot: SlotNumber, place: u32) -> Self {
        // The initial register of a CRC may be any 32 bits; the rest of the salt is summed.
        let low = (salt.0 as u32) ^ slot.0;
        let mut rest = [0; 8];
        rest[..4].copy_from_slice(&((salt.0 >> 32) as u32).to_le_bytes());
        rest[4..].copy_from_slice(&place.to_le_bytes());
        Self(sum_few(low, &rest))
    }

    /// Sums more bytes.
    #[inline]
    pub fn and(self, bytes: &[u8]) -> Self {
        let wide = if bytes.len() < WIDE { 0 } else { bytes.len() / 16 * 16 };
        let (wide, few) = bytes.split_at(wide);
        let sum = if wide.is_empty() { self.0 } else { sum_wide(self.0, wide) };
        Self(sum_few(sum, few))
    }

    /// The sum.
    #[must_use]
    #[inline]
    pub fn finish(self) -> u32 {
        self.0
    }
}

fn sum_wide(sum: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(sum);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_sum_is_that_of_crc32fast(
            salt: u64, slot in 0..SlotNumber::LIMIT, offset: u32,
            parts in vec(vec(any::<u8>(), 0..300), 0..5),
        ) {
            let mut hasher = crc32fast::Hasher::new_with_initial(salt as u32 ^ slot);
            hasher.update(&((salt >> 32) as u32).to_le_bytes());
            hasher.update(&offset.to_le_bytes());
            let mut sum = Salted::of_frame(Salt(salt), SlotNumber(slot), Units(offset));
            for part in &parts {
                hasher.update(part);
                sum = sum.and(part);
            }
            prop_assert_eq!(sum.finish(), hasher.finalize());
        }

        #[test]
        fn a_frame_at_another_offset_has_another_sum(
            salt: u64, slot in 0..SlotNumber::LIMIT, offsets: [u32; 2],
            bytes in vec(any::<u8>(), 0..300),
        ) {
            let (salt, slot) = (Salt(salt), SlotNumber(slot));
            let sums = offsets.map(|at| Salted::of_frame(salt, slot, Units(at)).and(&bytes));
            let [one, other] = sums.map(Salted::finish);
            prop_assert_eq!(one == other, offsets[0] == offsets[1]);
        }
    }
}
