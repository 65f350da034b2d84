//! The judge: which answers are allowed, given what was asked and when.
//!
//! Every write has a value of its own, so an answer names the write that it comes from. Time is a
//! counter of beginnings and ends of operations.
//!
//! - *Reads.* An answer must come from a write of this id that had begun. No write with a higher
//!   LSN may have returned before the read began, nor may an earlier read have shown one.
//! - *Kill and close.* The same holds for reads after the next opening: all that returned is there,
//!   and what had not returned may be.
//! - *Power loss.* What was durable is there. Of the rest a prefix in LSN order is there.
//! - *Batches* are there whole or not at all.

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
    /// It has.
    Done(Lsn),
    /// It returned an error that lets it be found later.
    Uncertain,
    /// It changed nothing, or was given up by power loss.
    Never,
}

/// A put or a removal.
#[derive(Clone, Debug)]
pub struct Write {
    pub id: Id,
    pub is_removal: bool,
    pub begun: u64,
    pub ended: u64,
    pub fate: Fate,
    /// The LSN under which it was seen.
    pub seen: Option<Lsn>,
    pub batch: Option<usize>,
    /// It survives power loss.
    pub is_durable: bool,
    /// It expires, or may.
    pub expires: bool,
    /// Bytes of the content.
    pub len: usize,
}

impl Write {
    /// Its LSN, as far as anybody knows.
    fn lsn(&self) -> Option<Lsn> {
        match self.fate {
            Fate::Done(lsn) => Some(lsn),
            _ => self.seen,
        }
    }

    fn may_be_seen(&self) -> bool {
        self.fate != Fate::Never
    }
}

/// An answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// All that the workload did and saw.
#[derive(Debug, Default)]
pub struct Model {
    now: u64,
    pub writes: Vec<Write>,
    /// For each id the highest LSN that a read has shown, or a write returned.
    floors: Vec<Option<Lsn>>,
    /// No LSN up to here may be given again.
    pub highest: Lsn,
    batches: usize,
    /// What is wrong; the first counts.
    pub complaints: Vec<String>,
}

/// When a read began, and what it may no longer miss.
#[derive(Clone, Copy, Debug)]
pub struct ReadBegun {
    at: u64,
    floor: Option<Lsn>,
}

impl Model {
    pub fn new(ids: usize) -> Self {
        Self { floors: vec![None; ids], ..Self::default() }
    }

    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    pub fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    pub fn new_batch(&mut self) -> usize {
        self.batches += 1;
        self.batches
    }

    /// A write begins.
    pub fn begin(&mut self, id: Id, is_removal: bool, len: usize, batch: Option<usize>) -> WriteId {
        let begun = self.tick();
        self.writes.push(Write {
            id,
            is_removal,
            begun,
            ended: u64::MAX,
            fate: Fate::Pending,
            seen: None,
            batch,
            is_durable: false,
            expires: false,
            len,
        });
        self.writes.len() - 1
    }

    /// A write has returned this LSN.
    pub fn end(&mut self, write: WriteId, lsn: Lsn, is_durable: bool) {
        let ended = self.tick();
        let Write { id, begun, seen, .. } = self.writes[write];
        if let Some(seen) = seen.filter(|seen| *seen != lsn) {
            self.complain(format!("write {write} of id {id} returned {lsn}, it was seen as {seen}"));
        }
        let before = |other: &&Write| other.ended < begun && other.id == id;
        let last = self.writes.iter().filter(before).filter_map(Write::lsn).max();
        if last.is_some_and(|last| last >= lsn) {
            self.complain(format!("write {write} of id {id} got {lsn} after {last:?}"));
        }
        let twice = self.writes.iter().position(|other| other.fate == Fate::Done(lsn));
        if let Some(other) = twice {
            self.complain(format!("writes {other} and {write} got the same LSN {lsn}"));
        }
        let write = &mut self.writes[write];
        (write.ended, write.fate, write.is_durable) = (ended, Fate::Done(lsn), is_durable);
        self.highest = self.highest.max(lsn);
        self.floors[id] = self.floors[id].max(Some(lsn));
    }

