//! Running totals over all segments, so that nobody walks thousands of them to know a sum.
//!
//! A settled segment never changes what it holds, so it is added once, when its unsettled mark is
//! cleared, and subtracted once, when it is dropped. The segments that are not settled are few and
//! are looked at. Live, expired and needed bytes change in settled segments too, and have counts
//! of their own. Everything here is a statistic: nothing is decided by it that a later, exact look
//! would not decide again.

use super::in_use::has_begun;
use super::{Log, Source};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::unmodelled::{AtomicU64, Ordering};
use crate::format::header::Role;
use crate::format::slot::SLOT_BYTES;
use crate::memory::Memory;
use crate::segment::Segment;

/// Counts that writers share, on a line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct LogTotals {
    /// Bytes of frames that the index points at.
    live_bytes: AtomicU64,
    /// Of those, bytes that had expired when that was last looked for.
    expired_bytes: AtomicU64,
    /// Bytes of tombstones that compaction has found to be needed.
    needed_bytes: AtomicU64,
    /// Segments that compaction keeps away from.
    quarantined: AtomicU64,
    settled: SettledTotals,
}

/// Sums over the settled segments.
#[derive(Debug, Default)]
struct SettledTotals {
    /// How many changes of what follows have begun, and how many are done.
    begun: AtomicU64,
    done: AtomicU64,
    segments: AtomicU64,
    frame_bytes: AtomicU64,
    held_bytes: AtomicU64,
    disk_bytes: AtomicU64,
}

/// How often the totals are read, if segments are added to them meanwhile.
const READINGS: u32 = 8;

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogUsage {
    /// Segments in use.
    pub segments: u64,
    /// Bytes of all frames taken.
    pub frame_bytes: u64,
    /// Bytes of frames that the index points at.
    pub live_bytes: u64,
    /// Of those, bytes that had expired when that was last looked for.
    pub expired_bytes: u64,
    /// Bytes of tombstones that compaction has found to be needed.
    pub needed_bytes: u64,
    /// Bytes that the segments take, as far as they hold anything or will.
    pub held_bytes: u64,
    /// Bytes allocated to the files of the segments, preallocated ones included.
    pub disk_bytes: u64,
    /// Slots that are not known to survive power loss.
    pub unflushed_slots: u64,
    /// Segments that compaction keeps away from.
    pub quarantined: u64,
}

fn add(total: &AtomicU64, by: u64) {
    // Relaxed: statistics.
    total.fetch_add(by, Ordering::Relaxed);
}

fn sub(total: &AtomicU64, by: u64) {
    // Relaxed: statistics. In passing it may wrap below zero; `read` takes that for none.
    total.fetch_sub(by, Ordering::Relaxed);
}

fn read(total: &AtomicU64) -> u64 {
    // Relaxed: statistics.
    let value = total.load(Ordering::Relaxed);
    if value > i64::MAX as u64 { 0 } else { value }
}

/// What a segment takes on disk. Of the one that takes records, what is taken: so that it does not
/// come in leaps. Copies that are closed have returned what they did not need.
fn held_bytes<M: Memory>(segment: &Segment<M>) -> u64 {
    let segment_bytes = segment.geometry().segment_bytes as u64;
    let by_content = match segment.role() {
        Role::Log => !segment.filling().is_full(),
        Role::Copies => segment.filling().is_full(),
    };
    if !by_content {
        return segment_bytes;
    }
    let slots = u64::from(segment.filling().slots_end()) * SLOT_BYTES as u64;
    (segment.filling().frame_bytes() + slots).min(segment_bytes)
}

impl<M: Memory, S: Source<M>> Log<M, S> {
    /// Returns what the log holds now: the running totals, and a walk over what is not settled.
    pub fn usage(&self, guard: &Guard) -> LogUsage {
        self.read_beside_settled(|| self.usage_by_one_reading(guard))
    }

    /// Returns [`LogUsage::held_bytes`] alone, for which the system need not be asked.
    pub fn held_bytes(&self, guard: &Guard) -> u64 {
        self.read_beside_settled(|| {
            let active = self.active(guard).map(Segment::table_index);
            let walked = self.uncounted(guard).filter(|segment| self.is_in_use(segment, active));
            read(&self.totals.settled.held_bytes) + walked.map(held_bytes).sum::<u64>()
        })
    }

    /// Returns the bytes of live frames, without those that had expired at the last look for them.
    pub fn lasting_bytes(&self) -> u64 {
        read(&self.totals.live_bytes).saturating_sub(read(&self.totals.expired_bytes))
    }

    /// Returns the bytes of tombstones that compaction has found to be needed.
    pub fn needed_bytes(&self) -> u64 {
        read(&self.totals.needed_bytes)
    }

    /// Returns how many segments compaction keeps away from.
    pub fn quarantined(&self) -> u64 {
        read(&self.totals.quarantined)
    }

