//! Space that comes back: live records are copied out of segments that hold much that is dead, and
//! the segments are removed.
//!
//! One group of victims at a time, beside readers and writers that never wait for it: by one
//! thread, which takes helpers when writers leave it behind. On a machine with fewer cores than
//! busy threads, being more is the only way to be given more time.
//!
//! 1. *Choose* segments that nobody writes to any more, in which every slot is decided, published
//!    and on the device.
//! 2. *Copy* what the index says is current, with its LSN, to segments for copies; without force.
//!    A tombstone goes along unless no other segment holds an older version of its id; a record
//!    that has expired becomes one.
//! 3. *Flush* the copies.
//! 4. *Move*: for each record the tag, then the slot's word, then the index entry. Who writes the
//!    id meanwhile wins; then the copy is dead.
//! 5. *Cover*: one more flush of the copies, now in force, and of what made the rest dead; so
//!    nothing of the victims will be needed again. The next group is begun meanwhile.
//! 6. *Drop*: one replacement of the manifest gives all victims up; then their files are removed.
//! 7. *Retire*: when no reader can hold an address in a victim any more, it leaves the table, and
//!    its mapping goes when nobody reads it.
//!
//! A process that dies before 6 leaves two copies of some records, and nothing lost; DESIGN.md 10
//! says which of them counts.

mod choose;
mod copy;
mod tombstones;

pub use choose::{Scope, space};

use crate::catalog::{Catalog, FileEngine};
use crate::clock;
use crate::durability::{Covered, Durability};
use crate::error::Error;
use crate::format::ids::{Lsn, Sequence};
use crate::format::slot::Kind;
use crate::log::Source;
use crate::memory::MmapMemory;
use crate::pacing::Pacer;
use crate::report::CompactionReport;
use crate::segment::Segment;
use crate::sync::unmodelled::{Arc, AtomicBool, AtomicU64, Ordering, thread};
use copy::{Copied, Outputs};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};
use tombstones::Candidate;

type FileSegment = Segment<MmapMemory>;

/// Records handled under one pin: short enough not to hold back what others retire.
const RECORDS_A_PIN: usize = 64;
/// Groups that wait for the device, at most.
const WAITING_MAX: usize = 8;
/// So many do not wait until the segment that made them dead is full.
const WAITING_MANY: usize = 4;
/// How many sweeps a compaction by hand waits for, before the background is left to see to it.
const SWEEPS: u64 = 10;
/// How long, should there be none.
const RECLAIM_MAX: Duration = Duration::from_secs(1);
/// How long it sleeps for its rate before it looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How long a compaction by hand waits for writers that are just at work in a segment that is full:
/// what is dead in it could not be given back.
const QUIET_WAIT: Duration = Duration::from_secs(5);

/// What all compactions of a store have done since it was opened.
#[derive(Debug, Default)]
pub struct Totals {
    moved_bytes: AtomicU64,
    segments_removed: AtomicU64,
    needed_check: NeededCheck,
}

impl Totals {
    fn add(&self, moved_bytes: u64, segments_removed: u64) {
        // Relaxed: statistics, here and below.
        self.moved_bytes.fetch_add(moved_bytes, Ordering::Relaxed);
        self.segments_removed.fetch_add(segments_removed, Ordering::Relaxed);
    }

    /// Log bytes of all records copied.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        // Relaxed: as in `add`.
        self.moved_bytes.load(Ordering::Relaxed)
    }

    /// Segments emptied and removed.
    #[must_use]
    pub fn segments_removed(&self) -> u64 {
        // Relaxed: as in `add`.
        self.segments_removed.load(Ordering::Relaxed)
    }
}

/// How far the background is with checking which of the tombstones that were needed once still are.
/// Only the one compaction that there is at a time uses it.
#[derive(Debug, Default)]
struct NeededCheck {
    /// Bytes of them that stayed the last time, at most.
    kept: AtomicU64,
    /// While a check is under way, one more than the highest sequence of a segment that it covers.
    end: AtomicU64,
}

impl NeededCheck {
    fn is_under_way(&self) -> bool {
        // Relaxed: the lock that all compactions hold orders this, here and below.
        self.end.load(Ordering::Relaxed) > 0
    }

    fn begin(&self, last: Sequence) {
        // Relaxed: as above.
        self.end.store(last.0 + 1, Ordering::Relaxed);
    }

