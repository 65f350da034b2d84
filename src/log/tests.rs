//! What walks through the table see while the log rolls.

#![cfg(test)]

use super::*;
use crate::engine::Engine;
use crate::format::checksum::Salt;
use crate::format::header::{Features, HEADER_END, Identity, StoreId};
use crate::memory::HeapMemory;
use std::cell::{Cell, RefCell};

/// Of segments on the heap.
pub(crate) const SEGMENT_BYTES: usize = 1 << 12;

/// Segments on the heap.
pub(crate) struct Heap;

impl Source<HeapMemory> for Heap {
    fn create(&self, s: Sequence, role: Role, _: Purpose) -> Result<Segment<HeapMemory>, Error> {
        let identity = Identity {
            store: StoreId([7; 16]),
            sequence: s,
            salt: Salt(s.0),
            dimension: 1,
            segment_bytes: SEGMENT_BYTES as u64,
            directory_at: HEADER_END as u32,
            features: Features::default(),
            role,
        };
        Ok(Segment::create(HeapMemory::new(SEGMENT_BYTES), &identity))
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {}
}

/// A segment of the log on the heap.
pub(crate) fn segment(sequence: u64) -> Segment<HeapMemory> {
    Heap.create(Sequence(sequence), Role::Log, Purpose::Grow).unwrap()
}

/// A flush would take the younger one for durable, and with it all that lies before it.
#[test]
fn no_segment_is_passed_by_that_is_older_than_one_in_use() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let (log, epoch) = (Log::new(Heap, geometry, Sequence(1)), Epoch::new());
    let guard = epoch.pin();
    let roll = || {
        let active = log.active(&guard).map(Segment::sequence);
        while log.active(&guard).map(Segment::sequence) == active {
            drop(log.reserve(&guard, 1 << 10, Purpose::Grow).unwrap());
        }
    };
    roll();
    roll();
    let first = log.table().iter(&guard).next().unwrap().table_index();
    let first = log.table().get(&guard, first).unwrap();
    assert!(log.table().remove(&guard, first));
    // In the table the next one lies before the active one, and the one after that behind it.
    log.preallocate(&epoch, |_| Ok(true)).unwrap();
    log.preallocate(&epoch, |_| Ok(true)).unwrap();
    let begun = Cell::new(false);
    let found = log.in_use_arcs(&guard, |_| {
        if !begun.replace(true) {
            roll();
            roll();
        }
        true
    });
    let found: Vec<_> = found.iter().map(|segment| segment.sequence().0).collect();
    assert_eq!(found, [2, 3, 4]);
}

/// A search, or a backup, would pass over live records. Two readings that found the same were taken
/// for one of a moment; but each can miss a record that is moved while it is under way.
#[test]
fn no_record_is_missed_that_is_moved_in_each_of_two_readings() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let (log, epoch) = (Log::new(Heap, geometry, Sequence(1)), Epoch::new());
    let guard = epoch.pin();
    let make = || log.make_for_copies(&guard).unwrap();
    let take_out = |segment: &Segment<_>| assert!(log.table().remove(&guard, segment));
    // In the order of the table: two places, each with a segment behind it, and the record's.
    let [first, second, third, fourth, holder] = [(); 5].map(|()| make());
    take_out(&third);
    let holds = RefCell::new(holder);
    let moved = |to| log.mark_dropped(&[holds.replace(to)]);
    let moves = Cell::new(0);
    let meet = |met: &&Segment<HeapMemory>| {
        let next = if moves.get() == 0 { &fourth } else { &second };
        if moves.get() < 2 && met.sequence() == next.sequence() {
            if moves.replace(moves.get() + 1) == 1 {
                take_out(&first);
            }
            // Behind the reading, which comes to the segment that it leaves later.
            moved(make());
        }
    };
    let found = log.while_none_is_dropped(|| log.in_use(&guard).inspect(meet).collect());
    assert_eq!(moves.get(), 2);
    let holder = holds.borrow().sequence();
    assert!(found.iter().any(|segment| segment.sequence() == holder), "{holder:?} is missing");
}

/// A preallocated segment that is passed over was allocated and flushed for nothing.
#[test]
fn a_segment_that_was_not_installed_goes_before_those_preallocated_after_it() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let (log, epoch) = (Log::new(Heap, geometry, Sequence(1)), Epoch::new());
    let guard = epoch.pin();
    let reserve = || log.reserve(&guard, 64, Purpose::Grow).unwrap().segment().sequence().0;
    assert_eq!(reserve(), 1);
    for _ in 0..2 {
        assert!(log.preallocate(&epoch, |_| Ok(true)).unwrap().is_some());
    }
    // A writer has taken the first preallocated segment when the end of the active one overtakes
    // it.
    let index = log.pop_preallocated().unwrap();
    assert!(log.end_active(&guard));
    log.put_back(&guard, index);
    assert_eq!((log.preallocated(), reserve()), (2, 2));
    assert!(log.end_active(&guard));
    assert_eq!((log.preallocated(), reserve()), (1, 3));
}

/// A writer has made a segment active and not reserved in it yet when `compact` ends it. Without a
/// seal on the device, what follows would be cut at power loss, though it was flushed [D5].
#[test]
fn an_empty_segment_that_was_ended_is_sealed_and_flushed() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let engine = Engine::<HeapMemory, Heap>::new(
        Log::new(Heap, geometry, Sequence(1)),
        crate::index::Shape::default(),
    );
    let (log, guard) = (engine.log(), engine.epoch().pin());
    drop(log.reserve(&guard, 64, Purpose::Grow).unwrap());
    // Acquire: as in `active`.
    let word = log.active.load(Ordering::Acquire);
    log.active(&guard).unwrap().filling().close();
    log.roll(&guard, word, Purpose::Grow).unwrap();
    let empty = log.active(&guard).unwrap();
    assert!(log.end_active(&guard) && empty.filling().slots_end() == 0);
    drop(log.reserve(&guard, 64, Purpose::Grow).unwrap());
    let durability = crate::durability::Flusher::default();
    durability.sync(&engine).unwrap();
    assert_eq!((empty.filling().sealed(), empty.durable().is_settled()), (Some(0), true));
    let last = log.active(&guard).unwrap();
    assert_eq!(last.durable().predecessor(), Some((empty.sequence(), true)));
}

/// On the heap, and without file handles.
struct WithoutHandles;

fn no_handle() -> Error {
    Error::io(std::path::Path::new("a segment"), std::io::ErrorKind::Other.into())
}

impl Source<HeapMemory> for WithoutHandles {
    fn create(
        &self,
        s: Sequence,
        role: Role,
        purpose: Purpose,
    ) -> Result<Segment<HeapMemory>, Error> {
        match (s.0, purpose) {
            (1, _) => Heap.create(s, role, purpose),
            (_, Purpose::KeptBack) => Err(Error::StorageFull),
            _ => Err(no_handle()),
        }
    }
    fn discard(&self, _: &Segment<HeapMemory>) {}
    fn wake(&self) {}
    fn keep_room(&self) -> Result<(), Error> {
        Err(no_handle())
    }
}

/// A removal said that the disk was full where the process was out of file handles.
#[test]
fn a_removal_that_cannot_keep_room_back_says_why() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let (log, epoch) = (Log::new(WithoutHandles, geometry, Sequence(1)), Epoch::new());
    let guard = epoch.pin();
    let remove = || log.reserve(&guard, 1 << 10, Purpose::FreeRoom).map(drop);
    let refused = (0..9).find_map(|_| remove().err());
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
}
