//! Segments of which power loss has left nothing, before one of which it has left something: what
//! comes behind such a gap must not count, whatever of its header has reached the device.

use super::claims::Book;
use super::device::{self, Capture, Cut, Device, Honesty, Image};
use super::dice::Dice;
use super::judge::{Judge, Tally};
use super::life::{self, Writer};
use std::path::{Path, PathBuf};
use stratalog::Batch;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::header::{self, Identity, PREDECESSOR_AT, Role};
use stratalog::internals::format::ids::Sequence;
use stratalog::internals::format::manifest::Manifest;

/// The header up to the cursor, which is flushed before a segment has its name.
const IDENTITY: usize = header::IDENTITY_BYTES;
const HEADER: usize = 4096;

/// Records in two segments, none of which was flushed; and the manifest from before the first.
fn two_segments(book: &Book) -> (Capture, Image) {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, Some(std::thread::current().id()));
    let store = life::open(&place.path().join("store")).unwrap();
    device.claims.lock().unwrap().exists = true;
    device.capture();
    let mut writer = Writer::new(&device, book, b'a', Dice(1), true);
    while store.stats().segments < 2 {
        writer.put(&store);
    }
    writer.put_small(&store, 1);
    device.capture();
    let [first, last] = <[Capture; 2]>::try_from(device.stop()).ok().expect("two moments");
    drop(store);
    let mut image = last.present();
    let manifest = PathBuf::from("store/MANIFEST");
    image.insert(manifest.clone(), first.present()[&manifest].clone());
    device::reboot(&mut image);
    (last, image)
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "seg")
}

fn segment(image: &mut Image, nth: usize) -> &mut Vec<u8> {
    let segments = image.iter_mut().filter(|(path, _)| is_segment(path));
    segments.map(|(_, bytes)| bytes.as_mut().unwrap()).nth(nth).expect("a segment")
}

/// What a segment has there that was to be the first of its store.
fn first_of_all(segment: &[u8]) -> [u8; 8] {
    header::encode_predecessor(Sequence(0), false, identity_of(segment).salt).to_le_bytes()
}

fn identity_of(segment: &[u8]) -> Identity {
    Identity::decode(segment[..IDENTITY].try_into().unwrap()).expect("a segment")
}

/// Of the first segment nothing but its identity was written back, of the second everything, or all
/// but its header, or all but that it follows the first.
#[test]
fn what_lies_behind_a_segment_of_which_nothing_is_left_does_not_count() {
    let book = Book::default();
    let (capture, image) = two_segments(&book);
    let history = book.history.lock().unwrap().clone();
    for case in ["whole", "no header", "no predecessor", "an older predecessor"] {
        let mut image = image.clone();
        segment(&mut image, 0)[IDENTITY..].fill(0);
        let second = segment(&mut image, 1);
        assert!(second[HEADER..HEADER + 32] != [0; 32], "a record");
        let predecessor = PREDECESSOR_AT..PREDECESSOR_AT + 8;
        match case {
            "no header" => second[IDENTITY..HEADER].fill(0),
            "no predecessor" => second[predecessor].fill(0),
            "an older predecessor" => {
                let stale = first_of_all(second);
                second[predecessor].copy_from_slice(&stale);
            }
            _ => {}
        }
        device::reboot(&mut image);
        let (mut tally, place) = (Tally::default(), super::scratch());
        let mut judge = Judge::new(&book, &mut tally, Dice(2));
        let opened = judge.open(&image, place.path(), &capture.claims, &history, false);
        let opened = opened.unwrap_or_else(|error| panic!("{case}: {error}")).unwrap();
        assert_eq!(opened.history.len(), 0, "{case}");
        opened.device.stop();
    }
}

/// Power loss after the first flush of a segment, whose durable end has not reached the device; and
/// the file of a blank one with a number between its own and its predecessor's, which was removed
/// without a flush of the directory: nothing is behind a gap.
#[test]
fn a_blank_segment_that_was_overtaken_cuts_nothing() {
    let judged = (0..50).any(|_| blank_segment_was_overtaken());
    assert!(judged, "a second flush came by each time");
}

