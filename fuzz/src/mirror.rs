//! A directory that is to hold these files now and those next: only what differs is written.

use super::script::Files;
use super::store::Place;
use super::victim;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A directory, and what is known to lie in it.
#[derive(Debug)]
pub struct Mirror {
    place: Place,
    /// Files that come again and again.
    usual: BTreeMap<String, Usual>,
    /// Files that lie there; none if somebody may have written to them.
    known: BTreeMap<String, Parts>,
}

#[derive(Debug)]
struct Usual {
    bytes: Arc<Vec<u8>>,
    /// Where it is not zero.
    filled: Parts,
}

type Parts = Vec<Range<usize>>;

impl Mirror {
    /// Of a directory in which nothing is known to lie.
    pub fn new(place: Place, usual: &Files) -> Self {
        let usual = usual.iter().map(|(name, bytes)| {
            (name.clone(), Usual { bytes: bytes.clone(), filled: differing(&[], bytes) })
        });
        Self { place, usual: usual.collect(), known: BTreeMap::new() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Whoever looks at it now may write to it.
    pub fn doubt(&mut self) {
        self.known.clear();
    }

    /// Makes the directory hold these files and nothing else.
    pub fn show(&mut self, files: &Files) -> io::Result<()> {
        if self.known.is_empty() {
            victim::clear(self.path())?;
        }
        for name in self.known.keys().filter(|name| !files.contains_key(*name)) {
            std::fs::remove_file(self.path().join(name))?;
        }
        let was = std::mem::take(&mut self.known);
        for (name, bytes) in files {
            let changed = self.write(name, bytes, was.get(name))?;
            self.known.insert(name.clone(), changed);
        }
        Ok(())
    }

    /// Writes a file of which so much is known to differ from the usual one, and says how much does
    /// now.
    fn write(&self, name: &str, bytes: &Arc<Vec<u8>>, was: Option<&Parts>) -> io::Result<Parts> {
        let path = self.path().join(name);
        let Some(usual) = self.usual.get(name) else {
            victim::write_sparse(&path, bytes)?;
            return Ok(Parts::new());
        };
        let same = Arc::ptr_eq(&usual.bytes, bytes);
        if same && was.is_some_and(Vec::is_empty) {
            return Ok(Parts::new());
        }
        let mut changed = if same { Parts::new() } else { differing(&usual.bytes, bytes) };
        let (len, usual_len) = (bytes.len(), usual.bytes.len());
        if len != usual_len {
            // Also if there is nothing to write: it says that the length is another one.
            changed.push(len.min(usual_len)..len.max(usual_len));
        }
        match was {
            Some(was) => write_parts(&path, bytes, was, false)?,
            None => write_parts(&path, bytes, &usual.filled, true)?,
        }
        write_parts(&path, bytes, &changed, false)?;
        Ok(changed)
    }
}

fn write_parts(path: &Path, bytes: &[u8], parts: &[Range<usize>], afresh: bool) -> io::Result<()> {
    if parts.is_empty() && !afresh {
        return Ok(());
    }
    let file = File::options().create(true).truncate(afresh).write(true).open(path)?;
    file.set_len(bytes.len() as u64)?;
    for part in parts {
        let end = part.end.min(bytes.len());
        if let Some(part_bytes) = bytes.get(part.start..end) {
            file.write_all_at(part_bytes, part.start as u64)?;
        }
    }
    Ok(())
}

/// Where a file must be written to, to become `new`; zeros lie behind the end of `old`.
fn differing(old: &[u8], new: &[u8]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (n, block) in new.chunks(BLOCK).enumerate() {
        let (begin, end) = (n * BLOCK, n * BLOCK + block.len());
        let before = match old.get(begin..end) {
            Some(before) => before,
            None if begin >= old.len() => &ZEROS[..block.len()],
            None => &[],
        };
        if before == block {
            continue;
        }
        match parts.last_mut() {
            Some(last) if last.end == begin => last.end = end,
            _ => parts.push(begin..end),
        }
    }
    parts
}
