//! What a new record carries besides its three parts: a tag, a rule for the tag, a condition.

#![cfg(test)]

use stratalog::{Batch, Condition, Error, NewRecord, Options, Store};

const EMBEDDING: [f32; 2] = [1.0, 0.0];
/// The highest tag that there is.
const HIGHEST: u64 = u64::MAX >> 1;

fn open(path: &std::path::Path) -> Store {
    Options::new().dimension(2).segment_size(1 << 20).open(path).unwrap()
}

fn record<'a>(id: &'a str, content: &'a str) -> NewRecord<'a> {
    NewRecord::new(id, &EMBEDDING, content)
}

fn tag(store: &Store, id: &str) -> Option<u64> {
    store.pin().get(id).unwrap().map(|record| record.tag())
}

#[test]
fn given_tag_survives_reopening_compaction_and_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = open(&path);
    store.put_record(record("alone", "x").tag(HIGHEST)).unwrap();
    store.put_record(record("conditional", "x").tag(5).only_if(Condition::Absent)).unwrap();
    let mut batch = Batch::new();
    batch.put_record(record("member", "x").tag(6)).put("plain", &EMBEDDING, "x");
    store.write(batch).unwrap();
    let expected = [("alone", HIGHEST), ("conditional", 5), ("member", 6), ("plain", 0)];
    let check = |store: &Store| expected.map(|(id, n)| assert_eq!(tag(store, id), Some(n), "{id}"));
    check(&store);
    store.backup(&copy).unwrap();
    store.put("dead", &EMBEDDING, "x").unwrap();
    store.remove("dead").unwrap();
    assert!(store.compact().unwrap().moved_records >= 4);
    check(&store);
    store.close().unwrap();
    check(&open(&path));
    check(&open(&copy));
}

#[test]
fn new_version_starts_with_the_tag_that_its_record_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"));
    store.put_record(record("a", "1").keep_tag()).unwrap();
    assert_eq!(tag(&store, "a"), Some(0), "there was no record");
    store.update_tag("a", |_| 7).unwrap();
    store.put_record(record("a", "2").keep_tag()).unwrap();
    assert_eq!(tag(&store, "a"), Some(7));
    let mut batch = Batch::new();
    batch.put_record(record("a", "3").keep_tag());
    store.write(batch).unwrap();
    assert_eq!(tag(&store, "a"), Some(7));
    store.put_record(record("a", "4").keep_tag().only_if(Condition::Present)).unwrap();
    assert_eq!(tag(&store, "a"), Some(7));
    store.put("a", &EMBEDDING, "5").unwrap();
    assert_eq!(tag(&store, "a"), Some(0));
}

#[test]
fn impossible_record_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"));
    let lsn = store.put_record(record("a", "1").tag(3)).unwrap();
    let refused = store.put_record(record("a", "2").tag(HIGHEST + 1));
    assert!(matches!(refused, Err(Error::InvalidTag(t)) if t == HIGHEST + 1), "{refused:?}");
    let refused = store.put_record(record("a", "2").only_if(Condition::Absent));
    let Err(Error::ConditionFailed { current }) = refused else { panic!("{refused:?}") };
    assert_eq!(current, Some(lsn));
    for member in [record("a", "2").tag(u64::MAX), record("a", "2").only_if(Condition::Present)] {
        let mut batch = Batch::new();
        batch.put("b", &EMBEDDING, "x").put_record(member);
        let refused = store.write(batch);
        assert!(
            matches!(refused, Err(Error::InvalidTag(_) | Error::InvalidOption(_))),
            "{refused:?}"
        );
    }
    assert!(!store.contains("b"));
    let record = store.get_owned("a").unwrap().unwrap();
    assert_eq!((&*record.content, record.tag, record.lsn), (&b"1"[..], 3, lsn));
}

#[test]
fn shared_record_of_a_version_outlives_its_overwrite_and_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"));
    store.put_record(record("a", "first").tag(9)).unwrap();
    let shared = {
        let pinned = store.pin();
        let read = pinned.get("a").unwrap().unwrap();
        store.put("a", &EMBEDDING, "second").unwrap();
        read.to_shared()
    };
    store.compact().unwrap();
    store.close().unwrap();
    assert_eq!((shared.content(), shared.tag()), (&b"first"[..], 9));
    assert_eq!(shared.embedding(), EMBEDDING);
}
