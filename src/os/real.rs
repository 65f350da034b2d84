//! The operating system under this process.

/// Files and directories.
#[cfg(not(stratalog_loom))]
pub mod fs {
    pub use rustix::fs::{
        CWD, Dir, Stat, fallocate, fstatvfs, mkdirat, renameat, renameat_with, seek, statat,
        unlinkat,
    };
    pub use std::fs::{File, TryLockError, metadata};
    pub use std::os::fd::{AsFd, BorrowedFd};
    pub use std::os::unix::fs::{FileExt, MetadataExt};

    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    use rustix::path::Arg;
    use std::fs::DirBuilder;
    use std::io;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::fs::DirBuilderExt;
    use std::path::Path;

    /// Opens a file or directory.
    pub fn openat(
        dir: BorrowedFd<'_>,
        name: impl Arg,
        flags: OFlags,
        mode: Mode,
    ) -> Result<File, Errno> {
        rustix::fs::openat(dir, name, flags, mode).map(File::from)
    }

    /// Makes a directory that only its owner may read.
    pub fn create_private_directory(path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    /// Where a process has closed its standard streams, leaves `/dev/null` in their places, as the
    /// standard library does when a program of Rust begins. The store's files would get their
    /// numbers: what any part of the process prints would go into a manifest, and who gives it new
    /// streams would give up the lock.
    pub fn fill_standard_streams() {
        const STREAMS: RawFd = 3;
        // Where there is none, or no descriptor is left, the store works all the same.
        while let Ok(file) = File::options().read(true).write(true).open("/dev/null") {
            if file.as_raw_fd() >= STREAMS {
                break;
            }
            // It stays open for the rest of the process.
            std::mem::forget(file);
        }
    }
}

/// Mappings of files.
#[cfg(not(stratalog_loom))]
pub mod map {
    pub use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
}

/// The clock.
pub mod time {
    pub use std::time::Instant;

    use std::time::SystemTime;

    /// Returns the time of day.
    pub fn now() -> SystemTime {
        SystemTime::now()
    }
}

/// This process and its limits.
pub mod process {
    pub use std::process::id;

    use crate::concurrency::sync::unmodelled::AtomicU64;
    use std::io;
    use std::path::{Path, PathBuf};

    /// Returns the program that this process runs.
    pub fn program() -> io::Result<PathBuf> {
        std::env::current_exe()
    }

    /// Reads a file that the kernel makes.
    pub fn kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    /// Returns how many descriptors this process may have.
    pub fn open_files_max() -> u64 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current.unwrap_or(u64::MAX)
    }

    /// Fills `bytes` with random bytes of the operating system.
    pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }

    /// How many descriptors the memories of this process keep.
    pub fn kept_descriptors() -> &'static AtomicU64 {
        static KEPT: AtomicU64 = AtomicU64::new(0);
        &KEPT
    }
}

/// Sizes that the simulation makes small.
pub mod limits {
    /// The smallest segment, in bytes.
    pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
    /// The page cache keeps a file in folios of up to this many bytes, each at a multiple of its
    /// size (`MAX_PAGECACHE_ORDER` in Linux, where a page has 4 KiB).
    pub const FOLIO_BYTES: usize = 2 << 20;
    /// First buckets of a chunk of the index, a power of two.
    pub const CHUNK_BUCKETS: usize = 256;
}
