//! stratalog: the defaults, but for `Durability::Synced` where puts are to be durable.

use super::{Engine, Failure, Mode, missing};
use crate::data::{DIMENSION, See, Values, id};
use std::ops::Range;
use std::path::Path;
use stratalog::{Batch, Durability, Options, Record, Store};

/// The engine under test.
pub struct Stratalog(Store);

fn look(record: &Record<'_>, see: &impl See) -> f32 {
    see.see(bytemuck::cast_slice(record.embedding()), record.content())
}

impl Engine for Stratalog {
    const NAME: &'static str = "stratalog";
    const KEEPS: &'static str = "kill: all; power loss: all but the last second";

    fn open(dir: &Path, mode: Mode, _records: u64) -> Result<Self, Failure> {
        let durability = match mode {
            Mode::Buffered => Durability::Buffered,
            Mode::Synced => Durability::Synced,
        };
        let options = Options::new().dimension(DIMENSION).durability(durability);
        Ok(Self(options.open(dir.join("store"))?))
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        let value = values.of(n);
        self.0.put(id(n), &value.embedding, &value.content)?;
        Ok(())
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        let mut batch = Batch::new();
        for n in records {
            let value = values.of(n);
            batch.put(id(n), &value.embedding, &value.content);
        }
        self.0.write(batch)?;
        Ok(())
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let pinned = self.0.pin();
        let record = pinned.get(id(n))?.ok_or_else(|| missing(n))?;
        Ok(look(&record, see))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        let (pinned, mut sum) = (self.0.pin(), 0.0);
        for &n in records {
            let record = pinned.get(id(n.into()))?.ok_or_else(|| missing(n.into()))?;
            sum += look(&record, see);
        }
        Ok(sum)
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (pinned, mut records, mut sum) = (self.0.pin(), 0, 0.0);
        for record in pinned.iter() {
            records += 1;
            sum += look(&record?, see);
        }
        Ok((records, sum))
    }

    fn settle(&self) -> Result<(), Failure> {
        Ok(self.0.sync()?)
    }
}
