//! What the fuzz targets do, without a fuzzer: `tests/corpus.rs` runs the same over the kept
//! corpus.

pub mod calls;
pub mod forge;
pub mod mirror;
pub mod parsers;
pub mod script;
pub mod store;
pub mod victim;
