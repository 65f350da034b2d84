//! The process that meets the fault: a fixed sequence of calls, each answer of which is written
//! down as it comes. Waits for the tracer first, and does everything on a thread of its own, so
//! that calls are counted from the beginning of the script.

use super::common::{Records, SEGMENT};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use stratalog::{Batch, Condition, Error, Lsn, Options, Store};

pub const RECORDS: Records = Records { dimension: 8, content_max: 200 };
/// Versions from here on are large: a few of them fill a segment.
const LARGE_FROM: u32 = 1 << 20;
const LARGE_BYTES: usize = 250_000;

fn content(id: &[u8], version: u32) -> Vec<u8> {
    let mut content = RECORDS.content(id, version);
    if version >= LARGE_FROM {
        content.resize(content.len() + LARGE_BYTES, version as u8);
    }
    content
}

/// The version that a record is; fails unless each of its bytes belongs to it.
pub fn version_of(id: &[u8], embedding: &[f32], content: &[u8]) -> u32 {
    let large = embedding[0] as u32 >= LARGE_FROM;
    let own = content.len() - if large { LARGE_BYTES } else { 0 };
    let (own, rest) = content.split_at(own);
    let version = RECORDS.version_of(id, embedding, own);
    let same = vec![version as u8; rest.len()];
    assert!(rest == same, "{} is not of one piece", id.escape_ascii());
    version
}

/// Whether the fault passes, so that what failed must succeed when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Passes,
    Stays,
}

/// Runs the script in a process made for it; does not return.
pub fn play(place: &Path, fault: Fault) -> ! {
    let said = File::options().append(true).create(true).open(place.join("said")).unwrap();
    let mut script = Script {
        said,
        place: place.to_owned(),
        fault,
        model: BTreeMap::new(),
        flush_failed: false,
        wrong: 0,
    };
    let (go, wait) = mpsc::channel();
    let (name, named) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        name.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        wait.recv().unwrap();
        script.run();
        script.say("end");
        script.wrong
    });
    let task = named.recv().unwrap();
    let number = task.file_name().unwrap().to_str().unwrap();
    std::fs::write(place.join("thread"), format!("{number}\n")).unwrap();
    // An error here can only be the tracer's doing.
    let status = Path::new("/proc").join(&task).join("status");
    let untraced = |status: String| status.contains("TracerPid:\t0\n");
    while std::fs::read_to_string(&status).is_ok_and(untraced) {
        std::thread::sleep(Duration::from_millis(1));
    }
    go.send(()).unwrap();
    // Without a word: what the test harness would print could fail.
    match thread.join() {
        Ok(0) => std::process::exit(0),
        Ok(_) => std::process::exit(3),
        Err(_) => std::process::exit(101),
    }
}

struct Script {
    said: File,
    place: PathBuf,
    fault: Fault,
    /// What has been acknowledged.
    model: BTreeMap<String, u32>,
    flush_failed: bool,
    wrong: u32,
}

impl Script {
    /// By `writev`, which no fault is planted in.
    fn say(&mut self, line: &str) {
        let written =
            self.said.write_vectored(&[IoSlice::new(line.as_bytes()), IoSlice::new(b"\n")]);
        assert_eq!(written.unwrap(), line.len() + 1);
    }

    fn must(&mut self, holds: bool, what: &str) {
        if !holds {
            self.wrong += 1;
            self.say(&format!("WRONG {what}"));
        }
    }

    /// Makes a call; one that failed for a reason that may have passed is made again.
    fn call<T>(
        &mut self,
        store: Option<&Store>,
        what: &str,
        acknowledged: &str,
        mut call: impl FnMut() -> Result<T, Error>,
    ) -> Option<T> {
        for _ in 0..3 {
            let error = match call() {
                Ok(value) => {
                    let refused = self.flush_failed && store.is_some() && what != "read";
                    self.must(!refused, &format!("{what} after a failed flush"));
                    self.say(&format!("ok {acknowledged}"));
                    return Some(value);
                }
                Err(error) => error,
            };
            self.say(&format!("error {what}: {error:?}"));
            let is_interrupted = |error: &std::io::Error| error.kind() == ErrorKind::Interrupted;
            let interrupted = matches!(&error, Error::Io { source, .. } if is_interrupted(source));
            self.must(!interrupted, "an interruption came through");
            let odd = matches!(error, Error::Corrupt { .. } | Error::NotAStore(_));
            self.must(!odd, "a failed call was taken for damage");
            if let Some(store) = store {
                let failed = matches!(error, Error::FlushFailed(_));
                self.must(failed || !self.flush_failed, "another error after a failed flush");
                self.flush_failed |= failed;
                self.read_all(store);
                if failed {
                    return None;
                }
            }
        }
        self.must(self.fault == Fault::Stays, &format!("{what} goes on failing"));
        None
    }

