//! When may memory that readers could still see be given back? crossbeam-epoch answers; this file
//! is the only one that talks to it.
//!
//! Every store has a collector of its own, so that a long pin of another crate, or of another
//! store, holds nothing back here. What is retired passes three stations:
//!
//! 1. [`Guard::retire`], by the thread that unlinked it, under its guard;
//! 2. two epochs later, inside anybody's pin, a deferred closure that does nothing but push the
//!    ready-made node on a list (no free, no unmap, no system call: a reader pays for this one);
//! 3. [`Epoch::reclaim`], by the background thread or a compaction that waits for room, drops it.
//!
//! E1: a node is on at most one list, and whoever takes the list whole (one swap) owns its nodes.
#![expect(unsafe_code, reason = "nodes travel through the collector as raw pointers")]

use crate::concurrency::sync::unmodelled::{Arc, AtomicU64 as PlainU64, Ordering as PlainOrdering};
use crate::concurrency::sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// Anything whose drop gives back what readers may still see: an index chunk, a segment.
pub type Garbage = Box<dyn Retired>;

/// A marker for what can be retired: its `Drop` is the reclamation.
pub trait Retired: Send {}
impl<T: Send> Retired for T {}

/// So much waiting garbage is worth waking somebody: index chunks of some 30 KiB each.
const RECLAIM_AT: u64 = 16;

struct Node {
    next: AtomicPtr<Node>,
    _garbage: Garbage,
}

/// Retired and past its grace period, waiting for the background thread: a stack (Treiber 1986)
/// that is only ever taken whole, so it has no ABA.
struct ReadyList {
    head: AtomicPtr<Node>,
}

impl ReadyList {
    fn push(&self, node: *mut Node) {
        // Relaxed: only a guess, the exchange below checks it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: E1, this thread owns the node until the exchange succeeds.
            let next = unsafe { &(*node).next };
            // Relaxed: published by the exchange.
            next.store(head, Ordering::Relaxed);
            // Release: pairs with the Acquire swap in `take_all`; the node is whole before it is
            // on the list. Relaxed on failure: as above.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Drops everything on the list and says how much it was.
    fn take_all(&self) -> u64 {
        // Acquire: pairs with the Release in `push`.
        let mut node = self.head.swap(std::ptr::null_mut(), Ordering::Acquire);
        let mut count = 0;
        while !node.is_null() {
            // SAFETY: E1, the swap made this thread the owner of every node of the chain; each was
            // made by `Box::into_raw` in `retire`.
            let owned = unsafe { Box::from_raw(node) };
            // Relaxed: ordered by the swap above.
            node = owned.next.load(Ordering::Relaxed);
            count += 1;
        }
        count
    }
}

impl Drop for ReadyList {
    fn drop(&mut self) {
        self.take_all();
    }
}

/// A store's epoch: pins, and the way back for memory.
pub struct Epoch {
    collector: Collector,
    ready: Arc<ReadyList>,
    retired: AtomicU64,
    reclaimed: AtomicU64,
    /// Somebody was told that there is enough to reclaim.
    called: AtomicBool,
}

/// A raw node on its way through the collector.
struct InFlight(*mut Node);

// SAFETY: the node is owned by whoever holds this, and `Garbage` is `Send`.
unsafe impl Send for InFlight {}

impl Epoch {
    /// An epoch with no participant yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            collector: Collector::new(),
            ready: Arc::new(ReadyList { head: AtomicPtr::new(std::ptr::null_mut()) }),
            retired: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
            called: AtomicBool::new(false),
        }
    }

    /// Pins the calling thread: what was reachable from now on stays until the guard is dropped.
    /// Nests. Costs a thread-local look-up and crossbeam's fence.
    #[inline]
    #[must_use]
    pub fn pin(&self) -> Guard<'_> {
        Guard { pin: self.collector.pin(), epoch: self }
    }

    /// Returns whether it is time for [`Epoch::reclaim`]: says so once, to the first who asks when
    /// enough has been retired.
    #[inline]
    #[must_use]
    pub fn take_reclaim_request(&self) -> bool {
        // Relaxed: a hint, here and below; a nap of the background thread ends by itself, too.
        self.pending() >= RECLAIM_AT
            && !self.called.load(Ordering::Relaxed)
            && !self.called.swap(true, Ordering::Relaxed)
    }

    /// Drops what is past its grace period, and pushes the collector on. For the background
    /// thread; safe from any, but never cheap.
    pub fn reclaim(&self) {
        // Relaxed: a hint.
        self.called.store(false, Ordering::Relaxed);
        loop {
            if self.pending() > 0 {
                self.pin().pin.flush();
            }
            let count = self.ready.take_all();
            // Relaxed: as in `Guard::retire`.
            self.reclaimed.fetch_add(count, Ordering::Relaxed);
            // The collector looks at a few bags at a time: on, as long as there was something.
            if count == 0 {
                return;
            }
        }
    }

    /// Returns how many retired things are not dropped yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        // Relaxed: a statistic; read in this order so that the difference cannot be negative by
        // the reader's own doing, and saturating for all else.
        let reclaimed = self.reclaimed.load(Ordering::Relaxed);
        self.retired.load(Ordering::Relaxed).saturating_sub(reclaimed)
    }
}

