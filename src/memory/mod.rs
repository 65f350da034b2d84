//! Where bytes become atomics: the seam below which loom's build differs from the one that ships.
//!
//! A memory is a run of bytes in which every aligned 8-byte word has one role for life: *control*
//! (touched through [`Memory::word`] only) or *payload* (through [`Memory::write`] and
//! [`Memory::bytes`] only). Payload is written once, by the owner of a reservation, before an
//! atomic operation publishes it, and only read afterwards.
#![expect(unsafe_code, reason = "declares the unsafe contract of payload access")]

mod heap;
#[cfg(not(stratalog_loom))]
mod mmap;
#[cfg(not(stratalog_loom))]
mod stream;

pub use heap::HeapMemory;
#[cfg(not(stratalog_loom))]
pub use mmap::{FOLIO_BYTES, Folios, MmapMemory, page_wiped_on_fork};

use crate::sync::AtomicU64;

/// A run of bytes that threads share by the rules of this module.
///
/// # Safety
///
/// `word` must return the same word for the same offset every time, `bytes` what `write` put
/// there (zeros before), at addresses that stay valid and in place as long as the memory lives,
/// offset 0 at a multiple of 64.
pub unsafe trait Memory: Send + Sync + 'static {
    /// Frames of so many bytes and more are streamed; shorter ones are not worth the wait for
    /// [`Memory::end_stream`].
    const STREAMS_FROM: usize;

    /// Bytes in all.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The control word at byte `at`, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If the word does not lie inside; callers bound their offsets first.
    fn word(&self, at: usize) -> &AtomicU64;

    /// Copies `bytes` to `at`.
    ///
    /// # Safety
    ///
    /// The range lies inside, is payload, belongs to the caller alone, and nothing reads it before
    /// an atomic operation of the caller published it.
    unsafe fn write(&self, at: usize, bytes: &[u8]);

    /// Copies whole lines to `at`, a multiple of 64, past the caches if that can be done. Nothing
    /// may be published before [`Memory::end_stream`] was called for the range. Control words in
    /// it must never have been stored to: they are zero, and are given as zeros.
    ///
    /// # Safety
    ///
    /// As [`Memory::write`], but for such control words; the length is a multiple of 64.
    unsafe fn stream(&self, at: usize, lines: &[u8]);

    /// Orders what this thread has streamed to `at..at + len` before whatever it stores from now
    /// on.
    fn end_stream(&self, at: usize, len: usize);

    /// The payload at `at..at + len`.
    ///
    /// # Safety
    ///
    /// The range lies inside, is payload, and every write of it happened before this call.
    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8];

    /// A hint that the line at `at` will be read soon. Reads nothing.
    fn prefetch(&self, _at: usize) {}

    /// Whether pages that have left the page cache are to come back one by one, or, as the kernel
    /// likes, with what lies around them. For memories that are settled.
    fn read_singly(&self, _singly: bool) {}

    /// Whether they come back one by one.
    fn is_read_singly(&self) -> bool {
        false
    }

    /// A hint that `at..at + len` will be read soon: begins to bring it into memory, whether it is
    /// read singly or not.
    fn will_read(&self, _at: usize, _len: usize) {}

    /// A flush comes now that has much to write, below `low` and from `high` on: whatever makes it
    /// cheaper. Changes no byte.
    fn before_long_flush(&self, _low: usize, _high: usize) {}

    /// Makes everything written so far survive power loss.
    fn flush(&self) -> std::io::Result<()>;

    /// Returns the space of `from..to` to the system, as far as no store beside it can take it
    /// again: what is returned reads as zeros from now on. Nothing may be stored there any more.
    fn give_back(&self, _from: usize, _to: usize) -> std::io::Result<()> {
        Ok(())
    }

    /// Whether a store may need room that its file system does not have: it would kill the process.
    fn lacks_blocks(&self) -> bool {
        false
    }

    /// No flush is expected any more: gives back what only flushing needs.
    fn settle(&self) {}
}

/// A hint that a value will be read soon: the line in which it begins. Reads nothing.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(stratalog_loom)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: part of every x86-64; loads nothing that a program could see, never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(stratalog_loom))))]
    let _: &T = value;
}
