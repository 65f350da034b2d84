//! Space that comes back: live records are copied out of segments that hold much that is dead, and
//! the segments are removed.
//!
//! One group of victims at a time, beside readers and writers that never wait for it: by one
//! thread, which takes helpers when writers leave it behind. On a machine with fewer cores than
//! busy threads, being more is the only way to be given more time.
//!
//! 1. *Choose* (`choose.rs`) segments that nobody writes to any more, in which every slot is
//!    decided, published and on the device.
//! 2. *Copy* (`copy.rs`, `tombstones`) what the index says is current, with its LSN, to segments
//!    for copies; without force. A tombstone goes along unless no other segment holds an older
//!    version of its id; a record that has expired becomes one. Each frame passes `copy_frame`
//!    (`outputs.rs`), `Engine::copy_record` and `Reservation::copy`.
//! 3. *Flush* the copies.
//! 4. *Move* (`copy.rs`, `engine/relocate.rs`): for each record the tag, then the slot's word, then
//!    the index entry, with which `Engine::redirect` leads readers to the copy. Who writes the id
//!    meanwhile wins; then the copy is dead.
//! 5. *Cover*: one more flush of the copies, now in force, and of what made the rest dead; so
//!    nothing of the victims will be needed again. The next group is begun meanwhile.
//! 6. *Drop*: one replacement of the manifest gives all victims up; then their files are removed.
//! 7. *Retire*: when no reader can hold an address in a victim any more, it leaves the table, and
//!    its mapping goes when nobody reads it.
//!
//! A process that dies before 6 leaves two copies of some records, and nothing lost; the
//! table in DESIGN.md 15 says which of them counts.
//!
//! This is also the policy of removal: which segments are worth emptying is decided in `choose.rs`,
//! `empty_group` empties them, `drop_groups` gives them up once `Flusher::cover` has shown that
//! this is safe, and `LiveManifest::drop_segments` unlinks their files. An output in which no copy
//! came into force is dropped by `Compactor::finish_one`.

mod choose;
mod copy;
mod outputs;
mod tombstones;

pub use choose::Scope;

use crate::background::store_core::StoreCore;
use crate::clock;
use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{Arc, AtomicBool, AtomicU64, Ordering, thread};
use crate::durability::Covered;
use crate::error::Error;
use crate::format::ids::Lsn;
use crate::format::slot::Kind;
use crate::log::Source;
use crate::memory::MmapMemory;
use crate::os::time::Instant;
use crate::report::CompactionReport;
use crate::segment::Segment;
use outputs::{Copied, Outputs};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;
use tombstones::TombstoneCandidate;

type DiskSegment = Segment<MmapMemory>;

/// Records handled under one pin: short enough not to hold back what others retire.
const RECORDS_A_PIN: usize = 64;
/// Groups that wait for the device, at most.
const WAITING_MAX: usize = 8;
/// So many do not wait until the segment that made them dead is full.
const WAITING_MANY: usize = 4;
/// How many sweeps a compaction by hand waits for, before the background is left to see to it.
const SWEEPS: u64 = 10;
/// How long, should there be none.
const SWEEP_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long it sleeps for its rate before it looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(100);
/// How long a compaction by hand waits for writers that are just at work in a segment that is full:
/// what is dead in it could not be given back.
const QUIET_WAIT: Duration = Duration::from_secs(5);

/// One compaction of a store.
#[derive(Clone, Copy, Debug)]
pub struct Compactor<'a> {
    core: &'a StoreCore,
    /// Ends the work early when set.
    stop: &'a AtomicBool,
    /// True for background runs. They yield to manual compactions, and finish the current group
    /// without regard to their rate.
    yields_to_manual: bool,
}

/// Somebody asks for a compaction by hand.
struct ManualRequest<'a>(&'a AtomicU64);

