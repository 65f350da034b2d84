//! Puts the parts of a frame together and hands them on as whole lines.

/// Bytes of a line.
const LINE: usize = 64;

/// Whole lines made of parts of any length. Parts that lie in line with the frame are handed on as
/// they are; only what straddles a line goes through a buffer of one.
pub(super) struct LineBuffer<F> {
    put: F,
    /// Where the next line goes.
    at: usize,
    line: [u8; LINE],
    held: usize,
}

impl<F: FnMut(usize, &[u8])> LineBuffer<F> {
    /// The first line goes to `at`, a multiple of 64; `put` gets whole lines and where they go.
    #[inline]
    pub(super) fn new(at: usize, put: F) -> Self {
        debug_assert!(at.is_multiple_of(LINE));
        Self { put, at, line: [0; LINE], held: 0 }
    }

    /// One more part.
    #[inline]
    pub(super) fn add(&mut self, mut part: &[u8]) {
        if self.held > 0 {
            let (now, later) = part.split_at(part.len().min(LINE - self.held));
            self.line[self.held..self.held + now.len()].copy_from_slice(now);
            self.held += now.len();
            if self.held < LINE {
                return;
            }
            self.put_line();
            part = later;
        }
        let (whole, rest) = part.split_at(part.len() / LINE * LINE);
        if !whole.is_empty() {
            (self.put)(self.at, whole);
            self.at += whole.len();
        }
        self.line[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
    }

    /// Fills the last line up with zeros.
    #[inline]
    pub(super) fn end(mut self) {
        if self.held > 0 {
            self.line[self.held..].fill(0);
            self.put_line();
        }
    }

    fn put_line(&mut self) {
        (self.put)(self.at, &self.line);
        self.at += LINE;
        self.held = 0;
    }
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_same_lines_come(
            parts in vec(vec(any::<u8>(), 0..200), 0..6), first in 0usize..3,
        ) {
            let mut got: Vec<u8> = Vec::new();
            let mut lines = LineBuffer::new(first * LINE, |at, lines: &[u8]| {
                assert_eq!(at, first * LINE + got.len());
                assert!(!lines.is_empty() && lines.len().is_multiple_of(LINE));
                got.extend_from_slice(lines);
            });
            parts.iter().for_each(|part| lines.add(part));
            lines.end();
            let mut expected = parts.concat();
            expected.resize(expected.len().next_multiple_of(LINE), 0);
            prop_assert_eq!(got, expected);
        }
    }
}
