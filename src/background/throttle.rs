//! The write throttle: puts that outrun compaction are delayed a little each, by the clock alone.
//!
//! The background says how many bytes a second may be put: any number while the log takes no more
//! than about twice what is live, then less and less. Writers share one clock, the moment up to
//! which what they have put is paid for: each put moves it on by its bytes at that rate, and sleeps
//! when the clock is ahead by more than it is worth to wake up for. A put never waits for another
//! thread: its delay is bounded whatever the background does, and where that stands still, writers
//! go on at the slowest rate.
//!
//! A put is delayed after it took effect, in `Store::sync_or_throttle` (`store/write.rs`); a write
//! of a `Synced` store is not, because it waits for the device. The rate is set by
//! `StoreCore::set_throttle`, and by a writer itself if it is older than `STALE_NS`.
//!
//! The bound of a delay is `DELAY_MAX_NS` for each `PART_BYTES` of a put, begun ones counted [P1].

use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{AtomicBool, AtomicU64, Mutex, Ordering, thread};
use crate::disk::DiskEngine;
use crate::os::time::Instant;
use std::time::Duration;

/// What a put of up to so many bytes may be delayed by, and each further such part of a long one.
const DELAY_MAX_NS: u64 = 4_000_000;
const PART_BYTES: u64 = 64 << 10;
/// Shorter delays are put off: waking up costs some 60 us.
const DELAY_MIN_NS: u64 = 1_000_000;
/// The rate where throttling begins. It is halved `HALVINGS` times on the way to the target.
const FASTEST: f64 = 1_073_741_824.0;
const HALVINGS: f64 = 10.0;
/// How long a rate below that counts: after that a writer has a look itself, since the background
/// may be short of a core just then.
const STALE_NS: u64 = 10_000_000;
/// In `rate`: as fast as they can.
const ANY: u64 = u64::MAX;
/// The way from the beginning of throttling to its end, in parts of what is live, and in segments:
/// the longer of the two.
const WAY: f64 = 0.4;
const SEGMENTS_ON_THE_WAY: f64 = 4.0;
/// Segments between that end and the target: the active one is counted as far as it is taken,
/// compaction makes two before it gives others back, and it may lose its core for some time.
const SEGMENTS_LEFT: f64 = 5.0;
/// In a small store, segments beside what is live where the way ends.
const SEGMENTS_ALWAYS: f64 = 12.0;

/// What the log takes on disk, and what of it counts.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes of the segments in use, but for what compaction cannot get back.
    pub held: u64,
    /// Of those, bytes of records that are live.
    pub live: u64,
    /// Bytes of a segment.
    pub segment: u64,
}

impl Space {
    /// Returns how far it is on the way from where throttling begins (0) to where it ends (1).
    fn throttle_fraction(self, target: f64) -> f64 {
        let (held, live, segment) = (self.held as f64, self.live as f64, self.segment as f64);
        let end = (target * live - SEGMENTS_LEFT * segment).max(live + SEGMENTS_ALWAYS * segment);
        let way = (WAY * live).max(SEGMENTS_ON_THE_WAY * segment);
        1.0 - (end - held) / way
    }
}

/// On lines of its own, so that reading it at every put stays cheap.
#[derive(Debug)]
#[repr(align(128))]
struct CacheLine<T>(T);

/// How much was given back lately.
#[derive(Debug)]
struct Returned {
    at: Instant,
    /// The total then.
    seen: u64,
    /// Bytes a second, of about the last second.
    rate: f64,
}

/// Says how fast puts may be, and delays them.
#[derive(Debug)]
pub struct Throttle {
    /// Bytes a second.
    rate: CacheLine<AtomicU64>,
    /// When it was set last.
    set_at: AtomicU64,
    /// The clock that writers share, nanoseconds since `began`.
    paid: CacheLine<AtomicU64>,
    began: Instant,
    delayed_ns: AtomicU64,
    /// How many times what is live the log may take.
    target: Option<f64>,
    /// Compaction cannot do its work.
    cannot_compact: AtomicBool,
    returned_bytes: AtomicU64,
    /// Bytes a second, of late.
    returned_rate: AtomicU64,
    returned: Mutex<Returned>,
}

impl Throttle {
    /// Without a target it delays nobody.
    #[must_use]
    pub fn new(target: Option<f64>) -> Self {
        let began = Instant::now();
        Self {
            rate: CacheLine(AtomicU64::new(ANY)),
            set_at: AtomicU64::new(0),
            paid: CacheLine(AtomicU64::new(0)),
            began,
            delayed_ns: AtomicU64::new(0),
            target,
            cannot_compact: AtomicBool::new(false),
            returned_bytes: AtomicU64::new(0),
            returned_rate: AtomicU64::new(0),
            returned: Mutex::new(Returned { at: began, seen: 0, rate: 0.0 }),
        }
    }

