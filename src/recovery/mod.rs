//! Opening: from the files of a directory to an engine that answers as the one before it did.
//!
//! Four steps. The first and the last write, and neither does for a read-only handle:
//!
//! 1. *Collect*: map every segment file that is this store's. One whose header is damaged is read
//!    with the salt that the manifest keeps. One whose last flush failed, or was cut short, is
//!    confirmed on the device or copied to a new file before anything is promised
//!    (`failed_flush.rs`).
//! 2. *Limit* (`limit.rs`): which slots of each segment count. After a process kill every committed
//!    one does. After power loss (the boot id differs and the segment was not wholly durable): all
//!    below the durable end, then the valid prefix in LSN order; the first slot above a durable end
//!    that does not hold cuts its segment there and all younger segments at their durable ends.
//! 3. *Scan*, in parallel over segments: below the durable end a slot is trusted and its frame
//!    checked at first read; above it the frame's checksum is checked now. Highest LSN wins.
//! 4. *Decide*: what was left undecided is voided, a cut segment is sealed so that nothing beyond
//!    the cut ever comes back, and the youngest segment goes on if it is whole.

mod collect;
mod failed_flush;
mod limit;
mod outdone;
mod salvage;
mod scan;
mod void;

pub use salvage::{Basis, prove};
pub use scan::{check, readable_id};

use crate::concurrency::sync::unmodelled::Arc;
use crate::disk::SegmentFiles;
use crate::disk::{self, DiskEngine, LiveManifest};
use crate::durability::Flusher;
use crate::engine::Engine;
use crate::error::{At, Error};
use crate::format::header::{DIRECTORY_AT, FlushNote, Role, SegmentId};
use crate::format::ids::{Lsn, Sequence, SlotNumber, TableIndex};
use crate::format::manifest::Manifest;
use crate::index::Shape;
use crate::log::{Log, Source};
use crate::memory::{FOLIO_BYTES, Memory, MmapMemory};
use crate::options::Recovery;
use crate::os::time::Instant;
use crate::report::{Counted, Damage, RecoveryReport};
use crate::segment::{Geometry, Inherited, Mark, Segment};
use std::collections::BTreeSet;
use std::ops::Range;

/// What opening made of a directory.
#[derive(Debug)]
pub struct Recovered {
    /// Ready to read, and to write if asked for.
    pub engine: DiskEngine,
    /// Flush state, with what is known to be durable.
    pub flusher: Flusher,
    /// For `Store::recovery`.
    pub report: RecoveryReport,
    /// Damage that `verify` cannot see any more: headers, files that are missing.
    pub damage: Vec<Damage>,
    /// What the manifest says.
    pub live_manifest: LiveManifest,
    /// What is left to do, and need not be waited for.
    pub leftovers: Leftovers,
}

/// Files that nobody needs once the manifest is brought up to date.
#[derive(Debug, Default)]
pub struct Leftovers {
    dropped: Vec<SegmentId>,
    blank: Vec<SegmentId>,
}

/// One segment on its way into the engine.
struct SegmentCandidate {
    segment: Arc<Segment<MmapMemory>>,
    /// What its header said when it was found.
    inherited: Inherited,
    /// Slots at or above do not count.
    limit: u32,
    /// Frames of slots at or above are checked now.
    trusted: u32,
    /// The limit came from a cut after power loss.
    cut: bool,
    /// Each record stands for itself ([`Counted::Each`]).
    each: bool,
    /// Slots below the limit that do not count because of that, in order.
    unproven: Vec<u32>,
    /// Conditional puts that do not count because of a member of a batch [W9].
    outdone: Vec<SlotNumber>,
    /// Something is wrong with it as a whole.
    flaw: Option<collect::Flaw>,
    /// Since step 3.
    walked: scan::Walked,
}

impl SegmentCandidate {
    fn new(segment: Arc<Segment<MmapMemory>>, limit: u32, flaw: Option<collect::Flaw>) -> Self {
        segment.filling().set_found(limit);
        let inherited = segment.durable().inherited();
        let trusted = inherited.durable_end.min(limit);
        let walked = scan::Walked::default();
        let (cut, each, unproven, outdone) = (false, false, Vec::new(), Vec::new());
        Self { segment, inherited, limit, trusted, cut, each, unproven, outdone, flaw, walked }
    }

