//! Whole stores: the files of a small one, changed as the bytes say, opened in some way.

use super::script::{self, Reader};
use super::victim::{self, Look, Outcome, Victim};
use std::path::{Path, PathBuf};

/// A directory of this process, removed at the end; in memory where the system has such a place.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// A new, empty one.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("stratalog-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is small, and in a place for such things.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Attacks one store again and again.
#[derive(Debug)]
pub struct Attacker {
    victim: Victim,
    place: Place,
}

impl Attacker {
    /// Makes the store.
    pub fn new(name: &str) -> Self {
        let place = Place::new(name).expect("a directory");
        let victim = Victim::make(place.path()).expect("a store");
        Self { victim, place }
    }

    /// One attack. Says whether the store was opened.
    pub fn run(&self, data: &[u8]) -> Outcome {
        let mut reader = Reader(data);
        let how = reader.byte();
        let mut changed = self.victim.clone();
        let genuine = script::apply(&mut changed.files, &mut reader);
        changed.write(self.place.path()).expect("room");
        victim::look(self.place.path(), Look::of(how, genuine))
    }
}
