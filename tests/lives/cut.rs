//! What power loss leaves in the files, and what only looks like it. Invariant: no more than
//! counts, and no less.

use super::{
    BOOT_AT, CURSOR_AT, DIRECTORY_AT, DURABLE_AT, SEALED_AT, SLOT_BYTES, Taken, edit, has, id,
    killed, options, put_all, read, salt_of, segments,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use stratalog::internals::format::header::encode_count;
use stratalog::{Recovery, Store};

const SECRET: &[u8] = b"these bytes are to be in no file any more";
const KEPT: usize = 120;

/// What power loss takes of the first segment, behind what was durable.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    /// A slot: what lies behind it is cut off.
    Slot,
    /// All slots, and the cursor is as old.
    Slots,
}

/// Kills the process whose store this is, and has its files look as after power loss that took the
/// seal of the first segment. Returns that segment's file.
fn lost_its_seal(store: Store, image: &Path) -> PathBuf {
    killed(&store, image);
    drop(store);
    for segment in segments(image) {
        edit(&segment, BOOT_AT, &[7; 16]);
    }
    let first = segments(image).remove(0);
    edit(&first, SEALED_AT, &[0; 8]);
    first
}

/// No slot that counts speaks of the records behind a cut, so compaction took the segment for one
/// without anything dead: they were written again and removed, and stayed in its file.
/// (mutation: cut-not-erased)
#[test]
fn what_was_cut_off_written_again_and_removed_is_in_no_file_after_compact_and_close() {
    for (younger, lost) in [(0, Lost::Slot), (300, Lost::Slot), (0, Lost::Slots)] {
        let dir = tempfile::tempdir().unwrap();
        let (path, image) = (dir.path().join("s"), dir.path().join("image"));
        let store = options().open(&path).unwrap();
        put_all(&store, 0..KEPT);
        store.sync().unwrap();
        let cursor: [u8; 8] = read(&segments(&path)[0], CURSOR_AT);
        put_all(&store, KEPT..KEPT + 1);
        for _ in 0..younger {
            store.put("younger", &[1.0; 16], vec![1; 5000]).unwrap();
        }
        store.put("secret", &[1.0; 16], SECRET).unwrap();
        killed(&store, &image);
        drop(store);
        for segment in segments(&image) {
            edit(&segment, BOOT_AT, &[7; 16]);
        }
        let (first, slot_at) = (segments(&image).remove(0), DIRECTORY_AT + KEPT * SLOT_BYTES);
        edit(&first, slot_at, &[0; SLOT_BYTES]);
        if lost == Lost::Slots {
            edit(&first, slot_at, &[0; 2 * SLOT_BYTES]);
            edit(&first, CURSOR_AT, &cursor);
        }

        let store = options().open(&image).unwrap();
        assert_eq!(store.recovery().torn >= 2, lost == Lost::Slot);
        assert!(!store.contains("secret"));
        store.put("secret", &[1.0; 16], SECRET).unwrap();
        assert!(store.remove("secret").unwrap().is_some());
        store.compact().unwrap();
        assert!((0..KEPT).all(|n| has(&store, n)) && !store.contains(id(KEPT)));
        assert!(store.verify().unwrap().is_clean());
        store.close().unwrap();
        for segment in segments(&image) {
            let bytes = std::fs::read(&segment).unwrap();
            assert!(
                !bytes.windows(SECRET.len()).any(|window| window == SECRET),
                "{younger} {lost:?}"
            );
        }
        let store = options().open(&image).unwrap();
        assert!((0..KEPT).all(|n| has(&store, n)) && store.recovery().is_clean());
    }
}

/// The reservation that finds a segment full counts in its cursor, and so does the one that closes
/// it early. A process was killed between that and the seal; the next one sealed the segment, and
/// flushed only younger ones, for this one had nothing left to flush. After power loss the cursor
/// that the device had counted a slot too many, and all that was durable behind it was cut off.
/// Found by the simulation, seed 93457. (mutation: full-cursor-cuts)
#[test]
fn a_full_segment_without_a_seal_cuts_nothing_that_was_flushed_after_it() {
    const ALL: usize = 250;
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..ALL);
    store.sync().unwrap();
    assert_eq!(store.stats().segments, 2);
    lost_its_seal(store, &image);
    for _ in 0..2 {
        let store = options().open(&image).unwrap();
        assert!((0..ALL).all(|n| has(&store, n)));
        assert!(store.recovery().is_clean() && store.recovery().torn == 0);
        assert!(store.verify().unwrap().is_clean());
    }
}

