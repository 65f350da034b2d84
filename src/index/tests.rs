//! The index over a log that is nothing but numbers: record `n` lies at address `n`.

mod threads;

use super::*;
use crate::concurrency::epoch::Epoch;
use crate::format::ids::{Address, Lsn};
use proptest::prelude::*;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64 as Number, Ordering::SeqCst};

const VOID: u8 = 0;
const PUT: u8 = 1;
const TOMB: u8 = 2;

/// Records: key, LSN, kind. They are written before their address is published.
struct FakeLog {
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

impl FakeLog {
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
    log: &'a FakeLog,
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
struct ModelStore<const SLOTS: usize> {
    index: Index<SLOTS>,
    epoch: Epoch,
    log: FakeLog,
}

impl<const SLOTS: usize> ModelStore<SLOTS> {
    fn new(shape: Shape, records: usize, hash: fn(u64) -> u64) -> Self {
        Self { index: Index::new(shape), epoch: Epoch::new(), log: FakeLog::new(records, hash) }
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
        self.index.update(&guard, log.hash(key), &ask, |found| {
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
            let update = self.index.update(&guard, hash, &ask, |found| {
                (won, again) = match found {
                    Found::Entry(entry) if !entry.tomb => (log.lsn(entry) < lsn, true),
                    _ => (false, false),
                };
                if won { Decision::Set(pending) } else { Decision::Keep }
            });
            assert!(update.is_ok());
            if won {
                let done = Entry { pending: false, ..pending };
                let decide = |found| match found {
                    Found::Entry(entry) if entry == pending => Decision::Set(done),
                    _ => Decision::Keep,
                };
                let updated = self.index.update(&guard, hash, &ask, decide);
                assert!(updated.is_ok());
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
        self.index.rebuild(&self.epoch.pin(), self.log.hash(key), &ask);
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

fn check_against_a_map(
    ops: &[Op],
    hash: fn(u64) -> u64,
    keys: u64,
    shape: Shape,
) -> Result<(), Exhausted> {
    let store = ModelStore::<3>::new(shape, 4 * ops.len(), hash);
    let mut model = HashMap::new();
    let mut late = Vec::new();
    for &op in ops {
        match op {
            Op::Put(key) => {
                model.insert(key, store.put(key)?);
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
            if !store.publish(place)? {
                model.insert(key, store.put(key)?);
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
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_does_what_a_map_does(ops in ops(300)) {
        check_against_a_map(&ops, mixed, 300, small()).unwrap();
    }

    #[test]
    fn it_does_what_a_map_does_with_sixteen_hashes(ops in ops(100)) {
        check_against_a_map(&ops, few_bits, 100, small()).unwrap();
    }

    #[test]
    fn it_does_what_a_map_does_with_one_hash(ops in ops(60)) {
        check_against_a_map(&ops, constant, 60, small()).unwrap();
    }

    #[test]
    fn it_does_what_a_map_does_from_any_depth(ops in ops(200), initial_depth in 0..6u32) {
        check_against_a_map(&ops, mixed, 200, Shape { initial_depth, ..small() }).unwrap();
    }
}

#[test]
fn the_highest_lsn_wins_in_either_order_of_publication() {
    let store = ModelStore::<7>::new(small(), 10, mixed);
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
    let store = ModelStore::<7>::new(small(), 100, mixed);
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
    let store = ModelStore::<7>::new(small(), 10, mixed);
    store.put(1).unwrap();
    let place = store.log.append(1, TOMB);
    let pending = Entry { tomb: true, pending: true, ..live(place) };
    let set = |to| {
        let ask = Ask { log: &store.log, key: 1 };
        let (guard, hash) = (store.epoch.pin(), store.log.hash(1));
        store.index.update(&guard, hash, &ask, |_| Decision::Set(to)).unwrap();
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
    let store = ModelStore::<7>::new(small(), 4_000, mixed);
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
    let store = ModelStore::<7>::new(Shape::default(), 800_000, mixed);
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
    let store = ModelStore::<7>::new(shape, 2_000, constant);
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
    let store = ModelStore::<7>::new(small(), 100, mixed);
    for key in 0..20 {
        store.put(key).unwrap();
    }
    assert!(store.remove(1));
    for asked in ["same_key", "lsn", "decide"] {
        let ask = Panics(Ask { log: &store.log, key: 2 }, asked);
        let (guard, hash) = (store.epoch.pin(), store.log.hash(2));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            if asked == "lsn" {
                store.index.rebuild(&guard, hash, &ask);
            }
            let decide = |_| -> Decision { panic!("decide") };
            store.index.update(&guard, hash, &ask, decide)
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

/// Drops a store and sees that every chunk was dropped, once.
fn check_memory<const SLOTS: usize>(store: ModelStore<SLOTS>) {
    let ModelStore { index, epoch, .. } = store;
    let meter = Arc::clone(&index.meter);
    assert!(meter.bytes() > 0);
    drop(index);
    (0..8).for_each(|_| epoch.reclaim());
    assert_eq!((meter.bytes(), epoch.pending()), (0, 0));
    assert_eq!(Arc::strong_count(&meter), 1);
}

#[test]
fn all_memory_is_given_back() {
    let store = ModelStore::<3>::new(small(), 40_000, mixed);
    for key in 0..10_000 {
        store.put(key % 5_000).unwrap();
        if key % 3 == 0 {
            store.remove(key % 5_000);
        }
    }
    check_memory(store);
}

/// Bytes per key at a number of sizes while one index grows, and with the depth known beforehand.
#[test]
fn a_key_costs_at_most_fifteen_bytes() {
    let last = 1_500_000;
    let store = ModelStore::<7>::new(Shape::default(), last as usize, mixed);
    let per_key = |store: &ModelStore<7>, keys: u64| {
        (0..8).for_each(|_| store.epoch.reclaim());
        store.index.allocated_bytes() as f64 / keys as f64
    };
    for key in 0..last {
        store.put(key).unwrap();
        if key >= 100_000 && key % 5_000 == 0 {
            let bytes = per_key(&store, key + 1);
            assert!(bytes <= 15.0, "{bytes} at {key}");
        }
    }
    drop(store);
    for keys in [100_000, 170_000, 180_000, 350_000, 500_000, 700_000, 1_000_000, 1_400_000] {
        let store = ModelStore::<7>::new(Shape::for_records(keys), keys as usize, mixed);
        for key in 0..keys {
            store.put(key).unwrap();
        }
        let bytes = per_key(&store, keys);
        assert!(bytes <= 15.0, "{bytes} at {keys}");
    }
}

/// The thread whose insert reaches the limit of a chunk may stop before it replaces the chunk.
#[test]
fn a_chunk_is_split_although_the_thread_that_reached_its_limit_has_stopped() {
    let shape = Shape { buckets: 64, split_at: 64, overflow_blocks: 64, initial_depth: 0 };
    let store = ModelStore::<7>::new(shape, 1_000, mixed);
    let guard = store.epoch.pin();
    let chunk = store.index.directory.current(0, &guard);
    let limit = grow::split_limit(64, chunk.prefix(), chunk.depth());
    for key in 1..limit {
        store.put(key).unwrap();
    }
    // What that thread did: it stored its entry, and counted it.
    assert_eq!(chunk.count_used(), limit);
    let replaced = (1_000..1_100).position(|key| {
        store.put(key).unwrap();
        chunk.forward().is_some()
    });
    assert!(replaced.is_some(), "no later insert splits it");
}
