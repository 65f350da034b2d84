//! Files and directories: names, creation, locking, syncing. The only file that talks to the file
//! system; everything it makes is fsynced before it returns, the directory too.

use crate::error::Error;
use crate::format::checksum::Salt;
use crate::format::header::{SegmentId, StoreId};
use crate::format::ids::Sequence;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The manifest's name in a store's directory.
pub const MANIFEST: &str = "MANIFEST";
/// The lock file's name.
pub const LOCK: &str = "LOCK";
/// Ending of segment files.
const SEGMENT_ENDING: &str = ".seg";
/// Ending of files that are not finished.
const TEMPORARY_ENDING: &str = ".tmp";
/// Names, without that ending, of the files that are kept back for a full disk.
pub const SPARES: [&str; 2] = ["spare-for-removals", "spare-for-copies"];
/// No manifest is longer: 16 bytes for each of 2^22 segments.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Name of a segment's file: its sequence, and half its salt, so that two preparers of one
/// sequence never meet.
#[must_use]
pub fn segment_name(sequence: Sequence, salt: Salt) -> String {
    format!("{:010x}-{:08x}{SEGMENT_ENDING}", sequence.0, salt.0 as u32)
}

/// Sequence and half salt of a segment file's name.
#[must_use]
pub fn parse_segment_name(name: &str) -> Option<(Sequence, u32)> {
    let (sequence, salt) = name.strip_suffix(SEGMENT_ENDING)?.split_once('-')?;
    let lower_hex = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if sequence.len() != 10 || salt.len() != 8 || !lower_hex(sequence) || !lower_hex(salt) {
        return None;
    }
    let sequence = u64::from_str_radix(sequence, 16).ok()?;
    Some((Sequence(sequence), u32::from_str_radix(salt, 16).ok()?))
}

/// What is at the path where a store should be.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
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

/// Looks at a path without touching it.
pub fn look(path: &Path) -> io::Result<Place> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Missing),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Place::Foreign),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.is_dir() => return Ok(Place::Foreign),
        Ok(_) => {}
    }
    // By its name first: a listing may miss it while a live writer replaces it.
    if path.join(MANIFEST).symlink_metadata().is_ok() {
        return Ok(Place::Store);
    }
    let mut place = Place::Blank;
    for entry in entries(path)? {
        let name = entry?.file_name();
        match name.to_string_lossy().as_ref() {
            MANIFEST => return Ok(Place::Store),
            LOCK => {}
            name if name == temporary(MANIFEST) => {}
            name if parse_segment_name(name).is_some() => place = Place::Headless,
            _ if place != Place::Headless => place = Place::Foreign,
            _ => {}
        }
    }
    Ok(place)
}

/// The entries of a directory. Opening it is resumed when a signal interrupts it; for files the
/// standard library does so itself.
fn entries(path: &Path) -> io::Result<fs::ReadDir> {
    loop {
        match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY_ENDING}")
}

/// Makes a store's directory, readable by its owner only.
pub fn create_directory(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(no_room)?;
    Ok(sync_directory(parent(path))?)
}

/// A directory under a temporary name, beside the one that it will become. Removed with all that is
/// in it unless it is finished.
#[derive(Debug)]
pub struct UnfinishedDirectory {
    path: PathBuf,
    finished: bool,
}

/// Begins what will be the directory `target`, which must be missing or empty.
pub fn begin_directory(target: &Path) -> Result<UnfinishedDirectory, Error> {
    let taken = || Error::Io(io::Error::from(io::ErrorKind::AlreadyExists));
    match entries(target) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(taken());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(taken()),
        Err(error) => return Err(Error::Io(error)),
    }
    let mut name = target.file_name().ok_or_else(taken)?.to_owned();
    name.push(format!(".{:016x}{TEMPORARY_ENDING}", u64::from_le_bytes(random()?)));
    let path = target.with_file_name(name);
    create_directory(&path)?;
    Ok(UnfinishedDirectory { path, finished: false })
}

impl UnfinishedDirectory {
    /// Where it is now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, if that is still free or names an empty directory.
    pub fn finish(mut self, target: &Path) -> Result<(), Error> {
        sync_directory(&self.path)?;
        fs::rename(&self.path, target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        })?;
        self.finished = true;
        Ok(sync_directory(parent(target))?)
    }
}

