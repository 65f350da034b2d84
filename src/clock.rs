//! The time of day, as records carry it.

use crate::os;
use std::time::{Duration, SystemTime};

/// Nanoseconds since 1970; a clock before that counts as 1970, one after 2554 as 2554.
pub fn now_ns() -> u64 {
    nanoseconds(os::time::now())
}

/// A moment in the same measure.
pub fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// The moment of such a number.
pub fn moment(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}
