//! Recording: real threads call the store, and note when each call began and ended, and what it
//! answered.

use super::dice::Dice;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use stratalog::{Batch, Condition, Error, Lsn, Store};

/// What must hold for a conditional put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    Always,
    IfAbsent,
    IfPresent,
    If(u64),
}

/// One call and its answer, as far as one id is concerned. LSNs are numbers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A version was put. `None`: in a batch, and nothing tells its LSN.
    Wrote {
        lsn: Option<u64>,
        value: u64,
        only: Only,
    },
    /// A conditional put was refused.
    Refused {
        only: Only,
        current: Option<u64>,
    },
    /// A read, of a record with a tag.
    Saw {
        lsn: u64,
        value: u64,
        tag: u64,
    },
    /// A read: there is none.
    SawNone,
    Contains(bool),
    Removed(bool),
    /// By a batch, which does not say whether it was there.
    RemovedBlindly,
    /// The tag was raised by one, to this.
    Tagged(Option<u64>),
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub id: usize,
    /// Nanoseconds since some moment. What ends at the moment when another begins is beside it.
    pub begin: u64,
    pub end: u64,
    pub call: Call,
}

/// How threads are to go about it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub threads: usize,
    pub ids: usize,
    pub calls_a_thread: usize,
    /// Whether ids are removed, too.
    pub removing: bool,
    /// One call in so many is preceded by a pause.
    pub pause_one_in: u64,
}

const CONTENT_MAX: u64 = 16_000;

struct Recorder<'a> {
    store: &'a Store,
    plan: Plan,
    names: &'a [Vec<u8>],
    epoch: Instant,
    dice: Dice,
    events: Vec<Event>,
    /// The LSN that was seen last of each id.
    seen: Vec<u64>,
    value: u64,
    content: Vec<u8>,
}

/// Runs threads side by side; all that they did. Values are unique as long as `first_value` is
/// above all earlier ones.
pub fn run(
    store: &Store,
    plan: Plan,
    names: &[Vec<u8>],
    seed: u64,
    first_value: u64,
) -> Vec<Event> {
    let (ready, epoch) = (AtomicUsize::new(0), Instant::now());
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let recorders = (0..plan.threads).map(|thread| {
            let mut recorder = Recorder {
                store,
                plan,
                names,
                epoch,
                dice: Dice(super::common::mix(seed ^ (thread as u64) << 40)),
                events: Vec::with_capacity(plan.calls_a_thread + 8),
                seen: vec![0; plan.ids],
                value: first_value + thread as u64,
                content: vec![7; CONTENT_MAX as usize],
            };
            let ready = &ready;
            scope.spawn(move || {
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < plan.threads {
                    std::thread::yield_now();
                }
                (0..plan.calls_a_thread).for_each(|_| recorder.call());
                recorder.events
            })
        });
        let recorders: Vec<_> = recorders.collect();
        for recorder in recorders {
            all.extend(recorder.join().expect("a thread"));
        }
    });
    learn(&mut all);
    all
}

