//! The one door to atomics, cells and threads. One type comes in another way: the `AtomicCell` of
//! crossbeam in `disk/segment_files.rs`, which no model reaches.
//!
//! With `--cfg stratalog_loom` the names below come from loom, with `--cfg stratalog_shuttle` in
//! addition from shuttle, with `--cfg stratalog_simulation` from the simulated machine, otherwise
//! from std. Nothing else changes with that switch: same algorithms, same orderings, same
//! capacities (those are arguments), so that the models in `loom-tests/` and the simulation run the
//! code that ships.

#[cfg(stratalog_simulation)]
mod imp {
    pub(crate) use simulated_machine::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering,
    };
    pub(crate) use simulated_machine::sync::{
        Condvar, Mutex, MutexGuard, control_point, thread_local, yield_now,
    };
}

#[cfg(not(any(stratalog_loom, stratalog_simulation)))]
mod imp {
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering,
    };
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::yield_now;
    pub(crate) use std::thread_local;
}

#[cfg(stratalog_shuttle)]
mod imp {
    pub(crate) use shuttle::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering,
    };
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::yield_now;
    pub(crate) use shuttle::thread_local;
}

#[cfg(all(stratalog_loom, not(stratalog_shuttle)))]
mod imp {
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering,
    };
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;
    pub(crate) use loom::thread_local;
}

#[cfg(any(not(stratalog_loom), stratalog_shuttle))]
mod tracker {
    /// A cell whose accesses a model checker can see. Here it is nothing but the value.
    #[derive(Debug, Default)]
    pub(crate) struct Tracker(());

    impl Tracker {
        pub(crate) fn new() -> Self {
            Self(())
        }
        /// Notes a read of the memory that this tracker stands for.
        #[inline(always)]
        pub(crate) fn read(&self) {}
        /// Notes a write of the memory that this tracker stands for.
        #[inline(always)]
        pub(crate) fn write(&self) {}
    }
}

#[cfg(all(stratalog_loom, not(stratalog_shuttle)))]
mod tracker {
    /// A cell whose accesses loom checks: two that are not ordered by happens-before, one of them
    /// a write, fail the model.
    #[derive(Debug)]
    pub(crate) struct Tracker(loom::cell::UnsafeCell<()>);

    impl Tracker {
        pub(crate) fn new() -> Self {
            Self(loom::cell::UnsafeCell::new(()))
        }
        pub(crate) fn read(&self) {
            self.0.with(|_| ());
        }
        pub(crate) fn write(&self) {
            self.0.with_mut(|_| ());
        }
    }
}

/// Where the simulation may switch tasks at any grain: before a control word of a segment is
/// accessed, say. In other builds it is nothing.
#[cfg(not(stratalog_simulation))]
#[inline(always)]
pub(crate) fn control_point() {}

/// The same atomics, for the words of the log, of a segment's life and of flushes: there the
/// simulation may switch tasks at any grain.
pub(crate) mod control {
    #[cfg(not(stratalog_simulation))]
    pub(crate) use super::imp::{AtomicU32, AtomicU64};
    #[cfg(stratalog_simulation)]
    pub(crate) use simulated_machine::sync::control::{AtomicU32, AtomicU64};
}

pub(crate) use imp::*;
pub(crate) use tracker::Tracker;

/// A lock that outlives the panic of a holder: what it guards is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(unmodelled::PoisonError::into_inner)
}

/// Never modelled by loom and shuttle: process-wide counters that no protocol depends on, and what
/// only the layers above the modelled code use (threads, locks of the background side). The
/// simulation has these, too.
#[cfg(stratalog_simulation)]
pub(crate) mod unmodelled {
    pub(crate) use simulated_machine::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
    pub(crate) use simulated_machine::sync::unmodelled::{Arc, OnceLock, PoisonError, Weak};
    pub(crate) use simulated_machine::sync::{Mutex, MutexGuard};
    pub(crate) use simulated_machine::thread;
}

/// As above.
#[cfg(not(stratalog_simulation))]
pub(crate) mod unmodelled {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
    pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
    pub(crate) use std::thread;
}
