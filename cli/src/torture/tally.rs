//! What is counted: kills by what they interrupted, and all that was done and judged besides.

use super::event::{Event, UPKEEP};
use super::step::Steps;
use super::value::Version;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a child was at when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    Opening,
    Writing,
    Compacting,
    BackingUp,
    Closing,
    /// Opening again after a close.
    Reopening,
}

impl Place {
    pub fn of(events: &[Event]) -> Self {
        let (mut store, mut upkeep) = (None, None);
        for event in events {
            match event {
                Event::Opened | Event::Closing | Event::Closed => store = Some(event),
                Event::Compacting | Event::BackingUp(_) => upkeep = Some(event),
                Event::Compacted { .. } | Event::BackedUp(_) => upkeep = None,
                _ => {}
            }
        }
        match (store, upkeep) {
            (None, _) => Self::Opening,
            (Some(Event::Closing), _) => Self::Closing,
            (Some(Event::Closed), _) => Self::Reopening,
            (_, Some(Event::Compacting)) => Self::Compacting,
            (_, Some(_)) => Self::BackingUp,
            (_, None) => Self::Writing,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening",
            Self::Writing => "writing",
            Self::Compacting => "compacting",
            Self::BackingUp => "backing up",
            Self::Closing => "closing",
            Self::Reopening => "reopening",
        })
    }
}

/// Sums over all rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub kills: u64,
    /// Of those, by what the process was at.
    pub kills_while: BTreeMap<Place, u64>,
    /// Of those: while a write of this kind had begun, and not been acknowledged.
    pub kills_during: BTreeMap<&'static str, u64>,
    /// Kills of processes that were started only to be killed while they open.
    pub kills_reopening: u64,
    /// Of all kills: those at a step.
    pub steps: Steps,
    pub begun: u64,
    pub acknowledged: u64,
    pub batches: u64,
    pub refused: u64,
    /// Updates of a tag: begun, and acknowledged.
    pub tags_begun: u64,
    pub tags_acknowledged: u64,
    pub gets: u64,
    pub syncs: u64,
    /// By hand: compactions that returned, what they did, and backups likewise.
    pub compactions: u64,
    pub segments_removed: u64,
    pub records_moved: u64,
    pub backups: u64,
    /// Backups that were whole when a process was killed, and how many of them had not returned;
    /// each was judged, and had so many records.
    pub backups_checked: u64,
    pub backups_unfinished: u64,
    pub backup_records: u64,
    /// Openings by this process, each compared with the oracle.
    pub openings: u64,
    pub judged: u64,
    /// Of the keys judged: those that had a record.
    pub records: u64,
    /// Sum of their tags.
    pub tags: u64,
    /// Of those: how many were to expire; and keys that were gone because they had.
    pub expiring: u64,
    pub expired: u64,
    pub verified: u64,
    pub torn: u64,
    #[serde(skip)]
    pub opening_max: Duration,
    pub disk_bytes_max: u64,
    pub lost: u64,
    pub wrong: u64,
}

impl Tally {
    pub fn violations(&self) -> u64 {
        self.lost + self.wrong
    }

    /// Adds what another rig has counted.
    pub fn add(&mut self, other: &Self) {
        for (place, kills) in &other.kills_while {
            *self.kills_while.entry(*place).or_default() += kills;
        }
        for (what, kills) in &other.kills_during {
            *self.kills_during.entry(what).or_default() += kills;
        }
        self.steps.add(&other.steps);
        for (sum, more) in self.sums().into_iter().zip(other.clone().sums()) {
            *sum += *more;
        }
        self.opening_max = self.opening_max.max(other.opening_max);
        self.disk_bytes_max = self.disk_bytes_max.max(other.disk_bytes_max);
    }

