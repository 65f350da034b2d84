//! Runs one plan.

use crate::life::{Process, Shared, lock};
use crate::model::End;
use crate::neighbour;
use crate::plan::{Ending, Life, Plan, ROOMY};
use simulated_machine::thread::PANIC;
use simulated_machine::{Disk, Faults, Machine, Outcome, ProcessId};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// Lives after those of the plan, which only look: what the first shows, the second shows, too.
const LOOKS: usize = 2;

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
    let mut run =
        Run { machine, model: Shared::default(), before: None, exists: false, has_salvaged: false };
    let failure = run.lives(plan).err();
    let machine = run.machine;
    let report = Report {
        steps: machine.steps(),
        failure,
        trace: machine.trace(),
        counts: machine.counts(),
    };
    machine.end();
    report
}

struct Run {
    machine: Rc<Machine>,
    model: Shared,
    /// How the life before ended, as far as an opening has to expect it.
    before: Option<End>,
    /// An opening has returned.
    exists: bool,
    /// A salvage has begun since, and was not shown.
    has_salvaged: bool,
}

impl Run {
    fn lives(&mut self, plan: &Plan) -> Result<(), String> {
        self.machine.with_disk(|disk| disk.make_directory("elsewhere"));
        lock(&self.model).sets_clock = plan.lives.iter().any(|life| life.faults.clock_set > 0);
        if plan.has_neighbour {
            self.run_to_end(neighbour::make)?;
        }
        for life in 0..plan.lives.len() {
            self.live(&Arc::new(plan.clone()), life)?;
        }
        let mut quiet = plan.clone();
        quiet.settings.disk_bytes = ROOMY;
        let last = plan.lives.last().map_or_else(Life::default, Life::only_looking);
        for _ in 0..LOOKS {
            self.machine.with_disk(|disk| disk.resize(ROOMY));
            quiet.lives.push(last.clone());
            self.live(&Arc::new(quiet.clone()), quiet.lives.len() - 1)?;
        }
        if plan.has_neighbour { self.run_to_end(neighbour::look) } else { Ok(()) }
    }

    /// Runs a process that has nothing to do with the store.
    fn run_to_end(&self, main: fn() -> Result<(), stratalog::Error>) -> Result<(), String> {
        let done = Arc::new(Mutex::new(None));
        let its = Arc::clone(&done);
        self.machine.set_faults(Faults::default());
        let main = move || *its.lock().unwrap_or_else(PoisonError::into_inner) = Some(main());
        let id = self.machine.start(main).map_err(|error| error.to_string())?;
        let outcome = self.machine.run(id, u64::MAX);
        let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
        match done {
            Some(Ok(())) => Ok(()),
            done => Err(format!("the neighbour: {outcome:?} {done:?}")),
        }
    }

