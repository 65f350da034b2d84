//! A small store with one of everything in it, its files in memory; and what a store made of
//! changed files may answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use stratalog::{
    Batch, Compaction, Condition, Error, Metric, NewRecord, Options, OwnedRecord, Recovery, Store,
    Verify,
};

/// `f32` values of every embedding.
pub const DIMENSION: usize = 4;
/// The smallest segment.
pub const SEGMENT: u64 = 1 << 20;
/// Ids are `id 0` up to this.
pub const IDS: u32 = 24;

/// A step of splitmix64.
pub fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn seed(id: &[u8], version: u32) -> u64 {
    id.iter().fold(mix(u64::from(version)), |sum, &byte| mix(sum ^ u64::from(byte)))
}

/// The embedding of a version of an id; its first value is the version.
pub fn embedding(id: &[u8], version: u32) -> [f32; DIMENSION] {
    let seed = seed(id, version);
    let value = |n: usize| (seed.rotate_left(n as u32 * 9) as u16) as f32 - 3e4;
    std::array::from_fn(|n| if n == 0 { version as f32 } else { value(n) })
}

/// The content of a version of an id.
pub fn content(id: &[u8], version: u32) -> Vec<u8> {
    let seed = !seed(id, version);
    let len = seed % 300;
    (0..len).map(|n| seed.rotate_left(n as u32) as u8).collect()
}

/// Returns whether these are embedding and content of one version of the id.
pub fn is_genuine(id: &[u8], found: &[f32], bytes: &[u8]) -> bool {
    let version = found.first().map_or(0, |version| *version as u32);
    found == embedding(id, version) && bytes == content(id, version)
}

fn id(n: u32) -> Vec<u8> {
    format!("id {n}").into_bytes()
}

/// Puts a version.
pub fn put(store: &Store, id: &[u8], version: u32) -> Result<(), Error> {
    store.put(id, &embedding(id, version), content(id, version)).map(drop)
}

/// The files of a store that was closed.
#[derive(Clone, Debug)]
pub struct Victim {
    /// By name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Victim {
    /// Makes the store in an empty directory. Three segments of the log, of which the first was
    /// opened again and the last is open-ended, and one that compaction made.
    pub fn make(directory: &Path) -> Result<Self, Error> {
        let options = Options::new().dimension(DIMENSION).segment_size(SEGMENT);
        let options = options.compaction(Compaction::Manual).flush_interval(None);
        let store = options.open(directory)?;
        for n in 0..IDS {
            put(&store, &id(n), 1)?;
        }
        for n in 0..6 {
            put(&store, &id(n), 2)?;
        }
        store.remove(id(7))?;
        store.update_tag(id(1), |tag| tag + 5)?;
        // Moves what is live to a segment for copies.
        store.compact()?;
        drop(store);
        let store = options.open(directory)?;
        let mut batch = Batch::new();
        for n in 8..12 {
            batch.put(id(n), &embedding(&id(n), 3), content(&id(n), 3));
        }
        batch.remove(id(12));
        store.write(batch)?;
        let (late, forever) = (id(13), id(14));
        let [one, other] = [&late, &forever].map(|id| (embedding(id, 4), content(id, 4)));
        let minute = Duration::from_secs(600);
        store.put_record(NewRecord::new(&late, &one.0, &one.1).expires_in(minute))?;
        store.put_record(NewRecord::new(&forever, &other.0, &other.1).never_expires())?;
        let (conditional, big) = (id(15), big());
        let (values, bytes) = (embedding(&conditional, 5), content(&conditional, 5));
        store.put_if(&conditional, &values, bytes, Condition::Present)?;
        // Two segments more: this one and the next are full.
        for n in 0..3 {
            store.put(format!("big {n}"), &[n as f32; DIMENSION], &big)?;
        }
        for n in 0..3 {
            store.remove(format!("big {n}"))?;
        }
        for n in 16..20 {
            put(&store, &id(n), 6)?;
        }
        store.remove(id(20))?;
        store.close()?;
        let files = read(directory);
        let at = |source| Error::Io { path: directory.to_owned(), source };
        Ok(Self { files: files.map_err(at)? })
    }

    /// Writes the files into a directory, in place of all that is there.
    pub fn write(&self, directory: &Path) -> std::io::Result<()> {
        clear(directory)?;
        for (name, bytes) in &self.files {
            write_sparse(&directory.join(name), bytes)?;
        }
        Ok(())
    }
}

/// A content that takes much room and few pages: what lies between its ends is a hole.
fn big() -> Vec<u8> {
    let mut bytes = vec![0; 400_000];
    bytes[..100].fill(7);
    bytes[399_900..].fill(7);
    bytes
}

/// Reads all files of a directory.
pub fn read(directory: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into(), std::fs::read(entry.path())?);
    }
    Ok(files)
}

/// Removes all that a directory holds.
pub fn clear(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.symlink_metadata()?.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes a file, holes where it has blocks of zeros.
pub fn write_sparse(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    const ZEROS: [u8; 4096] = [0; 4096];
    for (n, block) in bytes.chunks(4096).enumerate() {
        if *block != ZEROS[..block.len()] {
            file.write_all_at(block, n as u64 * 4096)?;
        }
    }
    Ok(())
}

/// How to look at a store.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub recovery: Recovery,
    pub read_only: bool,
    pub verify: Verify,
    /// Searches, and verifies all records twice.
    pub thorough: bool,
    /// Nothing in the files was forged, so whatever is found was once put.
    pub genuine: bool,
}

