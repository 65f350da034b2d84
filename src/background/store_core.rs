//! The parts of an open store that its callers and its background threads share.

use super::compaction_totals::CompactionTotals;
use super::throttle::Throttle;
use crate::concurrency::sync::unmodelled::{Arc, AtomicBool, AtomicU64, Mutex};
use crate::disk::{DiskEngine, LiveManifest};
use crate::durability::Flusher;
use crate::format::ids::Sequence;
use crate::segment::Segment;

/// The parts of an open store. The store and its background threads share one core.
#[derive(Debug)]
pub struct StoreCore {
    /// The store's engine.
    pub engine: DiskEngine,
    /// The store's flush state.
    pub flusher: Arc<Flusher>,
    /// What the manifest says.
    pub live_manifest: LiveManifest,
    /// Whether a write is to be durable when it returns.
    pub synced: bool,
    /// Bytes a second that compaction may copy.
    pub compaction_rate: Option<u64>,
    /// Held by the one compaction there is at a time.
    pub compacting: Mutex<()>,
    /// How many callers ask for a compaction by hand: the background yields to them.
    pub manual_requests: AtomicU64,
    /// What all compactions have done.
    pub compacted: CompactionTotals,
    /// The last compaction in the background could not do its work.
    pub failed: AtomicBool,
    /// Whether a segment is flushed as soon as it is full.
    pub flushes_full: bool,
    /// Delays writers that outrun compaction.
    pub throttle: Throttle,
}

impl StoreCore {
    /// Has the flusher flush what is full, once for each segment: none can be emptied before, and
    /// what waits for the interval is more to flush at once.
    pub(super) fn flush_full(&self, last: &mut Option<Sequence>) {
        if !self.flushes_full {
            return;
        }
        let guard = self.engine.epoch().pin();
        let active = self.engine.log().active(&guard).map(Segment::sequence);
        if active > *last {
            *last = active;
            self.flusher.group().ask_for_full();
        }
    }
}
