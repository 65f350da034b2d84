//! Waiting for durability: in threads, in tasks, and after a flush has failed.

#![cfg(test)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration as Time, Instant};
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::frame::WriteMode;
use stratalog::internals::format::header::{
    DURABLE_AT, Features, HEADER_END, Identity, Role, StoreId,
};
use stratalog::internals::format::ids::{Lsn as RawLsn, Sequence};
use stratalog::internals::format::slot::Kind;
use stratalog::internals::segment::{Geometry, RecordParts, Segment, WriteRequest};
use stratalog::internals::{Engine, Flusher, HeapMemory, Log, Memory, Purpose, Source};
use stratalog::{Durability, Error, Lsn, Options, Store};

fn open(path: &std::path::Path, durability: Durability) -> Store {
    let options = Options::new().dimension(2).segment_size(1 << 20).durability(durability);
    options.flush_interval(None).open(path).unwrap()
}

#[test]
fn a_synced_write_is_durable_when_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"), Durability::Synced);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..25 {
                    let lsn = store.put(format!("{t}-{n}"), &[0.0, 1.0], "x").unwrap();
                    assert!(store.durable_lsn() >= lsn);
                }
            });
        }
    });
    assert!(store.remove("0-0").unwrap().is_some());
    assert_eq!(store.stats().durable, store.durable_lsn());
    let mut batch = stratalog::Batch::new();
    batch.put("b", &[1.0, 1.0], "").remove("1-1");
    let lsn = store.write(batch).unwrap();
    assert!(store.durable_lsn() >= lsn);
}

#[test]
fn waiting_covers_earlier_writes_and_knows_strangers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path, Durability::Buffered);
    let first = store.put("a", &[0.0, 1.0], "x").unwrap();
    let second = store.put("b", &[0.0, 1.0], "x").unwrap();
    assert!(store.durable_lsn() < first);
    store.wait_durable(second).unwrap();
    assert!(store.durable_lsn() >= second);
    store.wait_durable(first).unwrap();
    let never = store.stats().tail;
    assert!(matches!(store.wait_durable(never), Err(Error::UnknownLsn(lsn)) if lsn == never));
    let third = store.put("c", &[0.0, 1.0], "x").unwrap();
    assert_eq!(third, never);
    store.close().unwrap();
    let store = open(&path, Durability::Buffered);
    assert!(store.durable_lsn() >= third, "closing makes all durable");
    store.wait_durable(third).unwrap();
    let read_only = Options::new().read_only(true).open(&path).unwrap();
    assert!(matches!(read_only.wait_durable(third), Err(Error::ReadOnly)));
}

#[test]
fn a_flush_interval_makes_durable_what_nobody_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().dimension(2).flush_interval(std::time::Duration::from_millis(5));
    let store = options.open(dir.path().join("s")).unwrap();
    let lsn = store.put("a", &[0.0, 1.0], "x").unwrap();
    while store.durable_lsn() < lsn {
        std::thread::yield_now();
    }
    assert!(store.durable_lsn() >= lsn);
}

/// An executor of a few lines: parks the thread between polls.
struct Unpark(std::thread::Thread, AtomicU64);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::Release);
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> (T, u64) {
    let wakes = Arc::new(Unpark(std::thread::current(), AtomicU64::new(0)));
    let waker = Waker::from(Arc::clone(&wakes));
    let mut future = pin!(future);
    loop {
        let seen = wakes.1.load(Ordering::Acquire);
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (value, seen);
        }
        while wakes.1.load(Ordering::Acquire) == seen {
            std::thread::park();
        }
    }
}

