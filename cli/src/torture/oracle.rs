//! Which states the reported events allow, and the judgement of one that was found.
//!
//! Every operation has an interval of positions in the child's report: from its beginning to its
//! acknowledgement, or without an end if none came. The store is linearizable if, of each key, the
//! operation whose effect is found could have been the last: no acknowledged operation on that key
//! began after it had ended. From there:
//!
//! - O1: a put that was acknowledged is found, unless a later or concurrent operation explains what
//!   is found instead. A remove likewise: what it removed does not come back.
//! - O2: what was seen by a get has happened: it ended, at the latest, when that was reported.
//! - O3: the record found has the LSN that its put returned, and no acknowledged put a higher one;
//!   but a conditional put may, if the record is of a batch and the put has not seen it (DESIGN
//!   4.3, W9).
//! - O4: of a key that one thread writes, a remove answers what its last operation left, and a
//!   conditional put succeeds if that is what it asks for.
//! - O5: a batch of which one put is found after a kill counts as acknowledged, all of it.
//! - O6: a version's tag is at least the number of updates that began after its put had ended and
//!   were acknowledged, and at most the number of those that had not ended when it began. Of a key
//!   that one thread writes, an update answers exactly how many there were, as far as is known.
//! - O7: a version is never found after it has expired, nor with another moment of expiry than it
//!   was put with; from that moment on its put is as good as a remove, and hides what was before.
//!
//! A get while the child runs is judged as the opening after the kill is, except that only what was
//! acknowledged before the get began binds it.
//!
//! Backups: see `copies`.
//!
//! What was found is the past of the next round: a version from before it must not come back.

mod copies;

use super::event::{Event, What};
use super::value::{Found, Key, Keys, Span, Version};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// No acknowledgement came.
const PENDING: u64 = u64::MAX;

/// What is wrong about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its kind.
    pub kind: Kind,
    /// The key.
    pub key: Key,
    /// What was expected and found.
    pub what: String,
}

/// Kinds of violations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An acknowledged put has no effect any more.
    Lost,
    /// Something that must not be there, or an answer that cannot be.
    Wrong,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Lost => "LOST",
            Kind::Wrong => "WRONG",
        };
        write!(f, "{kind}: key {}: {}", self.key.0, self.what)
    }
}

/// What an operation does if it is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Put,
    Remove,
    /// Its condition did not hold.
    None,
}

/// An operation on a key.
#[derive(Clone, Copy, Debug)]
struct Op {
    version: Version,
    what: What,
    effect: Effect,
    begin: u64,
    end: u64,
    /// What was found proves that it had happened, whenever it was acknowledged.
    proven: bool,
    /// It is one of a batch.
    in_batch: bool,
    /// Of a put that was acknowledged, or found.
    lsn: Option<u64>,
    /// The tag that it was found with.
    tag: u64,
    /// When it expires, in nanoseconds since 1970; 0: never.
    expires: u64,
}

impl Op {
    const NOTHING: Self = Self {
        version: Version(0),
        what: What::Remove,
        effect: Effect::Remove,
        begin: 0,
        end: 0,
        proven: false,
        in_batch: false,
        lsn: None,
        tag: 0,
        expires: 0,
    };

    fn begun(version: Version, what: What, begin: u64, expires: u64) -> Self {
        let effect = if what == What::Remove { Effect::Remove } else { Effect::Put };
        Self { version, what, effect, begin, end: PENDING, expires, ..Self::NOTHING }
    }

    fn is_put(&self) -> bool {
        self.effect == Effect::Put
    }

    /// Returns whether it had happened before a position.
    fn binds(&self, before: u64) -> bool {
        (self.end < before || self.proven) && self.effect != Effect::None
    }

    fn has_expired(&self, now: u64) -> bool {
        self.is_put() && self.expires != 0 && self.expires <= now
    }

    fn leaves(&self) -> Option<Version> {
        self.is_put().then_some(self.version)
    }
}

/// An update of a key's tag.
#[derive(Clone, Copy, Debug)]
struct Bump {
    number: Version,
    begin: u64,
    end: u64,
    /// Whether there was a record; true until it is known.
    hit: bool,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_put(), self.version.0) {
            (false, 0) => write!(f, "the state before, which was nothing"),
            (true, _) => write!(f, "put {}", self.version),
            (false, _) => write!(f, "remove {}", self.version),
        }
    }
}

