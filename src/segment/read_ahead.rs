//! Reading in order what is otherwise read here and there: what comes next is asked for while what
//! is there is looked at. Costs next to nothing while the kernel reads ahead by itself.

use super::Segment;
use crate::format::ids::Units;
use crate::memory::Memory;

/// So much is asked for at a time; half of it is still to come when the next is.
const WINDOW: usize = 4 << 20;

/// How far down a walk that reads frames in the order of their slots has asked for them.
#[derive(Clone, Copy, Debug)]
pub struct ReadAhead {
    from: usize,
}

impl ReadAhead {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { from: usize::MAX }
    }

    /// What to ask for now that a frame at `at` of so many bytes is read, if anything: from where,
    /// and how much.
    fn next(&mut self, at: usize, len: usize, end: usize) -> Option<(usize, usize)> {
        let asked = self.from.min(end);
        if at >= asked.saturating_add(WINDOW / 2) || at >= end {
            return None;
        }
        // Of what lies between, if the walk has left something out, nothing is wanted.
        let to = asked.min(at.saturating_add(len.max(WINDOW)));
        let from = to.min(at).min(to.saturating_sub(WINDOW));
        self.from = from;
        (from < to).then_some((from, to - from))
    }
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Memory> Segment<M> {
    /// A walk is about to read the frame at `offset`, and then those below it.
    #[inline]
    pub fn read_on(&self, ahead: &mut ReadAhead, offset: Units, len: Units) {
        if !self.memory.is_read_singly() {
            return;
        }
        if let Some((at, len)) = ahead.next(offset.bytes(), len.bytes(), self.memory.len()) {
            self.memory.will_read(at, len);
        }
    }

    /// The put at `offset` will be read, whole, if it is as short as most.
    pub fn will_read(&self, offset: Units) {
        if self.memory.is_read_singly() {
            let embedding = self.geometry.dimension * size_of::<f32>();
            self.memory.will_read(offset.bytes(), 2 * super::UNIT_BYTES + embedding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: usize = 64 << 20;
    const FRAME: usize = 4096;

    /// What a walk over these frames asks for.
    fn asked(frames: impl Iterator<Item = (usize, usize)>) -> Vec<(usize, usize)> {
        let mut ahead = ReadAhead::new();
        frames.filter_map(|(at, len)| ahead.next(at, len, END)).collect()
    }

    #[test]
    fn a_walk_asks_for_everything_once_before_it_comes_there() {
        let mut ahead = ReadAhead::new();
        let (mut low, mut times) = (END, 0);
        for at in (0..END).step_by(FRAME).rev() {
            if let Some((from, len)) = ahead.next(at, FRAME, END) {
                assert_eq!(from + len, low, "neither twice nor with a gap");
                (low, times) = (from, times + 1);
            }
            assert!(low == 0 || low + WINDOW / 2 <= at + FRAME, "late at {at}");
        }
        assert_eq!((low, times), (0, END / WINDOW));
    }

    #[test]
    fn what_is_left_out_is_not_asked_for() {
        let far_apart = (0..8).map(|n| (END - FRAME - n * (8 << 20), FRAME));
        let all: usize = asked(far_apart).iter().map(|(_, len)| len).sum();
        assert!(all <= 8 * 2 * WINDOW, "{all}");
    }

    #[test]
    fn a_long_frame_is_asked_for_whole() {
        let long = 16 << 20;
        let (from, len) = asked([(END - long, long)].into_iter())[0];
        assert!(from <= END - long && from + len == END);
    }

    #[test]
    fn nonsense_asks_for_nothing() {
        assert!(asked([(END, FRAME), (usize::MAX, usize::MAX)].into_iter()).is_empty());
    }
}
