//! A store's directory as an open descriptor, and the operations on the files in it.

use super::{
    LOCK, MANIFEST, MANIFEST_BYTES_MAX, NEXT_MANIFEST, SEGMENT_ENDING, SPARES, SegmentFileName,
    TEMPORARY_ENDING, no_regular_file, parse_segment_name, start_of, sync, temporary,
};
use crate::concurrency::sync::unmodelled::{Arc, AtomicBool, Ordering};
use crate::error::{At, Error};
use crate::os::fs::{self, AsFd, BorrowedFd, Dir, File, FileExt, MetadataExt};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is at the path where a store should be.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Nothing.
    Missing,
    /// A directory that is empty, or that an interrupted creation left behind.
    Blank,
    /// A directory with a manifest.
    Store,
    /// A directory with segments but without a manifest.
    Headless,
    /// Anything else.
    Foreign,
}

/// Examines a path and changes nothing. Returns the directory as well, if there is one.
pub fn find(path: &Path) -> io::Result<(StoreState, Option<Directory>)> {
    match Directory::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((StoreState::Missing, None)),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Ok((StoreState::Foreign, None))
        }
        Err(error) => Err(error),
        Ok(directory) => Ok((directory.state()?, Some(directory))),
    }
}

/// Makes a store's directory and the parents that are missing, readable by their owner only. Each
/// of them survives a power loss once this returns.
pub fn create_directory(path: &Path) -> Result<(), Error> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        match fs::metadata(ancestor) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            _ => {
                if let Ok(found) = Directory::open(ancestor) {
                    found.sync_name().at(ancestor)?;
                }
                break;
            }
        }
    }
    for directory in missing.into_iter().rev() {
        match fs::create_private_directory(directory) {
            Ok(()) => {}
            // Another process made it. It may not have synced the parent yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(directory, error)),
        }
        let above = parent(directory);
        Directory::open(above).and_then(|above| above.sync()).at(above)?;
    }
    Ok(())
}

/// A bare file name has an empty parent: the working directory.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An open directory [H1]. A clone shares the descriptor.
#[derive(Clone, Debug)]
pub struct Directory {
    file: Arc<File>,
    /// Whether power loss leaves `MANIFEST` and `MANIFEST.next` to the files that have these names
    /// now [H2]. A handle that was just opened does not know.
    names_are_durable: Arc<AtomicBool>,
    /// As the caller gave it, for messages.
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Directory {
    /// Opens a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::fill_standard_streams();
        Self::at(fs::CWD, path.as_os_str(), path.to_owned())
    }

    /// Opens the directory `name` in `parent`; `path` is for messages.
    pub(super) fn open_under(parent: &Self, name: &OsStr, path: PathBuf) -> io::Result<Self> {
        Self::at(parent.fd(), name, path)
    }

    fn at(parent: BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> io::Result<Self> {
        let flags = DIRECTORY | OFlags::CLOEXEC;
        let file = retry_on_intr(|| fs::openat(parent, name, flags, Mode::empty()))?;
        Ok(Self::of_file(file, path))
    }

    pub(super) fn of_file(file: File, path: PathBuf) -> Self {
        Self { file: Arc::new(file), names_are_durable: Arc::default(), path }
    }

    /// Its path as the caller gave it, for messages only.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Opens a file. Creation gives its owner alone the right to read and write it.
    pub(super) fn open_at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let (flags, mode) = (flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        Ok(retry_on_intr(|| fs::openat(self.fd(), name, flags, mode))?)
    }

    /// Opens a regular file. Follows no symbolic link and does not wait.
    pub(super) fn open_regular(&self, name: &str, writable: bool) -> io::Result<File> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let file = self.open_at(name, access | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(no_regular_file()) }
    }

    /// Opens a segment's file to read it through the page cache.
    pub fn open_to_read(&self, name: &str) -> io::Result<File> {
        self.open_regular(name, false)
    }

    /// Returns whether a segment's file may hold data in a range: where the file system knows its
    /// holes, and what was never written, not there. True where nothing is known.
    #[must_use]
    pub fn may_hold_data(&self, name: &str, range: std::ops::Range<u64>) -> bool {
        let Ok(file) = self.open_regular(name, false) else { return true };
        match fs::seek(&file, rustix::fs::SeekFrom::Data(range.start)) {
            Ok(at) => at < range.end,
            Err(error) => error != Errno::NXIO,
        }
    }

