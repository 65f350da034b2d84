//! Damaged files. Invariants: damage is an `Error::Corrupt`, or a loss that `recovery` counts and
//! `verify` names, never a wrong record, a panic or a signal; it costs the records it hit and no
//! other; and no file that is not the engine's own is ever removed.
#![cfg(test)]

#[path = "corruption/batches.rs"]
mod batches;
#[path = "corruption/bits.rs"]
mod bits;
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "corruption/files.rs"]
mod files;
#[path = "corruption/forged.rs"]
mod forged;
#[path = "corruption/manifest.rs"]
mod manifest;
#[path = "corruption/modes.rs"]
mod modes;
#[path = "corruption/places.rs"]
mod places;
#[path = "common/torn.rs"]
mod torn;
#[path = "common/tree.rs"]
mod tree;

use child::{role, say, wait};
use common::{Records, SEGMENT, State, assert_same, state};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::internals::format::header::DIRECTORY_AT;
use stratalog::{Compaction, Error, Lsn, Options, Store, VerifyReport};
use tempfile::TempDir;

const RECORDS: Records = Records { dimension: 16, content_max: 2_500 };
const SLOT: usize = 32;

/// A store that was closed, and what was in it.
struct Closed {
    dir: TempDir,
    state: State,
    files: BTreeMap<PathBuf, tree::Seen>,
}

impl Closed {
    fn new(fill: impl FnOnce(&Store)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT);
        let options = options.compaction(Compaction::Manual);
        let store = options.open(dir.path()).unwrap();
        fill(&store);
        let state = state(&store);
        store.close().unwrap();
        // An opening writes down what the first handle had no time for.
        common::open(dir.path()).close().unwrap();
        let files = tree::look(dir.path());
        Self { dir, state, files }
    }

    /// A store of several segments, each with the same number of records.
    fn of_segments(segments: u64) -> Self {
        Self::new(|store| {
            let mut n = 0;
            while store.stats().segments < segments || n % 100 > 0 {
                RECORDS.put(store, &id(n), n);
                n += 1;
            }
        })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn segments(&self) -> Vec<PathBuf> {
        tree::segments(self.path())
    }

    /// Brings all files back to what they were.
    fn restore(&self) {
        for path in tree::look(self.path()).into_keys().filter(|p| !self.files.contains_key(p)) {
            let gone = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            gone.unwrap();
        }
        for (path, seen) in &self.files {
            if std::fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
                std::fs::remove_file(path).or_else(|_| std::fs::remove_dir_all(path)).unwrap();
            }
            std::fs::write(path, &seen.bytes).unwrap();
        }
    }

    /// Everything is as it was, once the files are.
    #[track_caller]
    fn assert_whole(&self) {
        let store = common::open(self.path());
        assert_same(&state(&store), &self.state);
        assert!(store.verify().unwrap().is_clean(), "{:?}", store.verify());
        assert_eq!(store.recovery().missing_segments, 0);
    }

    /// The file and the place of a record, as they were when the store was closed.
    fn record(&self, id: &[u8]) -> (PathBuf, Slot) {
        let lsn = self.state[id].lsn;
        let name = format!("{:010x}-", lsn.as_u64() >> 24);
        let named =
            |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&name);
        let path = self.files.keys().find(named).unwrap();
        (path.clone(), Slot::read(&self.files[path].bytes, lsn))
    }
}

fn id(n: u32) -> Vec<u8> {
    format!("id {n}").into_bytes()
}

/// Where a record's slot and frame lie in its file.
#[derive(Clone, Debug)]
struct Slot {
    slot: Range<usize>,
    frame: Range<usize>,
}

impl Slot {
    fn read(bytes: &[u8], lsn: Lsn) -> Self {
        let begin = DIRECTORY_AT + (lsn.as_u64() & 0xFF_FFFF) as usize * SLOT;
        let units = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let offset = units(begin + 24) * 64;
        let frame = offset..offset + units(begin + 28) * 64;
        Self { slot: begin..begin + SLOT, frame }
    }
}

/// Changes bytes of a file in place.
fn change(path: &Path, range: Range<usize>, with: impl Fn(usize, u8) -> u8) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; range.len()];
    file.read_exact_at(&mut bytes, range.start as u64).unwrap();
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = with(range.start + n, *byte);
    }
    file.write_all_at(&bytes, range.start as u64).unwrap();
}

fn zero(path: &Path, range: Range<usize>) {
    change(path, range, |_, _| 0);
}

fn flip(path: &Path, bit: usize) {
    change(path, bit / 8..bit / 8 + 1, |_, byte| byte ^ 1 << (bit % 8));
}

/// What a get makes of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Whole,
    Corrupt,
    Nothing,
    /// Another version than the newest.
    Older,
}

/// Asks for an id, by every way of reading, and accepts no record but its newest version.
#[track_caller]
fn ask(store: &Store, was: &State, id: &[u8]) -> Answer {
    let got = store.get_owned(id);
    let shared = store.get_shared(id).map(|record| record.map(|record| record.to_owned()));
    match (&got, &shared) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(Error::Corrupt { .. }), Err(Error::Corrupt { .. })) => {}
        other => panic!("{} is {other:?}", id.escape_ascii()),
    }
    let Ok(got) = got else {
        assert!(store.contains(id), "damage is not absence");
        return Answer::Corrupt;
    };
    let Some(got) = got else { return Answer::Nothing };
    // The tag is under no checksum, by design.
    let mut expected = was[id].clone();
    expected.tag = got.tag;
    if got == expected { Answer::Whole } else { Answer::Older }
}

/// Walks over everything: whole records are the ones that were there.
#[track_caller]
fn walk(store: &Store, was: &State) -> usize {
    let mut whole = 0;
    for record in &store.pin() {
        let Ok(record) = record else { continue };
        let expected = &was[record.id()];
        assert!(record.content() == expected.content && record.lsn() == expected.lsn);
        assert_eq!(record.embedding(), expected.embedding);
        whole += 1;
    }
    whole
}

/// Returns whether a report names damage in a range of a file.
fn names(report: &VerifyReport, path: &Path, range: Range<usize>) -> bool {
    let within = |at: u64| range.contains(&(at as usize));
    report.damaged.iter().any(|d| d.path == path && within(d.offset) && !d.reason.is_empty())
}

/// Opens read-only: quick, and nothing is repaired.
fn read_only(path: &Path) -> Store {
    Options::new().read_only(true).open(path).unwrap()
}

/// What the other processes of these tests do.
#[test]
fn roles() {
    let Some((role, place)) = role() else { return };
    assert_eq!(role, "open with few files");
    // The parent has set the limit; what matters is what this leaves behind.
    for _ in 0..2 {
        wait();
        let opened = Options::new().open(&place);
        say(match &opened {
            Ok(store) => format!("opened {}", store.len()),
            Err(error) => format!("refused: {error}"),
        });
    }
}
