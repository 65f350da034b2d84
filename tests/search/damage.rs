//! Searches over damaged files.

use super::{METRICS, assert_exact, new_store, vector};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stratalog::{Error, Metric, Options, Verify};

const DIMENSION: usize = 32;

fn segments(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

/// A closed store, of which "bad" is nearest to the first vector, then damaged in one value of the
/// embedding of each of these ids; each id's embedding is in the files once per version.
fn damaged(path: &Path, seeds: &[u64]) {
    let store = new_store(path, DIMENSION);
    for n in 1..200 {
        store.put(format!("id-{n}"), &vector(DIMENSION, n), "content").unwrap();
    }
    store.put("bad", &vector(DIMENSION, 1_000), "old").unwrap();
    store.put("bad", &vector(DIMENSION, 0), "new").unwrap();
    store.close().unwrap();
    let bytes = |seed| vector(DIMENSION, seed).iter().flat_map(|v| v.to_le_bytes()).collect();
    let wanted: Vec<Vec<u8>> = seeds.iter().map(|&seed| bytes(seed)).collect();
    let mut hit = 0;
    for file in segments(path) {
        let mut content = fs::read(&file).unwrap();
        for wanted in &wanted {
            if let Some(at) = content.windows(wanted.len()).position(|bytes| bytes == wanted) {
                content[at + 4] ^= 1;
                hit += 1;
            }
        }
        fs::write(&file, content).unwrap();
    }
    assert_eq!(hit, seeds.len());
}

#[test]
fn a_damaged_live_record_is_an_error_until_it_is_replaced() {
    for verify in [Verify::FirstRead, Verify::EveryRead] {
        let dir = tempfile::tempdir().unwrap();
        damaged(dir.path(), &[0]);
        let store = Options::new().verify(verify).open(dir.path()).unwrap();
        // Even where it would not be found: who knows what it was.
        for seed in [0, 5, 77] {
            for metric in METRICS {
                let error = store.pin().search(&vector(DIMENSION, seed), 3, metric).unwrap_err();
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            }
        }
        let damage = &store.verify().unwrap().damaged;
        assert_eq!(damage.len(), 1, "{damage:?}");
        store.put("bad", &vector(DIMENSION, 0), "newer").unwrap();
        for metric in METRICS {
            assert_exact(&store.pin(), &vector(DIMENSION, 0), 10, metric);
        }
        assert!(store.remove("bad").unwrap().is_some());
        assert_exact(&store.pin(), &vector(DIMENSION, 0), 10, Metric::Cosine);
    }
}

#[test]
fn a_damaged_old_version_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    damaged(dir.path(), &[1_000]);
    let store = Options::new().verify(Verify::EveryRead).open(dir.path()).unwrap();
    for seed in [0, 1_000] {
        for metric in METRICS {
            assert_exact(&store.pin(), &vector(DIMENSION, seed), 10, metric);
        }
    }
}

#[test]
fn unchecked_damage_is_searched_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    damaged(dir.path(), &[0]);
    let store = Options::new().verify(Verify::Never).open(dir.path()).unwrap();
    for metric in METRICS {
        assert_exact(&store.pin(), &vector(DIMENSION, 0), 10, metric);
    }
}

/// A slot that is damaged under an open store: the index still knows the record.
#[test]
fn a_slot_damaged_under_an_open_store_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), DIMENSION);
    for n in 0..50u8 {
        store.put([n], &vector(DIMENSION, u64::from(n)), "").unwrap();
    }
    let file = segments(dir.path()).remove(0);
    let file = fs::File::options().write(true).open(file).unwrap();
    // The key hash in the eighth slot; the directory begins at 4096.
    file.write_all_at(b"damage", 4096 + 7 * 32 + 16).unwrap();
    assert_eq!(store.pin().iter().count(), 50);
    for metric in METRICS {
        assert_exact(&store.pin(), &vector(DIMENSION, 7), 10, metric);
    }
}

/// The same where the slot's bytes are gone: it says nothing any more.
#[test]
fn a_slot_zeroed_under_an_open_store_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = new_store(dir.path(), DIMENSION);
    for n in 0..50u8 {
        store.put([n], &vector(DIMENSION, u64::from(n)), "").unwrap();
    }
    store.sync().unwrap();
    let file = segments(dir.path()).remove(0);
    let file = fs::File::options().write(true).open(file).unwrap();
    // A sector of the directory, which begins at 4096.
    file.write_all_at(&[0; 512], 4096 + 512).unwrap();
    assert_eq!(store.pin().iter().count(), 50);
    for metric in METRICS {
        assert_exact(&store.pin(), &vector(DIMENSION, 17), 10, metric);
    }
}
