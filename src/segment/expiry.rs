//! What is known of records that expire: when to look for them again, and how much had expired when
//! that was done last.
//!
//! Writers note their moments at any time, also while somebody looks. No moment is lost that way:
//! who looks takes back what was noted so far, and then walks. A moment is noted once the index
//! leads to its record, so the walk finds the records of the notes that were taken back (the
//! Release and Acquire below); later notes stay.

use super::Segment;
use crate::memory::Memory;
use crate::sync::unmodelled::{Mutex, MutexGuard, PoisonError};
use crate::sync::{AtomicU64, Ordering};

/// Part of what a segment counts.
#[derive(Debug)]
pub(super) struct Expiry {
    /// When to look again for what has expired, nanoseconds since 1970.
    look_at: AtomicU64,
    /// Live bytes that had expired when that was done last.
    bytes: AtomicU64,
    /// Held by the one who looks. Only the background and compactions do.
    looking: Mutex<()>,
}

impl Default for Expiry {
    fn default() -> Self {
        let (look_at, bytes) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { look_at, bytes, looking: Mutex::default() }
    }
}

/// A look for what has expired, under way. Its drop, by unwinding too, has the segment looked at
/// again, unless it was [finished](Look::finish).
#[derive(Debug)]
pub struct Look<'s> {
    expiry: &'s Expiry,
    finished: bool,
    _turn: MutexGuard<'s, ()>,
}

impl Look<'_> {
    /// Notes when to look again.
    pub fn finish(mut self, look_at: u64) {
        // Relaxed: a note that was made meanwhile stays if it is earlier.
        self.expiry.look_at.fetch_min(look_at, Ordering::Relaxed);
        self.finished = true;
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Relaxed: as in `finish`.
            self.expiry.look_at.store(0, Ordering::Relaxed);
        }
    }
}

impl<M: Memory> Segment<M> {
    /// Notes that a record of this segment expires, at this moment; once the index leads to it.
    pub fn note_expiry(&self, at_ns: u64) {
        // Release: pairs with the Acquire in `begin_look`; whoever takes the note back finds the
        // record in the index.
        self.counts.expiry.look_at.fetch_min(at_ns, Ordering::Release);
    }

    /// Begins to look for what has expired, after whoever is at it just now, if anything may have
    /// by then that had not when it was looked for last.
    pub fn begin_look(&self, by_ns: u64) -> Option<Look<'_>> {
        let expiry = &self.counts.expiry;
        // Not while it is taken back: somebody looks, and `bytes` is not yet what he finds.
        let turn = expiry.looking.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: taken back below, by an exchange.
        if expiry.look_at.load(Ordering::Relaxed) > by_ns {
            return None;
        }
        // Acquire: pairs with the Release in `note_expiry`.
        expiry.look_at.swap(u64::MAX, Ordering::Acquire);
        Some(Look { expiry, finished: false, _turn: turn })
    }

    /// When something in it may have expired that had not when it was looked for last.
    pub fn look_at(&self) -> u64 {
        // Relaxed: a hint; `begin_look` decides.
        self.counts.expiry.look_at.load(Ordering::Relaxed)
    }

    /// Notes how many live bytes have expired; how many had before.
    pub fn set_expired(&self, bytes: u64) -> u64 {
        // Relaxed: statistics.
        self.counts.expiry.bytes.swap(bytes, Ordering::Relaxed)
    }

    /// Live bytes that had expired when that was last looked for.
    pub fn expired_bytes(&self) -> u64 {
        // Relaxed: statistics.
        self.counts.expiry.bytes.load(Ordering::Relaxed)
    }
}
