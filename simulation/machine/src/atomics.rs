//! Atomics with a point before each access: those of [`control`] at any grain, those of [`atomic`]
//! at the fine one.

use crate::machine::here;
use crate::scheduler::{Point, Scheduler};
use std::sync::atomic as real;
use std::sync::atomic::Ordering;

#[inline]
fn access<const CONTROL: bool>() {
    if (CONTROL || Scheduler::is_fine())
        && let Some(machine) = here()
    {
        machine.point(if CONTROL { Point::Word } else { Point::Atomic });
    }
}

macro_rules! atomic {
    ($name:ident, $real:ident, $value:ty) => {
        /// As std's of this kind.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name<const CONTROL: bool>(real::$real);

        impl<const CONTROL: bool> $name<CONTROL> {
            /// As std's.
            #[must_use]
            pub const fn new(value: $value) -> Self {
                Self(real::$real::new(value))
            }
            /// As std's.
            pub fn load(&self, order: Ordering) -> $value {
                access::<CONTROL>();
                self.0.load(order)
            }
            /// As std's.
            pub fn store(&self, value: $value, order: Ordering) {
                access::<CONTROL>();
                self.0.store(value, order);
            }
            /// As std's.
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                access::<CONTROL>();
                self.0.swap(value, order)
            }
            /// As std's.
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                access::<CONTROL>();
                self.0.compare_exchange(old, new, success, failure)
            }
            /// As std's.
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                access::<CONTROL>();
                self.0.compare_exchange(old, new, success, failure)
            }
            /// As std's.
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                access::<CONTROL>();
                self.0.fetch_update(success, failure, f)
            }
            /// As std's.
            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }
            /// As std's.
            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }
        }
    };
}

macro_rules! number {
    ($name:ident, $real:ident, $value:ty) => {
        atomic!($name, $real, $value);
        impl<const CONTROL: bool> $name<CONTROL> {
            number!(@each $value, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_xor,
                fetch_max, fetch_min);
        }
    };
    (@each $value:ty, $($op:ident),*) => {
        $(/// As std's.
        pub fn $op(&self, value: $value, order: Ordering) -> $value {
            access::<CONTROL>();
            self.0.$op(value, order)
        })*
    };
}

number!(U64, AtomicU64, u64);
number!(I64, AtomicI64, i64);
number!(U32, AtomicU32, u32);
number!(U8, AtomicU8, u8);
number!(Usize, AtomicUsize, usize);
atomic!(Bool, AtomicBool, bool);

impl<const CONTROL: bool> U64<CONTROL> {
    /// As std's of this kind.
    ///
    /// # Safety
    ///
    /// As std's of this kind.
    #[expect(unsafe_code, reason = "control words lie in mappings")]
    #[must_use]
    pub unsafe fn from_ptr<'a>(at: *mut u64) -> &'a Self {
        // SAFETY: this type is a transparent one around std's, which has the layout of a `u64`;
        // the rest is the caller's contract.
        unsafe { &*at.cast::<Self>() }
    }
}

/// As std's of this kind.
#[derive(Debug)]
pub struct Ptr<T, const CONTROL: bool>(real::AtomicPtr<T>);

impl<T, const CONTROL: bool> Ptr<T, CONTROL> {
    /// As std's.
    #[must_use]
    pub const fn new(value: *mut T) -> Self {
        Self(real::AtomicPtr::new(value))
    }
    /// As std's.
    pub fn load(&self, order: Ordering) -> *mut T {
        access::<CONTROL>();
        self.0.load(order)
    }
    /// As std's.
    pub fn store(&self, value: *mut T, order: Ordering) {
        access::<CONTROL>();
        self.0.store(value, order);
    }
    /// As std's.
    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        access::<CONTROL>();
        self.0.swap(value, order)
    }
    /// As std's.
    pub fn compare_exchange(
        &self,
        old: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        access::<CONTROL>();
        self.0.compare_exchange(old, new, success, failure)
    }
    /// As std's.
    pub fn compare_exchange_weak(
        &self,
        old: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.compare_exchange(old, new, success, failure)
    }
    /// As std's.
    pub fn get_mut(&mut self) -> &mut *mut T {
        self.0.get_mut()
    }
}

impl<T, const CONTROL: bool> Default for Ptr<T, CONTROL> {
    fn default() -> Self {
        Self::new(std::ptr::null_mut())
    }
}

/// Atomics with a point before each access if the grain is fine.
#[expect(missing_docs, reason = "as std's")]
pub mod atomic {
    pub use std::sync::atomic::Ordering;

    pub type AtomicU64 = super::U64<false>;
    pub type AtomicI64 = super::I64<false>;
    pub type AtomicU32 = super::U32<false>;
    pub type AtomicU8 = super::U8<false>;
    pub type AtomicUsize = super::Usize<false>;
    pub type AtomicBool = super::Bool<false>;
    pub type AtomicPtr<T> = super::Ptr<T, false>;
}

/// Atomics with a point before each access.
#[expect(missing_docs, reason = "as std's")]
pub mod control {
    pub use std::sync::atomic::Ordering;

    pub type AtomicU64 = super::U64<true>;
    pub type AtomicI64 = super::I64<true>;
    pub type AtomicU32 = super::U32<true>;
    pub type AtomicU8 = super::U8<true>;
    pub type AtomicUsize = super::Usize<true>;
    pub type AtomicBool = super::Bool<true>;
    pub type AtomicPtr<T> = super::Ptr<T, true>;
}
