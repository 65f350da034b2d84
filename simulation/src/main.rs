//! Runs seeds on the simulated machine.

mod life;
mod model;
mod plan;
mod run;

use plan::{Plan, Size};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
simulate [--seeds FIRST..END] [--seed N [--trace]] [--size minimum|large|fine]

Runs each seed once and stops at the first that fails.";

struct Arguments {
    seeds: std::ops::Range<u64>,
    trace: bool,
    size: Size,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::{Long, ValueExt};
    let mut parser = lexopt::Parser::from_env();
    let mut found = Arguments { seeds: 0..1000, trace: false, size: Size::Minimum };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => {
                let text: String = parser.value()?.parse()?;
                let (first, end) = text.split_once("..").ok_or("FIRST..END")?;
                found.seeds = first.parse().map_err(|_| "FIRST")?..end.parse().map_err(|_| "END")?;
            }
            Long("seed") => {
                let seed = parser.value()?.parse()?;
                found.seeds = seed..seed + 1;
            }
            Long("trace") => found.trace = true,
            Long("size") => {
                found.size = match parser.value()?.to_str() {
                    Some("minimum") => Size::Minimum,
                    Some("large") => Size::Large,
                    Some("fine") => Size::Fine,
                    _ => return Err("minimum, large or fine".into()),
                };
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (began, mut steps, mut runs) = (Instant::now(), 0, 0);
    for seed in arguments.seeds {
        let mut plan = Plan::draw(seed, arguments.size);
        plan.settings.is_traced = arguments.trace;
        let report = run::run(&plan);
        steps += report.steps;
        runs += 1;
        for line in &report.trace {
            println!("{line}");
        }
        if let Some(failure) = report.failure {
            if arguments.trace {
                println!("{plan:#?}");
            }
            println!("seed {seed}: {failure}");
            return ExitCode::FAILURE;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{runs} runs, {steps} points, {seconds:.1} s, {:.0} a minute", runs as f64 / seconds * 60.0);
    ExitCode::SUCCESS
}
