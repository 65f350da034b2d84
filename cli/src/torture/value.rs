//! Keys, ids and values: all of a version follows from its key and its number, so that whoever
//! reads it can tell whether every bit is right.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;
use stratalog::Record;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Ids of this workload begin so; others in the store are left alone.
pub const PREFIX: &str = "kill:";
/// Longest content: with the rest of its frame less than half of the smallest segment.
const CONTENT_BYTES_MAX: usize = 480 << 10;

/// A key of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

/// The number of an operation; a put's is the version that it stores. Never used twice in the life
/// of a store: round, thread and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    const THREAD_BITS: u32 = 8;
    const COUNT_BITS: u32 = 32;

    /// The first one of a thread in a round; the thread adds one for each operation.
    pub fn first(round: u32, thread: u8) -> Self {
        let round = u64::from(round) << (Self::THREAD_BITS + Self::COUNT_BITS);
        Self(round | u64::from(thread) << Self::COUNT_BITS | 1)
    }

    /// Whose it is.
    pub fn thread(self) -> u8 {
        (self.0 >> Self::COUNT_BITS) as u8
    }

    /// The thread's next.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    /// `round.thread.count`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = self.0 >> Self::COUNT_BITS & ((1 << Self::THREAD_BITS) - 1);
        let round = self.0 >> (Self::COUNT_BITS + Self::THREAD_BITS);
        write!(f, "{round}.{thread}.{}", self.0 as u32)
    }
}

/// Who writes which keys: the first ones everybody, the others one thread each.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Writing threads.
    pub threads: u8,
    /// Keys of each thread's own.
    pub own: u32,
    /// Keys that all threads write.
    pub shared: u32,
}

impl Keys {
    /// Returns how many there are.
    pub fn len(self) -> u32 {
        self.shared + self.own * u32::from(self.threads)
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = Key> {
        (0..self.len()).map(Key)
    }

    /// Returns whether several threads write it.
    pub fn is_shared(self, key: Key) -> bool {
        key.0 < self.shared
    }

    /// One that a thread may write: mostly its own, often a shared one, of those the first most.
    pub fn pick(self, thread: u8, rng: &mut fastrand::Rng) -> Key {
        if rng.u8(..3) == 0 {
            let at_most = rng.u32(..self.shared);
            Key(rng.u32(..=at_most))
        } else {
            Key(self.shared + u32::from(thread) * self.own + rng.u32(..self.own))
        }
    }
}

/// A key's id: `kill:KEY/` and padding, so that short and long ids (up to the longest) occur.
pub fn id_of(key: Key) -> String {
    let mut rng = fastrand::Rng::with_seed(u64::from(key.0));
    let len = if rng.u8(..32) == 0 { rng.usize(40..=1024) } else { rng.usize(14..40) };
    let mut id = format!("{PREFIX}{}/", key.0);
    while id.len() < len {
        id.push(rng.lowercase());
    }
    id
}

/// The key of an id, if it is one of the workload's.
pub fn key_of(id: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(id).ok()?.strip_prefix(PREFIX)?;
    let key = Key(u32::from_str(text.split_once('/')?.0).ok()?);
    (id_of(key).as_bytes() == id).then_some(key)
}

/// What a key was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No record.
    Nothing,
    /// This version, every bit right.
    Version {
        /// Which one.
        version: Version,
        /// The record's.
        lsn: u64,
        /// The record's.
        tag: u64,
        /// The record's moment of expiry, in nanoseconds since 1970; 0: never.
        expires: u64,
    },
}

impl Found {
    pub fn version(self) -> Option<Version> {
        match self {
            Self::Nothing => None,
            Self::Version { version, .. } => Some(version),
        }
    }

    pub fn lsn(self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Version { lsn, .. } => Some(lsn),
        }
    }

    /// Returns whether it is a version that is there no more by then.
    pub fn has_expired(self, now: u64) -> bool {
        matches!(self, Self::Version { expires, .. } if expires != 0 && expires <= now)
    }

    /// What a record of a key is; or what about it is wrong. `scratch` spares allocations.
    pub fn of(key: Key, record: &Record<'_>, scratch: &mut Value) -> Result<Self, String> {
        let version = identify(key, record.embedding(), record.content(), scratch)?;
        let (lsn, tag) = (record.lsn().as_u64(), record.tag());
        let expires = record.expires_at().map_or(0, nanoseconds);
        Ok(Self::Version { version, lsn, tag, expires })
    }
}

/// When somebody looked, in nanoseconds since 1970: not before, and not after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: u64,
    pub to: u64,
}

/// Nanoseconds since 1970.
pub fn nanoseconds(moment: SystemTime) -> u64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// One version's embedding and content.
#[derive(Clone, Debug, Default)]
pub struct Value {
    pub embedding: Vec<f32>,
    pub content: Vec<u8>,
}

