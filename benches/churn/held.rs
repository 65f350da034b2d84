//! What a process holds of a store's files, as the kernel sees it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Descriptors, mappings and space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    pub descriptors: u64,
    pub mappings: u64,
    /// Of files that have no name any more, and that are mapped or open: what is allocated to those
    /// that are open, and of the others all that is mapped, which is no less.
    pub unlinked_bytes: u64,
    /// Allocated to the files in the directory.
    pub named_bytes: u64,
}

impl Held {
    pub fn of(directory: &Path) -> std::io::Result<Self> {
        let mut held = Self::default();
        let directory = directory.canonicalize()?;
        let prefix = format!("{}/", directory.display());
        let mut unlinked = BTreeMap::new();
        for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
            let mut words = line.split_ascii_whitespace();
            let (range, inode) = (words.next().unwrap_or(""), words.nth(3).unwrap_or(""));
            if !words.next().is_some_and(|path| path.starts_with(&prefix)) {
                continue;
            }
            held.mappings += 1;
            if line.ends_with("(deleted)") {
                *unlinked.entry(inode.parse().unwrap_or(0)).or_insert(0) += bytes_of(range);
            }
        }
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let path = entry?.path();
            // One of them was the reader's of this directory.
            let Ok(link) = std::fs::read_link(&path) else { continue };
            if !link.to_string_lossy().starts_with(&prefix) {
                continue;
            }
            held.descriptors += 1;
            if let Ok(file) = std::fs::metadata(&path)
                && file.nlink() == 0
            {
                unlinked.insert(file.ino(), file.blocks() * 512);
            }
        }
        held.unlinked_bytes = unlinked.values().sum();
        for entry in std::fs::read_dir(&directory)? {
            // One may have been removed meanwhile.
            held.named_bytes += entry?.metadata().map_or(0, |file| file.blocks() * 512);
        }
        Ok(held)
    }

    /// All space that the store takes.
    pub fn bytes(&self) -> u64 {
        self.named_bytes + self.unlinked_bytes
    }
}

/// How long a range of addresses is.
fn bytes_of(range: &str) -> u64 {
    let ends = range.split_once('-').and_then(|(from, to)| {
        Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
    });
    ends.map_or(0, |(from, to)| to - from)
}
