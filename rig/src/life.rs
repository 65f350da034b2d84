//! What the process on the mounted file system does: several threads, each with ids of its own, and
//! of each the same for the same seed. So whoever knows the seed and how many operations of each
//! thread were begun and made durable can say what must be there.

use crate::model::{Model, Operation, Write, advance, operation, rng_of};
use anyhow::ensure;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, SystemTime};
use stratalog::{Batch, Condition, Error, NewRecord, Options, Store};

pub const DIMENSION: usize = 8;
pub const SEGMENT: u64 = 1 << 20;
pub const THREADS: usize = 3;
/// Operations of each thread, and how many between two openings.
const OPERATIONS: u32 = 180;
const A_SESSION: u32 = 60;
/// Backups that are there at the same time.
const BACKUPS_KEPT: u32 = 2;

/// When a process says that what it wrote is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// When `sync` has returned.
    Kept,
    /// Without any flush; a control.
    NoSync,
    /// When the flush was begun, as `MS_ASYNC` would; a control.
    Early,
}

pub fn embedding(id: [u8; 2], n: u32) -> [f32; DIMENSION] {
    std::array::from_fn(|at| f32::from(id[1]) + n as f32 * (at + 1) as f32)
}

pub fn content(id: [u8; 2], n: u32) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(n) << 16 | u64::from(u16::from_le_bytes(id)));
    let len = if rng.u8(..30) == 0 { rng.usize(..120_000) } else { rng.usize(..3_000) };
    let mut content = n.to_le_bytes().to_vec();
    content.resize(4 + len, 0);
    rng.fill(&mut content[4..]);
    content
}

/// A place for a backup.
pub fn copy_of(place: &Path, number: u32) -> PathBuf {
    place.join(format!("copy-{number}"))
}

struct Worker<'a> {
    place: &'a Path,
    said: &'a File,
    seed: u64,
    promise: Promise,
    thread: u8,
    model: Model,
    rng: fastrand::Rng,
    backups: &'a Mutex<u32>,
}

impl Worker<'_> {
    /// One write to a file that keeps none of it back.
    fn say(&self, line: &str) -> anyhow::Result<()> {
        let mut said = self.said;
        Ok(said.write_all(line.as_bytes())?)
    }

    fn session(&mut self, store: &Store, from: u32) -> anyhow::Result<()> {
        for n in from + 1..=from + A_SESSION {
            self.say(&format!("begin {} {n}", self.thread))?;
            let operation = operation(self.seed, self.thread, n);
            self.write(store, &operation, n)?;
            advance(&mut self.model, &operation, n);
            if self.rng.u8(..6) == 0 {
                self.sync(store)?;
            }
            match self.rng.u8(..120) {
                0 if self.thread == 0 => {
                    store.compact()?;
                }
                1..4 if self.thread == 0 => self.back_up(store)?,
                4..12 => thread::sleep(Duration::from_millis(1)),
                _ => {}
            }
        }
        Ok(())
    }

    fn sync(&self, store: &Store) -> anyhow::Result<()> {
        let (begin, end) = (format!("sync {}", self.thread), format!("synced {}", self.thread));
        self.say(&begin)?;
        if self.promise == Promise::Early {
            self.say(&end)?;
        }
        if self.promise != Promise::NoSync {
            store.sync()?;
        }
        self.say(&end)
    }

    fn back_up(&self, store: &Store) -> anyhow::Result<()> {
        let mut last = self.backups.lock().map_err(|_panic| anyhow::anyhow!("a panic"))?;
        *last += 1;
        if let Some(past) = last.checked_sub(BACKUPS_KEPT).filter(|past| *past > 0) {
            self.say(&format!("removing {past}"))?;
            std::fs::remove_dir_all(copy_of(self.place, past))?;
        }
        self.say(&format!("backup {last}"))?;
        store.backup(copy_of(self.place, *last))?;
        self.say(&format!("copied {last}"))
    }

    fn id(&self, id: u8) -> [u8; 2] {
        [self.thread, id]
    }

    fn write(&self, store: &Store, operation: &Operation, n: u32) -> anyhow::Result<()> {
        match operation {
            Operation::Writes(writes) if writes.len() == 1 => match writes[0] {
                Write::Remove(id) => drop(store.remove(self.id(id))?),
                put => {
                    let id = self.id(put.id());
                    let (embedding, content) = (embedding(id, n), content(id, n));
                    store.put_record(expiring(NewRecord::new(&id, &embedding, &content), put))?;
                }
            },
            Operation::Writes(writes) => {
                let mut batch = Batch::new();
                for &write in writes {
                    let id = self.id(write.id());
                    let (embedding, content) = (embedding(id, n), content(id, n));
                    match write {
                        Write::Remove(_) => batch.remove(id),
                        put => batch
                            .put_record(expiring(NewRecord::new(&id, &embedding, &content), put)),
                    };
                }
                store.write(batch)?;
            }
            Operation::PutIf { id, present } => {
                let holds = self.model.contains_key(id) == *present;
                let condition = if *present { Condition::Present } else { Condition::Absent };
                let id = self.id(*id);
                match store.put_if(id, &embedding(id, n), content(id, n), condition) {
                    Ok(_) if holds => {}
                    Err(Error::ConditionFailed { .. }) if !holds => {}
                    other => anyhow::bail!("{condition:?} of {id:?}, holds is {holds}: {other:?}"),
                }
            }
            Operation::Bump(id) => {
                let tag = store.update_tag(self.id(*id), |tag| tag + 1)?;
                let expected = self.model.get(id).map(|held| u64::from(held.bumps) + 1);
                ensure!(tag == expected, "a tag is {tag:?}, expected was {expected:?}");
            }
        }
        Ok(())
    }
}

fn expiring(record: NewRecord<'_>, put: Write) -> NewRecord<'_> {
    match put {
        Write::PutExpired(_) => record.expires_at(SystemTime::UNIX_EPOCH + Duration::from_secs(9)),
        Write::PutForNow(_) => record.expires_in(Duration::from_secs(36_000)),
        _ => record,
    }
}

/// Lives on a store, saying what it begins and what it has been promised.
pub fn live(place: &Path, said: &Path, seed: u64, promise: Promise) -> anyhow::Result<()> {
    let said = File::options().write(true).open(said)?;
    let options = Options::new().dimension(DIMENSION).segment_size(SEGMENT);
    let backups = Mutex::new(0);
    let mut store = options.open(place.join("store"))?;
    let mut workers: Vec<Worker<'_>> = (0..THREADS as u8)
        .map(|thread| Worker {
            place,
            said: &said,
            seed,
            promise,
            thread,
            model: Model::new(),
            rng: rng_of(seed, thread, u32::MAX),
            backups: &backups,
        })
        .collect();
    for from in (0..OPERATIONS).step_by(A_SESSION as usize) {
        thread::scope(|scope| {
            let at_work = workers.iter_mut().map(|worker| {
                let store = &store;
                scope.spawn(move || worker.session(store, from))
            });
            let at_work: Vec<_> = at_work.collect();
            at_work.into_iter().try_for_each(|worker| {
                worker.join().map_err(|_panic| anyhow::anyhow!("a worker panicked"))?
            })
        })?;
        workers[0].say("closing")?;
        store.close()?;
        workers[0].say("closed")?;
        store = options.open(place.join("store"))?;
    }
    Ok(())
}
