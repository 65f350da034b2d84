//! Files and directories, as in `std::fs` and `rustix::fs`.

use crate::disk::{Found, Ino, OpenId};
use crate::machine::{Machine, calling, here};
use crate::scheduler::Point;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use std::fs::TryLockError;

type Outcome<T> = Result<T, Errno>;

/// A call: a point before it, and one after it.
fn call<T>(name: &'static str, f: impl FnOnce(&Rc<Machine>) -> Outcome<T>) -> Outcome<T> {
    let machine = calling();
    machine.point(Point::Call(name));
    if machine.meets(machine.faults().interrupted, "interrupted") {
        return Err(Errno::INTR);
    }
    let done = f(&machine);
    if let Err(errno) = &done {
        machine.note(|| format!("{name}: {errno}"));
    }
    machine.point(Point::Call(name));
    done
}

/// The same, for calls that no signal interrupts, and for those of std, which goes on when one
/// does.
fn std_call<T>(name: &'static str, f: impl Fn(&Rc<Machine>) -> Outcome<T>) -> io::Result<T> {
    Ok(plain_call(name, f)?)
}

fn plain_call<T>(name: &'static str, f: impl Fn(&Rc<Machine>) -> Outcome<T>) -> Outcome<T> {
    loop {
        match call(name, &f) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Where a path begins.
#[derive(Clone, Copy, Debug)]
pub enum BorrowedFd<'a> {
    /// At the working directory.
    Cwd,
    /// At an open directory.
    File(&'a File),
}

/// The working directory.
pub const CWD: BorrowedFd<'static> = BorrowedFd::Cwd;

/// Has a descriptor.
pub trait AsFd {
    /// Borrows it.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        BorrowedFd::File(self)
    }
}

impl BorrowedFd<'_> {
    fn ino(self, machine: &Machine) -> Ino {
        match self {
            Self::Cwd => machine.disk().working_directory(machine.scheduler().process()),
            Self::File(file) => file.0.ino,
        }
    }
}

/// A name or a path.
pub trait Name {
    /// It.
    fn os(&self) -> &OsStr;
}

impl<T: AsRef<OsStr> + ?Sized> Name for T {
    fn os(&self) -> &OsStr {
        self.as_ref()
    }
}

/// An open file description. Descriptors and mappings share it.
#[derive(Debug)]
pub struct OpenFile {
    id: OpenId,
    ino: Ino,
    position: AtomicU64,
    /// Failures of write-back that were reported to it.
    told: AtomicU64,
    is_direct: bool,
}

impl OpenFile {
    fn new(machine: &Machine, ino: Ino, flags: OFlags) -> Arc<Self> {
        let id = machine.disk_mut().new_number();
        // What nobody was told yet is told at its first flush.
        let told = AtomicU64::new(machine.disk().failures_told(ino));
        let is_direct = flags.contains(OFlags::DIRECT);
        Arc::new(Self { id, ino, position: AtomicU64::new(0), told, is_direct })
    }

    pub(crate) fn sync(&self, name: &'static str) -> io::Result<()> {
        let done = call(name, |machine| {
            machine.note(|| format!("{name} of {}", machine.disk().name_of(self.ino)));
            let fails = machine.meets(machine.faults().flush_fails, "flush fails");
            machine.disk_mut().sync(self.ino, fails);
            let failures = machine.disk_mut().tell_failures(self.ino);
            // Relaxed: there is one thread.
            if self.told.swap(failures, Ordering::Relaxed) == failures {
                Ok(())
            } else {
                Err(Errno::IO)
            }
        });
        Ok(done?)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(machine) = here() {
            machine.disk_mut().unlock(self.ino, self.id);
        }
    }
}

/// A descriptor.
#[derive(Debug)]
struct Descriptor(OpenId);

