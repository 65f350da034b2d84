//! Group commit: threads that need a flush share it. This module knows turns and waiters; the flush
//! itself is a closure.
//!
//! At most one flush is in progress. A thread that needs a flush that begins after now takes a
//! ticket for the next one. When the flush in progress has ended, the first waiting thread leads
//! the next flush for all of them. A flush that began before a record was committed does not cover
//! that record.
//!
//! No thread is woken in vain: each waiting thread sleeps on a condvar of its own, and the end of a
//! flush wakes the threads that it served and one leader for the others. The flusher thread is
//! woken only if no waiting thread can lead.
//!
//! After a flush failed, no later one is tried [D3].
//!
//! D4: `durable` is stored before anybody is woken, and only grows.

use crate::concurrency::sync::control::AtomicU64;
use crate::concurrency::sync::unmodelled::{Arc, OnceLock, PoisonError};
use crate::concurrency::sync::{Condvar, Mutex, MutexGuard, Ordering, lock, yield_now};
use crate::error::Error;
use crate::format::ids::Lsn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often a leader yields to those who shared the last flush, so that they share its own too.
const GATHER_YIELDS: u32 = 32;

/// What one flush covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushScope {
    /// Every segment of the log.
    All,
    /// Only the segments that are full.
    Full,
}

/// The turns at flushing, the threads and tasks that wait for them, and the result so far.
#[derive(Debug, Default)]
pub struct GroupCommit {
    turns: Mutex<Turns>,
    /// The flusher thread has something to do.
    flusher: Condvar,
    failed: OnceLock<String>,
    durable: AtomicU64,
}

/// Whose turn it is to flush.
#[derive(Debug, Default)]
struct Turns {
    flushing: bool,
    /// A leader waits for more to come before it begins.
    gathering: bool,
    /// Threads that waited when the last flush ended, served or not, and its leader.
    crowd: usize,
    /// Flushes begun and ended so far.
    begun: u64,
    ended: u64,
    /// The flusher's interval was over since the last flush began.
    due: bool,
    /// The highest number of a flush that was asked for, and that nobody waits for.
    asked: u64,
    /// The same for the segments that are full, and only those.
    full_due: bool,
    stop: bool,
    /// Nobody flushes any more.
    closed: bool,
    next_waker: u64,
    /// Those who wait without a thread that could lead a flush.
    wakers: Vec<(u64, Lsn, Waker)>,
    threads: Vec<Waiter>,
}

impl Turns {
    /// Returns whether the flusher is to lead a flush once nobody else does.
    fn calls_for_flusher(&self) -> bool {
        self.due || !self.wakers.is_empty() || self.asked > self.begun
    }

    /// Returns whether nobody flushes, or is about to.
    fn may_begin(&self) -> bool {
        !self.flushing && !self.gathering
    }

    /// Returns whether the flusher has anything to do.
    fn has_work(&self) -> bool {
        self.calls_for_flusher() || self.full_due
    }

    /// Takes a registration back. Its waker is to be dropped without the lock: it may be the last
    /// of a task that holds other futures, which come for the lock themselves.
    fn take_waker(&mut self, id: u64) -> Option<Waker> {
        let at = self.wakers.iter().position(|(other, ..)| *other == id)?;
        Some(self.wakers.swap_remove(at).2)
    }

    /// Who is to lead the next flush, if a thread waits for one.
    fn leader(&self) -> Option<Arc<Condvar>> {
        self.threads.first().map(|waiter| Arc::clone(&waiter.condvar))
    }
}

/// A thread that waits for the end of a flush.
#[derive(Debug)]
struct Waiter {
    /// Served by this flush or a later one; or once this LSN is durable.
    ticket: u64,
    lsn: Option<Lsn>,
    condvar: Arc<Condvar>,
}

