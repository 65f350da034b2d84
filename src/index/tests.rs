//! The index over a log that is nothing but numbers: record `n` lies at address `n`.

use super::*;
use crate::format::ids::{Address, Lsn};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool as Flag, AtomicU8, AtomicU64 as Number, Ordering::SeqCst};

const VOID: u8 = 0;
const PUT: u8 = 1;
const TOMB: u8 = 2;

/// Records: key, LSN, kind. They are written before their address is published.
struct Log {
    keys: Vec<Number>,
    lsns: Vec<Number>,
    kinds: Vec<AtomicU8>,
    end: Number,
    clock: Number,
    hash: fn(u64) -> u64,
}

fn mixed(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn few_bits(key: u64) -> u64 {
    mixed(key) & 0x1111
}

fn constant(_: u64) -> u64 {
    0x5555_5555_5555_5555
}

impl Log {
    fn new(records: usize, hash: fn(u64) -> u64) -> Self {
        let column = || (0..=records).map(|_| Number::new(0)).collect();
        let kinds = (0..=records).map(|_| AtomicU8::new(VOID)).collect();
        let (end, clock) = (Number::new(1), Number::new(1));
        Self { keys: column(), lsns: column(), kinds, end, clock, hash }
    }

    fn append_with(&self, key: u64, kind: u8, lsn: u64) -> u64 {
        let place = self.end.fetch_add(1, SeqCst);
        self.keys[place as usize].store(key, SeqCst);
        self.lsns[place as usize].store(lsn, SeqCst);
        self.kinds[place as usize].store(kind, SeqCst);
        place
    }

    fn append(&self, key: u64, kind: u8) -> u64 {
        self.append_with(key, kind, self.clock.fetch_add(1, SeqCst))
    }

    fn key(&self, entry: Entry) -> u64 {
        self.keys[entry.address.bits() as usize].load(SeqCst)
    }

    fn lsn(&self, entry: Entry) -> u64 {
        self.lsns[entry.address.bits() as usize].load(SeqCst)
    }

    fn hash(&self, key: u64) -> KeyHash {
        KeyHash((self.hash)(key))
    }
}

struct Ask<'a> {
    log: &'a Log,
    key: u64,
}

impl Resolve for Ask<'_> {
    fn same_key(&self, entry: Entry) -> bool {
        self.log.key(entry) == self.key
    }
    fn lsn(&self, entry: Entry) -> Lsn {
        assert!(entry.tomb && self.log.kinds[entry.address.bits() as usize].load(SeqCst) == TOMB);
        Lsn::from_u64(self.log.lsn(entry))
    }
}

fn live(place: u64) -> Entry {
    Entry { address: Address::from_bits(place), tomb: false, pending: false }
}

/// Index and log as a store would use them: section 5.4 of DESIGN.md.
struct Store<const SLOTS: usize> {
    index: Index<SLOTS>,
    epoch: Epoch,
    log: Log,
}

impl<const SLOTS: usize> Store<SLOTS> {
    fn new(shape: Shape, records: usize, hash: fn(u64) -> u64) -> Self {
        Self { index: Index::new(shape), epoch: Epoch::new(), log: Log::new(records, hash) }
    }

    fn get(&self, key: u64) -> Option<Entry> {
        let guard = self.epoch.pin();
        let log = &self.log;
        self.index.get(&guard, log.hash(key), |entry| log.key(entry) == key)
    }

    fn get_live(&self, key: u64) -> Option<u64> {
        self.get(key).filter(|entry| !entry.tomb).map(|entry| entry.address.bits())
    }

    /// Publishes a put; false if it has to be appended again.
    fn publish(&self, place: u64) -> Result<bool, Exhausted> {
        let log = &self.log;
        let (key, lsn) = (log.key(live(place)), log.lsn(live(place)));
        let mut done = false;
        let ask = Ask { log, key };
        let guard = self.epoch.pin();
        self.index.update(&self.epoch, &guard, log.hash(key), &ask, |found| {
            done = !matches!(found, Found::Absent { drop_lsn } if drop_lsn.as_u64() >= lsn);
            match found {
                Found::Entry(entry) if log.lsn(entry) >= lsn => Decision::Keep,
                Found::Absent { .. } if !done => Decision::Keep,
                _ => Decision::Set(live(place)),
            }
        })?;
        Ok(done)
    }

    fn put(&self, key: u64) -> Result<u64, Exhausted> {
        loop {
            let place = self.log.append(key, PUT);
            if self.publish(place)? {
                return Ok(place);
            }
        }
    }