impl Descriptor {
    /// A further one of the calling process, before it is known of what; there may be too many.
    fn new(machine: &Machine) -> Outcome<Self> {
        let (most, process) = (machine.settings().open_files_max, machine.scheduler().process());
        if machine.disk().open_files(process) >= most
            || machine.meets(machine.faults().no_descriptor, "no descriptor")
        {
            return Err(Errno::MFILE);
        }
        Ok(Self(machine.disk_mut().open(process)))
    }

    fn of(self, machine: &Machine, ino: Ino) -> Self {
        machine.disk_mut().set_open(self.0, ino);
        self
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(machine) = here() {
            machine.disk_mut().close(self.0);
        }
    }
}

/// An open file.
#[derive(Debug)]
pub struct File(Arc<OpenFile>, #[expect(dead_code, reason = "is closed by its drop")] Descriptor);

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Metadata(Found);

impl Metadata {
    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "as std's")]
    pub fn len(&self) -> u64 {
        self.0.len
    }
    /// Returns whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        !self.0.is_directory
    }
}

/// As std's of this name.
pub trait MetadataExt {
    /// Blocks of 512 bytes.
    fn blocks(&self) -> u64;
    /// Names.
    fn nlink(&self) -> u64;
    /// Device.
    fn dev(&self) -> u64;
}

impl MetadataExt for Metadata {
    fn blocks(&self) -> u64 {
        self.0.allocated / 512
    }
    fn nlink(&self) -> u64 {
        self.0.names
    }
    fn dev(&self) -> u64 {
        1
    }
}

/// As std's of this name.
pub trait FileExt {
    /// Reads exactly so much.
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        if self.read_at(bytes, at)? < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        std_call("pwrite", |machine| {
            if machine.meets(machine.faults().no_room, "no room") {
                let some = machine.dice().usize(0..=bytes.len());
                machine.disk_mut().write(self.0.ino, at, &bytes[..some]);
                return Err(Errno::NOSPC);
            }
            // What there is room for is written.
            let written = machine.disk_mut().write(self.0.ino, at, bytes);
            if written == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) }
        })
    }
}

impl File {
    pub(crate) fn open(&self) -> Ino {
        self.0.ino
    }

    pub(crate) fn open_file(&self) -> &Arc<OpenFile> {
        &self.0
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = std::cell::RefCell::new(bytes);
        std_call("pread", |machine| {
            if machine.meets(machine.faults().read_fails, "read fails") {
                return Err(Errno::IO);
            }
            let mut disk = machine.disk_mut();
            if self.0.is_direct {
                let len = bytes.borrow().len() as u64;
                disk.write_back_part(self.0.ino, at..at + len);
                Ok(disk.read_device(self.0.ino, at, &mut bytes.borrow_mut()))
            } else {
                Ok(disk.read(self.0.ino, at, &mut bytes.borrow_mut()))
            }
        })
    }

    /// What is known of it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        std_call("fstat", |machine| Ok(Metadata(machine.disk().about(self.0.ino))))
    }

    /// Flushes it.
    pub fn sync_all(&self) -> io::Result<()> {
        self.0.sync("fsync")
    }

    /// Flushes its data.
    pub fn sync_data(&self) -> io::Result<()> {
        self.0.sync("fdatasync")
    }

    /// Sets its length.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        std_call("ftruncate", |machine| {
            machine.disk_mut().set_len(self.0.ino, len);
            Ok(())
        })
    }

    /// Another descriptor of the same description.
    pub fn try_clone(&self) -> io::Result<Self> {
        let machine = calling();
        let descriptor = Descriptor::new(&machine)?.of(&machine, self.0.ino);
        Ok(Self(Arc::clone(&self.0), descriptor))
    }

    /// Locks it, if nobody has.
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        // It does not wait, so no signal interrupts it.
        let lock = (self.0.id, calling().scheduler().process());
        let taken = std_call("flock", |machine| Ok(machine.disk_mut().try_lock(self.0.ino, lock)));
        match taken {
            Ok(true) => Ok(()),
            Ok(false) => Err(TryLockError::WouldBlock),
            Err(error) => Err(TryLockError::Error(error)),
        }
    }

    /// Unlocks it.
    pub fn unlock(&self) -> io::Result<()> {
        std_call("flock", |machine| {
            machine.disk_mut().unlock(self.0.ino, self.0.id);
            Ok(())
        })
    }
}

