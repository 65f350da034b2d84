//! Medians of all rounds, as Markdown tables, and all rounds as JSON.

use crate::engines::{Engine, Stratalog};
use crate::samples::{Sample, Samples};
use crate::work::BARE;
use serde_json::{Value, json};
use std::fmt::Write;

/// One column of a table.
pub struct Workload {
    pub name: &'static str,
    pub unit: &'static str,
    pub less_is_better: bool,
}

const fn rate(name: &'static str) -> Workload {
    Workload { name, unit: "k/s", less_is_better: false }
}

const fn time(name: &'static str) -> Workload {
    Workload { name, unit: "us", less_is_better: true }
}

const fn milliseconds(name: &'static str) -> Workload {
    Workload { name, unit: "ms", less_is_better: true }
}

/// Tables: what they are about, and their columns.
pub const TABLES: &[(&str, &[Workload])] = &[
    (
        "Buffered puts, one thread; bytes on disk",
        &[
            rate("put"),
            rate("put+sync"),
            rate("put x100"),
            Workload { name: "disk", unit: "x payload", less_is_better: true },
        ],
    ),
    (
        "Gets and a scan, one thread",
        &[
            rate("get"),
            rate("get zipf"),
            rate("get /1000"),
            rate("get zipf /1000"),
            rate("get+dot"),
            rate("get+dot zipf"),
            rate("scan+dot"),
        ],
    ),
    (
        "CPU time of the same, all threads of the process, for each record",
        &[
            time("put cpu"),
            time("put+sync cpu"),
            time("put x100 cpu"),
            time("get cpu"),
            time("get zipf cpu"),
            time("get /1000 cpu"),
            time("get zipf /1000 cpu"),
            time("get+dot cpu"),
            time("get+dot zipf cpu"),
            time("scan+dot cpu"),
        ],
    ),
    (
        "Durable puts, one thread and eight",
        &[
            rate("durable x1"),
            time("durable x1 p50"),
            time("durable x1 p99"),
            rate("durable x8"),
            time("durable x8 p50"),
            time("durable x8 p99"),
        ],
    ),
    (
        "Bursts of 15,000 puts into what was prepared; 4 GiB at a stretch",
        &[
            rate("put prepared"),
            Workload { name: "put prepared faults", unit: "/1000", less_is_better: true },
            rate("put sustained"),
            time("put sustained p99.9"),
        ],
    ),
    (
        "Puts and gets by threads",
        &[
            rate("put x1t"),
            rate("put x2t"),
            rate("put x4t"),
            rate("put x8t"),
            rate("get x1t"),
            rate("get x2t"),
            rate("get x4t"),
            rate("get x8t"),
        ],
    ),
    (
        "Latency of gets (Zipfian) of two threads, alone and beside two writers",
        &[
            time("get p50 alone"),
            time("get p99 alone"),
            time("get p99.9 alone"),
            time("get p50 beside 2 writers"),
            time("get p99 beside 2 writers"),
            time("get p99.9 beside 2 writers"),
        ],
    ),
    (
        "Opening again, first get included; memory without a file behind it",
        &[
            milliseconds("reopen after a close"),
            milliseconds("reopen after a kill"),
            Workload { name: "lost", unit: "% after a kill", less_is_better: true },
            Workload { name: "memory", unit: "bytes a record", less_is_better: true },
        ],
    ),
];

/// The median of all rounds.
pub fn median(samples: &[Sample], engine: &str, workload: &str) -> Option<f64> {
    let of = |s: &&Sample| s.engine == engine && s.workload == workload;
    let mut values: Vec<f64> = samples.iter().filter(of).map(|s| s.value).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values[values.len() / 2]);
    Some((low + high) / 2.0)
}

/// Three digits that count.
fn three(value: f64) -> String {
    let places = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

/// An engine's figure, and how many times better ours is.
fn cell(samples: &[Sample], engine: &str, workload: &Workload) -> String {
    let Some(value) = median(samples, engine, workload.name) else { return "-".into() };
    let ours = match median(samples, Stratalog::NAME, workload.name) {
        Some(ours) if engine != Stratalog::NAME => ours,
        _ => return format!("**{}**", three(value)),
    };
    let times = if workload.less_is_better { value / ours } else { ours / value };
    if !times.is_finite() {
        return three(value);
    }
    format!("{} ({}x)", three(value), three(times))
}

/// All tables.
pub fn markdown(samples: &[Sample], engines: &[&str]) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for (title, workloads) in TABLES {
        let there = |engine: &str, w: &Workload| median(samples, engine, w.name).is_some();
        if !workloads.iter().any(|w| there(Stratalog::NAME, w)) {
            continue;
        }
        let head: Vec<_> = workloads.iter().map(|w| format!("{}, {}", w.name, w.unit)).collect();
        writeln!(out, "\n{title}\n\n| | {} |", head.join(" | "))?;
        writeln!(out, "| --- {}|", "| ---: ".repeat(workloads.len()))?;
        for engine in engines {
            if workloads.iter().all(|w| median(samples, engine, w.name).is_none()) {
                continue;
            }
            let cells: Vec<_> = workloads.iter().map(|w| cell(samples, engine, w)).collect();
            writeln!(out, "| {engine} | {} |", cells.join(" | "))?;
        }
    }
    write!(out, "{}", spread(samples)?)?;
    Ok(out)
}

/// Returns how far the rounds of our own column lie apart: what a ratio is worth.
fn spread(samples: &[Sample]) -> Result<String, std::fmt::Error> {
    let mut out = String::from("\nstratalog's rounds, least to most:");
    for workload in TABLES.iter().flat_map(|(_, workloads)| *workloads) {
        let of = |s: &&Sample| s.engine == Stratalog::NAME && s.workload == workload.name;
        let values = || samples.iter().filter(of).map(|s| s.value);
        let (least, most) = (values().reduce(f64::min), values().reduce(f64::max));
        if let (Some(least), Some(most)) = (least, most) {
            write!(out, " {} {} to {};", workload.name, three(least), three(most))?;
        }
    }
    let out = out.trim_end_matches(';');
    Ok(format!("{out}.\n"))
}

/// Which quantiles of the durable puts' latencies are kept.
pub const QUANTILES: [f64; 12] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// Everything, round by round.
pub fn json(samples: &Samples, about: &[String]) -> Value {
    let rounds: Vec<_> = samples
        .all
        .iter()
        .map(|s| {
            json!({
                "round": s.round, "engine": s.engine, "workload": s.workload, "value": s.value,
            })
        })
        .collect();
    let workloads: Vec<_> = TABLES
        .iter()
        .flat_map(|(_, workloads)| *workloads)
        .map(|w| json!({"name": w.name, "unit": w.unit, "less_is_better": w.less_is_better}))
        .collect();
    let latencies: Vec<_> = samples
        .latencies
        .iter()
        .map(|(engine, threads, times)| {
            let at = |q: &f64| json!([q, times.value_at_quantile(*q) as f64 / 1000.0]);
            let us: Vec<_> = QUANTILES.iter().map(at).collect();
            json!({"engine": engine, "threads": threads, "puts": times.len(), "us": us})
        })
        .collect();
    json!({
        "about": about, "workloads": workloads, "rounds": rounds, "durable_latencies": latencies,
        "limit": BARE,
    })
}
