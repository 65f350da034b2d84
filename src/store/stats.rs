//! What the store says about itself and about each of its segments.

use super::Store;
use crate::format::header::Role;
use crate::log::Source;
use crate::memory::MmapMemory;
use crate::report::{RecoveryReport, SegmentRole, SegmentState, SegmentStats, Stats};
use crate::segment::Segment;

impl Store {
    /// Counts and sizes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let engine = self.engine();
        let guard = engine.epoch().pin();
        let held = engine.log().usage(&guard);
        let mut stats = Stats {
            live_records: engine.live(),
            segments: held.segments,
            live_bytes: held.live_bytes,
            dead_bytes: held.frame_bytes.saturating_sub(held.live_bytes),
            unflushed_slots: held.unflushed_slots,
            index_bytes: engine.index().allocated_bytes(),
            disk_bytes: held.disk_bytes + engine.log().source().other_bytes(),
            durable: self.core.flusher.durable(),
            tail: engine.log().tail(&guard),
            retired: engine.epoch().pending(),
            compaction_moved_bytes: self.core.compacted.moved_bytes(),
            compaction_segments_removed: self.core.compacted.segments_removed(),
            write_stall: self.core.throttle.write_stall(),
            ..Stats::default()
        };
        for retained in self.retained() {
            stats.retained_bytes += retained.disk_bytes;
            stats.retained_age = stats.retained_age.max(retained.age);
        }
        stats
    }

    /// Returns the bytes of the index and the time for which puts were delayed, for a bench that
    /// asks after each put. No part of the public contract.
    #[doc(hidden)]
    #[must_use]
    pub fn growth(&self) -> (u64, std::time::Duration) {
        (self.engine().index().allocated_bytes(), self.core.throttle.write_stall())
    }

    /// Returns the report of the recovery that opening made.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Returns the segments of the log in order, with those that compaction has emptied and a
    /// reader still holds. While writers run, the figures may be of slightly different moments. A
    /// segment that was preallocated and holds nothing yet is not listed.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// store.put("a", &[1.0], "overwritten")?;
    /// store.put("a", &[2.0], "stays")?;
    /// let segments = store.segments();
    /// assert_eq!((segments.len(), segments[0].slots), (1, 2));
    /// assert!(segments[0].live_bytes > 0 && segments[0].dead_bytes > 0);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentStats> {
        let engine = self.engine();
        let guard = engine.epoch().pin();
        let log = engine.log();
        let active = log.active(&guard).map(Segment::table_index);
        let state = |segment: &Segment<MmapMemory>| {
            let takes_more = match segment.role() {
                _ if self.read_only => segment.filling().sealed().is_none(),
                Role::Log => Some(segment.table_index()) == active,
                Role::Copies => !segment.filling().is_full(),
            };
            if takes_more { SegmentState::Active } else { SegmentState::Sealed }
        };
        let mut all: Vec<_> =
            log.in_use(&guard).map(|segment| self.segment_stats(segment, state(segment))).collect();
        for retained in self.retained() {
            let stats = self.segment_stats(&retained.segment, SegmentState::Retained);
            all.push(SegmentStats { disk_bytes: retained.disk_bytes, ..stats });
        }
        // One that was given up meanwhile was met twice.
        all.sort_by_key(|stats| stats.sequence);
        all.dedup_by_key(|stats| stats.sequence);
        all
    }

    fn segment_stats(&self, segment: &Segment<MmapMemory>, state: SegmentState) -> SegmentStats {
        let files = self.engine().log().source();
        let (live_bytes, needed) = (segment.usage().live_bytes(), segment.usage().needed_bytes());
        let rest = segment.filling().frame_bytes().saturating_sub(live_bytes);
        SegmentStats {
            sequence: segment.sequence().0,
            role: match segment.role() {
                Role::Log => SegmentRole::Log,
                Role::Copies => SegmentRole::Copies,
            },
            state,
            disk_bytes: files.disk_bytes(segment),
            path: files.path_of(segment.sequence(), segment.salt()),
            slots: segment.filling().slots_end(),
            durable_slots: segment.durable().flushed().slot,
            live_bytes,
            dead_bytes: rest.saturating_sub(needed),
            needed_bytes: needed.min(rest),
        }
    }
}
