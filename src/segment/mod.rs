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
//! | other control words of the header page | the module `life` | see there |

mod checks;
mod copy;
pub mod cursor;
mod forwarding;
mod life;
mod line_buffer;
mod payload;
mod read_ahead;
mod reader;
mod replica;
mod request;
mod seen;
mod shared;
mod slots;
mod usage;
mod writer;

pub use checks::Checks;
pub use forwarding::{ForwardingTable, TagTooLarge, Tags};
pub use life::{Durable, Filling, Inherited, Reclaiming, Reclamation};
pub use payload::{Frame, FrameDamage};
pub use read_ahead::ReadAhead;
pub use reader::ScannedPut;
pub use request::{RecordParts, WriteRequest};
pub use shared::SharedFrame;
pub use slots::{Mark, SlotDirectory, SlotIter};
pub use usage::{ExpiryScan, Usage};
pub use writer::{BatchReservation, Claim, Pending, Reservation, Voided};

use crate::concurrency::sync::unmodelled::{Arc, OnceLock, Weak};
use crate::concurrency::sync::{AtomicU32, Ordering};
use crate::format::checksum::Salt;
use crate::format::header::{IDENTITY_BYTES, Identity, Role, SegmentId};
use crate::format::ids::{Address, AddressLayout, Sequence, TableIndex, UNIT_BYTES, Units};
use crate::memory::Memory;
use cursor::{Capacity, Taken};
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

    /// Returns whether so many frames, with so many bytes in all, fit an empty segment as a batch.
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
    /// The count that the table shares it by. Set once, before it is published there.
    shared: OnceLock<Weak<Self>>,
    checks: Checks,
    life: Life,
    forwarding: OnceLock<ForwardingTable<M>>,
    usage: Usage,
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
        let mut segment = Self::attach(memory, identity);
        segment.checks.set_own();
        segment
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
            shared: OnceLock::new(),
            life: Life::new(geometry.segment_bytes),
            checks: Checks::new(geometry),
            forwarding: OnceLock::new(),
            usage: Usage::default(),
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

    /// Notes the count by which it is shared; before it is published in the segment table.
    pub fn set_shared(&self, shared: Weak<Self>) {
        // Set by the one table that it is in.
        drop(self.shared.set(shared));
    }

    /// A count of its own: it keeps the segment mapped. `None` only for one that was never in a
    /// segment table.
    pub fn to_shared(&self) -> Option<Arc<Self>> {
        self.shared.get()?.upgrade()
    }

    /// The address of a frame of this segment.
    pub fn address(&self, offset: Units) -> Address {
        self.layout.address(self.table_index(), offset)
    }

    /// The address of an offset, if that lies inside.
    #[must_use]
    pub fn address_if_inside(&self, offset: Units) -> Option<crate::format::ids::Address> {
        (offset.bytes() < self.geometry.segment_bytes).then(|| self.address(offset))
    }

    /// Which of its checksums need no check.
    #[inline]
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// What of it is live.
    #[inline]
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}
