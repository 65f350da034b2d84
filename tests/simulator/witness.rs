//! What the simulated life asks of the machine besides memory: the time of day, flushes, renames,
//! reads and writes. Stands in libc's place (the linker prefers what this binary defines), so that
//! the clock stands still until it is moved, flushes are seen by `device`, calls fail when they are
//! to, and reads and writes do half of what they are asked for.
#![expect(unsafe_code, reason = "the names are libc's")]

use super::device;
use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// The time of day in nanoseconds since 1970.
pub static NOW: AtomicU64 = AtomicU64::new(BEGINNING);
/// Whether flushes fail.
pub static FLUSHES_FAIL: AtomicBool = AtomicBool::new(false);
/// What renames fail with; 0: they do not.
pub static RENAMES_FAIL: AtomicI32 = AtomicI32::new(0);

const BEGINNING: u64 = 1_700_000_000_000_000_000;
const REALTIME: c_int = 0;
const SECOND: u64 = 1_000_000_000;
const THE_WORKING_DIRECTORY: c_int = -100;
pub const EIO: c_int = 5;
pub const ENOSPC: c_int = 28;

#[cfg(target_arch = "x86_64")]
const CALLS: [c_long; 4] = [228, 316, 0, 1];
#[cfg(not(target_arch = "x86_64"))]
const CALLS: [c_long; 4] = [113, 276, 63, 64];
/// Numbers of system calls.
const CLOCK_GETTIME: c_long = CALLS[0];
const RENAMEAT2: c_long = CALLS[1];
const READ: c_long = CALLS[2];
const WRITE: c_long = CALLS[3];

// SAFETY: the signatures are libc's.
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
}

/// Whether reads and writes come short.
static SHORT: AtomicBool = AtomicBool::new(false);

/// For a new life.
pub fn reset(short: bool) {
    SHORT.store(short, Ordering::SeqCst);
    NOW.store(BEGINNING, Ordering::SeqCst);
    FLUSHES_FAIL.store(false, Ordering::SeqCst);
    RENAMES_FAIL.store(0, Ordering::SeqCst);
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

fn fail(error: c_int) -> c_int {
    // SAFETY: it is the thread's own, and always there.
    let place = unsafe { __errno_location() };
    // SAFETY: as above.
    unsafe { *place = error };
    -1
}

/// What a link in `/proc` leads to is flushed.
fn flushed(link: &str, data_only: bool) -> c_int {
    if FLUSHES_FAIL.load(Ordering::SeqCst) {
        return fail(EIO);
    }
    device::synced(link, data_only);
    0
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    flushed(&format!("/proc/self/fd/{fd}"), false)
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    flushed(&format!("/proc/self/fd/{fd}"), true)
}

/// The engine flushes whole mappings of whole files, where it has no descriptor.
// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn msync(at: *mut c_void, _: usize, _: c_int) -> c_int {
    let begin = format!("{:x}-", at.addr());
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the mappings");
    let line = maps.lines().find(|line| line.starts_with(&begin)).expect("a mapping begins here");
    let range = line.split(' ').next().expect("its range");
    flushed(&format!("/proc/self/map_files/{range}"), true)
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    if clock != REALTIME {
        // SAFETY: the call's own arguments, handed on.
        return unsafe { syscall(CLOCK_GETTIME, clock, time) } as c_int;
    }
    let now = NOW.load(Ordering::SeqCst);
    let now = Timespec { seconds: (now / SECOND) as i64, nanoseconds: (now % SECOND) as i64 };
    // SAFETY: the caller's place for the answer.
    unsafe { time.write(now) };
    0
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
    match RENAMES_FAIL.load(Ordering::SeqCst) {
        // SAFETY: the call's own arguments, handed on.
        0 => (unsafe { syscall(RENAMEAT2, from, old, to, new, flags) }) as c_int,
        error => fail(error),
    }
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

fn come_short(count: usize) -> usize {
    if SHORT.load(Ordering::Relaxed) { count.div_ceil(2) } else { count }
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn read(fd: c_int, bytes: *mut c_void, count: usize) -> isize {
    // SAFETY: the call's own arguments, handed on; less of the buffer is used.
    (unsafe { syscall(READ, fd, bytes, come_short(count)) }) as isize
}

// SAFETY: the signature is libc's.
#[unsafe(no_mangle)]
extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    // SAFETY: the call's own arguments, handed on; less of the buffer is used.
    (unsafe { syscall(WRITE, fd, bytes, come_short(count)) }) as isize
}
