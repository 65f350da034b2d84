//! The recovery modes. Strict: any damage is an error that names it, and no byte changes. Tolerant
//! and salvage: the report names what was lost. Salvage: also without a manifest, and neither a
//! damaged record nor an older version in its place is ever served.

use super::common::{self, SEGMENT, State, assert_same, state};
use super::{Closed, DIRECTORY_AT, RECORDS, SLOT, Slot, change, flip, id, torn, tree, zero};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stratalog::internals::format::header::{BOOT_AT, CURSOR_AT, DURABLE_AT, SEALED_AT};
use stratalog::internals::format::manifest::Manifest;
use stratalog::{Compaction, Damage, Error, Options, Recovery, Store};

fn strict(path: &Path) -> Result<Store, Error> {
    Options::new().recovery(Recovery::Strict).open(path)
}

fn salvage() -> Options {
    Options::new().recovery(Recovery::Salvage)
}

/// Opens by both kinds of handle. The read-only one must not change anything, not even a time.
#[track_caller]
fn salvaged(path: &Path, check: impl Fn(&Store)) {
    let before = tree::look(path);
    check(&salvage().read_only(true).open(path).unwrap());
    assert_eq!(tree::look(path), before, "a read-only salvage changes nothing");
    let store = salvage().open(path).unwrap();
    check(&store);
    store.close().unwrap();
}

/// Strict refuses, names the file and a byte of it in the range, and changes nothing: neither with
/// a lock file nor without one.
#[track_caller]
pub(super) fn assert_refused(closed: &Closed, path: &Path, range: std::ops::Range<u64>) {
    for read_only in [false, true] {
        for lock in [true, false] {
            if !lock {
                std::fs::remove_file(closed.path().join("LOCK")).unwrap();
            }
            let before = tree::look(closed.path());
            let options = Options::new().recovery(Recovery::Strict).read_only(read_only);
            let error = options.open(closed.path()).map(|store| store.len()).unwrap_err();
            let Error::Corrupt { segment, offset, reason } = &error else { panic!("{error:?}") };
            assert!(segment == path && range.contains(offset), "{error}");
            assert!(!reason.is_empty());
            assert_eq!(tree::look(closed.path()), before, "strict has changed something");
            std::fs::write(closed.path().join("LOCK"), "a holder").unwrap();
        }
    }
}

#[track_caller]
fn assert_listed(lost: &[Damage], path: &Path, at: usize, id: Option<&[u8]>) {
    let found = lost.iter().any(|damage| {
        damage.segment == path && damage.offset == at as u64 && damage.id.as_deref() == id
    });
    assert!(found, "{} byte {at} is not among {lost:?}", path.display());
}

/// What a kill leaves: a copy of the files while the store is open.
pub(super) fn killed(fill: impl FnOnce(&Store)) -> Closed {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT);
    // No flush, so that no durable end is ahead of the damage.
    let store = options.flush_interval(None).open(dir.path().join("live")).unwrap();
    fill(&store);
    let state = state(&store);
    let copy = tempfile::tempdir().unwrap();
    tree::copy(store.path(), copy.path());
    let files = tree::look(copy.path());
    Closed { dir: copy, state, files }
}

fn some(store: &Store) {
    for n in 0..40 {
        RECORDS.put(store, &id(n), n);
    }
}

#[test]
fn a_whole_store_opens_in_every_mode_and_nothing_is_lost() {
    let closed = Closed::of_segments(3);
    for mode in [Recovery::Tolerant, Recovery::Strict, Recovery::Salvage] {
        for read_only in [true, false] {
            let options = Options::new().recovery(mode).read_only(read_only);
            let store = options.open(closed.path()).unwrap();
            assert_same(&state(&store), &closed.state);
            assert!(store.recovery().is_clean(), "{mode:?}: {:?}", store.recovery());
        }
    }
    closed.assert_whole();
}

#[test]
fn strict_takes_what_a_kill_leaves_half_done_for_no_damage() {
    let closed = killed(some);
    let last = closed.segments().pop().unwrap();
    torn::open_reservation(&last);
    torn::open_reservation(&last);
    let store = strict(closed.path()).unwrap();
    assert_same(&state(&store), &closed.state);
    assert_eq!((store.recovery().torn, store.recovery().is_clean()), (2, true));
}

