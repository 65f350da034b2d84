//! The user tag, and where it is after its record was moved.
//!
//! Only the tag follows a move. A reader of embedding and content reads the copy that its index
//! entry led to, which stays whole and mapped while it is pinned. So a move is made of four parts:
//! `segment/copy.rs` fills a copy, `engine/relocate.rs` moves one record to it, this file moves the
//! tag, and `background/compaction/copy.rs` does so for a group of segments.
//!
//! The tag is the one word of a frame that changes. Compaction moves a record and its tag like
//! this, so that no update is lost and no updater waits:
//!
//! 1. the copy's frame is whole, its tag word private;
//! 2. the source's forwarding table is set, once for all records of the segment;
//! 3. the source's tag is stored in the copy, and FORWARD set in the source by compare-exchange;
//!    again, if the tag changed in between. From here on updaters and readers who hold the source
//!    follow to the copy;
//! 4. the copy's slot is committed, then the index entry swings.
//!
//! M2: FORWARD is set in a tag word only after the segment's forwarding table, which names the
//! copy. A FORWARD of an earlier process is never followed. Without a table it counts as it is, and
//! it is cleared before this process copies the record, so before there is a table.

use super::{Frame, Segment};
use crate::concurrency::sync::unmodelled::{Arc, Weak};
use crate::concurrency::sync::{AtomicU64, Ordering};
use crate::format::frame::FORWARD;
use crate::format::ids::Units;
use crate::memory::Memory;

/// Where one record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ForwardingEntry {
    from: Units,
    target: u32,
    to: Units,
}

/// Where the records of a segment went: 12 bytes each.
#[derive(Debug)]
pub struct ForwardingTable<M> {
    targets: Vec<Weak<Segment<M>>>,
    entries: Vec<ForwardingEntry>,
}

impl<M> Default for ForwardingTable<M> {
    fn default() -> Self {
        Self { targets: Vec::new(), entries: Vec::new() }
    }
}

impl<M> ForwardingTable<M> {
    /// Adds a move. In any order; at most one from each place.
    pub fn add(&mut self, from: Units, segment: &Arc<Segment<M>>, to: Units) {
        let known = self.targets.iter().position(|t| t.as_ptr() == Arc::as_ptr(segment));
        let target = known.unwrap_or_else(|| {
            self.targets.push(Arc::downgrade(segment));
            self.targets.len() - 1
        });
        self.entries.push(ForwardingEntry { from, target: target as u32, to });
    }

    fn get(&self, from: Units) -> Option<&ForwardingEntry> {
        let at = self.entries.binary_search_by_key(&from, |m| m.from).ok()?;
        self.entries.get(at)
    }

    fn find(&self, from: Units) -> Option<(Arc<Segment<M>>, Units)> {
        let found = self.get(from)?;
        Some((self.targets.get(found.target as usize)?.upgrade()?, found.to))
    }
}

/// A user tag of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagTooLarge(pub u64);

/// The tags of a segment's records; made by [`Segment::tags`].
#[derive(Clone, Copy, Debug)]
pub struct Tags<'s, M> {
    segment: &'s Segment<M>,
}

impl<M> Segment<M> {
    /// The tags of its records, and where those went.
    #[inline]
    pub fn tags(&self) -> Tags<'_, M> {
        Tags { segment: self }
    }
}

