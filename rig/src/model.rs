//! What a thread's operations are, and what they leave.

use crate::life::THREADS;
use std::collections::{BTreeMap, HashMap};

const IDS: u8 = 16;

/// What is there of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The operation that wrote it.
    pub n: u32,
    /// Whether it is to expire, some day.
    pub expires: bool,
    /// How often its tag was raised.
    pub bumps: u32,
}

/// What is there of one thread's ids.
pub type Model = BTreeMap<u8, Held>;

#[derive(Clone, Copy, Debug)]
pub enum Write {
    Put(u8),
    /// Expired before it was put: as good as a removal.
    PutExpired(u8),
    /// Expires long after all is over.
    PutForNow(u8),
    Remove(u8),
}

impl Write {
    pub fn id(self) -> u8 {
        match self {
            Self::Put(id) | Self::PutExpired(id) | Self::PutForNow(id) | Self::Remove(id) => id,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// Several are a batch, of different ids.
    Writes(Vec<Write>),
    PutIf {
        id: u8,
        present: bool,
    },
    Bump(u8),
}

pub fn rng_of(seed: u64, thread: u8, n: u32) -> fastrand::Rng {
    let of = u64::from(n) | u64::from(thread) << 32;
    fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ of)
}

/// What the `n`th operation of a thread is.
pub fn operation(seed: u64, thread: u8, n: u32) -> Operation {
    let mut rng = rng_of(seed, thread, n);
    let one = |id: u8, rng: &mut fastrand::Rng| match rng.u8(..20) {
        0..5 => Write::Remove(id),
        5 => Write::PutExpired(id),
        6..8 => Write::PutForNow(id),
        _ => Write::Put(id),
    };
    let id = rng.u8(..IDS);
    match rng.u8(..10) {
        0 => Operation::PutIf { id, present: rng.bool() },
        1 => Operation::Bump(id),
        2 | 3 => {
            let count = rng.u8(2..6);
            Operation::Writes((0..count).map(|n| one((id + n) % IDS, &mut rng)).collect())
        }
        _ => Operation::Writes(vec![one(id, &mut rng)]),
    }
}

pub fn advance(model: &mut Model, operation: &Operation, n: u32) {
    let held = |expires| Held { n, expires, bumps: 0 };
    match operation {
        Operation::Writes(writes) => {
            for write in writes {
                match *write {
                    Write::Put(id) => model.insert(id, held(false)),
                    Write::PutForNow(id) => model.insert(id, held(true)),
                    Write::PutExpired(id) | Write::Remove(id) => model.remove(&id),
                };
            }
        }
        Operation::PutIf { id, present } if model.contains_key(id) == *present => {
            model.insert(*id, held(false));
        }
        Operation::PutIf { .. } => {}
        Operation::Bump(id) => {
            if let Some(held) = model.get_mut(id) {
                held.bumps += 1;
            }
        }
    }
}

/// What a store was found to hold of one thread's ids; `bumps` is the tag.
pub type Found = [Model; THREADS];

/// Whether the ids of a thread are as the first operations left them, so many of them: at least and
/// at most. How many.
pub fn reached(
    (seed, thread): (u64, u8),
    [least, most, begun]: [u32; 3],
    found: &Model,
) -> Result<u32, String> {
    let (mut model, mut fits, mut older) = (Model::new(), None, None);
    // A tag may be on the device though what came before it is not; it may be older, too.
    let mut bumps: HashMap<(u8, u32), u32> = HashMap::new();
    for n in 0..=begun {
        if n > 0 {
            advance(&mut model, &operation(seed, thread, n), n);
        }
        for (id, held) in &model {
            bumps.insert((*id, held.n), held.bumps);
        }
        let same = |((id, held), (other, found)): ((&u8, &Held), (&u8, &Held))| {
            id == other && held.n == found.n && held.expires == found.expires
        };
        if model.len() == found.len() && model.iter().zip(found).all(same) {
            match n {
                _ if n < least => older = Some(n),
                _ if n <= most => fits = Some(n),
                _ => {}
            }
        }
    }
    let Some(fits) = fits else {
        return Err(format!(
            "thread {thread}: {least} operations at least, {most} at most; found is what {older:?} \
             left"
        ));
    };
    for (id, held) in found {
        let most = bumps.get(&(*id, held.n)).copied().unwrap_or(0);
        if held.bumps > most {
            return Err(format!("the tag of {thread}/{id} is {}, never above {most}", held.bumps));
        }
    }
    Ok(fits)
}
