//! The manifest: the one file without which nothing can be told. Damage to it is an error of its
//! own, and changes nothing.

use super::common::{self, SEGMENT};
use super::{Closed, RECORDS, flip, tree};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use stratalog::internals::format::header::{IDENTITY_BYTES, Identity, Role};
use stratalog::internals::format::ids::Sequence;
use stratalog::internals::format::manifest::Manifest;
use stratalog::{Error, Options, Recovery};

fn manifest(closed: &Closed) -> PathBuf {
    closed.path().join("MANIFEST")
}

/// Opening fails with a typed error, in each way, and leaves all but the lock as it was.
#[track_caller]
fn assert_refused(closed: &Closed, what: &str) {
    let files = || {
        let mut files = tree::look(closed.path());
        files.remove(&closed.path().join("LOCK"));
        files
    };
    let before = files();
    let create = Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT);
    for options in [Options::new(), Options::new().read_only(true), create] {
        let error = options.open(closed.path()).map(|store| store.len()).unwrap_err();
        let typed = match &error {
            Error::Corrupt { path, reason, .. } => *path == manifest(closed) && !reason.is_empty(),
            Error::UnsupportedVersion { .. } | Error::Io { .. } => true,
            _ => false,
        };
        assert!(typed, "{what}: {error:?}");
        assert_eq!(files(), before, "{what}");
    }
}

#[test]
fn any_flipped_bit_and_any_cut_of_the_manifest_is_an_error_and_changes_nothing() {
    let closed = Closed::of_segments(2);
    let path = manifest(&closed);
    let whole = std::fs::read(&path).unwrap();
    // Zeros may follow it: its file may be longer than it is.
    let own = Manifest::decode(&whole).unwrap().encode().len();
    for bit in (0..own * 8).chain((own * 8..whole.len() * 8).step_by(89)) {
        flip(&path, bit);
        let error = Options::new().read_only(true).open(closed.path()).unwrap_err();
        let named = match &error {
            // The version is tested before the checksum.
            Error::UnsupportedVersion { supported: 2, .. } => (8 * 8..12 * 8).contains(&bit),
            Error::Corrupt { path: named, .. } => *named == path,
            _ => false,
        };
        assert!(named, "bit {bit}: {error:?}");
        if bit % 97 == 0 {
            assert_refused(&closed, &format!("bit {bit}"));
        }
        flip(&path, bit);
    }
    for len in 0..own {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = Options::new().read_only(true).open(closed.path()).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { .. }), "{len}: {error:?}");
    }
    assert_refused(&closed, "cut by a byte");
    std::fs::write(&path, [&whole[..], &[1]].concat()).unwrap();
    assert_refused(&closed, "a byte too many");
    closed.restore();
    closed.assert_whole();
}

/// Sums are right, fields are not: what only a bug or malice can have written.
#[test]
fn impossible_fields_under_a_right_sum_are_refused() {
    let closed = Closed::of_segments(2);
    let path = manifest(&closed);
    let whole = std::fs::read(&path).unwrap();
    let lies: [(&str, usize, u64); 12] = [
        ("dimension 0", 8, 1),
        ("dimension 2^32 - 1", 8, 1 | 0xFFFF_FFFF << 32),
        ("segment size 0", 32, 0),
        ("segment size 2^20 + 1", 32, SEGMENT + 1),
        ("segment size 2^40", 32, 1 << 40),
        ("no next sequence", 40, 0),
        ("next sequence too high", 40, u64::MAX),
        ("2^60 segments", 48, 1 << 60),
        ("segments out of order", 128, 77),
        ("an unknown role", 128 + 16, 2),
        ("a fixed part shorter than its fields", 88, 91),
        ("a fixed part longer than the file", 88, 1 << 20),
    ];
    for (what, at, value) in lies {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let end = bytes.len() - 4;
        let sum = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert_refused(&closed, what);
    }
    closed.restore();
    closed.assert_whole();
}

