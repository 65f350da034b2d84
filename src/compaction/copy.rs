//! Copying the current records of a group, and moving readers and writers over to the copies.

use super::tombstones::{Candidate, sound_frame};
use super::{Compactor, FileSegment, Group, Pace, RECORDS_A_PIN, Stopped, together};
use crate::engine::{Key, Relocation};
use crate::epoch::Guard;
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::{Lsn, Sequence, SlotNumber, UNIT_BYTES};
use crate::format::slot::{Kind, SLOT_BYTES, SlotBody, SlotState};
use crate::index::KeyHash;
use crate::memory::MmapMemory;
use crate::segment::{Ahead, Frame, Moves, Segment, Slots};
use crate::sync::lock;
use crate::sync::unmodelled::{Arc, Mutex};
use std::collections::BTreeSet;

/// The segments that copies go to: open from one group to the next.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// For records.
    records: Option<Arc<FileSegment>>,
    /// For tombstones, apart from the records, so that looking again whether they are still needed
    /// moves nothing else.
    tombstones: Option<Arc<FileSegment>>,
    /// Follows when one of them is full; made before what may not fit is copied.
    next: Option<Arc<FileSegment>>,
    /// Full, and not known to be flushed for the last time.
    ended: Vec<Arc<FileSegment>>,
    /// Segments of these in which a copy came into force. All others hold nothing.
    in_force: BTreeSet<Sequence>,
}

/// A copy without force, and where it came from.
#[derive(Debug)]
pub(super) struct Copied {
    /// Which segment of the group it was copied from.
    pub(super) victim: usize,
    pub(super) output: Arc<FileSegment>,
    pub(super) copy: Relocation,
}

/// What is left of a group to be copied, in parts that are handled under one pin each.
#[derive(Default)]
struct Parts<'a> {
    victims: &'a [Arc<FileSegment>],
    number: usize,
    slots: Option<Slots<'a, MmapMemory>>,
    ahead: Ahead,
}

/// Which segment of the group, and some of its slots.
type Part<'a> = (usize, &'a Arc<FileSegment>, Vec<(SlotNumber, SlotState)>);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Option<Part<'a>> {
        loop {
            let victim = self.victims.get(self.number)?;
            let slots = self.slots.get_or_insert_with(|| victim.slots(victim.slots_end()));
            let part: Vec<_> = slots.take(RECORDS_A_PIN).collect();
            for (_, state) in &part {
                if let SlotState::Committed(Kind::Put, body) = state {
                    victim.read_on(&mut self.ahead, body.offset, body.len);
                }
            }
            if !part.is_empty() {
                return Some((self.number, victim, part));
            }
            *self = Parts { victims: self.victims, number: self.number + 1, ..Parts::default() };
        }
    }
}

/// Gives up copies that no source will name.
pub(super) fn take_back(copied: &[Copied]) {
    for copy in copied {
        copy.output.decide_copy(copy.copy.slot, false);
    }
}

