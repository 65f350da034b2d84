//! What the process on the mounted file system does: the same for the same seed, so that whoever
//! knows the seed and how many operations were begun and made durable can say what must be there.

use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;
use stratalog::{Batch, Options, Store};

pub const DIMENSION: usize = 8;
pub const SEGMENT: u64 = 1 << 20;
const IDS: u8 = 40;
const OPERATIONS: u32 = 600;

/// The id and number of the operation that wrote each live record.
pub type Model = BTreeMap<u8, u32>;

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

/// One write of an operation.
#[derive(Clone, Copy, Debug)]
enum Change {
    Put(u8),
    Remove(u8),
}

fn rng_of(seed: u64, n: u32) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(n))
}

/// What the `n`th operation does: several changes are a batch.
fn changes(seed: u64, n: u32) -> Vec<Change> {
    let mut rng = rng_of(seed, n);
    let one = |rng: &mut fastrand::Rng| match rng.u8(..4) {
        0 => Change::Remove(rng.u8(..IDS)),
        _ => Change::Put(rng.u8(..IDS)),
    };
    let count = if rng.u8(..4) == 0 { rng.usize(2..6) } else { 1 };
    (0..count).map(|_| one(&mut rng)).collect()
}

/// What is there after `n` operations.
pub fn model_after(seed: u64, n: u32) -> Model {
    let mut model = Model::new();
    (1..=n).for_each(|n| advance(&mut model, seed, n));
    model
}

pub fn advance(model: &mut Model, seed: u64, n: u32) {
    for change in changes(seed, n) {
        match change {
            Change::Put(id) => model.insert(id, n),
            Change::Remove(id) => model.remove(&id),
        };
    }
}

fn embedding(id: u8, n: u32) -> [f32; DIMENSION] {
    std::array::from_fn(|at| f32::from(id) + n as f32 * (at + 1) as f32)
}

fn content(id: u8, n: u32) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(n) << 8 | u64::from(id));
    let len = if rng.u8(..20) == 0 { rng.usize(..200_000) } else { rng.usize(..3_000) };
    let mut content = n.to_le_bytes().to_vec();
    content.extend((0..len).map(|_| rng.u8(..)));
    content
}

/// What a store holds; an error if a record is not whole.
pub fn found(store: &Store) -> anyhow::Result<Model> {
    let mut model = Model::new();
    for record in &store.pin() {
        let record = record?;
        let &[id] = record.id() else { anyhow::bail!("an id of {} bytes", record.id().len()) };
        let n = record.content().first_chunk::<4>().context("a short content")?;
        let n = u32::from_le_bytes(*n);
        let whole = record.content() == content(id, n) && record.embedding() == embedding(id, n);
        ensure!(whole, "record {id} of operation {n} is not of one piece");
        ensure!(model.insert(id, n).is_none(), "record {id} is there twice");
    }
    Ok(model)
}

fn write(store: &Store, seed: u64, n: u32) -> anyhow::Result<()> {
    let changes = changes(seed, n);
    match changes[..] {
        [Change::Put(id)] => {
            store.put([id], &embedding(id, n), &content(id, n))?;
            return Ok(());
        }
        [Change::Remove(id)] => {
            store.remove([id])?;
            return Ok(());
        }
        _ => {}
    }
    let mut batch = Batch::new();
    for change in changes {
        match change {
            Change::Put(id) => batch.put([id], &embedding(id, n), content(id, n)),
            Change::Remove(id) => batch.remove([id]),
        };
    }
    store.write(batch)?;
    Ok(())
}

/// Lives on a store, saying what it begins and what it has been promised.
pub fn live(place: &Path, said: &Path, seed: u64, promise: Promise) -> anyhow::Result<()> {
    let said = File::options().write(true).open(said)?;
    let say = |line: String| (&said).write_all(line.as_bytes());
    let options = Options::new().dimension(DIMENSION).segment_size(SEGMENT);
    let mut store = options.open(place)?;
    let mut rng = rng_of(seed, u32::MAX);
    for n in 1..=OPERATIONS {
        say(format!("begin {n}"))?;
        write(&store, seed, n)?;
        if rng.u8(..6) == 0 {
            match promise {
                Promise::Kept => store.sync()?,
                Promise::NoSync => {}
                Promise::Early => {
                    say(format!("durable {n}"))?;
                    store.sync()?;
                }
            }
            say(format!("durable {n}"))?;
        }
        match rng.u8(..120) {
            0 => {
                store.compact()?;
            }
            1 => {
                store.close()?;
                say(format!("durable {n}"))?;
                store = options.open(place)?;
            }
            2..8 => thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
    Ok(())
}
