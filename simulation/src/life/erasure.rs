//! What was removed or overwritten is in no file of the store, once it was compacted and closed.

use super::{MARK, Process, Task, lock, name, value_of};
use crate::model::WriteId;
use crate::plan::ROOMY;
use simulated_machine::process;

/// What may be found after a close.
pub(super) struct Stays {
    /// The writes that are there.
    there: Vec<WriteId>,
    /// When the compaction had ended.
    at: u64,
}

impl Task<'_> {
    /// What is there after a compaction. `None` where nothing is promised: after faults, and where
    /// files of earlier lives wait for the next opening.
    pub(super) fn what_stays(&self) -> Option<Stays> {
        let (life, plan) = (self.process.life(), &self.process.plan);
        let is_exempt = life.has_failing_calls()
            || life.salvages
            || plan.settings.disk_bytes < ROOMY
            || self.model().is_excused();
        if is_exempt {
            return None;
        }
        let pinned = self.store.pin();
        let value = |id| Some(value_of(pinned.get(name(id)).ok()??.content()));
        let there = (0..plan.ids).filter_map(value).collect();
        let at = self.model().tick();
        Some(Stays { there, at })
    }
}

impl Process {
    pub(super) fn judge_erasure(&self, stays: &Stays) {
        let mut model = lock(&self.model);
        let mark = (MARK as u32).to_le_bytes();
        for (file, bytes) in process::contents_in(model.path) {
            // The number of the write comes before the mark.
            for content in bytes.windows(8).filter(|bytes| bytes[4..] == mark) {
                let write = value_of(content);
                if !stays.there.contains(&write) && model.is_gone(write, stays.at) {
                    model.complain(format!("{file} holds bytes of write {write}, which is gone"));
                }
            }
        }
    }
}
