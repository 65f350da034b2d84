//! What the store was asked and what it answered: the history of a life, and what of it must be
//! there after a power loss.

use super::common::Records;
use std::collections::BTreeMap;
use std::sync::Mutex;
use stratalog::{Lsn, Store};

/// What the store has promised by some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims {
    /// Everything up to here survives power loss.
    pub durable: Lsn,
    /// Everything up to here was given out; no LSN so low is ever given again.
    pub given: Lsn,
    /// An opening has returned.
    pub exists: bool,
    /// So many backups have returned.
    pub backups: usize,
}

/// One write: a version of an id, or its removal.
#[derive(Clone, Debug)]
pub struct Write {
    pub id: Vec<u8>,
    pub lsn: Lsn,
    /// `None`: removed.
    pub version: Option<u32>,
}

/// All writes in the order of their LSNs. Those of a batch stay together, under the highest.
pub type History = BTreeMap<Lsn, Vec<Write>>;

/// What a store holds: LSN and version of each id.
pub type Contents = BTreeMap<Vec<u8>, (Lsn, u32)>;

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
            Some(version) => contents.insert(write.id.clone(), (write.lsn, version)),
            None => contents.remove(&write.id),
        };
    }
}

/// What a store holds after the writes up to an LSN.
pub fn contents_at(history: &History, last: Lsn) -> Contents {
    let mut contents = Contents::new();
    history.range(..=last).for_each(|(_, writes)| apply(&mut contents, writes));
    contents
}

/// How far the history goes that ends in these contents, and includes at least what is durable.
pub fn prefix_of(history: &History, durable: Lsn, found: &Contents) -> Option<Lsn> {
    let mut contents = contents_at(history, durable);
    if contents == *found {
        return Some(durable);
    }
    for (lsn, writes) in history.range(durable..).filter(|(lsn, _)| **lsn > durable) {
        apply(&mut contents, writes);
        if contents == *found {
            return Some(*lsn);
        }
    }
    None
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
        let twice = contents.insert(record.id().to_vec(), (record.lsn(), version));
        if let Some(twice) = twice {
            return Err(format!("{} was seen twice: {twice:?}", record.id().escape_ascii()));
        }
    }
    for (id, (lsn, _)) in &contents {
        let got = store.pin().get(id).map_err(|error| error.to_string())?.map(|r| r.lsn());
        if got != Some(*lsn) {
            return Err(format!("{}: a walk says {lsn}, a get {got:?}", id.escape_ascii()));
        }
    }
    if store.len() == contents.len() {
        Ok(contents)
    } else {
        Err(format!("{} records, says len, and there are {}", store.len(), contents.len()))
    }
}