/// Proof that the thread is pinned. Not `Send`.
#[derive(Debug)]
pub struct Guard<'e> {
    pin: CollectorGuard,
    epoch: &'e Epoch,
}

impl Guard<'_> {
    /// Hands over garbage that no new reader can reach. [`Epoch::reclaim`] drops it once every
    /// guard that exists now is gone. If the epoch is dropped first, it drops the garbage.
    pub fn retire(&self, garbage: Garbage) {
        let next = AtomicPtr::new(std::ptr::null_mut());
        let node = InFlight(Box::into_raw(Box::new(Node { next, _garbage: garbage })));
        let ready = Arc::clone(&self.epoch.ready);
        // Relaxed: a statistic, and a hint for the background thread.
        self.epoch.retired.fetch_add(1, Ordering::Relaxed);
        self.pin.defer(move || {
            let node = node;
            ready.push(node.0);
        });
        // Garbage in this thread's own bag would wait for the thread's next pins, which may never
        // come.
        self.pin.flush();
    }
}

/// How often the end of an epoch tries to give everything back: each try may move it on by one, and
/// a thread that registers or ends just now may cost some.
const LAST_TRIES: u32 = 64;

/// Threads keep their registrations with the collector beyond the epoch, and so what it holds. No
/// guard is left by now, but for leaked ones, so all that was retired can go.
impl Drop for Epoch {
    fn drop(&mut self) {
        for _ in 0..LAST_TRIES {
            if self.pending() == 0 {
                return;
            }
            self.reclaim();
        }
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").field("pending", &self.pending()).finish_non_exhaustive()
    }
}

/// A value that is replaced as a whole and read without a lock.
///
/// E2: the pointer is from `Arc::into_raw`, with the one count that the cell owns. Who replaces it
/// hands that count to the epoch, so a guard that could load the pointer keeps the value alive.
#[cfg(not(stratalog_loom))]
pub struct Published<T>(AtomicPtr<T>);

#[cfg(not(stratalog_loom))]
impl<T: Send + Sync + 'static> Published<T> {
    /// A cell that holds this.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(AtomicPtr::new(Arc::into_raw(Arc::new(value)).cast_mut()))
    }

    /// Returns the value. All guards of one cell are of one epoch.
    pub fn read<'g>(&'g self, _guard: &'g Guard) -> &'g T {
        // Acquire: pairs with the Release in `replace`; the value is whole.
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: E2, never null and alive under the guard.
        unsafe { &*value }
    }

    /// Has it hold something else. The old value is dropped when nobody reads it any more.
    pub fn replace(&self, guard: &Guard, value: T) {
        let fresh = Arc::into_raw(Arc::new(value)).cast_mut();
        // AcqRel: Release pairs with the Acquire in `read`; Acquire with the Release of the call
        // before, so that what is retired is whole.
        let old = self.0.swap(fresh, Ordering::AcqRel);
        // SAFETY: E2, the swap made the cell's count of it this function's.
        guard.retire(Box::new(unsafe { Arc::from_raw(old.cast_const()) }));
    }
}

