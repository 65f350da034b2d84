//! A store of the smallest kind around the index: a log that is nothing but numbers, and the rules
//! of DESIGN.md, section 5.4. Shared by the models of the index.
#![expect(dead_code, reason = "each file of models uses its part")]

use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use stratalog::internals::format::ids::{Address, Lsn};
use stratalog::internals::index::{
    Decision, Entry, Exhausted, Found, Index, KeyHash, Resolve, Shape, Walk,
};
use stratalog::internals::{Epoch, Guard};

/// Room in the log.
const RECORDS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Void,
    Put,
    Tomb,
}

/// Record `n` lies at address `n` and has LSN `n`. Its number is not given out by a modelled
/// atomic, so taking one costs no state; another thread may run directly afterwards all the same.
pub struct Log {
    /// Key and kind; 0 while not written. Relaxed throughout, so whether a record is there when
    /// the index leads to it depends on the index's orderings alone.
    records: Vec<AtomicU64>,
    /// Whether a recovery would find any tombstone [W1].
    committed: AtomicBool,
    end: AtomicUsize,
}

impl Log {
    fn new() -> Self {
        Self {
            records: (0..RECORDS).map(|_| AtomicU64::new(0)).collect(),
            committed: AtomicBool::new(false),
            end: AtomicUsize::new(1),
        }
    }

    fn read(&self, place: u64) -> (u64, Kind) {
        let record = self.records[place as usize].load(Relaxed);
        let kind = match record & 3 {
            1 => Kind::Void,
            2 => Kind::Put,
            3 => Kind::Tomb,
            _ => panic!("record {place} was read before it was written"),
        };
        (record >> 2, kind)
    }

    fn key(&self, entry: Entry) -> u64 {
        self.read(entry.address.bits()).0
    }

    fn write(&self, place: u64, key: u64, kind: Kind) {
        self.records[place as usize].store(key << 2 | (kind as u64 + 1), Relaxed);
    }

    /// Commits the one tombstone that a model has.
    fn commit_tombstone(&self) {
        self.committed.store(true, Release);
    }

    fn append(&self, key: u64, kind: Kind) -> u64 {
        let place = self.end.fetch_add(1, SeqCst) as u64;
        self.write(place, key, kind);
        place
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
        let place = entry.address.bits();
        assert_eq!(self.log.read(place).1, Kind::Tomb);
        Lsn::from_u64(place)
    }
}

fn live(place: u64) -> Entry {
    Entry { address: Address::from_bits(place), tomb: false, pending: false }
}

pub struct Store<const SLOTS: usize> {
    pub index: Index<SLOTS>,
    pub epoch: Epoch,
    pub log: Log,
    /// Keys are their hashes, cut to these bits.
    hash_bits: u64,
    /// Removes that found something. Not modelled.
    removed: AtomicUsize,
    /// For an actor to go on with. Not modelled.
    pub begun: Mutex<Option<Walk>>,
}

impl<const SLOTS: usize> Store<SLOTS> {
    pub fn new(shape: Shape, hash_bits: u64) -> Arc<Self> {
        let (index, epoch, log) = (Index::new(shape), Epoch::new(), Log::new());
        let (removed, begun) = (AtomicUsize::new(0), Mutex::new(None));
        Arc::new(Self { index, epoch, log, hash_bits, removed, begun })
    }

    fn hash(&self, key: u64) -> KeyHash {
        KeyHash(key & self.hash_bits)
    }

    /// What the index has for the key. Commits it if it is pending [W1].
    pub fn entry(&self, key: u64) -> Option<Entry> {
        let log = &self.log;
        let same_key = |entry: Entry| log.key(entry) == key;
        let entry = self.index.get(&self.epoch.pin(), self.hash(key), same_key)?;
        if entry.pending {
            log.commit_tombstone();
        }
        Some(entry)
    }

    /// Returns whether any tombstone is committed.
    pub fn has_committed_tombstone(&self) -> bool {
        self.log.committed.load(Acquire)
    }

    /// LSN of the key's record, if it is a put; 0 if there is none.
    pub fn get(&self, key: u64) -> u64 {
        self.entry(key).filter(|entry| !entry.tomb).map_or(0, |entry| entry.address.bits())
    }

    /// Takes an LSN for a put.
    pub fn reserve(&self, key: u64) -> u64 {
        self.log.append(key, Kind::Put)
    }

    /// Publishes a put; `Ok(false)` if it has to be appended again.
    pub fn publish(&self, place: u64, key: u64) -> Result<bool, Exhausted> {
        let (log, guard) = (&self.log, self.epoch.pin());
        let mut done = false;
        self.index.update(&guard, self.hash(key), &Ask { log, key }, |found| {
            done = !matches!(found, Found::Absent { drop_lsn } if drop_lsn >= Lsn::from_u64(place));
            match found {
                Found::Entry(entry) if entry.address.bits() > place => Decision::Keep,
                Found::Absent { .. } if !done => Decision::Keep,
                _ => Decision::Set(live(place)),
            }
        })?;
        Ok(done)
    }

    /// Puts a record and says which one it is.
    pub fn put(&self, key: u64) -> u64 {
        loop {
            let place = self.reserve(key);
            if self.publish(place, key) == Ok(true) {
                return place;
            }
        }
    }

