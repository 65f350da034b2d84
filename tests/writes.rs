//! Conditional writes, batches, backups: linearizable, and all or nothing across any crash. Each
//! test ends with a reopen that finds the same.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stratalog::{Batch, Condition, Error, Lsn, Options, Store};

fn open(path: &Path) -> Store {
    Options::new().dimension(2).segment_size(1 << 20).open(path).unwrap()
}

fn contents(store: &Store) -> BTreeMap<Vec<u8>, (Lsn, Vec<u8>)> {
    let pinned = store.pin();
    let records = pinned.iter().map(|record| record.unwrap());
    let map: BTreeMap<_, _> =
        records.map(|r| (r.id().to_vec(), (r.lsn(), r.content().to_vec()))).collect();
    assert_eq!(map.len(), store.len());
    map
}

/// Closes, opens again, and compares.
fn reopened(store: Store, path: &Path) -> Store {
    let before = contents(&store);
    store.close().unwrap();
    let store = open(path);
    assert_eq!(contents(&store), before);
    assert!(store.verify().unwrap().is_clean());
    store
}

#[test]
fn a_condition_that_does_not_hold_changes_nothing_and_names_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let put_if = |content: &str, c| store.put_if("a", &[1.0, 2.0], content, c);
    let refused = |result: Result<Lsn, Error>, expected: Option<Lsn>| match result {
        Err(Error::ConditionFailed { current }) => assert_eq!(current, expected),
        other => panic!("{other:?}"),
    };
    refused(put_if("x", Condition::Present), None);
    refused(put_if("x", Condition::Lsn(store.stats().tail)), None);
    let first = put_if("one", Condition::Absent).unwrap();
    refused(put_if("x", Condition::Absent), Some(first));
    let second = put_if("two", Condition::Lsn(first)).unwrap();
    refused(put_if("x", Condition::Lsn(first)), Some(second));
    let third = put_if("three", Condition::Present).unwrap();
    assert!(first < second && second < third);
    assert!(store.remove("a").unwrap().is_some());
    refused(put_if("x", Condition::Present), None);
    refused(put_if("x", Condition::Lsn(third)), None);
    put_if("four", Condition::Absent).unwrap();
    let store = reopened(store, &path);
    assert_eq!(store.get_owned("a").unwrap().unwrap().content, b"four");
    assert_eq!(store.len(), 1);
}