#[test]
fn a_future_is_ready_once_its_record_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"), Durability::Buffered);
    let lsn = store.put("a", &[0.0, 1.0], "x").unwrap();
    let (result, _) = block_on(store.wait_durable_async(lsn));
    result.unwrap();
    assert!(store.durable_lsn() >= lsn);
    let never = store.stats().tail;
    let (result, _) = block_on(store.wait_durable_async(never));
    assert!(matches!(result, Err(Error::UnknownLsn(lsn)) if lsn == never));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_await_on_tokio() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir.path().join("s"), Durability::Buffered));
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let lsn = store.put(format!("{n}"), &[0.0, 1.0], "x").unwrap();
                store.wait_durable_async(lsn).await.unwrap();
                assert!(store.durable_lsn() >= lsn);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn a_future_may_be_dropped_half_way_and_awaited_after_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"), Durability::Buffered);
    let lsn = store.put("a", &[0.0, 1.0], "x").unwrap();
    {
        let mut dropped = pin!(store.wait_durable_async(lsn));
        let polled = dropped.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(!matches!(polled, Poll::Ready(Err(_))), "{polled:?}");
    }
    let later = store.put("b", &[0.0, 1.0], "x").unwrap();
    let (future, other) = (store.wait_durable_async(later), store.wait_durable_async(later));
    store.close().unwrap();
    block_on(future).0.unwrap();
    drop(other);
}

/// A heap memory whose flushes fail for as long as the switch is on; each write takes so long.
struct Faulty(HeapMemory, Arc<AtomicBool>, Time);

#[expect(unsafe_code, reason = "hands everything on to a memory that keeps the contract")]
mod forward {
    use super::{Faulty, HeapMemory, Memory, Ordering};
    use std::sync::atomic::AtomicU64;

    // SAFETY: `HeapMemory` keeps the contract.
    unsafe impl Memory for Faulty {
        const STREAMS_FROM: usize = HeapMemory::STREAMS_FROM;

        fn len(&self) -> usize {
            self.0.len()
        }
        fn word(&self, at: usize) -> &AtomicU64 {
            self.0.word(at)
        }
        unsafe fn write(&self, at: usize, bytes: &[u8]) {
            // SAFETY: the caller's contract is the same.
            unsafe { HeapMemory::write(&self.0, at, bytes) }
        }
        unsafe fn stream(&self, at: usize, lines: &[u8]) {
            if !self.2.is_zero() {
                std::thread::sleep(self.2);
            }
            // SAFETY: the caller's contract is the same.
            unsafe { HeapMemory::stream(&self.0, at, lines) }
        }
        fn end_stream(&self, at: usize, len: usize) {
            self.0.end_stream(at, len);
        }
        unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
            // SAFETY: the caller's contract is the same.
            unsafe { HeapMemory::bytes(&self.0, at, len) }
        }
        fn flush(&self) -> std::io::Result<()> {
            // Once, and then as if nothing had been: so does the kernel.
            if self.1.swap(false, Ordering::AcqRel) {
                return Err(std::io::Error::other("planted"));
            }
            Ok(())
        }
    }
}

/// Segments of so many bytes; each write to them takes so long.
struct Heap(Arc<AtomicBool>, usize, Time);

impl Source<Faulty> for Heap {
    fn create(&self, sequence: Sequence, role: Role, _: Purpose) -> Result<Segment<Faulty>, Error> {
        let identity = Identity {
            store: StoreId([1; 16]),
            sequence,
            salt: Salt(sequence.0),
            dimension: 1,
            segment_bytes: self.1 as u64,
            directory_at: HEADER_END as u32,
            features: Features::default(),
            role,
        };
        let memory = Faulty(HeapMemory::new(self.1), Arc::clone(&self.0), self.2);
        Ok(Segment::create(memory, &identity))
    }
    fn discard(&self, _: &Segment<Faulty>) {}
    fn wake(&self) {}
}

fn engine(broken: &Arc<AtomicBool>, segment_bytes: usize, slow: Time) -> Engine<Faulty, Heap> {
    let geometry = Geometry { segment_bytes, directory_at: HEADER_END, dimension: 1 };
    let log = Log::new(Heap(Arc::clone(broken), segment_bytes, slow), geometry, Sequence(1));
    Engine::new(log, stratalog::internals::index::Shape::default())
}