    /// Delays the caller, who has put this number of bytes, if writers outrun compaction. `measure`
    /// returns the space that the log takes.
    #[inline]
    pub fn delay_put(&self, bytes: u64, measure: impl FnOnce() -> Space) {
        // Relaxed: an older rate is as good.
        let rate = self.rate.0.load(Ordering::Relaxed);
        if rate != ANY && bytes > 0 {
            let now = self.now();
            // Relaxed: only who sets it matters, and that is one of them by the exchange.
            let set_at = self.set_at.load(Ordering::Relaxed);
            let stale = now.saturating_sub(set_at) > STALE_NS;
            let exchange = |to| {
                // Relaxed: as above.
                self.set_at.compare_exchange(set_at, to, Ordering::Relaxed, Ordering::Relaxed)
            };
            if stale && exchange(now).is_ok() {
                self.set(measure());
            }
            self.delay(bytes, rate, now);
        }
    }

    #[cold]
    fn delay(&self, bytes: u64, rate: u64, now: u64) {
        let price = bytes.saturating_mul(1_000_000_000) / rate.max(1);
        let most = bytes.div_ceil(PART_BYTES).saturating_mul(DELAY_MAX_NS);
        // Relaxed: the clock orders nothing. What nobody used up is not saved.
        self.paid.0.fetch_max(now, Ordering::Relaxed);
        // Relaxed: as above. The sum does not wrap: the clock is not far ahead of `now`, see below.
        let due = self.paid.0.fetch_add(price, Ordering::Relaxed).saturating_add(price);
        let ahead = due.saturating_sub(now);
        if ahead > most {
            // More than may be asked for [P1]: forgiven, or whoever comes next would pay for it.
            // Relaxed: as above.
            self.paid.0.fetch_min(now.saturating_add(most), Ordering::Relaxed);
        }
        let delay = ahead.min(most);
        if delay >= DELAY_MIN_NS {
            thread::sleep(Duration::from_nanos(delay));
            // Relaxed: a statistic.
            self.delayed_ns.fetch_add(delay, Ordering::Relaxed);
        }
    }

    /// How long puts were delayed, all together.
    #[must_use]
    pub fn write_stall(&self) -> Duration {
        // Relaxed: a statistic.
        Duration::from_nanos(self.delayed_ns.load(Ordering::Relaxed))
    }