    /// A write has failed, or changed nothing.
    pub fn end_without(&mut self, write: WriteId, fate: Fate) {
        let ended = self.tick();
        let write = &mut self.writes[write];
        (write.ended, write.fate) = (ended, fate);
        if fate == Fate::Never
            && let Some(seen) = write.seen
        {
            let id = write.id;
            self.complain(format!("a write of id {id} failed, but was seen as {seen}"));
        }
    }

    /// A read begins.
    pub fn begin_read(&mut self, id: Id) -> ReadBegun {
        ReadBegun { at: self.tick(), floor: self.floors[id] }
    }

    /// The write of the highest LSN that had returned, or was seen, when a read began.
    fn floor_write(&self, id: Id, begun: ReadBegun) -> Option<&Write> {
        let floor = begun.floor?;
        self.writes.iter().find(|write| write.id == id && write.lsn() == Some(floor))
    }

    /// A read has ended.
    pub fn end_read(&mut self, id: Id, begun: ReadBegun, answer: &Answer) {
        self.tick();
        match self.objection(id, begun, answer) {
            Some(what) => self.complain(what),
            None => {
                if let Answer::Write(write, lsn) = *answer {
                    self.writes[write].seen = Some(lsn);
                    self.floors[id] = self.floors[id].max(Some(lsn));
                    self.highest = self.highest.max(lsn);
                }
            }
        }
    }

    fn objection(&self, id: Id, begun: ReadBegun, answer: &Answer) -> Option<String> {
        match *answer {
            Answer::Write(write, lsn) => {
                let Some(found) = self.writes.get(write).filter(|found| found.id == id) else {
                    return Some(format!("id {id} holds value {write}, which was never put there"));
                };
                if !found.may_be_seen() {
                    return Some(format!("id {id} holds write {write}, which never took effect"));
                }
                if found.lsn().is_some_and(|known| known != lsn) {
                    let known = found.lsn();
                    return Some(format!("write {write} is seen as {lsn}, it was {known:?}"));
                }
                (begun.floor > Some(lsn)).then(|| {
                    format!("id {id} shows write {write} ({lsn}) after {:?} was there", begun.floor)
                })
            }
            Answer::Nothing => {
                let floor = self.floor_write(id, begun)?;
                if floor.is_removal || floor.expires {
                    return None;
                }
                let hides = |write: &Write| {
                    let later = write.lsn().is_none_or(|lsn| Some(lsn) > begun.floor);
                    write.id == id && (write.is_removal || write.expires) && write.may_be_seen() && later
                };
                let hidden = self.writes.iter().any(hides);
                (!hidden).then(|| format!("id {id} is gone, its last write was {:?}", begun.floor))
            }
        }
    }

    /// All writes that returned before this moment are durable now.
    pub fn all_durable_before(&mut self, at: u64) {
        for write in self.writes.iter_mut().filter(|write| write.ended < at) {
            write.is_durable |= matches!(write.fate, Fate::Done(_));
        }
    }

    /// All writes up to an LSN are durable now.
    pub fn durable_up_to(&mut self, lsn: Lsn) {
        for write in &mut self.writes {
            write.is_durable |= matches!(write.fate, Fate::Done(its) if its <= lsn);
        }
    }

    /// Judges a conditional write that took effect under `lsn`, or did not because of `current`.
    pub fn judge_condition(
        &mut self,
        id: Id,
        begun: ReadBegun,
        condition: Condition,
        outcome: Result<Lsn, Option<Lsn>>,
    ) {
        let current = match outcome {
            Ok(_) => match condition {
                Condition::Lsn(lsn) => Some(lsn),
                _ => return,
            },
            Err(current) => current,
        };
        let holds = match condition {
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Lsn(lsn) => current == Some(lsn),
            _ => return,
        };
        if outcome.is_err() && holds {
            self.complain(format!("id {id}: {condition:?} failed, but it holds of {current:?}"));
        }
        if current.is_some() && begun.floor > current {
            let floor = begun.floor;
            self.complain(format!("id {id}: a condition saw {current:?} after {floor:?}"));
        }
    }
}