fn record<'a>(id: &'a [u8], key_hash: u64, content: &'a [u8]) -> WriteRequest<'a> {
    WriteRequest::new(RecordParts {
        kind: Kind::Put,
        writing: WriteMode::Blind,
        id,
        key_hash,
        embedding: &[0; 4],
        content,
        created_ns: 0,
        expires_ns: 0,
        tag: 0,
    })
}

fn put(engine: &Engine<Faulty, Heap>, id: &str) -> Lsn {
    engine.put(&record(id.as_bytes(), id.len() as u64, b"x")).unwrap()
}

#[test]
fn after_one_failed_flush_none_is_tried_and_nobody_is_told_that_all_is_well() {
    let broken = Arc::new(AtomicBool::new(false));
    let engine = engine(&broken, 1 << 16, Time::ZERO);
    let flushes = Flusher::default();
    let durable = put(&engine, "a");
    flushes.sync(&engine).unwrap();
    assert_eq!(flushes.durable(), durable);

    let lost = put(&engine, "bb");
    broken.store(true, Ordering::Release);
    let mut slot = None;
    let polled = flushes.group().poll(lost, &mut Context::from_waker(Waker::noop()), &mut slot);
    assert!(polled.is_pending());
    let failed = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::FlushFailed(reason)) if reason == "planted"));
    };
    failed(flushes.wait(&engine, lost));
    // The device is well again, but what it dropped is gone: still no.
    assert!(!broken.load(Ordering::Acquire));
    failed(flushes.sync(&engine));
    failed(flushes.wait(&engine, lost));
    failed(flushes.check());
    match flushes.group().poll(lost, &mut Context::from_waker(Waker::noop()), &mut slot) {
        Poll::Ready(result) => failed(result),
        Poll::Pending => panic!("a waiter was forgotten"),
    }
    assert_eq!(flushes.durable(), durable, "the durable end ran ahead of the data");
    flushes.wait(&engine, durable).unwrap();
    assert_ne!(flushes.durable(), RawLsn::default());
}

/// The flusher has ended by then; the last flush is the closer's.
#[test]
fn a_future_that_is_polled_while_the_store_closes_is_served_by_its_last_flush() {
    let engine = engine(&Arc::default(), 1 << 16, Time::ZERO);
    let flushes = Flusher::default();
    let lsn = put(&engine, "a");
    flushes.group().stop();
    let wakes = Arc::new(Unpark(std::thread::current(), AtomicU64::new(0)));
    let (waker, mut slot) = (Waker::from(Arc::clone(&wakes)), None);
    let mut context = Context::from_waker(&waker);
    assert!(flushes.group().poll(lsn, &mut context, &mut slot).is_pending());
    flushes.close(&engine).unwrap();
    assert_eq!(wakes.1.load(Ordering::Acquire), 1, "it was not woken");
    let done = flushes.group().poll(lsn, &mut context, &mut slot);
    assert!(matches!(done, Poll::Ready(Ok(()))), "{done:?}");
}

struct Panics;
impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the executor's queue is full");
    }
}

/// A waker is the caller's code. Its panic ended the thread that flushes, and nobody woke the rest.
#[test]
fn a_waker_that_panics_costs_neither_the_other_futures_nor_who_flushes() {
    let engine = engine(&Arc::default(), 1 << 16, Time::ZERO);
    let flushes = Flusher::default();
    let lsn = put(&engine, "a");
    let wakes = Arc::new(Unpark(std::thread::current(), AtomicU64::new(0)));
    let (bad, good) = (Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&wakes)));
    for waker in [&bad, &good, &bad, &good] {
        let polled = flushes.group().poll(lsn, &mut Context::from_waker(waker), &mut None);
        assert!(polled.is_pending());
    }
    flushes.sync(&engine).unwrap();
    assert_eq!(wakes.1.load(Ordering::Acquire), 2, "those behind it were not woken");
}

/// A task that nobody but its waker holds, and that holds a future in its turn.
struct Task<F>(std::sync::Mutex<Option<F>>);
impl<F: Send> Wake for Task<F> {
    fn wake(self: Arc<Self>) {}
}