    /// It holds copies of records, each of which stands for itself: nothing before or behind it is
    /// cut with it. What is not whole there is still where it was copied from.
    fn holds_copies(&self) -> bool {
        self.segment.role() == Role::Copies
    }

    /// What the segment is to know about itself.
    fn apply_to_segment(&self, engine: &DiskEngine, writable: bool) {
        self.segment.durable().set_flushed(self.walked.durable);
        self.segment.filling().add_done(self.limit);
        if self.flaw.is_some() {
            engine.log().quarantine(&self.segment, true);
        }
        if !writable {
            self.segment.filling().set_limit(self.limit);
            // The cursor of a full segment counts overruns, that of a live one goes on.
            self.segment.filling().set_frames_begin(self.walked.end.floor);
        }
    }

    /// Returns whether nothing of it is left to flush: every slot lies below the durable end that
    /// its header states, which was stored after the flush that it speaks of. In a segment for
    /// copies it is stored only once records were moved there, so it covers what puts them in force
    /// [D9].
    fn is_settled(&self) -> bool {
        let all =
            self.durable() == self.limit && !self.cut && self.segment.filling().sealed().is_some();
        // What has a flaw is never written to.
        all || self.flaw.is_some()
    }

    /// Slots below this were decided and flushed once. Of a flawed segment nothing is known, and
    /// nothing will be added: whatever is missing there was lost.
    fn durable(&self) -> u32 {
        if self.flaw.is_some() { self.limit } else { self.inherited.durable_end.min(self.limit) }
    }
}

/// Opens the segments of a directory whose manifest this is. `None`: a live writer has replaced
/// some of them meanwhile, says the manifest when it is read `again`.
pub fn recover(
    files: SegmentFiles,
    basis: &Basis,
    (mode, writable): (Recovery, bool),
    again: impl FnOnce() -> Result<Option<Manifest>, Error>,
) -> Result<Option<Recovered>, Error> {
    let started = Instant::now();
    let manifest = &basis.manifest;
    let mut report = RecoveryReport::default();
    let collected = collect::collect(&files, manifest, (mode, writable), &mut report)?;
    if again()?.is_some_and(|now| collected.is_overtaken(manifest, &now)) {
        return Ok(None);
    }
    let (mut candidates, mut damage, missing, known) =
        (collected.candidates, collected.damage, collected.missing, collected.next_sequence);
    report.corrupt += basis.damage.len() as u64;
    damage.extend_from_slice(&basis.damage);
    damage.iter().for_each(|damage| report.lose(damage.clone()));
    let cuts_nothing = limit::limit(&mut candidates, files.boot_id(), mode, &mut report);

    let geometry = Geometry {
        segment_bytes: manifest.segment_bytes as usize,
        directory_at: DIRECTORY_AT,
        dimension: manifest.dimension as usize,
    };
    let log = Log::new(files, geometry, scan::next_sequence(&candidates, known, basis.rebuilt));
    let mut tail = None;
    for candidate in &candidates {
        let index = log.adopt(Arc::clone(&candidate.segment))?;
        if !candidate.holds_copies() {
            tail = Some(index);
        }
    }
    let engine = build_index(log, &mut candidates, mode, &mut report)?;
    match mode {
        Recovery::Strict => salvage::refuse_damage(&engine, &candidates, &report)?,
        mode => salvage::shadow_damaged(&engine, &candidates, (mode, &report))?,
    }
    scan::name_cut(&engine, &candidates, &mut report);
    report.sort_losses();

    candidates.iter().for_each(|candidate| candidate.apply_to_segment(&engine, writable));
    let flusher = Flusher::new(engine.log().source().boot_id());
    let live_manifest = LiveManifest::new(missing, manifest, basis.rebuilt);
    let mut leftovers = Leftovers::default();
    if writable {
        begin_writing(&engine, (basis, mode), (&candidates, &collected.blank), &live_manifest)?;
        if mode == Recovery::Salvage {
            salvage::void_torn(&candidates);
        } else {
            // In a salvage a segment that says it is blank may be one whose beginning was zeroed.
            leftovers.blank = collected.blank.iter().map(|segment| segment.id()).collect();
        }
        stamp_blank_segments(&engine, &collected.blank);
        leftovers.dropped.clone_from(&manifest.dropped);
        let at_once = basis.rebuilt || mode == Recovery::Salvage || rebooted(&engine, &candidates);
        make_writable(&engine, &flusher, (&candidates, cuts_nothing), tail)?;
        count_all_lsns_as_allocated(&engine, &candidates, &collected.blank);
        if at_once {
            tidy_up(&engine, &live_manifest, std::mem::take(&mut leftovers))?;
        }
    } else if let Some(tail) = tail {
        engine.log().set_active(tail);
    }
    note_durable(&engine, &flusher, &candidates);
    (report.records, report.missing_segments) =
        (engine.live(), live_manifest.missing().len() as u64);
    report.elapsed = started.elapsed();
    Ok(Some(Recovered { engine, flusher, report, damage, live_manifest, leftovers }))
}

