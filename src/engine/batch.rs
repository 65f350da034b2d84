//! Batches: all or nothing across any crash. One reservation, one decision (the head's slot); the
//! members are then published one by one, each by the rules for its kind.
//!
//! [W8]: a batch holds at most one write of each id, the last one that its caller added. Members
//! are published as independent writes, so of two with one id the earlier one could be published,
//! be answered by a conditional write, and stand after the batch.

use super::Engine;
use super::retries::CallRetries;
use super::write::{PublishOutcome, note_expiry, once_committed};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::Ordering;
use crate::error::Error;
use crate::format::frame::units_of;
use crate::format::ids::{Lsn, UNIT_BYTES, Units};
use crate::format::slot::Kind;
use crate::index::{Entry, Exhausted, KeyHash};
use crate::log::{Purpose, Source};
use crate::memory::Memory;
use crate::segment::WriteRequest;

/// How many members ahead the index is asked for.
const AHEAD: usize = 8;
/// More members of a batch than this do not have hashes that end in the same 24 bits.
const ALIKE_MAX: usize = 1024;

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Removes from `records` every write that a later one of the same id supersedes [W8], and
    /// writes the rest as one batch. Returns the highest LSN given.
    ///
    /// # Errors
    ///
    /// [`Error::RecordTooLarge`] if the rest does not fit a segment, and those of [`Engine::put`].
    pub fn write_batch(&self, records: &mut Vec<WriteRequest<'_>>) -> Result<Lsn, Error> {
        // More than 2^32 records fit no segment and are refused below.
        let mut numbers: Vec<u32> = (0..records.len()).map(|n| n as u32).collect();
        drop_superseded(records, &mut numbers);
        let frames = self.frames_of(records, numbers)?;
        let removes = records.iter().all(|record| record.kind == Kind::Tombstone);
        let purpose = if removes { Purpose::FreeRoom } else { Purpose::Grow };
        if are_too_alike(records) {
            return Err(Exhausted.into());
        }
        let mut retries = self.retries.of_call();
        loop {
            let guard = self.epoch.pin();
            for record in &*records {
                self.make_room_for(&guard, record)?;
            }
            let reservation = self.log.reserve_batch(&guard, &frames, purpose)?;
            // Voided by a flush that could not wait: once more.
            let Ok(written) = reservation.commit(records) else {
                retries.add_one();
                continue;
            };
            let (mut highest, mut failed) = (Lsn::ZERO, None);
            let mut ahead = records.iter().skip(AHEAD);
            for (record, (lsn, address, _claim)) in records.iter().zip(written) {
                if let Some(next) = ahead.next() {
                    self.index.prefetch(&guard, KeyHash(next.key_hash));
                }
                let tomb = record.kind == Kind::Tombstone;
                let entry = Entry { address, tomb, pending: false };
                // [W6] They are committed, so each is published, whatever became of another.
                match self.publish_member(&guard, record, (lsn, entry), &mut retries) {
                    Ok(lsn) => highest = highest.max(lsn),
                    Err(error) => failed = Some(error),
                }
            }
            self.wake_reclaimer();
            return failed.map_or(Ok(highest), Err);
        }
    }

    /// The length of each record's frame, in the memory of `reused`. A batch that fits no segment
    /// is refused: no reservation of it would ever succeed.
    fn frames_of(
        &self,
        records: &[WriteRequest<'_>],
        reused: Vec<u32>,
    ) -> Result<Vec<Units>, Error> {
        let mut bytes = 0u64;
        let mut frames: Vec<_> = reused.into_iter().map(Units).collect();
        for (frame, record) in frames.iter_mut().zip(records) {
            let len = record.layout().bytes();
            bytes = bytes.saturating_add(len);
            // A record longer than that fits no segment either.
            *frame = units_of(len).unwrap_or(Units(u32::MAX));
        }
        let geometry = self.log.geometry();
        if geometry.fits_batch(records.len(), bytes) {
            return Ok(frames);
        }
        let max = (geometry.segment_bytes - geometry.directory_at - UNIT_BYTES) as u64;
        Err(Error::RecordTooLarge { len: bytes, max })
    }

    /// A member, as a blind write of its own. One that cannot be placed where its LSN says is
    /// written again, as a batch of one; until that is there recovery knows where it belongs [W9].
    fn publish_member(
        &self,
        guard: &Guard,
        record: &WriteRequest<'_>,
        (lsn, entry): (Lsn, Entry),
        retries: &mut CallRetries<'_>,
    ) -> Result<Lsn, Error> {
        if self.publish_once(guard, record, lsn, entry) {
            return Ok(lsn);
        }
        let frames = self.frames_of(std::slice::from_ref(record), vec![0])?;
        let mut newest = lsn;
        loop {
            let guard = self.epoch.pin();
            // Whatever room there is: an error now comes too late.
            let purpose = Purpose::FreeRoom;
            let reservation = self.log.reserve_batch(&guard, &frames, purpose);
            let reservation = reservation.inspect_err(|_| self.give_up(newest));
            let reservation = reservation.map_err(once_committed)?;
            let Ok(written) = reservation.commit(std::slice::from_ref(record)) else {
                retries.add_one();
                continue;
            };
            for (lsn, address, _claim) in written {
                if self.publish_once(&guard, record, lsn, Entry { address, ..entry }) {
                    return Ok(lsn);
                }
                newest = lsn;
            }
        }
    }

    /// A member will never be published. It may be found after the next opening, but not in place
    /// of what is written once its batch has failed: that says that it has seen it [W9].
    fn give_up(&self, lsn: Lsn) {
        // Relaxed: who writes after the batch's return has it from whatever told him of that.
        self.given_up.fetch_max(lsn.as_u64(), Ordering::Relaxed);
    }

    /// Notes that every LSN below `next` was given before this opening, so no member with such an
    /// LSN is published from now on. The index may not lead to one that is damaged or missing. A
    /// later opening may find it, and must not void the conditional puts of this life for it [W9].
    pub fn begin_at(&self, next: Lsn) {
        self.give_up(Lsn::from_u64(next.as_u64().saturating_sub(1)));
    }

    /// `false`: it has to be written again.
    fn publish_once(
        &self,
        guard: &Guard,
        record: &WriteRequest<'_>,
        lsn: Lsn,
        entry: Entry,
    ) -> bool {
        let bytes = record.layout().bytes();
        let segment = self.log.resolve(guard, entry.address).map(|(segment, _)| segment);
        let counted = segment.filter(|_| record.kind == Kind::Put);
        if let Some(segment) = counted {
            segment.usage().add_live(bytes);
        }
        let published = self.publish(guard, record, lsn, entry);
        if let Some(segment) = counted
            && !matches!(published, PublishOutcome::Installed(_))
        {
            segment.usage().sub_live(bytes);
        }
        match published {
            PublishOutcome::Installed(before) => {
                self.account(guard, counted.map_or(0, |_| bytes), before);
                counted.inspect(|segment| note_expiry(segment, record));
                true
            }
            PublishOutcome::Absorbed => true,
            PublishOutcome::AppendAgain => false,
        }
    }
}

