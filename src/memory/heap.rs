//! A memory on the heap: for unit tests, fuzzing and the loom models. It is in every build.
#![expect(unsafe_code, reason = "hands out slices of cells by the rules of `Memory`")]

use super::Memory;
use crate::concurrency::sync::unmodelled::{Mutex, PoisonError};
use crate::concurrency::sync::{AtomicU64, Ordering, Tracker};
use std::cell::UnsafeCell;

const WORD: usize = size_of::<u64>();
const LINE: usize = 64;

#[repr(align(64))]
#[expect(dead_code, reason = "its bytes are reached through `HeapMemory::base`")]
struct HeapLine(UnsafeCell<[u8; LINE]>);

/// Zeroed bytes on the heap. Control words live apart from the payload, because loom's atomics are
/// not plain integers; a tracker for each word of payload lets loom see unordered accesses.
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
