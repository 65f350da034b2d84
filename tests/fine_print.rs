//! The fine print of the public contract, line by line, where no other file of tests holds it.

#![cfg(test)]

use std::future::Future;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use stratalog::{Batch, Compaction, Condition, Error, Lsn, Metric, NewRecord, Options, Store};

const E: [f32; 2] = [1.0, 0.5];

fn options() -> Options {
    let options = Options::new().dimension(2).segment_size(1 << 20).flush_interval(None);
    options.compaction(Compaction::Manual)
}

fn empty_batch(store: &Store) -> Lsn {
    store.write(Batch::new()).unwrap()
}

/// A future that is polled once.
fn poll_once(store: &Store, lsn: Lsn) -> Poll<Result<(), Error>> {
    pin!(store.wait_durable_async(lsn)).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_lsn_stays_known_when_compaction_and_a_reopening_have_passed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    assert_eq!(empty_batch(&store), empty_batch(&store));
    store.put("kept", &E, "").unwrap();
    store.put("gone", &E, "").unwrap();
    let lsn = store.put("gone", &E, "again").unwrap();
    assert!(empty_batch(&store) >= lsn);
    store.remove("gone").unwrap();
    store.compact().unwrap();
    let given = empty_batch(&store);
    assert!(given > lsn, "the removal's");
    store.wait_durable(lsn).unwrap();
    let killed = dir.path().join("killed");
    std::fs::create_dir(&killed).unwrap();
    for name in names(&path) {
        std::fs::copy(path.join(&name), killed.join(&name)).unwrap();
    }
    store.close().unwrap();
    let store = options().open(&killed).unwrap();
    assert!(empty_batch(&store) >= given, "after a kill");
    store.wait_durable(lsn).unwrap();
    store.sync().unwrap();
    assert!(matches!(poll_once(&store, empty_batch(&store)), Poll::Ready(Ok(()))));
    drop(store);
    for removed in [false, true] {
        let store = options().open(&path).unwrap();
        // It was given by this store, and there is nothing left to wait for.
        store.wait_durable(lsn).unwrap();
        assert!(matches!(poll_once(&store, lsn), Poll::Ready(Ok(()))), "removed: {removed}");
        let now = empty_batch(&store);
        assert!(now >= given, "{now} after {given}, removed: {removed}");
        store.wait_durable(now).unwrap();
        assert!(matches!(poll_once(&store, now), Poll::Ready(Ok(()))));
        let never = store.stats().tail;
        assert!(matches!(store.wait_durable(never), Err(Error::UnknownLsn(_))));
        store.remove("kept").unwrap();
        store.compact().unwrap();
        store.close().unwrap();
    }
    let store = options().open(&path).unwrap();
    assert!(store.is_empty() && store.put("new", &E, "").unwrap() > given);
}

#[test]
fn an_impossible_id_is_refused_by_every_write_and_found_by_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    store.put("a", &E, "").unwrap();
    let before = store.stats().tail;
    for len in [0, 1025] {
        let id = vec![b'i'; len];
        let refused = |error: Error| matches!(error, Error::InvalidId { len: l } if l == len);
        assert!(refused(store.put(&id, &E, "").unwrap_err()));
        assert!(refused(store.put_record(NewRecord::new(&id, &E, "")).unwrap_err()));
        for c in [Condition::Absent, Condition::Present, Condition::Lsn(before)] {
            assert!(refused(store.put_if(&id, &E, "", c).unwrap_err()));
        }
        assert!(refused(store.remove(&id).unwrap_err()));
        assert!(refused(store.update_tag(&id, |tag| tag + 1).unwrap_err()));
        let (mut put, mut remove) = (Batch::new(), Batch::new());
        put.put("b", &E, "").put(&id, &E, "");
        remove.put("b", &E, "").remove(&id);
        assert!(refused(store.write(put).unwrap_err()));
        assert!(refused(store.write(remove).unwrap_err()));
        assert!(!store.contains(&id));
        assert!(store.get_owned(&id).unwrap().is_none());
        assert!(store.get_shared(&id).unwrap().is_none());
        let pinned = store.pin();
        assert!(pinned.get(&id).unwrap().is_none());
        let ids = [&id[..], b"a"];
        let many = pinned.get_many(&ids).map(|found| found.unwrap().is_some());
        assert!(many.eq([false, true]));
    }
    assert_eq!((store.stats().tail, store.len()), (before, 1));
}

#[test]
fn a_store_is_locked_under_each_of_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("s"), dir.path().join("link"));
    let store = options().open(&path).unwrap();
    symlink(&path, &other).unwrap();
    let dotted = dir.path().join("s/../s/.");
    for path in [&other, &dotted] {
        let error = options().open(path).unwrap_err();
        assert!(matches!(&error, Error::Locked { path: named, .. } if named == path), "{error:?}");
        // A read-only handle takes no lock.
        assert!(Options::new().read_only(true).open(path).is_ok());
    }
    store.put("a", &E, "").unwrap();
    store.close().unwrap();
    let store = options().open(&other).unwrap();
    assert!(store.contains("a"));
    assert!(matches!(options().open(&path), Err(Error::Locked { .. })));
}

