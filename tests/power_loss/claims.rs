//! What the store was asked and what it answered: the history of a life, and what of it must be
//! there after a power loss.

use super::common::Records;
use std::collections::BTreeMap;
use std::sync::Mutex;
use stratalog::{Lsn, Store};

/// One write: a version of an id, or its removal.
#[derive(Clone, Debug)]
pub struct Write {
    pub id: Vec<u8>,
    /// `None`: a member of a batch. One that had to be appended again has another LSN than its
    /// place says, until power loss takes that and leaves the first (`again`).
    pub lsn: Option<Lsn>,
    /// `None`: removed.
    pub version: Option<u32>,
}

/// What one call wrote.
#[derive(Clone, Debug)]
pub struct Call {
    pub writes: Vec<Write>,
    /// No lower LSN was given to it: the tail when it began.
    pub begun: Lsn,
    /// It answers for what was there before it, so that others append again above it: a removal, a
    /// conditional put.
    pub answers: bool,
}

impl Call {
    /// One that no other ran beside.
    pub fn alone(writes: Vec<Write>, begun: Lsn) -> Self {
        Self { writes, begun, answers: false }
    }
}

/// All calls in the order of their LSNs: of a batch the highest that it was reserved with.
pub type History = BTreeMap<Lsn, Call>;

/// What is there of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// `None`: only the store knows.
    pub lsn: Option<Lsn>,
    /// No other write of the id has it.
    pub version: u32,
}

/// What a store holds.
pub type Contents = BTreeMap<Vec<u8>, Held>;

/// Returns whether a store holds what it should.
pub fn fits(found: &Contents, expected: &Contents) -> bool {
    let same = |is: &Held, should: &Held| {
        is.version == should.version && should.lsn.is_none_or(|lsn| is.lsn == Some(lsn))
    };
    let pairs = found.iter().zip(expected);
    found.len() == expected.len() && { pairs }
        .all(|((id, is), (other, should))| id == other && same(is, should))
}

/// What the writers note, whatever thread they are on.
#[derive(Debug, Default)]
pub struct Book {
    pub history: Mutex<History>,
    /// What each backup must hold, or held when it was begun.
    pub backups: Mutex<Vec<Contents>>,
}

pub fn apply(contents: &mut Contents, writes: &[Write]) {
    for write in writes {
        match write.version {
            Some(version) => contents.insert(write.id.clone(), Held { lsn: write.lsn, version }),
            None => contents.remove(&write.id),
        };
    }
}

/// What a store holds after the writes up to an LSN.
pub fn contents_at(history: &History, last: Lsn) -> Contents {
    let mut contents = Contents::new();
    history.range(..=last).for_each(|(_, call)| apply(&mut contents, &call.writes));
    contents
}

/// The part of the history that ends in these contents, and includes at least what is durable; up
/// to which LSN it goes.
pub fn prefix_of(history: &History, durable: Lsn, found: &Contents) -> Option<(Lsn, History)> {
    let mut contents = contents_at(history, durable);
    let upto = |last: Lsn| history.range(..=last).map(|(l, call)| (*l, call.clone())).collect();
    if fits(found, &contents) {
        return Some((durable, upto(durable)));
    }
    let behind = || history.range(durable..).filter(|(lsn, _)| **lsn > durable);
    for (lsn, call) in behind() {
        apply(&mut contents, &call.writes);
        if fits(found, &contents) {
            return Some((*lsn, upto(*lsn)));
        }
    }
    let mut ends = std::iter::once(durable).chain(behind().map(|(lsn, _)| *lsn));
    ends.find_map(|last| {
        let explained = super::again::with_first_copies(history, last, found)?;
        let (last, _) = explained.last_key_value()?;
        fits(found, &contents_at(&explained, *last)).then_some((*last, explained))
    })
}

/// One version in so many is a large one: some of these fill a segment.
pub const LARGE_IN: u32 = 8;

/// The shape of a version's record.
pub fn shape(version: u32) -> Records {
    let content_max = if version.is_multiple_of(LARGE_IN) { 200_000 } else { 300 };
    Records { dimension: 16, content_max }
}

/// Everything in a store; fails if any of it is not of one piece, or was never written so.
pub fn contents(store: &Store) -> Result<Contents, String> {
    let mut contents = Contents::new();
    for record in &store.pin() {
        let record = record.map_err(|error| error.to_string())?;
        let named = record.embedding()[0] as u32;
        let version = shape(named).version_of(record.id(), record.embedding(), record.content());
        let held = Held { lsn: Some(record.lsn()), version };
        let twice = contents.insert(record.id().to_vec(), held);
        if let Some(twice) = twice {
            return Err(format!("{} was seen twice: {twice:?}", record.id().escape_ascii()));
        }
    }
    for (id, Held { lsn, .. }) in &contents {
        let got = store.pin().get(id).map_err(|error| error.to_string())?.map(|r| r.lsn());
        if got != *lsn {
            return Err(format!("{}: a walk says {lsn:?}, a get {got:?}", id.escape_ascii()));
        }
    }
    if store.len() == contents.len() {
        Ok(contents)
    } else {
        Err(format!("{} records, says len, and there are {}", store.len(), contents.len()))
    }
}
