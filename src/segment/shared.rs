//! A frame that keeps its segment mapped by a count of its own, instead of by a guard.

use super::{Frame, Segment};
use crate::concurrency::sync::unmodelled::Arc;
use crate::format::ids::Units;
use crate::memory::Memory;

/// A frame and its segment.
#[derive(Debug)]
pub struct SharedFrame<M> {
    /// `None` only for a segment that was never in a segment table.
    segment: Option<Arc<Segment<M>>>,
    offset: Units,
}

impl<M> Clone for SharedFrame<M> {
    fn clone(&self) -> Self {
        Self { segment: self.segment.clone(), offset: self.offset }
    }
}

impl<M: Memory> SharedFrame<M> {
    /// Shares a frame that was read under a guard.
    #[must_use]
    pub fn new(segment: &Segment<M>, frame: &Frame<'_>) -> Self {
        let shared = segment.to_shared();
        debug_assert!(shared.is_some(), "who has a frame under a guard has it from the table");
        Self { segment: shared, offset: frame.offset() }
    }

    /// The segment and the frame. `None` also if another process changed the file under our lock.
    #[must_use]
    pub fn parts(&self) -> Option<(&Segment<M>, Frame<'_>)> {
        let segment = self.segment.as_deref()?;
        Some((segment, segment.frame(self.offset).ok()?))
    }
}
