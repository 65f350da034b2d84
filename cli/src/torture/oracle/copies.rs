//! The judgement of backups. One holds exactly what was written up to one LSN, at a moment between
//! its beginning and its end:
//!
//! - B1: it is judged as an opening is, by what was acknowledged before it began.
//! - B2: nothing is in it that began after it had ended, no update of a tag either.
//! - B3: of all that is in it, the highest LSN binds: a put that returned a lower one is in it, or
//!   what overwrote it.
//! - B4: a batch of which one write is in it is in it as a whole.
//! - B5: what is in it was in the store, so it has happened: the opening after the kill shows it.
//! - B6: one that has returned is there.
//! - B7: a put that had not returned when it began may be in it with a lower LSN than the put
//!   returns, if that one is above all of the backup: a newer conditional write of the id had the
//!   put appended again (DESIGN 4.2, W3), and the backup ends between the two.

use super::{Kind, Op, Oracle, PENDING, Violation, wrong};
use crate::torture::value::{Found, Key, Span, Version};
use std::collections::{HashMap, HashSet};

impl Oracle {
    /// Returns whether a backup has returned.
    pub fn has_finished(&self, number: u64) -> bool {
        self.copies.get(&number).is_some_and(|(_, ended)| *ended != PENDING)
    }

    /// The backups that have returned, and of which not so many came after them.
    pub fn copies_due(&self, kept: u64) -> Vec<u64> {
        let last = self.copies.keys().next_back().map_or(0, |last| *last);
        let all = self.copies.keys().copied();
        all.filter(|number| self.has_finished(*number) && number + kept > last).collect()
    }

    /// Judges what a backup holds of every key, and takes note of it.
    pub fn judge_copy(&mut self, number: u64, found: &[(Key, Found, Span)]) -> Vec<Violation> {
        let Some(&(began, ended)) = self.copies.get(&number) else {
            return vec![wrong(Key(u32::MAX), format!("backup {number} was never begun"))];
        };
        let seen: HashSet<Version> =
            found.iter().filter_map(|(_, found, _)| found.version()).collect();
        let places = self.places();
        let members = self.members_of_batches(&seen);
        let past = self.as_of((began, ended), found, &members, &places);
        let mut violations = Vec::new();
        for &(key, found, span) in found {
            if let Err(violation) = past.judge_at(key, found, began, span) {
                let what = format!("backup {number}: {}", violation.what);
                violations.push(Violation { what, ..violation });
            }
        }
        // [B5]
        let position = self.position;
        for version in seen.into_iter().chain(members) {
            if let Some(&(key, place)) = places.get(&version) {
                let op = &mut self.ops[key.0 as usize][place];
                op.end = op.end.min(position);
            }
        }
        violations
    }

    /// B6, of a backup that is not there.
    pub fn copy_is_gone(number: u64) -> Violation {
        let what = format!("backup {number} had returned, and is gone");
        Violation { kind: Kind::Lost, key: Key(u32::MAX), what }
    }

    fn places(&self) -> HashMap<Version, (Key, usize)> {
        let mut places = HashMap::new();
        for key in self.keys.all() {
            let ops = self.ops(key).iter().enumerate();
            places.extend(ops.map(|(place, op)| (op.version, (key, place))));
        }
        places
    }

    /// All writes of the batches of which one was seen.
    fn members_of_batches(&self, seen: &HashSet<Version>) -> Vec<Version> {
        let all = self.batches.iter().chain(&self.wrote);
        let members = |(first, count): (&Version, &u64)| {
            let first = first.0;
            (first..first + *count).map(Version)
        };
        all.map(members).filter(|m| m.clone().any(|v| seen.contains(&v))).flatten().collect()
    }

    /// What was known when a backup ended, and what its own contents prove.
    fn as_of(
        &self,
        (began, ended): (u64, u64),
        found: &[(Key, Found, Span)],
        members: &[Version],
        places: &HashMap<Version, (Key, usize)>,
    ) -> Self {
        let mut past = self.clone();
        let prove = |op: &mut Op| op.proven = true;
        for version in members {
            if let Some(&(key, place)) = places.get(version) {
                prove(&mut past.ops[key.0 as usize][place]);
            }
        }
        let reached = found.iter().filter_map(|(_, found, _)| found.lsn()).max().unwrap_or(0);
        for ops in &mut past.ops {
            ops.retain(|op| op.begin <= ended);
            ops.iter_mut().filter(|op| op.lsn.is_some_and(|lsn| lsn <= reached)).for_each(prove);
            // [B7]
            ops.iter_mut().filter(|op| op.end > began && !op.proven).for_each(|op| op.lsn = None);
        }
        for bumps in &mut past.bumps {
            bumps.retain(|bump| bump.begin <= ended);
        }
        past
    }
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
