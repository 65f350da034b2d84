//! What every layer builds on: atomics and threads behind one door, reclamation by epochs, an array
//! that grows without moving, and the wake-up of background threads.

pub mod epoch;
pub mod growable_array;
#[cfg(not(stratalog_loom))]
pub mod notifier;
pub mod sync;
