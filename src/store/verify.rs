//! Checking what lies on disk, as deep as asked for.

use super::Store;
use crate::error::Error;
use crate::format::ids::{Lsn, SlotNumber};
use crate::format::slot::{Kind, SlotBody, SlotState};
use crate::memory::MmapMemory;
use crate::recovery::{check, readable_id};
use crate::report::{Damage, VerifyReport};
use crate::segment::{Frame, ReadAhead, Segment};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How far a check goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Slots, and where they say that the frames lie.
    Slots,
    /// Every frame's checksum too.
    Frames,
    /// What the index answers too.
    Answers,
}

/// A check under way.
struct VerifyRun<'s, P> {
    store: &'s Store,
    depth: Depth,
    report: VerifyReport,
    progress: P,
    done: u64,
    total: u64,
    /// By key hash: the newest record that the index does not have and the log has not explained
    /// yet, and where it is.
    unexplained: HashMap<u64, (Lsn, Damage)>,
    /// Records that the index points at.
    found: u64,
}

impl Store {
    /// Checks every slot, and the checksum of every record, live or not. Damage is in the report,
    /// not an error. Reads the whole log, beside live readers and writers.
    ///
    /// # Errors
    ///
    /// None today; kept for failures of the file system.
    pub fn verify(&self) -> Result<VerifyReport, Error> {
        Ok(self.walk_log(Depth::Frames, |_, _| ()))
    }

    /// Checks the directories only, 32 bytes a record: every slot's checksum, that it names a place
    /// inside its segment, and what opening found of headers and files. Damage inside a record is
    /// not noticed.
    ///
    /// # Errors
    ///
    /// None today; kept for failures of the file system.
    pub fn verify_quick(&self) -> Result<VerifyReport, Error> {
        Ok(self.walk_log(Depth::Slots, |_, _| ()))
    }

    /// Does what [`verify`](Store::verify) does, and asks for the id of every whole record of the
    /// log: the answer must be the version with the highest LSN, or nothing where that is a remove.
    /// Calls `progress` now and then with the slots checked and the slots there are.
    ///
    /// The answers are compared on a read-only handle, and below each segment's durable end, where
    /// no write can be on its way: [`VerifyReport::compared`] says how many. Of a store that was
    /// closed that is all of it.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("s");
    /// # let store = stratalog::Options::new().dimension(1).open(&path)?;
    /// # store.put("a", &[1.0], "")?;
    /// # store.close()?;
    /// let store = stratalog::Options::new().read_only(true).open(&path)?;
    /// let report = store.verify_deep(|done, total| println!("{done} of {total}"))?;
    /// assert!(report.is_clean());
    /// assert_eq!((report.records, report.compared), (1, 1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// None today; kept for failures of the file system.
    pub fn verify_deep(&self, progress: impl FnMut(u64, u64)) -> Result<VerifyReport, Error> {
        Ok(self.walk_log(Depth::Answers, progress))
    }

    fn walk_log(&self, depth: Depth, progress: impl FnMut(u64, u64)) -> VerifyReport {
        let report = VerifyReport { damaged: self.damage.clone(), ..VerifyReport::default() };
        // A writer may have committed what it has not published yet.
        let depth = if depth == Depth::Answers && !self.read_only { Depth::Frames } else { depth };
        let mut walk = VerifyRun {
            store: self,
            depth,
            report,
            progress,
            done: 0,
            total: 0,
            unexplained: HashMap::new(),
            found: 0,
        };
        walk.run();
        walk.report
    }
}

/// Slots between two calls of `progress`.
const STEP: u64 = 1024;

