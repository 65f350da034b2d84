//! Steps 2 and 3 of opening: which slots count, and bringing them into the index.

use super::{DiskEngine, SegmentCandidate};
use crate::concurrency::sync::unmodelled::{AtomicU64, Ordering, thread};
use crate::error::Error;
use crate::format::header::{Role, UNKNOWN_BOOT};
use crate::format::ids::{Lsn, Sequence, SlotNumber};
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::memory::{Memory, MmapMemory};
use crate::options::Recovery;
use crate::report::{Counted, Damage, RecoveryReport};
use crate::segment::{Frame, Mark, Segment};

/// Blank slots in a row, beyond the cursor, after which a directory is believed to have ended.
const BLANK_SLOTS: u32 = 4096;

/// One past the last slot that may hold something. The cursor says so, exactly after a kill; but
/// it is under no checksum and may be older than the data after power loss, so the directory is
/// looked at beyond it until a long stretch is blank.
pub(super) fn end_of<M: Memory>(segment: &Segment<M>) -> u32 {
    if let Some(sealed) = segment.filling().sealed() {
        // A forged one sizes nothing beyond what a segment can hold.
        return sealed.min(segment.geometry().capacity().slots_max());
    }
    let cursor = segment.filling().slots_end();
    let (end, walked) = walk_stored(segment, cursor);
    end.max(cursor.min(walked))
}

/// One past the last slot that holds something.
fn end_of_stored<M: Memory>(segment: &Segment<M>) -> u32 {
    walk_stored(segment, segment.filling().slots_end()).0
}

/// The same, and how far it has looked: at least to the cursor.
fn walk_stored<M: Memory>(segment: &Segment<M>, cursor: u32) -> (u32, u32) {
    let (mut end, mut blank) = (0, 0);
    let mut slots = segment.directory().slots(u32::MAX);
    while blank < BLANK_SLOTS || slots.mark().slot < cursor {
        let passed = slots.pass_blank(BLANK_SLOTS);
        blank += passed;
        if passed == BLANK_SLOTS {
            continue;
        }
        let Some((slot, _)) = slots.next() else { break };
        blank = 0;
        end = slot.0 + 1;
    }
    (end, slots.mark().slot)
}

/// Step 2. Counts what a cut costs as torn.
pub(super) fn limit(
    candidates: &mut [SegmentCandidate],
    boot: [u64; 2],
    mode: Recovery,
    report: &mut RecoveryReport,
) {
    if mode != Recovery::Salvage && is_unknown(candidates, boot) {
        report.counted = Counted::Each;
        for candidate in candidates.iter_mut().filter(|candidate| candidate.flaw.is_none()) {
            candidate.each = true;
            if !candidate.holds_copies() {
                candidate.unproven = unproven(candidate, true);
                report.torn += candidate.unproven.len() as u64;
                // Checked just now.
                candidate.trusted = candidate.limit;
            }
        }
        return;
    }
    let mut cutting = false;
    let ends = ends(candidates);
    for (candidate, end) in candidates.iter_mut().zip(ends) {
        let open_ended = end == SegmentEnd::Open;
        let wholly_durable = candidate.trusted >= candidate.limit;
        if candidate.flaw.is_some() || mode == Recovery::Salvage {
            // Damage, not power loss: the header's words mean nothing. Every record is checked, and
            // none is given up because of another.
            candidate.trusted = 0;
            if candidate.flaw.is_none() && !candidate.inherited.is_of_boot(boot) {
                candidate.unproven = torn(candidate);
                report.torn += candidate.unproven.len() as u64;
            }
            continue;
        }
        if candidate.holds_copies() {
            continue;
        }
        if end == SegmentEnd::Durable && !candidate.inherited.is_of_boot(boot) {
            // The cursor of a full segment counts slots that were never granted. Without a seal
            // nothing else tells them from slots that were lost; here none was.
            candidate.limit = end_of_stored(&candidate.segment).min(candidate.limit);
            candidate.trusted = candidate.limit;
            continue;
        }
        if candidate.inherited.is_of_boot(boot) && !cutting || wholly_durable && !open_ended {
            continue;
        }
        report.counted = Counted::Prefix;
        let valid = if cutting { candidate.trusted } else { valid_prefix(candidate) };
        report.scanned_bytes += u64::from(candidate.limit) * 32;
        if valid < candidate.limit {
            report.torn += u64::from(candidate.limit - valid);
            candidate.limit = valid;
            candidate.cut = true;
        }
        cutting |= candidate.cut || open_ended;
        // Checked just now.
        candidate.trusted = candidate.limit;
    }
}

