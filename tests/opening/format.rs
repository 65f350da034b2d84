//! What one version of the format owes the next: features that it does not know are respected, and
//! an incarnation tells readers that something they may have seen is gone.

use super::common::{assert_same, state};
use super::{RECORDS, options, tree};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::internals::format::header::{BOOT_AT, DURABLE_AT, Features, IDENTITY_BYTES};
use stratalog::internals::format::manifest::Manifest;
use stratalog::{Error, Options, Recovery, Store};
use tempfile::TempDir;

/// Where the features lie, in a segment header and in a manifest.
const FEATURES_AT: [usize; 2] = [64, 56];
/// The first reserved byte of a manifest.
const RESERVED_AT: usize = 92;

fn put(store: &Store, from: u32, to: u32) {
    for n in from..to {
        RECORDS.put(store, format!("id {n}").as_bytes(), n);
    }
}

fn closed() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    put(&store, 0, 20);
    store.close().unwrap();
    // An opening writes down what the first handle had no time for.
    options().open(dir.path()).unwrap().close().unwrap();
    dir
}

fn manifest(dir: &Path) -> Manifest {
    Manifest::decode(&std::fs::read(dir.join("MANIFEST")).unwrap()).unwrap()
}

/// Changes bytes under the checksum at the end of what is summed.
fn forge(path: &Path, summed: usize, at: usize, with: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
    let sum = crc32fast::hash(&bytes[..summed]);
    bytes[summed..summed + 4].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// Names features in the header of a store's segment, or in its manifest.
fn set_features(dir: &Path, in_manifest: bool, features: Features) -> PathBuf {
    let path = if in_manifest { dir.join("MANIFEST") } else { tree::segments(dir)[0].clone() };
    // Zeros follow a manifest in its file.
    let summed = if in_manifest { manifest(dir).encode().len() } else { IDENTITY_BYTES } - 4;
    forge(&path, summed, FEATURES_AT[usize::from(in_manifest)], &features.encode());
    path
}

fn files_but_lock(dir: &Path) -> Vec<(PathBuf, tree::Seen)> {
    let files = tree::look(dir).into_iter();
    files.filter(|(path, _)| !path.ends_with("LOCK")).collect()
}

#[track_caller]
fn assert_unsupported(options: &Options, dir: &Path, expected: u64) {
    let before = files_but_lock(dir);
    let error = options.open(dir).map(|store| store.len()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedFeatures { bits } if bits == expected), "{error:?}");
    assert!(error.to_string().contains(&format!("{expected:#x}")), "{error}");
    assert!(files_but_lock(dir) == before, "something was changed");
}

/// Every way to open a store for writing, and for reading.
fn ways(read_only: bool) -> [Options; 3] {
    let modes = [Recovery::Tolerant, Recovery::Strict, Recovery::Salvage];
    modes.map(|mode| Options::new().recovery(mode).read_only(read_only))
}

#[test]
fn unknown_incompatible_features_forbid_every_opening() {
    for in_manifest in [false, true] {
        let dir = closed();
        let features = Features { incompatible: 1 << 9, ..Features::default() };
        set_features(dir.path(), in_manifest, features);
        for options in ways(false).iter().chain(&ways(true)) {
            assert_unsupported(options, dir.path(), 1 << 9);
        }
    }
}

#[test]
fn unknown_read_only_compatible_features_forbid_only_writing() {
    for in_manifest in [false, true] {
        let dir = closed();
        let before = state(&options().open(dir.path()).unwrap());
        let features = Features { read_only: 1 << 63, ..Features::default() };
        set_features(dir.path(), in_manifest, features);
        for options in &ways(false) {
            assert_unsupported(options, dir.path(), 1 << 63);
        }
        for options in &ways(true) {
            let store = options.open(dir.path()).unwrap();
            assert_same(&state(&store), &before);
            assert!(store.recovery().is_clean(), "{:?}", store.recovery());
        }
    }
}

