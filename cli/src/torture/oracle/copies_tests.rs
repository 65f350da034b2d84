//! Proof that a backup can be found wrong: each rule is broken once, and what is allowed is shown,
//! too.

use super::*;
use crate::torture::event::{Event, What};
use crate::torture::value::Keys;

const ONE: Key = Key(2);
const OTHER: Key = Key(3);
const NOW: Span = Span { from: 1_000, to: 1_000 };

fn begin(version: u64, key: Key, what: What) -> Event {
    Event::Begin { version: Version(version), key, what, expires: 0 }
}

/// A put that overlaps nothing.
fn put(version: u64, key: Key) -> [Event; 2] {
    [begin(version, key, What::Put), Event::Put { version: Version(version), lsn: version * 10 }]
}

fn removed(version: u64, key: Key) -> [Event; 2] {
    let version = Version(version);
    [begin(version.0, key, What::Remove), Event::Removed { version, was_there: true }]
}

fn found(version: u64, tag: u64) -> Found {
    Found::Version { version: Version(version), lsn: version * 10, tag, expires: 0 }
}

fn after<'a>(events: impl IntoIterator<Item = &'a Event>) -> Oracle {
    let mut oracle = Oracle::new(Keys { threads: 1, own: 2, shared: 2 });
    for event in events {
        oracle.note(event).unwrap();
    }
    oracle
}

/// What is wrong with a backup, the first, that has this of the two keys.
fn kinds(oracle: &mut Oracle, of: [Found; 2]) -> Vec<Kind> {
    let found = [(ONE, of[0], NOW), (OTHER, of[1], NOW)];
    oracle.judge_copy(1, &found).iter().map(|violation| violation.kind).collect()
}

const NOTHING: Found = Found::Nothing;
const COPY: [Event; 2] = [Event::BackingUp(1), Event::BackedUp(1)];

#[test]
fn what_was_there_before_a_backup_is_in_it() {
    let events = [&put(1, ONE)[..], &put(2, ONE), &COPY].concat();
    assert_eq!(kinds(&mut after(&events), [found(2, 0), NOTHING]), []);
    assert_eq!(kinds(&mut after(&events), [found(1, 0), NOTHING]), [Kind::Lost]);
    assert_eq!(kinds(&mut after(&events), [NOTHING, NOTHING]), [Kind::Lost]);
    let events = [&put(1, ONE)[..], &removed(2, ONE), &COPY].concat();
    assert_eq!(kinds(&mut after(&events), [NOTHING, NOTHING]), []);
    assert_eq!(kinds(&mut after(&events), [found(1, 0), NOTHING]), [Kind::Wrong]);
}

#[test]
fn what_came_after_a_backup_is_not_in_it() {
    let events = [&put(1, ONE)[..], &COPY, &put(2, ONE)].concat();
    assert_eq!(kinds(&mut after(&events), [found(1, 0), NOTHING]), []);
    assert_ne!(kinds(&mut after(&events), [found(2, 0), NOTHING]), []);
    // Beside it: either.
    let events = [&put(1, ONE)[..], &COPY[..1], &put(2, ONE), &COPY[1..]].concat();
    for there in [found(1, 0), found(2, 0)] {
        assert_eq!(kinds(&mut after(&events), [there, NOTHING]), []);
    }
    // One that never returned has no end.
    let events = [&put(1, ONE)[..], &COPY[..1], &put(2, ONE)].concat();
    assert_eq!(kinds(&mut after(&events), [found(2, 0), NOTHING]), []);
}

