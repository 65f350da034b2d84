//! What is halfway when an opening finds it: an opening before it was killed, or the device has the
//! slots and not the cursor. Invariant: the same records are found as from the whole, as soon.

use super::child::Role;
use super::{
    BOOT_AT, CURSOR_AT, DIRECTORY_AT, SLOT_BYTES, edit, id, killed, options, read, segments,
    unflushed,
};
use stratalog::{Metric, Recovery};

/// The slot of the batch that shows the loss was voided first, and the head last. An opening that
/// was killed in between left a batch that nobody found to be without one of its members.
#[test]
fn an_opening_that_is_killed_leaves_no_half_of_a_batch_that_has_lost_a_slot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = unflushed(&path);
    for n in 0..3000 {
        store.put("other", &[n as f32; 16], "").unwrap();
    }
    let copy = dir.path().join("copy");
    let member = DIRECTORY_AT + 12 * SLOT_BYTES;
    for round in 0..5 {
        killed(&store, &copy);
        let segment = segments(&copy).remove(0);
        edit(&segment, member, &[0; SLOT_BYTES]);
        // It takes a moment to decide about so many more.
        edit(&segment, DIRECTORY_AT + 100 * SLOT_BYTES, &[0; 2900 * SLOT_BYTES]);
        let mut opener = Role::play("opener", &copy, 1024);
        opener.go_on();
        let begun = std::time::Instant::now();
        while read(&segment, member) == [0; 8] && begun.elapsed().as_secs() < 30 {}
        opener.kill();
        let again = options().open(&copy).unwrap();
        for n in 0..20 {
            assert_eq!(again.contains(id(n)), !(10..13).contains(&n), "{n} in round {round}");
        }
        // Slots may have been lost without a trace.
        let lsn = again.put("next", &[0.0; 16], "").unwrap();
        assert!(lsn > store.stats().tail, "{lsn} may be given again, in round {round}");
        drop(again);
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

/// Power loss may leave a cursor that is older than the slots. Of what lay beyond it each version
/// of an id was looked for in the whole directory, and a read-only handle's search left it out.
/// (mutation: old-cursor-believed)
#[test]
fn what_power_loss_leaves_beyond_an_old_cursor_is_found_at_once_and_by_a_search() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    for n in 0..4000 {
        store.put(id(n % 100), &[n as f32; 16], "").unwrap();
    }
    let opened = [("new", None), ("old", Some([0; 8]))].map(|(name, cursor)| {
        let copy = dir.path().join(name);
        killed(&store, &copy);
        let segment = segments(&copy).remove(0);
        edit(&segment, BOOT_AT, &[7; 16]);
        cursor.into_iter().for_each(|cursor| edit(&segment, CURSOR_AT, &cursor));
        let reader = options().read_only(true).open(&copy).unwrap();
        let hits = reader.pin().search(&[1.0; 16], 200, Metric::Dot).unwrap().len();
        assert_eq!((hits, reader.len()), (100, 100), "{name}");
        assert_eq!(reader.stats().tail, store.stats().tail, "{name}");
        assert_eq!(reader.verify().unwrap().records, 4000, "{name}");
        drop(reader);
        let store = options().open(&copy).unwrap();
        assert_eq!((store.len(), store.recovery().torn), (100, 0));
        assert_eq!(store.get_owned(id(99)).unwrap().unwrap().embedding, [3999.0; 16]);
        store.recovery().elapsed
    });
    assert!(opened[1] < 5 * opened[0] + std::time::Duration::from_millis(500), "{opened:?}");
}

/// Of two writers that were killed one had not noted where its frame lies. An opening took what the
/// other one had put into its frame, without having committed it, for slots: for damage.
#[test]
fn a_frame_next_to_one_that_was_only_reserved_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = options().open(&path).unwrap();
    let put = |n, len| store.put(id(n), &[1.0; 16], vec![7; len]).unwrap();
    for n in 0..4 {
        put(n, 210_000);
    }
    put(4, 20_000);
    put(5, 80_000);
    killed(&store, &copy);
    let segment = segments(&copy).remove(0);
    edit(&segment, DIRECTORY_AT + 4 * SLOT_BYTES, &[0; SLOT_BYTES]);
    edit(&segment, DIRECTORY_AT + 5 * SLOT_BYTES, &[0; 8]);
    let strict = options().recovery(Recovery::Strict).open(&copy).unwrap();
    assert_eq!(strict.len(), 4);
    assert!(strict.recovery().is_clean() && strict.verify().unwrap().is_clean());
    assert!(strict.put("next", &[0.0; 16], "").unwrap() >= store.stats().tail);
}
