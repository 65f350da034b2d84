//! Misdirected writes: a whole, sound block of a segment lies where another one belongs. No frame
//! and no slot is believed anywhere but in its own place.

use super::{Closed, DIRECTORY_AT, SLOT, common};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::{Batch, Error, Options, Recovery, Store, Verify};

/// What a misdirected write moves: a page.
const BLOCK: usize = 4096;
/// With an id of six bytes a frame has 256 bytes, so that blocks hold whole frames.
const CONTENT: usize = 128;
const IDS: u32 = 20;

/// A block of a file.
type Block = (PathBuf, usize);

/// Every version that an id had: its LSN, and its content unless it was removed.
type History = BTreeMap<Vec<u8>, Vec<(u64, Option<Vec<u8>>)>>;

fn id(n: u32) -> Vec<u8> {
    format!("id {n:03}").into_bytes()
}

/// Overwrites and removes the ids, so that each block of frames has older versions of those in
/// others.
fn fill(store: &Store, history: &mut History, round: u32) {
    for n in 0..IDS {
        let content = vec![(round * IDS + n) as u8; CONTENT];
        let mut note = |lsn: u64, content| {
            history.entry(id(n)).or_default().push((lsn, content));
        };
        if (n + round).is_multiple_of(5) {
            if store.remove(id(n)).unwrap().is_some() {
                // A removal does not say which LSN it has; this one has the next.
                let next = store.put("counter", &[0.0; 16], "").unwrap().as_u64();
                note(next - 1, None);
            }
        } else if (n + round).is_multiple_of(3) {
            let mut batch = Batch::new();
            batch.put(id(n), &[n as f32; 16], &content);
            note(store.write(batch).unwrap().as_u64(), Some(content));
        } else {
            let lsn = store.put(id(n), &[n as f32; 16], &content).unwrap();
            note(lsn.as_u64(), Some(content));
        }
    }
}

/// Two segments, each with a few blocks of small frames.
fn store() -> (Closed, History) {
    let mut history = History::new();
    let closed = Closed::new(|store| {
        (0..6).for_each(|round| fill(store, &mut history, round));
        let first = store.stats().segments;
        while store.stats().segments == first {
            store.put("filler", &[0.0; 16], vec![0xEE; 400_000]).unwrap();
        }
        (6..12).for_each(|round| fill(store, &mut history, round));
        store.remove("filler").unwrap();
        store.remove("counter").unwrap();
    });
    (closed, history)
}

/// All blocks that hold something but fillings, and one blank block of each segment.
fn blocks(closed: &Closed) -> Vec<Block> {
    let mut blocks = Vec::new();
    for path in closed.segments() {
        let bytes = std::fs::read(&path).unwrap();
        let mut blank_taken = false;
        for (n, block) in bytes.chunks(BLOCK).enumerate() {
            let is_blank = block.iter().all(|&byte| byte == 0);
            let is_filling = block.iter().filter(|&&byte| byte == 0xEE).count() > BLOCK / 2;
            if is_filling || is_blank && blank_taken {
                continue;
            }
            blocks.push((path.clone(), n * BLOCK));
            blank_taken |= is_blank;
        }
    }
    blocks
}

fn read(block: &Block) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    std::fs::File::open(&block.0).unwrap().read_exact_at(&mut bytes, block.1 as u64).unwrap();
    bytes
}

fn write(block: &Block, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(&block.0).unwrap();
    file.write_all_at(bytes, block.1 as u64).unwrap();
}

fn swap(one: &Block, other: &Block) {
    let (ours, theirs) = (read(one), read(other));
    write(one, &theirs);
    write(other, &ours);
}

/// Where the slot of an LSN lies. Nothing was compacted, so each is in its first place.
fn slot_block(segments: &[PathBuf], lsn: u64) -> Block {
    let name = format!("{:010x}-", lsn >> 24);
    let is_its = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&name);
    let path = segments.iter().find(is_its).unwrap();
    let at = DIRECTORY_AT + (lsn & 0xFF_FFFF) as usize * SLOT;
    (path.clone(), at / BLOCK * BLOCK)
}

/// Whose frame lies where, by file and offset.
type Owners = BTreeMap<(PathBuf, u64), Vec<u8>>;

fn owners(closed: &Closed, history: &History) -> Owners {
    let mut owners = Owners::new();
    for path in closed.segments() {
        let bytes = std::fs::read(&path).unwrap();
        for begin in (DIRECTORY_AT..DIRECTORY_AT + 200 * SLOT).step_by(SLOT) {
            let offset = u32::from_le_bytes(bytes[begin + 24..begin + 28].try_into().unwrap());
            let at = offset as usize * 64;
            let id = bytes.get(at + 40..at + 46).filter(|id| history.contains_key(*id));
            if let Some(id) = id {
                owners.insert((path.clone(), at as u64), id.to_vec());
            }
        }
    }
    owners
}

/// What two blocks that changed places may cost.
struct Cost<'a> {
    history: &'a History,
    owners: &'a Owners,
    segments: &'a [PathBuf],
    pair: [&'a Block; 2],
}

