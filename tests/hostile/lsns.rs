//! Records under right sums, with an LSN that nobody gave them. Such a record may be believed; but
//! it must not pass for newer than whatever is written from now on.

use super::forge;
use super::place;
use super::victim::{self, Victim};
use std::path::Path;
use stratalog::{Compaction, Options, Store};

/// Ids whose newest records lie in the youngest segment of the log, and in the one for copies.
const OF_LOG: [&str; 2] = ["id 17", "id 18"];
const OF_COPIES: [&str; 2] = ["id 22", "id 23"];

fn open(directory: &Path) -> Store {
    Options::new().compaction(Compaction::Manual).flush_interval(None).open(directory).unwrap()
}

/// The slot of an id's put in a segment, if one is there.
fn slot_of(segment: &[u8], id: &str) -> Option<u32> {
    let is_its = |slot: &u32| {
        let Some(body) = forge::body_of(segment, *slot) else { return false };
        let id_at = body.offset.bytes() + if body.expires { 48 } else { 40 };
        forge::word(segment, body.offset.bytes() + 32) >> 32 & 0xFFFF == id.len() as u64
            && segment[id_at..].starts_with(id.as_bytes())
    };
    (0..200).rev().find(is_its)
}

/// Gives the record of an id in such a segment the LSN that `lsn` makes of its sequence: in its
/// frame, or in its slot too.
fn forge_lsn(victim: &mut Victim, copies: bool, id: &str, (slot_too, lsn): (bool, Given)) {
    let of_role = |bytes: &&mut Vec<u8>| {
        bytes.starts_with(b"stratlog") && (forge::word(bytes, 56) >> 32 == 1) == copies
    };
    let mut forged = 0;
    for bytes in victim.files.values_mut().filter(of_role) {
        let Some(slot) = slot_of(bytes, id) else { continue };
        let lsn = lsn(forge::word(bytes, 32));
        if slot_too {
            forge::forge_slot(bytes, slot, 1, lsn);
        }
        forge::forge_frame(bytes, slot, 8, 8, lsn);
        forged += 1;
    }
    assert_eq!(forged, 1, "{id}");
}

/// From the sequence of a segment.
type Given = fn(u64) -> u64;

/// Behind all that any log has given.
const FAR: Given = |_| 1 << 63 | 3;
/// Of the segment's sequence, and behind what was given there.
const NEAR: Given = |sequence| sequence << 24 | ((1 << 24) - 1);

/// A put of the first id is found, now and after the store was opened again, and a removal of the
/// second one ends. How many records the first opening reported as lost.
fn assert_writes_count(place: &Path, victim: &Victim, [put, removed]: [&str; 2]) -> u64 {
    victim.write(place).unwrap();
    let store = open(place);
    let lost = store.recovery().corrupt;
    let version = |store: &Store| {
        let found = store.get_owned(put).unwrap();
        found.map(|found| found.embedding[0] as u32)
    };
    victim::put(&store, put.as_bytes(), 90).unwrap();
    assert_eq!(version(&store), Some(90), "{put}");
    // Of a record that is lost an older version may show.
    assert!(store.remove(removed).unwrap().is_some() || lost > 0);
    assert!(!store.contains(removed));
    store.close().unwrap();
    let store = open(place);
    assert_eq!(version(&store), Some(90), "{put}, opened again");
    assert!(!store.contains(removed));
    lost
}

fn assert_forged(copies: bool, forged: (bool, Given)) -> u64 {
    let place = place();
    let mut victim = Victim::make(place.path()).unwrap();
    let ids = if copies { OF_COPIES } else { OF_LOG };
    ids.iter().for_each(|id| forge_lsn(&mut victim, copies, id, forged));
    assert_writes_count(place.path(), &victim, ids)
}

/// The slot is sound, so only who reads the frame meets the number.
#[test]
fn a_frame_with_an_lsn_never_given_holds_no_write_up() {
    for copies in [false, true] {
        assert_eq!(assert_forged(copies, (false, FAR)), 0, "copies: {copies}");
    }
}

#[test]
fn a_frame_with_an_lsn_of_another_place_holds_no_write_up() {
    assert_eq!(assert_forged(false, (false, NEAR)), 0);
}

#[test]
fn a_copy_with_an_lsn_never_given_is_lost() {
    assert_eq!(assert_forged(true, (true, FAR)), 2);
}

#[test]
fn a_record_of_the_log_with_an_lsn_of_another_place_is_lost() {
    for lsn in [FAR, NEAR] {
        assert_eq!(assert_forged(false, (true, lsn)), 2);
    }
}
