//! Read-only handles.

use super::child::Role;
use super::common::{Records, assert_same, open, reopen, state};
use super::{RECORDS, filled, torn, tree};
use std::path::Path;
use stratalog::{Error, Options, Store};

fn read_only(path: &Path) -> Store {
    Options::new().read_only(true).open(path).unwrap()
}

#[test]
fn a_read_only_handle_refuses_every_write_and_changes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 5_000);
    assert!(store.remove("id 7").unwrap().is_some());
    let before = state(&store);
    store.close().unwrap();
    let files = tree::look(dir.path());

    let store = read_only(dir.path());
    let embedding = RECORDS.embedding(b"new", 1);
    assert!(matches!(store.put("new", &embedding, ""), Err(Error::ReadOnly)));
    assert!(matches!(store.put("id 1", &embedding, ""), Err(Error::ReadOnly)));
    assert!(matches!(store.remove("id 1"), Err(Error::ReadOnly)));
    assert!(matches!(store.sync(), Err(Error::ReadOnly)));
    assert_same(&state(&store), &before);
    assert!(store.verify().unwrap().is_clean());
    assert_eq!(store.recovery().records, before.len() as u64);
    assert_eq!(store.stats().live_records, before.len() as u64);
    let second = read_only(dir.path());
    store.close().unwrap();
    assert_same(&state(&second), &before);
    drop(second);
    assert_eq!(tree::look(dir.path()), files);
    assert_same(&state(&open(dir.path())), &before);
}

/// A store whose writer was killed: what a writing handle would repair is left as it is.
#[test]
fn a_read_only_handle_reads_a_killed_writers_store_and_repairs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Role::play("writer", dir.path(), 1000);
    assert_eq!(writer.hear().as_deref(), Some("ready"));
    drop(writer.kill());
    std::fs::write(dir.path().join("MANIFEST.tmp"), "unfinished").unwrap();
    let last = tree::segments(dir.path()).pop().unwrap();
    torn::open_reservation(&last);
    assert!(torn::preallocated_successor(&last) > 1);
    let files = tree::look(dir.path());
    let first = state(&read_only(dir.path()));
    assert_eq!(first.len(), 100);
    assert_eq!(tree::look(dir.path()), files);
    assert_same(&state(&reopen(open(dir.path()))), &first);
}

#[test]
fn a_read_only_handle_beside_a_live_writer_shows_what_was_published_when_it_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Role::play("writer", dir.path(), 1000);
    assert_eq!(writer.hear().as_deref(), Some("ready"));
    let early = read_only(dir.path());
    let then = state(&early);
    assert_eq!(then.len(), 100);
    writer.go_on();
    assert_eq!(writer.hear().as_deref(), Some("more"));
    // Its background thread may still have the manifest to write.
    let files = loop {
        let files = tree::look(dir.path());
        std::thread::sleep(std::time::Duration::from_millis(50));
        if tree::look(dir.path()) == files {
            break files;
        }
    };
    assert_same(&state(&early), &then);
    let late = read_only(dir.path());
    assert_eq!(late.len(), 199);
    assert!(early.contains("id 0") && !late.contains("id 0"));
    assert_same(&state(&late), &state(&read_only(dir.path())));
    let sums = |store: &Store| store.verify().unwrap().is_clean();
    assert!(sums(&early) && sums(&late));
    drop(early);
    assert_eq!(tree::look(dir.path()), files, "the writer rests, so nobody changes anything");
    writer.go_on();
    assert_eq!(writer.hear().as_deref(), Some("closed"));
    let now = state(&late);
    drop(late);
    assert_same(&state(&open(dir.path())), &now);
}

/// Opened again and again while a writer of the same process rolls, overwrites and removes: each
/// handle shows whole records, and none that was there before it is missing.
#[test]
fn read_only_handles_opened_beside_a_busy_writer_see_whole_records() {
    const SMALL: Records = Records { dimension: 8, content_max: 400 };
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 0);
    for n in 0..200u32 {
        SMALL.put(&store, &n.to_le_bytes(), 0);
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..30_000u32 {
                SMALL.put(&store, &(n % 200).to_le_bytes(), n);
                SMALL.put(&store, &(n % 50 + 1_000).to_le_bytes(), n);
                assert!(store.remove((n % 50 + 1_000).to_le_bytes()).unwrap().is_some());
            }
        });
        while !writer.is_finished() {
            let reader = read_only(dir.path());
            let seen = state(&reader);
            for (id, record) in &seen {
                SMALL.version_of(id, &record.embedding, &record.content);
            }
            for n in 0..200u32 {
                assert!(seen.contains_key(&n.to_le_bytes()[..]), "{n} is missing");
            }
            assert_eq!(reader.recovery().corrupt, 0, "{:?}", reader.recovery());
        }
    });
    assert_eq!(reopen(store).len(), 200);
}
