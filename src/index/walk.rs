//! Walks over all entries, beside writers and through growth.
//!
//! The routes form a tree: below a prefix of d bits lie the two of d + 1 bits. The cursor is a
//! stack of its parts that are still to do, each with the first bucket to do there; a part whose
//! chunk was split is replaced by the two below it, with the same bucket. A key's route and bucket
//! never change, so however chunks are replaced meanwhile, each key's bucket is read exactly once.
//! A key that lives throughout has its slot there whenever that is, so it is met exactly once; one
//! that comes or goes, at most once.
//!
//! A bucket is read whole, then its entries are given out one by one, each looked at once more.

use super::Index;
use super::chunk::{Chunk, load};
use super::entry::{Entry, Word};
use super::grow::for_each_word;
use crate::concurrency::epoch::Guard;
use std::ptr;

/// A part of the tree: the routes that end in a prefix, from one bucket on.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    prefix: u64,
    depth: u32,
    bucket: usize,
}

/// Where a walk is. It borrows nothing, so it can be kept anywhere; but see [`Walk::is_at_rest`].
#[derive(Clone, Debug)]
pub struct Walk {
    /// Still to do, next one last.
    parts: Vec<Subtree>,
    /// The bucket being given out: where it was read, its words, and how many are done.
    prefix: u64,
    bucket: usize,
    chunk: usize,
    words: Vec<Word>,
    done: usize,
}

impl Walk {
    pub(super) fn new() -> Self {
        let whole = Subtree { prefix: 0, depth: 0, bucket: 0 };
        Self { parts: vec![whole], prefix: 0, bucket: 0, chunk: 0, words: Vec::new(), done: 0 }
    }

    /// The next entry that is not a tombstone, or is a pending one: whether that counts is for the
    /// caller to find out. The flag says that its chunk was replaced since it
    /// was read, so that the caller has to look the key up: it may have been overwritten or
    /// removed.
    ///
    /// Addresses are good as long as the guard is, so calls may only change from one guard to
    /// another while the walk [is at rest](Walk::is_at_rest).
    pub fn next<const SLOTS: usize>(
        &mut self,
        index: &Index<SLOTS>,
        guard: &Guard,
    ) -> Option<(Entry, bool)> {
        self.next_ahead(index, guard, |_| ())
    }

    /// The same; `ahead` is told of entries that will probably be given out soon, long enough
    /// before that their records can be fetched meanwhile. Nothing more is promised of them.
    pub fn next_ahead<const SLOTS: usize>(
        &mut self,
        index: &Index<SLOTS>,
        guard: &Guard,
        mut ahead: impl FnMut(Entry),
    ) -> Option<(Entry, bool)> {
        loop {
            while let Some(&seen) = self.words.get(self.done) {
                let (word, moved) = self.reload(index, guard, seen);
                self.done += 1;
                if !word.is_dead() {
                    return Some((word.entry(), moved));
                }
            }
            if !self.read_on(index, guard, &mut ahead) {
                return None;
            }
        }
    }

    /// The next entry, whatever it is.
    #[cfg(stratalog_simulation)]
    pub fn next_of_all<const SLOTS: usize>(
        &mut self,
        index: &Index<SLOTS>,
        guard: &Guard,
    ) -> Option<Entry> {
        while self.is_at_rest() {
            if !self.read_on(index, guard, &mut |_| ()) {
                return None;
            }
        }
        self.done += 1;
        self.words.get(self.done - 1).map(|word| word.entry())
    }

    /// The entry that will probably be given out next, unless a bucket has to be read for it.
    #[must_use]
    #[inline]
    pub fn peek(&self) -> Option<Entry> {
        self.words.get(self.done).map(|word| word.entry())
    }

    /// Returns whether the next call reads a bucket afresh, so that it may be given another guard.
    /// True every ten entries or so.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.done >= self.words.len()
    }

    /// The word of this slot now, if its chunk is still the current one.
    fn reload<const SLOTS: usize>(
        &self,
        index: &Index<SLOTS>,
        guard: &Guard,
        seen: Word,
    ) -> (Word, bool) {
        let chunk = index.directory.readable(self.prefix, guard);
        if identity(chunk) != self.chunk {
            return (seen, true);
        }
        let mut bucket = chunk.bucket(self.bucket);
        for _ in 0..self.done / SLOTS {
            let Some(behind) = bucket.behind() else { return (seen, true) };
            bucket = behind;
        }
        (bucket.slots.get(self.done % SLOTS).map_or(seen, load), false)
    }

    /// Reads the next bucket that is not empty; `false` if there is none. Shows the words behind.
    fn read_on<const SLOTS: usize>(
        &mut self,
        index: &Index<SLOTS>,
        guard: &Guard,
        ahead: &mut impl FnMut(Entry),
    ) -> bool {
        self.words.clear();
        self.done = 0;
        while let Some(part) = self.parts.last_mut() {
            let chunk = index.directory.readable(part.prefix, guard);
            if chunk.depth() > part.depth {
                let high = Subtree { prefix: part.prefix | 1 << part.depth, ..*part };
                let low = *part;
                self.parts.pop();
                self.parts.extend([high, low].map(|p| Subtree { depth: p.depth + 1, ..p }));
            } else if part.bucket >= chunk.width() {
                self.parts.pop();
            } else {
                (self.prefix, self.bucket, self.chunk) =
                    (part.prefix, part.bucket, identity(chunk));
                part.bucket += 1;
                for_each_word(chunk.bucket(self.bucket), |word| self.words.push(word));
                if part.bucket < chunk.width() {
                    for_each_word(chunk.bucket(part.bucket), |word| ahead(word.entry()));
                }
                if !self.words.is_empty() {
                    return true;
                }
            }
        }
        false
    }
}

/// Tells chunks apart that one guard protects.
fn identity<const SLOTS: usize>(chunk: &Chunk<SLOTS>) -> usize {
    ptr::from_ref(chunk).addr()
}
