//! RocksDB: a block cache of 2 GiB, bloom filters of 10 bits, no compression (not compiled in), the
//! rest as it comes. Buffered: the log is in the page cache; durable: `WriteOptions::sync`.

use super::{CACHE, Engine, Failure, Mode, missing};
use crate::data::{See, Values, id, split};
use rocksdb::{BlockBasedOptions, Cache, DB, Options, ReadOptions};
use rocksdb::{WriteBatch, WriteOptions};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// How values are kept.
pub trait Kind: Sync {
    const NAME: &'static str;
    /// In files of their own (`enable_blob_files`); this binding knows no cache for them.
    const BLOBS: bool;
}

/// Values beside their keys.
pub struct Plain;
/// Values in blob files.
pub struct Blob;

impl Kind for Plain {
    const NAME: &'static str = "RocksDB";
    const BLOBS: bool = false;
}

impl Kind for Blob {
    const NAME: &'static str = "RocksDB blob";
    const BLOBS: bool = true;
}

/// The default column family of one database.
pub struct Rocks<K> {
    database: DB,
    write: WriteOptions,
    kind: PhantomData<K>,
}

impl<K> Rocks<K> {
    fn count(&self, property: &str) -> Result<u64, Failure> {
        let value = self.database.property_int_value(property)?;
        value.ok_or_else(|| format!("RocksDB has no property {property}").into())
    }
}

impl<K: Kind> Engine for Rocks<K> {
    const NAME: &'static str = K::NAME;
    const KEEPS: &'static str = "kill: all; power loss: what was written back";

    fn open(dir: &Path, mode: Mode, _records: u64) -> Result<Self, Failure> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(CACHE));
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        if K::BLOBS {
            options.set_enable_blob_files(true);
        }
        let mut write = WriteOptions::default();
        write.set_sync(mode == Mode::Synced);
        Ok(Self { database: DB::open(&options, dir.join("rocks"))?, write, kind: PhantomData })
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        Ok(self.database.put_opt(id(n), &values.of(n).joined, &self.write)?)
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        let mut batch = WriteBatch::default();
        for n in records {
            batch.put(id(n), &values.of(n).joined);
        }
        Ok(self.database.write_opt(batch, &self.write)?)
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let value = self.database.get_pinned(id(n))?.ok_or_else(|| missing(n))?;
        let (embedding, content) = split(&value);
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        let (snapshot, mut sum) = (self.database.snapshot(), 0.0);
        let mut options = ReadOptions::default();
        options.set_snapshot(&snapshot);
        for &n in records {
            let value = self.database.get_pinned_opt(id(n.into()), &options)?;
            let value = value.ok_or_else(|| missing(n.into()))?;
            let (embedding, content) = split(&value);
            sum += see.see(embedding, content);
        }
        Ok(sum)
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut records, mut sum) = (0, 0.0);
        let mut entries = self.database.raw_iterator();
        entries.seek_to_first();
        while let Some(value) = entries.value() {
            let (embedding, content) = split(value);
            records += 1;
            sum += see.see(embedding, content);
            entries.next();
        }
        entries.status()?;
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        self.database.flush_wal(true)?;
        self.database.flush()?;
        while self.count("rocksdb.compaction-pending")? > 0
            || self.count("rocksdb.num-running-compactions")? > 0
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