    /// Opens a segment's file to read it past the page cache, where the file system can.
    pub fn open_direct(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDONLY | OFlags::DIRECT | OFlags::NOFOLLOW)
    }

    /// Creates a file that is not there yet.
    pub(super) fn create_new(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::renameat(self.fd(), from, self.fd(), to))?)
    }

    /// Makes creations, renames and removals in it survive power loss.
    pub fn sync(&self) -> io::Result<()> {
        sync(&self.file)
    }

    /// Makes the name of a directory that was found survive power loss: the process that made it
    /// may have been killed before it had, or met an error.
    pub fn sync_name(&self) -> io::Result<()> {
        let above = Self::open_under(self, OsStr::new(".."), self.path.clone());
        // A directory under a parent that may not be read was not made by this program, which
        // syncs the parent; nor was a mount point.
        let Ok(above) = above else { return Ok(()) };
        if above.file.metadata()?.dev() == self.file.metadata()?.dev() {
            above.sync()?;
        }
        Ok(())
    }

    /// Removes a file, or finds it gone. Who calls it, and why: the list in `disk/fs/mod.rs`.
    pub fn remove_if_there(&self, name: &str) -> io::Result<()> {
        match retry_on_intr(|| fs::unlinkat(self.fd(), name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a segment's file and makes that durable: of a segment that was discarded. Those of
    /// dropped segments are removed together, by `SegmentFiles::remove_files`.
    pub fn remove_segment(&self, name: &str) -> io::Result<()> {
        self.remove_if_there(name)?;
        self.sync()
    }

    /// Returns whether something has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.stat(name).is_ok()
    }

    /// Returns whether nothing has this name any more.
    #[must_use]
    pub fn is_gone(&self, name: &str) -> bool {
        self.stat(name).is_err_and(|errno| errno == Errno::NOENT)
    }

    fn stat(&self, name: &str) -> Result<fs::Stat, Errno> {
        retry_on_intr(|| fs::statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// The names of its files. A name that is not UTF-8 is none of a store's: it is listed with
    /// replacement characters.
    pub fn names(&self) -> io::Result<Vec<String>> {
        names_in(&mut self.listing()?)
    }

    /// A descriptor to list it by: with a description of its own, so that the position in the
    /// listing is not shared.
    pub(super) fn listing(&self) -> io::Result<Dir> {
        Ok(retry_on_intr(|| Dir::read_from(self.fd()))?)
    }

    /// What it holds.
    pub fn state(&self) -> io::Result<StoreState> {
        // By its name first: a listing may miss it while a live writer replaces it.
        if self.has(MANIFEST) {
            return Ok(StoreState::Store);
        }
        let mut place = StoreState::Blank;
        for name in self.names()? {
            match name.as_str() {
                MANIFEST => return Ok(StoreState::Store),
                LOCK | NEXT_MANIFEST => {}
                name if name == temporary(MANIFEST) => {}
                name if parse_segment_name(name).is_some() => place = StoreState::Headless,
                _ if place != StoreState::Headless => place = StoreState::Foreign,
                _ => {}
            }
        }
        Ok(place)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let unfinished = temporary(name);
        let path = self.path.join(name);
        self.remove_if_there(&unfinished).at(&path)?;
        let written = self.create_new(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            sync(&file)
        });
        if let Err(error) = written {
            drop(self.remove_if_there(&unfinished));
            return Err(Error::io(&path, error));
        }
        self.rename(&unfinished, name).and_then(|()| self.sync()).at(&path)
    }

    /// Replaces the manifest in one step: a crash leaves the old one or the new.
    ///
    /// The new one is written over a file that has its blocks already, which then changes names
    /// with the old one. So where a file system overwrites blocks in place, this takes no room.
    /// Elsewhere, and if that file is missing, too small, or no plain file, the bytes are written
    /// to a temporary file, which is renamed.
    pub fn replace_manifest(&self, bytes: &[u8]) -> Result<(), Error> {
        if !self.exchange_manifest(bytes).at(&self.path.join(MANIFEST))? {
            self.replace(MANIFEST, bytes)?;
        }
        // Without room for it the next one is replaced as any file.
        self.keep_next_manifest(bytes.len() as u64).unwrap_or(());
        Ok(())
    }

    /// Returns whether the manifest was replaced by the file that is kept for it.
    fn exchange_manifest(&self, bytes: &[u8]) -> io::Result<bool> {
        let Some(next) = self.next_manifest(bytes.len() as u64) else { return Ok(false) };
        if self.write_next_manifest(&next, bytes).is_err() {
            // After a failed flush the kernel may take its pages for written.
            drop(self.remove_if_there(NEXT_MANIFEST));
            return Ok(false);
        }
        // Relaxed, here and below: the lock of the manifest lets one thread at a time in here.
        self.names_are_durable.store(false, Ordering::Relaxed);
        let (here, exchange) = (self.fd(), RenameFlags::EXCHANGE);
        let exchanged =
            retry_on_intr(|| fs::renameat_with(here, NEXT_MANIFEST, here, MANIFEST, exchange));
        if exchanged.is_err() {
            return Ok(false);
        }
        if let Err(error) = self.sync() {
            // The old manifest, which power loss may bring back. The next sync may be told of no
            // error, so nobody is to write to it.
            drop(self.remove_if_there(NEXT_MANIFEST));
            return Err(error);
        }
        // Relaxed: as above.
        self.names_are_durable.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// The file for the next manifest, if it takes one of this length in blocks that it has.
    fn next_manifest(&self, len: u64) -> Option<File> {
        if !self.has(MANIFEST) || !self.has(NEXT_MANIFEST) {
            return None;
        }
        let next = self.open_regular(NEXT_MANIFEST, true).ok()?;
        let about = next.metadata().ok()?;
        let fits = (len..=MANIFEST_BYTES_MAX).contains(&about.len());
        (fits && about.nlink() == 1 && about.blocks() * 512 >= about.len()).then_some(next)
    }

    /// Writes the next manifest in place. A process that was killed after it had exchanged the
    /// names may have left the manifest of the device under this one [H2]: the names come first.
    fn write_next_manifest(&self, next: &File, bytes: &[u8]) -> io::Result<()> {
        // Relaxed: as in `exchange_manifest`.
        if !self.names_are_durable.load(Ordering::Relaxed) {
            self.sync()?;
        }
        let mut padded = bytes.to_vec();
        let len = usize::try_from(next.metadata()?.len()).map_err(io::Error::other)?;
        padded.resize(len.max(bytes.len()), 0);
        next.write_all_at(&padded, 0)?;
        sync(next)
    }

    /// Sees to it that the file for the next manifest has its blocks, for one twice as long; with
    /// 0, for as long as it is. A copy of the store may have left them out.
    pub fn keep_next_manifest(&self, len: u64) -> io::Result<()> {
        let wanted = (2 * len).next_power_of_two().max(4096);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut next = self.open_at(NEXT_MANIFEST, flags)?;
        let mut about = next.metadata()?;
        if about.nlink() > 1 {
            // By its other name it belongs to a copy made by hard links: it stays as it is there.
            self.remove_if_there(NEXT_MANIFEST)?;
            next = self.open_at(NEXT_MANIFEST, flags)?;
            about = next.metadata()?;
        }
        if about.is_file() && (about.len() < wanted || about.blocks() * 512 < about.len()) {
            super::fill_holes(&next, wanted.max(about.len()))?;
        }
        Ok(())
    }

    /// Reads the manifest.
    pub fn read_manifest(&self) -> io::Result<Vec<u8>> {
        start_of(self.open_regular(MANIFEST, false)?, MANIFEST_BYTES_MAX)
    }

    /// Removes what an interrupted run left unfinished. Only under the lock.
    pub fn remove_temporaries(&self) -> io::Result<()> {
        let known =
            |n: &str| n == MANIFEST || SPARES.contains(&n) || parse_segment_name(n).is_some();
        for name in self.names()? {
            if name.strip_suffix(TEMPORARY_ENDING).is_some_and(known) {
                self.remove_if_there(&name)?;
            }
        }
        Ok(())
    }

    /// The segment files in order, and how many `*.seg` files have other names.
    pub fn list_segments(&self) -> io::Result<(Vec<SegmentFileName>, u64)> {
        let (mut found, mut foreign) = (Vec::new(), 0);
        for name in self.names()? {
            if let Some((sequence, half_salt)) = parse_segment_name(&name) {
                let path = self.path.join(&name);
                found.push(SegmentFileName { name, path, sequence, half_salt });
            } else if name.ends_with(SEGMENT_ENDING) {
                foreign += 1;
            }
        }
        found.sort_by_key(|file| (file.sequence, file.half_salt));
        Ok((found, foreign))
    }

    /// Opens a segment's file; also its length. `None` if there is something else under its name,
    /// or nothing any more.
    pub fn open_segment(&self, name: &str, writable: bool) -> io::Result<Option<(File, u64)>> {
        match self.open_regular(name, writable) {
            Ok(file) => {
                let len = file.metadata()?.len();
                Ok(Some((file, len)))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => match Errno::from_io_error(&error) {
                // A symbolic link, a directory, a pipe or socket, gone.
                Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NOENT) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Up to `len` bytes from the start of a segment's file. `None` as in
    /// [`Directory::open_segment`].
    pub fn segment_start(&self, name: &str, len: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((file, _)) = self.open_segment(name, false)? else { return Ok(None) };
        start_of(file, len).map(Some)
    }

    /// Bytes that its file system still has for its user in files of this length: it may have
    /// fewer files left than bytes for them. Any number where the file system does not say.
    pub fn free_bytes(&self, file_bytes: u64) -> io::Result<u64> {
        let about = retry_on_intr(|| fs::fstatvfs(self.fd()))?;
        if about.f_blocks == 0 {
            return Ok(u64::MAX);
        }
        let free = about.f_bavail.saturating_mul(about.f_frsize);
        // Some do not count their files.
        let counts = about.f_files > 0;
        Ok(if counts { free.min(about.f_favail.saturating_mul(file_bytes)) } else { free })
    }

    /// Bytes allocated to a file; none if it is gone.
    #[must_use]
    pub fn allocated_bytes(&self, name: &str) -> u64 {
        self.stat(name).map_or(0, |stat| allocated(&stat))
    }
}

/// What [`Directory::names`] answers, from the beginning of a listing.
pub(super) fn names_in(listing: &mut Dir) -> io::Result<Vec<String>> {
    listing.rewind();
    let mut names = Vec::new();
    for entry in listing {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn allocated(stat: &fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::super::NewSegmentFile;
    use super::*;
    use std::fs;

    #[test]
    fn find_tells_the_places_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let place = |name: &str| find(&at(name)).unwrap().0;
        assert_eq!(place("none"), StoreState::Missing);
        fs::write(at("file"), b"x").unwrap();
        assert_eq!(place("file"), StoreState::Foreign);
        assert_eq!(place("file/below"), StoreState::Foreign);
        fs::create_dir(at("d")).unwrap();
        assert_eq!(place("d"), StoreState::Blank);
        fs::write(at("d/LOCK"), b"").unwrap();
        fs::write(at("d/MANIFEST.tmp"), b"").unwrap();
        assert_eq!(place("d"), StoreState::Blank);
        fs::write(at("d/notes.txt"), b"").unwrap();
        assert_eq!(place("d"), StoreState::Foreign);
        fs::write(at("d/0000000001-00000000.seg"), b"").unwrap();
        assert_eq!(place("d"), StoreState::Headless);
        fs::write(at("d/MANIFEST"), b"").unwrap();
        assert_eq!(place("d"), StoreState::Store);
    }

    #[test]
    fn create_directory_makes_all_parents_and_accepts_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/../b/c");
        create_directory(&path).unwrap();
        create_directory(&path).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
    }

    #[test]
    fn a_copy_made_by_hard_links_keeps_its_file_and_the_store_gets_one_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let (next, copy) = (dir.path().join(NEXT_MANIFEST), dir.path().join("copy"));
        directory.replace_manifest(b"first").unwrap();
        fs::hard_link(&next, &copy).unwrap();
        let before = fs::read(&copy).unwrap();
        directory.replace_manifest(b"second").unwrap();
        assert_eq!(fs::metadata(&next).unwrap().nlink(), 1);
        assert!(directory.exchange_manifest(b"third").unwrap(), "the next one takes no room");
        assert!(directory.read_manifest().unwrap().starts_with(b"third"));
        assert_eq!(fs::read(&copy).unwrap(), before);
    }

    /// A directory of which no change can be synced: the kernel syncs nothing through such a
    /// descriptor, and does all else.
    fn unsynced(path: &Path) -> Directory {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        Directory::of_file(File::from(fd), path.to_owned())
    }

    /// A process that was killed after it had exchanged two manifests may have left the one that
    /// the device calls `MANIFEST` under the other name [H2].
    /// (mutation: manifest-names-unsettled)
    #[test]
    fn the_next_manifest_is_not_written_to_before_the_names_are_durable() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| File::open(dir.path().join(name)).unwrap();
        Directory::open(dir.path()).unwrap().replace_manifest(b"first").unwrap();
        // Open, so that no other file gets its number.
        let next = open(NEXT_MANIFEST);
        assert!(unsynced(dir.path()).replace_manifest(b"second").is_err());
        let (now, next) = (open(MANIFEST).metadata().unwrap(), next.metadata().unwrap());
        assert_ne!(now.ino(), next.ino(), "it was written to, and exchanged with the manifest");
        assert!(!dir.path().join(NEXT_MANIFEST).exists());
    }

    /// Each try to make a segment leaves a file otherwise, and the background tries for ever.
    #[test]
    fn a_new_file_whose_name_cannot_be_synced_is_removed_and_one_that_replaced_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let directory = unsynced(dir.path());
        for replaces in [false, true] {
            let (new, file) = NewSegmentFile::create(&directory, "it", 4096).unwrap();
            let named = if replaces { new.replace(&file) } else { new.finish(&file) };
            assert!(named.is_err());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(replaces));
        }
    }
}
