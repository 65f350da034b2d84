//! How a model of a world and a few actors is run.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Runs a model in every way that the bound on preemptions allows (2, unless `LOOM_MAX_PREEMPTIONS`
/// says otherwise): what `make` makes, one thread for each actor, and `check` when all have ended.
///
/// All of that once for each rotation of the actors, and no actor is the main thread: see
/// `index_common::explore`.
pub fn explore<W: Send + Sync + 'static, const ACTORS: usize>(
    make: fn() -> W,
    actors: [fn(&W); ACTORS],
    check: fn(&W),
) {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    for first in 0..ACTORS {
        let mut actors = actors;
        actors.rotate_left(first);
        let executions = std::sync::Arc::clone(&count);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        builder.max_branches = builder.max_branches.max(100_000);
        builder.check(move || {
            executions.fetch_add(1, SeqCst);
            let world = std::sync::Arc::new(make());
            let threads = actors.map(|actor| {
                let world = std::sync::Arc::clone(&world);
                loom::thread::spawn(move || actor(&world))
            });
            for thread in threads {
                assert!(thread.join().is_ok());
            }
            check(&world);
        });
    }
    println!("{} executions", count.load(SeqCst));
}
