//! Which segments are worth emptying, and when compaction pauses: the policy of removal.

use super::{Compactor, DiskSegment, StoreCore};
use crate::clock;
use crate::concurrency::sync::unmodelled::Arc;
use crate::error::Error;
use crate::format::header::{DIRECTORY_AT, Role};
use crate::format::slot::SLOT_BYTES;
use crate::log::Source;
use crate::memory::FOLIO_BYTES;
use crate::segment::Reclaiming;

/// How much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What pays.
    Worthwhile,
    /// Everything that can be had back.
    All,
}

/// Segments of a group, at most: bounds how long its copies wait for their sources to go.
pub(super) const GROUP_MAX: usize = 32;
/// Looks for what has expired wherever anything ever can.
pub(super) const EVER: u64 = u64::MAX - 1;
/// Threads, at most.
const WORKERS_MAX: u64 = 8;
/// So many segments that hold little are merged.
const CRUMBS: usize = 8;

/// Segments of up to so many bytes have hardly any space between two multiples of 2 MiB that
/// neither slots nor frames take.
const RETURNS_LITTLE: u64 = 4 * FOLIO_BYTES as u64;
const HEADER_BYTES: u64 = DIRECTORY_AT as u64;

/// What a segment holds, in bytes of frames.
struct Measured {
    segment: Arc<DiskSegment>,
    live: u64,
    /// Dead, and not known to be needed.
    dead: u64,
    total: u64,
}

/// Live bytes of a segment, those that have expired left out, and bytes that are dead and not known
/// to be needed.
fn live_and_dead(segment: &DiskSegment) -> (u64, u64) {
    let live = segment.usage().live_bytes().saturating_sub(segment.usage().expired_bytes());
    (live, segment.filling().frame_bytes().saturating_sub(live + segment.usage().needed_bytes()))
}

/// A segment that was ended before it held any record; one of the log only if this process has
/// made it: what is found blank may be one whose beginning was zeroed.
fn is_blank(measured: &Measured) -> bool {
    let segment = &measured.segment;
    segment.filling().slots_end() == 0
        && (segment.role() == Role::Copies || segment.checks().is_created_here())
}

/// Takes the next group off a list: about as much live data as one segment holds.
pub(super) fn take_group(
    left: &mut Vec<Arc<DiskSegment>>,
    most: usize,
    capacity: u64,
) -> Vec<Arc<DiskSegment>> {
    let mut live = 0;
    let mut count = 0;
    for segment in left.iter().take(most) {
        live += segment.usage().live_bytes();
        // With their slots, no more than one segment.
        if count > 0 && live > capacity / 4 * 3 {
            break;
        }
        count += 1;
    }
    left.drain(..count).collect()
}

