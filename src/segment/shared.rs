//! A frame that keeps its segment mapped by a count of its own, instead of by a guard.

use super::{Frame, Segment};
use crate::concurrency::sync::unmodelled::Arc;
use crate::format::ids::Units;
use crate::memory::Memory;

/// A frame and its segment.
#[derive(Debug)]
pub struct SharedFrame<M> {
    segment: Arc<Segment<M>>,
    offset: Units,
}

impl<M> Clone for SharedFrame<M> {
    fn clone(&self) -> Self {
        Self { segment: Arc::clone(&self.segment), offset: self.offset }
    }
}

impl<M: Memory> SharedFrame<M> {
    /// Shares a frame that has been read, at this offset, under a guard.
    #[must_use]
    pub fn new(segment: Arc<Segment<M>>, offset: Units) -> Self {
        Self { segment, offset }
    }

    /// The frame. `None` only if another process changed the file under our lock.
    #[must_use]
    pub fn frame(&self) -> Option<Frame<'_>> {
        self.segment.frame(self.offset).ok()
    }

    /// Its segment.
    #[must_use]
    pub fn segment(&self) -> &Segment<M> {
        &self.segment
    }
}
