//! The process that opened a store, and how a child process finds out that it did not.
//!
//! After `fork` a child has a copy of the store: the index and all counters are its own from then
//! on, the segments and the lock are shared with its parent, and the background threads exist in
//! the parent only. A write by the child would take space that the parent's index does not know
//! of. So the child may read, and every write asks here first.
//!
//! The question is asked by each put and must cost no system call. A page that the kernel wipes in
//! the child answers it by one load. Where the kernel cannot wipe pages, the process id does.

use crate::error::Error;
use crate::memory::page_wiped_on_fork;
use memmap2::MmapMut;

/// What the page holds in the process that made it. A wiped page holds zeros.
const MARK: u8 = 1;

/// The process that opened a store.
#[derive(Debug)]
pub struct OwnerProcess {
    /// `None` where the kernel cannot wipe it in a child.
    page: Option<MmapMut>,
    id: u32,
}

impl OwnerProcess {
    /// The calling process.
    #[must_use]
    pub fn new() -> Self {
        let page = page_wiped_on_fork().ok().and_then(|mut page| {
            *page.first_mut()? = MARK;
            Some(page)
        });
        Self { page, id: std::process::id() }
    }

    /// Returns whether the calling process is the one that opened the store, and not a child of it.
    /// One load, or one system call where the kernel cannot wipe pages.
    #[inline]
    #[must_use]
    pub fn is_current(&self) -> bool {
        match &self.page {
            Some(page) => page.first() == Some(&MARK),
            None => std::process::id() == self.id,
        }
    }

    /// Refuses in a child process: for everything that writes, or waits for a background thread.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    #[inline]
    pub fn check(&self) -> Result<(), Error> {
        if self.is_current() { Ok(()) } else { Err(Error::Forked) }
    }
}

impl Default for OwnerProcess {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_page_the_process_id_decides() {
        let id = std::process::id();
        let owner = |id| OwnerProcess { page: None, id };
        assert!(owner(id).is_current() && owner(id).check().is_ok());
        assert!(matches!(owner(id + 1).check(), Err(Error::Forked)));
    }

    #[test]
    fn a_page_that_was_wiped_decides_whatever_the_process_id() {
        let mut owner = OwnerProcess::new();
        assert!(owner.is_current());
        assert_eq!(owner.page.is_some(), cfg!(target_os = "linux"));
        owner.id += 1;
        assert_eq!(owner.is_current(), owner.page.is_some());
        if let Some(page) = &mut owner.page {
            page.fill(0);
        }
        assert!(!owner.is_current());
    }
}
