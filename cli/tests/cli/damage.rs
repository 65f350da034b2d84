//! `verify`: what it says and how it exits when files are not what was written.

use crate::{expect, json, sample_records, sample_store, words};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub fn segments(store: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect();
    paths.sort();
    paths
}

/// Flips a bit of the first occurrence of these bytes in the store's segments.
pub fn damage(store: &Path, bytes: &[u8]) -> PathBuf {
    for path in segments(store) {
        let content = fs::read(&path).unwrap();
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[0] ^ 1], at as u64).unwrap();
            return path;
        }
    }
    panic!("these bytes are not in the store");
}

#[test]
fn a_whole_store_is_clean() {
    let (_dir, store) = sample_store();
    let (text, err) = expect(0, words(&store, "verify", &["--deep"]));
    assert!(text.starts_with("clean: 500 records"), "{text}");
    assert!(text.contains("500 looked up"), "{text}");
    assert_eq!(err, "", "progress is for terminals");
    let (text, _) = expect(0, words(&store, "verify", &[]));
    assert!(text.starts_with("clean: 500 records"), "{text}");
    let (text, _) = expect(0, words(&store, "verify", &["--quick"]));
    assert!(text.starts_with("clean: slots of 500 records"), "{text}");
    let quick = json(0, words(&store, "verify", &["--json", "--quick"]));
    assert_eq!((&quick["clean"], &quick["deep"]), (&true.into(), &false.into()));
    assert_eq!((&quick["records"], &quick["compared"]), (&500.into(), &0.into()));
    let report = json(0, words(&store, "verify", &["--json", "--deep"]));
    assert_eq!((&report["clean"], &report["deep"]), (&true.into(), &true.into()));
    assert_eq!((&report["records"], &report["compared"]), (&500.into(), &500.into()));
    assert!(report["bytes"].as_u64() > quick["bytes"].as_u64());
    assert_eq!(report["damaged"].as_array().unwrap().len(), 0);
}

#[test]
fn a_flipped_bit_is_found_named_and_never_printed_as_content() {
    let (_dir, store) = sample_store();
    let (id, content) = &sample_records()[42];
    let path = damage(&store, content.as_bytes());
    let (text, _) = expect(3, words(&store, "verify", &["--deep"]));
    let line = text.lines().next().unwrap();
    assert!(line.starts_with(path.to_str().unwrap()), "{text}");
    assert!(line.contains(&format!("id {id}: ")), "{text}");
    assert!(text.contains("DAMAGED: 1 places"), "{text}");
    expect(0, words(&store, "verify", &["--quick"]));
    expect(3, words(&store, "verify", &[]));
    let report = json(3, words(&store, "verify", &["--json", "--deep"]));
    assert_eq!(report["clean"], false);
    assert_eq!(report["damaged"][0]["id"], **id);
    assert_eq!(report["damaged"][0]["segment"], path.to_str().unwrap());
    assert!(report["damaged"][0]["offset"].as_u64().unwrap() > 0);

    let (out, err) = expect(1, words(&store, "get", &[id]));
    assert_eq!(out, "");
    assert!(err.contains("is damaged at byte"), "{err}");
    let (out, err) = expect(1, words(&store, "list", &[]));
    assert_eq!(out.lines().count(), 499);
    assert!(err.contains("1 records could not be read"), "{err}");
}

#[test]
fn a_segment_that_is_missing_is_damage() {
    let (_dir, store) = sample_store();
    fs::remove_file(&segments(&store)[0]).unwrap();
    let report = json(3, words(&store, "verify", &["--json"]));
    assert_eq!(report["missing_segments"], 1);
    assert!(!report["damaged"].as_array().unwrap().is_empty());
    let (text, _) = expect(3, words(&store, "verify", &[]));
    assert!(text.contains("DAMAGED"), "{text}");
}

#[test]
fn a_slot_that_was_lost_is_damage() {
    let (_dir, store) = sample_store();
    let file = OpenOptions::new().write(true).open(&segments(&store)[0]).unwrap();
    // The directory begins at 4096, a slot has 32 bytes (DESIGN.md 3.1).
    file.write_all_at(&[0; 32], 4096 + 32 * 10).unwrap();
    let report = json(3, words(&store, "verify", &["--json"]));
    assert_eq!(report["clean"], false);
    assert_eq!(report["corrupt_at_opening"], 1);
    assert_eq!(report["lost_at_opening"][0]["offset"], 4096 + 32 * 10);
    let (text, _) = expect(3, words(&store, "verify", &[]));
    assert_eq!(text.matches("byte 4416").count(), 1, "{text}");
    let stat = json(0, words(&store, "stat", &["--json"]));
    assert_eq!(stat["recovery"]["lost"], 1);
}

#[test]
fn a_damaged_manifest_is_an_error_that_names_it() {
    let (_dir, store) = sample_store();
    let manifest = store.join("MANIFEST");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[20] ^= 1;
    fs::write(&manifest, &bytes).unwrap();
    let (_, err) = expect(1, words(&store, "verify", &[]));
    assert!(err.contains("MANIFEST is damaged"), "{err}");
    assert!(err.contains("`stratalog salvage` copies"), "{err}");
    fs::write(&manifest, b"").unwrap();
    expect(1, words(&store, "stat", &[]));
}
