//! What the index stores and what it asks: entry words, hashes, and the caller's answers.
//!
//! | bits of a word | what |
//! | --- | --- |
//! | 63 | FROZEN: this word never changes again [I2] |
//! | 62 | TOMB: the address is that of a tombstone |
//! | 61 | PENDING: the record's slot may not be committed yet [W1] |
//! | 38..61 | fingerprint: 23 bits of the key's hash |
//! | 0..38 | address; never 0 in an entry |
//!
//! A word without an address is empty: 0, or FROZEN alone.
//!
//! | bits of a hash, from the lowest | what |
//! | --- | --- |
//! | log2(buckets) | the bucket inside a chunk |
//! | all above: the *route*, read from its lowest bit up | the chunk |
//!
//! The fingerprint is the window of the route that starts at the initial depth, so a chunk can be
//! split [`FINGERPRINT_BITS`] times in a row without a look at the log.

use crate::format::ids::{ADDRESS_BITS, Address, Lsn};

const FROZEN: u64 = 1 << 63;
const TOMB: u64 = 1 << 62;
const PENDING: u64 = 1 << 61;

/// Width of the fingerprint: how often a chunk of the initial depth can be split.
pub(super) const FINGERPRINT_BITS: u32 = 23;
const FINGERPRINT: u64 = ((1 << FINGERPRINT_BITS) - 1) << ADDRESS_BITS;
const ADDRESS: u64 = (1 << ADDRESS_BITS) - 1;

const _: () = assert!(FROZEN | TOMB | PENDING | FINGERPRINT | ADDRESS == u64::MAX);
const _: () = assert!(FROZEN ^ TOMB ^ PENDING ^ FINGERPRINT ^ ADDRESS == u64::MAX);

/// The hash of a key: 64 bits, every one of them as good as random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

/// What the index holds for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the record lies; never address 0.
    pub address: Address,
    /// The record is a tombstone.
    pub tomb: bool,
    /// The record's slot may not be committed yet: whoever meets it commits it first (W1).
    pub pending: bool,
}

impl Entry {
    /// The entry as one word, to be kept outside the index; never 0. Whether it was pending is
    /// left out.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.address.bits() | if self.tomb { TOMB } else { 0 }
    }

    /// The entry of such a word; `None` for 0.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        let (address, tomb) = (Address::from_bits(bits), bits & TOMB != 0);
        (address.bits() != 0).then_some(Self { address, tomb, pending: false })
    }
}

/// What [`update`](super::Index::update) found for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry, perhaps a tombstone.
    Entry(Entry),
    /// Nothing. Tombstones up to this LSN may have been dropped here, so a record that is not
    /// above it may be older than a removal.
    Absent {
        /// Highest LSN among the tombstones that were dropped from the key's chunk.
        drop_lsn: Lsn,
    },
}

/// What to do about what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Store this entry: insert it, or replace the one that was found.
    Set(Entry),
    /// Leave everything as it is.
    Keep,
}

/// The key's chunk is full, and splitting it further would not help: thousands of keys agree in
/// all the bits of their hashes that the index looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// What the index has to ask the log. Both may panic: nothing is half done when they are called.
pub trait Resolve {
    /// Returns whether the record at the entry's address has the key that is looked for.
    fn same_key(&self, entry: Entry) -> bool;
    /// The LSN of the record at the entry's address. Only asked about tombstones, of any key.
    fn lsn(&self, entry: Entry) -> Lsn;
}

/// The fingerprint's bits at their place in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

