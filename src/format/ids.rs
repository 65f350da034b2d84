//! The numbers that name things: newtypes, their widths, their packing.
//!
//! | type | width | meaning |
//! | --- | --- | --- |
//! | [`Sequence`] | 40 bits | a segment's place in the log's history; never reused |
//! | [`SlotNumber`] | 24 bits | a slot of a segment's directory |
//! | [`Lsn`] | 64 bits | sequence and slot of the *first* copy of a record; order of writes |
//! | [`Units`] | 32 bits | a length or an offset inside a segment, in units of 64 bytes |
//! | [`TableIndex`] | 24 bits at most | a segment's entry in the segment table |
//! | [`Address`] | 38 bits | table index and unit offset: where a frame lies now |

use std::fmt;

/// Bytes of one unit: frames begin and end at multiples of it, and it is a cache line.
pub const UNIT_BYTES: usize = 64;

/// Bits of a slot number inside an [`Lsn`].
const SLOT_BITS: u32 = 24;

/// Bits of an [`Address`]; 2^38 units of 64 bytes are 16 TiB of live log.
pub const ADDRESS_BITS: u32 = 38;

/// Order of a write: unique in a store, increasing, never given twice, kept when a record moves.
///
/// An `Lsn` is the pair (segment sequence, slot) of the record's first place in the log, so it
/// costs no counter of its own. Only its order and its equality mean anything to a caller.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let store = stratalog::Options::new().dimension(2).open(dir.path().join("s"))?;
/// let first = store.put("a", &[1.0, 0.0], "x")?;
/// let second = store.put("a", &[0.0, 1.0], "y")?;
/// assert!(first < second);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Below every LSN that a store gives.
    pub const ZERO: Self = Self(0);

    pub(crate) fn new(sequence: Sequence, slot: SlotNumber) -> Self {
        Self(sequence.0 << SLOT_BITS | u64::from(slot.0))
    }

    /// Returns the LSN of a number that [`Lsn::as_u64`] returned.
    ///
    /// ```
    /// use stratalog::Lsn;
    /// assert_eq!(Lsn::from_u64(7).as_u64(), 7);
    /// assert!(Lsn::ZERO < Lsn::from_u64(1));
    /// ```
    #[must_use]
    pub const fn from_u64(n: u64) -> Self {
        Self(n)
    }

    /// Sequence of the segment that it was given in.
    pub(crate) fn sequence(self) -> Sequence {
        Sequence(self.0 >> SLOT_BITS)
    }

    /// Returns the LSN as a number, for logs and for storing elsewhere.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> SLOT_BITS, self.0 & ((1 << SLOT_BITS) - 1))
    }
}

/// Not an LSN as [`Lsn`] displays it: two numbers with a point between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an LSN is written as two numbers with a point between them, such as 3.14")]
pub struct ParseLsnError;

/// Reads what `Display` writes.
///
/// ```
/// use stratalog::Lsn;
/// let lsn = Lsn::from_u64(7 << 24 | 5);
/// assert_eq!(lsn.to_string().parse(), Ok(lsn));
/// assert!("7".parse::<Lsn>().is_err() && "7.+5".parse::<Lsn>().is_err());
/// ```
impl std::str::FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        // One text for each LSN: the one that `Display` writes.
        let number = |text: &str| {
            let number = text.parse::<u64>().ok()?;
            (number.to_string() == text).then_some(number)
        };
        let parts = text.split_once('.');
        let parts = parts.and_then(|(high, low)| Some((number(high)?, number(low)?)));
        let fits = |(high, low): &(u64, u64)| {
            *high < 1 << (u64::BITS - SLOT_BITS) && *low < 1 << SLOT_BITS
        };
        let (sequence, slot) = parts.filter(fits).ok_or(ParseLsnError)?;
        Ok(Self(sequence << SLOT_BITS | slot))
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// A segment's sequence number: 1 for the first segment of a store, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The highest sequence number that fits an [`Lsn`].
    pub const MAX: Self = Self((1 << (64 - SLOT_BITS)) - 1);

    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A slot of a segment's directory; slot 0 is the first one reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNumber(pub u32);

impl SlotNumber {
    /// No segment has more slots than this.
    pub const LIMIT: u32 = 1 << SLOT_BITS;

    /// As an index into per-slot arrays.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A length or an offset inside a segment, in units of [`UNIT_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Units(pub u32);

impl Units {
    /// The same in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.0 as usize * UNIT_BYTES
    }
}

/// A segment's entry in the segment table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableIndex(pub u32);

/// Where a frame lies now: a segment of the table and a unit offset in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// An address from its 38 bits; higher bits are cut off.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << ADDRESS_BITS) - 1))
    }

    /// Its 38 bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({:#x})", self.0)
    }
}

/// How the 38 bits of an address divide between table index and unit offset: by segment size.
#[derive(Clone, Copy, Debug)]
pub struct AddressLayout {
    unit_bits: u32,
}

impl AddressLayout {
    /// For segments of `segment_bytes`, a power of two.
    #[must_use]
    pub fn new(segment_bytes: usize) -> Self {
        debug_assert!(segment_bytes.is_power_of_two() && segment_bytes > UNIT_BYTES);
        Self { unit_bits: (segment_bytes / UNIT_BYTES).trailing_zeros() }
    }

    /// One past the highest table index that an address can hold.
    #[must_use]
    pub fn table_limit(self) -> u32 {
        1 << (ADDRESS_BITS - self.unit_bits).min(31)
    }

    /// The address of a frame. Of an offset outside, which only a forged slot can name, one that no
    /// frame has: that of the segment's first unit.
    #[must_use]
    #[inline]
    pub fn address(self, table: TableIndex, offset: Units) -> Address {
        let offset = if offset.0 >> self.unit_bits == 0 { offset } else { Units(0) };
        Address::from_bits(u64::from(table.0) << self.unit_bits | u64::from(offset.0))
    }

    /// Table index and unit offset of an address.
    #[must_use]
    #[inline]
    pub fn split(self, address: Address) -> (TableIndex, Units) {
        let table = TableIndex((address.0 >> self.unit_bits) as u32);
        (table, Units((address.0 & ((1 << self.unit_bits) - 1)) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_keeps_sequence_and_slot_and_orders_by_sequence_first() {
        let low = Lsn::new(Sequence(7), SlotNumber(SlotNumber::LIMIT - 1));
        let high = Lsn::new(Sequence(8), SlotNumber(0));
        assert!(low < high);
        assert_eq!(low.to_string(), "7.16777215");
    }

    #[test]
    fn an_address_keeps_table_index_and_offset_for_every_segment_size() {
        for log in 20..=30 {
            let layout = AddressLayout::new(1 << log);
            let last_unit = Units((1u32 << (log - 6)) - 1);
            let last_table = TableIndex(layout.table_limit() - 1);
            let (t, u) = (last_table.0, last_unit.0);
            for (t, u) in [(0, 0), (0, u), (t, 0), (t, u)] {
                let address = layout.address(TableIndex(t), Units(u));
                assert_eq!(layout.split(address), (TableIndex(t), Units(u)));
            }
            let outside = layout.address(TableIndex(3), Units(u + 1));
            assert_eq!(layout.split(outside), (TableIndex(3), Units(0)), "not another segment's");
        }
    }
}
