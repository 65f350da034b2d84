//! Segments of which power loss has left nothing, before one of which it has left something: what
//! comes behind such a gap must not count, whatever of its header has reached the device.

use super::claims::Book;
use super::device::{self, Capture, Device, Honesty, Image};
use super::dice::Dice;
use super::judge::{Judge, Tally};
use super::life::{self, Writer};
use std::path::PathBuf;
use stratalog::internals::format::checksum::Salt;
use stratalog::internals::format::header::{self, PREDECESSOR_AT};
use stratalog::internals::format::ids::Sequence;

/// The header up to the cursor, which is flushed before a segment has its name.
const IDENTITY: usize = 64;
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

fn segment(image: &mut Image, nth: usize) -> &mut Vec<u8> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "seg");
    let segments = image.iter_mut().filter(|(path, _)| is_segment(path));
    segments.map(|(_, bytes)| bytes.as_mut().unwrap()).nth(nth).expect("a segment")
}

/// What a segment has there that was to be the first of its store.
fn first_of_all(segment: &[u8]) -> [u8; 8] {
    let salt = Salt(u64::from_le_bytes(segment[40..48].try_into().unwrap()));
    header::encode_predecessor(Sequence(0), salt).to_le_bytes()
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
