//! Reserve, fill, decide: the only way a record gets into a segment that others can see. (A backup
//! fills a segment that nobody else has: `segment/replica.rs`.)
//!
//! A [`Reservation`] is the right to write one frame and to decide one slot. Its drop voids the
//! slot, so a panic, or an early return, between reserve and commit leaves no doubt.

use super::cursor::{self, Grant, Reserved};
use super::line_buffer::LineBuffer;
use super::{Segment, WriteRequest};
use crate::concurrency::sync::Ordering;
use crate::format::frame::{FrameHeader, FrameLayout, FramePlace, WriteMode, units_of};
use crate::format::ids::{Address, Lsn, SlotNumber, Units};
use crate::format::slot::{self, EMPTY_WORD, Kind, SlotBody, WriteOrigin};
use crate::memory::Memory;

/// What is copied and summed at a time; a multiple of a line, so that each block but the last ends
/// where one does.
const BLOCK_BYTES: usize = 4096;

/// The slot was voided by somebody else: the write did not happen and must be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voided;

/// A writer's word that it is not through with a slot: what is in it may still come into the index.
/// To be kept until that has happened or never will; compaction leaves the segment alone till then.
#[derive(Debug)]
#[must_use = "a claim is to be kept until the record is in the index"]
pub struct Claim<'s, M: Memory>(&'s Segment<M>);

impl<M: Memory> Drop for Claim<'_, M> {
    fn drop(&mut self) {
        self.0.filling().add_done(1);
    }
}

/// One reserved slot and the frame space that goes with it. Dropping it voids the slot.
#[derive(Debug)]
#[must_use = "dropping a reservation voids its slot"]
pub struct Reservation<'s, M: Memory> {
    segment: &'s Segment<M>,
    slot: SlotNumber,
    offset: Units,
    len: Units,
    decided: bool,
    /// Dropped last, unless it is handed on.
    claim: Option<Claim<'s, M>>,
}

impl<M: Memory> Segment<M> {
    /// Reserves a slot and the space for a frame of `bytes`, or `None` if the segment is full. The
    /// flag says that this reservation took the segment past its mark.
    pub fn reserve(&self, bytes: u64) -> Option<(Reservation<'_, M>, bool)> {
        let len = units_of(bytes)?;
        match cursor::reserve(self.filling().cursor_word(), self.geometry.capacity(), 1, len) {
            Reserved::Granted(Grant { slot, offset, passed_threshold }) => {
                Some((self.reservation(slot, offset, len), passed_threshold))
            }
            Reserved::Full { granted } => {
                self.filling().seal_when_full(granted);
                None
            }
        }
    }

    fn reservation(&self, slot: SlotNumber, offset: Units, len: Units) -> Reservation<'_, M> {
        self.directory().write_extent(slot, offset, len);
        let claim = Some(Claim(self));
        Reservation { segment: self, slot, offset, len, decided: false, claim }
    }
}