/// What is known of every key.
#[derive(Clone, Debug)]
pub struct Oracle {
    keys: Keys,
    /// Of each key: what was found last, and all operations since.
    ops: Vec<Vec<Op>>,
    /// Where an operation without an end is: key and place in its list.
    open: HashMap<Version, (Key, usize)>,
    /// Gets that have not returned: their keys, and where and when they began.
    looks: HashMap<Version, (Key, u64, u64)>,
    /// Updates of each key's tag since it was found last.
    bumps: Vec<Vec<Bump>>,
    /// Updates that have not returned, and batches: how many operations they have.
    bumping: HashMap<Version, Key>,
    batches: HashMap<Version, u64>,
    /// Batches that have returned since the last opening.
    wrote: HashMap<Version, u64>,
    /// Backups since then: when each began and ended.
    copies: BTreeMap<u64, (u64, u64)>,
    /// Of each key: see `may_linger`.
    lingers: Vec<bool>,
    position: u64,
}

impl Oracle {
    /// Nothing has been written yet.
    pub fn new(keys: Keys) -> Self {
        let ops = keys.all().map(|_| vec![Op::NOTHING]).collect();
        let bumps = keys.all().map(|_| Vec::new()).collect();
        let (open, looks) = (HashMap::new(), HashMap::new());
        let (bumping, batches) = (HashMap::new(), HashMap::new());
        let (wrote, copies) = (HashMap::new(), BTreeMap::new());
        let lingers = vec![false; keys.len() as usize];
        Self {
            keys,
            ops,
            open,
            looks,
            bumps,
            bumping,
            batches,
            wrote,
            copies,
            lingers,
            position: 0,
        }
    }

    fn ops_mut(&mut self, key: Key) -> Result<&mut Vec<Op>, Violation> {
        let known = self.ops.get_mut(key.0 as usize);
        known.ok_or_else(|| wrong(key, "there is no such key".to_owned()))
    }

    fn ops(&self, key: Key) -> &[Op] {
        self.ops.get(key.0 as usize).map_or(&[], |ops| ops)
    }

    /// Takes note of an event, in the order of the report.
    pub fn note(&mut self, event: &Event) -> Result<(), Violation> {
        self.position += 1;
        let position = self.position;
        match *event {
            Event::Opened
            | Event::Synced
            | Event::Closing
            | Event::Closed
            | Event::Compacting
            | Event::Compacted { .. }
            | Event::Thread { .. } => Ok(()),
            Event::BackingUp(copy) => {
                self.copies.insert(copy, (position, PENDING));
                Ok(())
            }
            Event::BackedUp(copy) => {
                self.copies.entry(copy).or_insert((position, position)).1 = position;
                Ok(())
            }
            Event::Begin { version, key, what, expires } => {
                let in_batch = self.is_in_batch(version);
                let ops = self.ops_mut(key)?;
                ops.push(Op { in_batch, ..Op::begun(version, what, position, expires) });
                let place = (key, ops.len() - 1);
                self.open.insert(version, place);
                Ok(())
            }
            Event::Put { version, lsn } => {
                let (key, place) = self.end(version, Some(lsn))?;
                self.check_condition(key, place, true)
            }
            Event::Refused { version } => {
                let (key, place) = self.end(version, None)?;
                self.ops_mut(key)?[place].effect = Effect::None;
                self.check_condition(key, place, false)
            }
            Event::Batch { first, count } => {
                self.batches.insert(first, count);
                Ok(())
            }
            Event::Wrote { first, count } => {
                self.batches.remove(&first);
                self.wrote.insert(first, count);
                (0..count).try_for_each(|n| self.end(Version(first.0 + n), None).map(drop))
            }
            Event::Bump { bump, key } => {
                self.ops_mut(key)?;
                let begun = Bump { number: bump, begin: position, end: PENDING, hit: true };
                self.bumps[key.0 as usize].push(begun);
                self.bumping.insert(bump, key);
                Ok(())
            }
            Event::Bumped { bump, tag } => self.note_bumped(bump, tag),
            Event::Removed { version, was_there } => {
                let (key, place) = self.end(version, None)?;
                if !self.is_certain(key, place) || self.was_there(key, place) == was_there {
                    return Ok(());
                }
                Err(wrong(key, format!("remove {version} answered {was_there}")))
            }
            Event::Look { look, key, at } => {
                self.looks.insert(look, (key, position, at));
                Ok(())
            }
            Event::Got { look, found, at } => self.note_got(look, found, at),
            Event::Wrong { key, ref what } => {
                Err(wrong(key, format!("while it was being written, a get found that {what}")))
            }
        }
    }