impl Drop for UnfinishedDirectory {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is what the caller hears of.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// A bare file name has an empty parent: the working directory.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes creations, renames and removals in a directory survive power loss.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

/// `fsync`, resumed when a signal interrupts it.
fn sync(file: &File) -> io::Result<()> {
    loop {
        match file.sync_all() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Out of space, or over quota, is an error of its own.
pub fn no_room(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::StorageFull,
        _ => Error::Io(error),
    }
}

/// Opens a regular file, following no symbolic link and waiting for nobody.
fn open_regular(path: &Path, writable: bool) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(no_regular_file());
    }
    Ok(file)
}

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Whether a file has more than one name: what is written to it shows under the others, too.
pub fn has_other_names(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 1)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Replaces a file's contents in one step: a crash leaves the old ones or the new.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let unfinished = directory.join(temporary(name));
    remove_if_there(&unfinished)?;
    let written = create_new(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        sync(&file)
    });
    if let Err(error) = written {
        drop(fs::remove_file(&unfinished));
        return Err(no_room(error));
    }
    fs::rename(&unfinished, directory.join(name)).map_err(no_room)?;
    Ok(sync_directory(directory)?)
}

/// Removes a file, or finds it gone.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Reads the manifest.
pub fn read_manifest(directory: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_regular(&directory.join(MANIFEST), false)?;
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes a segment's file and makes that durable.
pub fn remove_segment(directory: &Path, name: &str) -> io::Result<()> {
    remove_if_there(&directory.join(name))?;
    sync_directory(directory)
}

/// Removes what an interrupted run left unfinished. Only under the lock.
pub fn remove_temporaries(directory: &Path) -> io::Result<()> {
    for entry in entries(directory)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let ours = name.strip_suffix(TEMPORARY_ENDING);
        let known =
            |n: &str| n == MANIFEST || SPARES.contains(&n) || parse_segment_name(n).is_some();
        if ours.is_some_and(known) {
            remove_if_there(&directory.join(name.as_ref()))?;
        }
    }
    Ok(())
}

/// A file that looks like a segment by its name.
#[derive(Debug)]
pub struct SegmentFile {
    /// Its path.
    pub path: PathBuf,
    /// From its name.
    pub sequence: Sequence,
    /// From its name: the low half of the salt.
    pub half_salt: u32,
}

impl SegmentFile {
    /// Whether its name is this segment's.
    #[must_use]
    pub fn is_of(&self, id: SegmentId) -> bool {
        id.sequence == self.sequence && id.salt.0 as u32 == self.half_salt
    }
}

/// The segment files of a directory in order, and how many `*.seg` files have other names.
pub fn list_segments(directory: &Path) -> io::Result<(Vec<SegmentFile>, u64)> {
    let (mut found, mut foreign) = (Vec::new(), 0);
    for entry in entries(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some((sequence, half_salt)) = parse_segment_name(&name) {
            found.push(SegmentFile { path: entry.path(), sequence, half_salt });
        } else if name.ends_with(SEGMENT_ENDING) {
            foreign += 1;
        }
    }
    found.sort_by_key(|file| (file.sequence, file.half_salt));
    Ok((found, foreign))
}

/// Opens a segment's file; also its length. `None` if there is something else under its name, or
/// nothing any more.
pub fn open_segment(path: &Path, writable: bool) -> io::Result<Option<(File, u64)>> {
    use rustix::io::Errno;
    match open_regular(path, writable) {
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

/// Whether nothing is there under a name any more.
pub fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Up to so many bytes from the start of a segment's file. `None` as in [`open_segment`].
pub fn segment_start(path: &Path, len: u64) -> io::Result<Option<Vec<u8>>> {
    let Some((file, _)) = open_segment(path, false)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A new, fully allocated file under a temporary name; [`NewSegmentFile::finish`] gives it its own.
#[derive(Debug)]
pub struct NewSegmentFile {
    directory: PathBuf,
    name: String,
    finished: bool,
}

impl NewSegmentFile {
    /// Creates and allocates the file. On failure nothing of it is left.
    pub fn create(directory: &Path, name: &str, len: u64) -> Result<(Self, File), Error> {
        let new = Self { directory: directory.to_owned(), name: name.to_owned(), finished: false };
        let file = create_new(&directory.join(temporary(name))).map_err(no_room)?;
        allocate(&file, len).map_err(no_room)?;
        Ok((new, file))
    }

    /// Gives it another name to become.
    pub fn rename(&mut self, name: &str) -> Result<(), Error> {
        let at = |name: &str| self.directory.join(temporary(name));
        fs::rename(at(&self.name), at(name)).map_err(no_room)?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Syncs the file's contents, then its name.
    pub fn finish(mut self, file: &File) -> Result<(), Error> {
        sync(file).map_err(no_room)?;
        let (from, to) = (temporary(&self.name), &self.name);
        fs::rename(self.directory.join(from), self.directory.join(to)).map_err(no_room)?;
        self.finished = true;
        Ok(sync_directory(&self.directory)?)
    }
}

impl Drop for NewSegmentFile {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is what the caller hears of.
            drop(fs::remove_file(self.directory.join(temporary(&self.name))));
        }
    }
}

/// Gives a file all its blocks, so that no store to its mapping can fail for lack of space. Where
/// the file system has no `fallocate`, by writing zeros.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::io::Errno;
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let zeros = vec![0; 1 << 16];
    let (mut left, mut file) = (len, file);
    while left > 0 {
        let n = left.min(zeros.len() as u64) as usize;
        file.write_all(&zeros[..n])?;
        left -= n as u64;
    }
    Ok(())
}

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

/// Whether a store's directory has a lock file: it stays once there was a writer.
pub fn was_locked(directory: &Path) -> bool {
    directory.join(LOCK).symlink_metadata().is_ok()
}

/// Locks a store for writing. Changes nothing if the lock file is there.
pub fn lock(directory: &Path) -> Result<DirectoryLock, Error> {
    let path = directory.join(LOCK);
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(&path)
        .map_err(no_room)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::Io(no_regular_file()));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::Locked(directory.to_owned())),
        Err(TryLockError::Error(error)) => return Err(Error::Io(error)),
    }
    Ok(DirectoryLock { file, linked: metadata.nlink() > 1, inherited: false })
}