/// Has the beginnings of segments that lack blocks ready for what is stored there: in a copy
/// without its zeros a store could kill the process. On a disk with little room all of them: this
/// opening may store to each. Else those that are not settled: the next flush will, and the disk
/// may be full by then. `StorageFull`, and nothing is changed, where there is no room.
fn secure_beginnings(
    engine: &DiskEngine,
    candidates: &[SegmentCandidate],
    blank: &[Arc<Segment<MmapMemory>>],
) -> Result<(), Error> {
    let files = engine.log().source();
    let all = candidates.iter().map(|c| (&c.segment, c.limit, !c.is_settled()));
    let all = all.chain(blank.iter().map(|segment| (segment, 0, false)));
    let mut lacking: Vec<_> = all.filter(|(segment, ..)| segment.memory().lacks_blocks()).collect();
    // The one that goes on takes up to a segment.
    let most = (lacking.len() as u64).saturating_mul(2 * FOLIO_BYTES as u64);
    let most = most.saturating_add(files.segment_bytes());
    if lacking.is_empty() {
        return Ok(());
    }
    if files.directory().free_bytes(files.segment_bytes()).at(files.directory().path())? >= most {
        lacking.retain(|(.., is_flushed)| *is_flushed);
    }
    let slots_end =
        |segment: &Segment<MmapMemory>, n| segment.directory().slot_offset(SlotNumber(n));
    lacking
        .iter()
        .try_for_each(|(segment, n, _)| segment.memory().secure(slots_end(segment, *n)))?;
    // What is cut off is overwritten.
    let mut cut = candidates.iter().filter(|candidate| candidate.cut);
    cut.try_for_each(|candidate| files.make_storable(&candidate.segment).map(drop))
}

/// What comes before the first change of a segment: temporary files are removed, and a new
/// incarnation begins if this opening gives up a write that a reader may have seen. A rebuilt
/// manifest has a new one already.
fn begin_writing(
    engine: &DiskEngine,
    (basis, mode): (&Basis, Recovery),
    (candidates, blank): (&[SegmentCandidate], &[Arc<Segment<MmapMemory>>]),
    live_manifest: &LiveManifest,
) -> Result<(), Error> {
    secure_beginnings(engine, candidates, blank)?;
    let directory = engine.log().source().directory();
    directory.remove_temporaries().at(directory.path())?;
    let given_up = |candidate: &SegmentCandidate| {
        candidate.cut || candidate.each || !candidate.outdone.is_empty()
    };
    let gives_up = mode == Recovery::Salvage || candidates.iter().any(given_up);
    if gives_up && !basis.rebuilt {
        live_manifest.begin_incarnation(engine.log().source(), &basis.manifest)?;
    }
    Ok(())
}

/// Returns whether the power may have failed since the store was open for writing.
fn rebooted(engine: &DiskEngine, candidates: &[SegmentCandidate]) -> bool {
    let boot_id = engine.log().source().boot_id();
    candidates.iter().any(|candidate| !candidate.inherited.is_of_boot(boot_id))
}

/// Gives blank segments the boot id of this opening, which has judged them. A process that is
/// killed before their files are removed leaves them to an opening that must not take them for a
/// gap before what is written from now on.
fn stamp_blank_segments(engine: &DiskEngine, blank: &[Arc<Segment<MmapMemory>>]) {
    let boot_id = engine.log().source().boot_id();
    blank.iter().for_each(|segment| segment.durable().set_boot_id(boot_id));
}

