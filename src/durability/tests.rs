//! Waiters without a thread, when a flush fails that is not theirs; and how long a flush waits.

use super::*;
use crate::format::frame::WriteMode;
use crate::format::header::HEADER_END;
use crate::format::ids::{Sequence, Units};
use crate::format::slot::Kind;
use crate::index::Shape;
use crate::log::Log;
use crate::log::tests::{Heap, SEGMENT_BYTES, segment};
use crate::memory::HeapMemory;
use crate::segment::{Geometry, RecordParts, WriteRequest};
use std::cell::Cell;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};

struct CountingWaker(mpsc::Sender<()>);

impl Wake for CountingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.send(()).unwrap_or(());
    }
}

/// A flush of copies fails after a future has registered and before the flusher has begun: the
/// flusher began nothing any more, and the future waited until the store was closed.
#[test]
fn failed_flush_of_copies_wakes_futures() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let shape = Shape { buckets: 1, split_at: 20, overflow_blocks: 1, initial_depth: 0 };
    let log = Log::new(Heap, geometry, Sequence(1));
    let engine: Engine<HeapMemory, Heap, 7> = Engine::new(log, shape);
    let durability = Flusher::new([1, 2]);
    let (sender, woken) = mpsc::channel();
    let waker = Waker::from(std::sync::Arc::new(CountingWaker(sender)));
    let (mut context, mut slot) = (Context::from_waker(&waker), None);
    let lsn = Lsn::new(Sequence(1), SlotNumber(0));
    assert!(durability.group().poll(lsn, &mut context, &mut slot).is_pending());
    durability.group.fail(&std::io::Error::other("the device is gone"));
    std::thread::scope(|scope| {
        scope.spawn(|| durability.run(&engine, None));
        let told = woken.recv_timeout(Duration::from_secs(5));
        durability.group().stop();
        assert!(told.is_ok(), "nobody woke the future");
    });
    let told = durability.group().poll(lsn, &mut context, &mut slot);
    assert!(matches!(told, Poll::Ready(Err(Error::FlushFailed(_)))));
}

/// A thread is stopped inside a batch of 20 members, and a flush decides its slots: how many, after
/// how many waits, and whether the batch was voided.
fn decided(most: u32, is_patient: impl Fn(u32) -> bool) -> Option<(u32, u32, bool)> {
    let segment = segment(1);
    let (stopped, _) = segment.reserve_batch(&[Units(1); 20])?;
    let waits = Cell::new(0);
    let mark = wait_or_void(&segment, most, || {
        waits.set(waits.get() + 1);
        is_patient(waits.get())
    });
    Some((mark.slot, waits.get(), stopped.commit(&[]).is_err()))
}

/// Each of its slots was waited for as long as the first one: half a minute for 100,000.
#[test]
fn a_flush_waits_once_for_all_slots_of_a_stopped_batch() {
    assert_eq!(decided(7, |_| true), Some((21, 7, true)));
}

/// Where other threads want the processors, the yields alone would take hours.
#[test]
fn a_flush_that_has_waited_long_enough_waits_for_no_other_slot_either() {
    assert_eq!(decided(yields_max(RETRIES_MAX), |waits| waits < 3), Some((21, 3, true)));
}

#[test]
fn a_flush_waits_longer_for_writes_that_were_voided_before() {
    assert_eq!([0, 1, 2].map(yields_max), [200, 800, 3200]);
    assert_eq!(yields_max(u64::MAX), yields_max(RETRIES_MAX));
}

/// The throttle asks for two of the sums alone, without the file system.
#[test]
fn what_the_throttle_asks_for_is_what_usage_says() {
    let geometry =
        Geometry { segment_bytes: SEGMENT_BYTES, directory_at: HEADER_END, dimension: 1 };
    let engine: Engine<HeapMemory, Heap, 7> =
        Engine::new(Log::new(Heap, geometry, Sequence(1)), Shape::default());
    let durability = Flusher::new([1, 2]);
    for n in 0..20u64 {
        let id = n.to_le_bytes();
        let record = WriteRequest::new(RecordParts {
            kind: Kind::Put,
            writing: WriteMode::Blind,
            id: &id,
            key_hash: n,
            embedding: &[0; 4],
            content: &[7; 500],
            created_ns: 1,
            expires_ns: 0,
            tag: 0,
        });
        engine.put(&record).unwrap();
    }
    for is_settled in [false, true] {
        if is_settled {
            // One flush for the records, one for the seals.
            (0..2).for_each(|_| durability.sync(&engine).unwrap());
            engine.log().sweep(&engine.epoch().pin());
        }
        let guard = engine.epoch().pin();
        let (log, usage) = (engine.log(), engine.log().usage(&guard));
        let unsettled = log.table().unsettled(&guard).count() as u64;
        assert!(usage.segments > 2 && unsettled > 0);
        assert_eq!(unsettled < usage.segments, is_settled);
        assert_eq!(log.held_bytes(&guard), usage.held_bytes, "settled: {is_settled}");
        assert_eq!(log.lasting_bytes(), usage.live_bytes);
    }
}