impl<'s, M: Memory> Reservation<'s, M> {
    /// The LSN of what is written here.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        Lsn::new(self.segment.sequence, self.slot)
    }

    /// Where it will lie.
    #[must_use]
    pub fn address(&self) -> Address {
        self.segment.address(self.offset)
    }

    /// The segment it lies in.
    #[must_use]
    pub fn segment(&self) -> &'s Segment<M> {
        self.segment
    }

    pub(super) fn slot(&self) -> SlotNumber {
        self.slot
    }

    /// Decides the slot, which was nobody else's so far.
    pub(super) fn decide_with(&mut self, word: u64) -> Result<(), Voided> {
        self.decided = true;
        self.segment.directory().decide(self.slot, EMPTY_WORD, word).or(Err(Voided))
    }

    fn fill(&mut self, record: &WriteRequest<'_>, in_batch: bool) -> SlotBody {
        self.fill_as(record, (self.lsn(), in_batch), || ())
    }

    /// Copies the record into its frame and its slot's words 1-3. The record must have the length
    /// that was reserved. `meanwhile` is done while the frame is on its way to memory: the moment
    /// to ask for lines that are read next.
    pub(super) fn fill_as(
        &mut self,
        record: &WriteRequest<'_>,
        (lsn, in_batch): (Lsn, bool),
        meanwhile: impl FnOnce(),
    ) -> SlotBody {
        let layout = record.layout();
        debug_assert_eq!(units_of(layout.bytes()), Some(self.len));
        let mut header = FrameHeader {
            lsn,
            created_ns: record.created_ns,
            // Both fit: limits are checked before anything is reserved.
            content_len: record.content.len() as u32,
            slot: self.slot,
            checksum: 0,
            id_len: record.id.len() as u16,
            kind: record.kind,
            writing: record.writing,
            in_batch,
            expires_ns: record.expires_ns,
        };
        let place = FramePlace { salt: self.segment.salt, offset: self.offset };
        let mut sum = header.begin_sum(place, record.id);
        let mut lines = LineBuffer::new(layout.embedding_at, |at, lines| {
            self.segment.write_lines((self.offset, self.len), at, lines)
        });
        for part in [record.embedding, record.content] {
            for block in part.chunks(BLOCK_BYTES) {
                // Copied first: the block is on its way to memory while it is summed.
                lines.add(block);
                sum = sum.and(block);
            }
        }
        lines.end();
        header.checksum = sum.finish();
        self.write_head(&header, record);
        meanwhile();
        if M::STREAMS_FROM <= self.len.bytes() {
            // [W5]: before the slot is decided, and the index knows of it.
            self.segment.memory.end_stream(self.offset.bytes(), self.len.bytes());
        }
        if record.tag != 0 {
            // Relaxed: published by the slot, or by the index entry, with Release.
            self.segment.memory.word(self.offset.bytes()).store(record.tag, Ordering::Relaxed);
        }
        if record.kind == Kind::Put {
            // This process has just made the checksum of these very bytes.
            self.segment.checks().set_verified(self.offset);
        }
        let body = SlotBody {
            lsn: header.lsn,
            key_hash: record.key_hash,
            offset: self.offset,
            len: self.len,
            expires: header.expires(),
            written: match record.writing {
                _ if in_batch => WriteOrigin::InBatch,
                WriteMode::Conditional => WriteOrigin::Conditionally,
                WriteMode::Blind => WriteOrigin::Alone,
            },
        };
        self.segment.directory().write_body(self.slot, body);
        body
    }

    /// Writes tag, header, expiry and id. The tag's word is a control word, which may be stored to
    /// only once the lines have reached memory; they bring its first value along, so that the
    /// device never has a record without it.
    fn write_head(&self, header: &FrameHeader, record: &WriteRequest<'_>) {
        let mut lines = LineBuffer::new(0, |at, lines| {
            self.segment.write_lines((self.offset, self.len), at, lines)
        });
        lines.add(&record.tag.to_le_bytes());
        lines.add(&header.encode());
        if header.expires() {
            lines.add(&header.expires_ns.to_le_bytes());
        }
        lines.add(record.id);
        lines.end();
    }

    /// Fills the frame and commits the slot: from here on recovery finds the record.
    /// The claim is to be kept until the record is in the index, or never will be.
    pub fn commit(
        self,
        record: &WriteRequest<'_>,
    ) -> Result<(Address, Option<Claim<'s, M>>), Voided> {
        self.commit_meanwhile(record, || ())
    }

    /// The same; `meanwhile` is done while the frame is on its way to memory.
    pub fn commit_meanwhile(
        mut self,
        record: &WriteRequest<'_>,
        meanwhile: impl FnOnce(),
    ) -> Result<(Address, Option<Claim<'s, M>>), Voided> {
        let body = self.fill_as(record, (self.lsn(), false), meanwhile);
        let word = slot::committed_word(record.kind, body, self.segment.salt, self.slot);
        self.decide_with(word)?;
        Ok((self.address(), self.claim.take()))
    }

    /// Fills the frame and leaves the slot pending: the index will decide.
    pub fn pend(mut self, record: &WriteRequest<'_>) -> Result<Pending<'s, M>, Voided> {
        let body = self.fill(record, false);
        let word = slot::pending_word(record.kind, body, self.segment.salt, self.slot);
        self.decide_with(word)?;
        let (segment, slot, kind) = (self.segment, self.slot, record.kind);
        let (offset, decided, _claim) = (self.offset, false, self.claim.take());
        let layout = record.layout();
        Ok(Pending { segment, slot, offset, layout, kind, body, word, decided, _claim })
    }
}

impl<M: Memory> Drop for Reservation<'_, M> {
    fn drop(&mut self) {
        if !self.decided {
            self.segment.directory().void_if_empty(self.slot);
        }
    }
}

/// A whole frame whose slot is pending. Dropping it voids the slot, unless somebody who met it in
/// the index has committed it.
#[derive(Debug)]
#[must_use = "dropping a pending write voids its slot"]
pub struct Pending<'s, M: Memory> {
    segment: &'s Segment<M>,
    slot: SlotNumber,
    offset: Units,
    layout: FrameLayout,
    kind: Kind,
    body: SlotBody,
    word: u64,
    decided: bool,
    /// Dropped last.
    _claim: Option<Claim<'s, M>>,
}

