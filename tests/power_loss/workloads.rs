//! Every short workload: up to three operations behind one durable record, cut before each call
//! that orders (flushes of files and directories) and each that changes a name.

use super::claims::Book;
use super::device::{Device, Honesty};
use super::dice::Dice;
use super::life::{self, Writer};
use super::states::{Known, Viewer};
use std::path::Path;
use std::time::Instant;
use stratalog::{Lsn, Store};

const OPERATIONS: [&str; 8] =
    ["put", "overwrite", "remove", "batch", "roll", "compact", "sync", "close"];
/// States of a moment that are looked at if there are more.
const MOST: u64 = 64;
/// Bytes that the device writes as one.
const UNIT: usize = 512;
/// Workloads of the short form, besides the shortest.
const SOME: u64 = 2;

#[derive(Debug, Default)]
struct Seen {
    workloads: u64,
    moments: u64,
    states: u64,
}

/// What has returned is noted before the next call begins: then it counts at each moment of that.
fn operate(name: &str, mut store: Store, path: &Path, writer: &mut Writer<'_>) -> Store {
    match name {
        "put" => writer.put_small(&store, 1),
        "overwrite" => writer.put_small(&store, 0),
        "remove" => writer.remove_small(&store, 0),
        "batch" => writer.batch(&store),
        "roll" => writer.roll(&store),
        "compact" => drop(store.compact().unwrap()),
        "sync" => store.sync().unwrap(),
        _ => {
            store.close().unwrap();
            store = life::open(path).unwrap();
        }
    }
    writer.promised(&store);
    store
}

fn play(names: &[&str], most: u64, seen: &mut Seen) -> Result<(), String> {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    let (book, path) = (Book::default(), place.path().join("store"));
    device.watch(0, Some(std::thread::current().id()));
    let mut store = life::open(&path).unwrap();
    let mut writer = Writer::new(&device, &book, b'a', Dice(names.len() as u64), true);
    writer.put_small(&store, 0);
    store.sync().unwrap();
    writer.promised(&store);
    device.remember_one_in(1);
    for name in names {
        store = operate(name, store, &path, &mut writer);
        device.capture();
    }
    let captures = device.stop();
    drop(store);
    let history = book.history.lock().unwrap().clone();
    let (mut known, mut dice) = (Known::default(), Dice(3));
    for (n, capture) in captures.iter().enumerate() {
        assert!(capture.claims.durable > Lsn::default(), "nothing is promised: {names:?}");
        let mut viewer = Viewer::new(capture, &history, &mut known);
        let looked = viewer.subsets(UNIT, most, &mut dice);
        seen.states += looked.map_err(|error| format!("{names:?}, moment {n}: {error}"))?.states;
        seen.moments += 1;
    }
    seen.workloads += 1;
    if seen.workloads.is_multiple_of(50) {
        println!("{seen:?}");
    }
    Ok(())
}

#[test]
fn every_short_workload_is_a_prefix_wherever_it_is_cut() {
    let all = std::env::var_os("STRATALOG_POWER_LOSS_WORKLOADS").is_some();
    let (mut seen, mut dice, started) = (Seen::default(), Dice(4), Instant::now());
    let most = if all { MOST } else { MOST / 8 };
    let mut play = |names: &[&str]| {
        play(names, most, &mut seen).unwrap_or_else(|error| panic!("{error}"));
    };
    for first in OPERATIONS {
        play(&[first]);
        for second in OPERATIONS.iter().filter(|_| all) {
            play(&[first, second]);
            OPERATIONS.iter().for_each(|third| play(&[first, second, third]));
        }
    }
    for _ in 0..if all { 0 } else { SOME } {
        let mut any = || OPERATIONS[dice.below(8) as usize];
        play(&[any(), any(), any()]);
    }
    println!("{seen:?} in {:?}", started.elapsed());
    assert!(seen.states > seen.moments && seen.moments > seen.workloads);
}
