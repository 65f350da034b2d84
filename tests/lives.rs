//! What an opening may rely on of the process before it: flushes that failed or were cut short, a
//! kernel that does not tell the boot id, a page cache that was lost. Invariant: what is promised
//! is on the device, and what survived is not given up without need.
#![cfg(test)]

#[path = "common/child.rs"]
mod child;
#[path = "lives/cut.rs"]
mod cut;
#[path = "lives/disk.rs"]
mod disk;
#[path = "lives/halfway.rs"]
mod halfway;
#[path = "lives/returned.rs"]
mod returned;
#[path = "lives/stuck.rs"]
mod stuck;

use child::{Role, role, say, wait};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::header::{
    BOOT_AT, CURSOR_AT, DIRECTORY_AT, DURABLE_AT, FLUSH_AT, FlushNote, Identity, Role as For,
    SEALED_AT, encode_flush,
};
use stratalog::internals::format::slot::SLOT_BYTES;
use stratalog::internals::segment::cursor::Taken;
use stratalog::{Batch, Compaction, Counted, Error, Options, Recovery, Store};

fn options() -> Options {
    Options::new()
        .dimension(16)
        .segment_size(1 << 20)
        .compaction(Compaction::Manual)
        .flush_interval(None)
}

fn id(n: usize) -> String {
    format!("id-{n}")
}

fn put(store: &Store, n: usize) -> stratalog::Lsn {
    store.put(id(n), &[n as f32; 16], vec![n as u8 + 1; 5000]).unwrap()
}

fn put_all(store: &Store, ids: std::ops::Range<usize>) {
    for n in ids {
        put(store, n);
    }
}

fn has(store: &Store, n: usize) -> bool {
    let found = store.get_owned(id(n));
    matches!(found, Ok(Some(record)) if record.content == vec![n as u8 + 1; 5000])
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    found.sort();
    found
}

/// Copies an open store's files: the state that a kill at this moment leaves.
fn killed(store: &Store, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(store.path()).unwrap() {
        let from = entry.unwrap().path();
        match std::fs::copy(&from, to.join(from.file_name().unwrap())) {
            Ok(_) => {}
            // It was preallocated just now, and has got its name since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::remove_dir_all(to).unwrap();
                return killed(store, to);
            }
            Err(error) => panic!("{}: {error}", from.display()),
        }
    }
}

fn edit(path: &Path, at: usize, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
}

fn read<const N: usize>(path: &Path, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at as u64).unwrap();
    bytes
}

fn salt_of(segment: &Path) -> Salt {
    Identity::decode(&read(segment, 0)).unwrap().salt
}

fn boot_of(segment: &Path) -> [u64; 2] {
    [0, 8].map(|at| u64::from_le_bytes(read(segment, BOOT_AT + at)))
}

/// Damages one byte of a record's content, wherever its frame lies.
fn damage(segment: &Path, n: usize) {
    let bytes = std::fs::read(segment).unwrap();
    let needle = vec![n as u8 + 1; 4000];
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    edit(segment, at + 100, &[0xFF]);
}

/// Records 0 to 9, then a batch of 10 to 12, then 13 to 19; nothing flushed.
fn unflushed(path: &Path) -> Store {
    filled(options().open(path).unwrap())
}

fn filled(store: Store) -> Store {
    put_all(&store, 0..10);
    let mut batch = Batch::new();
    for n in 10..13 {
        batch.put(id(n), &[n as f32; 16], vec![n as u8 + 1; 5000]);
    }
    store.write(batch).unwrap();
    put_all(&store, 13..20);
    store
}

/// Defect H7: with the boot id hidden each kill looked like power loss, and survivors were cut.
#[test]
fn under_an_unknown_boot_each_record_that_proves_itself_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    for (damaged, lost) in [(None, vec![]), (Some(3), vec![3]), (Some(11), vec![10, 11, 12])] {
        let copy = dir.path().join(format!("copy-{damaged:?}"));
        killed(&store, &copy);
        let segment = segments(&copy).remove(0);
        edit(&segment, BOOT_AT, &[0; 16]);
        if let Some(n) = damaged {
            damage(&segment, n);
        }
        let before = store.stats().tail;
        for read_only in [true, false, false] {
            let store = options().read_only(read_only).open(&copy).unwrap();
            for n in 0..20 {
                assert_eq!(has(&store, n), !lost.contains(&n), "{n}, {damaged:?} was damaged");
                assert_eq!(store.contains(id(n)), !lost.contains(&n), "{n}");
            }
        }
        let store = options().open(&copy).unwrap();
        assert!(put(&store, 99) >= before, "an LSN is given twice");
        store.close().unwrap();
        assert_eq!(options().open(&copy).unwrap().recovery().counted, Counted::All);
    }
}

