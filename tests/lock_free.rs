//! A thread that is stopped anywhere inside `put`, `get` or `remove` stops nobody else's. The
//! simple form: threads are stopped where the code can be made to wait from outside; the others
//! must get all their work done meanwhile, or these tests never end.
#![cfg(test)]

mod common;
#[path = "common/heap.rs"]
mod heap;

use common::{Records, SEGMENT, reopen};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stratalog::internals::format::slot::{self, SlotState};
use stratalog::internals::index::KeyHash;
use stratalog::internals::segment::{ForwardingTable, Segment};
use stratalog::{Options, Store};

const RECORDS: Records = Records { dimension: 16, content_max: 300 };

/// A place where a thread stops until it is told to go on.
struct Stop {
    reached: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

/// The stop, and the two ends that the test holds: "it was reached" and "go on".
fn stop() -> (Stop, Receiver<()>, Sender<()>) {
    let (reached, was_reached) = channel();
    let (go, go_on) = channel();
    (Stop { reached, go_on: Mutex::new(go_on) }, was_reached, go)
}

impl Stop {
    fn here(&self) {
        self.reached.send(()).expect("the test waits for it");
        self.go_on.lock().expect("one thread stops here").recv().expect("the test goes on");
    }
}

fn new_store(dir: &tempfile::TempDir) -> Store {
    let options = Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT);
    options.open(dir.path().join("store")).unwrap()
}

/// Three threads that put, get, overwrite and remove, over at least as many rolls.
fn work(store: &Store) {
    let worker = |thread: u32| {
        for n in 0..6_000 {
            let id = format!("{thread} {}", n % 900).into_bytes();
            RECORDS.put(store, &id, n);
            let pinned = store.pin();
            let record = pinned.get(&id).unwrap().expect("it was put just now");
            assert_eq!(RECORDS.version_of(&id, record.embedding(), record.content()), n);
            assert!(n % 5 > 0 || store.remove(&id).unwrap().is_some());
        }
        assert!(store.pin().iter().count() > 0);
    };
    // By the numbers given, not by what is there: compaction takes segments away beside this.
    let newest = || store.stats().tail.as_u64() >> 24;
    let before = newest();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let worker = &worker;
            scope.spawn(move || worker(thread));
        }
    });
    assert!(newest() >= before + 3, "the log has rolled");
}

#[test]
fn a_thread_stopped_while_it_is_pinned_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    RECORDS.put(&store, b"pinned", 1);
    let (stop, reached, go_on) = stop();
    std::thread::scope(|scope| {
        // Gone with a failure below: then the stopped thread ends, and the test with it.
        let go_on = go_on;
        let stopped = scope.spawn(|| {
            let pinned = store.pin();
            let record = pinned.get("pinned").unwrap().unwrap();
            stop.here();
            RECORDS.version_of(b"pinned", record.embedding(), record.content())
        });
        reached.recv().unwrap();
        RECORDS.put(&store, b"pinned", 2);
        work(&store);
        store.sync().unwrap();
        assert!(store.verify().unwrap().is_clean());
        go_on.send(()).unwrap();
        assert_eq!(stopped.join().unwrap(), 1, "and it still sees what it saw");
    });
    reopen(store);
}

#[test]
fn a_thread_stopped_in_the_middle_of_a_walk_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    for n in 0..500 {
        RECORDS.put(&store, format!("here all along {n}").as_bytes(), n);
    }
    let (stop, reached, go_on) = stop();
    std::thread::scope(|scope| {
        // Gone with a failure below: then the stopped thread ends, and the test with it.
        let go_on = go_on;
        let stopped = scope.spawn(|| {
            let pinned = store.pin();
            let mut walk = pinned.iter();
            let first = walk.by_ref().take(100).count();
            stop.here();
            let old = walk.filter(|r| r.as_ref().unwrap().id().starts_with(b"here")).count();
            first + old
        });
        reached.recv().unwrap();
        work(&store);
        go_on.send(()).unwrap();
        assert_eq!(stopped.join().unwrap(), 500);
    });
    reopen(store);
}

