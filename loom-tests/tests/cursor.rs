//! Reservations are disjoint and inside; the first that does not fit proves the segment full for
//! all; exactly one is told the sealed count, and it is exact. DESIGN.md 3.2, [C1]-[C3].
//!
//! mutation: cursor-load-store (the addition becomes a load and a store)
#![cfg(stratalog_loom)]

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use stratalog::internals::format::ids::Units;
use stratalog::internals::segment::cursor::{Capacity, Reserved, Taken, reserve};

/// Room for four units besides their slots.
const CAPACITY: Capacity = Capacity { segment_bytes: 1024, directory_at: 256 };

#[test]
fn reservations_are_disjoint_and_the_seal_is_exact() {
    loom::model(|| {
        let cursor = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = [1, 4, 5]
            .map(|units| {
                let cursor = Arc::clone(&cursor);
                loom::thread::spawn(move || {
                    let ask = || (Units(units), reserve(&cursor, CAPACITY, 1, Units(units)));
                    [ask(), ask()]
                })
            })
            .into_iter()
            .collect();
        let results = threads.into_iter().map(|thread| thread.join());
        let results: Vec<_> = results.flat_map(|asked| asked.unwrap()).collect();

        let (mut granted, mut sealed) = (Vec::new(), Vec::new());
        for (units, result) in results {
            match result {
                Reserved::Granted(grant) => granted.push((grant.slot.0, grant.offset.0, units.0)),
                Reserved::Full { granted } => {
                    sealed.extend(granted.map(|taken| taken.slots as u32))
                }
            }
        }
        granted.sort_unstable();
        let mut floor = 1024 / 64;
        for (n, &(slot, offset, units)) in granted.iter().enumerate() {
            assert_eq!(slot as usize, n, "two reservations share a slot, or one was skipped");
            assert_eq!(offset + units, floor, "two frames overlap, or leave a gap");
            floor = offset;
        }
        assert!(256 + 32 * granted.len() <= 64 * floor as usize, "directory and frames meet");
        let taken = Taken::from_word(cursor.load(loom::sync::atomic::Ordering::Relaxed));
        assert!(!CAPACITY.fits(taken), "the asks add up to more than fits");
        assert_eq!(sealed, [granted.len() as u32], "the sealed count is not exact, or told twice");
    });
}
