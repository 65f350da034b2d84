//! The whole engine over segments on the heap, three or four threads at a time, under shuttle's
//! random and PCT schedulers: more threads and longer histories than loom can exhaust, sequentially
//! consistent only. The epoch is crossbeam's own, with a registration for each task; its steps are
//! not interrupted, what it gives back is really freed.
//!
//! `SHUTTLE_ITERATIONS` schedules of each kind (default 1,000) a scenario; a failure prints its
//! schedule, and `SHUTTLE_REPLAY=<schedule>` runs one scenario along it.
//!
//! mutations: shuttle-*
#![cfg(stratalog_shuttle)]

use loom_tests::{
    SmallEngine, check_at_rest, compact, engine, get, hash, put, put_if_absent, recovered_without,
    tombstone,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use stratalog::internals::format::ids::{SlotNumber, TableIndex};
use stratalog::internals::index::KeyHash;
use stratalog::internals::segment::Segment;
use stratalog::internals::{HeapMemory, Key, Purpose};

type Actor = fn(&SmallEngine);

fn run_with(scheduler: impl Scheduler + 'static, scenario: fn()) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    Runner::new(scheduler, config).run(scenario)
}

/// Runs a scenario under both schedulers, or along one schedule.
fn explore(scenario: fn()) {
    if let Ok(schedule) = std::env::var("SHUTTLE_REPLAY") {
        assert_eq!(run_with(ReplayScheduler::new_from_encoded(&schedule), scenario), 1);
        return;
    }
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let iterations = number("SHUTTLE_ITERATIONS").unwrap_or(1_000) as usize;
    let seed = number("SHUTTLE_SEED").unwrap_or_else(|| std::process::id().into());
    let random = run_with(RandomScheduler::new_from_seed(seed, iterations), scenario);
    let pct = run_with(PctScheduler::new_from_seed(seed, 3, iterations), scenario);
    println!("{random} random and {pct} PCT schedules, seed {seed}");
    assert_eq!((random, pct), (iterations, iterations));
}

/// The actors, each on a thread of its own.
fn together(engine: &Arc<SmallEngine>, actors: &[Actor]) {
    let spawn = |actor: &Actor| {
        let (engine, actor) = (Arc::clone(engine), *actor);
        thread::spawn(move || actor(&engine))
    };
    for thread in actors.iter().map(spawn).collect::<Vec<_>>() {
        thread.join().expect("an actor failed");
    }
}

fn put_all(engine: &SmallEngine, ids: &[u8], value: &[u8; 4]) {
    for id in ids {
        let lsn = engine.put(&put(&[*id], value)).expect("room");
        assert!(lsn > stratalog::Lsn::from_u64(0));
    }
}

fn remove(engine: &SmallEngine, id: &[u8]) -> bool {
    engine.remove(&tombstone(id)).expect("room").is_ok()
}

fn value(engine: &SmallEngine, id: &[u8]) -> Option<[u8; 4]> {
    get(engine, id).map(|found| found.0)
}

#[test]
fn a_thread_finds_what_it_did_to_its_own_id() {
    fn mine(engine: &SmallEngine, id: &[u8; 1]) {
        for round in [*b"1111", *b"2222"] {
            put_all(engine, id, &round);
            assert_eq!(value(engine, id), Some(round));
            put_all(engine, b"s", &round);
            assert!(remove(engine, id), "it was there");
            assert!(!remove(engine, id), "it was removed");
            assert_eq!(value(engine, id), None);
        }
        put_all(engine, id, b"3333");
    }
    explore(|| {
        let engine = engine(1024);
        together(&engine, &[|e| mine(e, b"a"), |e| mine(e, b"b"), |e| mine(e, b"c")]);
        check_at_rest(&engine, &[b"a", b"b", b"c", b"s"]);
        let found = [b"a", b"b", b"c"].map(|id| value(&engine, id));
        assert_eq!(found, [Some(*b"3333"); 3]);
    });
}

#[test]
fn ids_of_one_hash_are_told_apart() {
    fn mine(engine: &SmallEngine, id: &[u8; 2], mine: &[u8; 4]) {
        for _ in 0..2 {
            assert!(engine.put(&put(id, mine)).is_ok());
            assert_eq!(value(engine, id), Some(*mine), "another id's record");
            assert!(remove(engine, id), "another thread removed it");
        }
        assert!(put_if_absent(engine, id, mine), "it was removed");
    }
    explore(|| {
        let engine = engine(2048);
        together(
            &engine,
            &[
                |e| mine(e, b"xa", b"1111"),
                |e| mine(e, b"xb", b"2222"),
                |e| mine(e, b"xc", b"3333"),
            ],
        );
        let found = [b"xa", b"xb", b"xc"].map(|id| value(&engine, id));
        assert_eq!(found, [Some(*b"1111"), Some(*b"2222"), Some(*b"3333")]);
        check_at_rest(&engine, &[b"xa", b"xb", b"xc"]);
    });
}

#[test]
fn what_a_thread_saw_of_an_id_never_goes_back() {
    fn increasing(engine: &SmallEngine) {
        let mut last = None;
        for _ in 0..4 {
            let now = get(engine, b"a").map(|found| found.1);
            assert!(now >= last, "{now:?} after {last:?}");
            last = now;
        }
    }
    explore(|| {
        let engine = engine(1024);
        let writer: Actor = |e| (0..3).for_each(|_| put_all(e, b"a", b"1111"));
        together(&engine, &[writer, increasing, writer, increasing]);
        check_at_rest(&engine, &[b"a"]);
    });
}

#[test]
fn a_growing_index_hides_nothing_and_shows_nothing_twice() {
    fn walk(engine: &SmallEngine) {
        let guard = engine.epoch().pin();
        let (mut walk, mut seen) = (engine.index().walk(), BTreeMap::new());
        while let Some((entry, moved)) = walk.next(engine.index(), &guard) {
            let at = engine.locate(&guard, entry).expect("undamaged");
            let id = at.frame.id().to_vec();
            // Read before its chunk was replaced: whoever walks looks it up again.
            let live = !moved || value(engine, &id).is_some();
            *seen.entry(id).or_insert(0) += u32::from(live);
        }
        assert!(seen.values().all(|&times| times <= 1), "{seen:?}");
        assert_eq!(seen.get(&b"s"[..]), Some(&1), "{seen:?}");
        drop(guard);
        engine.epoch().reclaim();
    }
    explore(|| {
        let engine = engine(4096);
        put_all(&engine, b"s", b"0000");
        let overwrite: Actor = |e| {
            for _ in 0..3 {
                put_all(e, b"k", b"2222");
                remove(e, b"k");
            }
        };
        together(
            &engine,
            &[
                |e| put_all(e, b"abcdef", b"1111"),
                |e| put_all(e, b"ghij", b"1111"),
                overwrite,
                walk,
            ],
        );
        for id in b"abcdefghij" {
            assert_eq!(value(&engine, &[*id]), Some(*b"1111"), "{id}");
        }
        let ids = b"abcdefghijks".map(|id| [id]);
        check_at_rest(&engine, &ids.each_ref().map(|id| &id[..]));
    });
}

#[test]
fn a_roll_loses_nothing_with_and_without_a_preallocated_segment() {
    explore(|| {
        let engine = engine(512);
        let preallocate: Actor = |e| {
            for _ in 0..3 {
                e.log().preallocate(e.epoch(), |_| Ok(true)).expect("room");
                e.epoch().reclaim();
            }
        };
        together(
            &engine,
            &[
                |e| put_all(e, b"abc", b"1111"),
                |e| put_all(e, b"def", b"1111"),
                |e| put_all(e, b"ghi", b"1111"),
                preallocate,
            ],
        );
        let ids = b"abcdefghi".map(|id| [id]);
        for id in &ids {
            assert_eq!(value(&engine, id), Some(*b"1111"), "{id:?}");
        }
        check_at_rest(&engine, &ids.each_ref().map(|id| &id[..]));
    });
}

#[test]
fn a_batch_is_published_whole_and_memory_agrees_with_recovery() {
    fn batch(engine: &SmallEngine, value: &[u8; 4]) {
        let lsn = engine.write_batch(&mut vec![put(b"a", value), put(b"b", value)]).expect("room");
        let found = [b"a", b"b"].map(|id| get(engine, id).map(|found| found.1));
        assert!(found.iter().all(|found| found.is_some()), "{found:?} after {lsn:?}");
    }
    explore(|| {
        let engine = engine(2048);
        together(
            &engine,
            &[
                |e| batch(e, b"1111"),
                |e| batch(e, b"2222"),
                |e| put_all(e, b"b", b"3333"),
                |e| assert_ne!(value(e, b"a"), Some(*b"3333")),
            ],
        );
        assert_ne!(value(&engine, b"a"), Some(*b"3333"));
        check_at_rest(&engine, &[b"a", b"b"]);
    });
}

#[test]
fn of_inserts_that_race_one_wins_and_a_removal_makes_room_for_one_more() {
    explore(|| {
        let engine = engine(1024);
        let insert = |value: &'static [u8; 4]| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || put_if_absent(&engine, b"a", value))
        };
        let inserts = [insert(b"1111"), insert(b"2222"), insert(b"3333")];
        let removed = remove(&engine, b"a");
        let won = inserts.map(|thread| thread.join().expect("it ends"));
        let won = won.iter().filter(|won| **won).count();
        let most = 1 + usize::from(removed);
        assert!((1..=most).contains(&won), "{won} won, removed: {removed}");
        let left = value(&engine, b"a").is_some();
        assert_eq!(left, won > usize::from(removed), "{won} won, removed: {removed}");
        check_at_rest(&engine, &[b"a"]);
    });
}

