//! Closing, in the process that opened the store and in its children.

use super::Store;
use crate::concurrency::sync::unmodelled::Arc;
use crate::error::Error;

impl Store {
    /// Syncs the store, notes on disk that everything is durable, and closes it. Dropping the store
    /// does the same and ignores errors.
    ///
    /// # Errors
    ///
    /// [`Error::FlushFailed`]: what was not durable before may be lost at a power cut; it is still
    /// there after anything less. [`Error::Forked`]: the process inherited the store. Its copy is
    /// closed; the store itself stays open, and locked, in the process that opened it.
    pub fn close(mut self) -> Result<(), Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        if self.read_only {
            return Ok(());
        }
        if let Err(forked) = self.owner.check() {
            self.leave_to_parent();
            return Err(forked);
        }
        // Joins the threads; a preallocated segment is discarded.
        self.background = None;
        let closed = self.core.flusher.close(self.engine());
        self.lock = None;
        closed
    }
}

impl Store {
    /// Closes what a child process has inherited: flushes nothing, removes no file and unlocks
    /// nothing. The threads exist in the parent only, so there is none to stop or to join.
    fn leave_to_parent(&mut self) {
        std::mem::forget(self.background.take());
        // What the threads share is never dropped here: they hold counts, which nobody releases.
        std::mem::forget(Arc::clone(&self.core));
        if let Some(lock) = self.lock.take() {
            lock.leave_to_parent();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // `close` is there for who wants to know.
        drop(self.finish());
    }
}