/// Sleeps until the end of a flush that serves it, or to lead the next one.
fn wait_for_flush(
    mut turns: MutexGuard<'_, Turns>,
    ticket: u64,
    lsn: Option<Lsn>,
) -> MutexGuard<'_, Turns> {
    let condvar = Arc::new(Condvar::new());
    turns.threads.push(Waiter { ticket, lsn, condvar: Arc::clone(&condvar) });
    let mut turns = condvar.wait(turns).unwrap_or_else(PoisonError::into_inner);
    turns.threads.retain(|waiter| !Arc::ptr_eq(&waiter.condvar, &condvar));
    turns
}

/// The right to flush. Dropping it, by unwinding too, ends the turn and wakes all that wait.
struct Turn<'a> {
    group: &'a GroupCommit,
    number: u64,
    wakes: Wakes,
}

/// Who wakes the tasks that a flush has served. A waker is the caller's code: it may drop the
/// store, or call anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wakes {
    /// The thread that flushed.
    Here,
    /// The flusher: the thread that flushed is at work on the store and holds locks of it.
    Flusher,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (group, failed) = (self.group, self.group.failed.get().is_some());
        let durable = group.durable();
        let mut turns = lock(&group.turns);
        turns.flushing = false;
        turns.ended = self.number;
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut turns.wakers)
            .into_iter()
            .partition(|(_, lsn, _)| self.wakes == Wakes::Here && (failed || *lsn <= durable));
        turns.wakers = waiting;
        turns.crowd = turns.threads.len() + 1;
        let (served, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut turns.threads).into_iter().partition(|waiter| {
                let enough = waiter.lsn.is_some_and(|lsn| lsn <= durable);
                failed || enough || waiter.ticket <= self.number
            });
        turns.threads = waiting;
        let leader = turns.leader();
        let for_flusher = leader.is_none() && turns.has_work();
        drop(turns);
        if let Some(leader) = leader {
            leader.notify_one();
        } else if for_flusher {
            group.flusher.notify_one();
        }
        for waiter in served {
            waiter.condvar.notify_one();
        }
        wake_all(ready);
    }
}

/// Wakes tasks. A waker is the caller's code: if it panics, the others are woken all the same, and
/// whoever leads this flush goes on. The panic hook has said it.
fn wake_all(wakers: Vec<(u64, Lsn, Waker)>) {
    for (_, _, waker) in wakers {
        drop(catch_unwind(AssertUnwindSafe(|| waker.wake())));
    }
}