#[test]
fn a_store_whose_manifest_is_gone_is_not_taken_for_a_new_one() {
    let closed = Closed::of_segments(2);
    std::fs::remove_file(manifest(&closed)).unwrap();
    assert_refused(&closed, "deleted");
    closed.restore();
    closed.assert_whole();
}

#[test]
fn what_is_no_file_in_place_of_the_manifest_is_an_error_and_waits_for_nobody() {
    let closed = Closed::of_segments(1);
    let path = manifest(&closed);
    let aside = closed.path().with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_refused(&closed, "a directory");
    std::fs::remove_dir(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_refused(&closed, "a pipe");
    std::fs::remove_file(&path).unwrap();
    symlink(&aside, &path).unwrap();
    assert_refused(&closed, "a symbolic link");
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    closed.assert_whole();
}

#[test]
fn another_stores_manifest_makes_no_record_of_this_one_its_own() {
    let (closed, other) = (Closed::of_segments(2), Closed::of_segments(2));
    std::fs::copy(manifest(&other), manifest(&closed)).unwrap();
    let store = Options::new().read_only(true).open(closed.path()).unwrap();
    assert!(store.is_empty() && store.pin().iter().count() == 0);
    assert_eq!((store.recovery().missing_segments, store.recovery().foreign_files), (2, 2));
    drop(store);
    for _ in 0..2 {
        common::open(closed.path()).close().unwrap();
    }
    let segments = closed.files.keys().filter(|path| path.extension().is_some());
    assert!(segments.clone().all(|path| path.exists()), "they hold records");
    closed.restore();
    closed.assert_whole();
}

/// A segment for copies that was still open took records from younger ones of the log, which were
/// dropped, and whatever came later is gone, too. Without a manifest its number was the highest one
/// known, so the LSNs of the younger records were "never given": they were lost, and given again.
#[test]
fn a_salvage_without_a_manifest_believes_copies_of_records_younger_than_their_segment() {
    let closed = Closed::new(|store| {
        let segments = store.stats().segments;
        let put = |n: u32| store.put(n.to_le_bytes(), &[1.0; 16], n.to_le_bytes().repeat(50_000));
        put(0).unwrap();
        while store.stats().segments < segments + 3 {
            put(1).unwrap();
        }
        put(2).unwrap();
        store.remove(0u32.to_le_bytes()).unwrap();
        store.compact().unwrap();
    });
    let files = || {
        let paths = std::fs::read_dir(closed.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
    };
    let [copies] = &files().collect::<Vec<_>>()[..] else { panic!("the last two, and no others") };
    let mut bytes = std::fs::read(copies).unwrap();
    let found = Identity::decode(bytes[..IDENTITY_BYTES].first_chunk().unwrap()).unwrap();
    assert_eq!(found.role, Role::Copies);
    let last = common::open(closed.path()).get_owned(2u32.to_le_bytes()).unwrap().unwrap().lsn;
    // As if it had been begun when the first segment was emptied.
    let older = Identity { sequence: Sequence(1), ..found };
    bytes[..IDENTITY_BYTES].copy_from_slice(&older.encode());
    let name = copies.file_name().unwrap().to_str().unwrap().replacen(
        &name_part(found),
        &name_part(older),
        1,
    );
    std::fs::remove_file(copies).unwrap();
    std::fs::write(closed.path().join(name), &bytes).unwrap();
    std::fs::remove_file(manifest(&closed)).unwrap();

    let store = Options::new().recovery(Recovery::Salvage).open(closed.path()).unwrap();
    assert_eq!((store.len(), store.recovery().corrupt), (2, 1), "{:?}", store.recovery());
    assert!(store.put("later", &[1.0; 16], "x").unwrap() > last, "an LSN is given twice");
    store.close().unwrap();
    let store = common::open(closed.path());
    assert!(store.recovery().is_clean() && store.len() == 3, "{:?}", store.recovery());
}

/// The sequence in a segment's file name.
fn name_part(identity: Identity) -> String {
    format!("{:010x}", identity.sequence.0)
}