#[test]
fn an_opening_says_by_which_rule_it_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    let boot = |copy: &Path, id: [u8; 16]| edit(&segments(copy)[0], BOOT_AT, &id);
    for (name, expected) in [("a", Counted::All), ("b", Counted::Each), ("c", Counted::Prefix)] {
        let copy = dir.path().join(name);
        killed(&store, &copy);
        match expected {
            Counted::Each => boot(&copy, [0; 16]),
            Counted::Prefix => boot(&copy, [7; 16]),
            _ => {}
        }
        let store = options().open(&copy).unwrap();
        assert_eq!(store.recovery().counted, expected);
        assert_eq!(store.len(), 20);
    }
}

/// An unsound record above the durable end, in the same boot: the page cache was lost.
#[test]
fn a_page_cache_that_was_lost_without_a_reboot_cuts_nothing_and_no_lsn_is_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    let copy = dir.path().join("copy");
    killed(&store, &copy);
    damage(&segments(&copy)[0], 11);
    let before = store.stats().tail;
    let store = options().open(&copy).unwrap();
    assert_eq!(store.recovery().counted, Counted::Each);
    for n in 0..20 {
        assert_eq!(store.contains(id(n)), !(10..13).contains(&n), "{n}: a batch counts whole");
    }
    assert!(put(&store, 99).as_u64() >> 24 > before.as_u64() >> 24, "slots may have been lost");
}

/// A salvage counts each record for itself, too, but it went on with the segment: its cursor is as
/// old as what the device has. (mutation: salvage-goes-on)
#[test]
fn a_salvage_gives_no_lsn_twice_that_went_with_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    let device = dir.path().join("device");
    killed(&store, &device);
    damage(&segments(&device)[0], 19);
    let last = put(&store, 20);
    let store = options().recovery(Recovery::Salvage).open(&device).unwrap();
    assert!((0..19).all(|n| has(&store, n)) && !store.contains(id(19)));
    assert!(put(&store, 99) > last, "an LSN is given twice");
}

/// A kill never leaves a batch with its head and without a member, nor a slot whose checksum does
/// not match. Both prove that the page cache was lost, although every frame that is named holds.
/// (mutation: lost-member-unnoticed)
#[test]
fn a_batch_without_one_of_its_slots_is_absent_after_the_page_cache_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    // The batch's head is in slot 10.
    let member = DIRECTORY_AT + 12 * SLOT_BYTES;
    for (name, at, bytes) in [("zeroed", member, [0; 32]), ("damaged", member + 8, [0xFF; 32])] {
        let copy = dir.path().join(name);
        killed(&store, &copy);
        edit(&segments(&copy)[0], at, &bytes[..if name == "zeroed" { 32 } else { 8 }]);
        for read_only in [true, false, false] {
            let store = options().read_only(read_only).open(&copy).unwrap();
            for n in 0..20 {
                assert_eq!(store.contains(id(n)), !(10..13).contains(&n), "{name}: {n}");
            }
        }
        let store = options().read_only(true).open(&copy).unwrap();
        assert_eq!(store.recovery().corrupt, 0, "{name}: it was decided once");
    }
}

/// C3, the note: the file is copied if a flush has failed, and kept if the device has it all.
#[test]
fn a_file_whose_flush_failed_is_copied_and_one_whose_flush_was_cut_short_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    for (note, same_boot, copied) in [
        (FlushNote::Failed, true, true),
        (FlushNote::Failed, false, false),
        (FlushNote::Begun, true, false),
    ] {
        let copy = dir.path().join(format!("{note:?} {same_boot}"));
        killed(&store, &copy);
        let segment = segments(&copy).remove(0);
        let boot = if same_boot { boot_of(&segment) } else { [5, 5] };
        let word = encode_flush(note, boot, salt_of(&segment));
        edit(&segment, FLUSH_AT, &word.to_le_bytes());
        let inode = std::fs::metadata(&segment).unwrap().ino();
        let read_only = options().read_only(true).open(&copy).unwrap();
        assert_eq!(read_only.len(), 20);
        drop(read_only);
        assert_eq!(std::fs::metadata(&segment).unwrap().ino(), inode, "a reader changes nothing");
        let store = options().open(&copy).unwrap();
        let is_new = std::fs::metadata(&segment).unwrap().ino() != inode;
        assert_eq!(is_new, copied, "{note:?} {same_boot}");
        assert!((0..20).all(|n| has(&store, n)), "{note:?} {same_boot}");
        assert!(store.verify().unwrap().is_clean());
        store.sync().unwrap();
        drop(store);
        assert_eq!(segments(&copy).len(), 1);
    }
}