/// If the last segment of the log is gone, because compaction has emptied it, or missing, nobody
/// knows which of its LSNs were given: all of them count. (While an older one goes on, none of it
/// was.) One in which nothing counts, because power loss has taken all of it, say, is not the last.
fn count_all_lsns_as_allocated(
    engine: &DiskEngine,
    candidates: &[SegmentCandidate],
    blank: &[Arc<Segment<MmapMemory>>],
) {
    let (log, guard) = (engine.log(), engine.epoch().pin());
    if log.active(&guard).is_some() {
        return;
    }
    let there = candidates.iter().map(|candidate| &candidate.segment).chain(blank);
    let there: BTreeSet<_> = there.map(|segment| segment.sequence()).collect();
    let used = candidates.iter().filter(|c| !c.holds_copies() && c.limit > 0);
    let last = used.map(|candidate| candidate.segment.sequence().0).max().unwrap_or(0);
    let mut younger = (last + 1..log.floor(&guard).0).rev();
    if let Some(gone) = younger.find(|&sequence| !there.contains(&Sequence(sequence))) {
        let slot = SlotNumber(log.geometry().capacity().slots_max() - 1);
        log.note_allocated(Lsn::new(Sequence(gone), slot));
    }
}

/// Everything before the first segment that is not wholly flushed is durable, and its own part. A
/// later one that is wholly flushed, or has a flaw and never will be, is passed over by the next
/// flush: that makes its LSNs durable as those of segments that are gone.
fn note_durable(engine: &DiskEngine, flusher: &Flusher, candidates: &[SegmentCandidate]) {
    let mut all = true;
    for candidate in candidates.iter().filter(|candidate| !candidate.holds_copies()) {
        let flushed = candidate.segment.durable().flushed().slot;
        if all {
            flusher.advance(&candidate.segment, flushed);
        } else if let Some(last) = flushed.checked_sub(1) {
            engine.log().note_allocated(Lsn::new(candidate.segment.sequence(), SlotNumber(last)));
        }
        all &= flushed >= candidate.limit;
    }
    if all {
        // Copies were made of durable records; their first places may be gone.
        let guard = engine.epoch().pin();
        flusher.group().raise(engine.log().last_allocated(&guard));
    }
}

/// Step 3; again if it shows that the page cache was lost: without their other members, members of
/// a batch do not count; and without the conditional puts that a member of a batch has outdone.
fn build_index(
    log: Log<MmapMemory, SegmentFiles>,
    candidates: &mut [SegmentCandidate],
    mode: Recovery,
    report: &mut RecoveryReport,
) -> Result<DiskEngine, Error> {
    let before = report.clone();
    let mut engine = make_index(log, candidates, report)?;
    let found = report.clone();
    let each = mode != Recovery::Salvage && limit::has_lost_its_cache(candidates);
    if each {
        *report = RecoveryReport { counted: Counted::Each, ..before.clone() };
        engine = make_index_again(engine, candidates, report)?;
    }
    if outdone::find_outdone(&engine, candidates) {
        *report = RecoveryReport { counted: report.counted, ..before };
        engine = make_index_again(engine, candidates, report)?;
    }
    if each {
        // A member that does not hold is damage, though now the whole of its batch does not count.
        report.set_losses(found);
    }
    Ok(engine)
}

fn make_index_again(
    engine: DiskEngine,
    candidates: &mut [SegmentCandidate],
    report: &mut RecoveryReport,
) -> Result<DiskEngine, Error> {
    let log = engine.into_log();
    log.reset_live();
    candidates.iter().for_each(|candidate| candidate.segment.usage().reset_live());
    make_index(log, candidates, report)
}

fn make_index(
    log: Log<MmapMemory, SegmentFiles>,
    candidates: &mut [SegmentCandidate],
    report: &mut RecoveryReport,
) -> Result<DiskEngine, Error> {
    let slots: u64 = candidates.iter().map(|c| u64::from(c.limit)).sum();
    let engine = scan_into(log, slots, candidates, report)?;
    let live = engine.live();
    if live >= slots / 4 {
        return Ok(engine);
    }
    // Mostly overwritten: the index was made for four times what it holds, or more.
    for candidate in &*candidates {
        candidate.segment.usage().reset_live();
    }
    engine.log().reset_live();
    let mut again = RecoveryReport::default();
    let engine = scan_into(engine.into_log(), live, candidates, &mut again)?;
    report.scanned_bytes += again.scanned_bytes;
    Ok(engine)
}

