//! Wakes the background threads without waiting for any of them.

use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{AtomicU64, Mutex, Ordering, thread};
use crate::os::time::Instant;
use std::time::Duration;

/// Wakes the background threads. A writer only adds to a counter and unparks them.
#[derive(Debug, Default)]
pub struct Notifier {
    notified: AtomicU64,
    threads: Mutex<Vec<thread::Thread>>,
}

impl Notifier {
    /// Names a thread to wake.
    pub fn add_thread(&self, thread: thread::Thread) {
        lock(&self.threads).push(thread);
    }

    /// Wakes them; never waits: if a name is being set just now, the thread is awake anyway.
    pub fn notify(&self) {
        // Release: pairs with the Acquire in `count`.
        self.notified.fetch_add(1, Ordering::Release);
        if let Ok(threads) = self.threads.try_lock() {
            for thread in threads.iter() {
                thread.unpark();
            }
        }
    }

    /// How often it was notified.
    pub fn count(&self) -> u64 {
        // Acquire: pairs with the Release in `notify`.
        self.notified.load(Ordering::Acquire)
    }

    /// Waits for the next notification, or until the time is over.
    pub fn wait(&self, seen: u64, at_most: Duration) {
        let began = Instant::now();
        // The end of a scoped thread wakes who has made it, too, even if he is not waiting yet.
        while self.count() == seen
            && let Some(left) = at_most.checked_sub(began.elapsed())
            && !left.is_zero()
        {
            thread::park_timeout(left);
        }
    }
}
