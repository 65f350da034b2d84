//! A process that died while it compacted. Invariant: the next one gives back what it had copied,
//! and after a removal, a compaction and a close no file holds the removed bytes.
#![cfg(test)]

use std::path::Path;
use std::thread;
use std::time::Duration;
use stratalog::{Compaction, Options, SegmentRole};

const RECORDS: u32 = 300;

fn options() -> Options {
    let options = Options::new().dimension(1).segment_size(1 << 20);
    options.compaction(Compaction::Manual).flush_interval(None)
}

fn content(n: u32) -> Vec<u8> {
    format!("<{n:08}>").into_bytes().repeat(300)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn holds(dir: &Path, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut contents = files.map(|path| std::fs::read(path).unwrap());
    contents.any(|content| content.windows(bytes.len()).any(|window| window == bytes))
}

#[test]
fn copies_of_a_process_that_died_are_given_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (path, killed) = (dir.path().join("s"), dir.path().join("killed"));
    let store = options().compaction_rate(400_000).open(&path).unwrap();
    for n in 0..RECORDS {
        store.put(n.to_le_bytes(), &[1.0], content(n)).unwrap();
    }
    store.remove(0_u32.to_le_bytes()).unwrap();
    // All of the active segment lives: it goes on.
    for n in RECORDS.. {
        store.put(n.to_le_bytes(), &[1.0], content(n)).unwrap();
        if store.segments().len() > 1 {
            break;
        }
    }
    store.sync().unwrap();
    thread::scope(|scope| {
        let compaction = scope.spawn(|| store.compact().unwrap());
        // Of the 64 that are copied before it sleeps.
        let copied = |s: &stratalog::SegmentStats| s.role == SegmentRole::Copies && s.slots > 50;
        while !store.segments().iter().any(copied) {
            assert!(!compaction.is_finished(), "nothing was copied");
            thread::sleep(Duration::from_millis(1));
        }
        // As after a kill: the compaction sleeps, for its rate.
        copy(&path, &killed);
    });
    store.close().unwrap();

    let store = options().open(&killed).unwrap();
    let left = store.segments();
    let left = left.iter().find(|segment| segment.role == SegmentRole::Copies).unwrap();
    assert!(left.dead_bytes > 100_000, "{left:?}");
    for n in 0..RECORDS {
        store.remove(n.to_le_bytes()).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    for n in 1..4 {
        assert!(!holds(&killed, &content(n)[..20]), "removed bytes of {n}");
    }
}
