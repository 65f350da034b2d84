//! Writes, and what is made of their answers.

use super::{TAG_SHIFT, Task, content, embedding, name};
use crate::model::{Answer, Fate, TagOf, WriteId, fate_of};
use simulated_machine::process;
use std::time::Duration;
use stratalog::{Batch, Condition, Error, Lsn, NewRecord};

/// How long a write of up to 64 KiB may be throttled; none here is longer.
const DELAY_MAX_NS: u64 = 4_000_000;

/// The lifetime in milliseconds that a conditional put or a member of a batch is given, if any.
fn lifetime_of(len: usize) -> Option<u64> {
    (len % 4 == 1).then_some(len as u64 % 40)
}

fn with_lifetime(record: NewRecord<'_>, millis: Option<u64>) -> NewRecord<'_> {
    match millis {
        Some(millis) => record.expires_in(Duration::from_millis(millis)),
        None => record,
    }
}

impl Task<'_> {
    /// A buffered write does not wait for other tasks, even stopped ones; puts may be throttled.
    fn without_others<T>(&self, what: &str, write: impl FnOnce() -> T) -> T {
        let (waited, slept) = (process::waits_for_others(), process::slept());
        let done = write();
        if process::waits_for_others() > waited && !self.process.life().is_synced {
            self.model().complain(format!("a {what} has waited"));
        }
        let slept = process::slept() - slept;
        if slept > DELAY_MAX_NS && !self.process.life().is_synced {
            self.model().complain(format!("a {what} has slept for {slept} ns"));
        }
        done
    }

    fn end_write(&self, what: &str, write: usize, done: Result<Lsn, Error>) {
        match done {
            Ok(lsn) => self.model().end(write, lsn, self.process.life().is_synced),
            Err(error) => {
                self.model().fail(write, &error);
                self.process.judge_error(what, &error);
            }
        }
    }

    pub(super) fn put(
        &self,
        id: usize,
        len: usize,
        (lifetime, tag_of): (Option<u64>, TagOf),
        with: impl for<'r> FnOnce(NewRecord<'r>, u64) -> NewRecord<'r>,
    ) {
        let write = self.model().begin(id, false, len, None);
        let (name, content) = (name(id), content(write, len));
        let embedding = embedding(write, self.process.plan.dimension);
        let tag = (write as u64 + 1) << TAG_SHIFT;
        let record = with(NewRecord::new(&name, &embedding, &content), tag);
        {
            let mut model = self.model();
            (model.writes[write].lifetime, model.writes[write].tag) = (lifetime, tag_of);
        }
        let done = self.without_others("put", || self.store.put_record(record));
        self.model().note_kept(write);
        self.end_write("put", write, done);
    }

    pub(super) fn put_if(&self, id: usize, len: usize, condition: u8) {
        let name = name(id);
        let current = || match self.store.pin().get(&name) {
            Ok(Some(record)) => Some(record.lsn()),
            _ => None,
        };
        let condition = match condition {
            0 => Condition::Absent,
            1 => Condition::Present,
            // One that another record may have.
            2 => Condition::Lsn(self.model().last),
            _ => Condition::Lsn(current().unwrap_or(Lsn::from_u64(1))),
        };
        let keeps_tag = len % 4 == 2;
        let (write, begun) = {
            let mut model = self.model();
            let write = model.begin(id, false, len, None);
            model.writes[write].is_conditional = true;
            model.writes[write].lifetime = lifetime_of(len).or(self.process.life().lifetime);
            if keeps_tag {
                model.writes[write].tag = TagOf::Predecessor;
            }
            (write, model.tick())
        };
        let embedding = embedding(write, self.process.plan.dimension);
        let done = self.without_others("put_if", || {
            let content = content(write, len);
            let record = NewRecord::new(&name, &embedding, &content).only_if(condition);
            let record = with_lifetime(record, lifetime_of(len));
            self.store.put_record(if keeps_tag { record.keep_tag() } else { record })
        });
        match done {
            Err(Error::ConditionFailed { current }) => {
                let mut model = self.model();
                model.end_without(write, Fate::Never);
                model.judge_condition(id, begun, condition, current);
            }
            Ok(lsn) => {
                self.model().judge_held((id, write), begun, condition, lsn);
                self.end_write("put_if", write, Ok(lsn));
            }
            done => self.end_write("put_if", write, done),
        }
    }

    pub(super) fn remove(&self, id: usize) {
        let (write, begun) = {
            let mut model = self.model();
            (model.begin(id, true, 0, None), model.tick())
        };
        match self.without_others("remove", || self.store.remove(name(id))) {
            Ok(Some(lsn)) => {
                self.model().judge_held((id, write), begun, Condition::Present, lsn);
                self.end_write("remove", write, Ok(lsn));
            }
            Ok(None) => {
                let mut model = self.model();
                model.end_without(write, Fate::Never);
                model.end_read(id, begun, Answer::Nothing);
            }
            Err(error) => self.end_write("remove", write, Err(error)),
        }
    }

    pub(super) fn batch(&self, first: usize, count: usize, len: usize) {
        let (ids, mut batch) = (self.process.plan.ids, Batch::new());
        let lifetime = self.process.life().lifetime;
        let members: Vec<_> = {
            let mut model = self.model();
            let number = model.new_batch();
            // Steps of two, so that ids repeat when there are few.
            let member = |n: usize| {
                let is_removal = n % 3 == 2;
                let write = model.begin((first + n * 2) % ids, is_removal, len, Some(number));
                model.writes[write].lifetime = lifetime.filter(|_| !is_removal);
                if n % 3 == 1 {
                    model.writes[write].lifetime = lifetime_of(len).or(lifetime);
                    model.writes[write].tag = TagOf::Write;
                }
                (write, is_removal)
            };
            (0..count).map(member).collect()
        };
        // Only the last write of each id is made.
        let id_of = |n: usize| self.model().writes[members[n].0].id;
        let is_last = |n: &usize| (n + 1..members.len()).all(|later| id_of(later) != id_of(*n));
        let (made, superseded): (Vec<_>, Vec<_>) = (0..members.len()).partition(is_last);
        for n in superseded {
            self.model().end_without(members[n].0, Fate::Never);
        }
        for (write, is_removal) in &members {
            let (id, tag) = {
                let model = self.model();
                (model.writes[*write].id, model.writes[*write].tag)
            };
            let (name, content) = (name(id), content(*write, len));
            let embedding = embedding(*write, self.process.plan.dimension);
            if *is_removal {
                batch.remove(name);
            } else if tag == TagOf::Write {
                let record = NewRecord::new(&name, &embedding, &content);
                let record = record.tag((*write as u64 + 1) << TAG_SHIFT);
                batch.put_record(with_lifetime(record, lifetime_of(len)));
            } else {
                batch.put(name, &embedding, content);
            }
        }
        let done = self.without_others("batch", || self.store.write(batch));
        let mut model = self.model();
        match done {
            Ok(last) => {
                for n in made {
                    model.end_below(members[n].0, last, self.process.life().is_synced);
                }
            }
            Err(error) => {
                for n in made {
                    model.end_without(members[n].0, fate_of(&error));
                }
                drop(model);
                self.process.judge_error("batch", &error);
            }
        }
    }

    pub(super) fn update_tag(&self, id: usize) {
        let begun = self.model().tick();
        let tags = self.model().tags();
        let update = || self.store.update_tag(name(id), |tag| tag + 1);
        match self.without_others("update_tag", update) {
            Ok(Some(tag)) => {
                let mut model = self.model();
                model.judge_present("update_tag", id, begun);
                if let Some(write) = (tag >> TAG_SHIFT).checked_sub(1) {
                    model.judge_update(write as WriteId, tag, &tags);
                    model.note_tag(write as WriteId, tag);
                }
            }
            Ok(None) => self.model().end_read(id, begun, Answer::Nothing),
            Err(error) => self.process.judge_error("update_tag", &error),
        }
    }
}