/// Damage by name; where it lies; the id that it costs, if one that opening can name.
fn damages(closed: &Closed) -> Vec<(&'static str, PathBuf, usize, Option<Vec<u8>>)> {
    let (path, place) = closed.record(&id(7));
    let (slot, frame) = (place.slot.start, place.frame.start);
    vec![
        ("slot", path.clone(), slot, None),
        ("zeroed slot", path.clone(), slot, None),
        ("frame", path.clone(), frame, Some(id(7))),
        ("header", path.clone(), 0, None),
        ("short", path.clone(), 0, None),
        ("missing", path, 0, None),
    ]
}

fn inflict(what: &str, path: &Path, at: usize) {
    match what {
        "slot" => flip(path, (at + 9) * 8),
        "zeroed slot" => zero(path, at..at + 32),
        // The last bytes of the embedding: 16 values behind a header of 64 bytes.
        "frame" => flip(path, (at + 64 + 60) * 8),
        "header" => flip(path, 20 * 8),
        "short" => {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(SEGMENT - 4096).unwrap();
        }
        "missing" => std::fs::remove_file(path).unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn each_kind_of_damage_is_refused_by_strict_and_named_by_the_others() {
    let closed = Closed::of_segments(2);
    for (what, path, at, id) in damages(&closed) {
        inflict(what, &path, at);
        // A frame below the durable end is not read at opening, unless in a salvage.
        if what != "frame" {
            assert_refused(&closed, &path, at as u64..at as u64 + 32);
            let store = Options::new().read_only(true).open(closed.path()).unwrap();
            assert_listed(&store.recovery().lost, &path, at, id.as_deref());
        }
        salvaged(closed.path(), |store| {
            let lost = &store.recovery().lost;
            assert_listed(lost, &path, at, id.as_deref());
            for (id, record) in &state(store) {
                assert_eq!(Some(record), closed.state.get(id), "{what}");
            }
            let costs = match what {
                "header" => 0,
                "short" | "missing" => continue_with_fewer(store, &closed.state),
                _ => 1,
            };
            assert_eq!(store.len(), closed.state.len() - costs, "{what}: {lost:?}");
        });
        closed.restore();
    }
    closed.assert_whole();
}

/// Some are lost, and some are not.
fn continue_with_fewer(store: &Store, was: &State) -> usize {
    assert!(store.len() < was.len() && !store.is_empty());
    was.len() - store.len()
}

/// After a mere kill every committed record was whole.
#[test]
fn a_record_above_the_durable_end_that_does_not_hold_after_a_kill_is_damage() {
    let closed = killed(some);
    let (path, place) = closed.record(&id(7));
    flip(&path, (place.frame.start + 64) * 8);
    let at = place.frame.start;
    assert_refused(&closed, &path, at as u64..at as u64 + 1);
    let store = common::open(closed.path());
    assert_listed(&store.recovery().lost, &path, at, Some(&id(7)));
    assert_eq!(store.len(), closed.state.len() - 1);
}

/// The first opening answers with the version before, and reports the damage. Each later one
/// answers the same: the damaged record counted again once a flush had moved the durable end over
/// it. (mutation: damage-counts-later)
#[test]
fn damage_that_an_opening_after_a_kill_has_left_out_stays_out() {
    let closed = killed(|store| {
        some(store);
        RECORDS.put(store, &id(7), 99);
    });
    let (path, place) = closed.record(&id(7));
    flip(&path, (place.frame.start + 64) * 8);
    let mut answers = Vec::new();
    for life in 0..3 {
        let store = common::open(closed.path());
        assert_eq!(store.recovery().corrupt, u64::from(life == 0), "life {life}");
        answers.push(state(&store));
        store.close().unwrap();
    }
    assert_same(&answers[1], &answers[0]);
    assert_same(&answers[2], &answers[0]);
    assert!(common::open(closed.path()).verify().unwrap().is_clean());
}

#[test]
fn strict_refuses_a_damaged_durable_end_or_sealed_count() {
    let closed = Closed::of_segments(2);
    let path = closed.segments().remove(0);
    for at in [DURABLE_AT, SEALED_AT] {
        change(&path, at..at + 1, |_, byte| byte ^ 1);
        assert_refused(&closed, &path, DURABLE_AT as u64..DURABLE_AT as u64 + 1);
        closed.restore();
    }
    drop(strict(closed.path()).unwrap());
    closed.assert_whole();
}

#[test]
fn an_older_version_never_stands_in_for_a_damaged_newer_one() {
    let closed = Closed::new(|store| {
        some(store);
        RECORDS.put(store, b"id 3", 1_000);
        assert!(store.remove("id 4").unwrap());
        RECORDS.put(store, b"last", 1);
    });
    // The remove is the last slot but one of the only segment; its frame has its LSN at byte 8.
    let (path, newer) = closed.record(b"id 3");
    flip(&path, (newer.frame.start + 64) * 8);
    let (_, last) = closed.record(b"last");
    let slot = last.slot.start - 32..last.slot.start;
    let bytes = std::fs::read(&path).unwrap();
    let units = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let removal = units(slot.start + 24) * 64;
    flip(&path, (removal + 10) * 8);
    for _ in 0..2 {
        salvaged(closed.path(), |store| {
            assert!(!store.contains("id 3") && !store.contains("id 4"));
            assert_eq!(store.len(), closed.state.len() - 1);
            assert_eq!(store.pin().iter().count(), store.len());
            let lost = &store.recovery().lost;
            assert_eq!(lost.len(), 2, "{lost:?}");
            assert_listed(lost, &path, newer.frame.start, Some(b"id 3"));
            assert!(lost.iter().any(|damage| damage.offset == removal as u64));
        });
    }
    // The next write is newer than what was damaged, in every mode.
    let store = salvage().open(closed.path()).unwrap();
    RECORDS.put(&store, b"id 3", 2_000);
    store.close().unwrap();
    let again = common::open(closed.path()).get_owned("id 3").unwrap().unwrap();
    assert_eq!(RECORDS.version_of(&again.id, &again.embedding, &again.content), 2_000);
}

/// Nothing in the index led to the damaged record, so compaction gave up its segment, and copied
/// the older version, which the index still names as what stands for nothing: the next opening saw
/// no damage, and that version.
#[test]
fn an_older_version_never_stands_in_for_a_damaged_newer_one_after_a_compaction() {
    let closed = Closed::new(|store| {
        some(store);
        RECORDS.put(store, b"id 3", 1_000);
        RECORDS.put(store, b"id 5", 1_000);
    });
    let (path, newer) = closed.record(b"id 3");
    flip(&path, (newer.frame.start + 64) * 8);
    let options = salvage().compaction(Compaction::Manual);
    let store = options.open(closed.path()).unwrap();
    assert!(!store.contains("id 3") && !store.remove("id 3").unwrap());
    store.compact().unwrap();
    assert!(!store.contains("id 3"));
    store.close().unwrap();
    let store = common::open(closed.path());
    let found = store.get_owned("id 3").map(|record| record.map(|record| record.lsn));
    assert!(matches!(found, Err(Error::Corrupt { .. })), "{found:?}");
    assert_eq!(store.pin().iter().filter(Result::is_ok).count(), closed.state.len() - 1);
    // Writing the id again ends it.
    RECORDS.put(&store, b"id 3", 2_000);
    store.compact().unwrap();
    store.close().unwrap();
    let again = common::open(closed.path()).get_owned("id 3").unwrap().unwrap();
    assert_eq!(RECORDS.version_of(&again.id, &again.embedding, &again.content), 2_000);
}

/// What may have become of a manifest.
fn manifests(closed: &Closed, other: &Closed) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let whole = std::fs::read(closed.path().join("MANIFEST")).unwrap();
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    let mut seen = Manifest::decode(&whole).unwrap();
    let own = seen.encode().len();
    seen.store = seen.store.of_copy(*b"a backup");
    vec![
        ("deleted", None),
        ("empty", Some(Vec::new())),
        ("cut", Some(whole[..own - 5].to_vec())),
        ("flipped", Some(flipped)),
        ("another store's", Some(std::fs::read(other.path().join("MANIFEST")).unwrap())),
        ("a backup's", Some(seen.encode())),
    ]
}

#[test]
fn a_salvage_needs_no_manifest_and_writes_a_new_one() {
    let (closed, other) = (Closed::of_segments(3), Closed::of_segments(1));
    let path = closed.path().join("MANIFEST");
    for (what, bytes) in manifests(&closed, &other) {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let segments: BTreeMap<_, _> = closed.files.iter().filter(|f| *f.0 != path).collect();
        let before = tree::look(closed.path());
        let store = salvage().read_only(true).open(closed.path()).unwrap();
        assert_same(&state(&store), &closed.state);
        assert_listed(&store.recovery().lost, &path, 0, None);
        drop(store);
        assert_eq!(tree::look(closed.path()), before, "{what}");
        let store = salvage().open(closed.path()).unwrap();
        assert_same(&state(&store), &closed.state);
        assert_eq!(store.recovery().lost.len(), 1, "{what}: {:?}", store.recovery().lost);
        let tail = store.stats().tail;
        assert!(RECORDS.put(&store, b"later", 1) >= tail);
        store.close().unwrap();
        for path in segments.keys() {
            assert!(path.exists(), "{what}: {} is gone", path.display());
        }
        // From here on it is a store like any other.
        let store = strict(closed.path()).unwrap();
        assert_eq!(store.len(), closed.state.len() + 1, "{what}");
        assert!(store.verify().unwrap().is_clean());
        drop(store);
        closed.restore();
    }
    closed.assert_whole();
}

#[test]
fn strangers_segments_are_left_alone_and_counted_and_do_not_decide() {
    let (closed, other) = (Closed::of_segments(3), Closed::of_segments(1));
    let segments = closed.segments();
    std::fs::remove_file(closed.path().join("MANIFEST")).unwrap();
    let strange = &other.segments()[0];
    let beside = closed.path().join(strange.file_name().unwrap());
    std::fs::copy(strange, &beside).unwrap();
    let bytes = std::fs::read(&beside).unwrap();
    salvaged(closed.path(), |store| {
        assert_same(&state(store), &closed.state);
        assert_eq!(store.recovery().foreign_files, 1);
    });
    assert!(std::fs::read(&beside).unwrap() == bytes, "it was changed");

    // One of each: nobody can say whose directory it is.
    closed.restore();
    std::fs::remove_file(closed.path().join("MANIFEST")).unwrap();
    segments[1..].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    std::fs::copy(strange, &beside).unwrap();
    let before = tree::look(closed.path());
    let error = salvage().read_only(true).open(closed.path()).unwrap_err();
    assert!(error.to_string().contains("move away"), "{error}");
    assert!(matches!(salvage().open(closed.path()), Err(Error::Corrupt { .. })));
    assert_eq!(tree::look(closed.path()), before);
}

/// All headers damaged, and a stranger's whole one beside them: the manifest is still the store's.
#[test]
fn a_manifest_that_names_the_files_goes_before_a_strangers_header() {
    let (closed, other) = (Closed::of_segments(2), Closed::of_segments(1));
    closed.segments().iter().for_each(|path| flip(path, 20 * 8));
    let strange = &other.segments()[0];
    std::fs::copy(strange, closed.path().join(strange.file_name().unwrap())).unwrap();
    salvaged(closed.path(), |store| {
        assert_same(&state(store), &closed.state);
        assert_eq!((store.recovery().lost.len(), store.recovery().foreign_files), (2, 1));
    });
}

/// Without the manifest nobody knows the salt of a segment whose header is gone.
#[test]
fn without_a_manifest_a_segment_with_a_damaged_header_is_named_and_stays() {
    let closed = Closed::of_segments(3);
    let path = closed.segments().remove(1);
    std::fs::remove_file(closed.path().join("MANIFEST")).unwrap();
    for _ in 0..2 {
        flip(&path, 20 * 8);
        let bytes = std::fs::read(&path).unwrap();
        salvaged(closed.path(), |store| {
            let elsewhere = closed.state.keys().filter(|id| closed.record(id).0 != path);
            assert_eq!(store.len(), elsewhere.count());
        });
        let store = salvage().read_only(true).open(closed.path()).unwrap();
        assert_eq!(store.recovery().missing_segments, 0);
        drop(store);
        assert!(std::fs::read(&path).unwrap() == bytes, "it was changed");
        closed.restore();
        std::fs::remove_file(closed.path().join("MANIFEST")).unwrap();
    }
    flip(&path, 20 * 8);
    let store = salvage().open(closed.path()).unwrap();
    assert_listed(&store.recovery().lost, &path, 0, None);
    drop(store);
    // All headers: then there is no store to be proven.
    closed.segments().iter().filter(|p| **p != path).for_each(|path| flip(path, 20 * 8));
    std::fs::remove_file(closed.path().join("MANIFEST")).unwrap();
    let before = tree::look(closed.path());
    for options in [salvage(), salvage().read_only(true)] {
        let error = options.open(closed.path()).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { .. }), "{error:?}");
    }
    assert_eq!(tree::look(closed.path()), before);
}