    /// Returns whether a batch that has begun, and not returned, has this write.
    fn is_in_batch(&self, version: Version) -> bool {
        let mut batches = self.batches.iter();
        batches.any(|(first, count)| (first.0..first.0 + count).contains(&version.0))
    }

    /// Returns whether it is known what the operations on a key, before the one at a place, leave:
    /// one thread writes it, no kill, after which nobody looked, has left one of them undecided,
    /// and what they leave does not expire.
    fn is_certain(&self, key: Key, place: usize) -> bool {
        let undecided = self.ops(key)[..place].iter().any(|op| op.end == PENDING);
        let expires = self.last_before(key, place).is_some_and(|op| op.expires != 0);
        !self.keys.is_shared(key) && !undecided && !expires
    }

    /// The last operation with an effect on a key, before the one at a place.
    fn last_before(&self, key: Key, place: usize) -> Option<&Op> {
        self.ops(key)[..place].iter().rev().find(|op| op.effect != Effect::None)
    }

    /// Returns whether the operations on a key, before the one at a place, leave a record.
    fn was_there(&self, key: Key, place: usize) -> bool {
        self.last_before(key, place).is_some_and(Op::is_put)
    }

    /// O4 for conditional puts.
    fn check_condition(&self, key: Key, place: usize, done: bool) -> Result<(), Violation> {
        let (was_there, op) = (self.was_there(key, place), self.ops(key)[place]);
        let right = match op.what {
            What::Put | What::Remove => done,
            _ if !self.is_certain(key, place) => true,
            What::PutIfAbsent => done != was_there,
            What::PutIfPresent => done == was_there,
        };
        let what = || format!("{:?} {}: done is {done}", op.what, op.version);
        if right { Ok(()) } else { Err(wrong(key, what())) }
    }

    fn note_bumped(&mut self, number: Version, tag: u64) -> Result<(), Violation> {
        let key = self.bumping.remove(&number);
        let key =
            key.ok_or_else(|| wrong(Key(u32::MAX), format!("{number} ended and never began")))?;
        let (position, bumps) = (self.position, &mut self.bumps[key.0 as usize]);
        for bump in bumps.iter_mut().filter(|bump| bump.number == number) {
            (bump.end, bump.hit) = (position, tag > 0);
        }
        let pending = bumps.iter().any(|bump| bump.end == PENDING);
        if pending || !self.is_certain(key, self.ops(key).len()) {
            return Ok(());
        }
        // The least and the highest are the same, unless a kill took the acknowledgement of the put
        // and a get has seen it since: updates from before the get may have found it or not.
        let (least, most) = match self.last_before(key, self.ops(key).len()) {
            Some(op) if op.is_put() => self.tags(key, op, PENDING),
            _ => (0, 0),
        };
        let what = || format!("update {number} of the tag made it {tag}, not {least} to {most}");
        if (least..=most).contains(&tag) { Ok(()) } else { Err(wrong(key, what())) }
    }

    /// The least and the highest tag that a version may have [O6].
    fn tags(&self, key: Key, op: &Op, before: u64) -> (u64, u64) {
        let bumps = self.bumps.get(key.0 as usize).map_or(&[][..], |bumps| bumps);
        let done = |bump: &&Bump| bump.end < before && bump.begin > op.end && bump.hit;
        let begun = |bump: &&Bump| bump.end > op.begin && bump.hit;
        let count = |n: usize| op.tag + n as u64;
        let (done, begun) = (bumps.iter().filter(done), bumps.iter().filter(begun));
        (count(done.count()), count(begun.count()))
    }

