//! `bench`: it measures what it was asked to, and leaves nothing behind. Never how fast.

use crate::{expect, json};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const SMALL: [&str; 11] = [
    "--records",
    "300",
    "--dimension",
    "5",
    "--content",
    "40",
    "--duration",
    "200ms",
    "--warm-up",
    "20ms",
    "--json",
];

fn run(dir: &Path, args: &[&str]) -> Value {
    let report = json(0, ["bench", "--dir", dir.to_str().unwrap()].iter().chain(args));
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "a store was left behind");
    report
}

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn operations(report: &Value, of: &str) -> u64 {
    report[of]["operations"].as_u64().unwrap_or(0)
}

#[test]
fn a_closed_loop_reads_and_writes_as_asked() {
    let dir = place();
    let mix = [&SMALL[..], &["--reads", "1", "--writes", "1", "--threads", "2"]].concat();
    let report = run(dir.path(), &mix);
    assert_eq!(report["records"], 300);
    assert_eq!(report["threads"], 2);
    assert_eq!(report["durability"], "buffered");
    assert_eq!(report["unserved"], 0);
    let (reads, writes) = (operations(&report, "reads"), operations(&report, "writes"));
    assert!(reads > 0 && writes > 0, "{report}");
    let times = |of: &str| report["reads"][of].as_u64().unwrap();
    assert!(times("p50") <= times("p99") && times("p99") <= times("max"), "{report}");

    let only = run(dir.path(), &[&SMALL[..], &["--reads", "1", "--writes", "0"]].concat());
    assert!(operations(&only, "reads") > 0);
    assert_eq!(only["writes"], Value::Null);
}

/// Each operation that fell due is accounted for, however slow the machine is.
#[test]
fn an_open_loop_keeps_to_its_rate() {
    let args = [&SMALL[..], &["--rate", "1000", "--threads", "3", "--synced"]].concat();
    let report = run(place().path(), &args);
    assert_eq!(report["durability"], "synced");
    // From 20 ms on, one each millisecond, for 200 ms.
    assert_eq!(operations(&report, "reads") + operations(&report, "writes"), 200, "{report}");
    assert_eq!(report["rate"], 1000);
}

#[test]
fn the_table_is_for_people_and_a_mistake_has_a_message() {
    let dir = place();
    let to = ["bench", "--dir", dir.path().to_str().unwrap()];
    let text = SMALL.iter().filter(|word| **word != "--json");
    let (out, _) = expect(0, to.iter().chain(text).chain(&["--distribution", "uniform"]));
    assert!(out.contains("300 records of 5-d with 40 bytes of content, buffered"), "{out}");
    assert!(out.contains("p99.99") && out.contains("\nreads"), "{out}");

    let (_, err) = expect(1, to.iter().chain(&["--reads", "0", "--writes", "0"]));
    assert!(err.contains("nothing to do"), "{err}");
    expect(1, to.iter().chain(&["--dimension", "0"]));
    expect(2, to.iter().chain(&["--threads", "0"]));
    expect(2, to.iter().chain(&["--duration", "soon"]));
    let missing = dir.path().join("not there");
    let (_, err) = expect(1, ["bench", "--dir", missing.to_str().unwrap()]);
    assert!(err.contains("not there"), "{err}");
}