/// A segment that says it is blank may be one whose beginning was zeroed.
#[test]
fn a_salvage_removes_no_file() {
    for manifest in [true, false] {
        let closed = Closed::of_segments(2);
        let segments = closed.segments();
        torn::prepared_successor(&segments[1]);
        zero(&segments[0], CURSOR_AT..4096 + 32);
        if !manifest {
            std::fs::remove_file(closed.path().join("MANIFEST")).unwrap();
        }
        let before = closed.segments();
        assert_eq!(before.len(), 3);
        salvaged(closed.path(), |store| assert!(!store.is_empty()));
        assert!(before.iter().all(|path| path.exists()), "manifest: {manifest}");
        salvaged(closed.path(), |store| assert!(!store.is_empty()));
    }
}

#[test]
fn a_salvage_creates_nothing_and_touches_no_strangers_directory() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let create = salvage().dimension(3);
    assert!(matches!(create.open(&missing), Err(Error::NotFound(path)) if path == missing));
    assert!(matches!(create.open(dir.path()), Err(Error::NotFound(_))));
    std::fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    assert!(matches!(create.open(dir.path()), Err(Error::NotAStore(_))));
    assert_eq!(tree::look(dir.path()).len(), 1);
    // Strict does: there is nothing that could be damaged.
    let path = dir.path().join("new");
    let options = Options::new().dimension(3).recovery(Recovery::Strict);
    options.open(&path).unwrap().close().unwrap();
    assert!(strict(&path).unwrap().is_empty());
}