/// Removes the writes that a later one of the same id supersedes; the others keep their order.
/// `numbers` are the positions in `records`. Sorts them, so the cost is not quadratic whatever the
/// ids are, and allocates only if a write is superseded.
fn drop_superseded(records: &mut Vec<WriteRequest<'_>>, numbers: &mut Vec<u32>) {
    let id_of = |n: u32| records.get(n as usize).map(|record| (record.key_hash, record.id));
    numbers.sort_unstable_by_key(|&n| (id_of(n), n));
    let pairs = numbers.iter().zip(numbers.iter().skip(1));
    let earlier = pairs.filter(|&(&one, &next)| id_of(one) == id_of(next)).map(|(&one, _)| one);
    let mut superseded: Vec<u32> = earlier.collect();
    if superseded.is_empty() {
        return;
    }
    superseded.sort_unstable();
    let (mut superseded, mut position) = (superseded.into_iter().peekable(), 0..);
    records.retain(|_| superseded.next_if_eq(&position.next().unwrap_or(u32::MAX)).is_none());
    numbers.truncate(records.len());
}

/// Returns whether so many hashes of a batch end alike that the index might have room for each, but
/// not for all of them: only a crafted one's do.
fn are_too_alike(records: &[WriteRequest<'_>]) -> bool {
    if records.len() <= ALIKE_MAX {
        return false;
    }
    let mut ends: Vec<u32> = records.iter().map(|record| (record.key_hash as u32) << 8).collect();
    ends.sort_unstable();
    ends.windows(ALIKE_MAX + 1).any(|alike| alike.first() == alike.last())
}
