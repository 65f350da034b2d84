//! What is known of records that expire: when to look for them again, and how much had expired when
//! that was done last.
//!
//! Writers note their moments at any time, also while somebody looks. No moment is lost that way:
//! who looks takes back what was noted so far, and then walks. A moment is noted once the index
//! leads to its record, so the walk finds the records of the notes that were taken back (the
//! Release and Acquire below); later notes stay.

use super::Segment;
use crate::concurrency::sync::unmodelled::{Mutex, MutexGuard, PoisonError};
use crate::concurrency::sync::{AtomicU64, Ordering};
use crate::memory::Memory;

/// Part of what a segment counts.
#[derive(Debug)]
pub(super) struct ExpiryState {
    /// When to look again for what has expired, nanoseconds since 1970.
    next_scan_ns: AtomicU64,
    /// Live bytes that had expired when that was done last.
    bytes: AtomicU64,
    /// Held by the one who looks. Only the background and compactions do.
    scanning: Mutex<()>,
}

impl Default for ExpiryState {
    fn default() -> Self {
        let (next_scan_ns, bytes) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { next_scan_ns, bytes, scanning: Mutex::default() }
    }
}

/// A look for what has expired, under way. Its drop, by unwinding too, has the segment looked at
/// again, unless it was [finished](ExpiryScan::finish).
#[derive(Debug)]
pub struct ExpiryScan<'s> {
    expiry: &'s ExpiryState,
    finished: bool,
    _turn: MutexGuard<'s, ()>,
}

impl ExpiryScan<'_> {
    /// Notes when to look again.
    pub fn finish(mut self, next_scan_ns: u64) {
        // Relaxed: a note that was made meanwhile stays if it is earlier.
        self.expiry.next_scan_ns.fetch_min(next_scan_ns, Ordering::Relaxed);
        self.finished = true;
    }
}

impl Drop for ExpiryScan<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Relaxed: as in `finish`.
            self.expiry.next_scan_ns.store(0, Ordering::Relaxed);
        }
    }
}

impl<M: Memory> Segment<M> {
    /// Notes that a record of this segment expires, at this moment; once the index leads to it.
    pub fn note_expiry(&self, at_ns: u64) {
        // Release: pairs with the Acquire in `begin_expiry_scan`; whoever takes the note back finds
        // the record in the index.
        self.counts.expiry.next_scan_ns.fetch_min(at_ns, Ordering::Release);
    }

    /// Begins to look for what has expired, after whoever is at it just now, if anything may have
    /// by then that had not when it was looked for last.
    pub fn begin_expiry_scan(&self, by_ns: u64) -> Option<ExpiryScan<'_>> {
        let expiry = &self.counts.expiry;
        // Not while it is taken back: somebody looks, and `bytes` is not yet what he finds.
        let turn = expiry.scanning.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: taken back below, by an exchange.
        if expiry.next_scan_ns.load(Ordering::Relaxed) > by_ns {
            return None;
        }
        // Acquire: pairs with the Release in `note_expiry`.
        expiry.next_scan_ns.swap(u64::MAX, Ordering::Acquire);
        Some(ExpiryScan { expiry, finished: false, _turn: turn })
    }

    /// When something in it may have expired that had not when it was looked for last.
    pub fn next_scan_ns(&self) -> u64 {
        // Relaxed: a hint; `begin_expiry_scan` decides.
        self.counts.expiry.next_scan_ns.load(Ordering::Relaxed)
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
