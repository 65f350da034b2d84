//! A memory on the heap that says when it is flushed, and when it is gone.
#![expect(unsafe_code, reason = "hands everything on to a memory that keeps the contract")]

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use stratalog::internals::format::header::Role;
use stratalog::internals::format::ids::Sequence;
use stratalog::internals::format::slot::SLOT_BYTES;
use stratalog::internals::segment::Segment;
use stratalog::internals::{HeapMemory, Memory};

/// What is known of a memory from outside.
#[derive(Debug, Default)]
pub struct Watch {
    /// It was dropped.
    pub gone: AtomicBool,
    /// Flushes fail.
    pub broken: AtomicBool,
    /// So many slots were decided when the last flush that ended well began.
    pub flushed: AtomicU64,
    /// Flushes begun. Not modelled.
    pub flushes: std::sync::atomic::AtomicU64,
}

/// A memory and what is known of it.
#[derive(Debug)]
pub struct Watched {
    inner: HeapMemory,
    watch: Arc<Watch>,
    /// Where its segment's directory begins.
    directory_at: usize,
}

impl Watched {
    /// A new segment of the log in such a memory.
    #[must_use]
    pub fn segment(bytes: u64, sequence: Sequence, watch: &Arc<Watch>) -> Segment<Self> {
        let identity = crate::Heap { segment_bytes: bytes }.identity(sequence);
        debug_assert_eq!(identity.role, Role::Log);
        let inner = HeapMemory::new(identity.segment_bytes as usize);
        let directory_at = identity.directory_at as usize;
        Segment::create(Self { inner, watch: Arc::clone(watch), directory_at }, &identity)
    }

    fn decided(&self) -> u64 {
        let word = |slot: usize| self.inner.word(self.directory_at + slot * SLOT_BYTES);
        // Acquire: as a walk through the directory would.
        let slots = (0..3).take_while(|&slot| word(slot).load(Ordering::Acquire) != 0);
        slots.count() as u64
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Relaxed: who reads it asks whether this could have come first.
        self.watch.gone.store(true, Ordering::Relaxed);
    }
}

// SAFETY: `HeapMemory` keeps the contract.
unsafe impl Memory for Watched {
    const STREAMS_FROM: usize = HeapMemory::STREAMS_FROM;

    fn len(&self) -> usize {
        self.inner.len()
    }
    fn word(&self, at: usize) -> &AtomicU64 {
        self.inner.word(at)
    }
    unsafe fn write(&self, at: usize, bytes: &[u8]) {
        // SAFETY: the caller's contract is the same.
        unsafe { HeapMemory::write(&self.inner, at, bytes) }
    }
    unsafe fn stream(&self, at: usize, lines: &[u8]) {
        // SAFETY: the caller's contract is the same.
        unsafe { HeapMemory::stream(&self.inner, at, lines) }
    }
    fn end_stream(&self, at: usize, len: usize) {
        self.inner.end_stream(at, len);
    }
    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: the caller's contract is the same.
        unsafe { HeapMemory::bytes(&self.inner, at, len) }
    }
    fn flush(&self) -> std::io::Result<()> {
        self.watch.flushes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let covered = self.decided();
        // The device takes its time: others may commit meanwhile, and are not covered.
        loom::thread::yield_now();
        // Acquire, Release: as plain as a device; the callers bring orderings of their own.
        if self.watch.broken.load(Ordering::Acquire) {
            return Err(std::io::Error::other("planted"));
        }
        self.watch.flushed.fetch_max(covered, Ordering::Release);
        Ok(())
    }
}
