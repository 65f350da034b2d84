//! What all tests share: records that check themselves, and "a reopen finds the same".

use std::collections::BTreeMap;
use std::path::Path;
use stratalog::{Compaction, Lsn, Options, OwnedRecord, Store};

/// The smallest segment: rolls come early.
pub const SEGMENT: u64 = 1 << 20;

/// Everything that is in a store.
pub type State = BTreeMap<Vec<u8>, OwnedRecord>;

/// The shape of a test's records. Embedding and content follow from id and version, and the
/// embedding names the version, so a record that is not of one piece shows whoever reads it.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    pub dimension: usize,
    /// Contents have up to so many bytes.
    pub content_max: usize,
}

/// One step of splitmix64: small seeds give unlike numbers.
pub fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn seed(id: &[u8], version: u32) -> u64 {
    id.iter().fold(mix(u64::from(version)), |sum, &byte| mix(sum ^ u64::from(byte)))
}

impl Records {
    /// The embedding of a version. Its first value is the version, so versions end at 2^24.
    pub fn embedding(self, id: &[u8], version: u32) -> Vec<f32> {
        assert!(version < 1 << 24);
        let seed = seed(id, version);
        let value = |n: usize| (seed.rotate_left(n as u32) as u32 >> 8 ^ n as u32) as f32 - 8e6;
        (0..self.dimension).map(|n| if n == 0 { version as f32 } else { value(n) }).collect()
    }

    /// The content of a version.
    pub fn content(self, id: &[u8], version: u32) -> Vec<u8> {
        let seed = !seed(id, version);
        let len = (mix(seed) % (self.content_max as u64 + 1)) as usize;
        (0..len).map(|n| seed.rotate_left(n as u32) as u8 ^ (n >> 6) as u8).collect()
    }

    /// Puts a version.
    pub fn put(self, store: &Store, id: &[u8], version: u32) -> Lsn {
        let (embedding, content) = (self.embedding(id, version), self.content(id, version));
        store.put(id, &embedding, content).expect("a put")
    }

    /// The version that a record is; fails unless each of its bytes belongs to it.
    #[track_caller]
    pub fn version_of(self, id: &[u8], embedding: &[f32], content: &[u8]) -> u32 {
        assert_eq!(embedding.len(), self.dimension, "{}", id.escape_ascii());
        let version = embedding[0] as u32;
        let whole =
            self.embedding(id, version) == embedding && self.content(id, version) == content;
        assert!(whole, "{} is not of one piece (version {version}?)", id.escape_ascii());
        version
    }
}

/// Everything in the store: from a walk, which must agree with `get_owned` and `len`.
#[track_caller]
pub fn state(store: &Store) -> State {
    let mut state = State::new();
    for record in &store.pin() {
        let record = record.expect("a whole record").to_owned();
        let twice = state.insert(record.id.clone(), record);
        assert!(twice.is_none(), "{twice:?} was seen twice");
    }
    for (id, record) in &state {
        let got = store.get_owned(id).expect("a whole record");
        assert_eq!(got.as_ref(), Some(record), "walk and get disagree");
    }
    assert_eq!(store.len(), state.len());
    state
}

/// Compares two states and shows the first difference only.
#[track_caller]
pub fn assert_same(found: &State, expected: &State) {
    let brief = |r: &OwnedRecord| format!("{} with {} bytes", r.lsn, r.content.len());
    for (id, record) in expected {
        let other = found.get(id);
        if other != Some(record) {
            let (found, expected) = (other.map(brief), brief(record));
            panic!("{} is {found:?}, expected was {expected}", id.escape_ascii());
        }
    }
    let more = found.keys().find(|&id| !expected.contains_key(id));
    assert_eq!(more.map(|id| id.escape_ascii().to_string()), None, "was not there before");
}

/// Opens what is there.
#[track_caller]
pub fn open(path: &Path) -> Store {
    // These tests count segments and slots: only `compact` may change them.
    Options::new().create(false).compaction(Compaction::Manual).open(path).expect("the store opens")
}

/// Closes the store, opens it again, and sees to it that nothing has changed.
#[track_caller]
pub fn reopen(store: Store) -> Store {
    let (before, path) = (state(&store), store.path().to_owned());
    store.close().expect("the store closes");
    let again = open(&path);
    assert_same(&state(&again), &before);
    assert_eq!(again.recovery().records, before.len() as u64);
    again
}
