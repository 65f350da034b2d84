//! Retirement, with the real crossbeam-epoch: no segment is freed under a guard that could have
//! seen it, and it is freed at last. One that was emptied leaves in two steps: it stays in the
//! table until no guard is left that could hold an address in it, then until none holds a
//! reference.
//! `src/concurrency/epoch.rs`, `src/log/table.rs` (T1, T2), `src/log/mod.rs` (`retire_segment`,
//! `sweep`).
//!
//! mutations: retire-without-grace (the segment is dropped at once), retire-leak (what is ready is
//! never taken), left-without-grace (an emptied segment may leave the table at once)
#![cfg(all(stratalog_loom, crossbeam_loom))]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom_tests::watched::{Watch, Watched};
use stratalog::Error;
use stratalog::internals::format::header::Role;
use stratalog::internals::format::ids::{Address, Sequence, TableIndex, Units};
use stratalog::internals::segment::Segment;
use stratalog::internals::{Epoch, Log, Purpose, SegmentTable, Source};

#[test]
fn no_segment_is_freed_under_a_guard_and_it_is_freed_at_last() {
    loom::model(|| {
        let watch = std::sync::Arc::new(Watch::default());
        let (epoch, table) = (Arc::new(Epoch::new()), Arc::new(SegmentTable::new(4)));
        let segment = Watched::segment(256, Sequence(1), &watch);
        let index = table.insert(std::sync::Arc::new(segment)).expect("room for one");

        let remover = {
            let (epoch, table) = (Arc::clone(&epoch), Arc::clone(&table));
            loom::thread::spawn(move || {
                {
                    let guard = epoch.pin();
                    let segment = table.get(&guard, index).expect("nobody else removes it");
                    assert!(table.remove(&guard, segment));
                }
                epoch.reclaim();
            })
        };
        {
            let guard = epoch.pin();
            if let Some(segment) = table.get(&guard, index) {
                assert_eq!(segment.sequence(), Sequence(1));
                loom::thread::yield_now();
                assert!(!watch.gone.load(Ordering::Relaxed), "freed under a guard");
                assert_eq!(segment.filling().taken().slots, 0);
            }
        }
        remover.join().unwrap();
        // The other thread's registration ends with its thread-locals, which may be after the join:
        // hence the yield. What is never freed is stopped by loom's bound on branches.
        for _ in 0..50 {
            epoch.reclaim();
            if watch.gone.load(Ordering::Relaxed) {
                return;
            }
            loom::thread::yield_now();
        }
        assert!(watch.gone.load(Ordering::Relaxed), "never freed: {epoch:?}");
    });
}

/// Nothing is ever taken from it here.
struct Nowhere;

impl Source<Watched> for Nowhere {
    fn create(&self, _: Sequence, _: Role, _: Purpose) -> Result<Segment<Watched>, Error> {
        Err(Error::StorageFull)
    }
    fn discard(&self, _: &Segment<Watched>) {}
    fn wake(&self) {}
}

/// A log, and one word that stands for the index.
struct Store {
    epoch: Epoch,
    log: Log<Watched, Nowhere>,
    entry: AtomicU64,
    watch: std::sync::Arc<Watch>,
}

impl Store {
    fn adopt(&self, sequence: u64, watch: &std::sync::Arc<Watch>) -> Address {
        let segment = Watched::segment(256, Sequence(sequence), watch);
        let index = self.log.adopt(std::sync::Arc::new(segment)).expect("room");
        let guard = self.epoch.pin();
        self.log.table().get(&guard, index).expect("it was put there").address(Units(3))
    }

    /// What compaction does once the copies are in force, and the maintenance thread after it.
    fn empty_the_first(&self, copy: Address) {
        self.entry.store(copy.bits(), Ordering::Release);
        let guard = self.epoch.pin();
        let first = self.log.table().get_arc(&guard, TableIndex(0)).expect("nobody else");
        self.log.retire_segment(&guard, first);
    }

    fn upkeep(&self) {
        self.epoch.reclaim();
        self.log.sweep(&self.epoch.pin());
    }
}

#[test]
fn an_address_from_the_index_leads_to_its_segment_for_as_long_as_the_guard_lives() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(|| {
        let (watch, other) = <(std::sync::Arc<Watch>, std::sync::Arc<Watch>)>::default();
        let store = Arc::new(Store {
            epoch: Epoch::new(),
            log: Log::new(Nowhere, loom_tests::geometry(256), Sequence(9)),
            entry: AtomicU64::new(0),
            watch,
        });
        let first = store.adopt(1, &store.watch);
        let copy = store.adopt(2, &other);
        store.entry.store(first.bits(), Ordering::Release);

        let compactor = {
            let store = Arc::clone(&store);
            loom::thread::spawn(move || {
                store.empty_the_first(copy);
                for _ in 0..2 {
                    store.upkeep();
                }
                // Takes the table index of the first, should that be free.
                store.adopt(3, &other);
            })
        };
        {
            let guard = store.epoch.pin();
            let address = Address::from_bits(store.entry.load(Ordering::Acquire));
            loom::thread::yield_now();
            let (segment, _) = store.log.resolve(&guard, address).expect("it is there");
            let sequence = if address == first { 1 } else { 2 };
            loom::thread::yield_now();
            assert!(address != first || !store.watch.gone.load(Ordering::Relaxed), "freed");
            assert_eq!(segment.sequence(), Sequence(sequence), "another segment");
        }
        compactor.join().unwrap();
        for _ in 0..50 {
            store.upkeep();
            if store.watch.gone.load(Ordering::Relaxed) {
                return;
            }
            loom::thread::yield_now();
        }
        assert!(store.watch.gone.load(Ordering::Relaxed), "never freed: {:?}", store.epoch);
    });
}
