//! What survives power loss: flushing, the durable end, and what a failed flush does.
//!
//! Group commit: at most one flush is under way. Who needs one that begins after now takes a
//! ticket for the next; when the one under way has ended, the first of those waiting leads the next
//! one for all of them. A flush that began before a record was committed does not count for it.
//!
//! Nobody is woken in vain: each waiting thread sleeps on a condition of its own, and the end of a
//! flush wakes those that it served and one leader for the others. The flusher thread is woken only
//! where no thread is left that could lead.
//!
//! A flush walks the slots that are not known to be flushed, in LSN order. A slot whose writer is
//! still at work gets a moment; after that it is voided by compare-exchange, and its writer, whose
//! commit then fails, writes again: a stopped writer holds nothing back.
//!
//! D1: a slot below `Segment::flushed` was decided before a flush that ended well began.
//! D2: the durable end in a header is stored after the flush it speaks of ended well, so on the
//! device it lags by one flush and is never ahead of the data.
//! D3: after a flush failed, no later one is tried: the kernel reports such an error once, and may
//! have dropped the data.
//! D4: `durable` is stored before anybody is woken, and only grows.
//! D5: the seal of a segment that is full is stored before the flush that makes it durable, and so
//! before anything in a younger one is. A segment without a seal after power loss, which is not the
//! youngest, was not wholly durable, and nothing behind it was.

mod copies;
#[cfg(all(test, not(stratalog_loom)))]
mod tests;

pub use copies::Covered;

use crate::concurrency::sync::unmodelled::{Arc, OnceLock, PoisonError};
use crate::concurrency::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, yield_now};
use crate::engine::Engine;
use crate::error::Error;
use crate::format::header::FlushNote;
use crate::format::ids::{Lsn, SlotNumber};
use crate::format::slot::SlotState;
use crate::log::Source;
use crate::memory::Memory;
use crate::segment::{Mark, Segment};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often a flush yields to the writers of a segment, all together, before it voids the slots
/// that they have reserved and not committed: all were reserved before it began to wait.
const YIELDS_MAX: u32 = 200;
/// Multiplies the yields, once for each time that a write in progress was voided before.
const PATIENCE: u32 = 4;
/// Bounds how many of those voids count.
const RETRIES_MAX: u64 = 6;
/// Bounds the wait in time: on a busy machine a yield may take milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a leader yields to those who shared the last flush, so that they share its own too.
const GATHER_YIELDS: u32 = 32;

/// The flush state of a store.
#[derive(Debug, Default)]
pub struct Flusher {
    /// Under which flushes are noted in the segments.
    boot_id: [u64; 2],
    turns: Mutex<Turns>,
    /// The flusher has something to do.
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
    /// Whether the flusher is to lead a flush once nobody else does.
    fn calls_for_flusher(&self) -> bool {
        self.due || !self.wakers.is_empty() || self.asked > self.begun
    }

    /// Whether nobody flushes, or is about to.
    fn may_begin(&self) -> bool {
        !self.flushing && !self.gathering
    }

    /// Whether the flusher has anything to do.
    fn has_work(&self) -> bool {
        self.calls_for_flusher() || self.full_due
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
    durability: &'a Flusher,
    number: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (durability, failed) = (self.durability, self.durability.failed.get().is_some());
        let durable = durability.durable();
        let mut turns = lock(&durability.turns);
        turns.flushing = false;
        turns.ended = self.number;
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut turns.wakers)
            .into_iter()
            .partition(|(_, lsn, _)| failed || *lsn <= durable);
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
            durability.flusher.notify_one();
        }
        for waiter in served {
            waiter.condvar.notify_one();
        }
        for (_, _, waker) in ready {
            waker.wake();
        }
    }
}

impl Flusher {
    /// The flush state of a store that is open under this boot.
    #[must_use]
    pub fn new(boot_id: [u64; 2]) -> Self {
        Self { boot_id, ..Self::default() }
    }

