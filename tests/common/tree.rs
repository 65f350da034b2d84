//! A store's directory from outside: its bytes, before and after.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a file was when it was looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub modified: SystemTime,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sum = crc32fast::hash(&self.bytes);
        write!(f, "{} bytes, sum {sum:08x}, {:?}", self.bytes.len(), self.modified)
    }
}

/// Everything in a directory, by name. What goes away meanwhile (an unfinished file) is not there.
pub fn look(directory: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut tree = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let modified = metadata.modified().expect("a time");
        let bytes = if metadata.is_file() { std::fs::read(&path) } else { Ok(vec![]) };
        let Ok(bytes) = bytes else { continue };
        tree.insert(path, Seen { bytes, modified });
    }
    tree
}

/// Copies the files of a directory: what a process that is killed now leaves behind.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for (path, seen) in look(from) {
        std::fs::write(to.join(path.file_name().expect("a name")), seen.bytes).expect("a copy");
    }
}

/// The segment files of a store, in order of their sequence.
pub fn segments(directory: &Path) -> Vec<PathBuf> {
    let ends = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "seg");
    look(directory).into_keys().filter(ends).collect()
}