impl<'a> ManualRequest<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        // Relaxed: a hint to the background, which looks again after each group.
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for ManualRequest<'_> {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A group that the index has left, and that recovery may still need.
#[derive(Debug)]
struct EmptiedGroup {
    victims: Vec<Arc<DiskSegment>>,
    /// What has to be durable before it is given up.
    needs: Lsn,
    moved_records: u64,
    moved_bytes: u64,
}

impl StoreCore {
    /// Compacts, after whoever is at it just now.
    pub fn compact(
        &self,
        scope: Scope,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CompactionReport, Error> {
        let _request = (scope == Scope::All).then(|| ManualRequest::new(&self.manual_requests));
        let _turn = lock(&self.compacting);
        let mut report = CompactionReport::default();
        let yields_to_manual = scope == Scope::Worthwhile;
        let compactor = Compactor { core: self, stop, yields_to_manual };
        compactor.run(scope, &mut report, progress)?;
        Ok(report)
    }
}

impl Compactor<'_> {
    /// Does what there is to do, group by group, and tells `progress` after each how far it is.
    ///
    /// What was finished before an error, or a panic of `progress`, stays finished.
    pub fn run(
        &self,
        scope: Scope,
        report: &mut CompactionReport,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        let started = Instant::now();
        let mut outputs = Outputs::default();
        let mut progress = Progress { done: 0, total: 0, tell: progress };
        let groups = || self.run_groups(scope, &mut outputs, report, &mut progress);
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
        progress: &mut Progress<'_>,
    ) -> Result<(), Error> {
        if scope == Scope::All {
            let mut left = !self.end_active();
            self.quiesce_full()?;
            // And what a process before this one left of its copies: a sync is about the log.
            let _covered = self.core.flusher.cover(&self.core.engine, Lsn::ZERO)?;
            let mut removed = self.empty_all(self.choose_all(), outputs, report, progress)?;
            if left && removed > 0 {
                // There is room now.
                left = !self.end_active();
                self.quiesce_full()?;
                removed += self.empty_all(self.choose_all(), outputs, report, progress)?;
            }
            let mut needed = u64::MAX;
            // A tombstone stays while an older version of its id may stand in another segment,
            // which this run may have emptied later: then it goes in one more pass.
            while removed > 0 && (1..needed).contains(&self.needed_bytes()) {
                needed = self.needed_bytes();
                self.close_tombstones(outputs)?;
                removed = match self.empty_all(self.choose_needed(), outputs, report, progress) {
                    // Without room for them they stay, as after a run that needs no such pass.
                    Err(Error::StorageFull) => 0,
                    removed => removed?,
                };
            }
            return if left { Err(Error::StorageFull) } else { Ok(()) };
        }
        // What a process before this one left of its copies is emptied like the rest once it is on
        // the device.
        let _covered = self.core.flusher.cover(&self.core.engine, Lsn::ZERO)?;
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
        mut left: Vec<Arc<DiskSegment>>,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
        progress: &mut Progress<'_>,
    ) -> Result<u64, Error> {
        let before = report.segments_removed;
        let (mut apart, mut refused) = (false, Vec::new());
        progress.total += bytes_of(&left);
        while !left.is_empty() && !self.is_stopped() {
            let most = if apart { 1 } else { choose::GROUP_MAX };
            let group = choose::take_group(&mut left, most, self.capacity());
            let bytes = bytes_of(&group);
            let emptied = match self.empty_group(group.clone(), outputs) {
                Err(Error::StorageFull) => {
                    self.flush_outputs_to_free_space(outputs)?;
                    if apart {
                        refused.extend(group);
                    } else {
                        left.extend(group);
                        left.sort_by_key(|segment| segment.usage().live_bytes() > 0);
                        apart = true;
                    }
                    continue;
                }
                emptied => emptied?,
            };
            if let Some(emptied) = emptied {
                self.drop_groups(vec![emptied], outputs, report)?;
                self.wait_for_sweeps();
                left.append(&mut refused);
                apart = false;
            }
            progress.add(bytes);
        }
        if refused.is_empty() || self.is_stopped() {
            Ok(report.segments_removed - before)
        } else {
            Err(Error::StorageFull)
        }
    }

