//! The life of a store before power is lost: random calls of every kind, noted in a book.

use super::Dice;
use super::claims::{Book, Call, Contents, LARGE_IN, Write, contents_at, shape};
use super::device::Device;
use std::path::Path;
use stratalog::{Batch, Compaction, Condition, Error, Lsn, Options, Store};

/// Opens or creates; nothing is flushed but what is asked for.
pub fn open(path: &Path) -> Result<Store, Error> {
    let options = Options::new().dimension(16).segment_size(super::common::SEGMENT);
    options.flush_interval(None).compaction(Compaction::Manual).open(path)
}

/// One thread that writes, to ids of its own.
pub struct Writer<'a> {
    pub device: &'a Device,
    pub book: &'a Book,
    pub dice: Dice,
    /// Its ids begin with this.
    pub name: u8,
    /// The next version is higher.
    pub version: u32,
    /// Whether it writes large records, too.
    pub large: bool,
    /// Whether other threads write, too.
    pub among_others: bool,
    /// Whether it never asks for a flush: then whole segments are at stake.
    pub lazy: bool,
    own: Contents,
    last: Lsn,
    /// The tail when the call that is being made began.
    begun: Lsn,
}

impl<'a> Writer<'a> {
    pub fn new(device: &'a Device, book: &'a Book, name: u8, dice: Dice, large: bool) -> Self {
        let mut own =
            contents_at(&book.history.lock().unwrap(), stratalog::Lsn::from_u64(u64::MAX));
        own.retain(|id, _| id[0] == name);
        let version = own.values().map(|held| held.version).max().unwrap_or(0) + 1;
        let (last, begun) = (Lsn::default(), Lsn::default());
        let (among_others, lazy) = (false, false);
        Self { device, book, dice, name, version, large, among_others, lazy, own, last, begun }
    }

    /// One call of some kind.
    pub fn step(&mut self, store: &Store) {
        match self.dice.below(100) {
            0..58 => self.put(store),
            58..68 => self.remove(store),
            68..78 => self.put_if(store),
            78..87 => self.batch(store),
            87..94 | 97 if self.lazy => self.put(store),
            87..91 => {
                store.sync().unwrap();
                assert!(store.durable_lsn() >= self.last);
                self.promised(store);
            }
            91..94 => {
                store.wait_durable(self.last).unwrap();
                assert!(store.durable_lsn() >= self.last);
                self.promised(store);
            }
            94..97 => self.device.notice(),
            97 => {
                store.compact().unwrap();
                self.promised(store);
            }
            _ => self.device.capture(),
        }
    }

    /// Notes what is durable by now.
    pub fn promised(&self, store: &Store) {
        let mut claims = self.device.claims.lock().unwrap();
        claims.exists = true;
        claims.durable = claims.durable.max(store.durable_lsn());
    }

    fn next_version(&mut self) -> u32 {
        self.version += 1;
        while !self.large && self.version.is_multiple_of(LARGE_IN) {
            self.version += 1;
        }
        self.version
    }

    /// An id for a version; large ones share three, so that they do not fill the store for good.
    fn id(&mut self, version: u32) -> Vec<u8> {
        let n = if version.is_multiple_of(LARGE_IN) { 3 } else { 24 };
        let kind = if n == 3 { "large" } else { "id" };
        format!("{}{kind} {}", char::from(self.name), self.dice.below(n)).into_bytes()
    }

    /// Notes one write.
    fn note(&mut self, id: Vec<u8>, lsn: Lsn, version: Option<u32>) {
        self.note_all(vec![Write { id, lsn: Some(lsn), version }], lsn, lsn, version.is_none());
    }

    /// Notes writes that belong at some place of the history; the highest LSN given for them;
    /// whether they answer for what was there.
    fn note_all(&mut self, writes: Vec<Write>, place: Lsn, last: Lsn, answers: bool) {
        super::claims::apply(&mut self.own, &writes);
        self.last = last;
        let call = Call { writes, begun: self.begun, answers };
        self.book.history.lock().unwrap().insert(place, call);
        let mut claims = self.device.claims.lock().unwrap();
        claims.given = claims.given.max(last);
    }

    /// A new version of some id.
    pub fn put(&mut self, store: &Store) {
        let version = self.next_version();
        let id = self.id(version);
        self.put_to(store, id, version);
    }

    fn put_to(&mut self, store: &Store, id: Vec<u8>, version: u32) {
        self.begun = store.stats().tail;
        let lsn = shape(version).put(store, &id, version);
        self.note(id, lsn, Some(version));
    }

    /// A new version of a given id; of a small record.
    pub fn put_small(&mut self, store: &Store, n: u32) {
        self.version = (self.version + 1).next_multiple_of(LARGE_IN) + 1;
        self.put_to(store, format!("{}id {n}", char::from(self.name)).into_bytes(), self.version);
    }

