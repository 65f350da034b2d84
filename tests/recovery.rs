//! What a reopened store holds. Invariant: after close, drop or kill, exactly what the handle
//! before showed: the same ids, bytes and LSNs, the highest LSN per id; and no LSN is ever given
//! again.
#![cfg(test)]

#[path = "common/child.rs"]
mod child;
mod common;

#[path = "common/torn.rs"]
mod torn;
#[path = "common/tree.rs"]
mod tree;

use child::{Role, role, say, wait};
use common::{Records, SEGMENT, State, assert_same, mix, open, reopen, state};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use stratalog::internals::format::manifest::Manifest;
use stratalog::{Compaction, Lsn, Options, Store};

const RECORDS: Records = Records { dimension: 16, content_max: 300 };

fn create(path: &Path) -> Store {
    let options = Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT);
    options.compaction(Compaction::Manual).open(path).unwrap()
}

fn id(n: u64) -> Vec<u8> {
    format!("id {n}").into_bytes()
}

/// Some thousand writes over a few segments: puts, overwrites, removes, from a seed.
fn scribble(store: &Store, seed: u64, writes: u64) {
    for n in 0..writes {
        let random = mix(seed << 32 | n);
        let id = id(random % 1_500);
        if random >> 60 < 4 {
            assert!(store.remove(&id).is_ok());
        } else {
            RECORDS.put(store, &id, n as u32);
        }
    }
}

/// What the other processes of these tests do.
#[test]
fn roles() {
    let Some((role, place)) = role() else { return };
    match role.as_str() {
        // Writes for ever; says what it is about to do, and what has been acknowledged.
        "writer" => {
            let store = create(&place);
            let seed = u64::from(std::process::id());
            for n in 0u32.. {
                let random = mix(seed << 32 | u64::from(n));
                let (id, remove) = (random % 300, random >> 60 < 4);
                let version = if remove { 0 } else { n + 1 };
                say(format!("do {id} {version}"));
                if remove {
                    assert!(store.remove(self::id(id)).is_ok());
                } else {
                    RECORDS.put(&store, &self::id(id), version);
                }
                say(format!("done {id} {version}"));
            }
        }
        // When told to: four threads at once. Then waits to be killed.
        "many writers" => {
            wait();
            let store = create(&place);
            std::thread::scope(|scope| {
                for thread in 1..=4 {
                    let store = &store;
                    scope.spawn(move || scribble(store, thread, 3_000));
                }
            });
            say(describe(&state(&store)));
            wait();
        }
        // Opens and closes for ever.
        "opener" => {
            say("begins");
            loop {
                drop(open(&place));
            }
        }
        other => panic!("no role {other}"),
    }
}

/// A state in one line: its sum is enough to compare.
fn describe(state: &State) -> String {
    let mut text = String::new();
    for record in state.values() {
        write!(text, "{record:?}").unwrap();
    }
    format!("{} records {:08x}", state.len(), crc32fast::hash(text.as_bytes()))
}

#[test]
fn after_close_and_after_drop_the_state_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    for round in 0..3 {
        scribble(&store, round, 3_000);
        store = reopen(store);
        scribble(&store, round + 100, 3_000);
        let before = state(&store);
        drop(store);
        store = open(dir.path());
        assert_same(&state(&store), &before);
        assert_eq!((store.recovery().torn, store.recovery().corrupt), (0, 0));
    }
    assert!(store.stats().segments > 3);
    assert!(store.verify().unwrap().is_clean());
}

/// Memory and recovery decide every race between writes of one id alike.
#[test]
fn after_races_of_overwrites_and_removes_the_reopened_state_is_the_live_one() {
    for round in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..1_200u64 {
                        let random = mix(round << 48 | thread << 32 | n);
                        let id = id(random % 7);
                        if random >> 63 == 0 {
                            RECORDS.put(store, &id, n as u32);
                        } else {
                            assert!(store.remove(&id).is_ok());
                        }
                    }
                });
            }
        });
        let before = state(&store);
        // What a kill would leave, and what a close leaves.
        let killed = dir.path().join("killed");
        tree::copy(dir.path(), &killed);
        let killed = open(&killed);
        assert_same(&state(&killed), &before);
        drop(killed);
        let again = reopen(store);
        assert_same(&state(&again), &before);
        assert_eq!(again.recovery().corrupt, 0, "{:?}", again.recovery());
    }
}

