//! Writing one id: blind puts, and writes that the index decides.
//!
//! A blind put is committed, then published; the highest LSN wins (DESIGN.md 5.4). A conditional
//! write (remove, conditional put) is filled and left pending, then published by the
//! compare-exchange that decides it, then committed. Should its slot be voided in between (by a
//! flush that could not wait), what it took the place of is put back and it is made anew; whoever
//! meets the entry meanwhile sees what it took the place of.

use super::{Engine, Key, slot_of_frame};
use crate::concurrency::epoch::Guard;
use crate::concurrency::sync::{Ordering, control_point};
use crate::error::Error;
use crate::format::frame::WriteMode;
use crate::format::ids::Lsn;
use crate::format::slot::Kind;
use crate::index::{Decision, Entry, Found, KeyHash, Resolve, Room};
use crate::log::{Appended, Purpose, Source};
use crate::memory::Memory;
use crate::segment::{Pending, Segment, WriteRequest};

/// How a blind put ended.
pub(super) enum PublishOutcome {
    /// It counts, in place of this.
    Installed(Option<Entry>),
    /// It counted, and a newer version took its place at once.
    Absorbed,
    /// It cannot be placed before the newer one that is there.
    AppendAgain,
}

/// How the index decided a conditional write.
enum ConditionalOutcome {
    /// It replaced this entry; never a tombstone's [W7].
    Took(Option<Entry>),
    /// The condition does not hold.
    Refused(Option<Entry>),
    /// What is there has a higher LSN, or may have had.
    AppendAgain,
}

/// A conditional write that did not happen; the id's current version, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub Option<Lsn>);

impl<M: Memory, S: Source<M>, const SLOTS: usize> Engine<M, S, SLOTS> {
    /// Stores a version of an id, or a tombstone that asks nothing. The record's parts have passed
    /// the store's checks.
    pub fn put(&self, record: &WriteRequest<'_>) -> Result<Lsn, Error> {
        debug_assert_eq!(record.writing, WriteMode::Blind);
        let (mut purpose, mut first) = (purpose(record), true);
        let tomb = record.kind == Kind::Tombstone;
        let live_bytes = if tomb { 0 } else { record.layout().bytes() };
        let mut retries = self.retries.of_call();
        loop {
            let guard = self.epoch.pin();
            // It comes while the frame is filled.
            self.index.prefetch(&guard, KeyHash(record.key_hash));
            if first {
                self.make_room_for(&guard, record)?;
            }
            // A new id goes behind all that share its bucket: two lines, half of the time.
            let hint = || self.index.prefetch_behind(&guard, KeyHash(record.key_hash));
            let appended = self.log.append(&guard, record, purpose, hint);
            let appended = if first { appended } else { appended.map_err(once_committed) };
            let Ok(appended) = appended? else {
                retries.add_one();
                continue;
            };
            let Appended { segment, address, lsn, claim: _claim } = appended;
            let entry = Entry { address, tomb, pending: false };
            segment.usage().add_live(live_bytes);
            let published = self.publish(&guard, record, lsn, entry);
            if !matches!(published, PublishOutcome::Installed(_)) {
                segment.usage().sub_live(live_bytes);
            }
            match published {
                PublishOutcome::Installed(before) => {
                    self.account(&guard, live_bytes, before);
                    note_expiry(segment, record);
                    self.wake_reclaimer();
                    return Ok(lsn);
                }
                PublishOutcome::Absorbed => return Ok(lsn),
                // It takes whatever room there is: an error now would come too late.
                PublishOutcome::AppendAgain => (purpose, first) = (Purpose::FreeRoom, false),
            }
        }
    }

    /// Before a record is committed: it must not fail for lack of room in the index afterwards.
    #[inline]
    pub(super) fn make_room_for(
        &self,
        guard: &Guard,
        record: &WriteRequest<'_>,
    ) -> Result<(), Error> {
        let key = Key::of(record);
        Ok(self.index.make_room_for(guard, key.hash, &self.keys(guard, key))?)
    }

    /// The put column of DESIGN.md 5.4.
    pub(super) fn publish(
        &self,
        guard: &Guard,
        record: &WriteRequest<'_>,
        lsn: Lsn,
        entry: Entry,
    ) -> PublishOutcome {
        // Committed, and not yet in the index: here the simulation stops writers.
        control_point();
        let mut outcome = PublishOutcome::Absorbed;
        let decide = |found| {
            outcome = match found {
                Found::Absent { drop_lsn } if drop_lsn >= lsn => PublishOutcome::AppendAgain,
                Found::Absent { .. } => PublishOutcome::Installed(None),
                Found::Entry(old) => self.compete(guard, old, lsn),
            };
            match outcome {
                PublishOutcome::Installed(_) => Decision::Set(entry),
                PublishOutcome::Absorbed | PublishOutcome::AppendAgain => Decision::Keep,
            }
        };
        let (key, room) = (Key::of(record), Room::Committed);
        let keys = self.keys(guard, key);
        let updated = self.index.update_within(room, guard, key.hash, &keys, decide);
        debug_assert!(updated.is_ok(), "what is committed finds room");
        outcome
    }

