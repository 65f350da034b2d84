//! What a small flush writes: pages of the record, not the large folios that a file which was
//! touched in a row is kept in. Alone in its file, because the kernel counts for the whole process.
#![cfg(test)]

use stratalog::{Durability, Options, Store};

const DIMENSION: usize = 768;
const EMBEDDING: [f32; DIMENSION] = [0.5; DIMENSION];
const SEGMENT: u64 = 8 << 20;
const PUTS: u32 = 100;
/// Five pages of the record, its slot and the header; as much again for the file system's journal;
/// and the next segment, which is written ahead meanwhile.
const BYTES_MAX: u64 = 10 * 4096 + SEGMENT / PUTS as u64;

/// Bytes that this process has made dirty so far; `None` if the kernel does not count them.
fn dirtied() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

fn put(store: &Store, n: u32, content: &[u8]) -> u64 {
    let lsn = store.put(n.to_le_bytes(), &EMBEDDING, content).expect("a durable put");
    lsn.as_u64() >> 24
}

#[test]
fn a_durable_put_writes_a_few_pages_in_a_prepared_segment_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().dimension(DIMENSION).segment_size(SEGMENT);
    let options = options.durability(Durability::Synced);
    let store = options.open(dir.path().join("store")).expect("a store");
    // Large enough to fill the segment soon, small enough for a flush to be small.
    let content = vec![b'c'; 200 << 10];
    let (first, mut n) = (put(&store, 0, &content), 1);
    while put(&store, n, &content) == first {
        n += 1;
    }
    // What is left of the first segment has been flushed, and the next one is active.
    let before = dirtied();
    for n in n + 1..=n + PUTS {
        put(&store, n, b"content");
    }
    let (Some(before), Some(after)) = (before, dirtied()) else { return };
    let each = (after - before) / u64::from(PUTS);
    assert!(each <= BYTES_MAX, "{each} bytes for each durable put, not {BYTES_MAX} at most");
}
