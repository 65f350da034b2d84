//! Segments that no manifest names yet, as a kill in a burst of writes leaves them. Invariant: one
//! that is damaged, or cannot be opened, is not taken for a stranger's.
#![cfg(test)]

use std::fs::Permissions;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use stratalog::internals::format::header::CURSOR_AT;
use stratalog::{Compaction, Error, Lsn, Options, Recovery};

const SEGMENT: u64 = 1 << 20;

fn options() -> Options {
    let options = Options::new().dimension(16).segment_size(SEGMENT).flush_interval(None);
    options.compaction(Compaction::Manual)
}

/// Of the log, by number.
fn segments(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    found.sort();
    found
}

/// The files of a store that was killed before its manifest named any segment; three hold records.
/// The lowest LSN that was not given.
fn killed(to: &Path) -> Lsn {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    let manifest = std::fs::read(store.path().join("MANIFEST")).unwrap();
    for n in 0..500 {
        store.put(format!("id-{n}"), &[n as f32; 16], vec![1; 5000]).unwrap();
    }
    std::fs::create_dir(to).unwrap();
    for from in segments(store.path()) {
        match std::fs::copy(&from, to.join(from.file_name().unwrap())) {
            // Preallocated in vain.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
    std::fs::write(to.join("MANIFEST"), manifest).unwrap();
    store.stats().tail
}

/// The one that was used after so many others: numbers may be left out.
fn used(path: &Path, before: usize) -> PathBuf {
    let is_used = |path: &PathBuf| {
        let mut cursor = [0; 8];
        std::fs::File::open(path).unwrap().read_exact_at(&mut cursor, CURSOR_AT as u64).unwrap();
        cursor != [0; 8]
    };
    segments(path).into_iter().filter(is_used).nth(before).unwrap()
}

fn damage(segment: &Path, how: &str) {
    let file = std::fs::File::options().write(true).open(segment).unwrap();
    match how {
        "cut short" => file.set_len(SEGMENT / 2).unwrap(),
        "a bit of the store" => file.write_all_at(&[0xFF], 20).unwrap(),
        _ => file.write_all_at(&[0; 32], 0).unwrap(),
    }
}

/// It was a foreign file, and all was well in every mode: records that had been acknowledged were
/// gone without a word, and its LSNs were given again.
#[test]
fn a_damaged_segment_that_no_manifest_names_yet_is_reported_and_its_lsns_stay_given() {
    for how in ["cut short", "a bit of the store", "the store"] {
        for before in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let tail = killed(&path);
            let segment = used(&path, before);
            damage(&segment, how);
            let bytes = std::fs::read(&segment).unwrap();
            let strict = options().recovery(Recovery::Strict).open(&path);
            assert!(matches!(strict, Err(Error::Corrupt { .. })), "{how}, {before}");
            for mode in [Recovery::Salvage, Recovery::Tolerant] {
                let store = options().recovery(mode).read_only(true).open(&path).unwrap();
                let report = store.recovery();
                assert!(report.lost.iter().any(|lost| lost.path == segment), "{how}: {report:?}");
                assert!(!store.verify().unwrap().is_clean(), "{how}, {before}, {mode:?}");
                assert!(store.contains("id-0") && store.len() < 500);
            }
            let store = options().open(&path).unwrap();
            assert!(!store.recovery().is_clean(), "{how}, {before}");
            assert!(store.put("later", &[1.0; 16], "later").unwrap() >= tail, "{how}, {before}");
            store.close().unwrap();
            assert!(options().open(&path).unwrap().contains("later"));
            assert_eq!(std::fs::read(&segment).unwrap(), bytes, "it was changed");
        }
    }
}

/// Root may open everything, so this needs a user who is not. What one opening took for a foreign
/// file, the manifest had gone past when the file could be opened again.
#[test]
fn a_segment_that_no_manifest_names_yet_and_that_may_not_be_opened_is_not_given_up() {
    const ALONE: &str = "STRATALOG_UNNAMED_ALONE";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    killed(&path);
    let segment = used(&path, 2);
    std::fs::set_permissions(&segment, Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&segment).is_ok() {
        assert!(std::env::var_os(ALONE).is_none(), "nobody may read everything, too");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture"]);
        command
            .arg("a_segment_that_no_manifest_names_yet_and_that_may_not_be_opened_is_not_given_up");
        match command.env(ALONE, "1").env("TMPDIR", "/tmp").output() {
            Ok(output) if output.status.success() => {}
            Ok(output) if !output.stdout.is_empty() => {
                panic!("{}", String::from_utf8_lossy(&output.stdout))
            }
            other => println!("skipped, no other user can run this: {other:?}"),
        }
        return;
    }
    for read_only in [true, false] {
        let refused = options().read_only(read_only).open(&path).unwrap_err();
        let Error::Io { source: error, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        let salvage = options().read_only(true).recovery(Recovery::Salvage).open(&path).unwrap();
        assert!(salvage.recovery().lost.iter().any(|lost| lost.path == segment));
    }
    std::fs::set_permissions(&segment, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(options().open(&path).unwrap().len(), 500);
}
