//! What a disk may hold after power was lost: all that was written before the last flush that
//! ended, and of what came after it any part, sector by sector.

use crate::disk::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a device writes as one.
const SECTOR: usize = 512;
const BLOCK: usize = 1 << 16;

/// Images of one recorded history, at later and later moments.
pub struct Images<'a> {
    log: &'a [Entry],
    /// The medium as of the last flush before `next`, and which sectors differ from the file's.
    flushed: Vec<u8>,
    flushed_to: usize,
}

impl<'a> Images<'a> {
    pub fn new(log: &'a [Entry], len: usize) -> Self {
        Self { log, flushed: vec![0; len], flushed_to: 0 }
    }

    /// One after so many entries of the log, which must not go back. Also how many sectors were
    /// open, and how many of them are kept.
    pub fn at(&mut self, cut: usize, rng: &mut fastrand::Rng) -> (Vec<u8>, [usize; 2]) {
        let log = self.log;
        let last = log[..cut].iter().rposition(|entry| matches!(entry, Entry::Flush));
        let flush = last.map_or(0, |at| at + 1).max(self.flushed_to);
        for entry in &log[self.flushed_to..flush] {
            apply(&mut self.flushed, entry, |_| true);
        }
        self.flushed_to = flush;
        let mut image = self.flushed.clone();
        // All or most, half, few or none of them.
        let kept_of_ten = [0, 1, 5, 9, 10][rng.usize(..5)];
        let (mut open, mut kept) = (0, 0);
        for entry in &log[flush..cut] {
            let whole = rng.u8(..10) < kept_of_ten;
            let torn = rng.u8(..4) == 0;
            apply(&mut image, entry, |_| {
                let keep = if torn { rng.u8(..10) < kept_of_ten } else { whole };
                open += 1;
                kept += usize::from(keep);
                keep
            });
        }
        (image, [open, kept])
    }
}

fn apply(image: &mut [u8], entry: &Entry, mut keep: impl FnMut(usize) -> bool) {
    let Entry::Write { at, bytes } = entry else { return };
    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
        let from = at + n * SECTOR;
        if keep(from) {
            image[from..from + sector.len()].copy_from_slice(sector);
        }
    }
}

/// Writes an image to a file, with holes for what is zero.
pub fn store(image: &[u8], path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(image.len() as u64)?;
    for (n, block) in image.chunks(BLOCK).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, (n * BLOCK) as u64)?;
        }
    }
    Ok(())
}