    /// Removes a key; whether there was one.
    pub fn remove(&self, key: u64) -> bool {
        let (log, guard, ask) = (&self.log, self.epoch.pin(), Ask { log: &self.log, key });
        while self.get(key) != 0 {
            let place = log.append(key, Kind::Tomb);
            let pending = Entry { tomb: true, pending: true, ..live(place) };
            let (mut won, mut again) = (false, false);
            let update = |found| {
                (won, again) = match found {
                    Found::Entry(entry) if !entry.tomb => (entry.address.bits() < place, true),
                    _ => (false, false),
                };
                if won { Decision::Set(pending) } else { Decision::Keep }
            };
            assert!(self.index.update(&guard, self.hash(key), &ask, update).is_ok());
            if won {
                log.commit_tombstone();
                let decide = |found| match found {
                    Found::Entry(entry) if entry == pending => {
                        Decision::Set(Entry { pending: false, ..pending })
                    }
                    _ => Decision::Keep,
                };
                let hash = self.hash(key);
                assert!(self.index.update(&guard, hash, &ask, decide).is_ok());
                self.removed.fetch_add(1, SeqCst);
                return true;
            }
            log.write(place, key, Kind::Void);
            if !again {
                return false;
            }
        }
        false
    }

    /// Returns how many removes said that there was something to remove.
    pub fn removed(&self) -> usize {
        self.removed.load(SeqCst)
    }

    /// Reads a key twice: what the second read sees is not older. Returns the first LSN.
    pub fn read_twice(&self, key: u64) -> u64 {
        let place = |entry: Option<Entry>| entry.map_or(0, |entry| entry.address.bits());
        let first = place(self.entry(key));
        let second = self.entry(key);
        assert!(second.is_none() || place(second) >= first, "{second:?} after {first}");
        first
    }

    pub fn rebuild(&self, key: u64) {
        let ask = Ask { log: &self.log, key };
        self.index.rebuild(&self.epoch.pin(), self.hash(key), &ask);
    }

    /// The keys that a walk meets, in its order.
    pub fn walk(&self) -> Vec<u64> {
        self.finish_walk(self.index.walk())
    }

    /// The rest of a walk.
    pub fn finish_walk(&self, mut walk: Walk) -> Vec<u64> {
        let guard = self.epoch.pin();
        std::iter::from_fn(|| self.step(&mut walk, &guard)).collect()
    }

    /// A walk that has met one key already, and which.
    pub fn begin_walk(&self) -> (Walk, Option<u64>) {
        let (mut walk, guard) = (self.index.walk(), self.epoch.pin());
        let key = self.step(&mut walk, &guard);
        assert!(walk.is_at_rest());
        (walk, key)
    }

    fn step(&self, walk: &mut Walk, guard: &Guard) -> Option<u64> {
        let (entry, _) = walk.next(&self.index, guard)?;
        assert!(!entry.tomb);
        Some(self.log.key(entry))
    }

    /// After all threads have ended: the index holds what a recovery of the log would find, each
    /// key once.
    pub fn check(&self) {
        let mut best = std::collections::BTreeMap::new();
        for place in 1..self.log.end.load(SeqCst) as u64 {
            let (key, kind) = self.log.read(place);
            if kind != Kind::Void {
                best.insert(key, (place, kind));
            }
        }
        for (&key, &(place, kind)) in &best {
            assert_eq!(self.get(key), if kind == Kind::Put { place } else { 0 }, "key {key}");
        }
        let mut walked = self.walk();
        walked.sort_unstable();
        best.retain(|_, &mut (_, kind)| kind == Kind::Put);
        assert_eq!(walked, best.into_keys().collect::<Vec<_>>());
    }
}

/// Runs a model in every way that the bound on preemptions allows: the store as `make` leaves it,
/// one thread for each actor, and `check` when all have ended. Prints how many executions it took.
///
/// All of that once for each rotation of the actors, and no actor is the main thread. loom keeps
/// only the last access to each atomic, so of "A loads, B loads, B exchanges" it does not learn
/// that A might have loaded later: whether it looks at that depends on who goes first.
pub fn explore<const SLOTS: usize, const ACTORS: usize>(
    name: &str,
    make: fn() -> Arc<Store<SLOTS>>,
    actors: [fn(&Store<SLOTS>); ACTORS],
    check: fn(&Store<SLOTS>),
) {
    let start = std::time::Instant::now();
    let executions = Arc::new(AtomicUsize::new(0));
    for first in 0..ACTORS {
        let mut actors = actors;
        actors.rotate_left(first);
        let count = Arc::clone(&executions);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        builder.max_branches = builder.max_branches.max(100_000);
        builder.check(move || {
            count.fetch_add(1, SeqCst);
            let store = make();
            let threads = actors.map(|actor| {
                let store = Arc::clone(&store);
                loom::thread::spawn(move || actor(&store))
            });
            for thread in threads {
                assert!(thread.join().is_ok());
            }
            check(&store);
        });
    }
    let executions = executions.load(SeqCst);
    println!("{name}: {executions} executions, {:.1} s", start.elapsed().as_secs_f64());
}
