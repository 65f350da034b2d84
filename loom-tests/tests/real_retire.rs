//! Retirement, with the real crossbeam-epoch: no segment is freed under a guard that could have
//! seen it, and it is freed at last. `src/epoch.rs`, `src/log/table.rs` (T1).
//!
//! mutations: retire-without-grace (the segment is dropped at once), retire-leak (what is ready is
//! never taken)
#![cfg(all(stratalog_loom, crossbeam_loom))]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom_tests::Heap;
use stratalog::internals::format::ids::Sequence;
use stratalog::internals::segment::Segment;
use stratalog::internals::{Epoch, HeapMemory, Memory, SegmentTable};

/// A memory that says when it is gone.
struct Watched {
    inner: HeapMemory,
    gone: Arc<AtomicBool>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "hands everything on to a memory that keeps the contract")]
mod forward {
    use super::{HeapMemory, Memory, Watched};

    // SAFETY: `HeapMemory` keeps the contract.
    unsafe impl Memory for Watched {
        fn len(&self) -> usize {
            self.inner.len()
        }
        fn word(&self, at: usize) -> &loom::sync::atomic::AtomicU64 {
            self.inner.word(at)
        }
        unsafe fn write(&self, at: usize, bytes: &[u8]) {
            // SAFETY: the caller's contract is the same.
            unsafe { HeapMemory::write(&self.inner, at, bytes) }
        }
        unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
            // SAFETY: the caller's contract is the same.
            unsafe { HeapMemory::bytes(&self.inner, at, len) }
        }
        fn flush(&self) -> std::io::Result<()> {
            self.inner.flush()
        }
    }
}

#[test]
fn no_segment_is_freed_under_a_guard_and_it_is_freed_at_last() {
    loom::model(|| {
        let gone = Arc::new(AtomicBool::new(false));
        let (epoch, table) = (Arc::new(Epoch::new()), Arc::new(SegmentTable::new(4)));
        let inner = HeapMemory::new(256);
        let memory = Watched { inner, gone: Arc::clone(&gone) };
        let identity = Heap { segment_bytes: 256 }.identity(Sequence(1));
        let segment = Segment::create(memory, &identity);
        let index = table.insert(std::sync::Arc::new(segment)).expect("room for one");

        let remover = {
            let (epoch, table) = (Arc::clone(&epoch), Arc::clone(&table));
            loom::thread::spawn(move || {
                table.remove(&epoch, &epoch.pin(), index);
                epoch.reclaim();
            })
        };
        {
            let guard = epoch.pin();
            if let Some(segment) = table.get(&guard, index) {
                assert_eq!(segment.sequence(), Sequence(1));
                loom::thread::yield_now();
                assert!(!gone.load(Ordering::Relaxed), "freed under a guard");
                assert_eq!(segment.taken().slots, 0);
            }
        }
        remover.join().unwrap();
        // The other thread's registration ends with its thread-locals, which may be after the join:
        // hence the yield. What is never freed is stopped by loom's bound on branches.
        for _ in 0..50 {
            epoch.reclaim();
            if gone.load(Ordering::Relaxed) {
                return;
            }
            loom::thread::yield_now();
        }
        assert!(gone.load(Ordering::Relaxed), "never freed: {epoch:?}");
    });
}
