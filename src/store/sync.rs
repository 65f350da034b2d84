//! Surviving power loss: waiting for it, in a thread or in a task.

use super::Store;
use super::owner::OwnerProcess;
use crate::concurrency::sync::unmodelled::Arc;
use crate::durability::Flusher;
use crate::error::Error;
use crate::format::ids::Lsn;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

impl Store {
    /// Makes all that returned before this call survive power loss. Waits for the device, together
    /// with everybody else who does.
    ///
    /// # Errors
    ///
    /// [`Error::FlushFailed`]: the device refused. From then on writes are refused until the store
    /// is opened again, because the kernel may have dropped what it could not write.
    /// [`Error::ReadOnly`], [`Error::Forked`].
    pub fn sync(&self) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.owner.check()?;
        self.core.flusher.sync(self.engine())
    }

    /// Waits until the write with this LSN, and every earlier one, survives power loss. Concurrent
    /// waiters share a flush.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// let lsn = store.put("a", &[1.0], "kept")?;
    /// store.wait_durable(lsn)?;
    /// assert!(store.durable_lsn() >= lsn);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownLsn`]: this store never gave the LSN out. [`Error::FlushFailed`], as for
    /// [`sync`](Store::sync). [`Error::ReadOnly`], [`Error::Forked`].
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), Error> {
        self.check_given(lsn)?;
        self.core.flusher.wait(self.engine(), lsn)
    }

    /// Returns [`wait_durable`](Store::wait_durable) as a future, for any runtime: a background
    /// thread flushes, the task only waits. The future borrows nothing, may be dropped at any time,
    /// and may be awaited after the store was closed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = stratalog::Options::new().dimension(1).open(dir.path().join("s"))?;
    /// let lsn = store.put("a", &[1.0], "kept")?;
    /// store.wait_durable_async(lsn).await?;
    /// assert!(store.durable_lsn() >= lsn);
    /// # Ok(()) }
    /// ```
    pub fn wait_durable_async(
        &self,
        lsn: Lsn,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let refused = self.check_given(lsn).err();
        let (flusher, owner) = (Arc::clone(&self.core.flusher), Arc::clone(&self.owner));
        WaitDurable { flusher, owner, lsn, refused, waker: None }
    }

    /// Returns the LSN up to which everything written, itself included, survives power loss.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.core.flusher.durable()
    }

    fn check_given(&self, lsn: Lsn) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.owner.check()?;
        let guard = self.engine().epoch().pin();
        if self.engine().log().was_allocated(&guard, lsn) {
            Ok(())
        } else {
            Err(Error::UnknownLsn(lsn))
        }
    }
}

/// See [`Store::wait_durable_async`].
struct WaitDurable {
    flusher: Arc<Flusher>,
    owner: Arc<OwnerProcess>,
    lsn: Lsn,
    refused: Option<Error>,
    waker: Option<u64>,
}

impl Future for WaitDurable {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.refused.take().or_else(|| this.owner.check().err()) {
            Some(error) => Poll::Ready(Err(error)),
            None => this.flusher.group().poll(this.lsn, context, &mut this.waker),
        }
    }
}

impl Drop for WaitDurable {
    fn drop(&mut self) {
        // In a child process nobody will be woken, and a thread of the parent may have held the
        // lock at the fork.
        if let Some(waker) = self.waker
            && self.owner.is_current()
        {
            self.flusher.group().unregister(waker);
        }
    }
}
