//! The simulated clock.

use crate::machine::here;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

/// Seconds from 1970 to the beginning of every simulation.
const BEGINNING: u64 = 1_700_000_000;
const NANOSECONDS: u64 = 1_000_000_000;

/// A moment of the simulated clock, as `std::time::Instant` is one of the real clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Returns the present.
    #[must_use]
    pub fn now() -> Self {
        Self(here().map_or(0, |machine| machine.now()))
    }

    /// Returns the time since then.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Self::now().duration_since(*self)
    }

    /// Returns the time since an earlier moment, or zero.
    #[must_use]
    pub fn duration_since(&self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the moment so much later.
    #[must_use]
    pub fn checked_add(&self, duration: Duration) -> Option<Self> {
        Some(Self(self.0.checked_add(nanoseconds(duration))?))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// Returns the time of day.
#[must_use]
pub fn now() -> SystemTime {
    let (since, by) = here().map_or((0, 0), |machine| (machine.now(), machine.set_by()));
    let since = since.saturating_add(BEGINNING * NANOSECONDS).saturating_add_signed(by);
    SystemTime::UNIX_EPOCH + Duration::from_nanos(since)
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
