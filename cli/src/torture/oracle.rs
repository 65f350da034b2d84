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
//! - O3: the record found has the LSN that its put returned, and no acknowledged put a higher one.
//! - O4: of a key that one thread writes, a remove answers what its last operation left.
//!
//! A get while the child runs is judged as the opening after the kill is, except that only what was
//! acknowledged before the get began binds it.
//!
//! What was found is the past of the next round: a version from before it must not come back.

use super::event::Event;
use super::value::{Found, Key, Keys, Version};
use std::collections::HashMap;
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

/// An operation on a key.
#[derive(Clone, Copy, Debug)]
struct Op {
    version: Version,
    put: bool,
    begin: u64,
    end: u64,
    /// Of a put that was acknowledged, or found.
    lsn: Option<u64>,
}

impl Op {
    fn leaves(&self) -> Option<Version> {
        self.put.then_some(self.version)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.put, self.version.0) {
            (false, 0) => write!(f, "the state before, which was nothing"),
            (true, _) => write!(f, "put {}", self.version),
            (false, _) => write!(f, "remove {}", self.version),
        }
    }
}

/// What is known of every key.
#[derive(Debug)]
pub struct Oracle {
    keys: Keys,
    /// Of each key: what was found last, and all operations since.
    ops: Vec<Vec<Op>>,
    /// Where an operation without an end is: key and place in its list.
    open: HashMap<Version, (Key, usize)>,
    /// Gets that have not returned: their keys, and where they began.
    looks: HashMap<Version, (Key, u64)>,
    position: u64,
}

impl Oracle {
    /// Nothing has been written yet.
    pub fn new(keys: Keys) -> Self {
        let nothing = Op { version: Version(0), put: false, begin: 0, end: 0, lsn: None };
        let ops = keys.all().map(|_| vec![nothing]).collect();
        Self { keys, ops, open: HashMap::new(), looks: HashMap::new(), position: 0 }
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
            Event::Opened | Event::Synced => Ok(()),
            Event::Begin { version, key, put } => {
                let ops = self.ops_mut(key)?;
                ops.push(Op { version, put, begin: position, end: PENDING, lsn: None });
                let place = (key, ops.len() - 1);
                self.open.insert(version, place);
                Ok(())
            }
            Event::Put { version, lsn } => self.end(version, Some(lsn)).map(drop),
            Event::Removed { version, was_there } => {
                let (key, place) = self.end(version, None)?;
                let before = self.ops(key)[..place].last().and_then(Op::leaves);
                if self.keys.is_shared(key) || before.is_some() == was_there {
                    return Ok(());
                }
                Err(wrong(key, format!("remove {version} answered {was_there}")))
            }
            Event::Look { look, key } => {
                self.looks.insert(look, (key, position));
                Ok(())
            }
            Event::Got { look, found } => self.note_got(look, found),
            Event::Wrong { key, ref what } => {
                Err(wrong(key, format!("while it was being written, a get found that {what}")))
            }
        }
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

    fn note_got(&mut self, look: Version, found: Found) -> Result<(), Violation> {
        let began = self.looks.remove(&look);
        let (key, began) =
            began.ok_or_else(|| wrong(Key(u32::MAX), format!("get {look} never began")))?;
        let position = self.position;
        let judged = self.judge_at(key, found, began);
        // What this get must have seen has happened by now [O2].
        let seen: Vec<Version> = match found {
            Found::Nothing => self.removes_at(key, began).map(|op| op.version).collect(),
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

    /// Judges what an opening found of a key.
    pub fn judge(&self, key: Key, found: Found) -> Result<(), Violation> {
        self.judge_at(key, found, PENDING)
    }

    /// Judges what was found of a key, bound by what was acknowledged before a position.
    fn judge_at(&self, key: Key, found: Found, before: u64) -> Result<(), Violation> {
        match found {
            Found::Nothing => self.judge_nothing(key, before),
            Found::Version { version, lsn } => self.judge_version(key, version, lsn, before),
        }
    }

    fn acknowledged(&self, key: Key, before: u64) -> impl Iterator<Item = &Op> {
        self.ops(key).iter().filter(move |op| op.end < before)
    }

    /// The acknowledged operation on the key that began last, if it began after `end`.
    fn later_than(&self, key: Key, end: u64, before: u64) -> Option<&Op> {
        let later = self.acknowledged(key, before).filter(|op| op.begin > end);
        later.max_by_key(|op| op.begin)
    }

    /// The removes that can have been last.
    fn removes_at(&self, key: Key, before: u64) -> impl Iterator<Item = &Op> {
        let removes = self.ops(key).iter().filter(|op| !op.put);
        removes.filter(move |op| self.later_than(key, op.end, before).is_none())
    }

    fn judge_nothing(&self, key: Key, before: u64) -> Result<(), Violation> {
        if self.removes_at(key, before).next().is_some() {
            return Ok(());
        }
        // No remove can have been last, so an acknowledged put was.
        let lost = self.acknowledged(key, before).filter(|op| op.put).max_by_key(|op| op.begin);
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
            let put = last.is_some_and(|op| op.put);
            return Err(came_back(key, version, &last.map_or(String::new(), Op::to_string), put));
        };
        if let Some(later) = self.later_than(key, op.end, before) {
            return Err(came_back(key, version, &later.to_string(), later.put));
        }
        if let Some(returned) = op.lsn
            && returned != lsn
        {
            let what = format!("version {version} has LSN {lsn}, its put returned {returned}");
            return Err(wrong(key, what));
        }
        let mut puts = self.acknowledged(key, before).filter(|op| op.put);
        if let Some(higher) = puts.find(|op| op.lsn.is_some_and(|higher| higher > lsn)) {
            let what = format!("version {version} is there, {higher} has a higher LSN");
            return Err(Violation { kind: Kind::Lost, key, what });
        }
        Ok(())
    }

    /// Makes what was found of a key its past.
    pub fn settle(&mut self, key: Key, found: Found) {
        let op = match found {
            Found::Nothing => Op { version: Version(0), put: false, begin: 0, end: 0, lsn: None },
            Found::Version { version, lsn } => {
                Op { version, put: true, begin: 0, end: 0, lsn: Some(lsn) }
            }
        };
        if let Some(ops) = self.ops.get_mut(key.0 as usize) {
            ops.clear();
            ops.push(op);
        }
        self.open.retain(|_, open| open.0 != key);
        self.looks.retain(|_, open| open.0 != key);
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