/// A segment for copies has a hole between its slots and its frames.
/// (mutation: copied-file-keeps-its-gap)
#[test]
fn a_copied_file_of_compaction_takes_no_more_space_than_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // The hole begins and ends at multiples of 2 MiB.
    let options = || options().segment_size(8 << 20);
    let store = filled(options().open(&path).unwrap());
    put_all(&store, 0..5);
    store.compact().unwrap();
    store.close().unwrap();
    let is_output = |file: &PathBuf| Identity::decode(&read(file, 0)).unwrap().role == For::Copies;
    let output = segments(&path).into_iter().find(is_output).unwrap();
    let before = std::fs::metadata(&output).unwrap();
    if before.blocks() >= 8 << 11 {
        println!("skipped: the file system punches no holes here");
        return;
    }
    note_failed(&output, boot_of(&output));
    let store = options().open(&path).unwrap();
    let after = std::fs::metadata(&output).unwrap();
    assert_ne!(after.ino(), before.ino(), "it was not copied");
    assert!(after.blocks() <= before.blocks() + 64, "{} > {}", after.blocks(), before.blocks());
    assert!((0..20).all(|n| has(&store, n)));
}

/// Notes in the first segment of a copy that a flush under this boot has failed.
fn note_failed(segment: &Path, boot: [u64; 2]) {
    let word = encode_flush(FlushNote::Failed, boot, salt_of(segment));
    edit(segment, FLUSH_AT, &word.to_le_bytes());
}

/// An opening that was killed while it copied a file left the unfinished copy behind, and every
/// later opening failed because that was there.
#[test]
fn unfinished_copy_of_a_killed_opening_does_not_stop_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    let copy = dir.path().join("copy");
    killed(&store, &copy);
    let segment = segments(&copy).remove(0);
    note_failed(&segment, boot_of(&segment));
    let unfinished = segment.with_extension("seg.tmp");
    std::fs::write(&unfinished, b"half of it").unwrap();
    let store = options().open(&copy).unwrap();
    assert!((0..20).all(|n| has(&store, n)));
    assert!(!unfinished.exists());
}

/// A process that could not read the boot id left a failed flush. The next one can read it, and
/// took the note for one of another boot.
#[test]
fn failed_flush_is_honoured_where_only_one_process_knows_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let store = unflushed(&dir.path().join("s"));
    let copy = dir.path().join("copy");
    killed(&store, &copy);
    let segment = segments(&copy).remove(0);
    edit(&segment, BOOT_AT, &[0; 16]);
    note_failed(&segment, [0; 2]);
    let inode = std::fs::metadata(&segment).unwrap().ino();
    let store = options().open(&copy).unwrap();
    assert!((0..20).all(|n| has(&store, n)));
    assert_ne!(std::fs::metadata(&segment).unwrap().ino(), inode, "what is there is promised");
}

/// Each process that was killed before its first group was dropped left the copies that it had made
/// by then, and the next one made its own: a program that lives shorter than a group takes filled
/// the disk.
#[test]
fn copies_that_killed_processes_have_left_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().join("0");
    let store = options().open(&path).unwrap();
    for n in 0..750 {
        put(&store, if n % 3 == 0 { n / 3 } else { n % 3 });
    }
    store.close().unwrap();
    let before = segments(&path).len();
    // A group takes more than a second.
    let slow = options().compaction(Compaction::Auto).compaction_rate(500_000);
    for life in 1..7 {
        let next = dir.path().join(life.to_string());
        let store = slow.open(&path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(600));
        killed(&store, &next);
        drop(store);
        std::fs::remove_dir_all(&path).unwrap();
        path = next;
    }
    let after = segments(&path).len();
    assert!(after <= before + 2, "{after} segments, {before} before");
    let store = options().open(&path).unwrap();
    assert!((0..250).all(|n| has(&store, n)) && store.len() == 250);
}

/// Children of these tests.
#[test]
fn roles() {
    let Some((role, place)) = role() else { return };
    wait();
    let store = options().open(&place).unwrap();
    if role == "opener" {
        return;
    }
    assert_eq!(role, "writer");
    put_all(&store, 0..20);
    say("written");
    wait();
}

