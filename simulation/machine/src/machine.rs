//! The machine: its parts, and the harness's side of it.

use crate::disk::Disk;
use crate::scheduler::{Grain, Outcome, Point, Policy, ProcessId, Scheduler};
use crate::thread;
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;

/// What a machine is like for its whole life.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides everything.
    pub seed: u64,
    /// At which points tasks may be switched.
    pub grain: Grain,
    /// Who runs next.
    pub policy: Policy,
    /// One task in so many points is stopped for long; 0: none ever is.
    pub stops_one_in: u64,
    /// It stays so for up to two to the power of one of these points.
    pub stop_magnitudes: (u32, u32),
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Bytes of memory, which a control group limits to half of them; 0: the kernel does not tell.
    pub memory_bytes: u64,
    /// Descriptors of a process.
    pub open_files_max: u64,
    /// Mappings of a process.
    pub mappings_max: u64,
    /// Bytes that the device writes as a whole: 64, 512 or 4096.
    pub unit_bytes: usize,
    /// Power loss may leave a unit that is being written half written.
    pub torn_units: bool,
    /// Points after which a run counts as stuck.
    pub steps_max: u64,
    /// Whether each point is kept in the trace.
    pub is_traced: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            grain: Grain::Coarse,
            policy: Policy::Uniform { stays: 4 },
            stops_one_in: 0,
            stop_magnitudes: (0, 15),
            disk_bytes: 1 << 30,
            memory_bytes: 0,
            open_files_max: 1024,
            mappings_max: 65_530,
            unit_bytes: 512,
            torn_units: false,
            steps_max: 2_000_000,
            is_traced: false,
        }
    }
}

/// Chances of faults, each one in so many calls; 0: never. The harness changes them while the
/// machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A flush of a file or directory fails, and its pages are clean afterwards.
    pub flush_fails: u64,
    /// A call that needs room finds none.
    pub no_room: u64,
    /// A call that opens a file finds no descriptor.
    pub no_descriptor: u64,
    /// A mapping is refused.
    pub no_mapping: u64,
    /// A read of a file fails.
    pub read_fails: u64,
    /// A call is interrupted by a signal.
    pub interrupted: u64,
    /// A thread cannot be made.
    pub no_thread: u64,
    /// At a point, the kernel writes part of a file back by itself.
    pub write_back: u64,
    /// At a point, the clock jumps to the next deadline.
    pub clock_jumps: u64,
    /// At a point, somebody sets the time of day to another one, up to an hour away.
    pub clock_set: u64,
    /// One in so many write-backs by the kernel itself fails, as a flush does.
    pub write_back_fails: u64,
    /// At a point, a clean page that the device has otherwise is read anew.
    pub eviction: u64,
}

/// What happens by itself at some points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    WriteBack,
    Eviction,
    ClockSet,
    ClockJump,
    Stop,
}

const EVENTS: [(Event, &str); 5] = [
    (Event::WriteBack, "write-back"),
    (Event::Eviction, "eviction"),
    (Event::ClockSet, "clock set"),
    (Event::ClockJump, "clock jump"),
    (Event::Stop, "stop"),
];

/// A simulated machine. Its processes, disk and clock live as long as it does.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    faults: Cell<Faults>,
    /// Points of tasks so far, without the time in which nobody runs.
    points: Cell<u64>,
    /// The one at which each of the [`EVENTS`] comes next, and the first of these.
    next_events: Cell<[u64; EVENTS.len()]>,
    next_event: Cell<u64>,
    counts: RefCell<Vec<(&'static str, u64)>>,
    dice: RefCell<fastrand::Rng>,
    scheduler: RefCell<Scheduler>,
    disk: RefCell<Disk>,
    /// Nanoseconds since the machine was made.
    clock: Cell<u64>,
    /// Nanoseconds by which the time of day is ahead of that, or behind.
    set_by: Cell<i64>,
    /// Identifies the boot; `None` where the kernel does not tell.
    boot: Cell<u128>,
    /// The kernel tells it.
    tells_boot: Cell<bool>,
    trace: RefCell<Vec<String>>,
}