/// Returns whether something was not known to be durable, and nobody knows whether the system has
/// booted since: now, or when it was written, the kernel did not tell the boot id.
fn is_unknown(candidates: &[SegmentCandidate], boot: [u64; 2]) -> bool {
    let log = || candidates.iter().filter(|c| c.flaw.is_none() && !c.holds_copies());
    let unknown = || log().any(|candidate| candidate.inherited.boot_id == UNKNOWN_BOOT);
    (boot == UNKNOWN_BOOT || unknown())
        && log().any(|candidate| candidate.trusted < candidate.limit)
}

/// Returns whether a record above a durable end was found unsound though the system has not booted
/// since: the page cache was lost, and what is there came from the device. Then batches count only
/// whole.
pub(super) fn has_lost_its_cache(candidates: &mut [SegmentCandidate]) -> bool {
    if !candidates.iter().any(|candidate| candidate.walked.unsound && !candidate.each) {
        return false;
    }
    for candidate in candidates.iter_mut().filter(|c| c.flaw.is_none() && !c.holds_copies()) {
        candidate.each = true;
        candidate.unproven = unproven(candidate, false);
    }
    true
}

/// Slots above the durable end that do not count where each record stands for itself: those of
/// batches that are not whole, and with `singles` also single ones that do not hold.
pub(super) fn unproven(candidate: &SegmentCandidate, singles: bool) -> Vec<u32> {
    let segment = &*candidate.segment;
    let mut unproven = Vec::new();
    // Of the batch that the walk is in: where it begins, and how many of its slots are to come.
    let (mut head, mut members, mut whole) = (0, 0u32, true);
    let end_batch = |head: u32, end: u32, whole: bool, unproven: &mut Vec<u32>| {
        if !whole {
            unproven.retain(|slot| *slot < head);
            unproven.extend(head..end);
        }
    };
    for (slot, state) in segment.directory().slots(candidate.limit) {
        if let SlotState::Batch(n, _) = state {
            (head, members, whole) = (slot.0, n, true);
            continue;
        }
        if slot.0 < candidate.durable() {
            members = members.saturating_sub(1);
            continue;
        }
        let holds = match state {
            SlotState::Void => members == 0,
            SlotState::Committed(kind, body) => check_once(segment, slot, kind, body).is_ok(),
            _ => false,
        };
        if members > 0 {
            whole &= holds;
            members -= 1;
            if members == 0 {
                end_batch(head, slot.0 + 1, whole, &mut unproven);
            }
        } else if !holds && singles {
            unproven.push(slot.0);
        }
    }
    if members > 0 {
        end_batch(head, candidate.limit, false, &mut unproven);
    }
    unproven
}

/// Records above the durable end of which power loss has left no more than the slot: nothing was
/// promised of them, so in a salvage they hide nothing that was.
fn torn(candidate: &SegmentCandidate) -> Vec<u32> {
    let segment = &*candidate.segment;
    // A durable end that is damaged does not say what was promised.
    let settled = candidate.durable() == candidate.limit || !segment.durable().counts_hold();
    if candidate.holds_copies() || settled {
        return Vec::new();
    }
    let is_torn = |(slot, state): &(SlotNumber, SlotState)| match state {
        SlotState::Committed(kind, body) => check_once(segment, *slot, *kind, *body).is_err(),
        _ => false,
    };
    let above = segment
        .directory()
        .slots(candidate.limit)
        .filter(|(slot, _)| slot.0 >= candidate.durable());
    above.filter(is_torn).map(|(slot, _)| slot.0).collect()
}