/// C3 on a file system whose device fails for a while.
#[test]
fn after_a_failed_flush_and_reopening_what_is_promised_is_on_the_device() {
    let Some(disk) = disk::Failing::new() else { return };
    let path = disk.path().join("s");
    let store = options().open(&path).unwrap();
    put_all(&store, 0..10);
    store.sync().unwrap();
    store.sync().unwrap();
    disk.fail(true);
    put_all(&store, 10..30);
    assert!(matches!(store.sync(), Err(Error::FlushFailed(_))), "the device did not fail");
    assert!(matches!(store.put("x", &[1.0; 16], "x"), Err(Error::FlushFailed(_))));
    assert!(store.close().is_err());
    disk.fail(false);
    let store = options().open(&path).unwrap();
    assert!((0..30).all(|n| has(&store, n)), "the page cache has it");
    store.sync().unwrap();
    store.close().unwrap();
    disk.lose_the_page_cache();
    let store = options().open(&path).unwrap();
    let lost: Vec<_> = (0..30).filter(|n| !has(&store, *n)).collect();
    assert!(lost.is_empty(), "{lost:?} were promised and are gone: {:?}", store.recovery());
    drop(store);
}

/// Defect C3: the process was killed inside the flush that failed, so its header says only that the
/// flush had begun, and the kernel has told the failure already. (mutation:
/// cut-short-flush-believed)
#[test]
fn a_file_whose_flush_was_cut_short_is_copied_if_the_device_holds_other_bytes() {
    let Some(disk) = disk::Failing::new() else { return };
    let path = disk.path().join("s");
    let store = options().open(&path).unwrap();
    put_all(&store, 0..10);
    store.sync().unwrap();
    disk.fail(true);
    put_all(&store, 10..30);
    assert!(matches!(store.sync(), Err(Error::FlushFailed(_))), "the device did not fail");
    assert!(store.close().is_err());
    disk.fail(false);
    let segment = segments(&path).remove(0);
    let word = encode_flush(FlushNote::Begun, boot_of(&segment), salt_of(&segment));
    edit(&segment, FLUSH_AT, &word.to_le_bytes());
    let inode = std::fs::metadata(&segment).unwrap().ino();
    let store = options().open(&path).unwrap();
    assert_ne!(std::fs::metadata(&segment).unwrap().ino(), inode, "the page cache was believed");
    store.sync().unwrap();
    store.close().unwrap();
    disk.lose_the_page_cache();
    let store = options().open(&path).unwrap();
    let lost: Vec<_> = (0..30).filter(|n| !has(&store, *n)).collect();
    assert!(lost.is_empty(), "{lost:?} were promised and are gone: {:?}", store.recovery());
    drop(store);
}

/// Defect C3: the process is killed before any flush, and the kernel fails to write back by itself.
#[test]
fn a_write_back_error_that_nobody_has_seen_reaches_the_next_opening() {
    let Some(disk) = disk::Failing::new() else { return };
    let path = disk.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("first", &[0.0; 16], "x").unwrap();
    store.close().unwrap();
    let mut child = Role::play("writer", &path, 1024);
    child.go_on();
    assert_eq!(child.hear().as_deref(), Some("written"));
    disk.fail(true);
    disk.write_back();
    child.kill();
    disk.fail(false);
    let store = options().open(&path).unwrap();
    let told = store.sync();
    drop(store);
    let store = options().open(&path).unwrap();
    store.sync().unwrap();
    store.close().unwrap();
    disk.lose_the_page_cache();
    let store = options().open(&path).unwrap();
    let lost: Vec<_> = (0..20).filter(|n| !has(&store, *n)).collect();
    assert!(lost.is_empty(), "{lost:?} are gone; the first sync said {told:?}");
    drop(store);
}

/// `Verify::FirstRead` does not check what this process has written, until damage was found there.
#[test]
fn damage_under_an_open_store_that_was_found_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("s")).unwrap();
    put(&store, 1);
    put(&store, 2);
    damage(&segments(store.path())[0], 1);
    assert!(!store.verify().unwrap().is_clean());
    assert!(matches!(store.get_owned(id(1)), Err(Error::Corrupt { .. })));
    assert!(has(&store, 2));
}

/// Fills three segments; returns their files in order.
fn three_segments(path: &Path) -> Vec<PathBuf> {
    let store = options().open(path).unwrap();
    let mut n = 0;
    while store.stats().segments < 3 {
        put(&store, n % 200);
        n += 1;
    }
    store.put("last", &[1.0; 16], "of the third segment").unwrap();
    store.close().unwrap();
    segments(path)
}