#[test]
fn after_a_kill_of_a_process_at_rest_the_state_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Role::play("many writers", dir.path(), 1000);
    writer.go_on();
    let said = writer.hear().unwrap();
    drop(writer.kill());
    let store = open(dir.path());
    assert_eq!(describe(&state(&store)), said);
    assert_eq!((store.recovery().torn, store.recovery().corrupt), (0, 0));
    assert_eq!(describe(&state(&reopen(store))), said);
}

/// What was acknowledged before a SIGKILL is there; the one write under way may be, whole, or not.
#[test]
fn after_a_kill_in_the_middle_of_writing_everything_acknowledged_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected: BTreeMap<u64, u32> = BTreeMap::new();
    for round in 0..8 {
        let mut writer = Role::play("writer", dir.path(), 1000);
        let mut said: Vec<String> = (0..1 + round * 300).map_while(|_| writer.hear()).collect();
        said.extend(writer.kill());
        let mut under_way = None;
        for line in said {
            let words: Vec<_> = line.split(' ').collect();
            let [word, id, version] = words[..] else { continue };
            let (Ok(id), Ok(version)) = (id.parse(), version.parse()) else { continue };
            if word == "done" {
                expected.insert(id, version);
                under_way = None;
            } else {
                under_way = Some((id, version));
            }
        }
        let store = open(dir.path());
        assert_eq!(store.recovery().corrupt, 0, "{:?}", store.recovery());
        let found = state(&store);
        for n in 0..300 {
            let version = found.get(&id(n)).map_or(0, |record| {
                RECORDS.version_of(&record.id, &record.embedding, &record.content)
            });
            if under_way == Some((n, version)) {
                expected.insert(n, version);
            }
            assert_eq!(version, expected.get(&n).copied().unwrap_or(0), "id {n}, round {round}");
        }
        assert_same(&state(&reopen(store)), &found);
    }
}

#[test]
fn a_process_killed_while_it_opens_a_store_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    scribble(&store, 1, 8_000);
    let before = state(&store);
    drop(store);
    for round in 0..25u64 {
        let mut opener = Role::play("opener", dir.path(), 1000);
        assert_eq!(opener.hear().as_deref(), Some("begins"));
        std::thread::sleep(std::time::Duration::from_micros(mix(round) % 30_000));
        drop(opener.kill());
        if round % 5 == 0 {
            assert_same(&state(&open(dir.path())), &before);
        }
    }
    let store = open(dir.path());
    assert_same(&state(&store), &before);
    assert!(store.verify().unwrap().is_clean());
    scribble(&store, 2, 100);
    reopen(store);
}

#[test]
fn no_lsn_is_ever_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    let mut last = Lsn::default();
    for round in 0..30u32 {
        // A removal takes an LSN too, and so does a put that is overwritten.
        for n in 0..round * 20 {
            let lsn = RECORDS.put(&store, &id(u64::from(n % 7)), n);
            assert!(lsn > last, "{lsn} after {last}");
            last = lsn;
        }
        if store.remove(id(0)).unwrap().is_some() {
            let tail = store.stats().tail;
            assert!(tail > last);
        }
        let tail = store.stats().tail;
        store = if round % 2 == 0 {
            reopen(store)
        } else {
            drop(store);
            open(dir.path())
        };
        assert!(store.stats().tail >= tail, "the tail went back: {:?}", store.stats());
        let lsn = RECORDS.put(&store, b"first", round);
        assert!(lsn >= tail && lsn > last, "{lsn} is below {tail}");
        last = lsn;
    }
    reopen(store);
}

#[test]
fn opening_often_does_not_take_a_segment_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    RECORDS.put(&store, b"first", 1);
    for round in 0..50u64 {
        store = if round % 2 == 0 {
            reopen(store)
        } else {
            drop(store);
            open(dir.path())
        };
        RECORDS.put(&store, &id(round), 1);
        assert_eq!(store.stats().segments, 1, "round {round}");
    }
    let store = reopen(store);
    assert_eq!(store.len(), 51);
    store.close().unwrap();
    assert_eq!(tree::segments(dir.path()).len(), 1);
    assert_same(
        &state(&open(dir.path())),
        &state(&Options::new().read_only(true).open(dir.path()).unwrap()),
    );
}

