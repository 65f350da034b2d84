//! Sees every call that makes something durable, by standing in libc's place: the linker prefers
//! what this binary defines. Nothing reaches the device of this machine, which is none of the
//! test's business; what the simulated one keeps is noted by `device`.
#![expect(unsafe_code, reason = "the names are libc's")]

use super::device;
use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Flushes of mappings, which this model does not follow. The engine flushes files.
pub static MAPPINGS_FLUSHED: AtomicU64 = AtomicU64::new(0);

const THE_WORKING_DIRECTORY: c_int = -100;
#[cfg(target_arch = "x86_64")]
const CALLS: (c_long, c_long) = (316, 263);
#[cfg(not(target_arch = "x86_64"))]
const CALLS: (c_long, c_long) = (276, 35);
/// Numbers of system calls.
const RENAMEAT2: c_long = CALLS.0;
const UNLINKAT: c_long = CALLS.1;

// SAFETY: the signature is libc's.
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// A name is about to be changed.
fn moving(name: *const c_char) {
    // SAFETY: the caller's path, which ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    device::moving(Path::new(OsStr::from_bytes(name.to_bytes())));
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    moving(to);
    let here = THE_WORKING_DIRECTORY;
    // SAFETY: the call's own arguments, handed on.
    (unsafe { syscall(RENAMEAT2, here, from, here, to, 0) }) as c_int
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn unlink(name: *const c_char) -> c_int {
    moving(name);
    // SAFETY: the call's own arguments, handed on.
    (unsafe { syscall(UNLINKAT, THE_WORKING_DIRECTORY, name, 0) }) as c_int
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    device::synced(fd, false);
    0
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    device::synced(fd, true);
    0
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn msync(_: *mut c_void, _: usize, _: c_int) -> c_int {
    MAPPINGS_FLUSHED.fetch_add(1, Ordering::Relaxed);
    0
}