    /// A blind put against an entry of its id.
    fn compete(&self, guard: &Guard, old: Entry, lsn: Lsn) -> PublishOutcome {
        let Some(counts) = self.effective(guard, old) else {
            // A conditional insert that never was. It would have been made above every tombstone
            // dropped here; that much is known of a put above it, too.
            let above = self.lsn_of_racing(guard, old, lsn) < lsn;
            return if above {
                PublishOutcome::Installed(None)
            } else {
                PublishOutcome::AppendAgain
            };
        };
        if self.lsn_of_racing(guard, counts, lsn) < lsn {
            PublishOutcome::Installed(Some(counts))
        } else if counts.tomb || self.is_conditional(guard, counts) {
            // The newer write has answered for what was there just before it, so this one cannot
            // go there. (Before a removal it could; but a tombstone entry may also be one that
            // stands for a voided insert.)
            PublishOutcome::AppendAgain
        } else {
            PublishOutcome::Absorbed
        }
    }

    fn is_conditional(&self, guard: &Guard, entry: Entry) -> bool {
        let at = self.locate(guard, entry);
        at.is_ok_and(|at| at.frame.header().writing == WriteMode::Conditional)
    }

    /// The LSN of an entry that a write with `lsn` competes with: the header's word for it is
    /// enough while it is lower, which is nearly always; a higher one is checked first.
    fn lsn_of_racing(&self, guard: &Guard, entry: Entry, lsn: Lsn) -> Lsn {
        match self.locate(guard, entry) {
            Ok(at) if at.frame.header().lsn < lsn => at.frame.header().lsn,
            _ => self.lsn_of(guard, entry),
        }
    }

    /// Has what the index replaced given back, now and then.
    pub(super) fn wake_reclaimer(&self) {
        if self.epoch.take_reclaim_request() {
            self.log.source().wake();
        }
    }

    /// After a record with so many live bytes, none for a tombstone, replaced what counted before.
    pub(super) fn account(&self, guard: &Guard, live_bytes: u64, before: Option<Entry>) {
        let live_before = before.filter(|old| !old.tomb);
        let bytes_before = live_before.map_or(0, |old| self.subtract_live(guard, old));
        self.log.count_live(live_bytes, bytes_before);
        self.add_live(i64::from(live_bytes > 0) - i64::from(live_before.is_some()));
    }

    /// The index points at this record no more; how many bytes its frame has.
    pub(super) fn subtract_live(&self, guard: &Guard, old: Entry) -> u64 {
        let (segment, bytes) = match self.locate(guard, old) {
            Ok(at) => (Some(at.segment), at.frame.len_bytes()),
            Err(at) => {
                let body = at.segment.and_then(|segment| slot_of_frame(segment, at.offset));
                (at.segment, body.map_or(0, |body| body.len.bytes() as u64))
            }
        };
        segment.map_or(0, |segment| {
            segment.usage().sub_live(bytes);
            bytes
        })
    }

    /// Removes an id, if it is there. `record` is the tombstone.
    pub fn remove(&self, record: &WriteRequest<'_>) -> Result<Result<Lsn, Refused>, Error> {
        self.write_if(record, |_, current| current.is_some())
    }

    /// Writes a conditional record if `accept` says so of the id's live entry. It may be asked many
    /// times; the last answer is the one that held when the write took effect, or did not.
    pub fn write_if(
        &self,
        record: &WriteRequest<'_>,
        accept: impl Fn(&Guard, Option<Entry>) -> bool,
    ) -> Result<Result<Lsn, Refused>, Error> {
        debug_assert_eq!(record.writing, WriteMode::Conditional);
        let (key, bytes) = (Key::of(record), record.layout().bytes());
        let mut retries = self.retries.of_call();
        loop {
            let guard = self.epoch.pin();
            let current = self.current(&guard, record);
            if !accept(&guard, current) {
                return Ok(Err(self.refused(&guard, current)));
            }
            let reservation = self.log.reserve(&guard, bytes, purpose(record))?;
            let segment = reservation.segment();
            let Ok(mut pending) = reservation.pend(record) else {
                retries.add_one();
                continue;
            };
            match self.decide_conditional(&guard, record, &pending, &accept)? {
                // Dropping `pending` voids its slot.
                ConditionalOutcome::Refused(current) => {
                    return Ok(Err(self.refused(&guard, current)));
                }
                ConditionalOutcome::AppendAgain => {}
                ConditionalOutcome::Took(before) => {
                    let (lsn, entry) = (pending.lsn(), pending_entry(record, &pending));
                    let committed = pending.commit();
                    // Decided, and pending in the index: here, too.
                    control_point();
                    if committed.is_err() {
                        // A slot of the index is never emptied, so "nothing" becomes a tombstone
                        // entry at the void frame's own address, whose segment is claimed.
                        let nothing = Entry { tomb: true, pending: false, ..entry };
                        self.replace(&guard, key, entry, before.unwrap_or(nothing));
                        retries.add_one();
                        continue;
                    }
                    let live_bytes = if record.kind == Kind::Put { bytes } else { 0 };
                    segment.usage().add_live(live_bytes);
                    self.account(&guard, live_bytes, before);
                    self.replace(&guard, key, entry, Entry { pending: false, ..entry });
                    note_expiry(segment, record);
                    self.wake_reclaimer();
                    return Ok(Ok(lsn));
                }
            }
        }
    }

