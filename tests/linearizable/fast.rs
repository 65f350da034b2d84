//! A check of long histories. Every write answers with its LSN, which claims an order of the
//! versions of an id; so nothing has to be searched for: with the order given, each version has an
//! earliest and a latest moment at which it can have come, by its own call and by all that read it,
//! and the order holds if the earliest of none is after the latest of one behind it. For puts,
//! conditional puts and reads of records this is exact. Removals do not tell their LSN; of them,
//! and of answers that there is nothing, necessary conditions are checked.

use super::record::{Call, Event, Only};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A version, with the moments between which it must have come.
#[derive(Clone, Copy, Debug)]
struct Version {
    lsn: u64,
    value: u64,
    earliest: u64,
    latest: u64,
    only: Only,
    /// Whether anybody saw it.
    seen: bool,
}

/// What is known of an id when recording begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    /// LSN and value, if it is there.
    pub record: Option<(u64, u64)>,
}

struct Check<'a> {
    versions: Vec<Version>,
    events: &'a [Event],
    /// Whether some versions are missing, because nothing tells their LSN.
    incomplete: bool,
}

/// Judges all that happened to one id.
pub fn check(events: &[Event], before: Before) -> Result<(), String> {
    let mut versions = Vec::new();
    let mut incomplete = false;
    if let Some((lsn, value)) = before.record {
        let (earliest, latest, only, seen) = (0, 0, Only::Always, true);
        versions.push(Version { lsn, value, earliest, latest, only, seen });
    }
    for event in events {
        match event.call {
            Call::Wrote { lsn: Some(lsn), value, only } => {
                let (earliest, latest) = (event.begin, event.end);
                versions.push(Version { lsn, value, earliest, latest, only, seen: false });
            }
            Call::Wrote { lsn: None, .. } => incomplete = true,
            _ => {}
        }
    }
    versions.sort_unstable_by_key(|version| version.lsn);
    if let Some(pair) = versions.windows(2).find(|pair| pair[0].lsn == pair[1].lsn) {
        return Err(format!("one LSN twice: {pair:?}"));
    }
    let mut check = Check { versions, events, incomplete };
    check.reads()?;
    check.order()?;
    check.conditions()?;
    check.absences(before)?;
    check.removals(before)?;
    check.tags()
}