#[test]
fn unknown_compatible_features_and_reserved_bytes_are_kept() {
    let dir = closed();
    let features = Features { compatible: u64::MAX, ..Features::default() };
    set_features(dir.path(), false, features);
    let path = set_features(dir.path(), true, features);
    let summed = manifest(dir.path()).encode().len() - 4;
    forge(&path, summed, RESERVED_AT, &[7; 36]);
    let before = manifest(dir.path());
    let store = Options::new().open(dir.path()).unwrap();
    assert!(store.recovery().is_clean(), "{:?}", store.recovery());
    put(&store, 0, 40);
    store.compact().unwrap();
    store.close().unwrap();
    let after = manifest(dir.path());
    assert_ne!(after.segments, before.segments, "it was written anew");
    assert_eq!(after.meta, before.meta);
    assert_eq!(std::fs::read(path).unwrap()[RESERVED_AT..RESERVED_AT + 36], [7; 36]);
    // A backup is a store of this version.
    let copy = dir.path().join("copy");
    Options::new().open(dir.path()).unwrap().backup(&copy).unwrap();
    assert_eq!(manifest(&copy).meta.features, Features::default());
}

/// A flipped bit in the version must not make a whole segment, or the store, unreadable.
#[test]
fn a_damaged_version_of_a_known_segment_costs_no_record_and_of_the_manifest_no_salvage() {
    let dir = closed();
    let before = state(&options().open(dir.path()).unwrap());
    let segment = &tree::segments(dir.path())[0];
    for path in [segment.clone(), dir.path().join("MANIFEST")] {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[3], 8).unwrap();
        let salvage = Options::new().read_only(true).recovery(Recovery::Salvage);
        let store = salvage.open(dir.path()).unwrap();
        assert_same(&state(&store), &before);
        assert_eq!(store.recovery().corrupt, 1);
        file.write_all_at(&[2], 8).unwrap();
    }
}

/// Makes the store look as after power loss that took what followed the first records.
fn lose_power(dir: &Path) {
    let segment = &tree::segments(dir)[0];
    let file = std::fs::File::options().write(true).open(segment).unwrap();
    file.write_all_at(&[0xB0; 16], BOOT_AT as u64).unwrap();
    file.write_all_at(&[0; 8], DURABLE_AT as u64).unwrap();
    // The first frame, which lies at the end.
    let len = std::fs::metadata(segment).unwrap().len();
    file.write_all_at(&[0; 64], len - 64).unwrap();
}

#[test]
fn an_incarnation_ends_when_a_recovery_gives_something_up() {
    let dir = closed();
    let incarnation = || manifest(dir.path()).meta.incarnation;
    assert_eq!(incarnation(), 1);
    options().open(dir.path()).unwrap().close().unwrap();
    assert_eq!(incarnation(), 1, "nothing was given up");
    lose_power(dir.path());
    let read_only = Options::new().read_only(true).open(dir.path()).unwrap();
    assert!(read_only.len() < 20);
    drop(read_only);
    assert_eq!(incarnation(), 1, "a reader changes nothing");
    let store = options().open(dir.path()).unwrap();
    assert!(store.len() < 20);
    assert_eq!(incarnation(), 2, "before the store is used");
    put(&store, 0, 40);
    store.compact().unwrap();
    store.close().unwrap();
    options().open(dir.path()).unwrap().close().unwrap();
    assert_eq!(incarnation(), 2, "manifests after it name it, too");

    let salvage = Options::new().recovery(Recovery::Salvage);
    let store = salvage.open(dir.path()).unwrap();
    assert_eq!(incarnation(), 3);
    let copy = dir.path().join("copy");
    store.backup(&copy).unwrap();
    store.close().unwrap();
    assert_eq!(manifest(&copy).meta.incarnation, 1, "a store of its own");
    std::fs::remove_dir_all(&copy).unwrap();

    std::fs::remove_file(dir.path().join("MANIFEST")).unwrap();
    salvage.open(dir.path()).unwrap().close().unwrap();
    assert!(![0, 1, 2, 3].contains(&incarnation()), "which there were is not known");
}
