//! A sequence of calls, read from any bytes, against a map.

use super::script::Reader;
use super::victim::{self, DIMENSION, SEGMENT};
use std::collections::BTreeMap;
use std::path::Path;
use stratalog::{Batch, Compaction, Condition, Error, Options, Store};

/// What the store must hold: version and tag of each id.
type Map = BTreeMap<Vec<u8>, (u32, u64)>;

fn open(directory: &Path) -> Store {
    let options = Options::new().dimension(DIMENSION).segment_size(SEGMENT);
    let options = options.compaction(Compaction::Manual).flush_interval(None);
    options.open(directory).expect("a store that this run has made")
}

/// Makes the calls in an empty directory, and compares after each and at the end.
pub fn run(directory: &Path, data: &[u8]) {
    let (mut store, mut map) = (open(directory), Map::new());
    let mut reader = Reader(data);
    for version in 1..=60 {
        if reader.0.is_empty() {
            break;
        }
        let (op, id) = (reader.byte(), vec![b'a' + reader.byte() % 12]);
        match op % 12 {
            0..=2 => put(&store, &mut map, &id, version),
            3 => {
                let removed = store.remove(&id).expect("room");
                assert_eq!(removed.is_some(), map.remove(&id).is_some());
            }
            4 | 5 => put_if(&store, &mut map, &id, (op, version)),
            6 => batch(&store, &mut map, &mut reader, version),
            7 => {
                let told = store.update_tag(&id, |tag| tag.wrapping_add(version.into()));
                let kept = map.get_mut(&id).map(|(_, tag)| {
                    *tag += u64::from(version);
                    *tag
                });
                assert_eq!(told.expect("a small tag"), kept);
            }
            8 => {
                store.compact().expect("room");
            }
            9 => store.sync().expect("a device"),
            10 => {
                // Fills segments, so that the log rolls.
                let (id, big) = (vec![b'A' + reader.byte() % 3], vec![reader.byte(); 300_000]);
                store.put(&id, &[0.0; DIMENSION], big).expect("room");
                assert!(store.remove(&id).expect("room").is_some());
            }
            _ => {
                if op > 127 {
                    store.close().expect("a device");
                } else {
                    drop(store);
                }
                store = open(directory);
                assert!(store.recovery().is_clean(), "{:?}", store.recovery());
            }
        }
        check(&store, &map, &id);
    }
    assert_eq!(store.len(), map.len());
    let walked: Map = store
        .pin()
        .iter()
        .map(|record| {
            let record = record.expect("a whole record");
            assert!(victim::is_genuine(record.id(), record.embedding(), record.content()));
            (record.id().to_vec(), (record.embedding()[0] as u32, record.tag()))
        })
        .collect();
    assert_eq!(walked, map);
    assert!(store.verify().expect("a medium").is_clean());
}

fn put(store: &Store, map: &mut Map, id: &[u8], version: u32) {
    victim::put(store, id, version).expect("room");
    map.insert(id.to_vec(), (version, 0));
}

fn put_if(store: &Store, map: &mut Map, id: &[u8], (op, version): (u8, u32)) {
    let there = map.contains_key(id);
    let current = store.pin().get(id).expect("a whole record").map(|record| record.lsn());
    let condition = match (op / 12 % 3, current) {
        (0, _) => Condition::Absent,
        (1, Some(lsn)) => Condition::Lsn(lsn),
        _ => Condition::Present,
    };
    let holds = matches!(condition, Condition::Absent) != there;
    let (values, bytes) = (victim::embedding(id, version), victim::content(id, version));
    match store.put_if(id, &values, bytes, condition) {
        Ok(_) => {
            assert!(holds);
            map.insert(id.to_vec(), (version, 0));
        }
        Err(Error::ConditionFailed { current: named }) => assert!(!holds && named == current),
        Err(error) => panic!("{error}"),
    }
}

fn batch(store: &Store, map: &mut Map, reader: &mut Reader<'_>, version: u32) {
    let mut batch = Batch::new();
    for _ in 0..reader.byte() % 6 {
        let id = [b'a' + reader.byte() % 12];
        if reader.byte().is_multiple_of(3) {
            batch.remove(id);
            map.remove(&id[..]);
        } else {
            batch.put(id, &victim::embedding(&id, version), victim::content(&id, version));
            map.insert(id.to_vec(), (version, 0));
        }
    }
    store.write(batch).expect("room");
}

fn check(store: &Store, map: &Map, id: &[u8]) {
    let found = store.get_owned(id).expect("a whole record");
    let found = found.map(|record| {
        assert!(victim::is_genuine(id, &record.embedding, &record.content));
        (record.embedding[0] as u32, record.tag)
    });
    assert_eq!(found, map.get(id).copied());
}
