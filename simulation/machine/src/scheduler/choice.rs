//! Who runs next.

use super::{Policy, Scheduler, State, TaskId};

/// Points after which the running task gets the lowest priority.
pub(super) const TURN: u64 = 1 << 16;

impl Scheduler {
    pub(super) fn can_run(&self, id: TaskId) -> bool {
        let task = &self.tasks[id];
        task.state == State::Runnable && task.stopped_until <= self.steps
    }

    pub(super) fn wake_overdue(&mut self, now: u64) {
        if now < self.earliest {
            return;
        }
        for n in 0..self.alive.len() {
            let id = self.alive[n];
            let is_over = |at: u64| at <= now;
            match self.tasks[id].state {
                State::Waiting { deadline, .. } if deadline.is_some_and(is_over) => {
                    self.wake(id, true);
                }
                _ => {}
            }
        }
        self.earliest = self.next_deadline().unwrap_or(u64::MAX);
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let deadline = |id: &TaskId| match self.tasks[*id].state {
            // What is centuries ahead never comes.
            State::Waiting { deadline, .. } => deadline.filter(|at| *at < u64::MAX / 2),
            _ => None,
        };
        self.alive.iter().filter_map(deadline).min()
    }

    /// Chooses who runs next; `None`: nobody can.
    pub(super) fn choose(&mut self, may_stay: bool) -> Option<TaskId> {
        let current = self.current.filter(|&id| self.can_run(id));
        if may_stay && current.is_some() && self.steps < self.goes_on_until {
            return current;
        }
        let policy = if self.is_fair { Policy::Uniform { stays: 8 } } else { self.policy };
        let mut able = std::mem::take(&mut self.able);
        able.clear();
        able.extend(self.alive.iter().copied().filter(|&id| self.can_run(id)));
        let chosen = match policy {
            Policy::Uniform { stays } => {
                // The mean distance is `stays` points.
                self.goes_on_until =
                    self.steps + self.dice.u64(1..=u64::from(stays.max(1)) * 2 - 1);
                self.dice.choice(&able).copied()
            }
            Policy::Priorities { .. } => {
                let is_over = self.steps >= self.turn_ends;
                if is_over {
                    self.turn_ends = self.steps + TURN;
                }
                let is_change = is_over || self.changes.contains(&self.steps);
                if let Some(id) = current.filter(|_| is_change) {
                    self.lowest -= 1;
                    self.tasks[id].priority = self.lowest;
                }
                self.goes_on_until = if may_stay { self.next_change() } else { 0 };
                let others = able.iter().copied().filter(|&id| may_stay || Some(id) != current);
                let best = others.max_by_key(|&id| self.tasks[id].priority);
                best.or(current)
            }
        };
        self.able = able;
        chosen
    }

    /// The next point at which priorities change, or one that was stopped goes on.
    pub(super) fn next_change(&self) -> u64 {
        let stopped = self.alive.iter().map(|&id| self.tasks[id].stopped_until);
        let points = stopped.chain(self.changes.iter().copied()).chain([self.turn_ends]);
        points.filter(|at| *at > self.steps).min().unwrap_or(u64::MAX)
    }

    /// Others can run than before.
    pub(super) fn note_change(&mut self) {
        if let Policy::Priorities { .. } = self.policy {
            self.goes_on_until = 0;
        }
    }

    /// The deadline that a clock may jump to.
    pub(crate) fn jump(&self) -> Option<u64> {
        self.next_deadline().filter(|_| !self.is_fair)
    }

    /// Has the current task stop for long.
    pub(crate) fn stop_current(&mut self) {
        if let Some(id) = self.current.filter(|_| !self.is_fair) {
            let (least, most) = self.stop_magnitudes;
            let magnitude = self.dice.u32(least..=most);
            self.tasks[id].stopped_until = self.steps + self.dice.u64(1..=1 << magnitude);
            self.goes_on_until = 0;
        }
    }

    /// Until there is another process, nobody is stopped or overtaken for long.
    pub(crate) fn be_fair(&mut self) {
        (self.is_fair, self.goes_on_until) = (true, 0);
        self.tasks.iter_mut().for_each(|task| task.stopped_until = 0);
    }
}