/// Into an index made for so many records.
fn scan_into(
    log: Log<MmapMemory, SegmentFiles>,
    records: u64,
    candidates: &mut [SegmentCandidate],
    report: &mut RecoveryReport,
) -> Result<DiskEngine, Error> {
    let engine = Engine::new(log, Shape::for_records(records));
    engine.index().set_keep_tombstones(true);
    scan::scan_all(&engine, candidates, report)?;
    // In a file that was cut short no copy can be put in force for good: its source goes on.
    let decides = |c: &&SegmentCandidate| c.holds_copies() && c.flaw != Some(collect::Flaw::Short);
    for candidate in candidates.iter().filter(|candidate| decides(candidate)) {
        void::finish_moves(&engine, candidate)?;
    }
    engine.index().set_keep_tombstones(false);
    Ok(engine)
}

/// Step 4. Nobody else has the engine yet.
fn make_writable(
    engine: &DiskEngine,
    flusher: &Flusher,
    (candidates, oldest_first): (&[SegmentCandidate], bool),
    tail: Option<TableIndex>,
) -> Result<(), Error> {
    let boot_id = engine.log().source().boot_id();
    // By a copy, whose first place is gone: a segment that was missing meanwhile, and is the last
    // one of the log again, would give LSNs below those of what it has not seen.
    let given = engine.log().last_gone().sequence();
    // In a salvage, too, where no record is given up because of it: slots may have gone with the
    // page cache, and the LSNs that were given with them.
    let lost_its_cache = candidates.iter().any(|candidate| candidate.walked.unsound);
    // One that was preallocated, and that only a rebuilt manifest names, does not say whom it
    // follows: what is flushed there would not show that what is older was durable before [D8].
    let follows = |last: &SegmentCandidate| last.limit > 0 || last.inherited.predecessor.is_some();
    let goes_on = |last: &SegmentCandidate| {
        last.flaw.is_none()
            && !lost_its_cache
            && follows(last)
            && last.segment.sequence() >= given
            && !last.cut
            && !last.each
            && last.inherited.is_of_boot(boot_id)
            && !last.inherited.sealed
            && scan::cursor_is_sound(last)
    };
    let last = candidates.iter().rfind(|candidate| !candidate.holds_copies());
    let files = engine.log().source();
    let active = last.filter(|last| goes_on(last) && files.allocate_holes(last.segment.id()));
    let mut in_order: Vec<_> = candidates.iter().collect();
    if !oldest_first {
        // Were an older one sealed at its cut before what is younger, then an opening after a crash
        // in between would see no cut, and what lies beyond would count again. And were what shows
        // that the page cache was lost voided first, it would go on with the last one.
        in_order.reverse();
    }
    // Else nothing is cut, and what lies behind a lost end counts: a durable end there would tell
    // the next opening that nothing was lost [D5].
    for candidate in in_order {
        let goes_on = active.is_some_and(|active| std::ptr::eq(active, candidate));
        make_segment_writable(engine, flusher, candidate, goes_on)?;
    }
    if let (Some(tail), Some(active)) = (tail, active) {
        engine.log().set_active(tail);
        if candidates.len() > 1 && matches!(files.keep_room(), Err(Error::StorageFull)) {
            // The process before this one may have made it of the last room there was.
            active.segment.filling().keep_for_removals();
        }
    }
    engine.begin_at(engine.log().tail(&engine.epoch().pin()));
    Ok(())
}

/// Brings the manifest up to date, and removes what it makes superfluous. Until then the old one
/// says nothing false [K1]: after a kill it is as old as it may be in any running process, so the
/// store is used before this is done, which may take the device as long as all of the rest.
pub fn tidy_up(
    engine: &DiskEngine,
    live_manifest: &LiveManifest,
    leftovers: Leftovers,
) -> Result<(), Error> {
    let files = engine.log().source();
    // First: it may be all the room that there is for the next manifest.
    disk::remove_dropped(files, &leftovers.dropped)?;
    match live_manifest.update(engine) {
        Ok(()) => {}
        // A full disk is no reason not to open: the blank files still say which sequence numbers
        // were used.
        Err(Error::StorageFull) => return Ok(()),
        Err(error) => return Err(error),
    }
    // Without room for it the next one is replaced as any file.
    files.directory().keep_next_manifest(0).unwrap_or(());
    if leftovers.blank.is_empty() {
        return Ok(());
    }
    for id in leftovers.blank {
        let name = crate::disk::fs::segment_name(id.sequence, id.salt);
        // One that cannot be removed is blank at the next opening, too, and was judged by this one.
        files.directory().remove_if_there(&name).unwrap_or(());
    }
    files.directory().sync().at(files.directory().path())
}