impl Look {
    /// One of the ways: of modes, handles and times of checking.
    pub fn of(n: u8, genuine: bool) -> Self {
        let recovery = [Recovery::Tolerant, Recovery::Strict, Recovery::Salvage][n as usize % 3];
        let verify = [Verify::FirstRead, Verify::EveryRead][n as usize / 6 % 2];
        Self { recovery, read_only: (n / 3).is_multiple_of(2), verify, thorough: true, genuine }
    }

    fn options(self) -> Options {
        let options = Options::new().create(false).recovery(self.recovery).verify(self.verify);
        options.read_only(self.read_only).compaction(Compaction::Manual).flush_interval(None)
    }
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    Opened,
}

/// Opens what is in a directory, reads all of it by every way of reading, and if it may, writes,
/// compacts, closes and opens again. Panics if an answer is wrong.
pub fn look(directory: &Path, how: Look) -> Outcome {
    let store = match how.options().open(directory) {
        Ok(store) => store,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Outcome::Refused;
        }
    };
    read_all(&store, how);
    if !how.read_only {
        write_all(store, directory, how);
    }
    Outcome::Opened
}

fn check(how: Look, id: &[u8], values: &[f32], bytes: &[u8]) {
    if how.genuine && !id.starts_with(b"big") {
        assert!(is_genuine(id, values, bytes), "{} is not of one piece", id.escape_ascii());
    }
}

fn read_all(store: &Store, how: Look) {
    drop(format!("{:?} {:?} {:?}", store.recovery(), store.stats(), store.segments()));
    let pinned = store.pin();
    let mut walked = 0;
    for record in &pinned {
        walked += 1;
        let Ok(record) = record else { continue };
        check(how, record.id(), record.embedding(), record.content());
        let _ = (record.created_at(), record.expires_at(), record.tag(), record.lsn());
    }
    assert!(walked < 1_000_000);
    for n in 0..IDS {
        let id = id(n);
        if let Ok(Some(record)) = pinned.get(&id) {
            assert!(!how.genuine || record.id() == id);
            check(how, record.id(), record.embedding(), record.content());
        }
        if let Ok(Some(record)) = store.get_shared(&id) {
            check(how, record.id(), record.embedding(), record.content());
        }
        let absent = pinned.get(&id).is_ok_and(|found| found.is_none());
        // Damage is not absence.
        assert!(!how.genuine || absent || store.contains(&id));
    }
    drop(store.verify_quick());
    if how.thorough {
        drop(pinned.search(&[1.0, 2.0, 3.0, 4.0], 5, Metric::Cosine));
        drop(store.verify());
        drop(store.verify_deep(|_, _| {}));
    }
}

/// What was acknowledged after an opening is there; what is refused is refused with an error.
fn write_all(store: Store, directory: &Path, how: Look) {
    let mut written = BTreeMap::new();
    for n in 0..3 {
        let id = format!("new {n}").into_bytes();
        if put(&store, &id, 50 + n).is_ok() {
            written.insert(id, 50 + n);
        }
    }
    for n in [0, 7, 9, 13, 15] {
        if put(&store, &id(n), 60).is_ok() {
            written.insert(id(n), 60);
        }
    }
    for n in [1, 8] {
        // Where nothing is found nothing is written: what a salvage hides another mode may show.
        if store.remove(id(n)).is_ok_and(|removed| removed.is_some()) {
            written.insert(id(n), 0);
        }
    }
    let late = id(22);
    if store.put_if(&late, &embedding(&late, 70), content(&late, 70), Condition::Present).is_ok() {
        written.insert(late, 70);
    }
    let mut batch = Batch::new();
    for n in [4, 5] {
        batch.put(id(n), &embedding(&id(n), 80), content(&id(n), 80));
    }
    if store.write(batch).is_ok() {
        written.extend([(id(4), 80), (id(5), 80)]);
    }
    drop(store.update_tag(id(9), |tag| tag | 1));
    assert_written(&store, &written, how);
    drop(store.compact());
    assert_written(&store, &written, how);
    let closed = store.close().is_ok();
    let again = Look { read_only: false, recovery: Recovery::Tolerant, ..how };
    // A file that may not be read is no reason for a salvage not to open, for others it is.
    let salvage = Look { recovery: Recovery::Salvage, ..again };
    let opened = again.options().open(directory).or_else(|_| salvage.options().open(directory));
    let Ok(store) = opened else {
        assert!(!closed, "what was just written and closed cannot be opened");
        return;
    };
    assert_written(&store, &written, how);
    drop(store.verify());
}

fn assert_written(store: &Store, written: &BTreeMap<Vec<u8>, u32>, how: Look) {
    // What is forged may well answer for its id.
    let judged = |id: &[u8]| how.genuine || id.starts_with(b"new");
    for (id, &version) in written.iter().filter(|(id, _)| judged(id)) {
        let found = store.get_owned(id);
        let right = match &found {
            Ok(None) => version == 0,
            Ok(Some(found)) => {
                version != 0
                    && is_genuine(id, &found.embedding, &found.content)
                    && found.embedding[0] as u32 == version
            }
            Err(_) => false,
        };
        assert!(
            right,
            "{}: {version} was written, there is {} ({how:?})",
            id.escape_ascii(),
            brief(&found)
        );
    }
}

fn brief(found: &Result<Option<OwnedRecord>, Error>) -> String {
    match found {
        Ok(Some(found)) => format!("{}, version {}", found.lsn, found.embedding[0]),
        Ok(None) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    }
}
