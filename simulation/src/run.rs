//! Runs one plan.

use crate::life::{PATH, Process, Shared, lock};
use crate::model::{End, Model};
use crate::plan::{Ending, Plan};
use simulated_machine::{Faults, Machine, Outcome};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub steps: u64,
    pub failure: Option<String>,
    pub trace: Vec<String>,
    pub counts: Vec<(&'static str, u64)>,
}

/// Runs a plan to its end, or to the first thing that is wrong.
#[must_use]
pub fn run(plan: &Plan) -> Report {
    let machine = Machine::new(plan.settings.clone());
    let failure = lives(&machine, plan);
    let report = Report {
        steps: machine.steps(),
        failure,
        trace: machine.trace(),
        counts: machine.counts(),
    };
    machine.end();
    report
}

fn lives(machine: &Rc<Machine>, plan: &Plan) -> Option<String> {
    let model: Shared = Arc::new(Mutex::new(Model::default()));
    let plan = Arc::new(plan.clone());
    let (mut before, mut exists) = (None, false);
    // The last two lives only look: what the first of them shows, the second does.
    let given = plan.lives.len();
    machine.with_disk(|disk| disk.make_directory("elsewhere"));
    for life in 0..given + 2 {
        let mut last = plan.lives.last().cloned()?;
        let plan = if life >= plan.lives.len() {
            last.threads.clear();
            last.ending = Ending::Close;
            last.faults = Faults::default();
            let mut quiet = (*plan).clone();
            quiet.lives.resize(life + 1, last);
            quiet.settings.disk_bytes = 1 << 30;
            machine.with_disk(|disk| disk.resize(1 << 30));
            Arc::new(quiet)
        } else {
            Arc::clone(&plan)
        };
        let (faults, ending) = (plan.lives[life].faults, plan.lives[life].ending);
        machine.set_faults(faults);
        if plan.lives[life].is_damaged && life < given {
            let mut dice = fastrand::Rng::with_seed(plan.settings.seed ^ life as u64);
            let where_ = machine.with_disk(|disk| disk.damage_one(PATH, ".seg", &mut dice));
            if let Some(where_) = where_ {
                machine.note(|| format!("damage: {where_}"));
                machine.count("damage");
                lock(&model).is_damaged = true;
            }
        }
        machine.tell_boot(!plan.lives[life].hides_boot);
        if let Some(violation) = machine.with_disk(|disk| disk.violations.pop()) {
            return Some(violation);
        }
        let is_shown = Arc::new(Mutex::new(false));
        let process = Process {
            plan: Arc::clone(&plan),
            life,
            model: Arc::clone(&model),
            before,
            exists,
            is_shown: Arc::clone(&is_shown),
        };
        let id = match machine.start(move || process.run()) {
            Ok(id) => id,
            Err(error) => return Some(error.to_string()),
        };
        let points = match ending {
            Ending::Kill { after } | Ending::PowerLoss { after } => after,
            Ending::Close | Ending::Drop => u64::MAX,
        };
        let outcome = machine.run(id, points);
        if let Some(complaint) = lock(&model).complaints.first() {
            return Some(complaint.clone());
        }
        let end = match (outcome, ending) {
            (Outcome::Ended, Ending::PowerLoss { .. })
            | (Outcome::Interrupted, Ending::PowerLoss { .. }) => {
                machine.lose_power();
                End::PowerLoss
            }
            (Outcome::Interrupted, _) => {
                machine.kill(id);
                End::Kill
            }
            (Outcome::Ended, _) => {
                let (open, mapped) =
                    machine.with_disk(|disk| (disk.open_files(id), disk.mappings(id)));
                if open > 0 || mapped > 0 {
                    let names = machine.with_disk(|disk| disk.names_mapped(id));
                    return Some(format!("after close {open} files are open, mapped: {names:?}"));
                }
                End::Close
            }
            (outcome, _) => return Some(format!("{outcome:?}")),
        };
        let was_shown = *is_shown.lock().unwrap_or_else(PoisonError::into_inner);
        exists |= was_shown;
        // An opening of which the judge saw nothing does not stand between two others; but power
        // loss does.
        if was_shown || end == End::PowerLoss || before.is_none() {
            before = Some(worse(before.filter(|_| !was_shown), end));
        }
    }
    None
}

/// What an opening has to expect after both.
fn worse(one: Option<End>, other: End) -> End {
    match (one, other) {
        (Some(End::PowerLoss), _) | (_, End::PowerLoss) => End::PowerLoss,
        (_, other) => other,
    }
}
