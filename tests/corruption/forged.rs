//! Contents that look like the engine's own structures. Nothing in a record's bytes is ever taken
//! for a slot or a frame, whatever is damaged around it: the directory alone says where frames are.

use super::common::{self, SEGMENT, State, state};
use super::{Closed, DIRECTORY_AT, change, read_only, tree, zero};
use std::ops::Range;
use std::path::Path;
use stratalog::internals::format::header::{CURSOR_AT, DURABLE_AT, SEALED_AT};
use stratalog::{Options, Store};

const CURSOR: Range<usize> = CURSOR_AT..CURSOR_AT + 8;

/// This store's own bytes so far: header, directory, frames.
fn own_bytes(store: &Store) -> Vec<u8> {
    std::fs::read(&tree::segments(store.path())[0]).unwrap()
}

/// A store whose contents are pieces of its own segment, at every multiple of eight from a multiple
/// of 64, so that slots and frames lie in them as they do in a segment.
fn quine() -> Closed {
    Closed::new(|store| {
        for n in 0..20 {
            store.put(format!("real {n}"), &[n as f32; 16], vec![n as u8; 50]).unwrap();
        }
        assert!(store.remove("real 3").unwrap().is_some());
        let bytes = own_bytes(store);
        let frames = SEGMENT as usize - 20 * 256..SEGMENT as usize;
        let directory = 0..DIRECTORY_AT + 21 * 32;
        for shift in (0..64).step_by(8) {
            let content = [&vec![0; shift], &bytes[directory.clone()], &bytes[frames.clone()]];
            store.put(format!("forged {shift}"), &[1.0; 16], content.concat()).unwrap();
        }
        // Half of a whole image, from each end.
        let most = SEGMENT as usize * 2 / 5;
        let bytes = own_bytes(store);
        store.put("head", &[2.0; 16], &bytes[..most]).unwrap();
        let bytes = own_bytes(store);
        store.put("foot", &[3.0; 16], &bytes[bytes.len() - most..]).unwrap();
    })
}

/// Every record of a store is one that was put, whole, under its own id.
#[track_caller]
fn assert_nothing_forged(store: &Store, was: &State) {
    for record in &store.pin() {
        let Ok(record) = record else { continue };
        let expected = &was[record.id()];
        let same = record.content() == expected.content && record.lsn() == expected.lsn;
        assert!(same, "{} was never put like that", record.id().escape_ascii());
        assert_eq!(record.embedding(), expected.embedding);
    }
    assert!(!store.contains("real 3"), "it was removed");
}

#[test]
fn contents_that_look_like_segments_are_read_back_and_never_taken_for_records() {
    let closed = quine();
    for path in closed.segments() {
        let damages: [fn(&Path); 6] = [
            |_| {},
            // No header: cursor, durable end and boot are gone, recovery looks for itself.
            |path| zero(path, 0..4096),
            // A cursor that claims every slot there can be.
            |path| change(path, CURSOR, |at, _| [0, 0, 0, 0, 0, 0xFF, 0xFF, 0][at - CURSOR_AT]),
            |path| change(path, CURSOR, |_, _| 0xFF),
            // The directory's first page is gone, then all of it.
            |path| zero(path, DIRECTORY_AT..DIRECTORY_AT + 1024),
            |path| zero(path, 0..DIRECTORY_AT + 4096),
        ];
        for (n, damage) in damages.into_iter().enumerate() {
            damage(&path);
            for store in [read_only(closed.path()), common::open(closed.path())] {
                assert_nothing_forged(&store, &closed.state);
                assert!(n > 3 || store.len() == closed.state.len(), "damage {n}");
            }
            closed.restore();
        }
    }
    closed.assert_whole();
}

/// The directory continued by a content: frames and slots meet, and slots of this very segment with
/// right sums lie where the directory would go on.
#[test]
fn a_directory_that_seems_to_go_on_in_a_frame_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().dimension(1).segment_size(SEGMENT).open(dir.path()).unwrap();
    // Fill the first segment to the brim with contents that are its own directory.
    store.put("first", &[0.0], "").unwrap();
    let mut n = 0;
    while store.stats().segments < 2 {
        let bytes = own_bytes(&store);
        let slots = &bytes[DIRECTORY_AT..DIRECTORY_AT + 2048];
        store.put(format!("{n}"), &[n as f32], [&slots[..1024], slots].concat()).unwrap();
        n += 1;
    }
    let was = state(&store);
    // What a kill leaves is read as well as what a close leaves.
    let killed = tempfile::tempdir().unwrap();
    tree::copy(dir.path(), killed.path());
    common::assert_same(&state(&common::open(killed.path())), &was);
    store.close().unwrap();
    let first = &tree::segments(dir.path())[0];
    for words in [[0u8; 8], [0xFF; 8], [0, 0, 0, 0, 0, 0, 0xFF, 0]] {
        change(first, CURSOR, |at, _| words[at - CURSOR_AT]);
        zero(first, SEALED_AT..SEALED_AT + 8);
        zero(first, DURABLE_AT..DURABLE_AT + 8);
        let found = state(&read_only(dir.path()));
        common::assert_same(&found, &was);
    }
    common::assert_same(&state(&common::open(dir.path())), &was);
    common::assert_same(&state(&common::open(dir.path())), &was);
}

#[test]
fn records_of_another_store_with_the_same_ids_are_not_this_ones() {
    let (closed, other) = (quine(), quine());
    let (ours, theirs) = (&closed.segments()[0], &other.segments()[0]);
    let bytes = std::fs::read(theirs).unwrap();
    // Slots, then frames, then all but the header, copied over this store's.
    let parts = [
        DIRECTORY_AT..DIRECTORY_AT + 640,
        SEGMENT as usize - 20 * 256..SEGMENT as usize,
        DIRECTORY_AT..SEGMENT as usize,
        0..SEGMENT as usize,
    ];
    for part in parts {
        change(ours, part.clone(), |at, _| bytes[at]);
        for store in [read_only(closed.path()), common::open(closed.path())] {
            for record in &store.pin() {
                let Ok(record) = record else { continue };
                let expected = &closed.state[record.id()];
                assert_eq!(record.lsn(), expected.lsn);
                assert_eq!(record.created_at(), expected.created_at, "another store's, {part:?}");
            }
            assert!(!store.verify().unwrap().is_clean(), "{part:?}");
        }
        closed.restore();
    }
    closed.assert_whole();
}
