//! A store to read from.

use super::common::{CONTENT, DIMENSION, embedding, id};
use std::path::Path;
use stratalog::{Error, Options, Store};

/// A store with so many records.
pub fn filled(path: &Path, records: u64) -> Result<Store, Error> {
    let store = Options::new().dimension(DIMENSION).open(path)?;
    let embeddings: Vec<_> = (0..64).map(embedding).collect();
    for n in 0..records {
        store.put(id(n), &embeddings[n as usize % 64], CONTENT)?;
    }
    Ok(store)
}
