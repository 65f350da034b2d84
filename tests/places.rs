//! A store keeps the directory that it opened [H1], wherever the path leads by then.

#![cfg(test)]
use std::path::Path;
use stratalog::{Options, Store};

fn options() -> Options {
    Options::new().dimension(1).segment_size(1 << 20)
}

/// Writes enough for several segments, and so for several manifests.
fn put_many(store: &Store, prefix: &str) {
    let content = vec![7; 100_000];
    for n in 0..50 {
        store.put(format!("{prefix}{n}"), &[1.0], &content).unwrap();
    }
    store.sync().unwrap();
    store.compact().unwrap();
}

fn holds(path: &Path, prefix: &str, count: usize) {
    let store = options().create(false).open(path).unwrap();
    assert_eq!(store.len(), count, "{}: {:?}", path.display(), store.recovery());
    for n in 0..count {
        assert!(store.contains(format!("{prefix}{n}")), "{}: {prefix}{n}", path.display());
    }
    store.close().unwrap();
}

#[test]
fn a_store_that_was_moved_changes_nothing_at_its_old_path() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("s"), dir.path().join("moved"));
    let old = options().open(&path).unwrap();
    std::fs::rename(&path, &moved).unwrap();
    let new = options().open(&path).unwrap();
    put_many(&new, "new");
    put_many(&old, "old");
    assert_eq!(old.path(), path);
    new.close().unwrap();
    old.close().unwrap();
    holds(&path, "new", 50);
    holds(&moved, "old", 50);
}

/// Alone in this process: the working directory is the process's.
#[test]
fn a_store_opened_by_a_relative_path_survives_a_change_of_the_working_directory() {
    const INSIDE: &str = "STRATALOG_TEST_PLACES";
    if std::env::var_os(INSIDE).is_none() {
        let name = "a_store_opened_by_a_relative_path_survives_a_change_of_the_working_directory";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        assert!(alone.args(["--exact", name]).env(INSIDE, "1").status().unwrap().success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for path in [&a, &b] {
        std::fs::create_dir(path).unwrap();
    }
    let other = options().open(b.join("s")).unwrap();
    put_many(&other, "other");
    other.close().unwrap();
    std::env::set_current_dir(&a).unwrap();
    let store = options().open("s").unwrap();
    std::env::set_current_dir(&b).unwrap();
    put_many(&store, "mine");
    store.close().unwrap();
    holds(&a.join("s"), "mine", 50);
    holds(&b.join("s"), "other", 50);
}
