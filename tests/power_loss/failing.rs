//! Each flush of a life fails once: of segments, of manifests, of the directory. Invariants: what
//! was acknowledged is shown by the process that met the failure, and by the next one; what that
//! one then promises survives power loss, though the kernel takes what was lost for written.

use super::device::{Cut, Device, Honesty};
use super::{common, device, life, scratch};
use std::collections::BTreeMap;
use stratalog::Store;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

fn contents(store: &Store) -> Contents {
    let pinned = store.pin();
    let records = pinned.iter().map(Result::unwrap);
    records.map(|record| (record.id().to_vec(), record.content().to_vec())).collect()
}

/// Writes of every size, removals, flushes and compactions. How many calls have failed.
fn work(store: &Store, model: &mut Contents, from: u8) -> u32 {
    let mut failed = 0;
    for n in from..from + 12 {
        let (id, content) = (vec![n % 5], vec![n; if n % 3 == 0 { 300_000 } else { 100 }]);
        match store.put(&id, &[1.0; 16], &content) {
            Ok(_) => drop(model.insert(id, content)),
            Err(_) => failed += 1,
        }
        if n % 7 == 6 {
            let id = [(n + 2) % 5];
            match store.remove(id) {
                Ok(_) => drop(model.remove(&id[..])),
                Err(_) => failed += 1,
            }
        }
        failed += u32::from(n % 4 == 3 && store.sync().is_err());
        failed += u32::from(n % 6 == 5 && store.compact().is_err());
    }
    failed
}

/// One life in which a flush fails, a second one that ends with a promise, and power loss. Whether
/// the first had so many flushes.
fn lives(failing: u64) -> bool {
    let (place, mut model) = (scratch(), Contents::new());
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, None);
    let path = place.path().join("store");
    let store = life::open(&path).unwrap();
    assert_eq!(work(&store, &mut model, 0), 0);
    store.close().unwrap();

    device.fail_in(failing);
    if let Ok(store) = life::open(&path) {
        work(&store, &mut model, 12);
        assert_eq!(contents(&store), model, "flush {failing} failed, in its own life");
    }
    let has_failed = device.fail_in(0);
    let store = life::open(&path).unwrap();
    assert_eq!(contents(&store), model, "flush {failing} failed, opened again");
    assert!(store.verify().unwrap().is_clean());
    match failing % 3 {
        0 => assert_eq!(work(&store, &mut model, 30), 0, "flush {failing} failed"),
        1 => drop(store.compact().unwrap()),
        _ => drop(model.insert(vec![9], put_later(&store))),
    }
    store.sync().unwrap();
    device.capture();
    let promised = device.stop().pop().unwrap();
    drop(store);
    for (seed, new) in [(0, 0), (1, 50)] {
        let place = scratch();
        device::write(&promised.cut(Cut { seed, unit: 512, new }), place.path());
        let store = common::open(&place.path().join("store"));
        assert_eq!(contents(&store), model, "flush {failing} failed, power lost, {new} % new");
        assert!(store.verify().unwrap().is_clean());
    }
    has_failed
}

fn put_later(store: &Store) -> Vec<u8> {
    store.put([9], &[1.0; 16], "later").unwrap();
    b"later".to_vec()
}

#[test]
fn any_flush_may_fail_and_the_next_process_promises_nothing_that_is_not_there() {
    let failed = (1..).take_while(|failing| lives(*failing)).count();
    assert!(failed > 20, "{failed} flushes");
    println!("{failed} flushes failed");
}
