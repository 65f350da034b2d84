//! redb: a cache of 2 GiB, the rest as it comes. Buffered is `Durability::None`.

use super::{CACHE, Engine, Failure, Mode, missing};
use crate::data::{See, Values, id, split};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::ops::Range;
use std::path::Path;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// One table of one database.
pub struct Redb {
    database: Database,
    durability: Durability,
}

impl Redb {
    fn write(
        &self,
        durability: Durability,
        values: &Values,
        records: Range<u64>,
    ) -> Result<(), Failure> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(durability)?;
        {
            let mut table = txn.open_table(TABLE)?;
            for n in records {
                table.insert(&id(n)[..], &values.of(n).joined[..])?;
            }
        }
        Ok(txn.commit()?)
    }
}

impl Engine for Redb {
    const NAME: &'static str = "redb";
    const KEEPS: &'static str = "kill and power loss: nothing since the last durable commit";

    fn open(dir: &Path, mode: Mode, _records: u64) -> Result<Self, Failure> {
        let database =
            Database::builder().set_cache_size(CACHE).create(dir.join("records.redb"))?;
        let durability = match mode {
            Mode::Buffered => Durability::None,
            Mode::Synced => Durability::Immediate,
        };
        let engine = Self { database, durability };
        engine.write(Durability::Immediate, &Values::new(), 0..0)?;
        Ok(engine)
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.write(self.durability, values, n..n + 1)
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        self.write(self.durability, values, records)
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let value = table.get(&id(n)[..])?.ok_or_else(|| missing(n))?;
        let (embedding, content) = split(value.value());
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        let (table, mut sum) = (self.database.begin_read()?.open_table(TABLE)?, 0.0);
        for &n in records {
            let value = table.get(&id(n.into())[..])?.ok_or_else(|| missing(n.into()))?;
            let (embedding, content) = split(value.value());
            sum += see.see(embedding, content);
        }
        Ok(sum)
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let (mut records, mut sum) = (0, 0.0);
        for entry in table.iter()? {
            let value = entry?.1;
            let (embedding, content) = split(value.value());
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        self.write(Durability::Immediate, &Values::new(), 0..0)
    }
}
