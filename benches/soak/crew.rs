//! Who is at work on the store, and what each of them must find.

use super::Failure;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};
use stratalog::{Metric, SharedRecord, Store};

pub const DIMENSION: usize = 128;
const WRITERS: usize = 2;
const IDS: usize = 20_000;
/// Longer than a group of segments takes to be emptied.
const LONG_PIN: Duration = Duration::from_secs(4);
const SHARED: usize = 64;
/// Some thousand writes a second: for half an hour a disk has to bear them.
const PACE: Duration = Duration::from_micros(200);

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn embedding(id: usize, version: u32) -> [f32; DIMENSION] {
    let mut embedding = [version as f32; DIMENSION];
    embedding[0] = id as f32;
    embedding
}

fn content(id: usize, version: u32) -> Vec<u8> {
    vec![(id as u32 ^ version) as u8; (id * 31 + version as usize * 97) % 1_500]
}

/// Returns whether the parts of a record belong together; its version.
fn version(id: &[u8], embedding: &[f32], bytes: &[u8]) -> Result<u32, Failure> {
    let id = u32::from_le_bytes(id.try_into()?) as usize;
    let version = embedding[1] as u32;
    let whole = embedding == self::embedding(id, version) && bytes == content(id, version);
    if whole { Ok(version) } else { Err(format!("id {id} mixes versions").into()) }
}

fn check_shared(shared: &SharedRecord) -> Result<u32, Failure> {
    version(shared.id(), shared.embedding(), shared.content())
}

/// Records of a store that is not there any more.
pub fn check_kept(kept: &[SharedRecord]) -> Result<(), Failure> {
    kept.iter().try_for_each(|shared| check_shared(shared).map(drop))
}

/// What one writer's ids must be, and what was done.
#[derive(Debug, Default)]
pub struct State {
    seed: u64,
    next_version: u32,
    /// Version and tag.
    ids: Vec<Option<(u32, u64)>>,
    pub puts: u64,
    pub removals: u64,
    pub tags: u64,
    pub reads: u64,
}

#[derive(Debug)]
pub struct Crew {
    writers: Vec<State>,
    reads: [u64; 3],
}

impl Default for Crew {
    fn default() -> Self {
        let writer = |seed| State { seed, ids: vec![None; IDS / WRITERS], ..State::default() };
        Self { writers: (1..=WRITERS as u64).map(writer).collect(), reads: [0; 3] }
    }
}

type Thread<'scope> = ScopedJoinHandle<'scope, Result<(), Failure>>;

impl Crew {
    pub fn start<'scope, 'env: 'scope>(
        &'env mut self,
        scope: &'scope Scope<'scope, 'env>,
        store: &'env Store,
        stop: &'scope AtomicBool,
    ) -> Vec<Thread<'scope>> {
        let mut threads = Vec::new();
        for (number, state) in self.writers.iter_mut().enumerate() {
            threads.push(scope.spawn(move || write(store, state, number, stop)));
        }
        let [short, long, shared] = &mut self.reads;
        threads.push(scope.spawn(|| read(store, short, stop)));
        threads.push(scope.spawn(|| read_long(store, long, stop)));
        threads.push(scope.spawn(|| share(store, shared, stop)));
        threads
    }

    /// The store holds exactly what was written.
    pub fn check(&self, store: &Store) -> Result<(), Failure> {
        let pinned = store.pin();
        let mut live = 0;
        for id in 0..IDS {
            let expected = self.writers[id % WRITERS].ids[id / WRITERS];
            let found = match pinned.get((id as u32).to_le_bytes())? {
                Some(r) => Some((version(r.id(), r.embedding(), r.content())?, r.tag())),
                None => None,
            };
            if found != expected {
                return Err(format!("id {id} is {found:?}, not {expected:?}").into());
            }
            live += usize::from(found.is_some());
        }
        if store.len() == live { Ok(()) } else { Err("a record too many or too few".into()) }
    }

    pub fn total(&self) -> State {
        let mut total = State { reads: self.reads.iter().sum(), ..State::default() };
        for state in &self.writers {
            total.puts += state.puts;
            total.removals += state.removals;
            total.tags += state.tags;
        }
        total
    }
}