/// A put that a newer conditional write has made be appended again, above the end of the backup.
#[test]
fn a_backup_may_hold_a_put_under_the_lsn_that_it_had_first() {
    let first = Found::Version { version: Version(2), lsn: 15, tag: 0, expires: 0 };
    let events = [&put(1, ONE)[..], &COPY[..1], &put(2, ONE), &COPY[1..]].concat();
    assert_eq!(kinds(&mut after(&events), [first, NOTHING]), []);
    // It had returned before the backup began, or the backup reaches further.
    let events = [&put(1, ONE)[..], &put(2, ONE), &COPY].concat();
    assert_ne!(kinds(&mut after(&events), [first, NOTHING]), []);
    let events = [&COPY[..1], &put(2, ONE), &put(3, OTHER), &COPY[1..]].concat();
    assert_ne!(kinds(&mut after(&events), [first, found(3, 0)]), []);
}

#[test]
fn a_backup_is_as_of_one_lsn() {
    let events = [&put(1, ONE)[..], &COPY[..1], &put(2, ONE), &put(3, OTHER), &COPY[1..]].concat();
    for allowed in [[found(1, 0), NOTHING], [found(2, 0), NOTHING], [found(2, 0), found(3, 0)]] {
        assert_eq!(kinds(&mut after(&events), allowed), [], "{allowed:?}");
    }
    assert_eq!(kinds(&mut after(&events), [found(1, 0), found(3, 0)]), [Kind::Lost]);
}

#[test]
fn of_a_batch_a_backup_holds_all_or_nothing() {
    let batch = [
        Event::Batch { first: Version(2), count: 2 },
        begin(2, ONE, What::Put),
        begin(3, OTHER, What::Put),
    ];
    let wrote = [Event::Wrote { first: Version(2), count: 2 }];
    for end in [&wrote[..], &[]] {
        let events = [&put(1, ONE)[..], &COPY[..1], &batch, &COPY[1..], end].concat();
        for allowed in [[found(1, 0), NOTHING], [found(2, 0), found(3, 0)]] {
            assert_eq!(kinds(&mut after(&events), allowed), [], "{allowed:?}");
        }
        assert_eq!(kinds(&mut after(&events), [found(2, 0), NOTHING]), [Kind::Lost]);
        assert_eq!(kinds(&mut after(&events), [found(1, 0), found(3, 0)]), [Kind::Lost]);
    }
}

#[test]
fn a_tag_in_a_backup_is_one_that_it_had_meanwhile() {
    let bump = |n: u64, tag| {
        let bump = Version(n);
        [Event::Bump { bump, key: ONE }, Event::Bumped { bump, tag }]
    };
    let events = [&put(1, ONE)[..], &bump(2, 1), &COPY[..1], &bump(3, 2), &COPY[1..], &bump(4, 3)];
    let events = events.concat();
    for tag in [1, 2] {
        assert_eq!(kinds(&mut after(&events), [found(1, tag), NOTHING]), []);
    }
    assert_eq!(kinds(&mut after(&events), [found(1, 0), NOTHING]), [Kind::Lost]);
    assert_eq!(kinds(&mut after(&events), [found(1, 3), NOTHING]), [Kind::Wrong]);
}

#[test]
fn what_a_backup_holds_is_in_the_store() {
    let events = [&COPY[..1], &[begin(1, ONE, What::Put)], &COPY[1..]].concat();
    let mut oracle = after(&events);
    assert_eq!(oracle.judge(ONE, NOTHING, NOW), Ok(()));
    assert_eq!(kinds(&mut oracle, [found(1, 0), NOTHING]), []);
    assert_eq!(oracle.judge(ONE, NOTHING, NOW).unwrap_err().kind, Kind::Lost);
}

#[test]
fn of_the_backups_that_returned_the_last_ones_are_due() {
    let mut oracle = after(&[]);
    for number in 1..=5 {
        oracle.note(&Event::BackingUp(number)).unwrap();
        oracle.note(&Event::BackedUp(number)).unwrap();
    }
    oracle.note(&Event::BackingUp(6)).unwrap();
    assert_eq!(oracle.copies_due(3), [4, 5]);
    assert_eq!((oracle.has_finished(5), oracle.has_finished(6)), (true, false));
    assert_ne!(oracle.judge_copy(9, &[]), []);
}