    fn remove(&self, key: u64) -> bool {
        let log = &self.log;
        let (guard, hash, ask) = (self.epoch.pin(), log.hash(key), Ask { log, key });
        while self.get_live(key).is_some() {
            let place = log.append(key, TOMB);
            let lsn = log.lsn(live(place));
            let pending = Entry { tomb: true, pending: true, ..live(place) };
            let (mut won, mut again) = (false, false);
            let update = self.index.update(&self.epoch, &guard, hash, &ask, |found| {
                (won, again) = match found {
                    Found::Entry(entry) if !entry.tomb => (log.lsn(entry) < lsn, true),
                    _ => (false, false),
                };
                if won { Decision::Set(pending) } else { Decision::Keep }
            });
            update.unwrap();
            if won {
                let settled = Entry { pending: false, ..pending };
                let settle = |found| match found {
                    Found::Entry(entry) if entry == pending => Decision::Set(settled),
                    _ => Decision::Keep,
                };
                self.index.update(&self.epoch, &guard, hash, &ask, settle).unwrap();
                return true;
            }
            log.kinds[place as usize].store(VOID, SeqCst);
            if !again {
                return false;
            }
        }
        false
    }

    fn rebuild(&self, key: u64) {
        let ask = Ask { log: &self.log, key };
        self.index.rebuild(&self.epoch, &self.epoch.pin(), self.log.hash(key), &ask);
    }

    /// All that a walk finds: keys and addresses.
    fn walk(&self) -> Vec<(u64, u64)> {
        let (mut walk, mut found) = (self.index.walk(), Vec::new());
        let guard = self.epoch.pin();
        while let Some((entry, moved)) = walk.next(&self.index, &guard) {
            assert!(!entry.tomb);
            let key = self.log.key(entry);
            let entry = if moved { self.get_live(key) } else { Some(entry.address.bits()) };
            found.extend(entry.map(|address| (key, address)));
        }
        found
    }

    /// What a recovery of the log would find.
    fn recovered(&self) -> HashMap<u64, u64> {
        let mut best = HashMap::<u64, (u64, u64, u8)>::new();
        for place in 1..self.log.end.load(SeqCst) {
            let kind = self.log.kinds[place as usize].load(SeqCst);
            let (key, lsn) = (self.log.key(live(place)), self.log.lsn(live(place)));
            if kind != VOID && best.get(&key).is_none_or(|&(highest, ..)| highest < lsn) {
                best.insert(key, (lsn, place, kind));
            }
        }
        let live = best.into_iter().filter(|&(_, (_, _, kind))| kind == PUT);
        live.map(|(key, (_, place, _))| (key, place)).collect()
    }

    /// The index holds exactly what a recovery would find.
    fn check(&self, keys: u64) {
        let recovered = self.recovered();
        for key in 0..keys {
            assert_eq!(self.get_live(key), recovered.get(&key).copied(), "key {key}");
        }
        let walked = self.walk();
        assert_eq!(walked.len(), recovered.len());
        assert_eq!(walked.into_iter().collect::<HashMap<_, _>>(), recovered);
    }
}

fn small() -> Shape {
    Shape { buckets: 4, split_at: 40, overflow_blocks: 4, initial_depth: 0 }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u64),
    Remove(u64),
    Rebuild(u64),
    /// Append now, publish after the next other operation.
    Late(u64),
}

fn ops(keys: u64) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => (0..keys).prop_map(Op::Put),
        4 => (0..keys).prop_map(Op::Remove),
        1 => (0..keys).prop_map(Op::Rebuild),
        1 => (0..keys).prop_map(Op::Late),
    ];
    proptest::collection::vec(op, 1..600)
}

fn run_against_the_model(ops: &[Op], hash: fn(u64) -> u64, keys: u64, shape: Shape) {
    let store = Store::<3>::new(shape, 4 * ops.len(), hash);
    let mut model = HashMap::new();
    let mut late = Vec::new();
    for &op in ops {
        match op {
            Op::Put(key) => {
                model.insert(key, store.put(key).unwrap());
            }
            Op::Remove(key) => assert_eq!(store.remove(key), model.remove(&key).is_some()),
            Op::Rebuild(key) => store.rebuild(key),
            Op::Late(key) => {
                late.push(store.log.append(key, PUT));
                continue;
            }
        }
        for place in late.drain(..) {
            let key = store.log.key(live(place));
            if !store.publish(place).unwrap() {
                model.insert(key, store.put(key).unwrap());
            } else if store.get_live(key) == Some(place) {
                model.insert(key, place);
            }
        }
        let probe = match op {
            Op::Put(key) | Op::Remove(key) | Op::Rebuild(key) | Op::Late(key) => key,
        };
        assert_eq!(store.get_live(probe), model.get(&probe).copied());
    }
    for place in late {
        store.log.kinds[place as usize].store(VOID, SeqCst);
    }
    assert_eq!(store.recovered(), model);
    store.check(keys);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_does_what_a_map_does(ops in ops(300)) {
        run_against_the_model(&ops, mixed, 300, small());
    }

    #[test]
    fn it_does_what_a_map_does_with_sixteen_hashes(ops in ops(100)) {
        run_against_the_model(&ops, few_bits, 100, small());
    }

    #[test]
    fn it_does_what_a_map_does_with_one_hash(ops in ops(60)) {
        run_against_the_model(&ops, constant, 60, small());
    }

    #[test]
    fn it_does_what_a_map_does_from_any_depth(ops in ops(200), initial_depth in 0..6u32) {
        run_against_the_model(&ops, mixed, 200, Shape { initial_depth, ..small() });
    }
}

