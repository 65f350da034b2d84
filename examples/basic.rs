//! Put, get, walk, overwrite, remove, and find it all again after reopening.
//!
//! `cargo run --release --example basic`

use stratalog::Options;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("memories");

    let store = Options::new().dimension(4).open(&path)?;
    store.put("tide", &[0.1, 0.2, 0.3, 0.4], "The tide leaves a mark at its highest point.")?;
    store.put("moon", &[0.9, 0.1, 0.0, 0.0], "The moon pulls the water.")?;
    let last = store.put("moon", &[0.8, 0.2, 0.0, 0.0], "The moon and the sun pull the water.")?;
    println!("{} records, the last write was {last}", store.len());

    // What a pin hands out is borrowed from the mapped file: no copy, and no lock to wait for.
    let pinned = store.pin();
    if let Some(record) = pinned.get("moon")? {
        let content = String::from_utf8_lossy(record.content());
        println!("moon: {content} {:?}, written as {}", record.embedding(), record.lsn());
    }
    for record in pinned.iter() {
        let record = record?;
        println!("{}: {} bytes", String::from_utf8_lossy(record.id()), record.content().len());
    }

    // A removed record stays readable for as long as it is pinned.
    let tide = pinned.get("tide")?;
    assert!(store.remove("tide")?.is_some(), "it was there");
    assert!(!store.contains("tide"), "it is gone");
    println!("still pinned: {} bytes", tide.map_or(0, |record| record.content().len()));
    drop(pinned);

    // From here on what was written survives power loss, not only the end of the process.
    store.sync()?;
    store.close()?;

    let store = Options::new().open(&path)?;
    let moon = store.get_owned("moon")?;
    println!("after reopening: {} record, {:?}", store.len(), moon.map(|record| record.embedding));
    store.close()?;
    Ok(())
}
