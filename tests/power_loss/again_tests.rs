//! A put that was appended again above a removal, and what power loss may leave of the two: made,
//! and judged; and that the judge lets no other state pass for that.

use super::again::with_first_copies;
use super::claims::{Book, Call, Contents, Held, History, LARGE_IN, Write, prefix_of, shape};
use super::device::{self, Capture, Claims, Device, Honesty};
use super::dice::Dice;
use super::judge::{Judge, Tally};
use super::life;
use super::signal::Victim;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stratalog::Lsn;

const ID: &[u8] = b"a";
/// Stops until one of them falls into the part of a put that lies between its reservation and its
/// end, which is most of it.
const TRIES: u32 = 1_000;
const STOP: Duration = Duration::from_millis(20);

fn lsn(slot: u64) -> Lsn {
    stratalog::Lsn::from_u64(1 << 24 | slot)
}

fn put(lsn: Lsn, version: u32) -> Vec<Write> {
    vec![Write { id: ID.to_vec(), lsn: Some(lsn), version: Some(version) }]
}

fn removal_of(lsn: Lsn) -> Vec<Write> {
    vec![Write { id: ID.to_vec(), lsn: Some(lsn), version: None }]
}

/// Large puts of one id, one after the other, of which one is stopped wherever it is, and the id is
/// removed meanwhile. The moment after, its history and the first copy of that put, if it had been
/// begun but not published: then it was appended again.
fn try_once() -> Option<(Capture, History, Lsn)> {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, None);
    let store = life::open(&place.path().join("store")).unwrap();
    let first = shape(1).put(&store, ID, 1);
    store.sync().unwrap();
    let (puts, end) = (Mutex::new(vec![(first, 1)]), AtomicBool::new(false));
    let (removal, removed) = std::thread::scope(|scope| {
        let victim = Victim::spawn(scope, || {
            for version in (1..).map(|n| n * LARGE_IN) {
                let (embedding, content) =
                    (shape(version).embedding(ID, version), shape(version).content(ID, version));
                let lsn = store.put(ID, &embedding, &content).unwrap();
                puts.lock().unwrap().push((lsn, version));
                if end.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        victim.stop(STOP);
        let removal = store.stats().tail;
        let removed = store.remove(ID).unwrap();
        end.store(true, Ordering::SeqCst);
        let while_stopped = victim.is_stopped();
        victim.wait();
        (removal, removed.is_some() && while_stopped)
    });
    let puts = puts.into_inner().unwrap();
    let (copy, again) = (before(removal), after(removal, 1));
    let last = *puts.last().unwrap();
    device.claims.lock().unwrap().clone_from(&Claims {
        durable: first,
        given: store.stats().tail,
        exists: true,
        backups: 0,
    });
    device.capture();
    let capture = device.stop().pop().unwrap();
    let taken = puts.iter().any(|(lsn, _)| *lsn == copy);
    if !removed || taken || last.0 != again || copy.as_u64() >> 24 != again.as_u64() >> 24 {
        return None;
    }
    let mut history = History::new();
    for (lsn, version) in puts {
        let begun = if lsn == again { copy } else { lsn };
        history.insert(lsn, Call::alone(put(lsn, version), begun));
    }
    let call = Call::alone(removal_of(removal), removal);
    history.insert(removal, Call { answers: true, ..call });
    Some((capture, history, copy))
}

fn before(lsn: Lsn) -> Lsn {
    stratalog::Lsn::from_u64(lsn.as_u64() - 1)
}

fn after(lsn: Lsn, n: u64) -> Lsn {
    stratalog::Lsn::from_u64(lsn.as_u64() + n)
}

/// All that was written is there but the frame of the removal: then what is behind it is cut, and
/// the put counts by its first copy. Opened, it stays so.
#[test]
fn a_put_that_was_appended_again_counts_by_its_first_copy_where_the_cut_is_between() {
    let tried = (0..TRIES).find_map(|_| try_once());
    let (capture, history, copy) = tried.expect("a put that is appended again");
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
}

/// 1.0 put; 1.1 first copy of a put, 1.2 removed, 1.3 put again.
fn example() -> History {
    History::from([
        (lsn(0), Call::alone(put(lsn(0), 1), lsn(0))),
        (lsn(2), Call { answers: true, ..Call::alone(removal_of(lsn(2)), lsn(1)) }),
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
        Call { answers: true, ..Call::alone([removal_of(lsn(9)), vec![none]].concat(), lsn(1)) };
    history.insert(lsn(9), call);
    assert!(prefix_of(&history, lsn(0), &Contents::new()).is_some());
    history.remove(&lsn(2));
    history.remove(&lsn(3));
    // No other that answers.
    let found = Contents::new();
    assert!(with_first_copies(&history, lsn(0), &found).is_none());
}