#[test]
fn counters_kept_by_compare_and_swap_lose_no_increment_while_flushes_void_what_stalls() {
    const THREADS: u64 = 4;
    const INCREMENTS: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.sync().unwrap();
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|n| {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..INCREMENTS {
                        increment(store, if (i + n) % 2 == 0 { "even" } else { "odd" });
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    let store = reopened(store, &path);
    let value = |id| String::from_utf8(store.get_owned(id).unwrap().unwrap().content).unwrap();
    let sum: u64 = ["even", "odd"].map(|id| value(id).parse::<u64>().unwrap()).iter().sum();
    assert_eq!(sum, THREADS * INCREMENTS);
}

fn increment(store: &Store, id: &str) {
    loop {
        let (value, condition) = match store.get_owned(id).unwrap() {
            None => (0, Condition::Absent),
            Some(record) => {
                let text = String::from_utf8(record.content).unwrap();
                (text.parse::<u64>().unwrap(), Condition::Lsn(record.lsn))
            }
        };
        match store.put_if(id, &[0.0, 0.0], (value + 1).to_string(), condition) {
            Ok(_) => return,
            Err(Error::ConditionFailed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn inserts_and_removes_that_succeed_add_up_to_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let (inserted, removed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (start, done) = (Barrier::new(6), AtomicBool::new(false));
    let ids = ["a", "b", "c"];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.sync().unwrap();
            }
        });
        let workers: Vec<_> = (0..6)
            .map(|n| {
                let (store, start, inserted, removed) = (&store, &start, &inserted, &removed);
                scope.spawn(move || {
                    start.wait();
                    for i in 0..2_000 {
                        let id = ids[(i + n) % ids.len()];
                        if n % 2 == 0 {
                            let put = store.put_if(id, &[1.0, 1.0], "x", Condition::Absent);
                            inserted.fetch_add(u64::from(put.is_ok()), Ordering::Relaxed);
                        } else {
                            let gone = store.remove(id).unwrap();
                            removed.fetch_add(u64::from(gone.is_some()), Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    let left = inserted.into_inner() - removed.into_inner();
    assert_eq!(store.len() as u64, left);
    assert_eq!(reopened(store, &path).len() as u64, left);
}

#[test]
fn a_batch_is_there_whole_and_its_last_write_of_an_id_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let empty = store.write(Batch::new()).unwrap();
    assert_eq!(empty.as_u64(), 0, "no LSN was given yet");
    let old = store.put("gone", &[1.0, 1.0], "old").unwrap();
    let mut batch = Batch::new();
    batch.put("a", &[1.0, 0.0], "first").put("b", &[2.0, 0.0], "").remove("gone").remove("never");
    batch.put("a", &[3.0, 0.0], "second");
    let highest = store.write(batch).unwrap();
    assert!(highest > old);
    assert_eq!(store.write(Batch::new()).unwrap(), highest);
    let found = contents(&store);
    assert_eq!(found.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(found[&b"a"[..]], (highest, b"second".to_vec()));
    assert!(!store.contains("gone") && !store.contains("never"));
    reopened(store, &path);
}

/// Runs batches that write "a" twice while another thread writes it conditionally. Nobody but the
/// batch writes "first", so it is never the record of "a" after the batch.
fn assert_first_write_never_stands(last: impl Fn(&mut Batch), other: impl Fn(&Store) + Sync) {
    const BATCHES: u32 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let done = AtomicBool::new(false);
    let is_first = |store: &Store| {
        store.get_owned("a").unwrap().is_some_and(|record| record.content == b"first")
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                other(&store);
            }
        });
        let mut wrong = 0;
        for _ in 0..BATCHES {
            let mut batch = Batch::new();
            batch.put("a", &[1.0, 1.0], "first");
            last(&mut batch);
            store.write(batch).unwrap();
            wrong += u32::from(is_first(&store));
        }
        done.store(true, Ordering::Release);
        assert_eq!(wrong, 0, "of {BATCHES} batches ended as their first write");
    });
    assert!(!is_first(&reopened(store, &path)));
}

#[test]
fn an_earlier_write_of_an_id_in_a_batch_never_stands_whatever_runs_concurrently() {
    let put = |batch: &mut Batch| assert_eq!(batch.put("a", &[2.0, 2.0], "last").len(), 2);
    let removal = |batch: &mut Batch| assert_eq!(batch.remove("a").len(), 2);
    let remove = |store: &Store| assert!(store.remove("a").is_ok());
    let put_if = |store: &Store| {
        for condition in [Condition::Present, Condition::Absent] {
            drop(store.put_if("a", &[9.0, 9.0], "other", condition));
        }
    };
    assert_first_write_never_stands(put, remove);
    assert_first_write_never_stands(put, put_if);
    assert_first_write_never_stands(removal, remove);
    assert_first_write_never_stands(removal, put_if);
}

#[test]
fn a_batch_writes_each_id_once_and_gives_lsns_to_what_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    let before = store.put("z", &[0.0, 0.0], "").unwrap();
    let mut batch = Batch::new();
    for n in 0..200u32 {
        let id = format!("id {}", n % 50);
        if n % 100 == 99 {
            batch.remove(id);
        } else {
            batch.put(id, &[n as f32, 0.0], n.to_string());
        }
    }
    let last = store.write(batch).unwrap();
    // A head, and one slot for each id.
    assert_eq!(last.as_u64() - before.as_u64(), 51);
    for n in 0..49 {
        let record = store.get_owned(format!("id {n}")).unwrap().unwrap();
        assert_eq!(record.content, (150 + n).to_string().into_bytes());
        assert_eq!(record.lsn.as_u64() - before.as_u64(), 2 + n, "in the order of the batch");
    }
    assert!(!store.contains("id 49"));
    // What is superseded takes no room, so the rest decides whether a batch fits.
    let mut batch = Batch::new();
    let content = vec![7; 400 << 10];
    for _ in 0..8 {
        batch.put("large", &[1.0, 1.0], &content);
    }
    store.write(batch).unwrap();
    drop(reopened(store, &path));
}

#[test]
fn a_batch_with_a_bad_write_or_too_many_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    store.put("a", &[1.0, 0.0], "kept").unwrap();
    let tail = store.stats().tail;
    let with = |bad: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        batch.put("a", &[2.0, 0.0], "lost").remove("a");
        bad(&mut batch);
        store.write(batch).unwrap_err()
    };
    assert!(matches!(
        with(&|b| {
            b.put("", &[0.0; 2], "");
        }),
        Error::InvalidId { len: 0 }
    ));
    assert!(matches!(
        with(&|b| {
            b.put("x", &[0.0; 3], "");
        }),
        Error::DimensionMismatch { expected: 2, actual: 3 }
    ));
    assert!(matches!(
        with(&|b| {
            b.put("x", &[0.0, f32::NAN], "");
        }),
        Error::NonFinite { index: 1 }
    ));
    let large = vec![7; 400_000];
    assert!(matches!(
        with(&|b| {
            b.put("x", &[0.0; 2], &large).put("y", &[0.0; 2], &large).put("z", &[0.0; 2], &large);
        }),
        Error::RecordTooLarge { .. }
    ));
    assert_eq!(store.stats().tail, tail);
    assert_eq!(store.get_owned("a").unwrap().unwrap().content, b"kept");
    // As many as fit a segment do.
    let mut batch = Batch::new();
    for n in 0..5_000 {
        batch.put(format!("id-{n}"), &[n as f32, 0.0], "x");
    }
    store.write(batch).unwrap();
    assert_eq!(store.len(), 5_001);
    reopened(store, &path);
}

/// A child writes batches of one version each until it is killed; none may be found in part.
#[test]
fn a_batch_is_whole_or_absent_after_a_kill() {
    const IDS: usize = 40;
    if let Ok(path) = std::env::var("STRATALOG_BATCH_CHILD") {
        let store = open(Path::new(&path));
        for version in 1u64.. {
            let mut batch = Batch::new();
            for n in 0..IDS {
                batch.put(format!("id-{n}"), &[version as f32, n as f32], version.to_string());
            }
            store.write(batch).unwrap();
            if store.stats().disk_bytes > 200 << 20 {
                return;
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut versions = Vec::new();
    for round in 0..12u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_batch_is_whole_or_absent_after_a_kill"])
            .env("STRATALOG_BATCH_CHILD", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30 + round * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&path);
        let found = contents(&store);
        let mut seen: Vec<_> = found.values().map(|(_, content)| content.clone()).collect();
        seen.dedup();
        assert!(seen.len() <= 1, "parts of several batches: {seen:?}");
        assert!(found.is_empty() || found.len() == IDS, "part of a batch");
        versions.extend(seen);
        assert!(store.verify().unwrap().is_clean());
    }
    assert!(!versions.is_empty(), "no child ever wrote a batch");
}

#[test]
fn a_backup_made_beside_writers_is_a_store_as_it_was_at_one_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    for n in 0..200 {
        store.put(format!("old-{n}"), &[1.0, 1.0], "old").unwrap();
    }
    store.remove("old-7").unwrap();
    let done = AtomicBool::new(false);
    let copy = dir.path().join("copy");
    let after = std::thread::scope(|scope| {
        // One writer that only adds, in order: a copy at one LSN holds a prefix of its writes.
        scope.spawn(|| {
            for n in 0.. {
                store.put(format!("new-{n:09}"), &[2.0, 2.0], vec![b'x'; 500]).unwrap();
                store.put("same", &[3.0, 3.0], n.to_string()).unwrap();
                if done.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        let before = store.durable_lsn();
        store.backup(&copy).unwrap();
        done.store(true, Ordering::Release);
        before
    });
    let names = |path: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(dir.path()), ["copy", "s"], "something unfinished was left");

    let backup = open(&copy);
    assert!(backup.verify().unwrap().is_clean());
    let found = contents(&backup);
    assert!(found.values().map(|(lsn, _)| *lsn).max().unwrap() >= after);
    assert!(!found.contains_key(&b"old-7"[..]));
    assert_eq!(found.keys().filter(|id| id.starts_with(b"old-")).count(), 199);
    let new: Vec<_> = found.keys().filter(|id| id.starts_with(b"new-")).collect();
    let expected: Vec<_> = (0..new.len()).map(|n| format!("new-{n:09}").into_bytes()).collect();
    assert_eq!(new, expected.iter().collect::<Vec<_>>(), "not a prefix of what was written");
    let same: usize = String::from_utf8(found[&b"same"[..]].1.clone()).unwrap().parse().unwrap();
    assert!(same + 1 == new.len() || same + 2 == new.len(), "{same} of {}", new.len());
    // It goes on as a store of its own, and what it is given does not reach the original.
    backup.put("mine", &[0.0, 0.0], "x").unwrap();
    reopened(backup, &copy);
    assert!(!store.contains("mine"));

    let refused = store.backup(&copy).unwrap_err();
    let Error::Io { path: named, source } = refused else { panic!("{refused:?}") };
    assert_eq!((named, source.kind()), (copy.clone(), std::io::ErrorKind::AlreadyExists));
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    store.backup(dir.path().join("empty")).unwrap();
    reopened(store, &path);
}

/// The index is made for the ids there are, not for the versions there were.
#[test]
fn a_store_of_many_versions_takes_no_larger_index_when_it_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = open(&path);
    for n in 0..100_000u64 {
        store.put(format!("id {}", n % 500), &[n as f32, 0.0], []).unwrap();
    }
    let (live, bytes) = (store.stats().live_bytes, store.stats().index_bytes);
    let store = reopened(store, &path);
    assert_eq!((store.len(), store.stats().live_bytes), (500, live));
    assert!(store.stats().index_bytes <= 2 * bytes, "{:?}, before {bytes}", store.stats());
}