    /// Reading goes on, whatever failed; and what failed has changed nothing.
    fn read_all(&mut self, store: &Store) {
        let mut found = BTreeMap::new();
        for record in &store.pin() {
            match record {
                Ok(record) => {
                    let id = String::from_utf8(record.id().to_vec()).unwrap();
                    let version = version_of(record.id(), record.embedding(), record.content());
                    found.insert(id, version);
                }
                Err(error) => self.must(false, &format!("reading: {error:?}")),
            }
        }
        let same = found == self.model && store.len() == found.len();
        self.must(same, &format!("{} records for {}", found.len(), self.model.len()));
    }

    fn put(&mut self, store: &Store, id: &str, version: u32) -> Option<Lsn> {
        let embedding = RECORDS.embedding(id.as_bytes(), version);
        let content = content(id.as_bytes(), version);
        let acknowledged = format!("put {id} {version}");
        let put = || store.put(id, &embedding, &content);
        let lsn = self.call(Some(store), "put", &acknowledged, put)?;
        self.model.insert(id.to_owned(), version);
        Some(lsn)
    }

    fn put_if_absent(&mut self, store: &Store, id: &str, version: u32) {
        let embedding = RECORDS.embedding(id.as_bytes(), version);
        let content = RECORDS.content(id.as_bytes(), version);
        let put = || store.put_if(id, &embedding, &content, Condition::Absent);
        if self.call(Some(store), "put_if", &format!("put {id} {version}"), put).is_some() {
            self.model.insert(id.to_owned(), version);
        }
    }

    fn remove(&mut self, store: &Store, id: &str) {
        let expected = self.model.contains_key(id);
        let remove = || store.remove(id).map(|lsn| lsn.is_some());
        if let Some(there) = self.call(Some(store), "remove", &format!("remove {id}"), remove) {
            self.must(there == expected, &format!("{id} was there: {there}"));
            self.model.remove(id);
        }
    }

    /// Overwrites two ids, adds two and removes one.
    fn batch(&mut self, store: &Store, version: u32) {
        let mut batch = Batch::new();
        let ids = ["a1", "a2", "b1", "b2"];
        for id in ids {
            let (embedding, content) = (
                RECORDS.embedding(id.as_bytes(), version),
                RECORDS.content(id.as_bytes(), version),
            );
            batch.put(id, &embedding, content);
        }
        batch.remove("a3");
        let acknowledged = format!("batch {version} {} - a3", ids.join(" "));
        if self.call(Some(store), "write", &acknowledged, || store.write(batch.clone())).is_some() {
            self.model.extend(ids.map(|id| (id.to_owned(), version)));
            self.model.remove("a3");
        }
    }

    fn sync(&mut self, store: &Store) {
        self.call(Some(store), "sync", "sync", || store.sync());
    }

    fn back_up(&mut self, store: &Store, n: u32) {
        self.say(&format!("backup {n}"));
        let copy = self.place.join(format!("copy-{n}"));
        let backup = || match store.backup(&copy) {
            // The directory could not be flushed after it got its name.
            Err(Error::Io { source: error, .. }) if error.kind() == ErrorKind::AlreadyExists => {
                Ok(())
            }
            result => result.map(drop),
        };
        self.call(Some(store), "backup", &format!("backup {n}"), backup);
    }

    fn open(&mut self) -> Option<Store> {
        let options = Options::new().dimension(8).segment_size(SEGMENT).flush_interval(None);
        let path = self.place.join("store");
        let store = self.call(None, "open", "open", || options.open(&path))?;
        self.flush_failed = false;
        self.read_all(&store);
        Some(store)
    }

    fn run(&mut self) {
        let Some(store) = self.open() else { return };
        for n in 0..20 {
            self.put(&store, &format!("a{n}"), n + 1);
        }
        self.sync(&store);
        // Rolls, some of them into segments that were preallocated meanwhile.
        for n in 0..20 {
            self.put(&store, &format!("large{}", n % 4), LARGE_FROM + n);
            if n < 10 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if let Some(lsn) = self.put(&store, "waited for", 1) {
            self.call(Some(&store), "wait", "sync", || store.wait_durable(lsn));
        }
        (5..10).for_each(|n| self.remove(&store, &format!("a{n}")));
        self.batch(&store, 100);
        self.put_if_absent(&store, "c1", 101);
        self.back_up(&store, 0);
        self.put(&store, "after the backup", 1);
        let readable = || Options::new().read_only(true).open(store.path());
        if let Some(reader) = self.call(None, "read", "read", readable) {
            self.read_all(&reader);
        }
        self.read_all(&store);
        self.close(store);

        let Some(store) = self.open() else { return };
        for n in 0..8 {
            self.put(&store, &format!("large{}", n % 4), LARGE_FROM + 100 + n);
        }
        self.remove(&store, "a1");
        self.sync(&store);
        self.put(&store, "last", 1);
        self.read_all(&store);
        self.close(store);
    }

    fn close(&mut self, store: Store) {
        match store.close() {
            Ok(()) => {
                self.must(!self.flush_failed, "closed well after a failed flush");
                self.say("ok close");
            }
            Err(error) => {
                self.must(matches!(error, Error::FlushFailed(_)), "closing fails otherwise");
                self.say(&format!("error close: {error:?}"));
            }
        }
    }
}