thread_local! {
    static HERE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

/// The machine that the calling task runs on.
pub(crate) fn here() -> Option<Rc<Machine>> {
    HERE.try_with(|here| here.borrow().clone()).ok().flatten()
}

/// The same, for calls that mean nothing without one.
///
/// # Panics
///
/// There is none: the call was not made by a simulated task.
pub(crate) fn calling() -> Rc<Machine> {
    #[expect(clippy::expect_used, reason = "a bug of the harness")]
    here().expect("a call of the simulated system outside of a simulation")
}

/// Adds a line to the trace of the machine that the calling task runs on.
pub fn note(what: impl FnOnce() -> String) {
    if let Some(machine) = here() {
        machine.note(what);
    }
}

/// Counts something that happened on the machine that the calling task runs on.
pub fn count(what: &'static str) {
    if let Some(machine) = here() {
        machine.count(what);
    }
}

impl Machine {
    /// Makes a machine and has this thread run it. One at a time.
    #[must_use]
    pub fn new(settings: Settings) -> Rc<Self> {
        let mut dice = fastrand::Rng::with_seed(settings.seed);
        let boot = dice.u128(..) | 1;
        let scheduler = Scheduler::new(&settings);
        let machine = Rc::new(Self {
            disk: RefCell::new(Disk::new(&settings)),
            scheduler: RefCell::new(scheduler),
            faults: Cell::default(),
            points: Cell::new(0),
            next_events: Cell::new([0; EVENTS.len()]),
            next_event: Cell::new(0),
            counts: RefCell::default(),
            dice: RefCell::new(dice),
            clock: Cell::new(0),
            set_by: Cell::new(0),
            boot: Cell::new(boot),
            tells_boot: Cell::new(true),
            trace: RefCell::default(),
            settings,
        });
        HERE.with(|here| *here.borrow_mut() = Some(Rc::clone(&machine)));
        machine
    }

    /// Ends the simulation: nothing runs any more, and nobody is on this machine.
    pub fn end(self: &Rc<Self>) {
        let processes = self.scheduler().processes();
        for process in processes {
            self.kill(process);
        }
        HERE.with(|here| *here.borrow_mut() = None);
        // The stacks of those that were killed refer to the machine for ever.
        *self.disk_mut() = Disk::new(&self.settings);
        *self.scheduler_mut() = Scheduler::new(&self.settings);
    }

    /// What it is like.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The chances of faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
        self.draw_events(|_| true);
    }

    /// Draws the next point of each wanted event, so that they come as often as the chances say.
    fn draw_events(&self, is_wanted: impl Fn(u64) -> bool) {
        let (faults, now) = (self.faults(), self.points.get());
        let mut next = self.next_events.get();
        for (at, (event, _)) in next.iter_mut().zip(EVENTS) {
            let one_in = match event {
                Event::WriteBack => faults.write_back,
                Event::Eviction => faults.eviction,
                Event::ClockSet => faults.clock_set,
                Event::ClockJump => faults.clock_jumps,
                Event::Stop => self.settings.stops_one_in,
            };
            if one_in == 0 {
                *at = u64::MAX;
            } else if is_wanted(*at) {
                *at = now + self.dice().u64(1..=2 * one_in);
            }
        }
        self.next_events.set(next);
        self.next_event.set(next.into_iter().min().unwrap_or(u64::MAX));
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults.get()
    }

    /// Decides whether a fault of this chance happens now, and counts it.
    pub(crate) fn meets(&self, one_in: u64, what: &'static str) -> bool {
        let meets = one_in > 0 && self.dice().u64(0..one_in) == 0;
        if meets {
            self.count(what);
            self.note(|| format!("fault: {what}"));
        }
        meets
    }

    /// Counts something that happened.
    pub fn count(&self, what: &'static str) {
        let mut counts = self.counts.borrow_mut();
        match counts.iter_mut().find(|(name, _)| *name == what) {
            Some((_, count)) => *count += 1,
            None => counts.push((what, 1)),
        }
    }

    /// What happened how often.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        self.counts.borrow().clone()
    }

    pub(crate) fn dice(&self) -> RefMut<'_, fastrand::Rng> {
        self.dice.borrow_mut()
    }

    pub(crate) fn scheduler(&self) -> Ref<'_, Scheduler> {
        self.scheduler.borrow()
    }

    pub(crate) fn scheduler_mut(&self) -> RefMut<'_, Scheduler> {
        self.scheduler.borrow_mut()
    }

    pub(crate) fn disk(&self) -> Ref<'_, Disk> {
        self.disk.borrow()
    }

    pub(crate) fn disk_mut(&self) -> RefMut<'_, Disk> {
        self.disk.borrow_mut()
    }

    /// Nanoseconds since the machine was made.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.get()
    }

    /// Nanoseconds by which the time of day is ahead of the clock, or behind.
    pub(crate) fn set_by(&self) -> i64 {
        self.set_by.get()
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.clock.set(self.clock.get().max(now));
    }

    /// Lets time pass in which nobody runs.
    pub fn advance(&self, nanoseconds: u64) {
        self.clock.set(self.clock.get().saturating_add(nanoseconds));
    }

    /// The boot, as the kernel tells it.
    #[must_use]
    pub fn boot(&self) -> Option<u128> {
        self.tells_boot.get().then(|| self.boot.get())
    }

    /// Has the kernel tell the boot, or not.
    pub fn tell_boot(&self, tells: bool) {
        self.tells_boot.set(tells);
    }

    /// Points so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.scheduler().steps()
    }

    /// Adds a line to the trace, if there is one.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.settings.is_traced {
            let (step, task) = (self.steps(), self.scheduler().name_of_current());
            let line = format!("{step:>7} {task:<22} {}", what());
            // A run that hangs shows how far it came.
            if std::env::var_os("SIMULATE_TRACE_NOW").is_some() {
                eprintln!("{line}");
            }
            self.trace.borrow_mut().push(line);
        }
    }

    /// The trace so far.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.trace.borrow().clone()
    }
}

