//! Compaction beside one other actor: a closed segment A with one record is emptied into another,
//! by the steps of `Compactor::empty_group` on the code that ships. `src/engine/relocate.rs`,
//! `src/segment/{forwarding,copy,writer}`. At most 2 preemptions (3 with `run.sh long`).
//!
//! mutations: relocate-*; the head of each says which model it turns red
#![cfg(stratalog_loom)]

use loom_tests::{
    SmallEngine, check_at_rest, compact, engine, explore, get, hash, put, put_if_absent,
    recovered_without, tombstone,
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use stratalog::Lsn;
use stratalog::internals::format::frame::WriteMode;
use stratalog::internals::format::ids::{SlotNumber, TableIndex};
use stratalog::internals::format::slot::SlotState;
use stratalog::internals::index::KeyHash;
use stratalog::internals::segment::{RecordParts, Segment, WriteRequest};
use stratalog::internals::{Engine, HeapMemory, Key, Purpose};

const A: &[u8] = b"a";
/// Its tag before anything begins.
const TAG: u64 = 5;

type HeapSegment = Segment<HeapMemory>;

/// A record of `A` in a quiet segment, another segment that is active, and two for copies.
struct World {
    engine: loom::sync::Arc<SmallEngine>,
    victim: Arc<HeapSegment>,
    outputs: [Arc<HeapSegment>; 2],
    first: Lsn,
    /// An update of the tag has returned, and whoever sees that sees the update.
    is_updated: loom::sync::atomic::AtomicBool,
}

impl World {
    fn new(segment_bytes: u64) -> Self {
        let engine = engine(segment_bytes);
        let first = engine.put(&put(A, b"0000")).expect("room");
        let guard = engine.epoch().pin();
        let victim = engine.log().table().get_arc(&guard, TableIndex(0)).expect("it is there");
        let frame = victim.committed_frame(SlotNumber(0)).expect("it is whole");
        victim.tags().update_tag(&frame, |_| TAG).expect("a small tag");
        assert!(engine.log().end_active(&guard) && victim.filling().is_quiet());
        // So that writers find an active segment.
        drop(engine.log().reserve(&guard, 64, Purpose::Grow).expect("room"));
        let output = || engine.log().make_for_copies(&guard).expect("room");
        let outputs = [output(), output()];
        drop(guard);
        Self {
            engine,
            victim,
            outputs,
            first,
            is_updated: loom::sync::atomic::AtomicBool::new(false),
        }
    }

    /// What a compaction does with a group of one segment. Whether nothing leads into it any more,
    /// so that it would be dropped.
    fn compact(&self, victim: &HeapSegment, output: &Arc<HeapSegment>) -> bool {
        compact(&self.engine, victim, output);
        !self.is_pointed_at(victim)
    }

    fn is_pointed_at(&self, victim: &HeapSegment) -> bool {
        let guard = self.engine.epoch().pin();
        (0..victim.filling().slots_end()).any(|slot| {
            self.engine.resolves_to(&guard, victim, victim.directory().body_of(SlotNumber(slot)))
        })
    }

    fn compact_once(&self) {
        assert!(self.compact(&self.victim, &self.outputs[0]), "something is left behind");
    }

    /// After all have ended: memory, recovery with and without the emptied segment, and the counts
    /// agree, and nothing leads into it.
    fn check(&self) -> Option<([u8; 4], Lsn)> {
        assert!(!self.is_pointed_at(&self.victim), "an entry came back");
        check_at_rest(&self.engine, &[A]);
        let now = get(&self.engine, A);
        let gone = Some(self.victim.sequence());
        assert_eq!(recovered_without(&self.engine, A, gone), now, "without the victim");
        now
    }

    fn value(&self) -> Option<[u8; 4]> {
        self.check().map(|found| found.0)
    }

    fn increment(&self) {
        let guard = self.engine.epoch().pin();
        let found = self.engine.get(&guard, KeyHash(hash(A)), A);
        let at = found.expect("undamaged").expect("it is there all the time");
        at.segment.tags().update_tag(&at.frame, |tag| tag + 1).expect("a small tag");
        self.is_updated.store(true, Release);
    }

    /// The tag, through the index and through the frame that the record had at first.
    fn check_tag(&self, expected: u64) {
        self.check().expect("it is there all the time");
        let guard = self.engine.epoch().pin();
        let found = self.engine.get(&guard, KeyHash(hash(A)), A);
        let at = found.expect("undamaged").expect("it is there all the time");
        assert_eq!(at.segment.tags().tag(&at.frame), expected, "through the index");
        assert_eq!(self.old_tag(), expected, "through the first frame");
    }

    fn old_tag(&self) -> u64 {
        self.victim.tags().tag(&self.victim.committed_frame(SlotNumber(0)).expect("it is whole"))
    }
}

fn small() -> World {
    World::new(512)
}

fn roomy() -> World {
    World::new(1024)
}

#[test]
fn a_reader_sees_the_record_whole_at_every_moment() {
    let reader = |w: &World| {
        for _ in 0..2 {
            assert_eq!(get(&w.engine, A), Some((*b"0000", w.first)));
        }
    };
    explore(small, [reader, World::compact_once], |w| {
        assert_eq!(w.check(), Some((*b"0000", w.first)));
    });
}

#[test]
fn a_put_of_the_same_id_wins() {
    let writer = |w: &World| assert!(w.engine.put(&put(A, b"1111")).unwrap() > w.first);
    explore(small, [writer, World::compact_once], |w| assert_eq!(w.value(), Some(*b"1111")));
}

#[test]
fn a_removal_is_one_and_stays_one() {
    let remover = |w: &World| {
        assert!(w.engine.remove(&tombstone(A)).unwrap().is_ok(), "it was there all the time");
    };
    explore(small, [remover, World::compact_once], |w| assert_eq!(w.value(), None));
}

#[test]
fn a_conditional_put_if_absent_is_refused() {
    let writer = |w: &World| assert!(!put_if_absent(&w.engine, A, b"1111"));
    explore(roomy, [writer, World::compact_once], |w| {
        assert_eq!(w.check(), Some((*b"0000", w.first)));
    });
}

#[test]
fn a_conditional_put_on_the_lsn_finds_it_after_the_move_too() {
    let writer = |w: &World| {
        let record =
            WriteRequest::new(RecordParts { writing: WriteMode::Conditional, ..*put(A, b"1111") });
        let written = w.engine.write_if(&record, |guard, current| {
            current.is_some_and(|entry| w.engine.lsn_of(guard, entry) == w.first)
        });
        assert!(written.unwrap().is_ok(), "nobody else wrote it");
    };
    explore(small, [writer, World::compact_once], |w| assert_eq!(w.value(), Some(*b"1111")));
}

#[test]
fn a_conditional_put_if_present_takes_its_place() {
    let writer = |w: &World| {
        let record =
            WriteRequest::new(RecordParts { writing: WriteMode::Conditional, ..*put(A, b"1111") });
        assert!(w.engine.write_if(&record, |_, current| current.is_some()).unwrap().is_ok());
    };
    explore(small, [writer, World::compact_once], |w| assert_eq!(w.value(), Some(*b"1111")));
}

/// What a flush does to the slots that it finds undecided.
fn void_undecided<const N: usize>(engine: &Engine<HeapMemory, loom_tests::Heap, N>) {
    let guard = engine.epoch().pin();
    if let Some(segment) = engine.log().active(&guard) {
        for n in 0..segment.filling().slots_end() {
            segment.directory().void_if_pending(SlotNumber(n));
        }
    }
}

/// Removes `A`; the flush voids the removal directly before it is published.
fn remove_voided_once(w: &World) {
    let asked = std::cell::Cell::new(0);
    let removed = w.engine.write_if(&tombstone(A), |_, current| {
        asked.set(asked.get() + 1);
        if asked.get() == 2 {
            void_undecided(&w.engine);
        }
        current.is_some()
    });
    assert!(removed.unwrap().is_ok(), "it was there all the time");
}

#[test]
fn what_a_voided_write_took_the_place_of_does_not_come_back_behind_the_move() {
    explore(roomy, [remove_voided_once, World::compact_once], |w| assert_eq!(w.value(), None));
}

#[test]
fn a_flush_that_voids_a_removal_and_the_move_leave_no_entry_behind() {
    let remover = |w: &World| {
        assert!(w.engine.remove(&tombstone(A)).unwrap().is_ok(), "it was there all the time");
    };
    let flusher = |w: &World| void_undecided(&w.engine);
    explore(roomy, [remover, flusher, World::compact_once], |w| assert_eq!(w.value(), None));
}

#[test]
fn a_reader_of_a_voided_write_finds_the_record_before_and_after_the_move() {
    // The removal is voided whenever it is tried, and given up: the record stays.
    let remover = |w: &World| {
        let asked = std::cell::Cell::new(0);
        let removed = w.engine.write_if(&tombstone(A), |_, current| {
            asked.set(asked.get() + 1);
            void_undecided(&w.engine);
            assert!(current.is_some(), "it is there all the time");
            asked.get() <= 2
        });
        assert!(removed.unwrap().is_err());
        assert_eq!(get(&w.engine, A), Some((*b"0000", w.first)));
    };
    explore(roomy, [remover, World::compact_once], |w| {
        assert_eq!(w.check(), Some((*b"0000", w.first)));
    });
}

/// A quiet segment with a record of `A` and its tombstone, another segment that is active, and
/// whether compaction has given the quiet one up.
struct Removed {
    engine: loom::sync::Arc<SmallEngine>,
    victim: Arc<HeapSegment>,
    given_up: AtomicBool,
}

impl Removed {
    fn new() -> Self {
        let engine = engine(1024);
        engine.put(&put(A, b"0000")).expect("room");
        assert!(engine.remove(&tombstone(A)).unwrap().is_ok());
        let guard = engine.epoch().pin();
        let victim = engine.log().table().get_arc(&guard, TableIndex(0)).expect("it is there");
        assert!(engine.log().end_active(&guard) && victim.filling().is_quiet());
        drop(engine.log().reserve(&guard, 64, Purpose::Grow).expect("room"));
        drop(guard);
        Self { engine, victim, given_up: AtomicBool::new(false) }
    }

    fn is_pointed_at(&self) -> bool {
        let guard = self.engine.epoch().pin();
        (0..self.victim.filling().slots_end()).any(|slot| {
            self.engine.resolves_to(
                &guard,
                &self.victim,
                self.victim.directory().body_of(SlotNumber(slot)),
            )
        })
    }

    /// What compaction does with a tombstone that no segment needs: the index forgets it, and if
    /// nothing leads into the segment any more, the segment is given up. Then a flush voids what
    /// is undecided.
    fn forget_and_flush(&self) {
        let guard = self.engine.epoch().pin();
        self.engine.drop_tombstones(&guard, Key { hash: KeyHash(hash(A)), id: A });
        drop(guard);
        self.given_up.store(!self.is_pointed_at(), SeqCst);
        void_undecided(&self.engine);
    }
}

#[test]
fn a_voided_insert_leads_into_no_segment_that_was_given_up() {
    let inserter = |w: &Removed| {
        let asked = std::cell::Cell::new(0);
        let record =
            WriteRequest::new(RecordParts { writing: WriteMode::Conditional, ..*put(A, b"1111") });
        let written = w.engine.write_if(&record, |_, current| {
            asked.set(asked.get() + 1);
            current.is_none() && asked.get() <= 2
        });
        assert!(written.is_ok());
    };
    explore(Removed::new, [inserter, Removed::forget_and_flush], |w| {
        assert!(!w.given_up.load(SeqCst) || !w.is_pointed_at(), "an entry came back");
        check_at_rest(&w.engine, &[A]);
    });
}

/// Compaction cannot read the id of a damaged record, so it asks only whether the index leads to
/// its place.
#[test]
fn an_undecided_write_leads_to_what_it_may_restore() {
    let make = || (World::new(1024), AtomicBool::new(false));
    let remover = |(w, _): &(World, AtomicBool)| {
        let asked = std::cell::Cell::new(0);
        let removed = w.engine.write_if(&tombstone(A), |_, current| {
            asked.set(asked.get() + 1);
            current.is_some() && asked.get() <= 2
        });
        assert!(removed.is_ok());
    };
    let flusher = |(w, _): &(World, AtomicBool)| void_undecided(&w.engine);
    let compactor = |(w, given_up): &(World, AtomicBool)| {
        given_up.store(!w.is_pointed_at(&w.victim), SeqCst);
    };
    explore(make, [remover, flusher, compactor], |(w, given_up)| {
        assert!(!given_up.load(SeqCst) || !w.is_pointed_at(&w.victim), "an entry came back");
        check_at_rest(&w.engine, &[A]);
    });
}

/// Puts `b`, then notes that in the tag of `A`.
fn put_and_note(w: &World) {
    assert!(w.engine.put(&put(b"b", b"2222")).unwrap() > w.first);
    w.increment();
}

/// A reader that finds the note finds the put.
fn read_note(w: &World) {
    let guard = w.engine.epoch().pin();
    let found = w.engine.get(&guard, KeyHash(hash(A)), A);
    let at = found.expect("undamaged").expect("it is there all the time");
    if at.segment.tags().tag(&at.frame) == TAG + 1 {
        assert!(get(&w.engine, b"b").is_some(), "the tag came before what it speaks of");
    }
}

#[test]
fn a_tag_shows_what_its_writer_did_before() {
    explore(small, [put_and_note, read_note], |w| check_at_rest(&w.engine, &[A, b"b"]));
}

#[test]
fn a_moved_tag_shows_what_its_writer_did_before() {
    let actors = [put_and_note, World::compact_once, read_note];
    explore(small, actors, |w| check_at_rest(&w.engine, &[A, b"b"]));
}

#[test]
fn no_update_of_the_tag_is_lost() {
    explore(small, [World::increment, World::compact_once], |w| w.check_tag(TAG + 1));
}

#[test]
fn of_two_updates_of_the_tag_none_is_lost() {
    let actors = [World::increment, World::increment, World::compact_once];
    explore(small, actors, |w| w.check_tag(TAG + 2));
}

#[test]
fn a_reader_of_the_tag_never_sees_it_gone() {
    let reader = |w: &World| {
        assert_eq!(w.old_tag(), TAG);
        let guard = w.engine.epoch().pin();
        let found = w.engine.get(&guard, KeyHash(hash(A)), A);
        let at = found.expect("undamaged").expect("it is there all the time");
        assert_eq!(at.segment.tags().tag(&at.frame), TAG);
    };
    explore(small, [reader, World::compact_once], |w| w.check_tag(TAG));
}

#[test]
fn a_copy_in_force_has_its_tag() {
    let recovery = |w: &World| {
        let (copy, is_updated) = (&w.outputs[0], w.is_updated.load(Acquire));
        if let SlotState::Committed(..) = copy.directory().slot(SlotNumber(0)) {
            let frame = copy.committed_frame(SlotNumber(0)).expect("it is whole");
            let tag = copy.tags().tag(&frame);
            assert!(tag == TAG + 1 || (tag == TAG && !is_updated), "{tag}");
            assert_eq!(frame.content(), b"0000");
            assert!(copy.verify(&frame).is_ok());
        }
    };
    explore(small, [recovery, World::compact_once, World::increment], |w| w.check_tag(TAG + 1));
}

#[test]
fn an_updater_with_the_first_frame_follows_two_moves() {
    let updater = |w: &World| {
        let frame = w.victim.committed_frame(SlotNumber(0)).expect("it is whole");
        for _ in 0..2 {
            w.victim.tags().update_tag(&frame, |tag| tag + 1).expect("a small tag");
        }
    };
    let twice = |w: &World| {
        w.compact_once();
        w.outputs[0].filling().close();
        assert!(w.compact(&w.outputs[0], &w.outputs[1]), "something is left behind");
    };
    explore(small, [updater, twice], |w| w.check_tag(TAG + 2));
}

/// An engine whose active segment holds nothing yet, and that segment.
fn open_segment() -> (loom::sync::Arc<SmallEngine>, Arc<HeapSegment>) {
    let engine = engine(512);
    let guard = engine.epoch().pin();
    drop(engine.log().reserve(&guard, 64, Purpose::Grow).expect("room"));
    let segment = engine.log().table().get_arc(&guard, TableIndex(0)).expect("it is there");
    drop(guard);
    (engine, segment)
}

#[test]
fn in_a_quiet_segment_all_that_counts_is_in_the_index() {
    let writer = |(engine, _): &(loom::sync::Arc<SmallEngine>, Arc<HeapSegment>)| {
        assert!(engine.put(&put(A, b"1111")).unwrap() > stratalog::Lsn::ZERO);
    };
    let compactor = |(engine, segment): &(loom::sync::Arc<SmallEngine>, Arc<HeapSegment>)| {
        segment.filling().close();
        if segment.filling().is_quiet() && segment.filling().slots_end() > 1 {
            assert_eq!(get(engine, A).map(|found| found.0), Some(*b"1111"), "it was missed");
            assert_eq!(segment.usage().live_bytes(), 128);
        }
    };
    explore(open_segment, [compactor, writer], |(engine, segment)| {
        assert!(segment.filling().is_quiet(), "a claim was left");
        check_at_rest(engine, &[A]);
    });
}

#[test]
fn in_a_quiet_segment_every_removal_has_been_made_or_given_up() {
    let make = || {
        let (engine, segment) = open_segment();
        assert!(engine.put(&put(A, b"1111")).is_ok());
        segment.filling().close();
        let guard = engine.epoch().pin();
        drop(engine.log().reserve(&guard, 64, Purpose::Grow).expect("room"));
        let next = engine.log().table().get_arc(&guard, TableIndex(1)).expect("it is there");
        drop(guard);
        (engine, next)
    };
    let remover = |(engine, _): &(loom::sync::Arc<SmallEngine>, Arc<HeapSegment>)| {
        assert!(engine.remove(&tombstone(A)).unwrap().is_ok());
    };
    let compactor = |(engine, segment): &(loom::sync::Arc<SmallEngine>, Arc<HeapSegment>)| {
        segment.filling().close();
        if segment.filling().is_quiet() && segment.filling().slots_end() > 1 {
            let guard = engine.epoch().pin();
            let at = segment.directory().body_of(SlotNumber(1)).offset;
            let entry = engine.index().get(&guard, KeyHash(hash(A)), |_| true);
            let entry = entry.expect("a tombstone");
            assert_eq!((entry.address, entry.pending), (segment.address(at), false));
        }
    };
    explore(make, [compactor, remover], |(engine, segment)| {
        assert!(segment.filling().is_quiet(), "a claim was left");
        check_at_rest(engine, &[A]);
    });
}

#[test]
fn a_put_beside_the_end_of_the_active_segment_lands_in_it_or_in_a_later_one() {
    let ender = |w: &World| {
        let guard = w.engine.epoch().pin();
        if let Some(active) = w.engine.log().active(&guard) {
            w.engine.log().end_active(&guard);
            w.engine.put(&put(b"c", b"3333")).unwrap();
            let found = w.engine.get(&guard, KeyHash(hash(b"c")), b"c");
            let at = found.expect("undamaged").expect("it was put just now");
            let (closed, taken) = (active.sequence(), at.segment.sequence());
            assert!(taken > closed, "a closed segment took a record");
        }
    };
    let writer = |w: &World| {
        let first = w.engine.put(&put(A, b"1111")).unwrap();
        assert!(w.first < first, "{first:?}");
    };
    explore(small, [ender, writer], |w| {
        check_at_rest(&w.engine, &[A, b"c"]);
        let of = |id| get(&w.engine, id).map(|(_, lsn)| lsn);
        assert!(of(b"c") != of(A), "one LSN was given twice");
        assert_eq!(get(&w.engine, A).map(|found| found.0), Some(*b"1111"));
    });
}

/// Else a flush would take the younger segment for durable and leave the older one unsealed [D5].
#[test]
fn a_writer_that_finds_no_active_segment_finds_the_ended_one_closed() {
    let ender = |(engine, _): &(loom::sync::Arc<SmallEngine>, Arc<HeapSegment>)| {
        let guard = engine.epoch().pin();
        let ended = engine.log().end_active(&guard);
        assert!(ended || engine.log().active(&guard).is_some(), "the writer has rolled first");
    };
    let writer = |(engine, segment): &(loom::sync::Arc<SmallEngine>, Arc<HeapSegment>)| {
        let guard = engine.epoch().pin();
        let reserved = engine.log().reserve(&guard, 64, Purpose::Grow);
        if reserved.expect("room").segment().sequence() > segment.sequence() {
            assert!(segment.filling().is_full(), "it looks as if it took more");
        }
    };
    explore(open_segment, [ender, writer], |(engine, segment)| {
        assert!(segment.filling().is_full());
        check_at_rest(engine, &[]);
    });
}

#[test]
fn after_an_end_no_older_segment_becomes_the_active_one() {
    let make = || {
        let engine = engine(512);
        let guard = engine.epoch().pin();
        drop(engine.log().reserve(&guard, 64, Purpose::Grow).expect("room"));
        assert!(engine.log().end_active(&guard));
        drop(guard);
        engine
    };
    // No record is needed: who reserves gets an LSN.
    fn reserve(engine: &SmallEngine) -> Lsn {
        let guard = engine.epoch().pin();
        let reserved = engine.log().reserve(&guard, 64, Purpose::Grow);
        reserved.expect("room").lsn()
    }
    let writer = |e: &loom::sync::Arc<SmallEngine>| assert!(reserve(e) > stratalog::Lsn::ZERO);
    let ender = |e: &loom::sync::Arc<SmallEngine>| {
        let first = reserve(e);
        e.log().end_active(&e.epoch().pin());
        assert!(first > stratalog::Lsn::ZERO);
    };
    explore(make, [writer, ender], |e| {
        let last = e.log().last_allocated(&e.epoch().pin());
        let next = reserve(e);
        assert!(last < next, "{last:?} was given before {next:?}");
        check_at_rest(e, &[]);
    });
}
