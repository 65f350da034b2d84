//! The engines behind one face. Each file says with which settings its engine is run, and why.

mod bf;
mod driver;
mod feox;
mod fjall;
mod lmdb;
mod maps;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocks;
mod sled;
mod sqlite;
mod stratalog;

pub use self::fjall::Fjall;
pub use self::redb::Redb;
pub use self::sled::Sled;
pub use self::stratalog::Stratalog;
pub use bf::Bf;
pub use driver::Driver;
pub use feox::Feox;
pub use lmdb::Lmdb;
pub use maps::{Dash, Papaya, Scc};
#[cfg(feature = "rocksdb")]
pub use rocks::{Blob, Plain, Rocks};
pub use sqlite::Sqlite;

use crate::data::{See, Values};
use std::path::Path;

/// Any failure: a bench that cannot do its work has nothing to say.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a put promises when it returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The engine's cheapest: see each engine.
    Buffered,
    /// It survives power loss.
    Synced,
}

/// Cache of the engines that have one of their own: all records fit.
const CACHE: usize = 2 << 30;

/// A store of 768-d records, whichever.
pub trait Engine: Sized + Sync {
    /// As the tables call it.
    const NAME: &'static str;
    /// What survives after a buffered put has returned.
    const KEEPS: &'static str;
    /// Whether there is anything on disk.
    const ON_DISK: bool = true;

    /// A fresh store in an empty directory, with room for so many records.
    fn open(dir: &Path, mode: Mode, records: u64) -> Result<Self, Failure>;

    /// Returns once everything is prepared that is prepared ahead of puts.
    fn prepare(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// One record in a transaction of its own, as durable as the mode says.
    fn put(&self, values: &Values, n: u64) -> Result<(), Failure>;

    /// These records in one transaction.
    fn put_many(&self, values: &Values, records: std::ops::Range<u64>) -> Result<(), Failure>;

    /// One record, under a pin (snapshot, transaction, guard) of its own.
    fn get(&self, n: u64, see: &impl See) -> Result<f32, Failure>;

    /// Several records, under one pin where the engine has such a thing.
    fn get_many(&self, records: &[u32], see: &impl See) -> Result<f32, Failure>;

    /// Every record once, in whatever order is the engine's own; how many there were.
    fn scan(&self, see: &impl See) -> Result<(u64, f32), Failure>;

    /// Everything written so far to disk, and background work done as far as that can be asked for.
    fn quiesce(&self) -> Result<(), Failure>;
}

/// The record should be there and is not.
fn missing(n: u64) -> Failure {
    format!("record {n} is missing").into()
}