fn stopped(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

/// Of ten writes seven are puts, one is a removal, two are tags.
fn write(
    store: &Store,
    state: &mut State,
    number: usize,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    while !stopped(stop) {
        let place = random(&mut state.seed) as usize % state.ids.len();
        let id = place * WRITERS + number;
        let (key, expected) = ((id as u32).to_le_bytes(), &mut state.ids[place]);
        match random(&mut state.seed) % 10 {
            0 => {
                if store.remove(key)?.is_some() != expected.take().is_some() {
                    return Err(format!("removing {id} went wrong").into());
                }
                state.removals += 1;
            }
            1 | 2 => {
                let tag = store.update_tag(key, |tag| tag + 1)?;
                if let Some((_, tag)) = expected {
                    *tag += 1;
                }
                if tag != expected.map(|(_, tag)| tag) {
                    return Err(format!("the tag of {id} is {tag:?}").into());
                }
                state.tags += 1;
            }
            _ => {
                state.next_version = (state.next_version + 1) % (1 << 24);
                let version = state.next_version;
                store.put(key, &embedding(id, version), content(id, version))?;
                *expected = Some((version, 0));
                state.puts += 1;
            }
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// A pin for each get.
fn read(store: &Store, reads: &mut u64, stop: &AtomicBool) -> Result<(), Failure> {
    let mut seed = *reads + 77;
    while !stopped(stop) {
        let id = random(&mut seed) as u32 % IDS as u32;
        if let Some(r) = store.pin().get(id.to_le_bytes())? {
            version(r.id(), r.embedding(), r.content())?;
        }
        *reads += 1;
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// A pin that stays, and what was seen through it at the beginning; then as long without one.
fn read_long(store: &Store, reads: &mut u64, stop: &AtomicBool) -> Result<(), Failure> {
    while !stopped(stop) {
        let pinned = store.pin();
        let ids = (0..IDS as u32).step_by(IDS / 200);
        let found = ids.filter_map(|id| pinned.get(id.to_le_bytes()).transpose());
        let held = found.collect::<Result<Vec<_>, _>>()?;
        let begin = held.iter().map(|r| version(r.id(), r.embedding(), r.content()));
        let begin = begin.collect::<Result<Vec<_>, _>>()?;
        let hits = pinned.search(&embedding(5, 5), 10, Metric::L2)?;
        let since = Instant::now();
        while since.elapsed() < LONG_PIN && !stopped(stop) {
            std::thread::sleep(Duration::from_millis(50));
        }
        for (r, begin) in held.iter().zip(begin) {
            if version(r.id(), r.embedding(), r.content())? != begin {
                return Err("a pinned record has changed".into());
            }
        }
        for hit in &hits {
            version(hit.record.id(), hit.record.embedding(), hit.record.content())?;
        }
        *reads += (held.len() + hits.len()) as u64;
        drop(hits);
        drop(pinned);
        let since = Instant::now();
        while since.elapsed() < LONG_PIN && !stopped(stop) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Shared records of different ages.
fn share(store: &Store, reads: &mut u64, stop: &AtomicBool) -> Result<(), Failure> {
    let (mut held, mut seed) = (VecDeque::new(), *reads + 99);
    while !stopped(stop) {
        let id = random(&mut seed) as u32 % IDS as u32;
        if let Some(shared) = store.get_shared(id.to_le_bytes())? {
            held.push_back((check_shared(&shared)?, shared));
        }
        if held.len() > SHARED
            && let Some((version, shared)) = held.pop_front()
            && check_shared(&shared)? != version
        {
            return Err("a shared record has changed".into());
        }
        *reads += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
