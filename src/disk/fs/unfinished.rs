//! A directory that is filled under a temporary name and then renamed, as a backup is.

use super::directory::{names_in, parent};
use super::{Directory, TEMPORARY_ENDING, create_directory, random};
use crate::error::{At, Error};
use crate::os::fs::{self, Dir};
use rustix::fs::{AtFlags, Mode};
use rustix::io::retry_on_intr;
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// A directory under a temporary name, next to the one that it will become. Unless it is finished,
/// it is removed with all that is in it.
#[derive(Debug)]
pub struct UnfinishedDirectory {
    parent: Directory,
    name: OsString,
    /// What it will be called.
    target: OsString,
    directory: Directory,
    /// Opened when it was made: what is in it can be removed where no descriptor is left.
    listing: Dir,
    finished: bool,
}

/// Begins what will be the directory `target`, which must be missing or empty.
pub fn begin_directory(target: &Path) -> Result<UnfinishedDirectory, Error> {
    let taken = || Error::io(target, io::Error::from(io::ErrorKind::AlreadyExists));
    match Directory::open(target).and_then(|found| found.names()) {
        Ok(names) if names.is_empty() => {}
        Ok(_) => return Err(taken()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(taken()),
        Err(error) => return Err(Error::io(target, error)),
    }
    let target_name = target.file_name().ok_or_else(taken)?.to_owned();
    create_directory(parent(target))?;
    let parent = Directory::open(parent(target)).at(parent(target))?;
    begin_under(parent, target, target_name)
}

fn begin_under(
    parent: Directory,
    target: &Path,
    target_name: OsString,
) -> Result<UnfinishedDirectory, Error> {
    let mut name = target_name.clone();
    name.push(format!(".{:016x}{TEMPORARY_ENDING}", u64::from_le_bytes(random()?)));
    let made = retry_on_intr(|| fs::mkdirat(parent.fd(), &name, Mode::RWXU));
    made.map_err(|errno| Error::io(target, errno.into()))?;
    let opened = Directory::open_under(&parent, &name, target.with_file_name(&name));
    let opened = opened.and_then(|directory| Ok((directory.listing()?, directory)));
    let (listing, directory) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            fs::unlinkat(parent.fd(), &name, AtFlags::REMOVEDIR).unwrap_or(());
            return Err(Error::io(target, error));
        }
    };
    let (target, finished) = (target_name, false);
    // Before the sync: if that fails, dropping this removes the directory.
    let new = UnfinishedDirectory { parent, name, target, directory, listing, finished };
    new.parent.sync().at(new.parent.path())?;
    Ok(new)
}

impl UnfinishedDirectory {
    /// The directory, as it is now.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Gives it its name, if that is still free or names an empty directory.
    pub fn finish(mut self) -> Result<(), Error> {
        let target = self.parent.path().join(&self.target);
        self.directory.sync().at(&target)?;
        let parent = self.parent.fd();
        let renamed = retry_on_intr(|| fs::renameat(parent, &self.name, parent, &self.target));
        let renamed = renamed.map_err(|errno| match io::Error::from(errno) {
            error if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                io::ErrorKind::AlreadyExists.into()
            }
            error => error,
        });
        renamed.at(&target)?;
        self.finished = true;
        self.parent.sync().at(self.parent.path())
    }
}

impl Drop for UnfinishedDirectory {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The caller gets the error that led here.
        if let Ok(names) = names_in(&mut self.listing) {
            names.iter().for_each(|name| drop(self.directory.remove_if_there(name)));
        }
        fs::unlinkat(self.parent.fd(), &self.name, AtFlags::REMOVEDIR).unwrap_or(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::OFlags;
    use std::fs::{File, read_dir};

    #[test]
    fn a_directory_whose_temporary_name_cannot_be_synced_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The kernel syncs nothing through such a descriptor, and does all else.
        let fd = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        let parent = Directory::of_file(File::from(fd), dir.path().to_owned());
        let begun = begin_under(parent, &dir.path().join("copy"), "copy".into());
        assert!(matches!(begun, Err(Error::Io { path, .. }) if path == dir.path()));
        assert_eq!(read_dir(dir.path()).unwrap().count(), 0);
    }
}