/// Defect M1: compaction ended a segment before its first reservation, its successor was flushed,
/// and then the power failed. On the device the empty segment has no seal, and its successor has no
/// durable end yet, but says for certain whom it follows. (mutation: settled-successor-cut)
#[test]
fn writes_after_an_empty_segment_whose_seal_was_lost_are_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let files = three_segments(&path);
    let empty = std::fs::File::options().write(true).open(&files[1]).unwrap();
    let len = empty.metadata().unwrap().len();
    empty.set_len(CURSOR_AT as u64).unwrap();
    empty.set_len(len).unwrap();
    edit(&files[2], DURABLE_AT, &[0; 8]);
    for file in &files {
        edit(file, BOOT_AT, &[7; 16]);
    }
    for read_only in [true, false, false] {
        let store = options().read_only(read_only).open(&path).unwrap();
        let report = store.recovery();
        assert!(store.contains("last"), "a durable record was cut: {report:?}");
        assert_eq!(report.torn, 0, "{report:?}");
    }
}

/// Defect H2: an earlier version made backups whose segments were sealed and had an open cursor, so
/// that compaction left them alone. Opening closes the cursor. (mutation: sealed-cursor-left-open)
#[test]
fn a_sealed_segment_with_an_open_cursor_is_closed_by_opening_and_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let files = three_segments(&path);
    for file in &files[..2] {
        let sealed = u64::from(u32::from_le_bytes(read(file, SEALED_AT)));
        // As many slots, and half of the room for frames.
        let open = Taken { slots: sealed, units: (1 << 19) / 64 };
        edit(file, CURSOR_AT, &open.word().to_le_bytes());
    }
    let store = options().open(&path).unwrap();
    for n in 0..200 {
        store.remove(id(n)).unwrap();
    }
    let report = store.compact().unwrap();
    assert!(report.segments_removed >= 2, "{report:?}");
    assert!(files[..2].iter().all(|file| !file.exists()), "removed bytes stay");
    assert!(store.contains("last"));
}

/// Every opening after a reboot, and every one where the boot is unknown, seals the youngest
/// segment and leaves the next put to begin another one. Each took its full size for good: nothing
/// in it was dead, so compaction left it alone. (mutation: sealed-early-kept)
#[test]
fn segments_that_openings_have_sealed_early_do_not_pile_up() {
    for (boot, kind) in
        [([7; 16], Compaction::Auto), ([0; 16], Compaction::Auto), ([7; 16], Compaction::Manual)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for n in 0..24 {
            let store = options().compaction(kind).open(&path).unwrap();
            put(&store, n);
            if kind == Compaction::Manual && n % 8 == 7 {
                store.compact().unwrap();
            }
            store.close().unwrap();
            for segment in segments(&path) {
                edit(&segment, BOOT_AT, &boot);
            }
        }
        let store = options().compaction(kind).open(&path).unwrap();
        let begun = std::time::Instant::now();
        let limit = std::time::Duration::from_secs(30);
        while store.stats().segments > 10 && begun.elapsed() < limit {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(store.stats().segments <= 10, "{kind:?}, {boot:?}: {:?}", store.stats());
        assert!((0..24).all(|n| has(&store, n)));
        assert!(store.verify().unwrap().is_clean());
    }
}

/// Power loss has taken all of a segment but its header. The next opening leaves its file to a
/// background thread, and a kill came first: the segment that followed was cut, as what lies behind
/// a gap.
#[test]
fn a_kill_before_a_segment_that_power_loss_has_emptied_is_removed_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("s"), dir.path().join("image"));
    let store = options().open(&path).unwrap();
    put_all(&store, 0..3);
    killed(&store, &image);
    drop(store);
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&image, &path).unwrap();
    let emptied = segments(&path).remove(0);
    let file = std::fs::File::options().read(true).write(true).open(&emptied).unwrap();
    file.write_all_at(&vec![0; (1 << 20) - CURSOR_AT], CURSOR_AT as u64).unwrap();
    file.write_all_at(&[7; 16], BOOT_AT as u64).unwrap();

    let store = options().open(&path).unwrap();
    put_all(&store, 3..6);
    killed(&store, &image);
    drop(store);
    // As it was when the thread came to it.
    let mut bytes = vec![0; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    std::fs::write(image.join(emptied.file_name().unwrap()), bytes).unwrap();
    for _ in 0..2 {
        let store = options().open(&image).unwrap();
        assert!((3..6).all(|n| has(&store, n)), "{:?}", store.recovery());
        assert!(store.recovery().is_clean() && (0..3).all(|n| !has(&store, n)));
    }
}
