//! Conditional puts that do not count after a kill, because they have not seen a member of a batch
//! with a lower LSN [W9].
//!
//! Which do not is asked of all records of an id together. Of a member, a blind put above it and a
//! conditional put above both that has seen neither, each stands above one of the others, so what
//! is decided by twos depends on the order in which they are met.

use super::Engine;
use super::restore::may_be_of_one_id;
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::lock;
use crate::format::ids::{Lsn, SlotNumber};
use crate::format::slot::{Kind, SlotBody, WriteOrigin};
use crate::index::KeyHash;
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::Segment;
use std::collections::{BTreeMap, BTreeSet};

/// A record that recovery has found to count.
#[derive(Debug)]
pub struct FoundRecord<'s, M: Memory> {
    /// Where it lies.
    pub segment: &'s Segment<M>,
    /// The caller's number of that.
    pub number: usize,
    /// Its slot.
    pub slot: SlotNumber,
    /// Put or tombstone.
    pub kind: Kind,
    /// What the slot says.
    pub body: SlotBody,
}

impl<M: Memory> FoundRecord<'_, M> {
    fn seen(&self) -> Option<Lsn> {
        self.segment.seen(&self.segment.committed_frame(self.slot).ok()?)
    }

    fn checksum_matches(&self) -> bool {
        let frame = self.segment.committed_frame(self.slot);
        frame.is_ok_and(|frame| self.segment.verify(&frame).is_ok())
    }

    fn may_be_of_the_id_of(&self, other: &Self) -> bool {
        let frames = [self, other].map(|record| record.segment.committed_frame(record.slot));
        let [Ok(mine), Ok(its)] = frames else { return true };
        may_be_of_one_id((self.segment, &mine), (other.segment, &its))
    }
}

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Hashes of the ids that [`Engine::find_outdone`] has to be asked about.
    pub fn unseen(&self) -> BTreeSet<u64> {
        lock(&self.unseen).clone()
    }

    /// Which conditional puts do not count: those that have not seen a member with a lower LSN, if
    /// one of them is the id's newest record. To be asked once all records are in the index, by
    /// their LSNs.
    pub fn find_outdone<'s>(
        &self,
        records: impl Iterator<Item = FoundRecord<'s, M>>,
    ) -> Vec<(usize, SlotNumber)>
    where
        M: 's,
    {
        let (mut members, mut puts) = (BTreeMap::new(), Vec::new());
        for record in records {
            match record.body.written {
                // One that is damaged outdoes nothing that is whole.
                WriteOrigin::InBatch if record.checksum_matches() => {
                    members.insert((record.body.key_hash, record.body.lsn), record);
                }
                WriteOrigin::Conditionally if record.kind == Kind::Put => puts.push(record),
                WriteOrigin::InBatch | WriteOrigin::Conditionally | WriteOrigin::Alone => {}
            }
        }
        puts.retain(|put| {
            let (hash, lsn) = (put.body.key_hash, put.body.lsn);
            let Some(seen) = put.seen().filter(|seen| *seen < lsn) else { return false };
            let mut unseen = members.range((hash, seen)..(hash, lsn));
            unseen.any(|((_, lsn), member)| *lsn > seen && member.may_be_of_the_id_of(put))
        });
        let guard = self.epoch.pin();
        let newest = puts.iter().filter(|put| self.is_newest(&guard, put));
        let changed: BTreeSet<_> = newest.map(|put| put.body.key_hash).collect();
        puts.retain(|put| changed.contains(&put.body.key_hash));
        puts.iter().map(|put| (put.number, put.slot)).collect()
    }

    /// Returns whether the index leads to this record, or to a copy of it.
    fn is_newest(&self, guard: &Guard, record: &FoundRecord<'_, M>) -> bool {
        let is_it = |entry| {
            let found = self.slot_of(guard, entry);
            found.is_some_and(|found| {
                found.lsn == record.body.lsn && found.key_hash == record.body.key_hash
            })
        };
        self.index.get(guard, KeyHash(record.body.key_hash), is_it).is_some()
    }
}
