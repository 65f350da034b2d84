//! Counts the live and the expired bytes of a segment, by which compaction chooses its victims, and
//! remembers when to scan again for expired records.
//!
//! Writers note their moments at any time, also while somebody looks. No moment is lost that way:
//! who looks takes back what was noted so far, and then walks. A moment is noted once the index
//! leads to its record, so the walk finds the records of the notes that were taken back (the
//! Release and Acquire below); later notes stay.

use crate::concurrency::sync::unmodelled::{Mutex, MutexGuard, PoisonError};
use crate::concurrency::sync::{AtomicU64, Ordering};

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

/// Bytes of a segment's frames by what they are worth, on lines of their own: readers never miss
/// because of them. See [`Segment::usage`](super::Segment::usage).
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Usage {
    /// Bytes of frames that the index points at.
    live: AtomicU64,
    /// Bytes of tombstones that compaction has found to be needed.
    needed: AtomicU64,
    expiry: ExpiryState,
}

impl Usage {
    /// Notes that the index points at one more frame of so many bytes.
    pub fn add_live(&self, bytes: u64) {
        // Relaxed: statistics.
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the index points at one frame less. May come before its `add_live` on another
    /// thread, so the count wraps.
    pub fn sub_live(&self, bytes: u64) {
        // Relaxed: statistics.
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of tombstones that compaction found to be needed: dead, but not to be had back yet.
    pub fn needed_bytes(&self) -> u64 {
        // Relaxed: statistics.
        self.needed.load(Ordering::Relaxed)
    }

    /// More of them are needed.
    pub fn add_needed(&self, bytes: u64) {
        // Relaxed: statistics.
        self.needed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The index that the counts spoke of is gone.
    pub fn reset_live(&self) {
        // Relaxed: statistics; recovery is alone.
        self.live.store(0, Ordering::Relaxed);
    }

    /// Bytes of frames that the index points at; exact when nobody writes.
    pub fn live_bytes(&self) -> u64 {
        // Relaxed: statistics. A count in passing below zero reads as none.
        let bytes = self.live.load(Ordering::Relaxed);
        if bytes > i64::MAX as u64 { 0 } else { bytes }
    }

    /// Notes that a record of this segment expires, at this moment; once the index leads to it.
    pub fn note_expiry(&self, at_ns: u64) {
        // Release: pairs with the Acquire in `begin_expiry_scan`; whoever takes the note back finds
        // the record in the index.
        self.expiry.next_scan_ns.fetch_min(at_ns, Ordering::Release);
    }

    /// Begins to look for what has expired, after whoever is at it just now, if anything may have
    /// by then that had not when it was looked for last.
    pub fn begin_expiry_scan(&self, by_ns: u64) -> Option<ExpiryScan<'_>> {
        let expiry = &self.expiry;
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
        self.expiry.next_scan_ns.load(Ordering::Relaxed)
    }

    /// Notes how many live bytes have expired; how many had before.
    pub fn set_expired(&self, bytes: u64) -> u64 {
        // Relaxed: statistics.
        self.expiry.bytes.swap(bytes, Ordering::Relaxed)
    }

    /// Live bytes that had expired when that was last looked for.
    pub fn expired_bytes(&self) -> u64 {
        // Relaxed: statistics.
        self.expiry.bytes.load(Ordering::Relaxed)
    }
}
