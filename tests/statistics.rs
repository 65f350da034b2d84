//! Statistics wait for nobody: a thread is stopped inside them, wherever it is just then, and
//! others go on asking.
#![cfg(test)]

#[path = "stopped/signal.rs"]
mod signal;

use signal::Victim;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use stratalog::{Compaction, Options};

const STOP: Duration = Duration::from_millis(200);
const STOPS: u64 = 20;
/// Segments that a reader holds back: what the statistics have to go through.
const RETAINED: u32 = 60;

#[test]
fn a_thread_stopped_inside_stats_stops_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().dimension(1).segment_size(1 << 20);
    let store = options.compaction(Compaction::Manual).open(dir.path().join("store")).unwrap();
    let hold_back = |n: u32| {
        store.put("a", &[1.0], n.to_le_bytes()).unwrap();
        let shared = store.get_shared("a").unwrap();
        store.put("a", &[2.0], []).unwrap();
        store.compact().unwrap();
        shared
    };
    let held: Vec<_> = (0..RETAINED).map(hold_back).collect();
    assert_eq!(store.segments().len(), held.len() + 1);
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let held_up = std::thread::scope(|scope| {
        let (store, done, calls) = (&store, &done, &calls);
        let ask = move || {
            while !done.load(SeqCst) {
                assert!(store.stats().retained_bytes > 0);
                calls.fetch_add(1, SeqCst);
            }
        };
        let victim = Victim::spawn(scope, ask);
        scope.spawn(ask);
        let is_held_up = |n: &u64| {
            std::thread::sleep(Duration::from_micros(1_000 + 173 * n));
            victim.stop(STOP);
            // Of the other one; what it has begun may be under way.
            let before = calls.load(SeqCst);
            std::thread::sleep(STOP / 4 * 3);
            let went_on = calls.load(SeqCst) > before + 1 || !victim.is_stopped();
            victim.wait();
            !went_on
        };
        let held_up = (0..STOPS).filter(is_held_up).count();
        done.store(true, SeqCst);
        held_up
    });
    // One may have had no processor.
    assert!(held_up <= 1, "{held_up} of {STOPS} stops held up the other thread");
}
