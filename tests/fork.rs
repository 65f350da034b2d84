//! A child process that inherits an open store by `fork` may read it and cannot harm it.

#![cfg(test)]
#![expect(unsafe_code, reason = "`fork` is a matter of the C library")]

use std::future::Future;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::{Duration, Instant};
use stratalog::{
    Batch, Compaction, Condition, Durability, Error, Metric, NewRecord, Options, Recovery, Store,
};

const E: [f32; 2] = [1.0, 0.5];
/// A child that takes longer hangs.
const HANGS: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options::new().dimension(2).segment_size(1 << 20)
}

/// A child process.
struct Child(libc::pid_t);

impl Child {
    fn start(child: impl FnOnce()) -> Self {
        // SAFETY: has no condition. The child uses only what this thread has, and what the C
        // library keeps usable after a fork.
        let id = unsafe { libc::fork() };
        assert!(id >= 0, "fork: {}", std::io::Error::last_os_error());
        if id == 0 {
            let failed = catch_unwind(AssertUnwindSafe(child)).is_err();
            // SAFETY: has no condition. Ends the child without the parent's destructors.
            unsafe { libc::_exit(failed.into()) }
        }
        Self(id)
    }

    /// Fails if it panicked or hangs.
    #[track_caller]
    fn finish(self) {
        let (mut status, begun) = (0, Instant::now());
        loop {
            // SAFETY: `status` is this function's own.
            match unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) } {
                0 if begun.elapsed() < HANGS => std::thread::sleep(Duration::from_millis(1)),
                0 => {
                    // SAFETY: has no condition; it was not waited for, so the id is its own.
                    unsafe { libc::kill(self.0, libc::SIGKILL) };
                    panic!("the child hangs");
                }
                _ => return assert_eq!(status, 0, "the child failed"),
            }
        }
    }
}

#[track_caller]
fn in_child(child: impl FnOnce()) {
    Child::start(child).finish();
}

/// Drops the child's copy of a value that the parent goes on using.
fn drop_copy<T>(value: &T) {
    // SAFETY: called in a child that ends without using the value again; the parent's value is in
    // the memory of another process.
    drop(unsafe { std::ptr::read(value) });
}

#[track_caller]
fn assert_forked<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Forked)), "{result:?}");
}

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn assert_writes_are_refused(store: &Store, path: &Path) {
    assert_forked(store.put("x", &E, ""));
    assert_forked(store.put_record(NewRecord::new("x", &E, "")));
    for condition in [Condition::Absent, Condition::Present] {
        assert_forked(store.put_if("x", &E, "", condition));
    }
    assert_forked(store.remove("a"));
    let mut batch = Batch::new();
    batch.put("x", &E, "");
    assert_forked(store.write(batch));
    assert_forked(store.write(Batch::new()));
    assert_forked(store.update_tag("a", |tag| tag + 1));
    assert_forked(store.sync());
    assert_forked(store.wait_durable(store.durable_lsn()));
    assert!(matches!(
        poll_once(store.wait_durable_async(store.durable_lsn())),
        Poll::Ready(Err(Error::Forked))
    ));
    assert_forked(store.compact());
    assert_forked(store.backup(path.join("copy")));
    assert!(!path.join("copy").exists());
}

fn assert_reads_work(store: &Store) {
    let record = store.get_owned("a").unwrap().unwrap();
    assert_eq!((record.content, record.tag), (b"1".to_vec(), 7));
    assert!(store.contains("b") && !store.contains("x"));
    let shared = store.get_shared("a").unwrap().unwrap();
    let pinned = store.pin();
    assert_eq!(pinned.get("a").unwrap().unwrap().content(), shared.content());
    assert!(pinned.iter().filter(|record| record.is_ok()).count() >= 2);
    assert!(!pinned.search(&E, 1, Metric::Dot).unwrap().is_empty());
    assert!(store.stats().segments >= 1 && !store.segments().is_empty());
}