impl GroupCommit {
    /// Refuses once a flush has failed: for everything that writes.
    pub fn check(&self) -> Result<(), Error> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(Error::FlushFailed(reason.clone())),
        }
    }

    /// Keeps the first failure of a flush, and returns it [D3].
    pub(super) fn fail(&self, reason: &std::io::Error) -> Error {
        Error::FlushFailed(self.failed.get_or_init(|| reason.to_string()).clone())
    }

    /// Returns how many flushes have begun.
    pub fn flushes(&self) -> u64 {
        lock(&self.turns).begun
    }

    /// Everything with this LSN or a lower one survives power loss.
    pub fn durable(&self) -> Lsn {
        // Acquire: pairs with the Release in `raise`.
        Lsn::from_u64(self.durable.load(Ordering::Acquire))
    }

    /// Notes that everything up to an LSN is durable.
    pub fn raise(&self, lsn: Lsn) {
        // Release: pairs with the Acquire in `durable` [D4].
        self.durable.fetch_max(lsn.as_u64(), Ordering::Release);
    }

    /// Returns after a flush that began after the call has ended well, or as soon as `lsn` is
    /// durable. Calls `flush` if no other thread leads that flush.
    pub(super) fn wait(
        &self,
        lsn: Option<Lsn>,
        wakes: Wakes,
        flush: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let enough = || lsn.is_some_and(|lsn| self.durable() >= lsn);
        if enough() {
            return Ok(());
        }
        let mut turns = lock(&self.turns);
        let ticket = turns.begun + 1;
        let served = loop {
            if enough() {
                break Ok(());
            }
            let sound = self.check();
            if sound.is_err() || turns.ended >= ticket {
                break sound;
            }
            if turns.may_begin() {
                turns = self.gather(turns);
                let turn = self.take_turn(&mut turns, wakes);
                drop(turns);
                let flushed = flush();
                // It began after the call, and its end wakes who leads the next.
                drop(turn);
                return flushed;
            }
            turns = wait_for_flush(turns, ticket, lsn);
        };
        // It may have been woken to lead, and found itself served, or that a flush has failed: then
        // somebody else has to.
        let leader = if turns.may_begin() { turns.leader() } else { None };
        let for_flusher = leader.is_none() && turns.may_begin() && turns.has_work();
        drop(turns);
        if let Some(leader) = leader {
            leader.notify_one();
        } else if for_flusher {
            self.flusher.notify_one();
        }
        served
    }

    /// Calls `flush` in a turn that no other thread shares. No other flush begins before it
    /// returns. Tasks are left to the flusher.
    pub(super) fn flush_alone<R>(
        &self,
        flush: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut turns = lock(&self.turns);
        while !turns.may_begin() {
            // No other flush serves it; it is woken to lead one.
            turns = wait_for_flush(turns, u64::MAX, None);
        }
        let turn = self.take_turn(&mut turns, Wakes::Flusher);
        drop(turns);
        let result = flush();
        drop(turn);
        result
    }

    /// Lets those come back first whom the last flush served: on few cores they have not run yet.
    /// Who comes meanwhile is served by the flush that then begins.
    fn gather<'a>(&'a self, mut turns: MutexGuard<'a, Turns>) -> MutexGuard<'a, Turns> {
        turns.gathering = true;
        let mut yields = 0;
        while turns.threads.len() + 1 < turns.crowd && yields < GATHER_YIELDS {
            drop(turns);
            yield_now();
            yields += 1;
            turns = lock(&self.turns);
        }
        turns.gathering = false;
        turns
    }

    fn take_turn<'a>(&'a self, turns: &mut MutexGuard<'_, Turns>, wakes: Wakes) -> Turn<'a> {
        turns.flushing = true;
        turns.due = false;
        turns.full_due = false;
        turns.begun += 1;
        Turn { group: self, number: turns.begun, wakes }
    }

    /// The right to flush what is full: nobody is served by that flush but who waits for an LSN.
    fn take_turn_for_full<'a>(&'a self, turns: &mut MutexGuard<'_, Turns>) -> Turn<'a> {
        turns.flushing = true;
        turns.full_due = false;
        Turn { group: self, number: turns.begun, wakes: Wakes::Here }
    }

    /// Polls for an LSN to be durable. Only the flusher thread, which calls
    /// [`GroupCommit::run`], is asked to flush. `slot` remembers the registration.
    pub fn poll(
        &self,
        lsn: Lsn,
        context: &mut Context<'_>,
        slot: &mut Option<u64>,
    ) -> Poll<Result<(), Error>> {
        if self.durable() >= lsn {
            return Poll::Ready(Ok(()));
        }
        let waker = context.waker().clone();
        let mut turns = lock(&self.turns);
        // Under the lock, which the end of a flush takes after it stored [D4].
        if self.durable() >= lsn {
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = self.check() {
            return Poll::Ready(Err(error));
        }
        if turns.closed {
            let reason = "the store was closed before the record was durable".to_owned();
            return Poll::Ready(Err(Error::FlushFailed(reason)));
        }
        let id = slot.unwrap_or(turns.next_waker);
        turns.next_waker = turns.next_waker.max(id + 1);
        *slot = Some(id);
        let earlier = turns.take_waker(id);
        turns.wakers.push((id, lsn, waker));
        let flushing = turns.flushing;
        drop(turns);
        drop(earlier);
        if !flushing {
            // Else the end of the flush under way sees the waker.
            self.flusher.notify_one();
        }
        Poll::Pending
    }

    /// Asks the flusher for a flush that begins after now, and does not wait for it.
    pub fn ask(&self) {
        let mut turns = lock(&self.turns);
        turns.asked = turns.begun + 1;
        drop(turns);
        self.flusher.notify_one();
    }

    /// Asks the flusher to flush the segments that are full, and does not wait for it.
    pub fn ask_for_full(&self) {
        lock(&self.turns).full_due = true;
        self.flusher.notify_one();
    }

    /// Takes a registration back.
    pub fn unregister(&self, slot: u64) {
        let mut turns = lock(&self.turns);
        let waker = turns.take_waker(slot);
        drop(turns);
        drop(waker);
    }

    /// The flusher: flushes for those who cannot lead a flush themselves, and every `interval` for
    /// those who do not ask. Returns once `stop` was called.
    pub(super) fn run(
        &self,
        interval: Option<Duration>,
        flush: impl Fn(FlushScope) -> Result<(), Error>,
    ) {
        let mut turns = lock(&self.turns);
        while !turns.stop {
            // After a failure nobody flushes, but the end of a turn wakes those who wait for one: a
            // flush of copies may have failed, which is no turn.
            let wanted = match self.failed.get() {
                None => turns.has_work(),
                Some(_) => !turns.wakers.is_empty(),
            };
            if wanted && turns.may_begin() {
                let (extent, turn) = if turns.calls_for_flusher() {
                    (FlushScope::All, self.take_turn(&mut turns, Wakes::Here))
                } else {
                    (FlushScope::Full, self.take_turn_for_full(&mut turns))
                };
                drop(turns);
                let done = flush(extent);
                // The error is kept, and told to everybody who asks.
                done.unwrap_or(());
                drop(turn);
                turns = lock(&self.turns);
                continue;
            }
            let nap = interval.unwrap_or(Duration::MAX);
            let waited = self.flusher.wait_timeout(turns, nap);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            turns = woken;
            turns.due |= timeout.timed_out();
        }
    }

    /// Ends [`GroupCommit::run`].
    pub fn stop(&self) {
        lock(&self.turns).stop = true;
        self.flusher.notify_one();
    }

    /// Wakes the tasks that still wait, and lets no other one begin to wait: for closing.
    pub(super) fn close(&self) {
        let mut turns = lock(&self.turns);
        turns.closed = true;
        let wakers = std::mem::take(&mut turns.wakers);
        drop(turns);
        wake_all(wakers);
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use crate::format::ids::{Sequence, SlotNumber};
    use std::sync::mpsc;
    use std::task::Wake;
    use std::thread;

    /// Enough for a thread to come to its next lock.
    const MOMENT: Duration = Duration::from_millis(300);

    struct Tells(mpsc::Sender<()>);

    impl Wake for Tells {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.send(()).unwrap_or(());
        }
    }

    /// A flush of copies fails, which is no turn, when a flush has ended well and a thread is about
    /// to lead the next one: that thread gave up, and nobody flushed for the tasks that waited.
    #[test]
    fn a_leader_that_gives_up_leaves_the_tasks_to_the_flusher() {
        let group = &GroupCommit::default();
        let (tells, woken) = mpsc::channel();
        let waker = Waker::from(std::sync::Arc::new(Tells(tells)));
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        thread::scope(|scope| {
            let (flushed, flushes) = mpsc::channel();
            scope.spawn(move || {
                group.run(None, |_| {
                    flushed.send(()).unwrap_or(());
                    group.check()
                });
            });
            group.ask();
            flushes.recv().unwrap();
            scope.spawn(move || {
                let flush = || {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                    Ok(())
                };
                group.wait(None, Wakes::Here, flush).unwrap();
            });
            begins.recv().unwrap();
            let leader = scope.spawn(|| group.wait(None, Wakes::Here, || Ok(())));
            while lock(&group.turns).threads.is_empty() {
                thread::yield_now();
            }
            let (lsn, mut slot) = (Lsn::new(Sequence(1), SlotNumber(0)), None);
            let polled = group.poll(lsn, &mut Context::from_waker(&waker), &mut slot);
            assert!(polled.is_pending());
            // The end of the flush has seen no failure, and waits for the lock.
            let turns = lock(&group.turns);
            end.send(()).unwrap();
            thread::sleep(MOMENT);
            group.fail(&std::io::Error::other("the device is gone"));
            drop(turns);
            assert!(leader.join().unwrap().is_err());
            let told = woken.recv_timeout(Duration::from_secs(5));
            group.stop();
            assert!(told.is_ok(), "nobody woke the task");
        });
    }
}