/// What lies beside a backup's place, and in it.
fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_touches_nothing_but_its_own_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    store.put("a", &E, "").unwrap();
    let places = dir.path().join("places");
    std::fs::create_dir_all(places.join("full")).unwrap();
    std::fs::create_dir_all(places.join("empty")).unwrap();
    std::fs::write(places.join("full/file"), "a stranger's").unwrap();
    std::fs::write(places.join("file"), "a stranger's").unwrap();
    let before = names(&places);
    let own = store.path().to_owned();
    for taken in [places.join("full"), places.join("file"), places.join("file/below"), own] {
        let error = store.backup(&taken).unwrap_err();
        let Error::Io { source: error, .. } = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{}", taken.display());
    }
    let forbidden = dir.path().join("forbidden");
    std::fs::create_dir(&forbidden).unwrap();
    std::fs::set_permissions(&forbidden, std::fs::Permissions::from_mode(0o500)).unwrap();
    // The superuser may.
    let allowed = std::fs::write(forbidden.join("probe"), "").is_ok();
    assert_eq!(store.backup(forbidden.join("copy")).is_ok(), allowed);
    assert_eq!(names(&places), before, "nothing unfinished stays");
    assert_eq!(std::fs::read(places.join("full/file")).unwrap(), b"a stranger's");
    for free in [places.join("empty"), places.join("new"), places.join("deep/er")] {
        store.backup(&free).unwrap();
        assert!(Options::new().read_only(true).open(&free).unwrap().contains("a"));
        assert!(matches!(store.backup(&free), Err(Error::Io { .. })), "it is not empty any more");
    }
    assert_eq!(names(&places), ["deep", "empty", "file", "full", "new"]);
}

#[test]
fn a_search_for_more_than_there_is_finds_all_and_for_none_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        assert!(store.pin().search(&E, usize::MAX, metric).unwrap().is_empty());
    }
    store.put("a", &E, "").unwrap();
    store.put("zero", &[0.0; 2], "").unwrap();
    let pinned = store.pin();
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        assert_eq!(pinned.search(&E, usize::MAX, metric).unwrap().len(), 2);
        assert!(pinned.search(&E, 0, metric).unwrap().is_empty());
    }
    let cosine = |query: [f32; 2]| pinned.search(&query, 2, Metric::Cosine).unwrap();
    assert!(cosine([0.0; 2]).iter().all(|hit| hit.score == 0.0));
    assert!(cosine(E).iter().any(|hit| hit.record.id() == b"zero" && hit.score == 0.0));
}

/// `compact` would wait for itself if it waited for a pin of its caller's.
#[test]
fn removed_bytes_of_every_kind_of_write_are_gone_and_no_pin_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let secret = b"bytes-that-have-to-go";
    let id = |n: u32| [&secret[..], &n.to_le_bytes()].concat();
    store.put("stays", &E, "").unwrap();
    store.put(id(0), &E, secret).unwrap();
    let lsn = store.put_if(id(1), &E, secret, Condition::Absent).unwrap();
    store.put_if(id(1), &E, secret, Condition::Lsn(lsn)).unwrap();
    let mut batch = Batch::new();
    batch.put(id(2), &E, secret).put(id(3), &E, secret).put(id(2), &E, "once more");
    store.write(batch).unwrap();
    let over = id(4);
    store.put_record(NewRecord::new(&over, &E, secret).expires_in(Duration::ZERO)).unwrap();
    let later = id(5);
    let long = NewRecord::new(&later, &E, secret).expires_in(Duration::from_secs(3600));
    store.put_record(long).unwrap();
    assert!(store.put_if(id(0), &E, secret, Condition::Absent).is_err());
    let pinned = store.pin();
    let held = pinned.get(id(0)).unwrap().unwrap();
    // Some are moved once before they are removed.
    store.compact().unwrap();
    for n in [0, 1, 5] {
        assert!(store.remove(id(n)).unwrap().is_some());
    }
    let mut batch = Batch::new();
    batch.remove(id(2)).remove(id(3)).remove(id(77));
    store.write(batch).unwrap();
    store.compact().unwrap();
    assert_eq!(held.content(), secret, "what a pin holds stays readable");
    drop(pinned);
    store.close().unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!found, "{} still holds it", file.display());
    }
    assert_eq!(options().open(&path).unwrap().len(), 1);
}

struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future may go from one executor to another, which polls it with a waker of its own.
#[test]
fn the_waker_of_the_last_poll_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    drop(store.wait_durable_async(store.put("never polled", &E, "").unwrap()));
    let lsn = store.put("a", &E, "").unwrap();
    let mut future = pin!(store.wait_durable_async(lsn));
    let counts = [0; 3].map(|n| Arc::new(Count(AtomicU64::new(n))));
    let mut ready = false;
    for count in &counts {
        let waker = Waker::from(Arc::clone(count));
        ready |= future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    }
    let last = &counts[2];
    while !ready && last.0.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert!(store.durable_lsn() >= lsn);
}
