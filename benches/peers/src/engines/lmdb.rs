//! LMDB by `heed`. Buffered: WRITEMAP, MAPASYNC and NOSYNC, its fastest; durable: its defaults.

use super::{Engine, Failure, Mode, missing};
use crate::data::{EMBEDDING, See, Values, id, split};
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// One database of one environment.
pub struct Lmdb {
    env: Env,
    database: Database<Bytes, Bytes>,
}

#[expect(unsafe_code, reason = "heed leaves it to its caller that nobody else changes the file")]
fn environment(dir: &Path, mode: Mode, bytes: usize) -> Result<Env, heed::Error> {
    let mut options = EnvOpenOptions::new();
    options.map_size(bytes).max_readers(64);
    if mode == Mode::Buffered {
        let fast = EnvFlags::WRITE_MAP | EnvFlags::MAP_ASYNC | EnvFlags::NO_SYNC;
        // SAFETY: without a sync a system crash may damage the file; none outlives its round here.
        unsafe { options.flags(fast) };
    }
    // SAFETY: the directory was made for this environment and nobody else knows it.
    unsafe { options.open(dir) }
}

impl Engine for Lmdb {
    const NAME: &'static str = "LMDB";
    const KEEPS: &'static str = "kill: all; power loss: may lose the whole store";

    fn open(dir: &Path, mode: Mode, records: u64) -> Result<Self, Failure> {
        // Far more than is written: the file is sparse.
        let env = environment(dir, mode, (1 << 30) + records as usize * 3 * EMBEDDING)?;
        let mut txn = env.write_txn()?;
        let database = env.create_database(&mut txn, None)?;
        txn.commit()?;
        Ok(Self { env, database })
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.put_many(values, n..n + 1)
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        let mut txn = self.env.write_txn()?;
        for n in records {
            let bytes = &values.of(n).joined;
            let write = |space: &mut heed::ReservedSpace<'_>| space.write_all(bytes);
            self.database.put_reserved(&mut txn, &id(n), bytes.len(), write)?;
        }
        Ok(txn.commit()?)
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let txn = self.env.read_txn()?;
        let value = self.database.get(&txn, &id(n))?.ok_or_else(|| missing(n))?;
        let (embedding, content) = split(value);
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        let (txn, mut sum) = (self.env.read_txn()?, 0.0);
        for &n in records {
            let value = self.database.get(&txn, &id(n.into()))?;
            let (embedding, content) = split(value.ok_or_else(|| missing(n.into()))?);
            sum += see.see(embedding, content);
        }
        Ok(sum)
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (txn, mut records, mut sum) = (self.env.read_txn()?, 0, 0.0);
        for entry in self.database.iter(&txn)? {
            let (embedding, content) = split(entry?.1);
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(self.env.force_sync()?)
    }
}
