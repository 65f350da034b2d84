//! A memory that is a mapped file.
//!
//! M1: the mapping is of a whole, fully allocated file that this process never shrinks; it stays
//! until the value is dropped. Another process that truncates the file is outside the model (the
//! store's lock keeps well-meant ones away), and would show as SIGBUS.
#![expect(unsafe_code, reason = "a mapping is raw memory")]

use super::{Memory, stream};
use crate::concurrency::sync::unmodelled::{AtomicU64 as Counter, Mutex, Ordering, PoisonError};
use crate::concurrency::sync::{AtomicU64, control_point};
use crate::error::Error;
use crate::os::fs::File;
use crate::os::map::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use crate::os::process::{kept_descriptors, open_files_max};
use memmap2::MmapMut;
use std::io::{self, Read};

const PAGE: usize = 4096;

/// A store to a mapping has the file system allocate all blocks of the folio that lie in a hole,
/// and kills the process if there is no room for them. So a hole begins and ends at a multiple of
/// this.
pub use crate::os::limits::FOLIO_BYTES;

/// What the page cache is to hold what it makes from now on in. The kernel writes back whole
/// folios, whatever of them was stored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folios {
    /// One for each huge page, mapped as one, where the kernel can.
    Large,
    /// One for each page.
    Small,
}

/// In `preferred`.
const LARGE: u64 = 1;
const SMALL: u64 = 2;
/// Settled, and read singly.
const SINGLE: u64 = 3;

/// A file, mapped whole and shared.
#[derive(Debug)]
pub struct MmapMemory {
    map: MmapRaw,
    /// Pages from here to the end were made ahead of use.
    made_from: Counter,
    /// What folios were asked for: 0 none, 1 large, 2 small; 3: settled, pages are read singly.
    preferred: Counter,
    /// What is stored here is in a file.
    is_shared_file: bool,
    /// 1: the file has holes that a store may have to fill.
    lacks_blocks: Counter,
    /// For flushing: `fdatasync` costs two thirds of an `msync`.
    descriptor: Mutex<Option<Descriptor>>,
}

/// How many descriptors the memories of this process may keep ([`kept_descriptors`]): a small part
/// of those that the process may have. The others are flushed by `msync`. Nothing is lost by that:
/// a mapping keeps the open file description that it was made from, and `msync` reports write-back
/// errors from the same place in it as `fdatasync` on a descriptor would (`mm/msync.c`,
/// `vfs_fsync_range`).
const DESCRIPTORS_MAX: u64 = 64;
const DESCRIPTORS_MIN: u64 = 2;
const PART_OF_LIMIT: u64 = 8;

/// A descriptor that counts among those. Dropping it returns its place.
#[derive(Debug)]
struct Descriptor(File);

impl Descriptor {
    /// One for this file, if there is a place.
    fn of(file: &File) -> Option<Self> {
        let most = open_files_max() / PART_OF_LIMIT;
        let most = most.clamp(DESCRIPTORS_MIN, DESCRIPTORS_MAX);
        // Relaxed: a count that orders nothing, here and below.
        if kept_descriptors().fetch_add(1, Ordering::Relaxed) < most
            && let Ok(file) = file.try_clone()
        {
            return Some(Self(file));
        }
        // Relaxed: as above.
        kept_descriptors().fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // Relaxed: as in `of`.
        kept_descriptors().fetch_sub(1, Ordering::Relaxed);
    }
}

