//! Sees every call that makes something durable, by standing in libc's place: the linker prefers
//! what this binary defines. Nothing reaches the device of this machine, which is none of the
//! test's business; what the simulated one keeps is noted by `device`.
#![expect(unsafe_code, reason = "the names are libc's")]

use super::device;
use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
    fn __errno_location() -> *mut c_int;
}

/// What a flush answers.
fn answer(ends_well: bool) -> c_int {
    const EIO: c_int = 5;
    if ends_well {
        return 0;
    }
    // SAFETY: libc's place for the calling thread's error.
    let place = unsafe { __errno_location() };
    // SAFETY: as above.
    unsafe { *place = EIO };
    -1
}

/// A name in a directory is about to be changed.
fn moving(directory: c_int, name: *const c_char) {
    // SAFETY: the caller's path, which ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    let parent = match directory {
        THE_WORKING_DIRECTORY => PathBuf::new(),
        fd => std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default(),
    };
    device::moving(&parent.join(name));
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn renameat2(
    from: c_int,
    old: *const c_char,
    to: c_int,
    new: *const c_char,
    flags: c_uint,
) -> c_int {
    moving(to, new);
    // SAFETY: the call's own arguments, handed on.
    (unsafe { syscall(RENAMEAT2, from, old, to, new, flags) }) as c_int
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn renameat(from: c_int, old: *const c_char, to: c_int, new: *const c_char) -> c_int {
    renameat2(from, old, to, new, 0)
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    renameat2(THE_WORKING_DIRECTORY, from, THE_WORKING_DIRECTORY, to, 0)
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn unlinkat(directory: c_int, name: *const c_char, flags: c_int) -> c_int {
    moving(directory, name);
    // SAFETY: the call's own arguments, handed on.
    (unsafe { syscall(UNLINKAT, directory, name, flags) }) as c_int
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn unlink(name: *const c_char) -> c_int {
    unlinkat(THE_WORKING_DIRECTORY, name, 0)
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    answer(device::synced(&format!("/proc/self/fd/{fd}"), false))
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    answer(device::synced(&format!("/proc/self/fd/{fd}"), true))
}

/// The engine flushes whole mappings of whole files, where it has no descriptor.
// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn msync(at: *mut c_void, _: usize, _: c_int) -> c_int {
    let begin = format!("{:x}-", at.addr());
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the mappings");
    let line = maps.lines().find(|line| line.starts_with(&begin)).expect("a mapping begins here");
    let range = line.split(' ').next().expect("its range");
    answer(device::synced(&format!("/proc/self/map_files/{range}"), true))
}
