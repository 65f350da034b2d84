//! Conditional writes, and others that say whether a record was there.

use super::{Answer, Fate, Id, Model, Write, WriteId};
use stratalog::{Condition, Lsn};

/// Bits of an LSN below the number of its segment.
const SLOT_BITS: u32 = 24;

impl Model {
    /// Judges a conditional write that did not take effect because of `current`.
    pub fn judge_condition(
        &mut self,
        id: Id,
        begun: u64,
        condition: Condition,
        current: Option<Lsn>,
    ) {
        let holds = match condition {
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Lsn(lsn) => current == Some(lsn),
            _ => false,
        };
        if self.is_excused() {
            return;
        }
        if holds {
            self.complain(format!("id {id}: {condition:?} failed, but it holds of {current:?}"));
        }
        let Some(lsn) = current else { return self.end_read(id, begun, Answer::Nothing) };
        let is_it = |write: &Write| {
            let has = write.lsn.map_or(lsn <= write.at_most, |its| its == lsn);
            write.may_be_seen() && !write.is_removal && has
        };
        if !self.of(id).any(is_it) {
            self.complain(format!("id {id}: a condition saw {lsn}, which it never had"));
        }
        let newer =
            |write: &Write| write.fate == Fate::Done && write.ended < begun && write.lsn > current;
        if self.of(id).any(newer) {
            self.complain(format!("id {id}: a condition saw {current:?}, which is too old"));
        }
    }

    /// Judges a write that took effect because its condition held.
    pub fn judge_held(
        &mut self,
        (id, write): (Id, WriteId),
        begun: u64,
        condition: Condition,
        lsn: Lsn,
    ) {
        let others = || self.of(id).filter(|other| other.begun != self.writes[write].begun);
        let held = match condition {
            Condition::Absent => !others().any(|put| self.is_present(put, begun)),
            Condition::Present => others().any(|put| self.may_be_present(put, begun)),
            Condition::Lsn(at) => {
                let holds = |put: &Write| put.lsn.is_none_or(|its| its == at);
                let newer = |other: &Write| {
                    other.fate == Fate::Done && other.ended < begun && other.lsn > Some(at)
                };
                at < lsn
                    && others().any(|put| holds(put) && self.may_be_present(put, begun))
                    && !others().any(newer)
            }
            _ => true,
        };
        if !held && self.is_judged(id) {
            self.complain(format!(
                "id {id}: write {write} ({lsn}) took effect under {condition:?}"
            ));
        }
    }

    /// Judges a call that began at this moment and has found a record.
    pub fn judge_present(&mut self, what: &str, id: Id, begun: u64) {
        let is_there = self.of(id).any(|put| self.may_be_present(put, begun));
        if !is_there && self.is_judged(id) {
            self.complain(format!("{what} has found id {id}, which was not there"));
        }
    }

    /// Where somebody sets the time of day, what expires may come back.
    fn is_judged(&self, id: Id) -> bool {
        let comes_back = self.sets_clock && self.may_expire(id);
        !self.is_excused() && !comes_back
    }

    /// Returns whether this put makes it certain that the id had a record from this moment until
    /// now.
    fn is_present(&self, put: &Write, begun: u64) -> bool {
        let ends = |other: &Write| {
            let ends = other.is_removal || other.lifetime.is_some();
            ends && other.may_be_seen() && !other.is_older(put)
        };
        put.fate == Fate::Done
            && put.ended < begun
            && !put.is_removal
            && !self.may_have_expired(put)
            && !self.of(put.id).filter(|other| other.begun != put.begun).any(ends)
    }

    /// Returns whether this may have been the id's record at some moment since this one.
    fn may_be_present(&self, put: &Write, begun: u64) -> bool {
        let ends = |other: &Write| {
            other.is_removal
                && other.fate == Fate::Done
                && other.ended < begun
                && put.is_older(other)
        };
        !put.is_removal
            && put.may_be_seen()
            && !self.has_expired(put, begun)
            && !self.of(put.id).any(ends)
    }

    /// Returns whether a write was replaced or removed, for certain, before this moment.
    #[must_use]
    pub fn is_gone(&self, write: WriteId, at: u64) -> bool {
        let Some(write) = self.writes.get(write) else { return false };
        let replaces =
            |other: &Write| other.fate == Fate::Done && other.ended < at && write.is_older(other);
        // What an opening did not show, because it had expired, may be there again.
        let comes_back = self.sets_clock && write.lifetime.is_some();
        !comes_back && write.fate == Fate::Done && self.of(write.id).any(replaces)
    }

    /// Returns whether a segment may hold a removal, or a record that expires.
    #[must_use]
    pub fn may_hold_removals(&self, sequence: u64) -> bool {
        let is_in = |write: &Write| match write.fate {
            Fate::Done => write.lsn.unwrap_or(write.at_most).as_u64() >> SLOT_BITS == sequence,
            // Where it was written nobody knows.
            _ => true,
        };
        self.writes.iter().any(|write| {
            (write.is_removal || write.lifetime.is_some()) && write.may_be_seen() && is_in(write)
        })
    }
}
