//! A new segment file: fully allocated under a temporary name, then synced and renamed.

use super::{Directory, sync, temporary};
use crate::error::{At, Error};
use crate::os::fs::{self, File, MetadataExt};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;

/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// A new, fully allocated file under a temporary name; [`NewSegmentFile::finish`] gives it its own.
#[derive(Debug)]
pub struct NewSegmentFile {
    directory: Directory,
    name: String,
    finished: bool,
}

impl NewSegmentFile {
    /// Creates and allocates the file. On failure nothing of it is left.
    pub fn create(directory: &Directory, name: &str, len: u64) -> Result<(Self, File), Error> {
        let path = directory.path().join(name);
        let file = directory.create_new(&temporary(name)).at(&path)?;
        let new = Self { directory: directory.clone(), name: name.to_owned(), finished: false };
        allocate(&file, len).at(&path)?;
        Ok((new, file))
    }

    /// Gives it another name to become.
    pub fn rename(&mut self, name: &str) -> Result<(), Error> {
        let (from, to) = (temporary(&self.name), temporary(name));
        self.directory.rename(&from, &to).at(&self.path())?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Syncs the file's contents, then its name, which no other file has. On failure nothing of it
    /// is left: whoever wants a segment tries again, each time with another name.
    pub fn finish(self, file: &File) -> Result<(), Error> {
        let (directory, name) = (self.directory.clone(), self.name.clone());
        self.give_name(file)?;
        directory.sync().at(directory.path()).inspect_err(|_| {
            // The caller gets the error that led here.
            drop(directory.remove_if_there(&name));
        })
    }

    /// The same in place of another file that has the name. On failure it is that file or this one.
    pub fn replace(self, file: &File) -> Result<(), Error> {
        let directory = self.directory.clone();
        self.give_name(file)?;
        directory.sync().at(directory.path())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    fn give_name(mut self, file: &File) -> Result<(), Error> {
        let named = || self.directory.rename(&temporary(&self.name), &self.name);
        sync(file).and_then(|()| named()).at(&self.path())?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewSegmentFile {
    fn drop(&mut self) {
        if !self.finished {
            // The caller gets the error that led here.
            drop(self.directory.remove_if_there(&temporary(&self.name)));
        }
    }
}

/// Gives a file the blocks that it lacks, and changes no byte. `false`: the file system cannot.
pub fn fill_holes(file: &File, len: u64) -> io::Result<bool> {
    fill(file, 0..len)
}

fn fill(file: &File, part: Range<u64>) -> io::Result<bool> {
    if part.is_empty() {
        return Ok(true);
    }
    let (at, len) = (part.start, part.end - part.start);
    loop {
        match fs::fallocate(file, FallocateFlags::empty(), at, len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns whether a file of this length lacks blocks around its holes: more than lie in them
/// between two multiples of `margin`.
pub fn lacks_blocks(file: &File, len: u64, margin: u64) -> io::Result<bool> {
    let allocated = allocated_bytes(file)?;
    Ok(allocated < len && allocated.saturating_add(walk_holes(file, len, margin, drop)?) < len)
}

fn allocated_bytes(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(BLOCK_BYTES))
}

/// Calls `each` for what lies in a hole before the first multiple of `margin`, and behind the last
/// one. Bytes of holes that lie between.
fn walk_holes(
    file: &File,
    len: u64,
    margin: u64,
    mut each: impl FnMut(Range<u64>),
) -> io::Result<u64> {
    let seek = |to| match fs::seek(file, to) {
        Ok(at) => Ok(at.min(len)),
        Err(Errno::NXIO) => Ok(len),
        Err(error) => Err(error),
    };
    let (mut at, mut between) = (0, 0);
    // Where the file system cannot tell, it makes no holes.
    while let Ok(hole) = seek(SeekFrom::Hole(at))
        && hole < len
    {
        let data = seek(SeekFrom::Data(hole))?;
        let (first, last) = (hole.next_multiple_of(margin), data / margin * margin);
        if first < last {
            between += last - first;
            each(hole..first);
            each(last..data);
        } else {
            each(hole..data);
        }
        at = data.max(hole + 1);
    }
    Ok(between)
}

/// Gives a file the blocks that it lacks around its holes: of each, all but what lies between two
/// multiples of `margin`. Changes no byte.
pub fn fill_around_holes(file: &File, len: u64, margin: u64) -> io::Result<()> {
    let mut filled = Ok(true);
    let fill_one = |part| {
        if filled.is_ok() {
            filled = fill(file, part);
        }
    };
    let between = walk_holes(file, len, margin, fill_one)?;
    // What was allocated and never written is told as a hole, too, and a full XFS refuses to
    // allocate it again.
    match filled {
        Err(_) if allocated_bytes(file)?.saturating_add(between) >= len => Ok(()),
        filled => filled.map(drop),
    }
}

/// Gives a file all its blocks, so that no store to its mapping can fail for lack of space. Where
/// the file system has no `fallocate`, by writing zeros.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    if fill_holes(file, len)? {
        return Ok(());
    }
    let zeros = vec![0; 1 << 16];
    let (mut left, mut file) = (len, file);
    while left > 0 {
        let n = left.min(zeros.len() as u64) as usize;
        file.write_all(&zeros[..n])?;
        left -= n as u64;
    }
    Ok(())
}

#[cfg(all(test, not(stratalog_loom)))]
mod tests {
    use super::*;

    /// The engine's own holes need no look at the file when a tag is stored, and no descriptor.
    #[test]
    fn a_hole_between_two_multiples_of_the_margin_lacks_no_blocks() {
        const MARGIN: u64 = 1 << 16;
        const LEN: u64 = 16 * MARGIN;
        let file = tempfile::tempfile().unwrap();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punch = |at, len| rustix::fs::fallocate(&file, hole, at, len).unwrap();
        let lacks = || lacks_blocks(&file, LEN, MARGIN).unwrap();
        (&file).write_all(&vec![1; LEN as usize]).unwrap();
        file.sync_all().unwrap();
        assert!(!lacks());
        punch(2 * MARGIN, 4 * MARGIN);
        assert!(!lacks(), "the engine's own");
        punch(8 * MARGIN - MARGIN / 2, 2 * MARGIN);
        assert!(lacks(), "of a sparse copy");
        fill_around_holes(&file, LEN, MARGIN).unwrap();
        assert!(!lacks(), "filled");
    }
}