impl Check<'_> {
    fn at(&self, lsn: u64) -> Option<usize> {
        self.versions.binary_search_by_key(&lsn, |version| version.lsn).ok()
    }

    /// Who read a version read it after it had come and before the next one had.
    fn reads(&mut self) -> Result<(), String> {
        for event in self.events {
            let (lsn, value) = match event.call {
                Call::Saw { lsn, value, .. } => (lsn, Some(value)),
                Call::Refused { current: Some(lsn), .. } => (lsn, None),
                _ => continue,
            };
            let Some(at) = self.at(lsn) else {
                // A version of a batch that was never read has no known LSN.
                if value.is_none() && self.incomplete {
                    continue;
                }
                return Err(format!("nobody wrote what was read: {event:?}"));
            };
            if value.is_some_and(|value| value != self.versions[at].value) {
                return Err(format!("{event:?} is not {:?}", self.versions[at]));
            }
            let version = &mut self.versions[at];
            version.seen = true;
            version.latest = version.latest.min(event.end);
            if let Some(next) = self.versions.get_mut(at + 1) {
                next.earliest = next.earliest.max(event.begin);
            }
        }
        Ok(())
    }

    /// The order of LSNs agrees with time.
    fn order(&mut self) -> Result<(), String> {
        let mut last: Option<Version> = None;
        for version in &mut self.versions {
            let claimed = *version;
            if let Some(last) = last.filter(|last| last.earliest > version.earliest) {
                version.earliest = last.earliest;
                if version.earliest > version.latest {
                    return Err(format!("{claimed:?} cannot have come behind {last:?}"));
                }
            } else if version.earliest > version.latest {
                return Err(format!("it was overwritten and came after: {claimed:?}"));
            }
            last = Some(*version);
        }
        let mut latest = u64::MAX;
        for version in self.versions.iter_mut().rev() {
            latest = latest.min(version.latest);
            version.latest = latest;
        }
        Ok(())
    }

    /// What was put on a condition took the place of what it asked for. A plain put that nobody saw
    /// may have been absorbed: it came just before a newer plain one, behind the conditional one.
    fn conditions(&self) -> Result<(), String> {
        for (n, version) in self.versions.iter().enumerate() {
            let Only::If(lsn) = version.only else { continue };
            let before = self.versions[..n].iter().rev();
            let before = before.take_while(|other| other.lsn >= lsn);
            let before = before.filter(|other| other.seen || other.only != Only::Always);
            let others: Vec<_> = before.filter(|other| other.lsn != lsn).collect();
            if !others.is_empty() || !self.incomplete && self.at(lsn).is_none() {
                return Err(format!("{version:?} took the place of {others:?}"));
            }
        }
        for event in self.events {
            let Call::Refused { only, current } = event.call else { continue };
            let held = match only {
                Only::IfAbsent => current.is_none(),
                Only::IfPresent => current.is_some(),
                Only::If(lsn) => current == Some(lsn),
                Only::Always => true,
            };
            if held {
                return Err(format!("refused, although the condition held: {event:?}"));
            }
        }
        Ok(())
    }

    /// Where nothing was found, something had been removed since the last version that had
    /// certainly come, or none had.
    fn absences(&self, before: Before) -> Result<(), String> {
        let removals = self
            .events
            .iter()
            .filter(|event| matches!(event.call, Call::Removed(true) | Call::RemovedBlindly));
        let mut removals: Vec<_> = removals.map(|event| (event.begin, event.end)).collect();
        removals.sort_unstable();
        let mut last = 0;
        for (_, end) in &mut removals {
            last = last.max(*end);
            *end = last;
        }
        for event in self.events {
            let absent = match event.call {
                Call::SawNone | Call::Contains(false) | Call::Removed(false) => true,
                Call::Tagged(None) | Call::Refused { current: None, .. } => true,
                Call::Wrote { only, .. } => only == Only::IfAbsent,
                _ => false,
            };
            let come = self.versions.partition_point(|version| version.latest < event.begin);
            // A conditional put is no witness for itself.
            if !absent || come == 0 && before.record.is_none() {
                continue;
            }
            let since = come.checked_sub(1).map_or(0, |n| self.versions[n].earliest);
            let begun = removals.partition_point(|(begin, _)| *begin <= event.end);
            if begun.checked_sub(1).is_none_or(|n| removals[n].1 < since) {
                return Err(format!("nobody removed what was not there: {event:?}"));
            }
        }
        Ok(())
    }

    /// Of each version at most one removal says that it removed it.
    fn removals(&self, before: Before) -> Result<(), String> {
        if self.incomplete {
            return Ok(());
        }
        let removals = self.events.iter().filter(|event| event.call == Call::Removed(true));
        let mut spans: Vec<_> = removals
            .map(|event| {
                // The first version whose successor may not have come before the removal began.
                let next = self.versions.partition_point(|v| v.latest < event.begin);
                let first = next.saturating_sub(1);
                let end = self.versions.partition_point(|v| v.earliest <= event.end);
                (first, end, event)
            })
            .collect();
        spans.sort_unstable_by_key(|(first, ..)| *first);
        let mut waiting = BinaryHeap::new();
        let mut spans = spans.into_iter().peekable();
        let mut version = 0;
        while spans.peek().is_some() || !waiting.is_empty() {
            if waiting.is_empty() {
                version = version.max(spans.peek().map_or(0, |(first, ..)| *first));
            }
            while let Some((_, end, event)) = spans.next_if(|(first, ..)| *first <= version) {
                waiting.push(Reverse((end, event.begin)));
            }
            if let Some(Reverse((end, begin))) = waiting.pop()
                && end <= version
            {
                let what = format!("{} versions, {before:?}", self.versions.len());
                return Err(format!("the removal begun at {begin} had nothing to remove: {what}"));
            }
            version += 1;
        }
        Ok(())
    }

    /// The tag of a version only grows.
    fn tags(&self) -> Result<(), String> {
        let reads = self.events.iter().filter_map(|event| match event.call {
            Call::Saw { lsn, tag, .. } => Some((lsn, event.begin, event.end, tag)),
            _ => None,
        });
        let mut by_begin: Vec<_> = reads.collect();
        by_begin.sort_unstable();
        let mut by_end = by_begin.clone();
        by_end.sort_unstable_by_key(|(lsn, _, end, _)| (*lsn, *end));
        let (mut ended, mut highest, mut of) = (0, 0, 0);
        for (lsn, begin, _, tag) in by_begin {
            if lsn != of {
                (highest, of) = (0, lsn);
            }
            while let Some((other, _, end, earlier)) = by_end.get(ended)
                && (*other < lsn || *other == lsn && *end < begin)
            {
                if *other == lsn {
                    highest = highest.max(*earlier);
                }
                ended += 1;
            }
            if tag < highest {
                return Err(format!("the tag of {lsn} fell from {highest} to {tag}"));
            }
        }
        Ok(())
    }
}
