//! What can go wrong, as data; the message says what a person can do about it.

use crate::format::ids::Lsn;
use crate::os;
use std::path::{Path, PathBuf};

/// Everything that a call of this crate can fail with. A call that returns an error has changed
/// nothing.
///
/// ```
/// use stratalog::{Error, Options};
/// # let dir = tempfile::tempdir().unwrap();
/// let missing = dir.path().join("nowhere");
/// let error = Options::new().create(false).open(&missing).unwrap_err();
/// assert!(matches!(error, Error::NotFound(path) if path == missing));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An embedding or a query has another length than the store's dimension; or the dimension
    /// given at opening is not the store's.
    #[error("the store's dimension is {expected}, but {actual} was given")]
    DimensionMismatch {
        /// The store's dimension, in `f32` values.
        expected: usize,
        /// What the caller gave.
        actual: usize,
    },
    /// An embedding or a query holds NaN or an infinity.
    #[error("value {index} of the embedding is NaN or infinite; only finite ones can be compared")]
    NonFinite {
        /// Position of the first such value.
        index: usize,
    },
    /// An id must have 1 to 1024 bytes.
    #[error("an id must have 1 to 1024 bytes, this one has {len}")]
    InvalidId {
        /// Bytes of the id given.
        len: usize,
    },
    /// The record does not fit a segment of this store.
    #[error(
        "the record takes {len} bytes in the log, at most {max} fit; store less, or create the \
             store with larger segments"
    )]
    RecordTooLarge {
        /// Bytes that the record would take in the log, header and padding included.
        len: u64,
        /// The most that this store takes.
        max: u64,
    },
    /// An option is out of its range, or not the one the store was created with.
    #[error("invalid option: {0}")]
    InvalidOption(String),
    /// A user tag has 63 bits.
    #[error("tag {0:#x} has its top bit set, which is reserved: tags have 63 bits")]
    InvalidTag(u64),
    /// The LSN was never given out by this store.
    #[error("LSN {0} was never given out by this store")]
    UnknownLsn(Lsn),
    /// The condition of a conditional write does not hold.
    #[error("the condition does not hold: the id's current version is {}",
            .current.map_or_else(|| "none".to_owned(), |lsn| lsn.to_string()))]
    ConditionFailed {
        /// LSN of the version that is there, if any.
        current: Option<Lsn>,
    },
    /// Thousands of other ids share the 64-bit hash of this id, and the index has no room for one
    /// more. Only ids that were made to collide do.
    #[error("thousands of other ids share this id's hash; store the record under another id")]
    HashCollision,
    /// No store is there, and the options forbid to create one.
    #[error("no store at {}; check the path, or allow creating one", .0.display())]
    NotFound(PathBuf),
    /// Something that is no store is there; it was not touched.
    #[error("{} is not a store (it is a file, or a directory with other things in it); nothing was \
             touched, choose another path", .0.display())]
    NotAStore(PathBuf),
    /// The store was written by another version of the format.
    #[error(
        "the store has format version {found}, this program knows up to {supported}; open it \
             with the program that wrote it, or a newer one"
    )]
    UnsupportedVersion {
        /// Version in the file.
        found: u32,
        /// Highest version known here.
        supported: u32,
    },
    /// The store uses features of a newer version of the format that this program does not know.
    #[error(
        "the store uses features that this program does not know (bits {bits:#x}); open it with \
             the program that wrote it, or a newer one; if they concern only writing, it can still \
             be opened for reading"
    )]
    UnsupportedFeatures {
        /// The features that forbid this opening, a bit each.
        bits: u64,
    },
    /// Another handle or process has the store open for writing.
    #[error("{} is open for writing in another handle or process{}; close that one, or open with \
             read_only(true)", .path.display(),
            .holder.as_ref().map_or_else(String::new, |holder| format!(" ({holder})")))]
    Locked {
        /// The store.
        path: PathBuf,
        /// What its `LOCK` file says about the process that holds it, for a message to a person.
        holder: Option<String>,
    },
    /// The handle was opened read-only.
    #[error("the store was opened read-only")]
    ReadOnly,
    /// A write, or anything else that needs the store's threads, in a child process that inherited
    /// the store by `fork`. Reads work there. Nothing was changed.
    #[error(
        "this process inherited the store by fork and may only read it; use the store in the \
             process that opened it, or close it there and open it here"
    )]
    Forked,
    /// The file system has no room for another segment. Nothing acknowledged is lost; writes work
    /// again once there is room. A put or batch that had been committed, and had to be appended
    /// again, fails with this one whatever keeps it from a segment: it may be found later.
    #[error(
        "no space left for another segment; nothing acknowledged is lost, and writes work \
             again once there is room"
    )]
    StorageFull,
    /// Bytes in a file are not what was written.
    #[error("{} is damaged at byte {offset}: {reason}", .path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What does not hold.
        reason: String,
    },
    /// A flush to the device failed. What was not durable by then may be lost at a power cut, so
    /// writes are refused until the store is opened again; reads go on.
    #[error(
        "a flush to the device failed ({0}): writes are refused until the store is opened \
             again, reads go on"
    )]
    FlushFailed(String),
    /// The process, or the system, may not have more descriptors or mappings. Nothing was changed.
    #[error("{source}: the limit of {limit} {what} is reached; {}", remedy(.what))]
    ResourceLimit {
        /// What there may not be more of.
        what: &'static str,
        /// How many there may be; 0 if that is not known.
        limit: u64,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Any other failure of the operating system.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory that the call was about.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

const OPEN_FILES: &str = "open files of the process";
const OPEN_FILES_OF_ALL: &str = "open files of the system";
const MAPPINGS: &str = "memory mappings of the process";

fn remedy(what: &str) -> &'static str {
    match what {
        OPEN_FILES => "raise it (`ulimit -n`, RLIMIT_NOFILE), or close other files and stores",
        OPEN_FILES_OF_ALL => "raise it (`sysctl fs.file-max`)",
        _ => {
            "raise it (`sysctl vm.max_map_count`; RLIMIT_AS bounds their size), or use larger \
             segments"
        }
    }
}

impl Error {
    /// A failed call of the operating system about a file or directory. No room, or none within a
    /// quota, is an error of its own, and so is a limit on descriptors.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        use rustix::io::Errno;
        use std::io::ErrorKind;
        if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return Self::StorageFull;
        }
        let (what, limit) = match Errno::from_io_error(&source) {
            Some(Errno::MFILE) => (OPEN_FILES, os::process::open_files_max()),
            Some(Errno::NFILE) => (OPEN_FILES_OF_ALL, number_in("/proc/sys/fs/file-max")),
            _ => return Self::Io { path: path.to_owned(), source },
        };
        Self::ResourceLimit { what, limit, source }
    }

    /// A failure to map a file.
    pub(crate) fn of_mapping(path: &Path, source: std::io::Error) -> Self {
        if rustix::io::Errno::from_io_error(&source) != Some(rustix::io::Errno::NOMEM) {
            return Self::io(path, source);
        }
        let limit = number_in("/proc/sys/vm/max_map_count");
        Self::ResourceLimit { what: MAPPINGS, limit, source }
    }
}

/// Adds the path to an error of the operating system.
pub(crate) trait At<T> {
    /// The same, about this file or directory.
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::io(path, source))
    }
}

fn number_in(path: &str) -> u64 {
    let text = os::process::kernel_file(path).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
