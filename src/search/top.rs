//! The best k of what was offered.

use crate::format::ids::Lsn;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

/// The k nearest so far, each id once. Holds no more than was offered, however large k is.
#[derive(Debug)]
pub struct Top<'p, R> {
    k: usize,
    /// The farthest on top.
    heap: BinaryHeap<Ranked<'p, R>>,
    /// Those in `heap`.
    ids: HashSet<&'p [u8]>,
}

/// How far up something comes: the nearest first, of equals the one with the lower LSN.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    nearness: f64,
    lsn: Lsn,
}

impl Rank {
    /// A rank. What is not a number is the farthest there is.
    #[must_use]
    pub fn new(nearness: f64, lsn: Lsn) -> Self {
        // Adding zero makes one zero of the two.
        let nearness = if nearness.is_nan() { f64::NEG_INFINITY } else { nearness + 0.0 };
        Self { nearness, lsn }
    }

    fn order(self, other: Self) -> Ordering {
        other.nearness.total_cmp(&self.nearness).then(self.lsn.cmp(&other.lsn))
    }
}

#[derive(Debug)]
struct Ranked<'p, R> {
    rank: Rank,
    id: &'p [u8],
    what: R,
}

impl<R> Ord for Ranked<'_, R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.order(other.rank)
    }
}

impl<R> PartialOrd for Ranked<'_, R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> PartialEq for Ranked<'_, R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R> Eq for Ranked<'_, R> {}

impl<'p, R> Top<'p, R> {
    /// Nothing yet.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new(), ids: HashSet::new() }
    }

    /// Returns whether something at most so near could still come in.
    #[inline]
    #[must_use]
    pub fn admits(&self, bound: f64) -> bool {
        if self.heap.len() < self.k {
            return true;
        }
        self.heap.peek().is_some_and(|farthest| bound >= farthest.rank.nearness)
    }

    /// Returns whether this would come in: it is nearer than the farthest, and its id is not in
    /// already.
    #[must_use]
    pub fn would_enter(&self, rank: Rank, id: &[u8]) -> bool {
        let near = self.heap.len() < self.k
            || self.heap.peek().is_some_and(|farthest| rank.order(farthest.rank).is_lt());
        near && !self.ids.contains(id)
    }

    /// Takes it in if [`Top::would_enter`] says so; the farthest makes room.
    pub fn offer(&mut self, rank: Rank, id: &'p [u8], what: R) {
        if !self.would_enter(rank, id) {
            return;
        }
        if self.heap.len() >= self.k
            && let Some(farthest) = self.heap.pop()
        {
            self.ids.remove(farthest.id);
        }
        self.ids.insert(id);
        self.heap.push(Ranked { rank, id, what });
    }

    /// Nearness and payload of each, the nearest first.
    pub fn into_nearest_first(self) -> impl Iterator<Item = (f64, R)> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| (ranked.rank.nearness, ranked.what))
    }
}
