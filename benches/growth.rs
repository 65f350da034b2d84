//! `cargo bench --bench growth`: what growing costs those who meet it. Three million keys are put
//! into an index alone, without a log behind it; each insert is timed, and so is what a thread of
//! a store would do beside it, giving back what was outgrown.
#![expect(clippy::unwrap_used, reason = "a bench that cannot write has nothing to measure")]

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stratalog::Lsn;
use stratalog::internals::Epoch;
use stratalog::internals::format::ids::Address;
use stratalog::internals::index::{Decision, Entry, Index, KeyHash, Resolve, Shape};

const KEYS: u64 = 3_000_000;

/// Every key is another one, and there are no tombstones.
struct Distinct;

impl Resolve for Distinct {
    fn same_key(&self, _: Entry) -> bool {
        false
    }
    fn lsn(&self, _: Entry) -> Lsn {
        Lsn::ZERO
    }
}

/// As good as random (splitmix64), and another one for every key.
fn hash(key: u64) -> KeyHash {
    let mut z = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    KeyHash(z ^ z >> 31)
}

fn main() {
    let bench = std::env::args().any(|arg| arg == "--bench");
    let keys = if bench { KEYS } else { 20_000 };
    let (epoch, index) = (Epoch::new(), <Index>::new(Shape::default()));
    let mut times = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).unwrap();
    let (mut grown, mut chunks) = (times.clone(), index.allocated_bytes());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                epoch.reclaim();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for n in 1..=keys {
            let entry = Entry { address: Address::from_bits(n), tomb: false, pending: false };
            let begin = Instant::now();
            let guard = epoch.pin();
            index.update(&guard, hash(n), &Distinct, |_| Decision::Set(entry)).unwrap();
            drop(guard);
            let took = begin.elapsed().as_nanos() as u64;
            times.record(took).unwrap();
            let now = index.allocated_bytes();
            if now > chunks {
                grown.record(took).unwrap();
            }
            chunks = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (what, times) in [("all inserts", &times), ("those that made memory", &grown)] {
        let at = |percentile| times.value_at_percentile(percentile) as f64 / 1e3;
        println!(
            "{what}: {}, p50 {:.1} us, p99 {:.1}, p99.9 {:.1}, p99.99 {:.1}, slowest {:.1}; \
             above 100 us: {}",
            times.len(),
            at(50.0),
            at(99.0),
            at(99.9),
            at(99.99),
            times.max() as f64 / 1e3,
            times.count_between(100_000, u64::MAX),
        );
    }
    println!("{:.2} bytes a key", index.allocated_bytes() as f64 / keys as f64);
}
