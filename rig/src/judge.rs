//! What had been said before power was lost, and the judgement of what is there after it.

use crate::disk::Entry;
use crate::life::{THREADS, content, copy_of, embedding};
use crate::model::{Found, Held, Model, reached};
use anyhow::{Context, anyhow, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use stratalog::{Compaction, Error, Options, Store};

type Counts = [u32; THREADS];

/// What had been begun by each thread, and promised to be durable.
#[derive(Clone, Debug, Default)]
pub struct Said {
    begun: Counts,
    durable: Counts,
    /// What a thread's flush makes durable once it has ended.
    flushing: [Counts; THREADS],
    /// What each backup holds at least; at most, if it has returned. Of one that is being removed
    /// nothing is known.
    backups: BTreeMap<u32, (Counts, Option<Counts>)>,
}

impl Said {
    /// After so much of the log; nothing if the store was not open yet.
    pub fn before(log: &[Entry]) -> anyhow::Result<Option<Self>> {
        let mut said: Option<Self> = None;
        for entry in log {
            if let Entry::Said(line) = entry {
                said.get_or_insert_default().note(line).with_context(|| line.clone())?;
            }
        }
        Ok(said)
    }

    /// What has returned, if a thread knows that its own last one has.
    fn returned(&self, thread: usize) -> Counts {
        let mut counts = self.begun.map(|begun| begun.saturating_sub(1));
        counts[thread] = self.begun[thread];
        counts
    }

    fn note(&mut self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or("");
        let mut number = || words.next().context("a word is missing")?.parse().context("a number");
        match what {
            "begin" => {
                let thread: u32 = number()?;
                self.begun[thread as usize] = number()?;
            }
            "sync" => {
                let thread = number()? as usize;
                self.flushing[thread] = self.returned(thread);
            }
            "synced" => {
                let flushed = self.flushing[number()? as usize];
                self.durable = std::array::from_fn(|n| self.durable[n].max(flushed[n]));
            }
            "closing" => {}
            "closed" => self.durable = self.begun,
            "backup" => drop(self.backups.insert(number()?, (self.returned(0), None))),
            "copied" => {
                let copy = self.backups.get_mut(&number()?).context("no such backup")?;
                copy.1 = Some(self.begun);
            }
            "removing" => drop(self.backups.remove(&number()?)),
            _ => return Err(anyhow!("what is that?")),
        }
        Ok(())
    }
}

/// What was judged besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    /// Operations that were begun and not durable, and how many of them are there.
    pub undecided: u64,
    pub survived: u64,
    pub backups: u64,
}

/// What a store holds; an error if a record is not whole.
fn found(store: &Store) -> anyhow::Result<Found> {
    let mut found: Found = Default::default();
    for record in &store.pin() {
        let record = record?;
        let id: [u8; 2] = record.id().try_into().context("an id")?;
        let n = u32::from_le_bytes(*record.content().first_chunk::<4>().context("a content")?);
        let whole = record.content() == content(id, n) && record.embedding() == embedding(id, n);
        ensure!(whole, "record {id:?} of operation {n} is not of one piece");
        let (expires, bumps) = (record.expires().is_some(), record.tag() as u32);
        let of_thread = found.get_mut(usize::from(id[0])).context("a thread")?;
        let twice = of_thread.insert(id[1], Held { n, expires, bumps });
        ensure!(twice.is_none(), "record {id:?} is there twice");
    }
    Ok(found)
}

/// All of it; an error if anything is damaged.
fn sound(store: &Store) -> anyhow::Result<Found> {
    let report = store.recovery();
    let damage = report.corrupt + report.missing_segments + report.foreign_files;
    ensure!(damage == 0, "opening found {report:?}");
    let found = found(store)?;
    ensure!(store.verify()?.is_clean(), "verify found damage");
    Ok(found)
}

fn all_reached(
    seed: u64,
    (least, most, begun): (Counts, Counts, Counts),
    found: &Found,
) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    for (thread, model) in found.iter().enumerate() {
        let bounds = [least[thread], most[thread], begun[thread]];
        let reached = reached((seed, thread as u8), bounds, model);
        counts[thread] = reached.map_err(|error| anyhow!("{error}"))?;
    }
    Ok(counts)
}

/// Opens what a mounted image holds, twice. `None`: there is no store yet, and need not be.
pub fn judge(place: &Path, seed: u64, said: Option<&Said>) -> anyhow::Result<Option<Judged>> {
    // Nothing is to be removed while it is looked at.
    let options = Options::new().create(false).compaction(Compaction::Manual);
    let path = place.join("store");
    let store = match options.open(&path) {
        Err(Error::NotFound(_)) if said.is_none() => return Ok(None),
        store => store.context("opening")?,
    };
    let there = sound(&store)?;
    let count: usize = there.iter().map(Model::len).sum();
    // What has expired may be counted.
    ensure!(store.len() >= count, "len() is {}, {count} are there", store.len());
    store.close()?;
    let said = said.cloned().unwrap_or_default();
    let counts = all_reached(seed, (said.durable, said.begun, said.begun), &there)?;
    let again = sound(&options.open(&path)?)?;
    ensure!(again == there, "the second opening found something else");
    let sum = |counts: &Counts| counts.iter().map(|n| u64::from(*n)).sum::<u64>();
    let durable = sum(&said.durable);
    let backups = judge_backups(place, seed, &said)?;
    let (undecided, survived) = (sum(&said.begun) - durable, sum(&counts) - durable);
    Ok(Some(Judged { undecided, survived, backups }))
}

/// Those that have returned are there, and any that is there is whole.
fn judge_backups(place: &Path, seed: u64, said: &Said) -> anyhow::Result<u64> {
    let mut judged = 0;
    for (&number, (least, most)) in &said.backups {
        let copy = copy_of(place, number);
        if !copy.exists() {
            ensure!(most.is_none(), "backup {number} had returned, and is gone");
            continue;
        }
        let store = Options::new().create(false).read_only(true).open(&copy);
        let store = store.with_context(|| format!("opening backup {number}"))?;
        let there = sound(&store).with_context(|| format!("backup {number}"))?;
        all_reached(seed, (*least, most.unwrap_or(said.begun), said.begun), &there)
            .with_context(|| format!("backup {number}"))?;
        judged += 1;
    }
    Ok(judged)
}
