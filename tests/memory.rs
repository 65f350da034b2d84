//! How much memory the index takes for a record: at most 16 bytes, by its own count and by what the
//! kernel says the process has more of. A tenth of a million records here; the whole of it with
//!
//! `STRATALOG_RECORDS=1000000 cargo test --release --test memory -- --nocapture`
#![cfg(test)]

mod common;

use common::{Records, SEGMENT, reopen};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

const DIMENSION: usize = 16;
/// What is measured is the whole process: no test of this file runs beside another one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// What an index may take for a record.
const BYTES_MAX: f64 = 16.0;
/// What a store takes however little is in it: a thread, buffers, a segment's bitmap.
const FIXED_BYTES: f64 = 300e3;

/// 16 bytes that say nothing.
fn id(n: u64) -> [u8; 16] {
    let [low, high] = [common::mix(n), common::mix(!n)];
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// Anonymous memory of this process, in bytes.
fn anonymous() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("since Linux 4.5");
    let kilobytes: f64 = line.split_whitespace().nth(1).expect("a number").parse().expect("one");
    kilobytes * 1024.0
}

fn open(path: &Path) -> Store {
    Options::new().dimension(DIMENSION).segment_size(64 * SEGMENT).open(path).unwrap()
}

/// Bytes per record, by the store's count and by the kernel's.
fn per_record(store: &Store, before: f64) -> (f64, f64) {
    let records = store.len() as f64;
    (store.stats().index_bytes as f64 / records, (anonymous() - before) / records)
}

/// Gives the store time to give back what the index has outgrown.
fn wait_for_reclaim(store: &Store) {
    let begin = Instant::now();
    while store.stats().retired > 0 && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_index_takes_at_most_16_bytes_for_a_record() {
    let _alone = ONE_AT_A_TIME.lock();
    let given = std::env::var("STRATALOG_RECORDS").ok();
    let records: u64 = given.map_or(300_000, |n| n.parse().expect("a number of records"));
    let fixed = FIXED_BYTES / records as f64;
    let dir = tempfile::tempdir().unwrap();
    let before = anonymous();
    let store = open(dir.path());
    for n in 0..records {
        store.put(id(n), &[n as f32; DIMENSION], []).unwrap();
        if (n + 1) % (records / 10) == 0 {
            let (counted, measured) = per_record(&store, before);
            println!(
                "{:>9} records: {counted:.2} bytes each by stats, {measured:.2} measured",
                n + 1
            );
        }
    }
    wait_for_reclaim(&store);
    let grown = per_record(&store, before);
    println!("and at rest: {:.2} bytes each by stats, {:.2} measured", grown.0, grown.1);
    store.close().unwrap();

    let before = anonymous();
    let store = open(dir.path());
    let reopened = per_record(&store, before);
    println!("reopened: {:.2} bytes each by stats, {:.2} measured", reopened.0, reopened.1);
    assert_eq!(store.len() as u64, records);
    for (counted, measured) in [grown, reopened] {
        assert!(counted <= BYTES_MAX, "{counted} bytes by stats");
        // What the process holds depends on when its background thread came to give back what the
        // index had outgrown: at worst another index.
        assert!(measured <= 2.0 * BYTES_MAX + fixed, "{measured} bytes measured");
    }
    let small = Records { dimension: DIMENSION, content_max: 9 };
    small.put(&store, b"one more", 1);
    let store = if records > 100_000 { store } else { reopen(store) };
    let one = store.get_owned("one more").unwrap().unwrap();
    assert_eq!(small.version_of(&one.id, &one.embedding, &one.content), 1);
}