    /// Refuses once a flush has failed: for everything that writes.
    pub fn check(&self) -> Result<(), Error> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(Error::FlushFailed(reason.clone())),
        }
    }

    /// How many flushes have begun.
    pub fn flushes(&self) -> u64 {
        lock(&self.turns).begun
    }

    /// Everything with this LSN or a lower one survives power loss.
    pub fn durable(&self) -> Lsn {
        // Acquire: pairs with the Release in `advance`.
        Lsn::from_u64(self.durable.load(Ordering::Acquire))
    }

    /// Notes that a segment is durable up to `slots`, as are all before it.
    pub fn advance<M: Memory>(&self, segment: &Segment<M>, slots: u32) {
        if let Some(last) = slots.checked_sub(1) {
            self.raise(Lsn::new(segment.sequence(), SlotNumber(last)));
        }
    }

    /// Notes that everything up to an LSN is durable.
    pub fn raise(&self, lsn: Lsn) {
        // Release: pairs with the Acquire in `durable` [D4].
        self.durable.fetch_max(lsn.as_u64(), Ordering::Release);
    }

    /// Makes all that was committed before the call durable.
    pub fn sync<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.flush_after_now(engine, None)
    }

    /// Waits until a record that was committed before the call is durable.
    pub fn wait<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        lsn: Lsn,
    ) -> Result<(), Error> {
        self.flush_after_now(engine, Some(lsn))
    }

    /// Returns after a flush that began after the call has ended well, leading it if nobody else
    /// does; or as soon as `lsn` is durable.
    fn flush_after_now<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        lsn: Option<Lsn>,
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
                let turn = self.take_turn(&mut turns);
                drop(turns);
                let flushed = self.flush_all(engine);
                // It began after the call, and its end wakes who leads the next.
                drop(turn);
                return flushed;
            }
            turns = wait_for_flush(turns, ticket, lsn);
        };
        // It may have been woken to lead and found itself served: then somebody else has to.
        let leader = if turns.may_begin() { turns.leader() } else { None };
        drop(turns);
        if let Some(leader) = leader {
            leader.notify_one();
        }
        served
    }

    /// As [`Flusher::sync`], by a flush of its own; and calls `then` before another one begins,
    /// so that how far each segment was flushed is of one moment: a prefix in LSN order.
    pub fn sync_and_then<M: Memory, S: Source<M>, R, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        then: impl FnOnce() -> R,
    ) -> Result<R, Error> {
        let mut turns = lock(&self.turns);
        while !turns.may_begin() {
            // No other flush serves it; it is woken to lead one.
            turns = wait_for_flush(turns, u64::MAX, None);
        }
        let turn = self.take_turn(&mut turns);
        drop(turns);
        let result = self.flush_all(engine).map(|()| then());
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

    fn take_turn<'a>(&'a self, turns: &mut MutexGuard<'_, Turns>) -> Turn<'a> {
        turns.flushing = true;
        turns.due = false;
        turns.full_due = false;
        turns.begun += 1;
        Turn { durability: self, number: turns.begun }
    }

    /// The right to flush what is full: nobody is served by that flush but who waits for an LSN.
    fn take_turn_for_full<'a>(&'a self, turns: &mut MutexGuard<'_, Turns>) -> Turn<'a> {
        turns.flushing = true;
        turns.full_due = false;
        Turn { durability: self, number: turns.begun }
    }

    fn flush_full<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.check()?;
        // In LSN order, and none behind one that is not full [D5].
        for segment in to_flush(engine).into_iter().take_while(|segment| segment.is_full()) {
            self.sync_segment(engine, &segment)?;
        }
        Ok(())
    }

    fn flush_all<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.check()?;
        let gone = engine.log().last_gone();
        for segment in to_flush(engine) {
            self.sync_segment(engine, &segment)?;
        }
        // Who was given one of those may still wait for it; all that came before is durable now.
        if gone > self.durable() {
            self.raise(gone);
        }
        Ok(())
    }

    /// Polls for an LSN to be durable. Nobody is asked to flush but the flusher thread, which
    /// [`Flusher::run`] is. `slot` remembers the registration.
    pub fn poll(
        &self,
        lsn: Lsn,
        context: &mut Context<'_>,
        slot: &mut Option<u64>,
    ) -> Poll<Result<(), Error>> {
        if self.durable() >= lsn {
            return Poll::Ready(Ok(()));
        }
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
        turns.wakers.retain(|(other, ..)| *other != id);
        turns.wakers.push((id, lsn, context.waker().clone()));
        let flushing = turns.flushing;
        drop(turns);
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
    pub fn forget(&self, slot: u64) {
        lock(&self.turns).wakers.retain(|(id, ..)| *id != slot);
    }

    /// The flusher: flushes for those who cannot lead a flush themselves, and every `interval` for
    /// those who do not ask. Returns once `stop` was called.
    pub fn run<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        interval: Option<Duration>,
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
                let all = turns.calls_for_flusher();
                let turn = if all {
                    self.take_turn(&mut turns)
                } else {
                    self.take_turn_for_full(&mut turns)
                };
                drop(turns);
                let done = if all { self.flush_all(engine) } else { self.flush_full(engine) };
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

    /// Ends [`Flusher::run`].
    pub fn stop(&self) {
        lock(&self.turns).stop = true;
        self.flusher.notify_one();
    }

    /// Makes the durable ends themselves durable, and wakes who still waits: for closing.
    pub fn close<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        let flushed = self.flush_durable_ends(engine);
        let mut turns = lock(&self.turns);
        turns.closed = true;
        let wakers = std::mem::take(&mut turns.wakers);
        drop(turns);
        wakers.into_iter().for_each(|(_, _, waker)| waker.wake());
        flushed
    }

    fn flush_durable_ends<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
    ) -> Result<(), Error> {
        self.sync(engine)?;
        let mut turns = lock(&self.turns);
        let turn = self.take_turn(&mut turns);
        drop(turns);
        for segment in to_flush(engine) {
            self.flush_header(&segment)?;
            segment.set_settled(true);
        }
        drop(turn);
        Ok(())
    }

    fn sync_segment<M: Memory, S: Source<M>, const N: usize>(
        &self,
        engine: &Engine<M, S, N>,
        segment: &Segment<M>,
    ) -> Result<(), Error> {
        // Whether any later reservation can be granted, asked before the end is read: if not, the
        // durable end stored below is this segment's last one.
        let full = segment.is_full();
        let began = Instant::now();
        let mark = decide_slots(segment, yields_max(engine.retries()), || {
            yield_now();
            began.elapsed() < WAIT_MAX
        });
        if full {
            // Who found the segment full may not have come to note it. Every slot that was granted
            // lies below the mark [D5]; so may some that were not.
            segment.seal_unless_sealed(mark.slot);
        }
        if mark.slot > segment.flushed().slot {
            if segment.flushed().slot == 0 {
                segment.confirm_predecessor();
            }
            segment.before_flush(mark);
            self.flush(segment)?;
            segment.set_flushed(mark);
            segment.set_durable_end(mark.slot);
            segment.set_settled(false);
            self.advance(segment, mark.slot);
        } else if full && !segment.is_settled() {
            self.flush_header(segment)?;
            segment.set_settled(true);
        }
        Ok(())
    }

    /// A flush of new records. The first failure is the last one [D3]. The segment says meanwhile
    /// that a flush has begun: a process that is killed inside the call may be the only one that
    /// the kernel tells of a failure.
    pub fn flush<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        self.check()?;
        segment.note_flush(FlushNote::Begun, self.boot_id);
        self.flush_header(segment)?;
        segment.note_flush(FlushNote::Ended, self.boot_id);
        Ok(())
    }

    /// A flush where only control words of the header are new, which an opening can do without.
    fn flush_header<M: Memory>(&self, segment: &Segment<M>) -> Result<(), Error> {
        self.check()?;
        segment.memory().flush().map_err(|error| {
            segment.note_flush(FlushNote::Failed, self.boot_id);
            let reason = self.failed.get_or_init(|| error.to_string());
            Error::FlushFailed(reason.clone())
        })
    }
}