fn make_segment_writable(
    engine: &DiskEngine,
    flusher: &Flusher,
    candidate: &SegmentCandidate,
    goes_on: bool,
) -> Result<(), Error> {
    let boot_id = engine.log().source().boot_id();
    let segment = &*candidate.segment;
    let rebooted = !candidate.inherited.is_of_boot(boot_id);
    if candidate.holds_copies() {
        void::decide_copies(engine, candidate);
        if !candidate.is_settled() && candidate.flaw.is_none() {
            // Nobody goes on with it. Where the file system cannot do this, the space stays taken.
            let end = candidate.walked.end;
            let from = segment.directory().slot_offset(SlotNumber(end.slot));
            segment.memory().punch_hole(from, end.floor.bytes()).unwrap_or(());
        }
    }
    // First: what shows an opening that the page cache was lost is voided below, and the next one,
    // should this one be killed, would go on with the segment.
    let closed = candidate.inherited.sealed && segment.filling().is_full();
    if !goes_on && candidate.flaw.is_none() && (!closed || candidate.cut) {
        seal(candidate, boot_id);
    }
    // Of a batch the head first: its slots that nobody decided about show that it is not whole, and
    // an opening that is cut short leaves them to be found again.
    void::void_unproven(candidate);
    let undecided = candidate.walked.undecided && !candidate.holds_copies();
    if undecided && (!rebooted && !candidate.cut || candidate.flaw.is_some()) {
        void::void_undecided(segment, candidate.durable(), candidate.limit);
    }
    if candidate.walked.headless && candidate.flaw.is_none() {
        void::void_headless(segment, candidate.limit);
    }
    if void::void_outdone(candidate) {
        // Before compaction may give up the member that says so.
        flusher.flush(segment)?;
    }
    segment.filling().set_frames_begin_if_full(candidate.walked.end.floor);
    segment.durable().set_settled(candidate.is_settled());
    if !rebooted {
        return Ok(());
    }
    if !segment.durable().is_settled() {
        // What is there now came from the device. Once it is flushed again, the cut included, the
        // next opening need not ask any more.
        flusher.flush(segment)?;
        segment.filling().erase_beyond(candidate.walked.end, 0..0);
        segment.durable().set_flushed(candidate.walked.end);
        segment.durable().set_durable_end(candidate.limit);
        flusher.flush(segment)?;
        segment.durable().set_settled(true);
    } else if candidate.inherited.sealed && !candidate.holds_copies() && candidate.flaw.is_none() {
        // A killed opening may have left it. Not flushed: power loss makes the boot id old again.
        segment
            .filling()
            .erase_beyond(candidate.walked.end, blank_of(engine.log().source(), candidate));
    }
    segment.durable().set_boot_id(boot_id);
    Ok(())
}

/// The whole pages between slots and frames, if its file holds nothing there, as nearly always. So
/// not every opening after a reboot reads what was never written.
fn blank_of(files: &SegmentFiles, candidate: &SegmentCandidate) -> Range<usize> {
    const PAGE: usize = 4096;
    let (segment, end) = (&*candidate.segment, candidate.walked.end);
    let from = segment.directory().slot_offset(SlotNumber(end.slot)).next_multiple_of(PAGE);
    let to = end.floor.bytes() / PAGE * PAGE;
    let name = crate::disk::fs::segment_name(segment.sequence(), segment.salt());
    let holds = from < to && files.directory().may_hold_data(&name, from as u64..to as u64);
    if holds { 0..0 } else { from..to.max(from) }
}

/// Nobody goes on with a segment of the log: no slot behind those that count ever will.
fn seal(candidate: &SegmentCandidate, boot_id: [u64; 2]) {
    let (segment, end) = (&*candidate.segment, candidate.walked.end);
    if candidate.cut {
        // An opening that finds the seal finds no cut any more, and would not know that the
        // device may not have it. So the note of its flush comes first [D10].
        segment.durable().note_flush(FlushNote::Begun, boot_id);
    } else if !candidate.inherited.is_of_boot(boot_id) {
        // Of what is cut off, only once the device has the seal.
        segment.filling().erase_beyond(end, 0..0);
    }
    // Power loss may have taken slots without a trace, and the LSNs given with them must not be
    // given again; and no segment but the active one is without a seal [D5].
    segment.filling().seal_at(Mark { slot: candidate.limit, floor: end.floor });
}
