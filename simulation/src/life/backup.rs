//! A backup is opened, compared, and gone on with.

use super::{Task, embedding, name};
use crate::model::Answer;
use crate::plan::ROOMY;
use simulated_machine::note;
use stratalog::{Compaction, Error, Lsn, Options, Record, Store};

impl Task<'_> {
    /// Takes a backup, opens it, compares it, and goes on with it.
    pub(super) fn back_up(&self) {
        let begun = self.model().tick();
        let tags = self.model().tags();
        let path = format!("/copy-{begun}");
        match self.store.backup(&path) {
            Ok(lsn) => {
                note(|| format!("a backup as of {lsn}"));
                self.model().copies += 1;
                let judged = self.judge_copy(&path, (begun, lsn, &tags));
                self.model().copies -= 1;
                self.check("copy", judged);
            }
            Err(error) => self.process.judge_error("backup", &error),
        }
    }

    fn judge_copy(&self, path: &str, (begun, lsn, tags): (u64, Lsn, &[u64])) -> Result<(), Error> {
        let plan = &self.process.plan;
        let options = Options::new().flush_interval(None).compaction(Compaction::Manual);
        let copy = options.open(path)?;
        let read = || self.answers_of(&copy, tags);
        let before = read()?;
        self.model().judge_copy(begun, lsn, &before);
        let next = copy.put("extra", &embedding(0, plan.dimension), "extra")?;
        if next <= lsn {
            self.model().complain(format!("a backup as of {lsn} goes on with {next}"));
        }
        copy.compact()?;
        let is_same = read()? == before;
        let mut model = self.model();
        if !is_same && !model.expires() && !model.is_excused() {
            model.complain("compaction has changed a backup".to_owned());
        }
        drop(model);
        let again = format!("{path}-again");
        copy.backup(&again)?;
        (0..plan.ids).try_for_each(|id| copy.remove(name(id)).map(drop))?;
        copy.compact()?;
        let stats = copy.stats();
        if stats.dead_bytes > 0
            && !self.process.life().has_failing_calls()
            && plan.settings.disk_bytes == ROOMY
            && !self.model().is_excused()
        {
            self.model().complain(format!("a backup keeps garbage: {stats:?}"));
        }
        copy.close()?;
        let path = again;
        let again = Options::new().read_only(true).open(&path)?;
        let is_clean = again.verify()?.is_clean() || self.model().is_excused();
        if !again.contains("extra") || !is_clean {
            self.model().complain("a backup of a backup is not as it was".to_owned());
        }
        let held = self.answers_of(&again, tags)?;
        self.model().backups.push((path, held));
        again.close()
    }

    /// What a copy holds.
    pub(super) fn answers_of(&self, copy: &Store, tags: &[u64]) -> Result<Vec<Answer>, Error> {
        let pinned = copy.pin();
        let ids = 0..self.process.plan.ids;
        ids.map(|id| {
            let found = pinned.get(name(id))?;
            let answer = |record: Record<'_>| {
                let tag = record.tag();
                self.answer_since((&record, tag), tags)
            };
            Ok(found.map_or(Answer::Nothing, answer))
        })
        .collect()
    }

    /// A backup is on the device when it returns.
    pub(super) fn look_at_backups(&self) {
        let backups = self.model().backups.clone();
        for (path, held) in backups {
            let look = || -> Result<_, Error> {
                let copy = Options::new().read_only(true).open(&path)?;
                let found = self.answers_of(&copy, &[])?;
                copy.close()?;
                Ok(found)
            };
            let looked = look();
            let is_excused = self.model().expires() || self.model().is_excused();
            match looked {
                Ok(found) if found == held || is_excused => {}
                Ok(found) => self.model().complain(format!("{path} held {held:?}, now {found:?}")),
                Err(Error::NotFound(path)) => {
                    self.model().complain(format!("the backup {} is gone", path.display()));
                }
                Err(error) => self.process.judge_error("copy", &error),
            }
        }
    }
}
