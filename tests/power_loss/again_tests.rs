//! A put that was appended again above a removal, and what power loss may leave of the two: made,
//! and judged; and that the judge lets no other state pass for that.

use super::again::with_first_copies;
use super::claims::{Book, Call, Contents, Held, History, Write, prefix_of, shape};
use super::device::{self, Capture, Device, Honesty};
use super::dice::Dice;
use super::judge::{Judge, Tally};
use super::life;
use super::states::{Known, Viewer};
use std::sync::Barrier;
use stratalog::{Lsn, Store};

const ID: &[u8] = b"a";
/// Races until one of them ends as it must; most do within a hundred.
const RACES: u32 = 20_000;
/// In a store; then a new one.
const RACES_A_STORE: u32 = 20;

fn lsn(slot: u64) -> Lsn {
    stratalog::internals::lsn(1 << 24 | slot)
}

fn put(lsn: Lsn, version: u32) -> Vec<Write> {
    vec![Write { id: ID.to_vec(), lsn: Some(lsn), version: Some(version) }]
}

fn removal(lsn: Lsn) -> Vec<Write> {
    vec![Write { id: ID.to_vec(), lsn: Some(lsn), version: None }]
}

/// A put and a removal of one id at once. The LSN of the put's first copy, if it was committed
/// before the removal was, and published after it.
fn race(store: &Store, version: u32) -> Option<Lsn> {
    let (start, before) = (Barrier::new(2), store.stats().tail);
    let at = |n: u64| stratalog::internals::lsn(before.as_u64() + n);
    let (embedding, content) =
        (shape(version).embedding(ID, version), shape(version).content(ID, version));
    let (put, removed) = std::thread::scope(|scope| {
        let put = scope.spawn(|| {
            start.wait();
            store.put(ID, &embedding, &content).unwrap()
        });
        start.wait();
        let removed = store.remove(ID).unwrap();
        (put.join().unwrap(), removed)
    });
    // Three slots: two copies of the put, and the removal in between.
    (removed && put == at(2) && store.stats().tail == at(3)).then_some(before)
}

/// Races until a put was appended again: the moment after, and its history.
fn appended_again() -> (Capture, History, Lsn) {
    for n in 0..RACES / RACES_A_STORE {
        let place = super::scratch();
        let device = Device::new(place.path(), Honesty::Honest, 1);
        device.watch(0, None);
        let store = life::open(&place.path().join("store")).unwrap();
        for m in 0..RACES_A_STORE {
            // A large one, which takes its time.
            let version = 16 * (n * RACES_A_STORE + m + 1);
            let first = shape(version - 1).put(&store, ID, version - 1);
            store.sync().unwrap();
            let Some(copy) = race(&store, version) else { continue };
            let history = History::from([
                (first, Call::alone(put(first, version - 1), first)),
                (
                    after(copy, 1),
                    Call { answers: true, ..Call::alone(removal(after(copy, 1)), copy) },
                ),
                (after(copy, 2), Call::alone(put(after(copy, 2), version), copy)),
            ]);
            let claims =
                device::Claims { durable: first, given: after(copy, 2), exists: true, backups: 0 };
            *device.claims.lock().unwrap() = claims;
            device.capture();
            let capture = device.stop().pop().unwrap();
            return (capture, history, copy);
        }
        device.stop();
    }
    panic!("no put was appended again");
}

fn after(lsn: Lsn, n: u64) -> Lsn {
    stratalog::internals::lsn(lsn.as_u64() + n)
}

