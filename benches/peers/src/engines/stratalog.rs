//! stratalog: the defaults, but for `Durability::Synced` where puts are to be durable.

use super::{Engine, Failure, Mode, missing};
use crate::data::{DIMENSION, See, Values, id};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use stratalog::{Batch, Durability, Options, Record, Store};

/// So long at most is waited for a segment that is prepared, and then for its pages.
const PREPARED: Duration = Duration::from_secs(1);
const PAGES: Duration = Duration::from_secs(10);
/// Pages that did not become more for so long are all there.
const STEADY: Duration = Duration::from_millis(300);

/// The engine under test.
pub struct Stratalog(Store);

/// Kilobytes of files that are in this process's page table.
fn mapped() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssFile:"));
    Ok(line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no RssFile")?.trim().parse()?)
}

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

    /// A segment ahead, on disk and in memory. Not for ever: near the end of one there is none.
    fn prepare(&self) -> Result<(), Failure> {
        let begin = Instant::now();
        let ahead = || {
            let stats = self.0.stats();
            stats.disk_bytes > stats.segments * self.0.segment_size()
        };
        while !ahead() && begin.elapsed() < PREPARED {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its pages are made after its file. `put prepared faults` shows whether they were.
        let (begin, mut pages) = (Instant::now(), mapped()?);
        while begin.elapsed() < PAGES {
            std::thread::sleep(STEADY);
            let before = std::mem::replace(&mut pages, mapped()?);
            if before == pages {
                break;
            }
        }
        Ok(())
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

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(self.0.sync()?)
    }
}
