//! Workers that begin at one moment: as threads, or as tasks of tokio's multi-thread runtime that
//! call the store directly. Says how long each step took; asserts nothing about it.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub enum Crew {
    Threads,
    Tokio,
}

/// What one worker did, step by step, and how long each step took.
type Done<T> = Vec<(T, Duration)>;

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed())
}

impl Crew {
    /// Lets so many workers take so many steps each, and answers what each step answered, by
    /// worker. A panic in a worker fails the caller.
    pub fn run<T, F>(self, workers: usize, steps: usize, work: F) -> Vec<Vec<T>>
    where
        T: Send + 'static,
        F: Fn(usize, usize) -> T + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let begin = Instant::now();
        let done = match self {
            Self::Threads => on_threads(workers, steps, &work),
            Self::Tokio => on_tokio(workers, steps, &work),
        };
        self.tell(begin.elapsed(), &done);
        let results = |worker: Done<T>| worker.into_iter().map(|(result, _)| result).collect();
        done.into_iter().map(results).collect()
    }

    fn tell<T>(self, whole: Duration, done: &[Done<T>]) {
        let mut times: Vec<Duration> = done.iter().flatten().map(|&(_, time)| time).collect();
        times.sort_unstable();
        let Some(&max) = times.last() else { return };
        let at = |per_cent: usize| times[times.len() * per_cent / 100];
        println!(
            "  {self:?}: {} steps of {} workers in {whole:.1?}: \
             p50 {:.1?}, p99 {:.1?}, max {max:.1?}",
            times.len(),
            done.len(),
            at(50),
            at(99),
        );
    }
}

fn on_threads<T, F>(workers: usize, steps: usize, work: &Arc<F>) -> Vec<Done<T>>
where
    T: Send + 'static,
    F: Fn(usize, usize) -> T + Send + Sync + 'static,
{
    let barrier = Arc::new(Barrier::new(workers));
    let begin = |worker| {
        let (barrier, work) = (Arc::clone(&barrier), Arc::clone(work));
        std::thread::spawn(move || {
            barrier.wait();
            (0..steps).map(|step| timed(|| work(worker, step))).collect()
        })
    };
    let threads: Vec<_> = (0..workers).map(begin).collect();
    threads.into_iter().map(|thread| thread.join().expect("a worker")).collect()
}

fn on_tokio<T, F>(workers: usize, steps: usize, work: &Arc<F>) -> Vec<Done<T>>
where
    T: Send + 'static,
    F: Fn(usize, usize) -> T + Send + Sync + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(workers));
    let begin = |worker| {
        let (barrier, work) = (Arc::clone(&barrier), Arc::clone(work));
        async move {
            barrier.wait().await;
            let mut done = Vec::with_capacity(steps);
            for step in 0..steps {
                done.push(timed(|| work(worker, step)));
                tokio::task::yield_now().await;
            }
            done
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build();
    runtime.expect("a runtime").block_on(async {
        let tasks: Vec<_> = (0..workers).map(|worker| tokio::spawn(begin(worker))).collect();
        let mut done = Vec::with_capacity(workers);
        for task in tasks {
            done.push(task.await.expect("a worker"));
        }
        done
    })
}