impl Read for &File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // Relaxed: there is one thread.
        let at = self.0.position.load(Ordering::Relaxed);
        let n = self.read_at(bytes, at)?;
        self.0.position.store(at + n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Relaxed: there is one thread.
        let at = self.0.position.load(Ordering::Relaxed);
        self.write_all_at(bytes, at)?;
        self.0.position.store(at + bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file or directory.
pub fn openat(dir: BorrowedFd<'_>, name: impl Name, flags: OFlags, _mode: Mode) -> Outcome<File> {
    call("openat", |machine| {
        let descriptor = Descriptor::new(machine)?;
        machine.note(|| format!("openat {}", name.os().display()));
        let found = machine.disk().find(dir.ino(machine), name.os());
        let ino = match found {
            Some(_) if flags.contains(OFlags::EXCL) => return Err(Errno::EXIST),
            Some(ino) => ino,
            None if flags.contains(OFlags::CREATE) => {
                if machine.meets(machine.faults().no_room, "no room") {
                    return Err(Errno::NOSPC);
                }
                machine.disk_mut().create(dir.ino(machine), name.os(), false).ok_or(Errno::NOENT)?
            }
            None => return Err(Errno::NOENT),
        };
        let is_directory = machine.disk().about(ino).is_directory;
        if flags.contains(OFlags::DIRECTORY) && !is_directory {
            return Err(Errno::NOTDIR);
        }
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR) && is_directory {
            return Err(Errno::ISDIR);
        }
        Ok(File(OpenFile::new(machine, ino, flags), descriptor.of(machine, ino)))
    })
}

/// Makes a directory.
pub fn mkdirat(dir: BorrowedFd<'_>, name: impl Name, _mode: Mode) -> Outcome<()> {
    call("mkdirat", |machine| {
        let parent = dir.ino(machine);
        if machine.disk().find(parent, name.os()).is_some() {
            return Err(Errno::EXIST);
        }
        machine.disk_mut().create(parent, name.os(), true).map(drop).ok_or(Errno::NOENT)
    })
}

/// Makes a directory that only its owner may read.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    loop {
        match mkdirat(CWD, path, Mode::RWXU) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Gives a file or directory another name.
pub fn renameat(
    from_dir: BorrowedFd<'_>,
    from: impl Name,
    to_dir: BorrowedFd<'_>,
    to: impl Name,
) -> Outcome<()> {
    renameat_with(from_dir, from, to_dir, to, RenameFlags::empty())
}

/// The same, or exchanges two.
pub fn renameat_with(
    from_dir: BorrowedFd<'_>,
    from: impl Name,
    to_dir: BorrowedFd<'_>,
    to: impl Name,
    flags: RenameFlags,
) -> Outcome<()> {
    call("renameat", |machine| {
        let (dir, other) = (from_dir.ino(machine), to_dir.ino(machine));
        if dir != other {
            return Err(Errno::XDEV);
        }
        machine.note(|| format!("rename {} {}", from.os().display(), to.os().display()));
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        machine.disk_mut().rename(dir, from.os(), to.os(), exchange)
    })
}

/// Removes a name.
pub fn unlinkat(dir: BorrowedFd<'_>, name: impl Name, flags: AtFlags) -> Outcome<()> {
    call("unlinkat", |machine| {
        machine.note(|| format!("unlink {}", name.os().display()));
        let directory = flags.contains(AtFlags::REMOVEDIR);
        machine.disk_mut().unlink(dir.ino(machine), name.os(), directory)
    })
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Blocks of 512 bytes.
    pub st_blocks: i64,
}

/// Looks a name up.
pub fn statat(dir: BorrowedFd<'_>, name: impl Name, _flags: AtFlags) -> Outcome<Stat> {
    call("fstatat", |machine| {
        let ino = machine.disk().find(dir.ino(machine), name.os()).ok_or(Errno::NOENT)?;
        let about = machine.disk().about(ino);
        Ok(Stat { st_blocks: (about.allocated / 512).cast_signed() })
    })
}

/// What is known of a file system.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as rustix's")]
pub struct StatVfs {
    pub f_blocks: u64,
    pub f_bavail: u64,
    pub f_frsize: u64,
    pub f_files: u64,
    pub f_favail: u64,
}

/// What is known of a file system.
pub fn fstatvfs(_fd: BorrowedFd<'_>) -> Outcome<StatVfs> {
    call("fstatvfs", |machine| {
        let (all, free) = machine.disk().blocks();
        Ok(StatVfs { f_blocks: all, f_bavail: free, f_frsize: 4096, f_files: 0, f_favail: 0 })
    })
}

/// Allocates a part of a file, or punches a hole.
pub fn fallocate(file: &File, mode: FallocateFlags, at: u64, len: u64) -> Outcome<()> {
    call("fallocate", |machine| {
        let mut disk = machine.disk_mut();
        if mode.contains(FallocateFlags::PUNCH_HOLE) {
            disk.punch(file.0.ino, at..at + len);
            return Ok(());
        }
        if machine.meets(machine.faults().no_room, "no room") {
            return Err(Errno::NOSPC);
        }
        if disk.allocate(file.0.ino, at..at + len) { Ok(()) } else { Err(Errno::NOSPC) }
    })
}

/// Finds the next hole, or the next data.
pub fn seek(file: &File, to: SeekFrom) -> Outcome<u64> {
    plain_call("lseek", |machine| {
        let disk = machine.disk();
        match to {
            SeekFrom::Data(at) => disk.next_block(file.0.ino, at, true).ok_or(Errno::NXIO),
            SeekFrom::Hole(at) => disk.next_block(file.0.ino, at, false).ok_or(Errno::NXIO),
            _ => Err(Errno::INVAL),
        }
    })
}

/// What is known of a path.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    std_call("stat", |machine| {
        let ino = machine.disk().find(CWD.ino(machine), path.as_os_str()).ok_or(Errno::NOENT)?;
        Ok(Metadata(machine.disk().about(ino)))
    })
}