    fn live(&mut self, plan: &Arc<Plan>, number: usize) -> Result<(), String> {
        let life = &plan.lives[number];
        self.machine.set_faults(life.faults);
        self.machine.tell_boot(!life.hides_boot);
        if life.is_sparse {
            let path = lock(&self.model).path;
            self.machine.with_disk(|disk| disk.make_sparse(path));
        }
        // What a flush could not write is in the page cache alone.
        let fails = |life: &Life| life.faults.flush_fails + life.faults.write_back_fails > 0;
        let has_failed = plan.lives[..=number].iter().any(fails);
        let loses = life.faults.eviction > 0 && has_failed;
        // Where nothing is verified, what was half lost may be shown.
        let is_unverified = plan.lives[number..].iter().any(|life| life.verify > 1);
        {
            let mut model = lock(&self.model);
            model.loses_unflushed |= loses;
            model.is_damaged |= life.faults.read_fails > 0 || loses && is_unverified;
        }
        if life.is_damaged {
            self.damage(plan.settings.seed ^ number as u64);
        }
        self.count(life);
        let is_shown = Arc::new(Mutex::new(false));
        let process = Process {
            plan: Arc::clone(plan),
            life: number,
            model: Arc::clone(&self.model),
            has_salvaged: self.has_salvaged || life.salvages,
            before: self.before,
            exists: self.exists,
            is_shown: Arc::clone(&is_shown),
        };
        let id = self.machine.start(move || process.run()).map_err(|error| error.to_string())?;
        let began = self.machine.steps();
        let points = match life.ending {
            Ending::Kill { after } | Ending::PowerLoss { after } => after,
            Ending::Close | Ending::Drop => u64::MAX,
        };
        let mut outcome = self.machine.run(id, if life.ends_late { u64::MAX } else { points });
        if outcome == Outcome::Paused {
            let points = if life.ends_late {
                points
            } else {
                points.saturating_sub(self.machine.steps() - began)
            };
            outcome = self.machine.run(id, points);
        }
        if let Some(complaint) = lock(&self.model).complaints.first() {
            return Err(complaint.clone());
        }
        if self.machine.counts().iter().any(|(what, _)| *what == PANIC) {
            return Err(PANIC.to_owned());
        }
        let end = self.end(id, outcome, life.ending)?;
        let is_shown = *is_shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.exists |= is_shown;
        self.has_salvaged = !is_shown && (self.has_salvaged || life.salvages);
        // An opening of which the judge saw nothing does not stand between two others; but power
        // loss does.
        if is_shown || end == End::PowerLoss || self.before.is_none() {
            self.before = Some(end);
        }
        Ok(())
    }

    fn count(&self, life: &Life) {
        for (is_so, what) in [
            (true, "lives"),
            (life.salvages, "life that salvages"),
            (life.is_strict, "life that is strict"),
            (life.hides_boot, "life without a boot id"),
            (life.is_sparse, "life on sparse copies"),
        ] {
            if is_so {
                self.machine.count(what);
            }
        }
    }

    fn damage(&self, seed: u64) {
        let mut dice = fastrand::Rng::with_seed(seed);
        let path = lock(&self.model).path;
        if let Some(place) = self.machine.with_disk(|disk| disk.damage_one(path, ".seg", &mut dice))
        {
            self.machine.note(|| format!("damage: {place}"));
            self.machine.count("damage");
            lock(&self.model).is_damaged = true;
        }
    }

    /// Brings a life to its end, and looks at what the process has left behind.
    fn end(&self, id: ProcessId, outcome: Outcome, ending: Ending) -> Result<End, String> {
        if let Some(violation) = self.machine.with_disk(Disk::violation) {
            return Err(violation);
        }
        match (outcome, ending) {
            (Outcome::Ended | Outcome::Interrupted, Ending::PowerLoss { .. }) => {
                self.machine.count("end by power loss");
                self.machine.lose_power();
                Ok(End::PowerLoss)
            }
            (Outcome::Interrupted, _) => {
                self.machine.count("end by a kill");
                self.machine.kill(id);
                Ok(End::Kill)
            }
            (Outcome::Ended, _) => {
                let open = self.machine.with_disk(|disk| disk.open_files(id));
                let mapped = self.machine.with_disk(|disk| disk.names_mapped(id));
                if open > 0 || !mapped.is_empty() {
                    return Err(format!("after close {open} files are open, mapped: {mapped:?}"));
                }
                self.machine.count(if ending == Ending::Drop {
                    "end by drop"
                } else {
                    "end by close"
                });
                Ok(End::Close)
            }
            (outcome, _) => Err(format!("{outcome:?}")),
        }
    }
}

impl Life {
    /// A life of the same options that opens the store, and closes it.
    fn only_looking(&self) -> Self {
        let (ending, faults) = (Ending::Close, Faults::default());
        let (is_damaged, is_sparse, tidies, is_strict) = (false, false, false, false);
        let threads = Vec::new();
        Self { threads, ending, faults, is_damaged, is_sparse, tidies, is_strict, ..self.clone() }
    }
}
