//! sled 0.34: a cache of 2 GiB, no compression, a flush every 500 ms (its default). Durable: a
//! `flush` after each put.

use super::{CACHE, Engine, Failure, Mode, missing};
use crate::data::{See, Values, id, split};
use sled::{Batch, Db};
use std::ops::Range;
use std::path::Path;

/// The default tree of one database.
pub struct Sled {
    database: Db,
    mode: Mode,
}

impl Sled {
    fn acknowledge(&self) -> Result<(), Failure> {
        if self.mode == Mode::Synced {
            self.database.flush()?;
        }
        Ok(())
    }
}

impl Engine for Sled {
    const NAME: &'static str = "sled";
    const KEEPS: &'static str = "kill and power loss: all but the last half second";

    fn open(dir: &Path, mode: Mode, _records: u64) -> Result<Self, Failure> {
        let config = sled::Config::new().path(dir.join("sled")).cache_capacity(CACHE as u64);
        Ok(Self { database: config.open()?, mode })
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.database.insert(id(n), &values.of(n).joined[..])?;
        self.acknowledge()
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        let mut batch = Batch::default();
        for n in records {
            batch.insert(&id(n), &values.of(n).joined[..]);
        }
        self.database.apply_batch(batch)?;
        self.acknowledge()
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let value = self.database.get(id(n))?.ok_or_else(|| missing(n))?;
        let (embedding, content) = split(&value);
        Ok(see.see(embedding, content))
    }

    /// It has no snapshots.
    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        records.iter().try_fold(0.0, |sum, &n| Ok(sum + self.get(n.into(), see)?))
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut records, mut sum) = (0, 0.0);
        for entry in self.database.iter() {
            let value = entry?.1;
            let (embedding, content) = split(&value);
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        self.database.flush()?;
        Ok(())
    }
}
