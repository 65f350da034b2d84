//! stratalog
pub(crate) mod sync;
pub(crate) mod levels;
pub(crate) mod epoch;
pub(crate) mod format;
pub use format::ids::Lsn;