/// Another boot id: power loss. Tolerant gives up what lies behind the first gap; a salvage does
/// not, and what it has shown stays.
#[test]
fn after_power_loss_a_salvage_serves_what_lies_behind_a_gap_and_tolerant_names_it() {
    let closed = killed(some);
    let (path, place) = closed.record(&id(7));
    change(&path, BOOT_AT..BOOT_AT + 16, |_, _| 0xB0);
    zero(&path, DURABLE_AT..DURABLE_AT + 8);
    flip(&path, (place.frame.start + 64) * 8);
    torn::open_reservation(&path);
    let files = tree::look(closed.path());
    let store = Options::new().read_only(true).open(closed.path()).unwrap();
    assert_eq!((store.len(), store.recovery().corrupt), (7, 0));
    let lost = &store.recovery().lost;
    assert_eq!(lost.len(), 33, "{lost:?}");
    let place = closed.record(&id(20)).1;
    assert_listed(lost, &path, place.frame.start, Some(&id(20)));
    drop(store);
    // A cut is no damage.
    assert_eq!(strict(closed.path()).unwrap().len(), 7);

    for (path, seen) in &files {
        std::fs::write(path, &seen.bytes).unwrap();
    }
    salvaged(closed.path(), |store| {
        // The reservation, and the record: above the durable end that is torn, not damaged.
        assert_eq!((store.len(), store.recovery().torn), (39, 2));
        assert!(!store.contains(id(7)));
    });
    let store = common::open(closed.path());
    assert!(store.recovery().is_clean() && store.recovery().torn == 0, "{:?}", store.recovery());
    assert_eq!(store.pin().iter().filter(Result::is_ok).count(), 39);
    assert!(store.get_owned(id(7)).unwrap().is_none());
}

