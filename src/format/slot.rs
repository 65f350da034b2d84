//! A slot: the 32-byte entry of a frame in its segment's directory. Byte layout: DESIGN.md 3.3.

use crate::format::checksum::{Salt, Salted};
use crate::format::ids::{Lsn, SlotNumber, Units};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 32;

/// What a record is: the byte on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A version of an id: embedding and content.
    Put = 1,
    /// The removal of an id.
    Tombstone = 2,
}

impl Kind {
    /// The byte on disk.
    #[must_use]
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// The kind of a byte from disk.
    #[must_use]
    #[inline]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Put),
            2 => Some(Self::Tombstone),
            _ => None,
        }
    }
}

/// How a record was written: what recovery must know of it without its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOrigin {
    /// Committed before it was published, by itself.
    Alone,
    /// Decided by the index. The frame of a put says what it has seen.
    Conditionally,
    /// As a member of a batch.
    InBatch,
}

/// Words 1 to 3 of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotBody {
    /// Order of the write.
    pub lsn: Lsn,
    /// Hash of the id, for rebuilding the index without reading frames.
    pub key_hash: u64,
    /// Where the frame begins.
    pub offset: Units,
    /// How long it is.
    pub len: Units,
    /// The record has an expiry, which is in the frame.
    pub expires: bool,
    /// How it was written.
    pub written: WriteOrigin,
}

/// In the word of offset and length, whose length has 29 bits.
const EXPIRES: u64 = 1 << 63;
const CONDITIONALLY: u64 = 1 << 62;
const IN_BATCH: u64 = 1 << 61;
const FLAGS: u64 = EXPIRES | CONDITIONALLY | IN_BATCH;

impl SlotBody {
    /// The three words.
    #[must_use]
    pub fn words(self) -> [u64; 3] {
        let written = match self.written {
            WriteOrigin::Alone => 0,
            WriteOrigin::Conditionally => CONDITIONALLY,
            WriteOrigin::InBatch => IN_BATCH,
        };
        let flags = if self.expires { EXPIRES } else { 0 } | written;
        let extent = u64::from(self.offset.0) | u64::from(self.len.0) << 32;
        [self.lsn.as_u64(), self.key_hash, extent | flags]
    }

    /// The body of three words, whatever they hold.
    #[must_use]
    pub fn from_words(words: [u64; 3]) -> Self {
        Self {
            lsn: Lsn::from_u64(words[0]),
            key_hash: words[1],
            offset: Units(words[2] as u32),
            len: Units(((words[2] & !FLAGS) >> 32) as u32),
            expires: words[2] & EXPIRES != 0,
            written: match words[2] & (CONDITIONALLY | IN_BATCH) {
                CONDITIONALLY => WriteOrigin::Conditionally,
                IN_BATCH => WriteOrigin::InBatch,
                _ => WriteOrigin::Alone,
            },
        }
    }
}

/// What word 0 says, its checksum having been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing was committed here yet.
    Empty,
    /// The record counts.
    Committed(Kind, SlotBody),
    /// The record is whole; the index decides whether it counts.
    Pending(Kind, SlotBody),
    /// The head of a batch: so many slots behind it are its members, and count.
    Batch(u32, SlotBody),
    /// Member of a batch: counts if the batch's head is there.
    Member(Kind, SlotBody),
    /// A copy that is whole; the place it was copied from counts until that says otherwise.
    Copy(Kind, SlotBody),
    /// There is no record and never will be.
    Void,
    /// Not something that this code writes: damage.
    Invalid,
}

impl SlotState {
    /// Returns whether a slot that was decided once has lost what it said: it says nothing, or that
    /// nobody decided. Its record may still be there.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Invalid | Self::Empty | Self::Pending(..))
    }

    /// Where its frame lies, if that is under a checksum.
    #[must_use]
    pub fn extent(&self) -> Option<SlotBody> {
        match self {
            Self::Committed(_, body)
            | Self::Pending(_, body)
            | Self::Batch(_, body)
            | Self::Member(_, body)
            | Self::Copy(_, body) => Some(*body),
            Self::Empty | Self::Void | Self::Invalid => None,
        }
    }
}

const COMMITTED: u8 = 1;
const VOID: u8 = 2;
const PENDING: u8 = 3;
const MEMBER: u8 = 4;
const COPY: u8 = 5;
/// Kind byte of a batch's head; what would be the key hash is the number of its members.
const BATCH: u8 = 3;

/// Word 0 of a slot nobody has decided about.
pub const EMPTY_WORD: u64 = 0;

fn word(state: u8, kind: u8, words: [u64; 3], salt: Salt, slot: SlotNumber) -> u64 {
    let mut bytes = [0; 26];
    bytes[0..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..16].copy_from_slice(&words[1].to_le_bytes());
    bytes[16..24].copy_from_slice(&words[2].to_le_bytes());
    bytes[24] = kind;
    bytes[25] = state;
    let sum = Salted::of_slot(salt, slot).and(&bytes).finish();
    u64::from(sum) << 32 | u64::from(kind) << 8 | u64::from(state)
}

/// Word 0 of a record that counts.
#[must_use]
pub fn committed_word(kind: Kind, body: SlotBody, salt: Salt, slot: SlotNumber) -> u64 {
    word(COMMITTED, kind.byte(), body.words(), salt, slot)
}