/// A snapshot of an entry word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) const EMPTY: Self = Self(0);
    /// What a freeze sets.
    pub(super) const FROZEN_BIT: u64 = FROZEN;

    #[inline]
    pub(super) fn new(entry: Entry, fingerprint: Fingerprint) -> Self {
        debug_assert!(entry.address.bits() != 0, "address 0 means empty");
        let tomb = if entry.tomb { TOMB } else { 0 };
        let pending = if entry.pending { PENDING } else { 0 };
        Self(entry.address.bits() | fingerprint.0 | tomb | pending)
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 & !FROZEN == 0
    }

    #[inline]
    pub(super) fn is_frozen(self) -> bool {
        self.0 & FROZEN != 0
    }

    #[inline]
    pub(super) fn is_tomb(self) -> bool {
        self.0 & TOMB != 0
    }

    /// A tombstone that a rebuild drops; one that is pending it keeps [I3].
    #[inline]
    pub(super) fn is_dead(self) -> bool {
        self.0 & (TOMB | PENDING) == TOMB
    }

    /// Returns whether the fingerprint is this one. True of an empty word if the fingerprint is 0.
    #[inline]
    pub(super) fn has_fingerprint(self, fingerprint: Fingerprint) -> bool {
        self.0 & FINGERPRINT == fingerprint.0
    }

    #[inline]
    pub(super) fn entry(self) -> Entry {
        Entry {
            address: Address::from_bits(self.0),
            tomb: self.is_tomb(),
            pending: self.0 & PENDING != 0,
        }
    }

    pub(super) fn thawed(self) -> Self {
        Self(self.0 & !FROZEN)
    }
}

/// The lowest bits of a number, fewer than 64.
#[inline]
pub(super) fn low_bits(number: u64, count: u32) -> u64 {
    number & 1u64.wrapping_shl(count).wrapping_sub(1)
}

/// Where a hash leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// The bucket, in whatever chunk.
    pub(super) bucket: usize,
    /// The bits that choose the chunk.
    pub(super) route: u64,
    pub(super) fingerprint: Fingerprint,
}

/// How a hash divides; fixed for the life of an index.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashLayout {
    pub(super) bucket_bits: u32,
    pub(super) initial_depth: u32,
}

impl HashLayout {
    #[inline]
    pub(super) fn spot(self, hash: KeyHash) -> Spot {
        // Both are far below 64.
        let route = hash.0.wrapping_shr(self.bucket_bits);
        Spot {
            bucket: low_bits(hash.0, self.bucket_bits) as usize,
            route,
            fingerprint: Fingerprint(
                route.wrapping_shr(self.initial_depth) << ADDRESS_BITS & FINGERPRINT,
            ),
        }
    }

    /// Which child of a chunk of this depth the word belongs to: the low one (0) or the high one
    /// (1). Only asked for depths whose bit the fingerprint holds.
    pub(super) fn side(self, word: Word, depth: u32) -> usize {
        debug_assert!((self.initial_depth..self.initial_depth + FINGERPRINT_BITS).contains(&depth));
        let shift = ADDRESS_BITS + (depth - self.initial_depth);
        ((word.0 & FINGERPRINT) >> shift & 1) as usize
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_gives_back_entry_and_tag(
            address in 1..=ADDRESS, tomb: bool, pending: bool, hash: u64,
            bucket_bits in 0..=11u32, initial_depth in 0..=30u32, frozen: bool,
        ) {
            let layout = HashLayout { bucket_bits, initial_depth };
            let spot = layout.spot(KeyHash(hash));
            let entry = Entry { address: Address::from_bits(address), tomb, pending };
            let mut word = Word::new(entry, spot.fingerprint);
            prop_assert!(!word.is_frozen());
            if frozen {
                word = Word(word.0 | Word::FROZEN_BIT);
                prop_assert!(word.is_frozen());
            }
            prop_assert_eq!(word.entry(), entry);
            prop_assert!(word.has_fingerprint(spot.fingerprint));
            prop_assert!(!word.is_empty());
            prop_assert_eq!(word.is_dead(), tomb && !pending);
            prop_assert_eq!(word.thawed(), Word::new(entry, spot.fingerprint));
            let last = (initial_depth + FINGERPRINT_BITS).min(64 - bucket_bits);
            for depth in initial_depth..last {
                prop_assert_eq!(layout.side(word, depth) as u64, spot.route >> depth & 1);
            }
        }

        #[test]
        fn bucket_and_route_hold_the_whole_hash(hash: u64, bucket_bits in 0..=11u32) {
            let spot = HashLayout { bucket_bits, initial_depth: 0 }.spot(KeyHash(hash));
            prop_assert_eq!(spot.route << bucket_bits | spot.bucket as u64, hash);
        }
    }

    #[test]
    fn an_empty_word_is_empty_frozen_or_not() {
        assert!(Word::EMPTY.is_empty() && !Word::EMPTY.is_frozen());
        let frozen = Word(Word::FROZEN_BIT);
        assert!(frozen.is_empty() && frozen.is_frozen() && !frozen.is_dead());
    }
}
