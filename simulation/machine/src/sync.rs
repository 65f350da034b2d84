//! Atomics, locks and condition variables, as in `std::sync`.

use crate::machine::here;
use crate::scheduler::{Point, Scheduler};
use crate::time::nanoseconds;
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

pub use crate::atomics::{atomic, control};
pub use crate::thread::{LocalKey, yield_now};
pub use crate::thread_local;

/// What needs no simulation, because it never waits.
pub mod unmodelled {
    pub use std::sync::Mutex as StdMutex;
    pub use std::sync::{Arc, OnceLock, PoisonError, Weak};
}

/// Values of each thread's own, as `std::thread_local` makes them.
#[macro_export]
macro_rules! thread_local {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$attribute])*
        static $name: $crate::thread::LocalKey<$type> =
            $crate::thread::LocalKey::new(|| $value);)*
    };
}

/// A point before an access to a control word of a segment, at any grain.
pub fn control_point() {
    if let Some(machine) = here() {
        machine.point(Point::Word);
    }
}

/// A lock for which tasks wait.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

/// The right to what a lock guards.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    inner: Option<std::sync::MutexGuard<'a, T>>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    /// Guards a value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> LockResult<T> {
        self.0.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Borrows the value, which nobody else can.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.0.get_mut()
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Waits for the lock.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if let Some(machine) = here() {
            machine.point(Point::Lock);
        }
        self.lock_now()
    }

    fn lock_now(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = |inner| MutexGuard { inner: Some(inner), mutex: self };
        loop {
            match self.0.try_lock() {
                Ok(inner) => return Ok(guard(inner)),
                Err(TryLockError::Poisoned(error)) => {
                    return Err(PoisonError::new(guard(error.into_inner())));
                }
                Err(TryLockError::WouldBlock) => match here() {
                    Some(machine) if !std::thread::panicking() => {
                        Scheduler::wait(&machine, self.key(), None);
                    }
                    // Nobody else can run: a bug of the harness, which shows as a hang.
                    _ => std::thread::yield_now(),
                },
            }
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if let Some(machine) = here() {
            machine.point(Point::Lock);
        }
        let guard = |inner| MutexGuard { inner: Some(inner), mutex: self };
        match self.0.try_lock() {
            Ok(inner) => Ok(guard(inner)),
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
            Err(TryLockError::Poisoned(error)) => {
                Err(TryLockError::Poisoned(PoisonError::new(guard(error.into_inner()))))
            }
        }
    }
}

impl<T: ?Sized> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        #[expect(clippy::expect_used, reason = "it is taken when the guard is dropped")]
        self.inner.as_ref().expect("a guard holds its lock")
    }
}

impl<T: ?Sized> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        #[expect(clippy::expect_used, reason = "it is taken when the guard is dropped")]
        self.inner.as_mut().expect("a guard holds its lock")
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        if let Some(machine) = here() {
            machine.scheduler_mut().wake_all(self.mutex.key());
        }
    }
}

/// Whether a wait ended by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Returns whether it did.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

/// A condition for which tasks wait.
#[derive(Debug, Default)]
pub struct Condvar {
    /// Each has an address of its own.
    _address: u8,
}

impl Condvar {
    /// Nobody waits for it.
    #[must_use]
    pub const fn new() -> Self {
        Self { _address: 0 }
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: Option<Duration>,
    ) -> (LockResult<MutexGuard<'a, T>>, bool) {
        let mutex = guard.mutex;
        drop(guard);
        let timed_out = here().is_none_or(|machine| {
            let deadline = duration.map(|time| machine.now().saturating_add(nanoseconds(time)));
            Scheduler::wait(&machine, self.key(), deadline)
        });
        (mutex.lock_now(), timed_out)
    }

    /// Releases the lock, waits, and takes it again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(guard, None).0
    }

    /// The same, for at most so long.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let (guard, timed_out) = self.wait_until(guard, Some(duration));
        let result = WaitTimeoutResult(timed_out);
        match guard {
            Ok(guard) => Ok((guard, result)),
            Err(error) => Err(PoisonError::new((error.into_inner(), result))),
        }
    }

    /// Wakes one.
    pub fn notify_one(&self) {
        if let Some(machine) = here() {
            machine.scheduler_mut().wake_one(self.key());
        }
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        if let Some(machine) = here() {
            machine.scheduler_mut().wake_all(self.key());
        }
    }
}