impl<M: Memory> Pending<'_, M> {
    /// Where the frame lies.
    #[must_use]
    pub fn address(&self) -> Address {
        self.segment.address(self.offset)
    }

    /// The LSN of the write.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.body.lsn
    }

    /// Notes the index entry that the record is about to take the place of, for whoever meets the
    /// record after its slot was voided. To be called before each try to publish it.
    pub fn set_previous(&self, word: u64) {
        let at = self.offset.bytes() + self.layout.previous_at();
        // Relaxed: published by the index entry, with Release; nobody reads it before.
        self.segment.memory.word(at).store(word, Ordering::Relaxed);
    }

    /// Notes what a put has seen of its id [W9]. To be called before each try to publish it.
    pub fn set_seen(&self, seen: Lsn) {
        self.segment.store_seen(self.slot, self.offset, self.layout, seen);
    }

    /// Commits: the index entry that points here is the decision, and it has been made. `Err`: the
    /// slot was voided first, so the write did not happen.
    pub fn commit(&mut self) -> Result<(), Voided> {
        self.decided = true;
        let word = slot::committed_word(self.kind, self.body, self.segment.salt, self.slot);
        match self.segment.directory().decide(self.slot, self.word, word) {
            // Whoever met the entry may have committed the slot already [W1].
            Err(now) if now != word => Err(Voided),
            _ => Ok(()),
        }
    }
}

impl<M: Memory> Drop for Pending<'_, M> {
    fn drop(&mut self) {
        if !self.decided {
            let void = slot::void_word(self.segment.salt, self.slot);
            self.segment.directory().decide_or_leave(self.slot, self.word, void);
        }
    }
}

/// Neighbouring slots and frames for a batch: a head and its members, reserved by one addition.
/// Dropping it voids whatever is not decided.
#[derive(Debug)]
#[must_use = "dropping a reservation voids its slots"]
pub struct BatchReservation<'s, M: Memory> {
    head: Reservation<'s, M>,
    members: Vec<Reservation<'s, M>>,
}

impl<M: Memory> Segment<M> {
    /// Reserves a head and a member for each of these frame lengths, or `None` if they do not fit.
    /// The flag is as in [`Segment::reserve`].
    pub fn reserve_batch(&self, frames: &[Units]) -> Option<(BatchReservation<'_, M>, bool)> {
        let members = u32::try_from(frames.len()).ok()?;
        let units = frames.iter().try_fold(1u32, |sum, frame| sum.checked_add(frame.0))?;
        let capacity = self.geometry.capacity();
        let reserved =
            cursor::reserve(self.filling().cursor_word(), capacity, members + 1, Units(units));
        let Grant { slot, offset, passed_threshold } = match reserved {
            Reserved::Granted(grant) => grant,
            Reserved::Full { granted } => {
                self.filling().seal_when_full(granted);
                return None;
            }
        };
        let mut top = offset.0 + units;
        let mut next = slot.0;
        let mut take = |len: Units| {
            top -= len.0;
            let (slot, offset) = (SlotNumber(next), Units(top));
            next += 1;
            self.reservation(slot, offset, len)
        };
        let head = take(Units(1));
        let members = frames.iter().map(|&len| take(len)).collect();
        Some((BatchReservation { head, members }, passed_threshold))
    }
}

/// LSN, address and claim of a batch's member.
pub type Member<'s, M> = (Lsn, Address, Option<Claim<'s, M>>);

impl<'s, M: Memory> BatchReservation<'s, M> {
    /// Fills all frames and commits the head: from here on recovery finds the whole batch, and up
    /// to here nothing of it. The records must have the lengths that were reserved. Returns LSN and
    /// address of each, and the claim to keep until it is in the index.
    pub fn commit(mut self, records: &[WriteRequest<'_>]) -> Result<Vec<Member<'s, M>>, Voided> {
        let mut written = Vec::with_capacity(records.len());
        match self.decide(records, &mut written) {
            Ok(()) => Ok(written),
            Err(voided) => {
                // They would count if the head were damaged some day.
                self.members
                    .iter()
                    .for_each(|member| member.segment.directory().void_if_member(member.slot));
                Err(voided)
            }
        }
    }

    fn decide(
        &mut self,
        records: &[WriteRequest<'_>],
        written: &mut Vec<Member<'s, M>>,
    ) -> Result<(), Voided> {
        for (member, record) in self.members.iter_mut().zip(records) {
            let body = member.fill(record, true);
            let (segment, slot) = (member.segment, member.slot);
            let word = slot::member_word(record.kind, body, segment.salt, slot);
            member.decide_with(word)?;
            written.push((body.lsn, member.address(), member.claim.take()));
        }
        let head = &mut self.head;
        let key_hash = written.len() as u64;
        let (lsn, offset, len) = (head.lsn(), head.offset, head.len);
        let (expires, alone) = (false, WriteOrigin::Alone);
        let body = SlotBody { lsn, key_hash, offset, len, expires, written: alone };
        head.segment.directory().write_body(head.slot, body);
        let word = slot::batch_word(body, head.segment.salt, head.slot);
        head.decide_with(word)
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests;