fn filled(path: &Path) -> Store {
    let store = options().compaction(Compaction::Manual).open(path).unwrap();
    store.put("a", &E, "1").unwrap();
    store.update_tag("a", |_| 7).unwrap();
    store.put("b", &E, "2").unwrap();
    store
}

#[test]
fn a_child_reads_and_each_of_its_writes_is_forked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let tail = store.stats().tail;
    let (pinned, shared) = (store.pin(), store.get_shared("a").unwrap().unwrap());
    let held = pinned.get("b").unwrap().unwrap();
    let mut durable = Box::pin(store.wait_durable_async(store.put("c", &E, "3").unwrap()));
    in_child(|| {
        assert_writes_are_refused(&store, dir.path());
        assert_reads_work(&store);
        assert_eq!((shared.content(), held.content()), (&b"1"[..], &b"2"[..]));
        let polled = durable.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Err(Error::Forked))));
        drop_copy(&shared);
    });
    assert!(store.stats().tail > tail && !store.contains("x"));
    store.put("d", &E, "4").unwrap();
    drop((pinned, durable));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(store.len(), 4);
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn a_child_that_closes_or_drops_its_copy_releases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    in_child(|| drop_copy(&store));
    in_child(|| {
        // SAFETY: as in `drop_copy`.
        let copy = unsafe { std::ptr::read(&store) };
        assert_forked(copy.close());
    });
    let again = options().open(&path);
    assert!(matches!(again, Err(Error::Locked { .. })), "the child has unlocked the store");
    store.put("c", &E, "3").unwrap();
    store.sync().unwrap();
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!(store.len(), 3);
    assert!(store.verify().unwrap().is_clean() && store.recovery().missing_segments == 0);
}

#[test]
fn a_child_that_still_has_its_copy_does_not_keep_the_parent_from_unlocking() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let child = Child::start(|| {
        (&reader).read_exact(&mut [0]).unwrap();
        assert_eq!(store.get_owned("a").unwrap().unwrap().content, b"1");
        assert_forked(store.put("x", &E, ""));
    });
    store.close().unwrap();
    assert_eq!(options().open(&path).unwrap().len(), 2);
    writer.write_all(&[1]).unwrap();
    child.finish();
}

#[test]
fn a_child_may_open_a_store_of_its_own_and_its_child_may_not_write_to_that() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("s"));
    in_child(|| {
        let own = options().open(dir.path().join("own")).unwrap();
        own.put("a", &E, "1").unwrap();
        assert_forked(store.put("x", &E, ""));
        in_child(|| {
            assert_forked(own.put("x", &E, ""));
            assert_forked(store.put("x", &E, ""));
        });
        own.put("b", &E, "2").unwrap();
        own.close().unwrap();
    });
    assert_eq!(options().open(dir.path().join("own")).unwrap().len(), 2);
    store.put("x", &E, "").unwrap();
}

static LOCK_IS_HELD: AtomicBool = AtomicBool::new(false);
static MAY_GO_ON: AtomicBool = AtomicBool::new(false);

/// A waker is cloned under the lock that tasks register with. This one stops there.
fn stop_in_clone(_: *const ()) -> RawWaker {
    LOCK_IS_HELD.store(true, Ordering::Release);
    while !MAY_GO_ON.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
    }
    RawWaker::new(std::ptr::null(), Waker::noop().vtable())
}

static STOPS: RawWakerVTable = RawWakerVTable::new(stop_in_clone, |_| (), |_| (), |_| ());