impl Compactor<'_> {
    /// Something in a segment is damaged that may count: it stays as it is.
    pub(super) fn damaged(&self, victim: &FileSegment) -> Stopped {
        self.engine.log().quarantine(victim, false);
        Stopped::Damaged
    }

    /// Has segments back in which something damaged has counted, and does not any more: its id was
    /// overwritten or removed.
    pub(super) fn end_quarantines(&self) {
        let quarantined = {
            let guard = self.engine.epoch().pin();
            self.engine.log().in_use_counted(&guard, Segment::may_leave_quarantine)
        };
        for segment in quarantined {
            if self.is_sound(&segment) {
                self.engine.log().end_quarantine(&segment);
            }
        }
    }

    /// Whether nothing damaged in a segment counts, as far as its emptying would find out.
    fn is_sound(&self, segment: &Arc<FileSegment>) -> bool {
        let mut slots = segment.slots(segment.slots_end());
        let mut removals = Vec::new();
        loop {
            let guard = self.engine.epoch().pin();
            let mut more = false;
            for (slot, state) in slots.by_ref().take(RECORDS_A_PIN) {
                more = true;
                let sound = match state {
                    SlotState::Committed(Kind::Put, body) => {
                        self.current(&guard, segment, slot, body).is_ok()
                    }
                    SlotState::Committed(Kind::Tombstone, body) => {
                        if sound_frame(segment, slot).is_none() {
                            removals.push(Candidate { victim: 0, slot, body });
                        }
                        true
                    }
                    state => !state.is_lost(),
                };
                if !sound {
                    return false;
                }
            }
            if !more {
                return !self.may_hide(segment, &removals);
            }
        }
    }

    /// Step 2.
    pub(super) fn copy_group(
        &self,
        victims: &[Arc<FileSegment>],
        outputs: &mut Outputs,
        group: &mut Group,
    ) -> Result<(), Stopped> {
        // Copies that are taken back stay in the way of others: the room comes first.
        if outputs.next.is_none() && !outputs.have_room_for(victims, self.capacity()) {
            let next = self.make_output(outputs)?;
            outputs.next = Some(next);
        }
        let parts = Mutex::new(Parts { victims, ..Parts::default() });
        let (outputs, pace) = (Mutex::new(outputs), Pace::default());
        let mut done = Ok(());
        for (some, its_done) in together(self.hands(), || self.copy_parts(&parts, &outputs, &pace))
        {
            group.copied.extend(some.copied);
            group.expired.extend(some.expired);
            done = done.and(its_done);
        }
        done?;
        self.copy_tombstones(victims, &outputs, group)
    }

    /// What one thread does of it: part after part, until there is none. Its copies, and whether
    /// that was all.
    fn copy_parts(
        &self,
        parts: &Mutex<Parts<'_>>,
        outputs: &Mutex<&mut Outputs>,
        pace: &Pace,
    ) -> (Group, Result<(), Stopped>) {
        let mut mine = Group::default();
        loop {
            let Some((number, victim, part)) = lock(parts).next() else { return (mine, Ok(())) };
            let before = mine.copied.len();
            let done = self.copy_part((number, victim, part), outputs, &mut mine);
            if done.is_err() {
                lock(parts).number = usize::MAX;
                return (mine, done);
            }
            let fresh = mine.copied.iter().skip(before);
            self.keep_pace(pace, fresh.map(|copied| copied.copy.len.bytes() as u64).sum());
        }
    }

    fn copy_part(
        &self,
        (number, victim, part): Part<'_>,
        outputs: &Mutex<&mut Outputs>,
        mine: &mut Group,
    ) -> Result<(), Stopped> {
        if self.stopped() {
            return Err(Stopped::Asked);
        }
        let guard = self.engine.epoch().pin();
        for (slot, state) in part {
            let body = match state {
                SlotState::Committed(Kind::Put, body) => body,
                state if state.is_lost() => return Err(self.damaged(victim)),
                _ => continue,
            };
            let Some(frame) = self.current(&guard, victim, slot, body)? else { continue };
            let (hash, address) = (KeyHash(body.key_hash), victim.address(body.offset));
            if frame.has_expired() || self.engine.is_removed_at(&guard, hash, address) {
                mine.expired.push(Candidate { victim: number, slot, body });
                continue;
            }
            // Before there is a copy [M2].
            victim.clear_forward(body.offset);
            let copy = self.copy_frame((victim, &frame), (Kind::Put, body), outputs)?;
            mine.copied.push(Copied { victim: number, ..copy });
        }
        Ok(())
    }

    /// The frame of a put, if it is current.
    fn current<'v>(
        &self,
        guard: &Guard,
        victim: &'v FileSegment,
        slot: SlotNumber,
        body: SlotBody,
    ) -> Result<Option<Frame<'v>>, Stopped> {
        let hash = KeyHash(body.key_hash);
        let address = victim.address(body.offset);
        if !self.engine.may_be_current(guard, hash, address) {
            return Ok(None);
        }
        let Ok(frame) = victim.committed_frame(slot) else {
            // Its id cannot be read; but if it is in the index, it counts.
            let counts = self.engine.leads_to(guard, victim, body);
            return if counts { Err(self.damaged(victim)) } else { Ok(None) };
        };
        if !self.engine.is_current(guard, Key { hash, id: frame.id() }, address) {
            return Ok(None);
        }
        // The copy gets a checksum of its own, so what it is made of has to be right. And a segment
        // is emptied once: who was there before has left nothing that counts.
        if victim.has_moves() || victim.verify(&frame).is_err() {
            return Err(self.damaged(victim));
        }
        Ok(Some(frame))
    }

    pub(super) fn copy_frame(
        &self,
        (from, frame): (&FileSegment, &Frame<'_>),
        (kind, body): (Kind, SlotBody),
        outputs: &Mutex<&mut Outputs>,
    ) -> Result<Copied, Stopped> {
        loop {
            let output = self.output(kind, &mut lock(outputs))?;
            if let Some(copy) = self.engine.copy_record((from, frame), kind, body, &output)? {
                return Ok(Copied { victim: 0, output, copy });
            }
            let mut outputs = lock(outputs);
            // Unless another thread was faster.
            let full = outputs.place(kind).take_if(|now| Arc::ptr_eq(now, &output));
            outputs.ended.extend(full);
        }
    }

    /// The segment for copies of this kind; made if need be, and named before it is used.
    fn output(&self, kind: Kind, outputs: &mut Outputs) -> Result<Arc<FileSegment>, Error> {
        if let Some(output) = outputs.place(kind) {
            return Ok(Arc::clone(output));
        }
        let made = outputs.next.take().map_or_else(|| self.make_output(outputs), Ok);
        let made = match (made, outputs.open()) {
            // Better together than not at all.
            (Err(Error::StorageFull), Some(other)) => other,
            (made, _) => made?,
        };
        *outputs.place(kind) = Some(Arc::clone(&made));
        if let Err(error) = self.catalog.update(self.engine) {
            // Nobody is to come back to one that is not named, but who has it named first.
            let unnamed = outputs.place(kind).take();
            outputs.ended.extend(unnamed.filter(|unnamed| unnamed.taken().slots > 0));
            return Err(error);
        }
        Ok(made)
    }

    /// One that was made before and could not be named, or a new one: while no manifest can be
    /// written, each try would leave another one.
    fn make_output(&self, outputs: &Outputs) -> Result<Arc<FileSegment>, Error> {
        let guard = self.engine.epoch().pin();
        let unused = self.unused_outputs(&guard, outputs).pop();
        unused.map_or_else(|| self.engine.log().make_for_copies(&guard), Ok)
    }

    /// Those that were made before and could not be named.
    fn unused_outputs(&self, guard: &Guard, outputs: &Outputs) -> Vec<Arc<FileSegment>> {
        let unused = |segment: &FileSegment| {
            segment.role() == Role::Copies && segment.is_own() && segment.taken().slots == 0
        };
        let mut unused = self.engine.log().in_use_counted(guard, unused);
        unused.retain(|segment| !outputs.hold(segment));
        unused
    }

    /// Drops them, once a run has ended well that had no need of them.
    pub(super) fn drop_unused_outputs(&self, outputs: &Outputs) -> Result<(), Error> {
        let unused = self.unused_outputs(&self.engine.epoch().pin(), outputs);
        unused.iter().try_for_each(|segment| self.finish_one(segment, false))
    }

    /// Step 3: what was copied is on the device before anything leads to it.
    pub(super) fn flush_outputs(&self, outputs: &Outputs) -> Result<(), Error> {
        outputs.all().try_for_each(|output| self.durability.flush_copies(output))
    }

    /// Step 4. Nothing in it can fail.
    pub(super) fn move_all(&self, victims: &[Arc<FileSegment>], group: &Group) {
        let copied = &group.copied;
        let mut moves: Vec<Moves<_>> = victims.iter().map(|_| Moves::default()).collect();
        for copied in copied.iter().filter(|copied| copied.copy.kind == Kind::Put) {
            if let Some(moves) = moves.get_mut(copied.victim) {
                moves.add(copied.copy.from, &copied.output, copied.copy.to);
            }
        }
        for (victim, moves) in victims.iter().zip(moves) {
            victim.set_moves(moves);
        }
        for expired in &group.expired {
            let guard = self.engine.epoch().pin();
            let Some(victim) = victims.get(expired.victim) else { continue };
            let Ok(frame) = victim.committed_frame(expired.slot) else { continue };
            let key = Key { hash: KeyHash(expired.body.key_hash), id: frame.id() };
            self.engine.expire(&guard, key, victim, expired.body);
        }
        let parts = Mutex::new(copied.chunks(RECORDS_A_PIN));
        together(self.hands(), || {
            loop {
                let Some(part) = lock(&parts).next() else { return };
                let guard = self.engine.epoch().pin();
                for copied in part {
                    if let Some(victim) = victims.get(copied.victim) {
                        self.engine.move_record(&guard, &copied.copy, victim, &copied.output);
                    }
                }
            }
        });
    }

    /// Closes the segments that took copies: they take no more, and return what is empty between
    /// their slots and their frames.
    pub(super) fn finish_outputs(&self, outputs: &mut Outputs) -> Result<(), Error> {
        let open = [outputs.records.take(), outputs.tombstones.take(), outputs.next.take()];
        outputs.ended.extend(open.into_iter().flatten());
        self.finish_ended(outputs)
    }

    /// The same for the segment of tombstones alone, so that it can be looked through again.
    pub(super) fn close_tombstones(&self, outputs: &mut Outputs) -> Result<(), Error> {
        outputs.ended.extend(outputs.tombstones.take());
        self.finish_ended(outputs)
    }

    /// The same for those that are full. One in which no copy came into force is dropped.
    pub(super) fn finish_ended(&self, outputs: &mut Outputs) -> Result<(), Error> {
        let mut done = Ok(());
        while let Some(output) = outputs.ended.last().cloned() {
            let shared = outputs.open_ones().any(|open| Arc::ptr_eq(open, &output));
            if !shared {
                // Whatever became of another one: nobody comes back to one that stays open, and
                // what dies in it would stay on disk.
                let its = self.finish_one(&output, outputs.in_force.contains(&output.sequence()));
                done = done.and(its);
                outputs.in_force.remove(&output.sequence());
            }
            outputs.ended.retain(|ended| !Arc::ptr_eq(ended, &output));
        }
        done
    }

    fn finish_one(&self, output: &Arc<FileSegment>, in_force: bool) -> Result<(), Error> {
        if output.is_dropped() {
            return Ok(());
        }
        output.close();
        if in_force {
            return self.durability.sync_copies(output);
        }
        let covered = self.durability.cover(self.engine, Lsn::ZERO)?;
        self.drop_segments(&[Arc::clone(output)], covered)
    }
}

