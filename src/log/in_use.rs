//! Walks over the segments that are in use: of one moment as far as each walk's user needs.

use super::{Log, Source};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::Ordering;
use crate::concurrency::sync::unmodelled::Arc;
use crate::format::header::Role;
use crate::format::ids::TableIndex;
use crate::memory::Memory;
use crate::segment::Segment;

impl<M: Memory, S: Source<M>> Log<M, S> {
    /// Those segments of the log that have something to flush, in the order of their sequences,
    /// each with a count of its own: a flush is no reason to hold a pin.
    ///
    /// None is missing that is older than one of them [D7]. A walk through the table could miss a
    /// preallocated one, and meet its successor after both were used; then another segment is
    /// active than when the walk began, and it begins again. An empty one that was ended is among
    /// them: later segments are cut if its seal is not on the device [D5].
    pub fn to_flush(&self, guard: &Guard) -> Vec<Arc<Segment<M>>> {
        let wanted = |s: &&Segment<M>| {
            s.role() == Role::Log
                && (!s.durable().is_settled()
                    || s.durable().flushed().slot < s.filling().slots_end())
        };
        self.while_none_rolls(guard, || self.table.unsettled(guard).filter(wanted).collect())
    }

    /// [Those in use](Log::in_use) that are wanted, in the same way.
    pub fn in_use_arcs(
        &self,
        guard: &Guard,
        wanted: impl Fn(&Segment<M>) -> bool,
    ) -> Vec<Arc<Segment<M>>> {
        self.while_none_rolls(guard, || self.in_use(guard).filter(|s| wanted(s)).collect())
    }

    /// Reads the table until no other segment has become active meanwhile; then those in use, in
    /// the order of their sequences.
    fn while_none_rolls<'g>(
        &'g self,
        guard: &'g Guard,
        read: impl Fn() -> Vec<&'g Segment<M>>,
    ) -> Vec<Arc<Segment<M>>> {
        loop {
            // Acquire: as in `active`.
            let before = self.active.load(Ordering::Acquire);
            let active = self.segment_of_word(guard, before).map(Segment::table_index);
            let mut segments = self.counted(guard, read());
            // Within the walk as well: were two preallocated segments asked one after the other
            // while both come into use, only the second would be among those in use.
            segments.retain(|segment| self.is_in_use(segment, active));
            // Release, and a write: who sees a segment active that was installed after this has
            // the walk behind it, so the walk has not met what it writes there.
            if self.active.fetch_or(0, Ordering::Release) == before {
                segments.sort_by_key(|segment| segment.sequence());
                return segments;
            }
        }
    }

    /// Segments with a count of their own for each.
    pub fn counted<'g>(
        &self,
        guard: &Guard,
        segments: impl IntoIterator<Item = &'g Segment<M>>,
    ) -> Vec<Arc<Segment<M>>>
    where
        M: 'g,
    {
        let counted = |s: &Segment<M>| self.table.get_arc(guard, s.table_index());
        segments.into_iter().filter_map(counted).collect()
    }

    /// [Those in use](Log::in_use) such that every record that is live when this begins has a copy
    /// in one of them, in the order of their sequences. Whoever counts their slots later counts
    /// what was moved out of a segment that was gone.
    pub fn in_use_at_once<'g>(&'g self, guard: &'g Guard) -> Vec<&'g Segment<M>> {
        self.while_none_is_dropped(|| self.in_use(guard).collect())
    }

    /// Reads the table until no segment was dropped meanwhile, and sorts what was read.
    ///
    /// A walk through the table alone could miss a record that is moved to a segment that came
    /// into the table behind the walk, and whose old segment is given up before the walk is there.
    /// That two walks find the same does not help: both may have missed it, if it was moved twice.
    pub(super) fn while_none_is_dropped<'g>(
        &self,
        read: impl Fn() -> Vec<&'g Segment<M>>,
    ) -> Vec<&'g Segment<M>>
    where
        M: 'g,
    {
        loop {
            // Acquire: pairs with the Release in `mark_dropped`. What was moved out of segments
            // that are counted here is in the table, in segments that are not.
            let before = self.drops.load(Ordering::Acquire);
            let mut segments = read();
            // Relaxed: a walk that met a dropped segment has seen, by the Acquire in
            // `Reclamation::reclaiming`, that it was counted before.
            if self.drops.load(Ordering::Relaxed) == before {
                segments.sort_by_key(|segment| segment.sequence());
                return segments;
            }
        }
    }

    /// Notes that segments are dropped: the manifest names them no more, and whatever counted in
    /// them has been moved.
    pub fn mark_dropped(&self, victims: &[Arc<Segment<M>>]) {
        // Release: pairs with the Acquire in `while_none_is_dropped`. Before the first is dropped,
        // so that who misses it sees the count change.
        self.drops.fetch_add(1, Ordering::Release);
        for victim in victims {
            victim.reclamation().set_dropped();
        }
    }

    /// Segments that hold records, are about to, were ended, or have lost all that they held: all
    /// but the preallocated, the discarded and the dropped.
    pub fn in_use<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g Segment<M>> {
        let active = self.active(guard).map(Segment::table_index);
        self.table.iter(guard).filter(move |segment| self.is_in_use(segment, active))
    }

    /// Returns whether the log keeps room back where the disk is nearly full. A store of one
    /// segment has nothing to give back until it needs a second one, without which nothing could be
    /// removed.
    pub fn keeps_room(&self, guard: &Guard) -> bool {
        let mut used = self.in_use(guard);
        match (used.next(), used.next()) {
            (None, _) => false,
            (Some(only), None) => {
                only.role() == Role::Log && (only.filling().is_full() || self.nears_roll(guard))
            }
            _ => true,
        }
    }

    pub(super) fn is_in_use(&self, segment: &Segment<M>, active: Option<TableIndex>) -> bool {
        let begun = has_begun(segment)
            // Its file may be put back: it goes on being named, and reported until then.
            || segment.reclamation().is_quarantined()
            || Some(segment.table_index()) == active;
        begun && !segment.reclamation().is_dropped()
    }
}

/// Returns whether it was ever more than preallocated. A settled one never changes that.
pub(super) fn has_begun<M: Memory>(segment: &Segment<M>) -> bool {
    segment.role() == Role::Copies
        || segment.filling().is_full() && segment.checks().is_created_here()
        || segment.filling().slots_end() > 0
}