/// A registration was taken back with the lock held, and its waker dropped with it.
#[test]
fn a_waker_may_hold_a_future_that_waits_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("s"), Durability::Buffered);
    let (done, drops) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for n in 0..50 {
            let lsn = store.put(format!("{n}"), &[0.0, 1.0], "x").unwrap();
            let mut inner = Box::pin(store.wait_durable_async(lsn));
            let mut outer = Box::pin(store.wait_durable_async(lsn));
            drop(inner.as_mut().poll(&mut Context::from_waker(Waker::noop())));
            let waker = Waker::from(Arc::new(Task(std::sync::Mutex::new(Some(inner)))));
            drop(outer.as_mut().poll(&mut Context::from_waker(&waker)));
            drop(waker);
            if n % 2 == 0 {
                drop(outer.as_mut().poll(&mut Context::from_waker(Waker::noop())));
            }
        }
        done.send(()).unwrap();
    });
    drops.recv_timeout(Time::from_secs(10)).expect("it waits for itself");
}

/// A task of an executor that is gone: what wakes it drops it, and with it the last of a store.
struct Last(std::sync::Mutex<Option<Arc<Store>>>, std::sync::mpsc::Sender<bool>);
impl Wake for Last {
    fn wake(self: Arc<Self>) {
        let store = self.0.lock().unwrap().take().unwrap();
        store.put("late", &[0.0, 1.0], "x").unwrap();
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(store)));
        self.1.send(dropped.is_ok()).unwrap();
    }
}

/// It waited for the end of its own thread, which is a panic, and was closed without a sync.
#[test]
fn a_store_may_be_dropped_by_the_thread_that_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir.path().join("s"), Durability::Buffered));
    let lsn = store.put("a", &[0.0, 1.0], "x").unwrap();
    let mut future = Box::pin(store.wait_durable_async(lsn));
    let (done, hears) = std::sync::mpsc::channel();
    let last = Arc::new(Last(std::sync::Mutex::new(Some(store)), done));
    let waker = Waker::from(Arc::clone(&last));
    // The flusher may wake it as soon as it is registered.
    if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        waker.wake();
    }
    let closed = hears.recv_timeout(Time::from_secs(10)).expect("it waits for itself");
    assert!(closed, "closing has panicked");
    let store = open(&dir.path().join("s"), Durability::Buffered);
    let late = store.get_owned("late").unwrap().unwrap();
    assert!(store.durable_lsn() >= late.lsn, "it was closed without a sync");
}

/// Which threads have woken a task.
#[derive(Default)]
struct Threads(std::sync::Mutex<Vec<String>>);
impl Wake for Threads {
    fn wake(self: Arc<Self>) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push(name);
    }
}

/// The last of a store was dropped there, which gave its lock back; and then segments of it were
/// dropped and its manifest was written, under whoever had opened it meanwhile.
#[test]
fn no_task_is_woken_by_the_thread_that_compacts_or_by_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().dimension(2).segment_size(1 << 20).flush_interval(None);
    let store = options.open(dir.path().join("s")).unwrap();
    let wakes = Arc::new(Threads::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let (mut futures, content) = (Vec::new(), [7; 8000]);
    for n in 0..3000 {
        let lsn = store.put(format!("{}", n % 500), &[0.0, 1.0], content).unwrap();
        let mut future = Box::pin(store.wait_durable_async(lsn));
        drop(future.as_mut().poll(&mut Context::from_waker(&waker)));
        futures.push(future);
        if n % 1000 == 0 {
            store.backup(dir.path().join(format!("copy {n}"))).unwrap();
        }
        futures.drain(..futures.len().saturating_sub(100));
    }
    let names = wakes.0.lock().unwrap().clone();
    let others: Vec<_> = names.iter().filter(|name| *name != "stratalog-flush").collect();
    assert!(!names.is_empty() && others.is_empty(), "{others:?}");
    store.close().unwrap();
}