#[test]
fn quick_sees_slots_and_files_and_deep_sees_all() {
    let closed = Closed::of_segments(2);
    let (path, place) = closed.record(&id(7));
    let open = || Options::new().read_only(true).open(closed.path()).unwrap();
    let mut calls = Vec::new();
    let store = open();
    let report = store.verify_deep(|done, total| calls.push((done, total))).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.records, report.compared), (store.len() as u64, store.len() as u64));
    assert_eq!(calls.last(), Some(&(report.records, report.records)));
    assert!(store.verify_quick().unwrap().bytes < report.bytes);

    flip(&path, (place.frame.start + 64) * 8);
    assert!(open().verify_quick().unwrap().is_clean());
    let report = open().verify_deep(|_, _| ()).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert_listed(&report.damaged, &path, place.frame.start, Some(&id(7)));
    closed.restore();
    flip(&path, (place.slot.start + 9) * 8);
    let report = open().verify_quick().unwrap();
    assert_listed(&report.damaged, &path, place.slot.start, None);
    closed.restore();
    closed.assert_whole();
}

#[test]
fn deep_finds_a_record_that_the_index_cannot_find_or_finds_too_old() {
    use stratalog::internals::format::checksum::Salt;
    use stratalog::internals::format::ids::SlotNumber;
    use stratalog::internals::format::slot::{Kind, SlotBody, committed_word};
    let closed = Closed::new(|store| {
        some(store);
        RECORDS.put(store, b"id 3", 1_000);
        assert!(store.remove("id 4").unwrap());
    });
    // A slot with a right sum and a wrong hash: no accident makes one, so the index goes by it.
    let cases = [
        (id(5), 1, "answers nothing"),
        (id(3), 1, "answers something older"),
        (id(6), 1 << 63, "another id's hash"),
    ];
    for (victim, wrong, reason) in cases {
        let (path, place) = closed.record(&victim);
        let bytes = std::fs::read(&path).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let at = place.slot.start;
        let mut body = SlotBody::from_words([8, 16, 24].map(|n| word(at + n)));
        body.key_hash ^= wrong;
        let slot = SlotNumber(((at - DIRECTORY_AT) / 32) as u32);
        let word0 = committed_word(Kind::Put, body, Salt(word(40)), slot);
        change(&path, at..at + 8, |n, _| word0.to_le_bytes()[n - at]);
        change(&path, at + 16..at + 24, |n, _| body.key_hash.to_le_bytes()[n - at - 16]);
        let store = Options::new().read_only(true).open(closed.path()).unwrap();
        assert!(store.verify().unwrap().is_clean(), "every sum is right");
        let report = store.verify_deep(|_, _| ()).unwrap();
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        assert_listed(&report.damaged, &path, place.frame.start, Some(&victim));
        assert!(report.damaged[0].reason.contains(reason), "{report:?}");
        closed.restore();
    }
    closed.assert_whole();
}

