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

use simulated_machine::note;
use simulated_machine::time::Instant;
use stratalog::{Condition, Error, Lsn};

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
    /// Its tag was this once, and only grows; power loss may bring an older one back.
    pub tag_was: u64,
    /// It survives power loss.
    pub is_durable: bool,
    /// It expires, or may.
    pub expires: bool,
    /// Not before then.
    pub expires_at: Option<Instant>,
    /// It has by then.
    pub expired_at: Option<Instant>,
    /// When it had returned, by the clock.
    pub ended_at: Option<Instant>,
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
    batches: usize,
    /// Where the store is.
    pub path: &'static str,
    /// Backups that are open: their files have the names of the store's.
    pub copies: usize,
    /// Somebody sets the time of day: what has expired may come back.
    pub sets_clock: bool,
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
            batches: 0,
            path: PATHS[0],
            copies: 0,
            sets_clock: false,
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

    pub fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    pub fn new_batch(&mut self) -> usize {
        self.batches += 1;
        self.batches
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

    /// Returns whether the id may have been without a version because this one had expired: not if
    /// a newer one was there before, which does not expire.
    fn may_have_expired(&self, write: &Write) -> bool {
        let in_time = |next: &Write| next.ended_at.is_some_and(|at| Some(at) < write.expires_at);
        let takes_over = |next: &Write| {
            let stays = !next.expires && !next.is_removal && next.fate == Fate::Done;
            stays && in_time(next) && write.is_older(next)
        };
        !self.of(write.id).any(takes_over)
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
            ended: u64::MAX,
            fate: Fate::Pending,
            lsn: None,
            at_most: Lsn::from_u64(u64::MAX),
            shown: u64::MAX,
            batch,
            tag: TagOf::Nothing,
            tag_was: 0,
            is_durable: false,
            expires: false,
            expires_at: None,
            expired_at: None,
            ended_at: None,
            len,
        });
        self.writes.len() - 1
    }

    /// The tag of each write, as far as anybody knows.
    pub fn tags(&self) -> Vec<u64> {
        self.writes.iter().map(|write| write.tag_was).collect()
    }

    /// The tag of a write was this. (Where other writes of the id keep it, it may be one of
    /// theirs.)
    pub fn note_tag(&mut self, write: WriteId, tag: u64) {
        let Some(id) = self.writes.get(write).map(|write| write.id) else { return };
        if !self.of(id).any(|write| write.tag == TagOf::Predecessor) {
            let was = &mut self.writes[write].tag_was;
            *was = tag.max(*was);
        }
    }

    /// Power loss may have taken what became of tags.
    pub fn forget_tags(&mut self) {
        self.writes.iter_mut().for_each(|write| write.tag_was = 0);
    }

    /// A write has returned this LSN.
    pub fn end(&mut self, write: WriteId, lsn: Lsn, is_durable: bool) {
        let Write { id, begun, lsn: known, .. } = self.writes[write];
        if let Some(known) = known.filter(|known| *known != lsn && !self.is_damaged) {
            self.complain(format!("write {write} of id {id} is {lsn}, it was seen as {known}"));
        }
        let before = |other: &&Write| other.ended < begun && other.lsn.is_some();
        let last = self.of(id).filter(before).filter_map(|other| other.lsn).max();
        if !self.is_damaged && last.is_some_and(|last| last >= lsn) {
            self.complain(format!("write {write} of id {id} got {lsn} after {last:?}"));
        }
        let twice = |(other, its): (usize, &Write)| other != write && its.lsn == Some(lsn);
        if !self.is_damaged && self.writes.iter().enumerate().any(twice) {
            self.complain(format!("write {write} and another one got the same LSN {lsn}"));
        }
        note(|| format!("write {write} of id {id} is {lsn}"));
        self.writes[write].lsn = Some(lsn);
        self.end_below(write, lsn, is_durable);
    }

    /// A member of a batch has returned, whose highest LSN this is.
    pub fn end_below(&mut self, write: WriteId, highest: Lsn, is_durable: bool) {
        let ended = self.tick();
        let write = &mut self.writes[write];
        (write.ended, write.fate, write.at_most) = (ended, Fate::Done, highest);
        write.ended_at = Some(Instant::now());
        write.is_durable |= is_durable;
        self.highest = self.highest.max(highest);
        self.last = self.last.max(highest);
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
        let expired_at = self.writes.get(write).and_then(|write| write.expired_at);
        let begun = self.times.get((begun as usize).saturating_sub(1)).copied();
        if expired_at.is_some() && expired_at < begun && !self.sets_clock && !self.is_damaged {
            self.complain(format!("write {write} had expired at {expired_at:?}: {begun:?}"));
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
        let must = |write: &&Write| write.may_be_seen() && must(write);
        let older = |one: &Write, other: &Write| {
            if at_opening { self.is_older_at_opening(one, other) } else { one.is_older(other) }
        };
        if self.sets_clock && self.of(id).any(|write| write.expires) {
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
                if !found.may_be_seen() {
                    return Some(format!("id {id} holds write {write}, which is gone for good"));
                }
                // An opening may show the first LSN of a write that was appended again.
                let is_first = |known: Lsn| at_opening && lsn < known;
                let differs = |known: Lsn| known != lsn && !is_first(known);
                if found.lsn.is_some_and(differs) || found.at_most < lsn {
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
                    let expired = write.expires && (at_opening || self.may_have_expired(write));
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
        for write in self.writes.iter_mut().filter(|write| write.ended < at) {
            write.is_durable |= write.fate == Fate::Done;
        }
    }

    /// All writes up to an LSN are durable now.
    pub fn durable_up_to(&mut self, lsn: Lsn) {
        for write in self.writes.iter_mut().filter(|write| write.is_up_to(lsn)) {
            write.is_durable = true;
        }
    }

    /// Judges a conditional write that did not take effect because of `current`.
    pub fn judge_condition(
        &mut self,
        id: Id,
        begun: u64,
        condition: Condition,
        current: Option<Lsn>,
    ) {
        let holds = match condition {
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Lsn(lsn) => current == Some(lsn),
            _ => false,
        };
        if self.is_damaged {
            return;
        }
        if holds {
            self.complain(format!("id {id}: {condition:?} failed, but it holds of {current:?}"));
        }
        let newer = |write: &Write| {
            let counts = write.fate == Fate::Done && write.ended < begun;
            counts && current.is_some() && write.lsn > current
        };
        if self.of(id).any(newer) {
            self.complain(format!("id {id}: a condition saw {current:?}, which is too old"));
        }
    }
}

/// Openings.
impl Model {
    /// An opening showed this of each id: judges it, and takes it for the present.
    pub fn reopened(&mut self, end: End, kept: Kept, answers: &[Answer]) {
        let shown = |answer: &Answer| match answer {
            Answer::Write(_, lsn) => Some(*lsn),
            Answer::Nothing => None,
        };
        let last = answers.iter().filter_map(shown).max();
        let must = |write: &Write| {
            let is_kept = write.fate == Fate::Done || write.shown < u64::MAX;
            let before_last = kept == Kept::Prefix && last.is_some_and(|last| write.is_up_to(last));
            is_kept && (end != End::PowerLoss || write.is_durable || before_last)
        };
        let objections = answers.iter().enumerate();
        let objections =
            objections.filter_map(|(id, answer)| self.objection(id, *answer, true, must));
        let mut found: Vec<_> =
            objections.map(|what| format!("after {end:?}, last {last:?}: {what}")).collect();
        self.complaints.append(&mut found);
        if end != End::PowerLoss || kept != Kept::Records {
            self.judge_batches(kept, answers);
        }
        (self.last, self.copies) = (Lsn::ZERO, 0);
        for (id, answer) in answers.iter().enumerate() {
            self.take_as_present(id, end, *answer);
        }
    }

    /// Judges a backup as of an LSN, which began at this moment.
    pub fn judge_copy(&mut self, begun: u64, lsn: Lsn, answers: &[Answer]) {
        let must = |write: &Write| {
            write.fate == Fate::Done && (write.ended < begun || write.is_up_to(lsn))
        };
        for (id, answer) in answers.iter().enumerate() {
            if let Some(what) = self.objection(id, *answer, true, must) {
                self.complain(format!("a backup as of {lsn}: {what}"));
            }
            if !self.is_damaged && matches!(answer, Answer::Write(_, its) if *its > lsn) {
                self.complain(format!("a backup as of {lsn} has {answer:?}"));
            }
        }
        self.judge_batches(Kept::Prefix, answers);
    }

    /// Members of one batch are there together. One that was appended again is a record of its own.
    fn judge_batches(&mut self, kept: Kept, answers: &[Answer]) {
        if self.is_damaged {
            return;
        }
        let shows = |n: usize, write: &Write| match answers.get(write.id) {
            Some(Answer::Write(shown, _)) => *shown == n,
            _ => false,
        };
        let all = || self.writes.iter().enumerate();
        let mut found = Vec::new();
        let counts =
            |write: &Write| write.batch.is_some() && (kept == Kept::Prefix || !self.races(write));
        for (_, one) in all().filter(|(n, write)| counts(write) && shows(*n, write)) {
            let members =
                all().filter(|(_, other)| other.batch == one.batch && other.may_be_seen());
            for (n, member) in members {
                // A later write, in the batch or of another call, may have replaced it.
                let replaces = |(other, write): (usize, &Write)| {
                    let later = other > n && write.batch == member.batch;
                    let may =
                        write.batch != member.batch && !self.is_older_at_opening(write, member);
                    write.id == member.id && write.may_be_seen() && (later || may)
                };
                if !shows(n, member) && !member.is_removal && !all().any(replaces) {
                    let others: Vec<_> = self.of(member.id).collect();
                    found.push(format!(
                        "of batch {:?} id {} is missing: {others:?}",
                        one.batch, member.id
                    ));
                }
            }
        }
        self.complaints.append(&mut found);
    }

    fn take_as_present(&mut self, id: Id, end: End, answer: Answer) {
        self.learn(answer);
        let ends = |write: &Write| write.may_be_seen() && (write.is_removal || write.expires);
        // What may have been committed, and replaced, may come back until power is lost: what
        // replaced it may not be on the device.
        let is_replaced = answer != Answer::Nothing || self.of(id).any(ends);
        if answer == Answer::Nothing && self.of(id).any(Write::may_be_seen) {
            // Whichever removal it was: nothing older may show from now on.
            let removal = self.begin(id, true, 0, None);
            self.writes[removal].fate = Fate::Done;
            self.writes[removal].ended = self.tick();
        }
        let now = self.now;
        // A conditional write that a member of a batch has outdone is void for good.
        let outdone =
            |write: &Write| matches!(answer, Answer::Write(_, lsn) if write.lsn > Some(lsn));
        for (n, write) in self.writes.iter_mut().enumerate().filter(|(_, write)| write.id == id) {
            if matches!(answer, Answer::Write(shown, _) if shown == n) {
                (write.fate, write.ended) = (Fate::Done, write.ended.min(now));
                write.at_most = write.lsn.unwrap_or(write.at_most);
            } else if end == End::PowerLoss
                || outdone(write)
                || (write.fate != Fate::Done && !is_replaced)
            {
                write.fate = Fate::Never;
            } else if write.fate == Fate::Pending {
                (write.fate, write.ended) = (Fate::Uncertain, now);
            }
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
