//! The judge: which answers are allowed, given what was asked and when.
//!
//! Every write has a value of its own, so an answer names the write that it comes from. Time is a
//! counter of beginnings and ends of operations. Of two writes of one id one is *older* for certain
//! if it had returned before the other began, or if its LSN is known to be lower.
//!
//! - *Reads.* An answer must come from a write of this id that had begun. It may not be older than
//!   a write that had returned before the read began, or that an earlier read has shown.
//! - *Kill and close.* The same holds for reads after the next opening: all that returned is there,
//!   and what had not returned may be.
//! - *Power loss.* What was durable is there. Of the rest a prefix in LSN order is there.
//! - *Batches* are there whole or not at all.

mod conditions;
mod openings;

use simulated_machine::note;
use simulated_machine::time::{self, Instant};
use std::time::{Duration, SystemTime};
use stratalog::{Error, Lsn};

/// Number of an id.
pub type Id = usize;
/// Number of a write; the value that it puts.
pub type WriteId = usize;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has not returned.
    Pending,
    /// It has taken effect.
    Done,
    /// It returned an error that lets it be found later.
    Uncertain,
    /// It changed nothing, or was replaced or given up before the last opening.
    Never,
}

/// Where the tag of a version begins. Updates count upwards from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagOf {
    /// At the number of its write, shifted.
    Write,
    /// At 0.
    Nothing,
    /// At that of the version before.
    Predecessor,
}

/// A put or a removal.
#[derive(Clone, Debug)]
pub struct Write {
    pub id: Id,
    pub is_removal: bool,
    /// A put that races with it may be appended again: a conditional write, or a removal.
    pub is_conditional: bool,
    pub begun: u64,
    /// The time of day then.
    pub begun_at: SystemTime,
    pub ended: u64,
    pub fate: Fate,
    /// Its LSN, as far as anybody knows.
    pub lsn: Option<Lsn>,
    /// No LSN of it is above. Of a batch only the highest LSN is known.
    pub at_most: Lsn,
    /// When a read had first shown it.
    pub shown: u64,
    pub batch: Option<usize>,
    pub tag: TagOf,
    /// The tag that it keeps is that of a write.
    pub keeps_one: bool,
    /// Its tag was this once, and only grows; power loss may bring an older one back.
    pub tag_was: u64,
    /// It survives power loss.
    pub is_durable: bool,
    /// Milliseconds after which it expires; none: never.
    pub lifetime: Option<u64>,
    /// Bytes of the content.
    pub len: usize,
}

impl Write {
    fn may_be_seen(&self) -> bool {
        self.fate != Fate::Never
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.begun < other.ended && other.begun < self.ended
    }

    /// Returns whether it is older than another write for certain.
    fn is_older(&self, other: &Self) -> bool {
        let by_lsn = other.lsn.is_some_and(|lsn| match self.lsn {
            Some(its) => its < lsn,
            None => self.fate == Fate::Done && self.at_most < lsn,
        });
        self.ended < other.begun || by_lsn
    }

    /// Returns whether its LSN is at or below another for certain.
    fn is_up_to(&self, lsn: Lsn) -> bool {
        self.fate == Fate::Done && self.lsn.unwrap_or(self.at_most) <= lsn
    }
}

/// An answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write with this value, under this LSN.
    Write(WriteId, Lsn),
    Nothing,
}

/// How the life before an opening ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Close,
    Kill,
    PowerLoss,
}

/// What an opening promises of records that were not durable when power was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A prefix in LSN order is there.
    Prefix,
    /// Each that proves itself is there, a batch only whole: under an unknown boot.
    Batches,
    /// Each that proves itself is there: in a salvage.
    Records,
}

