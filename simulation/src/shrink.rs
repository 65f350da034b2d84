//! Makes a plan that fails smaller, as long as it fails.

use crate::plan::{Ending, Plan};
use crate::run::run;
use simulated_machine::Faults;

/// How often each smaller plan is tried, with other schedules.
const TRIES: u64 = 20;

/// Returns a smaller plan that fails, if this one does.
#[must_use]
pub fn shrink(plan: &Plan) -> Option<Plan> {
    let kind = kind_of(&run(plan).failure?);
    let mut best = plan.clone();
    loop {
        let smaller = candidates(&best).into_iter().find_map(|candidate| fails(&candidate, &kind));
        match smaller {
            Some(smaller) => best = smaller,
            None => return Some(best),
        }
    }
}

/// The plan with a schedule under which it fails, if one of a few does.
fn fails(plan: &Plan, kind: &str) -> Option<Plan> {
    (0..TRIES).find_map(|n| {
        let mut plan = plan.clone();
        plan.settings.seed = plan.settings.seed.wrapping_add(n);
        run(&plan).failure.filter(|failure| kind_of(failure) == kind).map(|_| plan)
    })
}

/// A failure without what differs from plan to plan.
fn kind_of(failure: &str) -> String {
    failure.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

/// Plans that are smaller by one thing, the largest things first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut found = Vec::new();
    let mut add = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        found.push(smaller);
    };
    for life in 0..plan.lives.len() {
        if plan.lives.len() > 1 {
            add(&|plan| drop(plan.lives.remove(life)));
        }
    }
    for (life, its) in plan.lives.iter().enumerate() {
        for (thread, operations) in its.threads.iter().enumerate() {
            let mut len = operations.len();
            while len > 0 {
                for from in (0..operations.len()).step_by(len) {
                    let part = from..(from + len).min(operations.len());
                    add(&|plan| drop(plan.lives[life].threads[thread].drain(part.clone())));
                }
                len /= 2;
            }
        }
        if its.threads.iter().any(Vec::is_empty) {
            add(&|plan| plan.lives[life].threads.retain(|thread| !thread.is_empty()));
        }
        if its.faults != Faults::default() {
            add(&|plan| plan.lives[life].faults = Faults::default());
        }
        if let Ending::Kill { after } | Ending::PowerLoss { after } = its.ending {
            let less = |after: u64| match its.ending {
                Ending::Kill { .. } => Ending::Kill { after },
                _ => Ending::PowerLoss { after },
            };
            if after > 1 {
                add(&|plan| plan.lives[life].ending = less(after / 2));
                add(&|plan| plan.lives[life].ending = less(after - 1));
            }
        }
    }
    if plan.settings.stops_one_in > 0 {
        add(&|plan| plan.settings.stops_one_in = 0);
    }
    found
}
