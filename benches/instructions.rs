//! Work for `benches/instructions.sh`, which counts its instructions under valgrind:
//! `instructions NAME` does one kind of operation [`OPERATIONS`] times in a function of its own,
//! which is what valgrind is told to look at.

mod common;

use common::{CONTENT, DIMENSION, embedding, id};
use std::hint::black_box;
use stratalog::{Error, Options, Pinned, Store};

/// So few that the index, whose chunks hold 2,816 entries, need not grow.
const OPERATIONS: u64 = 1_000;

/// What can be asked for.
const NAMES: &[(&str, fn(&Store) -> Result<(), Error>)] = &[
    ("put_new", count_put_new),
    ("put_again", count_put_again),
    ("get_hit", |store| count_get_hit(&store.pin())),
    ("get_pinned_each", count_get_pinned_each),
    ("get_miss", |store| count_get_miss(&store.pin())),
    ("get_many", count_get_many),
    ("walk", count_walk),
    ("remove", count_remove),
    ("update_tag", count_update_tag),
];

#[inline(never)]
fn count_put_new(store: &Store) -> Result<(), Error> {
    let embedding = [0.5; DIMENSION];
    (0..OPERATIONS).try_for_each(|n| store.put(id(OPERATIONS + n), &embedding, CONTENT).map(drop))
}

#[inline(never)]
fn count_put_again(store: &Store) -> Result<(), Error> {
    let embedding = [0.5; DIMENSION];
    (0..OPERATIONS).try_for_each(|n| store.put(id(n), &embedding, CONTENT).map(drop))
}

#[inline(never)]
fn count_get_hit(pinned: &Pinned<'_>) -> Result<(), Error> {
    for n in 0..OPERATIONS {
        let touch = pinned.get(id(n))?.map(|r| (r.embedding()[0], r.content()[0]));
        black_box(touch);
    }
    Ok(())
}

#[inline(never)]
fn count_get_pinned_each(store: &Store) -> Result<(), Error> {
    for n in 0..OPERATIONS {
        let touch = store.pin().get(id(n))?.map(|r| (r.embedding()[0], r.content()[0]));
        black_box(touch);
    }
    Ok(())
}

#[inline(never)]
fn count_get_miss(pinned: &Pinned<'_>) -> Result<(), Error> {
    (0..OPERATIONS).try_for_each(|n| {
        black_box(pinned.get(id(OPERATIONS + n))?.is_none());
        Ok(())
    })
}

#[inline(never)]
fn count_get_many(store: &Store) -> Result<(), Error> {
    let pinned = store.pin();
    let ids: [_; 50] = std::array::from_fn(|n| id(n as u64));
    for _ in 0..OPERATIONS / ids.len() as u64 {
        for record in pinned.get_many(&ids) {
            black_box(record?.map(|r| (r.embedding()[0], r.content()[0])));
        }
    }
    Ok(())
}

#[inline(never)]
fn count_walk(store: &Store) -> Result<(), Error> {
    for record in &store.pin() {
        black_box(record?.embedding()[0]);
    }
    Ok(())
}

#[inline(never)]
fn count_remove(store: &Store) -> Result<(), Error> {
    (0..OPERATIONS).try_for_each(|n| store.remove(id(n)).map(drop))
}

#[inline(never)]
fn count_update_tag(store: &Store) -> Result<(), Error> {
    (0..OPERATIONS).try_for_each(|n| store.update_tag(id(n), |tag| tag + 1).map(drop))
}

/// A store with records that have all been read once.
fn store(path: &std::path::Path) -> Result<Store, Error> {
    let store = Options::new().dimension(DIMENSION).open(path)?;
    let embedding = embedding(7);
    for n in 0..OPERATIONS {
        store.put(id(n), &embedding, CONTENT)?;
    }
    for record in &store.pin() {
        record?;
    }
    Ok(store)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = std::env::args().nth(1);
    if named.as_deref() == Some("--names") {
        NAMES.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    // Without a name, as from `cargo test --benches`: all, each on a store of its own.
    for (name, count) in NAMES {
        if named.as_ref().is_none_or(|n| n == name || n.starts_with("--")) {
            let dir = tempfile::tempdir()?;
            let store = store(&dir.path().join("store"))?;
            count(&store)?;
            store.close()?;
        }
    }
    Ok(())
}
