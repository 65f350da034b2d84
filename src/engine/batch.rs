//! Batches: all or nothing across any crash. One reservation, one decision (the head's slot); the
//! members are then published one by one, each by the rules for its kind.

use super::write::{Published, note_expiry};
use super::{Engine, exhausted};
use crate::epoch::Guard;
use crate::error::Error;
use crate::format::frame::units_of;
use crate::format::ids::Lsn;
use crate::format::slot::Kind;
use crate::index::{Entry, KeyHash};
use crate::log::{Need, Source};
use crate::memory::Memory;
use crate::segment::Record;

/// How many members ahead the index is asked for.
const AHEAD: usize = 8;
/// More members of a batch than this do not have hashes that end in the same 24 bits.
const ALIKE_MAX: usize = 1024;

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Writes records that together fit a segment; the highest LSN given.
    pub fn write_batch(&self, records: &[Record<'_>]) -> Result<Lsn, Error> {
        // At its length at once: collecting options would grow it step by step.
        let mut frames = Vec::with_capacity(records.len());
        for record in records {
            let Some(units) = units_of(record.layout().bytes()) else {
                return Err(Error::Io(std::io::Error::other("a record larger than a segment")));
            };
            frames.push(units);
        }
        let removes = records.iter().all(|record| record.kind == Kind::Tombstone);
        let need = if removes { Need::ToFree } else { Need::ToGrow };
        if are_too_alike(records) {
            return Err(exhausted());
        }
        loop {
            let guard = self.epoch.pin();
            for record in records {
                self.make_room_for(&guard, record)?;
            }
            let reservation = self.log.reserve_batch(&self.epoch, &guard, &frames, need)?;
            // Voided by a flush that could not wait: once more.
            let Ok(written) = reservation.commit(records) else { continue };
            let mut highest = Lsn::ZERO;
            let mut ahead = records.iter().skip(AHEAD);
            for (record, (lsn, address, _claim)) in records.iter().zip(written) {
                if let Some(next) = ahead.next() {
                    self.index.prefetch(&guard, KeyHash(next.key_hash));
                }
                let tomb = record.kind == Kind::Tombstone;
                let entry = Entry { address, tomb, pending: false };
                highest = highest.max(self.publish_member(&guard, record, lsn, entry)?);
            }
            self.call_for_reclaim();
            return Ok(highest);
        }
    }

    /// A member, as a blind write of its own. One that cannot be placed where its LSN says is
    /// written again by itself; its first copy can never win.
    fn publish_member(
        &self,
        guard: &Guard,
        record: &Record<'_>,
        lsn: Lsn,
        entry: Entry,
    ) -> Result<Lsn, Error> {
        let bytes = record.layout().bytes();
        let segment = self.log.resolve(guard, entry.address).map(|(segment, _)| segment);
        let counted = segment.filter(|_| record.kind == Kind::Put);
        if let Some(segment) = counted {
            segment.add_live(bytes);
        }
        let published = self.publish(guard, record, lsn, entry);
        if let Some(segment) = counted
            && !matches!(published, Published::Installed(_))
        {
            segment.sub_live(bytes);
        }
        match published {
            Published::Installed(before) => {
                self.account(guard, counted.map_or(0, |_| bytes), before);
                counted.inspect(|segment| note_expiry(segment, record));
                Ok(lsn)
            }
            Published::Absorbed => Ok(lsn),
            Published::AppendAgain => self.put_again(record),
        }
    }
}

/// Whether so many hashes of a batch end alike that the index might have room for each, but not for
/// all of them: only a crafted one's do.
fn are_too_alike(records: &[Record<'_>]) -> bool {
    if records.len() <= ALIKE_MAX {
        return false;
    }
    let mut ends: Vec<u32> = records.iter().map(|record| (record.key_hash as u32) << 8).collect();
    ends.sort_unstable();
    ends.windows(ALIKE_MAX + 1).any(|alike| alike.first() == alike.last())
}