#[test]
fn a_future_in_a_child_does_not_wait_for_a_lock_of_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().flush_interval(None).open(dir.path().join("s")).unwrap();
    let lsn = store.put("a", &E, "1").unwrap();
    let mut registered = Box::pin(store.wait_durable_async(lsn));
    let mut context = Context::from_waker(Waker::noop());
    // Nobody has asked for a flush before.
    assert!(registered.as_mut().poll(&mut context).is_pending());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: the table's functions use no data.
            let waker = unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &STOPS)) };
            // Until a record is not durable yet when the future is polled.
            while !LOCK_IS_HELD.load(Ordering::Acquire) {
                let future = store.wait_durable_async(store.put("b", &E, "2").unwrap());
                let polled = pin!(future).poll(&mut Context::from_waker(&waker));
                assert!(!matches!(polled, Poll::Ready(Err(_))));
            }
        });
        while !LOCK_IS_HELD.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let child = Child::start(|| {
            let polled = registered.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Err(Error::Forked))));
            drop_copy(&registered);
            assert_forked(store.sync());
            assert_forked(store.wait_durable(lsn));
            assert_eq!(store.get_owned("b").unwrap().unwrap().content, b"2");
            drop_copy(&store);
        });
        let failed = catch_unwind(AssertUnwindSafe(|| child.finish()));
        MAY_GO_ON.store(true, Ordering::Release);
        assert!(failed.is_ok());
    });
}

/// Whatever lock a thread of the parent holds at the moment of the fork, no read in the child
/// waits for it, and neither does the drop of a future or of the store.
#[test]
fn no_read_in_a_child_waits_for_a_thread_of_the_parent() {
    const FORKS: u32 = 60;
    let dir = tempfile::tempdir().unwrap();
    let store = options().durability(Durability::Buffered).open(dir.path().join("s")).unwrap();
    store.put("a", &E, "1").unwrap();
    store.update_tag("a", |_| 7).unwrap();
    store.put("b", &E, "2").unwrap();
    let (done, content) = (AtomicBool::new(false), vec![3; 10_000]);
    let until_done = |work: &dyn Fn(u32)| {
        for n in (0..).take_while(|_| !done.load(Ordering::Acquire)) {
            work(n);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until_done(&|n| assert!(store.put(format!("w{}", n % 50), &E, &content).is_ok()));
        });
        scope.spawn(|| until_done(&|_| assert!(store.sync().is_ok())));
        scope.spawn(|| until_done(&|_| assert!(store.compact().is_ok())));
        scope.spawn(|| until_done(&|_| assert!(store.stats().segments as usize > 0)));
        for _ in 0..FORKS {
            let lsn = store.put("c", &E, "3").unwrap();
            let mut durable = Box::pin(store.wait_durable_async(lsn));
            // It registers with the flusher, or the record is durable already.
            let polled = durable.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(!matches!(polled, Poll::Ready(Err(_))));
            in_child(|| {
                assert_reads_work(&store);
                drop_copy(&durable);
                assert_writes_are_refused(&store, dir.path());
                drop_copy(&store);
            });
        }
        done.store(true, Ordering::Release);
    });
    assert!(store.len() > 3);
    store.close().unwrap();
}

/// A daemon may have closed them. What was printed went into a manifest that was being written.
#[test]
fn what_is_printed_where_the_standard_streams_are_closed_goes_into_no_file_of_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (path, done) = (dir.path().join("s"), AtomicBool::new(false));
    in_child(|| {
        for number in 0..3 {
            // SAFETY: has no condition; nothing else in this process has them.
            unsafe { libc::close(number) };
        }
        let store = options().open(&path).unwrap();
        for number in 0..3 {
            let file = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            assert_eq!(file, Path::new("/dev/null"), "descriptor {number}");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    // SAFETY: the bytes are there.
                    unsafe { libc::write(2, b"printed".as_ptr().cast(), 7) };
                }
            });
            for n in 0..24 {
                store.put(format!("{n}"), &E, vec![7; 200_000]).unwrap();
            }
            store.compact().unwrap();
            done.store(true, Ordering::Release);
        });
        store.close().unwrap();
    });
    assert_eq!(options().recovery(Recovery::Strict).open(path).unwrap().len(), 24);
}
