//! One store and the model of it: every public call, with the answer that the model expects.

use super::dice::Dice;
use super::model::{self, Contents, DIMENSION, Found, Model, Version, Write};
use super::witness::NOW;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use stratalog::{
    Batch, Compaction, Condition, Durability, Error, Lsn, NewRecord, Options, SharedRecord, Store,
};
use tempfile::TempDir;

use super::device::{Device, Honesty};

/// Numbers of versions that one step may use.
pub const NUMBERS_A_STEP: u32 = 32;

pub fn now() -> u64 {
    NOW.load(Ordering::SeqCst)
}

pub fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

fn moment(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// What is the same all life long.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub segment: u64,
    pub synced: bool,
    pub auto: bool,
    /// Whether records expire.
    pub expiring: bool,
    /// Whether power may be lost: then all flushes are followed.
    pub power: bool,
}

impl Profile {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(super::common::mix(seed));
        Self {
            segment: [1 << 20, 1 << 20, 1 << 20, 2 << 20, 4 << 20][dice.below(5) as usize],
            synced: dice.one_in(5),
            auto: dice.one_in(4),
            expiring: dice.one_in(2),
            power: !dice.one_in(3),
        }
    }

    pub fn open(&self, path: &Path) -> Store {
        let mut options = Options::new().dimension(DIMENSION).segment_size(self.segment);
        options = options.flush_interval(None);
        if self.synced {
            options = options.durability(Durability::Synced);
        }
        let compaction = if self.auto { Compaction::Auto } else { Compaction::Manual };
        options.compaction(compaction).open(path).expect("the store opens")
    }
}

/// A directory in memory, if there is such a thing.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("stratalog-sim-").tempdir_in(place).expect("a directory")
}

/// A record as the model has it; fails unless each byte belongs to the version that it names.
fn seen(id: &[u8], embedding: &[f32], content: &[u8], lsn: Lsn) -> Version {
    let number = embedding[0] as u32;
    let whole = model::embedding(id, number) == embedding && model::content(id, number) == content;
    assert!(whole, "{} is not of one piece (version {number}?)", id.escape_ascii());
    Version { lsn, number, created: 0, expires: None }
}

/// Everything in a store; walk, get and len must agree.
pub fn found(store: &Store) -> Found {
    let mut all = Found::new();
    let pinned = store.pin();
    for record in &pinned {
        let record = record.expect("a whole record");
        let version = Version {
            created: nanoseconds(record.created_at()),
            expires: record.expires_at().map(nanoseconds),
            ..seen(record.id(), record.embedding(), record.content(), record.lsn())
        };
        let twice = all.insert(record.id().to_vec(), (version, record.tag()));
        assert!(twice.is_none(), "{} was seen twice", record.id().escape_ascii());
    }
    for (id, (version, tag)) in &all {
        let record = pinned.get(id).expect("a whole record").expect("the walk has seen it");
        assert_eq!((record.lsn(), record.tag()), (version.lsn, *tag), "{}", id.escape_ascii());
    }
    assert!(store.len() >= all.len(), "{} of {}", store.len(), all.len());
    all
}

/// Fails unless the store holds exactly what the model does.
#[track_caller]
pub fn assert_same(store: &Store, model: &Model, profile: &Profile, what: &str) {
    let found = found(store);
    assert!(found == model.visible(now()), "{what}: {}", model.difference(&found, now()));
    if !profile.expiring {
        assert_eq!(store.len(), found.len(), "{what}");
    }
}

pub struct World {
    pub profile: Profile,
    pub dice: Dice,
    pub place: TempDir,
    /// `None` only while another is put in its place.
    pub store: Option<Store>,
    pub model: Model,
    pub device: Option<Arc<Device>>,
    /// The next version's number.
    number: u32,
    held: Vec<(SharedRecord, Version)>,
    pub crashes: u64,
}

