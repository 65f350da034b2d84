//! Runs seeds on the simulated machine.

mod life;
mod model;
mod neighbour;
mod plan;
mod run;
#[cfg(test)]
mod scenarios;
mod shrink;
mod workers;

use plan::{Plan, Size};
use shrink::Cut;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
simulate [--seeds FIRST..END] [--hours H] [--size minimum|large|fine] [--workers N]
    Runs seeds, and stops at the first that fails. N processes at a time; 0: in this one.
simulate --seed N [--size ..] [--trace] [--shrink | --cuts ..]
    Runs one seed again. --trace prints each call and each answer. --shrink leaves out what the
    failure does not need, prints the trace of the rest, and the cuts that lead to it again.";

struct Arguments {
    seeds: Range<u64>,
    is_one: bool,
    trace: bool,
    shrink: bool,
    cuts: Vec<Cut>,
    /// What a process of a shrinking one is to try: from which candidate, and the kind of failure.
    try_from: Option<usize>,
    kind: String,
    size: Size,
    workers: usize,
    time: Option<Duration>,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::{Long, ValueExt};
    let mut parser = lexopt::Parser::from_env();
    let mut found = Arguments {
        seeds: 0..1000,
        is_one: false,
        trace: false,
        shrink: false,
        cuts: Vec::new(),
        try_from: None,
        kind: String::new(),
        size: Size::Minimum,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        time: None,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => {
                let text: String = parser.value()?.parse()?;
                let (first, end) = text.split_once("..").ok_or("FIRST..END")?;
                found.seeds = number(first)?..number(end)?;
            }
            Long("seed") => {
                let seed = parser.value()?.parse()?;
                (found.seeds, found.is_one) = (seed..seed + 1, true);
            }
            Long("hours") => {
                let hours: f64 = parser.value()?.parse()?;
                found.time =
                    Some(Duration::try_from_secs_f64(hours * 3600.0).map_err(|e| e.to_string())?);
            }
            Long("trace") => found.trace = true,
            Long("shrink") => found.shrink = true,
            Long("cuts") => {
                let text: String = parser.value()?.parse()?;
                found.cuts = shrink::cuts_of(&text).ok_or("N:N,N:N,..")?;
            }
            Long("try-from") => found.try_from = Some(parser.value()?.parse()?),
            Long("kind") => found.kind = parser.value()?.parse()?,
            Long("size") => {
                let name: String = parser.value()?.parse()?;
                found.size = Size::of_name(&name).ok_or("minimum, large or fine")?;
            }
            Long("workers") => found.workers = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(found)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if arguments.is_one {
        run_one(&arguments)
    } else if arguments.workers == 0 {
        run_here(&arguments)
    } else {
        run_all(&arguments)
    }
}

fn run_one(arguments: &Arguments) -> ExitCode {
    let (seed, size) = (arguments.seeds.start, arguments.size);
    let mut plan = shrink::apply(&Plan::draw(seed, size), &arguments.cuts);
    if let Some(from) = arguments.try_from {
        let cut = shrink::try_some(&plan, from, &arguments.kind);
        println!("{}", shrink::text_of(cut.as_slice()));
        return ExitCode::SUCCESS;
    }
    if arguments.shrink
        && let Some(failure) = run::run(&plan).failure
    {
        match shrink::shrink(seed, size, &failure) {
            Ok(cuts) => {
                plan = shrink::apply(&plan, &cuts);
                println!("--cuts {}", shrink::text_of(&cuts));
            }
            Err(error) => eprintln!("{error}"),
        }
    }
    plan.settings.is_traced = arguments.trace || arguments.shrink;
    let report = run::run(&plan);
    for line in &report.trace {
        println!("{line}");
    }
    if plan.settings.is_traced {
        println!("{plan:#?}");
    }
    match report.failure {
        Some(failure) => {
            println!("seed {seed}: {failure}");
            ExitCode::FAILURE
        }
        None => {
            println!("seed {seed}: nothing is wrong, {} points", report.steps);
            ExitCode::SUCCESS
        }
    }
}

fn run_here(arguments: &Arguments) -> ExitCode {
    let mut counts = BTreeMap::<String, u64>::new();
    let mut failed = false;
    for seed in arguments.seeds.clone() {
        let report = run::run(&Plan::draw(seed, arguments.size));
        let all = report.counts.into_iter().chain([("seeds", 1), ("points", report.steps)]);
        for (name, count) in all {
            *counts.entry(name.to_owned()).or_default() += count;
        }
        if let Some(failure) = report.failure {
            println!("seed {seed}: {failure}");
            failed = true;
            break;
        }
    }
    workers::print_counts(&counts);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run_all(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let until = arguments.time.map(|time| began + time);
    let done = workers::run(arguments.seeds.clone(), arguments.size, arguments.workers, until);
    let total = match done {
        Ok(total) => total,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    for (name, count) in &total.counts {
        println!("{count:>14} {name}");
    }
    let (seconds, seeds) =
        (began.elapsed().as_secs_f64(), total.counts.get("seeds").copied().unwrap_or(0));
    println!("{seeds} seeds in {seconds:.0} s: {:.0} a minute", seeds as f64 / seconds * 60.0);
    for failure in &total.failures {
        print!("{failure}");
    }
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