#[test]
fn the_highest_lsn_wins_in_either_order_of_publication() {
    let store = Store::<7>::new(small(), 10, mixed);
    let (low, high) = (store.log.append(1, PUT), store.log.append(1, PUT));
    assert_eq!(store.publish(high), Ok(true));
    assert_eq!(store.publish(low), Ok(true));
    assert_eq!(store.get_live(1), Some(high));
    let (low, high) = (store.log.append(2, PUT), store.log.append(2, PUT));
    assert_eq!(store.publish(low), Ok(true));
    assert_eq!(store.publish(high), Ok(true));
    assert_eq!(store.get_live(2), Some(high));
}

#[test]
fn a_dropped_tombstone_still_stops_an_older_put() {
    let store = Store::<7>::new(small(), 100, mixed);
    let late = store.log.append(1, PUT);
    store.put(1).unwrap();
    assert!(store.remove(1));
    assert!(store.get(1).unwrap().tomb);
    assert_eq!(store.publish(late), Ok(true), "absorbed by the tombstone");
    store.rebuild(1);
    assert_eq!(store.get(1), None, "the tombstone has left");
    assert_eq!(store.publish(late), Ok(false), "it is older than what was dropped");
    // It holds through splits, in both children.
    for key in 100..160 {
        store.put(key).unwrap();
    }
    assert!(store.index.directory.made() > 1, "it has been split");
    assert_eq!(store.publish(late), Ok(false));
    store.put(1).unwrap();
    store.log.kinds[late as usize].store(VOID, SeqCst);
    store.check(200);
}

#[test]
fn a_pending_tombstone_survives_a_rebuild() {
    let store = Store::<7>::new(small(), 10, mixed);
    store.put(1).unwrap();
    let place = store.log.append(1, TOMB);
    let pending = Entry { tomb: true, pending: true, ..live(place) };
    let set = |to| {
        let ask = Ask { log: &store.log, key: 1 };
        let (guard, hash) = (store.epoch.pin(), store.log.hash(1));
        store.index.update(&store.epoch, &guard, hash, &ask, |_| Decision::Set(to)).unwrap();
    };
    set(pending);
    store.rebuild(1);
    assert_eq!(store.get(1), Some(pending));
    set(Entry { pending: false, ..pending });
    store.rebuild(1);
    assert_eq!(store.get(1), None);
}

#[test]
fn tombstones_are_kept_while_a_store_is_recovered() {
    let store = Store::<7>::new(small(), 4_000, mixed);
    store.index.set_keep_tombstones(true);
    for key in 0..500 {
        store.put(key).unwrap();
        assert!(store.remove(key));
    }
    store.rebuild(1);
    assert!((0..500).all(|key| store.get(key).unwrap().tomb));
    store.index.set_keep_tombstones(false);
    for key in 0..500 {
        store.rebuild(key);
    }
    assert!((0..500).all(|key| store.get(key).is_none()));
    store.check(500);
}

#[test]
fn removals_make_room_without_growth() {
    let store = Store::<7>::new(Shape::default(), 800_000, mixed);
    for key in 0..200_000 {
        store.put(key).unwrap();
        if key >= 1_000 {
            assert!(store.remove(key - 1_000));
        }
        if key % 1_000 == 0 {
            (0..4).for_each(|_| store.epoch.reclaim());
        }
    }
    (0..8).for_each(|_| store.epoch.reclaim());
    assert!(store.index.directory.made() == 1, "one chunk is enough for a thousand keys");
    assert!(store.index.allocated_bytes() < 40_000);
    store.check(200_000);
}

#[test]
fn equal_hashes_exhaust_a_chunk_and_removals_give_the_room_back() {
    let shape = Shape { buckets: 1, split_at: 20, overflow_blocks: 1, initial_depth: 0 };
    let store = Store::<7>::new(shape, 2_000, constant);
    let room = 7 * (1 + OVERFLOW_BLOCK as u64);
    for key in 0..room {
        store.put(key).unwrap();
    }
    assert_eq!(store.put(room), Err(Exhausted));
    assert_eq!(store.put(room), Err(Exhausted));
    store.put(3).unwrap();
    assert!((0..room).all(|key| store.get_live(key).is_some()));
    assert!(store.remove(5));
    assert!(store.put(room).is_ok());
    assert_eq!(store.put(room + 1), Err(Exhausted));
    assert_eq!(store.walk().len() as u64, room);
    let bytes = store.index.directory.made() * 8;
    assert!(bytes <= 2 << 20, "the directory has {bytes} bytes");
}

