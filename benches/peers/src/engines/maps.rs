//! Maps in memory, a boxed value each: what is possible without a disk and without checksums.

use super::{Engine, Failure, Mode, missing};
use crate::data::{Id, See, Values, id, split};
use std::ops::Range;
use std::path::Path;

type Joined = Box<[u8]>;

/// DashMap, its default hasher.
pub struct Dash(dashmap::DashMap<Id, Joined>);

impl Engine for Dash {
    const NAME: &'static str = "DashMap (RAM)";
    const KEEPS: &'static str = "nothing";
    const ON_DISK: bool = false;

    fn open(_dir: &Path, _mode: Mode, _records: u64) -> Result<Self, Failure> {
        Ok(Self(dashmap::DashMap::new()))
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.0.insert(id(n), values.of(n).joined[..].into());
        Ok(())
    }

    fn put_many(&self, values: &Values, mut records: Range<u64>) -> Result<(), Failure> {
        records.try_for_each(|n| self.put(values, n))
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let value = self.0.get(&id(n)).ok_or_else(|| missing(n))?;
        let (embedding, content) = split(&value);
        Ok(see.see(embedding, content))
    }

    /// Its guards are those of one record each.
    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        records.iter().try_fold(0.0, |sum, &n| Ok(sum + self.get(n.into(), see)?))
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut records, mut sum) = (0, 0.0);
        for entry in &self.0 {
            let (embedding, content) = split(entry.value());
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// scc's `HashMap`, its default hasher.
pub struct Scc(scc::HashMap<Id, Joined>);

impl Engine for Scc {
    const NAME: &'static str = "scc (RAM)";
    const KEEPS: &'static str = "nothing";
    const ON_DISK: bool = false;

    fn open(_dir: &Path, _mode: Mode, _records: u64) -> Result<Self, Failure> {
        Ok(Self(scc::HashMap::new()))
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        drop(self.0.upsert_sync(id(n), values.of(n).joined[..].into()));
        Ok(())
    }

    fn put_many(&self, values: &Values, mut records: Range<u64>) -> Result<(), Failure> {
        records.try_for_each(|n| self.put(values, n))
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let seen = self.0.read_sync(&id(n), |_, value| {
            let (embedding, content) = split(value);
            see.see(embedding, content)
        });
        seen.ok_or_else(|| missing(n))
    }

    /// Its guards are those of one record each.
    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        records.iter().try_fold(0.0, |sum, &n| Ok(sum + self.get(n.into(), see)?))
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut records, mut sum) = (0, 0.0);
        self.0.iter_sync(|_, value| {
            let (embedding, content) = split(value);
            records += 1;
            sum += see.see(embedding, content);
            true
        });
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// papaya, its default hasher.
pub struct Papaya(papaya::HashMap<Id, Joined>);

impl Engine for Papaya {
    const NAME: &'static str = "papaya (RAM)";
    const KEEPS: &'static str = "nothing";
    const ON_DISK: bool = false;

    fn open(_dir: &Path, _mode: Mode, _records: u64) -> Result<Self, Failure> {
        Ok(Self(papaya::HashMap::new()))
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.0.pin().insert(id(n), values.of(n).joined[..].into());
        Ok(())
    }

    fn put_many(&self, values: &Values, records: Range<u64>) -> Result<(), Failure> {
        let map = self.0.pin();
        for n in records {
            map.insert(id(n), values.of(n).joined[..].into());
        }
        Ok(())
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let map = self.0.pin();
        let (embedding, content) = split(map.get(&id(n)).ok_or_else(|| missing(n))?);
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        let (map, mut sum) = (self.0.pin(), 0.0);
        for &n in records {
            let value = map.get(&id(n.into())).ok_or_else(|| missing(n.into()))?;
            let (embedding, content) = split(value);
            sum += see.see(embedding, content);
        }
        Ok(sum)
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut records, mut sum) = (0, 0.0);
        for value in self.0.pin().values() {
            let (embedding, content) = split(value);
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(())
    }
}
