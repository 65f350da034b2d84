//! The seven scenarios of the report on the system before this one, in which two writers could
//! meet at one offset: wrong contents under right ids, wrong lengths, silent loss. Invariant: every
//! record read is of one piece, every write that returned is found, of two writes of one id the one
//! with the higher LSN wins, live and after a reopen alike.
//!
//! Each scenario runs on threads and on tokio, `STRATALOG_REPEAT` times (3 unless given):
//!
//! `STRATALOG_REPEAT=100 cargo test --release --test scenarios -- --nocapture`
#![cfg(test)]

mod common;
#[path = "scenarios/crew.rs"]
mod crew;
#[path = "common/heap.rs"]
mod heap;
#[path = "scenarios/panic.rs"]
mod panic;

use common::{Records, SEGMENT, mix, reopen, state};
use crew::Crew;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stratalog::{Lsn, Options, Store};

const RECORDS: Records = Records { dimension: 768, content_max: 600 };

fn repetitions() -> u32 {
    let given = std::env::var("STRATALOG_REPEAT").ok();
    given.map_or(3, |n| n.parse().expect("STRATALOG_REPEAT is a number"))
}

/// Runs a scenario on a new store, for each crew, as often as asked for; each time the reopened
/// store must be as it was.
fn each(name: &str, records: Records, scenario: impl Fn(Crew, &Arc<Store>)) {
    for round in 1..=repetitions() {
        println!("{name}, round {round}");
        for crew in [Crew::Threads, Crew::Tokio] {
            let dir = tempfile::tempdir().unwrap();
            let options = Options::new().dimension(records.dimension).segment_size(SEGMENT);
            let store = Arc::new(options.open(dir.path().join("store")).unwrap());
            scenario(crew, &store);
            let store = Arc::into_inner(store).expect("no worker is left");
            reopen(store);
        }
    }
}

fn id(n: usize) -> Vec<u8> {
    format!("record-{n}").into_bytes()
}

/// A write that returned.
type Write = (Vec<u8>, u32, Lsn);

/// The store holds, for each id, the write with the highest LSN, and nothing else.
#[track_caller]
fn assert_highest_lsn_wins(store: &Store, records: Records, writes: &[Write]) {
    let lsns: BTreeSet<Lsn> = writes.iter().map(|write| write.2).collect();
    assert_eq!(lsns.len(), writes.len(), "an LSN was given twice");
    let mut winners = BTreeMap::new();
    for (id, version, lsn) in writes {
        let winner = winners.entry(id.clone()).or_insert((*lsn, *version));
        *winner = (*lsn, *version).max(*winner);
    }
    let found: BTreeMap<_, _> = state(store)
        .into_iter()
        .map(|(id, r)| (id.clone(), (r.lsn, records.version_of(&id, &r.embedding, &r.content))))
        .collect();
    assert_eq!(found, winners);
}

/// Within each worker's own order, no id ever goes back to an older version.
fn assert_no_id_goes_back<'a>(steps: impl IntoIterator<Item = &'a (Vec<u8>, Lsn)>) {
    let mut newest: BTreeMap<&[u8], Lsn> = BTreeMap::new();
    for (id, lsn) in steps {
        let newest = newest.entry(id).or_insert(*lsn);
        assert!(*newest <= *lsn, "{} went back from {newest} to {lsn}", id.escape_ascii());
        *newest = *lsn;
    }
}

/// Reads an id in one of three ways, checks it, and answers its LSN.
fn read(store: &Store, records: Records, id: &[u8], way: usize) -> Option<Lsn> {
    match way % 3 {
        0 => store.pin().get(id).unwrap().map(|r| {
            assert_eq!(r.id(), id);
            records.version_of(id, r.embedding(), r.content());
            r.lsn()
        }),
        1 => store.get_owned(id).unwrap().map(|r| {
            records.version_of(id, &r.embedding, &r.content);
            r.lsn
        }),
        _ => store.get_shared(id).unwrap().map(|r| {
            records.version_of(id, r.embedding(), r.content());
            r.lsn()
        }),
    }
}

#[test]
fn concurrent_stores() {
    const WRITERS: usize = 10;
    const EACH: usize = 100;
    each("concurrent_stores", RECORDS, |crew, store| {
        let writer = Arc::clone(store);
        let lsns = crew.run(WRITERS, EACH, move |worker, step| {
            let id = id(worker * EACH + step);
            let lsn = RECORDS.put(&writer, &id, 7);
            (id, 7, lsn)
        });
        for worker in &lsns {
            assert!(worker.is_sorted_by_key(|write| write.2), "LSNs of one writer in order");
        }
        assert_highest_lsn_wins(store, RECORDS, &lsns.concat());
        assert_eq!(store.len(), WRITERS * EACH);
    });
}

#[test]
fn concurrent_gets() {
    const READERS: usize = 20;
    const ROUNDS: usize = 10;
    const IDS: usize = 100;
    each("concurrent_gets", RECORDS, |crew, store| {
        let lsns: Vec<_> = (0..IDS).map(|n| RECORDS.put(store, &id(n), 3)).collect();
        let reader = Arc::clone(store);
        let seen = crew.run(READERS, ROUNDS * IDS, move |worker, step| {
            read(&reader, RECORDS, &id(step % IDS), worker)
        });
        for worker in seen {
            assert_eq!(worker.len(), ROUNDS * IDS);
            for (step, lsn) in worker.into_iter().enumerate() {
                assert_eq!(lsn, Some(lsns[step % IDS]));
            }
        }
    });
}