    /// Takes note of all that an opening found, before each key is judged [O5].
    pub fn conclude(&mut self, found: impl Iterator<Item = (Key, Found)>) {
        let position = self.position;
        for (key, found) in found {
            let Found::Version { version, .. } = found else { continue };
            if !self.ops(key).iter().any(|op| op.leaves() == Some(version)) {
                continue;
            }
            let holds = |(first, count): (&Version, &u64)| {
                (first.0..first.0 + count).contains(&version.0).then_some((*first, *count))
            };
            let Some((first, count)) = self.batches.iter().find_map(holds) else { continue };
            for n in 0..count {
                if let Some((key, place)) = self.open.remove(&Version(first.0 + n))
                    && let Some(ops) = self.ops.get_mut(key.0 as usize)
                    && let Some(op) = ops.get_mut(place)
                {
                    op.end = op.end.min(position);
                }
            }
        }
        self.batches.clear();
        self.wrote.clear();
        self.copies.clear();
    }

    fn end(&mut self, version: Version, lsn: Option<u64>) -> Result<(Key, usize), Violation> {
        let place = self.open.remove(&version);
        let (key, place) = place
            .ok_or_else(|| wrong(Key(u32::MAX), format!("{version} ended and never began")))?;
        let position = self.position;
        let op = &mut self.ops_mut(key)?[place];
        // A get may have seen it before [O2].
        op.end = op.end.min(position);
        op.lsn = lsn;
        Ok((key, place))
    }

    fn note_got(&mut self, look: Version, found: Found, at: u64) -> Result<(), Violation> {
        let began = self.looks.remove(&look);
        let (key, began, from) =
            began.ok_or_else(|| wrong(Key(u32::MAX), format!("get {look} never began")))?;
        let position = self.position;
        let judged = self.judge_at(key, found, began, Span { from, to: at });
        // What this get must have seen has happened by now [O2].
        let seen: Vec<Version> = match found {
            Found::Nothing => self.ends_at(key, began, at).map(|op| op.version).collect(),
            Found::Version { version, .. } => vec![version],
        };
        if let [seen] = seen[..]
            && let Some(op) = self.ops_mut(key)?.iter_mut().find(|op| op.version == seen)
        {
            op.end = op.end.min(position);
        }
        judged.map_err(|violation| Violation {
            what: format!("get {look}: {}", violation.what),
            ..violation
        })
    }

    /// Judges what an opening found of a key, looking at that time.
    pub fn judge(&self, key: Key, found: Found, span: Span) -> Result<(), Violation> {
        self.judge_at(key, found, PENDING, span)
    }

    /// Judges what was found of a key, bound by what was acknowledged before a position.
    fn judge_at(&self, key: Key, found: Found, before: u64, span: Span) -> Result<(), Violation> {
        match found {
            Found::Nothing => self.judge_nothing(key, before, span.to),
            Found::Version { version, lsn, tag, expires } => {
                self.judge_version(key, version, lsn, before)?;
                self.judge_expiry(key, version, expires, span.from)?;
                self.judge_tag(key, version, tag, before)
            }
        }
    }

    fn acknowledged(&self, key: Key, before: u64) -> impl Iterator<Item = &Op> {
        self.ops(key).iter().filter(move |op| op.binds(before))
    }

    /// The acknowledged operation on the key that began last, if it began after `end`.
    fn later_than(&self, key: Key, end: u64, before: u64) -> Option<&Op> {
        let later = self.acknowledged(key, before).filter(|op| op.begin > end);
        later.max_by_key(|op| op.begin)
    }

    /// The removes, and puts of what has expired by now, that can have been last.
    fn ends_at(&self, key: Key, before: u64, now: u64) -> impl Iterator<Item = &Op> {
        let ends = move |op: &&Op| op.effect == Effect::Remove || op.has_expired(now);
        let last = self.acknowledged(key, before).map(|op| op.begin).max().unwrap_or(0);
        self.ops(key).iter().filter(ends).filter(move |op| op.end >= last)
    }

    fn judge_nothing(&self, key: Key, before: u64, now: u64) -> Result<(), Violation> {
        if self.ends_at(key, before, now).next().is_some() {
            return Ok(());
        }
        // Nothing that ends a record can have been last, so an acknowledged put was.
        let lost =
            self.acknowledged(key, before).filter(|op| op.is_put()).max_by_key(|op| op.begin);
        let lost = lost.map_or(String::new(), Op::to_string);
        let what = format!("{lost} was acknowledged and is gone");
        Err(Violation { kind: Kind::Lost, key, what })
    }

