//! Many threads on one index.

use super::*;
use std::collections::HashSet;
use std::sync::atomic::AtomicBool as Flag;

#[test]
fn threads_that_overwrite_and_remove_each_others_keys_agree_with_the_log() {
    const THREADS: u64 = 4;
    const OPS: u64 = if cfg!(debug_assertions) { 60_000 } else { 300_000 };
    for (round, (hash, keys)) in
        [(mixed as fn(u64) -> u64, 20_000), (mixed, 50), (few_bits, 400)].into_iter().enumerate()
    {
        let whole = ModelStore::<7>::new(small(), (4 * THREADS * OPS) as usize, hash);
        let (store, running) = (&whole, &Flag::new(true));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while running.load(SeqCst) {
                    store.epoch.reclaim();
                    std::thread::yield_now();
                }
            });
            scope.spawn(|| {
                // What one reader sees of a key never gets older.
                let mut seen = vec![0; keys as usize];
                let mut at = 0;
                while running.load(SeqCst) {
                    at = (at + 1) % keys;
                    if let Some(entry) = store.get(at) {
                        assert_eq!(store.log.key(entry), at);
                        let lsn = store.log.lsn(entry);
                        assert!(lsn >= seen[at as usize]);
                        seen[at as usize] = lsn;
                    }
                }
            });
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        for op in 0..OPS {
                            let dice = mixed(round as u64 * 1_000_003 + thread * OPS + op);
                            let key = (dice >> 8) % keys;
                            match dice % 16 {
                                0..9 => assert!(store.put(key).is_ok()),
                                9..15 => {
                                    store.remove(key);
                                }
                                _ => {
                                    let place = store.log.append(key, PUT);
                                    std::thread::yield_now();
                                    if !store.publish(place).unwrap() {
                                        store.put(key).unwrap();
                                    }
                                }
                            }
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            running.store(false, SeqCst);
        });
        store.check(keys);
        check_memory(whole);
    }
}

#[test]
fn a_walk_meets_every_lasting_key_once_while_the_index_grows_under_it() {
    const LASTING: u64 = 3_000;
    const PASSING: u64 = if cfg!(debug_assertions) { 40_000 } else { 200_000 };
    let store = ModelStore::<3>::new(small(), 12_000_000, mixed);
    for key in 0..LASTING {
        store.put(key).unwrap();
    }
    let (store, running) = (&store, &Flag::new(true));
    let (walks, moves) = (&Number::new(0), &Number::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                while running.load(SeqCst) {
                    let (mut walk, mut guard) = (store.index.walk(), store.epoch.pin());
                    let mut met = HashSet::new();
                    while let Some((entry, moved)) = walk.next(&store.index, &guard) {
                        let key = store.log.key(entry);
                        assert!(met.insert(key), "{key} twice");
                        if moved {
                            moves.fetch_add(1, SeqCst);
                            assert!(store.get_live(key).is_some() || key >= LASTING);
                        }
                        if walk.is_at_rest() {
                            guard = store.epoch.pin();
                        }
                    }
                    let lasting = met.iter().filter(|&&key| key < LASTING).count() as u64;
                    assert_eq!(lasting, LASTING);
                    walks.fetch_add(1, SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while running.load(SeqCst) {
                store.epoch.reclaim();
                std::thread::yield_now();
            }
        });
        let writer = scope.spawn(|| {
            for key in LASTING..LASTING + PASSING {
                store.put(key).unwrap();
                store.put(key % LASTING).unwrap();
                if key % 2 == 0 {
                    assert!(store.remove(key));
                }
            }
        });
        writer.join().unwrap();
        running.store(false, SeqCst);
    });
    assert!(walks.load(SeqCst) > 0);
    store.check(LASTING + PASSING);
}