#[test]
fn what_was_removed_stays_removed_over_many_openings_and_rolls() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    (0..500).for_each(|n| assert!(RECORDS.put(&store, &id(n), 1) > Lsn::default()));
    (0..500).for_each(|n| assert!(n % 2 == 0 || store.remove(id(n)).unwrap().is_some()));
    for round in 0..10 {
        // Enough to roll, and enough ids for the index to drop what is dead.
        for n in 0..2_000 {
            RECORDS.put(&store, &id(10_000 + n), round);
        }
        store = reopen(store);
        for n in 0..500 {
            assert_eq!(store.contains(id(n)), n % 2 == 0, "id {n}, round {round}");
        }
    }
    assert!(store.stats().segments > 5);
    assert_eq!(reopen(store).len(), 250 + 2_000);
}

/// Segments are scanned at the same time, so a removal is met before the record that it removes; it
/// must hold all the same, and even if the index has no more room for what is dead.
#[test]
fn a_removal_that_recovery_meets_before_its_record_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().dimension(1).segment_size(SEGMENT).open(dir.path()).unwrap();
    for n in 0..6_000u32 {
        store.put(n.to_le_bytes(), &[n as f32], "").unwrap();
    }
    // The last ones first: what one scan comes to at its end, the other one begins with.
    for n in (0..6_000u32).rev() {
        assert!(n % 1_000 == 0 || store.remove(n.to_le_bytes()).unwrap().is_some());
    }
    assert!(store.stats().segments > 1);
    let mut store = store;
    for _ in 0..5 {
        assert_eq!(store.len(), 6);
        store = reopen(store);
    }
}

/// A writer that was killed between reserve and commit leaves a slot that nobody has decided about:
/// counted as torn once, voided, and counted as void from then on.
#[test]
fn a_reservation_that_a_kill_left_open_is_torn_once_and_void_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let last = (0..10).map(|n| RECORDS.put(&store, &id(n), 1)).max().unwrap();
    let before = state(&store);
    store.close().unwrap();
    torn::open_reservation(&tree::segments(dir.path())[0]);
    for round in 0..4 {
        let store = open(dir.path());
        let counted = (store.recovery().torn, store.recovery().void, store.recovery().corrupt);
        assert_eq!(counted, if round == 0 { (1, 0, 0) } else { (0, 1, 0) }, "round {round}");
        assert_same(&state(&store), &before);
        assert!(store.verify().unwrap().is_clean());
        store.close().unwrap();
    }
    let store = open(dir.path());
    assert!(RECORDS.put(&store, b"next", 1) > last);
    reopen(store);
}

/// A file of the next segment stands for LSNs that may have been given, even if power loss has left
/// it blank: it goes, and its number is never used again.
#[test]
fn a_sequence_number_that_was_used_is_never_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    RECORDS.put(&store, b"a", 1);
    store.close().unwrap();
    let number = torn::preallocated_successor(&tree::segments(dir.path())[0]);
    for round in 0..3 {
        let store = open(dir.path());
        for n in 0..300 {
            RECORDS.put(&store, &id(n), round);
        }
        reopen(store).close().unwrap();
        assert_eq!(tree::segments(dir.path()).len(), 1, "it is not needed");
        let manifest = std::fs::read(dir.path().join("MANIFEST")).unwrap();
        let next = Manifest::decode(&manifest).unwrap().next_sequence;
        assert!(next.0 > number, "{next:?} will be used once more, round {round}");
    }
}

#[test]
fn opening_a_closed_store_writes_nothing_into_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    scribble(&store, 3, 5_000);
    let before = state(&store);
    store.close().unwrap();
    let bytes = |dir: &Path| {
        let tree = tree::look(dir).into_iter().filter(|(path, _)| !path.ends_with("LOCK"));
        tree.map(|(path, seen)| (path, crc32fast::hash(&seen.bytes))).collect::<BTreeMap<_, _>>()
    };
    let files = bytes(dir.path());
    for _ in 0..3 {
        let store = open(dir.path());
        assert_same(&state(&store), &before);
        store.close().unwrap();
        assert_eq!(bytes(dir.path()), files);
    }
}
