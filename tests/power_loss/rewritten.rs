//! A file whose flush failed is copied by the next opening, which may itself be killed at any step.
//! Invariant: the opening after that promises nothing that only the old file's page cache shows.

use super::device::{Cut, Device, Honesty};
use super::{common, life, scratch};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::Lsn;
use stratalog::internals::format::header::{
    BOOT_AT, FLUSH_AT, FlushNote, IDENTITY_BYTES, Identity, encode_flush,
};

const RECORDS: u32 = 7;

fn id(n: u32) -> Vec<u8> {
    format!("id {n}").into_bytes()
}

fn segment_of(store: &Path) -> PathBuf {
    let entries = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    segments.min().unwrap()
}

fn note_failed_flush(segment: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(segment).unwrap();
    let mut header = [0; BOOT_AT + 16];
    file.read_exact_at(&mut header, 0).unwrap();
    let identity = Identity::decode(header[..IDENTITY_BYTES].first_chunk().unwrap()).unwrap();
    let half = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().unwrap());
    let boot = [half(BOOT_AT), half(BOOT_AT + 8)];
    let word = encode_flush(FlushNote::Failed, boot, identity.salt);
    file.write_all_at(&word.to_le_bytes(), FLUSH_AT as u64).unwrap();
}

/// Killed between the copy's rename and the sync of the directory, an opening left a file without
/// a note under a name that the device did not have yet.
#[test]
fn opening_killed_at_any_flush_of_a_rewrite_leaves_no_false_promise() {
    // Records that no flush has covered: the device holds the segment's beginning only.
    let first = scratch();
    let device = Device::new(first.path(), Honesty::Honest, 1);
    device.watch(0, None);
    let store = life::open(&first.path().join("store")).unwrap();
    for n in 1..=RECORDS {
        super::claims::shape(n).put(&store, &id(n), n);
    }
    device.capture();
    let written = device.stop().pop().unwrap();
    drop(store);
    // The next life: its opening copies the file. It is killed at each flush.
    let second = scratch();
    let device = written.go_on_at(second.path(), 2);
    note_failed_flush(&segment_of(&second.path().join("store")));
    device.watch(1, None);
    let store = life::open(&second.path().join("store")).unwrap();
    let kills = device.stop();
    drop(store);
    assert!(kills.len() >= 2, "the file was not copied");
    for (n, kill) in kills.iter().enumerate() {
        let third = scratch();
        let device = kill.go_on_at(third.path(), 3);
        device.watch(0, None);
        let store = life::open(&third.path().join("store")).unwrap();
        store.sync().unwrap();
        assert!(store.durable_lsn() > Lsn::default() && store.len() == RECORDS as usize);
        device.capture();
        let promised = device.stop().pop().unwrap();
        drop(store);
        for seed in 0..8 {
            let lost = scratch();
            super::device::write(&promised.cut(Cut { seed, unit: 512, new: 0 }), lost.path());
            let store = common::open(&lost.path().join("store"));
            assert_eq!(store.len(), RECORDS as usize, "killed at {n}, seed {seed}");
        }
    }
}
