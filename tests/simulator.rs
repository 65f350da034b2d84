//! The whole store against a plain map: lives of random calls of every public operation, closed,
//! dropped, killed, with power lost, with flushes and renames that fail, under a clock that moves
//! when it is told to. Invariants: each answer is the map's; whatever ends a life loses nothing
//! that was promised, and what power loss leaves of the rest is a prefix in LSN order.
//!
//! A life follows from its seed, each step from seed and number alone, so that steps can be left
//! out: a failure names the seed and the fewest steps that still fail. (Background threads and
//! salts are not seeded: a failure that depends on them may not come back.)
//!
//!     STRATALOG_SIMULATOR_SEEDS=500 STRATALOG_SIMULATOR_STEPS=5000 \
//!         cargo test --release --test simulator -- --nocapture        # the long form
//!     STRATALOG_SIMULATOR_SEED=17 STRATALOG_SIMULATOR_ONLY=3,40,41 cargo test --test simulator
#![cfg(test)]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "power_loss/device.rs"]
#[expect(dead_code, reason = "the power-loss test uses the rest")]
mod device;
#[path = "common/dice.rs"]
mod dice;
#[path = "simulator/ends.rs"]
mod ends;
#[path = "simulator/model.rs"]
mod model;
#[path = "simulator/witness.rs"]
mod witness;
#[path = "simulator/world.rs"]
mod world;

use dice::Dice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use world::{Profile, World};

const SEEDS: u64 = 6;
const STEPS: u32 = 250;
/// Runs that shrinking may cost.
const SHRINKING_RUNS: u32 = 200;

type Step = (&'static str, u64, fn(&mut World));

/// The steps there are, each with how often it comes.
const ALL: &[Step] = &[
    ("put", 330, World::put),
    ("put_if", 90, World::put_if),
    ("remove", 80, World::remove),
    ("batch", 70, World::batch),
    ("tag", 80, World::tag),
    ("read", 120, World::read),
    ("retire_segment", 20, World::retire_segment),
    ("search", 25, World::search),
    ("everything", 15, World::everything),
    ("refused", 8, World::refused),
    ("sync", 30, World::sync),
    ("compact", 10, World::compact),
    ("verify", 4, World::verify),
    ("back_up", 2, World::back_up),
    ("reopen", 4, World::reopen),
    ("read_only", 4, World::read_only),
    ("kill", 3, World::kill),
    ("power_loss", 5, World::power_loss),
    ("failing_flush", 2, World::failing_flush),
    ("failing_renames", 2, World::failing_renames),
    ("later", 15, World::later),
];

fn step_of(seed: u64, step: u32) -> Step {
    let weights: u64 = ALL.iter().map(|(_, weight, _)| weight).sum();
    let mut at = Dice(common::mix(seed << 20 ^ u64::from(step)) ^ 1).below(weights);
    for entry in ALL {
        if at < entry.1 {
            return *entry;
        }
        at -= entry.1;
    }
    unreachable!("the weights were added up")
}

/// Lives through some steps. The step that failed, if one did.
fn live(seed: u64, steps: &[u32]) -> Result<u64, u32> {
    witness::reset(seed.is_multiple_of(2));
    let mut at = 0;
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(Profile::of(seed));
        for step in steps {
            at = *step;
            world.begin(seed, *step);
            step_of(seed, *step).2(&mut world);
        }
        world.everything();
        world.end()
    }));
    run.map_err(|_said| at)
}

/// Leaves out what need not be done for the failure to come.
fn shrink(seed: u64, mut steps: Vec<u32>) -> Vec<u32> {
    let mut runs = 0;
    let mut part = steps.len().div_ceil(2);
    while part > 0 && runs < SHRINKING_RUNS {
        let mut from = 0;
        // The last one is the one that fails.
        while from + 1 < steps.len() && runs < SHRINKING_RUNS {
            let to = (from + part).min(steps.len() - 1);
            let without: Vec<u32> = [&steps[..from], &steps[to..]].concat();
            runs += 1;
            match live(seed, &without) {
                Err(step) => {
                    let end = without.iter().position(|s| *s == step).map_or(0, |n| n + 1);
                    steps = without[..end].to_vec();
                }
                Ok(_) => from = to,
            }
        }
        part /= 2;
    }
    steps
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

fn only() -> Option<Vec<u32>> {
    let text = std::env::var("STRATALOG_SIMULATOR_ONLY").ok()?;
    Some(text.split(',').map(|step| step.trim().parse().expect("a step")).collect())
}

#[test]
fn every_answer_is_the_models_whatever_ends_a_life() {
    let steps = number("STRATALOG_SIMULATOR_STEPS").map_or(STEPS, |steps| steps as u32);
    let first = number("STRATALOG_SIMULATOR_SEED").unwrap_or(1);
    let only = only();
    let one = number("STRATALOG_SIMULATOR_SEED").is_some() || only.is_some();
    let seeds = number("STRATALOG_SIMULATOR_SEEDS").unwrap_or(if one { 1 } else { SEEDS });
    let (started, mut crashes) = (Instant::now(), 0);
    for seed in first..first + seeds {
        let steps = only.clone().unwrap_or_else(|| (0..steps).collect());
        match live(seed, &steps) {
            Ok(more) => crashes += more,
            Err(at) => {
                let upto: Vec<u32> = steps.iter().copied().filter(|step| *step <= at).collect();
                println!("seed {seed}, {:?}: fails at step {at}; shrinking", Profile::of(seed));
                let fewest = shrink(seed, upto);
                let list = fewest.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
                let names: Vec<_> = fewest.iter().map(|step| step_of(seed, *step).0).collect();
                panic!(
                    "STRATALOG_SIMULATOR_SEED={seed} STRATALOG_SIMULATOR_ONLY={list} fails: {}",
                    names.join(", ")
                );
            }
        }
        let lived = seed + 1 - first;
        if lived.is_multiple_of(10) || lived == seeds {
            println!(
                "{lived} lives of {} steps, {crashes} times gone on in an image, {:?}",
                steps.len(),
                started.elapsed()
            );
        }
    }
}