/// It takes longer than a flush waits, so each of them voided it, as long as anybody asked for one.
#[test]
fn a_batch_that_takes_long_ends_beside_a_thread_that_asks_for_one_flush_after_the_other() {
    let engine = engine(&Arc::default(), 1 << 20, Time::from_micros(50));
    let (flushes, ended) = (Flusher::default(), AtomicBool::new(false));
    let ids: Vec<_> = (0..300u64).map(u64::to_le_bytes).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let records = ids.iter().map(|id| record(id, u64::from_le_bytes(*id) << 8, b"x"));
            engine.write_batch(&mut records.collect()).unwrap();
            // Release: pairs with the Acquire below.
            ended.store(true, Ordering::Release);
        });
        let began = Instant::now();
        // Acquire: pairs with the Release above.
        while !ended.load(Ordering::Acquire) && began.elapsed() < Time::from_secs(20) {
            flushes.sync(&engine).unwrap();
        }
        assert!(ended.load(Ordering::Acquire), "it is voided by each flush");
    });
    assert_eq!(engine.retries(), 0, "flushes go on to wait");
}

/// A conditional put of a member's id was decided before the batch was, so the member is written
/// again; while each flush voided that, none of them waited longer than the one before.
#[test]
fn a_member_that_is_written_again_has_flushes_wait_for_it_too() {
    let engine = engine(&Arc::default(), 1 << 24, Time::from_micros(50));
    let (flushes, ended) = (Flusher::default(), AtomicBool::new(false));
    let content = vec![7; 1 << 21];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            engine.write_batch(&mut vec![record(b"id", 7, &content)]).unwrap();
            // Release: pairs with the Acquire below.
            ended.store(true, Ordering::Release);
        });
        wait_until_taken(&engine, 2);
        let parts = RecordParts { writing: WriteMode::Conditional, ..*record(b"id", 7, b"x") };
        let put = WriteRequest::new(parts);
        engine.write_if(&put, |_, _| true).unwrap().unwrap();
        wait_until_taken(&engine, 5);
        assert_eq!(engine.retries(), 0, "nothing was voided yet");
        let began = Instant::now();
        // Acquire: pairs with the Release above.
        let has_ended = || ended.load(Ordering::Acquire);
        while engine.retries() == 0 && !has_ended() && began.elapsed() < Time::from_secs(20) {
            flushes.sync(&engine).unwrap();
        }
        assert!(engine.retries() > 0 || has_ended(), "it is voided by each flush");
    });
    assert_eq!(engine.retries(), 0, "flushes go on to wait");
}

/// Waits until so many slots of the active segment are taken.
fn wait_until_taken(engine: &Engine<Faulty, Heap>, slots: u32) {
    let taken = || {
        let guard = engine.epoch().pin();
        engine.log().active(&guard).map_or(0, |segment| segment.filling().slots_end())
    };
    while taken() < slots {
        std::thread::sleep(Time::from_micros(50));
    }
}

/// The first segment's durable end is damaged, so that it is to be flushed again, and the last one
/// is not: who waits for a record there waits for that flush alone.
#[test]
fn a_future_of_an_earlier_life_is_ready_after_a_flush() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path, Durability::Buffered);
    let mut last = Lsn::default();
    while store.stats().segments < 2 {
        last = store.put(last.to_string(), &[0.0, 1.0], vec![7; 200_000]).unwrap();
    }
    store.close().unwrap();
    let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    let file = std::fs::File::options().write(true).open(segments.min().unwrap()).unwrap();
    file.write_all_at(&[0x55; 8], DURABLE_AT as u64).unwrap();
    let store = open(&path, Durability::Buffered);
    assert!(store.durable_lsn() < last, "nothing is left to flush");
    let (done, waits) = std::sync::mpsc::channel();
    let waiting = store.wait_durable_async(last);
    std::thread::spawn(move || done.send(block_on(waiting).0));
    waits.recv_timeout(Time::from_secs(10)).expect("it is ready").unwrap();
    assert!(store.durable_lsn() >= last);
}