impl<P: FnMut(u64, u64)> VerifyRun<'_, P> {
    fn run(&mut self) {
        let live = self.store.engine().live();
        self.total = self.each_segment(|_, segment, _| u64::from(segment.filling().slots_end()));
        let durable =
            self.each_segment(|_, segment, _| u64::from(segment.durable().flushed().slot));
        self.each_segment(|this, segment, path| {
            this.segment(segment, path);
            0
        });
        if self.depth == Depth::Answers {
            if !self.unexplained.is_empty() {
                self.each_segment(|this, segment, _| {
                    this.explain(segment);
                    0
                });
            }
            self.report.damaged.extend(self.unexplained.drain().map(|(_, (_, damage))| damage));
            // What was answered is in the log; and no more than that is in the index.
            if self.report.is_clean() && durable == self.total && self.found != live {
                let reason = format!("{live} records are live, the log has {}", self.found);
                let path = self.store.path().to_owned();
                self.report.damaged.push(Damage { path, offset: 0, id: None, reason });
            }
        }
        (self.progress)(self.done, self.total);
        let place = |damage: &Damage| (damage.path.clone(), damage.offset);
        self.report.damaged.sort_by_key(place);
    }

    /// Calls back for each segment in order, under a pin of its own; the sum of what that answers.
    fn each_segment(
        &mut self,
        mut visit: impl FnMut(&mut Self, &Segment<MmapMemory>, PathBuf) -> u64,
    ) -> u64 {
        let (engine, mut sum) = (self.store.engine(), 0);
        for (index, id) in self.store.segment_places() {
            let guard = engine.epoch().pin();
            let there = engine.log().table().get(&guard, index);
            let same = |s: &&Segment<MmapMemory>| s.id() == id && !s.reclamation().is_dropped();
            let Some(segment) = there.filter(same) else { continue };
            sum += visit(self, segment, engine.log().source().path_of(id.sequence, id.salt));
        }
        sum
    }

    fn segment(&mut self, segment: &Segment<MmapMemory>, path: PathBuf) {
        let durable = segment.durable().flushed().slot;
        let mut ahead = ReadAhead::new();
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            self.done += 1;
            if self.done.is_multiple_of(STEP) {
                (self.progress)(self.done, self.total.max(self.done));
            }
            self.report.bytes += 32;
            let slot_at = segment.directory().slot_offset(slot) as u64;
            let (offset, id, reason) = match state {
                SlotState::Void | SlotState::Batch(..) | SlotState::Member(..) => continue,
                SlotState::Copy(_, body) if !self.is_in_force(segment, body) => continue,
                SlotState::Empty | SlotState::Pending(..) if slot.0 >= durable => continue,
                SlotState::Empty | SlotState::Pending(..) => (slot_at, None, "the slot was lost"),
                SlotState::Invalid => (slot_at, None, "the slot's checksum does not match"),
                SlotState::Committed(kind, body) | SlotState::Copy(kind, body) => {
                    self.report.records += 1;
                    if self.depth != Depth::Slots {
                        segment.read_on(&mut ahead, body.offset, body.len);
                    }
                    match check(segment, slot, kind, body, self.depth != Depth::Slots) {
                        Ok(bytes) => {
                            self.report.bytes += bytes;
                            if self.depth == Depth::Answers && slot.0 < durable {
                                self.compare(segment, &path, (slot, kind, body));
                            }
                            continue;
                        }
                        Err(reason) => {
                            (body.offset.bytes() as u64, readable_id(segment, slot), reason)
                        }
                    }
                }
            };
            let reason = reason.to_owned();
            self.report.damaged.push(Damage { path: path.clone(), offset, id, reason });
        }
    }

    /// A copy whose source says that it was moved counts before its slot says so: opening has put
    /// it into the index.
    fn is_in_force(&self, segment: &Segment<MmapMemory>, body: SlotBody) -> bool {
        let engine = self.store.engine();
        engine.resolves_to(&engine.epoch().pin(), segment, body)
    }

    /// Asks for a whole record's id. The answer must not be older than the record.
    fn compare(
        &mut self,
        segment: &Segment<MmapMemory>,
        path: &Path,
        (slot, kind, body): (SlotNumber, Kind, SlotBody),
    ) {
        let Ok(frame) = segment.committed_frame(slot) else { return };
        let pinned = self.store.pin();
        if frame.has_expired() {
            // No answer is right now; it is counted until compaction takes it away.
            self.found += u64::from(self.is_in_force(segment, body));
            return;
        }
        let lsn = frame.header().lsn;
        self.report.compared += 1;
        let wrong = |reason: &str| Damage {
            path: path.to_owned(),
            offset: body.offset.bytes() as u64,
            id: Some(frame.id().to_vec()),
            reason: reason.to_owned(),
        };
        match pinned.find(frame.id()) {
            // Its slot or its frame is damaged, and named where it lies.
            Err(_) => {}
            Ok(Some(at)) if at.frame.header().lsn >= lsn => {
                let here = std::ptr::eq(at.segment, segment) && at.frame.offset() == body.offset;
                self.found += u64::from(here);
                if self.store.hash(frame.id()).0 != body.key_hash {
                    self.report.damaged.push(wrong("its slot has another id's hash"));
                }
            }
            // Opening for writing makes such a put void; here it is still there.
            Ok(Some(at)) if is_outdone(segment, &frame, at.frame.header().lsn) => {}
            Ok(Some(_)) => {
                self.report.damaged.push(wrong("a get of its id answers something older"));
            }
            Ok(None) if kind == Kind::Tombstone => {}
            Ok(None) if frame.has_expired() => {
                // Since it was asked above.
                self.found += u64::from(self.is_in_force(segment, body));
            }
            Ok(None) => {
                let damage = wrong("a get of its id answers nothing");
                let newest = self.unexplained.entry(body.key_hash).or_insert((lsn, damage.clone()));
                if newest.0 <= lsn {
                    *newest = (lsn, damage);
                }
            }
        }
    }

    /// A record is rightly absent if something newer of its id is a remove, has expired, or cannot
    /// be read.
    fn explain(&mut self, segment: &Segment<MmapMemory>) {
        for (slot, state) in segment.directory().slots(segment.filling().slots_end()) {
            let SlotState::Committed(kind, body) = state else { continue };
            let newer = |unexplained: &(Lsn, Damage)| unexplained.0 < body.lsn;
            let has_expired = || segment.committed_frame(slot).is_ok_and(|f| f.has_expired());
            let hides = || kind == Kind::Tombstone || body.expires && has_expired();
            if self.unexplained.get(&body.key_hash).is_some_and(newer)
                && (hides() || check(segment, slot, kind, body, true).is_err())
            {
                self.unexplained.remove(&body.key_hash);
            }
        }
    }
}

/// Returns whether a conditional put need not count: something older that answers in its place is,
/// or came after, a member of a batch that it has not seen [W9].
fn is_outdone(segment: &Segment<MmapMemory>, put: &Frame<'_>, answer: Lsn) -> bool {
    segment.seen(put).is_some_and(|seen| seen < answer)
}