#[cfg(not(stratalog_loom))]
impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // Relaxed: `&mut self` orders this after every other access.
        let value = self.0.load(Ordering::Relaxed);
        // SAFETY: E2, the cell's own count, given back once.
        drop(unsafe { Arc::from_raw(value.cast_const()) });
    }
}

#[cfg(not(stratalog_loom))]
impl<T> std::fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

#[cfg(any(not(stratalog_loom), crossbeam_loom, stratalog_shuttle))]
use real::{Collector, CollectorGuard};
#[cfg(all(stratalog_loom, not(crossbeam_loom), not(stratalog_shuttle)))]
use stand_in::{Collector, CollectorGuard};

#[cfg(any(not(stratalog_loom), crossbeam_loom, stratalog_shuttle))]
mod real {
    use super::{Arc, PlainOrdering, PlainU64};
    use crate::concurrency::sync::thread_local;
    use crate::concurrency::sync::unmodelled::Weak;
    use crossbeam_epoch::LocalHandle;
    use std::cell::RefCell;

    static NEXT_ID: PlainU64 = PlainU64::new(1);

    thread_local! {
        #[cfg_attr(
            not(any(stratalog_loom, stratalog_simulation)),
            expect(clippy::missing_const_for_thread_local, reason = "loom's has no const form")
        )]
        static HANDLES: RefCell<Vec<Handle>> = RefCell::new(Vec::new());
    }

    /// This thread's registration with one store's collector.
    struct Handle {
        id: u64,
        store: Weak<()>,
        local: LocalHandle,
    }

    pub(super) struct Collector {
        inner: crossbeam_epoch::Collector,
        id: u64,
        alive: Arc<()>,
    }

    impl Collector {
        pub(super) fn new() -> Self {
            // Relaxed: only uniqueness matters.
            let id = NEXT_ID.fetch_add(1, PlainOrdering::Relaxed);
            Self { inner: crossbeam_epoch::Collector::new(), id, alive: Arc::new(()) }
        }

        #[inline]
        pub(super) fn pin(&self) -> CollectorGuard {
            let cached = HANDLES.try_with(|handles| {
                let handles = handles.try_borrow().ok()?;
                handles.iter().find(|h| h.id == self.id).map(|h| h.local.pin())
            });
            match cached {
                Ok(Some(pin)) => CollectorGuard(pin),
                _ => self.register(),
            }
        }

        #[cold]
        fn register(&self) -> CollectorGuard {
            let local = self.inner.register();
            let pin = CollectorGuard(local.pin());
            let store = Arc::downgrade(&self.alive);
            let handle = Handle { id: self.id, store, local };
            // While the thread ends its cache is gone: the pin alone keeps the registration.
            let kept = HANDLES.try_with(|handles| {
                if let Ok(mut handles) = handles.try_borrow_mut() {
                    handles.retain(|h| h.store.strong_count() > 0);
                    handles.push(handle);
                }
            });
            kept.unwrap_or(());
            pin
        }
    }

    /// A pin of the collector.
    #[derive(Debug)]
    pub(super) struct CollectorGuard(crossbeam_epoch::Guard);

    impl CollectorGuard {
        pub(super) fn defer(&self, f: impl FnOnce() + Send + 'static) {
            self.0.defer(f);
        }

        pub(super) fn flush(&self) {
            self.0.flush();
        }
    }
}

/// For the models that are not about reclamation: nothing is given back before the epoch is
/// dropped, so the state space stays small. The retirement models use the real thing.
#[cfg(all(stratalog_loom, not(crossbeam_loom), not(stratalog_shuttle)))]
mod stand_in {
    use crate::concurrency::sync::unmodelled::{Arc, Mutex, PoisonError};
    use std::marker::PhantomData;