impl World {
    pub fn new(profile: Profile) -> Self {
        let place = scratch();
        let device = profile.power.then(|| watched(place.path(), 1));
        let store = Some(profile.open(&place.path().join("store")));
        let (dice, model, held) = (Dice(0), Model::default(), Vec::new());
        Self { profile, dice, place, store, model, device, number: 0, held, crashes: 0 }
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    pub fn path(&self) -> PathBuf {
        self.place.path().join("store")
    }

    /// Makes ready for a step: its choices follow from its own number only, so that steps can be
    /// left out.
    pub fn begin(&mut self, seed: u64, step: u32) {
        self.dice = Dice(super::common::mix(seed << 20 ^ u64::from(step)));
        self.number = 1 + step * NUMBERS_A_STEP;
    }

    fn next(&mut self) -> (Vec<u8>, u32) {
        self.number += 1;
        (model::id(self.number, self.dice.roll()), self.number)
    }

    fn any_id(&mut self) -> Vec<u8> {
        let large = if self.dice.one_in(6) { 8 } else { 1 };
        model::id(large, self.dice.roll())
    }

    fn version(&self, lsn: Lsn, number: u32, expires: Option<u64>) -> Version {
        Version { lsn, number, created: now(), expires }
    }

    fn noted(&mut self, last: Lsn, writes: Vec<Write>) {
        self.model.write(last, writes);
        if self.profile.synced {
            assert!(self.store().durable_lsn() >= last, "{last} was promised to be durable");
        }
        self.model.promised(self.store().durable_lsn());
    }

    /// Gives a record no tag, one of its own, or the one that its id has; and says which it gets.
    fn tagged<'a>(&mut self, record: NewRecord<'a>, id: &[u8]) -> (NewRecord<'a>, u64) {
        match self.dice.below(4) {
            0 => {
                let tag = self.dice.roll() >> (1 + self.dice.below(62));
                (record.tag(tag), tag)
            }
            1 => {
                let current = self.model.live(id, now());
                let tag = current.map_or(0, |version| self.model.tag(version.lsn));
                (record.keep_tag(), tag)
            }
            _ => (record, 0),
        }
    }

    pub fn put(&mut self) {
        let (id, number) = self.next();
        let (embedding, content) = (model::embedding(&id, number), model::content(&id, number));
        let (mut record, tag) = self.tagged(NewRecord::new(&id, &embedding, &content), &id);
        let mut expires = None;
        if self.profile.expiring && self.dice.one_in(4) {
            let time = [0, 1, 1_000, 1_000_000_000, 3_600_000_000_000][self.dice.below(5) as usize];
            expires = Some(now() + time);
            record = if self.dice.one_in(2) {
                record.expires_in(Duration::from_nanos(time))
            } else {
                record.expires_at(moment(now() + time))
            };
        }
        let lsn = self.store().put_record(record).expect("a put");
        self.model.begin_tag(lsn, tag);
        let version = self.version(lsn, number, expires);
        self.noted(lsn, vec![(id, Some(version))]);
    }

    fn put_version(&mut self, id: Vec<u8>, number: u32) -> Result<(), Error> {
        let (embedding, content) = (model::embedding(&id, number), model::content(&id, number));
        let lsn = self.store().put(&id, &embedding, content)?;
        let version = self.version(lsn, number, None);
        self.noted(lsn, vec![(id, Some(version))]);
        Ok(())
    }

    pub fn put_small(&mut self) {
        self.put_version(b"small".to_vec(), self.number | 1).expect("a put");
    }

    pub fn try_put_large(&mut self) -> Result<(), Error> {
        // Large contents have numbers that are multiples of eight, and up to 200,000 bytes.
        self.number += 1;
        let (id, number) = (model::id(8, self.dice.roll()), (self.number % (1 << 17)) * 64);
        self.put_version(id, number)
    }

    pub fn put_if(&mut self) {
        let (id, number) = self.next();
        let current = self.model.live(&id, now()).map(|version| version.lsn);
        let beside = |lsn: Lsn| {
            let by = if self.number.is_multiple_of(2) { 1 } else { u64::MAX };
            stratalog::Lsn::from_u64(lsn.as_u64().wrapping_add(by))
        };
        let (condition, holds) = match self.dice.below(5) {
            0 => (Condition::Absent, current.is_none()),
            1 => (Condition::Present, current.is_some()),
            2 => (Condition::Lsn(current.map_or(self.model.given, beside)), false),
            _ => (Condition::Lsn(current.unwrap_or(self.model.given)), current.is_some()),
        };
        let (embedding, content) = (model::embedding(&id, number), model::content(&id, number));
        let (record, tag) = self.tagged(NewRecord::new(&id, &embedding, &content), &id);
        match self.store().put_record(record.only_if(condition)) {
            Ok(lsn) if holds => {
                self.model.begin_tag(lsn, tag);
                let version = self.version(lsn, number, None);
                self.noted(lsn, vec![(id, Some(version))]);
            }
            Err(Error::ConditionFailed { current: found }) if !holds => {
                assert_eq!(found, current, "{condition:?}");
            }
            other => panic!("{condition:?} with {current:?}: {other:?}"),
        }
    }

