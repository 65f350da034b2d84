//! `compact` and `stat --segments`.

use crate::{expect, json, words};
use std::path::{Path, PathBuf};
use stratalog::{Compaction, Options};
use tempfile::TempDir;

/// A store of which half is dead.
fn overwritten() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = Options::new().dimension(8).segment_size(1 << 20).compaction(Compaction::Manual);
    let store = options.open(&path).unwrap();
    for n in 0..4_000u32 {
        store.put((n % 2_000).to_le_bytes(), &[1.0; 8], [7; 500]).unwrap();
    }
    store.close().unwrap();
    (dir, path)
}

fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
    let mut files: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| read(entry.unwrap().path())).collect();
    files.sort();
    files
}

#[test]
fn compact_gives_back_what_the_dry_run_said() {
    let (_dir, path) = overwritten();
    let before = files(&path);
    let forecast = json(0, words(&path, "compact", &["--dry-run", "--json"]));
    let (text, err) = expect(0, words(&path, "compact", &["--dry-run"]));
    assert!(text.contains("nothing was changed") && err.is_empty(), "{text}{err}");
    assert!(files(&path) == before, "a dry run has changed something");
    assert!(forecast["segments_to_empty"].as_u64() >= Some(2), "{forecast}");
    let report = json(0, words(&path, "compact", &["--json"]));
    assert_eq!(report["reclaimed_bytes"], forecast["bytes_to_gain"], "{forecast} {report}");
    assert_eq!(report["moved_bytes"], forecast["bytes_to_copy"], "{forecast} {report}");
    assert_eq!(report["segments_removed"], forecast["segments_to_empty"]);
    assert!(report["disk_bytes"].as_u64() < report["disk_bytes_before"].as_u64(), "{report}");
    let stats = json(0, words(&path, "stat", &["--json"]));
    assert_eq!(
        (&stats["stats"]["dead_bytes"], &stats["stats"]["live_records"]),
        (&0.into(), &2_000.into())
    );
    let (text, err) = expect(0, words(&path, "compact", &[]));
    assert!(text.starts_with("removed 0 segments") && err.is_empty(), "{text}{err}");
    expect(0, words(&path, "verify", &[]));
}

#[test]
fn stat_lists_segments_when_asked() {
    let (_dir, path) = overwritten();
    let plain = json(0, words(&path, "stat", &["--json"]));
    assert!(plain.get("segments").is_none());
    let report = json(0, words(&path, "stat", &["--segments", "--json"]));
    let segments = report["segments"].as_array().unwrap();
    assert_eq!(segments.len() as u64, report["stats"]["segments"]);
    let sum = |name: &str| segments.iter().map(|s| s[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("live_bytes"), report["stats"]["live_bytes"]);
    assert_eq!(sum("dead_bytes") + sum("needed_bytes"), report["stats"]["dead_bytes"]);
    assert_eq!(sum("slots"), 4_000);
    let (text, _) = expect(0, words(&path, "stat", &["--segments"]));
    let drawn: Vec<_> = text.lines().filter(|line| line.contains("  xx")).collect();
    assert!(!drawn.is_empty() && drawn.iter().all(|line| line.is_ascii()), "{text}");
    assert!(text.lines().any(|line| line.contains("##")), "{text}");
}

#[test]
fn a_store_that_is_open_for_writing_is_not_compacted_but_forecast() {
    let (_dir, path) = overwritten();
    let store = Options::new().compaction(Compaction::Manual).open(&path).unwrap();
    let (_, err) = expect(1, words(&path, "compact", &[]));
    assert!(err.contains("is open for writing"), "{err}");
    expect(0, words(&path, "compact", &["--dry-run"]));
    store.close().unwrap();
}