/// They are never closed here.
pub fn fill_standard_streams() {}

/// A listing of a directory.
#[derive(Debug)]
pub struct Dir {
    _descriptor: Descriptor,
    ino: Ino,
    names: std::vec::IntoIter<CString>,
}

/// A name in a directory.
#[derive(Debug)]
pub struct DirEntry(CString);

impl DirEntry {
    /// It.
    #[must_use]
    pub fn file_name(&self) -> &CStr {
        &self.0
    }
}

impl Dir {
    /// Begins a listing.
    pub fn read_from(dir: BorrowedFd<'_>) -> Outcome<Self> {
        call("openat", |machine| {
            let ino = dir.ino(machine);
            let descriptor = Descriptor::new(machine)?.of(machine, ino);
            Ok(Self { ino, names: Vec::new().into_iter(), _descriptor: descriptor })
        })
    }

    /// Begins it anew.
    pub fn rewind(&mut self) {
        let machine = calling();
        machine.point(Point::Call("getdents"));
        let mut names = machine.disk().names(self.ino);
        machine.dice().shuffle(&mut names);
        let names =
            names.into_iter().filter_map(|name| CString::new(name.into_encoded_bytes()).ok());
        self.names = names.collect::<Vec<_>>().into_iter();
    }
}

impl Iterator for Dir {
    type Item = Outcome<DirEntry>;
    fn next(&mut self) -> Option<Self::Item> {
        self.names.next().map(|name| Ok(DirEntry(name)))
    }
}