impl Machine {
    /// Starts a process with one task.
    ///
    /// # Errors
    ///
    /// The real machine has no memory for its stack.
    pub fn start(self: &Rc<Self>, main: impl FnOnce() + 'static) -> std::io::Result<ProcessId> {
        let process = self.scheduler_mut().new_process();
        thread::start(self, process, "main".to_owned(), Box::new(main))?;
        Ok(process)
    }

    /// Runs tasks until all of the process's have ended, or until there have been `steps` points
    /// more.
    pub fn run(self: &Rc<Self>, process: ProcessId, steps: u64) -> Outcome {
        Scheduler::run(self, process, steps)
    }

    /// Kills a process: its tasks run no more, nothing of them is dropped, and its descriptors,
    /// mappings and locks are gone.
    pub fn kill(self: &Rc<Self>, process: ProcessId) {
        self.note(|| format!("kill of process {process}"));
        self.scheduler_mut().kill(process);
        self.disk_mut().forget_process(process);
    }

    /// Cuts the power: kills all processes, keeps of the disk what the device has, which of the
    /// rest the dice decide, and boots again.
    pub fn lose_power(self: &Rc<Self>) {
        let processes = self.scheduler().processes();
        for process in processes {
            self.kill(process);
        }
        self.note(|| "power loss".to_owned());
        self.disk_mut().lose_power(&mut self.dice());
        let boot = self.dice().u128(..) | 1;
        self.boot.set(boot);
    }

    /// Calls back with the disk, which no task uses meanwhile.
    pub fn with_disk<R>(&self, f: impl FnOnce(&mut Disk) -> R) -> R {
        f(&mut self.disk_mut())
    }

    /// A point: here the kernel may do things by itself, and another task may go on.
    pub(crate) fn point(self: &Rc<Self>, point: Point) {
        self.points.set(self.points.get() + 1);
        if self.points.get() >= self.next_event.get() {
            self.bring_events();
        }
        Scheduler::point(self, point);
    }

    fn bring_events(&self) {
        let now = self.points.get();
        for (at, (event, name)) in self.next_events.get().into_iter().zip(EVENTS) {
            if at > now {
                continue;
            }
            self.count(name);
            self.note(|| format!("fault: {name}"));
            match event {
                Event::WriteBack => {
                    let fails = self.meets(self.faults().write_back_fails, "write-back fails");
                    self.disk_mut().write_back(fails, &mut self.dice());
                }
                Event::Eviction => self.disk_mut().evict(&mut self.dice()),
                Event::ClockSet => {
                    let magnitude = 1 << self.dice().u32(20..42);
                    self.set_by.set(self.dice().i64(-magnitude..magnitude));
                }
                Event::ClockJump => {
                    let deadline = self.scheduler().jump();
                    deadline.into_iter().for_each(|at| self.set_now(at));
                }
                Event::Stop => self.scheduler_mut().stop_current(),
            }
        }
        self.draw_events(|at| at <= now);
    }
}
