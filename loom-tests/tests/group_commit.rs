//! Group commit: one flush at a time, shared by those who wait; what is acknowledged was covered by
//! a flush that began after it was committed, and nobody is left waiting (loom calls that a
//! deadlock). `src/durability/` ([D1] to [D4]), with loom's mutexes and condition variables. At
//! most 2 preemptions.
//!
//! mutations: group-*; the head of each says which model it turns red
#![cfg(stratalog_loom)]

use loom::sync::{Condvar, Mutex};
use loom_tests::watched::{Watch, Watched};
use loom_tests::{explore, geometry, put};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};
use stratalog::internals::format::header::Role;
use stratalog::internals::format::ids::{Sequence, SlotNumber};
use stratalog::internals::index::Shape;
use stratalog::internals::segment::Segment;
use stratalog::internals::{Engine, Flusher, Log, Purpose, Source};
use stratalog::{Error, Lsn};

const SEGMENT_BYTES: u64 = 1024;

struct Heap(Arc<Watch>);

impl Source<Watched> for Heap {
    fn create(&self, sequence: Sequence, _: Role, _: Purpose) -> Result<Segment<Watched>, Error> {
        Ok(Watched::segment(SEGMENT_BYTES, sequence, &self.0))
    }
    fn discard(&self, _: &Segment<Watched>) {}
    fn wake(&self) {}
}

struct World {
    engine: Engine<Watched, Heap, 2>,
    durability: Flusher,
    watch: Arc<Watch>,
    /// Of the record that is there from the beginning.
    first: Lsn,
}

impl World {
    fn new() -> Self {
        let watch = Arc::new(Watch::default());
        let log = Log::new(Heap(Arc::clone(&watch)), geometry(SEGMENT_BYTES), Sequence(1));
        let shape = Shape { buckets: 1, split_at: 8, overflow_blocks: 1, initial_depth: 0 };
        let engine = Engine::new(log, shape);
        let first = engine.put(&put(b"a", b"0000")).expect("room");
        let durability = Flusher::default();
        Self { engine, durability, watch, first }
    }

    fn put(&self) -> Lsn {
        self.engine.put(&put(b"b", b"1111")).expect("room")
    }

    /// The slot of `lsn` was decided when a flush began that has ended well.
    fn check_acknowledged(&self, lsn: Lsn) {
        let flushed = self.watch.flushed.load(loom::sync::atomic::Ordering::Acquire);
        let slots = lsn.as_u64() - self.first.as_u64() + 1;
        assert!(flushed >= slots, "{lsn:?} was acknowledged, and no flush covered it");
        assert!(self.durability.durable() >= lsn, "{lsn:?} is not known to be durable");
    }

    fn wait(&self, lsn: Lsn) {
        assert!(self.durability.wait(&self.engine, lsn).is_ok());
        self.check_acknowledged(lsn);
    }

    fn put_and_sync(&self) {
        let lsn = self.put();
        assert!(self.durability.sync(&self.engine).is_ok());
        self.check_acknowledged(lsn);
    }

