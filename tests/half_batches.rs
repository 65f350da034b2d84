//! A batch is there whole or not at all, whenever the process dies, also if conditional writes of
//! its ids were made between its commit and its publication [W9].
#![cfg(test)]

#[path = "../fuzz/src/forge.rs"]
#[expect(dead_code, reason = "shared with the fuzz targets")]
mod forge;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stratalog::internals::format::checksum::Salted;
use stratalog::internals::format::header::DIRECTORY_AT;
use stratalog::internals::format::ids::SlotNumber;
use stratalog::internals::format::slot::SLOT_BYTES;
use stratalog::{Batch, Compaction, Condition, Options, Store};

/// Ids of a batch: enough that its publication takes a while.
const IDS: u64 = 2_000;
const CHILD: &str = "STRATALOG_HALF_BATCHES";

fn options() -> Options {
    Options::new().dimension(1).segment_size(16 << 20)
}

fn id(batch: u64, n: u64) -> String {
    format!("{batch}-{n}")
}

/// Batch after batch, and beside them inserts of single ids.
fn write_for_ever(path: &Path) {
    let store = options().open(path).unwrap();
    let current = AtomicU64::new(0);
    let batches = || {
        for batch in 1.. {
            let mut writes = Batch::new();
            for n in 0..IDS {
                writes.put(id(batch, n), &[1.0], b"batch");
            }
            current.store(batch, Ordering::SeqCst);
            store.write(writes).unwrap();
        }
    };
    let inserts = || {
        let mut random = 1u64;
        loop {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = id(current.load(Ordering::SeqCst), (random >> 33) % IDS);
            // Refused where the batch came first.
            drop(store.put_if(id, &[1.0], b"alone", Condition::Absent));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(batches);
        scope.spawn(inserts);
    });
}

/// Batches of which something is missing.
fn half_batches(store: &Store) -> Vec<(u64, u64)> {
    let pinned = store.pin();
    let mut halves = Vec::new();
    for batch in 1.. {
        let found = (0..IDS).filter_map(|n| pinned.get(id(batch, n)).unwrap());
        let (its, alone): (Vec<_>, Vec<_>) = found.partition(|record| record.content() == b"batch");
        if its.len() + alone.len() == 0 {
            break;
        }
        if !its.is_empty() && its.len() as u64 != IDS {
            halves.push((batch, its.len() as u64));
        }
    }
    halves
}

/// (mutation: unseen-ignored)
#[test]
fn no_kill_leaves_half_a_batch() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_for_ever(Path::new(&path));
    }
    let kills = std::env::var(format!("{CHILD}_KILLS")).map_or(12, |kills| kills.parse().unwrap());
    for kill in 0..kills {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "no_kill_leaves_half_a_batch", "--nocapture"]).env(CHILD, &path);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(150_000 + (kill * 7_919) % 50_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let Ok(store) = options().create(false).open(&path) else { continue };
        assert_eq!(half_batches(&store), [], "kill {kill}");
        store.close().unwrap();
        let store = options().open(&path).unwrap();
        assert_eq!(half_batches(&store), [], "kill {kill}, opened again");
    }
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect();
    segments.sort();
    segments
}

/// Has the conditional put with this content say that it has seen nothing. Its slot.
fn forget_what_was_seen(segment: &Path, content: &[u8]) -> usize {
    let mut bytes = std::fs::read(segment).unwrap();
    let at = bytes.windows(content.len()).position(|part| part == content).unwrap();
    // Header, id and embedding take less than two units here, and the frame ends with a unit.
    let frame = (at / 64 - 1) * 64;
    let slot = u32::from_le_bytes(bytes[frame + 28..frame + 32].try_into().unwrap());
    let end = (at + content.len() + 24).next_multiple_of(64);
    let sum = Salted::of_slot(forge::salt(&bytes), SlotNumber(slot)).and(&[0; 8]).finish();
    let sum = u64::from(sum) | 1 << 32;
    assert_ne!(bytes[end - 16..end - 8], sum.to_le_bytes(), "it has seen something");
    bytes[end - 24..end - 16].fill(0);
    bytes[end - 16..end - 8].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(segment, bytes).unwrap();
    DIRECTORY_AT + SLOT_BYTES * slot as usize
}