/// An engine with these ids in a quiet segment, and a place for copies.
fn quiet(ids: &[u8]) -> (Arc<SmallEngine>, [Arc<Segment<HeapMemory>>; 2]) {
    let engine = engine(2048);
    put_all(&engine, ids, b"0000");
    let guard = engine.epoch().pin();
    let victim = engine.log().table().get_arc(&guard, TableIndex(0)).expect("it is there");
    assert!(engine.log().end_active(&guard) && victim.filling().is_quiet());
    let output = engine.log().make_for_copies(&guard).expect("room");
    drop(guard);
    (engine, [victim, output])
}

#[test]
fn compaction_beside_writers_loses_nothing_and_brings_nothing_back() {
    explore(|| {
        let (engine, [victim, output]) = quiet(b"abc");
        let compactor = {
            let (engine, victim) = (Arc::clone(&engine), Arc::clone(&victim));
            thread::spawn(move || compact(&engine, &victim, &output))
        };
        let reader: Actor = |e| {
            for _ in 0..2 {
                assert_eq!(value(e, b"c"), Some(*b"0000"), "nobody writes it");
            }
        };
        together(&engine, &[|e| put_all(e, b"a", b"1111"), |e| assert!(remove(e, b"b")), reader]);
        compactor.join().expect("it ends");
        let found = [b"a", b"b", b"c"].map(|id| value(&engine, id));
        assert_eq!(found, [Some(*b"1111"), None, Some(*b"0000")]);
        check_at_rest(&engine, &[b"a", b"b", b"c"]);
        for id in [b"a", b"b", b"c"] {
            let without = recovered_without(&engine, id, Some(victim.sequence()));
            assert_eq!(without, get(&engine, id), "without the victim");
        }
    });
}

