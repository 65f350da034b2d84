//! A backup is opened, compared, and gone on with.

use super::{Task, embedding, name};
use crate::model::Answer;
use crate::plan::ROOMY;
use simulated_machine::note;
use stratalog::{Compaction, Error, Lsn, Options, Record, Store};

impl Task<'_> {
    /// Another handle looks at the store beside its writer.
    pub(super) fn look(&self, millis: u64) {
        let plan = &self.process.plan;
        let moves =
            |it: &crate::plan::Operation| matches!(it, crate::plan::Operation::MoveDirectory);
        if plan.lives.iter().any(|life| life.threads.iter().flatten().any(moves)) {
            return;
        }
        let (begun, tags, path) = {
            let mut model = self.model();
            (model.tick(), model.tags(), format!("/{}", model.path))
        };
        let mut options = Options::new().read_only(true);
        if millis % 3 == 0 {
            options = options.recovery(stratalog::Recovery::Strict);
        }
        let copy = match options.open(path) {
            Ok(copy) => copy,
            Err(error) => return self.process.judge_error("look", &error),
        };
        note(|| format!("looks: {:?}", copy.recovery()));
        self.model().copies += 1;
        let report = copy.recovery();
        let hides = plan.lives.iter().any(|life| life.hides_boot);
        let odd = report.corrupt > 0 || report.counted != stratalog::Counted::All && !hides;
        if odd && !self.model().is_damaged {
            self.model().complain(format!("a look finds {report:?}"));
        }
        let read = || -> Result<Vec<Answer>, Error> {
            let pinned = copy.pin();
            let ids = 0..plan.ids;
            ids.map(|id| {
                let found = pinned.get(name(id))?;
                let answer = |record: Record<'_>| {
                    let tag = record.tag();
                    self.answer_since((&record, tag), &tags)
                };
                Ok(found.map_or(Answer::Nothing, answer))
            })
            .collect()
        };
        match read() {
            Ok(before) => {
                self.model().judge_look(begun, &before);
                simulated_machine::thread::sleep(std::time::Duration::from_millis(millis));
                let expires = self.model().writes.iter().any(|write| write.lifetime.is_some());
                let there = before.iter().filter(|answer| **answer != Answer::Nothing).count();
                let walked = copy.pin().iter().filter(Result::is_ok).count();
                let pinned = copy.pin();
                let hits = pinned.search(&vec![1.0; plan.dimension], 1000, stratalog::Metric::L2);
                let hits = hits.map_or(0, |hits| hits.len());
                if !expires
                    && !self.model().is_damaged
                    && (walked != there || hits != there || copy.len() != there)
                {
                    let len = copy.len();
                    self.model().complain(format!(
                        "a look has {there}, walks {walked}, finds {hits}, len {len}"
                    ));
                }
                let verified =
                    if millis % 2 == 0 { copy.verify() } else { copy.verify_deep(|_, _| ()) };
                match verified {
                    Ok(report)
                        if report.is_clean()
                            || self.model().is_damaged
                            || self.model().sets_clock => {}
                    Ok(report) => {
                        self.model().complain(format!("a look verifies: {:?}", report.damaged))
                    }
                    Err(error) => self.process.judge_error("look", &error),
                }
                match read() {
                    Ok(after) if after == before || expires || self.model().is_damaged => {}
                    after => self.model().complain(format!("looked: {before:?}, then {after:?}")),
                }
            }
            Err(error) => self.process.judge_error("look", &error),
        }
        self.model().copies -= 1;
        drop(copy);
    }

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
        let expires = self.model().writes.iter().any(|write| write.lifetime.is_some());
        if read()? != before && !expires && !self.model().is_damaged {
            self.model().complain("compaction has changed a backup".to_owned());
        }
        let again = format!("{path}-again");
        copy.backup(&again)?;
        (0..plan.ids).try_for_each(|id| copy.remove(name(id)).map(drop))?;
        copy.compact()?;
        let stats = copy.stats();
        if stats.dead_bytes > 0
            && !self.process.life().has_failing_calls()
            && plan.settings.disk_bytes == ROOMY
            && !self.model().is_damaged
        {
            self.model().complain(format!("a backup keeps garbage: {stats:?}"));
        }
        copy.close()?;
        let path = again;
        let again = Options::new().read_only(true).open(&path)?;
        let is_clean = again.verify()?.is_clean() || self.model().is_damaged;
        if !again.contains("extra") || !is_clean {
            self.model().complain("a backup of a backup is not as it was".to_owned());
        }
        let held = self.answers_of(&again, tags)?;
        self.model().backups.push((path, held));
        again.close()
    }

    /// What a copy holds.
    fn answers_of(&self, copy: &Store, tags: &[u64]) -> Result<Vec<Answer>, Error> {
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
            let expires = self.model().writes.iter().any(|write| write.lifetime.is_some());
            match look() {
                Ok(found) if found == held || expires || self.model().is_damaged => {}
                Ok(found) => self.model().complain(format!("{path} held {held:?}, now {found:?}")),
                Err(Error::NotFound(path)) => {
                    self.model().complain(format!("the backup {} is gone", path.display()));
                }
                Err(error) => self.process.judge_error("copy", &error),
            }
        }
    }
}
