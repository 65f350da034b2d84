//! What the store should hold: plain maps, and what power loss may take of them.

use super::common::mix;
use std::collections::BTreeMap;
use stratalog::Lsn;

pub const DIMENSION: usize = 4;
/// One version in so many is a large one: some of these fill a segment.
const LARGE_IN: u32 = 8;

/// One version of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub lsn: Lsn,
    /// What its embedding and content follow from.
    pub number: u32,
    /// Nanoseconds since 1970.
    pub created: u64,
    pub expires: Option<u64>,
}

impl Version {
    pub fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|moment| moment <= now)
    }
}

pub fn embedding(id: &[u8], number: u32) -> Vec<f32> {
    let seed = id.iter().fold(u64::from(number), |seed, byte| mix(seed ^ u64::from(*byte)));
    let value = |n: usize| (seed.rotate_left(8 * n as u32) as u32 >> 10) as f32 - 2e6;
    (0..DIMENSION).map(|n| if n == 0 { number as f32 } else { value(n) }).collect()
}

pub fn content(id: &[u8], number: u32) -> Vec<u8> {
    let seed = mix(u64::from(number) << 32 | id.len() as u64);
    let max = if number.is_multiple_of(LARGE_IN) { 200_000 } else { 300 };
    let len = (seed % (max + 1)) as usize;
    let word = |n: usize| (seed ^ (n as u64 >> 3)).rotate_left(n as u32 % 64);
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 64);
    (0..len.div_ceil(8)).for_each(|n| bytes.extend_from_slice(&word(n).to_le_bytes()));
    bytes.truncate(len);
    bytes
}

/// An id for a version; large ones share three, so that they do not fill the store for good.
pub fn id(number: u32, choice: u64) -> Vec<u8> {
    match (number.is_multiple_of(LARGE_IN), choice % 30) {
        (true, n) => format!("large {}", n % 3).into_bytes(),
        (false, 29) => vec![0; 1024],
        (false, n) => format!("id {n}").into_bytes(),
    }
}

pub type Contents = BTreeMap<Vec<u8>, Version>;

/// What became of an id.
pub type Write = (Vec<u8>, Option<Version>);

fn apply(contents: &mut Contents, writes: &[Write]) {
    for (id, version) in writes {
        match version {
            Some(version) => contents.insert(id.clone(), version.clone()),
            None => contents.remove(id),
        };
    }
}

/// What a store holds, the tag of each record besides.
pub type Found = BTreeMap<Vec<u8>, (Version, u64)>;

#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What is there; what has expired, too.
    pub now: Contents,
    /// What power loss cannot take.
    durable: Contents,
    /// What was written since, in the order of the highest LSN of each write.
    since: Vec<(Lsn, Vec<Write>)>,
    /// The highest LSN that was given.
    pub given: Lsn,
    /// The values that the tag of a version has had, the present one last; none: only 0.
    tags: BTreeMap<Lsn, Vec<u64>>,
}

impl Model {
    pub fn write(&mut self, last: Lsn, writes: Vec<Write>) {
        assert!(last > self.given, "{last} was given after {}", self.given);
        self.given = last;
        apply(&mut self.now, &writes);
        self.since.push((last, writes));
    }

    /// The id's record, if its time is not over.
    pub fn live(&self, id: &[u8], now: u64) -> Option<&Version> {
        self.now.get(id).filter(|version| !version.is_over(now))
    }

    pub fn tag(&self, lsn: Lsn) -> u64 {
        self.tags.get(&lsn).and_then(|tags| tags.last()).copied().unwrap_or(0)
    }

    /// A version begins with this tag.
    pub fn begin_tag(&mut self, lsn: Lsn, tag: u64) {
        if tag != 0 {
            self.tags.insert(lsn, vec![tag]);
        }
    }

    pub fn set_tag(&mut self, lsn: Lsn, tag: u64) {
        self.tags.entry(lsn).or_insert_with(|| vec![0]).push(tag);
    }

    /// What a reader should see.
    pub fn visible(&self, now: u64) -> Found {
        let live = self.now.iter().filter(|(_, version)| !version.is_over(now));
        live.map(|(id, version)| (id.clone(), (version.clone(), self.tag(version.lsn)))).collect()
    }

    /// Everything up to here survives power loss.
    pub fn promised(&mut self, durable: Lsn) {
        let kept = self.since.partition_point(|(lsn, _)| *lsn <= durable);
        for (_, writes) in self.since.drain(..kept) {
            apply(&mut self.durable, &writes);
        }
        if self.since.is_empty() {
            let now = &self.now;
            let of_now: std::collections::BTreeSet<_> = now.values().map(|v| v.lsn).collect();
            self.tags.retain(|lsn, _| of_now.contains(lsn));
        }
    }

    /// Goes on from what is found after power loss: what was durable, and of the rest a prefix; a
    /// tag has a value that it had before.
    pub fn after_power_loss(&self, found: &Found, now: u64) -> Result<Self, String> {
        let mut contents = self.durable.clone();
        let mut rest = self.since.iter();
        loop {
            let visible = contents.iter().filter(|(_, version)| !version.is_over(now));
            let there = found.iter().map(|(id, (version, _))| (id, version));
            if visible.eq(there) {
                break;
            }
            let Some((_, writes)) = rest.next() else {
                return Err(format!("no prefix: {}", self.difference(found, now)));
            };
            apply(&mut contents, writes);
        }
        let mut tags = BTreeMap::new();
        for (id, (version, tag)) in found {
            let had = self.tags.get(&version.lsn);
            if !had.map_or(*tag == 0, |had| had.contains(tag)) {
                let id = id.escape_ascii();
                return Err(format!("{id} never had the tag {tag}, but {had:?}"));
            }
            tags.insert(version.lsn, vec![*tag]);
        }
        let (durable, since, given) = (contents.clone(), Vec::new(), self.given);
        Ok(Self { now: contents, durable, since, given, tags })
    }

    /// Returns how many writes power loss may take.
    pub fn at_stake(&self) -> usize {
        self.since.len()
    }

    /// What is not as it should be, were everything there.
    pub fn difference(&self, found: &Found, now: u64) -> String {
        let should = self.visible(now);
        let ids: std::collections::BTreeSet<_> = found.keys().chain(should.keys()).collect();
        let wrong = ids.into_iter().filter(|id| found.get(*id) != should.get(*id));
        let wrong = wrong.map(|id| {
            let (is, was) = (found.get(id), should.get(id));
            format!("{} is {is:?}, should be {was:?}, durable was {:?}", id.escape_ascii(), {
                self.durable.get(id)
            })
        });
        wrong.collect::<Vec<_>>().join("\n")
    }
}