    /// A segment that is settled in between is in neither the totals nor the walk; so this reads
    /// again, but waits for nobody.
    fn read_beside_settled<T>(&self, read_all: impl Fn() -> T) -> T {
        let settled = &self.totals.settled;
        for _ in 0..READINGS {
            let done = read(&settled.done);
            let found = read_all();
            if read(&settled.begun) == done {
                return found;
            }
        }
        read_all()
    }

    /// Segments that are in no total of the settled ones.
    fn uncounted<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g Segment<M>> {
        self.table().unsettled(guard).filter(|segment| !segment.reclamation().is_counted())
    }

    fn usage_by_one_reading(&self, guard: &Guard) -> LogUsage {
        let (totals, settled) = (&self.totals, &self.totals.settled);
        let mut held = LogUsage {
            segments: read(&settled.segments),
            frame_bytes: read(&settled.frame_bytes),
            live_bytes: read(&totals.live_bytes),
            expired_bytes: read(&totals.expired_bytes),
            needed_bytes: self.needed_bytes(),
            held_bytes: read(&settled.held_bytes),
            disk_bytes: read(&settled.disk_bytes),
            unflushed_slots: 0,
            quarantined: self.quarantined(),
        };
        let active = self.active(guard).map(Segment::table_index);
        for segment in self.uncounted(guard) {
            if !segment.reclamation().is_dropped() {
                // A preallocated one, too.
                held.disk_bytes += self.source().disk_bytes(segment);
            }
            if self.is_in_use(segment, active) {
                held.segments += 1;
                held.frame_bytes += segment.filling().frame_bytes();
                held.held_bytes += held_bytes(segment);
                let flushed = segment.durable().flushed().slot;
                held.unflushed_slots +=
                    u64::from(segment.filling().slots_end().saturating_sub(flushed));
            }
        }
        held
    }

    /// A settled segment goes into the totals; by the thread that clears its unsettled mark.
    pub(super) fn count_in(&self, segment: &Segment<M>) {
        let disk_bytes = self.source().disk_bytes(segment);
        let settled = &self.totals.settled;
        add(&settled.begun, 1);
        if segment.reclamation().claim_addition(disk_bytes) {
            add(&settled.segments, u64::from(has_begun(segment)));
            add(&settled.frame_bytes, segment.filling().frame_bytes());
            add(&settled.held_bytes, held_bytes(segment));
            add(&settled.disk_bytes, disk_bytes);
        }
        add(&settled.done, 1);
    }

    /// A settled segment takes more or fewer bytes on disk than it did.
    pub fn recount_disk(&self, segment: &Segment<M>) {
        let now = self.source().disk_bytes(segment);
        if let Some(before) = segment.reclamation().recount(now) {
            add(&self.totals.settled.disk_bytes, now.wrapping_sub(before));
        }
    }

    /// A dropped segment leaves the totals. Nothing in it is live, and whoever made something dead
    /// subtracts that, maybe later.
    pub fn count_out(&self, segment: &Segment<M>) {
        let totals = &self.totals;
        let settled = &totals.settled;
        add(&settled.begun, 1);
        if let Some(disk_bytes) = segment.reclamation().claim_subtraction() {
            sub(&settled.segments, u64::from(has_begun(segment)));
            sub(&settled.frame_bytes, segment.filling().frame_bytes());
            sub(&settled.held_bytes, held_bytes(segment));
            sub(&settled.disk_bytes, disk_bytes);
        }
        add(&settled.done, 1);
        sub(&totals.expired_bytes, segment.usage().expired_bytes());
        sub(&totals.needed_bytes, segment.usage().needed_bytes());
    }

    /// The index points at more or fewer bytes of frames. Costs nothing where a version replaces
    /// one of its length.
    #[inline]
    pub fn count_live(&self, more: u64, fewer: u64) {
        if more != fewer {
            add(&self.totals.live_bytes, more.wrapping_sub(fewer));
        }
    }

    /// The index that the count spoke of is gone.
    pub fn reset_live(&self) {
        // Relaxed: statistics; recovery is alone.
        self.totals.live_bytes.store(0, Ordering::Relaxed);
    }

    /// Notes how many live bytes of a segment have expired.
    pub fn count_expired(&self, segment: &Segment<M>, bytes: u64) {
        let before = segment.usage().set_expired(bytes);
        add(&self.totals.expired_bytes, bytes.wrapping_sub(before));
    }

    /// Notes that more bytes of tombstones of a segment are needed.
    pub fn count_needed(&self, segment: &Segment<M>, bytes: u64) {
        segment.usage().add_needed(bytes);
        add(&self.totals.needed_bytes, bytes);
    }

    /// Keeps compaction away from a damaged segment: until nothing damaged in it counts any more,
    /// or `for_good`.
    pub fn quarantine(&self, segment: &Segment<M>, for_good: bool) {
        if segment.reclamation().quarantine(for_good) {
            add(&self.totals.quarantined, 1);
        }
    }

    /// Lets compaction have a segment again in which nothing damaged counts any more.
    pub fn end_quarantine(&self, segment: &Segment<M>) {
        if segment.reclamation().end_quarantine() {
            sub(&self.totals.quarantined, 1);
        }
    }
}
