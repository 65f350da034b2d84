//! Mappings, as in `memmap2`.

use crate::disk::PAGE;
use crate::fs::File;
use crate::machine::{calling, here};
use crate::scheduler::Point;
use rustix::io::Errno;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use memmap2::{Advice, UncheckedAdvice};

/// How to map.
#[derive(Clone, Debug, Default)]
pub struct MmapOptions {
    len: usize,
}

impl MmapOptions {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of bytes to map.
    pub fn len(&mut self, len: usize) -> &mut Self {
        self.len = len;
        self
    }

    /// Maps a file.
    pub fn map_raw(&self, file: &File) -> io::Result<MmapRaw> {
        let machine = calling();
        machine.point(Point::Call("mmap"));
        let most = machine.settings().mappings_max;
        let faulty = machine.meets(machine.faults().no_mapping, "no mapping");
        let process = machine.scheduler().process();
        let most = if faulty { 0 } else { most };
        let mapped = machine.disk_mut().map((file.open(), process), self.len, most);
        let (id, base) = mapped.ok_or(Errno::NOMEM)?;
        Ok(MmapRaw(Kind::File { id, base, len: self.len, file: Arc::clone(file.open_file()) }))
    }

    /// Maps a file for reading.
    pub fn map_raw_read_only(&self, file: &File) -> io::Result<MmapRaw> {
        self.map_raw(file)
    }

    /// Memory of no file.
    pub fn map_anon(&self) -> io::Result<MmapMut> {
        Ok(MmapMut(memmap2::MmapOptions::new().len(self.len).map_anon()?))
    }
}

/// Memory of no file.
#[derive(Debug)]
pub struct MmapMut(memmap2::MmapMut);

impl Deref for MmapMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for MmapMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A mapping.
#[derive(Debug)]
pub struct MmapRaw(Kind);

#[derive(Debug)]
enum Kind {
    /// The address of the file's bytes, which stay where they are while a mapping is there.
    File {
        id: u64,
        base: usize,
        len: usize,
        file: Arc<crate::fs::OpenFile>,
    },
    Anonymous(memmap2::MmapRaw),
}

impl From<MmapMut> for MmapRaw {
    fn from(map: MmapMut) -> Self {
        Self(Kind::Anonymous(memmap2::MmapRaw::from(map.0)))
    }
}

impl Drop for MmapRaw {
    fn drop(&mut self) {
        if let (Kind::File { id, .. }, Some(machine)) = (&self.0, here()) {
            machine.disk_mut().unmap(*id);
        }
    }
}

impl MmapRaw {
    /// Bytes of it.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::File { len, .. } => *len,
            Kind::Anonymous(map) => map.len(),
        }
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it begins.
    #[must_use]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        match &self.0 {
            Kind::File { base, .. } => std::ptr::with_exposed_provenance_mut(*base),
            Kind::Anonymous(map) => map.as_mut_ptr(),
        }
    }

    /// Where it begins.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.as_mut_ptr().cast_const()
    }

    /// A hint about all of it.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(advice, 0, self.len())
    }

    /// A hint about a part.
    pub fn advise_range(&self, advice: Advice, at: usize, len: usize) -> io::Result<()> {
        if let Kind::File { id, .. } = &self.0 {
            let machine = calling();
            machine.point(Point::Call("madvise"));
            // A store there would be a SIGBUS, and this says so.
            if matches!(advice, Advice::PopulateWrite)
                && !machine.disk_mut().fill_mapped(*id, at..at + len)
            {
                return Err(Errno::FAULT.into());
            }
        }
        Ok(())
    }

    /// As memmap2's of this name.
    ///
    /// # Safety
    ///
    /// As memmap2's of this name.
    #[expect(unsafe_code, reason = "has memmap2's signature")]
    pub unsafe fn unchecked_advise_range(
        &self,
        advice: UncheckedAdvice,
        at: usize,
        len: usize,
    ) -> io::Result<()> {
        if let Kind::File { id, .. } = &self.0 {
            let machine = calling();
            machine.point(Point::Call("madvise"));
            if matches!(advice, UncheckedAdvice::Remove) {
                machine.disk_mut().punch_mapped(*id, at..at + len);
            }
        }
        Ok(())
    }

    /// Writes it back to the device.
    pub fn flush(&self) -> io::Result<()> {
        match &self.0 {
            Kind::File { file, .. } => file.sync("msync"),
            Kind::Anonymous(map) => map.flush(),
        }
    }
}

const WORD: usize = 8;

/// A page of live bytes. Mapped ones are stored to through their address, so they are cells.
#[repr(align(4096))]
pub(crate) struct Page([AtomicU64; PAGE / WORD]);

impl Page {
    pub(crate) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; PAGE / WORD])
    }

    pub(crate) fn bytes(&self) -> [u8; PAGE] {
        *self.view()
    }

    /// Its bytes, before anything is stored to it.
    #[expect(unsafe_code, reason = "so that whole pages are copied and compared at once")]
    pub(crate) fn view(&self) -> &[u8; PAGE] {
        // SAFETY: the cells are as many initialised bytes, without a stricter alignment; all tasks
        // are on this thread, and none of them runs while one of this module's functions does,
        // which store nothing to a page that they have a view of.
        unsafe { &*self.0.as_ptr().cast::<[u8; PAGE]>() }
    }

    pub(crate) fn set(&self, bytes: &[u8; PAGE]) {
        if self.view() == bytes {
            return;
        }
        for (from, word) in bytes.as_chunks::<WORD>().0.iter().zip(&self.0) {
            let new = u64::from_ne_bytes(*from);
            if word.load(Ordering::Relaxed) != new {
                word.store(new, Ordering::Relaxed);
            }
        }
    }
}
