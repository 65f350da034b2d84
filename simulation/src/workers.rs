//! Runs seeds in processes of their own: a simulated kill drops nothing, so memory is lost with
//! each, and a machine has more than one core.

use crate::plan::Size;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Seeds that one process runs.
const SEEDS: u64 = 1000;
/// A line that a worker ends with: what happened how often.
const COUNT: &str = "count ";

/// What happened how often.
type Counts = Vec<(String, u64)>;

/// What all workers came to.
#[derive(Debug, Default)]
pub struct Total {
    pub counts: BTreeMap<String, u64>,
    /// Output of the workers that failed.
    pub failures: Vec<String>,
}

/// Prints what a worker's parent adds up.
pub fn print_counts(counts: &BTreeMap<String, u64>) {
    for (name, count) in counts {
        println!("{COUNT}{count} {name}");
    }
}

/// Runs all seeds in `workers` processes at a time. Stops at the first failure, or at `until`.
pub fn run(
    seeds: Range<u64>,
    size: Size,
    workers: usize,
    until: Option<std::time::Instant>,
) -> io::Result<Total> {
    let program = std::env::current_exe()?;
    let (next, failed, total) =
        (AtomicU64::new(seeds.start), AtomicBool::new(false), Mutex::new(Total::default()));
    let work = || -> io::Result<()> {
        // Relaxed, here and below: counters that order nothing.
        while !failed.load(Ordering::Relaxed)
            && until.is_none_or(|until| std::time::Instant::now() < until)
        {
            let first = next.fetch_add(SEEDS, Ordering::Relaxed);
            if first >= seeds.end {
                break;
            }
            let part = first..seeds.end.min(first.saturating_add(SEEDS));
            let (counts, failure) = run_part(&program, part, size)?;
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, count) in counts {
                *total.counts.entry(name).or_default() += count;
            }
            if let Some(failure) = failure {
                failed.store(true, Ordering::Relaxed);
                total.failures.push(failure);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a worker's thread panicked")))
        })
    })?;
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn run_part(
    program: &std::path::Path,
    part: Range<u64>,
    size: Size,
) -> io::Result<(Counts, Option<String>)> {
    let mut worker = Command::new(program)
        .args(["--workers", "0", "--size", size.name()])
        .args(["--seeds", &format!("{}..{}", part.start, part.end)])
        .stdout(Stdio::piped())
        .spawn()?;
    let (mut counts, mut said) = (Vec::new(), String::new());
    if let Some(output) = worker.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            match line.strip_prefix(COUNT).and_then(|line| line.split_once(' ')) {
                Some((count, name)) => counts.push((name.to_owned(), count.parse().unwrap_or(0))),
                None => said = said + &line + "\n",
            }
        }
    }
    let done = worker.wait()?;
    let failure = (!done.success()).then(|| format!("seeds {part:?}: {done}\n{said}"));
    Ok((counts, failure))
}