    /// Notes that so much came back to the file system.
    pub fn note_returned(&self, bytes: u64) {
        // Relaxed: a statistic.
        self.returned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets the rate by what the log takes now; and whether compaction can do its work: where it
    /// cannot, a delay would gain nothing. For the background.
    pub fn set_in_background(&self, space: Space, cannot_compact: bool) {
        // Relaxed: a hint.
        self.cannot_compact.store(cannot_compact, Ordering::Relaxed);
        // Relaxed: a statistic.
        self.returned_rate.store(self.returned_lately() as u64, Ordering::Relaxed);
        // Relaxed: as in `delay`.
        self.set_at.store(self.now(), Ordering::Relaxed);
        self.set(space);
    }

    fn set(&self, space: Space) {
        // Relaxed: a hint, and a statistic.
        let cannot_compact = self.cannot_compact.load(Ordering::Relaxed);
        let returned = self.returned_rate.load(Ordering::Relaxed) as f64;
        let target = self.target.filter(|_| !cannot_compact);
        let rate = target.and_then(|target| rate_at(space.throttle_fraction(target), returned));
        // Relaxed: as in `delay`.
        self.rate.0.store(rate.map_or(ANY, |rate| rate as u64), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }

    /// Bytes a second that came back of late.
    fn returned_lately(&self) -> f64 {
        // Relaxed: a statistic.
        let total = self.returned_bytes.load(Ordering::Relaxed);
        let mut last = lock(&self.returned);
        let seconds = last.at.elapsed().as_secs_f64();
        if seconds > 0.0 {
            let fresh = total.saturating_sub(last.seen) as f64;
            // Of one number that is noted once a second and forgotten by the part 1/e a second.
            let kept = (-seconds).exp();
            last.rate = last.rate * kept + fresh / seconds * (1.0 - kept);
            (last.at, last.seen) = (Instant::now(), total);
        }
        last.rate
    }
}

/// Bytes a second where the log is so far on its way; `None`: as fast as they can. Never less than
/// half of what comes back, so that a large backlog is worked off without stopping writers.
fn rate_at(way: f64, returned: f64) -> Option<f64> {
    (way > 0.0).then(|| (FASTEST * (-HALVINGS * way.min(1.0)).exp2()).max(returned / 2.0))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl super::StoreCore {
    /// Sets the rate of puts by the space that the log takes now. `failed`: the last compaction
    /// could not do its work. Called by the background thread each time it is notified, and by the
    /// compactor after each group; a writer that finds the rate older than `STALE_NS` sets it
    /// itself ([`Throttle::delay_put`]).
    pub(super) fn set_throttle(&self, failed: bool) {
        let cannot_compact = failed || self.holds_back_too_much();
        self.throttle.set_in_background(space_of(&self.engine), cannot_compact);
    }
}

/// What the log takes on disk and what of it is live; segments that compaction keeps away from, and
/// tombstones that it found to be needed, left out.
#[must_use]
pub fn space_of(engine: &DiskEngine) -> Space {
    let log = engine.log();
    let segment = log.geometry().segment_bytes as u64;
    let out_of_reach = log.needed_bytes() + log.quarantined() * segment;
    let held = log.held_bytes(&engine.epoch().pin()).saturating_sub(out_of_reach);
    Space { held, live: log.lasting_bytes(), segment }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(held: u64, live: u64) -> Space {
        Space { held: held * MIB, live: live * MIB, segment: 16 * MIB }
    }

    #[test]
    fn throttling_begins_at_about_twice_what_is_live_and_is_slowest_before_the_target() {
        // Of 10,000 MiB, with segments of 16: five of those before the target, 4,000 MiB of way.
        assert!(space(20_920, 10_000).throttle_fraction(2.5) <= 0.0);
        assert!(space(20_921, 10_000).throttle_fraction(2.5) > 0.0);
        assert!((space(24_920, 10_000).throttle_fraction(2.5) - 1.0).abs() < 1e-9);
        // Of 200 MiB it is 80, of 100 four segments.
        assert!(space(500 - 80 - 80, 200).throttle_fraction(2.5) <= 0.0);
        assert!((space(500 - 80, 200).throttle_fraction(2.5) - 1.0).abs() < 1e-9);
        assert!(space(100 + 192 - 64, 100).throttle_fraction(2.5) <= 0.0);
        assert!(space(100 + 192 - 63, 100).throttle_fraction(2.5) > 0.0);
        // A small store may have twelve segments beside what is live.
        assert!(space(10 + 128, 10).throttle_fraction(2.5) <= 0.0);
        assert!((space(10 + 192, 10).throttle_fraction(2.5) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_rate_falls_steadily_and_not_below_half_of_what_comes_back() {
        assert_eq!(rate_at(0.0, 1e9), None);
        let rates: Vec<_> = (1..=20).filter_map(|n| rate_at(f64::from(n) / 20.0, 0.0)).collect();
        assert_eq!(rates.len(), 20);
        assert!(rates.windows(2).all(|pair| pair[1] < pair[0] && pair[1] > pair[0] / 2.0));
        assert_eq!((rate_at(1.0, 0.0), rate_at(9.0, 0.0)), (Some(1_048_576.0), Some(1_048_576.0)));
        assert_eq!(rate_at(9.0, 1e8), Some(5e7));
    }

    #[test]
    fn a_put_is_delayed_by_no_more_than_its_bound_however_slow_the_rate() {
        let throttle = Throttle::new(Some(2.5));
        let full = space(9_000, 1_000);
        let delay = |throttle: &Throttle, bytes| {
            let before = throttle.write_stall();
            // More than once: what is forgiven is not asked for later.
            (0..3).for_each(|_| throttle.delay_put(bytes, || full));
            throttle.write_stall() - before
        };
        assert_eq!(delay(&throttle, 1 << 20), Duration::ZERO, "nothing has set a rate yet");
        throttle.set_in_background(full, false);
        for (bytes, most_ms) in [(100, 4), (64 << 10, 4), ((64 << 10) + 1, 8), (1 << 20, 64)] {
            let delayed = delay(&throttle, bytes);
            assert!(delayed <= Duration::from_millis(3 * most_ms), "{bytes}: {delayed:?}");
            assert!(bytes < 1_000 || delayed > Duration::ZERO, "{bytes} cost nothing");
        }
        assert_eq!(delay(&throttle, 0), Duration::ZERO, "a removal is free");
        for (space, cannot_compact) in [(space(2_000, 1_000), false), (full, true)] {
            throttle.set_in_background(space, cannot_compact);
            assert_eq!(delay(&throttle, 1 << 20), Duration::ZERO);
        }
        let off = Throttle::new(None);
        off.set_in_background(full, false);
        assert_eq!(delay(&off, 1 << 20), Duration::ZERO);
    }

    #[test]
    fn a_writer_has_a_look_itself_when_the_background_has_not_for_long() {
        let throttle = Throttle::new(Some(2.5));
        throttle.set_in_background(space(9_000, 1_000), false);
        // Each of these is delayed, until one of them looks.
        let mut measured = 0;
        while measured == 0 {
            throttle.delay_put(1 << 10, || {
                measured += 1;
                space(1_000, 1_000)
            });
        }
        let before = throttle.write_stall();
        throttle.delay_put(1 << 20, || space(9_000, 1_000));
        assert_eq!(throttle.write_stall(), before);
    }
}