/// What a kill leaves looked like power loss where a bit of the boot id was damaged: all that lay
/// behind a slot which nobody had decided about was cut off, and overwritten.
/// (mutation: boot-id-by-the-bit)
#[test]
fn no_flipped_bit_of_the_boot_id_cuts_what_a_killed_process_had_written() {
    const ALL: usize = 250;
    const TORN: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..ALL);
    assert!(store.stats().segments > 1);
    for bit in (0..128).step_by(9) {
        killed(&store, &image);
        let first = segments(&image).remove(0);
        edit(&first, DIRECTORY_AT + TORN * SLOT_BYTES, &[0; 8]);
        let byte: [u8; 1] = read(&first, BOOT_AT + bit / 8);
        edit(&first, BOOT_AT + bit / 8, &[byte[0] ^ 1 << (bit % 8)]);
        for read_only in [true, false, false] {
            let store = options().read_only(read_only).open(&image).unwrap();
            assert!((0..ALL).all(|n| has(&store, n) == (n != TORN)), "bit {bit}");
        }
        std::fs::remove_dir_all(&image).unwrap();
    }
}

/// The opening that sealed a segment at what was durable was killed before it came to what it had
/// cut off. The next one found nothing left to cut, and what was there stayed for good.
#[test]
fn what_an_opening_that_was_killed_has_cut_off_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..KEPT);
    store.sync().unwrap();
    put_all(&store, KEPT..KEPT + 1);
    store.put("secret", &[1.0; 16], SECRET).unwrap();
    killed(&store, &image);
    drop(store);
    let segment = segments(&image).remove(0);
    edit(&segment, BOOT_AT, &[7; 16]);
    edit(&segment, DIRECTORY_AT + KEPT * SLOT_BYTES, &[0; SLOT_BYTES]);
    // As the opening leaves it that has stored the seal.
    let sealed = encode_count(KEPT as u32, salt_of(&segment), SEALED_AT);
    let full = Taken { slots: KEPT as u64, units: 1 << 20 };
    edit(&segment, CURSOR_AT, &full.word().to_le_bytes());
    edit(&segment, SEALED_AT, &sealed.to_le_bytes());

    let store = options().open(&image).unwrap();
    assert!(!store.contains("secret") && (0..KEPT).all(|n| has(&store, n)));
    store.put("secret", &[1.0; 16], SECRET).unwrap();
    assert!(store.remove("secret").unwrap().is_some());
    store.compact().unwrap();
    store.close().unwrap();
    for segment in segments(&image) {
        let bytes = std::fs::read(&segment).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET), "{segment:?}");
    }
    let store = options().open(&image).unwrap();
    assert!((0..KEPT).all(|n| has(&store, n)) && store.recovery().is_clean());
}

/// Nothing was promised of a put of which power loss has left the slot without its frame: but a
/// salvage took it for the newest version, and what was durable was gone after the next compaction.
#[test]
fn in_a_salvage_after_power_loss_a_torn_put_hides_nothing_durable() {
    const TORN: &[u8] = b"this put was not flushed when the power failed";
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    // Of the second segment something is durable, too.
    put_all(&store, 0..KEPT);
    put_all(&store, 1..KEPT);
    store.sync().unwrap();
    store.sync().unwrap();
    store.put(id(0), &[1.0; 16], TORN).unwrap();
    killed(&store, &image);
    drop(store);
    for segment in segments(&image) {
        edit(&segment, BOOT_AT, &[7; 16]);
        let bytes = std::fs::read(&segment).unwrap();
        if let Some(at) = bytes.windows(TORN.len()).position(|window| window == TORN) {
            // The whole frame, which begins before it: header and id, embedding.
            edit(&segment, at - 128, &[0; 128 + TORN.len()]);
        }
    }
    let open = |mode, read_only| options().recovery(mode).read_only(read_only).open(&image);
    for (mode, read_only) in [(Recovery::Salvage, true), (Recovery::Salvage, false)] {
        let store = open(mode, read_only).unwrap();
        assert!((0..KEPT).all(|n| has(&store, n)), "read-only: {read_only}");
        assert_eq!((store.recovery().torn, store.recovery().corrupt), (1, 0));
        assert_eq!(store.recovery().lost.len(), 1, "it is named");
        if !read_only {
            store.compact().unwrap();
        }
    }
    let store = open(Recovery::Tolerant, false).unwrap();
    assert!((0..KEPT).all(|n| has(&store, n)), "the opening after the salvage");
    assert!(store.verify().unwrap().is_clean());
}

