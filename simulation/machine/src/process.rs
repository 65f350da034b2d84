//! The calling process.

use crate::machine::{Faults, calling, here};
use crate::scheduler::Scheduler;
use std::ffi::OsString;
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

/// Gives a directory another name, as another process may, and makes that durable.
pub fn move_directory(from: &str, to: &str) {
    let machine = calling();
    machine.disk_mut().move_directory(from, to);
}

/// Has [`Machine::run`](crate::Machine::run) return, which goes on when it is called again.
pub fn pause() {
    Scheduler::pause(&calling());
}

/// Returns what each task does, for a message.
#[must_use]
pub fn picture() -> String {
    calling().scheduler().picture()
}

/// Until there is another process, nobody is stopped or overtaken for long.
pub fn be_fair() {
    calling().scheduler_mut().be_fair();
}

/// Returns how often the calling task has waited: for a lock, a condition, or time.
#[must_use]
pub fn waits() -> u64 {
    calling().scheduler().waits()
}

/// Returns how often it has waited for others: not for time alone.
#[must_use]
pub fn waits_for_others() -> u64 {
    calling().scheduler().waits_for_others()
}

/// Returns for how many nanoseconds the calling task has meant to sleep.
#[must_use]
pub fn slept() -> u64 {
    calling().scheduler().slept()
}

/// From now on no call fails.
pub fn be_well() {
    calling().set_faults(Faults::default());
}

/// Returns the names of the files in a directory, and what is in them.
#[must_use]
pub fn contents_in(path: &str) -> Vec<(String, Vec<u8>)> {
    let machine = calling();
    let directory = machine.disk().find(0, path.as_ref());
    directory.map_or_else(Vec::new, |directory| machine.disk().contents(directory))
}

/// Returns how many files it has open.
#[must_use]
pub fn open_files() -> u64 {
    let machine = calling();
    let process = machine.scheduler().process();
    machine.disk().open_files(process)
}

/// Returns the names of the files that it has open.
#[must_use]
pub fn names_open() -> Vec<String> {
    let machine = calling();
    let process = machine.scheduler().process();
    machine.disk().names_open(process)
}

/// Returns how many files it has mapped, and how many of those have no name any more.
#[must_use]
pub fn mapped_files() -> (usize, usize) {
    let machine = calling();
    let process = machine.scheduler().process();
    machine.disk().mapped_files(process)
}

/// Returns how many bytes the files in a directory take on the disk.
#[must_use]
pub fn allocated_in(path: &str) -> u64 {
    let machine = calling();
    let disk = machine.disk();
    let files = disk.find(0, path.as_ref()).map(|found| disk.inodes_in(found));
    files.into_iter().flatten().map(|ino| disk.about(ino).allocated).sum()
}

/// Returns the names in a directory.
#[must_use]
pub fn names_in(path: &str) -> Vec<OsString> {
    let machine = calling();
    let directory = machine.disk().find(0, path.as_ref());
    directory.map_or_else(Vec::new, |directory| machine.disk().names(directory))
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

/// What is mounted where, as the kernel tells it.
const MOUNTS: &str = "30 23 0:26 / /cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw";

/// Reads a file that the kernel makes.
pub fn kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
    let machine = calling();
    let memory = machine.settings().memory_bytes;
    match (path.as_ref().to_str(), machine.boot()) {
        (Some("/proc/sys/kernel/random/boot_id"), Some(boot)) => Ok(format!("{boot:032x}")),
        _ if memory == 0 => Err(io::ErrorKind::NotFound.into()),
        (Some("/proc/meminfo"), _) => Ok(format!("MemTotal: {} kB", memory / 1024)),
        (Some("/proc/self/cgroup"), _) => Ok("0::/service".to_owned()),
        (Some("/proc/self/mountinfo"), _) => Ok(MOUNTS.to_owned()),
        (Some("/cgroup/service/memory.max"), _) => Ok((memory / 2).to_string()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