/// Whether the durable end lagged, as this is about.
fn blank_segment_was_overtaken() -> bool {
    let (book, place) = (Book::default(), super::scratch());
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, Some(std::thread::current().id()));
    let store = life::open(&place.path().join("store")).unwrap();
    let mut writer = Writer::new(&device, &book, b'a', Dice(1), false);
    // Each compaction takes a number for the copies.
    for _ in 0..3 {
        writer.put_small(&store, 1);
        writer.put_small(&store, 1);
        store.compact().unwrap();
    }
    device.capture();
    writer.put(&store);
    store.sync().unwrap();
    writer.promised(&store);
    device.capture();
    let [before, capture] = <[Capture; 2]>::try_from(device.stop()).ok().expect("two moments");
    drop(store);
    let mut image = capture.cut(Cut { seed: 1, unit: 64, new: 0 });
    let manifest = PathBuf::from("store/MANIFEST");
    image.insert(manifest.clone(), before.present()[&manifest].clone());
    let segments = image.iter().filter(|(path, _)| is_segment(path));
    let all = segments.clone().map(|(_, bytes)| bytes.as_ref().unwrap());
    let taken: Vec<_> = all.clone().map(|bytes| identity_of(bytes).sequence).collect();
    let of_log = all.filter(|bytes| identity_of(bytes).role == Role::Log);
    let last = of_log.max_by_key(|bytes| identity_of(bytes).sequence).unwrap();
    let mut identity = identity_of(last);
    let word = |at: usize| u64::from_le_bytes(last[at..at + 8].try_into().unwrap());
    if word(header::DURABLE_AT) != 0 {
        return false;
    }
    let followed = header::decode_predecessor(word(PREDECESSOR_AT), identity.salt);
    assert!(followed.unwrap().1, "what was flushed says for certain whom it follows");
    let path = segments.clone().find(|(_, bytes)| bytes.as_ref() == Some(last)).unwrap().0.clone();
    let mut between = (1..identity.sequence.0).map(Sequence);
    let between = between.find(|sequence| !taken.contains(sequence)).expect("one that is free");
    let first_of_all = header::encode_predecessor(Sequence(0), true, identity.salt);
    let mut last = last.clone();
    last[PREDECESSOR_AT..PREDECESSOR_AT + 8].copy_from_slice(&first_of_all.to_le_bytes());
    (identity.sequence, identity.salt) = (between, Salt(77));
    let mut blank = vec![0; last.len()];
    blank[..IDENTITY].copy_from_slice(&identity.encode());
    let name = format!("store/{:010x}-{:08x}.seg", between.0, 77);
    image.extend([(PathBuf::from(&name), Some(blank)), (path, Some(last))]);
    device::reboot(&mut image);
    let history = book.history.lock().unwrap().clone();
    let (mut tally, place) = (Tally::default(), super::scratch());
    let mut judge = Judge::new(&book, &mut tally, Dice(2));
    let opened = judge.open(&image, place.path(), &capture.claims, &history, false);
    opened.unwrap_or_else(|error| panic!("{error}")).unwrap().device.stop();
    assert!(!place.path().join(&name).exists(), "what was never used is removed");
    true
}

/// Compaction has emptied the first segment, and power loss has taken all of the only other one:
/// what the first one's writes were told stays true.
#[test]
fn an_lsn_of_a_segment_that_is_gone_stays_known_when_the_next_one_is_lost() {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, None);
    let path = place.path().join("store");
    let store = life::open(&path).unwrap();
    for id in ["kept", "removed"] {
        store.put(id, &[1.0; 16], "content").unwrap();
    }
    assert!(store.remove("removed").unwrap());
    let removal = store.write(Batch::new()).unwrap();
    store.compact().unwrap();
    store.wait_durable(removal).unwrap();
    store.put("lost", &[1.0; 16], "content").unwrap();
    let manifest = || Manifest::decode(&std::fs::read(path.join("MANIFEST")).unwrap()).unwrap();
    while manifest().segments.iter().all(|id| id.role == Role::Copies) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    device.capture();
    let capture = device.stop().pop().unwrap();
    drop(store);
    let place = super::scratch();
    device::write(&capture.cut(Cut { seed: 1, unit: 512, new: 0 }), place.path());
    let store = life::open(&place.path().join("store")).unwrap();
    assert!(store.contains("kept") && store.len() == 1);
    assert!(store.durable_lsn() >= removal, "{} is below {removal}", store.durable_lsn());
    store.wait_durable(removal).unwrap();
}
