//! What a process may not have more of: descriptors. Invariant: a store of many segments needs few,
//! however many it has, and where even those are refused the error names the limit and the remedy.
//!
//!     STRATALOG_LIMITS_SEGMENTS=4000 STRATALOG_LIMITS_FILES=256 \
//!         cargo test --release --test limits -- --nocapture   # the long form: over 8 GiB of disk
#![cfg(test)]

#[path = "common/child.rs"]
mod child;

use child::{Role, role, say, wait};
use std::fs::DirEntry;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use stratalog::{Compaction, Error, Options, Store};

/// Two of these fill a segment.
const CONTENT: usize = 520_000;
/// Puts before anything is flushed: more segments than the process may have descriptors.
const BURST: u32 = 160;

fn options() -> Options {
    Options::new().dimension(1).segment_size(1 << 20).compaction(Compaction::Manual)
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn segments() -> u32 {
    number("STRATALOG_LIMITS_SEGMENTS", 200)
}

fn id(n: u32) -> [u8; 4] {
    n.to_le_bytes()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn put(store: &Store, n: u32) {
    store.put(id(n), &[n as f32], vec![n as u8; CONTENT]).unwrap();
}

/// Everything that a store does, with few descriptors.
fn run(path: &Path) {
    let began = descriptors();
    let store = options().open(path).unwrap();
    let opened = descriptors();
    let before = store.stats().segments;
    assert!(before >= u64::from(segments()), "{before} segments");
    // A burst that outruns the flusher.
    (0..BURST).for_each(|n| put(&store, n));
    let burst = descriptors();
    store.sync().unwrap();
    store.sync().unwrap();
    store.backup(path.with_extension("copy")).unwrap();
    let removed = store.compact().unwrap().segments_removed;
    assert!(removed >= u64::from(BURST / 2), "{removed} removed");
    for n in [0, BURST - 1, BURST, 2 * segments() - 1] {
        assert_eq!(store.get_owned(id(n)).unwrap().unwrap().content[0], n as u8);
    }
    let text =
        format!("{before} segments: {began} descriptors, {opened} opened, {burst} in a burst");
    store.close().unwrap();
    let copy = options().open(path.with_extension("copy")).unwrap();
    assert_eq!(copy.len(), 2 * segments() as usize);
    put(&copy, 1);
    copy.close().unwrap();
    say(text);
}

/// Backups beside a thread that takes every descriptor once one has begun, until one fails for it;
/// what there is beside the store then.
fn starve(path: &Path) {
    let (store, parent) = (options().open(path).unwrap(), path.parent().unwrap());
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let has_begun = || {
        let unfinished = |entry: &DirEntry| entry.path().extension().is_some_and(|e| e == "tmp");
        entries(parent).filter(unfinished).any(|entry| entries(&entry.path()).count() > 1)
    };
    for n in 0..50 {
        let (done, copy) = (AtomicBool::new(false), parent.join(format!("copy-{n}")));
        let made = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut held = Vec::new();
                while !done.load(Ordering::Acquire) {
                    if !held.is_empty() || has_begun() {
                        held.extend(std::fs::File::open("/dev/null"));
                    }
                }
            });
            let made = store.backup(&copy);
            done.store(true, Ordering::Release);
            made
        });
        if made.is_err() {
            assert!(matches!(made, Err(Error::ResourceLimit { .. })), "{made:?}");
            return say(entries(parent).map(|entry| entry.path()).all(|at| at == path));
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
    say("no backup has failed");
}

/// Children of these tests.
#[test]
fn roles() {
    let Some((role, place)) = role() else { return };
    wait();
    match role.as_str() {
        "run" => run(&place),
        "starve" => starve(&place),
        "refused" => {
            let mut held = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
            }
            let refused = options().open(&place).unwrap_err();
            drop(held.pop());
            say(format!("{refused:?}"));
            say(format!("{refused}"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_store_of_many_segments_opens_and_runs_with_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    (0..2 * segments()).for_each(|n| put(&store, n));
    store.close().unwrap();
    let mut child = Role::play("run", &path, number("STRATALOG_LIMITS_FILES", 64));
    child.go_on();
    let said = child.hear().expect("it ends well");
    println!("{said}");
}

/// To list what had been copied, so that it could be removed, a descriptor was opened.
#[test]
fn a_backup_that_fails_for_want_of_descriptors_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    (0..100).for_each(|n| put(&store, n));
    store.close().unwrap();
    let mut child = Role::play("starve", &path, 64);
    child.go_on();
    assert_eq!(child.hear().as_deref(), Some("true"));
}

#[test]
fn without_a_descriptor_left_the_error_names_the_limit_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    options().open(&path).unwrap().close().unwrap();
    let mut child = Role::play("refused", &path, 64);
    child.go_on();
    let error = child.hear().expect("an error");
    assert!(error.starts_with("ResourceLimit") && error.contains("limit: 64"), "{error}");
    let message = child.hear().expect("its message");
    assert!(message.contains("ulimit -n"), "{message}");
    child.kill();
    assert!(!matches!(options().open(&path), Err(Error::ResourceLimit { .. })));
}
