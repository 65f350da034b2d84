//! The preallocated segments, up to two, in one word.

/// No segment, in either half of the word.
pub(super) const NONE: u32 = u32::MAX;

/// Table indexes of the preallocated segments, the next one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) first: u32,
    pub(super) second: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { first: NONE, second: NONE };

    pub(super) fn from_word(word: u64) -> Self {
        Self { first: word as u32, second: (word >> 32) as u32 }
    }

    pub(super) fn word(self) -> u64 {
        u64::from(self.first) | u64::from(self.second) << 32
    }

    pub(super) fn len(self) -> usize {
        usize::from(self.first != NONE) + usize::from(self.second != NONE)
    }

    /// With one more behind the others.
    pub(super) fn and_then(self, index: u32) -> Option<Self> {
        match self {
            Self { first: NONE, .. } => Some(Self { first: index, second: NONE }),
            Self { first, second: NONE } => Some(Self { first, second: index }),
            _ => None,
        }
    }

    /// With one more before the others.
    pub(super) fn after(self, index: u32) -> Option<Self> {
        (self.second == NONE).then_some(Self { first: index, second: self.first })
    }
}
