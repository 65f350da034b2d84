//! Bf-Tree: a buffer of 2 GiB, leaves of 16 KiB (records of this size need more than its 4 KiB), no
//! log: its crate says that recovery from one is not complete. Without one nothing is durable.

use super::{CACHE, Engine, Failure, Mode, missing};
use crate::data::{EMBEDDING, See, Values, id, split};
use bf_tree::{BfTree, Config, LeafInsertResult, LeafReadResult, ScanReturnField};
use std::ops::Range;
use std::path::Path;

/// Room for a value.
const VALUE: usize = EMBEDDING + 1024;

/// One tree.
pub struct Bf(BfTree);

impl Engine for Bf {
    const NAME: &'static str = "Bf-Tree";
    const KEEPS: &'static str = "nothing without a snapshot";
    const ON_DISK: bool = false;

    fn open(dir: &Path, _mode: Mode, _records: u64) -> Result<Self, Failure> {
        let mut config = Config::new(dir.join("records.bf"), CACHE);
        config.leaf_page_size(16_384).cb_max_record_size(4096).cb_min_record_size(64);
        BfTree::with_config(config, None).map(Self).map_err(|error| format!("{error:?}").into())
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        match self.0.insert(&id(n), &values.of(n).joined) {
            LeafInsertResult::Success => Ok(()),
            LeafInsertResult::InvalidKV(why) => Err(why.into()),
        }
    }

    fn put_many(&self, values: &Values, mut records: Range<u64>) -> Result<(), Failure> {
        records.try_for_each(|n| self.put(values, n))
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        let mut value = [0; VALUE];
        match self.0.read(&id(n), &mut value) {
            LeafReadResult::Found(len) => {
                let (embedding, content) = split(&value[..len as usize]);
                Ok(see.see(embedding, content))
            }
            _ => Err(missing(n)),
        }
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        records.iter().try_fold(0.0, |sum, &n| Ok(sum + self.get(n.into(), see)?))
    }

    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure> {
        let all = self.0.scan_with_count(&[0], usize::MAX, ScanReturnField::Value);
        let mut all = all.map_err(|error| format!("{error:?}"))?;
        let (mut records, mut sum, mut value) = (0, 0.0, [0; VALUE]);
        while let Some((_, len)) = all.next(&mut value) {
            let (embedding, content) = split(&value[..len]);
            records += 1;
            sum += see.see(embedding, content);
        }
        Ok((records, sum))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(())
    }
}
