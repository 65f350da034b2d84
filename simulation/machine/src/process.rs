//! The calling process.

use crate::machine::{calling, here};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Returns its number.
#[must_use]
pub fn id() -> u32 {
    here().map_or(0, |machine| machine.scheduler().process() as u32)
}

/// Goes to another directory.
pub fn set_working_directory(path: &str) {
    let machine = calling();
    let process = machine.scheduler().process();
    machine.disk_mut().set_working_directory(process, path.as_ref());
}

/// Returns the program that it runs.
pub fn program() -> io::Result<PathBuf> {
    Ok(PathBuf::from("/simulation"))
}

/// Returns how many descriptors it may have.
#[must_use]
pub fn open_files_max() -> u64 {
    here().map_or(u64::MAX, |machine| machine.settings().open_files_max)
}

/// Fills `bytes` with random bytes, which the seed decides.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    calling().dice().fill(bytes);
    Ok(())
}

/// How many descriptors the memories of this process keep.
#[must_use]
pub fn kept_descriptors() -> Arc<AtomicU64> {
    here().map_or_else(Arc::default, |machine| machine.scheduler().kept_descriptors())
}

/// Reads a file that the kernel makes.
pub fn kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
    let machine = calling();
    match (path.as_ref().to_str(), machine.boot()) {
        (Some("/proc/sys/kernel/random/boot_id"), Some(boot)) => Ok(format!("{boot:032x}")),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
