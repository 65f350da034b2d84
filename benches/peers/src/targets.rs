//! Each target, and what the rounds say of it. Ratios are made round by round, of figures that were
//! taken within minutes of each other, and the median of those counts.

use crate::engines::{Dash, Engine, Lmdb, Stratalog};
use crate::samples::Sample;
use crate::work::BARE;
use std::fmt::Write;

const ROCKS: &str = "RocksDB";

/// What our figure is compared with.
enum Beside {
    /// The same of an engine: ours is to be so many times as good.
    Engine(&'static str, f64),
    /// Another one of our own, of which it may be so many times at most.
    Own(&'static str, f64),
    /// Nothing: it may be so much at most.
    Nothing(f64),
}

struct Target {
    workload: &'static str,
    less_is_better: bool,
    beside: Beside,
}

const fn times(workload: &'static str, engine: &'static str, wanted: f64) -> Target {
    Target { workload, less_is_better: false, beside: Beside::Engine(engine, wanted) }
}

const fn sooner(workload: &'static str, engine: &'static str, wanted: f64) -> Target {
    Target { workload, less_is_better: true, beside: Beside::Engine(engine, wanted) }
}

const fn at_most(workload: &'static str, beside: Beside) -> Target {
    Target { workload, less_is_better: true, beside }
}

/// Bytes on disk and in memory have targets too, for stores so large that what is prepared and what
/// is there however little is stored do not count: `benches/scale.rs`, `tests/memory.rs`. The last
/// one is none of the engine's: it says whether what was measured is what the first two mean.
const TARGETS: [Target; 17] = [
    times("put prepared", Lmdb::NAME, 5.0),
    times("put prepared", Dash::NAME, 4.0),
    // Two cores; 2.0 where everything shares one: see `wanted`.
    times("put sustained", Lmdb::NAME, 3.5),
    times("get", Lmdb::NAME, 4.0),
    times("get", Dash::NAME, 3.0),
    times("get zipf", Lmdb::NAME, 4.0),
    times("get zipf", Dash::NAME, 3.0),
    times("get+dot", Lmdb::NAME, 1.6),
    times("get+dot", Dash::NAME, 1.2),
    times("get+dot zipf", Lmdb::NAME, 1.6),
    times("get+dot zipf", Dash::NAME, 1.2),
    at_most("get p99 beside 2 writers", Beside::Own("get p99 alone", 1.3)),
    sooner("reopen after a kill", ROCKS, 10.0),
    at_most("lost", Beside::Nothing(0.0)),
    times("durable x1", BARE, 0.85),
    times("durable x8", ROCKS, 3.0),
    at_most("put prepared faults", Beside::Nothing(20.0)),
];

/// A put at a stretch needs a second core for making pages.
fn wanted(target: &Target, wanted: f64) -> f64 {
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    if target.workload == "put sustained" && cpus == 1 { 2.0 } else { wanted }
}

/// A figure of a round.
fn of(samples: &[Sample], round: u32, engine: &str, workload: &str) -> Option<f64> {
    let is = |s: &&Sample| s.round == round && s.engine == engine && s.workload == workload;
    samples.iter().find(is).map(|sample| sample.value)
}

impl Target {
    /// What it is called, what is wanted, and the figure of one round.
    fn one(&self, samples: &[Sample], round: u32) -> Option<f64> {
        let ours = of(samples, round, Stratalog::NAME, self.workload)?;
        let ratio = match self.beside {
            Beside::Engine(engine, _) => {
                let theirs = of(samples, round, engine, self.workload)?;
                if self.less_is_better { theirs / ours } else { ours / theirs }
            }
            Beside::Own(other, _) => ours / of(samples, round, Stratalog::NAME, other)?,
            Beside::Nothing(_) => ours,
        };
        ratio.is_finite().then_some(ratio)
    }

    fn row(&self, samples: &[Sample], rounds: u32) -> Option<String> {
        let mut all: Vec<f64> = (0..rounds).filter_map(|n| self.one(samples, n)).collect();
        all.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*all.first()?, *all.last()?);
        let now = (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0;
        let (beside, wanted, met) = match self.beside {
            Beside::Engine(engine, times) => {
                let times = wanted(self, times);
                (format!(", beside {engine}"), format!("at least {times}x"), now >= times)
            }
            Beside::Own(other, times) => {
                (format!(", to {other}"), format!("at most {times}x"), now <= times)
            }
            Beside::Nothing(most) => (String::new(), format!("at most {most}"), now <= most),
        };
        let met = if met { "yes" } else { "no" };
        Some(format!(
            "| {}{beside} | {wanted} | {now:.2} | {least:.2} to {most:.2} | {} | {met} |\n",
            self.workload,
            all.len()
        ))
    }
}

/// The targets that these rounds have figures for.
pub fn markdown(samples: &[Sample], rounds: u32) -> Result<String, std::fmt::Error> {
    let rows: String = TARGETS.iter().filter_map(|target| target.row(samples, rounds)).collect();
    let mut out = String::new();
    if !rows.is_empty() {
        writeln!(out, "\nTargets: medians of each round's own ratio\n")?;
        writeln!(out, "| what | target | now | rounds | number | met? |")?;
        writeln!(out, "| --- | --- | ---: | ---: | ---: | --- |")?;
        out.push_str(&rows);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, engine: &str, value: f64) -> Sample {
        Sample { round, engine: engine.into(), workload: "get".into(), value }
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        // The second round was slow for everybody.
        let mut samples = Vec::new();
        for (round, ours, theirs) in [(0, 400.0, 100.0), (1, 45.0, 10.0), (2, 300.0, 100.0)] {
            samples.push(sample(round, Stratalog::NAME, ours));
            samples.push(sample(round, Lmdb::NAME, theirs));
        }
        let text = markdown(&samples, 3).unwrap();
        assert!(
            text.contains("| get, beside LMDB | at least 4x | 4.00 | 3.00 to 4.50 | 3 | yes |")
        );
        samples[0].value = 390.0;
        let text = markdown(&samples, 3).unwrap();
        assert!(text.contains("| 3.90 | 3.00 to 4.50 | 3 | no |"));
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        assert_eq!(markdown(&[sample(0, Lmdb::NAME, 1.0)], 1).unwrap(), "");
    }
}