fn holder_text() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("unknown program"));
    format!("process {} ({})\n", std::process::id(), program.display())
}

/// What the lock file says about the last holder; at most a line.
#[must_use]
pub fn lock_holder(directory: &Path) -> Option<String> {
    let file = open_regular(&directory.join(LOCK), false).ok()?;
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Bytes that the file system of a directory still has for its user.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(directory)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

/// Bytes allocated to the store's files.
pub fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in entries(directory)? {
        match entry.and_then(|entry| entry.metadata()) {
            Ok(metadata) if metadata.is_file() => bytes += metadata.blocks() * 512,
            Ok(_) => {}
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Bytes allocated to a file; none if it is gone.
pub fn allocated_bytes(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

/// The running system's boot id: changes with every boot, so it tells a kill from a power loss.
/// Random where the system has none: then every restart is taken for a power loss.
pub fn boot_id() -> Result<[u64; 2], Error> {
    let text =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| String::new());
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match (hex.len(), u128::from_str_radix(&hex, 16)) {
        (32, Ok(id)) => Ok([(id >> 64) as u64, id as u64]),
        _ => Ok([u64::from_le_bytes(random()?), u64::from_le_bytes(random()?)]),
    }
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io(io::Error::other(error.to_string())))?;
    Ok(bytes)
}

/// A new store's identity.
pub fn new_store_id() -> Result<StoreId, Error> {
    Ok(StoreId(random()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_name_is_parsed_back_and_other_names_are_not() {
        let name = segment_name(Sequence(0xAB), Salt(0x1234_5678_9ABC_DEF0));
        assert_eq!(name, "00000000ab-9abcdef0.seg");
        assert_eq!(parse_segment_name(&name), Some((Sequence(0xAB), 0x9ABC_DEF0)));
        for other in ["a.seg", "00000000ab.seg", "00000000AB-9abcdef0.seg", "00000000ab-9abcdef0"] {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }

    #[test]
    fn looking_tells_the_places_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(look(&at("none")).unwrap(), Place::Missing);
        fs::write(at("file"), b"x").unwrap();
        assert_eq!(look(&at("file")).unwrap(), Place::Foreign);
        assert_eq!(look(&at("file/below")).unwrap(), Place::Foreign);
        fs::create_dir(at("d")).unwrap();
        assert_eq!(look(&at("d")).unwrap(), Place::Blank);
        fs::write(at("d/LOCK"), b"").unwrap();
        fs::write(at("d/MANIFEST.tmp"), b"").unwrap();
        assert_eq!(look(&at("d")).unwrap(), Place::Blank);
        fs::write(at("d/notes.txt"), b"").unwrap();
        assert_eq!(look(&at("d")).unwrap(), Place::Foreign);
        fs::write(at("d/0000000001-00000000.seg"), b"").unwrap();
        assert_eq!(look(&at("d")).unwrap(), Place::Headless);
        fs::write(at("d/MANIFEST"), b"").unwrap();
        assert_eq!(look(&at("d")).unwrap(), Place::Store);
    }

    #[test]
    fn a_second_lock_is_refused_and_the_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!was_locked(dir.path()));
        let mut first = lock(dir.path()).unwrap();
        assert!(was_locked(dir.path()));
        first.name_holder();
        assert!(matches!(lock(dir.path()), Err(Error::Locked(path)) if path == dir.path()));
        let holder = lock_holder(dir.path()).unwrap();
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        drop(first);
        assert!(lock(dir.path()).is_ok());
    }
}