    fn covers(&self, sequence: Sequence) -> bool {
        // Relaxed: as above.
        sequence.0 < self.end.load(Ordering::Relaxed)
    }

    /// Ends the check. Groups that are not dropped yet are among what is `needed`.
    fn end(&self, needed: u64) {
        // Relaxed: as above.
        self.end.store(0, Ordering::Relaxed);
        // Relaxed: as above.
        self.kept.store(needed, Ordering::Relaxed);
    }

    /// No more stayed than are needed now. How many did.
    fn note_kept(&self, needed: u64) -> u64 {
        // Relaxed: as above.
        self.kept.fetch_min(needed, Ordering::Relaxed).min(needed)
    }
}

/// What compaction works on, and within which limits.
#[derive(Clone, Copy, Debug)]
pub struct Compactor<'a> {
    /// The store's engine.
    pub engine: &'a FileEngine,
    /// Its flush state.
    pub durability: &'a Durability,
    /// Its manifest.
    pub catalog: &'a Catalog,
    /// Ends the work early when set.
    pub stop: &'a AtomicBool,
    /// How many ask for a compaction by hand, and wait while this one runs.
    pub asking: &'a AtomicU64,
    /// Whether it is one of the background, which makes way for them: what it has begun it ends
    /// without regard to its rate.
    pub gives_way: bool,
    /// Bytes copied in a second, at most.
    pub bytes_a_second: Option<u64>,
    /// Added to after each group.
    pub totals: &'a Totals,
    /// Told what it gives back, and what the log takes.
    pub pacer: &'a Pacer,
}

/// A group that the index has left, and that recovery may still need.
#[derive(Debug)]
struct Emptied {
    victims: Vec<Arc<FileSegment>>,
    /// What has to be durable before it is given up.
    needs: Lsn,
    moved_records: u64,
    moved_bytes: u64,
}

