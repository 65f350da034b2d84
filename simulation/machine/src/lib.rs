//! A simulated machine: an operating system in which a seed decides everything.
//!
//! The modules have the names and shapes of std, rustix and memmap2, as far as stratalog uses them,
//! so that its sources build against either. [`Machine`] is the harness's side: it starts
//! processes, decides who runs, loses power, and shows what is on the disk.
//!
//! - A *task* is a coroutine. All tasks run on one thread of the real machine, one
//!   at a time, and switch only at *points*: calls of this crate. So what lies between two points
//!   is one step, and memory is sequentially consistent.
//! - The *clock* stands still while a task runs. It advances a little with each point, and to the
//!   next deadline when nobody can run.
//! - The *disk* ([`disk`]) has for each file the bytes that processes see and the bytes that are on
//!   the device. Stores to a mapping change the first; flushes, and write-back at any moment, carry
//!   them to the second; power loss keeps any mixture.
//! - A *process* is killed by not running its tasks any more. Nothing of it is dropped.

mod atomics;
pub mod disk;
pub mod fs;
pub mod limits;
mod machine;
pub mod map;
pub mod process;
mod scheduler;
pub mod sync;
pub mod thread;
pub mod time;

pub use disk::Disk;
pub use machine::{Faults, Machine, Settings, count, note};
pub use scheduler::{Grain, Outcome, Point, Policy, ProcessId};
