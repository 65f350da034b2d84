//! Stopping one thread wherever it is, by a signal whose handler sleeps.
#![expect(unsafe_code, reason = "signals are a matter of the C library")]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

static HANDLER: Once = Once::new();
/// Nanoseconds that the next stop lasts.
static LASTS: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Sleeps where the thread happens to be. Only what may be called in a handler: it neither
/// allocates nor locks.
extern "C" fn sleep_here(_: libc::c_int) {
    // SAFETY: has no condition.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the place of this thread's errno, which the interrupted code may be about to read.
    let errno = unsafe { *place };
    STOPPED.store(true, Ordering::SeqCst);
    let nanos = LASTS.load(Ordering::SeqCst);
    let mut left = libc::timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: both are this function's own; interrupted, it goes on with what is left.
    while unsafe { libc::nanosleep(&raw const left, &raw mut left) } == -1 {}
    STOPPED.store(false, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { *place = errno };
}

fn install() {
    // SAFETY: all zeros is a value of this plain structure: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = sleep_here as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler calls only what a handler may.
    let done = unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

/// A thread that can be stopped. One at a time.
pub struct Victim(libc::pthread_t);

impl Victim {
    /// Starts it. It must not end before it was stopped for the last time.
    pub fn spawn<'scope>(
        scope: &'scope Scope<'scope, '_>,
        work: impl FnOnce() + Send + 'scope,
    ) -> Self {
        HANDLER.call_once(install);
        let (name, named) = std::sync::mpsc::channel();
        scope.spawn(move || {
            // SAFETY: has no condition.
            name.send(unsafe { libc::pthread_self() }).expect("it is waited for");
            work();
        });
        Self(named.recv().expect("it says its name first"))
    }

    /// Stops it for this long; returns once it is stopped.
    pub fn stop(&self, lasts: Duration) {
        LASTS.store(lasts.as_nanos() as u64, Ordering::SeqCst);
        // SAFETY: the thread has not ended, by the contract of `spawn`.
        assert_eq!(unsafe { libc::pthread_kill(self.0, libc::SIGUSR2) }, 0);
        while !self.is_stopped() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Returns whether it is stopped just now.
    pub fn is_stopped(&self) -> bool {
        STOPPED.load(Ordering::SeqCst)
    }

    /// Waits until it goes on.
    pub fn wait(&self) {
        while self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
