//! What a disk may hold after power was lost: all that was written before the last flush that
//! ended, and of what came after it any part, sector by sector.

use crate::disk::Entry;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a device writes as one.
const SECTOR: usize = 512;
const BLOCK: usize = 1 << 16;

/// Images of one recorded history, at later and later moments.
pub struct Images<'a> {
    log: &'a [Entry],
    /// The medium as of the last flush before `next`, and which blocks of it hold anything.
    flushed: Vec<u8>,
    used: Vec<bool>,
    flushed_to: usize,
    /// Where sectors lie that are not torn from one another.
    whole: Option<usize>,
}

/// Sectors that were not flushed, and reached the medium; and how many there were, and are kept.
pub struct Kept<'a> {
    sectors: Vec<(usize, &'a [u8])>,
    pub counts: [usize; 2],
}

impl<'a> Images<'a> {
    /// Of a disk that held this before the first entry.
    pub fn new(log: &'a [Entry], begin: &[u8], whole: Option<usize>) -> Self {
        let used = begin.chunks(BLOCK).map(|block| block.iter().any(|&byte| byte != 0)).collect();
        Self { log, flushed: begin.to_vec(), used, flushed_to: 0, whole }
    }

    /// One after so many entries of the log, which must not go back.
    pub fn at(&mut self, cut: usize, rng: &mut fastrand::Rng) -> Kept<'a> {
        let log = self.log;
        let last = log[..cut].iter().rposition(|entry| matches!(entry, Entry::Flush));
        let flush = last.map_or(0, |at| at + 1).max(self.flushed_to);
        for entry in &log[self.flushed_to..flush] {
            let Entry::Write { at, bytes } = entry else { continue };
            self.flushed[*at..at + bytes.len()].copy_from_slice(bytes);
            self.used[at / BLOCK..(at + bytes.len()).div_ceil(BLOCK)].fill(true);
        }
        self.flushed_to = flush;
        // All or most, half, few or none of them.
        let kept_of_ten = [0, 1, 5, 9, 10][rng.usize(..5)];
        let mut kept = Kept { sectors: Vec::new(), counts: [0; 2] };
        for entry in &log[flush..cut] {
            let Entry::Write { at, bytes } = entry else { continue };
            let all = rng.u8(..10) < kept_of_ten;
            let torn = rng.u8(..4) == 0;
            let mut keep = all;
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                let at = at + n * SECTOR;
                if torn && Some(at) != self.whole {
                    keep = rng.u8(..10) < kept_of_ten;
                }
                kept.counts[0] += 1;
                if keep {
                    kept.counts[1] += 1;
                    kept.sectors.push((at, sector));
                }
            }
        }
        kept
    }

    /// Makes a file hold an image, with holes where there was nothing.
    pub fn store(&self, kept: &Kept<'_>, file: &File) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, punch, 0, self.flushed.len() as u64)?;
        for (n, block) in self.flushed.chunks(BLOCK).enumerate() {
            if self.used[n] {
                file.write_all_at(block, (n * BLOCK) as u64)?;
            }
        }
        kept.sectors.iter().try_for_each(|(at, sector)| file.write_all_at(sector, *at as u64))
    }
}
