//! FeOxDB: 2 GiB of memory, without the allocator that its default features bring. Buffered: its
//! write-behind; durable: `flush_all` after each put.

use super::{CACHE, Engine, Failure, Mode, missing};
use crate::data::{PAYLOAD, See, Values, id, split};
use feoxdb::FeoxStore;
use std::ops::Range;
use std::path::Path;

/// One store in one file.
pub struct Feox {
    store: FeoxStore,
    mode: Mode,
}

impl Engine for Feox {
    const NAME: &'static str = "FeOxDB";
    const KEEPS: &'static str = "kill and power loss: what was written behind";

    fn open(dir: &Path, mode: Mode, records: u64) -> Result<Self, Failure> {
        let file = dir.join("records.feox");
        let mut builder = FeoxStore::builder()
            .device_path(file.to_string_lossy())
            .max_memory(4 * CACHE)
            .enable_caching(true);
        if !file.exists() {
            let bytes = (1 << 30) + records * PAYLOAD * 2;
            builder = builder.file_size(bytes.next_multiple_of(1 << 20));
        }
        Ok(Self { store: builder.build()?, mode })
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        self.store.insert(&id(n), &values.of(n).joined)?;
        if self.mode == Mode::Synced {
            self.store.flush_all()?;
        }
        Ok(())
    }

    fn put_many(&self, values: &Values, mut records: Range<u64>) -> Result<(), Failure> {
        records.try_for_each(|n| self.put(values, n))
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let value = self.store.get_bytes(&id(n)).map_err(|_error| missing(n))?;
        let (embedding, content) = split(&value);
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        records.iter().try_fold(0.0, |sum, &n| Ok(sum + self.get(n.into(), see)?))
    }

    /// It has none that does not hold all records at once: a thousand at a time.
    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let (mut from, mut records, mut sum) = (vec![0], 0, 0.0);
        loop {
            let some = self.store.range_query(&from, &[0xFF; 17], 1000)?;
            for (_, value) in &some {
                let (embedding, content) = split(value);
                records += 1;
                sum += see.see(embedding, content);
            }
            let Some((last, _)) = some.last() else { return Ok((records, sum)) };
            // The next key there can be.
            from = [&last[..], &[0]].concat();
        }
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(self.store.flush_all()?)
    }
}