impl Recorder<'_> {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn note(&mut self, id: usize, begin: u64, end: u64, call: Call) {
        self.events.push(Event { id, begin, end, call });
    }

    /// The next value, and a content that begins with it.
    fn next(&mut self) -> usize {
        self.value += self.plan.threads as u64;
        self.content[..8].copy_from_slice(&self.value.to_le_bytes());
        // A long one keeps its writer longer between reservation and index.
        let max = if self.dice.one_in(8) { CONTENT_MAX } else { 24 };
        8 + self.dice.below(max - 8) as usize
    }

    fn pause(&mut self) {
        match self.dice.below(16) {
            0..8 => std::thread::yield_now(),
            15 => std::thread::sleep(Duration::from_micros(self.dice.below(60))),
            _ => (0..self.dice.below(400)).for_each(|_| spin_loop()),
        }
    }

    fn call(&mut self) {
        if self.dice.one_in(self.plan.pause_one_in) {
            self.pause();
        }
        let id = self.dice.below(self.plan.ids as u64) as usize;
        match self.dice.below(100) {
            0..26 => self.put(id),
            26..46 => self.put_if(id),
            46..70 => self.get(id),
            70..76 => {
                let begin = self.now();
                let there = self.store.contains(&self.names[id]);
                let end = self.now();
                self.note(id, begin, end, Call::Contains(there));
            }
            76..84 => self.tag(id),
            84..92 if self.plan.removing => {
                let begin = self.now();
                let removed = self.store.remove(&self.names[id]).expect("a removal");
                let end = self.now();
                self.note(id, begin, end, Call::Removed(removed.is_some()));
            }
            _ => self.batch(id),
        }
    }

    fn put(&mut self, id: usize) {
        let (len, value) = (self.next(), self.value);
        let begin = self.now();
        let lsn = self.store.put(&self.names[id], &[0.5], &self.content[..len]).expect("a put");
        let (end, lsn) = (self.now(), lsn.as_u64());
        self.seen[id] = lsn;
        self.note(id, begin, end, Call::Wrote { lsn: Some(lsn), value, only: Only::Always });
    }

    fn put_if(&mut self, id: usize) {
        let (len, value) = (self.next(), self.value);
        let only = match self.dice.below(6) {
            0 => Only::IfAbsent,
            1 => Only::IfPresent,
            _ => Only::If(self.seen[id]),
        };
        let condition = match only {
            Only::IfAbsent => Condition::Absent,
            Only::IfPresent | Only::Always => Condition::Present,
            Only::If(lsn) => Condition::Lsn(stratalog::Lsn::from_u64(lsn)),
        };
        let begin = self.now();
        let content = &self.content[..len];
        let answer = self.store.put_if(&self.names[id], &[0.5], content, condition);
        let end = self.now();
        let call = match answer {
            Ok(lsn) => {
                self.seen[id] = lsn.as_u64();
                Call::Wrote { lsn: Some(lsn.as_u64()), value, only }
            }
            Err(Error::ConditionFailed { current }) => {
                let current = current.map(Lsn::as_u64);
                self.seen[id] = current.unwrap_or(0);
                Call::Refused { only, current }
            }
            Err(other) => panic!("{other}"),
        };
        self.note(id, begin, end, call);
    }

    fn get(&mut self, id: usize) {
        let begin = self.now();
        let pinned = self.store.pin();
        let record = pinned.get(&self.names[id]).expect("a whole record");
        let call = record.map_or(Call::SawNone, |record| {
            let value = record.content().first_chunk().expect("eight bytes");
            let (lsn, value) = (record.lsn().as_u64(), u64::from_le_bytes(*value));
            Call::Saw { lsn, value, tag: record.tag() }
        });
        drop(pinned);
        let end = self.now();
        if let Call::Saw { lsn, .. } = call {
            self.seen[id] = lsn;
        }
        self.note(id, begin, end, call);
    }

    fn tag(&mut self, id: usize) {
        let (store, name) = (self.store, &self.names[id]);
        // Stops inside, now and then.
        let stop = self.dice.one_in(4);
        let begin = self.now();
        let tag = store.update_tag(name, |tag| {
            if stop {
                std::thread::yield_now();
            }
            tag + 1
        });
        let end = self.now();
        self.note(id, begin, end, Call::Tagged(tag.expect("a tag")));
    }

    /// Several ids at once: atomic across a crash, but seen one by one.
    fn batch(&mut self, first: usize) {
        let (mut batch, mut calls) = (Batch::new(), Vec::new());
        let members = 1 + self.dice.below(self.plan.ids.min(3) as u64) as usize;
        for n in 0..members {
            let id = (first + n) % self.plan.ids;
            if self.plan.removing && self.dice.one_in(3) {
                batch.remove(&self.names[id]);
                calls.push((id, Call::RemovedBlindly));
            } else {
                let (len, value) = (self.next(), self.value);
                batch.put(&self.names[id], &[0.5], &self.content[..len]);
                calls.push((id, Call::Wrote { lsn: None, value, only: Only::Always }));
            }
        }
        let begin = self.now();
        let last = self.store.write(batch).expect("a batch");
        let end = self.now();
        // Its members are neighbours, unless one had to be appended again. The only one of a batch
        // cannot be mistaken.
        if let [(_, Call::Wrote { lsn, .. })] = &mut calls[..] {
            *lsn = Some(last.as_u64());
        }
        for (id, call) in calls {
            self.note(id, begin, end, call);
        }
    }
}

/// Members of batches whose LSN nobody was told: those that were read are known by that.
fn learn(events: &mut [Event]) {
    let read = events.iter().filter_map(|event| match event.call {
        Call::Saw { lsn, value, .. } => Some((value, lsn)),
        _ => None,
    });
    let mut read: Vec<_> = read.collect();
    read.sort_unstable();
    for event in events {
        if let Call::Wrote { lsn: lsn @ None, value, .. } = &mut event.call {
            let at = read.partition_point(|(other, _)| other < value);
            *lsn = read.get(at).filter(|(other, _)| other == value).map(|(_, lsn)| *lsn);
        }
    }
}