/// Without a manifest a salvage went on with a segment that was prepared and never used. That does
/// not say whom it follows, so after power loss what was durable there was taken for what lies
/// behind the lost end of the one before it.
#[test]
fn a_salvage_does_not_go_on_with_what_was_only_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..KEPT);
    store.sync().unwrap();
    store.sync().unwrap();
    while segments(&path).len() < 2 {
        std::thread::yield_now();
    }
    killed(&store, &image);
    drop(store);
    std::fs::remove_file(image.join("MANIFEST")).unwrap();
    let before = std::fs::read(&segments(&image)[0]).unwrap();

    let store = options().recovery(Recovery::Salvage).open(&image).unwrap();
    let lsn = store.put("durable", &[1.0; 16], "durable").unwrap();
    store.wait_durable(lsn).unwrap();
    let lost = dir.path().join("lost");
    killed(&store, &lost);
    drop(store);
    // What the flush has not brought to the device: the header of the first, which had nothing to
    // flush, and the durable ends that are stored after it.
    let found = segments(&lost);
    edit(&found[0], 0, &before[..DIRECTORY_AT]);
    for segment in &found[1..] {
        edit(segment, DURABLE_AT, &[0; 8]);
    }
    found.iter().for_each(|segment| edit(segment, BOOT_AT, &[7; 16]));
    let store = options().open(&lost).unwrap();
    assert!((0..KEPT).all(|n| has(&store, n)));
    assert!(store.contains("durable"), "{:?}", store.recovery());
}

/// A salvage counts what lies behind the lost end of a segment, and flushes the youngest segment
/// first. Killed before it came to the older one, it left what looked as if that had been wholly
/// durable: the next opening believed a torn put there, and what was durable was hidden by it.
#[test]
fn a_salvage_that_was_killed_does_not_say_that_older_segments_were_durable() {
    const TORN: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..KEPT);
    store.sync().unwrap();
    store.sync().unwrap();
    for _ in 0..TORN {
        store.put(id(0), &[1.0; 16], "not flushed").unwrap();
    }
    for _ in 0..100 {
        store.put("younger", &[1.0; 16], vec![1; 5000]).unwrap();
    }
    assert_eq!(store.stats().segments, 2);
    let first = lost_its_seal(store, &image);
    let bytes = std::fs::read(&first).unwrap();
    let last = vec![KEPT as u8; 5000];
    let kept = bytes.windows(last.len()).position(|window| window == last).unwrap() - 128;
    let slots_end = DIRECTORY_AT + (KEPT + TORN + 100) * SLOT_BYTES;
    edit(&first, slots_end, &vec![0; kept - slots_end]);

    for round in 0..10 {
        let copy = dir.path().join(format!("copy-{round}"));
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(&image).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
        }
        let [older, younger] = [0, 1].map(|n| segments(&copy)[n].clone());
        let (before, opened) = (std::fs::read(&younger).unwrap(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                // Acquire: pairs with the Release below.
                while !opened.load(Ordering::Acquire) && read(&younger, DURABLE_AT) == [0; 8] {
                    std::hint::spin_loop();
                }
                assert_ne!(read(&older, BOOT_AT), [7; 16], "in round {round}");
            });
            drop(options().recovery(Recovery::Salvage).open(&copy).unwrap());
            // Release: as above.
            opened.store(true, Ordering::Release);
            watcher.join().unwrap();
        });
        // A kill between the two.
        std::fs::write(&younger, before).unwrap();
        for _ in 0..2 {
            let store = options().open(&copy).unwrap();
            assert!((0..KEPT).all(|n| has(&store, n)));
            assert!(store.verify().unwrap().is_clean());
            store.compact().unwrap();
        }
    }
}