/// What the segments after it tell of the end of a segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentEnd {
    /// Nothing: it has a seal, or is the last one with records.
    Told,
    /// It has no seal, though another one took over from it: power loss may have taken its end
    /// without a trace.
    Open,
    /// It has no seal, but a younger one is known to have been flushed. So it was wholly durable
    /// before that [D5] [D8], and its seal was lost or is damaged.
    Durable,
}

fn ends(candidates: &[SegmentCandidate]) -> Vec<SegmentEnd> {
    let (mut younger, mut durable) = (false, false);
    let mut found: Vec<_> = candidates
        .iter()
        .rev()
        .map(|candidate| {
            if candidate.holds_copies() {
                return SegmentEnd::Told;
            }
            let end = match (candidate.inherited.sealed, durable) {
                (false, true) => SegmentEnd::Durable,
                (false, false) if younger => SegmentEnd::Open,
                _ => SegmentEnd::Told,
            };
            younger |= candidate.limit > 0;
            let begun = candidate.inherited.predecessor.is_some_and(|(_, confirmed)| confirmed);
            durable |= candidate.inherited.durable_end > 0 || begun;
            end
        })
        .collect();
    found.reverse();
    found
}

/// Slots from the durable end on that hold: whole records and voids, without a gap.
fn valid_prefix(candidate: &SegmentCandidate) -> u32 {
    let segment = &*candidate.segment;
    let mut slots = segment.directory().slots(candidate.limit);
    let mut valid = candidate.trusted;
    // A batch is whole or absent: a member that does not hold cuts at its head.
    let (mut head, mut members) = (0, 0);
    for (slot, state) in slots.by_ref() {
        if let SlotState::Batch(n, _) = state {
            (head, members) = (slot.0, n.saturating_add(1));
        }
        let in_batch = members > 0;
        members = members.saturating_sub(1);
        if slot.0 < candidate.trusted {
            continue;
        }
        let holds = match state {
            SlotState::Void => !in_batch,
            SlotState::Batch(..) => true,
            SlotState::Committed(kind, body) => check(segment, slot, kind, body, true).is_ok(),
            _ => false,
        };
        if !holds {
            return if in_batch { head.max(candidate.trusted) } else { valid };
        }
        valid = slot.0 + 1;
    }
    if members > 0 { head.max(candidate.trusted) } else { valid }
}

/// Returns whether the frame that a slot names is the one it was written for. `deep`: its checksum
/// too. How many bytes were summed.
pub fn check<M: Memory>(
    segment: &Segment<M>,
    slot: SlotNumber,
    kind: Kind,
    body: SlotBody,
    deep: bool,
) -> Result<u64, &'static str> {
    let end = u64::from(body.offset.0) + u64::from(body.len.0);
    let inside = body.len.0 > 0
        && segment.directory().slot_offset(slot) < body.offset.bytes()
        && end * 64 <= segment.geometry().segment_bytes as u64;
    if !inside {
        return Err("the slot names a frame outside the segment");
    }
    // A copy keeps the LSN of its first place; that is bounded in `scan`.
    let own = Lsn::new(segment.sequence(), slot);
    if segment.role() == Role::Log && body.lsn != own {
        return Err("the slot's LSN is not that of its place");
    }
    if !deep {
        return Ok(0);
    }
    let frame = named_frame(segment, slot, kind, body)?;
    segment.verify(&frame).map_err(|damage| damage.0)?;
    Ok(frame.len_bytes())
}

