//! `demo` and `torture`, small: they pass, and they leave nothing behind.

use crate::{expect, json};
use std::fs;

/// `STRATALOG_KILLS=n` for more of them.
#[test]
fn kills_of_two_stores_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    let kills = std::env::var("STRATALOG_KILLS").map_or(12, |n| n.parse::<u64>().unwrap());
    let (many, place) = (format!("--kills={kills}"), work.to_str().unwrap());
    let report = json(0, ["torture", place, &many, "--stores=2", "--seed=7", "--json"]);
    assert_eq!(report["kills"], kills);
    assert_eq!(report["seed"], 7);
    assert_eq!((&report["lost"], &report["wrong"]), (&0.into(), &0.into()));
    assert!(report["acknowledged"].as_u64().unwrap() > 0, "{report}");
    assert!(report["records"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "the store was not removed");
}

#[test]
fn torture_touches_no_directory_that_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    let (_, err) = expect(1, ["torture", dir.path().to_str().unwrap(), "--kills=1"]);
    assert!(err.contains("is not empty"), "{err}");
    assert_eq!(fs::read(dir.path().join("mine")).unwrap(), b"x");
}

#[test]
fn the_demo_passes_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let size = ["--records=700", "--kills=1", "--dir", place];
    let (out, _) = expect(0, [&["demo"], &size[..]].concat());
    assert!(out.trim_end().ends_with("checks passed"), "{out}");
    assert!(out.is_ascii(), "{out}");
    assert!(out.lines().all(|line| line.len() <= 100), "{out}");
    let report = json(0, [&["demo", "--json"], &size[..]].concat());
    assert_eq!(report["load"]["inserts"].as_u64().map(|n| n >= 700), Some(true));
    assert!(report["load"]["get"]["p99_ns"].as_u64() > Some(0));
    assert!(report["checks"].as_u64() > Some(700));
    assert_eq!(report["kills"][0]["lost"], 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the store was not removed");
}