impl<M: Memory> Tags<'_, M> {
    /// Says where this segment's records went; once.
    pub fn set_forwarding(&self, mut forwarding: ForwardingTable<M>) {
        forwarding.entries.sort_unstable_by_key(|m| m.from);
        forwarding.entries.shrink_to_fit();
        // Set by the one compaction there is at a time.
        drop(self.segment.forwarding.set(forwarding));
    }

    /// Returns whether [`Tags::set_forwarding`] was called.
    pub fn has_forwarding(&self) -> bool {
        self.segment.forwarding.get().is_some()
    }

    /// Where the record at an offset is now, if it was moved and the copy is still there.
    fn moved_to(&self, from: Units) -> Option<(Arc<Segment<M>>, Units)> {
        self.segment.forwarding.get()?.find(from)
    }

    /// Calls `f` with the tag word that counts for a frame of this segment.
    fn with_tag<R>(&self, frame: &Frame<'_>, mut f: impl FnMut(&AtomicU64, u64) -> Option<R>) -> R {
        let mut owner: Option<Arc<Segment<M>>> = None;
        let mut at = frame.offset();
        loop {
            let here = owner.as_deref().unwrap_or(self.segment);
            // The word of a frame that was seen whole, here or (M2) before the move was announced.
            let word = here.memory.word(at.bytes());
            loop {
                // Acquire: pairs with the Release exchanges in `forward` (the copy is whole) and in
                // `update_tag` (a tag may speak of what its writer did before).
                let now = word.load(Ordering::Acquire);
                if now & FORWARD != 0 && here.tags().moved_to(at).is_some() {
                    break;
                }
                if let Some(result) = f(word, now) {
                    return result;
                }
            }
            let Some((next, to)) = here.tags().moved_to(at) else { continue };
            (owner, at) = (Some(next), to);
        }
    }

    /// The tag of a record, wherever it is now.
    pub fn tag(&self, frame: &Frame<'_>) -> u64 {
        self.with_tag(frame, |_, now| Some(now & !FORWARD))
    }

    /// The same for a backup, with the FORWARD of an earlier process: the copy that it was moved to
    /// is in the backup, too, and has the tag. Where this process has moved it, the copy may be
    /// gone already, and in no backup.
    pub(super) fn tag_to_replicate(&self, frame: &Frame<'_>) -> u64 {
        let tag = self.with_tag(frame, |_, now| Some(now));
        // After the tag: this process sets FORWARD where the table says so already [M2].
        let is_moved = self
            .segment
            .forwarding
            .get()
            .is_some_and(|forwarding| forwarding.get(frame.offset()).is_some());
        if is_moved { tag & !FORWARD } else { tag }
    }

    /// Replaces the tag of a record, wherever it is now, by what `f` makes of it; the new tag.
    /// Lock-free; `f` may be called many times, and may panic.
    pub fn update_tag(
        &self,
        frame: &Frame<'_>,
        mut f: impl FnMut(u64) -> u64,
    ) -> Result<u64, TagTooLarge> {
        self.with_tag(frame, |word, now| {
            let new = f(now & !FORWARD);
            if new & FORWARD != 0 {
                return Some(Err(TagTooLarge(new)));
            }
            // Release: pairs with the Acquire in `with_tag`, and in `forward`. Relaxed on failure:
            // it is loaded again.
            let stored = word.compare_exchange(now, new, Ordering::Release, Ordering::Relaxed);
            stored.is_ok().then_some(Ok(new))
        })
    }

    /// Moves the tag of the frame at `from` to a copy whose slot is not committed yet, and
    /// announces the move (step 3 above).
    pub fn forward(&self, from: Units, copy: &Segment<M>, to: Units) {
        let (source, target) =
            (self.segment.memory.word(from.bytes()), copy.memory.word(to.bytes()));
        loop {
            // Acquire: pairs with the Release in `update_tag`; passed on by the exchange below.
            let now = source.load(Ordering::Acquire);
            // Relaxed: nobody else has the copy. A tag that it has already, most likely none at
            // all, is not stored: that would dirty a page that was flushed a moment ago.
            if target.load(Ordering::Relaxed) != now & !FORWARD {
                // Relaxed: published by the exchange.
                target.store(now & !FORWARD, Ordering::Relaxed);
            }
            // Release: pairs with the Acquire in `with_tag`; the copy is whole, tag included.
            // Relaxed on failure: it is loaded again.
            let announced =
                source.compare_exchange(now, now | FORWARD, Ordering::Release, Ordering::Relaxed);
            if announced.is_ok() {
                return;
            }
        }
    }

    /// Clears the FORWARD of an earlier process, which leads nowhere [M2]: before the record is
    /// copied. Else a copy that is not in force yet would count after a kill, without its tag, and
    /// readers would follow this segment's new table to it too early.
    pub fn clear_forward(&self, at: Units) {
        // Relaxed: no forwarding table is set, so nobody follows; the tag stays as it is.
        self.segment.memory.word(at.bytes()).fetch_and(!FORWARD, Ordering::Relaxed);
    }

    /// Returns whether the tag of the frame at an offset says that its record was moved: for
    /// recovery.
    pub fn is_forwarded(&self, at: Units) -> bool {
        // Acquire: pairs with the Release in `forward`, where the process that did it still runs.
        self.segment.memory.word(at.bytes()).load(Ordering::Acquire) & FORWARD != 0
    }
}
