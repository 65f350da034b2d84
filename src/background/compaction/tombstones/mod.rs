//! When a tombstone may go: as soon as no segment that stays holds an older version of its id, and
//! those that did are given up in the same step, or were before.
//!
//! Found out by looking: the directories of all other segments are walked for the key hashes of the
//! group's tombstones. 32 bytes a record, read in order; a record with an equal hash keeps the
//! tombstone, be it another id's.

use super::outputs::Outputs;
use super::{Compactor, DiskSegment, Group, RECORDS_A_PIN, Stopped, run_on};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{Arc, Mutex};
use crate::engine::Key;
use crate::format::ids::{Lsn, SlotNumber};
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::index::KeyHash;
use crate::memory::Memory;
use crate::segment::{Frame, Segment};
use std::collections::HashMap;

/// A tombstone of a victim, or a record that has expired or that something damaged has replaced;
/// nothing newer has taken its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct TombstoneCandidate {
    /// Which segment of the group.
    pub(super) victim: usize,
    pub(super) slot: SlotNumber,
    pub(super) body: SlotBody,
}

impl Compactor<'_> {
    /// Step 2 for tombstones, after the records.
    pub(super) fn copy_tombstones(
        &self,
        victims: &[Arc<DiskSegment>],
        outputs: &Mutex<&mut Outputs>,
        group: &mut Group,
    ) -> Result<(), Stopped> {
        let mut candidates = self.tombstones_of(victims);
        candidates.extend(&group.expired);
        if candidates.is_empty() {
            return Ok(());
        }
        let needed = self.needed(victims, &candidates);
        for candidate in candidates {
            if !needed.get(&candidate.body.key_hash).is_some_and(|(_, needed)| *needed) {
                continue;
            }
            let Some(victim) = victims.get(candidate.victim) else { continue };
            let Some(frame) = sound_frame(victim, candidate.slot) else {
                return Err(self.quarantine(victim));
            };
            let what = (Kind::Tombstone, candidate.body);
            let mut copy = self.copy_frame((victim, &frame), what, outputs)?;
            copy.victim = candidate.victim;
            group.copied.push(copy);
        }
        Ok(())
    }

    /// Damaged ones are among them: the hash in the slot tells whether anything older is left that
    /// it hides.
    ///
    /// So is what has expired in a segment that was emptied before and not dropped: the index has
    /// let go of it, and what it hides may have been in the same group then, and is not now.
    fn tombstones_of(&self, victims: &[Arc<DiskSegment>]) -> Vec<TombstoneCandidate> {
        let mut candidates = Vec::new();
        for (victim, segment) in victims.iter().enumerate() {
            let mut guard = self.core.engine.epoch().pin();
            for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
                let body = match state {
                    SlotState::Committed(Kind::Tombstone, body) => body,
                    SlotState::Committed(Kind::Put, body)
                        if segment.tags().has_forwarding() && has_expired(segment, slot, body) =>
                    {
                        body
                    }
                    _ => continue,
                };
                if candidates.len() % RECORDS_A_PIN == 0 {
                    drop(guard);
                    guard = self.core.engine.epoch().pin();
                }
                let superseded = sound_frame(segment, slot).is_some_and(|frame| {
                    let key = Key { hash: KeyHash(body.key_hash), id: frame.id() };
                    self.is_superseded(&guard, key, segment, body)
                });
                if !superseded {
                    candidates.push(TombstoneCandidate { victim, slot, body });
                }
            }
        }
        candidates
    }

    /// Returns whether damaged tombstones of a segment may hide something in another one.
    pub(super) fn may_hide(
        &self,
        segment: &Arc<DiskSegment>,
        damaged: &[TombstoneCandidate],
    ) -> bool {
        let needed = || self.needed(std::slice::from_ref(segment), damaged);
        !damaged.is_empty() && needed().values().any(|(_, needed)| *needed)
    }

    /// Returns whether the index has another version of the id. That it has none says nothing:
    /// tombstones leave it before they leave the disk.
    fn is_superseded(
        &self,
        guard: &Guard,
        key: Key<'_>,
        segment: &DiskSegment,
        body: SlotBody,
    ) -> bool {
        let address = segment.address(body.offset);
        !self.core.engine.resolve_current(guard, key, address)
            && self.core.engine.has_live(guard, key)
    }

    /// For each key hash among the candidates: the highest LSN of its tombstones, and whether a
    /// segment that stays may hold an older version.
    fn needed(
        &self,
        victims: &[Arc<DiskSegment>],
        candidates: &[TombstoneCandidate],
    ) -> HashMap<u64, (Lsn, bool)> {
        let others = {
            let guard = self.core.engine.epoch().pin();
            let stays = |s: &DiskSegment| !victims.iter().any(|v| std::ptr::eq(&**v, s));
            self.core.engine.log().in_use_arcs(&guard, stays)
        };
        // A segment that could not be read may come back, with whatever it holds.
        let unknown = !self.core.live_manifest.missing().is_empty();
        let mut wanted = HashMap::new();
        for candidate in candidates {
            let entry = wanted.entry(candidate.body.key_hash).or_insert((Lsn::ZERO, unknown));
            entry.0 = entry.0.max(candidate.body.lsn);
        }
        for other in &others {
            note_older(other, &mut wanted);
        }
        wanted
    }

    /// Step 4, the end: the index lets go of what still leads into the victims: tombstones that go,
    /// records that have expired, and entries that stand for nothing, left where a conditional
    /// write was voided. `false` if something is left: then they cannot be given up.
    pub(super) fn remove_index_entries(&self, victims: &[Arc<DiskSegment>]) -> bool {
        let victims = Mutex::new(victims.iter());
        let forget = || {
            loop {
                let Some(victim) = lock(&victims).next() else { return true };
                if !self.forget_one(victim) {
                    return false;
                }
            }
        };
        !run_on(self.workers(), forget).contains(&false)
    }

    fn forget_one(&self, victim: &DiskSegment) -> bool {
        let mut slots = victim.directory().slots(victim.filling().slots_end());
        loop {
            let guard = self.core.engine.epoch().pin();
            let mut more = false;
            for (slot, _) in slots.by_ref().take(RECORDS_A_PIN * 16) {
                more = true;
                let body = victim.directory().body_of(slot);
                if self.core.engine.resolves_to(&guard, victim, body) {
                    let key = Key { hash: KeyHash(body.key_hash), id: &[] };
                    self.core.engine.drop_tombstones(&guard, key);
                    if self.core.engine.resolves_to(&guard, victim, body) {
                        return false;
                    }
                }
            }
            if !more {
                return true;
            }
        }
    }
}

