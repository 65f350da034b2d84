//! The operating system, as the engine uses it: files, mappings, the clock, the process.
//!
//! With `--cfg stratalog_simulation` the same names belong to the simulated machine of
//! `simulation/machine`, so that the simulation runs the code that ships. In every other build they
//! are the ones of std, rustix and memmap2, and cost nothing. Threads, locks and atomics are
//! switched in the same way, in `concurrency/sync.rs`.

#[cfg(not(stratalog_simulation))]
mod real;

#[cfg(not(stratalog_simulation))]
pub use real::*;
#[cfg(stratalog_simulation)]
pub use simulated_machine::{fs, limits, map, process, time};
