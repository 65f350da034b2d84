//! Flipped bits and zeroed stretches.

use super::common::{self, Records, assert_same, mix, reopen, state};
use super::{
    Answer, Closed, DIRECTORY_AT, RECORDS, SLOT, ask, change, flip, id, names, read_only, walk,
    zero,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::header::{
    BOOT_AT, CURSOR_AT, DURABLE_AT, IDENTITY_BYTES, PREDECESSOR_AT,
};
use stratalog::internals::format::ids::SlotNumber;
use stratalog::internals::format::slot::void_word;
use stratalog::{Batch, Error, Metric, NewRecord, Options, SegmentRole, Store, Verify};

/// Parts of a frame with an id of six bytes: the checksum covers fields, id, embedding and content;
/// not the tag, and not the padding.
const TAG: usize = 8;
const FLAGS: usize = 39;
const ID: Range<usize> = 40..46;
const BODY: usize = 64;

/// Few bits, for the tests that flip each of them.
const SMALL: Records = Records { dimension: RECORDS.dimension, content_max: 60 };

fn neighbours() -> Closed {
    Closed::new(|store| {
        for id in ["before", "victim", "after"] {
            SMALL.put(store, id.as_bytes(), 1);
        }
    })
}

fn is_summed(at: usize, end: usize) -> bool {
    (TAG..=FLAGS).contains(&at) || ID.contains(&at) || (BODY..end).contains(&at)
}

/// A moment that is damaged is no moment that has passed.
#[test]
fn no_flipped_bit_of_a_record_that_expires_makes_it_absent() {
    let embedding = [1.0; RECORDS.dimension];
    let closed = Closed::new(|store| {
        let hour = std::time::Duration::from_secs(3_600);
        let record = NewRecord::new("victim", &embedding, "x").expires_in(hour);
        store.put_record(record).unwrap();
    });
    let (path, place) = closed.record(b"victim");
    let mut wrong = Vec::new();
    let (begin, id_end) = (place.frame.start, place.frame.start + 48 + "victim".len());
    for bit in (begin + TAG) * 8..id_end * 8 {
        flip(&path, bit);
        let store = read_only(closed.path());
        let searched = store.pin().search(&embedding, 1, Metric::L2).map(|hits| hits.len());
        let answer = ask(&store, &closed.state, b"victim");
        if answer != Answer::Corrupt || !matches!(searched, Err(Error::Corrupt { .. })) {
            wrong.push((bit / 8 - begin, bit % 8, answer, searched));
        }
        flip(&path, bit);
    }
    assert!(wrong.is_empty(), "(byte of the frame, bit, get, search): {wrong:?}");
    closed.assert_whole();
}

/// Every bit of a record, its slot and its padding included.
#[test]
fn no_flipped_bit_of_a_record_gives_a_wrong_record_or_costs_another_one() {
    let closed = neighbours();
    let (path, place) = closed.record(b"victim");
    let end = BODY + 4 * RECORDS.dimension + closed.state[&b"victim"[..]].content.len();
    let mut wrong = BTreeMap::new();
    for at in place.slot.clone().chain(place.frame.clone()) {
        let (part, expected) = if place.slot.contains(&at) {
            (place.slot.clone(), Answer::Nothing)
        } else if is_summed(at - place.frame.start, end) {
            (place.frame.clone(), Answer::Corrupt)
        } else {
            (place.frame.clone(), Answer::Whole)
        };
        for bit in at * 8..at * 8 + 8 {
            flip(&path, bit);
            let store = read_only(closed.path());
            let answer = ask(&store, &closed.state, b"victim");
            for beside in [b"before".as_slice(), b"after"] {
                assert_eq!(ask(&store, &closed.state, beside), Answer::Whole, "bit {bit}");
            }
            let seen = walk(&store, &closed.state) - 2;
            let lost = u64::from(answer == Answer::Nothing);
            let named = names(&store.verify().unwrap(), &path, part.clone());
            // Asked once more: that others were read must not change the answer.
            let again = ask(&store, &closed.state, b"victim");
            let right = (answer, again, seen)
                == (expected, expected, (expected == Answer::Whole).into())
                && store.recovery().corrupt == lost
                && named == (expected != Answer::Whole);
            if !right {
                wrong.insert((at - part.start, part.len(), bit % 8), (answer, again, seen, named));
            }
            flip(&path, bit);
        }
    }
    assert!(wrong.is_empty(), "(byte, of slot or frame, bit): (get, later, walk, named) {wrong:?}");
    closed.assert_whole();
}

/// Damage to the newest version's frame must not bring back the one before: its slot is whole and
/// says which key, and which LSN.
#[test]
fn a_damaged_newest_version_is_corrupt_and_never_the_older_one() {
    let closed = Closed::new(|store| {
        for version in 1..4 {
            RECORDS.put(store, b"victim", version);
            RECORDS.put(store, b"other", version);
        }
    });
    let (path, place) = closed.record(b"victim");
    let mut wrong = BTreeMap::new();
    for at in TAG..BODY + 16 {
        for bit in (place.frame.start + at) * 8..(place.frame.start + at) * 8 + 8 {
            flip(&path, bit);
            let store = read_only(closed.path());
            let answer = ask(&store, &closed.state, b"victim");
            let lost = is_summed(at, place.frame.end) && answer != Answer::Corrupt;
            if answer == Answer::Older || lost || store.len() != 2 {
                wrong.entry((at, answer, store.len())).or_insert(bit % 8);
            }
            flip(&path, bit);
        }
    }
    assert!(wrong.is_empty(), "(byte of the frame, answer, len): a bit {wrong:?}");
    closed.assert_whole();
}

/// The same for a removal: damage to its record must not bring the removed one back.
#[test]
fn a_damaged_tombstone_does_not_bring_back_what_was_removed() {
    let closed = Closed::new(|store| {
        RECORDS.put(store, b"victim", 1);
        RECORDS.put(store, b"other", 1);
        assert!(store.remove("victim").unwrap().is_some());
    });
    let (path, other) = closed.record(b"other");
    // The tombstone's slot is the next one, its frame the next one below.
    let end = other.frame.start;
    let mut wrong = BTreeMap::new();
    for at in TAG..ID.end {
        for bit in (end - 64 + at) * 8..(end - 64 + at) * 8 + 8 {
            flip(&path, bit);
            let store = read_only(closed.path());
            if store.get_owned("victim").is_ok_and(|found| found.is_some()) || store.len() != 1 {
                wrong.entry((at, store.len())).or_insert(bit % 8);
            }
            flip(&path, bit);
        }
    }
    assert!(wrong.is_empty(), "(byte of the frame, len): a bit {wrong:?}");
    closed.assert_whole();
}

/// In the image that a kill leaves nothing is trusted: what does not sum up is lost at opening, and
/// counted.
#[test]
fn in_a_killed_store_damage_costs_the_record_at_opening_and_is_counted() {
    let closed = neighbours();
    let (path, place) = closed.record(b"victim");
    let (durable, boot) = (DURABLE_AT..DURABLE_AT + 8, BOOT_AT..BOOT_AT + 16);
    zero(&path, durable.clone());
    for at in (TAG..=FLAGS).chain(ID).chain(BODY..BODY + 8) {
        flip(&path, (place.frame.start + at) * 8);
        let store = read_only(closed.path());
        assert_eq!(ask(&store, &closed.state, b"victim"), Answer::Nothing, "byte {at}");
        assert_eq!((store.recovery().corrupt, walk(&store, &closed.state)), (1, 2), "byte {at}");
        assert!(!store.verify().unwrap().is_clean());
        flip(&path, (place.frame.start + at) * 8);
    }
    // After power loss it ends the prefix that counts: what came later is cut too, for good.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xB0; 16], boot.start as u64).unwrap();
    flip(&path, (place.frame.start + BODY) * 8);
    for _ in 0..2 {
        let store = common::open(closed.path());
        assert_eq!(walk(&store, &closed.state), 1);
        assert_eq!(ask(&store, &closed.state, b"before"), Answer::Whole);
        store.close().unwrap();
        flip(&path, (place.frame.start + BODY) * 8);
    }
    closed.restore();
    closed.assert_whole();
}

/// Cursor, durable end, boot id and sealed count are under no checksum, or damage to it only makes
/// recovery look harder. What is written afterwards must not meet what is there.
#[test]
fn no_flipped_bit_of_the_header_page_costs_a_record_or_lets_a_new_one_meet_an_old_one() {
    let closed = Closed::new(|store| {
        for n in 0..40 {
            RECORDS.put(store, &id(n), n);
        }
    });
    let path = &closed.segments()[0];
    let cursor = CURSOR_AT * 8..(CURSOR_AT + 8) * 8;
    let durable = DURABLE_AT * 8..(DURABLE_AT + 8) * 8;
    let rest = durable.chain(BOOT_AT * 8..PREDECESSOR_AT * 8).step_by(3);
    for bit in cursor.chain(rest) {
        flip(path, bit);
        let store = common::open(closed.path());
        assert_same(&state(&store), &closed.state);
        assert_eq!(store.recovery().corrupt, 0, "bit {bit}");
        for n in 30..60 {
            RECORDS.put(&store, &id(n), 100 + n);
        }
        let before = state(&store);
        store.close().unwrap();
        let store = common::open(closed.path());
        assert_same(&state(&store), &before);
        assert!(store.verify().unwrap().is_clean(), "bit {bit}: {:?}", store.verify());
        store.close().unwrap();
        closed.restore();
    }
    closed.assert_whole();
}

#[test]
fn no_flipped_bit_of_a_segments_identity_costs_a_record() {
    let closed = neighbours();
    let path = &closed.segments()[0];
    for bit in 0..IDENTITY_BYTES * 8 {
        flip(path, bit);
        let store = read_only(closed.path());
        assert_same(&state(&store), &closed.state);
        flip(path, bit);
    }
    closed.assert_whole();
}

/// The manifest knows the salt, so a lost header costs nothing; but it is damage all the same.
#[test]
fn a_damaged_header_is_reported() {
    let closed = Closed::of_segments(2);
    let path = &closed.segments()[0];
    for range in [0..64, 0..4096, 8..9, 16..17, 40..41, 60..61, 64..88, 124..128] {
        change(path, range.clone(), |_, byte| !byte);
        let store = read_only(closed.path());
        assert_same(&state(&store), &closed.state);
        let report = store.verify().unwrap();
        assert!(names(&report, path, 0..4096), "bytes {range:?} are inverted: {report:?}");
        drop(store);
        closed.restore();
    }
    closed.assert_whole();
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Of a store with a zeroed stretch in one file: what is wrong with what it answers and reports.
fn wrong_with(closed: &Closed, store: &Store, path: &Path, zeroed: &Range<usize>) -> Vec<String> {
    let (mut wrong, mut lost, mut others) = (Vec::new(), 0, 0);
    for id in closed.state.keys() {
        let answer = ask(store, &closed.state, id);
        let (file, place) = closed.record(id);
        let hit = overlap(&place.slot, zeroed) || overlap(&place.frame, zeroed);
        assert_ne!(answer, Answer::Older);
        lost += usize::from(answer != Answer::Whole);
        others += usize::from(answer != Answer::Whole && !(hit && file == path));
    }
    if others > 0 {
        wrong.push(format!("{others} records lost that lie elsewhere"));
    }
    let named = store.verify().unwrap().damaged.len();
    if named < lost {
        wrong.push(format!("{lost} records lost, {named} named"));
    }
    wrong
}

/// Zeros where bytes were (a lost sector, a hole): every record whose bytes lie elsewhere is found,
/// what lies behind included, and what is lost is named.
#[test]
fn zeroed_stretches_cost_the_records_they_hit_and_no_other() {
    let closed = Closed::of_segments(3);
    let mut wrong = Vec::new();
    for path in &closed.segments()[..2] {
        let places = closed.state.keys().map(|id| closed.record(id)).filter(|r| r.0 == *path);
        let frames = places.map(|(_, slot)| slot.frame.start).min().unwrap();
        let stretches = [
            0..4096,
            DIRECTORY_AT..DIRECTORY_AT + 4096,
            DIRECTORY_AT + 4096..DIRECTORY_AT + 8192,
            DIRECTORY_AT + 512..DIRECTORY_AT + 1024,
            DIRECTORY_AT..frames,
            frames..frames + 100_000,
            SLOT * 3 + DIRECTORY_AT..SLOT * 4 + DIRECTORY_AT,
            (1 << 20) - 4096..1 << 20,
            0..DIRECTORY_AT + 4096,
        ];
        for zeroed in stretches {
            for writing in [false, true] {
                zero(path, zeroed.clone());
                let store = Options::new().read_only(!writing).open(closed.path()).unwrap();
                let found = wrong_with(&closed, &store, path, &zeroed);
                let how = format!("{zeroed:?} zeroed, opened for writing: {writing}");
                wrong.extend(found.into_iter().map(|what| format!("{how}: {what}")));
                drop(store);
                closed.restore();
            }
        }
    }
    closed.assert_whole();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Damage anywhere, by chance: opening, reading, walking, verifying and writing go on.
#[test]
fn random_damage_is_survived_by_everything() {
    let closed = Closed::of_segments(2);
    for seed in 0..60u64 {
        for path in &closed.segments() {
            for n in 0..1 + mix(seed) % 40 {
                let random = mix(seed << 32 | n);
                let at = if random.is_multiple_of(3) {
                    random >> 8 & 0xFFFF
                } else {
                    random >> 8 & 0xF_FFFF
                };
                let end = (at as usize + (mix(random) % 300) as usize).min(1 << 20);
                change(path, at as usize..end, |at, _| mix(random ^ at as u64) as u8);
            }
        }
        let verify = [Verify::FirstRead, Verify::EveryRead][seed as usize % 2];
        let store = Options::new().verify(verify).open(closed.path()).unwrap();
        assert!(walk(&store, &closed.state) < closed.state.len());
        let older =
            closed.state.keys().filter(|id| ask(&store, &closed.state, id) == Answer::Older);
        assert_eq!(older.count(), 0, "seed {seed}");
        // Without a durable end and a boot id it looks like power loss: then records are cut.
        let is_told = !store.recovery().lost.is_empty() || !store.verify().unwrap().is_clean();
        assert!(is_told, "seed {seed}");
        RECORDS.put(&store, b"new", seed as u32);
        store.close().unwrap();
        let store = common::open(closed.path());
        let new = store.get_owned("new").unwrap().expect("it was acknowledged");
        assert_eq!(RECORDS.version_of(b"new", &new.embedding, &new.content), seed as u32);
        drop(store);
        closed.restore();
    }
    closed.assert_whole();
}

/// When checksums are checked: at the first read, at every read, or never.
#[test]
fn verify_says_when_damage_is_noticed() {
    let closed = neighbours();
    let (path, place) = closed.record(b"victim");
    let embedding = place.frame.start + BODY;
    let open = |verify| Options::new().verify(verify).read_only(true).open(closed.path()).unwrap();

    // Damaged before it was ever read.
    flip(&path, embedding * 8);
    for verify in [Verify::FirstRead, Verify::EveryRead] {
        let store = open(verify);
        for _ in 0..2 {
            let error = store.pin().get("victim").map(|found| found.is_some()).unwrap_err();
            let Error::Corrupt { path: named, offset, reason } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((named, *offset), (&path, place.frame.start as u64));
            assert!(!reason.is_empty() && error.to_string().contains(".seg"), "{error}");
        }
        assert_eq!(store.pin().iter().filter(Result::is_err).count(), 1);
    }
    let wrong = open(Verify::Never).get_owned("victim").unwrap().unwrap();
    assert_ne!(wrong.embedding, closed.state[&b"victim"[..]].embedding);
    flip(&path, embedding * 8);

    // Damaged between two reads: the file is mapped, so the handles see the change.
    let (first, every) = (open(Verify::FirstRead), open(Verify::EveryRead));
    assert_eq!(ask(&first, &closed.state, b"victim"), Answer::Whole);
    assert_eq!(ask(&every, &closed.state, b"victim"), Answer::Whole);
    flip(&path, embedding * 8);
    assert!(first.get_owned("victim").is_ok(), "it was checked once");
    assert!(matches!(every.get_owned("victim"), Err(Error::Corrupt { .. })));
    let report = first.verify().unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].id.as_deref(), Some(&b"victim"[..]));
    assert_eq!(report.damaged[0].offset, place.frame.start as u64);
    assert_eq!((report.records, report.is_clean()), (3, false));
    flip(&path, embedding * 8);
    closed.assert_whole();
}

/// Damage between two reads that makes a record look like another id's, or one whose time is over.
#[test]
fn a_record_whose_header_is_damaged_after_it_was_read_is_damaged_and_not_gone() {
    let closed = Closed::new(|store| {
        let embedding = RECORDS.embedding(b"victim", 1);
        let in_a_year = Duration::from_secs(365 * 24 * 3600);
        store.put_record(NewRecord::new("victim", &embedding, "x").expires_in(in_a_year)).unwrap();
    });
    let (path, place) = closed.record(b"victim");
    let every = Options::new().verify(Verify::EveryRead).read_only(true).open(closed.path());
    let every = every.unwrap();
    let mut wrong = Vec::new();
    // All but the tag, which is under no checksum.
    for bit in 8 * 8..(48 + 6) * 8 {
        assert!(every.get_owned("victim").unwrap().is_some(), "it is whole");
        flip(&path, place.frame.start * 8 + bit);
        let got = every.get_owned("victim");
        if !matches!(got, Err(Error::Corrupt { .. })) {
            wrong.push((bit / 8, bit % 8, got.map(|found| found.is_some())));
        }
        flip(&path, place.frame.start * 8 + bit);
    }
    assert!(wrong.is_empty(), "{} {wrong:?}", wrong.len());
}

/// A damaged record can be overwritten and removed like any other; the ones beside it do not care.
#[test]
fn a_damaged_record_can_be_overwritten_and_removed() {
    for at in [TAG, 16, 36, FLAGS - 1, ID.start, BODY, BODY + 70] {
        let closed = neighbours();
        let (path, place) = closed.record(b"victim");
        flip(&path, (place.frame.start + at) * 8);
        let store = common::open(closed.path());
        assert_eq!(store.len(), 3, "byte {at}");
        assert_eq!(ask(&store, &closed.state, b"victim"), Answer::Corrupt);
        if at % 2 == 0 {
            RECORDS.put(&store, b"victim", 2);
            assert_eq!(store.len(), 3, "byte {at}");
        }
        let store = if at % 2 == 0 { reopen(store) } else { store };
        assert!(store.remove("victim").unwrap().is_some(), "byte {at}");
        assert_eq!((store.len(), store.contains("victim")), (2, false), "byte {at}");
        reopen(store);
    }
}

/// A batch that was voided before its head was committed never happened. Damage in its directory
/// must not make its members count.
#[test]
fn damage_in_a_voided_batch_brings_none_of_its_members_in() {
    let closed = Closed::new(|store| {
        store.put("old", &RECORDS.embedding(b"old", 1), "1").unwrap();
        let mut batch = Batch::new();
        batch.put("old", &RECORDS.embedding(b"old", 2), b"2");
        for n in 0..4 {
            batch.put(id(n), &RECORDS.embedding(&id(n), 1), b"1");
        }
        store.write(batch).unwrap();
        store.put("last", &RECORDS.embedding(b"last", 1), "1").unwrap();
    });
    let path = closed.segments().remove(0);
    let slot_at = |slot: usize| DIRECTORY_AT + slot * SLOT;
    let mut bytes = std::fs::read(&path).unwrap();
    let salt = Salt(u64::from_le_bytes(bytes[40..48].try_into().unwrap()));
    let head = slot_at(1);
    bytes[head..head + 8].copy_from_slice(&void_word(salt, SlotNumber(1)).to_le_bytes());
    // As the reservation leaves it: only the extent is known.
    bytes[head + 8..head + 24].fill(0);
    std::fs::write(&path, bytes).unwrap();
    for damaged in 1..6 {
        for bit in 0..256 {
            if bit % 16 != 0 && damaged > 1 {
                continue;
            }
            flip(&path, slot_at(damaged) * 8 + bit);
            let store = Options::new().read_only(true).open(closed.path()).unwrap();
            let content = store.pin().get("old").unwrap().unwrap().content().to_vec();
            assert_eq!((content.as_slice(), store.len()), (&b"1"[..], 2), "{damaged} {bit}");
            drop(store);
            flip(&path, slot_at(damaged) * 8 + bit);
        }
    }
}

/// The store answered everything, and nothing was reported; its backup had none of it.
#[test]
fn a_backup_does_not_depend_on_the_durable_end_of_copies() {
    let closed = Closed::new(|store| {
        for n in 0..300 {
            RECORDS.put(store, &id(n), n);
        }
        store.remove(id(0)).unwrap();
        store.compact().unwrap();
    });
    let segments = common::open(closed.path()).segments();
    let copies = segments.iter().find(|segment| segment.role == SegmentRole::Copies).unwrap();
    for bit in 0..64 {
        flip(&copies.path, DURABLE_AT * 8 + bit);
        let store = common::open(closed.path());
        let dir = tempfile::tempdir().unwrap();
        store.backup(dir.path()).unwrap();
        assert_same(&state(&store), &closed.state);
        assert_same(&state(&common::open(dir.path())), &closed.state);
        drop(store);
        closed.restore();
    }
}