/// The frame of a slot, if it is as it was written.
pub(super) fn sound_frame(segment: &DiskSegment, slot: SlotNumber) -> Option<Frame<'_>> {
    segment.committed_frame(slot).ok().filter(|frame| segment.verify(frame).is_ok())
}

/// Returns whether the record of a slot is whole, and its time is over.
fn has_expired(segment: &DiskSegment, slot: SlotNumber, body: SlotBody) -> bool {
    let over = || segment.committed_frame(slot).is_ok_and(|frame| frame.has_expired());
    body.expires && over() && sound_frame(segment, slot).is_some()
}

/// Returns whether slots are lost of a segment that is damaged as a whole: what they said of ids
/// and LSNs is not known. Where the header is lost, too, nothing says how many there were.
fn has_lost_slots<M: Memory>(segment: &Segment<M>) -> bool {
    let for_good =
        segment.reclamation().is_quarantined() && !segment.reclamation().may_leave_quarantine();
    let lost = || {
        segment.directory().slots(segment.filling().slots_end()).any(|(_, state)| state.is_lost())
    };
    for_good && (segment.filling().slots_end() == 0 || lost())
}

/// Notes for which keys a segment holds a version older than the tombstone, or may yet.
fn note_older<M: Memory>(segment: &Segment<M>, wanted: &mut HashMap<u64, (Lsn, bool)>) {
    if !segment.filling().is_quiet() {
        // A writer may be at work there on a version that is older than the tombstone.
        for (lsn, needed) in wanted.values_mut() {
            *needed |= segment.sequence() <= lsn.sequence();
        }
    }
    if has_lost_slots(segment) {
        // Its file may be put back, with whatever they said: as one that could not be read.
        wanted.values_mut().for_each(|(_, needed)| *needed = true);
    }
    for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
        if matches!(state, SlotState::Void | SlotState::Batch(..)) {
            continue;
        }
        let body = segment.directory().body_of(slot);
        if let Some((lsn, needed)) = wanted.get_mut(&body.key_hash) {
            *needed |= body.lsn < *lsn || state == SlotState::Invalid;
        }
    }
}

#[cfg(test)]
mod tests;