/// What recovery has decided stays, also once compaction has copied the member, and nothing says
/// any more that it was one: the put is void. (mutation: outdone-stays)
#[test]
fn a_batch_stays_whole_through_compaction_and_later_openings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = options().compaction(Compaction::Manual);
    let store = options.open(&path).unwrap();
    let mut batch = Batch::new();
    for n in 0..3 {
        batch.put(id(1, n), &[1.0], b"batch");
    }
    store.write(batch).unwrap();
    store.put_if(id(1, 0), &[1.0], b"not-of-the-batch", Condition::Present).unwrap();
    store.close().unwrap();
    let segment = &segments(&path)[0];
    let slot = forget_what_was_seen(segment, b"not-of-the-batch");
    for life in 0..4 {
        let read_only = options.clone().read_only(true).open(&path).unwrap();
        let deep = read_only.verify_deep(|_, _| ()).unwrap();
        assert!(deep.is_clean(), "life {life}: {deep:?}");
        let store = options.open(&path).unwrap();
        for store in [&read_only, &store] {
            let pinned = store.pin();
            for n in 0..3 {
                let record = pinned.get(id(1, n)).unwrap().unwrap();
                assert_eq!(record.content(), b"batch", "life {life}, record {n}");
            }
        }
        assert!(store.verify().unwrap().is_clean());
        if life == 0 {
            let state = std::fs::read(segment).unwrap()[slot];
            assert_eq!(state, 2, "the put is not void");
        }
        store.put("other", &[1.0], [life; 100]).unwrap();
        if life > 0 {
            store.compact().unwrap();
        }
        store.close().unwrap();
    }
}

/// Writes a batch with a single put.
fn batch_of_one(store: &Store, id: &str) {
    let mut batch = Batch::new();
    batch.put(id, &[1.0], b"written-in-a-batch");
    store.write(batch).unwrap();
}

fn content_of(store: &Store, id: &str) -> Option<Vec<u8>> {
    store.pin().get(id).unwrap().map(|record| record.content().to_vec())
}

/// The salvage finds the member damaged, so the index leads nowhere and the insert finds nothing.
/// The next opening trusts the member's slot, and must not void the insert because of it.
#[test]
fn an_insert_after_a_salvage_outlives_the_damaged_member_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = options().compaction(Compaction::Manual);
    let store = options.open(&path).unwrap();
    batch_of_one(&store, "id");
    store.close().unwrap();
    let segment = &segments(&path)[0];
    let mut bytes = std::fs::read(segment).unwrap();
    let at = bytes.windows(18).position(|part| part == b"written-in-a-batch").unwrap();
    bytes[at] ^= 1;
    std::fs::write(segment, bytes).unwrap();

    let store = options.clone().recovery(stratalog::Recovery::Salvage).open(&path).unwrap();
    assert_eq!(content_of(&store, "id"), None);
    store.put_if("id", &[1.0], b"inserted", Condition::Absent).unwrap();
    store.close().unwrap();
    for life in 0..2 {
        let store = options.open(&path).unwrap();
        assert_eq!(content_of(&store, "id").as_deref(), Some(&b"inserted"[..]), "life {life}");
        store.close().unwrap();
    }
}

/// The segment with the batch is missing while the insert is made, and returns afterwards.
#[test]
fn an_insert_while_a_segment_is_missing_outlives_the_return_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = options().segment_size(4 << 20).compaction(Compaction::Manual);
    let store = options.open(&path).unwrap();
    batch_of_one(&store, "id");
    for n in 0..60 {
        store.put(format!("filler {n}"), &[1.0], vec![n; 100_000]).unwrap();
    }
    store.close().unwrap();
    let segment = segments(&path).remove(0);
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(&segment, &elsewhere).unwrap();

    let store = options.open(&path).unwrap();
    assert_eq!(store.recovery().missing_segments, 1);
    assert_eq!(content_of(&store, "id"), None);
    store.put_if("id", &[1.0], b"inserted", Condition::Absent).unwrap();
    store.close().unwrap();
    std::fs::rename(&elsewhere, &segment).unwrap();
    for life in 0..2 {
        let store = options.open(&path).unwrap();
        assert_eq!(store.recovery().missing_segments, 0);
        assert_eq!(content_of(&store, "id").as_deref(), Some(&b"inserted"[..]), "life {life}");
        store.close().unwrap();
    }
}