/// All that was written is there but the frame of the removal: then what is behind it is cut, and
/// the put counts by its first copy. Opened, it stays so; and so says who looks at many states.
#[test]
fn a_put_that_was_appended_again_counts_by_its_first_copy_where_the_cut_is_between() {
    let (capture, history, copy) = appended_again();
    let mut image = capture.present();
    device::reboot(&mut image);
    let segment = image.iter_mut().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
    let number = format!("{:010x}", copy.as_u64() >> 24);
    let mut of =
        segment.filter(|(path, _)| path.to_str().is_some_and(|path| path.contains(&number)));
    let bytes = of.next().unwrap().1.as_mut().unwrap();
    let slot = 4096 + 32 * (after(copy, 1).as_u64() & 0xFF_FFFF) as usize;
    let word = u64::from_le_bytes(bytes[slot + 24..slot + 32].try_into().unwrap());
    let frame = word as u32 as usize * 64;
    bytes[frame..frame + 64].fill(0);

    let (book, mut tally, place) = (Book::default(), Tally::default(), super::scratch());
    let mut judge = Judge::new(&book, &mut tally, Dice(2));
    let opened =
        judge.open(&image, place.path(), &capture.claims, &history, false).unwrap().unwrap();
    opened.device.stop();
    assert!(opened.history.contains_key(&copy), "{:?}", opened.history);
    assert_eq!(opened.store.pin().get(ID).unwrap().unwrap().lsn(), copy);

    let (mut known, mut dice) = (Known::default(), Dice(3));
    let mut viewer = Viewer::new(&capture, &history, &mut known);
    let mut looked = 0;
    while viewer.by_first_copies == 0 {
        looked += viewer.sample(1_000, &mut dice).unwrap().states;
        assert!(looked < 200_000, "no such state was painted");
    }
}

/// 1.0 put; 1.1 first copy of a put, 1.2 removed, 1.3 put again.
fn example() -> History {
    History::from([
        (lsn(0), Call::alone(put(lsn(0), 1), lsn(0))),
        (lsn(2), Call { answers: true, ..Call::alone(removal(lsn(2)), lsn(1)) }),
        (lsn(3), Call::alone(put(lsn(3), 2), lsn(1))),
    ])
}

fn holds(history: &History, durable: u64, at: Lsn, version: u32) -> bool {
    let found = Contents::from([(ID.to_vec(), Held { lsn: Some(at), version })]);
    prefix_of(history, lsn(durable), &found).is_some()
}

#[test]
fn only_a_first_copy_counts_before_its_place() {
    assert!(holds(&example(), 0, lsn(1), 2));
    assert!(holds(&example(), 1, lsn(1), 2));
    assert!(holds(&example(), 0, lsn(3), 2));
    // The removal is durable.
    assert!(!holds(&example(), 2, lsn(1), 2));
    // It is durable itself, where it lies.
    assert!(!holds(&example(), 3, lsn(1), 2));
    // Before it began; at another's place; as another version.
    assert!(!holds(&example(), 0, lsn(0), 2));
    assert!(!holds(&example(), 0, lsn(2), 2));
    assert!(!holds(&example(), 0, lsn(1), 3));
    // Nothing came between that answers for what was there.
    let mut history = example();
    history.get_mut(&lsn(2)).unwrap().answers = false;
    assert!(!holds(&history, 0, lsn(1), 2));
    // It began after that.
    let mut history = example();
    history.get_mut(&lsn(3)).unwrap().begun = lsn(3);
    assert!(!holds(&history, 0, lsn(1), 2));
    // Something that was there before is missing.
    let mut history = example();
    let other = Write { id: b"b".to_vec(), lsn: Some(lsn(0)), version: Some(7) };
    history.get_mut(&lsn(0)).unwrap().writes.push(other);
    assert!(!holds(&history, 0, lsn(1), 2));
    // Nothing to explain.
    assert!(with_first_copies(&example(), lsn(0), &Contents::new()).is_none());
}

/// A batch that was appended again leaves no record where it has only removed.
#[test]
fn a_batch_of_removals_counts_by_its_first_copy() {
    let mut history = example();
    let none = Write { id: b"none".to_vec(), lsn: None, version: None };
    let call =
        Call { answers: true, ..Call::alone([removal(lsn(9)), vec![none]].concat(), lsn(1)) };
    history.insert(lsn(9), call);
    assert!(prefix_of(&history, lsn(0), &Contents::new()).is_some());
    history.remove(&lsn(2));
    history.remove(&lsn(3));
    // No other that answers.
    let found = Contents::new();
    assert!(with_first_copies(&history, lsn(0), &found).is_none());
}