    fn sums(&mut self) -> [&mut u64; 27] {
        [
            &mut self.kills,
            &mut self.kills_reopening,
            &mut self.begun,
            &mut self.acknowledged,
            &mut self.batches,
            &mut self.refused,
            &mut self.tags_begun,
            &mut self.tags_acknowledged,
            &mut self.gets,
            &mut self.syncs,
            &mut self.compactions,
            &mut self.segments_removed,
            &mut self.records_moved,
            &mut self.backups,
            &mut self.backups_checked,
            &mut self.backups_unfinished,
            &mut self.backup_records,
            &mut self.openings,
            &mut self.judged,
            &mut self.records,
            &mut self.tags,
            &mut self.expiring,
            &mut self.expired,
            &mut self.verified,
            &mut self.torn,
            &mut self.lost,
            &mut self.wrong,
        ]
    }

    pub fn count(&mut self, event: &Event) {
        match event {
            Event::Begin { .. } => self.begun += 1,
            Event::Put { .. } | Event::Removed { .. } => self.acknowledged += 1,
            Event::Refused { .. } => {
                self.acknowledged += 1;
                self.refused += 1;
            }
            Event::Wrote { count, .. } => {
                self.acknowledged += count;
                self.batches += 1;
            }
            Event::Bump { .. } => self.tags_begun += 1,
            Event::Bumped { .. } => self.tags_acknowledged += 1,
            Event::Got { .. } => self.gets += 1,
            Event::Synced => self.syncs += 1,
            Event::Compacted { segments, moved } => {
                self.compactions += 1;
                self.segments_removed += segments;
                self.records_moved += moved;
            }
            Event::BackedUp(_) => self.backups += 1,
            _ => {}
        }
    }
}

/// The kinds of writes that had begun and were not acknowledged.
pub fn pending(events: &[Event]) -> BTreeSet<&'static str> {
    let mut begun: BTreeMap<Version, &'static str> = BTreeMap::new();
    for event in events {
        match *event {
            Event::Batch { first, count } => {
                begun.extend((0..count).map(|n| (Version(first.0 + n), "batch")));
            }
            Event::Wrote { first, count } => {
                begun.retain(|v, _| !(first.0..first.0 + count).contains(&v.0));
            }
            Event::Begin { version, what, .. } => drop(begun.entry(version).or_insert(what.name())),
            Event::Bump { bump, .. } => drop(begun.insert(bump, "update_tag")),
            Event::Put { version, .. }
            | Event::Removed { version, .. }
            | Event::Refused { version }
            | Event::Bumped { bump: version, .. } => drop(begun.remove(&version)),
            _ => {}
        }
    }
    begun.into_values().collect()
}

/// What a thread of the system was at when it was killed.
pub fn doing(events: &[Event], number: u64) -> &'static str {
    let place = Place::of(events);
    let threads = events.iter().filter_map(|event| match *event {
        Event::Thread { thread, number } => Some((number, thread)),
        _ => None,
    });
    // Numbers of the system come again.
    let Some((_, thread)) = threads.rev().find(|(of, _)| *of == number) else {
        return "a thread of the engine's";
    };
    match place {
        Place::Opening => "opening",
        Place::Closing => "closing",
        Place::Reopening => "reopening",
        Place::Compacting if thread == UPKEEP => "compaction",
        Place::BackingUp if thread == UPKEEP => "backup",
        _ if thread == UPKEEP => "between",
        _ => last_begun(events, thread),
    }
}

/// The last operation that a writer has begun: it says so right before.
fn last_begun(events: &[Event], thread: u8) -> &'static str {
    let begun = events.iter().rev().find_map(|event| {
        let (version, name) = match *event {
            Event::Batch { first, .. } => (first, "batch"),
            Event::Begin { version, what, .. } => (version, what.name()),
            Event::Bump { bump, .. } => (bump, "update_tag"),
            Event::Look { look, .. } => (look, "get"),
            _ => return None,
        };
        (version.thread() == thread).then_some((version, name))
    });
    let Some((version, name)) = begun else { return "between" };
    let in_batch = events.iter().any(|event| {
        matches!(*event, Event::Batch { first, count }
            if (first.0..first.0 + count).contains(&version.0))
    });
    if in_batch { "batch" } else { name }
}
