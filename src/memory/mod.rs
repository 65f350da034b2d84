//! Where bytes become atomics: the seam below which loom's build differs from the one that ships.
//!
//! A memory is a run of bytes in which every aligned 8-byte word has one role for life: *control*
//! (touched through [`Memory::word`] only) or *payload* (through [`Memory::write`],
//! [`Memory::stream`] and [`Memory::bytes`] only). Payload is written once, before an atomic
//! operation publishes it, and only read afterwards: by the owner of a reservation, or in a backup
//! by whoever makes a segment that nobody else has.
#![expect(
    unsafe_code,
    reason = "declares the contract of payload access, and keeps it on the heap"
)]

#[cfg(not(stratalog_loom))]
mod mmap;
#[cfg(not(stratalog_loom))]
mod stream;

#[cfg(not(stratalog_loom))]
pub use mmap::{FOLIO_BYTES, Folios, MmapMemory, page_wiped_on_fork};

use crate::concurrency::sync::unmodelled::{Mutex, PoisonError};
use crate::concurrency::sync::{AtomicU64, Ordering, Tracker};
use std::cell::UnsafeCell;

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

    /// Returns whether there are none.
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
    /// it must never have been stored to: they are zero. What is given for one is its first value,
    /// which the caller also stores to it, after [`Memory::end_stream`].
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

    /// Returns whether pages that have left the page cache are to come back one by one, or, as the
    /// kernel likes, with what lies around them. For memories that are settled.
    fn read_singly(&self, _singly: bool) {}

    /// Returns whether they come back one by one.
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
    fn punch_hole(&self, _from: usize, _to: usize) -> std::io::Result<()> {
        Ok(())
    }

    /// Returns whether a store may need room that its file system does not have: it would kill the
    /// process.
    fn lacks_blocks(&self) -> bool {
        false
    }

    /// No flush is expected any more: gives back what only flushing needs.
    fn end_flushing(&self) {}
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

const WORD: usize = size_of::<u64>();
const LINE: usize = 64;

#[repr(align(64))]
#[expect(dead_code, reason = "its bytes are reached through `HeapMemory::base`")]
struct HeapLine(UnsafeCell<[u8; LINE]>);

/// A memory on the heap, for unit tests, fuzzing and the loom models; it is in every build. Control
/// words live apart from the payload, because loom's atomics are not plain integers; a tracker for
/// each word of payload lets loom see unordered accesses.
pub struct HeapMemory {
    words: Box<[AtomicU64]>,
    lines: Box<[HeapLine]>,
    trackers: Box<[Tracker]>,
    /// What was streamed and is not ended yet: where, and the bytes. Kept back that long, as a
    /// processor may, so that a model notices who publishes before.
    streamed: Mutex<Vec<(usize, Vec<u8>)>>,
}

// SAFETY: payload is shared by the rules of `Memory`: written by one owner before an atomic
// operation publishes it, only read afterwards.
unsafe impl Sync for HeapMemory {}

impl HeapMemory {
    /// `len` zero bytes, rounded up to a multiple of 64.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let words = len.next_multiple_of(LINE) / WORD;
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            lines: (0..words * WORD / LINE).map(|_| HeapLine(UnsafeCell::new([0; LINE]))).collect(),
            trackers: (0..words).map(|_| Tracker::new()).collect(),
            streamed: Mutex::default(),
        }
    }

    /// A copy that begins as this one is now: what a process that dies here leaves behind. Only
    /// while nobody writes.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let copy = Self::new(self.len());
        for (to, from) in copy.words.iter().zip(&self.words) {
            // Acquire, Relaxed: the caller says that nobody writes; the copy is not shared yet.
            to.store(from.load(Ordering::Acquire), Ordering::Relaxed);
        }
        // SAFETY: nobody writes to `self`.
        let bytes = unsafe { self.bytes(0, self.len()) };
        // SAFETY: `copy` is as long, and belongs to this function alone.
        unsafe { copy.write(0, bytes) };
        copy
    }

    fn base(&self) -> *mut u8 {
        self.lines.as_ptr().cast::<u8>().cast_mut()
    }
}

// SAFETY: `lines` and `words` are boxes that never change; `base` is a multiple of 64 because a
// `HeapLine` is; all bytes are zero at first.
unsafe impl Memory for HeapMemory {
    /// All of them: the models see the same steps whatever the length.
    const STREAMS_FROM: usize = 0;

    fn len(&self) -> usize {
        self.words.len() * WORD
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[at / WORD]
    }

    unsafe fn write(&self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        for tracker in &self.trackers[at / WORD..end.div_ceil(WORD)] {
            tracker.write();
        }
        // SAFETY: the slice index above proved that `at` lies inside.
        let to = unsafe { self.base().add(at) };
        // SAFETY: the range lies inside (as above), it belongs to the caller (contract), and it is
        // in cells, so writing through a shared reference is allowed.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    unsafe fn stream(&self, at: usize, lines: &[u8]) {
        let mut streamed = self.streamed.lock().unwrap_or_else(PoisonError::into_inner);
        streamed.push((at, lines.to_vec()));
    }

    fn end_stream(&self, at: usize, len: usize) {
        let mut streamed = self.streamed.lock().unwrap_or_else(PoisonError::into_inner);
        // Others' ranges stay: to each its own end.
        let ended: Vec<_> =
            streamed.extract_if(.., |(begin, _)| (at..at + len).contains(begin)).collect();
        // Not held below, where a model may switch threads.
        drop(streamed);
        for (at, lines) in ended {
            // SAFETY: what is kept was streamed by the rules of `write`, and the range is still
            // its writer's alone: nothing is published before this.
            unsafe { self.write(at, &lines) };
        }
    }

    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        for tracker in &self.trackers[at / WORD..(at + len).div_ceil(WORD)] {
            tracker.read();
        }
        // SAFETY: the slice index above proved that `at` lies inside.
        let from = unsafe { self.base().add(at) };
        // SAFETY: the range lies inside (as above) and no write of it comes any more (contract).
        unsafe { std::slice::from_raw_parts(from, len) }
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for HeapMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeapMemory").field("len", &self.len()).finish_non_exhaustive()
    }
}