fn named_frame<M: Memory>(
    segment: &Segment<M>,
    slot: SlotNumber,
    kind: Kind,
    body: SlotBody,
) -> Result<Frame<'_>, &'static str> {
    let frame = segment.committed_frame(slot).map_err(|damage| damage.0)?;
    let header = frame.header();
    let same = header.lsn == body.lsn && header.slot == slot && header.kind == kind;
    if !same || frame.len_bytes() != body.len.bytes() as u64 {
        return Err("slot and frame header contradict each other");
    }
    Ok(frame)
}

/// As a deep [`check`], but the sum of a put that held once in this process is not made again.
fn check_once<M: Memory>(
    segment: &Segment<M>,
    slot: SlotNumber,
    kind: Kind,
    body: SlotBody,
) -> Result<u64, &'static str> {
    if kind == Kind::Put && segment.checks().is_verified(body.offset) {
        check(segment, slot, kind, body, false)?;
        return named_frame(segment, slot, kind, body).map(|_| 0);
    }
    check(segment, slot, kind, body, true)
}

/// The sequence of the next segment: the one that is `known`, or, where no manifest has said what
/// comes next, one above those of all copies that prove themselves. A segment for copies may be
/// older than those that it took records from, and be all that is left.
pub(super) fn next_sequence(
    candidates: &[SegmentCandidate],
    known: Sequence,
    rebuilt: bool,
) -> Sequence {
    let mut next = known;
    for candidate in candidates.iter().filter(|candidate| rebuilt && candidate.holds_copies()) {
        let segment = &*candidate.segment;
        for (slot, state) in segment.directory().slots(candidate.limit) {
            if let SlotState::Committed(kind, body) | SlotState::Copy(kind, body) = state
                && (next..Sequence::MAX).contains(&body.lsn.sequence())
                && check(segment, slot, kind, body, true).is_ok()
            {
                next = body.lsn.sequence().next();
            }
        }
    }
    next
}

/// What a walk over the slots that count has found besides records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walked {
    /// How far the slots come that were decided and flushed once.
    pub(super) durable: Mark,
    /// How far all of them come.
    pub(super) end: Mark,
    /// There are slots that nobody has decided about.
    pub(super) undecided: bool,
    /// There are members of batches whose heads are void, or not decided.
    pub(super) headless: bool,
    /// A record or a batch that was not known to be durable was whole once, and is not any more.
    pub(super) unsound: bool,
}

/// A store of fewer slots is scanned sooner than a thread is made to help.
const TINY_SLOTS: u64 = 2048;

/// Records on their way into the index at a time: enough that their places in it come from memory
/// together, few enough that those stay in the cache.
const AT_ONCE: usize = 32;

/// Step 3.
pub(super) fn scan_all(
    engine: &DiskEngine,
    candidates: &mut [SegmentCandidate],
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    let next = AtomicU64::new(0);
    let found = &*candidates;
    let worker = || {
        let (mut mine, mut walked) = (RecoveryReport::default(), Vec::new());
        loop {
            // Relaxed: only uniqueness matters.
            let n = next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(candidate) = found.get(n) else { return Ok((mine, walked)) };
            walked.push((n, scan(engine, candidate, &mut mine)?));
        }
    };
    let slots: u64 = candidates.iter().map(|candidate| u64::from(candidate.limit)).sum();
    let threads = match slots {
        0..TINY_SLOTS => 1,
        _ => thread::available_parallelism().map_or(1, usize::from).min(candidates.len()),
    };
    let results: Vec<Result<_, Error>> = thread::scope(|scope| {
        // Where the system has no thread to give, those that there are scan alone.
        let helper = |_| thread::Builder::new().spawn_scoped(scope, worker).ok();
        let helpers: Vec<_> = (1..threads).filter_map(helper).collect();
        let mut results = vec![worker()];
        for helper in helpers {
            let joined = helper.join();
            results.push(joined.unwrap_or_else(|_| {
                let path = engine.log().source().directory().path();
                Err(Error::io(path, std::io::Error::other("a scanning thread panicked")))
            }));
        }
        results
    });
    for result in results {
        let (its, walked) = result?;
        report.add(its);
        for (n, walked) in walked {
            candidates[n].walked = walked;
        }
    }
    Ok(())
}