    /// Copies that were taken back leave their room to others: the tombstones of a group may take
    /// more than there was, and nobody knows before.
    fn flush_outputs_to_free_space(&self, outputs: &mut Outputs) -> Result<(), Error> {
        if !outputs.is_empty() {
            self.finish_outputs(outputs)?;
            self.wait_for_sweeps();
        }
        Ok(())
    }

    /// Empties group after group; they are dropped as soon as what made them dead is on the device,
    /// which the next one does not wait for.
    fn empty_what_pays(
        &self,
        waiting: &mut VecDeque<EmptiedGroup>,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
    ) -> Result<(), Error> {
        while !self.is_stopped() && !self.is_manual_waiting() {
            if self.core.holds_back_too_much() {
                self.wait_for_sweeps();
                if self.core.holds_back_too_much() {
                    return Ok(());
                }
            }
            let durable = self.core.flusher.durable();
            let ready = waiting.iter().take_while(|group| group.needs <= durable).count();
            self.drop_groups(waiting.drain(..ready).collect(), outputs, report)?;
            self.core.set_throttle(false);
            let pays = self.is_worthwhile();
            let mut group = self.choose_group(pays);
            if group.is_empty() && waiting.is_empty() && !pays {
                return Ok(());
            }
            if group.is_empty() || waiting.len() >= WAITING_MAX {
                // So that what waits can be given up, and every segment that is full is on the
                // device and may be emptied.
                self.core.flusher.sync_for_compaction(&self.core.engine)?;
                self.drop_groups(waiting.drain(..).collect(), outputs, report)?;
                group = self.choose_group(self.is_worthwhile());
            }
            if group.is_empty() {
                return Ok(());
            }
            let group = self.storable(group)?;
            let Some(emptied) = self.empty_group(group, outputs)? else { return Ok(()) };
            let left_behind =
                emptied.victims.iter().any(|victim| !victim.checks().is_created_here());
            if emptied.moved_records == 0 && left_behind {
                // Before this process may be killed in its turn, and leave as much again.
                self.drop_groups(vec![emptied], outputs, report)?;
                continue;
            }
            waiting.push_back(emptied);
            if waiting.len() >= WAITING_MANY {
                self.core.flusher.group().ask();
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        // Acquire: pairs with the Release of who asks to stop.
        self.stop.load(Ordering::Acquire)
    }

    fn is_manual_waiting(&self) -> bool {
        // Relaxed: a hint.
        self.core.manual_requests.load(Ordering::Relaxed) > 0
    }

    fn capacity(&self) -> u64 {
        self.core.engine.log().geometry().segment_bytes as u64
    }

    /// The segment that takes new records cannot be emptied; if something in it is dead, the next
    /// put begins another. `false`: there is no room for another one.
    fn end_active(&self) -> bool {
        let log = self.core.engine.log();
        let guard = self.core.engine.epoch().pin();
        let Some(active) = log.active(&guard) else { return true };
        // The background may have looked a moment ago, and look again in a second only.
        self.core.engine.scan_for_expired(&guard, active, choose::EVER, clock::now_ns());
        if active.filling().frame_bytes() == active.usage().live_bytes()
            && active.usage().expired_bytes() == 0
        {
            return true;
        }
        // Where there is no room for another one, removals go on in this one, unless it is full. A
        // store of one segment keeps no room back: what takes its copies is enough.
        let (several, source) = (log.in_use(&guard).nth(1).is_some(), log.source());
        let room =
            || if several { source.keep_room().is_ok() } else { source.has_room_for_copies() };
        // What is wholly dead needs no copies, and what was made ahead of need is there.
        let follows = || {
            active.usage().live_bytes() <= active.usage().expired_bytes() && log.preallocated() > 0
        };
        if !active.filling().is_full() && !follows() && !room() {
            return false;
        }
        log.end_active(&guard);
        true
    }

    /// Brings every segment that is full to the device, and waits until nobody is at work there:
    /// a batch that publishes its members, say.
    fn quiesce_full(&self) -> Result<(), Error> {
        self.core.flusher.sync_for_compaction(&self.core.engine)?;
        let busy = |segment: &DiskSegment| {
            segment.filling().is_full()
                && !segment.filling().is_quiet()
                && !segment.reclamation().is_quarantined()
        };
        let busy = self.core.engine.log().in_use_arcs(&self.core.engine.epoch().pin(), busy);
        let began = Instant::now();
        for segment in busy {
            while !segment.filling().is_quiet() && began.elapsed() < QUIET_WAIT {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Steps 2 to 4 for one group. A victim in which something is damaged stays as it is, and the
    /// others go without it. `None`: nothing could be emptied.
    fn empty_group(
        &self,
        group: Vec<Arc<DiskSegment>>,
        outputs: &mut Outputs,
    ) -> Result<Option<EmptiedGroup>, Error> {
        group.iter().try_for_each(|victim| self.make_storable(victim))?;
        let mut victims: Vec<_> =
            group.into_iter().filter(|victim| victim.reclamation().become_victim()).collect();
        while !victims.is_empty() {
            match self.try_to_empty(&victims, outputs) {
                Ok(Some((moved_records, moved_bytes))) => {
                    // What took the place of the dead has to be on the device before the dead are
                    // dropped. It was there before the dead were found to be dead.
                    let needs =
                        self.core.engine.log().last_allocated(&self.core.engine.epoch().pin());
                    return Ok(Some(EmptiedGroup { victims, needs, moved_records, moved_bytes }));
                }
                Ok(None) => break,
                Err(Stopped::Damaged) => {
                    let (damaged, whole) = victims
                        .into_iter()
                        .partition(|victim| victim.reclamation().is_quarantined());
                    victims = whole;
                    release_victims(&damaged);
                }
                Err(Stopped::Asked) => break,
                Err(Stopped::Failed(error)) => {
                    release_victims(&victims);
                    return Err(error);
                }
            }
        }
        release_victims(&victims);
        Ok(None)
    }

    /// The same, all or nothing: how many records and bytes were moved. `None`: the index still
    /// leads to something in a victim.
    fn try_to_empty(
        &self,
        victims: &[Arc<DiskSegment>],
        outputs: &mut Outputs,
    ) -> Result<Option<(u64, u64)>, Stopped> {
        let mut group = Group::default();
        let copied = self.copy_group(victims, outputs, &mut group);
        let flushed = copied.and_then(|()| self.flush_outputs(outputs).map_err(Stopped::Failed));
        if let Err(stopped) = flushed {
            copy::void_copies(&group.copied);
            return Err(stopped);
        }
        // First: an output with a copy in force must not be dropped, whatever stops the moves.
        outputs.note_in_force(&group.copied);
        self.move_all(victims, &group);
        for copied in group.copied.iter().filter(|copied| copied.copy.kind == Kind::Tombstone) {
            let bytes = copied.copy.len.bytes() as u64;
            self.core.engine.log().count_needed(&copied.output, bytes);
        }
        if !self.remove_index_entries(victims) {
            return Ok(None);
        }
        let bytes = group.copied.iter().map(|copied| copied.copy.len.bytes() as u64).sum();
        Ok(Some((group.copied.len() as u64, bytes)))
    }

    /// Steps 5 and 6, and the beginning of step 7: for as many groups as are ready.
    fn drop_groups(
        &self,
        groups: Vec<EmptiedGroup>,
        outputs: &mut Outputs,
        report: &mut CompactionReport,
    ) -> Result<(), Error> {
        let Some(needs) = groups.iter().map(|group| group.needs).max() else { return Ok(()) };
        let moved: u64 = groups.iter().map(|group| group.moved_bytes).sum();
        let moved_records: u64 = groups.iter().map(|group| group.moved_records).sum();
        let victims: Vec<_> = groups.into_iter().flat_map(|group| group.victims).collect();
        let before: u64 = victims.iter().map(|victim| victim.filling().frame_bytes()).sum();
        let covered = self.core.flusher.cover(&self.core.engine, needs);
        let dropped = covered.and_then(|covered| self.drop_victims(&victims, covered));
        if let Err(error) = dropped {
            // They stay in use, if the manifest did not drop them.
            release_victims(&victims);
            return Err(error);
        }
        // A segment that is full takes no more copies, and was flushed with the others.
        self.finish_ended(outputs)?;
        self.core.compacted.add(moved, victims.len() as u64);
        report.segments_removed += victims.len() as u64;
        report.moved_records += moved_records;
        report.moved_bytes += moved;
        report.reclaimed_bytes += before.saturating_sub(moved);
        self.core.throttle.note_returned(before.saturating_sub(moved));
        Ok(())
    }

    /// Drops segments from the manifest, and lets the log go of them.
    fn drop_victims(&self, victims: &[Arc<DiskSegment>], covered: Covered) -> Result<(), Error> {
        self.core.live_manifest.drop_segments(&self.core.engine, victims, covered)?;
        for victim in victims {
            let guard = self.core.engine.epoch().pin();
            self.core.engine.log().retire_segment(&guard, Arc::clone(victim));
        }
        // The background thread takes them out of the table.
        self.core.engine.log().source().wake();
        Ok(())
    }

    /// Has the room of dropped segments returned, because the next group may need it: waits until
    /// the background thread has taken them out of the table, for `SWEEP_WAIT_MAX` at most. Does
    /// not wait for readers that stay.
    fn wait_for_sweeps(&self) {
        let (log, epoch) = (self.core.engine.log(), self.core.engine.epoch());
        let (first, began) = (log.sweeps(), Instant::now());
        // Without a pin, the sweep after the first takes them out, and the one after that lets the
        // mappings go.
        while log.sweeps() - first < SWEEPS
            && began.elapsed() < SWEEP_WAIT_MAX
            && !self.is_stopped()
        {
            epoch.reclaim();
            if log.retired() == 0 && epoch.pending() == 0 {
                return;
            }
            log.source().wake();
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits as long as it takes for the work so far to stay within the rate, or until somebody
    /// waits for its end.
    fn keep_rate(&self, limit: &RateLimit, copied_bytes: u64) {
        // Relaxed: a sum.
        let before = limit.bytes.fetch_add(copied_bytes, Ordering::Relaxed);
        let Some(rate) = self.core.compaction_rate else { return };
        let due = Duration::from_secs_f64((before + copied_bytes) as f64 / rate.max(1) as f64);
        while let Some(early) = due.checked_sub(limit.since.elapsed())
            && !early.is_zero()
            && !self.is_stopped()
            && !(self.yields_to_manual && self.is_manual_waiting())
        {
            thread::sleep(early.min(STOP_POLL));
        }
    }
}

/// How far a compaction is, in log bytes of the segments that it empties.
struct Progress<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl Progress<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        (self.tell)(self.done, self.total);
    }
}

fn bytes_of(segments: &[Arc<DiskSegment>]) -> u64 {
    segments.iter().map(|segment| segment.filling().frame_bytes()).sum()
}

/// Victims that are not dropped are in use as before.
fn release_victims(victims: &[Arc<DiskSegment>]) {
    victims.iter().for_each(|victim| victim.reclamation().release_victim());
}

/// How much a group has copied, and since when.
struct RateLimit {
    since: Instant,
    bytes: AtomicU64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { since: Instant::now(), bytes: AtomicU64::new(0) }
    }
}

/// Does something with so many threads, this one included, or with as many as there can be. What
/// each of them comes to.
fn run_on<R: Send>(workers: usize, work: impl Fn() -> R + Sync) -> Vec<R> {
    let helper = || thread::Builder::new().name("stratalog-compact".to_owned());
    thread::scope(|scope| {
        let helpers = (1..workers).map_while(|_| helper().spawn_scoped(scope, &work).ok());
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
    expired: Vec<TombstoneCandidate>,
}
