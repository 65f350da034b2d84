//! Erasing beside a writer that is held up: what is dead in a segment where it is at work.

#[path = "../stopped/signal.rs"]
mod signal;

use super::{contains_bytes, options};
use signal::Victim;
use std::sync::mpsc;
use std::time::Duration;
use stratalog::Batch;

const MEMBERS: u32 = 20_000;
const SECRET: &[u8] = b"these bytes are to be in no file any more";

fn embedding() -> [f32; super::DIM] {
    [1.0; super::DIM]
}

/// The writer of a batch is held up while it publishes its members. What was removed from the same
/// segment, ended by the compaction or by another writer, stayed in its file without an error.
#[test]
fn what_is_removed_beside_a_batch_under_way_is_in_no_file_after_compact_and_close() {
    for rolled in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = options().segment_size(4 << 20).open(&path).unwrap();
        store.put("secret", &embedding(), SECRET).unwrap();
        let mut batch = Batch::new();
        for n in 0..MEMBERS {
            batch.put(n.to_le_bytes(), &embedding(), []);
        }
        std::thread::scope(|scope| {
            let ((done, ends), store) = (mpsc::channel(), &store);
            let writer = Victim::spawn(scope, move || {
                store.write(batch).unwrap();
                ends.recv().unwrap();
            });
            while !store.contains(0u32.to_le_bytes()) {
                std::hint::spin_loop();
            }
            writer.stop(Duration::from_millis(700));
            if store.contains((MEMBERS - 1).to_le_bytes()) {
                println!("nothing shown: the batch was faster");
            }
            for n in 0..if rolled { 6 } else { 0 } {
                store.put(format!("{n}"), &embedding(), vec![0; 1 << 20]).unwrap();
            }
            assert!(store.remove("secret").unwrap().is_some());
            store.compact().unwrap();
            writer.wait();
            done.send(()).unwrap();
        });
        assert!((0..MEMBERS).all(|n| store.contains(n.to_le_bytes())));
        store.close().unwrap();
        assert!(!contains_bytes(&path, SECRET), "rolled: {rolled}");
    }
}