fn to_flush<M: Memory, S: Source<M>, const N: usize>(
    engine: &Engine<M, S, N>,
) -> Vec<Arc<Segment<M>>> {
    let guard = engine.epoch().pin();
    engine.log().to_flush(&guard)
}

/// Decides every granted slot that is not flushed, and returns where they end. Calls `wait` at most
/// `most` times, or until it is `false`, while writers are still at work, then voids their slots.
fn decide_slots<M: Memory>(segment: &Segment<M>, most: u32, wait: impl Fn() -> bool) -> Mark {
    let mut slots = segment.slots_from(segment.flushed(), segment.slots_end());
    let mut waits = 0;
    while let Some((slot, mut state)) = slots.next() {
        while matches!(state, SlotState::Empty | SlotState::Pending(..)) {
            if waits < most {
                waits = if wait() { waits + 1 } else { most };
            } else if state == SlotState::Empty {
                segment.void_if_empty(slot);
            } else {
                segment.void_if_pending(slot);
            }
            state = segment.slot(slot);
        }
        slots.update(&state);
    }
    slots.mark()
}

/// Returns how often a flush yields while writes in progress were voided this many times before.
fn yields_max(retries: u64) -> u32 {
    YIELDS_MAX * PATIENCE.pow(retries.min(RETRIES_MAX) as u32)
}
