//! Many ids at once. Invariant: `get_many` answers, in order, what `get` would for each of them.

use super::common::{Records, mix};
use super::new_store;
use std::sync::atomic::{AtomicBool, Ordering};
use stratalog::{Pinned, Store};

const SMALL: Records = Records { dimension: 4, content_max: 30 };
const IDS: u64 = 4_000;

fn id(n: u64) -> Vec<u8> {
    // From a byte to more than a header's line holds, and to more than an id may have.
    match n % 50 {
        0 => Vec::new(),
        1 => vec![b'x'; 1025 + n as usize],
        2..10 => format!("{n} {}", "long".repeat(n as usize % 200)).into_bytes(),
        _ => format!("{n}").into_bytes(),
    }
}

/// Puts two ids of three; removes every seventh of these.
fn fill(store: &Store) {
    for n in (0..IDS).filter(|n| n % 3 != 0 && n % 50 > 1) {
        SMALL.put(store, &id(n), n as u32 % 100);
        if n % 7 == 0 {
            store.remove(id(n)).unwrap();
        }
    }
}

fn assert_same(pinned: &Pinned<'_>, ids: &[Vec<u8>]) -> usize {
    let mut many = pinned.get_many(ids);
    let mut hits = 0;
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(many.len(), ids.len() - n);
        let (found, one) = (many.next().unwrap().unwrap(), pinned.get(id).unwrap());
        assert_eq!(found.map(|r| r.to_owned()), one.map(|r| r.to_owned()), "the {n}th");
        assert!(found.is_none_or(|record| record.id() == id));
        hits += usize::from(found.is_some());
    }
    assert!(many.next().is_none() && many.next().is_none());
    hits
}

#[test]
fn many_ids_are_answered_in_order_as_each_alone_would_be() {
    let (_dir, store) = new_store(SMALL.dimension);
    let pinned = store.pin();
    assert_eq!(assert_same(&pinned, &[id(5), id(0)]), 0, "nothing was ever put");
    fill(&store);
    // Lengths around those of a block, with ids that are there twice.
    for len in (0..70).chain([1_000]) {
        let pick = |n: u64| id(mix(n << 32 | len) % (IDS + 100) / (1 + n % 3));
        assert_same(&pinned, &(0..len).map(pick).collect::<Vec<_>>());
    }
    let all: Vec<_> = (0..IDS).map(id).collect();
    assert_eq!(assert_same(&pinned, &all), store.len());
}

#[test]
fn many_ids_beside_writers_are_whole_and_their_own() {
    let (_dir, store) = new_store(SMALL.dimension);
    fill(&store);
    let stop = AtomicBool::new(false);
    let fixed: Vec<_> =
        (0..IDS).filter(|n| n % 3 == 1 && n % 7 != 0 && n % 50 > 1).map(id).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                SMALL.put(&store, &fixed[mix(n) as usize % fixed.len()], n as u32 % 1_000);
                SMALL.put(&store, format!("new {n}").as_bytes(), 1);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..30 {
            let pinned = store.pin();
            let mut seen = 0;
            for (record, id) in pinned.get_many(&fixed).zip(&fixed) {
                let record = record.unwrap().expect("live throughout");
                assert_eq!(record.id(), id);
                SMALL.version_of(record.id(), record.embedding(), record.content());
                seen += 1;
            }
            assert_eq!(seen, fixed.len());
        }
        stop.store(true, Ordering::Relaxed);
    });
}
