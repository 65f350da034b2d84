//! Sees every call that makes something durable, by standing in libc's place: the linker prefers
//! what this binary defines. Nothing reaches the device of this machine, which is none of the
//! test's business; what the simulated one keeps is noted by `device`.
#![expect(unsafe_code, reason = "the names are libc's")]

use super::device;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

/// Flushes of mappings, which this model does not follow. The engine flushes files.
pub static MAPPINGS_FLUSHED: AtomicU64 = AtomicU64::new(0);

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
