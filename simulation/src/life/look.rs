//! Another handle looks at the store beside its writer, and changes nothing.

use super::Task;
use crate::plan::Operation;
use simulated_machine::{note, thread};
use std::time::Duration;
use stratalog::{Counted, Error, Options, Recovery, Store};

impl Task<'_> {
    pub(super) fn look(&self, millis: u64) {
        // By the time it opens the directory may have another name.
        let moves = |it: &Operation| matches!(it, Operation::MoveDirectory);
        let mut lives = self.process.plan.lives.iter();
        if lives.any(|life| life.threads.iter().flatten().any(moves)) {
            return;
        }
        self.model().copies += 1;
        let looked = self.look_now(millis);
        self.model().copies -= 1;
        self.check("look", looked);
    }

    fn look_now(&self, millis: u64) -> Result<(), Error> {
        let (begun, tags, path) = {
            let mut model = self.model();
            (model.tick(), model.tags(), format!("/{}", model.path))
        };
        let is_strict = millis.is_multiple_of(3);
        let recovery = if is_strict { Recovery::Strict } else { Recovery::Tolerant };
        let other = Options::new().read_only(true).recovery(recovery).open(path)?;
        self.judge_report(&other);
        let before = self.answers_of(&other, &tags)?;
        self.model().judge_look(begun, &before);
        thread::sleep(Duration::from_millis(millis));
        self.judge_agreement("another handle", &other, &before);
        let deep = !millis.is_multiple_of(2);
        let report = if deep { other.verify_deep(|_, _| ())? } else { other.verify()? };
        let is_excused = self.model().is_excused() || self.model().sets_clock;
        if !report.is_clean() && !is_excused {
            self.model().complain(format!("a look verifies: {:?}", report.damaged));
        }
        let after = self.answers_of(&other, &tags)?;
        let mut model = self.model();
        if after != before && !model.expires() && !model.is_excused() {
            model.complain(format!("looked: {before:?}, then {after:?}"));
        }
        drop(model);
        other.close()
    }

    fn judge_report(&self, other: &Store) {
        note(|| format!("looks: {:?}", other.recovery()));
        let report = other.recovery();
        let hides = self.process.plan.lives.iter().any(|life| life.hides_boot);
        let is_odd = report.corrupt > 0 || report.counted != Counted::All && !hides;
        if is_odd && !self.model().is_excused() {
            self.model().complain(format!("a look finds {report:?}"));
        }
    }
}
