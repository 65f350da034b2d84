//! fjall: a cache of 2 GiB, no compression (not compiled in), the rest as it comes. Buffered: the
//! journal is in the page cache; durable: `PersistMode::SyncAll` after each put.

use super::{CACHE, Engine, Failure, Mode, missing};
use crate::data::{See, Values, id, split};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use std::ops::Range;
use std::path::Path;

/// One keyspace of one database.
pub struct Fjall {
    database: Database,
    keyspace: Keyspace,
    mode: Mode,
}

impl Fjall {
    fn acknowledge(&self) -> Result<(), Failure> {
        if self.mode == Mode::Synced {
            self.database.persist(PersistMode::SyncAll)?;
        }
        Ok(())
    }
}

impl Engine for Fjall {
    const NAME: &'static str = "fjall";
    const KEEPS: &'static str = "kill: all; power loss: what was written back";

    fn open(dir: &Path, mode: Mode, _records: u64) -> Result<Self, Failure> {
        let database = Database::builder(dir.join("fjall")).cache_size(CACHE as u64).open()?;
        let keyspace = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Self { database, keyspace, mode })
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.keyspace.insert(id(n), &values.of(n).joined[..])?;
        self.acknowledge()
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        let mut batch = self.database.batch();
        for n in records {
            batch.insert(&self.keyspace, id(n), &values.of(n).joined[..]);
        }
        batch.commit()?;
        self.acknowledge()
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let value = self.keyspace.get(id(n))?.ok_or_else(|| missing(n))?;
        let (embedding, content) = split(&value);
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        let (snapshot, mut sum) = (self.database.snapshot(), 0.0);
        for &n in records {
            let value = snapshot.get(&self.keyspace, id(n.into()))?;
            let value = value.ok_or_else(|| missing(n.into()))?;
            let (embedding, content) = split(&value);
            sum += see.see(embedding, content);
        }
        Ok(sum)
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut records, mut sum) = (0, 0.0);
        for entry in self.keyspace.iter() {
            let value = entry.value()?;
            let (embedding, content) = split(&value);
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        self.database.persist(PersistMode::SyncAll)?;
        Ok(self.keyspace.rotate_memtable_and_wait()?)
    }
}