fn scan(
    engine: &DiskEngine,
    candidate: &SegmentCandidate,
    report: &mut RecoveryReport,
) -> Result<Walked, Error> {
    let segment = &*candidate.segment;
    let decided_below = decided_below(candidate);
    let mut records = Vec::with_capacity(AT_ONCE);
    let (durable, mut live) = (candidate.durable(), 0);
    let mut walk = segment.directory().slots(candidate.limit);
    let mut walked = Walked { durable: walk.mark(), ..Walked::default() };
    // How many slots of the batch that the walk is in are still to come.
    let mut members = 0u32;
    while let Some((slot, state)) = walk.next() {
        report.scanned_bytes += 32;
        if slot.0 < durable {
            walked.durable = walk.mark();
        } else if matches!(state, SlotState::Empty | SlotState::Pending(..)) {
            walked.undecided = true;
            // The head of a batch is committed after all its members are there.
            walked.unsound |= members > 0;
        }
        walked.headless |= state == SlotState::Void && segment.directory().is_member(slot);
        members = match state {
            SlotState::Batch(n, _) => n,
            _ => members.saturating_sub(1),
        };
        match judge(engine, candidate, (slot, state), decided_below, report) {
            SlotVerdict::Counts(kind, body) => {
                if body.expires {
                    // When is in the frame: compaction will look.
                    segment.usage().note_expiry(0);
                }
                if candidate.holds_copies() {
                    engine.log().note_allocated(body.lsn);
                }
                records.push((kind, body));
                if records.len() == AT_ONCE {
                    live += engine.restore_all(segment, &records)?;
                    records.clear();
                }
            }
            SlotVerdict::Nothing => {}
            SlotVerdict::Lost(at, reason) => {
                walked.unsound |= slot.0 >= durable && !candidate.holds_copies();
                report.corrupt += 1;
                report.lose(damage_at(engine, segment, slot, (at, reason)));
            }
        }
    }
    live += engine.restore_all(segment, &records)?;
    engine.add_live(live);
    walked.unsound |= members > 0 && candidate.limit > durable;
    walked.end = walk.mark();
    Ok(walked)
}