/// Openings.
impl Model {
    /// What an opening showed of each id: judges it, and takes it for the present.
    pub fn reopened(&mut self, end: End, answers: &[Answer]) {
        self.tick();
        match end {
            End::Close | End::Kill => self.judge_kept(answers),
            End::PowerLoss => self.judge_power_loss(answers),
        }
        self.judge_batches(answers);
        for (id, answer) in answers.iter().enumerate() {
            self.take_as_present(id, answer);
        }
    }

    fn judge_kept(&mut self, answers: &[Answer]) {
        for (id, answer) in answers.iter().enumerate() {
            let begun = ReadBegun { at: self.now, floor: self.floors[id] };
            if let Some(what) = self.objection(id, begun, answer) {
                self.complain(format!("after a reopening: {what}"));
            }
        }
    }

    fn judge_power_loss(&mut self, answers: &[Answer]) {
        let shown = |answer: &Answer| match answer {
            Answer::Write(_, lsn) => Some(*lsn),
            Answer::Nothing => None,
        };
        let last = answers.iter().filter_map(shown).max();
        let mut found = Vec::new();
        for (id, answer) in answers.iter().enumerate() {
            let must = |write: &&Write| {
                let Fate::Done(lsn) = write.fate else { return false };
                write.id == id && (write.is_durable || Some(lsn) < last)
            };
            let floor = self.writes.iter().filter(must).filter_map(Write::lsn).max();
            let begun = ReadBegun { at: self.now, floor };
            if let Some(what) = self.objection(id, begun, answer) {
                found.push(format!("after power loss, last {last:?}: {what}"));
            }
        }
        self.complaints.append(&mut found);
    }

    /// Members of one batch are there together.
    fn judge_batches(&mut self, answers: &[Answer]) {
        let mut found = Vec::new();
        for batch in 1..=self.batches {
            let members = || {
                let all = self.writes.iter().enumerate();
                all.filter(move |(_, write)| write.batch == Some(batch))
            };
            let undecided = members().any(|(_, write)| {
                matches!(write.fate, Fate::Pending | Fate::Uncertain) || !write.is_durable
            });
            let shows = |(n, write): &(usize, &Write)| {
                matches!(answers.get(write.id), Some(Answer::Write(shown, _)) if shown == n)
            };
            let Some((_, first)) = members().find(shows) else { continue };
            if !undecided || first.fate == Fate::Never {
                continue;
            }
            for (n, member) in members() {
                // The last write of an id in a batch counts, and a later write may have replaced
                // it.
                let replaced = |(other, write): (usize, &Write)| {
                    let later = write.lsn() > member.lsn() || write.lsn().is_none();
                    write.id == member.id && other != n && later && write.may_be_seen()
                };
                let is_there = shows(&(n, member)) || member.is_removal;
                if !is_there && !self.writes.iter().enumerate().any(replaced) {
                    found.push(format!("of batch {batch} id {} is missing", member.id));
                }
            }
        }
        self.complaints.append(&mut found);
    }

    fn take_as_present(&mut self, id: Id, answer: &Answer) {
        let shown = match *answer {
            Answer::Write(write, lsn) => Some((write, lsn)),
            Answer::Nothing => None,
        };
        for (n, write) in self.writes.iter_mut().enumerate().filter(|(_, write)| write.id == id) {
            match shown {
                Some((shown, lsn)) if shown == n => {
                    (write.seen, write.fate) = (Some(lsn), Fate::Done(lsn));
                    write.ended = write.ended.min(self.now);
                }
                _ => {
                    // It was replaced, or is gone for good.
                    write.fate = Fate::Never;
                    write.seen = None;
                }
            }
            self.highest = self.highest.max(write.lsn().unwrap_or_default());
        }
        self.floors[id] = shown.map(|(_, lsn)| lsn);
    }
}

/// Returns whether a write that failed with this error may be found later.
pub fn fate_of(error: &Error) -> Fate {
    match error {
        Error::FlushFailed(_) | Error::StorageFull => Fate::Uncertain,
        _ => Fate::Never,
    }
}
