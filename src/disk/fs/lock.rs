//! The lock of a store that is open for writing.

use super::{Directory, LOCK, no_regular_file, start_of};
use crate::error::{At, Error};
use crate::os::fs::{File, MetadataExt, TryLockError};
use crate::os::process;
use rustix::fs::OFlags;
use std::io::Write;
use std::path::PathBuf;

/// The lock of a store that is open for writing; dropping it gives it up.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
    /// The file has another name, too.
    linked: bool,
    /// The lock is the parent process's.
    inherited: bool,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // By name, not by closing the file alone: a process that is being started just now has it
        // open, too, until its exec. Closing does it all the same if this fails.
        if !self.inherited {
            drop(self.file.unlock());
        }
    }
}

impl DirectoryLock {
    /// Closes the copy that a child process has inherited. Parent and child share the lock, so the
    /// child must not unlock it; it is released when the parent unlocks it, or when neither has the
    /// file open.
    pub fn leave_to_parent(mut self) {
        self.inherited = true;
    }

    /// The file's text is for people: who holds it.
    pub fn name_holder(&mut self) {
        if self.linked {
            // By its other name it may be anybody's: it is locked, and not written to.
            return;
        }
        let (file, text) = (&mut self.file, holder_text());
        // Without it the lock holds all the same, and a full disk must not stop an opening.
        drop(file.set_len(0).and_then(|()| file.write_all(text.as_bytes())));
    }
}

impl Directory {
    /// Locks the store for writing. Changes nothing if the lock file is there.
    ///
    /// Whoever is the first to lock it syncs the directory's name: the process that gave it its
    /// name may have been killed before that was on the device.
    pub fn lock(&self) -> Result<DirectoryLock, Error> {
        if !self.has(LOCK) {
            self.sync_name().at(self.path())?;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let path = self.path().join(LOCK);
        let file = self.open_at(LOCK, flags).at(&path)?;
        let metadata = file.metadata().at(&path)?;
        if !metadata.is_file() {
            return Err(Error::io(&path, no_regular_file()));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = self.lock_holder();
                return Err(Error::Locked { path: self.path().to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, error)),
        }
        Ok(DirectoryLock { file, linked: metadata.nlink() > 1, inherited: false })
    }

    /// What the lock file says about the last holder; at most a line.
    fn lock_holder(&self) -> Option<String> {
        let file = self.open_regular(LOCK, false).ok()?;
        let text = String::from_utf8(start_of(file, 4096).ok()?).ok()?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }
}

fn holder_text() -> String {
    let program = process::program().unwrap_or_else(|_| PathBuf::from("unknown program"));
    format!("process {} ({})\n", process::id(), program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_the_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let mut first = directory.lock().unwrap();
        first.name_holder();
        let Err(Error::Locked { path, holder }) = directory.lock() else { panic!("it is locked") };
        assert_eq!(path, dir.path());
        let holder = holder.unwrap();
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        drop(first);
        assert!(directory.lock().is_ok());
    }
}