/// Puts, overwrites, gets and removes through an engine on the heap, over many rolls.
fn work_on_heap(engine: &heap::HeapEngine) {
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            scope.spawn(move || {
                for n in 0..1_000u32 {
                    let id = [&[thread][..], &(n % 300).to_le_bytes()].concat();
                    let content = vec![n as u8; 100 + (n % 50) as usize];
                    heap::put(engine, &id, &content);
                    assert_eq!(heap::get(engine, &id), Some(content));
                    assert!(n % 7 > 0 || heap::remove(engine, &id));
                }
            });
        }
    });
    let guard = engine.epoch().pin();
    assert!(engine.log().in_use(&guard).count() > 5, "the log has rolled");
}

/// Between reserve and commit: the slot is nobody else's business.
#[test]
fn a_thread_stopped_between_reserve_and_commit_stops_nobody() {
    let engine = heap::engine();
    heap::put(&engine, b"before", b"it");
    let (stop, reached, go_on) = stop();
    std::thread::scope(|scope| {
        // Gone with a failure below: then the stopped thread ends, and the test with it.
        let go_on = go_on;
        let stopped = scope.spawn(|| {
            let guard = engine.epoch().pin();
            let embedding = [4f32; heap::DIMENSION];
            let record = heap::version(b"late", bytemuck::cast_slice(&embedding), b"late");
            let bytes = record.layout().bytes();
            let reserved =
                engine.log().reserve(&guard, bytes, stratalog::internals::Purpose::Grow).unwrap();
            stop.here();
            reserved.commit(&record).map(|_| ()).is_ok()
        });
        reached.recv().unwrap();
        work_on_heap(&engine);
        let (again, _, undecided) = heap::reopened(&engine);
        assert_eq!((undecided, heap::contents(&again) == heap::contents(&engine)), (1, true));
        go_on.send(()).unwrap();
        assert!(stopped.join().unwrap(), "nobody has voided its slot");
    });
    let (again, void, undecided) = heap::reopened(&engine);
    assert_eq!((void, undecided), (0, 0));
    // Committed but not published: the one write that a kill may bring to light.
    let mut contents = heap::contents(&again);
    assert_eq!(contents.remove(&b"late"[..]).as_deref(), Some(&b"late"[..]));
    assert_eq!(contents, heap::contents(&engine));
}

/// Several at once, in segments that are long full.
#[test]
fn reservations_left_open_in_full_segments_stop_nobody_and_end_as_voids() {
    let engine = heap::engine();
    let guard = engine.epoch().pin();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(engine.log().reserve(&guard, 192, stratalog::internals::Purpose::Grow).unwrap());
        work_on_heap(&engine);
    }
    let (again, void, undecided) = heap::reopened(&engine);
    assert_eq!((void, undecided), (0, 4));
    assert_eq!(heap::contents(&again), heap::contents(&engine));
    drop(held);
    let (again, void, undecided) = heap::reopened(&engine);
    assert_eq!((void, undecided), (4, 0));
    assert_eq!(heap::contents(&again), heap::contents(&engine));
}

/// A slow disk under one thread's roll: the others make the next segment themselves.
#[test]
fn a_thread_stopped_while_it_makes_a_segment_stops_nobody() {
    let (stop, reached, go_on) = stop();
    let made = AtomicU64::new(0);
    let third = move || {
        if made.fetch_add(1, Ordering::Relaxed) == 2 {
            stop.here();
        }
    };
    let engine = Arc::new(heap::engine_that(third));
    let stopped = std::thread::spawn({
        let engine = Arc::clone(&engine);
        move || {
            let mut n = 0u32;
            while engine.live() < 1_000 {
                heap::put(&engine, &[&b"slow"[..], &n.to_le_bytes()].concat(), b"content");
                n += 1;
            }
            n
        }
    });
    reached.recv().unwrap();
    work_on_heap(&engine);
    go_on.send(()).unwrap();
    assert!(stopped.join().unwrap() > 0);
    let (again, void, undecided) = heap::reopened(&engine);
    assert_eq!((void, undecided), (0, 0));
    assert_eq!(heap::contents(&again), heap::contents(&engine));
}