    /// Large records until the next segment has begun.
    pub fn roll(&mut self, store: &Store) {
        let before = store.stats().segments;
        while store.stats().segments == before {
            self.version = (self.version + 1).next_multiple_of(LARGE_IN);
            let id = self.id(self.version);
            self.put_to(store, id, self.version);
        }
    }

    fn remove(&mut self, store: &Store) {
        let id = self.id(1);
        self.remove_from(store, id);
    }

    /// Removes an id that `put_small` puts.
    pub fn remove_small(&mut self, store: &Store, n: u32) {
        self.remove_from(store, format!("{}id {n}", char::from(self.name)).into_bytes());
    }

    fn remove_from(&mut self, store: &Store, id: Vec<u8>) {
        self.begun = store.stats().tail;
        if self.among_others {
            // The answer of a batch tells its LSN.
            let mut batch = Batch::new();
            batch.remove(&id);
            let lsn = store.write(batch).unwrap();
            return self.note(id, lsn, None);
        }
        let there = self.own.contains_key(&id);
        assert_eq!(store.remove(&id).unwrap().is_some(), there, "{}", id.escape_ascii());
        if there {
            // An empty batch answers with the highest LSN given, which is the removal's.
            let lsn = store.write(Batch::new()).unwrap();
            self.note(id, lsn, None);
        }
    }

    fn put_if(&mut self, store: &Store) {
        let version = self.next_version();
        let id = self.id(version);
        let ask = || store.pin().get(&id).unwrap().expect("it was put").lsn();
        let current = self.own.get(&id).map(|held| held.lsn.unwrap_or_else(ask));
        let (condition, holds) = match self.dice.below(3) {
            0 => (Condition::Absent, current.is_none()),
            1 => (Condition::Present, current.is_some()),
            _ => (Condition::Lsn(current.unwrap_or(self.last)), current.is_some()),
        };
        let record = shape(version);
        let (embedding, content) = (record.embedding(&id, version), record.content(&id, version));
        self.begun = store.stats().tail;
        match store.put_if(&id, &embedding, content, condition) {
            Ok(lsn) if holds => {
                let write = Write { id, lsn: Some(lsn), version: Some(version) };
                self.note_all(vec![write], lsn, lsn, true);
            }
            Err(Error::ConditionFailed { current: found }) if !holds => assert_eq!(found, current),
            other => panic!("{condition:?} with {current:?}: {other:?}"),
        }
    }

    pub fn batch(&mut self, store: &Store) {
        let (mut batch, mut writes) = (Batch::new(), Vec::new());
        for _ in 0..2 + self.dice.below(5) {
            if self.dice.one_in(4) {
                let id = self.id(1);
                batch.remove(&id);
                writes.push(Write { id, lsn: None, version: None });
            } else {
                let version = self.next_version();
                let id = self.id(version);
                let record = shape(version);
                batch.put(&id, &record.embedding(&id, version), record.content(&id, version));
                writes.push(Write { id, lsn: None, version: Some(version) });
            }
        }
        self.begun = store.stats().tail;
        let last = store.write(batch).unwrap();
        // Only the last write of each id is written [W8].
        let ids: Vec<_> = writes.iter().map(|write| write.id.clone()).collect();
        let mut later = 1..;
        writes.retain(|write| later.next().is_some_and(|n| !ids[n..].contains(&write.id)));
        let place = self.place_of(store, &writes).unwrap_or(last);
        let answers = writes.iter().any(|write| write.version.is_none());
        self.note_all(writes, place, last, answers);
    }

    /// The highest LSN that a batch was reserved with. Its members were neighbours; those that were
    /// appended again since have higher ones. `None`: nothing tells.
    fn place_of(&self, store: &Store, writes: &[Write]) -> Option<Lsn> {
        let pinned = store.pin();
        let places = writes.iter().rev().enumerate().filter_map(|(behind, write)| {
            let there = pinned.get(&write.id).unwrap()?;
            let version = write.version.filter(|version| there.embedding()[0] as u32 == *version);
            version.map(|_| there.lsn().as_u64() + behind as u64)
        });
        places.min().map(stratalog::Lsn::from_u64)
    }

    /// A backup beside the store.
    pub fn back_up(&mut self, store: &Store, root: &Path) {
        let mut backups = self.book.backups.lock().unwrap();
        let n = backups.len();
        let everything =
            contents_at(&self.book.history.lock().unwrap(), stratalog::Lsn::from_u64(u64::MAX));
        backups.push(everything);
        drop(backups);
        store.backup(root.join(format!("copy-{n}"))).unwrap();
        self.promised(store);
        self.device.claims.lock().unwrap().backups = n + 1;
    }
}
