//! A memory that is a mapped file.
//!
//! M1: the mapping is of a whole, fully allocated file that this process never shrinks; it stays
//! until the value is dropped. Another process that truncates the file is outside the model (the
//! store's lock keeps well-meant ones away), and would show as SIGBUS.
#![expect(unsafe_code, reason = "a mapping is raw memory")]

use super::Memory;
use crate::sync::AtomicU64;
use crate::sync::unmodelled::{Mutex, PoisonError};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::{self, Read};

/// Blocks are given back in multiples of this many bytes.
const PAGE: usize = 4096;

/// A file, mapped whole and shared.
#[derive(Debug)]
pub struct MmapMemory {
    map: MmapRaw,
    /// For flushing: `fdatasync` costs two thirds of an `msync`. Given back once the memory is
    /// settled, so that a store of thousands of segments does not need as many descriptors.
    file: Mutex<Option<File>>,
}

impl MmapMemory {
    /// Maps a file for reading and writing.
    pub fn new(file: File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(&file)?;
        Ok(Self { map, file: Mutex::new(Some(file)) })
    }

    /// Maps a file for reading. Storing to it, or flushing, is a bug of the caller.
    pub fn read_only(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        Ok(Self { map, file: Mutex::new(None) })
    }

    /// An anonymous copy of a file that is shorter than `len`, zeros behind its end. The file is
    /// only read.
    pub fn copy_of(mut file: File, len: usize) -> io::Result<Self> {
        let mut copy = MmapOptions::new().len(len).map_anon()?;
        let mut at = 0;
        while at < len {
            match file.read(&mut copy[at..]) {
                Ok(0) => break,
                Ok(n) => at += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { map: MmapRaw::from(copy), file: Mutex::new(None) })
    }

    /// Gives the blocks behind the whole pages of `from..to` back to the file system: they read as
    /// zeros from now on. Nothing may be stored there any more.
    pub fn give_back(&self, from: usize, to: usize) -> io::Result<()> {
        let (from, to) = (from.next_multiple_of(PAGE), to / PAGE * PAGE);
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_ref()
            && from < to
        {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, hole, from as u64, (to - from) as u64)?;
        }
        Ok(())
    }

    /// Makes pages `at..at + len` present and writable ahead of use, so that a writer's first
    /// store takes no fault. Changes no byte; a kernel that cannot do it says so and nothing is
    /// lost.
    pub fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        self.map.advise_range(Advice::PopulateWrite, at, len)
    }
}

/// Under the address sanitizer (`tests/sanitize.sh`) a mapping that was given up stays, so that
/// nothing else comes to lie there, and is poisoned: a read through a slice that has outlived it is
/// reported, whatever it would have found.
#[cfg(stratalog_poison)]
impl Drop for MmapMemory {
    fn drop(&mut self) {
        unsafe extern "C" {
            fn __asan_poison_memory_region(at: *const u8, len: usize);
        }
        let Ok(more) = MmapOptions::new().len(PAGE).map_anon() else { return };
        let map = std::mem::replace(&mut self.map, MmapRaw::from(more));
        // SAFETY: the mapping is whole, and nobody may touch it any more: its owner is gone.
        unsafe { __asan_poison_memory_region(map.as_ptr(), map.len()) };
        std::mem::forget(map);
    }
}

// SAFETY: M1; a mapping begins at a page, and a new file's bytes are zero.
unsafe impl Memory for MmapMemory {
    fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.map.len(), "a control word outside");
        // SAFETY: the assertion: `at` lies inside.
        let word = unsafe { self.map.as_mut_ptr().add(at) };
        // SAFETY: M1; aligned, and a control word is only ever touched as an atomic. On a read-only
        // mapping only loads are made, which are plain loads on every 64-bit target.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    #[inline]
    unsafe fn write(&self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.map.len());
        // SAFETY: inside, by the caller's contract.
        let to = unsafe { self.map.as_mut_ptr().add(at) };
        // SAFETY: inside and the caller's alone, by its contract; a slice of the caller's cannot
        // overlap a range that nobody may have read yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    #[inline]
    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        debug_assert!(at + len <= self.map.len());
        // SAFETY: inside, by the caller's contract.
        let from = unsafe { self.map.as_ptr().add(at) };
        // SAFETY: M1, and no write of the range comes any more, by the caller's contract.
        unsafe { std::slice::from_raw_parts(from, len) }
    }

    #[inline]
    fn prefetch(&self, at: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if at < self.map.len() {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: inside (above).
            let line = unsafe { self.map.as_ptr().add(at) };
            // SAFETY: part of every x86-64; loads nothing that a program could see, never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _: usize = at;
    }

    fn flush(&self) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let flushed = match file.as_ref() {
                Some(file) => file.sync_data(),
                None => self.map.flush(),
            };
            match flushed {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn settle(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
