//! What an opening shows, and a backup.

use super::{Answer, End, Fate, Id, Kept, Model, Write};
use stratalog::Lsn;

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
            if !self.is_excused() && matches!(answer, Answer::Write(_, its) if *its > lsn) {
                self.complain(format!("a backup as of {lsn} has {answer:?}"));
            }
        }
        self.judge_batches(Kept::Prefix, answers);
    }

    /// Judges the answers of a handle that was opened at this moment, beside the writer.
    pub fn judge_look(&mut self, begun: u64, answers: &[Answer]) {
        let must =
            |write: &Write| write.fate == Fate::Done && write.ended < begun || write.shown < begun;
        for (id, answer) in answers.iter().enumerate() {
            if let Some(what) = self.objection(id, *answer, true, must) {
                self.complain(format!("a look: {what}"));
            }
            self.judge_expiry(begun, *answer);
        }
        self.judge_batches(Kept::Prefix, answers);
    }

    /// Members of one batch are there together. One that was appended again is a record of its own.
    fn judge_batches(&mut self, kept: Kept, answers: &[Answer]) {
        if self.is_excused() {
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
                let is_over = member.is_removal || self.may_have_expired(member);
                if !shows(n, member) && !is_over && !all().any(replaces) {
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
        let ends =
            |write: &Write| write.may_be_seen() && (write.is_removal || write.lifetime.is_some());
        // What may have been committed, and replaced, may come back until power is lost: what
        // replaced it may not be on the device.
        let is_replaced = answer != Answer::Nothing || self.of(id).any(ends);
        if answer == Answer::Nothing && self.of(id).any(Write::may_be_seen) {
            // Whichever removal it was: nothing older may show from now on.
            let removal = self.begin(id, true, 0, None);
            self.writes[removal].fate = Fate::Done;
            self.writes[removal].ended = self.tick();
        }
        // What had begun after the shown one had ended, and is not shown, is void for good.
        let shown_ended = match answer {
            Answer::Write(shown, _) => self.writes.get(shown).map(|shown| shown.ended),
            Answer::Nothing => None,
        };
        let is_void = |write: &Write| {
            let is_newer = shown_ended.is_some_and(|ended| ended < write.begun);
            is_newer && write.fate != Fate::Done
        };
        let (now, is_lost) = (self.now, end == End::PowerLoss || self.loses_unflushed);
        // A conditional write that a member of a batch has outdone is void for good.
        let outdone =
            |write: &Write| matches!(answer, Answer::Write(_, lsn) if write.lsn > Some(lsn));
        for (n, write) in self.writes.iter_mut().enumerate().filter(|(_, write)| write.id == id) {
            if matches!(answer, Answer::Write(shown, _) if shown == n) {
                (write.fate, write.ended) = (Fate::Done, write.ended.min(now));
                write.at_most = write.lsn.unwrap_or(write.at_most);
            } else if is_lost
                || outdone(write)
                || is_void(write)
                || (write.fate != Fate::Done && !is_replaced)
            {
                write.fate = Fate::Never;
            } else if write.fate == Fate::Pending {
                (write.fate, write.ended) = (Fate::Uncertain, now);
            }
        }
    }
}