    /// The id's live entry now.
    fn current(&self, guard: &Guard, record: &WriteRequest<'_>) -> Option<Entry> {
        let key = Key::of(record);
        let keys = self.keys(guard, key);
        let find = || self.index.get(guard, key.hash, |entry| keys.same_key(entry));
        let mut entry = find()?;
        loop {
            let live = self.live_entry(guard, entry);
            if live.is_some() {
                return live;
            }
            // It may have been replaced before its time was over.
            let now = find()?;
            if now == entry {
                return None;
            }
            entry = now;
        }
    }

    fn refused(&self, guard: &Guard, current: Option<Entry>) -> Refused {
        Refused(current.map(|entry| self.lsn_of(guard, entry)))
    }

    /// The remove column of DESIGN.md 5.4, and the conditional put's.
    fn decide_conditional(
        &self,
        guard: &Guard,
        record: &WriteRequest<'_>,
        pending: &Pending<'_, M>,
        accept: &impl Fn(&Guard, Option<Entry>) -> bool,
    ) -> Result<ConditionalOutcome, Error> {
        let lsn = pending.lsn();
        let mut outcome = ConditionalOutcome::AppendAgain;
        let decide = |found| {
            // What counts, and whether this write is newer than it and all that was before it.
            let (counts, newer) = match found {
                Found::Absent { drop_lsn } => (None, drop_lsn < lsn),
                Found::Entry(old) => {
                    let counts = self.effective(guard, old);
                    (counts, self.lsn_of_racing(guard, counts.unwrap_or(old), lsn) < lsn)
                }
            };
            let live = counts.filter(|entry| self.is_live(guard, *entry));
            // What has expired may have been replaced before: `current` can tell, when it is asked
            // again.
            let may_be_old = counts.is_some_and(|entry| !entry.tomb) && live.is_none();
            outcome = match accept(guard, live) {
                // [W7] A tombstone's entry is not restored: compaction may give up its record
                // while this write is undecided.
                true if newer => ConditionalOutcome::Took(counts.filter(|entry| !entry.tomb)),
                false if !may_be_old => ConditionalOutcome::Refused(live),
                _ => ConditionalOutcome::AppendAgain,
            };
            match outcome {
                ConditionalOutcome::Took(counts) => {
                    if record.kind == Kind::Put {
                        pending.set_seen(self.seen_by(guard, found));
                    }
                    pending.set_previous(counts.map_or(0, Entry::bits));
                    Decision::Set(pending_entry(record, pending))
                }
                ConditionalOutcome::Refused(_) | ConditionalOutcome::AppendAgain => Decision::Keep,
            }
        };
        let key = Key::of(record);
        self.index.update(guard, key.hash, &self.keys(guard, key), decide)?;
        Ok(outcome)
    }

    /// What a conditional put that replaces this has seen [W9]. The put that it replaces has seen
    /// what it says itself: a write before which that one could not go cannot go before this one.
    /// And a member that its batch has given up does not come above it.
    fn seen_by(&self, guard: &Guard, found: Found) -> Lsn {
        // Relaxed: see `give_up`.
        let given_up = Lsn::from_u64(self.given_up.load(Ordering::Relaxed));
        self.seen_of(guard, found).max(given_up)
    }

    fn seen_of(&self, guard: &Guard, found: Found) -> Lsn {
        let entry = match found {
            Found::Absent { drop_lsn } => return drop_lsn,
            // A write that was voided and took the place of nothing says what it has seen, too.
            Found::Entry(old) => self.effective(guard, old).unwrap_or(old),
        };
        let at = self.locate(guard, entry).ok();
        let seen = at.and_then(|at| at.segment.seen(&at.frame));
        seen.unwrap_or_else(|| self.lsn_of(guard, entry))
    }
}

/// Why a write fails that was committed, and could not be appended again: of this error callers
/// know that it may be found later. Of a limit, or a device, they would believe that nothing
/// happened.
pub(super) fn once_committed(error: Error) -> Error {
    if matches!(error, Error::FlushFailed(_)) { error } else { Error::StorageFull }
}

fn pending_entry<M: Memory>(record: &WriteRequest<'_>, pending: &Pending<'_, M>) -> Entry {
    Entry { address: pending.address(), tomb: record.kind == Kind::Tombstone, pending: true }
}

/// For who looks for what has expired, once the index leads to the record.
#[inline]
pub(super) fn note_expiry<M: Memory>(segment: &Segment<M>, record: &WriteRequest<'_>) {
    if record.expires_ns != 0 {
        segment.usage().note_expiry(record.expires_ns);
    }
}

/// Removals may take the last room there is.
fn purpose(record: &WriteRequest<'_>) -> Purpose {
    if record.kind == Kind::Tombstone { Purpose::FreeRoom } else { Purpose::Grow }
}
