//! Makes a plan that fails smaller, as long as it fails: cut by cut, each in a process of its own,
//! since a simulated kill leaks memory.

use crate::plan::{Ending, Plan, Size};
use crate::run::run;
use simulated_machine::Faults;
use std::process::Command;

/// How often each smaller plan is tried, with other schedules.
const TRIES: u64 = 20;
/// Candidates that one process tries.
const CANDIDATES: usize = 20;

/// One step of shrinking: the number of the candidate that is taken, and of the schedule.
pub type Cut = (usize, u64);

/// Cuts as text, `3:0,17:2`.
pub fn text_of(cuts: &[Cut]) -> String {
    cuts.iter().map(|(n, schedule)| format!("{n}:{schedule}")).collect::<Vec<_>>().join(",")
}

/// Cuts from text.
pub fn cuts_of(text: &str) -> Option<Vec<Cut>> {
    let cut = |part: &str| {
        let (n, schedule) = part.split_once(':')?;
        Some((n.parse().ok()?, schedule.parse().ok()?))
    };
    text.split(',').filter(|part| !part.is_empty()).map(cut).collect()
}

/// The plan that is left after these cuts.
#[must_use]
pub fn apply(plan: &Plan, cuts: &[Cut]) -> Plan {
    let cut = |plan: Plan, (n, schedule): &Cut| match candidates(&plan).into_iter().nth(*n) {
        Some(smaller) => with_schedule(smaller, *schedule),
        None => plan,
    };
    cuts.iter().fold(plan.clone(), cut)
}

fn with_schedule(mut plan: Plan, n: u64) -> Plan {
    plan.settings.seed = plan.settings.seed.wrapping_add(n);
    plan
}

/// Finds cuts after which a seed still fails in the same way.
pub fn shrink(seed: u64, size: Size, failure: &str) -> std::io::Result<Vec<Cut>> {
    let program = std::env::current_exe()?;
    let (plan, kind) = (Plan::draw(seed, size), kind_of(failure));
    let mut cuts = Vec::new();
    let mut from = 0;
    while from < candidates(&apply(&plan, &cuts)).len() {
        let worker = Command::new(&program)
            .args(["--seed", &seed.to_string(), "--size", size.name()])
            .args(["--cuts", &text_of(&cuts), "--try-from", &from.to_string()])
            .args(["--kind", &kind])
            .output()?;
        let found = cuts_of(String::from_utf8_lossy(&worker.stdout).trim());
        match found.and_then(|found| found.first().copied()) {
            Some(cut) => {
                cuts.push(cut);
                from = 0;
            }
            None => from += CANDIDATES,
        }
    }
    Ok(cuts)
}

/// What a process of [`shrink`] does: the first of a few candidates that fails in this way.
#[must_use]
pub fn try_some(plan: &Plan, from: usize, kind: &str) -> Option<Cut> {
    let mut some = candidates(plan).into_iter().enumerate().skip(from).take(CANDIDATES);
    some.find_map(|(n, candidate)| {
        let fails = |schedule: &u64| {
            let report = run(&with_schedule(candidate.clone(), *schedule));
            report.failure.is_some_and(|failure| kind_of(&failure) == kind)
        };
        Some((n, (0..TRIES).find(fails)?))
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
