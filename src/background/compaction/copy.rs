//! Copying the current records of a group, and moving readers and writers over to the copies.

use super::outputs::{Copied, Outputs};
use super::tombstones::{TombstoneCandidate, sound_frame};
use super::{Compactor, DiskSegment, Group, RECORDS_A_PIN, RateLimit, Stopped, run_on};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{Arc, Mutex};
use crate::engine::Key;
use crate::format::ids::SlotNumber;
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::index::KeyHash;
use crate::memory::MmapMemory;
use crate::segment::{ForwardingTable, Frame, ReadAhead, SlotIter};

/// What is left of a group to be copied, in parts that are handled under one pin each.
#[derive(Default)]
struct Parts<'a> {
    victims: &'a [Arc<DiskSegment>],
    number: usize,
    slots: Option<SlotIter<'a, MmapMemory>>,
    ahead: ReadAhead,
}

/// Which segment of the group, and some of its slots.
type CopyPart<'a> = (usize, &'a Arc<DiskSegment>, Vec<(SlotNumber, SlotState)>);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Option<CopyPart<'a>> {
        loop {
            let victim = self.victims.get(self.number)?;
            let slots = self
                .slots
                .get_or_insert_with(|| victim.directory().slots(victim.filling().slots_end()));
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
pub(super) fn void_copies(copied: &[Copied]) {
    for copy in copied {
        copy.output.directory().decide_copy(copy.copy.slot, false);
    }
}

impl Compactor<'_> {
    /// Something in a segment is damaged that may count: it stays as it is.
    pub(super) fn quarantine(&self, victim: &DiskSegment) -> Stopped {
        self.core.engine.log().quarantine(victim, false);
        Stopped::Damaged
    }

    /// Has segments back in which something damaged has counted, and does not any more: its id was
    /// overwritten or removed.
    pub(super) fn end_quarantines(&self) {
        let quarantined = {
            let guard = self.core.engine.epoch().pin();
            self.core
                .engine
                .log()
                .in_use_arcs(&guard, |segment| segment.reclamation().may_leave_quarantine())
        };
        for segment in quarantined {
            if self.may_end_quarantine(&segment) {
                self.core.engine.log().end_quarantine(&segment);
            }
        }
    }

    /// Returns whether nothing damaged in a segment counts, as far as its emptying would find out.
    fn may_end_quarantine(&self, segment: &Arc<DiskSegment>) -> bool {
        let mut slots = segment.directory().slots(segment.filling().slots_end());
        let mut removals = Vec::new();
        loop {
            let guard = self.core.engine.epoch().pin();
            let mut more = false;
            for (slot, state) in slots.by_ref().take(RECORDS_A_PIN) {
                more = true;
                let sound = match state {
                    SlotState::Committed(Kind::Put, body) => {
                        self.current(&guard, segment, slot, body).is_ok()
                    }
                    SlotState::Committed(Kind::Tombstone, body) => {
                        if sound_frame(segment, slot).is_none() {
                            removals.push(TombstoneCandidate { victim: 0, slot, body });
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
        victims: &[Arc<DiskSegment>],
        outputs: &mut Outputs,
        group: &mut Group,
    ) -> Result<(), Stopped> {
        // Copies that are taken back stay in the way of others: the room comes first.
        if outputs.next.is_none() && !outputs.have_room_for(victims, self.capacity()) {
            let next = self.make_output(outputs)?;
            outputs.next = Some(next);
        }
        let parts = Mutex::new(Parts { victims, ..Parts::default() });
        let (outputs, limit) = (Mutex::new(outputs), RateLimit::default());
        let mut done = Ok(());
        for (some, its_done) in run_on(self.workers(), || self.copy_parts(&parts, &outputs, &limit))
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
        limit: &RateLimit,
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
            self.keep_rate(limit, fresh.map(|copied| copied.copy.len.bytes() as u64).sum());
        }
    }

    fn copy_part(
        &self,
        (number, victim, part): CopyPart<'_>,
        outputs: &Mutex<&mut Outputs>,
        mine: &mut Group,
    ) -> Result<(), Stopped> {
        if self.is_stopped() {
            return Err(Stopped::Asked);
        }
        let guard = self.core.engine.epoch().pin();
        for (slot, state) in part {
            let body = match state {
                SlotState::Committed(Kind::Put, body) => body,
                state if state.is_lost() => return Err(self.quarantine(victim)),
                _ => continue,
            };
            let Some(frame) = self.current(&guard, victim, slot, body)? else { continue };
            let (hash, address) = (KeyHash(body.key_hash), victim.address(body.offset));
            if frame.has_expired() || self.core.engine.is_removed_at(&guard, hash, address) {
                mine.expired.push(TombstoneCandidate { victim: number, slot, body });
                continue;
            }
            // Before there is a copy [M2].
            victim.tags().clear_forward(body.offset);
            let copy = self.copy_frame((victim, &frame), (Kind::Put, body), outputs)?;
            mine.copied.push(Copied { victim: number, ..copy });
        }
        Ok(())
    }

    /// The frame of a put, if it is current.
    fn current<'v>(
        &self,
        guard: &Guard,
        victim: &'v DiskSegment,
        slot: SlotNumber,
        body: SlotBody,
    ) -> Result<Option<Frame<'v>>, Stopped> {
        let hash = KeyHash(body.key_hash);
        let address = victim.address(body.offset);
        if !self.core.engine.may_be_current(guard, hash, address) {
            return Ok(None);
        }
        let Ok(frame) = victim.committed_frame(slot) else {
            // Its id cannot be read; but if it is in the index, it counts.
            let counts = self.core.engine.resolves_to(guard, victim, body);
            return if counts { Err(self.quarantine(victim)) } else { Ok(None) };
        };
        if !self.core.engine.resolve_current(guard, Key { hash, id: frame.id() }, address) {
            return Ok(None);
        }
        // The copy gets a checksum of its own, so what it is made of has to be right. And a segment
        // is emptied once: who was there before has left nothing that counts.
        if victim.tags().has_forwarding() || victim.verify(&frame).is_err() {
            return Err(self.quarantine(victim));
        }
        Ok(Some(frame))
    }

    /// Step 4. Nothing in it can fail.
    pub(super) fn move_all(&self, victims: &[Arc<DiskSegment>], group: &Group) {
        let copied = &group.copied;
        let mut forwarding: Vec<ForwardingTable<_>> =
            victims.iter().map(|_| ForwardingTable::default()).collect();
        for copied in copied.iter().filter(|copied| copied.copy.kind == Kind::Put) {
            if let Some(forwarding) = forwarding.get_mut(copied.victim) {
                forwarding.add(copied.copy.from, &copied.output, copied.copy.to);
            }
        }
        for (victim, forwarding) in victims.iter().zip(forwarding) {
            victim.tags().set_forwarding(forwarding);
        }
        for expired in &group.expired {
            let guard = self.core.engine.epoch().pin();
            let Some(victim) = victims.get(expired.victim) else { continue };
            let Ok(frame) = victim.committed_frame(expired.slot) else { continue };
            let key = Key { hash: KeyHash(expired.body.key_hash), id: frame.id() };
            self.core.engine.expire(&guard, key, victim, expired.body);
        }
        let parts = Mutex::new(copied.chunks(RECORDS_A_PIN));
        run_on(self.workers(), || {
            loop {
                let Some(part) = lock(&parts).next() else { return };
                let guard = self.core.engine.epoch().pin();
                for copied in part {
                    if let Some(victim) = victims.get(copied.victim) {
                        self.core.engine.move_record(&guard, &copied.copy, victim, &copied.output);
                    }
                }
            }
        });
    }
}
