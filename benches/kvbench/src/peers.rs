//! The same for others: caches of 2 GiB, no compression, nothing flushed for single puts.

use crate::{must, path};
use kvbench::stores::{BenchKVMap, Registry};
use kvbench::toml::Table;
use kvbench::{KVMap, KVMapHandle};
use redb::{Durability, ReadableDatabase, TableDefinition};
use std::sync::Arc;

const CACHE: usize = 2 << 30;
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

type Pairs = Vec<(Box<[u8]>, Box<[u8]>)>;

#[derive(Clone)]
struct Redb(Arc<redb::Database>);

impl Redb {
    fn write(
        &self,
        work: impl FnOnce(&mut redb::Table<'_, &[u8], &[u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::Error> {
        let mut txn = self.0.begin_write()?;
        txn.set_durability(Durability::None)?;
        work(&mut txn.open_table(RECORDS)?)?;
        Ok(txn.commit()?)
    }

    fn read(&self, key: &[u8]) -> Result<Option<Box<[u8]>>, redb::Error> {
        let table = self.0.begin_read()?.open_table(RECORDS)?;
        Ok(table.get(key)?.map(|value| value.value().into()))
    }
}

impl KVMap for Redb {
    fn handle(&self) -> Box<dyn KVMapHandle> {
        Box::new(self.clone())
    }
}

impl KVMapHandle for Redb {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        must(self.write(|table| table.insert(key, value).map(drop)));
    }

    fn get(&mut self, key: &[u8]) -> Option<Box<[u8]>> {
        must(self.read(key))
    }

    fn delete(&mut self, key: &[u8]) {
        must(self.write(|table| table.remove(key).map(drop)));
    }

    fn scan(&mut self, _key: &[u8], _n: usize) -> Pairs {
        must(Err("scans are not measured"))
    }
}

fn redb(config: &Table) -> BenchKVMap {
    let mut builder = redb::Database::builder();
    let store = Redb(Arc::new(must(builder.set_cache_size(CACHE).create(path(config)))));
    must(store.write(|_| Ok(())));
    BenchKVMap::Regular(Arc::new(Box::new(store)))
}

#[derive(Clone)]
struct Fjall {
    _database: fjall::Database,
    records: fjall::Keyspace,
}

impl KVMap for Fjall {
    fn handle(&self) -> Box<dyn KVMapHandle> {
        Box::new(self.clone())
    }
}

impl KVMapHandle for Fjall {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        must(self.records.insert(key, value));
    }

    fn get(&mut self, key: &[u8]) -> Option<Box<[u8]>> {
        must(self.records.get(key)).map(|value| value[..].into())
    }

    fn delete(&mut self, key: &[u8]) {
        must(self.records.remove(key));
    }

    fn scan(&mut self, _key: &[u8], _n: usize) -> Pairs {
        must(Err("scans are not measured"))
    }
}

fn fjall(config: &Table) -> BenchKVMap {
    let builder = fjall::Database::builder(path(config)).cache_size(CACHE as u64);
    let database = must(builder.open());
    let records = must(database.keyspace("records", fjall::KeyspaceCreateOptions::default));
    BenchKVMap::Regular(Arc::new(Box::new(Fjall { _database: database, records })))
}

#[derive(Clone)]
struct Rocks(Arc<rocksdb::DB>);

impl KVMap for Rocks {
    fn handle(&self) -> Box<dyn KVMapHandle> {
        Box::new(self.clone())
    }
}

impl KVMapHandle for Rocks {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        must(self.0.put(key, value));
    }

    fn get(&mut self, key: &[u8]) -> Option<Box<[u8]>> {
        must(self.0.get(key)).map(Vec::into_boxed_slice)
    }

    fn delete(&mut self, key: &[u8]) {
        must(self.0.delete(key));
    }

    fn scan(&mut self, _key: &[u8], _n: usize) -> Pairs {
        must(Err("scans are not measured"))
    }
}

fn rocks(config: &Table) -> BenchKVMap {
    let mut blocks = rocksdb::BlockBasedOptions::default();
    blocks.set_block_cache(&rocksdb::Cache::new_lru_cache(CACHE));
    blocks.set_bloom_filter(10.0, false);
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    BenchKVMap::Regular(Arc::new(Box::new(Rocks(Arc::new(must(rocksdb::DB::open(
        &options,
        path(config),
    )))))))
}

kvbench::inventory::submit! { Registry::new("redb", redb) }
kvbench::inventory::submit! { Registry::new("fjall", fjall) }
kvbench::inventory::submit! { Registry::new("rocks", rocks) }
