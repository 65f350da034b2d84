//! Tasks, and who of them runs.

mod choice;

use crate::machine::{Machine, Settings};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use choice::TURN;

/// A process, from 1 on.
pub type ProcessId = usize;
pub(crate) type TaskId = usize;

/// At which points tasks may be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// At calls of the system, locks, waits, and control words of segments.
    Coarse,
    /// At every atomic access as well.
    Fine,
}

/// Who runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any task that can; one that runs goes on at all but one in `stays` points, 1 at least.
    Uniform {
        /// 1: a new choice at every point.
        stays: u32,
    },
    /// The task with the highest priority; at `changes` points the one that runs gets the lowest,
    /// and at few points later, so that nobody waits for ever.
    /// Source: Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding
    /// bugs", ASPLOS 2010.
    Priorities {
        /// How many such points there are in the first `within` points.
        changes: u32,
        /// In which they lie.
        within: u64,
    },
}

/// Where a task may be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before or after a call of the system.
    Call(&'static str),
    /// Before a lock is taken.
    Lock,
    /// An atomic access.
    Atomic,
    /// A control word of a segment.
    Word,
    /// A task gives up its turn.
    Yield,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All tasks of the process have ended.
    Ended,
    /// The points that it was given are over.
    Interrupted,
    /// A task of it asked the harness to look, with [`pause`](crate::process::pause).
    Paused,
    /// No task can ever go on.
    Deadlock(String),
    /// The machine's limit of points is reached.
    Stuck(String),
    /// A task has panicked.
    Panicked(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runnable,
    /// Until somebody wakes who waits for this, or the deadline.
    Waiting {
        on: usize,
        deadline: Option<u64>,
    },
    Ended,
}

type Stack = Coroutine<(), (), (), DefaultStack>;

struct Task {
    process: ProcessId,
    name: String,
    state: State,
    /// The last wait ended by its deadline.
    timed_out: bool,
    /// Unparked and not parked since.
    is_unparked: bool,
    /// Runs no more before this point, unless nobody else can.
    stopped_until: u64,
    priority: u64,
    /// How often it has waited, and for others: not for time alone.
    waits: u64,
    waits_for_others: u64,
    /// Nanoseconds that it meant to sleep, all together.
    slept: u64,
    stack: Option<Stack>,
    locals: Vec<(usize, Rc<dyn Any>)>,
}

impl Task {
    fn waits_for(&self, on: usize) -> bool {
        matches!(self.state, State::Waiting { on: its, .. } if its == on)
    }
}

thread_local! {
    /// The way out of the task that runs.
    static WAY_OUT: Cell<*const Yielder<(), ()>> = const { Cell::new(std::ptr::null()) };
    /// Stacks of tasks that have ended.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    /// Whether every atomic access is a point.
    static IS_FINE: Cell<bool> = const { Cell::new(false) };
}

/// Bytes of a task's stack.
const STACK_BYTES: usize = 512 << 10;
/// Nanoseconds that pass at a point.
const TICK: u64 = 1_000;

/// All tasks of a machine.
pub struct Scheduler {
    tasks: Vec<Task>,
    current: Option<TaskId>,
    next: Option<TaskId>,
    steps: u64,
    steps_max: u64,
    policy: Policy,
    stop_magnitudes: (u32, u32),
    dice: fastrand::Rng,
    changes: Vec<u64>,
    lowest: u64,
    /// At this point the running task gets the lowest priority, even if no change was drawn.
    turn_ends: u64,
    processes: Vec<(ProcessId, Arc<AtomicU64>)>,
    made: ProcessId,
    panicked: Option<String>,
    /// No deadline is earlier.
    earliest: u64,
    /// Tasks that can run, while one of them is chosen.
    able: Vec<TaskId>,
    /// Tasks that have not ended.
    alive: Vec<TaskId>,
    /// The task that runs goes on up to this point, if it can.
    goes_on_until: u64,
    /// The harness is to look.
    is_paused: bool,
    /// Whoever can run does so before long.
    is_fair: bool,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Scheduler {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut dice = fastrand::Rng::with_seed(settings.seed ^ 0x5EED);
        let changes = match settings.policy {
            Policy::Priorities { changes, within } => {
                (0..changes).map(|_| dice.u64(0..within.max(1))).collect()
            }
            Policy::Uniform { .. } => Vec::new(),
        };
        IS_FINE.set(settings.grain == Grain::Fine);
        Self {
            tasks: Vec::new(),
            current: None,
            next: None,
            steps: 0,
            steps_max: settings.steps_max,
            policy: settings.policy,
            stop_magnitudes: settings.stop_magnitudes,
            dice,
            changes,
            lowest: u64::MAX / 2,
            turn_ends: TURN,
            processes: Vec::new(),
            made: 0,
            panicked: None,
            earliest: u64::MAX,
            able: Vec::new(),
            alive: Vec::new(),
            goes_on_until: 0,
            is_paused: false,
            is_fair: false,
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        self.processes.iter().map(|(id, _)| *id).collect()
    }

    pub(crate) fn new_process(&mut self) -> ProcessId {
        self.made += 1;
        (self.is_fair, self.goes_on_until) = (false, 0);
        self.processes.push((self.made, Arc::default()));
        self.made
    }

    /// The process of the task that runs; 0: the harness.
    pub(crate) fn process(&self) -> ProcessId {
        self.current.map_or(0, |id| self.tasks[id].process)
    }

    pub(crate) fn kept_descriptors(&self) -> Arc<AtomicU64> {
        let mine = self.processes.iter().find(|(id, _)| *id == self.process());
        mine.map_or_else(Arc::default, |(_, count)| Arc::clone(count))
    }

    pub(crate) fn current(&self) -> Option<TaskId> {
        self.current
    }

    pub(crate) fn name_of_current(&self) -> String {
        self.current.map_or_else(String::new, |id| {
            format!("{}.{id} {}", self.tasks[id].process, self.tasks[id].name)
        })
    }

    /// Adds a task.
    pub(crate) fn add(
        &mut self,
        process: ProcessId,
        name: String,
        body: Box<dyn FnOnce()>,
    ) -> std::io::Result<TaskId> {
        let pooled = STACKS.with(|stacks| stacks.borrow_mut().pop());
        let stack = pooled.map_or_else(|| DefaultStack::new(STACK_BYTES), Ok)?;
        let stack = Stack::with_stack(stack, move |yielder, ()| {
            WAY_OUT.set(std::ptr::from_ref(yielder));
            body();
        });
        let priority = self.dice.u64(u64::MAX / 2..);
        self.tasks.push(Task {
            process,
            name,
            state: State::Runnable,
            timed_out: false,
            is_unparked: false,
            stopped_until: 0,
            priority,
            waits: 0,
            waits_for_others: 0,
            slept: 0,
            stack: Some(stack),
            locals: Vec::new(),
        });
        self.alive.push(self.tasks.len() - 1);
        self.note_change();
        Ok(self.tasks.len() - 1)
    }

    pub(crate) fn has_ended(&self, task: TaskId) -> bool {
        self.tasks[task].state == State::Ended
    }

    /// Ends the current task: what waits for it can go on.
    pub(crate) fn end_current(&mut self, panic: Option<String>) {
        if let Some(id) = self.current {
            self.tasks[id].state = State::Ended;
            self.alive.retain(|its| *its != id);
            self.wake_all(end_of(id));
        }
        self.panicked = self.panicked.take().or(panic);
    }

    pub(crate) fn kill(&mut self, process: ProcessId) {
        self.processes.retain(|(id, _)| *id != process);
        for task in self.tasks.iter_mut().filter(|task| task.process == process) {
            task.state = State::Ended;
            if let Some(mut stack) = task.stack.take() {
                reset(&mut stack);
                STACKS.with(|stacks| stacks.borrow_mut().push(stack.into_stack()));
            }
            // As the stack: nothing is dropped.
            std::mem::forget(std::mem::take(&mut task.locals));
        }
        let tasks = &self.tasks;
        self.alive.retain(|id| tasks[*id].process != process);
    }

    /// The value of this task for a key.
    pub(crate) fn local(&self, key: usize) -> Option<Rc<dyn Any>> {
        let task = &self.tasks[self.current?];
        task.locals.iter().find(|(at, _)| *at == key).map(|(_, value)| Rc::clone(value))
    }

    pub(crate) fn set_local(&mut self, key: usize, value: Rc<dyn Any>) {
        if let Some(id) = self.current {
            self.tasks[id].locals.push((key, value));
        }
    }

    pub(crate) fn take_locals(&mut self) -> Vec<(usize, Rc<dyn Any>)> {
        self.current.map_or_else(Vec::new, |id| std::mem::take(&mut self.tasks[id].locals))
    }

    /// Wakes all that wait for this.
    pub(crate) fn wake_all(&mut self, on: usize) {
        for n in 0..self.alive.len() {
            let id = self.alive[n];
            if self.tasks[id].waits_for(on) {
                self.wake(id, false);
            }
        }
    }

    /// Wakes one of them, which the dice decide.
    pub(crate) fn wake_one(&mut self, on: usize) {
        let waiting = self.alive.iter().copied().filter(|&id| self.tasks[id].waits_for(on));
        let waiting: Vec<_> = waiting.collect();
        if let Some(&id) = self.dice.choice(&waiting) {
            self.wake(id, false);
        }
    }

    fn wake(&mut self, id: TaskId, timed_out: bool) {
        let task = &mut self.tasks[id];
        (task.state, task.timed_out) = (State::Runnable, timed_out);
        self.note_change();
    }

    /// Gives a task its token, and wakes it if it is parked.
    pub(crate) fn unpark(&mut self, task: TaskId) {
        if let Some(task) = self.tasks.get_mut(task) {
            task.is_unparked = true;
        }
        self.wake_all(park_of(task));
    }

    /// Takes the token of the current task, if it has one.
    pub(crate) fn take_token(&mut self) -> bool {
        self.current.is_some_and(|id| std::mem::take(&mut self.tasks[id].is_unparked))
    }
}

/// What who joins a task waits for.
pub(crate) fn end_of(task: TaskId) -> usize {
    task * 4 + 1
}

/// What a parked task waits for.
pub(crate) fn park_of(task: TaskId) -> usize {
    task * 4 + 2
}

/// What a sleeping task waits for.
pub(crate) const SLEEP: usize = 3;

impl Scheduler {
    /// Whether every atomic access is a point.
    #[inline]
    pub(crate) fn is_fine() -> bool {
        IS_FINE.get()
    }

    /// A point of the current task.
    pub(crate) fn point(machine: &Rc<Machine>, point: Point) {
        // A switch in the middle of an unwinding would mix the panics of two tasks.
        if std::thread::panicking() {
            return;
        }
        let mut scheduler = machine.scheduler_mut();
        let Some(current) = scheduler.current else { return };
        scheduler.steps += 1;
        machine.advance(TICK);
        if point == Point::Yield {
            // Who gives up its turn waits for somebody to do something.
            scheduler.count_wait(true);
        }
        let is_early = scheduler.steps < scheduler.goes_on_until.min(scheduler.steps_max);
        if is_early && machine.now() < scheduler.earliest && point != Point::Yield {
            return;
        }
        scheduler.wake_overdue(machine.now());
        let next = scheduler.choose(point != Point::Yield);
        drop(scheduler);
        if next != Some(current) || machine.scheduler().is_interrupted() {
            machine.scheduler_mut().next = next;
            suspend();
        }
    }

    fn is_interrupted(&self) -> bool {
        self.steps >= self.steps_max || self.panicked.is_some() || self.is_paused
    }

    /// Returns to the harness.
    pub(crate) fn pause(machine: &Rc<Machine>) {
        let mut scheduler = machine.scheduler_mut();
        scheduler.is_paused = true;
        scheduler.next = scheduler.current;
        drop(scheduler);
        suspend();
    }

    /// How often the current task has waited.
    pub(crate) fn waits(&self) -> u64 {
        self.current.map_or(0, |id| self.tasks[id].waits)
    }

    /// How often the current task has waited for others.
    pub(crate) fn waits_for_others(&self) -> u64 {
        self.current.map_or(0, |id| self.tasks[id].waits_for_others)
    }

    /// Nanoseconds for which the current task has meant to sleep.
    pub(crate) fn slept(&self) -> u64 {
        self.current.map_or(0, |id| self.tasks[id].slept)
    }

    fn count_wait(&mut self, is_for_others: bool) {
        if let Some(id) = self.current {
            self.tasks[id].waits += 1;
            self.tasks[id].waits_for_others += u64::from(is_for_others);
        }
    }

    /// Has the current task wait. Returns whether the deadline ended it.
    pub(crate) fn wait(machine: &Rc<Machine>, on: usize, deadline: Option<u64>) -> bool {
        if std::thread::panicking() {
            return true;
        }
        let current = {
            let mut scheduler = machine.scheduler_mut();
            let Some(current) = scheduler.current else { return true };
            scheduler.steps += 1;
            scheduler.tasks[current].state = State::Waiting { on, deadline };
            scheduler.count_wait(on != SLEEP);
            if on == SLEEP {
                let until = deadline.unwrap_or(u64::MAX);
                scheduler.tasks[current].slept += until.saturating_sub(machine.now());
            }
            scheduler.earliest = scheduler.earliest.min(deadline.unwrap_or(u64::MAX));
            current
        };
        suspend();
        machine.scheduler().tasks[current].timed_out
    }

    pub(crate) fn run(machine: &Rc<Machine>, process: ProcessId, steps: u64) -> Outcome {
        let (last, limit) = {
            let mut scheduler = machine.scheduler_mut();
            let last = scheduler.steps.saturating_add(steps);
            let limit = std::mem::replace(&mut scheduler.steps_max, 0);
            scheduler.steps_max = limit.min(last);
            (last, limit)
        };
        let outcome = Self::run_to(machine, process, last, limit);
        let mut scheduler = machine.scheduler_mut();
        scheduler.steps_max = limit;
        scheduler.current = None;
        outcome
    }

    fn run_to(machine: &Rc<Machine>, process: ProcessId, last: u64, limit: u64) -> Outcome {
        loop {
            let (id, mut stack) = {
                let mut scheduler = machine.scheduler_mut();
                if let Some(panic) = scheduler.panicked.take() {
                    return Outcome::Panicked(panic);
                }
                let its = |id: &TaskId| scheduler.tasks[*id].process == process;
                if !scheduler.alive.iter().any(its) {
                    return Outcome::Ended;
                }
                if std::mem::take(&mut scheduler.is_paused) {
                    return Outcome::Paused;
                }
                if scheduler.steps >= last {
                    return Outcome::Interrupted;
                }
                if scheduler.steps >= limit {
                    return Outcome::Stuck(scheduler.picture());
                }
                let Some(id) = scheduler.next_or_wait(machine) else {
                    return Outcome::Deadlock(scheduler.picture());
                };
                scheduler.current = Some(id);
                let Some(stack) = scheduler.tasks[id].stack.take() else {
                    return Outcome::Deadlock(scheduler.picture());
                };
                (id, stack)
            };
            let way_out = WAY_OUT.get();
            let resumed = stack.resume(());
            WAY_OUT.set(way_out);
            let mut scheduler = machine.scheduler_mut();
            match resumed {
                CoroutineResult::Yield(()) => scheduler.tasks[id].stack = Some(stack),
                CoroutineResult::Return(()) => {
                    STACKS.with(|stacks| stacks.borrow_mut().push(stack.into_stack()));
                }
            }
        }
    }

    /// Who runs next. If nobody can, time passes; then who was stopped goes on.
    fn next_or_wait(&mut self, machine: &Rc<Machine>) -> Option<TaskId> {
        if let Some(next) = self.next.take().filter(|&id| self.can_run(id)) {
            return Some(next);
        }
        loop {
            self.wake_overdue(machine.now());
            if let Some(id) = self.choose(false) {
                return Some(id);
            }
            // Those that are stopped stay so while the others' time passes, up to a point.
            self.steps += 1;
            match self.next_deadline() {
                Some(at) => machine.set_now(at),
                None => {
                    let is_stopped = |id: &TaskId| self.tasks[*id].state == State::Runnable;
                    let stopped = self.alive.iter().copied().find(is_stopped)?;
                    self.tasks[stopped].stopped_until = 0;
                }
            }
        }
    }

    /// What each task does, for messages.
    pub(crate) fn picture(&self) -> String {
        let tasks = self.tasks.iter().enumerate().filter(|(_, task)| task.state != State::Ended);
        let line = |(id, task): (usize, &Task)| {
            format!("{}.{id} {}: {:?}", task.process, task.name, task.state)
        };
        tasks.map(line).collect::<Vec<_>>().join("; ")
    }
}

/// Leaves the current task until the scheduler comes back to it.
fn suspend() {
    let way_out = WAY_OUT.get();
    if way_out.is_null() {
        return;
    }
    suspend_by(way_out);
    WAY_OUT.set(way_out);
}

#[expect(unsafe_code, reason = "the way out of a coroutine is a reference into its stack")]
fn suspend_by(way_out: *const Yielder<(), ()>) {
    // SAFETY: it was set by the task that runs now, at its beginning or after its last suspension,
    // and lives on the task's stack for as long as the task does.
    let yielder = unsafe { &*way_out };
    yielder.suspend(());
}

#[expect(unsafe_code, reason = "a killed process drops nothing")]
fn reset(stack: &mut Stack) {
    // SAFETY: what is on the stack is leaked, as the memory of a process that was killed: no task
    // of it runs any more, and nothing outside of the process refers to it.
    unsafe { stack.force_reset() };
}