impl Compactor<'_> {
    /// Segments that nobody writes to any more, everything in them decided, published and on the
    /// device.
    fn measure(&self) -> Vec<Measured> {
        let guard = self.core.engine.epoch().pin();
        let log = self.core.engine.log();
        log.end_full(&guard);
        let ready = |segment: &DiskSegment| {
            let durable = segment
                .filling()
                .sealed()
                .is_some_and(|end| segment.durable().flushed().slot >= end);
            let free = segment.reclamation().reclaiming() == Reclaiming::None
                && !segment.reclamation().is_quarantined();
            free && durable && segment.filling().is_quiet()
        };
        let measure = |segment: Arc<DiskSegment>| {
            let ((live, dead), total) = (live_and_dead(&segment), segment.filling().frame_bytes());
            Measured { segment, live, dead, total }
        };
        let mut found = log.in_use_arcs(&guard, ready);
        // It may have filled just now. What is full and not active never is again [G1].
        let active = log.active(&guard).map(DiskSegment::table_index);
        found.retain(|segment| Some(segment.table_index()) != active);
        found.into_iter().map(measure).collect()
    }

    /// Every segment that holds something dead, or takes more room than it needs, and those that
    /// hold little, if there are many; those that may let go of tombstones last.
    pub(super) fn choose_all(&self) -> Vec<Arc<DiskSegment>> {
        {
            let guard = self.core.engine.epoch().pin();
            for segment in self.core.engine.log().in_use(&guard) {
                self.core.engine.scan_for_expired(&guard, segment, EVER, clock::now_ns());
            }
        }
        self.end_quarantines();
        let mut chosen = self.measure();
        // One for copies has given back what it does not hold; but each run may leave one. (Where
        // there is no room to merge them, what is dead is had back all the same.)
        let room = || self.core.engine.log().source().has_room_for_copies();
        let is_crumb = |m: &Measured| self.is_crumb(m, Scope::All);
        let many = chosen.iter().filter(|m| is_crumb(m)).count() >= CRUMBS && room();
        let of_log = |m: &Measured| m.segment.role() == Role::Log;
        let wastes = |m: &Measured| is_crumb(m) && (many || of_log(m));
        chosen.retain(|m| m.total > m.live || is_blank(m) || wastes(m));
        chosen.sort_by_key(|m| m.segment.usage().needed_bytes() > 0);
        chosen.into_iter().map(|m| m.segment).collect()
    }

    /// Bytes of tombstones that were found to be needed.
    pub(super) fn needed_bytes(&self) -> u64 {
        self.core.engine.log().needed_bytes()
    }

    /// Every segment with tombstones that were found to be needed: they may not be any more.
    pub(super) fn choose_needed(&self) -> Vec<Arc<DiskSegment>> {
        let mut chosen = self.measure();
        chosen.retain(|m| m.segment.usage().needed_bytes() > 0);
        chosen.into_iter().map(|m| m.segment).collect()
    }

    /// The next group of tombstones that were needed once and may not be any more, the oldest
    /// first. Only once there are half as many again, and a segment more, as stayed the last time
    /// that all of them were checked: each group costs a walk through all directories.
    fn choose_needed_again(&self, measured: &[Measured]) -> Vec<Arc<DiskSegment>> {
        let needed = self.needed_bytes();
        let check = &self.core.compacted.needed_check;
        let of_tombstones = |m: &&Measured| m.segment.usage().needed_bytes() * 2 > m.total;
        let mut chosen: Vec<_> = measured.iter().filter(of_tombstones).collect();
        chosen.sort_by_key(|m| m.segment.sequence());
        if !check.is_under_way() {
            let kept = check.note_kept(needed);
            match chosen.last() {
                Some(last) if needed > kept + kept / 2 + self.capacity() => {
                    check.begin(last.segment.sequence());
                }
                _ => return Vec::new(),
            }
        }
        chosen.retain(|m| check.covers(m.segment.sequence()));
        if chosen.is_empty() {
            check.end(needed);
        }
        let mut bytes = 0;
        let fits = |m: &&Measured| {
            let first = bytes == 0;
            bytes += m.total;
            first || bytes <= self.capacity()
        };
        let group = chosen.into_iter().take_while(fits).take(GROUP_MAX);
        group.map(|m| Arc::clone(&m.segment)).collect()
    }

    /// The next group that pays, if there is one: segments without anything live at once; the
    /// others by their share of the dead, when that pays ([`Compactor::is_worthwhile`]).
    pub(super) fn choose_group(&self, pays: bool) -> Vec<Arc<DiskSegment>> {
        let measured = self.measure();
        let needed = self.choose_needed_again(&measured);
        if !needed.is_empty() {
            return needed;
        }
        let empty = |m: &&Measured| m.live == 0 && (m.dead > 0 || is_blank(m));
        let empty: Vec<_> = measured.iter().filter(empty).take(GROUP_MAX).collect();
        if !empty.is_empty() {
            return empty.into_iter().map(|m| Arc::clone(&m.segment)).collect();
        }
        let mut worth: Vec<_> = measured.iter().filter(|m| m.dead * 4 >= m.total).collect();
        if pays {
            // Most dead first: dead_a / total_a > dead_b / total_b, without division.
            let share = |m: &Measured| (u128::from(m.dead) << 32) / u128::from(m.total.max(1));
            worth.sort_by_key(|m| std::cmp::Reverse(share(m)));
        } else {
            worth.clear();
        }
        if worth.is_empty() {
            worth = measured.iter().filter(|m| self.is_crumb(m, Scope::Worthwhile)).collect();
            if worth.len() < CRUMBS {
                return Vec::new();
            }
        }
        let mut left = worth.into_iter().map(|m| Arc::clone(&m.segment)).collect();
        take_group(&mut left, GROUP_MAX, self.capacity())
    }

    /// Has a segment that is to be emptied ready for what a move stores to it. What is wholly dead
    /// needs no move.
    pub(super) fn make_storable(&self, victim: &DiskSegment) -> Result<(), Error> {
        let log = self.core.engine.log();
        if victim.usage().live_bytes() > 0 && log.source().make_storable(victim)? {
            log.recount_disk(victim);
        }
        Ok(())
    }

    /// Those of a group for which there is room; an error if there is for none.
    pub(super) fn storable(
        &self,
        mut group: Vec<Arc<DiskSegment>>,
    ) -> Result<Vec<Arc<DiskSegment>>, Error> {
        let mut refused = None;
        group.retain(|victim| match self.make_storable(victim) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        });
        refused.filter(|_| group.is_empty()).map_or(Ok(group), Err)
    }

    /// One for copies that is nearly empty; one of the log that was ended early, by an opening that
    /// could not go on with it or by a backup: filled, it is half full, since no record is longer.
    ///
    /// A small one for copies returns next to nothing of what it does not hold: it is one already
    /// where another one like it would fit in beside it; for the background, which ends its copies
    /// after each group, where a group has two of them.
    fn is_crumb(&self, measured: &Measured, scope: Scope) -> bool {
        let capacity = self.capacity();
        match measured.segment.role() {
            Role::Log => measured.total * 2 < capacity,
            Role::Copies if capacity > RETURNS_LITTLE => measured.total * 4 < capacity,
            Role::Copies => {
                let slots = u64::from(measured.segment.filling().slots_end()) * SLOT_BYTES as u64;
                let parts = if scope == Scope::All { 2 } else { 3 };
                (HEADER_BYTES + slots + measured.total) * parts <= capacity
            }
        }
    }

    /// Live and dead bytes of the whole log, but for what has been emptied already.
    fn totals(&self) -> (u64, u64) {
        let guard = self.core.engine.epoch().pin();
        let segments = self.core.engine.log().in_use(&guard).filter(|s| !s.tags().has_forwarding());
        segments.fold((0, 0), |(live, dead), segment| {
            let now = clock::now_ns();
            self.core.engine.scan_for_expired(&guard, segment, now, now);
            let (its_live, its_dead) = live_and_dead(segment);
            (live + its_live, dead + its_dead)
        })
    }

    /// Returns how many threads are to be at work: one, and more the further writers have got
    /// ahead. All of them when the dead take half as much again as the living.
    pub(super) fn workers(&self) -> usize {
        let (live, dead) = self.totals();
        let ahead = dead.saturating_sub(live / 2 + self.capacity());
        (1 + ahead / (live / 8).max(self.capacity())).min(WORKERS_MAX) as usize
    }

    /// Returns whether garbage exceeds half of the live data plus one segment.
    pub(super) fn is_worthwhile(&self) -> bool {
        let (live, dead) = self.totals();
        dead > live / 2 + self.capacity()
    }
}

impl StoreCore {
    /// Returns whether so many emptied segments wait for readers to release them that emptying more
    /// would only cost more space. So a pin that stays holds back this much, and no more.
    pub(in crate::background) fn holds_back_too_much(&self) -> bool {
        let log = self.engine.log();
        let live_segments = log.lasting_bytes() / log.geometry().segment_bytes as u64;
        log.retired() > GROUP_MAX as u64 + live_segments / 2
    }
}