    pub fn remove(&mut self) {
        let id = self.any_id();
        let there = self.model.live(&id, now()).is_some();
        let answer = self.store().remove(&id).expect("a removal");
        assert_eq!(answer.is_some(), there, "removing {}", id.escape_ascii());
        if there {
            // An empty batch answers with the highest LSN given, which is the removal's.
            let lsn = self.store().write(Batch::new()).expect("an empty batch");
            self.noted(lsn, vec![(id, None)]);
        }
    }

    pub fn batch(&mut self) {
        let (mut batch, mut writes, mut tags) = (Batch::new(), Vec::new(), Vec::new());
        for _ in 0..1 + self.dice.below(6) {
            if self.dice.one_in(4) {
                let id = self.any_id();
                batch.remove(&id);
                writes.push((id, None));
                tags.push(0);
            } else {
                let (id, number) = self.next();
                let embedding = model::embedding(&id, number);
                let content = model::content(&id, number);
                let (record, tag) = self.tagged(NewRecord::new(&id, &embedding, &content), &id);
                batch.put_record(record);
                writes.push((id, Some(self.version(Lsn::default(), number, None))));
                tags.push(tag);
            }
        }
        assert_eq!(batch.len(), writes.len());
        let last = self.store().write(batch).expect("a batch");
        // Only the last write of each id is written [W8].
        let ids: Vec<_> = writes.iter().map(|(id, _)| id.clone()).collect();
        let is_last = |n: usize| !ids[n + 1..].contains(&ids[n]);
        let (mut nth, mut nth_tag) = (0.., 0..);
        writes.retain(|_| nth.next().is_some_and(is_last));
        tags.retain(|_| nth_tag.next().is_some_and(is_last));
        // Its members are neighbours: nobody else writes.
        let first = last.as_u64() + 1 - writes.len() as u64;
        for ((lsn, tag), (_, version)) in (first..).zip(tags).zip(&mut writes) {
            if let Some(version) = version {
                version.lsn = stratalog::Lsn::from_u64(lsn);
                self.model.begin_tag(version.lsn, tag);
            }
        }
        self.noted(last, writes);
    }

    pub fn tag(&mut self) {
        let (id, by) = (self.any_id(), self.dice.below(1000));
        let current = self.model.live(&id, now()).map(|version| version.lsn);
        if self.dice.one_in(10) {
            let refused = self.store().update_tag(&id, |tag| tag | 1 << 63);
            match (refused, current) {
                (Err(Error::InvalidTag(_)), Some(_)) | (Ok(None), None) => {}
                other => panic!("a tag with the top bit: {other:?}"),
            }
        }
        let updated = self.store().update_tag(&id, |tag| (tag / 2 * 3 + by) >> 1).expect("a tag");
        let expected = current.map(|lsn| (self.model.tag(lsn) / 2 * 3 + by) >> 1);
        assert_eq!(updated, expected, "the tag of {}", id.escape_ascii());
        if let Some(lsn) = current {
            self.model.set_tag(lsn, expected.expect("it has one"));
        }
    }

    pub fn read(&mut self) {
        let id = self.any_id();
        let expected = self.model.live(&id, now()).cloned();
        let name = id.escape_ascii();
        let store = self.store();
        assert_eq!(store.contains(&id), expected.is_some(), "{name}");
        let owned = store.get_owned(&id).expect("a whole record");
        let shared = store.get_shared(&id).expect("a whole record");
        let pinned = store.pin();
        let record = pinned.get(&id).expect("a whole record");
        let Some(version) = expected else {
            assert!(owned.is_none() && shared.is_none() && record.is_none(), "{name} is there");
            return;
        };
        let (owned, shared) = (owned.expect("it is there"), shared.expect("it is there"));
        let record = record.expect("it is there");
        assert_eq!(record.to_owned(), owned, "{name}");
        assert_eq!(shared.to_owned(), owned, "{name}");
        let (created, expires) = (nanoseconds(owned.created_at), owned.expires_at.map(nanoseconds));
        let read = seen(&id, &owned.embedding, &owned.content, owned.lsn);
        assert_eq!(Version { created, expires, ..read }, version, "{name}");
        assert_eq!(owned.tag, self.model.tag(version.lsn), "{name}");
        drop(pinned);
        if self.held.len() < 8 {
            self.held.push((shared, version));
        }
    }

    /// What was held across whatever happened is what it was. Then it is let go.
    pub fn retire_segment(&mut self) {
        for (shared, version) in self.held.drain(..) {
            let read = seen(shared.id(), shared.embedding(), shared.content(), shared.lsn());
            assert_eq!((read.lsn, read.number), (version.lsn, version.number), "a held record");
            assert_eq!(nanoseconds(shared.created_at()), version.created);
        }
    }

