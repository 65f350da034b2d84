//! Moving records, for compaction: is a record current, its copy, and the redirect of the index
//! from the one to the other. Each record by one thread; readers and writers go on beside it.
//!
//! A segment is only ever emptied once it is [quiet](crate::segment::Filling::is_quiet): every
//! record of it that counts is in the index, and no writer will bring in another address of it.
//! What then is not in the index under its own address is dead, and stays so [R1]: the only way
//! back would be the previous word of a pending write, and [`Engine::resolve_current`] puts that
//! entry back itself, before it answers.

use super::{Engine, Identified, Key};
use crate::concurrency::epoch::Guard;
use crate::error::Error;
use crate::format::frame::units_of;
use crate::format::ids::{Address, SlotNumber, Units};
use crate::format::slot::{Kind, SlotBody};
use crate::index::{Entry, KeyHash};
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::{Frame, RecordParts, Segment, WriteRequest};

/// A copy, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    /// Put or tombstone.
    pub kind: Kind,
    /// Hash of the id.
    pub hash: KeyHash,
    /// Its place in the segment that is to be emptied.
    pub from: Units,
    /// How long it is.
    pub len: Units,
    /// Slot of the copy.
    pub slot: SlotNumber,
    /// Its place.
    pub to: Units,
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Returns whether the index leads to the frame of a slot, whatever the slot says: a
    /// tombstone's too. A pending entry leads to what it replaced if its slot was voided, so it is
    /// decided first. Compares no key.
    pub fn resolves_to(&self, guard: &Guard, segment: &Segment<M>, body: SlotBody) -> bool {
        let Some(address) = segment.address_if_inside(body.offset) else { return false };
        let leads = |entry: Entry| {
            let counts = || self.effective(guard, entry);
            entry.address == address
                || entry.pending && counts().is_some_and(|counts| counts.address == address)
        };
        self.index.get(guard, KeyHash(body.key_hash), leads).is_some()
    }

    /// Returns whether the index leads to a record with the LSN of a slot, wherever it lies.
    pub fn has_lsn(&self, guard: &Guard, body: SlotBody) -> bool {
        let same = |entry: Entry| self.slot_of(guard, entry).is_some_and(|at| at.lsn == body.lsn);
        self.index.get(guard, KeyHash(body.key_hash), same).is_some()
    }

    /// Returns whether the index leads to a put that is older than what a slot says, of the same
    /// hash.
    pub fn has_older(&self, guard: &Guard, body: SlotBody) -> bool {
        let older = |entry: Entry| {
            let is_older = |at: SlotBody| at.key_hash == body.key_hash && at.lsn < body.lsn;
            !entry.tomb && self.slot_of(guard, entry).is_some_and(is_older)
        };
        self.index.get(guard, KeyHash(body.key_hash), older).is_some()
    }

    /// The entry that counts for the id of this one, if that lies at an address of a quiet segment.
    fn counts_at(&self, guard: &Guard, entry: Entry, address: Address) -> Option<Entry> {
        let leads_there = entry.address == address;
        let counts =
            if leads_there || !entry.pending { Some(entry) } else { self.effective(guard, entry) };
        counts.filter(|counts| counts.address == address)
    }

    /// Returns whether it is worth asking for [`resolve_current`](Engine::resolve_current): looks
    /// at no record.
    pub fn may_be_current(&self, guard: &Guard, hash: KeyHash, address: Address) -> bool {
        let found = self.index.get(guard, hash, |e| e.address == address || e.pending);
        found.is_some()
    }

    /// Returns whether the record at an address of a quiet segment is what counts for its id, a
    /// tombstone too. A pending write of the id is decided first; if it was voided, its place is
    /// given back.
    pub fn resolve_current(&self, guard: &Guard, key: Key<'_>, address: Address) -> bool {
        loop {
            let found = self.index.get(guard, key.hash, |entry| {
                entry.address == address
                    || entry.pending
                        && !matches!(
                            self.identify(guard, entry, key.hash, key.id),
                            Identified::Other
                        )
            });
            let Some(entry) = found else { return false };
            if !entry.pending {
                return true;
            }
            match self.effective(guard, entry) {
                Some(counts) if counts.address == address && entry.address != address => {
                    // Its slot was voided. The writer would do the same, and finds it done.
                    self.replace(guard, key, entry, counts);
                }
                counts => return counts.is_some_and(|counts| counts.address == address),
            }
        }
    }

    /// Returns whether the entry that leads to a put of a quiet segment says that its id is
    /// removed: the put has expired, or opening found that something newer of the id is damaged.
    pub fn is_removed_at(&self, guard: &Guard, hash: KeyHash, address: Address) -> bool {
        let removed = |entry: Entry| entry.address == address && entry.tomb;
        self.index.get(guard, hash, removed).is_some()
    }

    /// Returns whether the id has a live record.
    pub fn has_live(&self, guard: &Guard, key: Key<'_>) -> bool {
        // Damage does not make a record less live.
        self.get(guard, key.hash, key.id).map_or(true, |found| found.is_some())
    }

    /// Copies a frame into another segment, without force; as a tombstone, if it has expired, which
    /// then hides what is older than it. `None` if that segment is full.
    pub fn copy_record(
        &self,
        (from, frame): (&Segment<M>, &Frame<'_>),
        kind: Kind,
        body: SlotBody,
        to: &Segment<M>,
    ) -> Result<Option<Relocation>, Error> {
        let (header, hash) = (frame.header(), KeyHash(body.key_hash));
        let mut parts = RecordParts {
            kind,
            writing: header.writing,
            id: frame.id(),
            key_hash: body.key_hash,
            embedding: frame.embedding_bytes(),
            content: frame.content(),
            created_ns: header.created_ns,
            expires_ns: header.expires_ns,
            // Flushed with the copy: after power loss the copy may count before the tag is moved.
            tag: from.tags().tag(frame),
        };
        if kind == Kind::Tombstone {
            (parts.embedding, parts.content, parts.expires_ns, parts.tag) = (&[], &[], 0, 0);
        }
        let record = WriteRequest::new(parts);
        let bytes = record.layout().bytes();
        let Some(units) = units_of(bytes) else { return Ok(None) };
        let Some((reservation, _)) = to.reserve(bytes) else { return Ok(None) };
        let copied = reservation.copy(&record, body.lsn, from.seen(frame));
        let (slot, to) =
            copied.map_err(|_voided| Error::FlushFailed("a copy was voided".to_owned()))?;
        let (from, len) = (frame.offset(), units);
        Ok(Some(Relocation { kind, hash, from, len, slot, to }))
    }

    /// Puts a copy in force: first the tag is moved to it, then its slot says that it counts, then
    /// the index leads there. The victim's forwarding table names it. Whether the index does: if
    /// not, the id was written meanwhile and the copy is dead, or it is a tombstone that the index
    /// has let go of and the disk still needs.
    pub fn move_record(
        &self,
        guard: &Guard,
        copy: &Relocation,
        victim: &Segment<M>,
        output: &Segment<M>,
    ) -> bool {
        if copy.kind == Kind::Put {
            victim.tags().forward(copy.from, output, copy.to);
        }
        output.directory().decide_copy(copy.slot, true);
        let Ok(frame) = output.committed_frame(copy.slot) else { return false };
        let key = Key { hash: copy.hash, id: frame.id() };
        let moved = self.redirect(guard, key, victim.address(copy.from), output.address(copy.to));
        if moved && copy.kind == Kind::Put {
            output.usage().add_live(copy.len.bytes() as u64);
            victim.usage().sub_live(copy.len.bytes() as u64);
            if frame.expires() {
                output.usage().note_expiry(frame.header().expires_ns);
            }
        }
        moved
    }

    /// Moves what counts for an id from an address of a quiet segment to its copy. `false` if it
    /// does not count any more: then the copy is dead.
    fn redirect(&self, guard: &Guard, key: Key<'_>, from: Address, to: Address) -> bool {
        let change = |found| {
            let counts = self.counts_at(guard, found, from)?;
            Some(Entry { address: to, tomb: counts.tomb, pending: false })
        };
        self.index.update_if(guard, key.hash, &self.keys(guard, key), change).is_some()
    }

    /// Takes a record that has expired out of what counts: its entry stands for a removal from here
    /// on. Nothing happens if something newer is there.
    pub fn expire(&self, guard: &Guard, key: Key<'_>, segment: &Segment<M>, body: SlotBody) {
        let address = segment.address(body.offset);
        let change = |found| {
            let counts = self.counts_at(guard, found, address)?;
            (!counts.tomb).then_some(Entry { address, tomb: true, pending: false })
        };
        let keys = self.keys(guard, key);
        if self.index.update_if(guard, key.hash, &keys, change).is_some() {
            let bytes = body.len.bytes() as u64;
            segment.usage().sub_live(bytes);
            self.log.count_live(0, bytes);
            self.log.count_expired(segment, segment.usage().expired_bytes().saturating_sub(bytes));
            self.add_live(-1);
        }
    }

    /// Takes the tombstones out of the part of the index that a hash belongs to: before the record
    /// of one is given up.
    pub fn drop_tombstones(&self, guard: &Guard, key: Key<'_>) {
        self.index.rebuild(guard, key.hash, &self.keys(guard, key));
    }
}
