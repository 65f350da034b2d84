//! No engine: what making ids, asking and touching cost by themselves, in every figure of a get.

use super::{Engine, Failure, Mode};
use crate::data::{See, Values, id, split};
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;

/// Answers with one of the values that are handed over, which stay in a core's cache.
pub struct Driver(Values);

impl Engine for Driver {
    const NAME: &'static str = "driver alone";
    const KEEPS: &'static str = "";
    const ON_DISK: bool = false;

    fn open(_dir: &Path, _mode: Mode, _records: u64) -> Result<Self, Failure> {
        Ok(Self(Values::new()))
    }

    fn put(&self, values: &Values, n: u64) -> Result<(), Failure> {
        black_box((id(n), values.of(n)));
        Ok(())
    }

    fn put_many(&self, values: &Values, mut records: Range<u64>) -> Result<(), Failure> {
        records.try_for_each(|n| self.put(values, n))
    }

    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure> {
        black_box(id(n));
        let (embedding, content) = split(black_box(&self.0.of(n).joined));
        Ok(see.see(embedding, content))
    }

    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure> {
        records.iter().try_fold(0.0, |sum, &n| Ok(sum + self.get(n.into(), see)?))
    }

    fn scan(&self, _see: &impl See) -> Result<(u64, f32), Failure> {
        Ok((0, 0.0))
    }

    fn quiesce(&self) -> Result<(), Failure> {
        Ok(())
    }
}
