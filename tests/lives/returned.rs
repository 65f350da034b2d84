//! Segments that are missing for a life, or have lost what they held, and are back in the next.
//! Invariant: what was written and removed meanwhile stands, and so does what they hold.

use super::{For, has, id, killed, options, put, put_all, read, segments};
use std::path::PathBuf;
use stratalog::internals::format::header::Identity;

/// A segment for copies has a number above that of the next segment of the log. Its file is
/// missing; it goes on being named, so nothing else may have that number.
#[test]
fn number_of_a_missing_segment_for_copies_is_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..6);
    store.remove(id(0)).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let copies = segments(&path).remove(0);
    let aside = dir.path().join("aside");
    std::fs::rename(&copies, &aside).unwrap();

    let store = options().open(&path).unwrap();
    assert_eq!(store.recovery().missing_segments, 1);
    let manifest = std::fs::read(path.join("MANIFEST")).unwrap();
    put_all(&store, 10..13);
    store.sync().unwrap();
    // As it is until the thread that keeps it in step has come to it.
    killed(&store, &image);
    std::fs::write(image.join("MANIFEST"), manifest).unwrap();
    store.close().unwrap();
    for store in [&path, &image] {
        let store = options().open(store).unwrap();
        assert!((10..13).all(|n| has(&store, n)), "{:?}", store.recovery());
        assert_eq!(store.recovery().missing_segments, 1, "{:?}", store.recovery());
    }
    std::fs::rename(&aside, &copies).unwrap();
    let store = options().open(&path).unwrap();
    assert!((1..6).chain(10..13).all(|n| has(&store, n)), "{:?}", store.recovery());
    assert_eq!(store.recovery().missing_segments, 0);
}

/// What a segment has lost may come back with its file. Until then compaction kept no removal that
/// is as old as the segment: where the seal was left, or in the number of a segment for copies, it
/// took the segment for one that holds nothing older.
#[test]
fn removal_outlasts_the_return_of_a_segment_that_has_lost_what_was_removed() {
    let cases = [0, 4096, 4600].into_iter().flat_map(|len| [(len, For::Log), (len, For::Copies)]);
    for (len, role) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = options().open(&path).unwrap();
        put_all(&store, 0..250);
        if role == For::Copies {
            // Out of the first segment, to one that is younger than the active one.
            put(&store, 0);
            store.compact().unwrap();
        }
        store.remove(id(99)).unwrap();
        store.close().unwrap();
        let of_role = |path: &&PathBuf| Identity::decode(&read(path, 0)).unwrap().role == role;
        let files = segments(&path);
        let file = files.iter().find(of_role).unwrap();
        let whole = std::fs::read(file).unwrap();
        assert!(whole.windows(4000).any(|bytes| bytes == vec![100; 4000]), "what was removed");
        std::fs::File::options().write(true).open(file).unwrap().set_len(len).unwrap();

        let store = options().open(&path).unwrap();
        assert!(!store.recovery().is_clean());
        store.compact().unwrap();
        store.close().unwrap();
        std::fs::write(file, &whole).unwrap();
        let store = options().open(&path).unwrap();
        assert!(has(&store, 98) && store.recovery().is_clean(), "{:?}", store.recovery());
        assert!(!store.contains(id(99)), "it is back: {len}, {role:?}");
        store.compact().unwrap();
        store.close().unwrap();
        for file in segments(&path) {
            let bytes = std::fs::read(file).unwrap();
            assert!(!bytes.windows(4000).any(|bytes| bytes == vec![100; 4000]), "its bytes stay");
        }
    }
}

/// The segment that took records is missing for a life, in which what was written behind it came to
/// a segment for copies. Back again, it was the last one of the log, and went on: what was put then
/// had a lower LSN than what it replaced, and lost to it.
#[test]
fn a_segment_that_was_missing_does_not_go_on_below_what_was_written_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("s"), dir.path().join("aside"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..5);
    store.close().unwrap();
    let file = segments(&path).remove(0);
    std::fs::rename(&file, &aside).unwrap();

    let store = options().open(&path).unwrap();
    assert_eq!(store.recovery().missing_segments, 1);
    put_all(&store, 5..10);
    let last = put(&store, 5);
    store.compact().unwrap();
    store.close().unwrap();
    std::fs::rename(&aside, &file).unwrap();

    let mut store = options().open(&path).unwrap();
    assert!(store.recovery().is_clean() && (0..10).all(|n| has(&store, n)));
    let lsn = store.put(id(5), &[5.0; 16], "new").unwrap();
    assert!(lsn > last, "{lsn} after {last}");
    assert!(store.remove(id(6)).unwrap().is_some());
    for _ in 0..2 {
        assert_eq!(store.get_owned(id(5)).unwrap().unwrap().content, b"new");
        assert!(!store.contains(id(6)));
        store.close().unwrap();
        store = options().open(&path).unwrap();
    }
}
