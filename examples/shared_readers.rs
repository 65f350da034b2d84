//! Threads that read while another one writes, and a record that travels between threads.
//!
//! `cargo run --release --example shared_readers`

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use stratalog::{Options, SharedRecord, Store};

const DIMENSION: usize = 64;
const RECORDS: u32 = 500;
const ROUNDS: u32 = 20;
const READERS: usize = 3;

/// Writes every record `ROUNDS` times. Each version says its round in embedding and content.
fn write(store: &Store) -> Result<(), stratalog::Error> {
    for round in 0..ROUNDS {
        for number in 0..RECORDS {
            let embedding = [round as f32; DIMENSION];
            store.put(format!("record-{number}"), &embedding, round.to_string())?;
        }
    }
    Ok(())
}

/// Reads until told to stop, checks that what it sees is of one piece, and answers how much it was.
fn read(store: &Store, stop: &AtomicBool) -> Result<u64, stratalog::Error> {
    let mut seen = 0;
    // Relaxed: the flag says only that it is time to stop.
    while !stop.load(Ordering::Relaxed) {
        // One pin for many gets; dropped now and then, so that old versions can be given back.
        let pinned = store.pin();
        for number in 0..RECORDS {
            if let Some(record) = pinned.get(format!("record-{number}"))? {
                let round: f32 = String::from_utf8_lossy(record.content()).parse().unwrap_or(-1.0);
                let whole = record.embedding().iter().all(|&value| value == round);
                assert!(whole, "record-{number} mixes two versions");
                seen += 1;
            }
        }
    }
    Ok(seen)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let store = Options::new().dimension(DIMENSION).open(dir.path().join("memories"))?;
    let stop = AtomicBool::new(false);

    std::thread::scope(|scope| -> Result<(), stratalog::Error> {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read(&store, &stop))).collect();
        let written = write(&store);
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            match reader.join() {
                Ok(seen) => println!("a reader saw {} whole records", seen?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        written
    })?;
    println!("{} records after {} writes", store.len(), RECORDS * ROUNDS);

    // A pin stays on its thread; a shared record goes anywhere and keeps its segment mapped.
    let (sender, receiver) = mpsc::channel::<SharedRecord>();
    let consumer = std::thread::spawn(move || {
        receiver.iter().map(|record| record.content().len() + record.embedding().len()).sum()
    });
    for number in 0..RECORDS {
        if let Some(record) = store.get_shared(format!("record-{number}"))? {
            sender.send(record)?;
        }
    }
    drop(sender);
    store.close()?;
    let total: usize = consumer.join().map_err(|_panic| "the consumer panicked")?;
    println!("the other thread counted {total}");
    Ok(())
}