    fn judge_version(
        &self,
        key: Key,
        version: Version,
        lsn: u64,
        before: u64,
    ) -> Result<(), Violation> {
        let Some(op) = self.ops(key).iter().find(|op| op.leaves() == Some(version)) else {
            let last = self.acknowledged(key, before).max_by_key(|op| op.begin);
            let put = last.is_some_and(Op::is_put);
            return Err(came_back(key, version, &last.map_or(String::new(), Op::to_string), put));
        };
        if let Some(later) = self.later_than(key, op.end, before) {
            return Err(came_back(key, version, &later.to_string(), later.is_put()));
        }
        if let Some(returned) = op.lsn
            && returned != lsn
        {
            let what = format!("version {version} has LSN {lsn}, its put returned {returned}");
            return Err(wrong(key, what));
        }
        let mut puts = self.acknowledged(key, before).filter(|op| op.is_put());
        let binds = |put: &Op| !op.in_batch || put.what == What::Put;
        let is_higher = |put: &&Op| put.lsn.is_some_and(|higher| higher > lsn) && binds(put);
        if let Some(higher) = puts.find(is_higher) {
            let what = format!("version {version} is there, {higher} has a higher LSN");
            return Err(Violation { kind: Kind::Lost, key, what });
        }
        Ok(())
    }

    /// O7.
    fn judge_expiry(
        &self,
        key: Key,
        version: Version,
        expires: u64,
        now: u64,
    ) -> Result<(), Violation> {
        let Some(op) = self.ops(key).iter().find(|op| op.leaves() == Some(version)) else {
            return Ok(());
        };
        if op.expires != expires {
            let what = format!("version {version} expires at {expires}, not {}", op.expires);
            return Err(wrong(key, what));
        }
        if op.has_expired(now) {
            return Err(wrong(key, format!("version {version} has expired, and is there")));
        }
        Ok(())
    }

    fn judge_tag(
        &self,
        key: Key,
        version: Version,
        tag: u64,
        before: u64,
    ) -> Result<(), Violation> {
        let op = self.ops(key).iter().find(|op| op.leaves() == Some(version));
        let (least, most) = op.map_or((0, 0), |op| self.tags(key, op, before));
        if (least..=most).contains(&tag) {
            return Ok(());
        }
        let what = format!("the tag of version {version} is {tag}, not {least} to {most}");
        let kind = if tag < least { Kind::Lost } else { Kind::Wrong };
        Err(Violation { kind, key, what })
    }

    /// Makes what was found of a key its past; whether it is gone because it had expired by then.
    pub fn observe(&mut self, key: Key, found: Found, now: u64) -> bool {
        let expired = found == Found::Nothing && self.ops(key).iter().any(|op| op.has_expired(now));
        if let Some(lingers) = self.lingers.get_mut(key.0 as usize) {
            *lingers = found == Found::Nothing && (*lingers || expired);
        }
        let op = match found {
            Found::Nothing => Op::NOTHING,
            Found::Version { version, lsn, tag, expires } => {
                let put = Op { effect: Effect::Put, what: What::Put, ..Op::NOTHING };
                Op { version, lsn: Some(lsn), tag, expires, ..put }
            }
        };
        if let Some(bumps) = self.bumps.get_mut(key.0 as usize) {
            bumps.clear();
        }
        self.bumping.retain(|_, open| *open != key);
        if let Some(ops) = self.ops.get_mut(key.0 as usize) {
            ops.clear();
            ops.push(op);
        }
        self.open.retain(|_, open| open.0 != key);
        self.looks.retain(|_, open| open.0 != key);
        expired
    }

    /// Returns whether there is nothing of a key, and yet the store may count a record that has
    /// expired.
    pub fn may_linger(&self, key: Key) -> bool {
        self.lingers.get(key.0 as usize).is_some_and(|lingers| *lingers)
    }
}

fn wrong(key: Key, what: String) -> Violation {
    Violation { kind: Kind::Wrong, key, what }
}

/// An older version than the acknowledged one: of a put, that put is lost; of a remove, what was
/// removed is back.
fn came_back(key: Key, version: Version, last: &str, put: bool) -> Violation {
    let kind = if put { Kind::Lost } else { Kind::Wrong };
    Violation { kind, key, what: format!("version {version} is there, {last} came after it") }
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