/// Compaction is stopped, so the log grows until puts are slowest: that is their bound, not a stop.
#[test]
fn a_compaction_that_is_stopped_delays_puts_by_their_bound_and_stops_nobody() {
    const DELAY_MAX: Duration = Duration::from_millis(4);
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    let put = |n: u32| {
        let content = [n as u8; 60_000];
        store.put("overwritten", &[1.0; RECORDS.dimension], content).unwrap();
    };
    put(0);
    put(0);
    let (stop, reached, go_on) = stop();
    let mut first = Some(stop);
    std::thread::scope(|scope| {
        // Gone with a failure below: then the stopped thread ends, and the test with it.
        let go_on = go_on;
        let stopped =
            scope.spawn(|| store.compact_with(|_, _| first.take().iter().for_each(Stop::here)));
        reached.recv().unwrap();
        let mut puts = 0;
        while puts < 1_000 && store.stats().write_stall < 50 * DELAY_MAX {
            put(puts);
            puts += 1;
            assert!(store.contains("overwritten"));
        }
        let delayed = store.stats().write_stall;
        assert!(delayed >= 50 * DELAY_MAX, "puts without end: {delayed:?}");
        assert!(delayed <= puts * DELAY_MAX, "{puts} puts, {delayed:?}");
        assert!(store.remove("overwritten").unwrap().is_some());
        assert_eq!(store.stats().write_stall, delayed, "a removal was delayed");
        go_on.send(()).unwrap();
        stopped.join().unwrap().unwrap();
    });
    reopen(store);
}

/// What a thread has retired must not wait for that very thread to come back: it may never.
#[test]
fn what_a_writer_has_retired_is_given_back_though_the_writer_does_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(&dir);
    let (stop, reached, go_on) = stop();
    std::thread::scope(|scope| {
        // Gone with a failure below: then the stopped thread ends, and the test with it.
        let go_on = go_on;
        scope.spawn(|| {
            // Enough ids for the index to replace chunks.
            for n in 0..8_000u32 {
                RECORDS.put(&store, &n.to_le_bytes(), 0);
            }
            stop.here();
        });
        reached.recv().unwrap();
        let begin = Instant::now();
        while store.stats().retired > 0 && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let retired = store.stats().retired;
        go_on.send(()).unwrap();
        assert_eq!(retired, 0, "chunks wait for an idle thread");
    });
    reopen(store);
}

/// A process dies after it has moved a record, and before it has given up what the record was moved
/// from. The copy has the tag, though its segment may have been begun before the other one.
#[test]
fn of_a_record_and_its_copy_the_copy_counts_after_a_kill_whichever_segment_is_older() {
    let engine = heap::engine();
    let guard = engine.epoch().pin();
    let copies = engine.log().make_for_copies(&guard).unwrap();
    heap::put(&engine, b"a", b"moved");
    let source = engine.log().active(&guard).unwrap();
    assert!(copies.sequence() < source.sequence());
    let (slot, body) = source
        .directory()
        .slots(source.filling().slots_end())
        .find_map(|(slot, state)| match state {
            SlotState::Committed(_, body) => Some((slot, body)),
            _ => None,
        })
        .unwrap();
    let frame = source.committed_frame(slot).unwrap();
    let copy =
        engine.copy_record((source, &frame), slot::Kind::Put, body, &copies).unwrap().unwrap();
    let mut moves = ForwardingTable::default();
    moves.add(copy.from, &copies, copy.to);
    source.tags().set_forwarding(moves);
    assert_eq!(source.tags().update_tag(&frame, |tag| tag + 1), Ok(1));
    assert!(engine.move_record(&guard, &copy, source, &copies));
    assert_eq!(source.tags().update_tag(&frame, |tag| tag + 1), Ok(2));
    let (again, ..) = heap::reopened(&engine);
    let guard = again.epoch().pin();
    let found = again.get(&guard, KeyHash(body.key_hash), b"a").unwrap().unwrap();
    assert_eq!((found.frame.content(), found.segment.tags().tag(&found.frame)), (&b"moved"[..], 2));
}

/// What recovery needs to know that something is missing in front of a segment.
#[test]
fn a_segment_names_the_one_before_it_also_when_that_was_ended_by_hand() {
    let engine = heap::engine();
    heap::put(&engine, b"a", b"1");
    {
        let guard = engine.epoch().pin();
        assert!(engine.log().end_active(&guard));
    }
    heap::put(&engine, b"b", b"2");
    let guard = engine.epoch().pin();
    let before = |s: &Segment<_>| s.durable().predecessor().map(|(before, _)| before.0);
    let named = |s: &Segment<_>| (s.sequence().0, before(s));
    let mut chain: Vec<_> = engine.log().in_use(&guard).map(named).collect();
    chain.sort_unstable();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1].1, Some(chain[0].0), "{chain:?}");
}