/// All that the workload did and saw.
#[derive(Debug)]
pub struct Model {
    now: u64,
    /// When each tick was.
    times: Vec<Instant>,
    pub writes: Vec<Write>,
    /// No LSN up to here may be given again.
    pub highest: Lsn,
    /// The highest LSN that this process has given or found.
    pub last: Lsn,
    /// The device has damaged something: ids may be missing or older, but never others.
    pub is_damaged: bool,
    /// Pages that a flush could not write are read anew: what is not durable may be gone, or older.
    pub loses_unflushed: bool,
    batches: usize,
    /// Where the store is.
    pub path: &'static str,
    /// Backups that are open: their files have the names of the store's.
    pub copies: usize,
    /// Somebody sets the time of day: what has expired may come back.
    pub sets_clock: bool,
    /// When a flush of this process had failed.
    refuses_since: u64,
    /// Tags that updates have returned.
    updated: Vec<u64>,
    /// Backups that nobody has changed since, and what they hold.
    pub backups: Vec<(String, Vec<Answer>)>,
    /// What is wrong; the first counts.
    pub complaints: Vec<String>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            now: 0,
            times: Vec::new(),
            writes: Vec::new(),
            highest: Lsn::ZERO,
            last: Lsn::ZERO,
            is_damaged: false,
            loses_unflushed: false,
            batches: 0,
            path: PATHS[0],
            copies: 0,
            sets_clock: false,
            refuses_since: u64::MAX,
            updated: Vec::new(),
            backups: Vec::new(),
            complaints: Vec::new(),
        }
    }
}

/// Where the store may be.
const PATHS: [&str; 2] = ["store", "moved"];