    /// Waits as a task does.
    fn block_on(&self, lsn: Lsn) -> Result<(), Error> {
        let bell = Arc::new(CountingWaker::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut slot = None;
        loop {
            let polled =
                self.durability.group().poll(lsn, &mut Context::from_waker(&waker), &mut slot);
            match polled {
                Poll::Ready(result) => {
                    if let Some(slot) = slot {
                        self.durability.group().unregister(slot);
                    }
                    return result;
                }
                Poll::Pending => bell.wait(),
            }
        }
    }

    fn flushes(&self) -> u64 {
        self.watch.flushes.load(SeqCst)
    }
}

/// A task's waker that a thread can sleep on.
#[derive(Default)]
struct CountingWaker(Mutex<bool>, Condvar);

impl CountingWaker {
    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

#[test]
fn two_waiters_share_a_flush() {
    let waiter = |w: &World| w.wait(w.first);
    explore(World::new, [waiter, waiter], |w| {
        // One flush brings the record to the device, whoever leads it.
        assert_eq!(w.flushes(), 1);
        w.check_acknowledged(w.first);
    });
}

#[test]
fn a_flush_that_began_before_a_commit_does_not_count_for_it() {
    let other = |w: &World| {
        assert!(w.durability.sync(&w.engine).is_ok());
        w.check_acknowledged(w.first);
    };
    explore(World::new, [other, World::put_and_sync], |w| assert!(w.flushes() <= 3));
}

/// The next flush walks on from the mark that this one leaves, and so must not meet frames there.
#[test]
fn a_flush_leaves_its_mark_below_the_frames_of_all_slots_it_covered() {
    let other = |w: &World| assert!(w.durability.sync(&w.engine).is_ok());
    explore(World::new, [other, World::put_and_sync], |w| {
        let guard = w.engine.epoch().pin();
        let segment = w.engine.log().active(&guard).expect("it took the records");
        let mark = segment.durable().flushed();
        let covered = (0..mark.slot).map(|n| segment.directory().body_of(SlotNumber(n)).offset);
        assert_eq!(covered.min(), Some(mark.floor));
    });
}

#[test]
fn a_task_is_woken_by_the_flush_that_covers_it() {
    let task = |w: &World| {
        assert!(w.block_on(w.first).is_ok());
        w.check_acknowledged(w.first);
        w.durability.group().stop();
    };
    let flusher = |w: &World| w.durability.run(&w.engine, None);
    explore(World::new, [task, flusher], |w| w.check_acknowledged(w.first));
}

#[test]
fn a_task_is_woken_by_the_flush_of_another() {
    let task = |w: &World| {
        assert!(w.block_on(w.first).is_ok());
        w.check_acknowledged(w.first);
    };
    let leader = |w: &World| w.wait(w.first);
    explore(World::new, [task, leader], |w| assert_eq!(w.flushes(), 1));
}

#[test]
fn a_task_that_registers_while_a_flush_ends_is_woken() {
    let make = || {
        // Somebody has asked for a flush that may begin before the task's commit.
        let world = World::new();
        let mut context = Context::from_waker(Waker::noop());
        assert!(world.durability.group().poll(world.first, &mut context, &mut None).is_pending());
        world
    };
    let task = |w: &World| {
        let lsn = w.put();
        assert!(w.block_on(lsn).is_ok());
        w.check_acknowledged(lsn);
        w.durability.group().stop();
    };
    let flusher = |w: &World| w.durability.run(&w.engine, None);
    explore(make, [task, flusher], |w| w.check_acknowledged(w.first));
}

#[test]
fn a_failed_flush_wakes_all_and_is_the_last() {
    let make = || {
        let world = World::new();
        world.watch.broken.store(true, loom::sync::atomic::Ordering::Release);
        world
    };
    let waiter = |w: &World| assert!(w.durability.wait(&w.engine, w.first).is_err());
    explore(make, [waiter, waiter], |w| {
        assert_eq!(w.flushes(), 1, "another flush was tried after one had failed");
        assert!(w.durability.durable() < w.first);
    });
}

#[test]
fn a_failed_flush_wakes_tasks_too() {
    let make = || {
        let world = World::new();
        world.watch.broken.store(true, loom::sync::atomic::Ordering::Release);
        world
    };
    let task = |w: &World| {
        assert!(w.block_on(w.first).is_err());
        w.durability.group().stop();
    };
    let flusher = |w: &World| w.durability.run(&w.engine, None);
    explore(make, [task, flusher], |w| assert_eq!(w.flushes(), 1));
}

/// The compactor wakes no task: what its flush has made durable is left to the flusher, whether it
/// slept, or had the task's call for a flush of its own.
#[test]
fn a_task_that_a_flush_for_compaction_covers_is_woken_by_the_flusher() {
    let task = |w: &World| {
        assert!(w.block_on(w.first).is_ok());
        w.check_acknowledged(w.first);
        w.durability.group().stop();
    };
    let compactor = |w: &World| assert!(w.durability.sync_for_compaction(&w.engine).is_ok());
    let flusher = |w: &World| w.durability.run(&w.engine, None);
    explore(World::new, [task, compactor, flusher], |w| w.check_acknowledged(w.first));
}