impl Compactor<'_> {
    /// Does what there is to do, group by group, and says after each how far it is.
    ///
    /// What was finished before an error, or a panic of `progress`, stays finished.
    pub fn run(
        &self,
        scope: Scope,
        report: &mut CompactionReport,
        progress: &mut dyn FnMut(&CompactionReport),
    ) -> Result<(), Error> {
        let started = Instant::now();
        let mut outputs = Outputs::default();
        let mut tell = |report: &mut CompactionReport| {
            report.elapsed = started.elapsed();
            progress(report);
        };
        let groups = || self.run_groups(scope, &mut outputs, report, &mut tell);
        let done = catch_unwind(AssertUnwindSafe(groups));
        let finished = self.finish_outputs(&mut outputs);
        report.elapsed = started.elapsed();
        match done {
            Ok(done) => done.and(finished).and_then(|()| self.drop_unused_outputs(&outputs)),
            Err(panic) => resume_unwind(panic),
        }
    }

    fn run_groups(
        &self,
        scope: Scope,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
        tell: &mut dyn FnMut(&mut CompactionReport),
    ) -> Result<(), Error> {
        if scope == Scope::All {
            let mut left = !self.end_active();
            self.quiesce_full()?;
            // And what a process before this one left of its copies: a sync is about the log.
            let _covered = self.durability.cover(self.engine, Lsn::ZERO)?;
            let mut removed = self.empty_all(self.choose_all(), outputs, report, tell)?;
            if left && removed > 0 {
                // There is room now.
                left = !self.end_active();
                self.quiesce_full()?;
                removed += self.empty_all(self.choose_all(), outputs, report, tell)?;
            }
            let mut needed = u64::MAX;
            // A tombstone stays while an older version of its id may stand in another segment,
            // which this run may have emptied later: then it goes in one more pass.
            while removed > 0 && (1..needed).contains(&self.needed_bytes()) {
                needed = self.needed_bytes();
                self.close_tombstones(outputs)?;
                removed = match self.empty_all(self.choose_needed(), outputs, report, tell) {
                    // Without room for them they stay, as after a run that needs no such pass.
                    Err(Error::StorageFull) => 0,
                    removed => removed?,
                };
            }
            return if left { Err(Error::StorageFull) } else { Ok(()) };
        }
        // What a process before this one left of its copies is emptied like the rest once it is on
        // the device.
        let _covered = self.durability.cover(self.engine, Lsn::ZERO)?;
        let mut waiting = VecDeque::new();
        let emptied = self.empty_what_pays(&mut waiting, outputs, report);
        // What was emptied is dropped, whatever has ended the work.
        self.drop_groups(waiting.into(), outputs, report)?;
        emptied
    }

    /// Empties and drops all of these segments, group by group. How many were dropped.
    ///
    /// A group for whose copies there is no room is taken apart: what needs none gives some back.
    fn empty_all(
        &self,
        mut left: Vec<Arc<FileSegment>>,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
        tell: &mut dyn FnMut(&mut CompactionReport),
    ) -> Result<u64, Error> {
        let before = report.segments_removed;
        let (mut apart, mut refused) = (false, Vec::new());
        while !left.is_empty() && !self.stopped() {
            let most = if apart { 1 } else { choose::GROUP_MAX };
            let group = choose::take_group(&mut left, most, self.capacity());
            let emptied = match self.empty_group(group.clone(), outputs) {
                Err(Error::StorageFull) => {
                    self.make_way(outputs)?;
                    if apart {
                        refused.extend(group);
                    } else {
                        left.extend(group);
                        left.sort_by_key(|segment| segment.live_bytes() > 0);
                        apart = true;
                    }
                    continue;
                }
                emptied => emptied?,
            };
            if let Some(emptied) = emptied {
                self.drop_groups(vec![emptied], outputs, report)?;
                self.reclaim();
                left.append(&mut refused);
                apart = false;
            }
            tell(report);
        }
        if refused.is_empty() || self.stopped() {
            Ok(report.segments_removed - before)
        } else {
            Err(Error::StorageFull)
        }
    }

    /// Copies that were taken back leave their room to others: the tombstones of a group may take
    /// more than there was, and nobody knows before.
    fn make_way(&self, outputs: &mut Outputs) -> Result<(), Error> {
        if !outputs.is_empty() {
            self.finish_outputs(outputs)?;
            self.reclaim();
        }
        Ok(())
    }

    /// Empties group after group; they are dropped as soon as what made them dead is on the device,
    /// which the next one does not wait for.
    fn empty_what_pays(
        &self,
        waiting: &mut VecDeque<Emptied>,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
    ) -> Result<(), Error> {
        while !self.stopped() && !self.is_asked() {
            if self.holds_back_too_much() {
                self.reclaim();
                if self.holds_back_too_much() {
                    return Ok(());
                }
            }
            let durable = self.durability.durable();
            let ready = waiting.iter().take_while(|group| group.needs <= durable).count();
            self.drop_groups(waiting.drain(..ready).collect(), outputs, report)?;
            self.pace(false);
            let pays = self.pays();
            let mut group = self.choose_group(pays);
            if group.is_empty() && waiting.is_empty() && !pays {
                return Ok(());
            }
            if group.is_empty() || waiting.len() >= WAITING_MAX {
                // So that what waits can be given up, and every segment that is full is on the
                // device and may be emptied.
                self.durability.sync(self.engine)?;
                self.drop_groups(waiting.drain(..).collect(), outputs, report)?;
                group = self.choose_group(self.pays());
            }
            if group.is_empty() {
                return Ok(());
            }
            let group = self.storable(group)?;
            let Some(emptied) = self.empty_group(group, outputs)? else { return Ok(()) };
            let left_behind = emptied.victims.iter().any(|victim| !victim.is_own());
            if emptied.moved_records == 0 && left_behind {
                // Before this process may be killed in its turn, and leave as much again.
                self.drop_groups(vec![emptied], outputs, report)?;
                continue;
            }
            waiting.push_back(emptied);
            if waiting.len() >= WAITING_MANY {
                self.durability.ask();
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        // Acquire: pairs with the Release of who asks to stop.
        self.stop.load(Ordering::Acquire)
    }

    fn is_asked(&self) -> bool {
        // Relaxed: a hint.
        self.asking.load(Ordering::Relaxed) > 0
    }

    fn capacity(&self) -> u64 {
        self.engine.log().geometry().segment_bytes as u64
    }

    /// The segment that takes new records cannot be emptied; if something in it is dead, the next
    /// put begins another. `false`: there is no room for another one.
    fn end_active(&self) -> bool {
        let log = self.engine.log();
        let guard = self.engine.epoch().pin();
        let Some(active) = log.active(&guard) else { return true };
        // The background may have looked a moment ago, and look again in a second only.
        self.engine.look_for_expired(&guard, active, choose::EVER, clock::now_ns());
        if active.frame_bytes() == active.live_bytes() && active.expired_bytes() == 0 {
            return true;
        }
        // Where there is no room for another one, removals go on in this one, unless it is full. A
        // store of one segment keeps no room back: what takes its copies is enough.
        let (several, source) = (log.in_use(&guard).nth(1).is_some(), log.source());
        let room =
            || if several { source.keep_room().is_ok() } else { source.has_room_for_copies() };
        // What is wholly dead needs no copies, and what was made ahead of need is there.
        let follows = || active.live_bytes() <= active.expired_bytes() && log.prepared() > 0;
        if !active.is_full() && !follows() && !room() {
            return false;
        }
        log.end_active(&guard);
        true
    }

    /// Brings every segment that is full to the device, and waits until nobody is at work there:
    /// a batch that publishes its members, say.
    fn quiesce_full(&self) -> Result<(), Error> {
        self.durability.sync(self.engine)?;
        let busy = |segment: &FileSegment| {
            segment.is_full() && !segment.is_quiet() && !segment.is_quarantined()
        };
        let busy = self.engine.log().in_use_counted(&self.engine.epoch().pin(), busy);
        let began = Instant::now();
        for segment in busy {
            while !segment.is_quiet() && began.elapsed() < QUIET_WAIT {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Steps 2 to 4 for one group. A victim in which something is damaged stays as it is, and the
    /// others go without it. `None`: nothing could be emptied.
    fn empty_group(
        &self,
        group: Vec<Arc<FileSegment>>,
        outputs: &mut Outputs,
    ) -> Result<Option<Emptied>, Error> {
        group.iter().try_for_each(|victim| self.make_storable(victim))?;
        let mut victims: Vec<_> =
            group.into_iter().filter(|victim| victim.become_victim()).collect();
        while !victims.is_empty() {
            match self.try_to_empty(&victims, outputs) {
                Ok(Some((moved_records, moved_bytes))) => {
                    // What took the place of the dead has to be on the device before the dead are
                    // dropped. It was there before the dead were found to be dead.
                    let needs = self.engine.log().last_given(&self.engine.epoch().pin());
                    return Ok(Some(Emptied { victims, needs, moved_records, moved_bytes }));
                }
                Ok(None) => break,
                Err(Stopped::Damaged) => {
                    let (damaged, whole) =
                        victims.into_iter().partition(|victim| victim.is_quarantined());
                    victims = whole;
                    stay(&damaged);
                }
                Err(Stopped::Asked) => break,
                Err(Stopped::Failed(error)) => {
                    stay(&victims);
                    return Err(error);
                }
            }
        }
        stay(&victims);
        Ok(None)
    }

    /// The same, all or nothing: how many records and bytes were moved. `None`: the index still
    /// leads to something in a victim.
    fn try_to_empty(
        &self,
        victims: &[Arc<FileSegment>],
        outputs: &mut Outputs,
    ) -> Result<Option<(u64, u64)>, Stopped> {
        let mut group = Group::default();
        let copied = self.copy_group(victims, outputs, &mut group);
        let flushed = copied.and_then(|()| self.flush_outputs(outputs).map_err(Stopped::Failed));
        if let Err(stopped) = flushed {
            copy::take_back(&group.copied);
            return Err(stopped);
        }
        // First: an output with a copy in force must not be dropped, whatever stops the moves.
        outputs.note_in_force(&group.copied);
        self.move_all(victims, &group);
        for copied in group.copied.iter().filter(|copied| copied.copy.kind == Kind::Tombstone) {
            let bytes = copied.copy.len.bytes() as u64;
            self.engine.log().count_needed(&copied.output, bytes);
        }
        if !self.forget(victims) {
            return Ok(None);
        }
        let bytes = group.copied.iter().map(|copied| copied.copy.len.bytes() as u64).sum();
        Ok(Some((group.copied.len() as u64, bytes)))
    }

    /// Steps 5 and 6, and the beginning of step 7: for as many groups as are ready.
    fn drop_groups(
        &self,
        groups: Vec<Emptied>,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
    ) -> Result<(), Error> {
        let Some(needs) = groups.iter().map(|group| group.needs).max() else { return Ok(()) };
        let moved: u64 = groups.iter().map(|group| group.moved_bytes).sum();
        let moved_records: u64 = groups.iter().map(|group| group.moved_records).sum();
        let victims: Vec<_> = groups.into_iter().flat_map(|group| group.victims).collect();
        let before: u64 = victims.iter().map(|victim| victim.frame_bytes()).sum();
        let covered = self.durability.cover(self.engine, needs);
        let dropped = covered.and_then(|covered| self.drop_segments(&victims, covered));
        if let Err(error) = dropped {
            // They stay in use, if the manifest did not drop them.
            stay(&victims);
            return Err(error);
        }
        // A segment that is full takes no more copies, and was flushed with the others.
        self.finish_ended(outputs)?;
        self.totals.add(moved, victims.len() as u64);
        report.segments_removed += victims.len() as u64;
        report.moved_records += moved_records;
        report.moved_bytes += moved;
        report.reclaimed_bytes += before.saturating_sub(moved);
        self.pacer.note_returned(before.saturating_sub(moved));
        Ok(())
    }

    /// Drops segments from the manifest, and lets the log go of them.
    fn drop_segments(&self, victims: &[Arc<FileSegment>], covered: Covered) -> Result<(), Error> {
        self.catalog.drop_segments(self.engine, victims, covered)?;
        for victim in victims {
            let guard = self.engine.epoch().pin();
            self.engine.log().let_go(self.engine.epoch(), &guard, Arc::clone(victim));
        }
        // The maintenance thread takes them out of the table.
        self.engine.log().source().wake();
        Ok(())
    }

    /// Has the room of emptied segments returned: the next group may need it. Waits for the thread
    /// that takes them out of the table, and not for readers that stay.
    fn reclaim(&self) {
        let (log, epoch) = (self.engine.log(), self.engine.epoch());
        let (first, began) = (log.sweeps(), Instant::now());
        // Without a pin, the sweep after the first takes them out, and the one after that lets the
        // mappings go.
        while log.sweeps() - first < SWEEPS && began.elapsed() < RECLAIM_MAX && !self.stopped() {
            epoch.reclaim();
            if log.leaving() == 0 && epoch.pending() == 0 {
                return;
            }
            log.source().wake();
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits as long as it takes for the work so far to stay within the rate, or until somebody
    /// waits for its end.
    fn keep_pace(&self, pace: &Pace, copied_bytes: u64) {
        // Relaxed: a sum.
        let before = pace.bytes.fetch_add(copied_bytes, Ordering::Relaxed);
        let Some(rate) = self.bytes_a_second else { return };
        let due = Duration::from_secs_f64((before + copied_bytes) as f64 / rate.max(1) as f64);
        while let Some(early) = due.checked_sub(pace.since.elapsed())
            && !early.is_zero()
            && !self.stopped()
            && !(self.gives_way && self.is_asked())
        {
            thread::sleep(early.min(LOOK_UP));
        }
    }
}

/// Victims that are not dropped are in use as before.
fn stay(victims: &[Arc<FileSegment>]) {
    victims.iter().for_each(|victim| victim.stay());
}

/// How much a group has copied, and since when.
struct Pace {
    since: Instant,
    bytes: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Instant::now(), bytes: AtomicU64::new(0) }
    }
}

/// Does something with so many threads, this one included, or with as many as there can be. What
/// each of them comes to.
fn together<R: Send>(hands: usize, work: impl Fn() -> R + Sync) -> Vec<R> {
    let helper = || thread::Builder::new().name("stratalog-compact".to_owned());
    thread::scope(|scope| {
        let helpers = (1..hands).map_while(|_| helper().spawn_scoped(scope, &work).ok());
        let helpers: Vec<_> = helpers.collect();
        let mut results = vec![work()];
        for helper in helpers {
            results.push(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    })
}

/// Why the copying of a group came to an end.
enum Stopped {
    /// Somebody wants the thread to end.
    Asked,
    /// A record that counts is damaged: its segment stays as it is.
    Damaged,
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What is found in a group of victims that has to be dealt with.
#[derive(Default)]
struct Group {
    /// Copies made so far.
    copied: Vec<Copied>,
    /// Records that count, and whose time is over.
    expired: Vec<Candidate>,
}