    type Deferred = Box<dyn FnOnce() + Send>;

    pub(super) struct Collector {
        deferred: Arc<Mutex<Vec<Deferred>>>,
    }

    impl Collector {
        pub(super) fn new() -> Self {
            Self { deferred: Arc::default() }
        }
        pub(super) fn pin(&self) -> CollectorGuard {
            CollectorGuard { deferred: Arc::clone(&self.deferred), not_send: PhantomData }
        }
    }

    impl Drop for Collector {
        fn drop(&mut self) {
            let mut deferred = self.deferred.lock().unwrap_or_else(PoisonError::into_inner);
            for f in deferred.drain(..) {
                f();
            }
        }
    }

    /// A pin of the collector.
    pub(super) struct CollectorGuard {
        deferred: Arc<Mutex<Vec<Deferred>>>,
        not_send: PhantomData<*mut ()>,
    }

    impl std::fmt::Debug for CollectorGuard {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("CollectorGuard").finish_non_exhaustive()
        }
    }

    impl CollectorGuard {
        pub(super) fn defer(&self, f: impl FnOnce() + Send + 'static) {
            let mut deferred = self.deferred.lock().unwrap_or_else(PoisonError::into_inner);
            deferred.push(Box::new(f));
        }
        pub(super) fn flush(&self) {}
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    struct DropCounter(Arc<AtomicUsize>);
    impl Drop for DropCounter {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn reclaim_often(epoch: &Epoch) {
        for _ in 0..8 {
            epoch.reclaim();
        }
    }

    #[test]
    fn nothing_is_dropped_while_a_guard_lives_and_all_of_it_afterwards() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let epoch = Epoch::new();
        let reader = epoch.pin();
        for _ in 0..100 {
            epoch.pin().retire(Box::new(DropCounter(Arc::clone(&dropped))));
        }
        reclaim_often(&epoch);
        assert_eq!(dropped.load(SeqCst), 0);
        drop(reader);
        reclaim_often(&epoch);
        assert_eq!(dropped.load(SeqCst), 100);
        assert_eq!(epoch.pending(), 0);
    }

    #[test]
    fn what_was_never_reclaimed_goes_with_the_epoch_while_its_threads_live_on() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let epoch = Epoch::new();
        for _ in 0..100 {
            epoch.pin().retire(Box::new(DropCounter(Arc::clone(&dropped))));
        }
        drop(epoch);
        assert_eq!(dropped.load(SeqCst), 100);
    }

    #[test]
    fn what_was_published_is_dropped_when_it_was_replaced_and_nobody_reads_it() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (epoch, counted) = (Epoch::new(), || DropCounter(Arc::clone(&dropped)));
        let cell = Published::new(counted());
        let reader = epoch.pin();
        let read = cell.read(&reader);
        for _ in 0..3 {
            cell.replace(&epoch.pin(), counted());
        }
        reclaim_often(&epoch);
        assert_eq!((dropped.load(SeqCst), Arc::strong_count(&read.0)), (0, 5));
        drop(reader);
        reclaim_often(&epoch);
        assert_eq!(dropped.load(SeqCst), 3);
        drop(cell);
        assert_eq!(dropped.load(SeqCst), 4);
    }

    #[test]
    fn a_leaked_guard_does_not_keep_the_epoch_from_its_end() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let epoch = Epoch::new();
        std::mem::forget(epoch.pin());
        epoch.pin().retire(Box::new(DropCounter(Arc::clone(&dropped))));
        drop(epoch);
        assert_eq!(dropped.load(SeqCst), 0, "somebody may read it for ever");
    }

    #[test]
    fn what_was_never_reclaimed_is_dropped_once_epoch_and_threads_are_gone() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::spawn(move || {
            let epoch = Epoch::new();
            epoch.pin().retire(Box::new(DropCounter(counted)));
        })
        .join()
        .unwrap();
        assert_eq!(dropped.load(SeqCst), 1);
    }
}
