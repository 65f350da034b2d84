//! Step 3 of opening: bringing the records that count into the index.

use super::{DiskEngine, SegmentCandidate};
use crate::concurrency::sync::unmodelled::{AtomicU64, Ordering, thread};
use crate::error::Error;
use crate::format::header::Role;
use crate::format::ids::{Lsn, Sequence, SlotNumber, UNIT_BYTES};
use crate::format::slot::{Kind, SLOT_BYTES, SlotBody, SlotState};
use crate::memory::{Memory, MmapMemory};
use crate::report::{Damage, RecoveryReport};
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
    if segment.filling().slots_end() != cursor {
        // A live writer moves it, so it is exact, and between two reservations. What the walk has
        // met beyond may be a part of a batch, or what was written to a frame since.
        return segment.directory().end_mark().slot;
    }
    end.max(cursor.min(walked))
}

/// One past the last slot that holds something.
pub(super) fn end_of_stored<M: Memory>(segment: &Segment<M>) -> u32 {
    walk_stored(segment, segment.filling().slots_end()).0
}

/// The same, and how far it has looked: at least to the cursor.
fn walk_stored<M: Memory>(segment: &Segment<M>, cursor: u32) -> (u32, u32) {
    let (mut end, mut blank) = (0, 0);
    let mut slots = segment.directory().slots(u32::MAX);
    let frames = frames_begin(segment, cursor);
    let meets = |slot| slot >= cursor && slot_end(segment, slot) > frames;
    while (blank < BLANK_SLOTS || slots.mark().slot < cursor) && !meets(slots.mark().slot) {
        let passed = slots.pass_blank(BLANK_SLOTS);
        blank += passed;
        if passed == BLANK_SLOTS {
            continue;
        }
        if meets(slots.mark().slot) {
            break;
        }
        let Some((slot, _)) = slots.next() else { break };
        blank = 0;
        end = slot.0 + 1;
    }
    (end, slots.mark().slot)
}

/// Where the frames begin, as the cursor says. Of two writers that were killed one may not have
/// noted where its frame lies, and then a walk does not know of the frame of the other, which lies
/// before it. A cursor that says what cannot be bounds nothing.
fn frames_begin<M: Memory>(segment: &Segment<M>, cursor: u32) -> u64 {
    let bytes = segment.geometry().segment_bytes as u64;
    let taken = segment.filling().taken().units.saturating_mul(UNIT_BYTES as u64);
    let begin = bytes.saturating_sub(taken);
    let directory_end = cursor.checked_sub(1).map_or(0, |last| slot_end(segment, last));
    if begin >= directory_end { begin } else { bytes }
}

fn slot_end<M: Memory>(segment: &Segment<M>, slot: u32) -> u64 {
    (segment.directory().slot_offset(SlotNumber(slot)) + SLOT_BYTES) as u64
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
pub(super) fn check_once<M: Memory>(
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