impl Value {
    /// The value of a version. The content names key, version and the hash of all the rest.
    pub fn fill(&mut self, key: Key, version: Version, dimension: usize) {
        let mut rng = fastrand::Rng::with_seed(version.0 ^ u64::from(key.0) << 40);
        // Every finite pattern: subnormal ones and the negative zero included.
        let finite = |bits: u32| f32::from_bits(bits & 0xBFFF_FFFF);
        self.embedding.clear();
        self.embedding.extend((0..dimension).map(|_| finite(rng.u32(..))));
        let len = match rng.u16(..1000) {
            0..2 => rng.usize(..=CONTENT_BYTES_MAX),
            2..40 => rng.usize(..16 << 10),
            _ => rng.usize(..600),
        };
        self.content.clear();
        self.content.resize(len, 0);
        rng.fill(&mut self.content);
        let hash = self.hash(&self.content);
        let head = format!("{} {} {hash:016x}\n", key.0, version.0);
        self.content.splice(..0, head.bytes());
    }

    fn hash(&self, rest: &[u8]) -> u64 {
        let mut hash = xxh3_64_with_seed(rest, 0);
        for value in &self.embedding {
            hash = hash.rotate_left(5) ^ u64::from(value.to_bits());
        }
        hash
    }
}

/// Which version of its key this is; or what about it is wrong.
fn identify(
    key: Key,
    embedding: &[f32],
    content: &[u8],
    scratch: &mut Value,
) -> Result<Version, String> {
    let head = content.iter().position(|&b| b == b'\n').and_then(|end| content.get(..end));
    let head = head.and_then(|head| std::str::from_utf8(head).ok()).ok_or("its content is torn")?;
    let mut words = head.split(' ');
    let named = words.next().and_then(|word| word.parse().ok()).map(Key);
    let version = words.next().and_then(|word| word.parse().ok()).map(Version);
    let (Some(named), Some(version)) = (named, version) else {
        return Err("its content is torn".to_owned());
    };
    if named != key {
        return Err(format!("it holds the content of key {}", named.0));
    }
    scratch.fill(key, version, embedding.len());
    if scratch.content != content {
        return Err(format!("its content is not that of version {version}"));
    }
    let same = scratch.embedding.iter().zip(embedding).all(|(a, b)| a.to_bits() == b.to_bits());
    if !same {
        return Err(format!("its embedding is not that of version {version}, its content is"));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(key: u32, version: u64) -> Value {
        let mut value = Value::default();
        value.fill(Key(key), Version(version), 8);
        value
    }

    fn judged(key: u32, value: &Value) -> Result<Version, String> {
        identify(Key(key), &value.embedding, &value.content, &mut Value::default())
    }

    #[test]
    fn a_value_is_recognised_and_every_bit_of_it_counts() {
        let mut whole = value(3, 77);
        whole.content.truncate(2_000);
        let whole = if judged(3, &whole).is_ok() { whole } else { value(3, 77) };
        assert_eq!(judged(3, &whole), Ok(Version(77)));
        for at in (0..whole.content.len()).step_by(7) {
            let mut broken = whole.clone();
            broken.content[at] ^= 4;
            assert!(judged(3, &broken).is_err(), "byte {at}");
        }
        for at in 0..8 {
            let mut broken = whole.clone();
            broken.embedding[at] = f32::from_bits(broken.embedding[at].to_bits() ^ 1 << 31);
            assert!(judged(3, &broken).unwrap_err().contains("embedding"));
        }
    }

    #[test]
    fn parts_of_two_versions_are_no_version() {
        let (one, two) = (value(3, 77), value(3, 78));
        let mixed = Value { embedding: one.embedding, content: two.content };
        assert!(judged(3, &mixed).is_err());
        assert!(judged(4, &value(3, 77)).unwrap_err().contains("key 3"));
    }

    #[test]
    fn ids_are_parsed_back_and_have_all_lengths() {
        let lengths: Vec<usize> = (0..4_000)
            .map(|n| {
                let id = id_of(Key(n));
                assert_eq!(key_of(id.as_bytes()), Some(Key(n)));
                id.len()
            })
            .collect();
        assert!(lengths.iter().all(|len| (8..=1024).contains(len)));
        assert!(lengths.iter().any(|&len| len > 900));
        assert_eq!(key_of(b"kill:5/"), None);
        assert_eq!(key_of(b"wn:1"), None);
    }

    #[test]
    fn versions_of_rounds_and_threads_never_meet() {
        let last = Version(Version::first(7, 255).0 + u64::from(u32::MAX) - 1);
        assert!(last < Version::first(8, 0));
        assert!(Version::first(7, 3) < Version::first(7, 4));
        assert_eq!(Version::first(7, 3).next().to_string(), "7.3.2");
        assert_eq!(Version::first(7, 3).next().thread(), 3);
    }
}