    /// Calls that must be refused, and change nothing.
    pub fn refused(&mut self) {
        let (store, id) = (self.store(), model::id(1, 3));
        let e = [1.0; DIMENSION];
        let dimension = store.put(&id, &[1.0; DIMENSION + 1], "x");
        assert!(matches!(dimension, Err(Error::DimensionMismatch { actual: 5, .. })));
        let infinite = store.put(&id, &[1.0, f32::INFINITY, 0.0, 0.0], "x");
        assert!(matches!(infinite, Err(Error::NonFinite { index: 1 })));
        for impossible in [&[][..], &[7; 1025]] {
            assert!(matches!(store.put(impossible, &e, "x"), Err(Error::InvalidId { .. })));
            assert!(matches!(store.remove(impossible), Err(Error::InvalidId { .. })));
            assert!(store.get_owned(impossible).expect("no record").is_none());
            assert!(!store.contains(impossible));
        }
        let large = vec![0; self.profile.segment as usize / 2];
        assert!(matches!(store.put(&id, &e, &large), Err(Error::RecordTooLarge { .. })));
        let mut batch = Batch::new();
        for n in 0..4 {
            batch.put([n], &e, &large[..large.len() - 4096]);
        }
        assert!(matches!(store.write(batch), Err(Error::RecordTooLarge { .. })));
        let unknown = stratalog::Lsn::from_u64(store.stats().tail.as_u64() + 5000);
        assert!(matches!(store.wait_durable(unknown), Err(Error::UnknownLsn(_))));
        let other = self.path();
        let options = Options::new().create(false);
        assert!(matches!(options.open(&other), Err(Error::Locked { .. })));
    }

    pub fn sync(&mut self) {
        let given = self.model.given;
        let any = given > Lsn::default() && self.crashes == 0;
        match self.dice.below(2) {
            0 if any => self.store().wait_durable(given).expect("a flush"),
            _ => self.store().sync().expect("a flush"),
        }
        assert!(self.model.at_stake() == 0 || self.store().durable_lsn() >= given);
        self.model.promised(self.store().durable_lsn());
        assert!(self.store().stats().tail > given);
    }

    pub fn compact(&mut self) {
        let before = self.store().stats();
        let report = self.store().compact().expect("a compaction");
        assert!(report.segments_removed <= before.segments, "{report:?}");
        self.model.promised(self.store().durable_lsn());
        assert_same(self.store(), &self.model, &self.profile, "after compacting");
    }

    pub fn verify(&mut self) {
        let report = self.store().verify().expect("a look");
        assert!(report.is_clean(), "{:?}", report.damaged);
        let report = self.store().verify_quick().expect("a look");
        assert!(report.is_clean(), "{:?}", report.damaged);
    }

    /// Beside the writer: what was published when it was opened, and no writes.
    pub fn read_only(&mut self) {
        let reader = Options::new().read_only(true).open(self.path()).expect("a reader");
        assert_same(&reader, &self.model, &self.profile, "read-only");
        assert!(matches!(reader.put("id 1", &[0.0; 4], ""), Err(Error::ReadOnly)));
        assert!(matches!(reader.sync(), Err(Error::ReadOnly)));
        assert!(matches!(reader.compact(), Err(Error::ReadOnly)));
        let before = self.model.clone();
        let number = self.number;
        self.put();
        assert_same(&reader, &before, &self.profile, "read-only, after a put beside it");
        self.number = number;
    }

    pub fn everything(&mut self) {
        assert_same(self.store(), &self.model, &self.profile, "everything");
        let len = self.store().len();
        assert_eq!(self.store().is_empty(), len == 0);
        assert_eq!(self.store().dimension(), DIMENSION);
        let stats = self.store().stats();
        assert!(stats.tail > self.model.given && stats.durable == self.store().durable_lsn());
    }

    /// The embeddings of what is live, for searches.
    pub fn live(&self) -> Contents {
        let live = self.model.now.iter().filter(|(_, version)| !version.is_over(now()));
        live.map(|(id, version)| (id.clone(), version.clone())).collect()
    }
}

impl World {
    /// Ends a life well; how often it went on in an image.
    pub fn end(mut self) -> u64 {
        self.store.take().expect("it is open").close().expect("the store closes");
        self.retire_segment();
        self.crashes
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            drop(device.stop());
        }
    }
}

/// A device under a directory, its flushes followed from now on.
pub fn watched(root: &Path, seed: u64) -> Arc<Device> {
    let device = Device::new(root, Honesty::Honest, seed);
    device.watch(0, Some(std::thread::current().id()));
    device
}
