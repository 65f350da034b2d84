//! Files and directories: names, creation, locking, syncing. The only module that creates, renames
//! and removes files. (Others read, write and map files that were opened here: `memory/mmap.rs`,
//! `recovery/failed_flush.rs`. `background/page_cache.rs` reads limits of the system.)
//!
//! What it makes under a lasting name is fsynced before it returns, the directory too. The files
//! that keep room back, and the one for the next manifest, are not: what is in them means nothing.
//!
//! A file is unlinked by [`Directory::remove_if_there`]. Its callers, each with its reason:
//!
//! - `SegmentFiles::remove_files`: segments that a manifest has dropped;
//! - `SegmentFiles::discard`: a segment that was never used, through [`Directory::remove_segment`];
//!   `log/mod.rs` decides that;
//! - `recovery::tidy_up`: blank segments that an opening has judged;
//! - [`NewSegmentFile::finish`] after an error, the drop of a [`NewSegmentFile`], and
//!   [`Directory::remove_temporaries`]: unfinished files, and the spares of `SegmentFiles`, which
//!   keep such a file;
//! - the drop of an `UnfinishedDirectory`: a backup that failed;
//! - [`Directory::replace_manifest`]: temporary files, and a `MANIFEST.next` that may not be
//!   written to.
//!
//! A file also goes when another one takes its name: a segment after a failed flush
//! ([`NewSegmentFile::replace`], called by `recovery/failed_flush.rs`), and the manifest.
//!
//! Each access to a store's files goes through one open descriptor of its directory,
//! [`Directory`] [H1]. The next manifest is written in place only while the device is known to have
//! another file as the manifest [H2]. Both rules are in DESIGN.md.

mod directory;
mod lock;
mod new_segment;
mod unfinished;

pub use directory::{Directory, StoreState, create_directory, find};
pub use lock::DirectoryLock;
pub use new_segment::{NewSegmentFile, fill_around_holes, fill_holes, lacks_blocks};
pub use unfinished::begin_directory;

use crate::error::{At, Error};
use crate::format::checksum::Salt;
use crate::format::header::{SegmentId, StoreId, UNKNOWN_BOOT};
use crate::format::ids::Sequence;
use crate::os::fs::{File, MetadataExt};
use crate::os::process;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The manifest's name in a store's directory.
pub const MANIFEST: &str = "MANIFEST";
/// Name of the file that becomes the next manifest: kept allocated, so that a manifest can be
/// replaced on a full disk. Whatever is in it means nothing.
pub const NEXT_MANIFEST: &str = "MANIFEST.next";
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

/// Name of a segment's file: its sequence, and half its salt, so that two preallocators of one
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

/// The name of a file that will get this name once it is finished.
#[must_use]
pub fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY_ENDING}")
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

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Returns whether a file has more than one name: what is written to it shows under the others,
/// too.
pub fn has_other_names(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 1)
}

/// A file that looks like a segment by its name.
#[derive(Debug)]
pub struct SegmentFileName {
    /// Its name in the directory.
    pub name: String,
    /// Its path, for messages.
    pub path: PathBuf,
    /// From its name.
    pub sequence: Sequence,
    /// From its name: the low half of the salt.
    pub half_salt: u32,
}

impl SegmentFileName {
    /// Returns whether its name is this segment's.
    #[must_use]
    pub fn is_of(&self, id: SegmentId) -> bool {
        id.sequence == self.sequence && id.salt.0 as u32 == self.half_salt
    }
}

/// Up to `len` bytes from the start of a file.
fn start_of(file: File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The running system's boot id: changes with every boot, so it tells a kill from a power loss.
/// Zeros where the kernel does not tell it: they equal no boot id, themselves included.
pub fn boot_id() -> [u64; 2] {
    let text =
        process::kernel_file("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| String::new());
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match (hex.len(), u128::from_str_radix(&hex, 16)) {
        (32, Ok(id)) => [(id >> 64) as u64, id as u64],
        _ => UNKNOWN_BOOT,
    }
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    process::fill_random(&mut bytes).at(Path::new("/dev/urandom"))?;
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
}
