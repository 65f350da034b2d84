//! stratalog, redb, fjall and RocksDB for kvbench, by its interface for stores of others:
//! `run.sh` runs YCSB's mixes A, B and C. See README.md.

mod peers;

use kvbench::stores::{BenchKVMap, Registry};
use kvbench::{KVMap, KVMapHandle};
use std::path::PathBuf;
use std::sync::Arc;
use stratalog::{Options, Store};

/// What a harness's call that has no way to fail does with an error.
fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1)
        }
    }
}

/// `path` in the `[map]` of a store's configuration.
fn path(config: &kvbench::toml::Table) -> PathBuf {
    must(config.get("path").and_then(|path| path.as_str()).ok_or("[map] names no path")).into()
}

/// A store whose values are contents: embeddings are one number each.
#[derive(Clone)]
struct Stratalog(Arc<Store>);

impl KVMap for Stratalog {
    fn handle(&self) -> Box<dyn KVMapHandle> {
        Box::new(self.clone())
    }
}

impl KVMapHandle for Stratalog {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        must(self.0.put(key, &[0.0], value));
    }

    fn get(&mut self, key: &[u8]) -> Option<Box<[u8]>> {
        must(self.0.pin().get(key)).map(|record| record.content().into())
    }

    fn delete(&mut self, key: &[u8]) {
        must(self.0.remove(key));
    }

    fn scan(&mut self, _key: &[u8], _n: usize) -> Vec<(Box<[u8]>, Box<[u8]>)> {
        must(Err("stratalog keeps no order"))
    }
}

fn stratalog(config: &kvbench::toml::Table) -> BenchKVMap {
    let store = must(Options::new().dimension(1).open(path(config)));
    BenchKVMap::Regular(Arc::new(Box::new(Stratalog(Arc::new(store)))))
}

kvbench::inventory::submit! { Registry::new("stratalog", stratalog) }

fn main() {
    kvbench::cmdline();
}
