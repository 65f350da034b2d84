//! Damaged heads of batches. Invariant: the members count if the batch was decided, and only then.

use super::common::{self, assert_same, state};
use super::modes::{assert_refused, killed};
use super::{Closed, DIRECTORY_AT, RECORDS, change, flip, id, zero};
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::ids::SlotNumber;
use stratalog::internals::format::slot::void_word;
use stratalog::{Batch, Counted, Options, Recovery, Store};

/// All members were void, whole and durable as they were, and nothing but the head was named: what
/// they had replaced or removed was there again. (mutation: damaged-head-voids)
#[test]
fn a_damaged_head_of_a_batch_costs_none_of_its_members() {
    let closed = Closed::new(|store| {
        store.put("old", &RECORDS.embedding(b"old", 1), "1").unwrap();
        store.put("gone", &RECORDS.embedding(b"gone", 1), "1").unwrap();
        let mut batch = Batch::new();
        batch.put("old", &RECORDS.embedding(b"old", 2), b"2").remove("gone");
        for n in 0..50 {
            batch.put(id(n), &RECORDS.embedding(&id(n), 1), b"1");
        }
        store.write(batch).unwrap();
        store.put("last", &RECORDS.embedding(b"last", 1), "1").unwrap();
    });
    let path = closed.segments().remove(0);
    let head = DIRECTORY_AT + 2 * 32;
    let flipped = |byte: u8| byte ^ 1;
    for damage in [|_: u8| 0, flipped] {
        for mode in [Recovery::Tolerant, Recovery::Salvage] {
            for read_only in [true, false] {
                change(&path, head..head + 32, |_, byte| damage(byte));
                let options = Options::new().recovery(mode).read_only(read_only);
                let store = options.open(closed.path()).unwrap();
                assert_same(&state(&store), &closed.state);
                assert!(!store.contains("gone") && store.recovery().corrupt == 1);
                assert_eq!(store.verify().unwrap().damaged.len(), 1);
                drop(store);
                closed.restore();
            }
        }
    }
}

/// A record, and a batch that replaces it and puts another one.
fn put_and_write_batch(store: &Store) {
    store.put("old", &RECORDS.embedding(b"old", 1), "1").unwrap();
    let mut batch = Batch::new();
    batch.put("old", &RECORDS.embedding(b"old", 2), b"2").put(
        "new",
        &RECORDS.embedding(b"new", 1),
        b"1",
    );
    store.write(batch).unwrap();
}

/// The process died before it had decided the batch. Its members were whole and below the durable
/// end later, so they counted once the head, which says that there is no batch, was damaged.
/// (mutation: members-stay-undecided)
#[test]
fn damage_does_not_bring_a_batch_that_was_never_decided() {
    let closed = killed(put_and_write_batch);
    let path = closed.segments().remove(0);
    let head = DIRECTORY_AT + 32;
    zero(&path, head..head + 8);
    let store = common::open(closed.path());
    let before = state(&store);
    assert!(store.len() == 1 && store.recovery().corrupt == 0);
    store.close().unwrap();
    for damage in [0, 1] {
        change(&path, head..head + 32, |_, byte| (byte * damage) ^ 1);
        let store = common::open(closed.path());
        assert_same(&state(&store), &before);
        assert_eq!(store.recovery().corrupt, 1);
    }
}

/// The other members do not count without it, and what they had replaced or removed is there again.
/// Nothing was named, and strict did not refuse it.
#[test]
fn a_damaged_member_of_a_batch_is_named_after_a_kill_and_refused_by_strict() {
    let closed = killed(|store| {
        for name in ["old", "gone", "hurt"] {
            RECORDS.put(store, name.as_bytes(), 1);
        }
        let mut batch = Batch::new();
        batch.put("hurt", &RECORDS.embedding(b"hurt", 2), RECORDS.content(b"hurt", 2));
        batch.put("old", &RECORDS.embedding(b"old", 2), RECORDS.content(b"old", 2)).remove("gone");
        store.write(batch).unwrap();
    });
    let (path, place) = closed.record(b"hurt");
    flip(&path, (place.frame.start + 64) * 8);
    let at = place.frame.start as u64;
    assert_refused(&closed, &path, at..at + 1);
    for read_only in [true, false] {
        let store = Options::new().read_only(read_only).open(closed.path()).unwrap();
        let report = store.recovery();
        assert_eq!((report.corrupt, report.counted), (1, Counted::Each));
        let lost: Vec<_> = report.lost.iter().filter_map(|lost| lost.id.as_deref()).collect();
        assert_eq!(lost, [&b"gone"[..], b"old", b"hurt"], "as they lie in the file");
        assert!(report.lost.iter().all(|lost| lost.path == path));
        assert!(store.contains("gone") && store.len() == 3);
    }
}

/// A flush had voided the head before the process died: the opening found nothing undecided, and
/// left the members as they were.
#[test]
fn damage_does_not_bring_a_batch_whose_head_a_flush_has_voided() {
    let closed = killed(put_and_write_batch);
    let path = closed.segments().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let salt = Salt(u64::from_le_bytes(bytes[40..48].try_into().unwrap()));
    let void = void_word(salt, SlotNumber(1)).to_le_bytes();
    let head = DIRECTORY_AT + 32;
    change(&path, head..head + 8, |at, _| void[at - head]);
    // Its writer had not come to it: it says where its frame lies, and no more.
    zero(&path, head + 8..head + 24);
    let store = common::open(closed.path());
    let before = state(&store);
    assert!(store.len() == 1 && store.recovery().corrupt == 0);
    store.close().unwrap();
    for damage in [0, 1] {
        // A flipped bit, then a slot that is lost.
        change(&path, head..head + 32, |at, byte| (byte ^ u8::from(at == head)) * (1 - damage));
        let store = common::open(closed.path());
        assert_same(&state(&store), &before);
        assert_eq!(store.recovery().corrupt, 1);
    }
}
