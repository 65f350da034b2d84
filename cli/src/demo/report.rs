//! What the demo has to say, as text for a newcomer and as JSON.

use super::load::Ran;
use crate::output::{count, duration, size};
use crate::stat::{Counts, Recovery};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;
use stratalog::Stats;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub store: String,
    pub dimension: usize,
    pub threads: usize,
    pub cores: usize,
    pub load: Option<Load>,
    pub stats: Option<Counts>,
    pub kills: Vec<Kill>,
    pub verify: Option<Verify>,
    pub checks: u64,
}

#[derive(Debug, Serialize)]
pub struct Load {
    pub seconds: f64,
    pub inserts: u64,
    pub overwrites: u64,
    pub removes: u64,
    pub reads: u64,
    pub reads_found: u64,
    pub put: Latency,
    pub get: Latency,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub max_ns: u64,
}

#[derive(Debug, Serialize)]
pub struct Kill {
    pub after_seconds: f64,
    pub acknowledged: u64,
    pub pending: u64,
    pub reopened_seconds: f64,
    pub checked: u64,
    pub lost: u64,
    pub wrong: u64,
    pub recovery: Recovery,
}

#[derive(Debug, Serialize)]
pub struct Verify {
    pub records: u64,
    pub bytes: u64,
    pub seconds: f64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(ns: &Histogram<u64>) -> Self {
        Self {
            p50_ns: ns.value_at_quantile(0.5),
            p99_ns: ns.value_at_quantile(0.99),
            p99_9_ns: ns.value_at_quantile(0.999),
            max_ns: ns.max(),
        }
    }
}

impl From<&Ran> for Load {
    fn from(ran: &Ran) -> Self {
        Self {
            seconds: ran.elapsed.as_secs_f64(),
            inserts: ran.writes.inserts,
            overwrites: ran.writes.overwrites,
            removes: ran.writes.removes,
            reads: ran.reads.latency.len(),
            reads_found: ran.reads.found,
            put: Latency::from(&ran.writes.latency),
            get: Latency::from(&ran.reads.latency),
        }
    }
}

impl Load {
    pub fn lines(&self) -> Vec<String> {
        let rate = |n: u64| count((n as f64 / self.seconds.max(1e-9)) as u64);
        let writes = self.inserts + self.overwrites + self.removes;
        let row = |name: &str, latency: &Latency| {
            let Latency { p50_ns, p99_ns, p99_9_ns, max_ns } = *latency;
            let [p50, p99, p99_9, max] =
                [p50_ns, p99_ns, p99_9_ns, max_ns].map(|ns| duration(Duration::from_nanos(ns)));
            format!("   {name:<12}{p50:>12}{p99:>12}{p99_9:>12}{max:>12}")
        };
        let (inserts, overwrites) = (count(self.inserts), count(self.overwrites));
        vec![
            format!("   writes  {:>12}  {:>10}/s", count(writes), rate(writes)),
            format!(
                "           {inserts} new, {overwrites} overwrites, {} removes",
                count(self.removes)
            ),
            format!("   reads   {:>12}  {:>10}/s", count(self.reads), rate(self.reads)),
            "           every one compared to the bit with what it had to be".to_owned(),
            format!("   {:<12}{:>12}{:>12}{:>12}{:>12}", "latency", "p50", "p99", "p99.9", "max"),
            row("write", &self.put),
            row("get", &self.get),
        ]
    }
}

/// What a store takes.
pub fn size_lines(stats: &Stats) -> Vec<String> {
    let each = |bytes: u64| bytes as f64 / stats.live_records.max(1) as f64;
    vec![
        format!("   live records   {:>12}", count(stats.live_records)),
        format!(
            "   live log       {:>12}  {:.1} bytes a record",
            size(stats.live_bytes),
            each(stats.live_bytes)
        ),
        format!("   dead log       {:>12}  overwritten and removed", size(stats.dead_bytes)),
        format!(
            "   disk           {:>12}  {:.1} bytes a record, in {} segments",
            size(stats.disk_bytes),
            each(stats.disk_bytes),
            stats.segments
        ),
        format!(
            "   index, in RAM  {:>12}  {:.1} bytes a record",
            size(stats.index_bytes),
            each(stats.index_bytes)
        ),
    ]
}

/// Columns of the table of kills.
const COLUMNS: [(&str, usize); 10] = [
    ("killed at", 12),
    ("acked", 9),
    ("pending", 9),
    ("reopened in", 13),
    ("records", 9),
    ("scanned", 12),
    ("torn", 6),
    ("checked", 9),
    ("lost", 6),
    ("wrong", 7),
];

fn row(cells: [String; COLUMNS.len()]) -> String {
    let mut row = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        row.push_str(&format!("{cell:>width$}"));
    }
    row
}

impl Kill {
    /// Heading of the table that `line` fills.
    pub fn heading() -> String {
        row(COLUMNS.map(|(name, _)| name.to_owned()))
    }

    pub fn line(&self) -> String {
        let time = |seconds| duration(Duration::from_secs_f64(seconds));
        row([
            time(self.after_seconds),
            count(self.acknowledged),
            count(self.pending),
            time(self.reopened_seconds),
            count(self.recovery.records),
            size(self.recovery.scanned_bytes),
            count(self.recovery.torn),
            count(self.checked),
            count(self.lost),
            count(self.wrong),
        ])
    }
}