impl Model {
    /// The store's directory gets another name: which one it had, and which one it gets.
    pub fn move_directory(&mut self) -> (&'static str, &'static str) {
        let from = self.path;
        self.path = if from == PATHS[0] { PATHS[1] } else { PATHS[0] };
        (from, self.path)
    }

    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.times.push(Instant::now());
        self.now
    }

    /// Returns whether something is not as processes have left it.
    #[must_use]
    pub fn is_excused(&self) -> bool {
        self.is_damaged || self.loses_unflushed
    }

    pub fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    pub fn new_batch(&mut self) -> usize {
        self.batches += 1;
        self.batches
    }

    /// Returns whether any write expires.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.writes.iter().any(|write| write.lifetime.is_some())
    }

    /// Returns whether any write of an id expires.
    #[must_use]
    pub fn may_expire(&self, id: Id) -> bool {
        self.of(id).any(|write| write.lifetime.is_some())
    }

    /// Returns whether the tag of one of its writes may be that of another.
    fn shares_tags(&self, id: Id) -> bool {
        self.of(id).any(|write| write.tag == TagOf::Predecessor)
    }

    fn of(&self, id: Id) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(move |write| write.id == id)
    }

    /// Returns whether a write is older than another for certain, as an opening shows them. A write
    /// that raced with a conditional one may have been appended again, and counts there under its
    /// first LSN.
    fn is_older_at_opening(&self, one: &Write, other: &Write) -> bool {
        let older = || one.is_older(other) && !self.races(one) && !self.races(other);
        one.ended < other.begun || older()
    }

    /// Returns whether it may have been appended again, because of a conditional write.
    fn races(&self, write: &Write) -> bool {
        let races = |rival: &Write| rival.is_conditional && rival.overlaps(write);
        write.is_conditional || self.of(write.id).any(races)
    }

    /// When a tick was, by the clock; none: it has not been.
    fn time_of(&self, tick: u64) -> Option<Instant> {
        self.times.get((tick as usize).checked_sub(1)?).copied()
    }

    /// Not before then does a write expire.
    fn expires_at(&self, write: &Write) -> Option<Instant> {
        self.time_of(write.begun)?.checked_add(Duration::from_millis(write.lifetime?))
    }

    /// By then a write has expired.
    fn expired_at(&self, write: &Write) -> Option<Instant> {
        self.time_of(write.ended)?.checked_add(Duration::from_millis(write.lifetime?))
    }

    /// Returns whether a write has expired for certain by this tick.
    fn has_expired(&self, write: &Write, tick: u64) -> bool {
        let expired_at = self.expired_at(write);
        !self.sets_clock && expired_at.is_some() && expired_at < self.time_of(tick)
    }

    /// Returns whether a write may have expired by now.
    fn may_have_expired(&self, write: &Write) -> bool {
        let is_over = || self.expires_at(write) <= Some(Instant::now());
        write.lifetime.is_some() && (self.sets_clock || is_over())
    }

    /// Returns whether the id may have been without a version because this one had expired: not if
    /// a newer one was there before, which does not expire.
    fn may_be_without(&self, write: &Write) -> bool {
        let in_time = |next: &Write| {
            let ended_at = self.time_of(next.ended);
            ended_at.is_some() && ended_at < self.expires_at(write)
        };
        let takes_over = |next: &Write| {
            let stays = next.lifetime.is_none() && !next.is_removal && next.fate == Fate::Done;
            stays && in_time(next) && write.is_older(next)
        };
        self.may_have_expired(write) && !self.of(write.id).any(takes_over)
    }

    /// A write begins.
    pub fn begin(&mut self, id: Id, is_removal: bool, len: usize, batch: Option<usize>) -> WriteId {
        let begun = self.tick();
        let write = self.writes.len();
        note(|| format!("write {write} of id {id} begins, removal: {is_removal}, batch {batch:?}"));
        self.writes.push(Write {
            id,
            is_removal,
            is_conditional: is_removal,
            begun,
            begun_at: time::now(),
            ended: u64::MAX,
            fate: Fate::Pending,
            lsn: None,
            at_most: Lsn::from_u64(u64::MAX),
            shown: u64::MAX,
            batch,
            tag: TagOf::Nothing,
            keeps_one: false,
            tag_was: 0,
            is_durable: false,
            lifetime: None,
            len,
        });
        self.writes.len() - 1
    }

    /// The tag of each write, as far as anybody knows.
    pub fn tags(&self) -> Vec<u64> {
        self.writes.iter().map(|write| write.tag_was).collect()
    }

    /// The tag of a write was this.
    pub fn note_tag(&mut self, write: WriteId, tag: u64) {
        let Some(id) = self.writes.get(write).map(|write| write.id) else { return };
        if !self.shares_tags(id) {
            let was = &mut self.writes[write].tag_was;
            *was = tag.max(*was);
        }
    }

    /// An update has returned this tag, one above that which it found: nobody else's has, and it is
    /// above what the tag was before.
    pub fn judge_update(&mut self, write: WriteId, tag: u64, before: &[u64]) {
        let Some(id) = self.writes.get(write).map(|write| write.id) else { return };
        let is_new = before.get(write).is_none_or(|was| tag > *was) && !self.updated.contains(&tag);
        if !is_new && !self.shares_tags(id) && !self.is_excused() {
            self.complain(format!("an update of write {write} returned {tag:#x} again"));
        }
        self.updated.push(tag);
    }

    /// A put that keeps the tag has ended: notes whether the id had a tag all the time.
    pub fn note_kept(&mut self, write: WriteId) {
        let Write { id, begun, tag, .. } = self.writes[write];
        let others = || self.of(id).filter(|other| other.begun != begun && other.may_be_seen());
        let has_tag = |write: &Write| {
            write.tag == TagOf::Write && !write.is_removal && write.lifetime.is_none()
        };
        let is_there = |put: &Write| {
            let is_before = put.fate == Fate::Done && put.ended < begun;
            is_before && others().all(|other| has_tag(other) || other.is_older(put))
        };
        let keeps = others().any(|put| has_tag(put) && is_there(put));
        self.writes[write].keeps_one = tag == TagOf::Predecessor && keeps;
    }

    /// Power loss may have taken what became of tags.
    pub fn forget_tags(&mut self) {
        self.updated.clear();
        self.writes.iter_mut().for_each(|write| write.tag_was = 0);
    }

    /// A write has returned this LSN.
    pub fn end(&mut self, write: WriteId, lsn: Lsn, is_durable: bool) {
        let Write { id, begun, lsn: known, .. } = self.writes[write];
        if let Some(known) = known.filter(|known| *known != lsn && !self.is_excused()) {
            self.complain(format!("write {write} of id {id} is {lsn}, it was seen as {known}"));
        }
        let before = |other: &&Write| other.ended < begun && other.lsn.is_some();
        let last = self.of(id).filter(before).filter_map(|other| other.lsn).max();
        if !self.is_excused() && last.is_some_and(|last| last >= lsn) {
            self.complain(format!("write {write} of id {id} got {lsn} after {last:?}"));
        }
        let twice = |(other, its): (usize, &Write)| other != write && its.lsn == Some(lsn);
        if !self.is_excused() && self.writes.iter().enumerate().any(twice) {
            self.complain(format!("write {write} and another one got the same LSN {lsn}"));
        }
        note(|| format!("write {write} of id {id} is {lsn}"));
        self.writes[write].lsn = Some(lsn);
        self.end_below(write, lsn, is_durable);
    }

    /// A member of a batch has returned, whose highest LSN this is.
    pub fn end_below(&mut self, write: WriteId, highest: Lsn, is_durable: bool) {
        let ended = self.tick();
        note(|| format!("write {write} is at most {highest}"));
        if self.writes[write].begun > self.refuses_since {
            self.complain(format!("write {write} took effect after a flush had failed"));
        }
        let write = &mut self.writes[write];
        (write.ended, write.fate, write.at_most) = (ended, Fate::Done, highest);
        write.is_durable |= is_durable;
        self.highest = self.highest.max(highest);
        self.last = self.last.max(highest);
    }

    /// A process begins.
    pub fn begin_process(&mut self) {
        (self.last, self.copies, self.refuses_since) = (Lsn::ZERO, 0, u64::MAX);
    }

    /// A call has said that a flush has failed: no write takes effect that begins after that.
    pub fn flush_failed(&mut self) {
        self.refuses_since = self.refuses_since.min(self.tick());
    }

    /// Returns whether writes are refused until the store is opened again.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.refuses_since < u64::MAX
    }

    /// A put or removal of its own has failed.
    pub fn fail(&mut self, write: WriteId, error: &Error) {
        // A removal that meets a full disk has changed nothing.
        let is_full = matches!(error, Error::StorageFull);
        let is_void = is_full && self.writes[write].is_removal;
        self.end_without(write, if is_void { Fate::Never } else { fate_of(error) });
    }

    /// A write has failed, or changed nothing.
    pub fn end_without(&mut self, write: WriteId, fate: Fate) {
        let ended = self.tick();
        note(|| format!("write {write} of id {} is {fate:?}", self.writes[write].id));
        let write = &mut self.writes[write];
        (write.ended, write.fate) = (ended, fate);
        if fate == Fate::Never && write.shown < u64::MAX {
            let id = write.id;
            self.complain(format!("a write of id {id} failed, but was seen"));
        }
    }

    /// A read has ended that began at this moment.
    pub fn end_read(&mut self, id: Id, begun: u64, answer: Answer) {
        let must = |write: &Write| {
            write.shown < begun || (write.ended < begun && write.fate == Fate::Done)
        };
        if let Some(what) = self.objection(id, answer, false, must) {
            self.complain(what);
        }
        self.judge_expiry(begun, answer);
        self.learn(answer);
    }

    /// What had expired when a read began is not shown.
    pub fn judge_expiry(&mut self, begun: u64, answer: Answer) {
        let Answer::Write(write, _) = answer else { return };
        let has_expired = |its: &Write| self.has_expired(its, begun) && !self.is_excused();
        if self.writes.get(write).is_some_and(has_expired) {
            self.complain(format!("write {write} had expired"));
        }
    }

    fn learn(&mut self, answer: Answer) {
        let now = self.tick();
        note(|| format!("shown: {answer:?}"));
        if let Answer::Write(write, lsn) = answer
            && let Some(write) = self.writes.get_mut(write)
        {
            write.shown = write.shown.min(now);
            write.lsn = Some(lsn);
            self.highest = self.highest.max(lsn);
            self.last = self.last.max(lsn);
        }
    }

    /// What is wrong with an answer, if no write that `must` count may be missed.
    fn objection(
        &self,
        id: Id,
        answer: Answer,
        at_opening: bool,
        must: impl Fn(&Write) -> bool,
    ) -> Option<String> {
        let stays = |write: &Write| write.is_durable || !self.loses_unflushed;
        let must = |write: &&Write| write.may_be_seen() && stays(write) && must(write);
        let older = |one: &Write, other: &Write| {
            if at_opening { self.is_older_at_opening(one, other) } else { one.is_older(other) }
        };
        if self.sets_clock && self.may_expire(id) {
            return None;
        }
        match answer {
            Answer::Write(write, lsn) => {
                if self.is_damaged && self.writes.get(write).is_none_or(|found| found.id != id) {
                    return None;
                }
                let Some(found) = self.writes.get(write).filter(|found| found.id == id) else {
                    return Some(format!("id {id} holds value {write}, which was never put there"));
                };
                if self.is_damaged {
                    return None;
                }
                if !found.may_be_seen() && !self.loses_unflushed {
                    return Some(format!("id {id} holds write {write}, which is gone for good"));
                }
                // An opening may show the first LSN of a write that was appended again.
                let is_first = |known: Lsn| at_opening && lsn < known;
                let differs = |known: Lsn| known != lsn && !is_first(known);
                let is_other = found.lsn.is_some_and(differs) || found.at_most < lsn;
                if is_other && !self.loses_unflushed {
                    let known = found.lsn;
                    return Some(format!("write {write} is seen as {lsn}, it was {known:?}"));
                }
                let found = Write { lsn: Some(lsn), ..found.clone() };
                let newer = self.of(id).filter(must).find(|other| older(&found, other))?;
                let newer = newer.lsn;
                Some(format!("id {id} shows write {write} ({lsn}), although {newer:?} was there"))
            }
            Answer::Nothing if self.is_damaged => None,
            Answer::Nothing => {
                let ends = |write: &&Write| {
                    // After power loss what took over may be gone.
                    let expires = write.lifetime.is_some();
                    let expired = expires && (at_opening || self.may_be_without(write));
                    (write.is_removal || expired) && write.may_be_seen()
                };
                let puts = self.of(id).filter(must).filter(|write| !ends(write));
                let mut lost =
                    puts.filter(|put| !self.of(id).filter(ends).any(|end| !older(end, put)));
                let lsn = lost.next()?.lsn;
                Some(format!("id {id} is gone, although {lsn:?} was there"))
            }
        }
    }

    /// All writes that returned before this moment are durable now.
    pub fn all_durable_before(&mut self, at: u64) {
        note(|| format!("all that ended before {at} is durable"));
        for write in self.writes.iter_mut().filter(|write| write.ended < at) {
            write.is_durable |= write.fate == Fate::Done;
        }
    }

    /// All writes up to an LSN are durable now.
    pub fn durable_up_to(&mut self, lsn: Lsn) {
        note(|| format!("all up to {lsn} is durable"));
        for write in self.writes.iter_mut().filter(|write| write.is_up_to(lsn)) {
            write.is_durable = true;
        }
    }
}

/// Returns whether a write that failed with this error may be found later.
pub fn fate_of(error: &Error) -> Fate {
    match error {
        Error::FlushFailed(_) | Error::StorageFull => Fate::Uncertain,
        _ => Fate::Never,
    }
}