#[test]
fn mixed() {
    const WRITERS: usize = 5;
    const READERS: usize = 10;
    const IDS: usize = 1000;
    const STEPS: usize = IDS / WRITERS;
    each("mixed", RECORDS, |crew, store| {
        let mut writes: Vec<Write> =
            (0..IDS).map(|n| (id(n), 0, RECORDS.put(store, &id(n), 0))).collect();
        let both = Arc::clone(store);
        let done = crew.run(WRITERS + READERS, STEPS, move |worker, step| {
            if worker < WRITERS {
                let id = id(worker * STEPS + step);
                let lsn = RECORDS.put(&both, &id, 1);
                return (id, lsn);
            }
            let id = id(mix((worker * STEPS + step) as u64) as usize % IDS);
            let lsn = read(&both, RECORDS, &id, worker).expect("no id is ever away");
            (id, lsn)
        });
        for worker in &done {
            assert_no_id_goes_back(worker);
        }
        writes.extend(done[..WRITERS].iter().flatten().map(|(id, lsn)| (id.clone(), 1, *lsn)));
        assert_highest_lsn_wins(store, RECORDS, &writes);
    });
}

#[test]
fn hot_spot() {
    const WORKERS: usize = 50;
    const IDS: usize = 10;
    const STEPS: usize = 20;
    each("hot_spot", RECORDS, |crew, store| {
        let both = Arc::clone(store);
        // Each worker writes an id and reads it back at once.
        let done = crew.run(WORKERS, STEPS, move |worker, step| {
            let (id, version) = (id((worker + step / 2) % IDS), (worker * STEPS + step) as u32);
            if step % 2 == 0 {
                let lsn = RECORDS.put(&both, &id, version);
                (id, lsn, Some(version))
            } else {
                let lsn = read(&both, RECORDS, &id, worker).expect("it was put just now");
                (id, lsn, None)
            }
        });
        for worker in &done {
            let steps: Vec<_> = worker.iter().map(|(id, lsn, _)| (id.clone(), *lsn)).collect();
            assert_no_id_goes_back(&steps);
        }
        let writes: Vec<Write> = done
            .concat()
            .into_iter()
            .filter_map(|(id, lsn, version)| Some((id, version?, lsn)))
            .collect();
        assert_eq!(writes.len(), WORKERS * STEPS / 2);
        assert_highest_lsn_wins(store, RECORDS, &writes);
    });
}

#[test]
fn writer_against_writer() {
    const WRITERS: usize = 20;
    const IDS: usize = 50;
    each("writer_against_writer", RECORDS, |crew, store| {
        let writer = Arc::clone(store);
        let writes = crew.run(WRITERS, IDS, move |worker, step| {
            let (id, version) = (id(step), worker as u32);
            let lsn = RECORDS.put(&writer, &id, version);
            (id, version, lsn)
        });
        assert_highest_lsn_wins(store, RECORDS, &writes.concat());
    });
}

/// What each thread puts, in order: number of the id, and content.
type Plan = Vec<Vec<(u8, Vec<u8>)>>;

fn plans() -> impl Strategy<Value = Plan> {
    let content = prop::collection::vec(any::<u8>(), 0..=1000);
    let thread = prop::collection::vec((0u8..40, content), 10..=50);
    prop::collection::vec(thread, 2..=10)
}

/// Every thread reads back what it put, or what another one put later; at the end the highest LSN
/// has won.
fn follow(plan: &Plan, store: &Store) -> BTreeMap<Vec<u8>, (Lsn, Vec<u8>)> {
    const SMALL: Records = Records { dimension: 8, content_max: 0 };
    let step = |thread: usize, step: usize| {
        let (n, content) = &plan[thread][step];
        let (id, version) = (id(usize::from(*n)), (thread * 64 + step) as u32);
        let lsn = store.put(&id, &SMALL.embedding(&id, version), content).unwrap();
        let pinned = store.pin();
        let seen = pinned.get(&id).unwrap().expect("it was put just now");
        assert!(seen.lsn() >= lsn, "an older version than one's own");
        let by = SMALL.version_of(&id, seen.embedding(), &[]) as usize;
        assert_eq!(seen.content(), plan[by / 64][by % 64].1, "content of another version");
        (id, (lsn, content.clone()))
    };
    let mut winners = BTreeMap::new();
    std::thread::scope(|scope| {
        let begin = |thread: usize| {
            scope
                .spawn(move || (0..plan[thread].len()).map(|n| step(thread, n)).collect::<Vec<_>>())
        };
        let threads: Vec<_> = (0..plan.len()).map(begin).collect();
        for thread in threads {
            for (id, write) in thread.join().expect("a writer") {
                let winner = winners.entry(id).or_insert_with(|| write.clone());
                if winner.0 < write.0 {
                    *winner = write;
                }
            }
        }
    });
    winners
}

fn contents(store: &Store) -> BTreeMap<Vec<u8>, (Lsn, Vec<u8>)> {
    state(store).into_iter().map(|(id, record)| (id, (record.lsn, record.content))).collect()
}

#[test]
fn property_based() {
    let mut config = ProptestConfig::with_cases(4 * repetitions());
    // A case is a few megabytes of files: shrinking all the way would take minutes.
    config.max_shrink_iters = 200;
    config.failure_persistence = None;
    proptest!(config, |(plan in plans())| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().dimension(8).segment_size(SEGMENT);
        let store = options.open(dir.path().join("store")).unwrap();
        let winners = follow(&plan, &store);
        prop_assert_eq!(&contents(&store), &winners);
        let store = reopen(store);
        prop_assert_eq!(&contents(&store), &winners);
    });
}
