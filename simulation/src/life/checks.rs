//! What is compared when nobody else is at work, and bounds that always hold.

use super::Task;
use crate::model::{End, Fate, Kept, TagOf};
use crate::plan::{MAPPINGS_MAX, ROOMY};
use simulated_machine::{note, process, thread};
use std::sync::atomic::Ordering;
use std::time::Duration;
use stratalog::{Error, Lsn, Options, SegmentRole, SegmentState, SegmentStats};

/// Preallocated segments, and one that is being made.
const AHEAD: usize = 4;
/// Descriptors that segments keep, and those of files that a store and its backups have open for a
/// moment.
const OPEN_FILES: u64 = 64 + 32;
/// Segments of copies that have a descriptor: they take copies, or are not flushed yet.
const OUTPUTS: usize = 3;
/// How long what the background does may take.
const SETTLING: Duration = Duration::from_secs(3);
const NAP: Duration = Duration::from_millis(20);

impl Task<'_> {
    /// Shows all ids to the judge, and holds everything that can be counted against each other.
    pub(super) fn show(&self, before: End) {
        note(|| format!("{:?}", self.store.recovery()));
        if before == End::PowerLoss {
            self.model().forget_tags();
        }
        let begun = self.model().tick();
        let pinned = self.store.pin();
        let ids = 0..self.process.plan.ids;
        let answers: Option<Vec<_>> = ids.map(|id| self.read(&pinned, id)).collect();
        let Some(answers) = answers else { return };
        self.judge_agreement("the store", self.store, &answers);
        let tail = self.store.stats().tail;
        let mut model = self.model();
        // What a process wrote that could not tell its boot is not known to be of this one.
        let hides =
            self.process.plan.lives.iter().take(self.process.life + 1).any(|l| l.hides_boot);
        let kept = match (self.process.has_salvaged, hides) {
            (true, _) => Kept::Records,
            (false, true) => Kept::Batches,
            (false, false) => Kept::Prefix,
        };
        answers.iter().for_each(|answer| model.judge_expiry(begun, *answer));
        model.reopened(before, kept, &answers);
        let most = self.process.plan.settings.open_files_max;
        let kept = process::kept_descriptors().load(Ordering::Relaxed);
        if kept > (most / 8).clamp(2, 64) {
            model.complain(format!("{kept} descriptors are kept, of at most {most}"));
        }
        if !model.is_excused() && tail <= model.highest && model.highest > Lsn::ZERO {
            let highest = model.highest;
            model.complain(format!("{tail} is given next after {highest}"));
        }
    }

    /// The segments that are in use.
    fn segments_in_use(&self) -> Vec<SegmentStats> {
        let mut segments = self.store.segments();
        segments.retain(|segment| segment.state != SegmentState::Retained);
        segments
    }

    /// Bounds of what a process holds.
    pub(super) fn stats(&self) {
        let durable = self.store.durable_lsn();
        self.model().durable_up_to(durable);
        let stats = self.store.stats();
        if stats.durable < durable {
            self.model().complain(format!("durable up to {durable} before {stats:?}"));
        }
        let path = self.model().path;
        let again = Options::new().create(false).open(format!("/{path}"));
        // It may just have got its other name.
        let is_locked = matches!(again, Err(Error::Locked { .. } | Error::NotFound(_)));
        if !is_locked && !self.process.life().has_failing_calls() && !self.process.has_few() {
            self.model().complain(format!("it can be opened twice: {again:?}"));
        }
        let open = process::open_files();
        if open > OPEN_FILES {
            self.model().complain(format!("{open} files are open"));
        }
    }

    /// However much there is to compact, few segments take copies.
    pub(super) fn compact(&self) {
        let done = self.store.compact_with(|_, _| {
            let open = process::names_open();
            let is_output = |segment: &&SegmentStats| {
                let name = segment.path.file_name();
                segment.role == SegmentRole::Copies
                    && name.is_some_and(|name| open.iter().any(|its| **its == *name))
            };
            let outputs = self.segments_in_use().iter().filter(is_output).count();
            // Those of a process that was killed are not flushed yet.
            let inherits = !matches!(self.process.before, None | Some(End::Close));
            if outputs > OUTPUTS && !inherits && self.model().copies == 0 {
                self.model().complain(format!("{outputs} segments of copies are open"));
            }
        });
        self.check("compact", done.map(drop));
    }

    /// When the workload has ended: before long the totals equal a recount, the directory has the
    /// files of the segments in use, and what was removed is not mapped any more.
    pub(super) fn recount(&self) {
        process::be_fair();
        let mut left = SETTLING;
        while let Some(what) = self.disagreement() {
            let Some(less) = left.checked_sub(NAP) else {
                let tasks = process::picture();
                return self.model().complain(format!("{what}; tasks: {tasks}"));
            };
            thread::sleep(NAP);
            left = less;
        }
    }

    /// When the workload has ended and nothing fails any more, writes work again, unless a flush
    /// has failed.
    pub(super) fn write_again(&self) {
        let settings = &self.process.plan.settings;
        let is_roomy = settings.disk_bytes == ROOMY && settings.mappings_max == MAPPINGS_MAX;
        let recovers = self.process.life().has_failing_calls() && self.process.life().recovers;
        if !recovers || !is_roomy || self.model().is_excused() {
            return;
        }
        process::be_well();
        self.put(0, 1, (None, TagOf::Nothing), |record, _| record.never_expires());
        let mut model = self.model();
        let works = model.writes.last().is_some_and(|write| write.fate == Fate::Done);
        if !works && !model.refuses() {
            model.complain("a write fails, although nothing is wrong any more".to_owned());
        }
    }

    /// When the workload has ended, a compaction leaves no garbage but where something is damaged,
    /// or where records are written to. Returns whether it has done its work.
    pub(super) fn tidy(&self) -> bool {
        if let Err(error) = self.store.compact() {
            self.judge_full(&error);
            self.process.judge_error("compact", &error);
            return false;
        }
        let life = self.process.life();
        let plan = &self.process.plan;
        if life.has_failing_calls() || plan.settings.disk_bytes < ROOMY {
            return true;
        }
        let is_garbage = |segment: &&SegmentStats| {
            segment.state == SegmentState::Sealed && segment.dead_bytes > segment.needed_bytes
        };
        let in_use = self.segments_in_use();
        let garbage: Vec<_> = in_use.iter().filter(is_garbage).collect();
        let damages = plan.lives.iter().take(self.process.life + 1);
        let damages = damages.filter(|life| life.is_damaged).count();
        // Where a record is damaged its copy may be, too, or what it hides.
        if garbage.len() > 2 * damages {
            self.model().complain(format!("after a compaction there is garbage in {garbage:?}"));
        }
        true
    }

    /// On a disk without room, what is dead as a whole goes all the same; but a removal, and
    /// what a record that expired becomes, may have to stay.
    fn judge_full(&self, error: &Error) {
        let dead = |segment: &&SegmentStats| {
            segment.state == SegmentState::Sealed
                && segment.role == SegmentRole::Log
                && segment.live_bytes + segment.needed_bytes == 0
                && segment.dead_bytes > 0
                && !self.model().may_hold_removals(segment.sequence)
        };
        let in_use = self.segments_in_use();
        if matches!(error, Error::StorageFull)
            && !self.process.life().has_failing_calls()
            && !self.model().is_excused()
            && let Some(dead) = in_use.iter().find(dead)
        {
            self.model().complain(format!("no room, and yet there is {dead:?}"));
        }
    }

    fn disagreement(&self) -> Option<String> {
        let stats = self.store.stats();
        let in_use = self.segments_in_use();
        let records = self.store.pin().iter().filter(Result::is_ok).count() as u64;
        let live: u64 = in_use.iter().map(|segment| segment.live_bytes).sum();
        let (expires, path, is_damaged) = {
            let model = self.model();
            (model.expires(), model.path, model.is_excused())
        };
        if stats.live_records != records && !expires && !is_damaged {
            return Some(format!("{records} records are there: {stats:?}"));
        }
        let differs = live != stats.live_bytes || in_use.len() as u64 != stats.segments;
        if differs && !is_damaged {
            return Some(format!("{live} bytes in {in_use:?} are live: {stats:?}"));
        }
        let durable = self.store.durable_lsn();
        let last = self.model().last;
        let flushes = self.process.life().flush_millis.is_some();
        if flushes && durable < last && !is_damaged && !self.process.has_failed_calls() {
            return Some(format!("{last} was given, and only {durable} is durable"));
        }
        let files = process::names_in(path);
        let has = |segment: &SegmentStats| {
            segment.path.file_name().is_some_and(|name| files.iter().any(|its| its == name))
        };
        if let Some(lacking) = in_use.iter().find(|segment| !has(segment)) {
            return Some(format!("no file of {lacking:?} is there"));
        }
        let segments = files.iter().filter(|name| name.to_string_lossy().contains(".seg")).count();
        // After a fault or power loss, and in a salvage, files that nobody needs stay until the
        // next opening.
        let life = self.process.life();
        let is_rebooted = self.process.before == Some(End::PowerLoss);
        let is_tidy = !life.salvages && !life.has_failing_calls() && !is_rebooted;
        if segments > in_use.len() + AHEAD && is_tidy && !is_damaged {
            return Some(format!("files of {} segments: {files:?}", in_use.len()));
        }
        if let Some(what) = self.store.manifest_disagreement().filter(|_| is_tidy && !is_damaged) {
            return Some(what);
        }
        let allocated = process::allocated_in(path);
        if stats.disk_bytes != allocated && is_tidy && !is_damaged {
            return Some(format!("the files take {allocated} bytes: {stats:?}, {files:?}"));
        }
        if !self.store.leads_to_segments() {
            return Some("the index leads to a segment that is gone".to_owned());
        }
        let (mapped, removed) = process::mapped_files();
        let what = || format!("of {mapped} mapped files {removed} were removed: {stats:?}");
        (removed > 0).then(what)
    }

    pub(super) fn verify(&self, depth: u8) {
        let done = match depth {
            0 => self.store.verify_quick(),
            1 => self.store.verify_deep(|_, _| ()),
            _ => self.store.verify(),
        };
        match done {
            Ok(report) if report.is_clean() => {}
            Ok(_) if self.model().is_excused() => {}
            Ok(report) => self.model().complain(format!("verify: {:?}", report.damaged)),
            Err(error) => self.process.judge_error("verify", &error),
        }
    }
}