impl Outputs {
    fn place(&mut self, kind: Kind) -> &mut Option<Arc<FileSegment>> {
        match kind {
            Kind::Put => &mut self.records,
            Kind::Tombstone => &mut self.tombstones,
        }
    }

    /// Whether the live records of these segments fit what is left in the open one for records.
    fn have_room_for(&self, victims: &[Arc<FileSegment>], capacity: u64) -> bool {
        let sum = |of: fn(&FileSegment) -> u64| victims.iter().map(|v| of(v)).sum::<u64>();
        let live = sum(|v| v.live_bytes().saturating_sub(v.expired_bytes()));
        let slots = sum(|v| u64::from(v.slots_end()));
        let wanted = live + slots.min(live / UNIT_BYTES as u64) * SLOT_BYTES as u64;
        let left = |open: &Arc<FileSegment>| {
            let taken = open.taken();
            let directory = open.geometry().directory_at as u64 + taken.slots * SLOT_BYTES as u64;
            capacity.saturating_sub(directory + taken.units * UNIT_BYTES as u64)
        };
        wanted <= self.records.as_ref().map_or(0, left)
    }

    /// One that is open, whichever.
    fn open(&self) -> Option<Arc<FileSegment>> {
        self.open_ones().find(|output| !output.is_full()).cloned()
    }

    /// Notes where copies came into force.
    pub(super) fn note_in_force(&mut self, copied: &[Copied]) {
        self.in_force.extend(copied.iter().map(|copied| copied.output.sequence()));
    }

    fn open_ones(&self) -> impl Iterator<Item = &Arc<FileSegment>> {
        self.records.iter().chain(&self.tombstones)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().chain(&self.next).next().is_none()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<FileSegment>> {
        self.open_ones().chain(&self.ended)
    }

    fn hold(&self, segment: &Arc<FileSegment>) -> bool {
        self.all().chain(&self.next).any(|held| Arc::ptr_eq(held, segment))
    }
}