#[test]
fn a_panic_in_any_question_leaves_the_index_whole() {
    struct Panics<'a>(Ask<'a>, &'a str);
    impl Resolve for Panics<'_> {
        fn same_key(&self, entry: Entry) -> bool {
            assert!(self.1 != "same_key");
            self.0.same_key(entry)
        }
        fn lsn(&self, entry: Entry) -> Lsn {
            assert!(self.1 != "lsn");
            self.0.lsn(entry)
        }
    }
    let store = Store::<7>::new(small(), 100, mixed);
    for key in 0..20 {
        store.put(key).unwrap();
    }
    assert!(store.remove(1));
    for asked in ["same_key", "lsn", "decide"] {
        let ask = Panics(Ask { log: &store.log, key: 2 }, asked);
        let (guard, hash) = (store.epoch.pin(), store.log.hash(2));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            if asked == "lsn" {
                store.index.rebuild(&store.epoch, &guard, hash, &ask);
            }
            let decide = |_| -> Decision { panic!("decide") };
            store.index.update(&store.epoch, &guard, hash, &ask, decide)
        }));
        assert!(unwound.is_err(), "{asked}");
        assert!((0..20).all(|key| store.get_live(key).is_some() == (key != 1)));
    }
    // The chunk was left frozen; the next writer gets over it.
    for key in 0..40 {
        store.put(key).unwrap();
    }
    store.check(40);
}

#[test]
fn all_memory_is_given_back() {
    let store = Store::<3>::new(small(), 40_000, mixed);
    let meter = Arc::clone(&store.index.meter);
    for key in 0..10_000 {
        store.put(key % 5_000).unwrap();
        if key % 3 == 0 {
            store.remove(key % 5_000);
        }
    }
    assert!(meter.bytes() > 0);
    let Store { index, epoch, .. } = store;
    drop(index);
    (0..8).for_each(|_| epoch.reclaim());
    assert_eq!((meter.bytes(), epoch.pending()), (0, 0));
}

/// Bytes per key at a number of sizes while one index grows, and with the depth known beforehand.
#[test]
fn a_key_costs_at_most_fifteen_bytes() {
    let last = 1_500_000;
    let store = Store::<7>::new(Shape::default(), last as usize, mixed);
    let per_key = |store: &Store<7>, keys: u64| {
        (0..8).for_each(|_| store.epoch.reclaim());
        store.index.allocated_bytes() as f64 / keys as f64
    };
    let mut worst: f64 = 0.0;
    for key in 0..last {
        store.put(key).unwrap();
        if key >= 100_000 && key % 5_000 == 0 {
            let bytes = per_key(&store, key + 1);
            assert!(bytes <= 15.0, "{bytes} at {key}");
            worst = worst.max(bytes);
        }
    }
    println!("growing: worst {worst:.2} bytes a key, {:.2} at {last}", per_key(&store, last));
    drop(store);
    for keys in [100_000, 170_000, 180_000, 350_000, 500_000, 700_000, 1_000_000, 1_400_000] {
        let store = Store::<7>::new(Shape::for_records(keys), keys as usize, mixed);
        for key in 0..keys {
            store.put(key).unwrap();
        }
        let bytes = per_key(&store, keys);
        println!("made for {keys}: {bytes:.2} bytes a key");
        assert!(bytes <= 15.0, "{bytes} at {keys}");
    }
}

#[test]
fn threads_that_overwrite_and_remove_each_others_keys_agree_with_the_log() {
    const THREADS: u64 = 4;
    const OPS: u64 = if cfg!(debug_assertions) { 60_000 } else { 300_000 };
    for (round, (hash, keys)) in
        [(mixed as fn(u64) -> u64, 20_000), (mixed, 50), (few_bits, 400)].into_iter().enumerate()
    {
        let store = Store::<7>::new(small(), (4 * THREADS * OPS) as usize, hash);
        let (store, running) = (&store, &Flag::new(true));
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
    }
}

#[test]
fn a_walk_meets_every_lasting_key_once_while_the_index_grows_under_it() {
    const LASTING: u64 = 3_000;
    const PASSING: u64 = if cfg!(debug_assertions) { 40_000 } else { 200_000 };
    let store = Store::<3>::new(small(), 12_000_000, mixed);
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
    println!("{} walks, {} moved entries", walks.load(SeqCst), moves.load(SeqCst));
    assert!(walks.load(SeqCst) > 0);
    store.check(LASTING + PASSING);
}