#[test]
fn no_update_of_a_tag_is_lost_beside_a_move() {
    fn bump(engine: &SmallEngine) {
        for _ in 0..2 {
            let guard = engine.epoch().pin();
            let at = engine.get(&guard, KeyHash(hash(b"a")), b"a").expect("undamaged");
            let at = at.expect("it is there all the time");
            at.segment.tags().update_tag(&at.frame, |tag| tag + 1).expect("a small tag");
        }
    }
    explore(|| {
        let (engine, [victim, output]) = quiet(b"a");
        let compactor = {
            let engine = Arc::clone(&engine);
            thread::spawn(move || compact(&engine, &victim, &output))
        };
        together(&engine, &[bump, bump, bump]);
        compactor.join().expect("it ends");
        let guard = engine.epoch().pin();
        let at = engine.get(&guard, KeyHash(hash(b"a")), b"a").expect("undamaged");
        let at = at.expect("it is there all the time");
        assert_eq!(at.segment.tags().tag(&at.frame), 6);
    });
}

#[test]
fn a_writer_that_panics_between_reserve_and_commit_stops_nobody() {
    fn panics(engine: &SmallEngine) {
        let guard = engine.epoch().pin();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _reservation = engine.log().reserve(&guard, 64, Purpose::Grow);
            // Past the panic hook, which would print a schedule.
            resume_unwind(Box::new("planned"));
        }));
        assert!(unwound.is_err());
    }
    explore(|| {
        let engine = engine(1024);
        together(
            &engine,
            &[panics, |e| put_all(e, b"ab", b"1111"), |e| put_all(e, b"ac", b"2222")],
        );
        check_at_rest(&engine, &[b"a", b"b", b"c"]);
        assert!(value(&engine, b"a").is_some());
        let guard = engine.epoch().pin();
        assert!(engine.log().end_active(&guard));
        let mut used = engine.log().table().iter(&guard).filter(|s| s.filling().slots_end() > 0);
        assert!(
            used.all(|segment| segment.filling().is_quiet()),
            "the one that panicked keeps its claim"
        );
    });
}