impl Cost<'_> {
    /// Returns whether it is not known any more what became of an id: the slot of its newest
    /// version is gone, or its whole segment. Where a header is gone every frame is checked at
    /// opening, and one that does not hold is as if it had never been.
    fn is_unknown(&self, id: &[u8]) -> bool {
        let newest = self.history[id].last().unwrap().0;
        let slot = slot_block(self.segments, newest);
        self.pair.iter().any(|block| **block == slot || block.1 == 0)
    }

    fn is_newest(&self, id: &[u8], found: Option<(u64, &[u8])>) -> bool {
        let (lsn, content) = self.history[id].last().unwrap();
        found == content.as_ref().map(|content| (*lsn, &content[..]))
    }

    fn was_once(&self, id: &[u8], (lsn, content): (u64, &[u8])) -> bool {
        let same = |(l, c): &(u64, Option<Vec<u8>>)| *l == lsn && c.as_deref() == Some(content);
        self.history[id].iter().any(same)
    }

    /// No answer is wrong, none is given twice, and what is missing is reported.
    fn judge(&self, store: &Store, how: &str) {
        let mut missing = false;
        for id in self.history.keys() {
            let got = store.get_owned(id);
            let Ok(got) = got else {
                assert!(matches!(got, Err(Error::Corrupt { .. })), "{how}: {got:?}");
                missing = true;
                continue;
            };
            let found = got.as_ref().map(|record| (record.lsn.as_u64(), &record.content[..]));
            if self.is_newest(id, found) {
                continue;
            }
            missing = true;
            let Some(found) = found else { continue };
            let id_text = id.escape_ascii();
            assert!(self.was_once(id, found), "{how}: {id_text} never was {found:?}");
            assert!(self.is_unknown(id), "{how}: {id_text} is an older version");
        }
        let mut seen = BTreeMap::new();
        for record in &store.pin() {
            let Ok(record) = record else {
                missing = true;
                continue;
            };
            if !self.history.contains_key(record.id()) {
                continue;
            }
            let times = seen.entry(record.id().to_vec()).or_insert(0);
            *times += 1;
            assert_eq!(*times, 1, "{how}: {} comes twice", record.id().escape_ascii());
            let found = (record.lsn().as_u64(), record.content());
            let is_right = self.is_newest(record.id(), Some(found))
                || self.is_unknown(record.id()) && self.was_once(record.id(), found);
            assert!(is_right, "{how}: {} in a walk", record.id().escape_ascii());
        }
        let damaged = store.verify().unwrap().damaged;
        for damage in store.recovery().lost.iter().chain(&damaged) {
            let owner = self.owners.get(&(damage.path.clone(), damage.offset));
            if let (Some(id), Some(owner)) = (&damage.id, owner) {
                assert_eq!(id, owner, "{how}: the damage is another record's");
            }
        }
        let is_told = store.recovery().corrupt > 0 || !damaged.is_empty();
        assert!(!missing || is_told, "{how}: nothing is reported");
    }
}

fn open(path: &Path, recovery: Recovery, verify: Verify) -> Result<Store, Error> {
    Options::new().read_only(true).recovery(recovery).verify(verify).open(path)
}

#[test]
fn blocks_that_changed_places_are_damage_and_never_a_wrong_answer() {
    let (closed, history) = store();
    let (blocks, segments, owners) =
        (blocks(&closed), closed.segments(), owners(&closed, &history));
    assert!(owners.len() > 150, "{}", owners.len());
    assert!(blocks.len() > 20, "{}", blocks.len());
    let whole = Cost {
        history: &history,
        owners: &owners,
        segments: &segments,
        pair: [&blocks[1], &blocks[1]],
    };
    whole.judge(&open(closed.path(), Recovery::Strict, Verify::EveryRead).unwrap(), "whole");
    let pairs = (0..blocks.len()).flat_map(|n| (0..n).map(move |m| (m, n)));
    for (m, n) in pairs {
        let (one, other) = (&blocks[m], &blocks[n]);
        if read(one) == read(other) {
            continue;
        }
        swap(one, other);
        let cost =
            Cost { history: &history, owners: &owners, segments: &segments, pair: [one, other] };
        let ways = [
            (Recovery::Tolerant, Verify::FirstRead),
            (Recovery::Tolerant, Verify::EveryRead),
            (Recovery::Strict, Verify::FirstRead),
            (Recovery::Salvage, Verify::FirstRead),
        ];
        // In what differs only in when a frame is checked, a part of the pairs is enough.
        let some = (m + n).is_multiple_of(4);
        let is_rare =
            |verify, recovery| verify == Verify::EveryRead || recovery == Recovery::Strict;
        for (recovery, verify) in ways {
            if is_rare(verify, recovery) && !some {
                continue;
            }
            let how = format!("{one:?} and {other:?}, {recovery:?}, {verify:?}");
            match open(closed.path(), recovery, verify) {
                Ok(store) => cost.judge(&store, &how),
                Err(Error::Corrupt { .. }) if recovery == Recovery::Strict => {}
                Err(error) => panic!("{how}: {error}"),
            }
        }
        // Answers anything, and survives.
        if some && let Ok(store) = open(closed.path(), Recovery::Tolerant, Verify::Never) {
            history.keys().for_each(|id| drop(store.get_owned(id)));
            store.pin().iter().for_each(drop);
        }
        swap(one, other);
    }
    closed.assert_whole();
}

/// The same, opened for writing, with a compaction: nothing that lies in the wrong place is copied
/// to a right one.
#[test]
fn compaction_copies_no_frame_that_lies_in_the_wrong_place() {
    let (closed, history) = store();
    let (blocks, segments, owners) =
        (blocks(&closed), closed.segments(), owners(&closed, &history));
    let frames: Vec<_> = blocks.iter().filter(|block| block.1 > 1 << 18).collect();
    for pair in frames.windows(2) {
        swap(pair[0], pair[1]);
        let cost = Cost {
            history: &history,
            owners: &owners,
            segments: &segments,
            pair: [pair[0], pair[1]],
        };
        let store = common::open(closed.path());
        drop(store.compact());
        cost.judge(&store, &format!("{pair:?}"));
        store.close().unwrap();
        cost.judge(&common::open(closed.path()), &format!("{pair:?}, opened again"));
        closed.restore();
    }
    closed.assert_whole();
}