/// Word 0 of a record that the index will decide about.
#[must_use]
pub fn pending_word(kind: Kind, body: SlotBody, salt: Salt, slot: SlotNumber) -> u64 {
    word(PENDING, kind.byte(), body.words(), salt, slot)
}

/// Word 0 of a batch's member.
#[must_use]
pub fn member_word(kind: Kind, body: SlotBody, salt: Salt, slot: SlotNumber) -> u64 {
    word(MEMBER, kind.byte(), body.words(), salt, slot)
}

/// Word 0 of a copy that is not in force yet.
#[must_use]
pub fn copy_word(kind: Kind, body: SlotBody, salt: Salt, slot: SlotNumber) -> u64 {
    word(COPY, kind.byte(), body.words(), salt, slot)
}

/// Word 0 of a batch's head: the one decision about all its members. The body's key hash is their
/// number.
#[must_use]
pub fn batch_word(body: SlotBody, salt: Salt, slot: SlotNumber) -> u64 {
    word(COMMITTED, BATCH, body.words(), salt, slot)
}

/// Word 0 of a slot without a record. Says nothing about words 1 to 3, which whoever voids the
/// slot may not know.
#[must_use]
pub fn void_word(salt: Salt, slot: SlotNumber) -> u64 {
    word(VOID, 0, [0; 3], salt, slot)
}

/// What a slot's four words mean.
#[must_use]
pub fn decode(word0: u64, words: [u64; 3], salt: Salt, slot: SlotNumber) -> SlotState {
    if word0 == EMPTY_WORD {
        return SlotState::Empty;
    }
    let (state, kind) = (word0 as u8, (word0 >> 8) as u8);
    if state == VOID && word0 == void_word(salt, slot) {
        return SlotState::Void;
    }
    if state == VOID || word0 != word(state, kind, words, salt, slot) {
        return SlotState::Invalid;
    }
    let body = SlotBody::from_words(words);
    if body.words() != words {
        // A conditional write that is part of a batch: nobody writes that.
        return SlotState::Invalid;
    }
    match (state, Kind::from_byte(kind)) {
        (COMMITTED, Some(kind)) => SlotState::Committed(kind, body),
        (PENDING, Some(kind)) => SlotState::Pending(kind, body),
        (MEMBER, Some(kind)) => SlotState::Member(kind, body),
        (COPY, Some(kind)) => SlotState::Copy(kind, body),
        (COMMITTED, None) if kind == BATCH => {
            u32::try_from(body.key_hash).map_or(SlotState::Invalid, |n| SlotState::Batch(n, body))
        }
        _ => SlotState::Invalid,
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: Salt = Salt(0x0123_4567_89AB_CDEF);

    proptest! {
        #[test]
        fn a_slot_survives_the_round_trip_and_any_flipped_bit_is_seen(
            lsn: u64, key_hash: u64, offset: u32, len in 0..1u32 << 29,
            n in 0..SlotNumber::LIMIT, tombstone: bool, pending: bool, expires: bool,
            how in 0usize..3,
            bit in 0usize..256,
        ) {
            let slot = SlotNumber(n);
            let kind = if tombstone { Kind::Tombstone } else { Kind::Put };
            let (lsn, offset, len) = (Lsn::from_u64(lsn), Units(offset), Units(len));
            let origins = [WriteOrigin::Alone, WriteOrigin::Conditionally, WriteOrigin::InBatch];
            let written = origins[how];
            let body = SlotBody { lsn, key_hash, offset, len, expires, written };
            let (word0, expected) = if pending {
                (pending_word(kind, body, SALT, slot), SlotState::Pending(kind, body))
            } else {
                (committed_word(kind, body, SALT, slot), SlotState::Committed(kind, body))
            };
            let words = body.words();
            prop_assert_eq!(decode(word0, words, SALT, slot), expected);

            let mut all = [word0, words[0], words[1], words[2]];
            all[bit / 64] ^= 1 << (bit % 64);
            let seen = decode(all[0], [all[1], all[2], all[3]], SALT, slot);
            prop_assert_eq!(seen, SlotState::Invalid);
            let elsewhere = decode(word0, words, SALT, SlotNumber((n + 1) % SlotNumber::LIMIT));
            prop_assert_eq!(elsewhere, SlotState::Invalid);
            prop_assert_eq!(decode(word0, words, Salt(SALT.0 ^ 1 << 40), slot), SlotState::Invalid);
        }
    }

    /// Found by fuzzing: it was a write alone.
    #[test]
    fn a_slot_that_is_conditional_and_in_a_batch_is_invalid() {
        let words = [1, 2, 1 << 32 | CONDITIONALLY | IN_BATCH];
        let word0 = word(COMMITTED, Kind::Put.byte(), words, SALT, SlotNumber(3));
        assert_eq!(decode(word0, words, SALT, SlotNumber(3)), SlotState::Invalid);
    }

    #[test]
    fn void_and_empty_are_told_apart_whatever_the_other_words_hold() {
        let slot = SlotNumber(3);
        assert_eq!(decode(0, [1, 2, 3], SALT, slot), SlotState::Empty);
        assert_eq!(decode(void_word(SALT, slot), [1, 2, 3], SALT, slot), SlotState::Void);
        assert_eq!(decode(void_word(SALT, SlotNumber(4)), [0; 3], SALT, slot), SlotState::Invalid);
    }
}