#[test]
fn a_flush_that_voids_what_is_undecided_makes_its_writers_write_again() {
    fn void_all(engine: &SmallEngine) {
        for _ in 0..2 {
            let guard = engine.epoch().pin();
            for segment in engine.log().table().iter(&guard) {
                for slot in 0..segment.filling().slots_end() {
                    segment.directory().void_if_empty(SlotNumber(slot));
                }
            }
        }
    }
    explore(|| {
        let engine = engine(2048);
        put_all(&engine, b"r", b"0000");
        together(
            &engine,
            &[
                |e| put_all(e, b"a", b"1111"),
                |e| assert!(remove(e, b"r")),
                |e| assert!(put_if_absent(e, b"c", b"2222")),
                void_all,
            ],
        );
        let found = [b"a", b"r", b"c"].map(|id| value(&engine, id));
        assert_eq!(found, [Some(*b"1111"), None, Some(*b"2222")]);
        check_at_rest(&engine, &[b"a", b"r", b"c"]);
    });
}

#[test]
fn what_a_rebuild_replaces_is_given_back_under_nobody() {
    fn rebuild(engine: &SmallEngine) {
        for id in [b"a", b"b"] {
            put_all(engine, id, b"1111");
            remove(engine, id);
            let guard = engine.epoch().pin();
            engine.drop_tombstones(&guard, Key { hash: KeyHash(hash(id)), id });
            drop(guard);
            engine.epoch().reclaim();
        }
    }
    explore(|| {
        let engine = engine(4096);
        let reader: Actor = |e| {
            for _ in 0..3 {
                assert!([None, Some(*b"1111")].contains(&value(e, b"a")));
            }
        };
        together(&engine, &[rebuild, rebuild, reader]);
        check_at_rest(&engine, &[b"a", b"b"]);
        for _ in 0..8 {
            engine.epoch().reclaim();
        }
        assert_eq!(engine.epoch().pending(), 0, "never given back");
    });
}