/// What becomes of a slot.
enum SlotVerdict {
    /// It goes into the index.
    Counts(Kind, SlotBody),
    Nothing,
    /// It was damaged: where, and how.
    Lost(usize, &'static str),
}

/// Slots below `decided_below` were decided once. Counts what is void and what is torn.
fn judge(
    engine: &DiskEngine,
    candidate: &SegmentCandidate,
    (slot, state): (SlotNumber, SlotState),
    decided_below: u32,
    report: &mut RecoveryReport,
) -> SlotVerdict {
    let segment = &*candidate.segment;
    let unproven = || candidate.unproven.binary_search(&slot.0).is_ok();
    if unproven() || candidate.outdone.binary_search(&slot).is_ok() {
        return SlotVerdict::Nothing;
    }
    // A copy that is not whole: what it was to be copied from still counts.
    let unfinished = candidate.holds_copies() && slot.0 >= decided_below;
    let trusted = slot.0 < candidate.trusted;
    let at = segment.directory().slot_offset(slot);
    match state {
        SlotState::Void => {
            report.void += 1;
            return SlotVerdict::Nothing;
        }
        // See `void::finish_moves` for copies.
        SlotState::Batch(..) | SlotState::Copy(..) => return SlotVerdict::Nothing,
        // It would win against whatever is written from now on.
        SlotState::Committed(_, body) if !engine.log().may_have_given(body.lsn) => {
            return SlotVerdict::Lost(body.offset.bytes(), "the slot's LSN was never given");
        }
        SlotState::Committed(kind, body) => {
            let checked = match trusted {
                true => check(segment, slot, kind, body, false),
                false => check_once(segment, slot, kind, body),
            };
            match checked {
                Ok(bytes) => {
                    report.scanned_bytes += bytes;
                    return SlotVerdict::Counts(kind, body);
                }
                Err(_) if unfinished => {}
                Err(reason) => return SlotVerdict::Lost(body.offset.bytes(), reason),
            }
        }
        SlotState::Invalid if unfinished => {}
        SlotState::Invalid | SlotState::Member(..) => {
            return SlotVerdict::Lost(at, "the slot's checksum does not match");
        }
        // Below the durable end every slot was decided once: its bytes were lost.
        SlotState::Empty | SlotState::Pending(..) if slot.0 < decided_below => {
            return SlotVerdict::Lost(at, "the slot was lost");
        }
        SlotState::Empty | SlotState::Pending(..) => {}
    }
    report.torn += 1;
    SlotVerdict::Nothing
}

/// Returns whether a slot's record goes into the index.
pub(super) fn counts(
    engine: &DiskEngine,
    candidate: &SegmentCandidate,
    slot: (SlotNumber, SlotState),
) -> bool {
    let verdict =
        judge(engine, candidate, slot, decided_below(candidate), &mut RecoveryReport::default());
    matches!(verdict, SlotVerdict::Counts(..))
}

/// Slots below this were decided once. The durable end is under a checksum of its own, so what is
/// wrong with the rest of a header does not speak against it.
fn decided_below(candidate: &SegmentCandidate) -> u32 {
    candidate.trusted.max(candidate.inherited.durable_end.min(candidate.limit))
}

fn damage_at(
    engine: &DiskEngine,
    segment: &Segment<MmapMemory>,
    slot: SlotNumber,
    (at, reason): (usize, &str),
) -> Damage {
    Damage {
        path: engine.log().source().path_of(segment.sequence(), segment.salt()),
        offset: at as u64,
        id: readable_id(segment, slot),
        reason: reason.to_owned(),
    }
}

/// The id of a damaged record, as far as its bytes can be read. A frame that names another slot or
/// another LSN was written for another place, and its id is another record's.
pub fn readable_id<M: Memory>(segment: &Segment<M>, slot: SlotNumber) -> Option<Vec<u8>> {
    let (frame, lsn) = (segment.committed_frame(slot).ok()?, segment.directory().body_of(slot).lsn);
    let header = frame.header();
    (header.slot == slot && header.lsn == lsn).then(|| frame.id().to_vec())
}

/// Names the records that a cut after power loss has cost.
pub(super) fn name_cut(
    engine: &DiskEngine,
    candidates: &[SegmentCandidate],
    report: &mut RecoveryReport,
) {
    for candidate in candidates {
        // By a walk: only that can tell what a member of a batch is.
        let end = candidate.unproven.last().map_or(0, |last| last + 1);
        for (slot, state) in candidate.segment.directory().slots(end) {
            if let SlotState::Committed(_, body) = state
                && candidate.unproven.binary_search(&slot.0).is_ok()
            {
                let why = "it does not prove itself, or its batch is not whole";
                let at = body.offset.bytes();
                report.lose(damage_at(engine, &candidate.segment, slot, (at, why)));
            }
        }
    }
    for candidate in candidates.iter().filter(|candidate| candidate.cut) {
        let segment = &*candidate.segment;
        for (slot, state) in segment.directory().slots(end_of(segment)) {
            if let SlotState::Committed(_, body) = state
                && slot.0 >= candidate.limit
            {
                let why = "it was not durable when the power failed";
                report.lose(damage_at(engine, segment, slot, (body.offset.bytes(), why)));
            }
        }
    }
}

/// Returns whether the cursor agrees with the directory, so that the segment may take more records.
pub(super) fn cursor_is_sound(candidate: &SegmentCandidate) -> bool {
    let taken = candidate.segment.filling().taken();
    let bytes = candidate.segment.geometry().segment_bytes as u64;
    let frames = bytes - candidate.walked.end.floor.bytes() as u64;
    taken.slots == u64::from(candidate.limit)
        && taken.units <= bytes / 64
        && taken.units * 64 >= frames
}
