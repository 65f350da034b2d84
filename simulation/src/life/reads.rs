//! Reads, and what is made of their answers.

use super::{TAG_SHIFT, Task, content, embedding, name, value_of};
use crate::model::{Answer, TagOf, Write};
use simulated_machine::{process, thread, time};
use std::time::Duration;
use stratalog::{Error, Metric, OwnedRecord, Pinned, Record, SharedRecord};

impl Task<'_> {
    /// The write that a record comes from, once everything in it is as that has put it.
    pub(super) fn answer_of(&self, record: &Record<'_>) -> Answer {
        let tags = self.model().tags();
        let tag = record.tag();
        let answer = self.answer_since((record, tag), &tags);
        if let Answer::Write(value, _) = answer {
            self.model().note_tag(value, tag);
        }
        answer
    }

    /// The same, for a tag that was read after tags were so.
    pub(super) fn answer_since(&self, (record, tag): (&Record<'_>, u64), tags: &[u64]) -> Answer {
        let bytes = record.content();
        let value = value_of(bytes);
        let is_verified = self.is_verified();
        let mut model = self.model();
        if let Some(len) = model.writes.get(value).map(|write| write.len)
            && is_verified
            && (bytes != content(value, len)
                || record.embedding() != embedding(value, self.process.plan.dimension))
        {
            model.complain(format!("the bytes of write {value} are others than were put"));
        }
        let is_others = |write: &Write| record.id() != name(write.id).as_bytes();
        if is_verified && model.writes.get(value).is_some_and(is_others) {
            let id = String::from_utf8_lossy(record.id());
            model.complain(format!("{id} has the bytes of write {value}, which is another's"));
        }
        let (created, expires) = (record.created_at(), record.expires_at());
        let is_right = model.writes.get(value).is_none_or(|write| {
            let lifetime = write.lifetime.map(Duration::from_millis);
            let in_time = write.begun_at <= created && created <= time::now();
            (in_time || model.sets_clock) && expires == lifetime.map(|lasts| created + lasts)
        });
        if is_verified && !model.is_excused() && !is_right {
            model.complain(format!("write {value} was made at {created:?}, until {expires:?}"));
        }
        if is_verified && !model.is_excused() {
            let begins = tag >> TAG_SHIFT;
            let holds = model.writes.get(value).is_none_or(|write| match write.tag {
                // No checksum holds it: of a unit that was half written it may be the other half.
                TagOf::Write => {
                    begins == value as u64 + 1 || tag == 0 && self.process.plan.settings.torn_units
                }
                TagOf::Nothing => begins == 0,
                TagOf::Predecessor => {
                    begins > 0 || !write.keeps_one || self.process.plan.settings.torn_units
                }
            });
            let was = tags.get(value).copied().unwrap_or(0);
            let is_older = tag < was && model.writes[value].tag == TagOf::Write;
            if !holds || is_older {
                model.complain(format!("write {value} has tag {tag:#x}, it was {was:#x}"));
            }
        }
        Answer::Write(value, record.lsn())
    }

    pub(super) fn read(&self, pinned: &Pinned<'_>, id: usize) -> Option<Answer> {
        match pinned.get(name(id)) {
            Ok(Some(record)) => Some(self.answer_of(&record)),
            Ok(None) => Some(Answer::Nothing),
            Err(error) => {
                self.process.judge_error("get", &error);
                None
            }
        }
    }

    /// A read does not wait, even where other tasks are stopped.
    fn without_waiting<T>(&self, what: &str, read: impl FnOnce() -> T) -> T {
        let waited = process::waits();
        let done = read();
        if process::waits() > waited {
            self.model().complain(format!("a {what} has waited"));
        }
        done
    }

    pub(super) fn get(&self, id: usize) {
        let begun = self.model().tick();
        let answer = self.without_waiting("get", || self.read(&self.store.pin(), id));
        if let Some(answer) = answer {
            self.model().end_read(id, begun, answer);
        }
    }

    pub(super) fn get_many(&self, first: usize, count: usize) {
        let begun = self.model().tick();
        let ids: Vec<_> = (0..count).map(|n| (first + n) % self.process.plan.ids).collect();
        let names: Vec<_> = ids.iter().map(|id| name(*id)).collect();
        let pinned = self.store.pin();
        let found: Vec<_> = self.without_waiting("get_many", || {
            let found = pinned.get_many(&names);
            found.map(|found| Ok(found?.map(|record| self.answer_of(&record)))).collect()
        });
        if found.len() != count {
            self.model().complain(format!("get_many of {count} ids has {} answers", found.len()));
        }
        for (id, found) in ids.into_iter().zip(found) {
            self.end_get("get_many", (id, begun), found);
        }
    }

    fn end_get(&self, what: &str, (id, begun): (usize, u64), found: Result<Option<Answer>, Error>) {
        match found {
            Ok(answer) => self.model().end_read(id, begun, answer.unwrap_or(Answer::Nothing)),
            Err(error) => self.process.judge_error(what, &error),
        }
    }

    pub(super) fn get_owned(&self, id: usize) {
        let begun = self.model().tick();
        let found = self.without_waiting("get_owned", || self.store.get_owned(name(id)));
        let answer = |record: OwnedRecord| Answer::Write(value_of(&record.content), record.lsn);
        self.end_get("get_owned", (id, begun), found.map(|found| found.map(answer)));
    }

    pub(super) fn get_shared(&self, id: usize) {
        let begun = self.model().tick();
        let found = self.without_waiting("get_shared", || self.store.get_shared(name(id)));
        let answer = |shared: SharedRecord| {
            // Later writes do not change it.
            let before = shared.content().to_vec();
            thread::sleep(Duration::from_millis(1));
            if shared.content() != before && !self.model().is_excused() {
                self.model().complain(format!("a shared record of id {id} has changed"));
            }
            Answer::Write(value_of(&before), shared.lsn())
        };
        self.end_get("get_shared", (id, begun), found.map(|found| found.map(answer)));
    }

    pub(super) fn contains(&self, id: usize) {
        let begun = self.model().tick();
        if self.without_waiting("contains", || self.store.contains(name(id))) {
            self.model().judge_present("contains", id, begun);
        } else {
            self.model().end_read(id, begun, Answer::Nothing);
        }
    }

    /// An id that is there all the time is met once.
    pub(super) fn iterate(&self) {
        let begun = self.model().tick();
        let pinned = self.store.pin();
        let answers: Result<Vec<_>, Error> = self.without_waiting("walk", || {
            pinned.iter().map(|record| Ok(self.answer_of(&record?))).collect()
        });
        match answers {
            Ok(answers) => self.judge_all("iter", begun, &answers),
            Err(error) => self.process.judge_error("iter", &error),
        }
    }

    /// Judges the answers of a walk over all records.
    fn judge_all(&self, what: &str, begun: u64, answers: &[Answer]) {
        let is_verified = self.is_verified();
        let seen = self.judge_some(begun, answers);
        let mut model = self.model();
        for (id, times) in seen.into_iter().enumerate() {
            if times == 0 {
                model.end_read(id, begun, Answer::Nothing);
            } else if times > 1 && is_verified {
                model.complain(format!("{what} shows id {id} twice"));
            }
        }
    }

    /// Judges answers each for itself. How often each id is among them.
    fn judge_some(&self, begun: u64, answers: &[Answer]) -> Vec<u32> {
        let mut seen = vec![0; self.process.plan.ids];
        let mut model = self.model();
        for answer in answers {
            if let Answer::Write(write, _) = *answer
                && let Some(id) = model.writes.get(write).map(|write| write.id)
            {
                seen[id] += 1;
                model.end_read(id, begun, *answer);
            }
        }
        seen
    }

    pub(super) fn search(&self, count: usize) {
        let begun = self.model().tick();
        let pinned = self.store.pin();
        let query = vec![1.0; self.process.plan.dimension];
        match self.without_waiting("search", || pinned.search(&query, count, Metric::L2)) {
            Ok(hits) => {
                if hits.len() > count || !hits.is_sorted_by(|one, next| one.score <= next.score) {
                    let scores: Vec<_> = hits.iter().map(|hit| hit.score).collect();
                    self.model().complain(format!("a search for {count}: {scores:?}"));
                }
                let answers: Vec<_> = hits.iter().map(|hit| self.answer_of(&hit.record)).collect();
                if answers.len() < count {
                    self.judge_all("search", begun, &answers);
                } else {
                    self.judge_some(begun, &answers);
                }
            }
            Err(error) => self.process.judge_error("search", &error),
        }
    }

    /// A record does not change under a pin; its tag only grows.
    pub(super) fn hold(&self, id: usize, millis: u64) {
        let pinned = self.store.pin();
        if let Ok(Some(record)) = pinned.get(name(id)) {
            let tag = record.tag();
            let mut before = record.to_owned();
            thread::sleep(Duration::from_millis(millis));
            let after = record.to_owned();
            let grows = (tag..=after.tag).contains(&before.tag);
            before.tag = after.tag;
            let is_same = grows && after == before;
            if !is_same && !self.model().is_excused() {
                self.model().complain(format!("a record of id {id} has changed under a pin"));
            }
        }
    }
}