/// A header that is lost does not say how far the copies behind it are on the device, and a copy
/// that did not hold was void for good, as if what it was made of still answered.
#[test]
fn no_older_version_comes_back_after_a_salvage_of_copies_whose_header_is_lost() {
    let mut lsn = None;
    let closed = Closed::new(|store| {
        let put = |n| RECORDS.put(store, &id(n), n);
        let fill = |segments, ids: std::ops::Range<u32>| {
            let mut ids = ids.cycle();
            while store.stats().segments < segments {
                put(ids.next().unwrap());
            }
        };
        let first_lsn = put(0);
        fill(2, 1..10_000);
        // Compaction leaves a segment with damage alone: the older version stays.
        let first = tree::segments(store.path())[0].clone();
        let damaged = Slot::read(&std::fs::read(&first).unwrap(), first_lsn);
        flip(&first, damaged.frame.start * 8 + 600);
        lsn = Some(put(7).as_u64());
        fill(3, 20_000..20_010);
        drop(store.compact());
        put(0);
    });
    let lsn = lsn.unwrap();
    let slots = |bytes: &[u8]| -> Vec<usize> {
        let slot = |n: &usize| bytes[n + 8..n + 16] == lsn.to_le_bytes();
        (DIRECTORY_AT..DIRECTORY_AT + (64 << 10)).step_by(SLOT).filter(slot).collect()
    };
    let mut copies = 0;
    for path in closed.segments() {
        let bytes = std::fs::read(&path).unwrap();
        for at in slots(&bytes) {
            let offset = u32::from_le_bytes(bytes[at + 24..at + 28].try_into().unwrap());
            zero(&path, 0..DIRECTORY_AT);
            flip(&path, offset as usize * 64 * 8 + 600);
            copies += 1;
        }
    }
    assert_eq!(copies, 1, "it was not moved, or its first place is still there");
    for _ in 0..2 {
        salvaged(closed.path(), |store| assert_eq!(store.get_owned(id(7)).unwrap(), None));
    }
}