impl MmapMemory {
    /// Maps a file for reading and writing. The mapping needs no descriptor of the caller's.
    ///
    /// # Errors
    ///
    /// Out of memory if the process may have no more mappings.
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(file)?;
        let mut memory = Self::over(map, Descriptor::of(file));
        memory.is_shared_file = true;
        Ok(memory)
    }

    /// Maps a file for reading. Storing to it, or flushing, is a bug of the caller.
    ///
    /// # Errors
    ///
    /// As [`MmapMemory::new`].
    pub fn read_only(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        Ok(Self::over(map, None))
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
        Ok(Self::over(MmapRaw::from(copy), None))
    }

    fn over(map: MmapRaw, descriptor: Option<Descriptor>) -> Self {
        let (made_from, preferred) = (Counter::new(map.len() as u64), Counter::new(0));
        let descriptor = Mutex::new(descriptor);
        let lacks_blocks = Counter::new(0);
        Self { map, made_from, preferred, is_shared_file: false, lacks_blocks, descriptor }
    }

    /// Notes whether a store may need blocks that the file does not have.
    pub fn set_lacks_blocks(&self, lacks: bool) {
        // Relaxed: who has the memory was told of it by other means; later it only gets better.
        self.lacks_blocks.store(u64::from(lacks), Ordering::Relaxed);
    }

    /// Says what pages are to be made in. A hint: a kernel that cannot do it makes some.
    pub fn prefer(&self, folios: Folios) {
        // Without read-ahead folios do not grow.
        let (advice, code) = match folios {
            Folios::Large => (Advice::HugePage, LARGE),
            Folios::Small => (Advice::Random, SMALL),
        };
        // Relaxed: a hint for `end_flushing`, and what saves system calls here.
        if self.preferred.swap(code, Ordering::Relaxed) != code {
            self.map.advise(advice).unwrap_or(());
        }
    }

    /// Pages from this offset to the end were made ahead of use.
    pub fn made_from(&self) -> usize {
        // Relaxed: only the thread that makes them asks.
        self.made_from.load(Ordering::Relaxed) as usize
    }

    /// Sets [`MmapMemory::made_from`].
    pub fn set_made_from(&self, at: usize) {
        // Relaxed: as in `made_from`.
        self.made_from.store(at as u64, Ordering::Relaxed);
    }

    /// Makes pages `at..at + len` present and writable ahead of use, so that a writer's first
    /// store takes no fault. Changes no byte; a kernel that cannot do it says so and nothing is
    /// lost.
    pub fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        self.map.advise_range(Advice::PopulateWrite, at, len)
    }
}

impl MmapMemory {
    /// Has the first `len` bytes ready for stores.
    ///
    /// # Errors
    ///
    /// [`Error::StorageFull`]: the file lacks blocks there, and there is no room for them. A kernel
    /// before Linux 5.14 does not say so.
    pub fn secure(&self, len: usize) -> Result<(), Error> {
        /// `EFAULT`: where a store would be a SIGBUS.
        const FAULT: i32 = 14;
        match self.populate(0, len.next_multiple_of(PAGE)) {
            Err(error) if error.raw_os_error() == Some(FAULT) => Err(Error::StorageFull),
            _ => Ok(()),
        }
    }
}

/// An anonymous page of zeros that the kernel replaces by zeros in a child process.
///
/// # Errors
///
/// The kernel cannot do it: before Linux 4.14, and elsewhere.
#[cfg(all(target_os = "linux", not(stratalog_simulation)))]
pub fn page_wiped_on_fork() -> io::Result<MmapMut> {
    let mut page = MmapOptions::new().len(PAGE).map_anon()?;
    let advice = rustix::mm::Advice::LinuxWipeOnFork;
    // SAFETY: the range is the whole mapping, which nothing but `page` refers to, and the advice
    // changes none of its bytes in this process.
    unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), PAGE, advice) }?;
    Ok(page)
}

/// As on Linux; here the kernel cannot do it.
#[cfg(not(all(target_os = "linux", not(stratalog_simulation))))]
pub fn page_wiped_on_fork() -> io::Result<MmapMut> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Under a sanitizer (`tests/sanitize.sh`) a mapping that was given up stays, so that nothing else
/// comes to lie there, and may not be touched: a read through a slice that has outlived it is a
/// fault there and then, whatever it would have found.
#[cfg(stratalog_poison)]
impl Drop for MmapMemory {
    fn drop(&mut self) {
        unsafe extern "C" {
            fn mprotect(at: *mut u8, len: usize, access: i32) -> i32;
        }
        const NONE: i32 = 0;
        let Ok(more) = MmapOptions::new().len(PAGE).map_anon() else { return };
        let map = std::mem::replace(&mut self.map, MmapRaw::from(more));
        // SAFETY: the mapping is whole, and nobody may touch it any more: its owner is gone.
        if unsafe { mprotect(map.as_mut_ptr(), map.len(), NONE) } == 0 {
            std::mem::forget(map);
        }
    }
}

// SAFETY: M1; a mapping begins at a page, and a new file's bytes are zero.
unsafe impl Memory for MmapMemory {
    const STREAMS_FROM: usize = 1024;

    fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.map.len(), "a control word outside");
        control_point();
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
    unsafe fn stream(&self, at: usize, lines: &[u8]) {
        debug_assert!(at + lines.len() <= self.map.len());
        // SAFETY: inside, by the caller's contract.
        let to = unsafe { self.map.as_mut_ptr().add(at) };
        // SAFETY: inside and the caller's alone, by its contract; lines of a mapping, which begins
        // at a page; a slice of the caller's cannot overlap a range that nobody may have read yet.
        unsafe { stream::copy(to, lines) };
    }

    #[inline]
    fn end_stream(&self, _at: usize, _len: usize) {
        stream::end();
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
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // Of an address outside nothing becomes but a hint that is wrong.
            let line = self.map.as_ptr().wrapping_add(at);
            // SAFETY: part of every x86-64; loads nothing that a program could see, never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _: usize = at;
    }

    fn read_singly(&self, singly: bool) {
        let (from, to, advice) =
            if singly { (0, SINGLE, Advice::Random) } else { (SINGLE, 0, Advice::Normal) };
        // Relaxed: hints. One whose pages are asked for otherwise is not settled: another time.
        let changed =
            self.preferred.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        if changed.is_ok() {
            self.map.advise(advice).unwrap_or(());
        }
    }

    #[inline]
    fn is_read_singly(&self) -> bool {
        // Relaxed: a hint.
        self.preferred.load(Ordering::Relaxed) == SINGLE
    }

    fn will_read(&self, at: usize, len: usize) {
        let len = len.min(self.map.len().saturating_sub(at));
        if len > 0 {
            // A kernel that cannot leaves it to the faults.
            self.map.advise_range(Advice::WillNeed, at, len).unwrap_or(());
        }
    }

    /// A flush takes the right to write to each dirty page away, page by page, each time with an
    /// interrupt to every core that runs a thread of this process. Taking all pages out of the page
    /// table at once needs one. They stay in the page cache, and come back readable in runs.
    fn before_long_flush(&self, low: usize, high: usize) {
        if !self.is_shared_file {
            return;
        }
        let (all, out) = (self.map.len(), UncheckedAdvice::DontNeed);
        // SAFETY: M1; a shared mapping of a file: what was stored is in the file, and is found
        // there by the next access. Only private pages would lose it.
        let out = unsafe { self.map.unchecked_advise_range(out, 0, all) };
        if out.is_ok() {
            // A kernel that cannot leaves it to the readers' faults.
            let high = (high / PAGE * PAGE).min(all);
            drop(self.map.advise_range(Advice::PopulateRead, 0, low.min(all)));
            drop(self.map.advise_range(Advice::PopulateRead, high, all - high));
        }
    }

    fn flush(&self) -> io::Result<()> {
        let descriptor = self.descriptor.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let flushed = match descriptor.as_ref() {
                Some(Descriptor(file)) => file.sync_data(),
                None => self.map.flush(),
            };
            match flushed {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn punch_hole(&self, from: usize, to: usize) -> io::Result<()> {
        let (from, to) = (from.next_multiple_of(FOLIO_BYTES), to / FOLIO_BYTES * FOLIO_BYTES);
        if self.is_shared_file && from < to {
            // The kernel punches a hole into the file, as `fallocate` would, and needs no
            // descriptor for it.
            let hole = UncheckedAdvice::Remove;
            // SAFETY: M1; what lies there is not read any more, but as zeros (contract), and no
            // slice into it exists: nothing was ever granted there.
            unsafe { self.map.unchecked_advise_range(hole, from, to - from) }?;
        }
        Ok(())
    }

    fn lacks_blocks(&self) -> bool {
        // Relaxed: as in `set_lacks_blocks`.
        self.lacks_blocks.load(Ordering::Relaxed) != 0
    }

    fn end_flushing(&self) {
        // From here on pages are only read, and one that has left the page cache is not to bring
        // two megabytes back with it. Relaxed: a hint.
        for preferred in [LARGE, SMALL] {
            let (to, order) = (0, Ordering::Relaxed);
            if self.preferred.compare_exchange(preferred, to, order, order).is_ok() {
                if preferred == LARGE {
                    self.map.advise(Advice::NoHugePage).unwrap_or(());
                }
                self.map.advise(Advice::Normal).unwrap_or(());
            }
        }
        *self.descriptor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_settled_is_read_singly_and_stays_so() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        let memory = MmapMemory::new(&file, 64 << 10).unwrap();
        memory.prefer(Folios::Small);
        memory.read_singly(true);
        assert!(!memory.is_read_singly(), "its pages are still as writers want them");
        memory.end_flushing();
        memory.read_singly(true);
        assert!(memory.is_read_singly());
        memory.end_flushing();
        assert!(memory.is_read_singly(), "a flush that comes late changes nothing");
        // Hints for what is not there, or only in part.
        for (at, len) in [(0, 1), (60 << 10, usize::MAX), (64 << 10, 1), (usize::MAX, usize::MAX)] {
            memory.will_read(at, len);
        }
        memory.read_singly(false);
        assert!(!memory.is_read_singly());
    }
}
